"""Shared parts of IMPALA and APPO: settings of actors that do not wait, and the correction for their older weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfrl.agent import Queue, Unroll
from tfrl.algos.parts import policy_gradient
from tfrl.errors import SettingError
from tfrl.losses import policy as policy_losses
from tfrl.losses import returns, vtrace
from tfrl.optim import apply
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import Trajectory


@dataclasses.dataclass(frozen=True)
class AsyncSettings:
    """Settings of actors that do not wait for the learner, and of V-trace, which corrects for their older weights.

    Comes before the other bases of a `Config`: it has other defaults for some of their settings.
    """

    unroll_length: int = setting(
        50, "consecutive steps of each environment in an unroll", unit="env steps", minimum=1
    )
    value_coefficient: float = policy_gradient.value_coefficient(0.5)
    entropy_coefficient: float = setting(
        0.01, "weight of the entropy bonus", minimum=0.0, resumable=True
    )
    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 5e-4)
    shared_torso: bool = setting(
        True, "policy and value function share one network instead of having one each"
    )
    batch_env_steps: int = setting(
        500, "minimum batch size; 0: one unroll from each actor", unit="env steps", minimum=0
    )
    queue_items: int = setting(
        16,
        "maximum number of unrolls that wait for the learner; actors wait while the queue is full",
        unit="items",
        minimum=1,
        idle_if={"backend": "inprocess"},
    )
    vtrace: bool = setting(
        True, "correct for outdated acting weights with V-trace; false: uncorrected GAE advantages"
    )
    trace_lambda: float = setting(
        1.0, "lambda of V-trace, or with vtrace=false of GAE", minimum=0.0, maximum=1.0
    )
    rho_bar: float | None = setting(
        1.0,
        "upper limit of the importance ratio in value targets; none: no limit",
        above=0.0,
        idle_if={"vtrace": False},
    )
    pg_rho_bar: float | None = setting(
        1.0,
        "upper limit of the importance ratio in advantages; none: no limit",
        above=0.0,
        idle_if={"vtrace": False},
    )
    normalize_advantage: str = setting(
        "none", "standardise advantages over the batch, or not at all", choices=("batch", "none")
    )
    replay_proportion: float = setting(
        0.0, "replayed unrolls per new unroll in training; 0: none", minimum=0.0
    )
    replay_unrolls: int = setting(
        100, "number of unrolls kept for replay", minimum=1, idle_if={"replay_proportion": 0.0}
    )
    passes: int = setting(1, "number of times each batch is trained on", minimum=1)
    pass_buffer_batches: int = setting(
        1,
        "number of batches that the learner cycles through; above 1 it needs passes above 1",
        minimum=1,
    )
    broadcast_interval_updates: int = setting(
        1,
        "minimum number of updates between two publications of weights to the actors",
        unit="updates",
        minimum=1,
        idle_if={"backend": "inprocess"},
    )


def queue(config: Any) -> Queue:
    """The queue of unrolls that `AsyncSettings` describe, and how batches are made of them."""
    return Queue(
        Unroll(config.unroll_length, config.discount),
        capacity_items=config.queue_items,
        batch_env_steps=config.batch_env_steps,
        passes=config.passes,
        pass_buffer_batches=config.pass_buffer_batches,
        replay_proportion=config.replay_proportion,
        replay_items=config.replay_unrolls,
    )


def check(config: AsyncSettings) -> None:
    """Raises SettingError for settings of `AsyncSettings` that contradict each other."""
    if config.pass_buffer_batches > 1 and config.passes == 1:
        raise SettingError(
            f"pass_buffer_batches={config.pass_buffer_batches} with passes=1: "
            "batches are kept for further passes only; give passes or leave it at 1"
        )


def advantages(
    config: AsyncSettings,
    batch: Trajectory,
    values: tf.Tensor,
    values_next: tf.Tensor,
    log_prob: tf.Tensor,
) -> vtrace.VTrace:
    """Value targets and advantages of a policy on unrolls that older weights made, float32 [T, B]; no gradient.

    By V-trace (Espeholt et al. 2018, section 4.1), or without it by GAE (Schulman et al. 2016, eq. 16); in replica
    context.

    Args:
      config: settings.
      batch: leaves [T, B, ...]; its extras hold the log-probabilities of acting time.
      values: V of the observations acted on [T, B].
      values_next: V after each step [T, B].
      log_prob: of the actions under the policy whose advantages are wanted [T, B].

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    behaviour = batch.extras["log_prob"]
    values, values_next, log_prob = map(tf.stop_gradient, (values, values_next, log_prob))
    if config.vtrace:
        # vs_t and min(pg_rho_bar, rho_t) (r_t + discount_t vs_{t+1} - V_t).
        trace = vtrace.from_log_probs(
            log_prob, behaviour, batch.reward, batch.discount, batch.is_last, values, values_next,
            config.rho_bar, config.pg_rho_bar, lambda_=config.trace_lambda, valid=batch.valid,
        )  # fmt: skip
    else:
        # GAE as if the weights that acted were the present ones; the ratio is logged only.
        gae = returns.gae(
            batch.reward, batch.discount, batch.is_last, values, values_next, config.trace_lambda,
            batch.valid,
        )  # fmt: skip
        ratio = policy_losses.ratio(log_prob, behaviour)
        trace = vtrace.VTrace(gae.advantages, gae.targets, ratio)
    # Mean 0 and deviation 1 over the valid steps of all replicas.
    if config.normalize_advantage == "batch":
        mean, variance = apply.masked_moments(trace.advantages, batch.valid)
        standard = policy_losses.standardise(trace.advantages, mean, variance)
        trace = trace._replace(advantages=standard)
    return trace
