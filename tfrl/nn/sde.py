"""Generalised state-dependent exploration, gSDE (Raffin et al. 2020, arXiv 2005.05719, section 3), for Box actions.

The exploration is a linear function of the policy's features, whose matrix stays for some steps:

  action = mean(s) + phi(s) @ (exp(log_std) * eps),   eps ~ N(0, 1)

so that it is smooth along a trajectory, where noise drawn at every step is not. With phi [F], log_std
and eps [F, A], the components of one action are independent normal variables, given the features:

  std(s) = sqrt(phi(s)^2 @ exp(2 log_std))

A learner therefore needs nothing of the matrix: it computes phi anew and has a diagonal Gaussian. As in the reference
implementation, 1e-6 is added to the variance, and no gradient reaches phi through the standard deviation: features
would grow to make more noise.

How a policy uses it (A: components of all Boxes of the action space, F: width of the features): `log_std` takes the
place of a free logarithm of the deviation; eps is noise of `noise_spec`, which the runtime holds for as long as the
matrix stays, so that it is drawn only where a new one is due; `normal` takes the place of the normal numbers that the
distribution reads. Features should be bounded (tanh); std is about exp(log_std) |phi|, so log_std -2 starts F = 64
near 1 or below.
"""

from __future__ import annotations

import tensorflow as tf

from tfrl.types import NoiseSpec

_VARIANCE_FLOOR = 1e-6  # keeps the logarithm and its gradient finite where all features are 0


def noise_spec(num_features: int, num_actions: int, period_env_steps: int | None) -> NoiseSpec:
    """Matrices eps [F, A] that stay for `period_env_steps` steps of an episode; None: for all of it."""
    return NoiseSpec((num_features, num_actions), "normal", period_env_steps)


def log_std(phi: tf.Tensor, log_std_matrix: tf.Tensor) -> tf.Tensor:
    """Logarithm of the standard deviation of each component, [..., A]; no gradient to `phi`.

    Args:
      phi: features [..., F].
      log_std_matrix: [F, A].
    """
    variance = tf.linalg.matmul(tf.square(tf.stop_gradient(phi)), tf.exp(2.0 * log_std_matrix))
    return 0.5 * tf.math.log(variance + _VARIANCE_FLOOR)


def normal(phi: tf.Tensor, log_std_matrix: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    """The exploration in units of its standard deviation, [B, A]: standard normal over matrices.

    Args:
      phi: features [B, F].
      log_std_matrix: [F, A].
      eps: standard normal [B, F, A].
    """
    offset = tf.reduce_sum(phi[:, :, tf.newaxis] * (tf.exp(log_std_matrix) * eps), axis=1)
    return offset * tf.exp(-log_std(phi, log_std_matrix))
