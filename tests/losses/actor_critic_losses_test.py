"""Losses of DDPG, TD3, SAC and TQC against numbers worked out by hand."""

import numpy as np
import tensorflow as tf

from tfrl.losses import actor_critic, value
from tfrl.nn import distributions


class TargetTest(tf.test.TestCase):
    def test_targets_of_ddpg_and_td3(self):
        reward, discount = tf.constant([1.0, -0.5]), tf.constant([0.99, 0.0])
        first, second = tf.constant([2.0, 3.0]), tf.constant([1.5, 4.0])
        self.assertAllClose(value.backup(reward, discount, first), [2.98, -0.5])
        lowest = tf.reduce_min(tf.stack([first, second]), axis=0)
        self.assertAllClose(value.backup(reward, discount, lowest), [2.485, -0.5])

    def test_smoothing_clips_the_noise_and_then_the_action(self):
        action, noise = tf.constant([[0.9, -0.2, 0.0]]), tf.constant([[0.7, -0.3, -0.9]])
        self.assertAllClose(actor_critic.smooth_action(action, noise, 0.5), [[1.0, -0.5, -0.5]])

    def test_losses_of_two_critics_are_added(self):
        target = tf.constant([1.0, 1.0])
        q = tf.constant([[1.5, -1.0], [1.0, 1.0]])
        squared = actor_critic.critics(q, target)
        self.assertAllClose(tf.reduce_mean(squared.loss), 1.0625)
        huber = actor_critic.critics(q, target, 1.0)
        self.assertAllClose(tf.reduce_mean(huber.loss), 0.8125)
        self.assertAllClose(squared.td_error, [[0.5, -2.0], [0.0, 0.0]])
        twice = actor_critic.critics(tf.stack([q[0], q[0]]), target)
        self.assertAllClose(tf.reduce_mean(twice.loss), 2 * 1.0625)

    def test_no_gradient_reaches_the_target(self):
        q, target = tf.Variable([[1.0, 2.0]]), tf.Variable([0.0, 0.0])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(actor_critic.critics(q, target).loss)
        on_q, on_target = tape.gradient(loss, [q, target])
        self.assertAllClose(on_q, [[1.0, 2.0]])
        self.assertIsNone(on_target)

    def test_shapes_that_do_not_fit_are_refused(self):
        with self.assertRaisesRegex(ValueError, "q_tm1: expected rank 2"):
            actor_critic.critics(tf.zeros([3]), tf.zeros([3]))
        with self.assertRaises(ValueError):
            actor_critic.critics(tf.zeros([2, 3]), tf.zeros([2]))


class SoftTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.u, self.mean = tf.constant([[0.3, -1.2]]), tf.constant([[0.1, -1.0]])
        self.log_std = tf.constant([[-0.5, 0.2]])

    def test_log_probability_of_a_squashed_sample(self):
        self.assertAllClose(tf.tanh(self.u), [[0.29131261, -0.83365461]])
        log_prob = distributions.squashed_log_prob(self.mean, self.log_std, self.u)
        self.assertAllClose(log_prob, [-0.32958962], atol=1e-6)

    def test_it_is_that_of_the_distribution_without_the_range(self):
        import gymnasium as gym

        box = gym.spaces.Box(-2.0, 2.0, (2,))
        squashed = distributions.make(box, squash=True)
        params = tf.concat([self.mean, self.log_std], -1)
        on_range = squashed.log_prob(params, self.u)
        self.assertAllClose(on_range, [-1.71588398], atol=1e-6)
        ours = distributions.squashed_log_prob(self.mean, self.log_std, self.u)
        self.assertAllClose(on_range + squashed.log_half_range, ours, atol=1e-6)

    def test_the_density_integrates_to_one(self):
        for mean, log_std in ((0.0, 0.0), (0.7, -1.0), (-2.0, 0.5), (0.3, 1.0)):
            u = np.linspace(-30.0, 30.0, 200_001, dtype=np.float64)
            log_prob = distributions.squashed_log_prob(
                tf.fill([u.size, 1], mean), tf.fill([u.size, 1], log_std),
                tf.constant(u[:, None], tf.float32),
            )  # fmt: skip
            # Over a = tanh(u), with da = (1 - a^2) du.
            density = np.exp(log_prob.numpy().astype(np.float64)) / np.cosh(u) ** 2
            self.assertAllClose(np.trapezoid(density, u) if hasattr(np, "trapezoid")
                                else np.trapz(density, u), 1.0, atol=1e-3)  # fmt: skip

    def test_target_and_losses_with_the_entropy(self):
        log_prob = tf.constant([[-0.32958962]])
        one = tf.ones([1, 1])
        lowest = tf.constant([[1.8]])
        soft = actor_critic.soft_value(lowest, one, log_prob, 0.2)
        self.assertAllClose(value.backup(1.0, 0.99, soft), [2.84725874])
        self.assertAllClose(-soft, [-1.86591792])

    def test_temperature_rises_where_the_entropy_is_too_low(self):
        log_alpha = tf.Variable(-1.0)
        for log_prob, loss in ((-0.32958962, -2.32958962), (3.0, 1.0)):
            with tf.GradientTape() as tape:
                got = actor_critic.temperature(log_alpha, tf.constant([log_prob]), -2.0)
            self.assertAllClose(got, [loss])
            gradient = tape.gradient(got, log_alpha)
            self.assertAllClose(gradient, -(log_prob - 2.0))
            # Descent raises log alpha exactly where the entropy, -log_prob, is below -2.
            self.assertEqual(float(gradient) < 0, -log_prob < -2.0)

    def test_expectation_over_discrete_actions(self):
        probability = tf.constant([[0.5, 0.25, 0.25]])
        q = tf.constant([[1.0, 2.0, 3.0]])
        soft = actor_critic.soft_value(q, probability, tf.math.log(probability), 0.1)
        entropy = 0.5 * np.log(2) + 0.5 * np.log(4)
        self.assertAllClose(soft, [0.5 + 0.5 + 0.75 + 0.1 * entropy])


class QuantileTest(tf.test.TestCase):
    def test_the_largest_atoms_of_all_critics_are_left_out(self):
        atoms = tf.constant([[[1.0, 5.0, 3.0]], [[2.0, 9.0, 0.0]]])
        self.assertAllClose(actor_critic.truncate(atoms, 1), [[0.0, 1.0, 2.0, 3.0]])
        self.assertAllClose(actor_critic.truncate(atoms, 0), [[0.0, 1.0, 2.0, 3.0, 5.0, 9.0]])

    def test_quantile_regression_against_loops(self):
        rng = np.random.default_rng(0)
        quantiles = rng.normal(size=(2, 4, 3)).astype(np.float32)
        target = rng.normal(size=(4, 5)).astype(np.float32)
        expected = np.zeros(4)
        for critic in range(2):
            for row in range(4):
                for i in range(3):
                    for j in range(5):
                        u = target[row, j] - quantiles[critic, row, i]
                        huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                        tau = (2 * i + 1) / 6
                        expected[row] += abs(tau - float(u < 0)) * huber / (3 * 5)
        got = actor_critic.quantile_critics(tf.constant(quantiles), tf.constant(target))
        self.assertAllClose(got.loss, expected, atol=1e-5)
        self.assertAllClose(got.td_error, quantiles.mean(2) - target.mean(1), atol=1e-6)


if __name__ == "__main__":
    tf.test.main()
