"""Trains, loads and evaluates in Python, with a custom environment and a custom network.

python examples/train_and_load.py [run folder]
"""

from __future__ import annotations

import sys

import corridor
import numpy as np

import tfrl


def main() -> None:
    # Every flag of `launchers/run.py --algo=dqn --help` is an argument of the same name.
    result = tfrl.train(
        "dqn",
        env=corridor.make_env,
        env_kwargs={"length": 6},
        network=corridor.network,
        max_episode_steps=50,
        total_env_steps=3_000,
        num_envs=4,
        min_replay=200,
        epsilon_decay_env_steps=2_000,
        updates_per_call=16,
        target_period_updates=50,
        learning_rate=3e-3,
        eval_every_env_steps=1_000,
        seed=1,
        **({"run_dir": sys.argv[1]} if len(sys.argv) > 1 else {}),
    )
    print(f"{result.run_dir}: {result.return_mean:.2f} after {result.env_steps:,} env steps")

    # `predict` takes one observation or a batch of them, as the environment returns them.
    policy = tfrl.load(result.run_dir)
    env = corridor.make_env(length=6)
    obs, _ = env.reset()
    policy.reset()  # clears the memory of a recurrent policy
    for _ in range(50):
        obs, _, terminated, truncated, _ = env.step(policy.predict(obs))
        if terminated or truncated:
            break
    places = np.array([[0.0], [0.4], [0.8]], np.float32)
    print("actions:", policy.predict(places).tolist())
    print("action values:", policy.q_values(places).round(2).tolist())

    # Seeded full episodes with unclipped rewards; greedy by default.
    evaluation = tfrl.evaluate(result.run_dir, episodes=10, seed=7)
    print("returns:", evaluation.returns)


if __name__ == "__main__":  # other processes of a run may import this file
    main()
