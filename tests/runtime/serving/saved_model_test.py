"""Exports: the same greedy actions in a process in which tfrl cannot be imported."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree

from tfrl.algos import dqn
from tfrl.errors import SettingError
from tfrl.nn import distributions
from tfrl.runtime.serving.export import export
from tfrl.testing import conformance
from tfrl.types import EnvSpec, PolicyStep

spaces = gym.spaces
MASKED = spaces.Dict(
    observation=spaces.Box(-3, 3, (4,), np.float32), action_mask=spaces.Box(0, 1, (5,), np.float32)
)
CASES = {
    "plain": (spaces.Box(-3, 3, (4,), np.float32), dict(dueling=True)),
    "masked": (MASKED, dict(dueling=True)),
    "image": (spaces.Box(0, 255, (36, 36, 2), np.uint8), {}),
}

# Plays each export on stored observations, as any user of TensorFlow would; tfrl is out of reach.
CONSUMER = r"""
import json, pathlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tfrl", "reverb", "gymnasium"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocker())
try:
    import tfrl
    raise SystemExit("tfrl could be imported")
except ImportError:
    pass
import numpy as np
import tensorflow as tf

def nest(arrays, prefix):
    plain = prefix + "/obs"
    if plain in arrays:
        return arrays[plain]
    return {k[len(plain) + 1:]: arrays[k] for k in arrays.files if k.startswith(plain + "/")}

out = {}
for case in sys.argv[2:]:
    folder = pathlib.Path(sys.argv[1]) / case
    arrays = np.load(folder / "inputs.npz")
    loaded = tf.saved_model.load(str(folder / "export"))
    serve = loaded.signatures["serving_default"]
    for size in ("1", "7"):
        obs = nest(arrays, size)
        flat = {"observation": obs} if not isinstance(obs, dict) else {
            "observation_" + k: x for k, x in obs.items()}
        state = loaded.initial_state(tf.constant(int(size)))
        acted = loaded.act(tf.nest.map_structure(tf.constant, obs), state)
        served = serve(**{k: tf.constant(x) for k, x in flat.items()})
        out[case + size] = acted["action"].numpy().tolist()
        out[case + size + "served"] = served["action"].numpy().tolist()
    lite = folder / "export" / "policy.tflite"
    runner = tf.lite.Interpreter(str(lite)).get_signature_runner()
    obs = nest(arrays, "7")
    rows = []
    for i in range(7):
        row = {"observation": obs[i:i+1]} if not isinstance(obs, dict) else {
            "observation_" + k: x[i:i+1] for k, x in obs.items()}
        rows += runner(**row)["action"].tolist()
    out[case + "lite"] = rows
print("RESULT " + json.dumps(out))
"""


ACTIONS = spaces.Dict(
    {
        "arm": spaces.Tuple([spaces.Box(-2, 1, (2,), np.float32), spaces.MultiBinary(3)]),
        "arm_0": spaces.Discrete(4, dtype=np.int32),
        "wheels": spaces.MultiDiscrete([2, 3], dtype=np.int32),
    }
)


class Driver(tf.Module):
    """A policy with a nest of actions and a state, linear in the observation."""

    def __init__(self, spec):
        super().__init__()
        self._distribution = distributions.make(spec.action_space, squash=True)
        self.noise = self._distribution.noise
        weights = np.random.default_rng(0).normal(size=(4, self._distribution.num_params))
        self._weights = tf.Variable(weights, dtype=tf.float32)

    def initial_state(self, batch_size, noise):
        return {"sum": tf.zeros([batch_size, 4])}

    def step(self, obs, state, knobs, noise, explore):
        total = state["sum"] + obs
        params = total @ self._weights
        return PolicyStep(
            self._distribution.action(self._distribution.mode(params)), {"sum": total}, {}
        )


class NestedActionTest(tf.test.TestCase):
    def test_one_name_per_part(self):
        spec = EnvSpec("driver", spaces.Box(-3, 3, (4,), np.float32), ACTIONS)
        policy = Driver(spec)
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "export"
        export(policy, spec, folder, lite=True)
        loaded = tf.saved_model.load(str(folder))
        serve = loaded.signatures["serving_default"]
        lite = tf.lite.Interpreter(str(folder / "policy.tflite")).get_signature_runner()
        obs = conformance.observations(spec, 7, seed=0)
        state = policy.initial_state(7, {})
        expected = policy.step(obs, state, {}, {}, False)
        acted = loaded.act(tf.constant(obs), loaded.initial_state(7))
        tree.map_structure(self.assertAllEqual, dict(acted["action"]), expected.action)
        self.assertAllEqual(acted["state"]["sum"], obs)
        names = ["action_arm__0", "action_arm__1", "action_arm_0", "action_wheels"]
        parts = dict(zip(names, tree.flatten(expected.action), strict=True))
        served = serve(observation=tf.constant(obs), state_0=state["sum"])
        self.assertEqual(sorted(served), sorted([*names, "state_0"]))
        rows = [lite(observation=obs[i : i + 1], state_0=state["sum"][:1]) for i in range(7)]
        for name, part in parts.items():
            self.assertAllClose(served[name], part, atol=1e-6)
            self.assertEqual(served[name].dtype, part.dtype)
            self.assertAllClose(np.concatenate([row[name] for row in rows]), part, atol=1e-5)


class ExportTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def policy(self, case, seed=0):
        space, settings = CASES[case]
        spec = EnvSpec(case, space, spaces.Discrete(5))
        tf.keras.utils.set_random_seed(seed)
        return dqn.make(dqn.Config(hidden_sizes=(16,), **settings), spec).make_policy(), spec

    def test_it_acts_alike_where_tfrl_cannot_be_imported(self):
        expected = {}
        for case in CASES:
            policy, spec = self.policy(case)
            export(policy, spec, self.folder / case / "export", lite=True)
            arrays = {}
            for size in (1, 7):
                obs = conformance.observations(spec, size, seed=size)
                for path, x in tree.flatten_with_path(obs):
                    arrays["/".join([str(size), "obs", *path])] = x
                actions = policy.step(obs, (), {}, {}, False).action.numpy().tolist()
                expected[f"{case}{size}"] = expected[f"{case}{size}served"] = actions
            expected[f"{case}lite"] = expected[f"{case}7"]
            np.savez(self.folder / case / "inputs.npz", **arrays)
            if case == "masked":
                self.assertTrue(obs["action_mask"][np.arange(7), actions].all())
        self.assertGreater(len({tuple(v) for v in expected.values()}), 3)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            [sys.executable, "-I", "-c", CONSUMER, str(self.folder), *CASES],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT "))
        self.assertEqual(json.loads(line.removeprefix("RESULT ")), expected)

    def test_a_failed_export_leaves_the_old_one(self):
        folder = self.folder / "export"
        policy, spec = self.policy("plain")
        export(policy, spec, folder)
        before = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        with mock.patch.object(tf.saved_model, "save", side_effect=OSError("disk full")):
            with self.assertRaisesRegex(OSError, "disk full"):
                export(policy, spec, folder)
        self.assertEqual(before, {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()})

    def test_what_litert_cannot_run_is_refused_and_the_old_export_stays(self):
        folder = self.folder / "export"
        policy, spec = self.policy("image")
        export(policy, spec, folder)
        before = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        rough = dqn.make(dqn.Config(precision="bfloat16"), spec).make_policy()
        with self.assertRaisesRegex(SettingError, "lite: LiteRT cannot run this policy"):
            export(rough, spec, folder, lite=True)
        self.assertEqual(before, {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()})
        self.assertEqual([p.name for p in self.folder.iterdir()], ["export"])
        export(rough, spec, folder)
        obs = conformance.observations(spec, 9, seed=0)
        loaded = tf.saved_model.load(str(folder))
        acted = loaded.act(obs, ())["action"]
        self.assertAllEqual(acted, rough.step(obs, (), {}, {}, False).action)

    def test_a_new_export_takes_the_place_of_the_old_one(self):
        folder = self.folder / "export"
        obs = conformance.observations(self.policy("plain")[1], 64, seed=0)
        acted = []
        for seed in (0, 1):
            policy, spec = self.policy("plain", seed)
            export(policy, spec, folder)
            loaded = tf.saved_model.load(str(folder))
            acted.append(loaded.act(obs, ())["action"].numpy())
            self.assertAllEqual(acted[-1], policy.step(obs, (), {}, {}, False).action)
        self.assertNotAllEqual(*acted)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["export"])
