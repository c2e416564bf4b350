"""Observations to features."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.config.settings import SettingError
from tfrl.nn import inputs, torsos
from tfrl.types import EnvSpec

spaces = gym.spaces


def builder(spec):
    """A user's own network: the sum of the observation, twice."""
    del spec
    return tf.keras.Sequential(
        [tf.keras.layers.Lambda(lambda x: 2.0 * tf.reduce_sum(x, axis=1, keepdims=True))]
    )


class InputsTest(tf.test.TestCase, parameterized.TestCase):
    def test_flatten_concatenates_a_nest(self):
        space = spaces.Dict(
            a=spaces.Discrete(3, start=5),
            b=spaces.Tuple([spaces.Box(-9, 9, (2, 1)), spaces.MultiBinary(2)]),
            c=spaces.MultiDiscrete([2, 3]),
        )
        obs = {
            "a": tf.constant([5, 7]),
            "b": (
                tf.constant([[[1.0], [2.0]], [[3.0], [4.0]]]),
                tf.constant([[0, 1], [1, 1]], tf.int8),
            ),
            "c": tf.constant([[1, 0], [0, 2]]),
        }
        expected = [[1, 0, 0, 1, 2, 0, 1, 0, 1, 1, 0, 0], [0, 0, 1, 3, 4, 1, 1, 1, 0, 0, 0, 1]]
        self.assertAllEqual(inputs.flatten(obs, space), expected)

    def test_the_mask_is_no_input(self):
        box = spaces.Box(-1, 1, (2,))
        space = spaces.Dict(observation=box, action_mask=spaces.MultiBinary(3))
        obs = {"observation": tf.constant([[1.0, 2.0]]), "action_mask": tf.constant([[1, 0, 1]])}
        self.assertEqual(inputs.model_space(space), box)
        self.assertAllEqual(inputs.model_input(obs), [[1.0, 2.0]])
        self.assertAllEqual(inputs.action_mask(obs), [[1, 0, 1]])
        self.assertIsNone(inputs.action_mask(obs["observation"]))

    @parameterized.parameters(
        ((84, 84, 4), np.uint8, True), ((84, 84, 4), np.float32, False), ((84, 84), np.uint8, False)
    )
    def test_images(self, shape, dtype, expected):
        self.assertEqual(inputs.is_image(spaces.Box(0, 255, shape, dtype)), expected)


class TorsoTest(tf.test.TestCase, parameterized.TestCase):
    def torso(self, space, network="auto", sizes=(6, 5)):
        return torsos.Torso(EnvSpec("e", space, spaces.Discrete(2)), network, sizes, "tanh")

    def test_mlp(self):
        torso = self.torso(spaces.Box(-1, 1, (2, 3), np.float32))
        x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
        out = torso(tf.constant(x)).numpy()
        named = {tuple(v.shape): v.numpy() for v in torso.variables}
        w0, b0, w1, b1 = (named[shape] for shape in ((6, 6), (6,), (6, 5), (5,)))
        self.assertAllClose(out, np.tanh(np.tanh(x.reshape(4, 6) @ w0 + b0) @ w1 + b1), atol=1e-5)

    def test_pixels_are_scaled_for_both_networks(self):
        space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        for network in ("cnn", "mlp"):
            torso = self.torso(space, network)
            white = torso(tf.fill([1, 36, 36, 1], tf.constant(255, tf.uint8)))
            self.assertLess(float(tf.reduce_max(tf.abs(white))), 10.0)
            self.assertGreater(float(tf.reduce_max(tf.abs(white))), 1e-3)

    def test_the_nature_cnn(self):
        torso = self.torso(spaces.Box(0, 255, (84, 84, 4), np.uint8))
        self.assertEqual(torso(tf.zeros([2, 84, 84, 4], tf.uint8)).shape, (2, 512))
        parameters = sum(int(tf.size(v)) for v in torso.variables)
        self.assertEqual(parameters, 8_224 + 32_832 + 36_928 + 3_136 * 512 + 512)

    def test_a_network_of_the_user(self):
        torso = self.torso(spaces.Box(-1, 1, (2,), np.float32), f"{__name__}:builder")
        self.assertAllEqual(torso(tf.constant([[1.0, 2.0]])), [[6.0]])

    @parameterized.parameters(
        (spaces.Box(-1, 1, (3,), np.float32), "expected uint8 .height, width, channels. images"),
        (spaces.Box(0, 255, (20, 20, 1), np.uint8), "at least 36x36"),
    )
    def test_the_cnn_refuses_what_it_cannot_see(self, space, message):
        with self.assertRaisesRegex(SettingError, message):
            self.torso(space, "cnn")
