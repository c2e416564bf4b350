"""Weights of the directions of a population in its update, from the returns of their two signs.

Evolution strategies (Salimans et al. 2017) and augmented random search (Mania et al. 2018) both step along a weighted
sum of the directions that they have tried; they differ in the weights. Returns are float64: differences of large
returns count.
"""

from __future__ import annotations

import tensorflow as tf

_ALIKE = 1e-9  # deviation of returns, as a part of their magnitude, below which they are equal


def centered_ranks(returns: tf.Tensor, valid: tf.Tensor | None = None) -> tf.Tensor:
    """Ranks of all returns together, from -0.5 to 0.5; equal returns have their average rank.

    Args:
      returns: float64 [...].
      valid: bool, the shape of `returns`, or None: all are; the others have rank 0 and count for nothing.

    Returns:
      float64 [...].

    Raises:
      ValueError: shapes that differ.
    """
    valid = tf.ones_like(returns, tf.bool) if valid is None else valid
    valid.shape.assert_is_compatible_with(returns.shape)
    flat = tf.reshape(returns, [-1])
    infinite = tf.fill(tf.shape(flat), tf.constant(float("inf"), flat.dtype))
    ordered = tf.sort(tf.where(tf.reshape(valid, [-1]), flat, infinite))
    # The mean of the first and the last place of a return among all in their order.
    first = tf.searchsorted(ordered, flat, side="left")
    last = tf.searchsorted(ordered, flat, side="right") - 1
    rank = tf.cast(first + last, tf.float64) / 2.0
    most = tf.reduce_sum(tf.cast(valid, tf.float64)) - 1.0
    rank = tf.reshape(rank / tf.maximum(most, 1.0) - 0.5, tf.shape(returns))
    return tf.where(valid, rank, tf.zeros_like(rank))


def evolution_weights(returns: tf.Tensor, valid: tf.Tensor | None = None) -> tf.Tensor:
    """(c+ - c-) / 2 n of each direction, from the centred ranks c of all 2 n returns (Salimans et al. 2017).

    The sum of the directions times these estimates the gradient of the return, up to its scale.

    Args:
      returns: float64 [n, 2], of both signs.
      valid: bool [n], or None: all are; the others have weight 0.

    Returns:
      float64 [n].

    Raises:
      ValueError: another shape.
    """
    _check(returns)
    valid = tf.ones_like(returns[:, 0], tf.bool) if valid is None else valid
    ranks = centered_ranks(returns, tf.stack([valid, valid], 1))
    count = tf.reduce_sum(tf.cast(valid, tf.float64))
    return (ranks[:, 0] - ranks[:, 1]) / (2.0 * tf.maximum(count, 1.0))


def random_search_weights(
    returns: tf.Tensor, top: int, valid: tf.Tensor | None = None
) -> tf.Tensor:
    """(r+ - r-) / (b sigma) of the b best directions, 0 of the others (Mania et al. 2018, algorithm 2).

    The best are those with the largest max(r+, r-), of equal ones the first. sigma is the population's deviation of the
    2 b returns that are left; where they are equal, all weights are 0.

    Args:
      returns: float64 [n, 2], of both signs.
      top: b; all directions if there are fewer.
      valid: bool [n], or None: all are; the others have weight 0.

    Returns:
      float64 [n].

    Raises:
      ValueError: another shape.
    """
    _check(returns)
    valid = tf.ones_like(returns[:, 0], tf.bool) if valid is None else valid
    # The place of each direction in the order of their better returns.
    best = tf.reduce_max(returns, 1)
    worst = tf.fill(tf.shape(best), tf.constant(float("-inf"), best.dtype))
    order = tf.argsort(tf.where(valid, best, worst), direction="DESCENDING", stable=True)
    place = tf.math.invert_permutation(order)
    kept = (place < top) & valid
    # Mean and deviation of what is left.
    mask = tf.cast(kept, tf.float64)[:, None]
    count = tf.reduce_sum(mask)
    mean = tf.reduce_sum(returns * mask) / (2.0 * count)
    sigma = tf.sqrt(tf.reduce_sum(mask * (returns - mean) ** 2) / (2.0 * count))
    size = tf.reduce_max(tf.abs(returns * mask))
    differ = sigma > _ALIKE * tf.maximum(size, tf.ones_like(size))
    weights = (returns[:, 0] - returns[:, 1]) * mask[:, 0] / count
    return tf.where(
        differ, weights / tf.where(differ, sigma, tf.ones_like(sigma)), tf.zeros_like(weights)
    )


def _check(returns: tf.Tensor) -> None:
    if returns.shape.rank != 2 or returns.shape[1] != 2:
        raise ValueError(f"returns: expected [n, 2], got {returns.shape}")
