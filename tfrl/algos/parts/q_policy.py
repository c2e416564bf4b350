"""The policy of the value-based algorithms: epsilon-greedy over the action values of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import tensorflow as tf

from tfrl.algos.parts import replay_policy
from tfrl.algos.parts.replay_policy import ReplayPolicy
from tfrl.errors import SettingError
from tfrl.explore import epsilon as exploration
from tfrl.losses import value
from tfrl.nn import action_features, inputs, torsos
from tfrl.nn import body as bodies
from tfrl.nn.body import Body
from tfrl.nn.normalise import ObservationNormaliser
from tfrl.types import EnvSpec, PolicyStep


class QPolicy(ReplayPolicy):
    """The epsilon-greedy choice among the action values of a model.

    With noisy layers an exploring step adds new noise to the weights for each environment and step; a greedy
    step acts on the mean weights.

    Args:
      spec: environment spec.
      body: from observations to features.
      model: has `q_values(features, obs, noise) -> [B, A]`, `noise`, what that draws when exploring, and
        `output_kernels`, see `agent.Network.outputs`.
      gives_values: an exploring step's extras are 'q_taken' and 'q_max' [B], the values of the action taken and of the
        best one.
      rescale_epsilon: the model's values are rescaled returns, see `value.rescale`; None: they are returns.
      normaliser: of observations, or None.
    """

    def __init__(
        self,
        spec: EnvSpec,
        body: Body,
        model: Any,
        gives_values: bool = False,
        rescale_epsilon: float | None = None,
        normaliser: ObservationNormaliser | None = None,
    ):
        super().__init__(body, normaliser)
        self._rescale_epsilon = rescale_epsilon
        self.model, self._gives_values = model, gives_values
        self.noise = {**exploration.noise(int(spec.action_space.n)), **model.noise}

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """Weights of the layers that give the outputs, see `agent.Network.outputs`."""
        return self.model.output_kernels

    def values(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Features [B, F] of observations -> float32 [B, A]; invalid actions hold `value.INVALID_VALUE`.

        Args:
          obs: for the mask and the action features, leaves [B, ...].
          noise: as the model takes it; None: no noise.
        """
        return self.masked(self.model.q_values(features, obs, noise), obs)

    def q_values(self, obs: Any, noise: Mapping[str, tf.Tensor] | None = None) -> tf.Tensor:
        """`values` of observations, leaves [B, ...]; with a memory, of those that begin an episode."""
        rows = tf.nest.flatten(obs)[0].shape[0]
        obs = self.inputs(obs)
        features, _ = self.body.step(obs, self.body.initial_state(rows))
        return self.values(features, obs, noise)

    def masked(self, q: tf.Tensor, obs: Any) -> tf.Tensor:
        """Action values [B, A] with the values of actions that are invalid in `obs` replaced."""
        return value.mask_invalid(q, inputs.action_mask(obs))

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        """Implements `Policy.step`, with the knob 'epsilon'; the action is int32 [B], extras are float32 [B]."""
        obs = self.inputs(obs)
        features, state = self.body.step(obs, state)
        q = self.values(features, obs, noise if explore and self.model.noise else None)
        action = tf.argmax(q, axis=1, output_type=tf.int32)
        if explore:
            action = exploration.choose(action, knobs["epsilon"], noise, inputs.action_mask(obs))
        if not explore or not self._gives_values:
            return PolicyStep(action, state, {})
        extras = {"q_taken": value.select(q, action), "q_max": tf.reduce_max(q, axis=1)}
        return PolicyStep(action, state, extras)

    def estimates(self, obs: Any, state: Any) -> Mapping[str, tf.Tensor]:
        """Implements `Policy.estimates`: 'q_values', without exploration, as returns."""
        obs = self.inputs(obs)
        features, _ = self.body.step(obs, state)
        q = self.model.q_values(features, obs, None)
        if self._rescale_epsilon is not None:
            q = value.unrescale(q, self._rescale_epsilon)
        return {"q_values": self.masked(q, obs)}


class UpdateNoise(NamedTuple):
    """Noise of the layers in the three evaluations of an update; None without noisy layers."""

    online: Mapping[str, tf.Tensor] | None
    target: Mapping[str, tf.Tensor] | None
    selector: Mapping[str, tf.Tensor] | None


def draw_noise(model: Any, seed: tf.Tensor) -> UpdateNoise:
    """Three draws for a whole batch, equal on all replicas.

    Args:
      model: has `draw`, from a seed to noise.
      seed: int32 [2].
    """
    seeds = tf.random.experimental.stateless_split(seed, 3)
    return UpdateNoise(*(model.draw(seeds[i]) for i in range(3)))


def check(algo: str, config: Any, spec: EnvSpec, sends_gradients: bool) -> None:
    """Raises SettingError for an environment or a network that a `QPolicy` cannot serve.

    Args:
      algo: its name, for messages.
      config: `QNetworkSettings` and `ModelSettings`.
      sends_gradients: actors send gradients instead of experience.
    """
    if spec.num_agents > 1:
        raise SettingError(
            f"algo={algo} on {spec.name}: a team of {spec.num_agents} agents has one action for each of them; use "
            "algo=qmix, which has a value for each agent's action"
        )
    if not isinstance(spec.action_space, gym.spaces.Discrete):
        raise SettingError(
            f"algo={algo} on {spec.name}: expected a Discrete action space, got {spec.action_space}"
        )
    try:
        action_features.check(spec)
    except SettingError as error:
        raise SettingError(f"algo={algo} on {spec.name}: {error}") from error
    torsos.check(config, spec, sends_gradients=sends_gradients)
    replay_policy.check(config)


def make(
    config: Any, spec: EnvSpec, make_model: Callable[[int], Any], gives_values: bool = False
) -> QPolicy:
    """A policy with fresh variables.

    Args:
      config: settings of the algorithm.
      make_model: width of the features -> what `QPolicy` takes.
      gives_values: see `QPolicy`.
    """
    body = bodies.make(config, spec, rescale=config.rescale_observations)
    normaliser = replay_policy.normaliser(config, spec)
    model, rescale_epsilon = make_model(body.output_size), config.value_rescaling_epsilon
    return QPolicy(spec, body, model, gives_values, rescale_epsilon, normaliser)
