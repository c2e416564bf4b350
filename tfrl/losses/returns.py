"""Returns and advantages along time. Pure functions; arrays are time-major [T, B]; no reduction, no gradient.

Each is a linear recurrence x_t = a_t + b_t x_{t+1}, solved by recursive doubling in about log2(T) steps: a loop over
time costs some 8 us per step in a graph, and one unrolled in Python grows with T.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Gae(NamedTuple):
    """advantages [T, B], targets [T, B] = advantages + values; float32. No gradient flows through either."""

    advantages: tf.Tensor
    targets: tf.Tensor


def discounted_returns(
    reward: tf.Tensor,
    discount: tf.Tensor,
    is_last: tf.Tensor,
    bootstrap_next: tf.Tensor,
    valid: tf.Tensor | None = None,
) -> tf.Tensor:
    """G_t = r_t + discount_t G_{t+1}, with `bootstrap_next` for G_{t+1} where the trace ends.

    Args:
      reward: [T, B].
      discount: gamma, or 0 where the step terminated [T, B].
      is_last: bool [T, B], the step was the last of its episode or invalid. The last step of the sequence ends it too.
      bootstrap_next: value of the observation after each step [T, B], read only at the ends; zeros for none.
      valid: bool [T, B], False for padding; None when all are valid.

    Returns:
      float32 [T, B], exactly 0 at invalid steps.

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    check_time_major(
        reward=reward, discount=discount, is_last=is_last, bootstrap_next=bootstrap_next
    )
    follows = continues(is_last, valid)
    # G_t = r_t + discount_t G_{t+1} inside an episode, r_t + discount_t bootstrap at its end.
    a = mask_steps(tf.where(follows, reward, reward + discount * bootstrap_next), valid)
    b = tf.where(follows, discount, tf.zeros_like(discount))
    return tf.stop_gradient(linear_recurrence(a, b))


def gae(
    reward: tf.Tensor,
    discount: tf.Tensor,
    is_last: tf.Tensor,
    values: tf.Tensor,
    values_next: tf.Tensor,
    lambda_: float,
    valid: tf.Tensor | None = None,
) -> Gae:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), bootstrapped at truncations and ends.

    delta_t = r_t + discount_t V(s_{t+1}) - V(s_t), A_t = delta_t + discount_t lambda A_{t+1}, cut where the trace ends.

    Args:
      reward: [T, B].
      discount: gamma, or 0 where the step terminated [T, B].
      is_last: bool [T, B], the step was the last of its episode or invalid. The last step of the sequence ends it too.
      values: V of the observation acted on [T, B].
      values_next: V of the observation after the step, the final one at a truncation [T, B].
      lambda_: 0 is the one-step error, 1 the Monte Carlo return minus the value.
      valid: bool [T, B], False for padding; None when all are valid.

    Returns:
      `Gae`; advantages are exactly 0 at invalid steps.

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    check_time_major(
        reward=reward, discount=discount, is_last=is_last, values=values, values_next=values_next
    )
    # delta_t = r_t + discount_t V(s_{t+1}) - V(s_t).
    delta = mask_steps(reward + discount * values_next - values, valid)
    # A_t = delta_t + discount_t lambda A_{t+1}, cut where the trace ends.
    b = tf.where(continues(is_last, valid), discount * lambda_, tf.zeros_like(discount))
    advantages = linear_recurrence(delta, b)
    return Gae(tf.stop_gradient(advantages), tf.stop_gradient(advantages + values))


class NStepReturns(NamedTuple):
    """Sums of up to n steps ahead, or to the end of an option, [T, B] each; no gradient.

    Attributes:
      reward: float32, sum of the discounted rewards of the k steps from t on.
      discount: float32, product of the discounts of these steps: what the value of the observation after them is worth.
      steps: int32, k; n, or less where the trace ends before.
    """

    reward: tf.Tensor
    discount: tf.Tensor
    steps: tf.Tensor


def n_step(
    reward: tf.Tensor,
    discount: tf.Tensor,
    is_last: tf.Tensor,
    n: int,
    valid: tf.Tensor | None = None,
) -> NStepReturns:
    """n-step returns inside sequences (Sutton 1988), shortened, with the discount that belongs to it, at every end.

    Args:
      reward: [T, B].
      discount: gamma, or 0 where the step terminated [T, B].
      is_last: bool [T, B], the step was the last of its episode or invalid. The last step of the sequence ends it too.
      n: at least 1.
      valid: bool [T, B], False for padding; None when all are valid. Entries at invalid steps are meaningless.

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    check_time_major(reward=reward, discount=discount, is_last=is_last)
    follows = continues(is_last, valid)
    one = tf.ones_like(is_last, tf.int32)
    # One step further ahead in each round, where the episode goes on.
    total, product, steps = reward, discount, one
    for _ in range(n - 1):
        total = reward + tf.where(follows, discount * shift_left(total), tf.zeros_like(reward))
        product = tf.where(follows, discount * shift_left(product), discount)
        steps = one + tf.where(follows, shift_left(steps), tf.zeros_like(steps))
    return NStepReturns(tf.stop_gradient(total), tf.stop_gradient(product), steps)


def to_ends(
    reward: tf.Tensor, discount: tf.Tensor, ends: tf.Tensor, valid: tf.Tensor | None = None
) -> NStepReturns:
    """Returns from each step to the end of the option that it belongs to, as semi-Markov targets need them.

    An option that lasts k steps gives its j-th step the rewards from there on and the duration k - j (Sutton et al.
    1999, section 3).

    Args:
      reward: [T, B].
      discount: gamma, or 0 where the step terminated [T, B].
      ends: bool [T, B], the step was the last of its option or of its episode, or invalid. The last step of the
        sequence ends it too.
      valid: bool [T, B], False for padding; None when all are valid. Entries at invalid steps are meaningless.

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    check_time_major(reward=reward, discount=discount, ends=ends)
    follows = continues(ends, valid)
    none, passed = tf.zeros_like(discount), tf.where(follows, discount, 0.0)
    # x_t = a_t + b_t x_{t+1} for each of the three; b is 0 at the end.
    total = linear_recurrence(reward, passed)
    product = linear_recurrence(tf.where(follows, none, discount), passed)
    one = tf.ones_like(ends, tf.int32)
    steps = linear_recurrence(one, tf.cast(follows, tf.int32))
    return NStepReturns(tf.stop_gradient(total), tf.stop_gradient(product), steps)


def linear_recurrence(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """x_t = a_t + b_t x_{t+1} with x_T = 0; [T, ...] -> [T, ...].

    After k rounds, a_t holds the sum over 2^k steps and b_t the product of their factors.

    Raises:
      ValueError: the length of the time axis is not known when tracing.
    """
    length = a.shape[0]
    if length is None:
        raise ValueError(f"expected a time axis of known length, got shape {a.shape}")
    shift = 1
    while shift < length:
        # Slices are joined rather than padded: XLA compiles that to code three times faster at T = 1024.
        a = tf.concat([a[:-shift] + b[:-shift] * a[shift:], a[-shift:]], axis=0)
        b = tf.concat([b[:-shift] * b[shift:], tf.zeros_like(b[-shift:])], axis=0)
        shift *= 2
    return a


def continues(is_last: tf.Tensor, valid: tf.Tensor | None = None) -> tf.Tensor:
    """bool [T, B]: the next step belongs to the same episode, and both steps are valid."""
    follows = tf.logical_not(is_last)
    if valid is not None:
        follows = follows & valid & shift_left(valid)
    return tf.concat([follows[:-1], tf.zeros_like(follows[:1])], axis=0)


def shift_left(x: tf.Tensor) -> tf.Tensor:
    """x_{t+1} at each t, zeros (False) at the last; [T, ...] -> [T, ...]."""
    return tf.concat([x[1:], tf.zeros_like(x[:1])], axis=0)


def mask_steps(x: tf.Tensor, valid: tf.Tensor | None) -> tf.Tensor:
    """`x` with exact zeros where not `valid`, whatever stands there; [T, B]."""
    return x if valid is None else tf.where(valid, x, tf.zeros_like(x))


def check_time_major(**arrays: tf.Tensor) -> None:
    """Raises ValueError unless all arrays are [T, B] of the same shape; the message names the first that is not."""
    first_name, first = next(iter(arrays.items()))
    for name, x in arrays.items():
        if x.shape.rank != 2:
            raise ValueError(f"{name}: expected rank 2 [T, B], got shape {x.shape}")
        if not x.shape.is_compatible_with(first.shape):
            raise ValueError(
                f"{name}: expected the shape of {first_name} {first.shape}, got {x.shape}"
            )
