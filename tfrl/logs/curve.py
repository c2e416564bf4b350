"""Learning curves of run folders as a PNG, from metrics.csv, job.json and result.json alone."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter

from tfrl import files
from tfrl.config.flags import value_text
from tfrl.config.near import nearest_run
from tfrl.errors import SettingError
from tfrl.logs import csv_file
from tfrl.logs.console import number

_GRID_POINTS = 400
_MOST_DIFFERENCES = 4  # settings named in a legend
# Colours that stay apart for colour-blind readers (Okabe and Ito 2008), black left for text.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")

_WORLD_STYLES = (":", "-.", (0, (5, 1)), (0, (1, 3)))

Series = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Run:
    """The part of a run folder that a curve needs.

    Attributes:
      job: contents of job.json.
      training: env steps, and the mean return of the last episodes, [N] each.
      evaluation: env steps, mean and standard deviation of the return, [M] each.
      worlds: of each world of the evaluation but the judging one, env steps and the mean return.
      result: contents of result.json, {} while the run goes on.
      label: what the user calls it; empty: it is named by its settings.
    """

    job: dict[str, Any]
    training: Series
    evaluation: tuple[np.ndarray, np.ndarray, np.ndarray]
    result: dict[str, Any]
    label: str = ""
    worlds: dict[str, Series] = dataclasses.field(default_factory=dict)


def read_run(run_dir: str | os.PathLike) -> Run:
    """Reads a run folder; raises SettingError when it is none, or damaged."""
    folder = pathlib.Path(run_dir)
    try:
        job = _read_object(
            folder / "job.json", {"algo": str, "seed": int, "env": dict, "config": dict}
        )
        if not isinstance(job["env"].get("env"), str):
            raise ValueError("job.json has no env")
        metrics = folder / "metrics.csv"
        if not metrics.exists():
            raise SettingError(
                f"{str(folder)!r}: this run has logged nothing yet, no metrics.csv there"
            )
        rows, lost = csv_file.read(metrics), csv_file.lost_lines(metrics)
        if lost:
            logging.warning("%s: %d damaged lines are left out", metrics, lost)
        result = folder / "result.json"
        facts = _read_object(result, {"env_steps": int}) if result.exists() else {}
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = pathlib.Path(error.filename).name
        raise SettingError(
            f"{str(folder)!r}: not a run folder, no {missing} there{nearest_run(folder)}"
        ) from None
    except OSError as error:
        raise SettingError(f"{str(folder)!r}: cannot be read, {error.strerror}") from None
    except ValueError as error:
        raise SettingError(f"{str(folder)!r}: the run folder is damaged: {error}") from None

    def columns(*names: str) -> tuple[np.ndarray, ...]:
        found = [[row[name] for name in names] for row in rows if all(n in row for n in names)]
        table = np.array(found, np.float64).reshape(-1, len(names))
        table = table[np.isfinite(table).all(axis=1)]
        table = table[np.argsort(table[:, 0], kind="stable")]
        return tuple(table.T)

    return Run(
        job,
        columns(csv_file.STEP, "actor/episode_return_mean"),
        columns(csv_file.STEP, "evaluator/return_mean", "evaluator/return_std"),
        facts,
        worlds={
            world: columns(csv_file.STEP, f"eval/{world}/return_mean") for world in _worlds(job)
        },
    )


def _worlds(job: dict[str, Any]) -> list[str]:
    """Names of the evaluation's worlds but the judging one, which is drawn as the evaluation."""
    plan = job.get("evaluation", {})
    names = list(plan.get("eval_worlds", {}))
    judge = plan.get("eval_world") or (names[0] if names else "")
    return [name for name in names if name != judge]


def _read_object(path: pathlib.Path, entries: dict[str, type]) -> dict[str, Any]:
    """The object of a JSON file; raises ValueError where it is none, or lacks an entry."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    for name, kind in entries.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise ValueError(f"{path.name} has no {name}")
    return found


def draw_curve(
    run_dirs: Sequence[str | os.PathLike],
    path: str | os.PathLike,
    labels: Sequence[str] = (),
    dpi: int = 120,
) -> None:
    """Draws the runs to a PNG: one plot per environment, one colour per algorithm and settings.

    Runs that differ in their seed alone are one line, the mean, in a band from the smallest to the
    largest; of a single run, the band of an evaluation is its standard deviation over episodes.

    Args:
      labels: one for each run; runs with the same label are one line. Empty: labels name the settings that differ.
      dpi: dots per inch; a plot is 8 by 4.8 inches.

    Raises:
      SettingError: a folder is no run folder, none is given, or not as many labels as runs.
    """
    if labels and len(labels) != len(run_dirs):
        raise SettingError(
            f"labels={','.join(labels)}: expected {len(run_dirs)}, one for each run folder in their order; runs with "
            "the same label become one line"
        )
    runs = [read_run(run_dir) for run_dir in run_dirs]
    if not runs:
        raise SettingError("no run folders given")
    runs = [dataclasses.replace(run, label=label) for run, label in zip(runs, labels)] or runs
    by_env: dict[str, list[Run]] = {}
    for run in runs:
        by_env.setdefault(run.job["env"]["env"], []).append(run)
    columns = min(2, len(by_env))
    rows = -(-len(by_env) // columns)
    # A Figure of its own: pyplot would keep it, and the user's backend, for the whole process.
    figure = Figure(figsize=(8.0 * columns, 4.8 * rows), dpi=dpi, layout="constrained")
    plots = figure.subplots(rows, columns, squeeze=False).flat
    for (env, members), axes in zip(by_env.items(), plots):  # in this order: `plots` goes on below
        _draw_env(axes, env, members)
    for axes in plots:
        axes.set_axis_off()
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a '$' of a name is no formula
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as scratch:
        figure.savefig(scratch, format="png")


def _draw_env(axes: Axes, env: str, runs: Sequence[Run]) -> None:
    groups = group(runs)
    for index, (label, members) in enumerate(groups.items()):
        _draw_group(axes, label, members, _COLOURS[index % len(_COLOURS)])
    seeds = sorted({run.job["seed"] for run in runs})
    if len(groups) == 1:
        word = "seed" if len(seeds) == 1 else "seeds"
        title = f"{next(iter(groups))} on {env}, {word} {', '.join(str(s) for s in seeds)}"
    else:
        title = env
    axes.set_title(title)
    axes.set_xlabel("env steps")
    axes.set_ylabel("episode return (unclipped)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        # Below the plot, where it can hide no point.
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14), fontsize="small", frameon=False)
    else:
        axes.text(0.5, 0.5, "no episode has ended yet", ha="center", transform=axes.transAxes)


def _draw_group(axes: Axes, label: str, runs: Sequence[Run], colour: str) -> None:
    training = [run.training for run in runs if len(run.training[0])]
    several = _mean_of(runs)
    for x, y in training if len(training) > 1 else ():
        axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
    if training:
        x, mean, _, _ = spread(training)
        name = f"{label}: training, last 100 episodes{several}"
        axes.plot(x, mean, color=colour, alpha=0.6, linewidth=1.2, linestyle="--", label=name)
    scores = [run.result for run in runs if run.result.get("return_mean") is not None]
    if scores:
        # Env steps of the exported policy, which may be from before the end of the run.
        at = [score.get("exported_env_steps", score["env_steps"]) for score in scores]
        mean = float(np.mean([score["return_mean"] for score in scores]))
        name = f"{label}: final score {number(mean)} ({scores[0]['episodes']} episodes{several})"
        heights = [score["return_mean"] for score in scores]
        axes.scatter(at, heights, 90, color=colour, marker="*", zorder=3, label=name)
    for index, world in enumerate(dict.fromkeys(w for run in runs for w in run.worlds)):
        lines = [run.worlds[world] for run in runs if world in run.worlds]
        lines = [line for line in lines if len(line[0])]
        if lines:
            x, mean, _, _ = spread(lines)
            style = _WORLD_STYLES[index % len(_WORLD_STYLES)]
            name = f"{label}: evaluation in {world}{several}"
            axes.plot(x, mean, color=colour, linewidth=1.2, linestyle=style, label=name)
    evaluated = [run.evaluation for run in runs if len(run.evaluation[0])]
    if not evaluated:
        return
    if len(evaluated) == 1:
        x, mean, std = evaluated[0]
        low, high, band = mean - std, mean + std, "band: std over episodes"
    else:
        x, mean, low, high = spread([(e[0], e[1]) for e in evaluated])
        band = "band: min to max"
    marks = {"marker": "o", "markersize": 3.5} if len(x) < 60 else {}
    mode = runs[0].job.get("evaluation", {}).get("eval_mode", "greedy")
    name = f"{label}: {mode} evaluation{several} ({band})"
    axes.plot(x, mean, color=colour, linewidth=1.8, label=name, **marks)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _mean_of(runs: Sequence[Run]) -> str:
    """', mean of 3 seeds', or what else several runs of one group are; '' for a single one."""
    seeds = sorted({run.job["seed"] for run in runs})
    if len(runs) == 1:
        return ""
    if len(seeds) == len(runs):
        return f", mean of {len(seeds)} seeds"
    if len(seeds) == 1:
        return f", mean of {len(runs)} runs of one seed, {seeds[0]}"
    return f", mean of {len(runs)} runs of {len(seeds)} seeds"


def spread(series: Sequence[Series]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, mean, smallest and largest y of several lines, where all of them have data.

    Lines with the same x keep it; others are interpolated on a common one. Where they share no x,
    the arrays are empty.
    """
    first = series[0][0]
    if all(len(x) == len(first) and (x == first).all() for x, _ in series):
        grid, lines = first, np.stack([y for _, y in series])
    else:
        start, end = max(x[0] for x, _ in series), min(x[-1] for x, _ in series)
        grid = np.linspace(start, end, _GRID_POINTS) if end >= start else np.empty(0)
        lines = np.stack([np.interp(grid, x, y) for x, y in series])
    return grid, lines.mean(0), lines.min(0), lines.max(0)


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by label: the user's, or the algorithm and the settings in which its runs differ, never the seed."""
    if runs[0].label:
        named: dict[str, list[Run]] = {}
        for run in runs:
            named.setdefault(run.label, []).append(run)
        return named
    result: dict[str, list[Run]] = {}
    by_algo: dict[str, list[Run]] = {}
    for run in runs:
        by_algo.setdefault(run.job["algo"], []).append(run)
    for algo, members in by_algo.items():
        settings = [{**run.job["env"], **run.job["config"]} for run in members]
        names = dict.fromkeys(name for each in settings for name in each)
        differing = [
            name for name in names if any(s.get(name) != settings[0].get(name) for s in settings)
        ]
        # All differences distinguish groups; where the first of them do not suffice, a number is added.
        numbers: dict[tuple[str, ...], int] = {}
        more = len(differing) - _MOST_DIFFERENCES
        for run, values in zip(members, settings):
            words = tuple(f"{name}={value_text(values.get(name))}" for name in differing)
            which = numbers.setdefault(words, len(numbers) + 1)
            text = ", ".join(words[:_MOST_DIFFERENCES])
            if more > 0:
                text = f"{which}: {text} and {more} more"
            result.setdefault(f"{algo} ({text})" if text else algo, []).append(run)
    return result
