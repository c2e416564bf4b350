"""TensorBoard events, written with the tensorboard package alone; the step is `run/env_steps`."""

from __future__ import annotations

import os
import pathlib
import socket
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.record_writer import RecordWriter

from tfrl.logs.histogram import Histogram
from tfrl.settings import value_text


class TensorboardFile:
    """One new event file in `folder`, flushed after every row.

    Args:
      folder: run folder.
      restart_env_steps: the run continues from here: TensorBoard forgets what older files of the
        folder hold beyond it.
      settings: of the run, for the HPARAMS page; those that are no number, word or switch are shown as text.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        restart_env_steps: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        # Nanoseconds keep files of one second apart, and in order.
        stamp = f"{time.time_ns() / 1e9:020.9f}"
        name = f"events.out.tfevents.{stamp}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "wb")
        self._writer = RecordWriter(self._file)
        self._add(Event(file_version="brain.Event:2"))
        if restart_env_steps is not None:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(step=restart_env_steps + 1, session_log=start))
        if settings:
            plain = {
                name: value if isinstance(value, (bool, int, float, str)) else value_text(value)
                for name, value in settings.items()
            }
            self._add(Event(summary=hparams.hparams_pb(plain, trial_id=folder.name)))

    def write(
        self, env_steps: int, row: Mapping[str, float], histograms: Mapping[str, Histogram]
    ) -> None:
        """Adds a row.

        Args:
          env_steps: its step.
          row: {name: value}.
          histograms: {name: histogram}; empty ones are left out.
        """
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in row.items()]
        values += [Summary.Value(tag=tag, histo=_message(h)) for tag, h in histograms.items() if h]
        self._add(Event(step=env_steps, summary=Summary(value=values)))

    def close(self) -> None:
        """Closes the file; no row may follow."""
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        self._file.flush()


def _message(histogram: Histogram) -> HistogramProto:
    """The buckets that hold something, and an empty one before each, or bars would reach over the gap."""
    counts, limits = histogram.counts, histogram.LIMITS
    filled = np.flatnonzero(counts)
    edges = {}
    for i in filled:
        edges.setdefault(float(limits[i] - 1 if i == 0 else limits[i - 1]), 0.0)
        edges[float(limits[i])] = float(counts[i])
    numbers, weights = limits[filled].astype(float), counts[filled].astype(float)
    return HistogramProto(
        min=numbers[0], max=numbers[-1], num=weights.sum(), sum=(numbers * weights).sum(),
        sum_squares=(numbers**2 * weights).sum(),
        bucket_limit=sorted(edges), bucket=[edges[x] for x in sorted(edges)],
    )  # fmt: skip
