"""Ape-X QMIX in processes, by flags alone: a ladder of epsilons, shards of episodes, a bound of the weights' delay."""

import pathlib
import tempfile

import pytest
from absl.testing import absltest

from tfrl.testing.processes import Run

SETTINGS = {
    "env": "tfrl/TwoStep-v0", "episode_length": 2, "num_actors": 2, "num_envs": 4,
    "total_env_steps": 20_000, "num_replay_shards": 2, "prioritized": True,
    "epsilon_ladder": "actor", "max_weight_delay_env_steps": 100, "batch_env_steps": 64,
    "env_steps_per_update": 16, "updates_per_call": 8, "min_replay": 400, "replay_capacity": 4_000,
    "hidden_sizes": "16", "core": "none", "learning_rate": 3e-3, "target_period_updates": 100,
    "compile": "graph", "inference": "lite", "eval_every_env_steps": 0, "eval_num_envs": 2,
    "final_eval_episodes": 10, "log_every_s": 0.5, "checkpoint_every_env_steps": 0,
    "console": "plain", "tensorboard": False,
}  # fmt: skip


@pytest.mark.slow
class ApexQMIXTest(absltest.TestCase):
    def test_two_actors_and_two_shards_learn_the_joint_action(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        run = Run(pathlib.Path(folder.name), "qmix", **SETTINGS)
        self.addCleanup(run.close)
        self.assertEqual(run.wait(), 0, run.text())
        text, result, rows = run.text(), run.result(), run.rows()
        self.assertIn("exploration: epsilon 0.4 to 0.000655", text)
        self.assertIn("8 updates of 32 episodes of up to 2 steps", text)
        # An item is an episode of 2 steps: 32 episodes per update of 16 steps.
        self.assertBetween(result["samples_per_insert"], 2.5, 4.5)
        self.assertEqual(result["return_mean"], 8.0)
        delays = [row["actor/weight_delay_max_env_steps"] for row in rows
                  if "actor/weight_delay_max_env_steps" in row]  # fmt: skip
        self.assertNotEmpty(delays)
        self.assertLessEqual(max(delays), 100)


if __name__ == "__main__":
    absltest.main()
