"""Five methods on half-court defence, and hierarchies against flat learners on small trash maps: training returns.

    python benchmarks/hierarchy/order.py            # trains what results.json does not have yet
    python benchmarks/hierarchy/order.py figure     # draws figure.png from it, and prints the table

Tang et al. 2018 report hCom and hQmix before Ind-hDQN before the low level alone (goals at random) before IL-DQN on
their basketball game; this is that comparison on the half-court game of the tree. `results.json` has one entry a run.
`trash()` is the table of the recorded runs of `configs/hdqn`, in `benchmarks/runs/hdqn`.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import statistics
from typing import Any

from tfrl.benchmark import study

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
RUNS = HERE.parent / "runs" / "hdqn"
LAST = 500  # training episodes of a figure
METHODS: dict[str, dict[str, Any]] = {
    "hCom": dict(coordination="comm"),
    "hQmix": dict(coordination="qmix"),
    "Ind-hDQN": dict(coordination="independent"),
    "low level only": dict(coordination="independent", epsilon_initial=1.0, epsilon_final=1.0),
    "IL-DQN": dict(coordination="independent", levels=1, discount=0.99, hidden_sizes=(128, 128)),
}
TWO_LEVELS = dict(
    max_goal_length=6, low_epsilon_final=0.05, low_epsilon_decay_env_steps=60_000, low_learning_rate=1e-3,
)  # fmt: skip
COMMON = dict(
    env="tfrl/HalfCourt-v0", num_envs=32, total_env_steps=300_000, epsilon_final=0.05, epsilon_decay_env_steps=100_000,
    optimizer="adam", learning_rate=5e-4, env_steps_per_update=64, trained_env_steps=16, batch_size=16,
    eval_every_env_steps=30_000, final_eval_episodes=0, console="none", tensorboard=False, checkpoint_every_env_steps=0,
    export_policy="last",
)  # fmt: skip


def settings(method: str) -> dict[str, Any]:
    """Settings of a method."""
    levels = {} if METHODS[method].get("levels") == 1 else TWO_LEVELS
    return {**COMMON, **levels, **METHODS[method]}


def run(method: str, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Trains once; what `results.json` holds of it."""
    import tfrl

    run_dir = folder / f"{method.replace(' ', '_')}-{seed}"
    tfrl.train("hdqn", run_dir=str(run_dir), seed=seed, **settings(method))
    with open(run_dir / "episodes.csv", newline="") as file:
        returns = [float(row["return"]) for row in csv.DictReader(file)]
    count = len(returns) // 30
    curve = [round(statistics.fmean(returns[i * count : (i + 1) * count]), 4) for i in range(30)]
    return dict(
        method=method, seed=seed, episodes=len(returns), training=curve,
        last=round(statistics.fmean(returns[-LAST:]), 4),
    )  # fmt: skip


def train(folder: pathlib.Path, seeds: list[int], methods: list[str]) -> None:
    """Trains what is not there yet, and adds it to `results.json`."""
    for seed in seeds:
        for method in methods:
            if not study.of(study.load(RESULTS), method=method, seed=seed):
                study.append(RESULTS, run(method, seed, folder))


def table() -> str:
    """All runs on the half court as a Markdown table."""
    lines = [
        f"| method | seeds | training return, mean of the last {LAST} episodes of each seed | attacks stopped |",
        "| --- | --- | --- | --- |",
    ]
    for method in METHODS:
        found = study.of(study.load(RESULTS), method=method)
        if found:
            seeds = ", ".join(str(entry["seed"]) for entry in found)
            last = [entry["last"] for entry in found]
            cells = ", ".join(f"{value:.2f}" for value in last)
            lines.append(
                f"| {method} | {seeds} | {cells} | {(1 + statistics.fmean(last)) / 2:.0%} |"
            )
    return "\n".join(lines)


def last_episodes(run_dir: pathlib.Path) -> float:
    """Mean training return of about the last `LAST` episodes: of the log's rows about them, each of 100 episodes."""
    metric = "actor/episode_return_mean"
    rows = study.logged(run_dir, metric)
    last = float(rows[-1]["run/episodes"])
    near = [row for row in rows if float(row["run/episodes"]) >= last - LAST + 100]
    return statistics.fmean(float(row[metric]) for row in near)


def trash() -> str:
    """The recorded runs on small trash maps as a Markdown table."""
    lines = [
        f"| config | seeds | training return, mean of about the last {LAST} episodes of each seed | greedy |",
        "| --- | --- | --- | --- |",
    ]
    for folder in sorted(RUNS.glob("trash_*")):
        seeds = sorted(folder.glob("seed-*"))
        last = ", ".join(f"{last_episodes(seed):.2f}" for seed in seeds)
        greedy = [json.loads((seed / "result.json").read_text())["return_mean"] for seed in seeds]
        names = ", ".join(seed.name.removeprefix("seed-") for seed in seeds)
        cells = ", ".join(f"{value:.2f}" for value in greedy)
        lines.append(f"| `{folder.name}` | {names} | {last} | {cells} |")
    return "\n".join(lines)


def figure() -> None:
    """Training returns over the share of the episodes, a curve for each run on the half court."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(METHODS, ("tab:blue", "tab:green", "tab:orange", "0.5", "tab:red")))
    for entry in study.load(RESULTS):
        share = [(i + 0.5) / len(entry["training"]) for i in range(len(entry["training"]))]
        label = entry["method"] if entry["seed"] == 1 else None
        plt.plot(share, entry["training"], color=colours[entry["method"]], label=label)
    plt.xlabel("share of the training episodes")
    plt.ylabel("training return")
    plt.legend()
    plt.tight_layout()
    plt.savefig(HERE / "figure.png", dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", nargs="?", choices=["train", "figure"], default="train")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/hierarchy"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    options = parser.parse_args()
    if options.action == "figure":
        print(table())
        figure()
    else:
        train(options.runs, options.seeds, options.methods)
