"""Generalised state-dependent exploration, gSDE (Raffin et al. 2020, arXiv 2005.05719, section 3), for Box actions.

The exploration is a linear function of the policy's features, whose matrix stays for some steps:

  action = mean(s) + phi(s) @ (exp(log_std) * eps),   eps ~ N(0, 1)

so that it is smooth along a trajectory, where noise drawn at every step is not. With phi [F], log_std
and eps [F, A], the components of one action are independent normal variables, given the features:

  std(s) = sqrt(phi(s)^2 @ exp(2 log_std))

A learner therefore needs nothing of the matrix: it computes phi anew and uses the diagonal Gaussian of `params` in
`distributions.make(space)`. As in the reference implementation, 1e-6 is added to the variance.

How a policy uses it (A: size of the flat action, F: width of the features):

  distribution = distributions.make(spec.action_space)        a Box, not squashed: params of width 2 A
  log_std = tf.Variable([F, A])                               instead of a free log_std of size A
  noise = {"sde": sde.noise_spec(F, A)}                       instead of distribution.noise
  initial_state(B) = {"sde": sde.initial_state(B, F, A)}      beside a recurrent state; the runtime puts rows whose
                                                              episode ended back to it, which makes `explore` redraw
  step(obs, state, knobs, noise, explore):
      phi, mean = ...                                         the last hidden layer, and the head on it
      params = sde.params(mean, phi, log_std)                 for extras such as the log-probability
      if explore:
          matrix = sde.resample(state["sde"], noise["sde"], sde_resample_env_steps)
          sample = sde.sample(mean, phi, log_std, matrix)     flat; reshape to the Box
      else:
          sample, matrix = mean, state["sde"]
      -> PolicyStep(sample, {"sde": matrix}, {"log_prob": distribution.log_prob(params, sample)})

  learner: params = sde.params(mean, tf.stop_gradient(phi), log_std), then log_prob, entropy and kl of `distribution`.

The reference stops the gradient of the standard deviation into phi, as above; without it features grow to make more
noise. Features should be bounded (tanh), and log_std starts at -2 for F = 64, so that std starts near 1 or below:
std is about exp(log_std) |phi|. The matrix takes B F A floats of state, and as many normal numbers are drawn at each
step, used or not, since what a step draws has a fixed shape.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfrl.types import NoiseSpec

_VARIANCE_FLOOR = 1e-6  # keeps the logarithm and its gradient finite where all features are 0


class Matrix(NamedTuple):
    """Exploration of B environments.

    Attributes:
      eps: standard normal numbers, float32 [B, F, A].
      age_env_steps: steps taken with it, int32 [B]; 0 says that none was drawn in this episode.
    """

    eps: tf.Tensor
    age_env_steps: tf.Tensor


def noise_spec(num_features: int, num_actions: int) -> NoiseSpec:
    """What `resample` reads per environment."""
    return NoiseSpec((num_features, num_actions), "normal")


def initial_state(batch_size: int, num_features: int, num_actions: int) -> Matrix:
    """State of fresh episodes: a matrix that the first step replaces."""
    return Matrix(
        tf.zeros([batch_size, num_features, num_actions]), tf.zeros([batch_size], tf.int32)
    )


def resample(state: Matrix, noise: tf.Tensor, period_env_steps: int | None) -> Matrix:
    """The matrix to act with now: a new one at an episode's start and after every `period_env_steps`.

    Args:
      state: that of the step before, or the initial one in rows whose episode starts.
      noise: standard normal [B, F, A].
      period_env_steps: steps that share a matrix, at least 1; None: a whole episode does.

    Raises:
      ValueError: a period below 1.
    """
    if period_env_steps is not None and period_env_steps < 1:
        raise ValueError(f"period_env_steps: expected at least 1 or None, got {period_env_steps}")
    due = state.age_env_steps == 0
    if period_env_steps is not None:
        due |= state.age_env_steps >= period_env_steps
    eps = tf.where(due[:, tf.newaxis, tf.newaxis], noise, state.eps)
    return Matrix(eps, tf.where(due, 1, state.age_env_steps + 1))


def log_std(phi: tf.Tensor, log_std_matrix: tf.Tensor) -> tf.Tensor:
    """Logarithm of the standard deviation of each component, [..., A].

    Args:
      phi: features [..., F].
      log_std_matrix: [F, A].
    """
    variance = tf.linalg.matmul(tf.square(phi), tf.exp(2.0 * log_std_matrix))
    return 0.5 * tf.math.log(variance + _VARIANCE_FLOOR)


def params(mean: tf.Tensor, phi: tf.Tensor, log_std_matrix: tf.Tensor) -> tf.Tensor:
    """Params [..., 2 A] of the Gaussian in `nn/distributions.py`.

    Args:
      mean: [..., A].
      phi: features [..., F].
      log_std_matrix: [F, A].
    """
    return tf.concat([mean, log_std(phi, log_std_matrix)], axis=-1)


def sample(mean: tf.Tensor, phi: tf.Tensor, log_std_matrix: tf.Tensor, matrix: Matrix) -> tf.Tensor:
    """Actions [B, A], flat and not clipped.

    Args:
      mean: [B, A].
      phi: features [B, F].
      log_std_matrix: [F, A].
      matrix: as `resample` gave it.
    """
    scaled = tf.exp(log_std_matrix) * matrix.eps
    return mean + tf.reduce_sum(phi[:, :, tf.newaxis] * scaled, axis=1)
