"""V-trace (Espeholt et al. 2018, section 4.1): values and advantages of a policy from the steps of an older one.

Pure functions; arrays are time-major [T, B]; no reduction, no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfrl.losses import policy, returns


class VTrace(NamedTuple):
    """Targets, advantages and ratios for the losses, float32 [T, B]; no gradient flows through them.

    Attributes:
      advantages: min(pg_rho_bar, rho_t) (r_t + discount_t vs_{t+1} - V_t); 0 at invalid steps.
      targets: vs_t, the regression target of the value.
      rho: unclipped ratios pi / mu; 1 at invalid steps.
    """

    advantages: tf.Tensor
    targets: tf.Tensor
    rho: tf.Tensor


def from_log_probs(
    log_prob: tf.Tensor,
    behaviour_log_prob: tf.Tensor,
    reward: tf.Tensor,
    discount: tf.Tensor,
    is_last: tf.Tensor,
    values: tf.Tensor,
    values_next: tf.Tensor,
    rho_bar: float | None = 1.0,
    pg_rho_bar: float | None = 1.0,
    c_bar: float | None = 1.0,
    lambda_: float = 1.0,
    valid: tf.Tensor | None = None,
) -> VTrace:
    """V-trace with rho_t = pi(a_t | x_t) / mu(a_t | x_t), made in log space.

    delta_t = min(rho_bar, rho_t) (r_t + discount_t V_{t+1} - V_t)
    vs_t - V_t = delta_t + discount_t lambda min(c_bar, rho_t) (vs_{t+1} - V_{t+1})

    Difference from the paper, which has terminations only: at a truncation the trace ends, and both delta and the
    advantage bootstrap from `values_next`, so that a time limit costs nothing. On-policy and with lambda 1 the targets
    are the bootstrapped n-step returns.

    Args:
      log_prob: log pi of the actions taken, pi being learnt [T, B].
      behaviour_log_prob: log mu of them, stored when acting, never recomputed [T, B].
      reward: [T, B].
      discount: gamma, or 0 where the step terminated [T, B].
      is_last: bool [T, B], the step was the last of its episode or invalid. The last step of the sequence ends it too.
      values: V of the observation acted on [T, B].
      values_next: V of the observation after the step, the final one at a truncation [T, B].
      rho_bar, pg_rho_bar, c_bar: limits of the ratio in delta, advantage and trace; None: no limit.
      lambda_: decay of the trace.
      valid: bool [T, B], False for padding; None when all are valid.

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    returns.check_time_major(
        log_prob=log_prob,
        behaviour_log_prob=behaviour_log_prob,
        reward=reward,
        discount=discount,
        is_last=is_last,
        values=values,
        values_next=values_next,
    )
    # rho_t = pi / mu, 1 at invalid steps.
    rho = policy.ratio(
        returns.mask_steps(log_prob, valid), returns.mask_steps(behaviour_log_prob, valid)
    )
    follows = returns.continues(is_last, valid)
    # delta_t = min(rho_bar, rho_t) (r_t + discount_t V_{t+1} - V_t).
    error = reward + discount * values_next - values
    delta = returns.mask_steps(_at_most(rho, rho_bar) * error, valid)
    # vs_t - V_t = delta_t + discount_t lambda min(c_bar, rho_t) (vs_{t+1} - V_{t+1}), cut where the trace ends.
    decay = tf.where(follows, discount * lambda_ * _at_most(rho, c_bar), tf.zeros_like(discount))
    correction = returns.linear_recurrence(delta, decay)
    targets = values + correction
    # vs_{t+1} inside an episode, the value of the final observation where it ends.
    targets_next = tf.where(follows, returns.shift_left(targets), values_next)
    # min(pg_rho_bar, rho_t) (r_t + discount_t vs_{t+1} - V_t).
    advantages = _at_most(rho, pg_rho_bar) * (reward + discount * targets_next - values)
    advantages = returns.mask_steps(advantages, valid)
    return VTrace(*(tf.stop_gradient(x) for x in (advantages, targets, rho)))


def _at_most(x: tf.Tensor, limit: float | None) -> tf.Tensor:
    return x if limit is None else tf.minimum(x, limit)
