"""Pieces that hold for any algorithm: made-up batches, learner loops on them, and all their variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tree

from tfrl.agent import Agent
from tfrl.replay.dataset import Samples
from tfrl.replay.transitions import TransitionLayout
from tfrl.runtime.learner import LearnerLoop
from tfrl.testing.trajectories import sample, stack_rows
from tfrl.types import ACTION_MASK, EnvSpec


def observations(spec: EnvSpec, count: int, seed: int) -> Any:
    """Random observations, leaves [count, ...]; every row of an action mask has a valid action."""
    spec.observation_space.seed(seed)
    batch = stack_rows([sample(spec.observation_space) for _ in range(count)])
    if spec.has_action_mask:
        rng = np.random.default_rng(seed)
        mask = rng.integers(0, 2, batch[ACTION_MASK].shape)
        mask[np.arange(count), rng.integers(mask.shape[1], size=count)] = 1
        batch[ACTION_MASK] = mask.astype(batch[ACTION_MASK].dtype)
    return batch


def samples(agent: Agent, spec: EnvSpec, count: int, seed: int, **fields: Any) -> Samples:
    """A block of random transitions as a sampler would give it.

    Args:
      count: items.
      **fields: arrays [count, ...] that replace 'reward', 'discount', 'action', 'obs_tm1' or 'obs_t'.
    """
    rng = np.random.default_rng(seed)
    prioritized = agent.replay.kind == "prioritized"
    layout = TransitionLayout(spec, prioritized)
    records = np.zeros(count, layout.packing.dtype)
    obs_tm1 = fields.get("obs_tm1", observations(spec, count, seed))
    obs_t = fields.get("obs_t", observations(spec, count, seed + 1_000))
    spec.action_space.seed(seed)
    records["reward"] = fields.get("reward", rng.normal(size=count))
    records["discount"] = fields.get("discount", rng.choice([0.0, 0.9, 0.99], count))
    records["action"] = fields.get("action", [spec.action_space.sample() for _ in range(count)])
    columns = {}
    if layout.frames:
        for name, stack in (("frames_tm1", obs_tm1), ("frames_t", obs_t)):
            columns[name] = tf.constant(np.moveaxis(stack, -1, 1))
    else:
        for names, values in ((layout.obs_tm1, obs_tm1), (layout.obs_t, obs_t)):
            for name, value in zip(tree.flatten(names), tree.flatten(values), strict=True):
                records[name] = value
        if prioritized:
            columns["priority"] = tf.ones([count])
    columns["packed"] = tf.constant(layout.packing.rows(records))
    probability = tf.constant(rng.uniform(0.001, 0.01, count))
    return Samples(tf.constant(np.arange(count, dtype=np.uint64)), probability, columns)


def loop(agent: Agent, spec: EnvSpec, mode: str = "graph", strategy: Any = None) -> LearnerLoop:
    """A learner loop with weights that depend on nothing but the agent."""
    tf.keras.utils.set_random_seed(1)
    layout = TransitionLayout(spec, agent.replay.kind == "prioritized")
    return LearnerLoop(agent, layout, strategy or tf.distribute.get_strategy(), mode, seed=7)


def variables(module: Any) -> list[tf.Variable]:
    """Every variable that a checkpoint of `module` would hold, optimiser slots and counters included."""
    found = tf.train.TrackableView(module).descendants()
    return [v for v in found if isinstance(v, tf.Variable)]


def values(module: Any) -> list[np.ndarray]:
    """Values of `variables`, in their order."""
    return [v.numpy() for v in variables(module)]


def assign(module: Any, arrays: Sequence[np.ndarray]) -> None:
    """Puts back what `values` gave for this module or its twin."""
    for variable, array in zip(variables(module), arrays, strict=True):
        variable.assign(array)


def apart(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Largest absolute difference between two lists of arrays of the same shapes."""
    if [x.shape for x in a] != [x.shape for x in b]:
        raise ValueError("the lists hold arrays of different shapes")
    gaps = [np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)) for x, y in zip(a, b)]
    return max(float(gap.max()) for gap in gaps if gap.size)
