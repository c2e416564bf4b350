"""Observations to features."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree
from absl.testing import parameterized

from tfrl.errors import SettingError
from tfrl.nn import inputs, torsos
from tfrl.types import EnvSpec

spaces = gym.spaces


def builder(spec):
    """A user's own network: the sum of the observation, twice."""
    del spec
    return tf.keras.Sequential(
        [tf.keras.layers.Lambda(lambda x: 2.0 * tf.reduce_sum(x, axis=1, keepdims=True))]
    )


def no_model(spec):
    del spec


def failing(spec):
    raise KeyError(f"no layers for\n{spec.name}")


class InputsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("no_model", "the builder returned NoneType, expected a Keras model"),
        ("failing", "building failed: KeyError: .*no layers for"),
    )
    def test_builder_that_fails(self, name, message):
        spec = EnvSpec("e", spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2))
        with self.assertRaisesRegex(
            SettingError, f"^network='{__name__}:{name}': {message}"
        ) as caught:
            torsos.Torso(spec, f"{__name__}:{name}", (8,), "relu")
        self.assertNotIn("\n", str(caught.exception))

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

    def test_images_are_scaled_and_not_rescaled(self):
        image = spaces.Box(0, 255, (1, 2, 1), np.uint8)
        space = spaces.Tuple([image, spaces.Box(0, 10, (1,), np.float32)])
        obs = (tf.constant([[[[0], [255]]]], tf.uint8), tf.constant([[5.0]]))
        self.assertAllClose(inputs.flatten(obs, space), [[0, 1, 5]])
        self.assertAllClose(inputs.flatten(obs, space, rescale=True), [[0, 1, 0]])

    def test_leaves_are_in_the_order_of_the_space(self):
        a, b, c = spaces.Discrete(2), spaces.MultiBinary(3), spaces.Box(0, 1, (2,))
        space = spaces.Dict({"y": a, "x": spaces.Tuple([b, spaces.Dict(z=c)])})
        self.assertEqual(
            inputs.leaves({"y": 1, "x": (2, {"z": 3})}, space),
            [(2, b), (3, c), (1, a)],
        )


class TorsoTest(tf.test.TestCase, parameterized.TestCase):
    def torso(self, space, network="auto", sizes=(6, 5), **options):
        spec = EnvSpec("e", space, spaces.Discrete(2))
        return torsos.Torso(spec, network, sizes, "tanh", **options)

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
        (
            spaces.Box(-1, 1, (3,), np.float32),
            "expected images, e.g. uint8 .height, width, channels.",
        ),
        (spaces.Box(0, 255, (20, 20, 1), np.uint8), "at least 36x36.*resnet takes any size"),
    )
    def test_the_cnn_refuses_what_it_cannot_see(self, space, message):
        with self.assertRaisesRegex(SettingError, message):
            self.torso(space, "cnn")

    @parameterized.parameters(
        # (side, parameters): biases and kernels of 3 convolutions, counted by hand
        (84, 4 * 64 * 16 + 16 + 16 * 16 * 32 + 32 + 32 * 121 * 256 + 256),
        (42, 4 * 16 * 16 + 16 + 16 * 16 * 32 + 32 + 32 * 121 * 256 + 256),
    )
    def test_the_rllib_cnn(self, side, parameters):
        torso = self.torso(spaces.Box(0, 255, (side, side, 4), np.uint8), "rllib_cnn")
        self.assertEqual(torso(tf.zeros([3, side, side, 4], tf.uint8)).shape, (3, 256))
        self.assertEqual(sum(int(tf.size(v)) for v in torso.variables), parameters)

    def test_the_rllib_cnn_refuses_other_sizes(self):
        for shape in ((64, 64, 1), (84, 42, 1)):
            with self.assertRaisesRegex(SettingError, "84x84 or 42x42 pixels, got"):
                self.torso(spaces.Box(0, 255, shape, np.uint8), "rllib_cnn")

    def test_the_small_cnn_sees_planes(self):
        torso = self.torso(spaces.Box(0, 1, (10, 10, 4), np.bool_))  # auto
        planes = np.random.default_rng(0).random((2, 10, 10, 4)) < 0.3
        self.assertEqual(torso(tf.constant(planes)).shape, (2, 128))
        parameters = sum(int(tf.size(v)) for v in torso.variables)
        self.assertEqual(parameters, 4 * 9 * 16 + 16 + 8 * 8 * 16 * 128 + 128)
        # Planes are 0 and 1 as they are, pixels are scaled.
        same = torsos.small_cnn()
        same(tf.zeros([1, 10, 10, 4], tf.uint8))
        same.set_weights(torso.model[0].get_weights())
        pixels = tf.constant(planes.astype(np.uint8) * 255)
        self.assertAllClose(torso(tf.constant(planes)), same(pixels), atol=1e-5)

    def test_images_too_small_for_any_filter_are_flattened(self):
        torso = self.torso(spaces.Box(0, 1, (2, 5, 3), np.bool_), sizes=(7,))
        self.assertEqual(torso(tf.ones([4, 2, 5, 3], tf.bool)).shape, (4, 7))
        with self.assertRaisesRegex(SettingError, "at least 3x3 pixels"):
            self.torso(spaces.Box(0, 1, (2, 5, 3), np.bool_), "small_cnn")

    def test_the_residual_network(self):
        torso = self.torso(spaces.Box(0, 255, (84, 84, 4), np.uint8), "resnet")
        white = torso(tf.fill([2, 84, 84, 4], tf.constant(255, tf.uint8)))
        self.assertEqual(white.shape, (2, 256))
        self.assertLess(float(tf.reduce_max(white)), 100.0)
        kernels = [v for v in torso.variables if v.shape.rank == 4]
        self.assertLen(kernels, 15)
        last = 11 * 11 * 32 * 256 + 256  # 84 -> 42 -> 21 -> 11
        convs = (4 * 9 * 16 + 16) + 4 * (16 * 9 * 16 + 16)
        convs += (16 * 9 * 32 + 32) + 9 * (32 * 9 * 32 + 32)
        self.assertEqual(sum(int(tf.size(v)) for v in torso.variables), convs + last)
        small = self.torso(spaces.Box(0, 255, (10, 12, 1), np.uint8), "resnet")
        self.assertEqual(small(tf.zeros([2, 10, 12, 1], tf.uint8)).shape, (2, 256))

    def test_a_residual_block(self):
        block = torsos._Residual(3, "glorot", "float32")
        x = tf.random.stateless_normal([2, 5, 5, 3], [0, 1])
        kernels = [v for v in (block(x), *block.variables)[1:] if v.shape.rank == 4]
        y = x
        for kernel in kernels:
            y = tf.nn.conv2d(tf.nn.relu(y), kernel, 1, "SAME")
        self.assertAllClose(block(x), x + y, atol=1e-5)
        for kernel in kernels:
            kernel.assign(tf.zeros_like(kernel))
        self.assertAllEqual(block(x), x)

    @parameterized.parameters("cnn", "small_cnn", "resnet", "rllib_cnn")
    def test_bfloat16_is_for_the_arithmetic_only(self, network):
        space = spaces.Box(0, 255, (42, 42, 2), np.uint8)
        exact, rough = (self.torso(space, network, precision=p) for p in torsos.PRECISIONS)
        obs = tf.constant(np.random.default_rng(0).integers(0, 256, (3, 42, 42, 2), np.uint8))
        exact(obs)
        with tf.GradientTape() as tape:
            rough(obs)
            for a, b in zip(rough.variables, exact.variables, strict=True):
                self.assertEqual(a.dtype, tf.float32)
                a.assign(b)
            features = rough(obs)
        self.assertEqual(features.dtype, tf.float32)
        expected = exact(obs)
        error = tf.norm(features - expected) / tf.norm(expected)
        self.assertBetween(float(error), 1e-5, 0.03)  # 8 bits of mantissa, not 24
        for gradient in tape.gradient(features, rough.trainable_variables):
            self.assertEqual(gradient.dtype, tf.float32)

    def test_bfloat16_is_refused_where_it_does_nothing(self):
        for network in ("mlp", f"{__name__}:builder"):
            with self.assertRaisesRegex(
                SettingError, "precision=bfloat16 with network=.*: expected float32"
            ):
                self.torso(spaces.Box(-1, 1, (2,), np.float32), network, precision="bfloat16")

    def test_the_nature_cnn_serves_42x42(self):
        torso = self.torso(spaces.Box(0, 255, (42, 42, 4), np.uint8))
        self.assertEqual(torso(tf.zeros([2, 42, 42, 4], tf.uint8)).shape, (2, 512))

    @parameterized.parameters(("cnn", 512), ("resnet", 256), ("auto", 512))
    def test_images_inside_a_nest(self, network, features):
        image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        space = spaces.Dict(
            action_mask=spaces.MultiBinary(2),
            inner=spaces.Tuple([spaces.Discrete(3), image]),
            other=image,
            reward=spaces.Box(-2, 2, (), np.float32),
        )
        torso = self.torso(space, network, rescale=True)
        rng = np.random.default_rng(0)
        obs = {
            "action_mask": np.ones([2, 2], np.int8),
            "inner": (np.array([2, 0]), rng.integers(0, 256, (2, 36, 36, 1), np.uint8)),
            "other": rng.integers(0, 256, (2, 36, 36, 1), np.uint8),
            "reward": np.float32([1.0, -2.0]),
        }
        out = torso(tree.map_structure(tf.constant, obs))
        self.assertEqual(out.shape, (2, 2 * features + 4))
        self.assertAllClose(out[:, -4:], [[0, 0, 1, 0.5], [1, 0, 0, -1.0]])
        self.assertAllClose(out[:, :features], torso.model[0](obs["inner"][1]), atol=1e-5)
        self.assertAllClose(
            out[:, features : 2 * features], torso.model[1](obs["other"]), atol=1e-5
        )
        self.assertLen({id(v) for v in torso.variables}, 2 * len(torso.model[0].variables))

    def test_an_image_alone_beside_its_mask(self):
        image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        space = spaces.Dict(observation=image, action_mask=spaces.MultiBinary(2))
        obs = {"observation": tf.zeros([1, 36, 36, 1], tf.uint8), "action_mask": tf.ones([1, 2])}
        self.assertEqual(self.torso(space)(obs).shape, (1, 512))

    @parameterized.parameters("mlp", "cnn", "resnet", "rllib_cnn")
    def test_orthogonal_initialisers(self, network):
        tf.keras.utils.set_random_seed(0)
        space = spaces.Box(0, 255, (42, 42, 3), np.uint8)
        torso = self.torso(space, network, sizes=(32, 32), initializer="orthogonal")
        torso(tf.zeros([1, 42, 42, 3], tf.uint8))
        kernels = [v for v in torso.variables if v.shape.rank > 1]
        self.assertGreaterEqual(len(kernels), 2)
        for kernel in kernels:
            flat = tf.reshape(kernel, [-1, kernel.shape[-1]]).numpy()
            flat = flat if flat.shape[0] >= flat.shape[1] else flat.T
            self.assertAllClose(flat.T @ flat, 2.0 * np.eye(flat.shape[1]), atol=1e-4)
        self.assertLen({v.numpy().tobytes() for v in kernels}, len(kernels))  # no two alike

    def test_the_default_initialisers_are_those_of_keras(self):
        space = spaces.Box(-1, 1, (30,), np.float32)
        torso = self.torso(space, sizes=(20,))
        torso(tf.zeros([1, 30]))
        kernel = next(v for v in torso.variables if v.shape.rank == 2)
        self.assertAllLessEqual(tf.abs(kernel), (6 / 50) ** 0.5)
        self.assertGreater(float(tf.reduce_max(tf.abs(kernel))), 0.9 * (6 / 50) ** 0.5)

    def test_unknown_words(self):
        box = spaces.Box(-1, 1, (3,), np.float32)
        with self.assertRaisesRegex(SettingError, "network='resnett': expected one of .*resnet"):
            self.torso(box, "resnett")
        with self.assertRaisesRegex(SettingError, "initializer='orthogonall': .*orthogonal"):
            self.torso(box, initializer="orthogonall")


class HeadTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(0.01, 1.0)
    def test_gain(self, gain):
        layer = torsos.head(3, gain, "value")
        out = layer(tf.ones([2, 8]))
        self.assertEqual((out.shape, layer.name), ((2, 3), "value"))
        kernel = layer.kernel.numpy()
        self.assertAllClose(kernel.T @ kernel, gain**2 * np.eye(3), atol=1e-6)
        self.assertAllEqual(layer.bias, tf.zeros([3]))
