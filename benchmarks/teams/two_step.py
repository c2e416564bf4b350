"""What QMIX, VDN and independent Q-learning have learnt of the two-step game, beside what each of them can represent.

    python benchmarks/teams/two_step.py RUNS     # reads RUNS/two_step_{qmix,vdn,iql}/seed-*, writes two_step.json

RUNS holds folders of runs of `configs/qmix/two_step_*.flags`, whose data is uniform play. `two_step.json` has an entry
for each run: the values in the risky state, of the joint actions or of each agent's own, and those of the first state.
The exact ones are the fixed points under uniform data: with QMIX the returns themselves, with VDN the least squares of
sums, with independent agents, which learn from half of the team's reward each, means over the other's action.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

import numpy as np

from tfrl.benchmark import study

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "two_step.json"
TITLES = {"qmix": "QMIX", "vdn": "VDN", "iql": "IQL"}
PAYOFF, SAFE, DISCOUNT = np.array([[0.0, 1.0], [1.0, 8.0]]), 7.0, 0.99


def exact(name: str) -> dict[str, list[float]]:
    """The values that a learner comes to: in the risky state of AA, AB, BA, BB (of independent agents of A, B, A, B),
    and in the first state of the first agent's A and B."""
    if name == "iql":
        own = [*(PAYOFF.mean(1) / 2), *(PAYOFF.mean(0) / 2)]
        return {"risky": own, "start": [DISCOUNT * SAFE / 2, DISCOUNT * max(own[:2])]}
    values = PAYOFF.reshape(-1)
    if name == "vdn":
        sums = np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]])
        values = sums @ np.linalg.lstsq(sums, values, rcond=None)[0]
    return {"risky": values.tolist(), "start": [DISCOUNT * SAFE, DISCOUNT * values.max()]}


def learnt(run_dir: pathlib.Path) -> dict[str, list[float]]:
    """The same of a run's last checkpoint; means over what the second agent did before, which the memory has seen."""
    import tensorflow as tf

    from tfrl.job import Job
    from tfrl.runtime import build
    from tfrl.runtime.plan.run_plan import plan_run
    from tfrl.types import Trajectory

    job = dataclasses.replace(
        Job.load(run_dir / "job.json"), resume=True, run_dir=str(run_dir), initial_weights=""
    )
    run_plan = plan_run(job)
    learner = build.learner(run_plan, run_plan.found, print).learner
    policy = learner.policy
    # Two episodes: agent 0 takes B, agent 1 A or B; the observations are those of the first and of the risky state.
    places = [[0, 3], [2, 5]]
    obs = np.eye(6, dtype=np.float32)[places][:, None].repeat(2, 1)
    states = np.eye(3, dtype=np.float32)[[0, 2]][:, None].repeat(2, 1)
    batch = Trajectory(
        obs={
            "observation": tf.constant(obs), "state": tf.constant(states),
            "action_mask": tf.ones([2, 2, 4]), "alive": tf.ones([2, 2, 2]),
        },
        action=tf.constant([[[1, 0], [1, 1]]]), reward=None, discount=None, is_last=None, valid=None,
        is_first=tf.constant([[True, True], [False, False]]), discounted_return=None,
        state=policy.initial_state(2, {}), extras={}, version=None, is_new=None, probability=None,
    )  # fmt: skip
    q = policy.unrolled_values(batch, 0).numpy()  # [place, episode, agent, action]

    def joint(place: int) -> np.ndarray:
        """Values of the joint actions [2, 2]."""
        found = np.zeros((2, 2))
        for a, b in np.ndindex(2, 2):
            own = tf.constant(np.stack([q[place, :, 0, a], q[place, :, 1, b]], 1))
            found[a, b] = learner.mixer(own, tf.constant(states[place])).numpy().mean()
        return found

    if learner.mixer is None:
        risky, start = q[1].mean(0).reshape(-1), q[0, 0, 0]
    else:
        risky, start = joint(1).reshape(-1), joint(0).max(1)
    return {"risky": risky.tolist(), "start": start.tolist()}


def table() -> str:
    """Learnt and exact values as a Markdown table."""
    lines = [
        "| algorithm | seed | values in the risky state | of A and B in the first state | return of greedy play |",
        "| --- | --- | --- | --- | --- |",
    ]
    text = lambda values: ", ".join(f"{x:.2f}" for x in values)
    for name, title in TITLES.items():
        runs = study.of(study.load(RESULTS), name=name)
        for run in runs:
            lines.append(
                f"| {title} | {run['seed']} | {text(run['risky'])} | {text(run['start'])} | {run['score']:g} |"
            )
        if runs:
            best = exact(name)
            lines.append(f"| {title} | exact | {text(best['risky'])} | {text(best['start'])} | |")
    return "\n".join(lines)


def main(runs: str) -> None:
    """Writes `two_step.json` from folders of runs."""
    found = []
    for name in TITLES:
        for run_dir in sorted((pathlib.Path(runs) / f"two_step_{name}").glob("seed-*")):
            result = json.loads((run_dir / "result.json").read_text())
            values = learnt(run_dir)
            found.append(
                {"name": name, "seed": result["seed"], "score": result["return_mean"], **values}
            )
            print(found[-1])
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
