"""Weights that are not finite neither act nor are kept, saved or published, and a run without scores goes on."""

import contextlib
import io
import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.errors import RunFailed
from tfrl.logs import csv_file
from tfrl.runtime.divergence import refuse_arrays
from tfrl.runtime.plan import run_plan
from tfrl.runtime.report import write_result
from tfrl.runtime.storage import checkpoint
from tfrl.testing import fakes
from tfrl.types import EnvSpec

SETTINGS = dict(
    env="CartPole-v1", hidden_sizes=(8,), console="plain", tensorboard=False, compile="graph",
    inference="function", num_envs=2, log_every_s=1e6, eval_episodes=2, eval_num_envs=1, final_eval_episodes=2,
)  # fmt: skip
REPLAY = dict(min_replay=100, replay_capacity=1000, batch_size=8, updates_per_call=4)


class Endless(fakes.TruncatingChain):
    """An episode never ends."""

    def __init__(self):
        super().__init__(length=10**9)


class ArraysTest(parameterized.TestCase):
    @parameterized.parameters(np.nan, np.inf, -np.inf)
    def test_what_is_not_finite_is_named(self, value):
        arrays = [np.ones((2, 2), np.float32), np.array([1, value], np.float32)]
        with self.assertRaisesRegex(
            RunFailed, f"'bias' is {value} at 1,200 updates.*lower learning_rate"
        ):
            refuse_arrays(["kernel", "bias"], arrays, 1200)

    def test_what_is_large_passes(self):
        refuse_arrays(["kernel", "count"], [np.full(3, 3e38, np.float32), np.arange(3)], 5)


class RunTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        self.out = self.enter_context(contextlib.redirect_stdout(io.StringIO()))

    @parameterized.parameters(
        ("dqn", REPLAY),
        ("ppo", {"unroll_length": 32}),
    )
    def test_weights_that_are_not_finite_are_not_kept(self, algo, settings):
        self.check_diverged(algo, settings)

    @pytest.mark.slow
    def test_weights_and_priorities_of_a_server_that_are_not_finite_are_not_kept(self):
        self.check_diverged("dqn", {**REPLAY, "prioritized": True, "replay_residency": "server"})

    def check_diverged(self, algo, settings):
        # No row is logged before the end: what is found is found in the weights themselves.
        with self.assertRaisesRegex(
            RunFailed, "learner/(policy|priority).* is (nan|-?inf) at .*learning has diverged"
        ):
            tfrl.train(
                algo, run_dir=str(self.run_dir), learning_rate=1e30, gradient_clip_norm=None, total_env_steps=20_000,
                eval_every_env_steps=64, checkpoint_every_env_steps=64, **settings, **SETTINGS,
            )  # fmt: skip
        for name in ("best.npz", "last.npz"):
            path = self.run_dir / "checkpoints" / name
            if path.exists():
                for array in checkpoint.load_arrays(path)[0]:
                    self.assertTrue(np.isfinite(array).all())
        self.assertFalse((self.run_dir / "export").exists())

    def test_episodes_that_never_end_leave_a_run_without_a_score(self):
        self.check_endless("inprocess")

    @pytest.mark.slow
    def test_episodes_that_never_end_leave_a_run_of_processes_without_a_score(self):
        self.check_endless("processes")

    def check_endless(self, backend):
        result = tfrl.train(
            "dqn", run_dir=str(self.run_dir), total_env_steps=400, eval_max_env_steps=50, eval_every_env_steps=100,
            backend=backend, **{**SETTINGS, **REPLAY, "env": f"{__name__}:Endless", "log_every_s": 0.1},
        )  # fmt: skip
        self.assertIsNone(result.return_mean)
        self.assertEqual(result.episodes, 0)
        self.assertGreaterEqual(result.env_steps, 400)
        text = self.out.getvalue()
        self.assertRegex(
            text, "warning: no episode ended within 50 env steps of evaluation: there is no score"
        )
        written = json.loads((self.run_dir / "result.json").read_text())
        self.assertIsNone(written["return_mean"])
        self.assertNotIn(
            "evaluator/return_mean",
            {k for row in csv_file.read(self.run_dir / "metrics.csv") for k in row},
        )
        self.assertTrue((self.run_dir / "export").exists())

    def test_without_a_time_limit_an_evaluation_has_one(self):
        self.enter_context(mock.patch.object(run_plan, "ENDLESS_ENV_STEPS", 200))
        settings = {
            **SETTINGS,
            **REPLAY,
            "env": f"{__name__}:Endless",
            "eval_episodes": 1,
            "final_eval_episodes": 1,
        }
        result = tfrl.train(
            "dqn",
            run_dir=str(self.run_dir),
            total_env_steps=100,
            eval_every_env_steps=0,
            **settings,
        )
        self.assertIsNone(result.return_mean)
        self.assertRegex(
            self.out.getvalue(),
            "environment has no time limit, so an evaluation of 1 episodes ends after 200 env steps",
        )
        self.assertRegex(self.out.getvalue(), "no episode ended within 200 env steps of evaluation")


class FilesTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def test_a_checkpoint_of_what_is_not_finite_is_not_written(self):
        module = tf.Module()
        module.x = tf.Variable([1.0, 2.0], name="weights")
        checkpoints = checkpoint.Checkpoints(self.folder, "dqn", fakes_spec(), keep=2)
        checkpoints.save(1, module, {}, None)
        module.x.assign([1.0, np.nan])
        with self.assertRaisesRegex(
            RunFailed, "'weights:0' is nan at 2 env steps, so this checkpoint is not written"
        ):
            checkpoints.save(2, module, {}, None)
        self.assertEqual(checkpoints.newest().state["env_steps"], 1)
        self.assertEqual([p.name for p in self.folder.iterdir()], [f"{1:012d}"])

    def test_a_result_has_null_for_what_is_not_finite(self):
        path = self.folder / "result.json"
        facts = {
            "return_mean": np.nan,
            "parts": {"a": np.inf, "b": 1.5},
            "list": [-np.inf, np.float64(np.nan), 3],
        }
        write_result(path, facts)

        def refuse(name):
            raise AssertionError(f"{name} is no JSON")

        read = json.loads(path.read_text(), parse_constant=refuse)
        self.assertIsNone(read["return_mean"])
        self.assertEqual(read["parts"], {"a": None, "b": 1.5})
        self.assertEqual(read["list"], [None, None, 3])


def fakes_spec():
    env = fakes.TruncatingChain()
    return EnvSpec("chain", env.observation_space, env.action_space)


if __name__ == "__main__":
    tf.test.main()
