"""TD3: DDPG with twin critics, a smoothed target and a delayed policy.

What it is: twin delayed deep deterministic policy gradients (Fujimoto et al. 2018, arXiv 1802.09477). It changes three
things of DDPG: the target takes the smallest value of two critics (eq. 10), noise is added to the action of the target
policy (eq. 14), and policy and targets move after every second update of the critics (section 5.2). Options are those
of DDPG. What it is not: its policy has no entropy, which SAC's has.

Spaces: actions from a Box with finite limits; any observation (images through a CNN, the rest flattened). Data:
transitions, or sequences with a memory.

Differences from the paper: time limits bootstrap; actions and all noise are on the scale [-1, 1] inside, whatever the
limits (the paper's code has noise in units of the environment); batches have 256 transitions and both layers of a
network 256 units.

Read `TD3Learner` first, then the stages of an update in `parts/actor_critic_replay.py` and acting in
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
from tfrl.nn.critics import split_seed
from tfrl.optim import apply
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec, Trajectory, Transition, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(deterministic_policy.Settings, OptimizerSettings, ModelSettings):
    """Settings of TD3."""

    target_noise: float = setting(
        0.2,
        "standard deviation of the noise on the target policy's action, of actions scaled to [-1, 1]; 0: no smoothing",
        minimum=0.0,
    )
    target_noise_clip: float = setting(
        0.5,
        "largest magnitude of the noise on the target policy's action",
        minimum=0.0,
        idle_if={"target_noise": 0.0},
    )

    policy_period_updates: int = with_default(family.Settings, "policy_period_updates", 2)
    target_period_updates: int = with_default(family.Settings, "target_period_updates", 2)
    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 1e-3)


class TD3Learner(ActorCriticLearner):
    """TD3: the update of the critics, and after every second one that of the policy."""

    def update(self, batch: Transition | Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one step of the critics on the weighted mean loss of the batch's rows.

        Args:
          batch: leaves [b, ...], or with a memory [T, b, ...].
          seed: int32 [2], of the noise on the target's action and of dropout.
        """
        config, policy = self._config, self.policy
        noise_seed, dropout_seed = split_seed(seed, 2)
        # w_i: importance weights of prioritized replay, and which rows are no padding.
        weights = self.row_weights(batch)
        with tf.GradientTape() as tape:
            # Rows (s, a, r, discount, s') with the features of all networks.
            rows = family.rows(
                config, policy, self.critics, self.target_critics, self.target_policy, batch
            )
            # a' = clip(mu'(s') + clip(noise, -c, c), -1, 1): target policy smoothing.
            action_t = self.target_policy.actions(rows.policy_features_t)
            if config.target_noise:
                count, size = action_t.shape
                normal = apply.replica_rows(
                    lambda n: tf.random.stateless_normal([n, size], noise_seed), count
                )
                noise = config.target_noise * normal
                action_t = actor_critic.smooth_action(action_t, noise, config.target_noise_clip)
            # y = r + discount min_j Q'_j(s', a'): clipped double Q-learning.
            q_t = tf.reduce_min(self.target_critics(rows.target_features_t, action_t), axis=0)
            target = value.backup(rows.reward_t, rows.discount_t, q_t[:, 0])
            # Q_j(s, a) of the action taken, and the sum of the losses of Q_j(s, a) - y.
            action_tm1 = policy.to_unit(rows.action_tm1)
            q_tm1 = self.critics(rows.features_tm1, action_tm1, dropout_seed)[..., 0]
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
        """Implements `ActorCriticLearner.update_policy`: one step up the first critic, the loss is -Q_1(s, mu(s))."""
        weights = self.row_weights(batch)
        with tf.GradientTape() as tape:
            states = family.states(self._config, self.policy, self.critics, batch)
            # The gradient passes through the action into the policy, and no critic changes.
            action = self.policy.actions(states.policy_features)
            q = self.critics.first(states.critic_features, action)[:, 0]
            total, added = weights.mean(-q), self.extra_policy_loss()
            if added is not None:
                total += added
        metrics = self.minimise_policy(tape, total)
        saturated = weights.mean(bounded.saturated(action))
        return {**metrics, "learner/saturated_ratio": apply.reduce_sum(saturated)}


def make(config: Config, spec: EnvSpec) -> Agent:
    """TD3 bound to an environment.

    Raises:
      SettingError: the action space is no Box with finite limits, or sequences do not fit the replay.
    """
    return deterministic_policy.make(
        "td3",
        config,
        spec,
        lambda *builders: TD3Learner(*builders, with_target_policy=True),
        combine=lambda q: tf.reduce_min(q, axis=0),
    )


ABOUT = About(
    title="TD3",
    family="continuous",
    options="those of DDPG",
    env="tfrl.testing.fakes:TargetPoint",
    refused="CartPole-v1",
    small=dict(
        policy_hidden_sizes=(8,), critic_hidden_sizes=(8,), batch_size=8, updates_per_call=2,
        replay_capacity=1000, critic_layer_norm=True,
    ),
)  # fmt: skip
