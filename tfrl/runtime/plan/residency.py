"""The place of a run's replay: in the Reverb server, or beside the learner."""

from __future__ import annotations

import math
import pathlib

import tensorflow as tf

from tfrl.agent import Agent, Queue, Sequences
from tfrl.errors import SettingError
from tfrl.job import Job
from tfrl.replay import learner_replay, local_queue
from tfrl.replay.layout import Layout
from tfrl.runtime.storage.replay_server import saved_shards

SERVER, LEARNER = "server", "learner"
SHARE = 0.5  # of the free memory that auto lets a replay beside the learner take


def pick(job: Job, agent: Agent, layout: Layout, contents: pathlib.Path | None) -> tuple[str, str]:
    """The place of the replay, and why; ('server', '') where there is no choice.

    Args:
      contents: of the replay, as a checkpoint to resume from holds them; None if there are none.

    Raises:
      SettingError: items that do not stay, or contents of the other place.
    """
    wanted, replay = job.topology.replay_residency, agent.experience
    if isinstance(replay, Queue):
        return _of_queue(job, contents)
    shards = job.topology.num_replay_shards
    if contents is not None and saved_shards(contents) != shards:
        raise SettingError(
            f"num_replay_shards={shards}: the checkpoint holds the replay of a run with "
            f"num_replay_shards={saved_shards(contents)}; expected the same"
        )
    rows = layout.rows()
    if rows is None:
        if wanted == LEARNER:
            raise SettingError(
                f"replay_residency=learner with algo={job.algo}: expected server or auto; items live beside the "
                "learner, not sequences of stacked frames"
            )
        alone = job.topology.backend == "inprocess"
        return SERVER, "sequences of stacked frames need a server" if alone else ""
    if isinstance(replay.item, Sequences) and job.topology.backend != "inprocess":
        if wanted == LEARNER:
            raise SettingError(
                f"replay_residency=learner with algo={job.algo} and backend={job.topology.backend}: expected server or "
                "auto; processes hand sequences over through a server"
            )
        return SERVER, ""
    if agent.initial_priority is not None:
        if wanted == LEARNER:
            raise SettingError(
                "replay_residency=learner with actor_priorities=True: expected server or auto; beside the "
                "learner new transitions get the largest priority so far"
            )
        if shards == 1:
            return SERVER, "actors set the priorities"
    if shards > 1:
        return SERVER, f"{shards} shards of {math.ceil(replay.capacity_items / shards):,} items"
    needed, free = learner_replay.sizes(replay, rows).nbytes, learner_replay.free_bytes()
    takes = f"it takes {needed / 2**20:,.0f} MB of {free / 2**20:,.0f} MB free"
    if contents is not None:
        found = LEARNER if learner_replay.saved_here(contents) else SERVER
        _refuse_other(wanted, found)
        return found, "as in the checkpoint" + (f"; {takes}" if found == LEARNER else "")
    if wanted != "auto":
        return wanted, "as set" + (f"; {takes}" if wanted == LEARNER else "")
    if tf.config.list_physical_devices("GPU"):
        return SERVER, "updates run on an accelerator"
    if needed > SHARE * free:
        return SERVER, takes
    return LEARNER, takes


def _of_queue(job: Job, contents: pathlib.Path | None) -> tuple[str, str]:
    """Like `pick`, for unrolls that are trained on in the order in which they come."""
    wanted = job.topology.replay_residency
    if job.topology.backend != "inprocess":
        if wanted == LEARNER:
            raise SettingError(
                f"replay_residency=learner with algo={job.algo} and backend={job.topology.backend}: expected server or "
                "auto; processes hand unrolls over through a server"
            )
        return SERVER, ""
    if contents is not None:
        found = LEARNER if local_queue.saved_here(contents) else SERVER
        _refuse_other(wanted, found)
        return found, "as in the checkpoint"
    if wanted == SERVER:
        return SERVER, "as set"
    return LEARNER, "one process, no port"


def _refuse_other(wanted: str, found: str) -> None:
    """Raises SettingError where contents that were saved in one place are wanted in another."""
    if wanted not in ("auto", found):
        raise SettingError(
            f"replay_residency={wanted}: the checkpoint holds the replay of a run with "
            f"replay_residency={found}; expected {found} or auto"
        )
