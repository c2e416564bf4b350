"""Losses of distributions of returns: categorical (C51) and by quantiles (QR-DQN, IQN).

Pure functions; arguments are named by time (_tm1, _t); no reduction over the batch. K is the number of atoms or of
predicted quantiles, M that of target quantiles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfrl.losses import value


class CategoricalLoss(NamedTuple):
    """Cross entropy with a projected target, for each row, float32; no gradient flows through `target`.

    Attributes:
      loss: cross entropy of the target with the prediction [B].
      kl: KL(target || prediction), the cross entropy minus the target's entropy [B].
      td_error: mean of the prediction minus that of the target [B].
      prediction, target: probabilities of the atoms [B, K].
    """

    loss: tf.Tensor
    kl: tf.Tensor
    td_error: tf.Tensor
    prediction: tf.Tensor
    target: tf.Tensor


class QuantileLoss(NamedTuple):
    """Quantile regression loss, for each row, float32; no gradient flows through `target`.

    Attributes:
      loss: quantile Huber loss [B].
      td_error: mean of the predicted quantiles minus that of the target [B].
      prediction: quantiles of the action taken [B, K].
      target: samples of the target distribution [B, M].
    """

    loss: tf.Tensor
    td_error: tf.Tensor
    prediction: tf.Tensor
    target: tf.Tensor


def support(v_min: float, v_max: float, num_atoms: int) -> np.ndarray:
    """Atoms at equal distances from `v_min` to `v_max`, float32 [K]."""
    return np.linspace(v_min, v_max, num_atoms, dtype=np.float32)


def midpoints(num_quantiles: int) -> np.ndarray:
    """tau_i = (2 i + 1) / (2 K), the middle of each of K equal parts of [0, 1]; float32 [K]."""
    return ((2 * np.arange(num_quantiles) + 1) / (2 * num_quantiles)).astype(np.float32)


def categorical_projection(
    probabilities: tf.Tensor,
    r_t: tf.Tensor,
    discount_t: tf.Tensor,
    atoms: np.ndarray,
    rescale_epsilon: float | None = None,
) -> tf.Tensor:
    """The distribution of r + discount z, put back on the atoms (Bellemare et al. 2017, algorithm 1).

    Each moved atom gives its probability to the two atoms beside it, in proportion to its nearness:
    m_i = sum_j p_j max(0, 1 - |clip(r + discount z_j) - z_i| / dz). The mass is kept, and the mean too where nothing is
    clipped.

    Args:
      probabilities: of the atoms [B, K].
      r_t, discount_t: [B].
      atoms: [K] at equal distances, a constant.
      rescale_epsilon: the atoms are rescaled returns, see `value.backup`.

    Returns:
      float32 [B, K].

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    _check(probabilities=(probabilities, 2), r_t=(r_t, 1), discount_t=(discount_t, 1))
    probabilities.shape[:1].assert_is_compatible_with(r_t.shape)
    r_t.shape.assert_is_compatible_with(discount_t.shape)
    probabilities.shape[1:].assert_is_compatible_with(atoms.shape)
    rows, count = probabilities.shape
    first, last = float(atoms[0]), float(atoms[-1])
    # Moved atoms r + discount z_j, clipped to the support, in units of the distance dz from the first atom.
    moved = value.backup(r_t[:, None], discount_t[:, None], atoms, rescale_epsilon)
    place = (tf.clip_by_value(moved, first, last) - first) * ((count - 1) / (last - first))
    # Index of the atom below. The integer is clipped too: of NaN it could be any, and the sum below would refuse it.
    below = tf.clip_by_value(tf.cast(place, tf.int32), 0, count - 2)
    # Share of the atom above; rounding must not make the other one's negative.
    above = tf.minimum(place - tf.cast(below, tf.float32), 1.0)
    # m_i, the sums of the shares that reach atom i: those that stay at the atom below, and those of the atom above,
    # which are summed at the one below too and then moved by one. Sums into places, not a product with the [B, K, K]
    # shares: that is memory that a CPU's cache does not hold.
    segments = tf.reshape(below + count * tf.range(rows)[:, None], [-1])

    def summed(shares: tf.Tensor) -> tf.Tensor:
        at_below = tf.math.unsorted_segment_sum(tf.reshape(shares, [-1]), segments, rows * count)
        return tf.reshape(at_below, [rows, count])

    return summed(probabilities * (1.0 - above)) + tf.pad(
        summed(probabilities * above)[:, :-1], [[0, 0], [1, 0]]
    )


def categorical_q_learning(
    logits_tm1: tf.Tensor,
    a_tm1: tf.Tensor,
    r_t: tf.Tensor,
    discount_t: tf.Tensor,
    logits_t: tf.Tensor,
    selector_t: tf.Tensor,
    atoms: np.ndarray,
    rescale_epsilon: float | None = None,
) -> CategoricalLoss:
    """n-step C51: cross entropy with the projected distribution of the bootstrap action (Bellemare et al. 2017).

    Args:
      logits_tm1: online logits of the state acted in [B, A, K].
      a_tm1: actions taken, int32 [B].
      r_t: sum of discounted rewards [B].
      discount_t: discount**k, or 0 after a termination [B].
      logits_t: target network's logits of the bootstrap state [B, A, K].
      selector_t: values that choose the bootstrap action [B, A], invalid ones masked beforehand.
      atoms: [K].
      rescale_epsilon: the atoms are rescaled returns, see `value.backup`.

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    _check(
        logits_tm1=(logits_tm1, 3), a_tm1=(a_tm1, 1), logits_t=(logits_t, 3),
        selector_t=(selector_t, 2),
    )  # fmt: skip
    logits_tm1.shape.assert_is_compatible_with(logits_t.shape)
    logits_t.shape[:2].assert_is_compatible_with(selector_t.shape)
    a_tm1.shape.assert_is_compatible_with(r_t.shape)
    # Target distribution: that of the bootstrap action a* = argmax selector, moved by r + discount z, on the atoms.
    best = tf.argmax(selector_t, axis=1, output_type=tf.int32)
    probabilities = tf.nn.softmax(value.select(logits_t, best))
    target = categorical_projection(probabilities, r_t, discount_t, atoms, rescale_epsilon)
    target = tf.stop_gradient(target)
    # Cross entropy -sum_i m_i log p_i(s, a); minus the target's entropy it is KL(target || prediction).
    log_p = tf.nn.log_softmax(value.select(logits_tm1, a_tm1))
    cross_entropy = -tf.reduce_sum(target * log_p, axis=1)
    entropy = -tf.reduce_sum(tf.math.xlogy(target, target), axis=1)
    # Difference of the means, for the metrics.
    prediction = tf.exp(log_p)
    td_error = tf.reduce_sum((prediction - target) * atoms, axis=1)
    return CategoricalLoss(cross_entropy, cross_entropy - entropy, td_error, prediction, target)


def quantile_huber(
    quantiles: tf.Tensor, tau: tf.Tensor, target: tf.Tensor, delta: float = 1.0
) -> tf.Tensor:
    """Sum over predicted quantiles i, mean over target samples j, of |tau_i - 1{u_ij < 0}| huber(u_ij) / delta.

    u_ij = target_j - quantile_i (Dabney et al. 2018a, eq. 10; 2018b, eq. 3). No gradient through the weights.

    Args:
      quantiles: predictions [B, K].
      tau: what each is the quantile of [B, K] or [K].
      target: samples, or quantiles of equal weight [B, M]; its gradient is for the caller to stop.
      delta: error at which the Huber loss turns linear, the papers' kappa.

    Returns:
      float32 [B].

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    _check(quantiles=(quantiles, 2), target=(target, 2))
    quantiles.shape[-tau.shape.rank :].assert_is_compatible_with(tau.shape)
    quantiles.shape[:1].assert_is_compatible_with(target.shape[:1])
    error = target[:, None, :] - quantiles[:, :, None]  # [B, K, M]
    # |tau_i - 1{u_ij < 0}|: an overestimate costs 1 - tau, an underestimate tau.
    below = tf.cast(error < 0.0, tf.float32)
    weight = tf.abs(tau[..., None] - below)
    # Sum over predicted quantiles i of the mean over target samples j.
    loss = weight * value.huber(error, delta) / delta
    return tf.reduce_sum(tf.reduce_mean(loss, axis=2), axis=1)


def quantile_q_learning(
    quantiles_tm1: tf.Tensor,
    tau: tf.Tensor,
    a_tm1: tf.Tensor,
    r_t: tf.Tensor,
    discount_t: tf.Tensor,
    quantiles_t: tf.Tensor,
    selector_t: tf.Tensor,
    delta: float = 1.0,
    rescale_epsilon: float | None = None,
) -> QuantileLoss:
    """n-step Q-learning of quantiles: fixed ones (Dabney et al. 2018a) or at drawn tau (IQN, Dabney et al. 2018b).

    Args:
      quantiles_tm1: online quantiles of the state acted in [B, A, K].
      tau: what each is the quantile of [B, K] or [K].
      a_tm1: actions taken, int32 [B].
      r_t: sum of discounted rewards [B].
      discount_t: discount**k, or 0 after a termination [B].
      quantiles_t: target network's quantiles of the bootstrap state [B, A, M].
      selector_t: values that choose the bootstrap action [B, A], invalid ones masked beforehand.
      delta: see `quantile_huber`.
      rescale_epsilon: the quantiles are of rescaled returns, see `value.backup`.

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    _check(
        quantiles_tm1=(quantiles_tm1, 3), a_tm1=(a_tm1, 1), r_t=(r_t, 1), discount_t=(discount_t, 1),
        quantiles_t=(quantiles_t, 3), selector_t=(selector_t, 2),
    )  # fmt: skip
    quantiles_tm1.shape[:2].assert_is_compatible_with(quantiles_t.shape[:2])
    quantiles_t.shape[:2].assert_is_compatible_with(selector_t.shape)
    quantiles_tm1.shape[:1].assert_is_compatible_with(r_t.shape)
    r_t.shape.assert_is_compatible_with(discount_t.shape)
    r_t.shape.assert_is_compatible_with(a_tm1.shape)
    # Target samples r + discount z_j(s', a*), a* = argmax selector.
    best = tf.argmax(selector_t, axis=1, output_type=tf.int32)
    bootstrap = value.select(quantiles_t, best)
    target = value.backup(r_t[:, None], discount_t[:, None], bootstrap, rescale_epsilon)
    target = tf.stop_gradient(target)
    # Quantile regression of the action taken; the difference of the means is for the metrics.
    prediction = value.select(quantiles_tm1, a_tm1)
    loss = quantile_huber(prediction, tau, target, delta)
    td_error = tf.reduce_mean(prediction, axis=1) - tf.reduce_mean(target, axis=1)
    return QuantileLoss(loss, td_error, prediction, target)


def _check(**arguments: tuple[tf.Tensor, int]) -> None:
    for name, (x, rank) in arguments.items():
        if x.shape.rank != rank:
            raise ValueError(f"{name}: expected rank {rank}, got shape {x.shape}")
