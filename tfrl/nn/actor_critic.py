"""A policy and a state-value function over one observation: what every policy-gradient algorithm here acts with.

Torso and recurrent core are shared by the two, or each has its own. Observations may be normalised by statistics that
are variables of the policy, so that what is published and exported is complete.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.nn import (
    action_features,
    body,
    distributions,
    inputs,
    sde,
    torsos,
    user_model,
)
from tfrl.nn.body import ModelSettings, flat
from tfrl.nn.normalise import ObservationNormaliser
from tfrl.settings import setting, with_default
from tfrl.types import STATE, EnvSpec, PolicyStep, Trajectory

_SDE = "exploration"  # name of the noise; those of a distribution begin with "action"


@dataclasses.dataclass(frozen=True)
class ActorCriticSettings(action_features.ActionFeatureSettings):
    """Settings of `ActorCritic`, a base of algorithms' `Config` before `ModelSettings`, of which some differ here."""

    activation: str = with_default(ModelSettings, "activation", "tanh")
    shared_torso: bool = setting(
        False,
        "policy and value function share one network instead of having one each (faster on images)",
        idle_if={"baseline": False},
    )
    log_std_initial: float = setting(
        0.0,
        "initial log standard deviation of a Gaussian policy; with state_dependent_exploration, of each "
        "matrix entry",
        idle_if=(
            {"box_actions": False},
            {"free_log_std": False, "state_dependent_exploration": False},
        ),
    )
    free_log_std: bool = setting(
        True,
        "the standard deviation of a Gaussian policy is a free variable; false: an output of the network",
        idle_if={"box_actions": False},
    )
    state_dependent_exploration: bool = setting(
        False,
        "gSDE: exploration noise of Box actions is a random matrix times the features; the matrix is kept for "
        "several steps",
    )
    sde_resample_env_steps: int | None = setting(
        None,
        "steps before the matrix is redrawn within an episode; none: once per episode",
        unit="env steps",
        minimum=1,
    )
    squash_actions: bool = setting(
        False,
        "map Box actions to their limits with tanh instead of clipping",
        idle_if={"box_actions": False},
    )


class Heads:
    """Outputs of the networks: params [..., P] of the action distribution (masked), values [...]."""

    def __init__(self, params: tf.Tensor, values: tf.Tensor):
        self.params, self.values = params, values


class ActorCritic(tf.Module):
    """The policy of the policy-gradient family, with its value function.

    Args:
      config: `ActorCriticSettings` and `ModelSettings`.
      spec: environment spec.
      critic: False: no value function, values are zeros.
      central: the value function reads the side input `state` instead of the observation.

    Attributes:
      critic: as given.
      seen: spec of what the networks see.
      distribution: of actions, see `nn/distributions.py`.
      noise: what an exploring step draws.
      reads: side inputs that a network reads.
      recurrent: there is a memory; `state` is () otherwise.
      normaliser: of observations, or None.
    """

    def __init__(self, config: Any, spec: EnvSpec, critic: bool = True, central: bool = False):
        super().__init__()
        self.critic, self.seen = critic, spec
        # Side inputs that a network reads all the same, and the observation of the value function.
        self.reads = (STATE,) if central else ()
        value_spec = spec
        if central:
            state = spec.side_inputs[STATE]
            value_spec = dataclasses.replace(spec, observation_space=state)
        self.distribution = distributions.make(spec.action_space, config.squash_actions)
        self.recurrent = config.core != "none"
        self.normaliser = None
        if config.normalize_observations:
            self.normaliser = ObservationNormaliser(
                spec.observation_space, config.observation_clip, self.reads
            )
        self._squashes = config.squash_actions  # then the action does not give the sample back
        self._policy_body = body.make(config, spec, "orthogonal")
        separate = critic and not config.shared_torso
        self._value_body = body.make(config, value_spec, "orthogonal") if separate else None
        self.noise, deviations = dict(self.distribution.noise), self.distribution.deviations
        self._widths = {name: x.stop - x.start for name, x in deviations.items()}
        components, features = sum(self._widths.values()), self._policy_body.output_size
        self._log_std, outputs, self._means = None, self.distribution.num_params, []
        self._state_dependent = config.state_dependent_exploration
        if components and (config.free_log_std or self._state_dependent):
            shape = [features, components] if self._state_dependent else [components]
            self._log_std = tf.Variable(tf.fill(shape, config.log_std_initial), name="log_std")
            # The network gives what stands before, between and after the deviations.
            limits = [0, *(n for x in deviations.values() for n in (x.start, x.stop)), outputs]
            self._means = [b - a for a, b in zip(limits[::2], limits[1::2]) if b > a]
            outputs -= components
        if self._state_dependent:
            for name in deviations:
                del self.noise[name]
            period = config.sde_resample_env_steps
            self.noise[_SDE] = sde.noise_spec(features, components, period)
        self._scores = None
        if spec.has_action_features:
            self._scores = action_features.ActionScores(
                spec, config.action_hidden_sizes, config.activation, "orthogonal"
            )
            outputs = self._scores.width
        self._policy_head = torsos.head(outputs, 0.01)
        self._value_head = torsos.head(1, 1.0) if critic else None
        example = self.inputs(torsos.example_batch(spec.observation_space, 1))
        self._heads(example, *self._features(example, self._start(1))[:2])  # builds the variables

    def inputs(self, obs: Any) -> Any:
        """Raw observations -> what the networks read; the other methods but `step` take these."""
        return obs if self.normaliser is None else self.normaliser(obs)

    def initial_state(self, batch_size: int, noise: Mapping[str, Any]) -> Any:
        """Implements `Policy.initial_state`: the states of the networks by name, 'policy' and, if separate, 'value'; ()
        without memory.
        """
        del noise
        return self._start(batch_size)

    def _start(self, batch_size: int) -> Any:
        """States at the start of episodes, leaves [batch_size, ...]."""
        if not self.recurrent:
            return ()
        state = {"policy": self._policy_body.initial_state(batch_size)}
        if self._value_body is not None:
            state["value"] = self._value_body.initial_state(batch_size)
        return state

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        """Implements `Policy.step`: a sample when exploring, else the mode; knobs are not read.

        An exploring step's extras are 'log_prob', float32 [B], and with squashed actions 'sample', before they are
        squashed.
        """
        del knobs
        obs = self.inputs(obs)
        distribution = self.distribution
        features, _, state = self._features(obs, state)
        params = self._params(features, obs)
        if not explore:
            return PolicyStep(distribution.action(distribution.mode(params)), state, {})
        if self._state_dependent:
            normal = sde.normal(features, self._log_std, noise[_SDE])
            parts = tf.split(normal, list(self._widths.values()), axis=-1)
            noise = {**noise, **dict(zip(self._widths, parts))}
        sample = distribution.sample(params, noise)
        extras = {"log_prob": distribution.log_prob(params, sample)}
        if self._squashes:
            extras["sample"] = sample
        return PolicyStep(distribution.action(sample), state, extras)

    def estimates(self, obs: Any, state: Any) -> Mapping[str, Any]:
        """Implements `Policy.estimates`: 'probabilities', where no part of the actions is a Box."""
        obs = self.inputs(obs)
        params = self._params(self._features(obs, state)[0], obs)
        probabilities = self.distribution.probabilities(params)
        return {} if probabilities is None else {"probabilities": probabilities}

    def columns(self, batch: Trajectory) -> Trajectory:
        """A batch of unrolls as the networks learn from it: as it is."""
        return batch

    def samples(self, action: Any, extras: Mapping[str, tf.Tensor]) -> Any:
        """The samples, as the distribution takes them, of stored actions [..., shape]."""
        return extras["sample"] if self._squashes else action

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """The variables that an optimiser may change: frozen layers of a user's network are left out."""
        return user_model.trainable(self, super().trainable_variables)

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """Weights of the layers that give parameters of the distribution and values."""
        kernels = [self._policy_head.kernel]
        if self._value_head is not None:
            kernels.append(self._value_head.kernel)
        if self._state_dependent:
            kernels.append(self._log_std)
        return (*kernels, *(() if self._scores is None else self._scores.output_kernels))

    def networks(self) -> dict[str, tuple[tf.Variable, ...]]:
        """`trainable_variables` by network: 'policy' and, with a critic, 'value'; a shared torso is the policy's."""
        variables = self.trainable_variables
        if not self.critic:
            return {"policy": variables}
        parts = (self._value_head, *([] if self._value_body is None else [self._value_body]))
        of_value = {id(v) for part in parts for v in part.trainable_variables}
        return {
            "policy": tuple(v for v in variables if id(v) not in of_value),
            "value": tuple(v for v in variables if id(v) in of_value),
        }

    def losses(self) -> list[tf.Tensor]:
        """Scalars that a user's networks add to the loss; read them after a call in training mode."""
        bodies = (self._policy_body, self._value_body)
        return [x for each in bodies if each is not None for x in each.losses()]

    def heads(self, obs: Any, training: bool = False) -> Heads:
        """Without memory: inputs with leaves [n, ...] -> params [n, P], values [n]; float32.

        Args:
          training: mode of a user's networks: True where a gradient is taken.
        """
        features, value_features, _ = self._features(obs, (), training)
        return self._heads(obs, features, value_features)

    def unroll(self, obs: Any, state: Any, is_first: tf.Tensor, training: bool = False) -> Heads:
        """Inputs [T, B, ...], state [B, ...] before them, fresh bool [T, B] -> params [T, B, P], values [T, B];
        float32. `training` as in `heads`.
        """
        steps, batch = is_first.shape
        if not self.recurrent:
            heads = self.heads(flat(obs), training)
        else:
            features, _ = self._policy_body.unroll(obs, state["policy"], is_first, training)
            value_features = features
            if self._value_body is not None:
                value_features, _ = self._value_body.unroll(
                    self._value_obs(obs), state["value"], is_first, training
                )
            heads = self._heads(*flat((obs, features, value_features)))
        params, values = heads.params, heads.values
        return Heads(
            tf.reshape(params, [steps, batch, params.shape[-1]]), tf.reshape(values, [steps, batch])
        )

    def _features(
        self, obs: Any, state: Any, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """One step: features of the policy and of the value function [B, F], and the state after it."""
        if not self.recurrent:
            features = value_features = self._policy_body.step(obs, (), training)[0]
            if self._value_body is not None:
                value_features = self._value_body.step(self._value_obs(obs), (), training)[0]
            return features, value_features, ()
        new = {}
        features, new["policy"] = self._policy_body.step(obs, state["policy"])
        value_features = features
        if self._value_body is not None:
            value_features, new["value"] = self._value_body.step(
                self._value_obs(obs), state["value"]
            )
        return features, value_features, new

    def _value_obs(self, obs: Any) -> Any:
        """The part of the inputs that the value function reads."""
        return obs[STATE] if self.reads else obs

    def _heads(self, obs: Any, features: tf.Tensor, value_features: tf.Tensor) -> Heads:
        return Heads(self._params(features, obs), self._values(value_features))

    def _values(self, features: tf.Tensor) -> tf.Tensor:
        if self._value_head is None:
            return tf.zeros(tf.shape(features)[:-1])
        return tf.squeeze(self._value_head(features), -1)

    def _params(self, features: tf.Tensor, obs: Any) -> tf.Tensor:
        params = self._policy_head(features)
        if self._scores is not None:
            params = tf.squeeze(self._scores(params[:, None], obs), 2)
        if self._log_std is not None:
            if self._state_dependent:
                log_std = sde.log_std(features, self._log_std)
            else:
                # A sum, as LiteRT has no op that broadcasts.
                log_std = tf.zeros_like(params[..., :1]) + self._log_std
            outputs = tf.split(params, self._means, axis=-1)
            deviations = tf.split(log_std, list(self._widths.values()), axis=-1)
            parts = [x for pair in zip(outputs, deviations) for x in pair]
            params = tf.concat(parts + outputs[len(deviations) :], -1)
        mask = inputs.action_mask(obs)
        return params if mask is None else self.distribution.mask(params, mask)


def check(config: Any, spec: EnvSpec, algo: str, sends_gradients: bool = False) -> None:
    """Raises SettingError for settings that do not fit the environment or each other.

    Args:
      sends_gradients: the learner gets gradients only, see `user_model.check`.
    """
    torsos.check(config, spec, sends_gradients)
    try:
        distribution = distributions.make(spec.action_space, config.squash_actions)
        action_features.check(spec)
    except SettingError as error:
        raise SettingError(f"algo={algo} on {spec.name}: {error}") from error
    if config.state_dependent_exploration:
        if not distribution.deviations:
            raise SettingError(
                f"state_dependent_exploration with algo={algo} on {spec.name}: "
                f"expected a Box among the actions, got {spec.action_space}"
            )
        if not config.free_log_std:
            raise SettingError(
                "free_log_std=false with state_dependent_exploration: expected true, "
                "its deviations follow from a variable and the features"
            )
    elif config.sde_resample_env_steps is not None:
        raise SettingError(
            f"sde_resample_env_steps={config.sde_resample_env_steps}: "
            "expected state_dependent_exploration with it"
        )
