"""A call into environments that does not return is noticed, and the row is named."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from tfrl.envs.vector import Place
from tfrl.job import Topology
from tfrl.runtime.interrupt import take_no_signals


def limit_s(topology: Topology) -> float:
    """Seconds of silence of an environment that are worth a line; between processes it comes before the kill."""
    share = 0.8 if topology.backend == "processes" else 1.0
    return share * topology.heartbeat_timeout_s


class Watch:
    """A thread that reports an environment that has been silent for too long, and its return; it does nothing else.

    It ends with the environments, or by `close`.

    Args:
      place: where the environments' own code runs.
      what: they are for, e.g. 'training'.
      limit_s: longest silence of one environment.
      announce: takes the lines, on the thread.
    """

    def __init__(self, place: Place, what: str, limit_s: float, announce: Callable[[str], None]):
        self._place, self._what, self._limit_s = weakref.ref(place), what, limit_s
        self._announce, self._closed = announce, threading.Event()
        self._thread = threading.Thread(target=self._look, name=f"watch {what}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self._thread.join()

    def _look(self) -> None:
        take_no_signals()
        seen, since, said = None, time.monotonic(), ""
        while not self._closed.wait(self._limit_s / 20):
            place, now = self._place(), time.monotonic()
            if place is None:
                return
            # Rows of one call follow each other, and each has the whole limit.
            here = (place.calls, tuple(place.rows())) if place.inside else None
            del place
            if here != seen:
                if said:
                    self._announce(f"{said} responded after {now - since:.0f} s")
                seen, since, said = here, now, ""
            elif here and not said and now - since > self._limit_s:
                rows = ", ".join(map(str, here[1]))
                said = (
                    f"environment row {rows} of {self._what}"
                    if rows
                    else f"the environments of {self._what}"
                )
                self._announce(
                    f"warning: {said} has not responded for {now - since:.0f} s (heartbeat_timeout_s); the run waits"
                )
