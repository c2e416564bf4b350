"""Checkpoints: complete or skipped, never harmful to an older one, and exact when restored."""

import json
import pathlib
import tempfile
from unittest import mock

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import dqn
from tfrl.errors import RunFailed, SettingError
from tfrl.runtime.storage import checkpoint, checkpoint_files
from tfrl.testing import conformance
from tfrl.types import EnvSpec

SPEC = EnvSpec("box", gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(4))
OTHER = EnvSpec("box", gym.spaces.Box(-1, 1, (5,), np.float32), gym.spaces.Discrete(4))
CONFIG = dqn.Config(hidden_sizes=(8,), batch_size=4, updates_per_call=2, prioritized=True)


class CheckpointsTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.checkpoints = self.of("dqn", SPEC)
        self.module = tf.Module()
        self.module.x = tf.Variable([1.0, 2.0])

    def of(self, algo, spec, keep=2):
        return checkpoint.Checkpoints(self.folder, algo, spec, keep)

    def save(self, env_steps, value, **state):
        self.module.x.assign([value, value])
        return self.checkpoints.save(env_steps, self.module, state, None)

    def names(self):
        return sorted(p.name for p in self.folder.iterdir())

    def restored(self):
        found = self.checkpoints.newest()
        checkpoint.restore_learner(found, self.module)
        return found.state["env_steps"], float(self.module.x[0])

    def test_newest_is_the_one_of_most_env_steps(self):
        self.assertIsNone(self.checkpoints.newest())
        for env_steps in (5, 100, 1_000_000):
            self.save(env_steps, env_steps / 10, note=[env_steps])
        self.assertEqual(self.restored(), (1_000_000, 100_000.0))
        found = self.checkpoints.newest()
        self.assertEqual(found.state["note"], [1_000_000])
        self.assertIsNone(found.replay)

    def test_only_so_many_are_kept(self):
        for env_steps in (1, 2, 3, 4):
            self.save(env_steps, 0.0)
        self.assertEqual(self.names(), ["000000000003", "000000000004"])

    @parameterized.parameters("no manifest", "truncated", "missing", "manifest.json", "state.json")
    def test_an_incomplete_one_is_skipped_with_a_warning(self, damage):
        self.save(1, 10.0)
        newer = self.save(2, 20.0)
        if damage == "no manifest":
            (newer / checkpoint_files.MANIFEST).unlink()
        elif damage == "missing":
            (newer / "state.json").unlink()
        elif damage.endswith("json"):  # other text of the same length
            (newer / damage).write_text("?" * (newer / damage).stat().st_size)
        else:
            data = next(newer.glob("learner.data*"))
            data.write_bytes(data.read_bytes()[:-1])
        with self.assertLogs(level="WARNING") as logs:
            self.assertEqual(self.restored(), (1, 10.0))
        self.assertIn(str(newer), logs.output[0])
        self.save(3, 30.0)
        self.assertEqual(self.restored(), (3, 30.0))
        self.assertEqual(self.names(), ["000000000001", "000000000003"])

    def test_damaged_variables_are_named(self):
        self.save(1, 10.0)
        found = self.checkpoints.newest()
        index = found.folder / "learner.index"
        index.write_bytes(b"?" * index.stat().st_size)
        with self.assertRaisesRegex(
            SettingError, f"^{found.folder}: cannot be read, it is damaged"
        ):
            checkpoint.restore_learner(found, self.module)

    @parameterized.parameters("learner.data-00000-of-00001", "replay/rows.npy", "learner.index")
    def test_other_contents_of_the_same_size_are_skipped_for_the_older_one(self, name):

        def save_replay(folder):
            folder.mkdir()
            (folder / "rows.npy").write_bytes(b"0" * 999)
            (folder.parent / "others").mkdir()  # a part of the runtime may add a folder of its own

        for env_steps in (1, 2, 3):
            self.module.x.assign([env_steps, env_steps])
            newest = self.checkpoints.save(env_steps, self.module, {}, save_replay)
        content = bytearray((newest / name).read_bytes())
        content[len(content) // 2] ^= 1
        (newest / name).write_bytes(content)
        (line,) = checkpoint_files.set_aside_damaged(self.folder)
        self.assertEqual(line, f"skipping checkpoint {newest}: {name} fails its checksum")
        with self.assertLogs(level="WARNING") as logs:
            self.assertEqual(self.restored(), (2, 2.0))
        self.assertIn(f"skipping checkpoint {newest}: it is damaged", logs.output[0])
        self.assertEmpty(checkpoint_files.set_aside_damaged(self.folder))
        self.save(4, 40.0)
        self.assertEqual(self.names(), ["000000000002", "000000000004"])

    def test_checkpoints_of_the_first_version_have_no_checksums(self):
        folder = self.save(1, 10.0)
        manifest = json.loads((folder / checkpoint_files.MANIFEST).read_text())
        manifest["files"] = {name: entry["size"] for name, entry in manifest["files"].items()}
        (folder / checkpoint_files.MANIFEST).write_text(json.dumps(manifest))
        self.assertEmpty(checkpoint_files.set_aside_damaged(self.folder))
        self.assertEqual(self.restored(), (1, 10.0))

    @parameterized.parameters(
        (checkpoint_files.MANIFEST, "[]"),
        (checkpoint_files.MANIFEST, "{}"),
        (checkpoint_files.MANIFEST, '{"files": {"state.json": {"size": "x", "crc32": 1}}}'),
        (checkpoint_files.MANIFEST, '{"files": {"../a": 1}}'),
        (checkpoint_files.MANIFEST, '{"files": {"/etc/passwd": 1}}'),
        ("state.json", "[]"),
        ("state.json", "{}"),
        ("state.json", '{"identity": {}}'),
    )
    def test_json_of_another_form_is_damage(self, name, text):
        self.save(1, 10.0)
        newer = self.save(2, 20.0)
        (newer / name).write_text(text)
        if name == "state.json":
            manifest = {"files": {"state.json": len(text)}}
            (newer / checkpoint_files.MANIFEST).write_text(json.dumps(manifest))
        with self.assertLogs(level="WARNING") as logs:
            self.assertEqual(self.restored(), (1, 10.0))
        self.assertLen(logs.output, 1)
        self.assertIn("damaged", logs.output[0])

    def test_only_folders_of_checkpoints_are_ever_removed(self):
        """Not folders of the user's that have such a name, or that a link of a run folder leads to."""
        photos = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        (photos / "2019").mkdir()
        for name in ("2019", "000000002019"):
            (self.folder / name).mkdir()
            (self.folder / name / "photo.jpg").write_text("")
        (self.folder / "000000000001").symlink_to(photos)
        for env_steps in (2, 3, 4):
            self.save(env_steps, 0.0)
        self.assertEqual(
            self.names(),
            ["000000000001", "000000000003", "000000000004", "000000002019", "2019"],
        )
        self.assertTrue((photos / "2019").is_dir())

    @parameterized.product(
        failing=(
            "tensorflow.train.Checkpoint.write",
            "tfrl.runtime.storage.checkpoint_files.seal",
            "os.replace",
        ),
        env_steps=(1, 2),
    )
    def test_a_failed_write_leaves_the_last_good_one(self, failing, env_steps):
        self.save(1, 10.0)
        with mock.patch(failing, side_effect=OSError("disk full")):
            with self.assertRaisesRegex(
                RunFailed,
                f"^the checkpoint at {env_steps} env steps cannot be .*disk full.*--resume",
            ):
                self.save(env_steps, 20.0)
        self.assertEqual(self.names(), ["000000000001"])  # nothing is left of the failed one
        self.assertEqual(self.restored(), (1, 10.0))
        self.save(env_steps, 30.0)
        self.assertEqual(self.restored(), (env_steps, 30.0))

    def test_a_second_one_at_the_same_step_takes_the_place_of_the_first(self):
        self.save(7, 1.0)
        self.save(7, 2.0)
        self.assertEqual(self.restored(), (7, 2.0))
        self.assertLen(self.names(), 1)

    @parameterized.parameters(
        ("sac", SPEC, "algo is dqn, but this run has sac"),
        ("dqn", OTHER, r"observation_space is .*\(3,\).*, but this run has .*\(5,\)"),
        (
            "dqn",
            EnvSpec("b", SPEC.observation_space, gym.spaces.Discrete(9)),
            r"action_space is Discrete\(4\), but this run has Discrete\(9\)",
        ),
    )
    def test_that_of_another_run_is_refused(self, algo, spec, message):
        self.save(1, 0.0)
        with self.assertRaisesRegex(SettingError, message):
            self.of(algo, spec).newest()

    def test_the_manifest_lists_every_file(self):
        folder = self.save(1, 0.0)
        files = json.loads((folder / checkpoint_files.MANIFEST).read_text())["files"]
        there = {p.name for p in folder.iterdir()} - {checkpoint_files.MANIFEST}
        self.assertEqual(set(files), there)
        self.assertContainsSubset({"state.json", "learner.index"}, there)


class LearnerTest(tf.test.TestCase):
    """2N updates equal N, a restart, and N more, bit for bit."""

    def test_a_restored_learner_goes_on_exactly(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = checkpoint.Checkpoints(folder, "dqn", SPEC, 2)
        settings = dict(learning_rate_final=1e-5, learning_rate_updates=20, target_period_updates=3)
        agent = dqn.make(dqn.Config(**{**CONFIG.__dict__, **settings}), SPEC)
        blocks = [conformance.samples(agent, SPEC, 8, seed) for seed in range(10)]
        straight = conformance.loop(agent, SPEC)
        for block in blocks[:5]:
            straight.run(block)
        checkpoints.save(1, straight, {"max_priority": straight.max_priority}, None)
        for block in blocks[5:]:
            out, priorities = straight.run(block)

        resumed = conformance.loop(agent, SPEC)
        for variable in conformance.variables(resumed):  # nothing of the start may shine through
            variable.assign(tf.ones_like(variable) * 3)
        found = checkpoints.newest()
        checkpoint.restore_learner(found, resumed)
        self.assertEqual(int(resumed.updates), 10)
        self.assertEqual(int(resumed.learner.optimizer.iterations), 10)
        for block in blocks[5:]:
            again, others = resumed.run(block)
        self.assertEqual(
            conformance.apart(conformance.values(straight), conformance.values(resumed)), 0.0
        )
        self.assertAllEqual(priorities, others)
        self.assertAllEqual(out["learner/importance_beta"], again["learner/importance_beta"])
        slots = [v for v in resumed.learner.optimizer.variables if v.shape.rank]
        self.assertLen(slots, 2)
        compared = {id(v) for v in conformance.variables(resumed)}
        for slot in slots:
            self.assertIn(id(slot), compared)
            self.assertGreater(float(tf.reduce_max(tf.abs(slot))), 0.0)

    def test_a_variable_that_was_not_saved_is_an_error(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = checkpoint.Checkpoints(folder, "dqn", SPEC, 2)
        module = tf.Module()
        module.x = tf.Variable(1.0)
        checkpoints.save(1, module, {}, None)
        module.y = tf.Variable(2.0)
        with self.assertRaises(AssertionError):
            checkpoint.restore_learner(checkpoints.newest(), module)


class ArraysTest(tf.test.TestCase):
    def test_a_damaged_file_is_named(self):
        path = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "policy.npz"
        checkpoint.save_arrays(path, [np.arange(1_000.0)], return_mean=0.0)
        whole = path.read_bytes()
        for content in (b"", b"text", whole[:300], whole[:100] + b"?" * 50 + whole[150:]):
            path.write_bytes(content)
            with self.assertRaisesRegex(SettingError, f"^{path}: cannot be read, it is damaged"):
                checkpoint.load_arrays(path)

    def test_round_trip(self):
        path = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "deep" / "best.npz"
        arrays = [
            np.float32([[1, 2]]),
            np.int64(3) * np.ones((), np.int64),
            *map(np.float32, range(12)),
        ]
        checkpoint.save_arrays(path, arrays, return_mean=-1.5, env_steps=7)
        found, facts = checkpoint.load_arrays(path)
        self.assertAllEqual([a.tolist() for a in found], [np.asarray(a).tolist() for a in arrays])
        self.assertEqual(facts, {"return_mean": -1.5, "env_steps": 7.0})
        self.assertEqual([p.name for p in path.parent.iterdir()], ["best.npz"])
