"""PG: the plain policy gradient on the returns of complete episodes.

What it is: REINFORCE (Williams 1992): each action is weighted by the discounted return that followed it. Options: a
learned baseline and standardised returns. What it is not: bootstrapped. An episode is trained on only after it has
ended, or where it is longer than `unroll_length`, part by part.

Spaces: Discrete, MultiDiscrete, MultiBinary, Box, and Dict or Tuple of them; any observation; action masks; memory.
Data: whole episodes, side by side, each trained on once.

Differences from RLlib of 2018: RLlib trained on unrolls, and a return ended with its unroll. As in RLlib, episodes that
began under older weights are used; all episodes of a batch end under the newest weights. Time limits end a return; a
baseline does not bootstrap them.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrl.agent import About, Agent, Episodes, Queue
from tfrl.algos.parts import policy_gradient
from tfrl.errors import SettingError
from tfrl.nn import actor_critic
from tfrl.nn.actor_critic import ActorCriticSettings
from tfrl.nn.body import ModelSettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec, Trajectory, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config(policy_gradient.Settings, OptimizerSettings, ActorCriticSettings, ModelSettings):
    """Settings of PG."""

    unroll_length: int = setting(
        0,
        "steps of an episode that an item holds. A longer episode goes on in another item; returns end at the cut, as "
        "at a time limit. 0: the environment's time limit",
        unit="env steps",
        minimum=0,
    )
    episodes_per_item: int = setting(
        8,
        "minimum number of episodes that an actor sends together; all episodes that end on the same step are "
        "included",
        unit="episodes",
        minimum=1,
    )
    normalize_returns: bool = setting(
        False, "standardise returns (with a baseline: advantages) over each batch"
    )
    baseline: bool = setting(False, "learn a state-value function and subtract it from returns")
    value_coefficient: float = policy_gradient.value_coefficient(0.5)
    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 4e-3)


class PGLearner(policy_gradient.PolicyLearner):
    """Policy, optimiser, and the update of a batch of episodes."""

    def prepare(self, batch: Trajectory) -> policy_gradient.TrainBatch:
        """Implements `Learner.prepare`: the batch with its discounted returns, minus the baseline and standardised if
        configured.
        """
        # Returns G_t that end with the episode, minus V_t with a baseline.
        rows = self._training.prepare(batch, lambda_=None)
        # Mean 0 and deviation 1 over the whole batch.
        if self._config.normalize_returns:
            rows = rows._replace(advantages=policy_gradient.standardised(rows, False))
        return rows

    def update(self, rows: policy_gradient.TrainBatch, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one step on the actor-critic loss (Williams 1992), without a value loss unless
        there is a baseline.

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
    """PG bound to an environment.

    Raises:
      SettingError: settings that do not fit its spaces, or an environment whose episodes have no known limit.
    """
    actor_critic.check(config, spec, "pg")
    length = config.unroll_length or spec.max_episode_steps
    if not length:
        raise SettingError(
            f"algo=pg on {spec.name}: it has no time limit; give unroll_length or max_episode_steps"
        )
    config = dataclasses.replace(config, unroll_length=length)
    item = Episodes(length, config.discount, config.episodes_per_item)
    queue = Queue(item, policy_gradient.QUEUE_ITEMS, actors_wait=True)
    return policy_gradient.make_agent(
        "pg", config, spec, lambda: PGLearner(config, spec, config.baseline), queue, critic=config.baseline
    )  # fmt: skip


ABOUT = About(
    title="PG",
    family="policy_gradient",
    options="a learned baseline, standardised returns",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:IntegerPoint",
    small=dict(
        hidden_sizes=(8,), unroll_length=5, core="gru", core_size=6, normalize_observations=True,
        normalize_rewards=True, learning_rate=1e-2, episodes_per_item=4, baseline=True,
    ),
)  # fmt: skip
