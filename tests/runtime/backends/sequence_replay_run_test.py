"""A recurrent DQN as a whole: a run in one process over a replay of sequences, saved and resumed."""

import pathlib
import tempfile
from unittest import mock

import pytest
import tensorflow as tf

import tfrl
from tfrl.job import Job
from tfrl.logs import csv_file
from tfrl.runtime.acting.actor import Actor
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.testing import conformance
from tfrl.testing.ports import listening
from tfrl.testing.runs import newest_learner

SETTINGS = dict(
    env="tfrl.envs.memory:RepeatPrevious", env_kwargs={"length": 9}, num_envs=4, hidden_sizes=(8,),
    core="gru", core_size=6, sequence_length=8, sequence_period=4, burn_in=3, n_step=2,
    prioritized=True, value_rescaling_epsilon=1e-3, batch_size=8, updates_per_call=2,
    env_steps_per_update=8, replay_capacity=400, min_replay=80, total_env_steps=400,
    learning_rate=1e-2, eval_every_env_steps=0, eval_episodes=1, final_eval_episodes=2,
    export_policy="last", checkpoint_every_env_steps=0, log_every_s=1e-9, console="none",
    tensorboard=False, compile="graph", inference="function",
)  # fmt: skip


class SequenceReplayTest(tf.test.TestCase):
    @pytest.mark.slow
    def test_a_run_keeps_its_ratio_and_goes_on_where_it_was(self):
        self.check("learner")

    @pytest.mark.slow
    def test_a_run_over_a_server_keeps_its_ratio_and_goes_on_where_it_was(self):
        self.check("server")

    def check(self, residency):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        ports, act = set(), Actor.run

        def look(*args):
            ports.update(listening())
            return act(*args)

        with mock.patch.object(Actor, "run", look):
            first = tfrl.train("dqn", run_dir=str(run_dir), **SETTINGS, replay_residency=residency)
        self.assertLen(ports, int(residency == "server"))
        loop, state = newest_learner(run_dir)
        self.assertEqual(int(loop.updates), first.updates)
        # 8 sequences an update, of which an env step brings a quarter, and 8 env steps for an update.
        allowed = (state["written"] - 20) * 4
        self.assertEqual(state["sampled"], 8 * first.updates)
        self.assertBetween(allowed - state["sampled"], 0, 16)
        self.assertGreater(first.updates, 20)
        # Vector steps with a row that was only reset bring sequences but fewer env steps.
        self.assertBetween(state["written"], 0.9 * (400 - 4 * 8) / 4, 1.2 * 400 / 4)

        with self.subTest("with nothing left to do, nothing changes"):
            tfrl.train("dqn", run_dir=str(run_dir), resume=True)
            again, same = newest_learner(run_dir)
            self.assertEqual(
                conformance.apart(conformance.values(loop), conformance.values(again)), 0.0
            )
            self.assertEqual((same["written"], same["rng"]), (state["written"], state["rng"]))

        second = tfrl.train("dqn", run_dir=str(run_dir), resume=True, total_env_steps=800)
        loop, later = newest_learner(run_dir)
        self.assertEqual((second.env_steps, int(loop.updates)), (800, second.updates))
        self.assertEqual(later["sampled"], 8 * second.updates)
        self.assertBetween((later["written"] - 20) * 4 - later["sampled"], 0, 16)
        rows = csv_file.read(run_dir / "metrics.csv")
        steps = [row["run/env_steps"] for row in rows]
        self.assertEqual(steps, sorted(steps))
        self.assertEqual(max(row.get("replay/size_items", 0) for row in rows), 100)  # it is full
        for name in ("replay/queue_items", "learner/policy_lag_mean_updates"):
            self.assertFalse(any(name in row for row in rows), name)
        policy = tfrl.load(run_dir)
        obs = conformance.observations(plan_run(Job.load(run_dir / "job.json")).spec, 3, 0)
        step = policy.step(obs, policy.initial_state(3), {}, {}, False)
        self.assertEqual([x.shape for x in step.state], [(3, 6)])


if __name__ == "__main__":
    tf.test.main()
