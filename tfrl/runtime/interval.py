"""A rhythm in env steps: when the next evaluation, checkpoint or row is due."""

from __future__ import annotations

import math


class Interval:
    """Fires once for each multiple of an interval that a counter passes, however coarse its steps are.

    Args:
      interval: in units of the counter; 0: never.
      start: value of the counter now, so that a resumed run keeps its rhythm.
    """

    def __init__(self, interval: int, start: int = 0):
        self._interval = interval
        self._passed = math.floor(start / interval) if interval else 0

    def due(self, now: int) -> bool:
        """Whether a multiple of the interval was passed since the last call, or since `start`; once for several of
        them.

        Args:
          now: the counter.
        """
        if not self._interval:
            return False
        passed = math.floor(now / self._interval)
        fired, self._passed = passed > self._passed, passed
        return fired
