"""gSDE: the distribution over matrices, when a matrix is drawn, and a policy that uses it in both engines."""

import math

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree
from absl.testing import parameterized

from tfrl.nn import distributions, sde
from tfrl.runtime.inference import StepSignature, make_engine, reset_rows
from tfrl.types import EnvSpec, PolicyStep

F, A = 5, 2
BOX = gym.spaces.Box(-1, 1, (A,), np.float32)


def features(leading, seed=0):
    return np.tanh(np.random.default_rng(seed).normal(size=(*leading, F))).astype(np.float32)


def log_stds(seed=1):
    return (np.random.default_rng(seed).normal(size=(F, A)) * 0.5 - 1).astype(np.float32)


class DistributionTest(tf.test.TestCase):
    def test_params_equal_the_definition(self):
        phi, log_std, mean = features((3, 4)), log_stds(), np.zeros((3, 4, A), np.float32)
        params = sde.params(tf.constant(mean), tf.constant(phi), tf.constant(log_std))
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
        matrix = sde.Matrix(tf.constant(eps), tf.ones([count], tf.int32))
        x = sde.sample(tf.constant(mean), tf.constant(phi), tf.constant(log_stds()), matrix).numpy()
        params = sde.params(tf.constant(mean), tf.constant(phi[:1]), tf.constant(log_stds()))
        std = np.exp(params.numpy()[0, A:])
        error = 4.5 / math.sqrt(count)
        self.assertAllLess(np.abs(x.mean(axis=0) - mean[0]) / std, error)
        self.assertAllLess(np.abs(x.std(axis=0) / std - 1), error)
        self.assertLess(abs(np.corrcoef(x.T)[0, 1]), error)
        # And so its entropy is that of the Gaussian: the mean of -log p over samples.
        d = distributions.make(BOX)
        log_prob = d.log_prob(tf.repeat(params, count, axis=0), tf.constant(x)).numpy()
        self.assertAllClose(-log_prob.mean(), d.entropy(params)[0], atol=4.5 / math.sqrt(count))

    def test_the_same_matrix_is_the_same_function_of_the_state(self):
        phi = features((1,))
        matrix = sde.resample(sde.initial_state(1, F, A), tf.ones([1, F, A]), None)
        offset = sde.sample(tf.zeros([1, A]), phi, log_stds(), matrix)
        twice = sde.sample(tf.zeros([1, A]), 2 * phi, log_stds(), matrix)
        self.assertAllClose(twice, 2 * offset)
        expected = [[sum(phi[0, f] * np.exp(log_stds()[f, a]) for f in range(F)) for a in range(A)]]
        self.assertAllClose(offset, expected, rtol=1e-5)

    def test_gradients(self):
        d = distributions.make(BOX)
        phi, mean = features((4,)), np.random.default_rng(3).normal(size=(4, A))
        x = tf.constant(np.random.default_rng(4).normal(size=(4, A)), tf.float32)
        mean = tf.constant(mean, tf.float32)

        def total(log_std):
            return tf.reduce_sum(d.log_prob(sde.params(mean, phi, log_std), x))

        theory, numeric = tf.test.compute_gradient(total, [tf.constant(log_stds())], delta=1e-2)
        self.assertAllClose(theory[0], numeric[0], rtol=2e-2, atol=2e-2)
        self.assertGreater(np.abs(theory[0]).min(), 1e-4)

    def test_dead_features_keep_finite_gradients(self):
        d = distributions.make(BOX)
        phi, log_std = tf.Variable(tf.zeros([1, F])), tf.Variable(log_stds())
        with tf.GradientTape() as tape:
            params = sde.params(tf.zeros([1, A]), phi, log_std)
            value = d.log_prob(params, tf.zeros([1, A])) + d.entropy(params)
        for gradient in tape.gradient(value, [phi, log_std]):
            self.assertAllEqual(gradient, tf.zeros_like(gradient))

    def test_xla_equals_eager(self):
        arguments = tf.zeros([2, 3, A]), tf.constant(features((2, 3))), tf.constant(log_stds())
        compiled = tf.function(sde.params, jit_compile=True)
        self.assertAllClose(compiled(*arguments), sde.params(*arguments), rtol=1e-5)


class ResampleTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((1, [0, 1, 2, 3, 4, 5]), (3, [0, 3]), (None, [0]))
    def test_a_new_matrix_after_every_period(self, period, expected):
        state, drawn = sde.initial_state(2, F, A), []
        for t in range(6):
            before, state = state, sde.resample(state, tf.fill([2, F, A], t + 1.0), period)
            if not np.array_equal(before.eps, state.eps):
                drawn.append(t)
                self.assertAllEqual(state.eps, tf.fill([2, F, A], t + 1.0))
        self.assertEqual(drawn, expected)

    def test_a_period_of_nothing_is_refused(self):
        with self.assertRaisesRegex(ValueError, "period_env_steps: expected at least 1"):
            sde.resample(sde.initial_state(1, F, A), tf.zeros([1, F, A]), 0)

    def test_an_episode_start_draws_for_its_row_only(self):
        fresh = tree.map_structure(np.array, sde.initial_state(3, F, A))
        state = fresh
        for t in range(2):
            state = sde.resample(state, tf.fill([3, F, A], t + 1.0), 4)
        state = reset_rows(tree.map_structure(np.array, state), fresh, np.array([0, 1, 0], bool))
        state = sde.resample(sde.Matrix(*map(tf.constant, state)), tf.fill([3, F, A], 9.0), 4)
        self.assertAllEqual(state.eps[:, 0, 0], [1, 9, 1])
        self.assertAllEqual(state.age_env_steps, [3, 1, 3])
        # From here each row counts for itself.
        for t in range(2):
            state = sde.resample(state, tf.fill([3, F, A], 20.0 + t), 4)
        self.assertAllEqual(state.eps[:, 0, 0], [21, 9, 21])


class Explorer(tf.Module):
    """The policy that the module's docstring proposes."""

    def __init__(self, spec):
        super().__init__()
        self.distribution = distributions.make(spec.action_space)
        self.noise = {"sde": sde.noise_spec(F, A)}
        self.log_std = tf.Variable(log_stds())
        rng = np.random.default_rng(0)
        self._hidden = tf.Variable(rng.normal(size=(4, F)), dtype=tf.float32)
        self._head = tf.Variable(rng.normal(size=(F, A)), dtype=tf.float32)

    def initial_state(self, batch_size):
        return {"sde": sde.initial_state(batch_size, F, A)}

    def step(self, obs, state, knobs, noise, explore):
        phi = tf.tanh(obs @ self._hidden)
        mean = phi @ self._head
        params = sde.params(mean, phi, self.log_std)
        sample, matrix = mean, state["sde"]
        if explore:
            matrix = sde.resample(matrix, noise["sde"], 4)
            sample = sde.sample(mean, phi, self.log_std, matrix)
        log_prob = self.distribution.log_prob(params, sample)
        return PolicyStep(sample, {"sde": matrix}, {"log_prob": log_prob})


class PolicyTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters("function", "lite")
    def test_exploration_is_constant_between_draws(self, mode):
        spec = EnvSpec("e", gym.spaces.Box(-1, 1, (4,), np.float32), BOX)
        policy = Explorer(spec)
        signature = StepSignature(policy, spec, 3, [], explore=True)
        engine = make_engine(mode, policy, signature)
        noise = signature.draw(np.random.default_rng(0), 12)["sde"]
        obs = np.random.default_rng(1).uniform(-1, 1, (3, 4)).astype(np.float32)
        mean = policy.step(obs, policy.initial_state(3), {}, {}, False).action.numpy()
        state = tree.map_structure(np.array, policy.initial_state(3))
        offsets = []
        for t in range(12):
            step = engine.act(obs, state, {}, {"sde": noise[t]})
            expected = policy.step(obs, state, {}, {"sde": noise[t]}, True)
            tree.map_structure(
                lambda a, b: self.assertAllClose(a, b, rtol=1e-5, atol=1e-6), step, expected
            )
            state = step.state
            offsets.append(step.action - mean)
        for t in range(12):
            same = np.allclose(offsets[t], offsets[t - t % 4])
            self.assertTrue(same)
        for t in (4, 8):
            self.assertGreater(np.abs(offsets[t] - offsets[t - 1]).min(), 1e-4)
