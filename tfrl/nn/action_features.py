"""Actions that are described by features: scores from the features of the state and those of each action.

For observations with `action_features`, one row for each action, and usually `action_mask`, since the rows that mean
something differ from step to step. Used for action values and for the logits of policies alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.nn import torsos
from tfrl.settings import setting
from tfrl.types import ACTION_FEATURES, EnvSpec


@dataclasses.dataclass(frozen=True)
class ActionFeatureSettings:
    """Settings of `ActionScores`, a base of the settings of heads that score actions by their features."""

    action_hidden_sizes: tuple[int, ...] = setting(
        (64,),
        "units per layer of the MLP that embeds action features; empty: the features themselves are the "
        "embedding",
        unit="units",
        minimum=1,
        idle_if={"action_features": False},
    )


class ActionScores(tf.Module):
    """score(s, a) = <query(s), embedding(a)> / sqrt(E), the embedding an MLP of the action's features.

    Invalid actions get scores like any others; mask them afterwards.

    Args:
      spec: environment spec, see `check`.
      hidden_sizes: units of the MLP, the last is E; empty: the features themselves are the embedding.
      activation, initializer: of the MLP, see `torsos.mlp`.

    Attributes:
      width: E, width of a query.
    """

    def __init__(
        self,
        spec: EnvSpec,
        hidden_sizes: Sequence[int],
        activation: str,
        initializer: str = "glorot",
    ):
        super().__init__()
        space = spec.observation_space.spaces[ACTION_FEATURES]
        self._num_actions, self._num_features = space.shape
        self._mlp = torsos.mlp(hidden_sizes, activation, initializer) if hidden_sizes else None
        self.width = int(hidden_sizes[-1]) if hidden_sizes else int(self._num_features)
        if self._mlp is not None:
            self._mlp(tf.zeros([1, self._num_features]))  # builds the variables

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """The weights of the layer that gives the embedding; () where the features are it."""
        return () if self._mlp is None else (self._mlp.layers[-1].kernel,)

    def __call__(self, queries: tf.Tensor, obs: Any) -> tf.Tensor:
        """Queries [B, K, E] and observations with leaves [B, ...] -> scores [B, A, K]."""
        embedded = tf.cast(obs[ACTION_FEATURES], tf.float32)
        if self._mlp is not None:
            rows = self._mlp(tf.reshape(embedded, [-1, self._num_features]))
            embedded = tf.reshape(rows, [-1, self._num_actions, self.width])
        return tf.matmul(embedded, queries, transpose_b=True) / math.sqrt(self.width)


def check(spec: EnvSpec) -> None:
    """Raises SettingError for action features that do not fit the actions; without features nothing is checked."""
    if not spec.has_action_features:
        return
    space = spec.observation_space.spaces[ACTION_FEATURES]
    actions = spec.action_space
    if not isinstance(actions, gym.spaces.Discrete):
        raise SettingError(
            f"the observation has {ACTION_FEATURES}: expected a Discrete action space, got {actions}"
        )
    if (
        not isinstance(space, gym.spaces.Box)
        or len(space.shape) != 2
        or space.shape[0] != actions.n
    ):
        raise SettingError(
            f"{ACTION_FEATURES} is {space}: expected a Box of shape [{actions.n}, features], "
            "one row per action"
        )
