"""IQN: quantiles of the return at any fraction tau, with random fractions in every update.

What it is: implicit quantile networks (Dabney et al. 2018b, eq. 2 to 4): the features of the state, multiplied by a
cosine embedding of tau, give the quantile at tau. Options as in DQN: double, dueling, n-step, prioritized replay, noisy
layers. What it is not: risk-sensitive; actions maximise the mean.

Spaces: as in DQN: Discrete actions, any observation, action masks and action features. Data: transitions, or sequences
with a memory.

Differences from the paper: cosines are cos(pi i tau) for i = 0, 1, ..., as in the text and in Dopamine (some
implementations start at 1); exploring steps draw their fractions, greedy steps use fixed midpoints, so exported
policies are deterministic; the priority of a transition is its loss. The differences of DQN apply too (time limits,
importance weights, clipping).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrl.agent import About, Agent
from tfrl.algos.parts import q_learning, q_policy, q_steps
from tfrl.algos.parts.q_policy import QPolicy
from tfrl.losses import distributional
from tfrl.nn.body import ModelSettings
from tfrl.nn.q_network import QHeads, QNetworkSettings
from tfrl.optim import apply
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting
from tfrl.types import EnvSpec, NoiseSpec, Trajectory, Transition, UpdateOutput

TAU = "tau"  # the noise that holds an exploring step's fractions


@dataclasses.dataclass(frozen=True)
class Config(q_learning.Settings, OptimizerSettings, QNetworkSettings, ModelSettings):
    """Settings of IQN."""

    num_tau: int = setting(64, "fractions drawn per prediction (N)", minimum=1)
    num_target_tau: int = setting(64, "fractions drawn per target (N')", minimum=1)
    num_act_tau: int = setting(32, "fractions averaged into an action's value (K)", minimum=1)
    num_cosines: int = setting(64, "number of cosines that embed a fraction", minimum=1)
    huber_delta: float = setting(
        1.0, "error at which the quantile Huber loss becomes linear (kappa)", above=0.0
    )


class ImplicitQuantiles(tf.Module):
    """Quantiles of the return of each action at any fractions.

    Attributes:
      noise: what an exploring evaluation draws: its fractions, and that of noisy layers.
    """

    def __init__(self, config: Config, spec: EnvSpec, num_features: int):
        super().__init__()
        self._heads = QHeads(config, spec, num_features)
        self._midpoints = distributional.midpoints(config.num_act_tau)
        self._cosines = config.num_cosines
        self._embedding = tf.keras.layers.Dense(num_features, "relu", dtype="float32")
        self._embedding.build([None, config.num_cosines])
        self.noise = {TAU: NoiseSpec((config.num_act_tau,), "uniform"), **self._heads.noise}

    def quantiles(
        self,
        features: tf.Tensor,
        obs: Any,
        tau: tf.Tensor,
        noise: Mapping[str, tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Features [B, F] of observations and fractions [B, N] or [1, N] -> quantiles at these [B, A, N]."""
        embedded = features[:, None] * self._embedding(cosines(tau, self._cosines))
        return self._heads(embedded, obs, noise)

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """See `QHeads.output_kernels`."""
        return self._heads.output_kernels

    def q_values(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """The mean over the fractions in `noise`, or over fixed ones where there is none; float32 [B, A]."""
        tau = tf.constant(self._midpoints[None]) if noise is None else noise[TAU]
        layers = noise if self._heads.noise else None
        return tf.reduce_mean(self.quantiles(features, obs, tau, layers), axis=2)

    def draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor] | None:
        """Noise of the layers only, from a seed int32 [2]; None without noisy layers."""
        return self._heads.draw(seed)


def cosines(tau: tf.Tensor, count: int) -> tf.Tensor:
    """cos(pi i tau) for i = 0 .. count - 1: [B, N] -> [B, N, count], within 1e-5.

    By a polynomial, for XLA computes a cosine on a CPU by a call for each number, six times as slowly.
    """
    half_turns = tf.range(count, dtype=tf.float32) * tau[:, :, None]
    # cos(pi x) = cos(pi |x - 2 k|) = sin(pi (1/2 - |x - 2 k|)), of an angle within a quarter of a turn.
    x = 0.5 - tf.abs(half_turns - 2.0 * tf.round(0.5 * half_turns))
    square, result = x * x, tf.zeros_like(x)
    for power in (11, 9, 7, 5, 3, 1):  # of the series of the sine
        result = result * square + (-1) ** (power // 2) * math.pi**power / math.factorial(power)
    return x * result


def loss(
    config: Config,
    policy: QPolicy,
    target: QPolicy,
    rows: q_steps.TDBatch,
    seed: tf.Tensor,
) -> q_learning.Loss:
    """Quantile regression of each row at drawn fractions (Dabney et al. 2018b, eq. 2 to 4).

    Args:
      config: settings.
      policy, target: online and target policy.
      rows: [n] of them.
      seed: int32 [2], of the fractions and the noise of noisy layers.

    Returns:
      `Loss`, float32 [n]; the priority is the loss itself.
    """
    # Noise of the layers, drawn anew for each of the three evaluations (Fortunato et al. 2018, eq. 11).
    seeds = tf.random.experimental.stateless_split(seed, 4)
    noise, size = q_policy.draw_noise(policy.model, seeds[0]), rows.reward_t.shape[0]

    def draw(index: int, count: int) -> tf.Tensor:
        return apply.replica_rows(
            lambda n: tf.random.stateless_uniform([n, count], seeds[index]), size
        )

    # Fractions of the predictions [n, N], of the targets [n, N'] and of the means that choose [n, K].
    tau, tau_target = draw(1, config.num_tau), draw(2, config.num_target_tau)
    selecting = {TAU: draw(3, config.num_act_tau), **(noise.selector or {})}
    # Means of the next observation's quantiles [n, A], whose argmax chooses the action.
    if config.double:
        selector_t = policy.values(rows.features_t, rows.obs_t, selecting)
    else:
        selector_t = target.values(rows.target_features_t, rows.obs_t, selecting)
    # Quantile Huber loss of each pair of a prediction and r + discount z' of the chosen action.
    out = distributional.quantile_q_learning(
        policy.model.quantiles(rows.features_tm1, rows.obs_tm1, tau, noise.online),
        tau,
        rows.action_tm1,
        rows.reward_t,
        rows.discount_t,
        target.model.quantiles(rows.target_features_t, rows.obs_t, tau_target, noise.target),
        selector_t,
        config.huber_delta,
        config.value_rescaling_epsilon,
    )
    metrics = {
        "learner/td_error_abs_mean": tf.abs(out.td_error),
        "learner/q_mean": tf.reduce_mean(out.prediction, axis=1),
    }
    return q_learning.Loss(out.loss, out.loss, metrics)


class IQNLearner(q_learning.QLearner):
    """IQN: online and target network, optimiser, and the update of a batch."""

    def update(self, batch: Transition | Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one optimiser step on the weighted mean loss of the batch's rows.

        Args:
          batch: leaves [b, ...], or with a memory [T, b, ...].
          seed: int32 [2], of the fractions and the noise of noisy layers.
        """
        # w_i: importance weights of prioritized replay, and which rows are no padding.
        weights = self.row_weights(batch)
        with tf.GradientTape() as tape:
            # Rows (s, a, r, discount, s') with the features of both networks.
            rows = q_steps.rows(self._config, self.policy, self.target, batch)
            # Loss of each row.
            out = loss(self._config, self.policy, self.target, rows, seed)
            # Mean of w_i loss_i over the rows of all replicas, and what a user's network adds.
            total, added = weights.mean(weights.importance * out.loss), self.network_losses()
            if added is not None:
                total += added
        # Gradient summed over replicas, clipped by its global norm; one optimiser step.
        metrics = self.minimise(tape, total)
        # Statistics of observations take in the batch only after the update that read them.
        self.merge_observations(batch)
        # Means of the metrics, and new priorities: error of each item plus `priority_epsilon`.
        return self.output(batch, weights, out, added, metrics)


def make(config: Config, spec: EnvSpec) -> Agent:
    """IQN bound to an environment.

    Raises:
      SettingError: the action space is not Discrete, action features do not fit it, or sequences do not fit the replay.
    """
    return q_learning.make(
        "iqn", config, spec, lambda width: ImplicitQuantiles(config, spec, width), IQNLearner
    )


ABOUT = About(
    title="IQN",
    family="value_based",
    options="those of DQN",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:TargetPoint",
    small=dict(
        hidden_sizes=(8,), head_hidden_sizes=(6,), batch_size=8, updates_per_call=2, n_step=2,
        prioritized=True, dueling=True, target_period_updates=3, num_tau=6, num_target_tau=5,
        num_act_tau=4, num_cosines=7, noisy="factorised",
    ),
    variants={
        "with gru": dict(
            sequence_length=6, sequence_period=4, burn_in=0, core_size=6, core="gru",
        ),
    },
)  # fmt: skip
