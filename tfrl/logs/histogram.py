"""Counts of whole numbers over a range that may be large, small enough to be sent with every report."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def _limits() -> np.ndarray:
    """Largest number of each bucket: 0 to 64 one by one, then each larger by a fifth, up to some 10^6."""
    limits = list(range(65))
    while limits[-1] < 1_000_000:
        limits.append(limits[-1] * 6 // 5)
    return np.array(limits)


class Histogram:
    """Counts of whole numbers of at least 0; up to 64 they are kept exactly, beyond to a fifth, upwards.

    Args:
      counts: of each bucket, to begin with.

    Attributes:
      LIMITS: largest number of each bucket; numbers beyond the last are put there.
      counts: int64, one for each limit.
    """

    LIMITS = _limits()

    def __init__(self, counts: Iterable[int] | None = None):
        self.counts = np.zeros(len(self.LIMITS), np.int64)
        if counts is not None:
            self.counts += np.asarray(counts, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Counts whole numbers, int [...]; those below 0 as 0."""
        where = np.searchsorted(self.LIMITS, np.minimum(values, self.LIMITS[-1]))
        np.add.at(self.counts, where, 1)

    def __bool__(self) -> bool:
        return bool(self.counts.any())

    @property
    def mean(self) -> float:
        """Mean of what was counted, to the limits of the buckets; raises ZeroDivisionError where nothing was."""
        return float(np.average(self.LIMITS, weights=self.counts))

    @property
    def max(self) -> int:
        """Limit of the last bucket that holds something; raises IndexError where none does."""
        return int(self.LIMITS[np.flatnonzero(self.counts)[-1]])

    def percentile(self, percent: float) -> int:
        """The smallest number that at least this share of all does not exceed."""
        reached = np.cumsum(self.counts) >= self.counts.sum() * percent / 100.0
        return int(self.LIMITS[np.flatnonzero(reached)[0]])
