"""QR-DQN: quantiles of the return at fixed fractions.

What it is: quantile regression Q-learning (Dabney et al. 2018a, algorithm 1): for each action, `num_quantiles` outputs
are the quantiles at the midpoints of equal parts of [0, 1]. Options as in DQN: double, dueling per quantile, n-step,
prioritized replay, noisy layers. What it is not: tied to a range of returns (C51 is) or to sampled fractions (IQN is).

Spaces: as in DQN: Discrete actions, any observation, action masks and action features. Data: transitions, or sequences
with a memory.

Differences from the paper: the priority of a transition is its loss. The differences of DQN apply too (time limits,
importance weights, clipping).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrl.agent import About, Agent
from tfrl.algos.parts import q_learning, q_policy, q_steps
from tfrl.algos.parts.q_policy import QPolicy
from tfrl.losses import distributional
from tfrl.nn.body import ModelSettings
from tfrl.nn.q_network import QHeads, QNetworkSettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting
from tfrl.types import EnvSpec, Trajectory, Transition, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(q_learning.Settings, OptimizerSettings, QNetworkSettings, ModelSettings):
    """Settings of QR-DQN."""

    num_quantiles: int = setting(25, "number of quantiles per action", minimum=1)
    huber_delta: float = setting(
        1.0, "error at which the quantile Huber loss becomes linear (kappa)", above=0.0
    )


class Quantiles(tf.Module):
    """Quantiles of the return of each action.

    Attributes:
      tau: what each output is the quantile of, float32 [K].
      noise: what an exploring evaluation draws.
    """

    def __init__(self, config: Config, spec: EnvSpec, num_features: int):
        super().__init__()
        self.tau = distributional.midpoints(config.num_quantiles)
        self._heads = QHeads(config, spec, num_features, config.num_quantiles)
        self.noise = self._heads.noise

    def quantiles(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Features [B, F] of observations, leaves [B, ...] -> float32 [B, A, K]; `noise` as `QHeads` takes it."""
        return self._heads(features, obs, noise)

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """See `QHeads.output_kernels`."""
        return self._heads.output_kernels

    def q_values(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Like `QHeads.q_values`: the means of the quantiles, float32 [B, A]; invalid actions have values too."""
        return tf.reduce_mean(self.quantiles(features, obs, noise), axis=2)

    def draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor] | None:
        """Like `QHeads.draw`: noise for a batch from a seed int32 [2], None without noisy layers."""
        return self._heads.draw(seed)


def loss(
    config: Config,
    policy: QPolicy,
    target: QPolicy,
    rows: q_steps.TDBatch,
    seed: tf.Tensor,
) -> q_learning.Loss:
    """Quantile regression of each row (Dabney et al. 2018a, algorithm 1).

    Args:
      config: settings.
      policy, target: online and target policy.
      rows: [n] of them.
      seed: int32 [2], of the noise of noisy layers.

    Returns:
      `Loss`, float32 [n]; the priority is the loss itself.
    """
    # Noise of the layers, drawn anew for each of the three evaluations (Fortunato et al. 2018, eq. 11).
    model, noise = policy.model, q_policy.draw_noise(policy.model, seed)
    # Quantiles of the next observation [n, A, K], and the means whose argmax chooses the action.
    quantiles_t = target.model.quantiles(rows.target_features_t, rows.obs_t, noise.target)
    if config.double:
        selector_t = policy.values(rows.features_t, rows.obs_t, noise.selector)
    else:
        selector_t = target.masked(tf.reduce_mean(quantiles_t, axis=2), rows.obs_t)
    # Quantile Huber loss of each pair of a prediction and r + discount z' of the chosen action.
    out = distributional.quantile_q_learning(
        model.quantiles(rows.features_tm1, rows.obs_tm1, noise.online),
        tf.constant(model.tau),
        rows.action_tm1,
        rows.reward_t,
        rows.discount_t,
        quantiles_t,
        selector_t,
        config.huber_delta,
        config.value_rescaling_epsilon,
    )
    metrics = {
        "learner/td_error_abs_mean": tf.abs(out.td_error),
        "learner/q_mean": tf.reduce_mean(out.prediction, axis=1),
    }
    return q_learning.Loss(out.loss, out.loss, metrics)


class QRDQNLearner(q_learning.QLearner):
    """QR-DQN: online and target network, optimiser, and the update of a batch."""

    def update(self, batch: Transition | Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one optimiser step on the weighted mean loss of the batch's rows.

        Args:
          batch: leaves [b, ...], or with a memory [T, b, ...].
          seed: int32 [2], of the noise of noisy layers.
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
    """QR-DQN bound to an environment.

    Raises:
      SettingError: the action space is not Discrete, action features do not fit it, or sequences do not fit the replay.
    """
    return q_learning.make(
        "qr_dqn", config, spec, lambda width: Quantiles(config, spec, width), QRDQNLearner
    )


ABOUT = About(
    title="QR-DQN",
    family="value_based",
    options="those of DQN",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:TargetPoint",
    small=dict(
        hidden_sizes=(8,), head_hidden_sizes=(6,), batch_size=8, updates_per_call=2, n_step=2,
        prioritized=True, dueling=True, target_period_updates=3, num_quantiles=5,
        noisy="independent",
    ),
)  # fmt: skip
