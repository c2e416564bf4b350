"""The only place where gradients are reduced over replicas, clipped and applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def global_mean(x: tf.Tensor) -> tf.Tensor:
    """This replica's part of the mean over the global batch: the sum over replicas of the result is that mean."""
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    return tf.reduce_mean(x) / replicas


def reduce_sum(x: tf.Tensor) -> tf.Tensor:
    """Sum over replicas of a metric made with `global_mean`."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return x
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def minimise(
    optimizer: Any,
    tape: tf.GradientTape,
    loss: tf.Tensor,
    variables: Sequence[tf.Variable],
    clip_norm: float | None = None,
) -> tf.Tensor:
    """One optimiser step on the gradient summed over replicas; clipping comes after the sum.

    Args:
      optimizer: of `optimizers.make`, for these variables in this order, or a Keras optimiser.
      loss: scalar made with `global_mean`, so that the sum over replicas is the gradient of the global mean.
      clip_norm: largest global norm, None for no clipping.

    Returns:
      Global norm of the gradient before clipping, a scalar equal on all replicas.
    """
    gradients = tape.gradient(loss, variables)
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    norm = tf.linalg.global_norm(gradients)
    if clip_norm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)
    if isinstance(optimizer, tf.keras.optimizers.Optimizer):
        pairs = zip(gradients, variables, strict=True)
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
    else:
        optimizer.apply(gradients)
    return norm
