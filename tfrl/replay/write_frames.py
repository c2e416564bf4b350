"""From vector steps to n-step transitions over stacked frames in Reverb tables, which hold every frame once."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import reverb

from tfrl.agent import NStep
from tfrl.replay.bounded import bounded
from tfrl.replay.nstep import Emitted
from tfrl.replay.saved import put_back, saved
from tfrl.replay.spread import Spread
from tfrl.replay.tables import EXPERIENCE
from tfrl.replay.transitions import TransitionLayout
from tfrl.types import VectorStep

# With several servers: vector steps after which an environment's frames go to another one.
FRAGMENT_STEPS = 128


class FrameTables:
    """Transitions over stacked frames: every frame once, items that point at the frames of their two stacks.

    An episode starts with the whole stack of its first observation, so that stacks read back equal those acted on,
    whatever the environment pads them with. Where an environment's items go to another server in the middle of an
    episode, the last frames go with them.

    Args:
      clients: of the servers.
      item, layout, num_envs: what is written.
      patience: see `bounded`.

    Attributes:
      waited_s: seconds in calls that wait until a server takes what was written.
    """

    def __init__(
        self,
        clients: Sequence[reverb.Client],
        item: NStep,
        layout: TransitionLayout,
        num_envs: int,
        patience: Callable[[], None] | None = None,
    ):
        self.waited_s, self._layout, self._patience = 0.0, layout, patience
        # Rows flushed at an episode's end follow its last frame, hence n more references.
        references = layout.frames + 2 * item.n + 1
        # For each server, the frames of all environments.
        self._writers = [
            [client.trajectory_writer(references) for _ in range(num_envs)] for client in clients
        ]
        self._spread = Spread(len(clients))
        # For each environment: its server, vector steps left there, and the last frames of its episode.
        self._slot, self._left = [0] * num_envs, [0] * num_envs
        history = layout.frames + item.n
        self._recent = [collections.deque(maxlen=history) for _ in range(num_envs)]

    def write(
        self, obs: np.ndarray, step: VectorStep, emitted: Emitted, priorities: np.ndarray
    ) -> None:
        """Implements `Tables.write`; `obs` and `step.next_obs` are uint8 [B, H, W, k]."""
        packed = self._layout.packing.rows(emitted.records)
        for row in np.flatnonzero(step.valid):
            mine = np.flatnonzero(emitted.rows == row)
            self._write_row(row, obs, step, packed[mine], emitted.lengths[mine], priorities[mine])

    def _write_row(
        self,
        row: int,
        obs: np.ndarray,
        step: VectorStep,
        packed: np.ndarray,
        lengths: np.ndarray,
        priorities: np.ndarray,
    ) -> None:
        writer, stack, recent = self._writer(row, obs), self._layout.frames, self._recent[row]
        newest = {"frame": np.ascontiguousarray(step.next_obs[row, ..., -1])}
        recent.append(newest["frame"])
        if len(packed) == 0:
            writer.append(newest)
        for i, length in enumerate(lengths):
            writer.append({"packed": packed[i], **newest} if i == 0 else {"packed": packed[i]})
            # Counted from the end, as Reverb's history wants it; the i rows after the newest frame hold none.
            end, frames = -i or None, writer.history["frame"]
            trajectory = {
                "packed": writer.history["packed"][-1],
                "frames_tm1": frames[-(i + length + stack) : -(i + length)],
                "frames_t": frames[-(i + stack) : end],
            }
            writer.create_item(EXPERIENCE, float(priorities[i]), trajectory)
        if step.terminated[row] or step.truncated[row]:
            if len(self._writers) == 1:  # of several, this one may be the one that does not answer
                self.waited_s += bounded(writer.end_episode, self._patience)
            recent.clear()

    def _writer(self, row: int, obs: np.ndarray) -> reverb.TrajectoryWriter:
        """The writer that has the last frames of an environment, those of its first stack at a start."""
        recent, slot = self._recent[row], self._slot[row]
        starts, several = not recent, len(self._writers) > 1
        if starts:
            recent.extend(np.ascontiguousarray(obs[row, ..., i]) for i in range(obs.shape[-1]))
        moves = several and (self._left[row] <= 0 or not self._spread.keeps_up(slot))
        if moves:
            slot = self._slot[row] = self._spread.take(FRAGMENT_STEPS)
            self._left[row] = FRAGMENT_STEPS
        self._left[row] -= 1
        writer = self._writers[slot][row]
        if starts or moves:
            for frame in recent:
                writer.append({"frame": frame})
        return writer

    def flush(self, pending: int) -> None:
        """Implements `Tables.flush`; `pending` counts for each environment."""

        def flush_all(writers: Sequence[reverb.TrajectoryWriter], timeout_ms: int) -> None:
            for writer in writers:
                writer.flush(pending, timeout_ms=timeout_ms)

        flushes = [functools.partial(flush_all, writers) for writers in self._writers]
        self.waited_s += self._spread.wait(flushes, self._patience, not pending)

    def state(self) -> dict[str, Any]:
        """Implements `Tables.state`: the last frames of each episode."""
        return saved(self, ("_recent",))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Implements `Tables.restore`; the last frames go to the server again, where items refer to them."""
        put_back(self, state)
        for row, recent in enumerate(self._recent):
            for frame in recent:
                self._writers[self._slot[row]][row].append({"frame": frame})

    def close(self) -> None:
        """Implements `Tables.close`."""
        for writers in self._writers:
            for writer in writers:
                writer.close()
