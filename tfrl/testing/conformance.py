"""Pieces that hold for any algorithm: made-up batches, learner loops on them, and all their variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree

from tfrl.agent import ActorPlace, Agent, NStep, Population, Queue, Replay
from tfrl.envs.spaces import mask_starts
from tfrl.replay.kinds import make_layout
from tfrl.replay.population import Collector
from tfrl.replay.sampler import Samples
from tfrl.replay.transitions import TransitionLayout
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.testing.trajectories import sample, stack_rows
from tfrl.types import ACTION_MASK, EnvSpec


def observations(spec: EnvSpec, count: int, seed: int) -> Any:
    """Random observations, leaves [count, ...]; an action mask has a valid action for each choice of every row."""
    spec.observation_space.seed(seed)
    batch = stack_rows([sample(spec.observation_space) for _ in range(count)])
    if spec.has_action_mask:
        rng = np.random.default_rng(seed)
        mask = rng.integers(0, 2, batch[ACTION_MASK].shape)
        starts = mask_starts(spec.action_space)
        for start, end in zip(starts, [*starts[1:], mask.shape[1]]):
            mask[np.arange(count), rng.integers(start, end, size=count)] = 1
        batch[ACTION_MASK] = mask.astype(batch[ACTION_MASK].dtype)
    return batch


def samples(agent: Agent, spec: EnvSpec, count: int, seed: int, **fields: Any) -> Samples:
    """A block of random transitions as a sampler would give it.

    Args:
      count: items.
      **fields: arrays [count, ...] that replace 'reward', 'discount', 'action', 'obs_tm1' or 'obs_t'.
    """
    rng = np.random.default_rng(seed)
    prioritized = agent.experience.prioritized
    layout = TransitionLayout(spec, prioritized)
    records = np.zeros(count, layout.packing.dtype)
    obs_tm1 = fields.get("obs_tm1", observations(spec, count, seed))
    obs_t = fields.get("obs_t", observations(spec, count, seed + 1_000))
    spec.action_space.seed(seed)
    records["reward"] = fields.get("reward", rng.normal(size=count))
    records["discount"] = fields.get("discount", rng.choice([0.0, 0.9, 0.99], count))
    actions = [spec.action_space.sample() for _ in range(count)]
    if spec.has_action_mask and isinstance(spec.action_space, gym.spaces.Discrete):
        mask = obs_tm1[ACTION_MASK]  # actors take valid actions only
        actions = (mask * rng.uniform(0.5, 1.0, mask.shape)).argmax(1)
    records["action"] = fields.get("action", actions)
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


def block(agent: Agent, spec: EnvSpec, seed: int, num_envs: int = 4) -> Samples:
    """Data of one call of the learner: random transitions or sequences, or one random item of a queue."""
    experience = agent.experience
    if isinstance(experience.item, Population):
        return population(agent, spec, seed)
    if isinstance(experience, Queue):
        return unroll(agent, spec, num_envs, seed)
    make = samples if isinstance(experience.item, NStep) else unroll
    return make(agent, spec, experience.batch_size * experience.updates_per_call, seed)


def population(agent: Agent, spec: EnvSpec, seed: int) -> Samples:
    """An iteration of a population with random returns, as a learner gets it; iteration `seed` of the run."""
    rng = np.random.default_rng(seed)
    layout = make_layout(agent, spec, agent.make_policy(), 1)
    collector, count = Collector(layout, seed), agent.experience.item.count
    item = None
    while item is None:  # as many rounds as it takes
        first = (collector.rounds - 1) * count
        sums = rng.normal(size=(count, layout.width // 2))
        moments = np.concatenate([sums, sums**2 + rng.random(sums.shape)], 1)
        members, lengths = np.arange(first, first + count), rng.integers(2, 9, count)
        item = collector.add(
            layout.results(seed, 5, members, rng.normal(size=count), lengths, moments)
        )
    columns = {name: tf.constant(x[None]) for name, x in item.items()}
    return Samples(tf.zeros([1], tf.uint64), tf.ones([1], tf.float64), columns)


def unroll(agent: Agent, spec: EnvSpec, num_envs: int, seed: int) -> Samples:
    """One item as a sampler would give it: random observations and ends, actions of a fresh policy.

    Items of one column each, those of a replay, are as many as the environments.
    """
    rng = np.random.default_rng(seed)
    tf.keras.utils.set_random_seed(seed)
    policy = agent.make_policy()
    layout = make_layout(agent, spec, policy, num_envs)
    inner = layout.unrolls
    single = isinstance(agent.experience, Replay)
    length, width = inner.item.length, num_envs if single else inner.columns
    items = width // inner.columns
    records = np.zeros((length + 1, width), inner.packing.dtype)
    state, knobs = (
        policy.initial_state(width, {}),
        dict(agent.knobs(ActorPlace(0, 1, width), 0, {})),
    )
    first_state = tree.map_structure(np.asarray, state)
    is_first = np.zeros(width, np.bool_)
    for t in range(length + 1):
        obs = observations(spec, width, 1_000 * seed + t)
        noise = {
            name: tf.constant(rng.uniform(0.01, 0.99, (width, *n.shape)), tf.float32)
            for name, n in policy.noise.items()
        }
        step = policy.step(obs, state, knobs, noise, True)
        state = step.state
        pairs = [(inner.obs, obs), (inner.action, step.action), (inner.extras, dict(step.extras))]
        for names, values in pairs:
            for name, value in zip(tree.flatten(names), tree.flatten(values), strict=True):
                records[name][t] = value
        records["reward"][t] = rng.normal(size=width)
        if inner.num_parts:
            records["rewards"][t] = rng.normal(size=(width, inner.num_parts))
        records["discounted_return"][t] = rng.normal(size=width)
        records["valid"][t] = rng.random(width) > 0.1
        ended = rng.random(width) < 0.2
        terminated = ended & (rng.random(width) < 0.5)
        records["discount"][t] = np.where(terminated, 0.0, inner.item.discount)
        records["is_last"][t] = ended | ~records["valid"][t]
        records["is_first"][t] = is_first if t else rng.random(width) < 0.5
        is_first = terminated
    records["valid"][0] = True
    packed = records.view(np.uint8).reshape(length + 1, width, -1)
    columns = {"packed": packed, "facts": np.zeros(2, np.int64)}
    if inner.state_packing.nbytes:
        rows = np.zeros(width, inner.state_packing.dtype)
        for name, value in zip(tree.flatten(inner.state), tree.flatten(first_state), strict=True):
            rows[name] = value
        columns["state"] = inner.state_packing.rows(rows)
    if agent.actor_compute is not None:
        arguments = (tf.constant(columns[name]) for name in sorted(columns))
        columns = {**layout.traced(policy)(*arguments), "facts": columns["facts"]}
    if single:  # a column of the unroll is an item
        columns = {
            "packed": np.moveaxis(packed, 1, 0)[:, :, None],
            "facts": np.repeat(columns["facts"][None], items, 0),
            **({"state": columns["state"][:, None]} if "state" in columns else {}),
        }
    else:
        columns = {name: x[None] for name, x in columns.items()}
    columns = {name: tf.constant(x) for name, x in columns.items()}
    probability = rng.uniform(0.001, 0.01, items) if single else np.ones(items)
    return Samples(
        tf.constant(np.arange(items, dtype=np.uint64)), tf.constant(probability), columns
    )


def loop(
    agent: Agent, spec: EnvSpec, mode: str = "graph", strategy: Any = None, num_envs: int = 4
) -> LearnerLoop:
    """A learner loop with weights that depend on nothing but the agent."""
    layout = make_layout(agent, spec, agent.make_policy(), num_envs)
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
    """Largest absolute difference between two lists of arrays of the same shapes.

    Raises:
      ValueError: other shapes, or nothing to compare.
    """
    if [x.shape for x in a] != [x.shape for x in b]:
        raise ValueError("the lists hold arrays of different shapes")
    gaps = [np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)) for x, y in zip(a, b)]
    return max(float(gap.max()) for gap in gaps if gap.size)
