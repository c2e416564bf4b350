"""`metrics.csv`: one column per name of `METRICS`, a line per row, empty where it has no value."""

from __future__ import annotations

import csv
import io
import os
import pathlib
from collections.abc import Mapping

from tfrl.logs.metrics import METRICS

STEP = "run/env_steps"


def read(path: pathlib.Path) -> list[dict[str, float]]:
    """The rows of a metrics file, with the values that they have; an unfinished line is none."""
    text = path.read_text(encoding="utf-8")
    lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    if not lines:
        return []
    header, *body = lines
    return [
        {name: float(cell) for name, cell in zip(header, line) if cell != ""}
        for line in body
        if len(line) == len(header)
    ]


def number(value: float) -> str:
    """Shortest text that reads back as the same number, whole numbers without a point."""
    value = float(value)
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


class CsvFile:
    """Writes rows, each on the disk's side before `write` returns.

    Args:
      path: file to write; an older one is replaced.
      keep_env_steps: keep the rows of the older file up to and with this many env steps, in the
        columns of today; columns that are no longer listed are dropped.
    """

    def __init__(self, path: pathlib.Path, keep_env_steps: float | None = None) -> None:
        kept = []
        if keep_env_steps is not None and path.exists():
            kept = [row for row in read(path) if row.get(STEP, 0.0) <= keep_env_steps]
        # Replaced in one step: a crash here must not cost the rows of the run so far.
        scratch = path.with_suffix(".tmp")
        with open(scratch, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(METRICS)
            file.writelines(self._line(row) for row in kept)
        os.replace(scratch, path)
        self._file = open(path, "a", encoding="utf-8", newline="")

    def write(self, row: Mapping[str, float]) -> None:
        """Appends a row, {name of `METRICS`: value}; other names are left out."""
        self._file.write(self._line(row))
        self._file.flush()

    def close(self) -> None:
        """Closes the file; no row may follow."""
        self._file.close()

    @staticmethod
    def _line(row: Mapping[str, float]) -> str:
        return ",".join(number(row[name]) if name in row else "" for name in METRICS) + "\n"
