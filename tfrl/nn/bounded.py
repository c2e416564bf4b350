"""Actions of a bounded Box on a common scale: [-1, 1] in every component."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.errors import SettingError


class BoundedBox:
    """The affine map between [-1, 1]^m and a Box, action = low + (u + 1) / 2 (high - low).

    Args:
      space: with finite limits in every component; any shape.

    Attributes:
      size: m, number of components.
      log_half_range: sum of log((high - low) / 2) over the components.

    Raises:
      SettingError: no Box of floats, or a component without limits or without room between them.
    """

    def __init__(self, space: gym.Space):
        if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise SettingError(f"expected a Box of floats with finite limits, got {space}")
        low, high = (np.asarray(x, np.float64) for x in (space.low, space.high))
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise SettingError(
                f"expected a Box whose limits are finite and differ in every component, got {space}"
            )
        self.size, self._shape = math.prod(space.shape), space.shape
        self.log_half_range = float(np.log((high - low) / 2).sum())
        self._low, self._high = low.astype(np.float32), high.astype(np.float32)
        flat = lambda x: x.astype(np.float32).reshape(-1)
        self._centre, self._half = flat((low + high) / 2), flat((high - low) / 2)

    def to_env(self, u: tf.Tensor) -> tf.Tensor:
        """float32 [..., m] in [-1, 1] -> actions float32 [..., *shape] within the limits."""
        x = self._centre + self._half * u
        if len(self._shape) != 1:
            x = tf.reshape(x, tf.concat([tf.shape(x)[:-1], self._shape], 0))
        return tf.minimum(tf.maximum(x, self._low), self._high)  # rounding may step over a limit

    def to_unit(self, action: tf.Tensor) -> tf.Tensor:
        """Actions [..., *shape] -> float32 [..., m], those within the limits in [-1, 1]."""
        x = tf.cast(action, tf.float32)
        if len(self._shape) != 1:
            leading = x.shape.rank - len(self._shape)
            x = tf.reshape(x, tf.concat([tf.shape(x)[:leading], [self.size]], 0))
        return (x - self._centre) / self._half


def saturated(u: tf.Tensor) -> tf.Tensor:
    """Fraction of components beyond 0.99 in each action u [n, m] on the scale [-1, 1]; [n]."""
    return tf.reduce_mean(tf.cast(tf.abs(u) > 0.99, tf.float32), axis=1)
