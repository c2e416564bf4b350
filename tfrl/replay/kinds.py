"""Which layout, writer and table serve a replay plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import reverb
import tensorflow as tf

from tfrl.agent import ActorPlace, Agent, Episodes, NStep, Policy, Sequences, Windows
from tfrl.envs.vector import VectorEnv
from tfrl.errors import SettingError
from tfrl.nn.torsos import example_batch
from tfrl.replay.computed import ComputedLayout
from tfrl.replay.layout import Layout
from tfrl.replay.local_queue import Sink, TableSink
from tfrl.replay.priorities import InitialPriorities
from tfrl.replay.sender import Sender
from tfrl.replay.sequences import SequenceLayout
from tfrl.replay.transitions import TransitionLayout
from tfrl.replay.write_chunks import ChunkWriter
from tfrl.replay.write_episodes import EpisodeWriter
from tfrl.replay.write_frames import FrameWriter
from tfrl.replay.write_sequences import OverlappingWriter, SequenceWriter
from tfrl.replay.write_transitions import TransitionWriter
from tfrl.types import EnvSpec

Writer = (
    TransitionWriter
    | FrameWriter
    | ChunkWriter
    | SequenceWriter
    | OverlappingWriter
    | EpisodeWriter
)


def make_layout(agent: Agent, spec: EnvSpec, policy: Policy, num_envs: int) -> Layout:
    """The layout of an agent's items.

    Args:
      policy: one of the agent's, whose step is stored with sequences.
      num_envs: of an actor.
    """
    item = agent.experience.item
    if isinstance(item, NStep):
        return TransitionLayout(spec, agent.experience.prioritized)
    state = policy.initial_state(1)
    noise = {name: tf.fill([1, *n.shape], 0.5) for name, n in policy.noise.items()}
    knobs = dict(agent.knobs(ActorPlace(0, 1, 1), 0, {}))
    step = policy.step(example_batch(spec.observation_space, 1), state, knobs, noise, True)
    layout = SequenceLayout(spec, item, (step, state), num_envs)
    return (
        layout
        if agent.actor_compute is None
        else ComputedLayout(layout, agent.actor_compute, policy)
    )


def check_restarts(env: VectorEnv) -> None:
    """Raises SettingError for environments that restart within the step that ends an episode.

    The final observation would have no place in an unroll, and its value is needed at a time limit.
    """
    if env.restarts_in_step:
        raise SettingError(
            f"env={env.spec.name!r}: its vector environment restarts within the ending step "
            "(AutoresetMode.SAME_STEP), unrolls need AutoresetMode.NEXT_STEP; use env_backend=sync"
        )


def make_writer(
    clients: Sequence[reverb.Client],
    item: Any,
    layout: Layout,
    num_envs: int,
    actor: int = 0,
    policy: Policy | None = None,
    initial_priority: Callable | None = None,
) -> Writer:
    """The writer that serves a replay item over an environment.

    Args:
      clients: of the servers; only transitions are spread over several.
      actor: who writes.
      policy: whose weights compute what is written, where anything is computed.
      initial_priority: see `Agent`.
    """
    if isinstance(layout, TransitionLayout):
        initial = None
        if initial_priority is not None:
            initial = InitialPriorities(initial_priority, item.n, num_envs)
        kind = FrameWriter if layout.frames else TransitionWriter
        return kind(clients, item, layout, num_envs, initial)
    return sequence_writer(TableSink(clients[0]), item, layout, num_envs, actor, policy)


def sequence_writer(
    sink: Sink,
    item: Sequences,
    layout: SequenceLayout | ComputedLayout,
    num_envs: int,
    actor: int = 0,
    policy: Policy | None = None,
) -> SequenceWriter | OverlappingWriter | EpisodeWriter:
    """The writer that serves a replay item of sequences.

    Args:
      sink: where the items go.
      item, layout, num_envs, actor, policy: as in `make_writer`.
    """
    sender = Sender(sink, layout, actor, policy)
    unrolls = layout.unrolls if isinstance(layout, ComputedLayout) else layout
    if isinstance(item, Episodes):
        return EpisodeWriter(sender, unrolls, num_envs)
    return (OverlappingWriter if isinstance(item, Windows) else SequenceWriter)(
        sender, unrolls, num_envs
    )
