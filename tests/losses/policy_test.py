"""Losses of stochastic policies: vectors, a slow NumPy twin, and where gradients go."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.losses import policy
from tfrl.optim import apply
from tfrl.testing import reference


def log_probs(logits, actions):
    """(log pi(a) [N], entropy [N]) of categorical logits."""
    every = tf.nn.log_softmax(tf.constant(logits, tf.float32))
    entropy = -tf.reduce_sum(tf.exp(every) * every, axis=1)
    return tf.gather(every, actions, batch_dims=1), entropy


def kl(p_logits, q_logits):
    p, q = (tf.nn.log_softmax(tf.constant(x, tf.float32)) for x in (p_logits, q_logits))
    return tf.reduce_sum(tf.exp(p) * (p - q), axis=1)


def moments(x):
    return apply.masked_moments(x, tf.ones(x.shape, tf.bool))


class PolicyGradientTest(tf.test.TestCase):
    LOGITS = [[1, 0], [0, 1], [0.5, 0.5]]
    ADVANTAGES = [1.0, -2.0, 0.5]

    def test_vector_of_a2c(self):
        log_prob, entropy = log_probs(self.LOGITS, [0, 0, 1])
        self.assertAllClose(log_prob, [-0.31326169, -1.31326169, -0.69314718])
        loss = policy.policy_gradient(log_prob, tf.constant(self.ADVANTAGES))
        values = tf.constant([0.5, 0.5, 1.0])
        value_loss = 0.5 * policy.ppo_value(values, values, tf.constant([1.0, 0.0, 2.0]), None)
        self.assertAllClose(tf.reduce_sum(loss), -1.9666881)
        self.assertAllClose(tf.reduce_sum(value_loss), 0.75)
        self.assertAllClose(tf.reduce_sum(entropy), 1.8575534)
        total = loss + 0.5 * value_loss - 0.01 * entropy
        self.assertAllClose(tf.reduce_sum(total), -1.61026363)
        self.assertAllClose(tf.reduce_mean(total), -0.53675454)
        self.assertAllClose(tf.reduce_mean(loss), -0.6555627)

    def test_gradient_is_that_of_log_prob_alone(self):
        log_prob, advantages = tf.constant([-0.3, -1.0]), tf.constant([2.0, -3.0])
        with tf.GradientTape() as tape:
            tape.watch([log_prob, advantages])
            loss = policy.policy_gradient(log_prob, advantages)
        first, second = tape.gradient(loss, [log_prob, advantages])
        self.assertAllEqual(first, [-2.0, 3.0])
        self.assertIsNone(second)

    def test_shapes_that_would_broadcast_raise(self):
        with self.assertRaisesRegex(ValueError, "advantages: expected the shape of log_prob"):
            policy.policy_gradient(tf.zeros([4]), tf.zeros([4, 1]))
        with self.assertRaisesRegex(ValueError, "advantages: expected the shape of log_prob"):
            policy.policy_gradient(tf.zeros([4]), tf.zeros([1]))


class PpoTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (0.2, [1.2, 0.5, -1.5, -0.8, 2.1], -0.3), (0.3, [1.3, 0.5, -1.5, -0.7, 2.1], -0.34)
    )
    def test_surrogate_vector(self, clip, expected, mean):
        ratio = tf.constant([1.5, 0.5, 1.5, 0.5, 1.05])
        log_prob = tf.math.log(ratio)
        with tf.GradientTape() as tape:
            tape.watch(log_prob)
            out = policy.ppo_surrogate(
                log_prob, tf.zeros(5), tf.constant([1.0, 1, -1, -1, 2]), clip
            )
            total = tf.reduce_sum(out.loss)
        self.assertAllClose(-out.loss, expected)
        self.assertAllClose(tf.reduce_mean(out.loss), mean)
        self.assertAllClose(out.ratio, ratio)
        self.assertAllEqual(out.clipped, [True, True, True, True, False])
        # d/d log r of -r A where the ratio counts, exactly nothing where the limit does.
        gradient = tape.gradient(total, log_prob)
        self.assertAllClose(gradient, [0.0, -0.5, 1.5, 0.0, -2.1])
        self.assertAllEqual(tf.gather(gradient, [0, 3]), [0.0, 0.0])

    def test_value_vector(self):
        values, old = tf.constant([2.0, 0.0, 1.0]), tf.ones(3)
        targets = tf.constant([3.0, 1.5, 1.0])
        self.assertAllClose(policy.ppo_value(values, old, targets, 0.5), [2.25, 2.25, 0])
        self.assertAllClose(policy.ppo_value(values, old, targets, None), [1, 2.25, 0])
        self.assertAllClose(policy.ppo_value(values, old, targets, np.inf), [1, 2.25, 0])

    def test_whole_row_vector(self):
        old_logits, logits = [[1, 0, -1], [0, 0, 0]], [[0.5, 0.5, -1], [1, 0, -1]]
        old, _ = log_probs(old_logits, [0, 2])
        new, entropy = log_probs(logits, [0, 2])
        out = policy.ppo_surrogate(new, old, tf.constant([1.0, -1.0]), 0.3)
        value = policy.ppo_value(
            tf.constant([1.0, 2.0]), tf.constant([0.5, 0.0]), tf.constant([1.5, 1.0]), 10.0
        )
        divergence = kl(old_logits, logits)
        self.assertAllClose(out.ratio, [0.67617036, 0.27009172])
        self.assertAllClose(divergence, [0.10156646, 0.30899368])
        self.assertAllClose(kl(logits, old_logits), [0.10868978, 0.26621671])
        self.assertAllClose(entropy, [0.94946753, 0.83239558])
        total = out.loss + 0.2 * divergence + value
        self.assertAllClose(total, [-0.40585707, 1.76179874])
        self.assertAllClose(tf.reduce_mean(total), 0.67797083)

    @parameterized.product(clip=(0.1, 0.3), value_clip=(None, 0.2, 10.0), seed=(0, 1))
    def test_equals_the_numpy_twin(self, clip, value_clip, seed):
        rng = np.random.default_rng(seed)
        new, old, advantages, values, old_values, targets = rng.normal(size=(6, 200)).astype(
            np.float32
        )
        new = old + 0.5 * new
        out = policy.ppo_surrogate(*(tf.constant(x) for x in (new, old, advantages)), clip)
        value = policy.ppo_value(
            *(tf.constant(x) for x in (values, old_values, targets)), value_clip
        )
        expected = reference.ppo(
            new, old, advantages, values, old_values, targets, clip, value_clip
        )
        self.assertAllClose(out.loss, expected[0], rtol=1e-5, atol=1e-5)
        self.assertAllClose(value, expected[1], rtol=1e-5, atol=1e-5)
        self.assertBetween(float(tf.reduce_mean(tf.cast(out.clipped, tf.float32))), 0.1, 0.9)

    def test_gradient_reaches_only_what_learns(self):
        tensors = [tf.constant(x) for x in np.random.default_rng(2).normal(size=(6, 20))]
        log_prob, old, advantages, values, old_values, targets = tensors
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            loss = policy.ppo_surrogate(log_prob, old, advantages, 0.2).loss
            total = tf.reduce_sum(loss + policy.ppo_value(values, old_values, targets, 0.3))
        found = [g is not None for g in tape.gradient(total, tensors)]
        self.assertEqual(found, [True, False, False, True, False, False])

    def test_at_the_old_policy_the_gradient_is_the_policy_gradient(self):
        log_prob, advantages = tf.constant([-0.3, -1.0, -2.0]), tf.constant([2.0, -3.0, 0.0])
        with tf.GradientTape() as tape:
            tape.watch(log_prob)
            out = policy.ppo_surrogate(log_prob, tf.identity(log_prob), advantages, 0.2)
        self.assertAllEqual(out.ratio, [1.0, 1.0, 1.0])
        self.assertAllEqual(tape.gradient(out.loss, log_prob), [-2.0, 3.0, 0.0])

    @parameterized.parameters(500.0, -500.0)
    def test_extreme_ratios_give_finite_losses_and_gradients(self, log_ratio):
        log_prob = tf.fill([2], log_ratio)
        with tf.GradientTape() as tape:
            tape.watch(log_prob)
            out = policy.ppo_surrogate(log_prob, tf.zeros(2), tf.constant([1.0, -1.0]), 0.2)
        self.assertTrue(np.isfinite(out.loss).all())
        self.assertAllEqual(tape.gradient(out.loss, log_prob), [0.0, 0.0])

    @parameterized.parameters("old_log_prob", "advantages")
    def test_bad_shapes_raise(self, name):
        arrays = {k: tf.zeros([4]) for k in ("log_prob", "old_log_prob", "advantages")}
        arrays[name] = tf.zeros([4, 1])
        with self.assertRaisesRegex(ValueError, f"{name}: expected the shape of log_prob"):
            policy.ppo_surrogate(**arrays, clip=0.2)
        with self.assertRaisesRegex(ValueError, "targets: expected the shape of values"):
            policy.ppo_value(tf.zeros([4]), tf.zeros([4]), tf.zeros([5]), None)


class AppoTest(tf.test.TestCase):
    MU, OLD, NEW = [0.5, 0.25, 0.4], [0.4, 0.5, 0.1], [0.6, 0.3, 0.5]

    def surrogate(self, new, old, mu, advantages=(1.0, -1.0, 0.5), **options):
        new, old, mu = (tf.math.log(tf.constant(x)) for x in (new, old, mu))
        return policy.appo_surrogate(new, old, mu, tf.constant(advantages), 0.4, **options)

    def test_vector(self):
        out = self.surrogate(self.NEW, self.OLD, self.MU)
        self.assertAllClose(out.ratio, [1.5, 0.6, 2.5])
        self.assertAllClose(-out.loss, [1.4, -0.6, 0.7])
        self.assertAllClose(tf.reduce_mean(out.loss), -0.5)

    def test_without_a_binding_limit_it_is_ppo(self):
        out = self.surrogate(self.NEW, self.OLD, self.MU, max_correction=100.0)
        new, old = (tf.math.log(tf.constant(x)) for x in (self.NEW, self.OLD))
        ppo = policy.ppo_surrogate(new, old, tf.constant([1.0, -1.0, 0.5]), 0.4)
        self.assertAllClose(out.loss, ppo.loss)

    def test_gradient_reaches_only_the_policy_that_learns(self):
        tensors = [tf.math.log(tf.constant(x)) for x in (self.NEW, self.OLD, self.MU)]
        advantages = tf.constant([1.0, -1.0, 0.5])
        with tf.GradientTape() as tape:
            tape.watch([*tensors, advantages])
            loss = policy.appo_surrogate(*tensors, advantages, 1.6).loss
        gradients = tape.gradient(loss, [*tensors, advantages])
        self.assertAllClose(gradients[0], [-1.5, 0.6, -1.25])
        self.assertEqual(gradients[1:], [None, None, None])


class StandardiseTest(tf.test.TestCase):
    X = np.float32([1.0, 2.0, 3.0, 4.0])

    def test_vector_of_the_batch_form(self):
        out = policy.standardise(self.X, *moments(self.X))
        self.assertAllClose(out, [-1.34164079, -0.4472136, 0.4472136, 1.34164079])

    def test_vector_of_the_minibatch_form(self):
        out = policy.standardise_minibatch(self.X, *moments(self.X), tf.constant(4.0))
        self.assertAllClose(out, [-1.161895, -0.38729833, 0.38729833, 1.161895])

    def test_a_small_deviation_is_limited(self):
        x = tf.constant([5.0, 5.0 + 1e-5])
        self.assertLess(float(tf.reduce_max(policy.standardise(x, *moments(x)))), 0.1)
        one = tf.constant([3.0])
        self.assertAllEqual(policy.standardise(one, *moments(one)), [0.0])
        count = tf.constant(1.0)
        self.assertAllEqual(policy.standardise_minibatch(one, *moments(one), count), [0.0])


class DiagnosticsTest(tf.test.TestCase, parameterized.TestCase):
    def test_explained_variance_vector(self):
        targets, values = tf.constant([1.0, 2, 3, 4]), tf.constant([1.1, 1.9, 3.2, 3.6])
        out = policy.explained_variance(moments(targets - values)[1], moments(targets)[1])
        self.assertAllClose(out, 0.958)

    def test_constant_targets_explain_nothing(self):
        self.assertEqual(float(policy.explained_variance(tf.constant(2.0), tf.constant(0.0))), 0.0)

    def test_kl_coefficient_vector(self):
        coefficient, found = tf.constant(0.2), []
        for divergence in (0.03, 0.021, 0.02, 0.01, 0.005, 0.0049, 0.001):
            coefficient = policy.kl_coefficient(coefficient, tf.constant(divergence), 0.01)
            found.append(float(coefficient))
        self.assertAllClose(found, [0.3, 0.45, 0.45, 0.45, 0.45, 0.225, 0.1125])

    @parameterized.parameters(0.0, 0.01, 10.0)
    def test_a_coefficient_of_zero_stays(self, divergence):
        out = policy.kl_coefficient(tf.constant(0.0), tf.constant(divergence), 0.01)
        self.assertEqual(float(out), 0.0)
