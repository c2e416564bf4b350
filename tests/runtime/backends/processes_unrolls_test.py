"""On-policy runs in many processes: actors that wait, actors that do not, and roles that die or freeze."""

import pathlib
import signal
import tempfile

import pytest
from absl.testing import absltest

from tfrl.testing.processes import Run, end_of

SHARED = dict(
    env="CartPole-v1", num_actors=2, num_envs=4, hidden_sizes="16", compile="graph",
    inference="function", eval_every_env_steps=0, eval_episodes=2, eval_num_envs=2,
    final_eval_episodes=2, log_every_s=0.5, checkpoint_every_env_steps=2_000, console="plain",
    tensorboard=False,
)  # fmt: skip


class UnrollsTestCase(absltest.TestCase):
    def start(self, algo, **settings):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        run = Run(pathlib.Path(folder.name), algo, **{**SHARED, **settings})
        self.addCleanup(run.close)
        return run

    def checkpoints(self, run):
        return sorted((run.dir / "checkpoints").glob("[0-9]*/manifest.json"))

    def assertEnds(self, run):
        self.assertEqual(run.wait(), 0, run.text())
        self.assertEmpty(end_of(list(run.children().values()), 5))
        return run.result()


class BarrierTest(UnrollsTestCase):
    PPO = dict(unroll_length=32, epochs=2, minibatches=2, total_env_steps=8_192)

    def test_actors_wait_and_nothing_is_lost(self):
        """Unrolls are of 128 env steps; a batch of at least 384 has two of each actor."""
        run = self.start("ppo", batch_env_steps=384, **self.PPO)
        result = self.assertEnds(run)
        self.assertIn("4 items of 128 env steps, 512 env steps -> 2 epochs", run.text())
        self.assertGreaterEqual(result["env_steps"], 8_192)  # how much more is a matter of time
        # 512 rows of each batch may hold automatic resets, which are no env steps.
        batches = result["env_steps"] / 512
        self.assertEqual(result["updates"] % 4, 0)
        self.assertBetween(result["updates"] / 4, batches - 1, 1.1 * batches + 1)
        rows = run.rows()
        lags = [
            row["learner/policy_lag_max_updates"]
            for row in rows
            if "learner/policy_lag_max_updates" in row
        ]
        self.assertNotEmpty(lags)
        self.assertEqual(set(lags), {0.0})  # on policy, always

    @pytest.mark.slow
    def test_a_killed_learner_does_not_leave_actors_waiting(self):
        run = self.start("ppo", **{**self.PPO, "total_env_steps": 20_000})
        run.wait_for("checkpoint", lambda: self.checkpoints(run))
        run.children()["learner-0"].send_signal(signal.SIGKILL)
        result = self.assertEnds(run)
        self.assertRegex(
            run.text(), "learner 0 was killed by SIGKILL; learner 1 continues from .*checkpoints"
        )
        self.assertGreaterEqual(result["env_steps"], 20_000)

    @pytest.mark.slow
    def test_a_killed_actor_is_replaced_and_all_stay_on_policy(self):
        run = self.start("ppo", **{**self.PPO, "total_env_steps": 20_000})
        run.wait_for_updates(20)
        run.children()["actor-1"].send_signal(signal.SIGKILL)
        self.assertEnds(run)
        self.assertIn("actor 1 was killed by SIGKILL; actor 2 takes its place", run.text())
        lags = [row.get("learner/policy_lag_max_updates", 0.0) for row in run.rows()]
        self.assertEqual(lags[-1], 0.0)


@pytest.mark.slow
class FreeActorsTest(UnrollsTestCase):
    def test_impala_replaces_a_killed_and_a_frozen_actor(self):
        run = self.start(
            "impala", unroll_length=20, batch_env_steps=160, total_env_steps=30_000,
            heartbeat_timeout_s=5,
        )  # fmt: skip
        run.wait_for_updates(10)
        run.children()["actor-1"].send_signal(signal.SIGKILL)
        run.wait_for("actor-2", lambda: "actor-2" in run.children())
        frozen = run.children()["actor-0"]
        frozen.send_signal(signal.SIGSTOP)
        result = self.assertEnds(run)
        self.assertIn("actor 1 was killed by SIGKILL; actor 2 takes its place", run.text())
        self.assertRegex(
            run.text(),
            r"actor 0 gave no sign of life for \d+ s and was killed; actor 3 takes its place",
        )
        self.assertGreaterEqual(result["env_steps"], 30_000)
        self.assertEmpty(end_of([frozen], 5))
        # An update takes 160 rows, of which automatic resets are no env steps.
        self.assertBetween(result["updates"], 0.9 * 30_000 / 160, 1.15 * result["env_steps"] / 160)
        rows = [row for row in run.rows() if "learner/policy_lag_mean_updates" in row]
        self.assertGreaterEqual(min(row["learner/policy_lag_mean_updates"] for row in rows), 0.0)
        self.assertGreater(max(row["learner/policy_lag_max_updates"] for row in rows), 0.0)

    def test_a3c_replaces_a_killed_actor(self):
        run = self.start("a3c", unroll_length=20, total_env_steps=20_000)
        run.wait_for_updates(20)
        run.children()["actor-0"].send_signal(signal.SIGKILL)
        result = self.assertEnds(run)
        self.assertIn("actor 0 was killed by SIGKILL; actor 2 takes its place", run.text())
        self.assertBetween(result["updates"], 0.85 * 20_000 / 80, 1.15 * result["env_steps"] / 80)

    @pytest.mark.slow
    def test_dqn_by_gradients_replaces_killed_roles_and_resumes(self):
        """Two networks are published, and the target network goes through checkpoints."""
        settings = dict(sends_gradients=True, unroll_length=20, n_step=20, target_period_updates=30)
        run = self.start("dqn", total_env_steps=20_000, **settings)
        run.wait_for_updates(20)
        run.children()["actor-0"].send_signal(signal.SIGKILL)
        run.wait_for("checkpoint", lambda: self.checkpoints(run))
        run.children()["learner-0"].send_signal(signal.SIGKILL)
        result = self.assertEnds(run)
        self.assertIn("actor 0 was killed by SIGKILL; actor 2 takes its place", run.text())
        self.assertIn("learner 0 was killed by SIGKILL; learner 1 continues from", run.text())
        self.assertBetween(result["updates"], 0.6 * 20_000 / 80, 1.15 * result["env_steps"] / 80)
        more = dict(total_env_steps=26_000, resume=True)
        again = Run(run.dir.parent, "dqn", **{**SHARED, **settings, **more})
        self.addCleanup(again.close)
        later = self.assertEnds(again)
        self.assertIn(f"resumed at {result['env_steps']:,} env steps", again.text())
        made = later["env_steps"] - result["env_steps"]
        self.assertBetween(later["updates"] - result["updates"], 0.8 * made / 80, 1.2 * made / 80)


@pytest.mark.slow
class SequenceReplayTest(UnrollsTestCase):
    def test_actors_fill_a_replay_of_sequences(self):
        run = self.start(
            "dqn", core="gru", core_size=8, sequence_length=8, sequence_period=4, burn_in=3,
            prioritized=True, batch_size=16, env_steps_per_update=16, updates_per_call=4,
            replay_capacity=2_000, min_replay=400, total_env_steps=6_000,
        )  # fmt: skip
        result = self.assertEnds(run)
        self.assertIn("updates of 16 sequences of 8 steps, 4 samples per insert", run.text())
        self.assertBetween(result["env_steps"], 6_000, 6_400)
        # Rows that were only reset are no env steps, but parts of sequences that pay for updates.
        self.assertBetween(result["updates"], 0.8 * (6_000 - 400) / 16, 1.1 * 6_400 / 16)
        rows = run.rows()
        self.assertEqual(rows[-1]["replay/size_items"], 500)
        self.assertFalse(any("replay/queue_items" in row for row in rows))


if __name__ == "__main__":
    absltest.main()
