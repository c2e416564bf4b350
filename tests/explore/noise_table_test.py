"""Draws of one seed by their numbers, and the table that processes share."""

import pathlib
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.errors import SettingError
from tfrl.explore import table
from tfrl.explore.noise import draws, regenerate
from tfrl.types import NoiseSpec


class DrawsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(kind=("uniform", "normal"), shape=((), (7,), (3, 40), (5_000,)))
    def test_a_draw_does_not_depend_on_its_company(self, kind, shape):
        spec, seed = NoiseSpec(shape, kind, None, seeded=True), tf.constant([3, -9])
        many = tf.function(lambda first: draws(spec, seed, first, 12))(tf.constant(0)).numpy()
        self.assertEqual(many.shape, (12, *shape))
        for first, count in ((0, 1), (4, 3), (11, 1)):
            self.assertAllEqual(draws(spec, seed, first, count), many[first : first + count])
        self.assertAllEqual(regenerate(spec, seed), many[0])
        self.assertLen({x.tobytes() for x in many}, 12)
        other = draws(spec, tf.constant([4, -9]), 0, 12).numpy()
        self.assertNotAllClose(many, other)

    def test_draws_are_normal_and_independent(self):
        spec = NoiseSpec((1_000,), "normal", None, seeded=True)
        x = np.concatenate([draws(spec, tf.constant([1, i]), 0, 100).numpy() for i in range(3)])
        self.assertAllClose(x.mean(), 0.0, atol=0.01)
        self.assertAllClose(x.var(), 1.0, atol=0.01)
        self.assertAllClose((x**4).mean(), 3.0, atol=0.05)
        self.assertLess(np.abs(np.corrcoef(x) - np.eye(300)).max(), 0.2)


class TableTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.enter_context(tempfile.TemporaryDirectory())
        self.enter_context(mock.patch.object(table.tempfile, "gettempdir", lambda: self.folder))
        table.shared_table.cache_clear()
        self.addCleanup(table.shared_table.cache_clear)

    def test_its_numbers_are_known(self):
        """Vector E3."""
        with mock.patch.object(table, "_CHUNK", 7):  # made in several pieces
            numbers = table.shared_table(100)
        expected = [-1.08563066, 0.99734545, 0.2829785, -1.50629473, -0.57860023, 1.65143657]
        self.assertAllClose(numbers[:6], expected, atol=1e-7)
        self.assertAllEqual(numbers, np.random.RandomState(123).randn(100).astype(np.float32))
        (file,) = pathlib.Path(self.folder).iterdir()
        self.assertEqual(file.stat().st_size, 400)
        made = file.stat().st_mtime_ns
        table.shared_table.cache_clear()
        self.assertAllEqual(table.shared_table(100), numbers)
        self.assertEqual(file.stat().st_mtime_ns, made)

    def test_a_damaged_file_and_a_half_written_one_are_replaced(self):
        numbers = table.shared_table(100).numpy()
        (file,) = pathlib.Path(self.folder).iterdir()
        file.write_bytes(b"\0" * 400)
        file.with_suffix(".part").write_bytes(b"\1" * 100)  # of a process that was killed
        table.shared_table.cache_clear()
        self.assertAllEqual(table.shared_table(100), numbers)
        self.assertEqual([*pathlib.Path(self.folder).iterdir()], [file])

    def test_draws_are_parts_of_it(self):
        spec = NoiseSpec((2, 3), "normal", None, seeded=True, table=50)
        traced = tf.function(lambda seed, first: draws(spec, seed, first, 8))
        found = traced(tf.constant([1, 2]), tf.constant(4)).numpy()
        self.assertAllEqual(draws(spec, tf.constant([1, 2]), 6, 1)[0], found[2])
        whole = table.shared_table(50).numpy()
        parts = {whole[i : i + 6].tobytes() for i in range(45)}
        self.assertTrue(all(x.tobytes() in parts for x in found))
        self.assertGreater(len({x.tobytes() for x in found}), 4)

    def test_a_folder_without_room_is_named(self):
        with mock.patch.object(table, "_write", side_effect=OSError("No space left on device")):
            with self.assertRaisesRegex(
                SettingError, "noise_size=50.*No space left.*noise_source=seed"
            ):
                table.shared_table(50)

    @parameterized.parameters(
        (dict(shape=(60,), kind="normal", seeded=True), "a draw has 60 numbers"),
        (dict(shape=(2,), kind="uniform", seeded=True), "expected seeded noise of kind='normal'"),
        (dict(shape=(2,), kind="normal"), "expected seeded noise of kind='normal'"),
    )
    def test_a_table_that_cannot_serve_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            NoiseSpec(**settings, hold_env_steps=None, table=50)
