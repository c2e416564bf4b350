"""IMPALA: actors that never wait, and a learner that corrects for their older weights with V-trace.

What it is: the actor-learner of Espeholt et al. 2018 (eq. 1 and section 4.2): V-trace value targets and advantages and
an entropy bonus. Options: replay of old unrolls, several passes over a batch, and RLlib's buffer of batches between
passes. What it is not: clipped (APPO), or synchronous. In one process, acting and learning alternate and the lag is 0.

Spaces: Discrete, MultiDiscrete, MultiBinary, Box, and Dict or Tuple of them; any observation; action masks; memory.
Data: unrolls of all environments of an actor, through a bounded queue.

Differences from the paper: losses are means over steps, not sums; a time limit inside an unroll bootstraps and cuts the
trace; no step of an unroll is dropped; Gaussian actions are supported; ratios are computed in log space.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrl.agent import About, Agent
from tfrl.algos.parts import policy_gradient, v_trace
from tfrl.nn.actor_critic import ActorCriticSettings
from tfrl.nn.body import ModelSettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.types import EnvSpec, Trajectory, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(
    v_trace.AsyncSettings,
    policy_gradient.Settings,
    OptimizerSettings,
    ActorCriticSettings,
    ModelSettings,
):
    """Settings of IMPALA."""

    def __post_init__(self) -> None:
        super().__post_init__()
        v_trace.check(self)


class ImpalaLearner(policy_gradient.PolicyLearner):
    """Policy with value function, optimiser, and the update of a batch of unrolls."""

    def update(self, batch: Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one step on the actor-critic loss with advantages and targets by V-trace
        (Espeholt et al. 2018, section 4.2).

        Statistics take in the batch: rewards before the step, observations after it. `seed` is not read, and there are
        no priorities.
        """
        del seed
        config, policy, training = self._config, self.policy, self._training
        # Rewards in units of the deviation of returns.
        batch = batch._replace(reward=training.statistics.reward(batch))
        with tf.GradientTape() as tape:
            # log pi, H and V under the present weights, V after each step too.
            new, values_next = policy_gradient.evaluate_batch(policy, batch)
            # Targets vs_t and advantages of the present policy against the one that acted; no gradient.
            trace = v_trace.advantages(config, batch, new.values, values_next, new.log_prob)
            # -log pi A + c_v (V - vs)^2 / 2 - c_e H of each step, then the mean over valid steps.
            steps = policy_gradient.actor_critic_loss(
                config, policy, new, trace.advantages, trace.targets, batch.valid
            )
            steps.metrics["learner/rho"] = trace.rho
            loss = policy_gradient.batch_loss(policy, steps)
        # One step of the optimiser along the clipped gradient.
        metrics = training.minimise(tape, loss, steps)
        # From the next batch on, observations are normalised by statistics that know this one.
        training.statistics.merge(policy, batch)
        return UpdateOutput(metrics, None)


def make(config: Config, spec: EnvSpec) -> Agent:
    """IMPALA bound to an environment.

    Raises:
      SettingError: settings that do not fit its spaces.
    """
    return policy_gradient.make_agent(
        "impala", config, spec, lambda: ImpalaLearner(config, spec), v_trace.queue(config),
        updates_per_publish=config.broadcast_interval_updates,
    )  # fmt: skip


ABOUT = About(
    title="IMPALA",
    family="policy_gradient",
    options="replay of unrolls, several passes over a batch",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:IntegerPoint",
    small=dict(
        hidden_sizes=(8,), unroll_length=5, core="gru", core_size=6, normalize_observations=True,
        normalize_rewards=True, learning_rate=1e-2,
    ),
)  # fmt: skip
