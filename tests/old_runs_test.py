"""Run folders of the first version (826a20c) load, act, score, export, plot and resume as they did.

`tests/data/old_runs/NAME` is the folder of a short run on CartPole without its export and pictures. That version also
wrote `expected.json` in it: returns of seeded episodes, actions over three steps from fixed observations, the state
after them, and action values or probabilities. The folders are never written anew: a test that fails here means that
the folders of users fail.
"""

import json
import pathlib
import shutil
import tempfile

import numpy as np
import pytest
import tensorflow as tf
import tree
from absl.testing import parameterized

import tfrl
from tfrl.logs import csv_file, curve
from tfrl.runtime.finish import export_run

FOLDERS = pathlib.Path(__file__).parent / "data" / "old_runs"
NAMES = ("dqn", "c51", "recurrent_dqn", "ppo", "impala")
MORE_ENV_STEPS = 200


def _saved(folder, kind="policy"):
    """Arrays of a policy's variables as the old version wrote them, without the reader of this version."""
    with np.load(folder / "checkpoints" / f"{kind}.npz") as stored:
        names = [name for name in stored if name.startswith("variable_")]
        return [stored[f"variable_{i}"] for i in range(len(names))]


def _values(path):
    """Every array of a TensorFlow checkpoint: [(shape, dtype, bytes)], sorted."""
    reader = tf.train.load_checkpoint(str(path))
    names = [
        name
        for name in reader.get_variable_to_shape_map()
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    ]
    arrays = [np.asarray(reader.get_tensor(name)) for name in names if "save_counter" not in name]
    return sorted((str(a.shape), str(a.dtype), a.tobytes()) for a in arrays)


class OldRunsTest(tf.test.TestCase, parameterized.TestCase):
    def copy(self, name):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / name
        shutil.copytree(FOLDERS / name, folder)
        expected = json.loads((folder / "expected.json").read_text())
        (folder / "expected.json").unlink()
        return folder, expected

    def test_there_is_a_small_one_of_each_family(self):
        self.assertEqual(sorted(path.name for path in FOLDERS.iterdir()), sorted(NAMES))
        for folder in FOLDERS.iterdir():
            sizes = [path.stat().st_size for path in folder.rglob("*")]
            self.assertLess(sum(sizes), 2**20)

    @parameterized.parameters(*NAMES)
    def test_its_policy_acts_with_its_weights(self, name):
        folder, expected = self.copy(name)
        policy = tfrl.load(folder)
        saved = _saved(folder)
        self.assertLen(policy.variables, len(saved))
        for variable, array in zip(policy.variables, saved):
            self.assertAllEqual(variable, array)
        # The observations of expected.json.
        obs = np.random.default_rng(0).uniform(-1, 1, (3, 8, 4)).astype(np.float32)
        state, actions = policy.initial_state(8), []
        for rows in obs:
            step = policy.step(rows, state)
            state = step.state
            actions.append(np.asarray(step.action).tolist())
        self.assertEqual(actions, expected["actions"])
        for mine, theirs in zip(tree.flatten(state), expected["state"], strict=True):
            self.assertAllClose(mine, theirs, atol=1e-5)
        for kind in ("q_values", "probabilities"):
            if kind in expected:
                self.assertAllClose(getattr(policy, kind)(obs[0]), expected[kind], atol=1e-5)

    @parameterized.parameters(*NAMES)
    def test_its_score_is_what_it_was(self, name):
        folder, expected = self.copy(name)
        found = tfrl.evaluate(folder, episodes=6, seed=7, num_envs=3)
        self.assertEqual(list(found.returns), expected["returns"])

    @parameterized.parameters(*NAMES)
    def test_it_is_exported_and_plotted(self, name):
        folder, expected = self.copy(name)
        export_run(folder, folder / "export")
        exported = tf.saved_model.load(str(folder / "export"))
        obs = np.random.default_rng(0).uniform(-1, 1, (3, 8, 4)).astype(np.float32)
        action = exported.act(tf.constant(obs[0]), exported.initial_state(8))["action"]
        self.assertEqual(action.numpy().tolist(), expected["actions"][0])
        curve.draw_curve([folder], folder / "curve.png")
        self.assertGreater((folder / "curve.png").stat().st_size, 1_000)

    @parameterized.parameters("dqn", "ppo")
    def test_its_learner_is_restored_whole(self, name):
        self.check_restored(name)

    @parameterized.parameters(*sorted({*NAMES} - {"dqn", "ppo"}))
    @pytest.mark.slow
    def test_the_learners_of_the_others_are_restored_whole(self, name):
        self.check_restored(name)

    def check_restored(self, name):
        folder, _ = self.copy(name)
        before = json.loads((folder / "result.json").read_text())
        (old,) = (FOLDERS / name / "checkpoints").glob("0*")
        # Nothing is left to train, so the checkpoint at the end holds what was restored.
        tfrl.train(before["algo"], run_dir=folder, resume=True, compile="graph", inference="lite")
        (new,) = (folder / "checkpoints").glob(f"{old.name}.*")
        state = [json.loads((path / "state.json").read_text())["totals"] for path in (old, new)]
        for name in ("env_steps", "updates", "episodes", "items_inserted", "items_sampled"):
            self.assertEqual(state[1][name], state[0][name], name)
        mine, lost = _values(new / "learner"), []
        for value in _values(old / "learner"):
            if value in mine:
                mine.remove(value)
            else:
                lost.append(value[:2])
        self.assertEmpty(lost, "arrays of the checkpoint that the learner does not have")

    @parameterized.parameters(("ppo",))
    def test_it_goes_on(self, name):
        self.check_goes_on(name)

    @parameterized.parameters(*sorted({*NAMES} - {"ppo"}))
    @pytest.mark.slow
    def test_the_others_go_on(self, name):
        self.check_goes_on(name)

    def check_goes_on(self, name):
        folder, _ = self.copy(name)
        before = json.loads((folder / "result.json").read_text())
        rows = csv_file.read(folder / "metrics.csv")
        result = tfrl.train(
            before["algo"], run_dir=folder, resume=True, compile="graph", inference="lite",
            total_env_steps=before["env_steps"] + MORE_ENV_STEPS,
        )  # fmt: skip
        self.assertGreaterEqual(result.env_steps, before["env_steps"] + MORE_ENV_STEPS)
        self.assertLess(result.env_steps, before["env_steps"] + 3 * MORE_ENV_STEPS)
        self.assertGreater(result.updates, before["updates"])
        again = csv_file.read(folder / "metrics.csv")
        self.assertGreater(len(again), len(rows))
        kept = [row["run/env_steps"] for row in again[: len(rows)]]
        self.assertEqual(kept, [row["run/env_steps"] for row in rows])
        new, old = _saved(folder, "last"), _saved(FOLDERS / name, "last")
        self.assertGreater(max(np.abs(a - b).max() for a, b in zip(new, old)), 0.0)


if __name__ == "__main__":
    tf.test.main()
