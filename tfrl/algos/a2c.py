"""A2C: synchronous actor-critic; one update per batch of short unrolls.

What it is: the synchronous form of A3C (Mnih et al. 2016, section 4): a policy gradient with GAE advantages (lambda 1:
n-step returns), a value loss and an entropy bonus. All actors act with the same weights. What it is not: asynchronous
(A3C, IMPALA), or limited in the size of its updates (PPO).

Spaces: Discrete, MultiDiscrete, MultiBinary, Box, and Dict or Tuple of them; any observation; action masks; memory.
Data: unrolls of all environments of an actor, each trained on once.

Differences from the paper: losses are means over steps (sums in RLlib of 2018); policy and value function have separate
networks unless `shared_torso` is set; time limits bootstrap.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrl.agent import About, Agent, Queue, Unroll
from tfrl.algos.parts import policy_gradient
from tfrl.nn.actor_critic import ActorCriticSettings
from tfrl.nn.body import ModelSettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec, Trajectory, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(policy_gradient.Settings, OptimizerSettings, ActorCriticSettings, ModelSettings):
    """Settings of A2C."""

    unroll_length: int = setting(
        5, "consecutive steps of each environment in a batch", unit="env steps", minimum=1
    )
    gae_lambda: float = setting(
        1.0,
        "lambda of GAE; 1: rewards to the end of the unroll plus the value there",
        minimum=0.0,
        maximum=1.0,
    )
    value_coefficient: float = policy_gradient.value_coefficient(0.5)
    optimizer: str = with_default(OptimizerSettings, "optimizer", "rmsprop")
    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 7e-4)


class A2CLearner(policy_gradient.PolicyLearner):
    """Policy with value function, optimiser, and the update of a batch."""

    def prepare(self, batch: Trajectory) -> policy_gradient.TrainBatch:
        """Implements `Learner.prepare`: the batch with advantages by GAE."""
        return self._training.prepare(batch, self._config.gae_lambda)

    def update(self, rows: policy_gradient.TrainBatch, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one step on the actor-critic loss (Mnih et al. 2016, section 4).

        `seed` is not read, and there are no priorities.
        """
        del seed
        config, policy = self._config, self.policy
        with tf.GradientTape() as tape:
            # log pi, H and V under the present weights; the advantages of acting time are constants.
            new, old = policy_gradient.evaluate(policy, rows)
            # -log pi A + c_v (V - target)^2 / 2 - c_e H of each step, then the mean over valid steps.
            steps = policy_gradient.actor_critic_loss(
                config, policy, new, old.advantages, old.targets, old.valid
            )
            loss = policy_gradient.batch_loss(policy, steps)
        # One step of the optimiser along the clipped gradient.
        return UpdateOutput(self._training.minimise(tape, loss, steps), None)


def make(config: Config, spec: EnvSpec) -> Agent:
    """A2C bound to an environment.

    Raises:
      SettingError: settings that do not fit its spaces.
    """
    item = Unroll(config.unroll_length, config.discount)
    queue = Queue(item, policy_gradient.QUEUE_ITEMS, actors_wait=True)
    return policy_gradient.make_agent("a2c", config, spec, lambda: A2CLearner(config, spec), queue)


ABOUT = About(
    title="A2C",
    family="policy_gradient",
    options="networks and action spaces of PPO",
    env="tfrl.testing.fakes:TargetPoint",
    refused="tfrl.testing.fakes:IntegerPoint",
    small=dict(
        hidden_sizes=(8,), unroll_length=5, core="gru", core_size=6, normalize_observations=True,
        normalize_rewards=True, learning_rate=1e-2, state_dependent_exploration=True,
        squash_actions=True,
    ),
)  # fmt: skip
