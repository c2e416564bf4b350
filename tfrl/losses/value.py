"""Losses of scalar action values. Pure functions; arguments are named by time (_tm1, _t); no
reduction over the batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

INVALID_VALUE = tf.float32.min / 2  # finite, so that arithmetic on masked entries never makes NaN
_LARGEST = 1e15  # of a rescaled value, whose inverse is some square of it


class TdLoss(NamedTuple):
    """loss [B], td_error [B] = Q(s, a) - target, target [B]; float32. No gradient flows through `target`."""

    loss: tf.Tensor
    td_error: tf.Tensor
    target: tf.Tensor


def huber(x: tf.Tensor, delta: float = 1.0) -> tf.Tensor:
    """x^2 / 2 where |x| <= delta, else delta (|x| - delta / 2); the shape of `x`."""
    magnitude = tf.abs(x)
    quadratic = tf.minimum(magnitude, delta)
    return 0.5 * quadratic**2 + delta * (magnitude - quadratic)


def squared(x: tf.Tensor) -> tf.Tensor:
    """x^2 / 2, so that its gradient is that of `huber` for small errors; the shape of `x`."""
    return 0.5 * x**2


def rescale(x: Any, epsilon: float, ops: Any = tf) -> Any:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x (Pohlen et al. 2018, proposition A.2); the shape of `x`.

    Returns of any size become values of a size that one step size serves (Kapturowski et al. 2019, section 2.3).
    `ops` is TensorFlow, or NumPy for arrays.
    """
    return ops.sign(x) * (ops.sqrt(ops.abs(x) + 1.0) - 1.0) + epsilon * x


def unrescale(x: Any, epsilon: float, ops: Any = tf) -> Any:
    """The inverse of `rescale`; `epsilon` above 0.

    The root of the quadratic equation is written as a quotient: the difference of the papers loses half of float32's
    digits near 0. Magnitudes count up to `_LARGEST`, so that a masked value times a discount of 0 is 0.
    """
    magnitude = ops.minimum(ops.abs(x), _LARGEST)
    root = 2.0 * (magnitude + 1.0 + epsilon)
    root /= ops.sqrt(1.0 + 4.0 * epsilon * (magnitude + 1.0 + epsilon)) + 1.0
    return ops.sign(x) * (root - 1.0) * (root + 1.0)


def backup(
    r_t: Any, discount_t: Any, x: Any, rescale_epsilon: float | None = None, ops: Any = tf
) -> Any:
    """Backs a bootstrap value up by n steps: r + discount x, or for rescaled values h(r + discount h^-1(x)).

    Args:
      r_t, discount_t, x: of shapes that broadcast.
      rescale_epsilon: of `rescale`; None: values are not rescaled.
      ops: TensorFlow, or NumPy for arrays.
    """
    if rescale_epsilon is None:
        return r_t + discount_t * x
    return rescale(r_t + discount_t * unrescale(x, rescale_epsilon, ops), rescale_epsilon, ops)


def mask_invalid(q: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Replaces the values of invalid actions by a large negative finite number.

    Args:
      q: action values [..., A].
      mask: 1 where an action is valid [..., A] of any numeric dtype, or None when all are.
    """
    if mask is None:
        return q
    return tf.where(tf.cast(mask, tf.bool), q, INVALID_VALUE)


def dueling(value: tf.Tensor, advantage: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Q(s, a) = V(s) + A(s, a) - mean over valid a of A(s, a) (Wang et al. 2016, eq. 9).

    For distributions the same holds for each atom or quantile (Hessel et al. 2018, "the integrated agent").

    Args:
      value: [B, 1], or [B, 1, K].
      advantage: [B, A], or [B, A, K].
      mask: 1 where an action is valid [B, A], or None. Invalid entries of the result are meaningless.
    """
    if mask is None:
        mean = tf.reduce_mean(advantage, axis=1, keepdims=True)
    else:
        valid = tf.cast(mask, advantage.dtype)
        if advantage.shape.rank == 3:
            valid = valid[:, :, None]
        count = tf.maximum(tf.reduce_sum(valid, axis=1, keepdims=True), 1.0)
        mean = tf.reduce_sum(advantage * valid, axis=1, keepdims=True) / count
    return value + advantage - mean


def q_learning(
    q_tm1: tf.Tensor,
    a_tm1: tf.Tensor,
    r_t: tf.Tensor,
    discount_t: tf.Tensor,
    q_t: tf.Tensor,
    selector_t: tf.Tensor,
    delta: float | None = 1.0,
    rescale_epsilon: float | None = None,
) -> TdLoss:
    """n-step Q-learning, target r + discount * q_t[argmax selector_t].

    With `selector_t` the values of the online network this is double Q-learning (van Hasselt et al. 2016, eq. 4); with
    `selector_t = q_t` it is DQN (Mnih et al. 2015). Mask invalid actions in `selector_t` beforehand (`mask_invalid`).

    Args:
      q_tm1: online values of the state acted in [B, A].
      a_tm1: actions taken, int32 [B].
      r_t: sum of discounted rewards [B].
      discount_t: discount**k, or 0 after a termination [B].
      q_t: target network's values of the bootstrap state [B, A].
      selector_t: values that choose the bootstrap action [B, A].
      delta: bound of the Huber loss; None for half the squared error.
      rescale_epsilon: the values are rescaled returns, see `backup`.

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    for name, x, rank in (
        ("q_tm1", q_tm1, 2), ("a_tm1", a_tm1, 1), ("r_t", r_t, 1), ("discount_t", discount_t, 1),
        ("q_t", q_t, 2), ("selector_t", selector_t, 2),
    ):  # fmt: skip
        if x.shape.rank != rank:
            raise ValueError(f"{name}: expected rank {rank}, got shape {x.shape}")
    q_tm1.shape.assert_is_compatible_with(q_t.shape)
    q_t.shape.assert_is_compatible_with(selector_t.shape)
    q_tm1.shape[:1].assert_is_compatible_with(r_t.shape)
    r_t.shape.assert_is_compatible_with(discount_t.shape)
    r_t.shape.assert_is_compatible_with(a_tm1.shape)
    # Target y = r + discount Q_target(s', a*), a* = argmax selector.
    bootstrap = select(q_t, tf.argmax(selector_t, axis=1, output_type=tf.int32))
    target = tf.stop_gradient(backup(r_t, discount_t, bootstrap, rescale_epsilon))
    # Error Q(s, a) - y, and its Huber or squared loss.
    td_error = select(q_tm1, a_tm1) - target
    return TdLoss(squared(td_error) if delta is None else huber(td_error, delta), td_error, target)


def joint_q_learning(
    q_tm1: tf.Tensor,
    r_t: tf.Tensor,
    discount_t: tf.Tensor,
    q_t: tf.Tensor,
    rescale_epsilon: float | None = None,
) -> TdLoss:
    """(Q_tot - y)^2 with y = r + discount Q_tot', values of whole actions of teams (Rashid et al. 2018, eq. 6).

    Args:
      q_tm1: value of the joint action taken [B].
      r_t: sum of discounted rewards [B].
      discount_t: discount**k, or 0 after a termination [B].
      q_t: the target's value of the joint action that is bootstrapped from [B].
      rescale_epsilon: the values are rescaled returns, see `backup`.

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    for name, x in (("q_tm1", q_tm1), ("r_t", r_t), ("discount_t", discount_t), ("q_t", q_t)):
        if x.shape.rank != 1:
            raise ValueError(f"{name}: expected rank 1, got shape {x.shape}")
        q_tm1.shape.assert_is_compatible_with(x.shape)
    target = tf.stop_gradient(backup(r_t, discount_t, q_t, rescale_epsilon))
    td_error = q_tm1 - target
    return TdLoss(td_error**2, td_error, target)


def select(q: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """q[b, action[b]]: [B, A], int32 [B] -> [B], or [B, A, K] -> [B, K].

    For teams [..., N, A], int32 [..., N] -> [..., N]. A product with a one-hot, which compiles better than a gather.
    """
    if action.shape.rank > 1:
        rows = select(tf.reshape(q, [-1, q.shape[-1]]), tf.reshape(action, [-1]))
        return tf.reshape(rows, tf.shape(action))
    one_hot = tf.one_hot(action, q.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    if q.shape.rank == 3:
        one_hot = one_hot[:, :, None]
    return tf.reduce_sum(tf.where(one_hot, q, tf.zeros_like(q)), axis=1)


def importance_weights(probability: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    """PER's weights (N P(i))^-beta / max_j w_j (Schaul et al. 2016, section 3.4), the maximum over the global batch.

    N cancels. Reverb gives sampling probabilities only for the items drawn, hence the batch, not the buffer.

    Args:
      probability: P(i) / min_j P(j) over the global batch [B], see `types.Transition`.
      beta: scalar exponent.
    """
    return probability**-beta


def sequence_priority(magnitude: tf.Tensor, valid: tf.Tensor, eta: float) -> tf.Tensor:
    """eta max_t |delta_t| + (1 - eta) mean_t |delta_t| (Kapturowski et al. 2019, section 2.3); float32 [B].

    The mean alone would hide the few large errors of a long sequence.

    Args:
      magnitude: size of the error of each step, not negative [T, B].
      valid: bool [T, B], steps that count; a sequence without any has priority 0.
      eta: in [0, 1].

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    for name, x in (("magnitude", magnitude), ("valid", valid)):
        if x.shape.rank != 2:
            raise ValueError(f"{name}: expected rank 2 [T, B], got shape {x.shape}")
    magnitude.shape.assert_is_compatible_with(valid.shape)
    # Mean over the valid steps of each sequence.
    counted = tf.where(valid, magnitude, tf.zeros_like(magnitude))
    count = tf.reduce_sum(tf.cast(valid, tf.float32), axis=0)
    mean = tf.reduce_sum(counted, axis=0) / tf.maximum(count, 1.0)
    # Mixed with the largest.
    return eta * tf.reduce_max(counted, axis=0) + (1.0 - eta) * mean
