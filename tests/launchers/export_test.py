"""`export.py`: what it writes runs in a process that has TensorFlow and no tfrl."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.runtime.finish import export_run
from tfrl.runtime.serving.export import export
from tfrl.testing.runs import untrained_run
from tfrl.types import EnvSpec, PolicyStep

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Loads an export where tfrl cannot be imported, and acts on the arrays of an npz file.
USER = """
import sys
for name in ("tfrl", "gymnasium", "reverb"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
policy = tf.saved_model.load(sys.argv[1])
stored = dict(np.load(sys.argv[2]))
for size in (1, 7):
    leaves = {k: tf.constant(v[:size]) for k, v in stored.items() if k != "action"}
    obs = leaves["observation"] if len(leaves) == 1 else {
        k.removeprefix("observation_"): v for k, v in leaves.items()}
    state = policy.initial_state(size)
    found = policy.act(obs, state)
    np.testing.assert_array_equal(found["action"].numpy(), stored["action"][:size])
    assert found["state"] == state == (), (found["state"], state)
    served = policy.signatures["serving_default"](**leaves)
    np.testing.assert_array_equal(served["action"].numpy(), stored["action"][:size])
assert sys.modules["tfrl"] is None
print("ok")
"""


class Remembering(tf.Module):
    """The action is the sum of the last observations, modulo 3; the state is that sum."""

    noise = {}

    def __init__(self):
        super().__init__()
        self.offset = tf.Variable(0.0)

    def initial_state(self, batch_size, noise):
        return {"sum": tf.fill([batch_size, 1], 2.0), "age": tf.zeros([batch_size], tf.int32)}

    def step(self, obs, state, knobs, noise, explore):
        total = state["sum"] + obs + self.offset
        action = tf.cast(total[:, 0], tf.int32) % 3
        return PolicyStep(action, {"sum": total, "age": state["age"] + 1}, {})


class ExportTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def call(self, *argv):
        return subprocess.run(
            [sys.executable, *argv],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def launch(self, *argv):
        return self.call(ROOT / "launchers" / "export.py", *argv)

    def observations(self, space, count=7):
        """{name in the serving signature: [count, ...]}, with masks that allow something."""
        rng = np.random.default_rng(0)
        if isinstance(space, gym.spaces.Dict):
            parts = {k: self.observations(s)["observation"] for k, s in space.spaces.items()}
            mask = rng.integers(0, 2, parts["action_mask"].shape)
            mask[np.arange(count), rng.integers(0, mask.shape[1], count)] = 1
            parts["action_mask"] = mask.astype(space["action_mask"].dtype)
            return {f"observation_{k}": v for k, v in parts.items()}
        space.seed(0)
        return {"observation": np.stack([space.sample() for _ in range(count)])}

    @parameterized.parameters("CartPole-v1", "tfrl.testing.fakes:MaskedBandit")
    def test_runs_without_tfrl(self, env):
        self.check_export(env)

    @pytest.mark.slow
    def test_runs_without_tfrl_on_pixels(self):
        self.check_export("ALE/Pong-v5")

    def check_export(self, env):
        run = untrained_run(self.folder / "run", env=env)
        done = self.launch(f"--run_dir={run}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines()[0], str(run / "export"))
        policy = tfrl.load(run)
        leaves = self.observations(policy.observation_space)
        nest = leaves.get("observation")
        if nest is None:
            nest = {k.removeprefix("observation_"): tf.constant(v) for k, v in leaves.items()}
        action = policy.step(nest, (), {}, {}, False).action.numpy()
        if "observation_action_mask" in leaves:
            chosen = leaves["observation_action_mask"][np.arange(7), action]
            self.assertAllEqual(chosen, np.ones(7))
        np.savez(self.folder / "stored.npz", action=action, **leaves)
        done = self.call("-c", USER, run / "export", self.folder / "stored.npz")
        self.assertEqual((done.returncode, done.stdout), (0, "ok\n"), done.stderr)

    def test_prints_the_signature_of_pixels(self):
        run = untrained_run(self.folder / "run", env="ALE/Pong-v5")
        done = self.launch(f"--run_dir={run}", "--out=there/policy")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(
            done.stdout.splitlines(),
            [
                "there/policy",
                "serving_default inputs:",
                "  observation  uint8 [batch, 84, 84, 4]",
                "serving_default outputs:",
                "  action  int64 [batch]",  # as the environment's action space says
            ],
        )

    def test_lite(self):
        self.check_lite("CartPole-v1")

    @pytest.mark.slow
    def test_lite_with_masks(self):
        self.check_lite("tfrl.testing.fakes:MaskedBandit")

    def check_lite(self, env):
        run = untrained_run(self.folder / "run", env=env)
        done = self.launch(f"--run_dir={run}", "--lite")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines()[-1], str(run / "export" / "policy.tflite"))
        policy = tfrl.load(run)
        leaves = self.observations(policy.observation_space)
        interpreter = tf.lite.Interpreter(str(run / "export" / "policy.tflite"))
        act = interpreter.get_signature_runner()
        for row in range(7):
            one = {k: v[row : row + 1] for k, v in leaves.items()}
            nest = one.get("observation")
            if nest is None:
                nest = {k.removeprefix("observation_"): tf.constant(v) for k, v in one.items()}
            expected = policy.step(nest, (), {}, {}, False).action
            self.assertAllEqual(act(**one)["action"], expected)

    def test_state_travels(self):
        box = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
        spec = EnvSpec("made up", box, gym.spaces.Discrete(3))
        loaded = tf.saved_model.load(str(export(Remembering(), spec, self.folder / "out")))
        for size in (1, 7):
            state = loaded.initial_state(size)
            self.assertAllEqual(state["sum"], np.full([size, 1], 2.0))
            self.assertAllEqual(state["age"], np.zeros(size, np.int32))
            for step in (1, 2):
                out = loaded.act(tf.ones([size, 1]), state)
                state = out["state"]
                self.assertAllEqual(out["action"], np.full(size, (2 + step) % 3))
                self.assertAllEqual(state["age"], np.full(size, step))
        served = loaded.signatures["serving_default"](
            observation=tf.ones([2, 1]), state_0=tf.zeros([2], tf.int32), state_1=tf.ones([2, 1])
        )
        self.assertAllEqual(served["action"], [2, 2])
        self.assertAllEqual(served["state_1"], [[2.0], [2.0]])

    def test_replaces_an_export_and_nothing_else(self):
        run = untrained_run(self.folder / "run", env="CartPole-v1")
        for _ in range(2):
            export_run(run, run / "export")
        self.assertEqual(
            sorted(p.name for p in run.iterdir()),
            ["checkpoints", "export", "job.json", "spec.json"],
        )
        (self.folder / "file").write_text("")
        for out, message in (
            (run, f"out={str(run)!r}: a folder with other contents"),
            ("file", "out='file': a file, expected a folder"),
            ("file/export", "out='file/export': "),
        ):
            done = self.launch(f"--run_dir={run}", f"--out={out}")
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertStartsWith(done.stderr.splitlines()[-1], f"error: {message}")
            self.assertNotIn("Traceback", done.stderr)
        self.assertTrue((run / "job.json").exists())

    def test_refusals(self):
        for argv, message in (
            ((), "run_dir: not given"),
            (("--run_dir=absent",), "run_dir='absent': no run there"),
            (("--run_dir=absent", "--light"), "--light: unknown flag; did you mean --lite?"),
        ):
            done = self.launch(*argv)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertLen(done.stderr.splitlines(), 1)
            self.assertStartsWith(done.stderr, f"error: {message}")

    def test_loads_through_the_python_door(self):
        run = untrained_run(self.folder / "run", env="CartPole-v1")
        step = tfrl.load(run).step(tf.zeros([3, 4]), (), {}, {}, False)
        self.assertEqual(step.action.shape, [3])


if __name__ == "__main__":
    tf.test.main()
