"""The Python door: train, load and evaluate, with an environment and a network of one's own.

python examples/train_and_load.py [run folder]
"""

from __future__ import annotations

import sys

import corridor
import tensorflow as tf

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

    # The policy of a finished run, with its weights: `step` takes a batch of raw observations.
    policy = tfrl.load(result.run_dir)
    places = tf.constant([[0.0], [0.4], [0.8]])
    step = policy.step(places, policy.initial_state(3), {}, {}, explore=False)
    print("actions:", step.action.numpy().tolist())

    # Seeded games: full ones, unclipped rewards, greedy unless told otherwise.
    evaluation = tfrl.evaluate(result.run_dir, episodes=10, seed=7)
    print("returns:", evaluation.returns)


if __name__ == "__main__":  # other processes of a run may import this file
    main()
