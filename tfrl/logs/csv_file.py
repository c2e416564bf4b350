"""`metrics.csv`: one column per metric, a line per row, empty where it has no value."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Iterable, Iterator, Mapping

from tfrl import files
from tfrl.logs.metrics import METRICS

STEP = "run/env_steps"


def read(path: pathlib.Path, step: str = STEP) -> list[dict[str, float]]:
    """The rows of a file, with the values that they have; lines that are damaged or not finished are none.

    Args:
      step: name of the column of env steps.

    Raises:
      ValueError: the first line does not name columns, or not that of env steps.
    """
    return [row for row in _rows(path, step) if row is not None]


def lost_lines(path: pathlib.Path, step: str = STEP) -> int | None:
    """How many damaged lines `read` leaves out; None where it cannot read the file at all."""
    try:
        return sum(row is None for row in _rows(path, step))
    except ValueError:
        return None


def _rows(path: pathlib.Path, step: str) -> Iterator[dict[str, float] | None]:
    """A row for each finished line after the first, None for a damaged one."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text:
        return
    first, *lines = text.split("\n")
    header = next(csv.reader([first.replace("\0", "?")]), [])
    if step not in header:
        raise ValueError(f"{path.name}: the first line names no column {step}")
    for line in lines[:-1]:  # the last is empty, or not finished and may hold half a number
        yield _row(header, line)


def _row(header: list[str], line: str) -> dict[str, float] | None:
    cells = line.split(",")
    if len(cells) != len(header):
        return None
    try:
        return {name: float(cell) for name, cell in zip(header, cells) if cell != ""}
    except ValueError:
        return None


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
      columns: names in order.
    """

    def __init__(
        self,
        path: pathlib.Path,
        keep_env_steps: float | None = None,
        columns: Iterable[str] = METRICS,
    ) -> None:
        self._columns, kept = tuple(columns), []
        if keep_env_steps is not None and path.exists():
            kept = [row for row in read(path) if row.get(STEP, 0.0) <= keep_env_steps]
        # Replaced in one step: a crash here must not cost the rows of the run so far.
        with (
            files.replacing(path) as scratch,
            open(scratch, "w", encoding="utf-8", newline="") as file,
        ):
            csv.writer(file, lineterminator="\n").writerow(self._columns)
            file.writelines(self._line(row) for row in kept)
        self._file = open(path, "a", encoding="utf-8", newline="")

    def write(self, row: Mapping[str, float]) -> None:
        """Appends a row, {column: value}; other names are left out."""
        self._file.write(self._line(row))
        self._file.flush()

    def close(self) -> None:
        """Closes the file; no row may follow."""
        self._file.close()

    def _line(self, row: Mapping[str, float]) -> str:
        return ",".join(number(row[name]) if name in row else "" for name in self._columns) + "\n"
