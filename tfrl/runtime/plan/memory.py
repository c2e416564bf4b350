"""Memory that a run will take: refused with the arithmetic, before any process starts, where it cannot fit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfrl.agent import Agent, NStep
from tfrl.errors import SettingError
from tfrl.job import Job
from tfrl.replay import learner_replay
from tfrl.replay.layout import Layout
from tfrl.replay.transitions import TransitionLayout
from tfrl.runtime.plan import residency
from tfrl.types import EnvSpec

if TYPE_CHECKING:
    from tfrl.runtime.plan.run_plan import RunPlan

COMPRESSED = 0.25  # of the bytes of an image are stored by the server; other numbers hardly shrink
COPIES = 4  # of each weight: itself, its gradient, and two moments of the optimiser


def refuse_replay(job: Job, agent: Agent, spec: EnvSpec) -> None:
    """Raises SettingError for a replay of transitions that not even the server, which compresses, can hold.

    Called before there is a network, which would be too large for large images too.
    """
    if not isinstance(agent.experience.item, NStep):
        return
    layout = TransitionLayout(spec, agent.experience.prioritized)
    if job.topology.replay_residency == residency.LEARNER:
        learner_replay.check_memory(agent.experience, layout)
    else:
        _refuse_stored(agent, layout, spec)


@contextlib.contextmanager
def limited_weights() -> Iterator[None]:
    """Variables made inside must fit into the free memory with what training adds to them.

    Raises:
      SettingError: before the first variable that does not fit is allocated.
    """
    free, total, refused = learner_replay.free_bytes(), 0, ""

    def create(next_creator: Any, **kwargs: Any) -> tf.Variable:
        nonlocal total, refused
        if refused:  # Keras tries again in another way
            raise SettingError(refused)
        shape, dtype = tf.TensorShape(kwargs.get("shape")), kwargs.get("dtype") or tf.float32
        if shape.is_fully_defined():  # Keras gives it before there is a value
            total += shape.num_elements() * tf.as_dtype(dtype).size
            if total * COPIES > free:
                refused = (
                    f"the network: with its layer of {' x '.join(map(str, shape))} weights it takes {_text(total)}, in "
                    f"training {COPIES} times as much; expected at most the {_text(free)} that are free: smaller "
                    "layers, or smaller observations"
                )
                raise SettingError(refused)
        return next_creator(**kwargs)

    try:
        with tf.variable_creator_scope(create):
            yield
    except Exception:
        if refused:  # Keras and a user's builder wrap what passes through them
            raise SettingError(refused) from None
        raise


def refuse_too_large(run_plan: RunPlan) -> None:
    """Raises SettingError for a replay, or a call of the learner, that this machine cannot hold."""
    plan, layout = run_plan.agent.experience, run_plan.layout
    if run_plan.residency == residency.LEARNER and not run_plan.queue:
        learner_replay.check_memory(plan, layout.rows())
        return
    if not run_plan.queue:
        _refuse_stored(run_plan.agent, layout, run_plan.spec)
    # A call of the learner is given all its batches at once.
    free, items, size = learner_replay.free_bytes(), run_plan.items_per_call, fetched_bytes(layout)
    queue = run_plan.queue
    kept = queue.replay_items if queue and queue.replay_proportion else 0
    if kept * size > free:
        raise SettingError(
            f"replay_unrolls: {kept:,} unrolls of {size:,} bytes take {_text(kept * size)}; expected at most the "
            f"{_text(free)} that are free, some {free // size:,} unrolls"
        )
    if items * size > free:
        smaller = "unroll_length, num_envs" if run_plan.queue else "batch_size, updates_per_call"
        raise SettingError(
            f"one call of the learner takes {items:,} items of {size:,} bytes, {_text(items * size)}; expected at most "
            f"the {_text(free)} that are free: lower {smaller} or the size of observations"
        )


def fetched_bytes(layout: Layout) -> int:
    """Bytes of an item as the learner is given it."""
    return sum(
        # Unrolls have room for so many frames at first.
        math.prod(layout.frames_shape if name == "frames" else (n or 1 for n in spec.shape))
        * spec.dtype.size
        for name, spec in layout.signature().items()
    )


def _refuse_stored(agent: Agent, layout: Layout, spec: EnvSpec) -> None:
    capacity, free = agent.experience.capacity_items, learner_replay.free_bytes()
    if isinstance(layout, TransitionLayout) and layout.frames:  # each frame is stored once
        size = layout.packing.nbytes + COMPRESSED * math.prod(layout.frame_shape)
    else:
        size = fetched_bytes(layout) * (COMPRESSED if _images(spec) else 1.0)
    if capacity * size > free:
        raise SettingError(
            f"replay_capacity: {capacity:,} items of {size:,.0f} bytes, as stored, take {_text(capacity * size)}; "
            f"expected at most the {_text(free)} that are free, some {int(free / size):,} items"
        )


def _images(spec: EnvSpec) -> bool:
    return spec.observation_space.dtype == "uint8"


def _text(nbytes: float) -> str:
    """'3.2 GB', of 2**30 bytes."""
    return f"{nbytes / 2**30:,.1f} GB"
