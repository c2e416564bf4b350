"""APPO: PPO's clipped surrogate on IMPALA's architecture.

What it is: asynchronous actors and V-trace as in IMPALA (Espeholt et al. 2018), with PPO's surrogate (Schulman et al.
2017, eq. 7) around a target policy that is copied periodically, and optionally an adaptive KL penalty towards it, as in
PPO. It follows RLlib's algorithm of 2019. What it is not: synchronous (PPO).

Spaces: Discrete, MultiDiscrete, MultiBinary, Box, and Dict or Tuple of them; any observation; action masks; memory.
Data: unrolls of all environments of an actor, through a bounded queue.

Differences from RLlib: the interval between copies of the target counts updates; losses are means over valid steps;
without V-trace, advantages are GAE with the learner's values.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrl.agent import About, Agent, Learner, Network, Periodic
from tfrl.algos.parts import policy_gradient as on_policy
from tfrl.losses import policy as losses
from tfrl.nn.actor_critic import ActorCritic, ActorCriticSettings
from tfrl.nn.body import ModelSettings
from tfrl.nn.target import copy_target
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting
from tfrl.types import EnvSpec, Trajectory, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(
    on_policy.AsyncSettings,
    on_policy.Settings,
    OptimizerSettings,
    ActorCriticSettings,
    ModelSettings,
):
    """Settings of APPO."""

    clip: float = setting(
        0.4,
        "the surrogate is clipped where the probability ratio leaves [1 - clip, 1 + clip]",
        above=0.0,
    )
    target_period_updates: int = setting(
        1, "interval between copies to the target policy", unit="updates", minimum=1
    )
    kl_coefficient: float = setting(
        0.0,
        "initial weight of the penalty KL(target || new), adapted to kl_target; 0: no penalty",
        minimum=0.0,
    )
    kl_target: float = setting(
        0.01,
        "KL divergence that the penalty's weight is adapted to",
        above=0.0,
        idle_if={"kl_coefficient": 0.0},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        on_policy.check_async(self)


class AppoLearner(Learner):
    """Policy with value function, target policy, optimiser, and the update of a batch of unrolls."""

    def __init__(self, config: Config, spec: EnvSpec):
        super().__init__()
        self._config = config
        self._training = on_policy.Training(config, spec)
        self.policy, self.env_steps = self._training.policy, self._training.env_steps
        self.adopt = self._training.adopt
        self.target = ActorCritic(config, spec)
        copy_target(self.target, self.policy)
        self._kl = on_policy.shared_variable(tf.constant(config.kl_target), "kl")
        self._kl_coefficient = on_policy.shared_variable(
            tf.constant(config.kl_coefficient), "kl_coefficient"
        )

    def update(self, batch: Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: PPO's surrogate around the target policy (without V-trace: around the one that
        acted), a value loss, an entropy bonus and the KL penalty.

        Statistics take in the batch: rewards before the step, observations after it. `seed` is not read, and there are
        no priorities.
        """
        del seed
        config, policy = self._config, self.policy
        batch = batch._replace(reward=self._training.statistics.reward(batch))
        old, _ = on_policy.evaluate_batch(self.target, batch, training=False)
        behaviour = batch.extras["log_prob"]

        def compute() -> on_policy.Step:
            new, values_next = on_policy.evaluate_batch(policy, batch)
            trace = on_policy.off_policy(config, batch, new, old.log_prob, values_next)
            if config.vtrace:
                clipped = losses.appo_surrogate(
                    new.log_prob, old.log_prob, behaviour, trace.advantages, config.clip
                )
            else:
                clipped = losses.ppo_surrogate(
                    new.log_prob, behaviour, trace.advantages, config.clip
                )
            value = 0.5 * (new.values - trace.targets) ** 2
            kl = policy.distribution.kl(old.params, new.params)
            loss = clipped.loss + config.value_coefficient * value
            loss -= config.entropy_coefficient * new.entropy
            if config.kl_coefficient:
                loss += self._kl_coefficient * kl
            parts = {
                "learner/policy_loss": clipped.loss,
                "learner/value_loss": value,
                "learner/entropy": new.entropy,
                "learner/kl": kl,
                "learner/clipped_ratio": tf.cast(clipped.clipped, tf.float32),
                "learner/rho": trace.rho,
            }
            return on_policy.Step(loss, parts, batch.valid, new.values, trace.targets)

        metrics = self._training.minimise(compute)
        if config.kl_coefficient:
            self._kl.assign(metrics["learner/kl"])
            metrics["learner/kl_coefficient"] = tf.identity(self._kl_coefficient)
        self._training.statistics.merge(policy, batch)
        return UpdateOutput(metrics, None)

    def periodic(self) -> tuple[Periodic, ...]:
        """Implements `Learner.periodic`: the copy to the target policy."""
        period = self._config.target_period_updates
        return (Periodic(period, lambda: copy_target(self.target, self.policy)),)

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: policy and value function, and the target copies of both."""
        copies = self.target.networks().items()
        targets = (Network(f"target_{name}", variables, copy_of=name) for name, variables in copies)
        return (*self._training.networks(), *targets)

    def finish(self) -> None:
        """Implements `Learner.finish`: adapts the weight of the KL penalty to the newest update's KL."""
        if self._config.kl_coefficient:
            self._kl_coefficient.assign(
                losses.kl_coefficient(self._kl_coefficient, self._kl, self._config.kl_target)
            )


def make(config: Config, spec: EnvSpec) -> Agent:
    """APPO bound to an environment.

    Raises:
      SettingError: settings that do not fit its spaces.
    """
    return on_policy.make_agent(
        "appo", config, spec, lambda: AppoLearner(config, spec), on_policy.async_queue(config),
        updates_per_publish=config.broadcast_interval_updates,
    )  # fmt: skip


ABOUT = About(
    title="APPO",
    family="policy_gradient",
    options="those of IMPALA, adaptive KL penalty",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:IntegerPoint",
    small=dict(
        hidden_sizes=(8,), unroll_length=5, core="gru", core_size=6, normalize_observations=True,
        normalize_rewards=True, learning_rate=1e-2, kl_coefficient=0.2,
    ),
)  # fmt: skip
