"""The logs of a run: each row goes to `metrics.csv`, TensorBoard and the console."""

from __future__ import annotations

import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from tfrl.job import LogPlan
from tfrl.logs import console
from tfrl.logs.csv_file import STEP, CsvFile
from tfrl.logs.guarded import GuardedView
from tfrl.logs.histogram import Histogram
from tfrl.logs.metrics import HISTOGRAMS, METRICS, Metric, check_names
from tfrl.logs.tensorboard_file import TensorboardFile


class Logger:
    """Takes rows, {name of `METRICS`: number}; a metric without data is absent.

    Files are opened by the first row and replace older ones, unless `rewind` was called.

    Args:
      run_dir: folder of the run; it is made where it does not exist.
      plan: what is shown and written.
      total_env_steps: length of the run.
      out: where the console view goes.
      title: of the panel; default the name of the folder.
      clock: seconds that only grow.
      metrics: names that rows may hold beside those of `METRICS`.
      extend: adds to each row before it is written.
      settings: {name: value} of the run, which TensorBoard shows beside its results.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        plan: LogPlan,
        total_env_steps: int,
        out: TextIO | None = None,
        title: str = "",
        clock: Callable[[], float] = time.monotonic,
        metrics: Mapping[str, Metric] | None = None,
        extend: Callable[[Mapping[str, float]], Mapping[str, float]] = dict,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._metrics, self._extend = {**METRICS, **(metrics or {})}, extend
        self._settings = settings
        self._folder, self._plan, self._clock = pathlib.Path(run_dir), plan, clock
        out = sys.stdout if out is None else out
        title = title or self._folder.name
        self._view = GuardedView(
            lambda stream: console.make_view(plan.console, stream, title, total_env_steps),
            out,
            self._folder / "logs" / "console.log",
            total_env_steps,
        )
        self._csv: CsvFile | None = None
        self._tensorboard: TensorboardFile | None = None
        self._written = -float("inf")

    def due(self) -> bool:
        """Whether `log_every_s` seconds have passed since the last row."""
        return self._clock() - self._written >= self._plan.log_every_s

    def rewind(self, env_steps: int) -> None:
        """The run continues from `env_steps`: earlier rows stay, later ones are dropped."""
        self._close_files()
        self._open(env_steps)

    def write(
        self, row: Mapping[str, float], histograms: Mapping[str, Histogram] | None = None
    ) -> None:
        """Writes a row, which must hold `run/env_steps`; TensorBoard takes the histograms beside it.

        Raises:
          KeyError: a name that no table has, or no `run/env_steps`.
        """
        histograms = histograms or {}
        row = self._extend(row)
        check_names(row, self._metrics)
        check_names(histograms, HISTOGRAMS)
        env_steps = int(row[STEP])
        if self._csv is None:
            self._open(None)
        self._csv.write(row)
        if self._tensorboard is not None:
            self._tensorboard.write(env_steps, row, histograms)
        self._view.show(row)
        self._written = self._clock()

    def announce(self, text: str) -> None:
        """Tells the user something once, e.g. what was picked; before, among and after rows."""
        self._view.announce(text)

    def close(self) -> None:
        """Ends files and panel; safe to call twice."""
        self._view.close()
        self._close_files()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self, env_steps: int | None) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._csv = CsvFile(self._folder / "metrics.csv", env_steps, self._metrics)
        if self._plan.tensorboard:
            self._tensorboard = TensorboardFile(self._folder, env_steps, self._settings)

    def _close_files(self) -> None:
        for sink in (self._csv, self._tensorboard):
            if sink is not None:
                sink.close()
        self._csv = self._tensorboard = None
