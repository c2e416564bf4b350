"""PPO: several epochs of minibatch updates per batch of unrolls, kept close to the policy that acted.

What it is: the clipped surrogate (Schulman et al. 2017, eq. 7), the adaptive KL penalty (their section 4), or both;
generalised advantage estimation or Monte Carlo returns (lambda 1); value clipping; shuffled minibatches; an early stop
by KL. What it is not: asynchronous; each actor waits for the weights that its last unroll has trained (not so in APPO).

Spaces: Discrete, MultiDiscrete, MultiBinary, Box, and Dict or Tuple of them; any observation; action masks; memory.
Teams act as one agent, or by a network that all agents share (independent PPO, de Witt et al. 2020), with a value
function of the state as an option (MAPPO, Yu et al. 2022), see `nn/shared_policy.py`.
Data: unrolls of all environments of an actor, each trained on once.

Differences from the paper: the value loss has no factor 1/2, so `value_coefficient` 0.5 is Stable-Baselines3's; policy
and value function have separate networks unless `shared_torso` is set; time limits bootstrap; rows that do not fill a
minibatch are left out, different rows in each epoch. With a memory, minibatches consist of whole unrolls.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrl.agent import About, Agent, Queue, Unroll
from tfrl.algos.parts import policy_gradient
from tfrl.errors import SettingError
from tfrl.losses import policy as losses
from tfrl.nn.actor_critic import ActorCriticSettings
from tfrl.nn.body import ModelSettings
from tfrl.nn.shared_policy import TeamPolicySettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting
from tfrl.types import EnvSpec, Trajectory, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(
    policy_gradient.Settings,
    OptimizerSettings,
    ActorCriticSettings,
    TeamPolicySettings,
    ModelSettings,
):
    """Settings of PPO."""

    value_coefficient: float = policy_gradient.value_coefficient(0.5)
    gae_lambda: float = setting(
        0.95,
        "lambda of GAE; 1: rewards to the end of the unroll plus the value there",
        minimum=0.0,
        maximum=1.0,
    )
    epochs: int = setting(10, "number of passes over each batch", minimum=1)
    minibatches: int = setting(4, "number of minibatches per epoch, one update each", minimum=1)
    batch_env_steps: int = setting(
        0, "minimum batch size; 0: one unroll from each actor", unit="env steps", minimum=0
    )
    clip: float | None = setting(
        0.2,
        "the surrogate is clipped where the probability ratio leaves [1 - clip, 1 + clip]; none: no clipping",
        above=0.0,
    )
    clip_final: float | None = setting(
        None,
        "value of clip at the end of the learning rate's decay, reached linearly; none: constant",
        minimum=0.0,
    )
    value_clip: float | None = setting(
        None, "maximum change of a value in the value loss; none: no limit", above=0.0
    )
    kl_coefficient: float = setting(
        0.0,
        "initial weight of the penalty KL(old || new), adapted to kl_target; 0: no penalty",
        minimum=0.0,
    )
    kl_target: float = setting(
        0.01,
        "KL divergence that the penalty's weight is adapted to",
        above=0.0,
        idle_if={"kl_coefficient": 0.0},
    )
    kl_stop: float | None = setting(
        None,
        "skip the remaining updates of a batch once an update's KL exceeds this; none: never",
        above=0.0,
    )
    normalize_advantage: str = setting(
        "minibatch",
        "standardise advantages over the batch, over each minibatch, or not at all",
        choices=("batch", "minibatch", "none"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip is None and not self.kl_coefficient:
            raise SettingError(
                "clip=none with kl_coefficient=0: nothing would hold the policy; give one of them"
            )
        if self.clip is None and self.clip_final is not None:
            raise SettingError(
                f"clip=none with clip_final={self.clip_final}: there is no limit that could decay; give clip"
            )
        if self.clip_final is not None and self.learning_rate_final is None:
            raise SettingError(
                f"clip_final={self.clip_final} with learning_rate_final=none: clip changes where the learning rate's "
                "decay does; give learning_rate_final and the length of its decay"
            )


class PPOLearner(policy_gradient.PolicyLearner):
    """Policy with value function, optimiser, and the updates of a batch."""

    def __init__(self, config: Config, spec: EnvSpec):
        super().__init__(config, spec)
        self._measures_kl = bool(config.kl_coefficient) or config.kl_stop is not None
        # KL of the last updates of a batch, as many as an epoch has; equal on all replicas.
        self._kl = policy_gradient.shared_variable(tf.zeros([config.minibatches]), "kl")
        self._updates = policy_gradient.shared_variable(tf.constant(0), "updates_of_batch")
        self._kl_coefficient = policy_gradient.shared_variable(
            tf.constant(config.kl_coefficient), "kl_coefficient"
        )

    def prepare(self, batch: Trajectory) -> policy_gradient.TrainBatch:
        """Implements `Learner.prepare`: the batch with GAE advantages, standardised if configured for the batch."""
        config = self._config
        # Advantages A_t by GAE (Schulman et al. 2016, eq. 16) and targets A_t + V_t, fixed for all epochs.
        rows = self._training.prepare(batch, config.gae_lambda)
        # Mean 0 and deviation 1 over the whole batch.
        if config.normalize_advantage == "batch":
            rows = rows._replace(advantages=policy_gradient.standardised(rows, False))
        return rows

    def update(self, rows: policy_gradient.TrainBatch, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one step on a minibatch of surrogate, value loss, entropy bonus and KL penalty.

        `seed` is not read, and there are no priorities.
        """
        del seed
        config, policy, training = self._config, self.policy, self._training
        # Advantages with mean 0 and deviation 1 over the minibatch.
        if config.normalize_advantage == "minibatch":
            rows = rows._replace(advantages=policy_gradient.standardised(rows, True))
        # Half the width of the range without clipping, which may decay with the learning rate.
        clip = None
        if config.clip is not None:
            clip = training.decayed(config.clip, config.clip_final)
        with tf.GradientTape() as tape:
            # log pi, H and V under the present weights; everything in `old` is a constant of acting time.
            new, old = policy_gradient.evaluate(policy, rows)
            metrics = {"learner/entropy": new.entropy}
            # Surrogate -min(r A, clip(r, 1 - clip, 1 + clip) A), or without clipping -r A, r = pi / pi_old.
            if clip is None:
                surrogate = -losses.ratio(new.log_prob, old.log_prob) * old.advantages
            else:
                clipped = losses.ppo_surrogate(new.log_prob, old.log_prob, old.advantages, clip)
                surrogate = clipped.loss
                metrics["learner/clipped_ratio"] = tf.cast(clipped.clipped, tf.float32)
            # Value loss c_v (V - target)^2, without 1/2, and the entropy bonus - c_e H.
            value = losses.ppo_value(new.values, old.values, old.targets, config.value_clip)
            each = surrogate + config.value_coefficient * value
            each -= config.entropy_coefficient * new.entropy
            # Penalty beta KL(pi_old || pi).
            if self._measures_kl:
                kl = policy.distribution.kl(old.params, new.params)
            else:  # an estimate that costs nothing (Schulman 2020, "k3")
                log_ratio = tf.stop_gradient(new.log_prob - old.log_prob)
                kl = tf.exp(log_ratio) - 1.0 - log_ratio
            if config.kl_coefficient:
                each += self._kl_coefficient * kl
            # Mean over valid steps.
            metrics.update(
                {"learner/policy_loss": surrogate, "learner/value_loss": value, "learner/kl": kl}
            )
            steps = policy_gradient.PolicyLoss(each, metrics, old.valid, old.values, old.targets)
            loss = policy_gradient.batch_loss(policy, steps)
        # One step of the optimiser along the clipped gradient.
        metrics = training.minimise(tape, loss, steps)
        # The KL of this update, for `stop` and `finish`.
        if self._measures_kl:
            self._remember(metrics["learner/kl"])
        if config.kl_coefficient:
            metrics["learner/kl_coefficient"] = tf.identity(self._kl_coefficient)
        return UpdateOutput(metrics, None)

    def stop(self) -> tf.Tensor:
        """Implements `Learner.stop`: the newest update went too far, by `kl_stop`; bool scalar."""
        if self._config.kl_stop is None:
            return tf.constant(False)
        newest = (self._updates - 1) % self._config.minibatches
        return self._kl[newest] > self._config.kl_stop

    def finish(self) -> None:
        """Implements `Learner.finish`: adapts the weight of the KL penalty to the mean KL of the last epoch.

        If `kl_stop` ended the first epoch early, only its updates count.
        """
        if self._config.kl_coefficient:
            count = tf.minimum(self._updates, self._config.minibatches)
            kl = tf.reduce_sum(self._kl) / tf.cast(count, tf.float32)
            target = self._config.kl_target
            self._kl_coefficient.assign(losses.kl_coefficient(self._kl_coefficient, kl, target))
        self._kl.assign(tf.zeros_like(self._kl))  # the next batch starts without them
        self._updates.assign(0)

    def _remember(self, kl: tf.Tensor) -> None:
        place = self._updates % self._config.minibatches
        one_hot = tf.one_hot(place, self._config.minibatches, True, False, dtype=tf.bool)
        self._kl.assign(tf.where(one_hot, kl, self._kl))
        self._updates.assign_add(1)


def make(config: Config, spec: EnvSpec) -> Agent:
    """PPO bound to an environment.

    Raises:
      SettingError: settings that do not fit its spaces.
    """
    queue = Queue(
        Unroll(config.unroll_length, config.discount),
        policy_gradient.QUEUE_ITEMS,
        batch_env_steps=config.batch_env_steps,
        epochs=config.epochs,
        minibatches=config.minibatches,
        actors_wait=True,
    )
    return policy_gradient.make_agent("ppo", config, spec, lambda: PPOLearner(config, spec), queue)


ABOUT = About(
    title="PPO",
    family="policy_gradient",
    options=(
        "clipping, adaptive KL penalty, early stop, GAE, value clipping, memory, every action "
        "space, teams (independent PPO, MAPPO)"
    ),
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:IntegerPoint",
    small=dict(
        hidden_sizes=(8,), unroll_length=5, core="gru", core_size=6, normalize_observations=True,
        normalize_rewards=True, learning_rate=1e-2, epochs=2, minibatches=2, kl_coefficient=0.2,
    ),
    variants={
        "team": dict(
            env="tfrl/TwoStep-v0", core="none", team_policy="independent", central_critic=True,
            agent_specific_state=True,
        ),
    },
)  # fmt: skip
