"""DDPG: a deterministic policy that climbs the values of a critic, both trained on replayed transitions.

What it is: deep deterministic policy gradients (Lillicrap et al. 2016, arXiv 1509.02971). Options: prioritized replay,
n-step returns, Huber loss, Gaussian or Ornstein-Uhlenbeck noise, random actions at the start, soft or hard moves of the
targets, several critics, layer normalisation, a memory trained on replayed sequences, and with several actors a ladder
of noise and priorities from actors (Ape-X, Horgan et al. 2018). What it is not: TD3, which takes the smaller of two
critics, smooths the target's action and delays the policy; its policy has no entropy, which SAC's has.

Spaces: actions from a Box with finite limits; any observation (images through a CNN, the rest flattened). Data:
transitions, or sequences with a memory.

Differences from the paper: time limits bootstrap; actions are scaled to [-1, 1] inside, whatever the limits; noise is
Gaussian by default; the networks have two layers of 256 units and no batch normalisation; critics see the action in the
first layer; no weight decay. Each environment has a process of noise of its own, which starts at 0 with every episode.

Read `DDPGLearner` first, then the stages of an update in `parts/actor_critic_replay.py` and acting in
`parts/deterministic_policy.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from tfrl.agent import About, Agent
from tfrl.algos.parts import actor_critic_replay as family
from tfrl.algos.parts import deterministic_policy
from tfrl.algos.parts.actor_critic_replay import ActorCriticLearner
from tfrl.losses import actor_critic, value
from tfrl.nn import bounded
from tfrl.nn.body import ModelSettings
from tfrl.nn.critics import CriticSettings
from tfrl.optim import apply
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import with_default
from tfrl.types import EnvSpec, Trajectory, Transition, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(deterministic_policy.Settings, OptimizerSettings, ModelSettings):
    """Settings of DDPG."""

    num_critics: int = with_default(CriticSettings, "num_critics", 1)
    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 1e-3)


class DDPGLearner(ActorCriticLearner):
    """DDPG: the update of the critic, and that of the policy after it."""

    def update(self, batch: Transition | Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one step of the critic on the weighted mean loss of the batch's rows.

        Args:
          batch: leaves [b, ...], or with a memory [T, b, ...].
          seed: int32 [2], of dropout.
        """
        config, policy = self._config, self.policy
        # w_i: importance weights of prioritized replay, and which rows are no padding.
        weights = self.row_weights(batch)
        with tf.GradientTape() as tape:
            # Rows (s, a, r, discount, s') with the features of all networks.
            rows = family.rows(
                config, policy, self.critics, self.target_critics, self.target_policy, batch
            )
            # y = r + discount Q'(s', mu'(s')), by the targets; the mean of several critics.
            action_t = self.target_policy.actions(rows.policy_features_t)
            q_t = tf.reduce_mean(self.target_critics(rows.target_features_t, action_t), axis=0)
            target = value.backup(rows.reward_t, rows.discount_t, q_t[:, 0])
            # Q(s, a) of the action taken, and the loss of Q(s, a) - y.
            action_tm1 = policy.to_unit(rows.action_tm1)
            q_tm1 = self.critics(rows.features_tm1, action_tm1, seed)[..., 0]
            td = actor_critic.critics(q_tm1, target, config.loss_delta)
            # Mean of w_i loss_i over the rows of all replicas, penalties, and what a user's network adds.
            total, added = weights.mean(weights.importance * td.loss), self.extra_critic_loss()
            if added is not None:
                total += added
        metrics = self.minimise_critics(tape, total)
        return self.output(batch, weights, td.td_error, q_tm1, added, metrics)

    def update_policy(
        self, batch: Transition | Trajectory, seed: tf.Tensor
    ) -> Mapping[str, tf.Tensor]:
        """Implements `ActorCriticLearner.update_policy`: one step up the critic's values, the loss is -Q(s, mu(s))."""
        weights = self.row_weights(batch)
        with tf.GradientTape() as tape:
            states = family.states(self._config, self.policy, self.critics, batch)
            # The gradient passes through the action into the policy, and no critic changes.
            action = self.policy.actions(states.policy_features)
            q = tf.reduce_mean(self.critics(states.critic_features, action), axis=0)[:, 0]
            total, added = weights.mean(-q), self.extra_policy_loss()
            if added is not None:
                total += added
        metrics = self.minimise_policy(tape, total)
        saturated = weights.mean(bounded.saturated(action))
        return {**metrics, "learner/saturated_ratio": apply.reduce_sum(saturated)}


def make(config: Config, spec: EnvSpec) -> Agent:
    """DDPG bound to an environment.

    Raises:
      SettingError: the action space is no Box with finite limits, or sequences do not fit the replay.
    """
    return deterministic_policy.make(
        "ddpg",
        config,
        spec,
        lambda *builders: DDPGLearner(*builders, with_target_policy=True),
        combine=lambda q: tf.reduce_mean(q, axis=0),
    )


ABOUT = About(
    title="DDPG",
    family="continuous",
    options=(
        "Gaussian or Ornstein-Uhlenbeck noise, prioritized replay, n-step, Huber loss, memory, Ape-X (a ladder of "
        "noise, priorities from actors, sharded replay)"
    ),
    env="tfrl.testing.fakes:TargetPoint",
    refused="CartPole-v1",
    small=dict(
        policy_hidden_sizes=(8,), critic_hidden_sizes=(8,), batch_size=8, updates_per_call=2,
        prioritized=True, exploration_noise="ou", replay_capacity=1000, l2_penalty=1e-3,
    ),
    variants={
        "with lstm": dict(
            sequence_length=6, sequence_period=4, burn_in=2, core_size=6, core="lstm", n_step=2,
        ),
    },
)  # fmt: skip
