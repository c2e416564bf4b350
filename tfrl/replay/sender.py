"""The last step of every sequence: whole items, or what is computed of them, go to where they are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfrl.agent import Policy
from tfrl.replay.computed import ComputedLayout
from tfrl.replay.local_queue import Sink
from tfrl.replay.sequences import SequenceLayout
from tfrl.replay.spread import Spread


class Built(NamedTuple):
    """Whole sequences of several environments.

    Attributes:
      records: packed steps [T + 1, B] of the layout's dtype.
      state: packed recurrent state before the first of them [B].
      frames: uint8 [B, F, H, W], or None where frames are not stored apart.
      version: updates behind the weights that acted.
    """

    records: np.ndarray
    state: np.ndarray
    frames: np.ndarray | None
    version: int


class Sender:
    """Hands whole items to where they are kept, or what is computed of them.

    Args:
      sinks: where they go: one place, or several over which they are spread.
      layout: of what is sent.
      actor: whose index goes with it.
      policy: whose weights compute, where the layout is of results.
      patience: see `bounded`.

    Attributes:
      waited_s: seconds in calls that wait until items are taken.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        layout: SequenceLayout | ComputedLayout,
        actor: int = 0,
        policy: Policy | None = None,
        patience: Callable[[], None] | None = None,
    ):
        self.waited_s = 0.0
        self._sinks, self._spread = list(sinks), Spread(len(sinks))
        self._layout, self._actor = layout.unrolls, actor
        self._patience, self._priority = patience, 1.0
        self._compute = layout.traced(policy)
        self._variables = list(policy.variables) if self._compute is not None else []

    def load(self, arrays: Sequence[np.ndarray], priority: float) -> None:
        """Takes the weights that compute, in the order of `policy.variables`, and the priority of items from now on."""
        self._priority = priority
        for variable, array in zip(self._variables, arrays):  # noqa: B905 - none where nothing is computed
            variable.assign(array)

    def send(self, built: Built) -> int:
        """Sends what was built, as one item or as many as the layout has of it; returns how many.

        Waits while more than one item is not yet with a server.

        Raises:
          reverb.errors.DeadlineExceededError: see `bounded`; or what `patience` raises.
        """
        layout = self._layout
        rows, columns = built.records.shape
        packed = built.records.view(np.uint8).reshape(rows, columns, layout.packing.nbytes)
        facts = np.array([built.version, self._actor], np.int64)
        starts = range(0, columns, layout.columns)
        for start in starts:
            mine = slice(start, start + layout.columns)
            item = {"packed": np.ascontiguousarray(packed[:, mine]), "facts": facts}
            if layout.state_packing.nbytes:
                item["state"] = layout.state_packing.rows(built.state)[mine]
            if built.frames is not None:
                item["frames"] = built.frames[mine]
            self._sinks[self._spread.take(1)].append(self._computed(item), self._priority)
        # A full queue of a server holds the actor back here: that bounds memory, and the lag of what it does next.
        self.flush(1)
        return len(starts)

    def _computed(self, item: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The result that is sent in place of an item, or the item."""
        if self._compute is None:
            return item
        results = self._compute(*(tf.convert_to_tensor(item[name]) for name in sorted(item)))
        return {**{name: x.numpy() for name, x in results.items()}, "facts": item["facts"]}

    def flush(self, pending: int) -> None:
        """Returns when all but `pending` items are where they are kept; of several places, when one has taken them.

        Without `pending`, all places have all.

        Raises:
          reverb.errors.DeadlineExceededError: see `bounded`; or what `patience` raises.
        """
        flushes = [functools.partial(sink.flush, pending) for sink in self._sinks]
        self.waited_s += self._spread.wait(flushes, self._patience, not pending)

    def close(self) -> None:
        """Ends the stream; items that have arrived stay."""
        for sink in self._sinks:
            sink.close()
