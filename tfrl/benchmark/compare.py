"""Runs a workload of tfrl and of its rivals in turns, each run in a process of its own."""

from __future__ import annotations

import datetime
import json
import math
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tfrl.benchmark.workloads import FIGURES, Figure, Workload

ROOT = pathlib.Path(__file__).parents[2]
RIVALS = ROOT / "benchmarks" / "rivals"  # absent from an installed package
OURS = "tfrl"
SAME_WORK = 0.05  # largest relative difference of updates per env step between two sides

# Figures of a run that are summed up, in the order of the table. Not every run has the times to a score.
_ROWS = {
    **FIGURES,
    "whole_env_steps_per_s": Figure("env steps/s, compiling included", ",.0f"),
    "whole_updates": Figure("updates in all", ",.0f"),
    "import_s": Figure("import, s", ".1f", less_is_better=True),
    "outside_s": Figure("process without its run, s", ".1f", less_is_better=True),
    "memory_peak_mb": Figure("peak memory, MB", ",.0f", less_is_better=True),
}
_FILE_WIDTH = 160  # characters of a table that goes to a file
_COMPARED = (*FIGURES, "whole_env_steps_per_s")


class RunFailed(RuntimeError):
    """A process ended badly; the message holds the end of its output."""


def compare(
    workload: Workload,
    pythons: Mapping[str, str] | None = None,
    repeats: int = 3,
    scale: float = 1.0,
    timeout_s: float = 1800.0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Times a workload `repeats` times on each side in turns: tfrl, rivals, tfrl, rivals, ...

    Args:
      pythons: key of `workload.rivals` -> interpreter of the environment in which it is installed;
        the rivals that run. None: tfrl alone.
      repeats: runs of each side; the n-th runs of all have the same seed.
      scale: multiplies the timed piece.
      timeout_s: longest that one run may take.
      say: takes a line per run.

    Returns:
      The result as data, see `docs/benchmarks.md`.

    Raises:
      RunFailed: a run failed or took too long.
    """
    pythons = pythons or {}
    runs, settings, versions = [], {}, {}
    for turn in range(repeats):
        task = workload.task(scale, seed=turn)
        command = [sys.executable, "-m", "tfrl.benchmark.measure", json.dumps(task)]
        commands = {OURS: command}
        for rival, python in pythons.items():
            commands[rival] = [python, str(RIVALS / workload.rivals[rival].script)]
        for who, command in commands.items():
            if who != OURS:
                # A rival gets the job of tfrl in full, so that no setting stands in two places.
                told = {
                    "job": {**settings[OURS], "seed": turn},
                    "warmup_env_steps": workload.warmup_env_steps,
                    "score": workload.score,
                    "options": dict(workload.rivals[who].options),
                }
                command = [*command, json.dumps(told)]
            load = os.getloadavg()[0]
            answer = _run(who, command, timeout_s)
            settings.setdefault(who, answer["settings"])
            versions.setdefault(who, answer["versions"])
            run = {"who": who, "turn": turn, "load_1min_before": load, **answer["run"]}
            runs.append(run)
            say(f"{workload.name} {turn + 1}/{repeats} {who}: {_told(run)}")
    result = {
        "workload": workload.name,
        "what": workload.what,
        "figure": workload.figure,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions,
        "repeats": repeats,
        "scale": scale,
        "warmup_env_steps": workload.warmup_env_steps,
        "settings": settings,
        "score": workload.score,
        "targets": {rival: dict(workload.rivals[rival].targets) for rival in pythons},
        "runs": runs,
    }
    return {**result, **summary(runs, workload.figure)}


def _told(run: Mapping[str, Any]) -> str:
    """A run in one line."""
    line = (
        f"{_text(run['env_steps_per_s'], ',.0f')} env steps/s, "
        f"{_text(run['updates_per_s'], ',.0f')} updates/s "
        f"over {run['seconds']:.1f} s"
    )
    if "seconds_to_score" not in run:
        return line
    if run["seconds_to_score"] is None:
        return f"{line}; score not reached"
    reached = f"{run['seconds_to_score']:.1f} s and {run['env_steps_to_score']:,} env steps"
    return f"{line}; score reached after {reached}"


def summary(runs: Sequence[Mapping[str, Any]], figure: str) -> dict[str, Any]:
    """Medians per side, ratios of medians, time by part and warnings, from the raw runs.

    Ratios are {rival: {figure: how many times better tfrl is}}. A score that a run has not reached
    counts as infinitely far; a median of such is None, and has no ratio.
    """
    sides = list(dict.fromkeys(run["who"] for run in runs))
    mine = {who: [run for run in runs if run["who"] == who] for who in sides}
    names = [name for name in _ROWS if name in runs[0]]
    medians = {
        who: {name: _median([run[name] for run in mine[who]]) for name in names} for who in sides
    }
    # From one whole run, the median one, so that the parts add up.
    ordered = sorted(mine[OURS], key=lambda run: _number(run[figure]))
    middle = ordered[(len(ordered) - 1) // 2]
    units = middle["updates" if figure == "updates_per_s" else "env_steps"]
    whole = middle["seconds"] / units * 1e6
    parts = {part: spent / units * 1e6 for part, spent in middle["seconds_by_part"].items()}
    if sum(parts.values()) <= whole:  # more than that: processes side by side
        parts["rest"] = whole - sum(parts.values())
    ratios: dict[str, dict[str, float]] = {}
    warnings = []
    for who in sides:
        missed = [run for run in mine[who] if run.get("seconds_to_score", 0.0) is None]
        if missed:
            warnings.append(f"{len(missed)} of {len(mine[who])} runs of {who} missed the score")
    for who in sides[1:]:
        ratios[who] = {}
        for name in _COMPARED:
            ours, theirs = (medians[side].get(name) for side in (OURS, who))
            if ours is not None and theirs is not None:
                less = _ROWS[name].less_is_better
                ratios[who][name] = theirs / ours if less else ours / theirs
        ours, theirs = (_updates_per_env_step(mine[w][0]) for w in (OURS, who))
        if abs(ours - theirs) > SAME_WORK * theirs:
            per_step = f"{ours:.4g} updates per env step by {OURS}, {theirs:.4g} by {who}"
            warnings.append(f"not the same work: {per_step}")
    return {"medians": medians, "ratios": ratios, "parts_us": parts, "warnings": warnings}


def _number(value: float | None) -> float:
    return math.inf if value is None else value


def _median(values: Sequence[float | None]) -> float | None:
    median = statistics.median(map(_number, values))
    return median if math.isfinite(median) else None


def _updates_per_env_step(run: Mapping[str, Any]) -> float:
    return run["whole_updates"] / run["whole_env_steps"]


def machine() -> dict[str, Any]:
    """The facts that the figures depend on, without the machine's name."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
    }


def show(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints a result as two tables: figures of all sides, and tfrl's time by part."""
    console = console or Console()
    if not console.is_terminal:  # a file or a pipe, which has no width of its own
        console = Console(file=console.file, width=_FILE_WIDTH)
    sides = list(result["medians"])
    title = f"{result['workload']}: {result['what']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("median (least - most)")
    for who in sides:
        table.add_column(who, justify="right")
        if who != OURS:
            table.add_column("times better", justify="right")
        if result["targets"].get(who):
            table.add_column("target", justify="right")
    for name in result["medians"][OURS]:
        cells = []
        for who in sides:
            cells.append(_spread(result, who, name))
            if who == OURS:
                continue
            ratio = result["ratios"][who].get(name)
            cells.append("" if ratio is None else f"{ratio:.2f}")
            if targets := result["targets"].get(who):
                wanted = targets.get(name)
                missed = wanted is not None and (ratio is None or ratio < wanted)
                cells.append("" if wanted is None else f"{wanted:g}{', missed' if missed else ''}")
        style = "bold" if name == result["figure"] else None
        table.add_row(_ROWS[name].title, *cells, style=style)
    console.print(table)
    unit = "update" if result["figure"] == "updates_per_s" else "env step"
    parts = Table(title=f"us per {unit} of {OURS}", title_justify="left", box=box.SIMPLE_HEAD)
    for part in (*result["parts_us"], "sum"):
        parts.add_column(part, justify="right")
    times = [*result["parts_us"].values()]
    parts.add_row(*(f"{us:,.1f}" for us in (*times, sum(times))))
    console.print(parts)
    for warning in result["warnings"]:
        console.print(f"warning: {warning}", style="yellow")


def _spread(result: Mapping[str, Any], who: str, name: str) -> str:
    """Median, least and most of a figure as text."""
    values = [run[name] for run in result["runs"] if run["who"] == who]
    ends = [min(values, key=_number), max(values, key=_number)] if len(values) > 1 else []
    median, *ends = (
        "-" if value is None else _text(value, _ROWS[name].form)
        for value in (result["medians"][who][name], *ends)
    )
    return f"{median} ({' - '.join(ends)})" if ends else median


def _text(value: float, form: str) -> str:
    """A number, with two decimals where a whole one would say little."""
    return format(value, ".2f" if form == ",.0f" and 0 < value < 10 else form)


def _environ(ours: bool) -> dict[str, str]:
    """Environment variables of a run: tfrl finds this checkout first, a rival its own packages."""
    path = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(p for p in (str(ROOT), path) if p) if ours else ""
    return {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "PYTHONPATH": path}


def _kill_session(process: subprocess.Popen) -> None:
    """Ends a process and what it has started, which may outlive it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # none is left
    process.wait()


def _run(who: str, command: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """The last line that a process prints, read as JSON."""
    pipe = subprocess.PIPE
    environ = _environ(ours=who == OURS)
    process = subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environ, start_new_session=True
    )
    try:
        out, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"{who}: not done after {timeout_s:g} s") from None
    finally:  # after a time-out and after Ctrl-C alike
        _kill_session(process)
    if process.returncode:
        tail = "\n".join(errors.splitlines()[-15:])
        raise RunFailed(f"{who}: exit code {process.returncode}\n{tail}")
    return json.loads(out.splitlines()[-1])
