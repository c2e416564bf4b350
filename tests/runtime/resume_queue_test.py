"""An on-policy run that is resumed: everything of the learner, and schedules over the env steps of the whole run."""

import pathlib
import tempfile

import pytest
import tensorflow as tf

import tfrl
from tfrl.logs import csv_file
from tfrl.testing import conformance
from tfrl.testing.runs import newest_learner

SETTINGS = dict(
    env="tfrl.testing.fakes:IdentityGame", env_kwargs={"length": 7}, num_envs=4, unroll_length=8,
    hidden_sizes=(8,), core="gru", core_size=6, total_env_steps=400, epochs=2, minibatches=2,
    normalize_observations=True, normalize_rewards=True, kl_coefficient=0.2, kl_target=1e-4,
    learning_rate=1e-2, learning_rate_final=1e-3, learning_rate_env_steps=700, clip_final=0.1,
    eval_every_env_steps=0, eval_episodes=1, final_eval_episodes=1, export_policy="last",
    checkpoint_every_env_steps=0, log_every_s=1e-9, console="none", tensorboard=False,
    compile="graph", inference="function",
)  # fmt: skip
UPDATES = 4  # of a batch of 8 vector steps


class ResumeTest(tf.test.TestCase):
    def count(self, loop):
        """Observations that the statistics hold."""
        statistics = loop.learner._training.statistics
        moments = [*statistics.observations.leaves.values(), statistics.rewards.moments]
        return {float(m.count) for m in moments}

    @pytest.mark.slow
    def test_it_continues(self):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        first = tfrl.train("ppo", run_dir=str(run_dir), **SETTINGS)
        self.assertBetween(first.env_steps, 400, 431)
        loop, state = newest_learner(run_dir)
        self.assertEqual(int(loop.updates), first.updates)
        self.assertEqual(first.updates, state["written"] * UPDATES)
        self.assertEqual((state["written"], state["compile"]), (state["sampled"], "graph"))
        self.assertEqual(self.count(loop), {float(first.env_steps)})  # each step once
        before = csv_file.read(run_dir / "metrics.csv")

        with self.subTest("with nothing left to do, nothing changes"):
            tfrl.train("ppo", run_dir=str(run_dir), resume=True)
            again, same = newest_learner(run_dir)
            self.assertEqual(
                conformance.apart(conformance.values(loop), conformance.values(again)), 0.0
            )
            self.assertEqual(same["rng"], state["rng"])

        second = tfrl.train("ppo", run_dir=str(run_dir), resume=True, total_env_steps=800)
        self.assertBetween(second.env_steps, 800, 831)
        loop, state = newest_learner(run_dir)
        self.assertEqual(second.updates, state["written"] * UPDATES)
        self.assertEqual(self.count(loop), {float(second.env_steps)})
        rows = csv_file.read(run_dir / "metrics.csv")
        steps = [row["run/env_steps"] for row in rows]
        self.assertEqual(steps, sorted(steps))
        learnt = [row for row in rows if "learner/learning_rate" in row]
        after = [row for row in learnt if row["run/env_steps"] > first.env_steps]
        self.assertNotEmpty(after)
        for row in learnt:  # the rate of the env steps of the whole run
            rate = 1e-2 + (1e-3 - 1e-2) * min(1.0, row["run/env_steps"] / 700)
            self.assertAllClose(row["learner/learning_rate"], rate, rtol=1e-4)
        last = [row for row in before if "learner/kl_coefficient" in row][-1]
        ratio = after[0]["learner/kl_coefficient"] / last["learner/kl_coefficient"]
        self.assertTrue(any(abs(ratio - r) < 1e-3 for r in (0.5, 1.0, 1.5)), ratio)
        self.assertGreater(last["learner/kl_coefficient"], 0.5)  # it has come far from 0.2


if __name__ == "__main__":
    tf.test.main()
