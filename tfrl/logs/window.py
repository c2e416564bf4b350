"""Statistics of the newest training episodes."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Mapping


class EpisodeWindow:
    """Returns and lengths of the last `size` episodes.

    Attributes:
      total: episodes added so far, also those that left the window.
    """

    def __init__(self, size: int = 100) -> None:
        self._returns: collections.deque[float] = collections.deque(maxlen=size)
        self._lengths: collections.deque[int] = collections.deque(maxlen=size)
        self.total = 0

    def add(self, episode_return: float, length_env_steps: int) -> None:
        """Takes one finished episode: its unclipped return and its length in env steps."""
        self._returns.append(float(episode_return))
        self._lengths.append(int(length_env_steps))
        self.total += 1

    def to_dict(self) -> dict[str, list]:
        """The episodes in the window, for JSON."""
        return {"returns": list(self._returns), "lengths": list(self._lengths)}

    def restore(self, saved: Mapping[str, list]) -> None:
        """Takes the episodes of `to_dict`; they are the oldest then."""
        for episode in zip(saved["returns"], saved["lengths"], strict=True):
            self.add(*episode)

    def metrics(self) -> dict[str, float]:
        """The `actor/episode_*` metrics; {} before the first episode ends."""
        if not self._returns:
            return {}
        return {
            "actor/episode_return_mean": statistics.fmean(self._returns),
            "actor/episode_return_min": min(self._returns),
            "actor/episode_return_max": max(self._returns),
            "actor/episode_return_median": float(statistics.median(self._returns)),
            "actor/episode_length_mean_env_steps": statistics.fmean(self._lengths),
        }
