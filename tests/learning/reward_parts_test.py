"""Parts of rewards and discounts of the environment's own reach the learner: values that are known, and what is stored.

Reward 1 for ever with a discount of 0.5 of the environment's own and gamma 0.9 is worth 1 / (1 - 0.45) = 1.818; a run
that loses the discount learns 10.
"""

import dataclasses
import json
import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.job import Job
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.storage import checkpoint_files
from tfrl.testing.runs import newest_learner

VALUE = 1 / (1 - 0.9 * 0.5)
COMMON = dict(
    env="tfrl.testing.fakes:PartsAndDiscount", discount=0.9, hidden_sizes=(16,), num_envs=2, eval_every_env_steps=0,
    final_eval_episodes=1, export_policy="last", checkpoint_every_env_steps=0, console="none",
    tensorboard=False, compile="graph", inference="function", info_metrics=("cost",),
)  # fmt: skip
DQN = dict(
    COMMON, batch_size=32, env_steps_per_update=2.0, updates_per_call=64, min_replay=200, n_step=3,
    learning_rate=5e-3, target_period_updates=30, total_env_steps=2_000,
)  # fmt: skip
PPO = dict(COMMON, unroll_length=64, learning_rate=1e-2, total_env_steps=4_096)
SEQUENCES = dict(
    core="gru",
    core_size=8,
    sequence_length=8,
    sequence_period=4,
    burn_in=0,
    n_step=2,
    min_replay=400,
)
ONES = np.float32([[1.0, 0.3]])


class TrainingCase(tf.test.TestCase, parameterized.TestCase):
    def train(self, algo, **settings):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        result = tfrl.train(algo, run_dir=str(run_dir), **settings)
        return result, run_dir


class LearningTest(TrainingCase):
    @parameterized.named_parameters(
        ("beside_the_learner", dict(replay_residency="learner")),
        ("in_a_server", dict(replay_residency="server")),
    )
    def test_dqn_learns_the_value_under_both_discounts(self, settings):
        self.check_dqn(settings)

    @pytest.mark.slow
    def test_dqn_does_so_in_processes(self):
        self.check_dqn(dict(backend="processes", num_actors=1, total_env_steps=3_000))

    def check_dqn(self, settings):
        result, run_dir = self.train("dqn", **{**DQN, **settings})
        q = tfrl.load(run_dir).q_values(ONES)
        self.assertAllClose(q, np.full_like(q, VALUE), rtol=0.1)
        rows = (run_dir / "metrics.csv").read_text().splitlines()
        self.assertIn("info/cost", rows[0])

    @pytest.mark.slow
    def test_dqn_with_a_memory_does_too(self):
        _, run_dir = self.train("dqn", **{**DQN, **SEQUENCES})
        policy = tfrl.load(run_dir)
        q = policy.q_values(ONES)
        self.assertAllClose(q, np.full_like(q, VALUE), rtol=0.15)

    def test_ppo_learns_the_value_under_both_discounts(self):
        self.check_ppo({})

    @pytest.mark.slow
    def test_ppo_does_so_in_processes(self):
        self.check_ppo(dict(backend="processes", num_actors=1))

    def check_ppo(self, settings):
        _, run_dir = self.train("ppo", **PPO, **settings)
        loop, _ = newest_learner(run_dir)
        value = loop.learner.policy.heads(tf.constant(ONES)).values
        self.assertAllClose(value, [VALUE], rtol=0.1)


class StoredTest(TrainingCase):
    @parameterized.parameters(1, 3)
    def test_a_replay_holds_the_sums_of_the_parts(self, n):
        settings = {**DQN, "n_step": n, "total_env_steps": 400, "replay_residency": "learner"}
        _, run_dir = self.train("dqn", **settings)
        run_plan = plan_run(Job.load(run_dir / "job.json"))
        layout = run_plan.layout.rows()
        replay = LearnerReplay(run_plan.agent.experience, layout, 0)
        replay.restore(run_plan.checkpoints.newest().replay)
        batch = run_plan.layout.decode(replay.read(replay.live()), tf.ones([replay.size]))
        start = np.round(batch.obs_tm1[:, 1].numpy() * 10)
        gain, cost = np.zeros_like(start), np.zeros_like(start)
        for i in range(n):
            open_ = start + i < 10
            gain += open_ * 0.45**i * (1 + (start + i) / 10)
            cost -= open_ * 0.45**i * (start + i) / 10
        spans = np.minimum(n, 10 - start)
        self.assertAllClose(batch.rewards, np.stack([gain, cost], 1), rtol=1e-5)
        self.assertAllClose(batch.discount_t, 0.45**spans, rtol=1e-5)
        self.assertAllClose(tf.reduce_sum(batch.rewards, 1), batch.reward_t, rtol=1e-5)

    def test_contents_of_another_row_are_left_out_with_a_line(self):
        settings = {**DQN, **SEQUENCES, "total_env_steps": 600, "n_step": 1}
        _, run_dir = self.train("dqn", **settings)
        folder = plan_run(Job.load(run_dir / "job.json")).checkpoints.newest().folder
        rows = np.load(folder / "replay" / "rows.npy")
        np.save(folder / "replay" / "rows.npy", rows[:, :-9])  # as an earlier version wrote them
        state = json.loads((folder / "state.json").read_text())
        (folder / "manifest.json").unlink()
        checkpoint_files.seal(folder, state)
        job = dataclasses.replace(Job.load(run_dir / "job.json"), resume=True)
        run_plan = plan_run(job)
        self.assertIsNone(run_plan.found.replay)
        self.assertRegex(
            run_plan.residency_line,
            "the contents of the replay in the checkpoint are not restored: their steps are stored in another form",
        )
        result = tfrl.train("dqn", run_dir=str(run_dir), resume=True, total_env_steps=1_400)
        self.assertEqual(result.env_steps, 1_400)
        written = json.loads((newest(run_dir).folder / "state.json").read_text())["written"]
        self.assertBetween(
            written, 150, 220
        )  # 800 env steps bring a sequence each 4; none of before is there


def newest(run_dir):
    return plan_run(Job.load(run_dir / "job.json")).checkpoints.newest()


if __name__ == "__main__":
    tf.test.main()
