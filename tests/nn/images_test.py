"""Images of any layout and scale, against NumPy."""

import contextlib
import io
import tempfile
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import absltest, parameterized

import tfrl
from tfrl import api
from tfrl.algos import dqn, ppo
from tfrl.errors import SettingError
from tfrl.nn import images, inputs
from tfrl.runtime.acting.inference import StepSignature, make_engine
from tfrl.testing import conformance
from tfrl.types import EnvSpec

spaces = gym.spaces


def box(shape, dtype=np.uint8, low=0, high=255):
    return spaces.Box(low, high, shape, dtype)


def own(spec):
    del spec
    return tf.keras.Sequential([tf.keras.layers.Rescaling(1 / 255), tf.keras.layers.Flatten()])


class Grid(gym.Env):
    """Categories in bytes, as MiniGrid has them."""

    observation_space, action_space = box((7, 7, 3)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((7, 7, 3), np.uint8), {}

    def step(self, action):
        return np.zeros((7, 7, 3), np.uint8), 0.0, True, False, {}


class ReaderTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (box((84, 84, 4)), True),
        (box((3, 64, 64)), True),
        (box((4, 84, 84, 3)), True),
        (box((84, 84)), True),
        (box((84, 84, 1), np.float32, 0, 1), True),
        (box((7, 7, 3), np.int64, 0, 9), True),
        (box((10, 10, 4), np.bool_, 0, 1), True),
        (box((20, 84)), False),  # rows of something
        (box((84, 84), np.float32, 0, 1), False),
        (box((84,)), False),
        (spaces.MultiBinary([8, 8, 2]), False),
        (spaces.Discrete(4), False),
    )
    def test_what_an_image_is(self, space, expected):
        self.assertEqual(images.is_image(space), expected)

    @parameterized.parameters(
        ((84, 84, 4), (84, 84, 4), None),
        ((210, 160, 3), (210, 160, 3), None),
        ((3, 64, 64), (64, 64, 3), (0, 2, 3, 1)),
        ((4, 84, 84), (84, 84, 4), (0, 2, 3, 1)),
        ((3, 210, 160), (210, 160, 3), (0, 2, 3, 1)),
        ((64, 36, 36), (36, 36, 64), (0, 2, 3, 1)),  # planes of a board, many
        ((40, 40, 64), (40, 40, 64), None),
        ((40, 60, 40), (40, 60, 40), None),
        ((4, 84, 84, 3), (84, 84, 12), (0, 2, 3, 1, 4)),
        ((4, 3, 84, 84), (84, 84, 12), (0, 3, 4, 1, 2)),
        ((84, 96), (84, 96, 1), (0, 1, 2)),
    )
    def test_the_layout_is_seen_from_the_shape(self, shape, expected, order):
        reader = images.Reader(box(shape))
        self.assertEqual(reader.shape, expected)
        x = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
        moved = x if order is None else x.transpose(order)
        self.assertAllClose(reader(tf.constant(x)), moved.reshape(2, *expected) / 255.0)

    def test_the_layout_as_it_is_set(self):
        square = box((36, 36, 36))
        x = np.random.default_rng(0).integers(0, 256, (2, 36, 36, 36), np.uint8)
        for layout, order in (("channels_last", (0, 1, 2, 3)), ("channels_first", (0, 2, 3, 1))):
            read = images.Reader(square, layout)(tf.constant(x))
            self.assertAllClose(read, x.transpose(order) / 255.0)

    @parameterized.parameters(
        (box((40, 40, 3)), 255.0),
        (box((40, 40, 3), np.uint16, 0, 65_535), 65_535.0),
        (box((40, 40, 3), np.float32, 0, 255), 255.0),
        (box((40, 40, 3), np.float32, 0, 1), 1.0),
        (box((40, 40, 3), np.float32, -1, 1), 1.0),
        (box((40, 40, 3), np.float32, -np.inf, np.inf), 1.0),
        (box((40, 40, 3), np.float32, -50, 20), 50.0),
        (box((7, 7, 3), np.uint8, 0, 10), 10.0),
        (box((40, 40, 3), np.bool_, 0, 1), 1.0),
    )
    def test_the_scale_is_seen_from_the_limits(self, space, scale):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 2, (2, *space.shape)).astype(space.dtype)
        self.assertAllClose(images.Reader(space)(tf.constant(x)), x / scale, rtol=1e-6)
        halves = images.Reader(space, scale=2.0)(tf.constant(x))
        self.assertAllClose(halves, x / 2.0)

    def test_a_grid_of_bytes_is_read_as_categories_and_as_intensities(self):
        space = box((7, 7, 2))
        x = np.random.default_rng(0).integers(0, 256, (3, 7, 7, 2), np.uint8)
        x[0, 0, 0] = (0, 10)
        reader = images.Reader(space)
        self.assertEqual(reader.shape, (7, 7, 4))
        expected = np.concatenate([x / 255.0, np.minimum(x, 10) / 10.0], -1)
        self.assertAllClose(reader(tf.constant(x)), expected)
        flat = inputs.flatten(tf.constant(x), space)
        self.assertAllClose(flat, expected.reshape(3, -1))
        self.assertEqual(images.Reader(space, scale=10.0).shape, (7, 7, 2))

    def test_what_is_normalised_is_not_scaled_again(self):
        options = inputs.ImageOptions(normalised=True)
        x = tf.ones([1, 40, 40, 3])
        pictures = box((40, 40, 3), np.float32, 0, 255)
        self.assertAllEqual(inputs.reader(pictures, options)(x), x)
        self.assertAllClose(inputs.reader(box((40, 40, 3)), options)(x), x / 255.0)

    @parameterized.parameters(
        (box((84, 84, 4)), ""),
        (box((10, 10, 4), np.bool_, 0, 1), ""),
        (
            box((3, 64, 64)),
            r"observation uint8 \[3, 64, 64\]: .* channels first \(--image_layout\)$",
        ),
        (box((4, 84, 84, 3)), r"a stack of 4 images, channels last \(--image_layout\)$"),
        (box((84, 84)), r"one channel \(--image_layout\)$"),
        (box((7, 7, 3)), r"read twice, divided by 255 and by 10, .* \(--image_scale\)$"),
        (box((7, 7, 3), np.uint8, 0, 10), r"divided by 10 \(--image_scale\)$"),
        (box((64, 64, 3), np.float32, 0, 1), r"values not scaled \(--image_scale\)$"),
    )
    def test_what_was_picked_is_said(self, space, line):
        self.assertRegex(images.Reader(space).line, f"^{line}$" if not line else line)
        self.assertEqual(images.Reader(space, "channels_last", 1.0).line, "")


class PolicyTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((dqn, box((3, 40, 40))), (ppo, box((2, 36, 36, 3))))
    def test_an_update_and_both_engines(self, algo, space):
        self.check_update(algo, space)

    @parameterized.parameters(
        (ppo, box((7, 7, 3))), (dqn, box((12, 12, 2), np.float32, -np.inf, np.inf))
    )
    @pytest.mark.slow
    def test_an_update_and_both_engines_of_small_images(self, algo, space):
        self.check_update(algo, space)

    def check_update(self, algo, space):
        spec = EnvSpec("e", space, spaces.Discrete(3), max_episode_steps=5)
        settings = dict(batch_size=4, updates_per_call=1) if algo is dqn else dict(unroll_length=4)
        agent = algo.make(algo.Config(**settings), spec)
        loop = conformance.loop(agent, spec, num_envs=2)
        metrics, _ = loop.run(conformance.block(agent, spec, 0, num_envs=2))
        self.assertTrue(np.isfinite(float(metrics["learner/loss"])))
        policy = agent.make_policy()
        kernels = [v for v in policy.trainable_variables if v.shape.rank == 4]
        self.assertEqual(kernels[0].shape[2], images.Reader(space).shape[2])
        signature = StepSignature(policy, spec, 2, (), explore=False)
        obs = conformance.observations(spec, 2, 0)
        actions = [
            make_engine(mode, policy, signature).act(obs, (), {}, {}).action
            for mode in ("function", "lite")
        ]
        self.assertAllEqual(*actions)

    def test_uint16_in_both_engines(self):
        spec = EnvSpec("e", box((12, 12, 2), np.uint16, 0, 60_000), spaces.Discrete(3))
        policy = dqn.make(dqn.Config(), spec).make_policy()
        signature = StepSignature(policy, spec, 2, (), explore=False)
        x = np.random.default_rng(0).integers(0, 60_000, (2, 12, 12, 2)).astype(np.uint16)
        engines = [make_engine(mode, policy, signature) for mode in ("function", "lite")]
        self.assertAllEqual(*(engine.act(x, (), {}, {}).action for engine in engines))

    @parameterized.parameters(dqn, ppo)
    def test_lines_of_an_agent(self, algo):
        spec = EnvSpec("e", spaces.Dict(a=box((7, 7, 3)), b=box((3, 40, 40))), spaces.Discrete(3))
        self.assertLen(algo.make(algo.Config(), spec).notes, 2)
        config = algo.Config(image_layout="channels_first", image_scale=9.0)
        self.assertEqual(algo.make(config, spec).notes, ())

    @parameterized.parameters(
        (box((128,)), "observation uint8 [128]: values up to 255 are not scaled"),
        (box((4, 9), np.int64, -50, 50), "observation int64 [4, 9]: values up to 50"),
        (box((4, 9), np.int8, -1, 1), None),
        (box((4,), np.float32, -50, 50), None),
    )
    def test_integers_of_a_wide_range_are_said_to_be_unscaled(self, space, line):
        spec = EnvSpec("e", space, spaces.Discrete(3))
        for algo in (dqn, ppo):
            notes = algo.make(algo.Config(), spec).notes
            self.assertLen(notes, 0 if line is None else 1)
            if line:
                self.assertStartsWith(notes[0], line)
            self.assertEqual(algo.make(algo.Config(normalize_observations=True), spec).notes, ())

    @parameterized.parameters(
        (box((3,), np.float32, -1, 1), dict(image_scale=2.0), "image_scale=2.0: .*no image"),
        (spaces.Discrete(3), dict(image_layout="channels_last"), "image_layout=.*no image"),
        (
            box((7, 7, 3)),
            dict(image_scale=2.0, network=f"{__name__}:own"),
            "your own network reads images as they come",
        ),
    )
    def test_settings_that_nothing_reads_are_refused(self, space, settings, message):
        spec = EnvSpec("e", space, spaces.Discrete(3))
        for algo in (dqn, ppo):
            with self.assertRaisesRegex(SettingError, message):
                algo.make(algo.Config(**settings), spec)


class Begun(Exception):
    pass


class StartTest(absltest.TestCase):
    def test_what_was_picked_is_a_line_of_the_run(self):
        folder = self.enter_context(tempfile.TemporaryDirectory())
        output = io.StringIO()
        with (
            mock.patch.object(api, "_backend", side_effect=Begun),
            contextlib.redirect_stdout(output),
            self.assertRaises(Begun),
        ):
            tfrl.train("dqn", env=Grid, run_dir=f"{folder}/run", console="plain", tensorboard=False)
        self.assertIn("observation uint8 [7, 7, 3]: an image, values read twice", output.getvalue())


if __name__ == "__main__":
    tf.test.main()
