"""Adam against LAMB on CartPole-v1 with batches 16 and 32 times as large: PPO and DQN, rates swept.

    python benchmarks/large_batch/cartpole.py            # trains what results.json does not have yet
    python benchmarks/large_batch/cartpole.py figure     # draws figure.png from it, and prints the table

Every run of an algorithm trains on as many samples: 16 times as large a batch makes a 16th of the updates. Each rate of
`RATES` runs with seed 1; the rate with the highest mean of its evaluations also runs with seeds 2 and 3. The rows with
batch x1 are the recorded runs of the tuned configs, in `benchmarks/runs/`. `results.json` has one entry a run.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from tfrl.benchmark import study
from tfrl.benchmark.study import evaluations, of

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
SEEDS = (1, 2, 3)
FACTORS = (16, 32)
RATES = {
    ("ppo", "adam"): (1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3),
    ("ppo", "lamb"): (2.5e-3, 5e-3, 10e-3, 20e-3),
    ("dqn", "adam"): (2e-3, 4e-3, 8e-3, 16e-3),
    ("dqn", "lamb"): (2.5e-3, 5e-3, 10e-3, 20e-3),
}
BASE_RATE = {"ppo": 1e-3, "dqn": 2e-3}
GOAL = 400.0  # mean return of an evaluation whose env steps are compared
COMMON = dict(
    env="CartPole-v1", eval_episodes=10, final_eval_episodes=0, console="none", tensorboard=False,
    compile="xla", inference="function", checkpoint_every_env_steps=0, checkpoint_replay=False,
    export_policy="last",
)  # fmt: skip


def ppo(factor: int) -> dict[str, Any]:
    """Settings of configs/ppo/cartpole.flags with `factor` times as many environments; 131,072 env steps in all."""
    updates = 131_072 // (256 * factor) * 20
    return dict(
        total_env_steps=131_072, num_envs=8 * factor, unroll_length=32, minibatches=1, epochs=20,
        gae_lambda=0.8, discount=0.98, clip=0.2, clip_final=0.0, learning_rate_final=0.0,
        learning_rate_env_steps=131_072, eval_every_env_steps=8_192,
        learning_rate_warmup_updates=updates // 20 if factor > 1 else 0,
    )  # fmt: skip


def dqn(factor: int) -> dict[str, Any]:
    """Settings of configs/dqn/cartpole.flags with `factor` times the batch and the env steps per update; 50,000 in
    all."""
    updates = 45_000 // factor
    return dict(
        total_env_steps=50_000, num_envs=8, n_step=3, hidden_sizes=(64, 64), batch_size=64 * factor,
        env_steps_per_update=factor, updates_per_call=64 // factor,
        target_period_updates=400 // factor, replay_capacity=50_000,
        min_replay=max(1_000, 64 * factor), epsilon_final=0.04, epsilon_decay_env_steps=8_000,
        learning_rate_updates=updates, eval_every_env_steps=2_500,
        learning_rate_warmup_updates=updates // 20 if factor > 1 else 0,
    )  # fmt: skip


def run(algo: str, factor: int, optimizer: str, rate: float, seed: int) -> dict[str, Any]:
    """Trains once; what `results.json` holds of it."""
    import tfrl

    settings = {**COMMON, **{"ppo": ppo, "dqn": dqn}[algo](factor)}
    if algo == "dqn":
        settings["learning_rate_final"] = rate / 20
    if optimizer == "lamb":
        settings["weight_decay"] = 0.0  # Adam has none
    with tempfile.TemporaryDirectory() as folder:
        result = tfrl.train(
            algo, run_dir=f"{folder}/run", optimizer=optimizer, learning_rate=rate, seed=seed, **settings
        )  # fmt: skip
        curve = evaluations(pathlib.Path(folder, "run"))
    return dict(
        algo=algo, factor=factor, optimizer=optimizer, rate=rate, seed=seed, updates=result.updates,
        train_s=round(result.train_s, 2), evaluations=curve,
    )  # fmt: skip


def score(entry: dict[str, Any]) -> float:
    """Mean of all evaluations of a run: high where it learns early and stays good."""
    return statistics.fmean(value for _, value in entry["evaluations"])


def best_rate(entries: list[dict[str, Any]], algo: str, factor: int, optimizer: str) -> float:
    """The rate whose run with seed 1 has the highest `score`."""
    same = of(entries, algo=algo, factor=factor, optimizer=optimizer, seed=1)
    return max(same, key=score)["rate"]


def wanted(entries: list[dict[str, Any]]) -> Iterator[tuple[str, int, str, float, int]]:
    """Arguments of `run` in their order; those of other seeds than 1 depend on the entries of seed 1."""
    for factor in FACTORS:
        for algo in BASE_RATE:
            for optimizer in ("adam", "lamb"):
                for rate in RATES[algo, optimizer]:
                    yield algo, factor, optimizer, rate, 1
            for seed in SEEDS[1:]:
                for optimizer in ("adam", "lamb"):
                    rate = best_rate(entries, algo, factor, optimizer)
                    yield algo, factor, optimizer, rate, seed


def train() -> None:
    """Makes every wanted run that is not there, and keeps each at once."""
    entries = study.load(RESULTS)
    for arguments in wanted(entries):
        names = ("algo", "factor", "optimizer", "rate", "seed")
        if of(entries, **dict(zip(names, arguments))):
            continue
        entries.append(run(*arguments))
        print(*arguments, f"{score(entries[-1]):.1f}", flush=True)
        study.append(RESULTS, entries[-1])


def steps_to_goal(entry: dict[str, Any]) -> float:
    """Env steps at the first evaluation that reaches `GOAL`; infinite where none does."""
    return study.env_steps_to(GOAL, entry["evaluations"])


def recorded(algo: str) -> list[dict[str, Any]]:
    """The runs of the tuned config, as entries."""
    found = []
    for seed in SEEDS:
        folder = HERE.parent / "runs" / algo / "cartpole" / f"seed-{seed}"
        updates = json.loads((folder / "result.json").read_text())["updates"]
        curve = evaluations(folder)
        found.append({"seed": seed, "updates": updates, "evaluations": curve})
    return found


def rows(entries: list[dict[str, Any]]) -> list[tuple[str, int, str, float, list[dict[str, Any]]]]:
    """Algorithm, factor, optimiser, best rate and its runs, for each row of the table."""
    found = []
    for algo in BASE_RATE:
        found.append((algo, 1, "adam", BASE_RATE[algo], recorded(algo)))
        for factor in FACTORS:
            for optimizer in ("adam", "lamb"):
                if of(entries, algo=algo, factor=factor, optimizer=optimizer):
                    rate = best_rate(entries, algo, factor, optimizer)
                    key = dict(algo=algo, factor=factor, optimizer=optimizer, rate=rate)
                    found.append((*key.values(), of(entries, **key)))
    return found


def table() -> str:
    """The best rates with all their seeds, as a Markdown table."""
    entries = study.load(RESULTS)
    lines = [
        "| algorithm | batch | optimiser | rate | seeds | updates | mean of evaluations | last evaluation |"
    ]
    lines[0] += f" env steps to {GOAL:.0f} |"
    lines.append("| --- |" + " --- |" * 8)
    for algo, factor, optimizer, rate, runs in rows(entries):
        batch = {"ppo": 256, "dqn": 64}[algo] * factor
        last = " / ".join(f"{e['evaluations'][-1][1]:.0f}" for e in runs)
        scores = " / ".join(f"{score(e):.0f}" for e in runs)
        goals = [steps_to_goal(e) for e in runs]
        goal = " / ".join("not reached" if g == float("inf") else f"{g:,}" for g in goals)
        title = {"ppo": "PPO", "dqn": "DQN"}[algo]
        lines.append(
            f"| {title} | {batch:,} (x{factor}) | {optimizer} | {rate:g} | {len(runs)} | "
            f"{runs[0]['updates']:,} | {scores} | {last} | {goal} |"
        )
    return "\n".join(lines)


def rates_table() -> str:
    """Score of every rate with seed 1, as a Markdown table."""
    entries = study.load(RESULTS)
    lines = [
        "| algorithm | batch | optimiser | rate: mean of evaluations |",
        "| --- | --- | --- | --- |",
    ]
    for (algo, optimizer), rates in RATES.items():
        for factor in FACTORS:
            key = dict(algo=algo, factor=factor, optimizer=optimizer, seed=1)
            scores = {e["rate"]: score(e) for e in of(entries, **key)}
            cells = [f"{rate:g}: {scores[rate]:.0f}" for rate in rates if rate in scores]
            if cells:
                lines.append(f"| {algo.upper()} | x{factor} | {optimizer} | {'; '.join(cells)} |")
    return "\n".join(lines)


def figure(entries: list[dict[str, Any]]) -> None:
    """Evaluations over env steps, a panel for each algorithm and factor: mean of the seeds and their range."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    colours = {("adam", False): "0.6", ("adam", True): "tab:orange", ("lamb", True): "tab:blue"}
    _, axes = plt.subplots(2, 2, figsize=(9, 6), sharey=True)
    for panels, algo in zip(axes, BASE_RATE):
        for axis, factor in zip(panels, FACTORS):
            for name, times, optimizer, rate, runs in rows(entries):
                if name != algo or times not in (1, factor):
                    continue
                grid = np.array([at for at, _ in runs[0]["evaluations"]])
                curves = np.array([np.interp(grid, *zip(*run["evaluations"])) for run in runs])
                colour = colours[optimizer, times > 1]
                label = f"{optimizer} {rate:g}, batch x{times}"
                axis.plot(grid, curves.mean(0), color=colour, label=label)
                axis.fill_between(grid, curves.min(0), curves.max(0), color=colour, alpha=0.2)
            axis.set_title(f"{algo.upper()} on CartPole-v1, batch x{factor}")
            axis.set_xlabel("env steps")
            axis.legend(fontsize=8)
        panels[0].set_ylabel("greedy return")
    plt.tight_layout()
    plt.savefig(HERE / "figure.png", dpi=90)


if __name__ == "__main__":
    if "figure" in sys.argv:
        print(table(), rates_table(), sep="\n\n")
        figure(study.load(RESULTS))
    else:
        train()
