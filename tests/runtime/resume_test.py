"""A run that was interrupted and resumed: counters, schedules, replay contents, no second warm-up."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import signal
import tempfile

import numpy as np
import pytest
import reverb
import tensorflow as tf
from absl.testing import absltest, parameterized

import tfrl
from tfrl.errors import RunFailed, SettingError
from tfrl.explore import epsilon
from tfrl.job import Job
from tfrl.logs import csv_file
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.tables import EXPERIENCE, experience_table
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.storage import checkpoint, checkpoint_files, owner
from tfrl.runtime.storage.replay_server import ReplayServer
from tfrl.testing import fakes


class Interrupting(fakes.IdentityGame):
    """Its 333rd step presses Ctrl-C, once."""

    left = 333

    def step(self, action):
        Interrupting.left -= 1
        if Interrupting.left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().step(action)


SETTINGS = dict(
    env=f"{__name__}:Interrupting",
    env_kwargs={"num_actions": 3, "length": 7},
    total_env_steps=800,
    hidden_sizes=(8,),
    batch_size=8,
    updates_per_call=4,
    env_steps_per_update=2.0,
    min_replay=100,
    replay_capacity=500,
    epsilon_decay_env_steps=600,
    prioritized=True,
    eval_every_env_steps=0,
    eval_episodes=2,
    final_eval_episodes=2,
    checkpoint_every_env_steps=0,
    log_every_s=1e-9,
    console="none",
    tensorboard=False,
    compile="graph",
    inference="lite",
)
PER_CALL = 8  # env steps that pay for one call of 4 updates


def state_of(run_dir):
    newest = sorted((run_dir / "checkpoints").glob("[0-9]*"))[-1]
    return newest, json.loads((newest / "state.json").read_text())


def updates_after(env_steps):
    """Updates that so many env steps pay for, in one go or in several: 8 env steps each call of 4."""
    return max(0, env_steps - 100) // PER_CALL * 4


class Interrupted(tf.test.TestCase):
    """A run of 800 env steps that was stopped after some 300; each test has a copy of its folder."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        place = tempfile.TemporaryDirectory()
        cls.addClassCleanup(place.cleanup)
        cls.made = pathlib.Path(place.name) / "run"
        Interrupting.left = 333
        cls.first = tfrl.train("dqn", run_dir=str(cls.made), **SETTINGS)

    def setUp(self):
        super().setUp()
        self.run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        shutil.copytree(self.made, self.run_dir)
        self.rows = (self.run_dir / "metrics.csv").read_bytes()

    def refused(self, message, **settings):
        with self.assertRaisesRegex(SettingError, message):
            tfrl.train("dqn", run_dir=str(self.run_dir), resume=True, **settings)
        self.assertEqual((self.run_dir / "metrics.csv").read_bytes(), self.rows)

    def test_the_time_of_a_run_that_was_killed_is_not_lost(self):
        newest, state = state_of(self.run_dir)
        (self.run_dir / "result.json").unlink()
        state["totals"]["train_s"] = 1000.0
        text = json.dumps(state)
        (newest / "state.json").write_text(text)
        manifest = json.loads((newest / "manifest.json").read_text())
        manifest["files"]["state.json"] = len(text)
        (newest / "manifest.json").write_text(json.dumps(manifest))
        last = tfrl.train("dqn", run_dir=str(self.run_dir), resume=True)
        self.assertGreater(last.train_s, 1000.0)
        self.assertGreater(last.total_s, last.train_s)

    def test_a_live_run_is_not_resumed(self):
        saved = Job.load(self.run_dir / "job.json")
        job = dataclasses.replace(saved, resume=True, run_dir=str(self.run_dir))
        with owner.owned(job):
            self.refused(f"^run_dir='.*/run': in use by process {os.getpid()} on .*, since 2")

    def test_without_a_checkpoint_there_is_nothing_to_resume(self):
        newest, _ = state_of(self.run_dir)
        (newest / checkpoint_files.MANIFEST).unlink()
        self.refused(
            "resume with run_dir='.*/run': expected a complete checkpoint in .*checkpoints"
        )

    def test_fewer_env_steps_than_were_made_are_refused(self):
        self.refused(
            f"total_env_steps=100 with resume: .*has made {self.first.env_steps}; ",
            total_env_steps=100,
        )
        shorter = tfrl.train(
            "dqn", run_dir=str(self.run_dir), resume=True, total_env_steps=self.first.env_steps
        )
        self.assertEqual(shorter.env_steps, self.first.env_steps)  # scored at last
        self.assertIsNotNone(shorter.return_mean)

    def test_a_damaged_checkpoint_is_skipped_for_the_older_one(self):
        second = tfrl.train("dqn", run_dir=str(self.run_dir), resume=True)
        newest, state = state_of(self.run_dir)
        rows = newest / "replay" / "rows.npy"
        content = bytearray(rows.read_bytes())
        content[-5] ^= 4
        rows.write_bytes(content)
        with self.assertLogs(level="WARNING") as logs:
            last = tfrl.train("dqn", run_dir=str(self.run_dir), resume=True)
        self.assertIn(f"skipping checkpoint {newest}: replay/rows.npy fails", logs.output[0])
        self.assertEqual(last.env_steps, second.env_steps)
        steps = [r["run/env_steps"] for r in csv_file.read(self.run_dir / "metrics.csv")]
        self.assertEqual(steps, sorted(steps))
        self.assertLess(self.first.env_steps, state["env_steps"])  # there was something to repeat
        self.assertEqual(state_of(self.run_dir)[1]["totals"]["updates"], last.updates)


class BeforeTheFirstCheckpointTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_it_starts_again_and_says_so(self, cut_off):
        """As a run is left by `kill -9`."""
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        Interrupting.left = -1
        settings = {**SETTINGS, "total_env_steps": 200, "console": "plain", "log_every_s": 0.001}
        job = tfrl.api.make_job("dqn", run_dir=str(run_dir), **settings)
        run_dir.mkdir()
        job.save(run_dir / "job.json")
        (run_dir / "metrics.csv").write_text("run/env_steps,run/updates\n150,3\n")
        best = run_dir / "checkpoints" / "best.npz"
        checkpoint.save_arrays(best, [np.zeros(1)], return_mean=1e9, env_steps=150, version=3)
        if cut_off:
            (run_dir / "checkpoints" / f"{150:012d}").mkdir()
        out = self.enter_context(contextlib.redirect_stdout(io.StringIO()))
        result = tfrl.train("dqn", run_dir=str(run_dir), resume=True)
        self.assertIn(
            "starting again at 0 env steps: the run was stopped before its", out.getvalue()
        )
        self.assertBetween(result.env_steps, 200, 207)
        self.assertEqual(result.updates, updates_after(result.env_steps))
        self.assertLess(checkpoint.load_arrays(best)[1]["return_mean"], 1e9)
        steps = [r["run/env_steps"] for r in csv_file.read(run_dir / "metrics.csv")]
        self.assertEqual(steps, sorted(steps))
        self.assertLess(steps[0], 150)


class DivergedTest(absltest.TestCase):
    def test_a_run_that_diverges_fails_and_exports_nothing(self):
        self.check("inprocess")

    @pytest.mark.slow
    def test_a_run_of_processes_that_diverges_fails_and_exports_nothing(self):
        self.check("processes")

    def check(self, backend):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        with self.assertRaisesRegex(
            RunFailed, "learner/.* is (nan|inf) at .*diverged; lower learning_rate"
        ):
            tfrl.train(
                "a2c", env="CartPole-v1", run_dir=str(run_dir), learning_rate=1e30, total_env_steps=20_000,
                gradient_clip_norm=None, log_every_s=0.2, console="none", tensorboard=False, compile="graph",
                inference="function", hidden_sizes=(8,), eval_every_env_steps=0, backend=backend,
            )  # fmt: skip
        self.assertFalse((run_dir / "export").exists())


class ResumeTest(tf.test.TestCase, parameterized.TestCase):
    def test_it_continues(self):
        self.check_continues("learner")

    @pytest.mark.slow
    def test_it_continues_with_a_server(self):
        self.check_continues("server")

    def check_continues(self, residency):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        Interrupting.left = 333
        settings = {**SETTINGS, "replay_residency": residency}
        first = tfrl.train("dqn", run_dir=str(run_dir), **settings)
        self.assertTrue(first.interrupted)
        self.assertBetween(first.env_steps, 280, 340)  # 333 steps include automatic resets
        self.assertEqual(first.updates, updates_after(first.env_steps))
        _, state = state_of(run_dir)
        state_before = state
        self.assertEqual(state["written"], first.env_steps)  # one-step items: each step is one
        self.assertEqual(state["sampled"], first.updates * 8)
        self.assertEqual(state["totals"]["items_sampled"], state["sampled"])
        rows_before = csv_file.read(run_dir / "metrics.csv")

        second = tfrl.train("dqn", run_dir=str(run_dir), resume=True)
        self.assertFalse(second.interrupted)
        self.assertBetween(second.env_steps, 800, 801)
        self.assertEqual(second.updates, updates_after(second.env_steps))
        folder, state = state_of(run_dir)
        self.assertEqual(state["written"], second.env_steps)
        self.assertEqual(state["sampled"], second.updates * 8)
        self.assertGreaterEqual(state["totals"]["episodes"], 110)
        self.assertBetween(
            state["written"] - 100, state["sampled"] / 4, state["sampled"] / 4 + PER_CALL
        )

        rows = csv_file.read(run_dir / "metrics.csv")
        steps = [r["run/env_steps"] for r in rows]
        self.assertEqual(steps, sorted(steps))
        self.assertEqual(rows[: len(rows_before) - 1], rows_before[:-1])
        with_epsilon = [r for r in rows if "actor/epsilon" in r]
        before = first.env_steps
        for row in with_epsilon:  # a block's epsilon is that of its first step
            now = row["run/env_steps"]
            allowed = [
                epsilon.linear(1.0, 0.05, 600, int(now) - back) for back in range(PER_CALL + 2)
            ]
            self.assertLess(min(abs(row["actor/epsilon"] - a) for a in allowed), 1e-6)
        resumed = [r for r in with_epsilon if r["run/env_steps"] > before]
        window = state_before["window"]["returns"]  # of all games so far: they are fewer than 100
        self.assertLen(window, state_before["totals"]["episodes"])
        new = int(resumed[0]["run/episodes"]) - len(window)
        self.assertLess(new, 10)
        self.assertLessEqual(resumed[0]["actor/episode_return_min"], min(window))
        self.assertGreaterEqual(resumed[0]["actor/episode_return_max"], max(window))
        mean = resumed[0]["actor/episode_return_mean"] * (len(window) + new)
        self.assertBetween(mean - sum(window), -1e-6, 7 * new + 1e-6)  # a game gives 7 at most
        expected = epsilon.linear(1.0, 0.05, 600, before)
        self.assertAllClose(resumed[0]["actor/epsilon"], expected, atol=1e-6)
        self.assertGreater(resumed[0]["run/updates"], 0)
        versions = [r["learner/policy_version_updates"] for r in with_epsilon]
        self.assertEqual(versions[-1], second.updates)
        self.assertEqual(versions, sorted(versions))

        run_plan = plan_run(Job.load(run_dir / "job.json"))
        if residency == "server":
            table = experience_table(run_plan.agent.experience, run_plan.layout, None)
            server = ReplayServer([table], restore=folder / "replay")
            self.addCleanup(server.stop)
            size = reverb.Client(server.address).server_info()[EXPERIENCE].current_size
        else:
            replay = LearnerReplay(run_plan.agent.experience, run_plan.layout, 0)
            replay.restore(folder / "replay")
            size = replay.size
            weights = replay.priority_variables[0].numpy()[replay.live()]
            self.assertGreater(len(np.unique(weights)), 50)  # and their priorities neither
        self.assertEqual(size, 500)  # full: what the first part wrote was not lost

    @pytest.mark.slow
    def test_the_replay_stays_where_it_is(self):
        self.check_stays("server", "learner")

    @pytest.mark.slow
    def test_the_replay_beside_the_learner_stays_where_it_is(self):
        self.check_stays("learner", "server")

    def check_stays(self, first, second):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        Interrupting.left = -1
        settings = {**SETTINGS, "total_env_steps": 150}
        tfrl.train("dqn", run_dir=str(run_dir), **settings, replay_residency=first)
        with self.assertRaisesRegex(
            SettingError, f"replay_residency={second}: the checkpoint holds .*={first}; expected"
        ):
            tfrl.train("dqn", run_dir=str(run_dir), resume=True, replay_residency=second)
        more = dict(resume=True, replay_residency="auto", total_env_steps=200)
        self.assertBetween(tfrl.train("dqn", run_dir=str(run_dir), **more).env_steps, 200, 207)

    @pytest.mark.slow
    def test_a_replay_beside_the_learner_repeats_bit_for_bit(self):
        """Unlike Reverb's, its draws are seeded."""
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        arrays = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            Interrupting.left = -1
            tf.keras.utils.set_random_seed(0)  # of the first weights
            settings = {**SETTINGS, "total_env_steps": 300, "export_policy": "last", "seed": seed}
            tfrl.train("dqn", run_dir=str(folder / name), **settings, replay_residency="learner")
            arrays.append(checkpoint.load_arrays(folder / name / "checkpoints" / "last.npz")[0])
        for mine, same, _ in zip(*arrays):
            self.assertAllEqual(mine, same)
        self.assertGreater(max(np.abs(a - c).max() for a, _, c in zip(*arrays)), 1e-3)

    def test_what_may_not_change_is_refused(self):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        run_dir.mkdir()
        tfrl.api.make_job("dqn", run_dir=str(run_dir), **SETTINGS).save(run_dir / "job.json")
        with self.assertRaisesRegex(SettingError, "batch_size=9.*the run in .* has batch_size=8"):
            tfrl.train("dqn", run_dir=str(run_dir), resume=True, batch_size=9)
