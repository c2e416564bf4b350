"""The policy of DDPG and TD3: one action for each state, a = mu(s), and noise on it in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrl.agent import Agent, Learner
from tfrl.algos.parts import actor_critic_replay as family
from tfrl.algos.parts import replay_policy, replay_settings
from tfrl.algos.parts.actor_critic_replay import CriticNetwork
from tfrl.algos.parts.replay_policy import ReplayPolicy
from tfrl.errors import SettingError
from tfrl.explore import action_noise
from tfrl.explore.action_noise import ActionNoiseSettings
from tfrl.losses import value
from tfrl.nn import body as bodies
from tfrl.nn import torsos
from tfrl.nn.body import Body
from tfrl.nn.bounded import BoundedBox
from tfrl.settings import setting
from tfrl.types import EnvSpec, PolicyStep

Combine = Callable[[tf.Tensor], tf.Tensor]

LAST_LAYER = 3e-3  # limit of its initial weights (Lillicrap et al. 2016, section 7)


@dataclasses.dataclass(frozen=True)
class Settings(family.Settings, ActionNoiseSettings):
    """Settings of DDPG and TD3, a base of their `Config`s before `OptimizerSettings` and `ModelSettings`."""

    loss: str = setting(
        "squared", "loss of the temporal-difference error", choices=("huber", "squared")
    )
    huber_delta: float = setting(
        1.0, "error at which the Huber loss becomes linear", above=0.0, idle_if={"loss": "squared"}
    )
    actor_priorities: bool = setting(
        False,
        "actors compute the priority of new transitions from the critics (Ape-X); false: new transitions get the "
        "largest priority so far",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.actor_priorities and not self.prioritized:
            raise SettingError(
                "actor_priorities=True with prioritized=False: uniform replay has no priorities; set prioritized=True"
            )
        if self.actor_priorities and self.her_relabels:
            raise SettingError(
                f"actor_priorities=True with her_relabels={self.her_relabels}: actors have no values for the goals of "
                "the copies; set actor_priorities=False"
            )
        if self.actor_priorities and replay_settings.has_memory(self):
            raise SettingError(
                f"actor_priorities=True with core={self.core}: new sequences get the largest priority so far; set "
                "actor_priorities=False"
            )

    @property
    def loss_delta(self) -> float | None:
        """Bound of the Huber loss; None for the squared error."""
        return self.huber_delta if self.loss == "huber" else None


class DeterministicPolicy(ReplayPolicy):
    """a = mu(s) on a bounded Box, with noise when exploring.

    Args:
      config: `Settings` and `ModelSettings`.
      spec: environment spec.
      body: from observations to features.
      combine: values of all critics [N, B] -> those that make the target [B], for priorities of actors.

    Attributes:
      head: the layers behind the body.
      critics: with `actor_priorities` the critics, which actors need; else None.
      noise: what an exploring step draws.
    """

    def __init__(self, config: Any, spec: EnvSpec, body: Body, combine: Combine):
        super().__init__(body, replay_policy.normaliser(config, spec))
        self._box, self._combine = BoundedBox(spec.action_space), combine
        self.noise = action_noise.noise(config, self._box.size)
        small = tf.keras.initializers.RandomUniform(-LAST_LAYER, LAST_LAYER)
        self.head = torsos.mlp(config.policy_hidden_sizes, config.activation)
        self.head.add(
            tf.keras.layers.Dense(self._box.size, "tanh", kernel_initializer=small, dtype="float32")
        )
        self.head.build([None, body.output_size])
        self.critics = None
        if config.actor_priorities:
            own = body if family.shares_body(config) else bodies.make(config, spec)
            self.critics = CriticNetwork(config, own, self._box.size)

    def actions(self, features: tf.Tensor) -> tf.Tensor:
        """mu(s) on the scale [-1, 1]: features [n, F] -> [n, m]."""
        return self.head(features)

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """Weights of the layer that gives the action, see `agent.Network.outputs`."""
        return (self.head.layers[-1].kernel,)

    def to_unit(self, action: tf.Tensor) -> tf.Tensor:
        """Actions as they are stored [n, *shape] -> on the scale [-1, 1], [n, m]."""
        return self._box.to_unit(action)

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        """Implements `Policy.step`, with the knobs of `action_noise.knob`; the action is float32 [B, *shape].

        With critics, extras of an exploring step are float32 [B]: 'q_taken', the mean of the critics at the action, and
        'q_policy', what a target makes of them at mu(s).
        """
        inputs = self.inputs(obs)
        features, state = self.body.step(inputs, state)
        best = u = self.actions(features)
        if explore:
            u = action_noise.perturb(u, knobs, noise)
            u = action_noise.start_at_random(u, knobs, noise)
        extras = {}
        if explore and self.critics is not None:
            if self.critics.body is not self.body:
                features = self.critics.body.step(inputs, ())[0]
            taken, at_best = (self.critics(features, a)[..., 0] for a in (u, best))
            extras = {
                "q_taken": tf.reduce_mean(taken, axis=0),
                "q_policy": self._combine(at_best),
            }
        return PolicyStep(self._box.to_env(u), state, extras)


def make(
    algo: str,
    config: Any,
    spec: EnvSpec,
    make_learner: Callable[[Any, Callable, Callable], Learner],
    combine: Combine,
) -> Agent:
    """DDPG or TD3 bound to an environment.

    Args:
      algo: its name, for messages.
      config: `Settings`, `OptimizerSettings` and `ModelSettings`.
      make_learner: (config, builder of a policy, builder of critics) -> learner, see `ActorCriticLearner`.
      combine: as `DeterministicPolicy` takes it.

    Raises:
      SettingError: the action space is no Box with finite limits, or sequences do not fit the replay.
    """
    family.check(algo, config, spec)
    try:
        size = BoundedBox(spec.action_space).size
    except SettingError as error:
        raise SettingError(f"algo={algo} on {spec.name}: {error}") from error

    def make_policy() -> DeterministicPolicy:
        return DeterministicPolicy(config, spec, bodies.make(config, spec), combine)

    def make_critics(policy: DeterministicPolicy) -> CriticNetwork:
        if policy.critics is not None:
            return policy.critics
        own = policy.body if family.shares_body(config) else bodies.make(config, spec)
        return CriticNetwork(config, own, size)

    def initial_priority(
        reward: np.ndarray,
        discount: np.ndarray,
        before: Mapping[str, np.ndarray],
        after: Mapping[str, np.ndarray],
    ) -> np.ndarray:
        # |y - Q(s, a)| with the networks of acting time (Horgan et al. 2018).
        target = value.backup(reward, discount, after["q_policy"], None, np)
        return np.abs(target - before["q_taken"]) + np.float32(config.priority_epsilon)

    return Agent(
        make_policy=make_policy,
        make_learner=lambda: make_learner(config, make_policy, make_critics),
        experience=replay_settings.replay(config),
        knobs=action_noise.knob(config),
        in_metrics=action_noise.in_metrics(config),
        initial_priority=initial_priority if config.actor_priorities else None,
        notes=torsos.notes(config, spec),
    )
