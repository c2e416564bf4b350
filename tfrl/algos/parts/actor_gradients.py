"""Gradients that actors compute and one learner applies in order of arrival: what A3C and asynchronous DQN share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfrl.optim import apply
from tfrl.settings import setting
from tfrl.types import ActorOutput


def queue_items() -> Any:
    """The setting of that name."""
    return setting(
        4,
        "maximum number of gradients that wait for the learner; actors wait while the queue is full",
        unit="items",
        minimum=1,
        idle_if=({"sends_gradients": False}, {"backend": "inprocess"}),
    )


def pack(
    tape: tf.GradientTape,
    loss: tf.Tensor,
    variables: Sequence[tf.Variable],
    metrics: Mapping[str, tf.Tensor],
) -> dict[str, tf.Tensor]:
    """The output of an actor: the gradient of `loss` as one vector [P], and the values of `metrics`, scalars, [M];
    float32.

    Args:
      tape: has seen the loss.
      loss: scalar.
      variables: P numbers in all; those that the loss does not depend on have a gradient of 0.
      metrics: {name: float32 scalar}; their order counts.
    """
    # One vector g of all variables' gradients, and the metrics beside it: two tensors travel, not one per variable.
    gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)
    return {"gradient": flat, "metrics": tf.stack(list(metrics.values()))}


def apply_packed(
    batch: ActorOutput,
    names: Sequence[str],
    optimizer: Any,
    variables: Sequence[tf.Variable],
    limit: float | None,
) -> dict[str, tf.Tensor]:
    """One optimiser step along what `pack` made; in replica context.

    Args:
      batch: of one gradient.
      names: of its metrics, in their order.
      optimizer, variables: see `apply.step`.
      limit: largest global norm of the gradient; None: no limit.

    Returns:
      The metrics, with 'learner/gradient_norm', the norm before the limit; float32 scalars.
    """
    # The vector apart again, a gradient for each variable.
    parts = tf.split(batch.values["gradient"][0], [v.shape.num_elements() for v in variables])
    gradients = [tf.reshape(g, v.shape) for g, v in zip(parts, variables, strict=True)]
    # Clipped by its global norm; one optimiser step.
    norm = apply.step(optimizer, gradients, variables, limit)
    sent = zip(names, tf.unstack(batch.values["metrics"][0]), strict=True)
    return {**dict(sent), "learner/gradient_norm": norm}
