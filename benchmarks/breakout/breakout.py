"""IMPALA and C51 on Breakout at 84x84 with RLlib's settings of 2018, as far as one machine has come.

    python benchmarks/breakout/breakout.py --runs=FOLDER --algo=impala --minutes=40   # trains, or goes on
    python benchmarks/breakout/breakout.py figure                                     # figure.png and the table

The settings are those of `configs/ALGO/breakout_rllib2018.flags`, but that IMPALA runs in one process with ten
environments instead of 32 actors with five. The run folder stays in FOLDER: the next call resumes it.
`results.json` has what each algorithm has reached, with its training returns over the last 100 episodes thinned out.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

from tfrl.benchmark import study

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"
SEED = 1
POINTS = 100  # of a training curve
# What RLlib's page has at 10,000,000 env steps, and what differs from the config here.
PAGE = {"impala": 385, "c51": 410}
OWN = {
    "impala": ["--backend=inprocess", "--num_actors=1", "--num_envs=10"],
    "c51": ["--checkpoint_replay=false"],
}


def train(runs: pathlib.Path, algo: str, minutes: float) -> None:
    """Trains for so long, from where the run in the folder stands, and keeps what it has reached."""
    folder = runs / algo
    if (folder / "job.json").exists():
        arguments = ["--resume", f"--run_dir={folder}"]
    else:
        config = ROOT / "configs" / algo / "breakout_rllib2018.flags"
        arguments = [
            f"--algo={algo}",
            f"--flagfile={config}",
            f"--run_dir={folder}",
            f"--seed={SEED}",
        ]
        arguments += OWN[algo]
    # SIGINT ends a run in order: with a checkpoint, and with the results so far.
    run = [sys.executable, str(ROOT / "launchers" / "run.py"), *arguments]
    subprocess.run(["timeout", "--signal=INT", f"{minutes}m", *run], check=False)
    keep(folder, algo)


def keep(folder: pathlib.Path, algo: str) -> None:
    """Puts what a run has reached in the place of the algorithm's entry."""
    result = json.loads((folder / "result.json").read_text())
    rows = study.logged(folder, "actor/episode_return_mean")
    rows = [*rows[:: max(1, len(rows) // POINTS)], rows[-1]]
    training = [
        [int(float(row["run/env_steps"])), float(row["actor/episode_return_mean"])] for row in rows
    ]
    entry = dict(
        algo=algo, seed=SEED, env_steps=result["env_steps"], updates=result["updates"],
        train_s=round(result["train_s"]), training=training, evaluations=study.evaluations(folder),
    )  # fmt: skip
    study.append(RESULTS, entry, replaces=["algo"])


def table() -> str:
    """What each algorithm has reached, as a Markdown table."""
    lines = [
        "| algorithm | env steps | hours | training return, last 100 episodes | "
        "best evaluation, 4 episodes | RLlib's page at 10M |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for run in study.load(RESULTS):
        best = max(run["evaluations"], key=lambda point: point[1], default=None)
        scored = "none" if best is None else f"{best[1]:.1f} at {best[0]:,}"
        lines.append(
            f"| {run['algo'].upper()} | {run['env_steps']:,} | {run['train_s'] / 3600:.2f} | "
            f"{run['training'][-1][1]:.1f} | {scored} | {PAGE[run['algo']]} |"
        )
    return "\n".join(lines)


def figure() -> None:
    """Training returns over env steps, and the evaluations as points."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, axis = plt.subplots(figsize=(6, 3.6))
    for run, colour in zip(study.load(RESULTS), ("tab:blue", "tab:orange")):
        axis.plot(*zip(*run["training"]), color=colour, label=f"{run['algo'].upper()}, training")
        if run["evaluations"]:
            axis.plot(*zip(*run["evaluations"]), "o", color=colour, label="greedy, 4 episodes")
    axis.set_title("ALE/Breakout-v5, 84x84")
    axis.set_xlabel("env steps")
    axis.set_ylabel("return")
    axis.legend(fontsize=8)
    plt.tight_layout()
    plt.savefig(HERE / "figure.png", dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", nargs="?", choices=["train", "figure"], default="train")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/breakout"))
    parser.add_argument("--algo", choices=sorted(PAGE), default="impala")
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    if options.action == "figure":
        print(table())
        figure()
    else:
        train(options.runs, options.algo, options.minutes)
