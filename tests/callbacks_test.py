"""Callbacks: when they are called and with what, what they may do, and what they may not."""

import json
import pathlib
import subprocess
import sys
import tempfile

import pytest
from absl.testing import absltest, parameterized

import tfrl
from tfrl.errors import SettingError
from tfrl.logs import csv_file
from tfrl.logs.metrics import METRICS, check_declared
from tfrl.testing import fakes

SETTINGS = dict(
    env="CartPole-v1", total_env_steps=900, eval_every_env_steps=200, eval_episodes=1, final_eval_episodes=2,
    checkpoint_every_env_steps=400, min_replay=100, log_every_s=0.01, console="none", tensorboard=False,
    compile="graph", inference="function", hidden_sizes=(8,),
)  # fmt: skip


class Recorder(tfrl.Callback):
    metrics = {"callback/calls": tfrl.Metric("", "calls so far")}

    def __init__(self, stop_at=None):
        self.calls, self._stop_at = [], stop_at

    def on_start(self, run):
        self.calls.append(("start", run.settings["hidden_sizes"], run.policy()))

    def on_log(self, run, row):
        self.calls.append(("log", row["run/env_steps"]))
        return {"callback/calls": len(self.calls)}

    def on_evaluation(self, run, row):
        self.policy = run.policy()
        self.calls.append(("evaluation", row["evaluator/return_mean"]))
        if self._stop_at is not None and run.env_steps >= self._stop_at:
            run.stop("enough")

    def on_checkpoint(self, run, env_steps):
        self.calls.append(("checkpoint", env_steps))

    def on_end(self, run, result):
        self.calls.append(("end", result.stopped_by))

    def of(self, kind):
        return [call[1] for call in self.calls if call[0] == kind]


class CallbacksTest(parameterized.TestCase):
    def train(self, algo="dqn", **settings):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        return tfrl.train(algo, **{**SETTINGS, "run_dir": folder, **settings})

    def test_every_hook_is_called_and_may_add_metrics_and_stop(self):
        self.check_hooks("inprocess")

    @pytest.mark.slow
    def test_every_hook_is_called_with_processes_too(self):
        self.check_hooks("processes")

    def check_hooks(self, backend):
        recorder = Recorder(stop_at=200)
        result = self.train(callbacks=[recorder], backend=backend, total_env_steps=100_000)
        self.assertEqual(recorder.calls[0], ("start", (8,), None))
        self.assertEqual(recorder.calls[-1], ("end", "enough"))
        self.assertEqual(result.stopped_by, "enough")
        self.assertLess(result.env_steps, 100_000)
        self.assertFalse(result.interrupted)
        self.assertEqual(result.episodes, 2)  # it ended as at the total: scored and exported
        self.assertEqual(
            json.loads((result.run_dir / "result.json").read_text())["stopped_by"], "enough"
        )
        self.assertNotEmpty(recorder.of("evaluation"))
        self.assertEqual(recorder.of("checkpoint")[-1], result.env_steps)
        rows = csv_file.read(result.run_dir / "metrics.csv")
        added = [row["callback/calls"] for row in rows if "callback/calls" in row]
        self.assertLen(added, len(recorder.of("log")))
        # The policy that it is given is that of the newest evaluation, and after the end the exported one.
        mine, loaded = recorder.policy.variables, tfrl.load(result.run_dir).variables
        for a, b in zip(mine, loaded, strict=True):
            self.assertEqual(a.shape, b.shape)

    def test_a_hook_that_raises_ends_the_run_in_order_and_then_raises(self):
        class Broken(tfrl.Callback):
            def on_log(self, run, row):
                raise ZeroDivisionError("mine")

        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        with self.assertRaisesRegex(ZeroDivisionError, "mine"):
            tfrl.train("dqn", callbacks=[Broken()], **SETTINGS, run_dir=folder)
        facts = json.loads((folder / "result.json").read_text())
        self.assertEqual(facts["stopped_by"], "a callback failed: ZeroDivisionError: mine")
        tfrl.load(folder)

    def test_a_metric_that_is_not_declared_is_an_error(self):
        class Undeclared(tfrl.Callback):
            def on_log(self, run, row):
                return {"callback/x": 1.0}

        with self.assertRaisesRegex(KeyError, "Undeclared.on_log gives 'callback/x', which is not"):
            self.train(callbacks=[Undeclared()])

    @parameterized.parameters(
        ({"callback/Bad": tfrl.Metric("", "x")}, "expected 'role/name_unit'"),
        ({"run/env_steps": tfrl.Metric("env steps", "x")}, "the name is taken"),
        ({"callback/x": tfrl.Metric("", " ")}, "with a meaning"),
        (
            {"callback/x_updates": tfrl.Metric("s", "x")},
            "its unit is 's'; _updates means 'updates'",
        ),
    )
    def test_declared_metrics_are_like_those_of_tfrl(self, table, message):
        with self.assertRaisesRegex(SettingError, f"callback X: metric .*{message}"):
            check_declared(table, "callback X")
        check_declared({k: v for k, v in METRICS.items()}, "tfrl", {})  # as its own are

    def test_what_is_no_callback_is_refused_before_anything_starts(self):
        with self.assertRaisesRegex(SettingError, "callbacks: 'x' is no tfrl.Callback"):
            self.train(callbacks=["x"])
        with self.assertRaisesRegex(SettingError, r"callbacks: Callback; expected a list"):
            self.train(callbacks=tfrl.Callback())

    def test_stop_at_return_of_evaluations(self):
        result = self.train(stop_at_return=1.0, total_env_steps=100_000)
        self.assertRegex(result.stopped_by, "stop_at_return=1: evaluation return ")
        self.assertLess(result.env_steps, 300)


class Counted(fakes.TargetPoint):
    """Counts how many of it were built."""

    built = 0

    def __init__(self):
        type(self).built += 1
        super().__init__()


class OneEnvironmentTest(absltest.TestCase):
    """Training where only one simulator can exist."""

    def train(self, env, **settings):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        Counted.built = 0
        settings = {**SETTINGS, "max_episode_steps": 5, "env": env, "run_dir": folder, **settings}
        return tfrl.train("ppo", **{k: v for k, v in settings.items() if k != "min_replay"})

    def test_no_environment_for_evaluation_builds_one_in_all(self):
        result = self.train(Counted, eval_env="none", stop_at_return=-1e9)
        self.assertEqual(Counted.built, 1)
        self.assertRegex(result.stopped_by, "stop_at_return=-1e.09: training return ")
        self.assertIsNone(result.return_mean)
        self.assertEqual(result.episodes, 0)
        facts = json.loads((result.run_dir / "result.json").read_text())
        self.assertEqual((facts["exported"], facts["return_mean"]), ("last", None))
        rows = csv_file.read(result.run_dir / "metrics.csv")
        self.assertFalse([row for row in rows if "evaluator/return_mean" in row])
        self.assertTrue([row for row in rows if "actor/episode_return_mean" in row])
        self.assertTrue(result.curve.exists())
        tfrl.load(result.run_dir)

    def test_one_environment_is_not_built_again_nor_evaluated(self):
        env = Counted()
        result = self.train(env)
        self.assertEqual((Counted.built, result.episodes), (0, 0))
        with self.assertRaisesRegex(SettingError, "eval_env=own with env='<Counted instance>'"):
            self.train(env, eval_env="own")
        with self.assertRaisesRegex(SettingError, "backend=processes with env='<Counted instance"):
            self.train(env, backend="processes")

    @pytest.mark.slow
    def test_nothing_is_played_where_no_evaluation_is_asked_for(self):
        result = self.train(Counted, eval_every_env_steps=0, final_eval_episodes=0)
        self.assertEqual(result.episodes, 0)
        self.assertEqual(Counted.built, 2)  # one to read the spaces of, one to train in


class SessionTest(absltest.TestCase):
    def test_code_piped_to_python_trains_what_it_defines_and_stops_at_a_score(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        done = subprocess.run(
            [sys.executable], input=SESSION, cwd=folder, capture_output=True, text=True, timeout=200,
            env={"PYTHONPATH": str(pathlib.Path(tfrl.__file__).parents[1]), "PATH": "", "HOME": str(folder)},
        )  # fmt: skip
        self.assertIn("DONE solved -4.0", done.stdout, done.stderr[-2000:])
        (job,) = (folder / "runs").glob("*/job.json")
        self.assertRegex(job.parent.name, "^dqn-Corridor-")
        self.assertEqual(json.loads(job.read_text())["env"]["env"], "<Corridor>")


SESSION = """
import gymnasium as gym, numpy as np, tensorflow as tf
import tfrl

class Corridor(gym.Env):
    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action else -1))
        return np.float32([self.place / 4]), -1.0, self.place == 4, False, {}

def network(spec):
    return tf.keras.Sequential([tf.keras.layers.Dense(16, "tanh")])

class StopWhenSolved(tfrl.Callback):
    def on_evaluation(self, run, row):
        if row["evaluator/return_mean"] >= -4:
            run.stop("solved")

result = tfrl.train(
    "dqn", env=Corridor, network=network, callbacks=[StopWhenSolved()], max_episode_steps=40,
    total_env_steps=50_000, eval_every_env_steps=200, eval_episodes=2, final_eval_episodes=2,
    min_replay=100, epsilon_decay_env_steps=1_000, console="none",
)
print("DONE", result.stopped_by, result.return_mean)
"""

if __name__ == "__main__":
    absltest.main()
