"""Target networks: copies of a network that change only by `copy_target`, so that what is learned from stands still."""

from __future__ import annotations

import tensorflow as tf


def copy_target(target: tf.Module, online: tf.Module) -> None:
    """Assigns every variable of `online`, also those that no optimiser trains, to its counterpart in `target`.

    In cross-replica context.

    Args:
      target, online: modules built alike; `variables` of both have the same order.

    Raises:
      ValueError: different numbers of variables, or different shapes.
    """
    for mine, new in zip(target.variables, online.variables, strict=True):
        mine.assign(new)
