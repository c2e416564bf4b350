"""Dense, static sparse and dynamic sparse networks on HalfCheetah-v5: TD3 and SAC at half of the weights.

    python benchmarks/sparse/halfcheetah.py --runs=FOLDER   # trains what results.json does not have yet
    python benchmarks/sparse/halfcheetah.py --runs=FOLDER --env_steps=1000000 --algos td3 --modes dense dynamic
    python benchmarks/sparse/halfcheetah.py figure          # draws figure.png from it, and prints the table

The settings are those of `configs/ALGO/halfcheetah_sparse.flags`, for 250,000 env steps or for the paper's 1,000,000,
with the last rewiring after 95% of them ("dynamic") or after 40% ("early"). Run folders are kept in FOLDER; one that is
there already is resumed, or read if it is finished. `results.json` has one entry a run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from tfrl.benchmark import study

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"
LAST = 5  # evaluations whose mean is the final score
START = (25_000, 75_000)  # env steps
FIRST = (1, 2, 3)  # seeds that had been seen with "dynamic" when the share of "early" was chosen
ALGOS = ("td3", "sac")
# Networks, and the share of the env steps with rewiring; dense ones have none to rewire.
MODES = {"dense": None, "static": 0.0, "dynamic": 0.95, "early": 0.4}


def mode_flags(mode: str, env_steps: int) -> list[str]:
    """The flags that make the networks of a run dense, sparse with a mask that stays, or sparse and rewired."""
    rewired = MODES[mode]
    if rewired is None:
        return []
    until = f"--sparse_stop_env_steps={round(rewired * env_steps)}"
    own = until if rewired else "--sparse_rewire_updates=0"
    return ["--with=sparse", "--sparse_lambdas=7,64", own]


def command(algo: str, mode: str, seed: int, env_steps: int, folder: pathlib.Path) -> list[str]:
    """The command of a run; of the flagfile everything but its sparse settings."""
    launcher, where = [sys.executable, str(ROOT / "launchers" / "run.py")], f"--run_dir={folder}"
    if (folder / "job.json").exists():
        return [*launcher, "--resume", where]
    lines = (ROOT / "configs" / algo / "halfcheetah_sparse.flags").read_text().splitlines()
    flags = [x for x in lines if x.startswith("--") and "sparse" not in x]
    own = [f"--algo={algo}", f"--seed={seed}", f"--total_env_steps={env_steps}", where]
    return [*launcher, *flags, *own, *mode_flags(mode, env_steps)]


def entry(algo: str, mode: str, seed: int, env_steps: int, folder: pathlib.Path) -> dict[str, Any]:
    """What `results.json` holds of a finished run."""
    result = json.loads((folder / "result.json").read_text())
    sparse = result.get("artifacts", {}).get("sparse_training", {})
    return dict(
        algo=algo, mode=mode, seed=seed, env_steps=env_steps, updates=result["updates"], score=result["return_mean"],
        parameters_ratio=sparse.get("parameters_ratio", 1.0), flops_ratio=sparse.get("flops_ratio", 1.0),
        rewirings=sparse.get("rewirings", 0), evaluations=study.evaluations(folder),
    )  # fmt: skip


def train(
    runs: pathlib.Path, seeds: list[int], algos: list[str], modes: list[str], env_steps: int
) -> None:
    """Makes every run that is not in `results.json`, and keeps each at once."""
    for algo, seed, mode in itertools.product(algos, seeds, modes):
        key = dict(algo=algo, mode=mode, seed=seed, env_steps=env_steps)
        if study.of(study.load(RESULTS), **key):
            continue
        folder = runs / f"{algo}_{mode}_{seed}_{env_steps}"
        if not (folder / "result.json").exists():
            subprocess.run(command(**key, folder=folder), check=True)
        study.append(RESULTS, entry(**key, folder=folder))


def final(run: dict[str, Any]) -> float:
    """Mean of the last `LAST` evaluations of a run."""
    return statistics.fmean(value for _, value in run["evaluations"][-LAST:])


def start(run: dict[str, Any]) -> float:
    """Mean of the evaluations of a run between the env steps of `START`."""
    return statistics.fmean(
        value for step, value in run["evaluations"] if START[0] <= step <= START[1]
    )


def share_of_steps(run: dict[str, Any], goal: float) -> float:
    """Share of all env steps at the first evaluation that reaches `goal`; infinite where none does."""
    return study.env_steps_to(goal, run["evaluations"]) / run["env_steps"]


def summary() -> str:
    """The runs with sparse networks against the dense runs of the same seeds, as a Markdown table.

    The seeds by which the share of rewiring of "early" was chosen, those that came after it, and all where there are
    both.
    """
    runs = study.load(RESULTS)
    lines = [
        "| algorithm | env steps | networks | seeds | final, mean | dense | difference, its standard error | "
        f"reach the dense run's final score | between {START[0]:,} and {START[1]:,} env steps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    panels = sorted({_panel(run) for run in runs})
    for panel, mode in itertools.product(panels, list(MODES)[1:]):
        shown = [run for run in runs if _panel(run) == panel]
        dense = {run["seed"]: run for run in study.of(shown, mode="dense")}
        pairs = [(r, dense[r["seed"]]) for r in study.of(shown, mode=mode) if r["seed"] in dense]
        pairs.sort(key=lambda pair: pair[0]["seed"])
        first = [pair for pair in pairs if pair[0]["seed"] in FIRST]
        later = [pair for pair in pairs if pair[0]["seed"] not in FIRST]
        lines += map(_row, (first, later, pairs) if first and later else [pairs] if pairs else [])
    return "\n".join(lines)


def _row(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """The row of `summary` for sparse runs, each beside the dense one of its seed."""
    run = pairs[0][0]
    mine, theirs = ([final(pair[i]) for pair in pairs] for i in (0, 1))
    gaps = [a - b for a, b in zip(mine, theirs, strict=True)]
    error = f", {statistics.stdev(gaps) / len(gaps) ** 0.5:,.0f}" if len(gaps) > 1 else ""
    shares = [share_of_steps(own, goal) for (own, _), goal in zip(pairs, theirs, strict=True)]
    reached = [f"{share:.2f}" for share in shares if share != float("inf")]
    after = f", after {', '.join(reached)}" if reached else ""
    starts = ", ".join(f"{start(own) / start(other):.2f}" for own, other in pairs)
    cells = [
        run["algo"].upper(), f"{run['env_steps']:,}", run["mode"], ", ".join(str(own["seed"]) for own, _ in pairs),
        f"{statistics.fmean(mine):,.0f}", f"{statistics.fmean(theirs):,.0f}", f"{statistics.fmean(gaps):+,.0f}{error}",
        f"{len(reached)} of {len(pairs)}{after}", f"{starts} times dense",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _panel(run: dict[str, Any]) -> tuple[int, int]:
    """What orders the panels of the figure: TD3 before SAC, then by length."""
    return ALGOS.index(run["algo"]), run["env_steps"]


def table() -> str:
    """All runs as a Markdown table, seed by seed."""
    runs = study.load(RESULTS)
    runs.sort(key=lambda r: (*_panel(r), r["seed"], list(MODES).index(r["mode"])))
    lines = [
        f"| algorithm | env steps | networks | seed | parameters | operations | "
        f"final (mean of the last {LAST} evaluations) | share of the steps to the dense run's final score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        same = {name: run[name] for name in ("algo", "seed", "env_steps")}
        dense = study.of(runs, mode="dense", **same)
        share = share_of_steps(run, final(dense[0])) if dense else float("nan")
        reached = (
            "not reached"
            if share == float("inf")
            else f"{share:.2f}"
            if share == share
            else "unknown"
        )
        lines.append(
            f"| {run['algo'].upper()} | {run['env_steps']:,} | {run['mode']} | {run['seed']} | "
            f"{run['parameters_ratio']:.3f} | {run['flops_ratio']:.3f} | {final(run):,.0f} | {reached} |"
        )
    return "\n".join(lines)


def figure() -> None:
    """Evaluations over env steps, a panel for each algorithm: a thin curve for each run, a thick one for their mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = study.load(RESULTS)
    panels = sorted({_panel(run) for run in runs})
    colours = dict(zip(MODES, ("0.5", "tab:orange", "tab:blue", "tab:green"), strict=True))
    _, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    for axis, panel in zip(axes[0], panels):
        shown = [run for run in runs if _panel(run) == panel]
        for mode, colour in colours.items():
            curves = [run["evaluations"] for run in study.of(shown, mode=mode)]
            if not curves:
                continue
            for curve in curves:
                axis.plot(*zip(*curve), color=colour, linewidth=0.5)
            # Runs are evaluated at steps that differ by a few.
            mean = [
                [statistics.fmean(numbers) for numbers in zip(*points)] for points in zip(*curves)
            ]
            label = f"{mode}, {len(curves)} seeds" if len(curves) > 1 else mode
            axis.plot(*zip(*mean), color=colour, linewidth=1.8, label=label)
        axis.set_title(f"{shown[0]['algo'].upper()} on HalfCheetah-v5")
        axis.set_xlabel("env steps")
        axis.set_ylabel("greedy return")
        axis.legend(fontsize=8)
    plt.tight_layout()
    plt.savefig(HERE / "figure.png", dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", nargs="?", choices=["train", "figure"], default="train")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/sparse"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--algos", nargs="+", choices=ALGOS, default=list(ALGOS))
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--env_steps", type=int, default=250_000)
    options = parser.parse_args()
    if options.action == "figure":
        print(table())
        figure()
    else:
        train(options.runs, options.seeds, options.algos, options.modes, options.env_steps)
