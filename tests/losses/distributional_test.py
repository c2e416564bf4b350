"""Losses of distributions of returns: hand-made vectors, NumPy twins, what is kept, and where gradients go."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.losses import distributional, value
from tfrl.testing import reference

ATOMS = distributional.support(-2.0, 2.0, 5)
P = np.float32([0.1, 0.2, 0.4, 0.2, 0.1])


def project(p, r, d, atoms=ATOMS):
    p, r, d = (tf.constant(x, tf.float32) for x in (p, r, d))
    return distributional.categorical_projection(p, r, d, atoms)


def random_rows(size, atoms, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(atoms), size).astype(np.float32)
    r = rng.normal(scale=2.0, size=size).astype(np.float32)
    d = rng.choice(np.float32([0.0, 0.5, 0.9, 1.0]), size)
    return p, r, d


class ProjectionTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (0.5, 0.9, [0.03, 0.15, 0.32, 0.32, 0.18]),
        (0.5, 0.0, [0, 0, 0.5, 0.5, 0]),
        (1.0, 0.0, [0, 0, 0, 1, 0]),
        (0.0, 1.0, P),
        (10.0, 0.9, [0, 0, 0, 0, 1]),
        (-0.25, 0.729, [0.0708, 0.325, 0.4084, 0.175, 0.0208]),
    )
    def test_vector(self, r, d, expected):
        self.assertAllClose(project([P], [r], [d]), [expected], atol=1e-6)

    @parameterized.product(atoms=(2, 5, 51), seed=(0, 1))
    def test_equals_the_numpy_twin_and_keeps_the_mass(self, atoms, seed):
        p, r, d = random_rows(40, atoms, seed)
        z = distributional.support(-3.0, 4.0, atoms)
        out = project(p, r, d, z)
        self.assertAllClose(out, reference.categorical_projection(p, r, d, z), atol=2e-6)
        self.assertAllClose(tf.reduce_sum(out, 1), np.ones(40), atol=1e-5)
        self.assertAllGreaterEqual(out, 0.0)

    def test_rounding_at_the_upper_end_makes_no_negative_mass(self):
        for atoms in range(2, 120):
            z = distributional.support(-7.3, 4.1, atoms)
            out = project(np.full([1, atoms], 1 / atoms), [100.0], [1.0], z)
            self.assertAllGreaterEqual(out, 0.0)
            self.assertAllClose(out[0, -1], 1.0, atol=2e-5)  # an ulp of the place

    def test_what_is_not_a_number_stays_so(self):
        self.assertTrue(np.isnan(project([P], [np.nan], [0.9])).any())

    def test_keeps_the_mean_where_nothing_is_clipped(self):
        p, r, d = random_rows(40, 51, seed=2)
        z = distributional.support(-100.0, 100.0, 51)
        p[:, :10] = p[:, -10:] = 0.0  # what is left stays on the support
        p /= p.sum(1, keepdims=True)
        mean = tf.reduce_sum(project(p, r, d, z) * z, 1)
        self.assertAllClose(mean, r + d * (p * z).sum(1), atol=1e-4)

    def test_bad_shapes_raise(self):
        with self.assertRaisesRegex(ValueError, "probabilities: expected rank 2"):
            project(P, [0.0], [1.0])
        with self.assertRaisesRegex(ValueError, "r_t: expected rank 1"):
            project([P], [[0.0]], [1.0])
        with self.assertRaisesRegex(ValueError, "incompatible"):
            project([P], [0.0], [1.0, 1.0])
        with self.assertRaisesRegex(ValueError, "incompatible"):
            project([P[:4]], [0.0], [1.0])


class CategoricalTest(tf.test.TestCase):
    def test_cross_entropy_and_divergence_vector(self):
        logits_t = tf.math.log(tf.constant([[P]]))
        out = distributional.categorical_q_learning(
            tf.constant([[[0.1, 0.2, 0.3, 0.4, 0.5]]]), tf.constant([0]), tf.constant([0.5]),
            tf.constant([0.9]), logits_t, tf.zeros([1, 1]), ATOMS,
        )  # fmt: skip
        self.assertAllClose(out.target, [[0.03, 0.15, 0.32, 0.32, 0.18]])
        self.assertAllClose(out.loss, [1.57241633])
        self.assertAllClose(out.kl, [0.14474994], atol=1e-6)

    def test_double_vector(self):
        atoms = distributional.support(-1.0, 1.0, 3)
        online = tf.constant([[[0.0, 0.0, 1.0], [1.0, 0.0, 0.5]]])
        selector = tf.reduce_sum(tf.nn.softmax(online) * atoms, -1)
        self.assertAllClose(selector, [[0.36417533, -0.19928451]])
        target = tf.math.log(tf.constant([[[0.6, 0.2, 0.2], [0.2, 0.3, 0.5]]]))
        out = distributional.categorical_q_learning(
            online, tf.constant([1]), tf.constant([0.25]), tf.constant([0.5]), target, selector,
            atoms,
        )  # fmt: skip
        self.assertAllClose(out.target, [[0.15, 0.65, 0.2]])
        mean = -0.19928451 - (0.2 - 0.15)
        self.assertAllClose(out.td_error, [mean])

    def test_no_divergence_when_the_prediction_is_the_target(self):
        logits = tf.math.log(tf.constant([[P]]))
        out = distributional.categorical_q_learning(
            logits, tf.constant([0]), tf.constant([0.0]), tf.constant([1.0]), logits,
            tf.zeros([1, 1]), ATOMS,
        )  # fmt: skip
        self.assertAllClose(out.kl, [0.0], atol=1e-6)
        self.assertGreater(float(out.loss[0]), 1.0)

    def test_a_certain_target_makes_no_nan(self):
        logits = tf.Variable([[[0.0, 1.0, 2.0, 1.0, 0.0]]])
        with tf.GradientTape() as tape:
            out = distributional.categorical_q_learning(
                logits, tf.constant([0]), tf.constant([1.0]), tf.constant([0.0]), logits,
                tf.zeros([1, 1]), ATOMS,
            )  # fmt: skip
        gradient = tape.gradient(out.loss, logits)
        self.assertAllClose(out.kl, out.loss)
        p = tf.nn.softmax(logits)
        self.assertAllClose(gradient, p - [[[0.0, 0, 0, 1, 0]]])

    def test_gradient_reaches_only_the_logits_of_the_action_taken(self):
        rng = np.random.default_rng(0)
        normal = lambda *shape: tf.constant(rng.normal(size=shape), tf.float32)
        floats = dict(
            logits_tm1=normal(6, 3, 5), r_t=normal(6), discount_t=normal(6),
            logits_t=normal(6, 3, 5), selector_t=normal(6, 3),
        )  # fmt: skip
        actions = tf.constant(rng.integers(3, size=6), tf.int32)
        with tf.GradientTape() as tape:
            tape.watch(floats)
            out = distributional.categorical_q_learning(a_tm1=actions, atoms=ATOMS, **floats)
            total = tf.reduce_sum(out.loss)
        gradients = tape.gradient(total, floats)
        for name in ("r_t", "discount_t", "logits_t", "selector_t"):
            self.assertIsNone(gradients[name], name)
        expected = tf.one_hot(actions, 3)[:, :, None] * (out.prediction - out.target)[:, None, :]
        self.assertAllClose(gradients["logits_tm1"], expected)

    def test_bad_shapes_raise(self):
        arguments = dict(
            logits_tm1=tf.zeros([4, 3, 5]), a_tm1=tf.zeros([4], tf.int32), r_t=tf.zeros([4]),
            discount_t=tf.zeros([4]), logits_t=tf.zeros([4, 3, 5]), selector_t=tf.zeros([4, 3]),
        )  # fmt: skip
        wrong = (("logits_tm1", (4, 5)), ("a_tm1", (4, 1)), ("logits_t", (4, 2, 5)),
                 ("selector_t", (4, 2)), ("r_t", (3,)), ("discount_t", (1,)))  # fmt: skip
        for name, shape in wrong:
            changed = {**arguments, name: tf.zeros(shape, arguments[name].dtype)}
            with self.assertRaises(ValueError):
                distributional.categorical_q_learning(**changed, atoms=ATOMS)


class QuantileTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ([1, 2], [0.25, 0.75], [0, 3], 1.0, 0.75),
        ([1, 2], [0.25, 0.75], [0, 3], 0.5, 1.0),
        ([0, 0.5, 2], [1 / 6, 0.5, 5 / 6], [1, -1], 1.0, 0.78125),
        ([0.5, 1.5], [0.1, 0.6], [0, 1, 2], 1.0, 0.25),
    )
    def test_vector(self, theta, tau, target, delta, expected):
        theta, tau, target = (tf.constant([x], tf.float32) for x in (theta, tau, target))
        self.assertAllClose(
            distributional.quantile_huber(theta, tau, target, delta), [expected], atol=1e-6
        )
        shared = distributional.quantile_huber(theta, tau[0], target, delta)
        self.assertAllClose(shared, [expected], atol=1e-6)

    def test_gradient_vector(self):
        theta = tf.Variable([[1.0, 2.0]])
        with tf.GradientTape() as tape:
            loss = distributional.quantile_huber(
                theta, tf.constant([0.25, 0.75]), tf.constant([[0.0, 3.0]])
            )
        self.assertAllClose(tape.gradient(loss, theta), [[0.25, -0.25]])

    @parameterized.product(delta=(0.3, 1.0), sizes=((1, 1), (4, 7), (8, 3)), seed=(0, 1))
    def test_equals_the_numpy_twin(self, delta, sizes, seed):
        rng = np.random.default_rng(seed)
        theta, tau, target = (
            x.astype(np.float32)
            for x in (rng.normal(size=(20, sizes[0])), rng.random((20, sizes[0])),
                      rng.normal(scale=2.0, size=(20, sizes[1])))
        )  # fmt: skip
        out = distributional.quantile_huber(
            tf.constant(theta), tf.constant(tau), tf.constant(target), delta
        )
        twin = reference.quantile_huber(theta, tau, target, delta)
        self.assertAllClose(out, twin, rtol=1e-5, atol=1e-5)

    def test_its_minimum_is_near_the_quantiles(self):
        samples = tf.constant(np.random.default_rng(0).normal(size=(1, 4_000)), tf.float32)
        tau = tf.constant([0.1, 0.5, 0.9])
        theta = tf.Variable(tf.zeros([1, 3]))
        for _ in range(300):
            with tf.GradientTape() as tape:
                loss = distributional.quantile_huber(theta, tau, samples, 0.01)
            theta.assign_sub(0.2 * tape.gradient(loss, theta))
        expected = np.quantile(samples, [0.1, 0.5, 0.9])
        self.assertAllClose(theta[0], expected, atol=0.05, rtol=0)

    def test_midpoints(self):
        self.assertAllClose(distributional.midpoints(4), [0.125, 0.375, 0.625, 0.875])
        self.assertEqual(distributional.midpoints(4).dtype, np.float32)

    def test_the_selector_chooses_and_a_termination_ends(self):
        quantiles_t = tf.constant([[[1.0, 2.0], [5.0, 9.0]]] * 3)
        out = distributional.quantile_q_learning(
            tf.zeros([3, 2, 2]), tf.constant(distributional.midpoints(2)), tf.constant([0, 0, 1]),
            tf.constant([1.0, 1.0, 1.0]), tf.constant([0.5, 0.5, 0.0]), quantiles_t,
            tf.constant([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]),
        )  # fmt: skip
        self.assertAllClose(out.target, [[1.5, 2.0], [3.5, 5.5], [1.0, 1.0]])
        self.assertAllClose(out.td_error, [-1.75, -4.5, -1.0])

    def test_gradient_reaches_only_the_quantiles_of_the_action_taken(self):
        rng = np.random.default_rng(0)
        normal = lambda *shape: tf.constant(rng.normal(size=shape), tf.float32)
        floats = dict(
            quantiles_tm1=normal(6, 3, 4), tau=tf.constant(rng.random((6, 4)), tf.float32),
            r_t=normal(6), discount_t=normal(6), quantiles_t=normal(6, 3, 5),
            selector_t=normal(6, 3),
        )  # fmt: skip
        actions = tf.constant(rng.integers(3, size=6), tf.int32)
        with tf.GradientTape() as tape:
            tape.watch(floats)
            out = distributional.quantile_q_learning(a_tm1=actions, **floats)
            total = tf.reduce_sum(out.loss)
        gradients = tape.gradient(total, floats)
        for name in ("r_t", "discount_t", "quantiles_t", "selector_t"):
            self.assertIsNone(gradients[name], name)
        reached = tf.reduce_any(gradients["quantiles_tm1"] != 0.0, axis=2)
        self.assertAllEqual(reached, tf.one_hot(actions, 3, True, False, dtype=tf.bool))

    def test_bad_shapes_raise(self):
        arguments = dict(
            quantiles_tm1=tf.zeros([4, 3, 5]), tau=tf.zeros([4, 5]), a_tm1=tf.zeros([4], tf.int32),
            r_t=tf.zeros([4]), discount_t=tf.zeros([4]), quantiles_t=tf.zeros([4, 3, 6]),
            selector_t=tf.zeros([4, 3]),
        )  # fmt: skip
        distributional.quantile_q_learning(**arguments)
        wrong = (("quantiles_tm1", (4, 5)), ("tau", (4, 6)), ("a_tm1", (4, 1)), ("r_t", (3,)),
                 ("quantiles_t", (4, 2, 5)), ("selector_t", (4, 2)), ("discount_t", (1,)))  # fmt: skip
        for name, shape in wrong:
            changed = {**arguments, name: tf.zeros(shape, arguments[name].dtype)}
            with self.assertRaises(ValueError):
                distributional.quantile_q_learning(**changed)


class DuelingDistributionTest(tf.test.TestCase):
    def test_vector(self):
        logits = value.dueling(
            tf.constant([[[0.5, 0.0, -0.5]]]), tf.constant([[[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]])
        )
        self.assertAllClose(logits, [[[-0.5, 0, 0.5], [1.5, 0, -1.5]]])
        mean = tf.reduce_sum(tf.nn.softmax(logits) * [-1.0, 0.0, 1.0], -1)
        self.assertAllClose(mean, [[0.32015667, -0.74648446]])

    def test_the_mean_runs_over_valid_actions(self):
        out = value.dueling(
            tf.constant([[[1.0, 2.0]]]), tf.constant([[[1.0, 4.0], [3.0, 0.0], [9.0, 9.0]]]),
            tf.constant([[1, 1, 0]]),
        )  # fmt: skip
        self.assertAllClose(out[:, :2], [[[0.0, 4.0], [2.0, 0.0]]])


class RescaledTest(tf.test.TestCase):
    EPSILON = 1e-2

    def backup(self, r, d, z):
        """h(r + d h^-1(z)), number by number."""
        inner = float(r) + float(d) * reference.unrescale(float(z), self.EPSILON)
        return np.float32(reference.rescale(inner, self.EPSILON))

    def test_each_atom_is_backed_up_outside_of_the_scale(self):
        _, r, d = random_rows(5, 5, seed=3)
        p = np.eye(5, dtype=np.float32)  # row j has all its mass on atom j
        moved = np.array([self.backup(*x) for x in zip(r, d, ATOMS, strict=True)])
        expected = reference.categorical_projection(p, moved, np.zeros(5), ATOMS)
        arguments = (tf.constant(x) for x in (p, r, d))
        out = distributional.categorical_projection(*arguments, ATOMS, self.EPSILON)
        self.assertAllClose(out, expected, atol=1e-5)
        self.assertNotAllClose(out, project(p, r, d), atol=1e-2)

    def test_each_quantile_is_backed_up_outside_of_the_scale(self):
        rng = np.random.default_rng(4)
        theta = rng.normal(scale=3.0, size=(6, 1, 4)).astype(np.float32)
        _, r, d = random_rows(6, 4, seed=4)
        out = distributional.quantile_q_learning(
            tf.constant(theta), tf.constant(distributional.midpoints(4)), tf.zeros([6], tf.int32),
            tf.constant(r), tf.constant(d), tf.constant(theta), tf.zeros([6, 1]),
            rescale_epsilon=self.EPSILON,
        )  # fmt: skip
        expected = [
            [self.backup(r[b], d[b], z) for z in theta[b, 0]] for b in range(6)
        ]  # fmt: skip
        self.assertAllClose(out.target, expected, 1e-5, 1e-5)
