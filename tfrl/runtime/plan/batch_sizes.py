"""Sizes of batches, from what an agent learns from and how many actors and environments there are."""

from __future__ import annotations

import math

from tfrl.agent import Episodes, Population, Queue, Replay
from tfrl.job import Topology


def batch_items(experience: Replay | Queue, topology: Topology) -> int:
    """Items of a batch, over all replicas."""
    if isinstance(experience, Replay):
        return experience.batch_size
    if experience.batch_items:
        return experience.batch_items
    if not experience.batch_env_steps:
        return topology.num_actors
    # If actors wait until their items are trained on, a batch takes as much of each.
    if experience.actors_wait:
        return items_per_wait(experience, topology) * topology.num_actors
    steps = experience.item.env_steps(topology.num_envs)
    return max(1, math.ceil(experience.batch_env_steps / steps))


def items_per_wait(queue: Queue, topology: Topology) -> int:
    """Items that each actor makes between two waits, where actors wait."""
    actors, steps = topology.num_actors, queue.item.env_steps(topology.num_envs)
    if queue.batch_items:
        return max(1, queue.batch_items // actors)
    return max(1, math.ceil(queue.batch_env_steps / (steps * actors)))


def update_samples(experience: Replay | Queue, topology: Topology) -> float:
    """Batch of one update as `learning_rate_batch_base` counts it, over all replicas.

    Transitions or sequences of a replay; of a queue's minibatch the env steps of its unrolls, or its episodes.
    """
    items = batch_items(experience, topology)
    if isinstance(experience, Replay):
        return items
    item = experience.item
    each = (
        item.count if isinstance(item, Episodes | Population) else item.env_steps(topology.num_envs)
    )
    return items * each / experience.minibatches
