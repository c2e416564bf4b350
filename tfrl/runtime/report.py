"""What a run tells: rows of metrics from the totals of its roles, and `result.json` at the end."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import pathlib
import platform
import resource
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrl import files
from tfrl.logs.histogram import Histogram
from tfrl.logs.window import EpisodeWindow
from tfrl.runtime.learning.divergence import diverged

PARTS = ("env", "act", "write", "sample", "learn")
DIVERGES = ("learner/loss", "learner/policy_loss", "learner/value_loss", "learner/gradient_norm")
# Between processes, parts in which nothing is done; see logs/metrics.py.
LEAST_RATE_S = 0.5  # of acting and learning, after which a rate of 0 means something
STALLS = ("room", "weights", "experience")


@dataclasses.dataclass
class Totals:
    """Running totals of a run; they only grow, also over a restart.

    Attributes:
      env_steps, updates, episodes: see common words.
      items_inserted, items_sampled: of the experience table.
      seconds: {part: seconds spent}, over all processes, for `PARTS` and, where there are several, `STALLS`.
      train_s: wall seconds of acting and learning, without start-up and evaluation.
    """

    env_steps: int = 0
    updates: int = 0
    episodes: int = 0
    items_inserted: int = 0
    items_sampled: int = 0
    train_s: float = 0.0
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """{field: value}, a copy, for JSON."""
        return dataclasses.asdict(self)


class Report:
    """Makes rows; rates are over the time since the row before.

    Args:
      total_env_steps: length of the run.
      min_items: inserts that are not paid back by samples.
    """

    def __init__(self, total_env_steps: int, min_items: int, before: Totals):
        self._total, self._min_items = total_env_steps, min_items
        self._start = time.monotonic()
        self._last = dataclasses.replace(before, seconds=dict(before.seconds))

    def row(
        self, totals: Totals, window: EpisodeWindow, more: Mapping[str, float]
    ) -> dict[str, float]:
        """A row of the logs: totals, rates since the last row, episode statistics and `more`; absent rather than NaN.

        Raises:
          RunFailed: learning has diverged.
        """
        for name in DIVERGES:
            if not math.isfinite(more.get(name, 0.0)):
                when = f"{totals.updates:,} updates ({totals.env_steps:,} env steps)"
                raise diverged(name, more[name], when)
        last, passed = self._last, totals.train_s - self._last.train_s
        steps = totals.env_steps - last.env_steps
        row = {
            "run/env_steps": totals.env_steps,
            "run/updates": totals.updates,
            "run/episodes": totals.episodes,
            "run/wall_time_s": time.monotonic() - self._start,
            "run/progress_ratio": min(1.0, totals.env_steps / self._total),
            "run/memory_peak_mb": peak_memory_mb(),
            "replay/items_inserted": totals.items_inserted,
            "replay/items_sampled": totals.items_sampled,
        }
        if passed > 0:
            updates = totals.updates - last.updates
            rates = {"run/env_steps_per_s": steps, "run/updates_per_s": updates}
            # The row that closes a run follows another one at once: that nothing was done since is no rate.
            kept = {name: n / passed for name, n in rates.items() if n or passed >= LEAST_RATE_S}
            row.update(kept)
        if steps > 0:
            for part, spent in totals.seconds.items():
                row[f"time/{part}_us"] = (spent - last.seconds.get(part, 0.0)) / steps * 1e6
        if totals.items_sampled and totals.items_inserted > self._min_items:
            row["replay/samples_per_insert"] = totals.items_sampled / (
                totals.items_inserted - self._min_items
            )
        row.update(window.metrics())
        row.update(more)
        self._last = dataclasses.replace(totals, seconds=dict(totals.seconds))
        return {name: float(value) for name, value in row.items() if math.isfinite(value)}


def lag_metrics(lags: Histogram) -> dict[str, float]:
    """The lags of a row's unrolls in numbers; {} if there are none."""
    if not lags:
        return {}
    return {
        "learner/policy_lag_mean_updates": lags.mean,
        "learner/policy_lag_p95_updates": float(lags.percentile(95)),
        "learner/policy_lag_max_updates": float(lags.max),
    }


def knob_metrics(knobs: Mapping[str, Any]) -> dict[str, float]:
    """Knobs of an actor in numbers, {'actor/<name>': mean over its environments}."""
    return {f"actor/{name}": float(np.mean(x)) for name, x in knobs.items()}


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_result(path: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Writes `result.json` with the versions beside the facts; replaces the file in one step.

    A number that is not finite becomes null: JSON has none.
    """
    packages = ("tensorflow", "keras", "dm-reverb", "gymnasium", "numpy")
    versions = {
        "python": platform.python_version(),
        **{p: importlib.metadata.version(p) for p in packages},
    }
    files.write_text(
        path, json.dumps(_plain({**facts, "versions": versions}), indent=2, allow_nan=False) + "\n"
    )


def _plain(value: Any) -> Any:
    """A nest of dicts and lists with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
