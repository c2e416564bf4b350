"""C51: the distribution of the return on fixed atoms; Rainbow with all options on.

What it is: categorical distributional Q-learning (Bellemare et al. 2017, algorithm 1) with the options of DQN: double,
dueling per atom, n-step, prioritized replay, noisy layers. All of them together are Rainbow (Hessel et al. 2018):
`configs/c51/rainbow_cartpole.flags`. What it is not: free of a range; returns beyond `v_min` and `v_max` count as these
limits.

Spaces: as in DQN: Discrete actions, any observation, action masks and action features. Data: transitions, or sequences
with a memory.

Differences from the papers: priorities are KL(target || prediction), as in Rainbow; dueling heads average logits, not
probabilities, over actions. The differences of DQN apply too (time limits, importance weights, clipping, Adam).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrl.agent import About, Agent
from tfrl.algos.parts import q_learning, q_policy, q_steps
from tfrl.algos.parts.q_policy import QPolicy
from tfrl.errors import SettingError
from tfrl.losses import distributional
from tfrl.nn.body import ModelSettings
from tfrl.nn.q_network import QHeads, QNetworkSettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting
from tfrl.types import EnvSpec, Trajectory, Transition, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(q_learning.Settings, OptimizerSettings, QNetworkSettings, ModelSettings):
    """Settings of C51."""

    num_atoms: int = setting(101, "number of atoms of the return distribution", minimum=2)
    v_min: float = setting(-100.0, "return at the first atom", unit="reward")
    v_max: float = setting(100.0, "return at the last atom", unit="reward")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.v_min >= self.v_max:
            raise SettingError(
                f"v_min={self.v_min} with v_max={self.v_max}: expected v_min below v_max"
            )


class Distributions(tf.Module):
    """Distributions of the return of each action.

    Attributes:
      atoms: float32 [K].
      noise: what an exploring evaluation draws.
    """

    def __init__(self, config: Config, spec: EnvSpec, num_features: int):
        super().__init__()
        self.atoms = distributional.support(config.v_min, config.v_max, config.num_atoms)
        self._heads = QHeads(config, spec, num_features, config.num_atoms)
        self.noise = self._heads.noise

    def logits(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Features [B, F] of observations, leaves [B, ...] -> float32 [B, A, K]; `noise` as `QHeads` takes it."""
        return self._heads(features, obs, noise)

    def mean(self, logits: tf.Tensor) -> tf.Tensor:
        """Logits float32 [B, A, K] -> their means, float32 [B, A]."""
        return tf.reduce_sum(tf.nn.softmax(logits) * self.atoms, axis=2)

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """See `QHeads.output_kernels`."""
        return self._heads.output_kernels

    def q_values(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Like `QHeads.q_values`: the means of the distributions, float32 [B, A]; invalid actions have values too."""
        return self.mean(self.logits(features, obs, noise))

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
    """Cross entropy of each row with the projected target distribution (Bellemare et al. 2017, algorithm 1).

    Args:
      config: settings.
      policy, target: online and target policy.
      rows: [n] of them.
      seed: int32 [2], of the noise of noisy layers.

    Returns:
      `Loss`, float32 [n]; the priority is KL(target || prediction).
    """
    # Noise of the layers, drawn anew for each of the three evaluations (Fortunato et al. 2018, eq. 11).
    model, noise = policy.model, q_policy.draw_noise(policy.model, seed)
    # Distributions of the next observation [n, A, K], and the means whose argmax chooses the action.
    logits_t = target.model.logits(rows.target_features_t, rows.obs_t, noise.target)
    if config.double:
        selector_t = policy.values(rows.features_t, rows.obs_t, noise.selector)
    else:
        selector_t = target.masked(model.mean(logits_t), rows.obs_t)
    # r + discount z on the atoms, and its cross entropy with the distribution of the action taken.
    out = distributional.categorical_q_learning(
        model.logits(rows.features_tm1, rows.obs_tm1, noise.online),
        rows.action_tm1,
        rows.reward_t,
        rows.discount_t,
        logits_t,
        selector_t,
        model.atoms,
        config.value_rescaling_epsilon,
    )
    priority = tf.maximum(out.kl, 0.0)  # rounding may leave it a little below
    metrics = {
        "learner/td_error_abs_mean": tf.abs(out.td_error),
        "learner/q_mean": tf.reduce_sum(out.prediction * model.atoms, axis=1),
        "learner/kl_target": priority,
        "learner/edge_mass": out.target[:, 0] + out.target[:, -1],
    }
    return q_learning.Loss(out.loss, priority, metrics)


class C51Learner(q_learning.QLearner):
    """C51: online and target network, optimiser, and the update of a batch."""

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
    """C51 bound to an environment.

    Raises:
      SettingError: the action space is not Discrete, action features do not fit it, or sequences do not fit the replay.
    """
    return q_learning.make(
        "c51", config, spec, lambda width: Distributions(config, spec, width), C51Learner
    )


ABOUT = About(
    title="C51",
    family="value_based",
    options="those of DQN; all together are Rainbow",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:TargetPoint",
    small=dict(
        hidden_sizes=(8,), head_hidden_sizes=(6,), batch_size=8, updates_per_call=2, n_step=2,
        prioritized=True, dueling=True, target_period_updates=3, num_atoms=11, v_min=-5.0,
        v_max=5.0, noisy="factorised",
    ),
)  # fmt: skip
