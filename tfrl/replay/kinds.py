"""Picks the layout and the writer for a kind of item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import reverb
import tensorflow as tf

from tfrl.agent import (
    ActorPlace,
    Agent,
    Episodes,
    NStep,
    Policy,
    Population,
    Replay,
    Sequences,
    Unroll,
    Windows,
)
from tfrl.envs.vector import VectorEnv
from tfrl.errors import SettingError
from tfrl.nn.torsos import example_batch
from tfrl.replay.computed import ComputedLayout
from tfrl.replay.hindsight import Hindsight
from tfrl.replay.layout import Layout
from tfrl.replay.local_queue import Sink, TableSink
from tfrl.replay.population import PopulationLayout
from tfrl.replay.priorities import InitialPriorities
from tfrl.replay.sender import Sender
from tfrl.replay.sequences import SequenceLayout
from tfrl.replay.transitions import TransitionLayout
from tfrl.replay.write_episodes import EpisodeBuilder
from tfrl.replay.write_episodes import columns as episode_columns
from tfrl.replay.write_frames import FrameTables
from tfrl.replay.write_sequences import Builder, SequenceWriter, UnrollBuilder, windows
from tfrl.replay.write_transitions import RowTables, TransitionWriter
from tfrl.replay.writer import Writer
from tfrl.types import EnvSpec, PolicyStep


class SequenceKind(NamedTuple):
    """The classes that serve one kind of sequences.

    Attributes:
      columns: (item, environments of an actor) -> environments or episodes of an item of a queue; an item of a replay
        has one.
      builders: (layout, environments of an actor) -> what makes the items.
      shares_frames: stacked frames are stored once for all observations of a column that show them.
      whole: weights are to change between two items only.
    """

    columns: Callable[[Any, int], int]
    builders: Callable[[SequenceLayout, int], Sequence[Builder]]
    shares_frames: bool = True
    whole: bool = False


SEQUENCES: Mapping[type, SequenceKind] = {
    Unroll: SequenceKind(
        lambda item, num_envs: num_envs, lambda *of: [UnrollBuilder(*of)], whole=True
    ),
    Windows: SequenceKind(lambda item, num_envs: 1, windows),
    # Episodes are laid side by side only when they are over, so their frames are stored as they come.
    Episodes: SequenceKind(episode_columns, lambda *of: [EpisodeBuilder(*of)], shares_frames=False),
}


def make_layout(agent: Agent, spec: EnvSpec, policy: Policy, num_envs: int) -> Layout:
    """The layout of an agent's items.

    Args:
      policy: one of the agent's, whose step is stored with sequences.
      num_envs: of an actor.
    """
    item = agent.experience.item
    if isinstance(item, NStep):
        return TransitionLayout(spec, agent.experience.prioritized)
    if isinstance(item, Population):
        return PopulationLayout(spec, item)
    noise = {name: tf.fill([1, *n.shape], 0.5) for name, n in policy.noise.items()}
    held = {name: noise[name] for name, n in policy.noise.items() if n.hold_env_steps is None}
    state = policy.initial_state(1, held)
    knobs = dict(agent.knobs(ActorPlace(0, 1, 1), 0, {}))
    step = policy.step(example_batch(spec.observation_space, 1), state, knobs, noise, True)
    seeds = {
        f"{name}_seed": tf.zeros([1, 2], tf.int32) for name, n in policy.noise.items() if n.seeded
    }
    step = step._replace(extras={**step.extras, **seeds})
    single = isinstance(agent.experience, Replay)
    layout = sequence_layout(spec, item, (step, state), num_envs, single)
    if agent.actor_compute is None:
        return layout
    return ComputedLayout(layout, agent.actor_compute, policy)


def sequence_layout(
    spec: EnvSpec,
    item: Sequences,
    example: tuple[PolicyStep, Any],
    num_envs: int,
    single: bool = False,
) -> SequenceLayout:
    """The layout of sequences.

    Args:
      example: see `SequenceLayout`.
      num_envs: of an actor.
      single: each column is an item, as a replay samples them.
    """
    kind = SEQUENCES[type(item)]
    stack = spec.frame_stack if kind.shares_frames else 0
    columns = 1 if single else kind.columns(item, num_envs)
    return SequenceLayout(spec, item, example, columns, stack)


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
    item: NStep | Sequences,
    layout: Layout,
    num_envs: int,
    actor: int = 0,
    policy: Policy | None = None,
    initial_priority: Callable | None = None,
    patience: Callable[[], None] | None = None,
    hindsight: Hindsight | None = None,
) -> Writer:
    """The writer of an item into the tables of servers.

    Args:
      clients: of the servers, over which the items of a replay are spread.
      actor: who writes.
      policy: whose weights compute what is written, where anything is computed.
      initial_priority: see `Agent`.
      patience: see `bounded`.
      hindsight: makes the copies of an item with relabels.
    """
    if not isinstance(item, NStep):
        sinks = [TableSink(client) for client in clients]
        return _sequence_writer(sinks, item, layout, num_envs, actor, policy, patience)
    initial = None
    if initial_priority is not None:
        initial = InitialPriorities(initial_priority, item.n, num_envs)
    if layout.frames:
        tables = FrameTables(clients, item, layout, num_envs, patience)
    else:
        tables = RowTables(clients, layout, patience)
    return TransitionWriter(tables, item, layout, num_envs, initial, hindsight)


def sequence_writer(
    sink: Sink,
    item: Sequences,
    layout: SequenceLayout | ComputedLayout,
    num_envs: int,
    actor: int = 0,
    policy: Policy | None = None,
    patience: Callable[[], None] | None = None,
) -> SequenceWriter:
    """The writer of an item of sequences.

    Args:
      sink: where the items go.
      item, layout, num_envs, actor, policy, patience: as in `make_writer`.
    """
    return _sequence_writer([sink], item, layout, num_envs, actor, policy, patience)


def _sequence_writer(
    sinks: Sequence[Sink],
    item: Sequences,
    layout: SequenceLayout | ComputedLayout,
    num_envs: int,
    actor: int,
    policy: Policy | None,
    patience: Callable[[], None] | None,
) -> SequenceWriter:
    kind = SEQUENCES[type(item)]
    sender = Sender(sinks, layout, actor, policy, patience)
    return SequenceWriter(sender, kind.builders(layout.unrolls, num_envs), kind.whole)
