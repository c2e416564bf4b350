"""Items of one writer spread over several servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import reverb

from tfrl.replay.bounded import FLUSH_TIMEOUT_MS, bounded

CONFIRM_MS = 100  # how long one server may take to confirm before others are given more


class Spread:
    """Picks the server of the next items: among the servers that keep up, the one that was given the fewest.

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
