"""From vector steps to Reverb items. Every call that can block is bounded in time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import reverb
from reverb import structured_writer

from tfrl.agent import NStep
from tfrl.replay.nstep import NStepAccumulator
from tfrl.replay.tables import EXPERIENCE
from tfrl.replay.transitions import TransitionLayout
from tfrl.types import PolicyStep, VectorStep

FLUSH_TIMEOUT_MS = 60_000
PATIENCE_MS = 250
# Items handed over at once: Reverb's threads then wake once for all of them, at a third of the cost
# of one by one, and not so many that it warns of items piling up.
BURST_ITEMS = 32


def bounded(call: Callable[..., None], patience: Callable[[], None] | None) -> float:
    """Makes a call of a writer that waits for the server, which may hold inserts back to keep the ratio to samples.

    Returns the seconds that it took.

    Args:
      call: takes `timeout_ms`.
      patience: None to wait for `FLUSH_TIMEOUT_MS`; else called some times a second for as long as it takes, it raises
        to give up.

    Raises:
      reverb.errors.DeadlineExceededError: not done within `FLUSH_TIMEOUT_MS`.
    """
    start = time.perf_counter()
    if patience is None:
        call(timeout_ms=FLUSH_TIMEOUT_MS)
        return time.perf_counter() - start
    while True:
        try:
            call(timeout_ms=PATIENCE_MS)
            return time.perf_counter() - start
        except reverb.errors.DeadlineExceededError:
            patience()


class TransitionWriter:
    """Writes each n-step transition as one packed row through one writer for all environments.

    `vector_steps_to_item` is None: an item may come of any step.

    Attributes:
      priority: initial priority of the items written from now on; the runtime keeps it at the running maximum.
      version: of the weights that act; items do not carry it.
      items_written: items made so far; `flush` hands over the last of them.
      patience: see `bounded`.
    """

    vector_steps_to_item: int | None = None

    def __init__(self, client: reverb.Client, item: NStep, layout: TransitionLayout, num_envs: int):
        self.priority, self.version = 1.0, 0
        self.patience: Callable[[], None] | None = None
        self.items_written, self.waited_s = 0, 0.0
        self._layout = layout
        self._waiting: list[dict[str, Any]] = []  # items that are not yet with Reverb
        self._accumulator = NStepAccumulator(item.n, item.discount, num_envs, layout)
        columns = ["packed", "priority"] if layout.prioritized else ["packed"]
        reference = structured_writer.create_reference_step({name: None for name in columns})
        priority = None
        if layout.prioritized:
            priority = structured_writer.td_error(1.0, reference, lambda step: step["priority"])
        config = structured_writer.create_config(
            {name: reference[name][-1] for name in columns}, EXPERIENCE, [], priority
        )
        self._writer = client.structured_writer([config])

    def load(self, arrays: Any) -> None:
        """Takes the weights that act from now on; transitions do not depend on them."""

    def record(self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep) -> None:
        """Takes one vector step of an actor; see `write`."""
        del state
        self.write(obs, choice.action, step)

    def write(self, obs: Any, action: np.ndarray, step: VectorStep) -> None:
        """Takes one vector step; see `NStepAccumulator.add`."""
        records = self._accumulator.add(obs, action, step).records
        rows = self._layout.packing.rows(records.copy())  # the accumulator fills its own again
        if self._layout.prioritized:
            priority = np.float32(self.priority)
            self._waiting.extend({"packed": row, "priority": priority} for row in rows)
        else:
            self._waiting.extend({"packed": row} for row in rows)
        self.items_written += len(records)
        if len(self._waiting) >= BURST_ITEMS:
            self._send()

    def flush(self, pending: int = 0) -> None:
        """Returns when all but `pending` items are with the server.

        Raises:
          reverb.errors.DeadlineExceededError: not within `FLUSH_TIMEOUT_MS`.
        """
        self._send()
        self.waited_s += bounded(functools.partial(self._writer.flush, pending), self.patience)

    def _send(self) -> None:
        for item in self._waiting:
            self._writer.append(item)
        self._waiting.clear()

    def close(self) -> None:
        """Drops the open steps; items already written stay."""
        del self._writer


class FrameWriter:
    """Writes transitions over stacked frames: every frame once, items that point at the frames of their two stacks.

    An episode starts with the whole stack of its first observation, so that stacks read back equal those acted on,
    whatever the environment pads them with.
    """

    vector_steps_to_item: int | None = None

    def __init__(self, client: reverb.Client, item: NStep, layout: TransitionLayout, num_envs: int):
        self.priority, self.version = 1.0, 0
        self.patience: Callable[[], None] | None = None
        self.items_written, self.waited_s = 0, 0.0
        self._layout = layout
        self._accumulator = NStepAccumulator(item.n, item.discount, num_envs, layout)
        # Rows flushed at an episode's end follow its last frame, hence n more references.
        references = layout.frames + 2 * item.n + 1
        self._writers = [client.trajectory_writer(references) for _ in range(num_envs)]
        self._started = [False] * num_envs

    load, record = TransitionWriter.load, TransitionWriter.record

    def write(self, obs: np.ndarray, action: np.ndarray, step: VectorStep) -> None:
        """Takes one vector step; `obs` and `step.next_obs` are uint8 [B, H, W, k]."""
        emitted = self._accumulator.add(obs, action, step)
        packed = self._layout.packing.rows(emitted.records)
        for row in np.flatnonzero(step.valid):
            mine = np.flatnonzero(emitted.rows == row)
            self._write_row(row, obs, step, packed[mine], emitted.lengths[mine])
        self.items_written += len(packed)

    def _write_row(
        self, row: int, obs: np.ndarray, step: VectorStep, packed: np.ndarray, lengths: np.ndarray
    ) -> None:
        writer, stack = self._writers[row], self._layout.frames
        if not self._started[row]:
            for i in range(stack):
                writer.append({"frame": np.ascontiguousarray(obs[row, ..., i])})
            self._started[row] = True
        newest = {"frame": np.ascontiguousarray(step.next_obs[row, ..., -1])}
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
            writer.create_item(EXPERIENCE, self.priority, trajectory)
        if step.terminated[row] or step.truncated[row]:
            self.waited_s += bounded(writer.end_episode, self.patience)
            self._started[row] = False

    def flush(self, pending: int = 0) -> None:
        """As in `TransitionWriter`; `pending` counts for each environment."""
        for writer in self._writers:
            self.waited_s += bounded(functools.partial(writer.flush, pending), self.patience)

    def close(self) -> None:
        """Drops the open steps; items already written stay."""
        for writer in self._writers:
            writer.close()
