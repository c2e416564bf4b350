"""From vector steps to Reverb items. Every call that can block is bounded in time."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import reverb
from reverb import structured_writer

from tfrl.agent import NStep
from tfrl.replay.nstep import Emitted, NStepAccumulator
from tfrl.replay.priorities import Acted, InitialPriorities
from tfrl.replay.tables import EXPERIENCE
from tfrl.replay.transitions import TransitionLayout
from tfrl.types import PolicyStep, VectorStep

FLUSH_TIMEOUT_MS = 60_000
PATIENCE_MS = 250
# Items handed over at once: Reverb's threads then wake once for all of them, at a third of the cost
# of one by one, and not so many that it warns of items piling up.
BURST_ITEMS = 32
# Between several servers: how long one may take to confirm before others are given more, and after how many vector
# steps an environment's frames go elsewhere.
CONFIRM_MS, FRAGMENT_STEPS = 100, 128


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


class Spread:
    """Which of several servers takes the next items: of those that keep up, the one that was given the fewest.

    A server that is held back by its limiter, or is being replaced, is given no more until it has confirmed; what it
    was given goes there when it is back.

    Args:
      count: servers.
    """

    def __init__(self, count: int):
        self._given, self._keeps_up = [0] * count, [True] * count

    def take(self, items: int) -> int:
        """The server for so many items."""
        slot = min((s for s, up in enumerate(self._keeps_up) if up), key=self._given.__getitem__)
        self._given[slot] += items
        return slot

    def keeps_up(self, slot: int) -> bool:
        """Whether the server `slot` has confirmed what it was given, so that it is given more."""
        return self._keeps_up[slot]

    def wait(
        self,
        flushes: Sequence[Callable[..., None]],
        patience: Callable[[], None] | None,
        all_of_them: bool,
    ) -> float:
        """Returns when one server has confirmed, or all have; the seconds that it took.

        Args:
          flushes: of each server; see `bounded`, also for `patience`.
          all_of_them: wait for all, not for the first.

        Raises:
          reverb.errors.DeadlineExceededError: without `patience`, not done within `FLUSH_TIMEOUT_MS`; or what
            `patience` raises.
        """
        if len(flushes) == 1 or all_of_them:
            return sum(bounded(flush, patience) for flush in flushes)
        start = time.perf_counter()
        while True:
            for slot, flush in enumerate(flushes):
                self._look(slot, flush)
            if any(self._keeps_up):
                return time.perf_counter() - start
            if patience is not None:
                patience()
            elif time.perf_counter() - start > FLUSH_TIMEOUT_MS / 1000:
                raise reverb.errors.DeadlineExceededError("no server takes items")

    def _look(self, slot: int, flush: Callable[..., None]) -> None:
        before = self._keeps_up[slot]
        try:
            flush(timeout_ms=CONFIRM_MS if before or not any(self._keeps_up) else 1)
        except reverb.errors.DeadlineExceededError:
            self._keeps_up[slot] = False
            return
        if not before:  # it need not catch up with what the others were given meanwhile
            others = [g for g, up in zip(self._given, self._keeps_up) if up]
            self._given[slot] = max([self._given[slot], *([min(others)] if others else [])])
        self._keeps_up[slot] = True


class TransitionWriter:
    """Writes each n-step transition as one packed row through one writer for all environments.

    `vector_steps_to_item` is None: an item may come of any step.

    Args:
      clients: of the servers that the items are spread over.
      item, layout, num_envs: what is written.
      initial: gives items their priorities; None: all have `priority`.

    Attributes:
      priority: initial priority of the items written from now on; the runtime keeps it at the running maximum.
      version: of the weights that act; items do not carry it.
      items_written: items made so far; `flush` hands over the last of them.
      patience: see `bounded`.
    """

    vector_steps_to_item: int | None = None

    def __init__(
        self,
        clients: Sequence[reverb.Client],
        item: NStep,
        layout: TransitionLayout,
        num_envs: int,
        initial: InitialPriorities | None = None,
    ):
        self.priority, self.version = 1.0, 0
        self.patience: Callable[[], None] | None = None
        self.items_written, self.waited_s = 0, 0.0
        self._layout, self._initial = layout, initial
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
        self._writers = [client.structured_writer([config]) for client in clients]
        self._spread = Spread(len(clients))

    def load(self, arrays: Any) -> None:
        """Takes the weights that act from now on; transitions do not depend on them."""

    def record(self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep) -> None:
        """Takes one vector step of an actor; see `write`."""
        del state
        if self._initial is None:
            self.write(obs, choice.action, step)
        else:
            self._write_acted(self._initial.delay(Acted(obs, choice, step)))

    def _write_acted(self, acted: Acted | None) -> None:
        if acted is not None:
            self.write(acted.obs, acted.choice.action, acted.step)

    def _priorities(self, emitted: Emitted) -> np.ndarray:
        """Of new items, float32 [m]."""
        if self._initial is not None:
            return self._initial.of(emitted, self.priority)
        return np.full(len(emitted.rows), self.priority, np.float32)

    def write(self, obs: Any, action: np.ndarray, step: VectorStep) -> None:
        """Takes one vector step; see `NStepAccumulator.add`."""
        emitted = self._accumulator.add(obs, action, step)
        records = emitted.records
        rows = self._layout.packing.rows(records.copy())  # the accumulator fills its own again
        if self._layout.prioritized:
            priorities = self._priorities(emitted)
            self._waiting.extend({"packed": r, "priority": p} for r, p in zip(rows, priorities))
        else:
            self._waiting.extend({"packed": row} for row in rows)
        self.items_written += len(records)
        if len(self._waiting) >= BURST_ITEMS:
            self._send()

    def flush(self, pending: int = 0) -> None:
        """Returns when all but `pending` items are with the server; of several servers, with one of them.

        Without `pending`, also what waits for its priority is written, and all servers have all.

        Raises:
          reverb.errors.DeadlineExceededError: not within `FLUSH_TIMEOUT_MS`.
        """
        if not pending and self._initial is not None:
            self._write_acted(self._initial.release())
        self._send()
        flushes = [functools.partial(writer.flush, pending) for writer in self._writers]
        self.waited_s += self._spread.wait(flushes, self.patience, not pending)

    def _send(self) -> None:
        if not self._waiting:
            return
        writer = self._writers[self._spread.take(len(self._waiting))]
        for item in self._waiting:
            writer.append(item)
        self._waiting.clear()

    def close(self) -> None:
        """Drops the open steps; items already written stay."""
        self._writers.clear()


class FrameWriter:
    """Writes transitions over stacked frames: every frame once, items that point at the frames of their two stacks.

    An episode starts with the whole stack of its first observation, so that stacks read back equal those acted on,
    whatever the environment pads them with. Where an environment's items go to another server in the middle of an
    episode, the last frames go with them. Arguments as those of `TransitionWriter`.
    """

    vector_steps_to_item: int | None = None

    def __init__(
        self,
        clients: Sequence[reverb.Client],
        item: NStep,
        layout: TransitionLayout,
        num_envs: int,
        initial: InitialPriorities | None = None,
    ):
        self.priority, self.version = 1.0, 0
        self.patience: Callable[[], None] | None = None
        self.items_written, self.waited_s = 0, 0.0
        self._layout, self._initial = layout, initial
        self._accumulator = NStepAccumulator(item.n, item.discount, num_envs, layout)
        # Rows flushed at an episode's end follow its last frame, hence n more references.
        references = layout.frames + 2 * item.n + 1
        # Of each server, those of all environments.
        self._writers = [
            [client.trajectory_writer(references) for _ in range(num_envs)] for client in clients
        ]
        self._spread = Spread(len(clients))
        # Of each environment: its server, vector steps left there, and the last frames of its episode.
        self._slot, self._left = [0] * num_envs, [0] * num_envs
        history = layout.frames + item.n
        self._recent = [collections.deque(maxlen=history) for _ in range(num_envs)]

    load, record = TransitionWriter.load, TransitionWriter.record
    _write_acted, _priorities = TransitionWriter._write_acted, TransitionWriter._priorities

    def write(self, obs: np.ndarray, action: np.ndarray, step: VectorStep) -> None:
        """Takes one vector step; `obs` and `step.next_obs` are uint8 [B, H, W, k]."""
        emitted = self._accumulator.add(obs, action, step)
        packed, priorities = self._layout.packing.rows(emitted.records), self._priorities(emitted)
        for row in np.flatnonzero(step.valid):
            mine = np.flatnonzero(emitted.rows == row)
            self._write_row(row, obs, step, packed[mine], emitted.lengths[mine], priorities[mine])
        self.items_written += len(packed)

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
                self.waited_s += bounded(writer.end_episode, self.patience)
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

    def flush(self, pending: int = 0) -> None:
        """As in `TransitionWriter`; `pending` counts for each environment."""
        if not pending and self._initial is not None:
            self._write_acted(self._initial.release())

        def flush_all(writers: Sequence[reverb.TrajectoryWriter], timeout_ms: int) -> None:
            for writer in writers:
                writer.flush(pending, timeout_ms=timeout_ms)

        flushes = [functools.partial(flush_all, writers) for writers in self._writers]
        self.waited_s += self._spread.wait(flushes, self.patience, not pending)

    def close(self) -> None:
        """Drops the open steps; items already written stay."""
        for writers in self._writers:
            for writer in writers:
                writer.close()
