"""Schedules over updates, as graphs, so that they are saved and restored with the optimiser's own counter."""

from __future__ import annotations

import tensorflow as tf


def linear(initial: float, final: float, duration: int, now: tf.Tensor) -> tf.Tensor:
    """From `initial` at 0 to `final` at `duration` and after; float32 scalar. `duration` 0 gives `final` at once."""
    fraction = (
        tf.clip_by_value(tf.cast(now, tf.float32) / max(duration, 1), 0.0, 1.0) if duration else 1.0
    )
    return tf.convert_to_tensor(initial * (1.0 - fraction) + final * fraction, tf.float32)


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
