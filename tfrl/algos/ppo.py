"""PPO: several epochs of minibatch updates per batch of unrolls, kept close to the policy that acted.

What it is: the clipped surrogate (Schulman et al. 2017, eq. 7), the adaptive KL penalty (their section 4), or both;
generalised advantage estimation or Monte Carlo returns (lambda 1); value clipping; shuffled minibatches; an early stop
by KL. What it is not: asynchronous; each actor waits for the weights that its last unroll has trained (not so in APPO).

Spaces: Discrete, MultiDiscrete, MultiBinary, Box, and Dict or Tuple of them; any observation; action masks; memory.
Data: unrolls of all environments of an actor, each trained on once.

Differences from the paper: the value loss has no factor 1/2, so `value_coefficient` 0.5 is Stable-Baselines3's; policy
and value function have separate networks unless `shared_torso` is set; time limits bootstrap; rows that do not fill a
minibatch are left out, different rows in each epoch. With a memory, minibatches consist of whole unrolls.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrl.agent import About, Agent, Learner, Queue, Unroll
from tfrl.algos.parts import policy_gradient as on_policy
from tfrl.errors import SettingError
from tfrl.losses import policy as losses
from tfrl.nn.actor_critic import ActorCriticSettings
from tfrl.nn.body import ModelSettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting
from tfrl.types import EnvSpec, Trajectory, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(on_policy.Settings, OptimizerSettings, ActorCriticSettings, ModelSettings):
    """Settings of PPO."""

    value_coefficient: float = on_policy.value_coefficient(0.5)
    gae_lambda: float = setting(
        0.95, "lambda of GAE; 1: Monte Carlo returns", minimum=0.0, maximum=1.0
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


class PPOLearner(Learner):
    """Policy with value function, optimiser, and the updates of a batch."""

    def __init__(self, config: Config, spec: EnvSpec):
        super().__init__()
        self._config = config
        self._training = on_policy.Training(config, spec)
        self.policy, self.env_steps = self._training.policy, self._training.env_steps
        self.adopt, self.networks = self._training.adopt, self._training.networks
        self._measures_kl = bool(config.kl_coefficient) or config.kl_stop is not None
        # KL of the last updates of a batch, as many as an epoch has; equal on all replicas.
        self._kl = on_policy.shared_variable(tf.zeros([config.minibatches]), "kl")
        self._updates = on_policy.shared_variable(tf.constant(0), "updates_of_batch")
        self._kl_coefficient = on_policy.shared_variable(
            tf.constant(config.kl_coefficient), "kl_coefficient"
        )

    def prepare(self, batch: Trajectory) -> on_policy.Rows:
        """Implements `Learner.prepare`: the batch with GAE advantages, standardised if configured for the batch."""
        config = self._config
        rows = self._training.prepare(batch, config.gae_lambda)
        if config.normalize_advantage == "batch":
            rows = rows._replace(advantages=on_policy.standardised(rows, False))
        return rows

    def update(self, rows: on_policy.Rows, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one step on a minibatch of surrogate, value loss, entropy bonus and KL penalty.

        `seed` is not read, and there are no priorities.
        """
        del seed
        config, policy = self._config, self.policy
        if config.normalize_advantage == "minibatch":
            rows = rows._replace(advantages=on_policy.standardised(rows, True))
        clip = None
        if config.clip is not None:
            clip = self._training.decayed(config.clip, config.clip_final)

        def compute() -> on_policy.Step:
            new, old = on_policy.evaluate(policy, rows)
            parts = {"learner/entropy": new.entropy}
            if clip is None:
                surrogate = -losses.ratio(new.log_prob, old.log_prob) * old.advantages
            else:
                clipped = losses.ppo_surrogate(new.log_prob, old.log_prob, old.advantages, clip)
                surrogate = clipped.loss
                parts["learner/clipped_ratio"] = tf.cast(clipped.clipped, tf.float32)
            value = losses.ppo_value(new.values, old.values, old.targets, config.value_clip)
            loss = surrogate + config.value_coefficient * value
            loss -= config.entropy_coefficient * new.entropy
            if self._measures_kl:
                kl = policy.distribution.kl(old.params, new.params)
            else:  # an estimate that costs nothing (Schulman 2020, "k3")
                log_ratio = tf.stop_gradient(new.log_prob - old.log_prob)
                kl = tf.exp(log_ratio) - 1.0 - log_ratio
            if config.kl_coefficient:
                loss += self._kl_coefficient * kl
            parts.update(
                {"learner/policy_loss": surrogate, "learner/value_loss": value, "learner/kl": kl}
            )
            return on_policy.Step(loss, parts, old.valid, old.values, old.targets)

        metrics = self._training.minimise(compute)
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

        Of fewer updates, where `kl_stop` ended the first epoch: to theirs.
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
        on_policy.QUEUE_ITEMS,
        batch_env_steps=config.batch_env_steps,
        epochs=config.epochs,
        minibatches=config.minibatches,
        actors_wait=True,
    )
    return on_policy.make_agent("ppo", config, spec, lambda: PPOLearner(config, spec), queue)


ABOUT = About(
    title="PPO",
    family="policy_gradient",
    options=(
        "clipping, adaptive KL penalty, early stop, GAE, value clipping, memory, every action "
        "space"
    ),
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:IntegerPoint",
    small=dict(
        hidden_sizes=(8,), unroll_length=5, core="gru", core_size=6, normalize_observations=True,
        normalize_rewards=True, learning_rate=1e-2, epochs=2, minibatches=2, kl_coefficient=0.2,
    ),
)  # fmt: skip
