"""Stages of an update on replayed items, whatever is learned: weights of rows, statistics, new priorities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrl.algos.parts import q_steps, replay_settings
from tfrl.losses import value
from tfrl.nn.normalise import ObservationMoments, ObservationNormaliser
from tfrl.optim import apply
from tfrl.optim import settings as optim_settings
from tfrl.types import Trajectory, Transition, UpdateOutput


class RowWeights(NamedTuple):
    """How much each of n rows counts in the mean of an update.

    Attributes:
      importance: importance weights of prioritized replay, float32 [n]; ones with a uniform one.
      valid: rows that count, bool [n]; None: all do.
      count: of the valid rows of all replicas, float32 scalar; None with `valid`.
      beta: exponent of the importance weights, float32 scalar.
    """

    importance: tf.Tensor
    valid: tf.Tensor | None
    count: tf.Tensor | None
    beta: tf.Tensor

    def mean(self, x: tf.Tensor) -> tf.Tensor:
        """This replica's part of the mean over the rows of all replicas that count; float32 [n] -> scalar."""
        if self.valid is None:
            return apply.global_mean(x)
        return apply.masked_mean(x, self.valid, self.count)

    def means(self, metrics: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Metrics of rows {name: [n]} -> means over all replicas."""
        return {name: apply.reduce_sum(self.mean(x)) for name, x in metrics.items()}


def row_weights(config: Any, batch: Transition | Trajectory, updates: tf.Tensor) -> RowWeights:
    """How much each row counts: importance weights (Schaul et al. 2016, section 3.4) and padding of sequences.

    Args:
      config: `ReplaySettings` and `ModelSettings`.
      batch: leaves [b, ...], or with a memory [T, b, ...].
      updates: made so far, integer scalar.
    """
    beta = replay_settings.importance_beta(config, updates)
    importance, valid, count = tf.ones_like(batch.probability), None, None
    if config.prioritized:
        importance = value.importance_weights(batch.probability, beta)
    if isinstance(batch, Trajectory):  # the weight of a sequence is that of its steps
        late = batch.valid[config.burn_in :]
        importance = tf.repeat(importance, late.shape[0])
        valid, count = q_steps.by_sequence(late), apply.masked_count(late)
    return RowWeights(importance, valid, count, beta)


def minimise(
    config: Any,
    optimizer: Any,
    env_steps: tf.Variable | None,
    tape: tf.GradientTape,
    loss: tf.Tensor,
    variables: Sequence[tf.Variable],
    due: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """One optimiser step on the gradient of all replicas, clipped by its global norm; in replica context.

    Args:
      config: `OptimizerSettings`.
      env_steps: of the run, `Learner.env_steps`.
      loss: this replica's part.
      due: whether there is a step, see `apply.minimise`.

    Returns:
      Metrics of it, float32 scalars equal on all replicas.
    """
    rate = optim_settings.learning_rate(config, env_steps, optimizer.iterations)
    norm = apply.minimise(optimizer, tape, loss, variables, config.gradient_clip_norm, due)
    return {
        "learner/loss": apply.reduce_sum(loss),
        "learner/gradient_norm": norm,
        "learner/learning_rate": rate,
    }


def merge_observations(
    config: Any,
    statistics: ObservationMoments | None,
    normaliser: ObservationNormaliser | None,
    batch: Transition | Trajectory,
) -> None:
    """Takes the batch's observations, of a step each, into the statistics that normalise them, where there are any."""
    if statistics is None or normaliser is None:
        return
    if isinstance(batch, Trajectory):
        obs = tf.nest.map_structure(lambda x: x[:-1], batch.obs)
        statistics.merge(obs, batch.valid)
    else:
        statistics.merge(batch.obs_tm1)
    normaliser.update(statistics)


def output(
    config: Any,
    batch: Transition | Trajectory,
    weights: RowWeights,
    error: tf.Tensor,
    added: tf.Tensor | None,
    metrics: Mapping[str, tf.Tensor],
) -> UpdateOutput:
    """The metrics of an update and the new priorities of its items.

    Args:
      weights: of the batch's rows.
      error: absolute error of each row, float32 [n].
      added: this replica's part of what penalties and a user's network added to the loss, or None.
      metrics: the others, float32 scalars equal on all replicas.
    """
    metrics = dict(metrics)
    if added is not None:
        metrics["learner/network_loss"] = apply.reduce_sum(added)
    if config.prioritized:
        metrics["learner/importance_beta"] = weights.beta
    return UpdateOutput(metrics, new_priorities(config, batch, weights, error))


def new_priorities(
    config: Any, batch: Transition | Trajectory, weights: RowWeights, error: tf.Tensor
) -> tf.Tensor | None:
    """New priorities of the items of a batch, float32 [b]; None with uniform replay.

    Args:
      config: `ReplaySettings`.
      weights: of its rows.
      error: absolute error of each row, float32 [n].
    """
    if not config.prioritized:
        return None
    if weights.valid is not None:  # of a sequence: eta max + (1 - eta) mean over its steps
        valid = batch.valid[config.burn_in :]
        steps = tf.transpose(tf.reshape(error, valid.shape[::-1]))
        error = value.sequence_priority(steps, valid, config.priority_eta)
    return error + config.priority_epsilon
