"""Sparse kernels: how many weights a layer keeps, which ones are dropped, and where new ones grow.

A kernel is sparse by a mask of its shape and dtype, 1 where a weight is active and 0 elsewhere. Everything here is a
pure function of tensors of any rank, in graphs and under XLA alike; the rules are those of dynamic sparse training
(Sokar et al. 2022), which took drop and growth from sparse evolutionary training (Mocanu et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

BISECTIONS = 18  # of the threshold of `prune`: to 4e-6 of the largest magnitude
_RANGE = 2**31 - 1  # of random numbers


def density(shape: Sequence[int], strength: float) -> float:
    """Share of active weights of an Erdos-Renyi kernel: min(1, lambda (n_in + n_out) / (n_in n_out)).

    A kernel of more axes takes the sum of all of them (Evci et al. 2020, section 3, ERK).

    Args:
      shape: of the kernel.
      strength: lambda.
    """
    return min(1.0, strength * sum(shape) / math.prod(shape))


def strength(shapes: Sequence[Sequence[int]], share: float) -> float:
    """The lambda with which `density` keeps a share of all weights of several kernels; infinite for all of them."""
    open_, budget = list(shapes), share * sum(map(math.prod, shapes))
    while open_:
        found = budget / sum(map(sum, open_))
        full = [shape for shape in open_ if density(shape, found) == 1.0]
        if not full:
            return found
        # Kernels that are dense already leave the rest of the weights to the others.
        budget -= sum(map(math.prod, full))
        open_ = [shape for shape in open_ if shape not in full]
    return math.inf


def draw(shape: Sequence[int], share: float, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """A mask in which each weight is active with probability `share`; `seed` int32 [2], not negative."""
    return tf.cast(tf.cast(_numbers(shape, seed), tf.float64) < share * _RANGE, dtype)


def largest(kernel: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """A mask of the `count` weights of largest magnitude; of equal ones the first. `count` int32 scalar."""
    order = tf.argsort(-tf.abs(tf.reshape(kernel, [-1])), stable=True)
    ones = tf.cast(tf.range(order.shape[0]) < count, kernel.dtype)
    return tf.reshape(tf.scatter_nd(order[:, None], ones, [order.shape[0]]), kernel.shape)


def drop(kernel: tf.Tensor, mask: tf.Tensor, share: float) -> tf.Tensor:
    """A mask without a share of the active weights of each sign, those nearest to 0, and without active zeros.

    Of n weights of a sign, ceil(share n) are dropped; ties with the smallest one that stays are kept.

    Args:
      kernel: weights; those that are not active are not read.
      mask: of the active ones.
      share: zeta, from 0 to 1.
    """
    active = tf.where(mask > 0, kernel, tf.zeros_like(kernel))
    size, positive, negative = mask.shape.num_elements(), _count(active > 0), _count(active < 0)
    # Negative weights, zeros and positive weights; of each sign, the number that stays.
    ordered = tf.sort(tf.reshape(active, [-1]))
    least = tf.gather(ordered, size - tf.maximum(_kept(positive, share), 1))
    most = tf.gather(ordered, tf.maximum(_kept(negative, share), 1) - 1)
    stays = (active > 0) & (active >= least) & (_kept(positive, share) > 0)
    stays |= (active < 0) & (active <= most) & (_kept(negative, share) > 0)
    return tf.cast(stays, mask.dtype)


def _kept(count: tf.Tensor, share: float) -> tf.Tensor:
    """Number of weights that stay when a share of `count` is dropped; int32 scalars."""
    # A product such as 0.05 * 140 is a hair more than 7.
    dropped = tf.math.ceil(share * tf.cast(count, tf.float64) - 1e-6)
    return count - tf.cast(dropped, tf.int32)


def grow(mask: tf.Tensor, count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A mask with `count` more active weights, drawn uniformly among those that are not active.

    Args:
      mask: of the active weights.
      count: int32 scalar, at most the weights that are not active.
      seed: int32 [2], not negative: XLA and TensorFlow's kernels draw other numbers from those that are.
    """
    # A random number for each weight, followed by its place: no two are equal, and every sort gives the same order.
    size = mask.shape.num_elements()
    place = tf.reshape(tf.range(size, dtype=tf.int64), mask.shape)
    keys = tf.cast(_numbers(mask.shape, seed), tf.int64) * 2**32 + place
    keys = tf.where(mask > 0, tf.int64.max, keys)
    last = tf.gather(tf.sort(tf.reshape(keys, [-1])), tf.maximum(count, 1) - 1)
    return mask + tf.cast((keys <= last) & (count > 0), mask.dtype)


def prune(x: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """`x` with the smallest magnitudes set to 0, so that at most `count` numbers are not 0; unchanged if they are none.

    The threshold is bisected, which takes a fraction of the time of a sort. Magnitudes that differ by less than 4e-6 of
    the largest one count as equal, and those at the threshold are all set to 0.

    Args:
      x: float.
      count: int32 scalar.
    """
    magnitude = tf.abs(x)

    def halved(step: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, ...]:
        middle = 0.5 * (low + high)
        few = _count(magnitude > middle) <= count  # holds for `high` always, for `low` never
        return step + 1, tf.where(few, low, middle), tf.where(few, middle, high)

    def smaller() -> tf.Tensor:
        start = tf.constant(0), tf.zeros([], x.dtype), tf.reduce_max(magnitude)
        *_, threshold = tf.while_loop(lambda step, *_: step < BISECTIONS, halved, start)
        return tf.where(magnitude > threshold, x, tf.zeros_like(x))

    return tf.cond(_count(magnitude > 0) > count, smaller, lambda: x)


def nonzeros(x: tf.Tensor) -> tf.Tensor:
    """Numbers that are not 0, int32 scalar."""
    return _count(tf.not_equal(x, 0))


def _numbers(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Random int32 numbers from 0 to below `_RANGE`, the same ones in a graph and under XLA."""
    return tf.random.stateless_uniform(shape, seed, 0, _RANGE, tf.int32, "philox")


def _count(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(x, tf.int32))
