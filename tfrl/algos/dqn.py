"""DQN: one network of action values, trained on replayed n-step transitions.

What it is: Q-learning with a target network (Mnih et al. 2015). Options: double Q-learning (van Hasselt et al. 2016,
eq. 4), dueling heads (Wang et al. 2016, eq. 9), prioritized replay (Schaul et al. 2016), n-step returns (Sutton 1988,
as in Hessel et al. 2018), noisy layers (Fortunato et al. 2018), value rescaling (Pohlen et al. 2018), a memory trained
on replayed sequences with a stored state and burn-in, R2D2 (Kapturowski et al. 2019), and gradients computed by
actors instead of a replay (Mnih et al. 2016). What it is not: distributional (C51, QR-DQN and IQN are).

Spaces: Discrete actions; any observation (images through the Nature CNN, the rest flattened). In a Dict observation,
`action_mask` restricts the actions that are chosen, explored and bootstrapped from; with `action_features`, Q(s, a)
compares the state with the features of each action. Data: transitions, or sequences with a memory.

Differences from the papers: time limits bootstrap; importance weights are normalised by the largest of the batch;
the gradient is clipped by its global norm; Adam replaces RMSProp; only the layers of the heads are noisy.
From R2D2: sequences continue across the ends of episodes, where the state is reset; new sequences get the largest
priority so far; n-step sums are shortened at the end of a sequence; the memory is added to any network.

Read `DQNLearner.update` and `loss` first, then `of_transitions` of `parts/q_steps.py`, the stages of an update in
`parts/q_learning.py`, acting in `parts/q_policy.py` and the heads in `nn/q_network.py`. Sequences (`of_sequences`) and
`parts/async_q.py` can wait.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfrl.agent import About, Agent
from tfrl.algos.parts import actor_gradients as gradients
from tfrl.algos.parts import async_q, q_learning, q_policy, q_steps
from tfrl.algos.parts.q_policy import QPolicy
from tfrl.errors import SettingError
from tfrl.losses import value
from tfrl.nn.body import ModelSettings
from tfrl.nn.q_network import QHeads, QNetworkSettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting
from tfrl.types import EnvSpec, Trajectory, Transition, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(q_learning.Settings, OptimizerSettings, QNetworkSettings, ModelSettings):
    """Settings of DQN; the defaults learn classic control."""

    loss: str = setting(
        "huber", "loss of the temporal-difference error", choices=("huber", "squared")
    )
    huber_delta: float = setting(
        1.0, "error at which the Huber loss becomes linear", above=0.0, idle_if={"loss": "squared"}
    )
    actor_priorities: bool = setting(
        False,
        "actors compute the priority of new transitions from their own action values (Ape-X); false: new "
        "transitions get the largest priority so far",
    )
    sends_gradients: bool = setting(
        False,
        "train without a replay: each actor computes gradients from its own unrolls and sends them to the "
        "learner, as in A3C",
    )
    unroll_length: int = setting(
        10,
        "with sends_gradients: consecutive steps of each environment per gradient",
        unit="env steps",
        minimum=1,
        idle_if={"sends_gradients": False},
    )
    queue_items: int = gradients.queue_items()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sends_gradients:
            async_q.check(self)
        if self.actor_priorities and not self.prioritized:
            raise SettingError(
                "actor_priorities=True with prioritized=False: uniform replay has no priorities; "
                "set prioritized=True"
            )
        if self.actor_priorities and self.her_relabels:
            raise SettingError(
                f"actor_priorities=True with her_relabels={self.her_relabels}: actors have no action values for the "
                "goals of the copies; set actor_priorities=False"
            )
        if self.actor_priorities and self.core != "none":
            raise SettingError(
                f"actor_priorities=True with core={self.core}: new sequences get the largest priority so far; "
                "set actor_priorities=False"
            )


def loss(
    config: Config,
    policy: QPolicy,
    target: QPolicy,
    rows: q_steps.TDBatch,
    seed: tf.Tensor,
) -> q_learning.Loss:
    """(Double) Q-learning of each row: huber(Q(s, a) - y) with y = r + discount Q_target(s', argmax_a Q(s', a)).

    Mnih et al. 2015, algorithm 1; van Hasselt et al. 2016, eq. 4.

    Args:
      config: settings.
      policy, target: online and target policy.
      rows: [n] of them.
      seed: int32 [2], of the noise of noisy layers.

    Returns:
      `Loss`, float32 [n]; the priority is |Q(s, a) - y|.
    """
    # Noise of the layers, drawn anew for each of the three evaluations (Fortunato et al. 2018, eq. 11).
    noise = q_policy.draw_noise(policy.model, seed)
    # Values of the next observation, and which network's argmax chooses among them.
    selector_t = q_t = target.values(rows.target_features_t, rows.obs_t, noise.target)
    if config.double:
        selector_t = policy.values(rows.features_t, rows.obs_t, noise.selector)
    # Q(s, .) of the present weights.
    q_tm1 = policy.values(rows.features_tm1, rows.obs_tm1, noise.online)
    # y = r + discount Q_target(s', a*), without gradient, and the loss of Q(s, a) - y.
    td = value.q_learning(
        q_tm1,
        rows.action_tm1,
        rows.reward_t,
        rows.discount_t,
        q_t,
        selector_t,
        config.huber_delta if config.loss == "huber" else None,
        config.value_rescaling_epsilon,
    )
    priority = tf.abs(td.td_error)
    metrics = {
        "learner/td_error_abs_mean": priority,
        "learner/q_mean": value.select(q_tm1, rows.action_tm1),
    }
    return q_learning.Loss(td.loss, priority, metrics)


class DQNLearner(q_learning.QLearner):
    """DQN: online and target network, optimiser, and the update of a batch."""

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
    """DQN bound to an environment.

    Raises:
      SettingError: the action space is not Discrete, action features do not fit it, or sequences do not fit the replay.
    """

    def initial_priority(
        reward: np.ndarray,
        discount: np.ndarray,
        before: Mapping[str, np.ndarray],
        after: Mapping[str, np.ndarray],
    ) -> np.ndarray:
        # |y - Q(s, a)| with the values of acting time, as the learner would compute it (Horgan et al. 2018).
        epsilon = config.value_rescaling_epsilon
        target = value.backup(reward, discount, after["q_max"], epsilon, np)
        return np.abs(target - before["q_taken"]) + np.float32(config.priority_epsilon)

    agent = q_learning.make(
        "dqn", config, spec, lambda width: QHeads(config, spec, width), DQNLearner,
        initial_priority if config.actor_priorities else None,
        async_q.queue(config) if config.sends_gradients else None,
    )  # fmt: skip
    return async_q.sending_gradients(agent, config, loss) if config.sends_gradients else agent


ABOUT = About(
    title="DQN",
    family="value_based",
    options=(
        "double, dueling, n-step, prioritized replay, hindsight (HER), noisy layers, memory (R2D2), action masks, "
        "action features, Ape-X (an epsilon per actor, priorities from actors, sharded replay), "
        "gradients computed by actors"
    ),
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:TargetPoint",
    small=dict(
        hidden_sizes=(8,), batch_size=8, updates_per_call=2, prioritized=True, dueling=True,
        target_period_updates=3,
    ),
    variants={
        "with lstm": dict(
            sequence_length=6, sequence_period=4, burn_in=2, core_size=6, core="lstm", n_step=2,
        ),
        "sending gradients": dict(
            prioritized=False, sends_gradients=True, unroll_length=5,
        ),
    },
)  # fmt: skip
