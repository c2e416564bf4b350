"""The rows of a batch that each minibatch takes: one order for all replicas, the same however it is compiled."""

from __future__ import annotations

import tensorflow as tf


def orders(epochs: int, count: int, seed: tf.Tensor) -> tf.Tensor:
    """A random order of `count` rows for each epoch, int32 [epochs, count].

    The key of a row is 32 bits of the Philox generator (Salmon et al. 2011), followed by its number. So no two keys are
    equal, and every way of sorting gives the same order.

    Args:
      seed: int32 [2].
    """
    keys = tf.random.stateless_uniform([epochs, count], seed, None, None, tf.int32, "philox")
    keys = tf.bitwise.left_shift(tf.cast(keys, tf.int64), tf.constant(32, tf.int64))
    keys = tf.sort(keys + tf.range(count, dtype=tf.int64), axis=1)
    return tf.cast(tf.bitwise.bitwise_and(keys, tf.constant(2**32 - 1, tf.int64)), tf.int32)


def side_by_side(index: tf.Tensor, steps: int, columns: int, replicas: int) -> tf.Tensor:
    """Numbers of rows of a whole batch -> where they are when the rows of all replicas follow each other, int32.

    Args:
      index: int32, any shape; row t * B + b is step t of column b.
      steps: rows of a column.
      columns: of a replica; B in all, the first ones on the first replica.
      replicas: that share the batch.
    """
    step, column = index // (columns * replicas), index % (columns * replicas)
    return column // columns * (steps * columns) + step * columns + column % columns


def part(count: int, index: int, replicas: int) -> slice:
    """The part of a minibatch of `count` rows that replica `index` takes; parts differ by one row at most."""
    return slice(count * index // replicas, count * (index + 1) // replicas)
