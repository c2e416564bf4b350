"""The books of a run: totals of what its roles have done, and rows of the log made of them."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfrl.logs.histogram import Histogram
from tfrl.logs.logger import Logger
from tfrl.logs.window import EpisodeWindow
from tfrl.runtime.divergence import diverged
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.report import peak_memory_mb
from tfrl.runtime.storage.checkpoint import EXACT_ENV_STEPS

PARTS = ("env", "act", "write", "sample", "learn")
DIVERGES = re.compile(r"learner/(\w*loss|gradient_norm)")  # not finite: learning has diverged
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
    """Makes rows; rates are over the time since the row before, seconds by part since the last row with env steps.

    Args:
      total_env_steps: length of the run.
      min_items: inserts that are not paid back by samples.
    """

    def __init__(self, total_env_steps: int, min_items: int, before: Totals):
        self._total, self._min_items = total_env_steps, min_items
        self._start = time.monotonic()
        self._last = dataclasses.replace(before, seconds=dict(before.seconds))
        # A population counts the env steps of whole episodes: of the seconds of rows without any, none may be lost.
        self._timed = self._last

    def row(
        self, totals: Totals, window: EpisodeWindow, more: Mapping[str, float]
    ) -> dict[str, float]:
        """A row of the logs: totals, rates since the last row, episode statistics and `more`; absent rather than NaN.

        Raises:
          RunFailed: learning has diverged.
        """
        for name, value in more.items():
            if not math.isfinite(value) and DIVERGES.fullmatch(name):
                when = f"{totals.updates:,} updates ({totals.env_steps:,} env steps)"
                raise diverged(name, value, when)
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
                row[f"time/{part}_us"] = (spent - self._timed.seconds.get(part, 0.0)) / steps * 1e6
        if totals.items_sampled and totals.items_inserted > self._min_items:
            row["replay/samples_per_insert"] = totals.items_sampled / (
                totals.items_inserted - self._min_items
            )
        row.update(window.metrics())
        row.update(more)
        self._last = dataclasses.replace(totals, seconds=dict(totals.seconds))
        if steps > 0:
            self._timed = self._last
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


class Books:
    """The totals of a run and its rows, the same for every backend.

    Args:
      run_plan: with the checkpoint that the run goes on from.
      logger: takes rows and lines.
      clock: seconds that only grow.

    Attributes:
      totals: up to now; whoever counts adds to them.
    """

    def __init__(
        self, run_plan: RunPlan, logger: Logger, clock: Callable[[], float] = time.monotonic
    ):
        job, self._found = run_plan.job, run_plan.found
        self.totals = Totals()
        if self._found:
            state = self._found.state
            self.totals = Totals(**state["totals"])
            # At a stop, results of a population come to the learner that its actors have not reported yet.
            self.totals.env_steps = max(self.totals.env_steps, state.get(EXACT_ENV_STEPS, 0))
        self._run_plan, self._logger, self._clock = run_plan, logger, clock
        min_items = run_plan.agent.experience.min_items
        self._report = Report(job.total_env_steps, min_items, self.totals)
        self._every_s, self._written = job.log.log_every_s, clock()

    def open(self) -> None:
        """Announces the start-up lines of the plan."""
        plan = self._run_plan
        for line in (
            plan.arithmetic,
            plan.too_short_line,
            plan.residency_line,
            plan.hindsight_line,
            plan.exploration_line,
            plan.evaluation_line,
        ):
            if line:
                self._logger.announce(line)

    def resume(self) -> None:
        """Drops the rows that come after the checkpoint of a resumed run."""
        if self._found:
            env_steps = self.totals.env_steps
            self._logger.rewind(env_steps)
            self._logger.announce(f"resumed at {env_steps:,} env steps from {self._found.folder}")

    def spend(self, now: Mapping[str, float], before: Mapping[str, float]) -> None:
        """Adds the seconds {part: seconds} that a member has spent since it was asked before."""
        seconds = self.totals.seconds
        for part, spent in now.items():
            seconds[part] = seconds.get(part, 0.0) + spent - before.get(part, 0.0)

    def due(self) -> bool:
        """Whether the next row is."""
        return self._clock() - self._written >= self._every_s

    def write(
        self,
        window: EpisodeWindow,
        lags: Histogram,
        metrics: Mapping[str, float],
        knobs: Sequence[Mapping[str, float]],
        size_items: int | None,
        waiting_items: int | None,
    ) -> None:
        """Writes a row.

        Args:
          window: of the last episodes.
          lags: of the policy that made what was trained on, updates, since the row before.
          metrics: what only this backend has, by name.
          knobs: `knob_metrics` of each actor.
          size_items: of the replay; None: not known.
          waiting_items: of a queue; None: not known.

        Raises:
          RunFailed: learning has diverged.
        """
        self._written = self._clock()
        more = dict(metrics)
        if size_items is not None:
            more["replay/size_items"] = size_items
        if waiting_items is not None and self._run_plan.queue and not self._run_plan.waits:
            more["replay/queue_items"] = waiting_items
        for name in knobs[0] if knobs else ():
            more[name] = float(np.mean([actor[name] for actor in knobs]))
        row = self._report.row(self.totals, window, {**more, **lag_metrics(lags)})
        self._logger.write(row, {"learner/policy_lag_updates": lags})
