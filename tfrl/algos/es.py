"""ES: evolution strategies, Adam along the correlation of random directions of the weights with the ranks of returns.

What it is: the evolution strategies of Salimans et al. (2017). An iteration plays two episodes for each random
direction of the weights, one for each sign, replaces all returns by their centred ranks, and makes a step of the
optimiser along the sum of directions weighted by the difference of both ranks, with weight decay. What it is not:
gradient descent: rewards within an episode, and their discount, play no part.

Spaces: Discrete, MultiDiscrete, MultiBinary, Box, and Dict or Tuple of them; observations as vectors; action masks;
memory. Data: returns, lengths and moments of observations of whole episodes; nothing else travels.

Differences from the paper: equal returns have their average rank, so that they give no update; no virtual batch
normalisation, observations can be normalised by their running statistics; perturbations are made of seeds unless the
shared table is asked for. Differences from RLlib of 2018: an iteration consists of whole rounds of `episodes_per_batch`
episodes; the filter is frozen in an iteration; evaluations are apart and every so many env steps.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrl.agent import About, Agent
from tfrl.algos.parts import population
from tfrl.losses.population import evolution_weights
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec


@dataclasses.dataclass(frozen=True)
class Config(population.Settings, OptimizerSettings):
    """Settings of ES."""

    episodes_per_batch: int = setting(
        100,
        "episodes of a round, both signs of half as many directions; an odd number is rounded up",
        unit="episodes",
        minimum=2,
    )
    min_steps_per_batch: int = setting(
        0,
        "an iteration has as many rounds as it takes to reach so many env steps; 0: one round",
        unit="env steps",
        minimum=0,
    )
    l2_coeff: float = with_default(population.Settings, "l2_coeff", 0.005)
    action_noise: float = with_default(population.Settings, "action_noise", 0.01)
    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 0.01)
    optimizer_epsilon: float = with_default(OptimizerSettings, "optimizer_epsilon", 1e-8)


def make(config: Config, spec: EnvSpec) -> Agent:
    """ES bound to an environment.

    Raises:
      SettingError: settings that do not fit its spaces.
    """

    def weigh(returns: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        # (c+ - c-) / 2 n of each direction, c the centred ranks of all returns (Salimans et al. 2017).
        return evolution_weights(returns, valid)

    members = 2 * -(-config.episodes_per_batch // 2)
    return population.make_agent("es", config, spec, members, config.min_steps_per_batch, weigh)


ABOUT = About(
    title="ES",
    family="derivative_free",
    options="centred ranks, shared noise table, linear and MLP policies, memory",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:IntegerPoint",
    small=dict(
        episodes_per_batch=8, noise_stdev=0.1, normalize_observations=True, hidden_sizes=(8,),
        core="lstm", core_size=4,
    ),
)  # fmt: skip
