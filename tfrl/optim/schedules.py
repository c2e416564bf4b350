"""Schedules over updates or env steps, as graphs, so that they continue from a checkpoint's counters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from tfrl.errors import SettingError


def linear(initial: float, final: float, duration: int, now: tf.Tensor) -> tf.Tensor:
    """From `initial` at 0 to `final` at `duration` and after; float32 scalar. `duration` 0 gives `final` at once."""
    fraction = (
        tf.clip_by_value(tf.cast(now, tf.float32) / max(duration, 1), 0.0, 1.0) if duration else 1.0
    )
    return tf.convert_to_tensor(initial * (1.0 - fraction) + final * fraction, tf.float32)


def polynomial(
    initial: float, final: float, duration: int, now: tf.Tensor, power: float
) -> tf.Tensor:
    """final + (initial - final) (1 - now / duration)^power from 0 to `duration`, `final` after; float32 scalar.

    Args:
      duration: 0 gives `final` at once.
      power: above 0; 1 is `linear`.
    """
    if power == 1.0:
        return linear(initial, final, duration, now)
    left = linear(1.0, 0.0, duration, now)
    return tf.convert_to_tensor(final + (initial - final) * tf.pow(left, power), tf.float32)


def warmup(updates: int, made: tf.Tensor) -> tf.Tensor:
    """Factor of a rate that grows linearly to 1 in the first `updates` updates, the last of which has 1.

    Args:
      updates: 0 gives 1 at once.
      made: updates made before, an integer scalar.

    Returns:
      float32 scalar, more than 0.
    """
    return tf.minimum((tf.cast(made, tf.float32) + 1.0) / max(updates, 1), 1.0)


def sqrt_batch_scale(rate: float, base_batch: float, batch: float) -> float:
    """`rate`, meant for batches of `base_batch`, times sqrt(batch / base_batch) (You et al. 2020, section 4)."""
    return rate * math.sqrt(batch / base_batch)


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


@tf.keras.saving.register_keras_serializable("tfrl")
class WarmupPolynomialDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A Keras schedule over updates: a linear warm-up to `peak`, then a polynomial decay to 0 (You et al. 2020, 4.1).

    The settings `learning_rate=peak`, `learning_rate_final=0`, `learning_rate_warmup_updates=warmup_steps`,
    `learning_rate_updates=total_steps - warmup_steps` and `learning_rate_power=power` give the same rates.

    Raises:
      SettingError: a warm-up that is not shorter than the whole, or a power that is not above 0.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int, power: float = 1.0):
        if not 0 <= warmup_steps < total_steps:
            raise SettingError(
                f"warmup_steps={warmup_steps} with total_steps={total_steps}: expected at least 0, and less than "
                "total_steps"
            )
        if not power > 0:
            raise SettingError(f"power={power!r}: expected more than 0")
        self._peak, self._power = peak, power
        self._warmup_steps, self._total_steps = warmup_steps, total_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        duration, now = self._total_steps - self._warmup_steps, step - self._warmup_steps
        decay = polynomial(self._peak, 0.0, duration, now, self._power)
        return warmup(self._warmup_steps, step) * decay

    def get_config(self) -> dict[str, float]:
        """The arguments of the constructor by name, as Keras saves schedules."""
        return {
            "peak": self._peak,
            "warmup_steps": self._warmup_steps,
            "total_steps": self._total_steps,
            "power": self._power,
        }
