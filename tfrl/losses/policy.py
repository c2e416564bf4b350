"""Losses of stochastic policies, and what surrounds them. Pure functions of any common shape; no reduction.

Advantages, targets and everything called `old` or `behaviour` are constants of the gradient. Means over steps, with
padding left out and over all replicas, are `tfrl.optim.apply`'s; the moments below come from there too.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

MAX_LOG_RATIO = 20.0  # exp(20) is 5e8: beyond it a ratio means nothing, and exp(89) is infinite


class Surrogate(NamedTuple):
    """loss float32, ratio float32, and whether the ratio left 1 +- clip, bool; all of the arguments' shape."""

    loss: tf.Tensor
    ratio: tf.Tensor
    clipped: tf.Tensor


def policy_gradient(log_prob: tf.Tensor, advantages: tf.Tensor) -> tf.Tensor:
    """-log pi(a | s) A, whose gradient is that of the expected return (Williams 1992; with a critic Mnih et al. 2016).

    Args:
      log_prob: log-probabilities of the actions taken, float32 of any shape.
      advantages: float32 of the same shape; returns for REINFORCE. No gradient flows through them.

    Returns:
      float32 of that shape.

    Raises:
      ValueError: shapes that differ.
    """
    _check_same_shape(log_prob=log_prob, advantages=advantages)
    return -log_prob * tf.stop_gradient(advantages)


def ppo_surrogate(
    log_prob: tf.Tensor, old_log_prob: tf.Tensor, advantages: tf.Tensor, clip: float | tf.Tensor
) -> Surrogate:
    """-min(r A, clip(r, 1 - clip, 1 + clip) A) with r = pi(a | s) / pi_old(a | s) (Schulman et al. 2017, eq. 7).

    Args:
      log_prob: log-probabilities of the actions taken, float32 of any shape.
      old_log_prob: those of acting time, stored with the step; never recomputed; of the same shape.
      advantages: of the same shape.
      clip: half the width of the range without clipping; a scalar.

    Raises:
      ValueError: shapes that differ.
    """
    _check_same_shape(log_prob=log_prob, old_log_prob=old_log_prob, advantages=advantages)
    return _clipped_surrogate(ratio(log_prob, old_log_prob), advantages, clip)


def appo_surrogate(
    log_prob: tf.Tensor,
    old_log_prob: tf.Tensor,
    behaviour_log_prob: tf.Tensor,
    advantages: tf.Tensor,
    clip: float | tf.Tensor,
    max_correction: float = 2.0,
) -> Surrogate:
    """PPO's surrogate on the steps of a behaviour policy mu, with r = min(mu / pi_old, max_correction) pi / mu.

    As in RLlib's APPO. While the limit does not bind, r is pi / pi_old; where mu took the action much more often than
    pi_old does, r stays bounded.

    Args:
      log_prob: log pi of the actions taken, float32 of any shape.
      old_log_prob: log pi_old, of the target network, a periodic copy of pi; of the same shape.
      behaviour_log_prob: log mu, stored when acting; of the same shape.
      advantages: V-trace advantages of pi_old against mu, of the same shape.
      clip: half the width of the range without clipping; a scalar.
      max_correction: limit of mu / pi_old.

    Raises:
      ValueError: shapes that differ.
    """
    _check_same_shape(
        log_prob=log_prob,
        old_log_prob=old_log_prob,
        behaviour_log_prob=behaviour_log_prob,
        advantages=advantages,
    )
    # min(mu / pi_old, max_correction) pi / mu.
    correction = tf.minimum(ratio(behaviour_log_prob, old_log_prob), max_correction)
    r = tf.stop_gradient(correction) * ratio(log_prob, behaviour_log_prob)
    return _clipped_surrogate(r, advantages, clip)


def ppo_value(
    values: tf.Tensor, old_values: tf.Tensor, targets: tf.Tensor, clip: float | None
) -> tf.Tensor:
    """max((V - T)^2, (V_old + clip(V - V_old, -clip, clip) - T)^2); (V - T)^2 without a limit.

    There is no factor 1/2: RLlib and Stable-Baselines3 have none, A2C and CleanRL have it; the caller scales.

    Args:
      values: V of the network that learns, float32 of any shape.
      old_values: V of acting time, of the same shape; not read when `clip` is None.
      targets: of the same shape.
      clip: largest change of a value that counts, in units of returns; None for no limit.

    Returns:
      float32 of that shape.

    Raises:
      ValueError: shapes that differ.
    """
    _check_same_shape(values=values, old_values=old_values, targets=targets)
    targets = tf.stop_gradient(targets)
    loss = (values - targets) ** 2
    if clip is None:
        return loss
    # The value may leave V_old by `clip`; the larger error counts, so that a step beyond has no gradient.
    old_values = tf.stop_gradient(old_values)
    near = old_values + tf.clip_by_value(values - old_values, -clip, clip)
    return tf.maximum(loss, (near - targets) ** 2)


def ratio(log_prob: tf.Tensor, other_log_prob: tf.Tensor) -> tf.Tensor:
    """p / q from log-probabilities, finite whatever they are; no gradient where it is limited, none through q.

    Args:
      log_prob: log p, float32 of any shape.
      other_log_prob: log q, of the same shape.

    Returns:
      float32 of that shape, between exp(-`MAX_LOG_RATIO`) and exp(`MAX_LOG_RATIO`).
    """
    difference = log_prob - tf.stop_gradient(other_log_prob)
    return tf.exp(tf.clip_by_value(difference, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def standardise(
    x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, floor: float = 1e-4
) -> tf.Tensor:
    """(x - mean) / max(floor, std), with the population's std: advantages once per train batch, as in RLlib.

    Args:
      x: float32 of any shape.
      mean, variance: scalars, `apply.masked_moments(x, mask)`. Entries outside the mask come out meaningless.
      floor: least divisor, in units of `x`.

    Returns:
      float32, the shape of `x`.
    """
    return (x - mean) / tf.maximum(floor, tf.sqrt(variance))


def standardise_minibatch(
    x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, count: tf.Tensor, epsilon: float = 1e-8
) -> tf.Tensor:
    """(x - mean) / (std + epsilon), with the sample's std (n - 1): per minibatch, as in Stable-Baselines3 and CleanRL.

    Args:
      x: float32 of any shape.
      mean, variance: scalars, `apply.masked_moments(x, mask)`; the variance divides by n.
      count: number n of entries behind them, `apply.masked_count(mask)`. With n = 1 the result is 0.
      epsilon: added to the std, in units of `x`.

    Returns:
      float32, the shape of `x`.
    """
    # From the population's variance (n) to the sample's (n - 1).
    sample_variance = variance * count / tf.maximum(count - 1.0, 1.0)
    return (x - mean) / (tf.sqrt(sample_variance) + epsilon)


def explained_variance(residual_variance: tf.Tensor, target_variance: tf.Tensor) -> tf.Tensor:
    """1 - Var(target - value) / Var(target): 1 is perfect, 0 no better than a constant; 0 if targets do not vary.

    Args:
      residual_variance, target_variance: scalars, from `apply.masked_moments`.

    Returns:
      float32 scalar.
    """
    return tf.where(
        target_variance > 0.0, 1.0 - tf.math.divide_no_nan(residual_variance, target_variance), 0.0
    )


def kl_coefficient(coefficient: tf.Tensor, kl: tf.Tensor, target: float) -> tf.Tensor:
    """PPO's adaptive penalty: the coefficient after a train batch, as in RLlib.

    Above twice the target it grows by half, below half of the target it halves. Schulman et al. 2017, section 4, have
    limits of 1.5 and factors of 2.

    Args:
      coefficient: now, a float32 scalar; 0 stays 0.
      kl: mean KL(old || new) over the minibatches of the last epoch, in nats, a float32 scalar.
      target: desired KL, in nats.

    Returns:
      float32 scalar.
    """
    factor = tf.where(kl > 2.0 * target, 1.5, tf.where(kl < 0.5 * target, 0.5, 1.0))
    return coefficient * factor


def _clipped_surrogate(r: tf.Tensor, advantages: tf.Tensor, clip: float | tf.Tensor) -> Surrogate:
    advantages = tf.stop_gradient(advantages)
    # -min(r A, clip(r, 1 - clip, 1 + clip) A).
    limited = tf.clip_by_value(r, 1.0 - clip, 1.0 + clip)
    loss = -tf.minimum(r * advantages, limited * advantages)
    return Surrogate(loss, r, tf.abs(tf.stop_gradient(r) - 1.0) > clip)


def _check_same_shape(**arrays: tf.Tensor) -> None:
    first_name, first = next(iter(arrays.items()))
    for name, x in arrays.items():
        if x.shape.rank != first.shape.rank or not x.shape.is_compatible_with(first.shape):
            raise ValueError(
                f"{name}: expected the shape of {first_name} {first.shape}, got {x.shape}"
            )
