"""Runs in one process whose unrolls wait beside the learner: no port, the batches of a server, checkpoints, lag."""

import pathlib
import tempfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.errors import SettingError
from tfrl.logs import csv_file
from tfrl.logs.logger import Logger
from tfrl.runtime.acting.actor import Actor
from tfrl.runtime.learning import batches
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.storage import folders
from tfrl.testing.ports import listening

SETTINGS = dict(
    env="tfrl.testing.fakes:IdentityGame", env_kwargs={"length": 7}, num_envs=4, unroll_length=8,
    hidden_sizes=(8,), total_env_steps=240, eval_every_env_steps=0, eval_episodes=1,
    final_eval_episodes=1, export_policy="last", checkpoint_every_env_steps=0, log_every_s=1e-9,
    console="none", tensorboard=False, compile="xla", inference="lite",
)  # fmt: skip
MIXED = dict(batch_env_steps=90, replay_proportion=0.5, replay_unrolls=9, passes=2)


class RunTest(tf.test.TestCase, parameterized.TestCase):
    def train(self, algo, run_dir=None, **settings):
        run_dir = run_dir or pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        result = tfrl.train(algo, run_dir=str(run_dir), **settings)
        return result, run_dir

    def policy(self, run_dir):
        with np.load(run_dir / folders.POLICY) as file:
            return {name: file[name].tobytes() for name in file.files}

    @parameterized.parameters(("ppo", dict(epochs=2, minibatches=2)), ("impala", MIXED))
    @pytest.mark.slow
    def test_it_is_the_run_over_a_server_and_opens_no_port(self, algo, settings):
        ports, act = set(), Actor.run

        def look(*args):
            ports.update(listening())
            return act(*args)

        with mock.patch.object(Actor, "run", look):
            _, here = self.train(algo, **SETTINGS, **settings)
            self.assertEmpty(ports)
            _, there = self.train(algo, **SETTINGS, **settings, replay_residency="server")
        self.assertLen(ports, 1)  # what would have been seen
        self.assertEqual(self.policy(here), self.policy(there))

    def test_it_goes_on_with_another_number_of_environments(self):
        self.check_goes_on("impala", MIXED, "auto")

    @pytest.mark.slow
    def test_a_server_goes_on_with_another_number_of_environments(self):
        self.check_goes_on("a2c", {}, "server")

    @pytest.mark.slow
    def test_gradients_of_actors_go_on_with_another_number_of_environments(self):
        self.check_goes_on("a3c", {}, "auto")

    def check_goes_on(self, algo, settings, residency):
        settings = {**SETTINGS, **settings, "compile": "graph", "inference": "function"}
        first, run_dir = self.train(algo, **settings, replay_residency=residency)
        more = dict(resume=True, num_envs=3, total_env_steps=400)
        second, _ = self.train(algo, run_dir=run_dir, **more)
        self.assertGreaterEqual(second.env_steps, 400)
        self.assertGreater(second.updates, first.updates)

    def test_old_unrolls_and_passes_left_are_in_the_checkpoint(self):
        settings = dict(MIXED, passes=3, pass_buffer_batches=2, compile="graph")
        _, run_dir = self.train("impala", **{**SETTINGS, **settings})
        run_plan = plan_run(tfrl.job.Job.load(run_dir / "job.json"))
        folder = run_plan.newest().folder / batches.FOLDER
        saved = batches.make_batcher(run_plan)
        self.assertEqual(saved.restore(folder, run_plan.layout), "")
        self.assertLen(saved._ring.items, 9)
        again = folder.with_name("again")
        saved.save(again)
        files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
        self.assertGreater(len(files), 8)
        for name in files:
            if name.suffix == ".npz":
                with np.load(folder / name) as one, np.load(again / name) as two:
                    for column in one.files:
                        self.assertAllEqual(one[column], two[column], name)
            else:
                self.assertEqual((folder / name).read_text(), (again / name).read_text())

    def test_pg_trains_at_once_on_all_that_ends(self):
        """All 16 environments end an episode at their fourth step, under a limit of 60."""
        settings = dict(
            SETTINGS, env="tfrl.envs.memory:RepeatFirst", env_kwargs={"delay": 2}, num_envs=16,
            unroll_length=60, episodes_per_item=1, total_env_steps=4000, compile="graph",
        )  # fmt: skip
        result, run_dir = self.train("pg", **settings)
        rows = csv_file.read(run_dir / "metrics.csv")
        name = "learner/policy_lag_max_updates"
        self.assertEqual({row[name] for row in rows if name in row}, {0.0})
        self.assertEqual(result.updates, 4000 // (16 * 4))

    def test_a_run_too_short_for_an_update_says_so(self):
        lines = []
        with mock.patch.object(Logger, "announce", lambda self, text: lines.append(text)):
            result, _ = self.train("pg", **SETTINGS, episodes_per_item=1000)
        self.assertEqual(result.updates, 0)
        line = next(text for text in lines if text.startswith("no update was made"))
        self.assertIn("1 items of 1,000 episodes", line)

    def test_processes_need_a_server(self):
        with self.assertRaisesRegex(
            SettingError, "replay_residency=learner with algo=ppo and backend=processes: expected"
        ):
            tfrl.train("ppo", env="CartPole-v1", replay_residency="learner", backend="processes")


if __name__ == "__main__":
    tf.test.main()
