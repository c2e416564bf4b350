"""DQN whose learner gives a fact, for tests of what facts reach: `--algo=tfrl.testing.guided`.

The fact `difficulty` is the sum of the first variable's absolute values. The knob `boldness` is that fact as the actor
has it. That variable and its shape are the artifacts `first_layer` and `shape`. The fact `skill` is the mean length of
the episodes of the last evaluation, over all worlds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrl.agent import ActorPlace, Agent
from tfrl.algos import dqn
from tfrl.types import EnvSpec, EvaluationEpisode

Config = dqn.Config


def make(config: Config, spec: EnvSpec) -> Agent:
    """DQN with the fact and the knob."""
    agent = dqn.make(config, spec)

    def make_learner() -> Any:
        learner = agent.make_learner()
        weights = learner.policy.variables[0]
        learner.facts = lambda: {"difficulty": tf.reduce_sum(tf.abs(weights))}
        learner.artifacts = lambda: {
            "first_layer": weights.numpy(),
            "shape": {"rows": int(weights.shape[0]), "columns": int(weights.shape[1])},
        }
        return learner

    def knobs(place: ActorPlace, env_steps: int, facts: Mapping[str, float]) -> dict[str, Any]:
        boldness = np.full(place.num_envs, facts.get("difficulty", 0.0), np.float32)
        return {**agent.knobs(place, env_steps, facts), "boldness": boldness}

    def on_evaluation(episodes: Sequence[EvaluationEpisode]) -> dict[str, float]:
        return {"skill": np.mean([episode.length_env_steps for episode in episodes])}

    return dataclasses.replace(
        agent, make_learner=make_learner, knobs=knobs, on_evaluation=on_evaluation
    )
