"""A run folder before the run goes on in it: what a killed process has left is removed, what is damaged is set aside.

Only for the process that owns the folder. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import json
import os
import pathlib

from tfrl import files
from tfrl.logs import csv_file, episode_file
from tfrl.runtime.storage import checkpoint_files, folders

# Name of a file of rows -> name of its column of env steps.
_TABLES = {"metrics.csv": csv_file.STEP, episode_file.NAME: episode_file.STEP}
# Files of evaluations; a run that starts again has not made them.
_POLICIES = ("checkpoints/best.npz", "checkpoints/last.npz")


def mend(run_dir: pathlib.Path) -> list[str]:
    """Leaves the folder of a run that is to be resumed such that everything in it can be read.

    The newest checkpoint is read whole; see `checkpoint_files.set_aside_damaged`.

    Returns:
      One line for each thing that was damaged.
    """
    checkpoints = run_dir / "checkpoints"
    for place in (run_dir, run_dir / "logs"):
        files.sweep(place)
    for left in (run_dir / "videos").glob("*.part.mp4"):
        left.unlink()
    checkpoint_files.remove_partial(checkpoints)
    lines = checkpoint_files.set_aside_damaged(checkpoints)
    result = run_dir / "result.json"
    if result.exists() and _seconds(result) is None:
        lines.append(_set_aside(result, "the earlier time is taken from the checkpoint"))
    for name, step in _TABLES.items():
        table = run_dir / name
        lost = csv_file.lost_lines(table, step) if table.exists() else 0
        if lost is None:
            lines.append(_set_aside(table, "a new file is started"))
        elif lost:
            lines.append(f"{table}: {lost} damaged line{'s' * (lost > 1)} dropped")
    return lines


def may_start_over(run_dir: pathlib.Path) -> bool:
    """Whether a run without any checkpoint to go on from was stopped before it had made one."""
    finished = (run_dir / folders.POLICY, run_dir / "result.json")
    left = checkpoint_files.of(run_dir / "checkpoints")
    return not any(path.exists() for path in finished) and not any(
        (checkpoint / name).exists()
        for checkpoint in left
        for name in (checkpoint_files.MANIFEST, checkpoint_files.DAMAGED)
    )


def start_over(run_dir: pathlib.Path) -> None:
    """Removes what the first attempt of such a run has logged and scored."""
    for name in (*_TABLES, *_POLICIES):
        (run_dir / name).unlink(missing_ok=True)
    for events in run_dir.glob("events.out.tfevents.*"):
        events.unlink()


def _seconds(result: pathlib.Path) -> float | None:
    """`total_s` of a result file; None where it is damaged."""
    try:
        return float(json.loads(result.read_text(encoding="utf-8"))["total_s"])
    except (ValueError, KeyError, TypeError):
        return None


def _set_aside(path: pathlib.Path, then: str) -> str:
    aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
    os.replace(path, aside)
    return f"{path}: cannot be read, renamed to {aside.name}; {then}"
