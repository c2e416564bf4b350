"""Times one run of tfrl: `python -m tfrl.benchmark.measure TASK` prints one line of JSON.

The run goes through `tfrl.train`, and its figures are read from the run folder. The clock of the
timed piece is the wall clock between two rows of `metrics.csv`: acting, learning and writing of
logs, all of it.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import json  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterable, Iterator, Mapping, Sequence  # noqa: E402
from typing import Any  # noqa: E402

EPISODES = 100  # over which the mean return of a score is taken
_PARTS = ("env", "act", "write", "sample", "learn")


def measure(task: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a task of `Workload.task`; returns its job, the versions and the figures of the run."""
    start = time.perf_counter()
    import tensorflow  # noqa: F401 - `tfrl.train` would, and its import is measured by itself

    import tfrl
    from tfrl.api import make_job
    from tfrl.logs import csv_file

    import_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory(prefix="tfrl-benchmark-") as folder:
        run_dir = pathlib.Path(folder) / "run"
        job = make_job(task["algo"], run_dir=str(run_dir), **task["settings"])
        called = time.time()
        tfrl.train(job)
        result = json.loads((run_dir / "result.json").read_text())
        rows = csv_file.read(run_dir / "metrics.csv")
        reached = score_reached(_events(run_dir), task["score"]) if task["score"] else None
    settings = {**json.loads(job.to_json()), "run_dir": ""}
    run = {
        **timed_piece(
            rows,
            task["warmup_env_steps"],
            result["env_steps"] / result["updates"] if task["asynchronous"] else None,
        ),
        "whole_env_steps": result["env_steps"],
        "whole_updates": result["updates"],
        "whole_s": result["train_s"],
        "whole_env_steps_per_s": result["env_steps"] / result["train_s"],
        "import_s": import_s,
        "outside_s": time.perf_counter() - _STARTED - result["train_s"],
        "memory_peak_mb": result["memory_peak_mb"],
    }
    if task["score"]:
        run["seconds_to_score"] = reached[0] - called if reached else None
        run["env_steps_to_score"] = int(reached[1]) if reached else None
    versions = {"tfrl": tfrl.__version__, **result["versions"]}
    return {"settings": settings, "versions": versions, "run": run}


def timed_piece(
    rows: Sequence[Mapping[str, float]],
    warmup_env_steps: int,
    env_steps_per_update: float | None = None,
) -> dict[str, Any]:
    """Figures between the first row after the warm-up and the last one before the end of the run.

    Args:
      rows: of `metrics.csv`.
      warmup_env_steps: the piece starts here, and not before the first update, which compiles.
      env_steps_per_update: where actors run ahead of the learner: an env step then counts when it has
        been trained on, and the piece ends with the acting, not with the queue.

    Raises:
      ValueError: the run is too short for two such rows.
    """
    # The last row is written after the final evaluation, which no piece may contain.
    *rows, final = [row for row in rows if "run/wall_time_s" in row] or [{}]
    done = [row["run/env_steps"] for row in rows]
    if env_steps_per_update is not None:
        rows = [row for row in rows if row["run/env_steps"] < final["run/env_steps"]]
        done = [row["run/updates"] * env_steps_per_update for row in rows]
    warm = [steps >= warmup_env_steps and row["run/updates"] > 0 for steps, row in zip(done, rows)]
    first = warm.index(True) if True in warm else len(rows)
    timed = rows[first + 1 :]
    if not timed or done[-1] == done[first]:
        raise ValueError("too short to be timed: no two rows of metrics.csv after the warm-up")
    env_steps = done[-1] - done[first]
    updates, seconds = (
        timed[-1][name] - rows[first][name] for name in ("run/updates", "run/wall_time_s")
    )
    by_part = dict.fromkeys(_PARTS, 0.0)
    for before, row in zip(rows[first:], timed):
        steps = row["run/env_steps"] - before["run/env_steps"]
        for part in _PARTS:
            by_part[part] += row.get(f"time/{part}_us", 0.0) * steps / 1e6
    return {
        "env_steps": round(env_steps),
        "updates": int(updates),
        "seconds": seconds,
        "env_steps_per_s": env_steps / seconds,
        "updates_per_s": updates / seconds,
        "seconds_by_part": by_part,
    }


def score_reached(
    events: Iterable[tuple[float, Mapping[str, float]]], score: float
) -> tuple[float, float] | None:
    """When the mean return of the last 100 training episodes first was at the score or above.

    Args:
      events: (time, row of metrics), oldest first.

    Returns:
      (time, env steps) of that row, or None.
    """
    for moment, row in events:
        mean = row.get("actor/episode_return_mean", float("-inf"))
        if row.get("run/episodes", 0) >= EPISODES and mean >= score:
            return moment, row["run/env_steps"]
    return None


def _events(run_dir: pathlib.Path) -> Iterator[tuple[float, dict[str, float]]]:
    """Rows with the wall-clock time at which they were written, which `metrics.csv` does not hold."""
    import tensorflow as tf

    for path in sorted(run_dir.glob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            yield event.wall_time, {v.tag: v.simple_value for v in event.summary.value}


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
