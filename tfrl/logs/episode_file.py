"""`episodes.csv`: a row for each training episode, from all actors."""

from __future__ import annotations

import csv
import math
import os
import pathlib
import time
from collections.abc import Sequence

from tfrl import files
from tfrl.logs.csv_file import number, read
from tfrl.types import Episode

NAME = "episodes.csv"
STEP = "env_steps"
COLUMNS = (STEP, "return", "length_env_steps", "wall_time_s", "actor", "env")
FLUSH_S, FLUSH_ROWS = 1.0, 500


def start(path: pathlib.Path, info_names: Sequence[str], keep_env_steps: int | None = None) -> None:
    """Makes the file with its header, before any actor writes.

    Args:
      path: of the file; an older one is replaced.
      info_names: of the columns after `COLUMNS`.
      keep_env_steps: keep the rows of the older file up to and with this many env steps, in the columns of today.
    """
    columns, kept = [*COLUMNS, *info_names], []
    if keep_env_steps is not None and path.exists():
        for row in read(path, STEP):
            if row.get(STEP, math.inf) <= keep_env_steps:
                kept.append([number(row[name]) if name in row else "" for name in columns])
    with files.replacing(path) as scratch, open(scratch, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *kept])


class EpisodeFile:
    """Appends rows of one actor, whole lines at a time, so that several processes may write to one file.

    Args:
      path: a file that `start` has made.
      actor: index of the actor.
      started: `time.time()` at the start of the run.
    """

    def __init__(self, path: pathlib.Path, actor: int, started: float):
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._actor, self._started = actor, started
        self._lines: list[str] = []
        self._flushed = time.time()

    def add(self, env_steps: int, episode: Episode) -> None:
        """A training episode that has ended.

        Args:
          env_steps: of the run at its end, by the count of this actor.
        """
        infos = "".join(f",{'' if math.isnan(x) else number(x)}" for x in episode.infos)
        self._lines.append(
            f"{env_steps},{episode.episode_return:.9g},{episode.length_env_steps},"
            f"{time.time() - self._started:.3f},{self._actor},{episode.row}{infos}\n"
        )
        if len(self._lines) >= FLUSH_ROWS:
            self.flush()

    def flush_due(self) -> None:
        """Writes what waits, once a second."""
        if self._lines and time.time() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Writes what waits, in one call."""
        if self._lines:
            os.write(self._descriptor, "".join(self._lines).encode())
            self._lines.clear()
        self._flushed = time.time()

    def close(self) -> None:
        """Writes what waits and closes the file."""
        self.flush()
        os.close(self._descriptor)
