"""Noisy layers: vectors, a NumPy twin, what noise does and when there is none."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.nn import noisy
from tfrl.testing import reference


def layer_of(kernel, bias, sigma, kind="factorised"):
    layer = noisy.NoisyDense(*np.shape(kernel), kind, None, "n")
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    layer.kernel_sigma.assign(np.full(np.shape(kernel), sigma, np.float32))
    layer.bias_sigma.assign(np.full(np.shape(bias), sigma, np.float32))
    return layer


def draws(layer, rows, seed):
    rng = np.random.default_rng(seed)
    return {
        name: tf.constant(rng.normal(size=(rows, *n.shape)), tf.float32)
        for name, n in layer.noise.items()
    }


class NoisyDenseTest(tf.test.TestCase, parameterized.TestCase):
    def test_vector(self):
        layer = layer_of([[0.1, 0.2], [0.3, 0.4]], [0.01, 0.02], 0.5 / np.sqrt(2))
        x = tf.constant([[1.0, -1.0]])
        noise = {"n_in": tf.constant([[4.0, -1.0]]), "n_out": tf.constant([[0.25, -9.0]])}
        self.assertAllClose(layer(x, noise), [[0.51710678, -4.42264069]])
        self.assertAllClose(layer(x), [[-0.19, -0.18]])

    @parameterized.product(kind=noisy.KINDS, rows=(1, 6))
    def test_equals_the_numpy_twin(self, kind, rows):
        tf.keras.utils.set_random_seed(0)
        layer = noisy.NoisyDense(4, 3, kind, 0.7, "n")
        x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
        noise = draws(layer, rows, 1)
        first, second = (noise[name].numpy().repeat(6 // rows, 0) for name in layer.noise)
        twin = reference.noisy_dense(
            x, *(v.numpy() for v in (layer.kernel, layer.bias, layer.kernel_sigma, layer.bias_sigma)),
            first, second, kind == "factorised",
        )  # fmt: skip
        self.assertAllClose(layer(tf.constant(x), noise), twin, rtol=1e-5, atol=1e-5)

    @parameterized.product(kind=noisy.KINDS, rows=(1, 5))
    def test_several_inputs_of_a_row_meet_the_same_weights(self, kind, rows):
        layer = noisy.NoisyDense(4, 3, kind, 0.7, "n")
        x = tf.constant(np.random.default_rng(0).normal(size=(5, 2, 4)), tf.float32)
        noise = draws(layer, rows, 1)
        out = layer(x, noise)
        self.assertEqual(out.shape, (5, 2, 3))
        for i in range(2):
            self.assertAllClose(out[:, i], layer(x[:, i], noise), rtol=1e-5, atol=1e-5)

    def test_first_values(self):
        layer = noisy.NoisyDense(16, 500, "factorised", None, "n")
        self.assertAllEqual(layer.kernel_sigma, np.full((16, 500), np.float32(0.5 / 4)))
        self.assertAllEqual(layer.bias_sigma, np.full(500, np.float32(0.5 / 4)))
        for mean in (layer.kernel, layer.bias):
            self.assertBetween(float(tf.reduce_max(mean)), 0.23, 0.25)
            self.assertBetween(float(tf.reduce_min(mean)), -0.25, -0.23)
        layer = noisy.NoisyDense(12, 500, "independent", None, "n")
        self.assertAllEqual(layer.kernel_sigma, np.full((12, 500), np.float32(0.017)))
        self.assertBetween(float(tf.reduce_max(layer.kernel)), 0.49, 0.5)

    @parameterized.parameters(*noisy.KINDS)
    def test_the_size_of_the_noise_is_learnt(self, kind):
        layer = noisy.NoisyDense(4, 3, kind, None, "n")
        x, noise = tf.ones([2, 4]), draws(layer, 1, 0)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(x, noise) ** 2)
        for gradient in tape.gradient(total, layer.trainable_variables):
            self.assertGreater(float(tf.reduce_max(tf.abs(gradient))), 0.0)
        self.assertLen(layer.trainable_variables, 4)

    @parameterized.parameters(*noisy.KINDS)
    def test_noise_has_mean_zero(self, kind):
        layer = noisy.NoisyDense(3, 2, kind, 0.5, "n")
        x = tf.constant([[1.0, -2.0, 0.5]])
        out = layer(tf.repeat(x, 40_000, 0), draws(layer, 40_000, 0))
        self.assertAllClose(tf.reduce_mean(out, 0), layer(x)[0], atol=0.03, rtol=0)
        self.assertGreater(float(tf.reduce_min(tf.math.reduce_std(out, 0))), 0.3)


class DrawTest(tf.test.TestCase):
    def test_a_draw_is_for_the_whole_batch_and_repeats_with_its_seed(self):
        layers = [noisy.NoisyDense(40, 30, kind, None, kind) for kind in noisy.KINDS]
        declared = {**layers[0].noise, **layers[1].noise}
        one = noisy.draw(declared, tf.constant([1, 2]))
        self.assertEqual({k: tuple(x.shape[1:]) for k, x in one.items()},
                         {k: n.shape for k, n in declared.items()})  # fmt: skip
        self.assertEqual({x.shape[0] for x in one.values()}, {1})
        again = noisy.draw(declared, tf.constant([1, 2]))
        other = noisy.draw(declared, tf.constant([1, 3]))
        for name in declared:
            self.assertAllEqual(one[name], again[name])
            self.assertNotAllEqual(one[name], other[name])
        values = one["independent_kernel"].numpy()
        self.assertAllClose([values.mean(), values.std()], [0.0, 1.0], atol=0.1)

    def test_nothing_to_draw(self):
        self.assertIsNone(noisy.draw({}, tf.constant([0, 0])))
