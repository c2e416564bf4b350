"""From vector steps to n-step transitions in a Reverb table, each one packed row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import reverb
from reverb import structured_writer

from tfrl.agent import NStep
from tfrl.replay.nstep import Emitted, NStepAccumulator
from tfrl.replay.priorities import Acted, InitialPriorities
from tfrl.replay.spread import Spread
from tfrl.replay.tables import EXPERIENCE
from tfrl.replay.transitions import TransitionLayout
from tfrl.types import PolicyStep, VectorStep

# Items handed over at once: Reverb's threads then wake once for all of them, at a third of the cost
# of one by one, and not so many that it warns of items piling up.
BURST_ITEMS = 32


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

    def state(self) -> dict[str, Any]:
        """What is open between two vector steps, for a resumed run; what has not been flushed is not in it."""
        state = {"accumulator": self._accumulator.state()}
        if self._initial is not None:
            state["initial"] = self._initial.state()
        # Items over a step that is held back, and lost with this writer, would have a gap.
        state["gap"] = self._initial is not None and self._initial.holds
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state` of a writer of the same arguments."""
        self._accumulator.restore(state["accumulator"])
        if self._initial is not None:
            self._initial.restore(state["initial"])
        if state["gap"]:
            self._accumulator.drop()

    def close(self) -> None:
        """Drops the open steps; items already written stay."""
        self._writers.clear()
