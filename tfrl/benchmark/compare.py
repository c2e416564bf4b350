"""Runs a workload of tfrl and of a rival in turns, each run in a process of its own."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tfrl.benchmark.workloads import FIGURES, Workload

ROOT = pathlib.Path(__file__).parents[2]
RIVALS = ROOT / "benchmarks" / "rivals"  # absent from an installed package
OURS = "tfrl"
SAME_WORK = 0.05  # largest relative difference of updates per env step between the two

# Figures of a run that are summed up, in the order of the table: name -> title, format.
_ROWS = {
    "env_steps_per_s": ("env steps/s", ",.0f"),
    "updates_per_s": ("updates/s", ",.0f"),
    "whole_env_steps_per_s": ("env steps/s, compiling included", ",.0f"),
    "whole_updates": ("updates in all", ",.0f"),
    "import_s": ("import, s", ".1f"),
    "outside_s": ("process without its run, s", ".1f"),
    "memory_peak_mb": ("peak memory, MB", ",.0f"),
}
_RATES = ("env_steps_per_s", "updates_per_s", "whole_env_steps_per_s")


class RunFailed(RuntimeError):
    """A process ended badly; the message holds the end of what it said."""


def compare(
    workload: Workload,
    rival: str = "",
    rival_python: str = "",
    repeats: int = 3,
    scale: float = 1.0,
    timeout_s: float = 1800.0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Times a workload `repeats` times on each side: tfrl, rival, tfrl, rival, ...

    Args:
      rival: a key of `workload.rivals`; used with `rival_python` only.
      rival_python: interpreter of the environment in which the rival is installed; '': tfrl alone.
      repeats: runs of each side; the n-th runs of both have the same seed.
      scale: multiplies the timed piece.
      timeout_s: longest that one run may take.
      say: takes a line per run.

    Returns:
      The result as data, see `docs/benchmarks.md`.

    Raises:
      RunFailed: a run failed or took too long.
    """
    runs, settings, versions = [], {}, {}
    for turn in range(repeats):
        task = workload.task(scale, seed=turn)
        command = [sys.executable, "-m", "tfrl.benchmark.measure", json.dumps(task)]
        commands = {OURS: command}
        if rival_python:
            # The rival is told the job of tfrl in full, so that no setting stands in two places.
            commands[rival] = [rival_python, str(RIVALS / workload.rivals[rival].script)]
        for who, command in commands.items():
            if who != OURS:
                job = {**settings[OURS], "seed": turn}
                told = {"job": job, "warmup_env_steps": workload.warmup_env_steps}
                command = [*command, json.dumps(told)]
            load = os.getloadavg()[0]
            answer = _run(who, command, timeout_s)
            settings.setdefault(who, answer["settings"])
            versions.setdefault(who, answer["versions"])
            run = {"who": who, "turn": turn, "load_1min_before": load, **answer["run"]}
            runs.append(run)
            say(
                f"{workload.name} {turn + 1}/{repeats} {who}: "
                f"{run['env_steps_per_s']:,.0f} env steps/s, {run['updates_per_s']:,.0f} updates/s "
                f"over {run['seconds']:.1f} s"
            )
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
        "targets": dict(workload.rivals[rival].targets) if rival_python else {},
        "runs": runs,
    }
    return {**result, **summary(runs, workload.figure)}


def summary(runs: Sequence[Mapping[str, Any]], figure: str) -> dict[str, Any]:
    """Medians per side, ratios of medians, time by part and warnings, from the raw runs."""
    sides = list(dict.fromkeys(run["who"] for run in runs))
    mine = {who: [run for run in runs if run["who"] == who] for who in sides}
    medians = {
        who: {name: statistics.median(run[name] for run in mine[who]) for name in _ROWS}
        for who in sides
    }
    # Of one whole run, the median one, so that the parts add up.
    middle = sorted(mine[OURS], key=lambda run: run[figure])[(len(mine[OURS]) - 1) // 2]
    units = middle[figure] * middle["seconds"]
    parts = {part: spent / units * 1e6 for part, spent in middle["seconds_by_part"].items()}
    parts["rest"] = 1e6 / middle[figure] - sum(parts.values())
    ratios: dict[str, float] = {}
    warnings = []
    for who in sides[1:]:
        ratios = {name: medians[OURS][name] / medians[who][name] for name in _RATES}
        ours, theirs = (_updates_per_env_step(mine[w][0]) for w in (OURS, who))
        if abs(ours - theirs) > SAME_WORK * theirs:
            per_step = f"{ours:.4g} updates per env step by {OURS}, {theirs:.4g} by {who}"
            warnings.append(f"not the same work: {per_step}")
    return {"medians": medians, "ratios": ratios, "parts_us": parts, "warnings": warnings}


def _updates_per_env_step(run: Mapping[str, Any]) -> float:
    return run["whole_updates"] / run["whole_env_steps"]


def machine() -> dict[str, Any]:
    """What the figures depend on and nothing that names the machine."""
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
    """Prints a result as two tables: figures of both sides, and tfrl's time by part."""
    console = console or Console()
    sides, runs = list(result["medians"]), result["runs"]
    title = f"{result['workload']}: {result['what']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("median (least - most)")
    for name in (*sides, *(["ratio", "target"] if len(sides) > 1 else [])):
        table.add_column(name, justify="right")
    for name, (label, form) in _ROWS.items():
        cells = []
        for who in sides:
            values = [run[name] for run in runs if run["who"] == who]
            low, high = (format(f(values), form) for f in (min, max))
            spread = f" ({low} - {high})" if len(values) > 1 else ""
            cells.append(format(result["medians"][who][name], form) + spread)
        if name in result["ratios"]:
            cells.append(f"{result['ratios'][name]:.2f}")
        if name in result["targets"]:
            wanted = result["targets"][name]
            missed = "" if result["ratios"][name] >= wanted else ", missed"
            cells.append(f"{wanted:g}{missed}")
        table.add_row(label, *cells, style="bold" if name == result["figure"] else None)
    console.print(table)
    unit = FIGURES[result["figure"]]
    parts = Table(title=f"us per {unit} of {OURS}", title_justify="left", box=box.SIMPLE_HEAD)
    for part in (*result["parts_us"], "sum"):
        parts.add_column(part, justify="right")
    times = [*result["parts_us"].values()]
    parts.add_row(*(f"{us:,.1f}" for us in (*times, sum(times))))
    console.print(parts)
    for warning in result["warnings"]:
        console.print(f"warning: {warning}", style="yellow")


def _environ(ours: bool) -> dict[str, str]:
    """Environment variables of a run: tfrl finds this checkout first, a rival its own packages."""
    path = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(p for p in (str(ROOT), path) if p) if ours else ""
    return {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "PYTHONPATH": path}


def _run(who: str, command: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """The last line that a process prints, read as JSON."""
    pipe = subprocess.PIPE
    environ = _environ(ours=who == OURS)
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environ)
    try:
        out, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"{who}: not done after {timeout_s:g} s") from None
    finally:  # after a time-out and after Ctrl-C alike
        process.kill()
        process.wait()
    if process.returncode:
        tail = "\n".join(errors.splitlines()[-15:])
        raise RunFailed(f"{who}: exit code {process.returncode}\n{tail}")
    return json.loads(out.splitlines()[-1])
