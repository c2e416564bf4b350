"""Ape-X DDPG in many processes: a ladder of noise, priorities of actors, shards, and a bound of the weights' delay."""

import pathlib
import tempfile

import pytest
from absl.testing import absltest

from tfrl.testing.processes import Run

SETTINGS = {
    "env": "tfrl.testing.fakes:TargetPoint", "num_actors": 2, "num_envs": 2,
    "total_env_steps": 12_000, "num_replay_shards": 2, "prioritized": True,
    "actor_priorities": True, "noise_ladder": "actor", "gaussian_sigma": 1.0,
    "max_weight_delay_env_steps": 100, "n_step": 3, "discount": 0.5, "batch_size": 32,
    "env_steps_per_update": 4, "updates_per_call": 8, "min_replay": 400,
    "random_env_steps": 2_000, "replay_capacity": 8_000, "policy_hidden_sizes": "16",
    "critic_hidden_sizes": "32", "learning_rate": 3e-3, "compile": "graph", "inference": "lite",
    "eval_every_env_steps": 0, "eval_num_envs": 2, "final_eval_episodes": 10, "log_every_s": 0.5,
    "checkpoint_every_env_steps": 0, "console": "plain", "tensorboard": False,
}  # fmt: skip


@pytest.mark.slow
class ApexDDPGTest(absltest.TestCase):
    def test_two_actors_and_two_shards_learn_to_meet_a_point(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        run = Run(pathlib.Path(folder.name), "ddpg", **SETTINGS)
        self.addCleanup(run.close)
        self.assertEqual(run.wait(), 0, run.text())
        text, result, rows = run.text(), run.result(), run.rows()
        self.assertIn("replay: server (2 shards of 4,000 items)", text)
        self.assertIn("exploration: noise_scale 0.4 to 0.000655", text)
        self.assertBetween(result["env_steps"], 12_000, 12_000 + 2 * 3)
        self.assertBetween(result["samples_per_insert"], 4.0, 8.5)
        # Random actions give -50 on average, a policy that always acts with 0 -13.
        self.assertGreater(result["return_mean"], -4.0)
        delays = [row["actor/weight_delay_max_env_steps"] for row in rows
                  if "actor/weight_delay_max_env_steps" in row]  # fmt: skip
        self.assertNotEmpty(delays)
        self.assertLessEqual(max(delays), 100)
        scales = [row["actor/noise_scale"] for row in rows if "actor/noise_scale" in row]
        self.assertNotEmpty(scales)
        self.assertBetween(min(scales), 0.4**8 - 1e-6, 0.4 + 1e-6)


if __name__ == "__main__":
    absltest.main()
