"""ARS: augmented random search, steps along the best of random directions of the weights.

What it is: ARS (Mania et al. 2018, algorithm 2). An iteration plays two episodes for each random direction of the
weights, one for each sign, and steps along the sum of the directions that had the best returns, weighted by the
difference of both returns and divided by the deviation of all that are left. V1 is the default; V2 is
`normalize_observations`; V1-t and V2-t are `num_top_directions` below `num_directions`. What it is not: gradient
descent: rewards within an episode, and their discount, play no part.

Spaces: Discrete, MultiDiscrete, MultiBinary, Box, and Dict or Tuple of them; observations as vectors; action masks;
memory. Data: returns, lengths and moments of observations of whole episodes; nothing else travels.

Differences from the paper: a policy for Discrete actions takes the largest output; a policy may be an MLP or have a
memory; the statistics of observations change between iterations only, and are clipped; the step may be any
optimiser's. Differences from RLlib of 2018: directions are counted, not episodes; exactly `num_top_directions` are
kept; the filter is frozen in an iteration; evaluations do not shift rewards.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrl.agent import About, Agent
from tfrl.algos.parts import population
from tfrl.errors import SettingError
from tfrl.losses.population import random_search_weights
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec


@dataclasses.dataclass(frozen=True)
class Config(population.Settings, OptimizerSettings):
    """Settings of ARS."""

    num_directions: int = setting(
        8,
        "random directions of an iteration, each played with both signs",
        unit="directions",
        minimum=1,
    )
    num_top_directions: int | None = setting(
        None, "best directions that make the step; none: all", unit="directions", minimum=1
    )
    policy: str = with_default(population.Settings, "policy", "linear")
    optimizer: str = with_default(OptimizerSettings, "optimizer", "sgd")
    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 0.02)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.num_top_directions or 0) > self.num_directions:
            raise SettingError(
                f"num_top_directions={self.num_top_directions} with num_directions={self.num_directions}: expected at "
                f"most {self.num_directions}"
            )


def make(config: Config, spec: EnvSpec) -> Agent:
    """ARS bound to an environment.

    Raises:
      SettingError: settings that do not fit its spaces.
    """
    top = config.num_top_directions or config.num_directions

    def weigh(returns: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        # (r+ - r-) / (b sigma) of the b best directions (Mania et al. 2018, algorithm 2).
        return random_search_weights(returns, top, valid)

    return population.make_agent("ars", config, spec, 2 * config.num_directions, 0, weigh)


ABOUT = About(
    title="ARS",
    family="derivative_free",
    options="V1, V2, top directions, shared noise table, linear and MLP policies, memory",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:IntegerPoint",
    small=dict(
        num_directions=4, num_top_directions=2, noise_stdev=0.1, normalize_observations=True
    ),
    variants={"mlp": dict(policy="mlp", hidden_sizes=(8,), core="gru", core_size=4)},
)
