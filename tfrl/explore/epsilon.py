"""Epsilon-greedy exploration: the schedule in NumPy for actors, the choice as a graph for policies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrl.types import NoiseSpec


def linear(initial: float, final: float, decay_env_steps: int, env_steps: int) -> float:
    """Epsilon after `env_steps` of the whole run: linear from `initial` to `final` over `decay_env_steps`."""
    if env_steps >= decay_env_steps:
        return final
    return initial + (final - initial) * env_steps / decay_env_steps


def piecewise(points: Sequence[tuple[float, float]], env_steps: int) -> float:
    """Epsilon after `env_steps` of the whole run: linear between points (env steps, epsilon), constant outside."""
    steps, values = zip(*points, strict=True)
    return float(np.interp(env_steps, steps, values))


def ladder(base: float, exponent: float, rungs: np.ndarray, count: int) -> np.ndarray:
    """Constant epsilons base**(1 + exponent * i / (count - 1)) (Horgan et al. 2018, section 4).

    Args:
      base: epsilon of the first rung, and of the only one.
      exponent: alpha; the last rung has base**(1 + alpha).
      rungs: i, int [k], from 0.
      count: rungs of the whole ladder.

    Returns:
      float32 [k].
    """
    return np.power(base, 1.0 + exponent * rungs / max(count - 1, 1)).astype(np.float32)


def least_random(rungs: np.ndarray, count: int) -> np.ndarray:
    """True for the `rungs`, int [k], in the last third of a ladder, rounded up: bool [k]."""
    return rungs >= count - math.ceil(count / 3)


def noise(num_actions: int) -> dict[str, NoiseSpec]:
    """Random numbers that `choose` needs for each environment."""
    return {"explore": NoiseSpec((), "uniform"), "action": NoiseSpec((num_actions,), "uniform")}


def choose(
    greedy: tf.Tensor, epsilon: tf.Tensor, noise: dict[str, tf.Tensor], mask: tf.Tensor | None
) -> tf.Tensor:
    """Epsilon-greedy actions int32 [B]; the random ones are uniform over valid actions.

    Args:
      greedy: int32 [B].
      epsilon: float32 [B].
      noise: 'explore' uniform [B], 'action' uniform [B, A]: the largest entry among valid actions is the random choice.
      mask: 1 where an action is valid [B, A], or None.
    """
    scores = noise["action"]
    if mask is not None:
        scores = tf.where(tf.cast(mask, tf.bool), scores, -1.0)
    random = tf.argmax(scores, axis=1, output_type=tf.int32)
    return tf.where(noise["explore"] < epsilon, random, greedy)
