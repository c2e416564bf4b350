"""The only place where gradients are reduced over replicas, clipped and applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_CHANGE = "change_gradients"  # attribute of an optimiser, see `mask_gradients`


def global_mean(x: tf.Tensor) -> tf.Tensor:
    """This replica's part of the mean over the global batch: the sum over replicas of the result is that mean.

    In replica context; replicas have equally many entries.

    Args:
      x: float32 of any shape.

    Returns:
      float32 scalar.
    """
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    return tf.reduce_mean(x) / replicas


def masked_count(mask: tf.Tensor) -> tf.Tensor:
    """Number of valid entries of the global batch, a float32 scalar equal on all replicas; in replica context.

    Args:
      mask: bool of any shape.
    """
    return reduce_sum(tf.reduce_sum(tf.cast(mask, tf.float32)))


def masked_mean(x: tf.Tensor, mask: tf.Tensor, count: tf.Tensor | None = None) -> tf.Tensor:
    """This replica's part of the mean over the valid entries of the global batch; 0 when there is none.

    The sum over replicas of the result is that mean, as with `global_mean`, however the valid entries are spread. In
    replica context.

    Args:
      x: float32 of any shape; what stands at invalid entries is not read, but its gradient must be finite.
      mask: bool, the shape of `x`.
      count: `masked_count(mask)`, where it is known already: it costs a reduction over replicas.

    Returns:
      float32 scalar.

    Raises:
      ValueError: shapes that differ.
    """
    mask.shape.assert_is_compatible_with(x.shape)
    count = masked_count(mask) if count is None else count
    total = tf.reduce_sum(tf.where(mask, x, tf.zeros_like(x)))
    return total / tf.maximum(tf.stop_gradient(count), 1.0)


def masked_moments(x: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and population variance of the valid entries of the global batch; no gradient; zeros when there is none.

    In two passes, so that a large mean does not drown a small variance. In replica context.

    Args:
      x: float32 of any shape; what stands at invalid entries is not read.
      mask: bool, the shape of `x`.

    Returns:
      Two float32 scalars, equal on all replicas.

    Raises:
      ValueError: shapes that differ.
    """
    x, count = tf.stop_gradient(x), masked_count(mask)
    mean = reduce_sum(masked_mean(x, mask, count))
    return mean, reduce_sum(masked_mean((x - mean) ** 2, mask, count))


def reduce_sum(x: tf.Tensor) -> tf.Tensor:
    """Sum over replicas of a metric made with `global_mean` or `masked_mean`; in replica context.

    Args:
      x: of any shape, a number type; the same shape on all replicas.

    Returns:
      The shape and dtype of `x`, equal on all replicas.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return x
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def replica_rows(draw: Callable[[int], tf.Tensor], rows: int) -> tf.Tensor:
    """This replica's rows of something drawn for the global batch, so that any number of replicas draws the same.

    In replica context.

    Args:
      draw: number of rows -> [rows, ...], a pure function.
      rows: of this replica; all have as many.

    Returns:
      [rows, ...], the dtype of what is drawn.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return draw(rows)
    start = context.replica_id_in_sync_group * rows
    return draw(rows * replicas)[start : start + rows]


def minimise(
    optimizer: Any,
    tape: tf.GradientTape,
    loss: tf.Tensor,
    variables: Sequence[tf.Variable],
    clip_norm: float | None = None,
    due: tf.Tensor | None = None,
) -> tf.Tensor:
    """One optimiser step on the gradient summed over replicas; clipping comes after the sum. In replica context.

    Args:
      optimizer: of `optimizers.make`, for these variables in this order, or a Keras optimiser.
      tape: has seen the loss.
      loss: scalar made with `global_mean` or `masked_mean`, so that the sum over replicas is the
        gradient of the global mean.
      variables: what is trained.
      clip_norm: largest global norm, None for no clipping.
      due: bool scalar, equal on all replicas; False: no step, nothing changes and the norm is 0. None: a step. On
        several replicas only with an optimiser of `optimizers.make`.

    Returns:
      Global norm of the gradient before clipping, a float32 scalar equal on all replicas.

    Raises:
      ValueError: not as many gradients as the optimiser has variables.
    """
    gradients = tape.gradient(loss, variables)
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    make = lambda: step(optimizer, gradients, variables, clip_norm)
    return make() if due is None else tf.cond(due, make, lambda: tf.constant(0.0))


def step(
    optimizer: Any,
    gradients: Sequence[tf.Tensor | None],
    variables: Sequence[tf.Variable],
    clip_norm: float | None = None,
) -> tf.Tensor:
    """One optimiser step on a gradient that all replicas have in common; in replica context.

    Args:
      optimizer, variables, clip_norm: as in `minimise`.
      gradients: of each variable, its shape and dtype; None leaves a variable of an `optimizers.make` optimiser alone.

    Returns:
      Global norm of the gradient before clipping, a float32 scalar.

    Raises:
      ValueError: not as many gradients as the optimiser has variables.
    """
    change = getattr(optimizer, _CHANGE, None)
    if change is not None:
        gradients = change(gradients, variables)
    norm = tf.linalg.global_norm(gradients)
    if clip_norm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)
    if isinstance(optimizer, tf.keras.optimizers.Optimizer):
        pairs = zip(gradients, variables, strict=True)
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
    else:
        optimizer.apply(gradients)
    return norm


def assign(variable: tf.Variable, value: tf.Tensor) -> None:
    """Assigns; in replica context to this replica's own copy, where all replicas have the same value."""
    if tf.distribute.in_cross_replica_context():
        variable.assign(value)
    else:
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)


def mask_gradients(optimizer: Any, masks: Sequence[tuple[tf.Variable, tf.Variable]]) -> None:
    """From now on, steps of an optimiser take the gradients of some variables times masks, also in the norm.

    Args:
      optimizer: as `step` takes it.
      masks: variables and their masks, of the same shapes and dtypes.
    """
    found = {id(variable): mask for variable, mask in masks}

    def change(gradients: Sequence[Any], variables: Sequence[tf.Variable]) -> list[Any]:
        pairs = zip(gradients, (found.get(id(v)) for v in variables), strict=True)
        return [
            g if g is None or mask is None else tf.convert_to_tensor(g) * mask.read_value()
            for g, mask in pairs
        ]

    setattr(optimizer, _CHANGE, change)
