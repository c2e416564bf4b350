"""gSDE: the distribution over matrices. How policies use it is in actor_critic_test.py."""

import math

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.nn import distributions, sde

F, A = 5, 2
BOX = gym.spaces.Box(-1, 1, (A,), np.float32)


def features(leading, seed=0):
    return np.tanh(np.random.default_rng(seed).normal(size=(*leading, F))).astype(np.float32)


def log_stds(seed=1):
    return (np.random.default_rng(seed).normal(size=(F, A)) * 0.5 - 1).astype(np.float32)


def params_of(mean, phi, log_std):
    """Params of the Gaussian that the exploration is."""
    return tf.concat([mean, sde.log_std(phi, log_std)], -1)


class DistributionTest(tf.test.TestCase):
    def test_params_equal_the_definition(self):
        phi, log_std, mean = features((3, 4)), log_stds(), np.zeros((3, 4, A), np.float32)
        params = params_of(tf.constant(mean), tf.constant(phi), tf.constant(log_std))
        self.assertEqual(params.shape, (3, 4, 2 * A))
        for t in range(3):
            for b in range(4):
                for a in range(A):
                    variance = sum(
                        float(phi[t, b, f]) ** 2 * math.exp(2 * float(log_std[f, a]))
                        for f in range(F)
                    )
                    self.assertAllClose(
                        params[t, b, A + a], 0.5 * math.log(variance + 1e-6), rtol=1e-5
                    )

    def test_samples_over_matrices_have_the_moments_of_the_params(self):
        count = 200_000
        phi, mean = np.repeat(features((1,)), count, axis=0), np.float32([[0.5, -1.0]])
        eps = np.random.default_rng(2).standard_normal((count, F, A), np.float32)
        params = params_of(tf.constant(mean), tf.constant(phi[:1]), tf.constant(log_stds()))
        d = distributions.make(BOX)
        normal = sde.normal(tf.constant(phi), tf.constant(log_stds()), tf.constant(eps))
        x = d.sample(params, {"action": normal}).numpy()
        std = np.exp(params.numpy()[0, A:])
        error = 4.5 / math.sqrt(count)
        self.assertAllLess(np.abs(x.mean(axis=0) - mean[0]) / std, error)
        self.assertAllLess(np.abs(x.std(axis=0) / std - 1), error)
        self.assertLess(abs(np.corrcoef(x.T)[0, 1]), error)
        # And so its entropy is that of the Gaussian: the mean of -log p over samples.
        log_prob = d.log_prob(tf.repeat(params, count, axis=0), tf.constant(x)).numpy()
        self.assertAllClose(-log_prob.mean(), d.entropy(params)[0], atol=4.5 / math.sqrt(count))

    def test_the_same_matrix_is_the_same_function_of_the_state(self):
        phi = features((1,))
        eps = tf.ones([1, F, A])

        def offset(phi):
            return sde.normal(phi, log_stds(), eps) * tf.exp(sde.log_std(phi, log_stds()))

        self.assertAllClose(offset(2 * phi), 2 * offset(phi), rtol=1e-5)
        expected = [[sum(phi[0, f] * np.exp(log_stds()[f, a]) for f in range(F)) for a in range(A)]]
        self.assertAllClose(offset(phi), expected, rtol=1e-5)

    def test_gradients(self):
        d = distributions.make(BOX)
        phi, mean = features((4,)), np.random.default_rng(3).normal(size=(4, A))
        x = tf.constant(np.random.default_rng(4).normal(size=(4, A)), tf.float32)
        mean = tf.constant(mean, tf.float32)

        def total(log_std):
            return tf.reduce_sum(d.log_prob(params_of(mean, phi, log_std), x))

        theory, numeric = tf.test.compute_gradient(total, [tf.constant(log_stds())], delta=1e-2)
        self.assertAllClose(theory[0], numeric[0], rtol=2e-2, atol=2e-2)
        self.assertGreater(np.abs(theory[0]).min(), 1e-4)

    def test_dead_features_keep_finite_gradients_and_no_gradient_reaches_features(self):
        d = distributions.make(BOX)
        for features_ in (tf.zeros([1, F]), tf.constant(features((1,)))):
            phi, log_std = tf.Variable(features_), tf.Variable(log_stds())
            with tf.GradientTape() as tape:
                params = params_of(tf.zeros([1, A]), phi, log_std)
                value = d.log_prob(params, tf.ones([1, A])) + d.entropy(params)
            to_phi, to_log_std = tape.gradient(value, [phi, log_std])
            self.assertIsNone(to_phi)
            self.assertTrue(np.isfinite(to_log_std).all())
            self.assertEqual(bool(np.any(to_log_std)), bool(np.any(features_)))

    def test_xla_equals_eager(self):
        arguments = tf.zeros([2, 3, A]), tf.constant(features((2, 3))), tf.constant(log_stds())
        compiled = tf.function(params_of, jit_compile=True)
        self.assertAllClose(compiled(*arguments), params_of(*arguments), rtol=1e-5)
