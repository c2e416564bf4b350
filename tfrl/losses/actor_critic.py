"""Losses of critics Q(s, a) of any actions and of the policies trained by them: DDPG, TD3, SAC, TQC. Pure functions; no
reduction over the batch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrl.losses import distributional, value
from tfrl.losses.value import TdLoss


def critics(q_tm1: tf.Tensor, target: tf.Tensor, delta: float | None = None) -> TdLoss:
    """Regression of N critics towards one target, the sum of their losses (Fujimoto et al. 2018, algorithm 1).

    Args:
      q_tm1: values of the actions taken [N, n].
      target: y [n]; no gradient flows through it.
      delta: bound of the Huber loss; None for half the squared error.

    Returns:
      `TdLoss`: loss [n], td_error [N, n], target [n].

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    _check(q_tm1=(q_tm1, 2), target=(target, 1))
    q_tm1.shape[1:].assert_is_compatible_with(target.shape)
    target = tf.stop_gradient(target)
    error = q_tm1 - target
    loss = value.squared(error) if delta is None else value.huber(error, delta)
    return TdLoss(tf.reduce_sum(loss, axis=0), error, target)


def smooth_action(action: tf.Tensor, noise: tf.Tensor, clip: float) -> tf.Tensor:
    """Target policy smoothing, clip(a + clip(noise, -c, c), -1, 1) (Fujimoto et al. 2018, section 5.3).

    Args:
      action, noise: [n, m], actions on the scale [-1, 1].
      clip: c, on the same scale.
    """
    return tf.clip_by_value(action + tf.clip_by_value(noise, -clip, clip), -1.0, 1.0)


def soft_value(q: tf.Tensor, probability: tf.Tensor, log_prob: tf.Tensor, alpha: Any) -> tf.Tensor:
    """Value of a state with the policy's entropy, sum_a p(a) (Q(s, a) - alpha log p(a)).

    Haarnoja et al. 2018b, eq. 3; Christodoulou 2019, eq. 10.

    Args:
      q, probability, log_prob: [n, A]; of one sampled action [n, 1] with probability 1 and its log density.
      alpha: temperature, scalar.

    Returns:
      float32 [n].
    """
    return tf.reduce_sum(probability * (q - alpha * log_prob), axis=1)


def temperature(log_alpha: tf.Tensor, log_prob: tf.Tensor, target_entropy: Any) -> tf.Tensor:
    """-log_alpha (log p + H), whose gradient raises the temperature where the entropy is below its target H.

    Haarnoja et al. 2018b, eq. 18, with the logarithm of the temperature as the factor, as in the authors' code: the
    gradient's size does not depend on the temperature.

    Args:
      log_alpha: scalar.
      log_prob: expected logarithm of the probability in each state [n]; no gradient flows through it.
      target_entropy: H, of each state [n] or of all.
    """
    return -log_alpha * tf.stop_gradient(log_prob + target_entropy)


def truncate(atoms: tf.Tensor, dropped_per_critic: int) -> tf.Tensor:
    """The atoms of all critics without the largest ones (Kuznetsov et al. 2020, eq. 10).

    Args:
      atoms: quantiles of N critics [N, n, K].
      dropped_per_critic: d; N d atoms of each row are left out.

    Returns:
      [n, N K - N d] in rising order.
    """
    count, rows, width = atoms.shape
    pooled = tf.reshape(tf.transpose(atoms, [1, 0, 2]), [rows, count * width])
    return tf.sort(pooled, axis=1)[:, : count * (width - dropped_per_critic)]


def quantile_critics(quantiles_tm1: tf.Tensor, target: tf.Tensor) -> TdLoss:
    """Quantile regression of N critics towards the same atoms, the sum of their losses (Kuznetsov et al. 2020, eq. 11).

    Args:
      quantiles_tm1: of the actions taken [N, n, K].
      target: atoms [n, M]; no gradient flows through them.

    Returns:
      `TdLoss`: loss [n], td_error [N, n] of the means, target [n], the mean of the atoms.
    """
    _check(quantiles_tm1=(quantiles_tm1, 3), target=(target, 2))
    target = tf.stop_gradient(target)
    width = quantiles_tm1.shape[-1]
    tau = tf.constant(distributional.midpoints(width))
    # The paper takes the mean over the K quantiles too, where `quantile_huber` has their sum.
    losses = [
        distributional.quantile_huber(q, tau, target) / width for q in tf.unstack(quantiles_tm1)
    ]
    mean = tf.reduce_mean(target, axis=1)
    return TdLoss(tf.add_n(losses), tf.reduce_mean(quantiles_tm1, axis=2) - mean, mean)


def _check(**arguments: tuple[tf.Tensor, int]) -> None:
    for name, (x, rank) in arguments.items():
        if x.shape.rank != rank:
            raise ValueError(f"{name}: expected rank {rank}, got shape {x.shape}")
