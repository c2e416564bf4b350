"""From vector steps to n-step transitions in Reverb tables, each one packed row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import reverb
from reverb import structured_writer

from tfrl.agent import NStep
from tfrl.replay.hindsight import Hindsight, accumulator
from tfrl.replay.nstep import Emitted
from tfrl.replay.priorities import Acted, InitialPriorities
from tfrl.replay.spread import Spread
from tfrl.replay.tables import EXPERIENCE
from tfrl.replay.transitions import TransitionLayout
from tfrl.replay.writer import Writer
from tfrl.types import PolicyStep, VectorStep

# Items handed over at once: Reverb's threads then wake once for all of them, at a third of the cost
# of one by one, and not so many that it warns of items piling up.
BURST_ITEMS = 32
# Items on their way to the server within a vector step, which with hindsight gives those of whole episodes.
MAX_PENDING_ITEMS = 512


class Tables(Protocol):
    """The place of transitions: tables of one or several servers, in one of two forms.

    Attributes:
      waited_s: seconds in calls that wait until a server takes what was written.
    """

    waited_s: float

    def write(self, obs: Any, step: VectorStep, emitted: Emitted, priorities: np.ndarray) -> None:
        """Takes what `NStepAccumulator` emitted for a vector step from `obs`, and its priorities, float32 [m]."""

    def flush(self, pending: int) -> None:
        """Returns when all but `pending` items are with the server; of several servers, with one of them.

        Without `pending`, all servers have all.

        Raises:
          reverb.errors.DeadlineExceededError: see `bounded`; or what its `patience` raises.
        """

    def state(self) -> dict[str, Any]:
        """State between two vector steps, for a resumed run."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state`."""

    def close(self) -> None:
        """Ends the streams; items already written stay."""


class RowTables:
    """Each transition as one packed row, through one writer of each server.

    Args:
      clients: of the servers.
      layout: of the items.
      patience: see `bounded`.

    Attributes:
      waited_s: seconds in calls that wait until a server takes what was written.
    """

    def __init__(
        self,
        clients: Sequence[reverb.Client],
        layout: TransitionLayout,
        patience: Callable[[], None] | None = None,
    ):
        self.waited_s, self._layout, self._patience = 0.0, layout, patience
        self._waiting: list[dict[str, Any]] = []  # items that are not yet with Reverb
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

    def write(self, obs: Any, step: VectorStep, emitted: Emitted, priorities: np.ndarray) -> None:
        """Implements `Tables.write`."""
        del obs, step
        rows = self._layout.packing.rows(emitted.records.copy())  # they are filled again
        if self._layout.prioritized:
            self._waiting.extend({"packed": r, "priority": p} for r, p in zip(rows, priorities))
        else:
            self._waiting.extend({"packed": row} for row in rows)
        while len(self._waiting) > MAX_PENDING_ITEMS:
            self._send(MAX_PENDING_ITEMS)
            self._confirm(MAX_PENDING_ITEMS)
        if len(self._waiting) >= BURST_ITEMS:
            self._send()

    def flush(self, pending: int) -> None:
        """Implements `Tables.flush`."""
        self._send()
        self._confirm(pending)

    def _confirm(self, pending: int) -> None:
        flushes = [functools.partial(writer.flush, pending) for writer in self._writers]
        self.waited_s += self._spread.wait(flushes, self._patience, not pending)

    def _send(self, most: int | None = None) -> None:
        if not self._waiting:
            return
        items = self._waiting[:most]
        writer = self._writers[self._spread.take(len(items))]
        for item in items:
            writer.append(item)
        del self._waiting[: len(items)]

    def state(self) -> dict[str, Any]:
        """Implements `Tables.state`: rows are whole."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Implements `Tables.restore`."""

    def close(self) -> None:
        """Implements `Tables.close`."""
        self._writers.clear()


class TransitionWriter(Writer):
    """Writes the n-step transitions that vector steps make.

    Args:
      tables: take them.
      item, layout, num_envs: what is written.
      initial: gives items their priorities; None: all have that of `load`, the running maximum.
      hindsight: makes the copies of an item with relabels.
    """

    def __init__(
        self,
        tables: Tables,
        item: NStep,
        layout: TransitionLayout,
        num_envs: int,
        initial: InitialPriorities | None = None,
        hindsight: Hindsight | None = None,
    ):
        self.items_written, self._tables = 0, tables
        self._initial, self._priority = initial, 1.0
        self._accumulator = accumulator(item, num_envs, layout, hindsight)

    @property
    def waited_s(self) -> float:
        """Seconds in calls that wait until what was written is taken."""
        return self._tables.waited_s

    def record(self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep) -> None:
        """Implements `Writer.record`."""
        del state
        if self._initial is None:
            self.write(obs, choice.action, step)
        else:
            self._write_acted(self._initial.delay(Acted(obs, choice, step)))

    def load(self, arrays: Sequence[np.ndarray], version: int, priority: float) -> None:
        """Implements `Writer.load`."""
        del arrays, version
        self._priority = priority

    def write(self, obs: Any, action: np.ndarray, step: VectorStep) -> None:
        """Takes one vector step; see `NStepAccumulator.add`."""
        emitted = self._accumulator.add(obs, action, step)
        if self._initial is None:
            priorities = np.full(len(emitted.rows), self._priority, np.float32)
        else:
            priorities = self._initial.of(emitted, self._priority)
        self._tables.write(obs, step, emitted, priorities)
        self.items_written += len(emitted.rows)

    def _write_acted(self, acted: Acted | None) -> None:
        if acted is not None:
            self.write(acted.obs, acted.choice.action, acted.step)

    def flush(self, pending: int = 0) -> None:
        """Implements `Writer.flush`; without `pending`, what waits for its priority is written too."""
        if not pending and self._initial is not None:
            self._write_acted(self._initial.release())
        self._tables.flush(pending)

    def state(self) -> dict[str, Any]:
        """Implements `Writer.state`."""
        state = {"accumulator": self._accumulator.state(), "tables": self._tables.state()}
        if self._initial is not None:
            state["initial"] = self._initial.state()
        # Items over a step that is held back, and lost with this writer, would have a gap.
        state["gap"] = self._initial is not None and self._initial.holds
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Implements `Writer.restore`."""
        self._accumulator.restore(state["accumulator"])
        self._tables.restore(state["tables"])
        if self._initial is not None:
            self._initial.restore(state["initial"])
        if state["gap"]:
            self._accumulator.drop()

    def close(self) -> None:
        """Implements `Writer.close`."""
        self._tables.close()
