"""A switch for tests that wraps the updates of any learner: `--with=tfrl.testing.batch_metric`.

The learner that `make_learner` gives stays the same object, so that checkpoints keep their names; its `update` gets a
metric more.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfrl.agent import Agent
from tfrl.logs.metrics import Metric
from tfrl.settings import setting, validate
from tfrl.types import EnvSpec, UpdateOutput

METRICS = {"learner/batch_numbers": Metric("", "numbers in the first array of a batch, scaled")}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the switch."""

    batch_scale: float = setting(1.0, "factor of the metric")

    def __post_init__(self) -> None:
        validate(self)


def agent(config: Config, spec: EnvSpec, agent: Agent) -> Agent:
    """The agent with the metric."""
    del spec

    def make_learner() -> Any:
        learner = agent.make_learner()
        update = learner.update

        def measured(batch: Any, seed: Any) -> UpdateOutput:
            out = update(batch, seed)
            size = tf.cast(tf.size(tf.nest.flatten(batch)[0]), tf.float32)
            metrics = {**out.metrics, "learner/batch_numbers": size * config.batch_scale}
            return out._replace(metrics=metrics)

        learner.update = measured
        return learner

    return dataclasses.replace(agent, make_learner=make_learner)
