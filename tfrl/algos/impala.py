"""IMPALA: actors that never wait, and a learner that corrects for their older weights by V-trace.

What it is: the actor-learner of Espeholt et al. 2018 (eq. 1 and section 4.2): V-trace value targets and advantages, an
entropy bonus; as options the replay of old unrolls, several passes over a batch and RLlib's buffer of batches between
them. What it is not: clipped (APPO), or synchronous; in one process acting and learning take turns and the lag is 0.

Spaces: Discrete, MultiDiscrete, MultiBinary, Box, and Dict or Tuple of them; any observation; action masks; memory.
Data: unrolls of all environments of an actor, through a bounded queue.

Differences from the paper: losses are means over steps, not sums; a time limit inside an unroll bootstraps and cuts the
trace; no step of an unroll is dropped; Gaussian actions are served, ratios are made in log space.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrl.agent import Agent
from tfrl.algos import _on_policy as on_policy
from tfrl.config.settings import setting
from tfrl.nn import actor_critic
from tfrl.nn.actor_critic import ActorCritic, ModelSettings
from tfrl.types import EnvSpec, Trajectory, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(on_policy.AsyncSettings, on_policy.Settings, ModelSettings):
    """Settings of IMPALA."""

    unroll_length: int = setting(
        50, "consecutive steps of each environment in an unroll", unit="env steps", minimum=1
    )
    value_coefficient: float = on_policy.value_coefficient(0.5)
    entropy_coefficient: float = setting(0.01, "weight of the entropy bonus", minimum=0.0)
    learning_rate: float = setting(5e-4, "step size", above=0.0)
    shared_torso: bool = setting(True, "policy and value read one network instead of one each")

    def __post_init__(self) -> None:
        super().__post_init__()
        on_policy.check_async(self)


class ImpalaLearner(tf.Module):
    """Policy with value function, optimiser, and the update of a batch of unrolls."""

    def __init__(self, config: Config, spec: EnvSpec):
        super().__init__()
        self._config = config
        self.policy = ActorCritic(config, spec)
        self._clock = on_policy.Clock(config, self.policy.trainable_variables)
        self.env_steps = self._clock.env_steps
        self._statistics = on_policy.Statistics(config, spec)

    def update(self, batch: Trajectory, seed: tf.Tensor) -> UpdateOutput:
        del seed
        config, policy = self._config, self.policy
        batch = batch._replace(reward=self._statistics.reward(batch))

        def compute() -> on_policy.Step:
            new, values_next = on_policy.evaluate_batch(policy, batch)
            trace = on_policy.off_policy(config, batch, new, new.log_prob, values_next)
            step = on_policy.actor_critic_step(
                config, policy, new, trace.advantages, trace.targets, batch.valid
            )
            return step._replace(parts={**step.parts, "learner/rho": trace.rho})

        metrics = on_policy.minimise(config, self._clock, policy, compute)
        self._statistics.merge(policy, batch)
        return UpdateOutput(metrics, None)

    def periodic(self) -> tuple[()]:
        return ()


def make(config: Config, spec: EnvSpec) -> Agent:
    """IMPALA bound to an environment.

    Raises:
      SettingError: settings that do not fit its spaces.
    """
    actor_critic.check(config, spec, "impala")
    return Agent(
        make_policy=lambda: ActorCritic(config, spec),
        make_learner=lambda: ImpalaLearner(config, spec),
        replay=on_policy.queue(config, capacity_items=config.queue_items, max_lag_updates=None),
        updates=config.plan(),
        knobs=lambda worker, num_workers, num_envs, env_steps: {},
    )
