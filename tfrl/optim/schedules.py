"""Schedules over updates or env steps, as graphs, so that they continue from a checkpoint's counters."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def linear(initial: float, final: float, duration: int, now: tf.Tensor) -> tf.Tensor:
    """From `initial` at 0 to `final` at `duration` and after; float32 scalar. `duration` 0 gives `final` at once."""
    fraction = (
        tf.clip_by_value(tf.cast(now, tf.float32) / max(duration, 1), 0.0, 1.0) if duration else 1.0
    )
    return tf.convert_to_tensor(initial * (1.0 - fraction) + final * fraction, tf.float32)


def piecewise(points: Sequence[tuple[float, float]], now: tf.Tensor) -> tf.Tensor:
    """Linear between points (env steps, value) with growing env steps, constant outside; float32 scalar.

    Args:
      points: one at least.
      now: env steps, an integer scalar.
    """
    value = tf.constant(points[0][1], tf.float32)
    now = tf.cast(now, tf.int64)
    for (start, initial), (end, final) in zip(points, points[1:]):
        part = linear(initial, final, round(end) - round(start), now - round(start))
        value = tf.where(now >= round(start), part, value)
    return value


class Linear(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A Keras learning-rate schedule over updates: `linear(initial, final, decay_updates, updates)`."""

    def __init__(self, initial: float, final: float, decay_updates: int):
        self._initial, self._final, self._decay_updates = initial, final, decay_updates

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return linear(self._initial, self._final, self._decay_updates, step)

    def get_config(self) -> dict[str, float]:
        """The arguments of the constructor by name, as Keras saves schedules."""
        return {
            "initial": self._initial,
            "final": self._final,
            "decay_updates": self._decay_updates,
        }
