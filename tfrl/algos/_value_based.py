"""What the value-based algorithms share: settings, the policy, the learner, and the plans of an agent.

An algorithm adds a model (`QNetwork`, or a module around one) and a loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.agent import Agent, NStep, Periodic, ReplayPlan, UpdatePlan
from tfrl.config.settings import SettingError, setting, validate
from tfrl.explore import epsilon as exploration
from tfrl.losses import value
from tfrl.nn import action_features, inputs
from tfrl.optim import apply, optimizers, schedules
from tfrl.types import EnvSpec, PolicyStep, Transition, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of every algorithm of the family, a base of their `Config`s beside `ModelSettings`."""

    discount: float = setting(0.99, "discount of the return per env step", minimum=0.0, maximum=1.0)
    n_step: int = setting(1, "length of the n-step return", unit="env steps", minimum=1)
    double: bool = setting(True, "choose the bootstrap action with the online network")
    target_period_updates: int = setting(
        500, "interval of copies to the target network", unit="updates", minimum=1
    )

    batch_size: int = setting(
        32, "transitions per update, over all replicas", unit="transitions", minimum=1
    )
    env_steps_per_update: float = setting(
        4.0, "env steps sampled per update", unit="env steps", above=0.0
    )
    updates_per_call: int = setting(
        32,
        "updates that run in one compiled call between two pieces of acting",
        unit="updates",
        minimum=1,
    )
    replay_capacity: int = setting(50_000, "transitions kept", unit="transitions", minimum=1)
    min_replay: int = setting(
        1_000, "transitions stored before the first update", unit="transitions", minimum=1
    )
    prioritized: bool = setting(False, "prioritized instead of uniform replay")
    priority_exponent: float = setting(0.6, "alpha of prioritized replay", minimum=0.0, maximum=1.0)
    priority_epsilon: float = setting(1e-6, "added to each priority", above=0.0)
    importance_beta: float = setting(
        0.4, "initial exponent of the importance weights", minimum=0.0, maximum=1.0
    )
    importance_beta_final: float = setting(
        1.0, "final exponent of the importance weights", minimum=0.0, maximum=1.0
    )
    importance_beta_updates: int = setting(
        20_000, "length of that change", unit="updates", minimum=0
    )

    learning_rate: float = setting(5e-4, "step size of Adam", above=0.0)
    learning_rate_final: float | None = setting(
        None, "step size at the end of its decay; none: constant", minimum=0.0
    )
    learning_rate_updates: int = setting(0, "length of that decay", unit="updates", minimum=0)
    adam_epsilon: float = setting(1e-7, "epsilon of Adam", above=0.0)
    gradient_clip_norm: float | None = setting(
        10.0, "largest global norm of the gradient; none: no limit", above=0.0
    )

    epsilon_initial: float | None = setting(
        None,
        "share of random actions at the start; none: 1, or 0 with noisy layers",
        minimum=0.0,
        maximum=1.0,
    )
    epsilon_final: float | None = setting(
        None,
        "share of random actions after the decay; none: 0.05, or 0 with noisy layers",
        minimum=0.0,
        maximum=1.0,
    )
    epsilon_decay_env_steps: int = setting(
        10_000, "length of the linear decay", unit="env steps", minimum=0
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.min_replay > self.replay_capacity:
            raise SettingError(
                f"min_replay={self.min_replay} with replay_capacity={self.replay_capacity}: "
                "updates would never start; min_replay may be at most replay_capacity"
            )
        if self.batch_size > self.replay_capacity:
            raise SettingError(
                f"replay_capacity={self.replay_capacity} with batch_size={self.batch_size}: "
                "the replay must hold at least one batch"
            )
        if self.learning_rate_final is not None and self.learning_rate_updates == 0:
            raise SettingError(
                f"learning_rate_final={self.learning_rate_final} with learning_rate_updates=0: "
                "give the length of the decay in updates"
            )


class QPolicy(tf.Module):
    """The epsilon-greedy choice among the action values of a model; stateless.

    With noisy layers an exploring step acts on weights with noise, drawn anew for each environment and step; a greedy
    step acts on the mean weights.

    Args:
      spec: environment spec.
      model: has `q_values(obs, noise) -> [B, A]` and `noise`, what that draws when exploring.
    """

    def __init__(self, spec: EnvSpec, model: Any):
        super().__init__()
        self.model = model
        self.noise = {**exploration.noise(int(spec.action_space.n)), **model.noise}

    def q_values(self, obs: Any, noise: Mapping[str, tf.Tensor] | None = None) -> tf.Tensor:
        """Observations, leaves [B, ...] -> [B, A]; invalid actions hold `value.INVALID_VALUE`."""
        return self.masked(self.model.q_values(obs, noise), obs)

    def masked(self, q: tf.Tensor, obs: Any) -> tf.Tensor:
        """Action values [B, A], those of actions that are invalid in `obs` replaced."""
        return value.mask_invalid(q, inputs.action_mask(obs))

    def initial_state(self, batch_size: int) -> tuple[()]:
        del batch_size
        return ()

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        q = self.q_values(obs, noise if explore and self.model.noise else None)
        action = tf.argmax(q, axis=1, output_type=tf.int32)
        if explore:
            action = exploration.choose(action, knobs["epsilon"], noise, inputs.action_mask(obs))
        return PolicyStep(action, state, {})


class Loss(NamedTuple):
    """What an algorithm makes of a batch, rows [b].

    Attributes:
      loss: what is minimised.
      magnitude: not negative, how much there was to learn of the row: its new priority.
      parts: {metric: [b]}, logged as means.
    """

    loss: tf.Tensor
    magnitude: tf.Tensor
    parts: Mapping[str, tf.Tensor]


class Noise(NamedTuple):
    """Noise of the layers in the three evaluations of an update; None without noisy layers."""

    online: Mapping[str, tf.Tensor] | None
    target: Mapping[str, tf.Tensor] | None
    selector: Mapping[str, tf.Tensor] | None


def draw(model: Any, seed: tf.Tensor) -> Noise:
    """Three draws for a whole batch, equal on all replicas; `model` has `draw(seed)`."""
    seeds = tf.random.experimental.stateless_split(seed, 3)
    return Noise(*(model.draw(seeds[i]) for i in range(3)))


class QLearner(tf.Module):
    """Online and target network, optimiser, and one update of a batch of transitions.

    Args:
      config: `Settings`.
      make_policy: builds a `QPolicy`.
      loss: (config, online policy, target policy, batch, seed) -> `Loss`, without reduction; called under a tape.
    """

    def __init__(
        self,
        config: Settings,
        make_policy: Callable[[], QPolicy],
        loss: Callable[[Any, QPolicy, QPolicy, Transition, tf.Tensor], Loss],
    ):
        super().__init__()
        self._config, self._loss = config, loss
        self.policy = make_policy()
        self.target = make_policy()
        self._copy_target()
        final = config.learning_rate_final
        self._rate = schedules.Linear(
            config.learning_rate,
            config.learning_rate if final is None else final,
            config.learning_rate_updates,
        )
        self.optimizer = optimizers.make(
            "adam", self.policy.trainable_variables, self._rate, epsilon=config.adam_epsilon
        )

    def update(self, batch: Transition, seed: tf.Tensor) -> UpdateOutput:
        config = self._config
        weights = tf.ones_like(batch.reward_t)
        rate, beta = self._rate(self.optimizer.iterations), self._beta()
        if config.prioritized:
            weights = value.importance_weights(batch.probability, beta)
        with tf.GradientTape() as tape:
            out = self._loss(config, self.policy, self.target, batch, seed)
            loss = apply.global_mean(weights * out.loss)
        variables = self.policy.trainable_variables
        norm = apply.minimise(self.optimizer, tape, loss, variables, config.gradient_clip_norm)
        metrics = {
            "learner/loss": apply.reduce_sum(loss),
            **{name: apply.reduce_sum(apply.global_mean(x)) for name, x in out.parts.items()},
            "learner/gradient_norm": norm,
            "learner/learning_rate": rate,
        }
        if not config.prioritized:
            return UpdateOutput(metrics, None)
        metrics["learner/importance_beta"] = beta
        return UpdateOutput(metrics, out.magnitude + config.priority_epsilon)

    def periodic(self) -> Sequence[Periodic]:
        return (Periodic(self._config.target_period_updates, self._copy_target),)

    def _beta(self) -> tf.Tensor:
        config = self._config
        return schedules.linear(
            config.importance_beta,
            config.importance_beta_final,
            config.importance_beta_updates,
            self.optimizer.iterations,
        )

    def _copy_target(self) -> None:
        for target, online in zip(self.target.variables, self.policy.variables, strict=True):
            target.assign(online)


def make(
    algo: str,
    config: Any,
    spec: EnvSpec,
    make_model: Callable[[], Any],
    loss: Callable[[Any, QPolicy, QPolicy, Transition, tf.Tensor], Loss],
) -> Agent:
    """An algorithm of the family bound to an environment.

    Args:
      algo: its name, for messages.
      config: `Settings` and `ModelSettings`.
      make_model, loss: see `QPolicy` and `QLearner`.

    Raises:
      SettingError: the action space is not Discrete, or action features do not fit it.
    """
    if not isinstance(spec.action_space, gym.spaces.Discrete):
        raise SettingError(
            f"algo={algo} on {spec.name}: expected a Discrete action space, got {spec.action_space}"
        )
    try:
        action_features.check(spec)
    except SettingError as error:
        raise SettingError(f"algo={algo} on {spec.name}: {error}") from error
    initial, final = _epsilon(config)

    def knobs(
        worker: int, num_workers: int, num_envs: int, env_steps: int
    ) -> Mapping[str, np.ndarray]:
        del worker, num_workers
        now = exploration.linear(initial, final, config.epsilon_decay_env_steps, env_steps)
        return {"epsilon": np.full(num_envs, now, np.float32)}

    def make_policy() -> QPolicy:
        return QPolicy(spec, make_model())

    return Agent(
        make_policy=make_policy,
        make_learner=lambda: QLearner(config, make_policy, loss),
        replay=ReplayPlan(
            kind="prioritized" if config.prioritized else "uniform",
            item=NStep(config.n_step, config.discount),
            capacity_items=config.replay_capacity,
            min_items=config.min_replay,
            samples_per_insert=config.batch_size / config.env_steps_per_update,
            priority_exponent=config.priority_exponent,
        ),
        updates=UpdatePlan(batch_size=config.batch_size, updates_per_call=config.updates_per_call),
        knobs=knobs,
    )


def _epsilon(config: Any) -> tuple[float, float]:
    """First and last share of random actions: layers with noise explore by themselves."""
    noisy = config.noisy != "none"
    initial, final = config.epsilon_initial, config.epsilon_final
    if initial is None:
        initial = 0.0 if noisy else 1.0
    if final is None:
        final = 0.0 if noisy else 0.05
    return initial, final
