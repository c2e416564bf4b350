"""Target networks: copies of a network that change by the functions here only, so that what is learned from stands
still or moves slowly."""

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


def move_target(target: tf.Module, online: tf.Module, tau: float) -> None:
    """Moves every trained variable of `target` a share `tau` of the way to `online`: t <- t + tau (o - t).

    The soft update of Lillicrap et al. 2016, algorithm 1. Variables that no optimiser trains, e.g. running statistics,
    are copied. In cross-replica context.

    Args:
      target, online: as in `copy_target`.
      tau: from 0 to 1; 1 copies.
    """
    for mine, new in zip(target.variables, online.variables, strict=True):
        if new.trainable and tau < 1.0:
            mine.assign_add(tau * (new - mine))
        else:
            mine.assign(new)
