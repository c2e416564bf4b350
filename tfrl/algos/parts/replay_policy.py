"""What every policy has whose experience is replayed: a body, statistics of observations, and unrolls from a stored
state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.nn import user_model
from tfrl.nn.body import Body
from tfrl.nn.normalise import ObservationNormaliser
from tfrl.types import EnvSpec, Trajectory


class ReplayPolicy(tf.Module):
    """Base class of policies on one body. A subclass has `noise` and `step`, see `agent.Policy`.

    Args:
      body: from observations to features.
      normaliser: of observations, or None.
    """

    def __init__(self, body: Body, normaliser: ObservationNormaliser | None):
        super().__init__()
        self.normaliser, self.body = normaliser, body

    def inputs(self, obs: Any) -> Any:
        """Raw observations -> what the body reads."""
        return obs if self.normaliser is None else self.normaliser(obs)

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """The variables that an optimiser may change: frozen layers of a user's network are left out."""
        return user_model.trainable(self, super().trainable_variables)

    def initial_state(self, batch_size: int, noise: Mapping[str, Any]) -> Any:
        """Implements `Policy.initial_state`: the state of the memory, () without one."""
        return self.body.initial_state(batch_size)

    def unroll(self, batch: Trajectory, burn_in: int, training: bool = False) -> tf.Tensor:
        """Features of a sequence's observations from its stored state on, [T + 1 - burn_in, B, F].

        The first `burn_in` observations only refresh the state (Kapturowski et al. 2019, section 3); no
        gradient passes through them.

        Args:
          batch: leaves [T, B, ...].
          burn_in: of the T steps.
          training: mode of a user's network in the steps that follow.
        """
        return unroll(self.body, self.inputs(batch.obs), batch, burn_in, training)


def unroll(
    body: Body, obs: Any, batch: Trajectory, burn_in: int, training: bool = False
) -> tf.Tensor:
    """`ReplayPolicy.unroll` by any body that goes on from the same stored state.

    Args:
      obs: what the body reads, leaves [T + 1, B, ...].
      batch, burn_in, training: as there.
    """
    state, is_first = batch.state, batch.is_first
    if burn_in:
        first = tf.nest.map_structure(lambda x: x[:burn_in], obs)
        _, state = body.unroll(first, state, is_first[:burn_in])
        state = tf.nest.map_structure(tf.stop_gradient, state)
        obs = tf.nest.map_structure(lambda x: x[burn_in:], obs)
    features, _ = body.unroll(obs, state, is_first[burn_in:], training)
    return features


def check(config: Any) -> None:
    """Raises SettingError where observations would be brought to one scale twice."""
    if config.normalize_observations and getattr(config, "rescale_observations", False):
        raise SettingError(
            "normalize_observations=True with rescale_observations=True: either brings observations to one scale; "
            "leave one of them out"
        )


def normaliser(config: Any, spec: EnvSpec) -> ObservationNormaliser | None:
    """The normaliser that `ModelSettings` ask for, or None."""
    if not config.normalize_observations:
        return None
    return ObservationNormaliser(spec.observation_space, config.observation_clip)
