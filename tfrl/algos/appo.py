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

from tfrl.agent import About, Agent, Network, Periodic
from tfrl.algos.parts import policy_gradient, v_trace
from tfrl.losses import policy as losses
from tfrl.nn.actor_critic import ActorCritic, ActorCriticSettings
from tfrl.nn.body import ModelSettings
from tfrl.nn.target import copy_target
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting
from tfrl.types import EnvSpec, Trajectory, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(
    v_trace.AsyncSettings,
    policy_gradient.Settings,
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
        v_trace.check(self)


class AppoLearner(policy_gradient.PolicyLearner):
    """Policy with value function, target policy, optimiser, and the update of a batch of unrolls."""

    def __init__(self, config: Config, spec: EnvSpec):
        super().__init__(config, spec)
        self.target = ActorCritic(config, spec)
        copy_target(self.target, self.policy)
        self._kl = policy_gradient.shared_variable(tf.constant(config.kl_target), "kl")
        self._kl_coefficient = policy_gradient.shared_variable(
            tf.constant(config.kl_coefficient), "kl_coefficient"
        )

    def update(self, batch: Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: PPO's surrogate around the target policy (without V-trace: around the one that
        acted), a value loss, an entropy bonus and the KL penalty.

        Statistics take in the batch: rewards before the step, observations after it. `seed` is not read, and there are
        no priorities.
        """
        del seed
        config, policy, training = self._config, self.policy, self._training
        # Rewards in units of the deviation of returns.
        batch = batch._replace(reward=training.statistics.reward(batch))
        # log pi_old of the target policy, and log mu of the one that acted.
        old, _ = policy_gradient.evaluate_batch(self.target, batch, training=False)
        behaviour = batch.extras["log_prob"]
        with tf.GradientTape() as tape:
            # log pi, H and V under the present weights, V after each step too.
            new, values_next = policy_gradient.evaluate_batch(policy, batch)
            # Targets vs_t and advantages of the target policy against the one that acted; no gradient.
            trace = v_trace.advantages(config, batch, new.values, values_next, old.log_prob)
            # Clipped surrogate around pi_old, or without V-trace around mu.
            if config.vtrace:
                clipped = losses.appo_surrogate(
                    new.log_prob, old.log_prob, behaviour, trace.advantages, config.clip
                )
            else:
                clipped = losses.ppo_surrogate(
                    new.log_prob, behaviour, trace.advantages, config.clip
                )
            # c_v (V - vs)^2 / 2 and the entropy bonus - c_e H.
            value = 0.5 * (new.values - trace.targets) ** 2
            each = clipped.loss + config.value_coefficient * value
            each -= config.entropy_coefficient * new.entropy
            # Penalty beta KL(pi_old || pi).
            kl = policy.distribution.kl(old.params, new.params)
            if config.kl_coefficient:
                each += self._kl_coefficient * kl
            # Mean over valid steps.
            metrics = {
                "learner/policy_loss": clipped.loss,
                "learner/value_loss": value,
                "learner/entropy": new.entropy,
                "learner/kl": kl,
                "learner/clipped_ratio": tf.cast(clipped.clipped, tf.float32),
                "learner/rho": trace.rho,
            }
            steps = policy_gradient.PolicyLoss(
                each, metrics, batch.valid, new.values, trace.targets
            )
            loss = policy_gradient.batch_loss(policy, steps)
        # One step of the optimiser along the clipped gradient.
        metrics = training.minimise(tape, loss, steps)
        if config.kl_coefficient:  # for `finish`, which adapts beta
            self._kl.assign(metrics["learner/kl"])
            metrics["learner/kl_coefficient"] = tf.identity(self._kl_coefficient)
        # From the next batch on, observations are normalised by statistics that know this one.
        training.statistics.merge(policy, batch)
        return UpdateOutput(metrics, None)

    def periodic(self) -> tuple[Periodic, ...]:
        """Implements `Learner.periodic`: the copy to the target policy."""
        period = self._config.target_period_updates
        return (Periodic(period, lambda: copy_target(self.target, self.policy)),)

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: policy and value function, and the target copies of both."""
        copies = self.target.networks().items()
        targets = (Network(f"target_{name}", variables, copy_of=name) for name, variables in copies)
        return (*super().networks(), *targets)

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
    return policy_gradient.make_agent(
        "appo", config, spec, lambda: AppoLearner(config, spec), v_trace.queue(config),
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
