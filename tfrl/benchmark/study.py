"""The results of a study as a JSON file: a list with an entry for each run, kept as soon as the run is finished.

The scripts of `benchmarks/` keep their results so. A key is a part of an entry that says which run it is of, e.g.
{"algo": "dqn", "seed": 1}.
"""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from tfrl import files


def load(path: pathlib.Path) -> list[dict[str, Any]]:
    """The entries of a file; none where there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else []


def of(entries: Sequence[dict[str, Any]], **key: Any) -> list[dict[str, Any]]:
    """The entries that have these values."""
    return [entry for entry in entries if {name: entry[name] for name in key} == key]


def append(path: pathlib.Path, entry: dict[str, Any], replaces: Sequence[str] = ()) -> None:
    """Adds an entry to a file, which has one on each line. It is read anew: another process may have added to it.

    Args:
      path: of the file.
      entry: of a run.
      replaces: names of values; entries that have the same ones are taken out. () takes out none.
    """
    entries = load(path)
    if replaces:
        same = of(entries, **{name: entry[name] for name in replaces})
        entries = [each for each in entries if each not in same]
    lines = ",\n".join(json.dumps(each) for each in (*entries, entry))
    files.write_text(path, f"[\n{lines}\n]\n")


def logged(run_dir: pathlib.Path, metric: str) -> list[dict[str, str]]:
    """The rows of a run's `metrics.csv` that have the metric."""
    with open(run_dir / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row[metric]]


def evaluations(run_dir: pathlib.Path) -> list[list[float]]:
    """[env steps, mean return] of each evaluation of a run."""
    at, score = "run/env_steps", "evaluator/return_mean"
    return [[int(float(row[at])), float(row[score])] for row in logged(run_dir, score)]


def env_steps_to(goal: float, evaluations: Sequence[Sequence[float]]) -> float:
    """Env steps of the first of the `evaluations` whose return is `goal` or more; infinite where none has it."""
    return next((at for at, value in evaluations if value >= goal), float("inf"))
