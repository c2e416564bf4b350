"""Statistics of the newest training episodes."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Mapping, Sequence


def info_metric(name: str) -> str:
    """The metric of a number in the infos of episodes."""
    return f"info/{name}"


class EpisodeWindow:
    """Returns and lengths of the last `size` episodes.

    Args:
      size: episodes that are kept.
      info_names: of the numbers that each episode comes with, for `metrics`.

    Attributes:
      total: episodes added so far, also those that left the window.
    """

    def __init__(self, size: int = 100, info_names: Sequence[str] = ()) -> None:
        self._returns: collections.deque[float] = collections.deque(maxlen=size)
        self._lengths: collections.deque[int] = collections.deque(maxlen=size)
        self._names = tuple(info_names)
        self._infos: collections.deque[tuple[float, ...]] = collections.deque(maxlen=size)
        self.total = 0

    def add(
        self, episode_return: float, length_env_steps: int, infos: Sequence[float] = ()
    ) -> None:
        """Takes one finished episode: its unclipped return, its length in env steps and a number for each info name."""
        if self._names and infos:
            self._infos.append(tuple(infos))
        self._returns.append(float(episode_return))
        self._lengths.append(int(length_env_steps))
        self.total += 1

    def to_dict(self) -> dict[str, list]:
        """The episodes in the window, for JSON."""
        infos = [list(numbers) for numbers in self._infos]
        return {"returns": list(self._returns), "lengths": list(self._lengths), "infos": infos}

    def restore(self, saved: Mapping[str, list]) -> None:
        """Takes the episodes of `to_dict`; they are the oldest then."""
        for episode in zip(saved["returns"], saved["lengths"], strict=True):
            self.add(*episode)
        infos = saved.get("infos", ())
        self._infos.extend(tuple(numbers) for numbers in infos if len(numbers) == len(self._names))

    def metrics(self) -> dict[str, float]:
        """The `actor/episode_*` metrics; {} before the first episode ends."""
        if not self._returns:
            return {}
        found = {}
        for i, name in enumerate(self._names):
            values = [infos[i] for infos in self._infos if not math.isnan(infos[i])]
            if values:
                found[info_metric(name)] = statistics.fmean(values)
        return {
            **found,
            "actor/episode_return_mean": statistics.fmean(self._returns),
            "actor/episode_return_min": min(self._returns),
            "actor/episode_return_max": max(self._returns),
            "actor/episode_return_median": float(statistics.median(self._returns)),
            "actor/episode_length_mean_env_steps": statistics.fmean(self._lengths),
        }
