"""Losses of action values: hand-made vectors, a slow NumPy twin, and where gradients go."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.losses import value
from tfrl.testing import reference

# Three transitions, the last one terminal; discount 0.99.
REWARD = np.float32([1, 0, -1])
DISCOUNT = np.float32([0.99, 0.99, 0])
TARGET_Q = np.float32([[1, 2], [3, 1], [5, 6]])
ONLINE_Q = np.float32([[2, 1], [0, 4], [1, 0]])
ACTION = np.int32([0, 1, 0])
Q_TM1 = np.float32([[2.5, -7], [9, 3], [-0.5, 4]])  # 2.5, 3, -0.5 are the values of the actions


def batch(size, actions, seed):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(scale=3.0, size=shape).astype(np.float32)
    return dict(
        q_tm1=normal(size, actions),
        a_tm1=rng.integers(actions, size=size).astype(np.int32),
        r_t=normal(size),
        discount_t=rng.choice(np.float32([0.0, 0.9, 0.81]), size),
        q_t=normal(size, actions),
        selector_t=normal(size, actions),
    )


def tensors(arrays):
    return {name: tf.constant(x) for name, x in arrays.items()}


class QLearningTest(tf.test.TestCase, parameterized.TestCase):
    def loss(self, selector, **changes):
        arrays = dict(
            q_tm1=Q_TM1,
            a_tm1=ACTION,
            r_t=REWARD,
            discount_t=DISCOUNT,
            q_t=TARGET_Q,
            selector_t=selector,
        )
        return value.q_learning(**tensors({**arrays, **changes}))

    def test_vanilla_vector(self):
        out = self.loss(TARGET_Q)
        self.assertAllClose(out.target, [2.98, 2.97, -1.0])
        self.assertAllClose(out.td_error, [-0.48, 0.03, 0.5])

    def test_double_vector(self):
        out = self.loss(ONLINE_Q)
        self.assertAllClose(out.target, [1.99, 0.99, -1.0])
        self.assertAllClose(out.td_error, [0.51, 2.01, 0.5])
        self.assertAllClose(out.loss, [0.13005, 1.51, 0.125])
        weighted = tf.reduce_mean(tf.constant([1.0, 0.5, 0.25]) * out.loss)
        self.assertAllClose(weighted, 0.30543333)

    def test_half_the_squared_error(self):
        out = value.q_learning(
            **tensors(
                dict(
                    q_tm1=Q_TM1,
                    a_tm1=ACTION,
                    r_t=REWARD,
                    discount_t=DISCOUNT,
                    q_t=TARGET_Q,
                    selector_t=ONLINE_Q,
                )
            ),
            delta=None,
        )
        self.assertAllClose(out.loss, [0.13005, 2.02005, 0.125])

    def test_target_of_a_termination_ignores_the_next_state(self):
        changed = TARGET_Q.copy()
        changed[2] = [1e6, -1e6]
        self.assertAllEqual(self.loss(TARGET_Q, q_t=changed).target[2], -1.0)
        self.assertNotAllClose(
            self.loss(TARGET_Q, q_t=changed, discount_t=np.full(3, 0.99, np.float32)).target[2],
            -1.0,
        )

    @parameterized.product(delta=(1.0, 0.3, None), actions=(1, 2, 7), seed=(0, 1))
    def test_equals_the_numpy_twin(self, delta, actions, seed):
        arrays = batch(33, actions, seed)
        out = value.q_learning(**tensors(arrays), delta=delta)
        loss, error, target = reference.q_learning(**arrays, delta=delta)
        self.assertAllClose(out.target, target, rtol=1e-5, atol=1e-5)
        self.assertAllClose(out.td_error, error, rtol=1e-5, atol=1e-5)
        self.assertAllClose(out.loss, loss, rtol=1e-5, atol=1e-5)

    def test_rows_do_not_depend_on_each_other(self):
        arrays = batch(16, 3, seed=2)
        order = np.random.default_rng(0).permutation(16)
        whole = value.q_learning(**tensors(arrays)).loss
        shuffled = value.q_learning(**tensors({k: x[order] for k, x in arrays.items()})).loss
        self.assertAllEqual(tf.gather(whole, order), shuffled)

    @parameterized.parameters(1.0, None)
    def test_gradient_reaches_only_the_values_of_the_actions_taken(self, delta):
        floats = {k: x for k, x in tensors(batch(12, 4, seed=3)).items() if k != "a_tm1"}
        actions = tf.constant(batch(12, 4, seed=3)["a_tm1"])
        with tf.GradientTape() as tape:
            tape.watch(floats)
            out = value.q_learning(a_tm1=actions, **floats, delta=delta)
            total = tf.reduce_sum(out.loss)
        gradients = tape.gradient(total, floats)
        for name in ("r_t", "discount_t", "q_t", "selector_t"):
            self.assertIsNone(gradients[name], name)
        slope = out.td_error if delta is None else tf.clip_by_value(out.td_error, -1.0, 1.0)
        expected = tf.one_hot(actions, 4) * slope[:, None]
        self.assertAllClose(gradients["q_tm1"], expected)
        self.assertGreater(float(tf.reduce_max(tf.abs(gradients["q_tm1"]))), 0.1)

    @parameterized.parameters(
        ("q_tm1", (12,), "q_tm1: expected rank 2"),
        ("a_tm1", (12, 1), "a_tm1: expected rank 1"),
        ("r_t", (12, 1), "r_t: expected rank 1"),
        ("discount_t", (), "discount_t: expected rank 1"),
        ("q_t", (12, 4, 1), "q_t: expected rank 2"),
        ("selector_t", (12,), "selector_t: expected rank 2"),
        ("selector_t", (12, 3), "incompatible"),
        ("q_t", (12, 5), "incompatible"),
        ("r_t", (1,), "incompatible"),
        ("discount_t", (1,), "incompatible"),
        ("a_tm1", (11,), "incompatible"),
    )
    def test_bad_shapes_raise(self, name, shape, message):
        arrays = tensors(batch(12, 4, seed=4))
        arrays[name] = tf.zeros(shape, arrays[name].dtype)
        with self.assertRaisesRegex(ValueError, message):
            value.q_learning(**arrays)


class ElementwiseTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(0.25, 1.0, 2.5)
    def test_huber_is_quadratic_then_linear(self, delta):
        x = np.linspace(-4, 4, 41).astype(np.float32)
        self.assertAllClose(value.huber(x, delta), [reference.huber(v, delta) for v in x])

    def test_huber_and_squared_agree_near_zero(self):
        x = np.linspace(-0.9, 0.9, 19).astype(np.float32)
        self.assertAllClose(value.huber(x), value.squared(x))

    def test_select_takes_one_value_per_row(self):
        q = tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, value.INVALID_VALUE]])
        self.assertAllEqual(value.select(q, tf.constant([1, 0, 0])), [2.0, 3.0, 5.0])

    def test_select_takes_one_value_for_each_agent(self):
        q = tf.constant([[[1.0, 2.0], [3.0, 4.0], [5.0, value.INVALID_VALUE]]])
        self.assertAllEqual(value.select(q, tf.constant([[1, 0, 0]])), [[2.0, 3.0, 5.0]])


class DuelingTest(tf.test.TestCase):
    def test_vector(self):
        q = value.dueling(tf.constant([[1.5]]), tf.constant([[1.0, 2.0, 6.0]]))
        self.assertAllClose(q, [[-0.5, 0.5, 4.5]])

    def test_vector_with_a_mask(self):
        q = value.dueling(
            tf.constant([[1.5]]), tf.constant([[1.0, 2.0, 6.0]]), tf.constant([[1.0, 1.0, 0.0]])
        )
        self.assertAllClose(q[:, :2], [[1.0, 2.0]])

    def test_equals_the_numpy_twin(self):
        rng = np.random.default_rng(0)
        state, advantage = rng.normal(size=(20, 1)), rng.normal(size=(20, 6))
        mask = rng.integers(0, 2, (20, 6))
        mask[:, 3] = 1
        out = value.dueling(*(tf.constant(x, tf.float32) for x in (state, advantage, mask)))
        expected = reference.dueling(state, advantage, mask)
        self.assertAllClose(out.numpy()[mask == 1], expected[mask == 1])


class MaskTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(tf.float32, tf.int8, tf.bool)
    def test_invalid_actions_are_never_bootstrapped(self, dtype):
        mask = tf.cast([[1, 0, 1]], dtype)
        q_t = value.mask_invalid(tf.constant([[2.0, 1e9, 3.0]]), mask)
        online = value.mask_invalid(tf.constant([[5.0, 1e9, 4.0]]), mask)
        common = dict(
            q_tm1=tf.zeros([1, 3]),
            a_tm1=tf.constant([0]),
            r_t=tf.constant([1.0]),
            discount_t=tf.constant([0.5]),
            q_t=q_t,
        )
        self.assertAllClose(value.q_learning(**common, selector_t=q_t).target, [2.5])
        self.assertAllClose(value.q_learning(**common, selector_t=online).target, [2.0])

    def test_a_final_state_without_valid_actions_gives_the_reward_alone(self):
        q_t = value.mask_invalid(tf.constant([[2.0, 3.0]]), tf.zeros([1, 2]))
        out = value.q_learning(
            tf.zeros([1, 2]), tf.constant([0]), tf.constant([7.0]), tf.constant([0.0]), q_t, q_t
        )
        self.assertAllEqual(out.target, [7.0])

    def test_no_mask_changes_nothing(self):
        q = tf.constant([[1.0, 2.0]])
        self.assertIs(value.mask_invalid(q, None), q)


class ImportanceWeightsTest(tf.test.TestCase):
    def test_vector(self):
        p = reference.prioritized_probabilities([1, 2, 4, 8], 0.5)
        self.assertAllClose(p, [0.13807119, 0.19526215, 0.27614237, 0.39052429])
        relative = tf.constant(p / p.min(), tf.float32)
        weights = value.importance_weights(relative, tf.constant(0.4))
        self.assertAllClose(weights, [1.0, 0.87055056, 0.75785828, 0.65975396])

    def test_vector_of_a_batch_normalised_by_its_own_largest_weight(self):
        p = reference.prioritized_probabilities([1, 2, 4, 8], 0.5)[[1, 3]]
        weights = value.importance_weights(tf.constant(p / p.min(), tf.float32), tf.constant(0.4))
        self.assertAllClose(weights, [1.0, 0.75785828])

    def test_equals_the_definition(self):
        p = np.random.default_rng(0).dirichlet(np.ones(50))
        raw = (50 * p) ** -0.7
        weights = value.importance_weights(tf.constant(p / p.min(), tf.float32), tf.constant(0.7))
        self.assertAllClose(weights, raw / raw.max(), rtol=1e-5)


class RescaleTest(tf.test.TestCase, parameterized.TestCase):
    def test_vectors(self):
        # sqrt(4) - 1 + 0.003, sqrt(100) - 1 + 0.099 and so on.
        x = tf.constant([0.0, 3.0, -3.0, 99.0, -99.0, 999_999.0])
        y = tf.constant([0.0, 1.003, -1.003, 9.099, -9.099, 1_998.999])
        self.assertAllClose(value.rescale(x, 1e-3), y, 1e-6, 1e-6)
        self.assertAllClose(value.unrescale(y, 1e-3), x, 1e-4, 1e-5)

    @parameterized.parameters(1e-3, 1e-2, 1.0)
    def test_equal_the_numpy_twins_and_undo_each_other(self, epsilon):
        magnitudes = np.logspace(-4, 5, 40)
        x = np.concatenate([-magnitudes, [0.0], magnitudes]).astype(np.float32)
        y = value.rescale(tf.constant(x), epsilon)
        self.assertAllClose(y, [reference.rescale(float(v), epsilon) for v in x], 1e-5, 1e-6)
        back = value.unrescale(tf.constant(x), epsilon)
        self.assertAllClose(back, [reference.unrescale(float(v), epsilon) for v in x], 1e-5, 1e-6)
        self.assertAllClose(value.unrescale(y, epsilon), x, 1e-4, 1e-6)
        same = value.backup(x, np.float32(0.9), x, epsilon, np)
        self.assertEqual(same.dtype, np.float32)
        self.assertAllClose(
            value.backup(tf.constant(x), 0.9, tf.constant(x), epsilon), same, 1e-5, 1e-6
        )

    @parameterized.parameters(None, 1e-6, 1e-3, 0.5)
    def test_a_terminal_observation_without_a_valid_action_counts_as_nothing(self, epsilon):
        masked = value.mask_invalid(tf.ones([1, 2]), tf.zeros([1, 2]))[:, 0]
        for ops in (tf, np):
            target = value.backup(
                np.float32([2.0]), np.float32([0.0]), masked.numpy(), epsilon, ops
            )
            expected = 2.0 if epsilon is None else 3.0**0.5 - 1.0 + 2.0 * epsilon
            self.assertAllClose(target, [expected])

    def test_targets_are_backed_up_outside_of_the_scale(self):
        arrays = batch(33, 4, seed=6)
        out = value.q_learning(**tensors(arrays), rescale_epsilon=1e-2)
        best = arrays["selector_t"].argmax(1)
        for i in range(33):
            bootstrap = reference.unrescale(float(arrays["q_t"][i, best[i]]), 1e-2)
            target = float(arrays["r_t"][i]) + float(arrays["discount_t"][i]) * bootstrap
            expected = reference.rescale(target, 1e-2)
            self.assertAllClose(out.target[i], expected, 1e-5, 1e-5)
        plain = value.q_learning(**tensors(arrays)).target
        self.assertNotAllClose(out.target, plain, 1e-2, 1e-2)

    def test_a_fixed_point_is_the_rescaled_value(self):
        """Reward 1 for ever with discount 0.9 is worth 10."""
        q = tf.constant([0.0])
        for _ in range(300):
            q = value.backup(tf.constant([1.0]), tf.constant([0.9]), q, 1e-3)
        self.assertAllClose(q, [reference.rescale(10.0, 1e-3)], 1e-4, 1e-4)


class SequencePriorityTest(tf.test.TestCase, parameterized.TestCase):
    # Two sequences of three steps, the last step of the second is padding.
    ERRORS = np.float32([[1, 2], [4, 0], [1, 100]])
    VALID = np.array([[1, 1], [1, 1], [1, 0]], bool)

    @parameterized.parameters((0.9, [3.8, 1.9]), (1.0, [4.0, 2.0]), (0.0, [2.0, 1.0]))
    def test_vectors(self, eta, expected):
        out = value.sequence_priority(tf.constant(self.ERRORS), tf.constant(self.VALID), eta)
        self.assertAllClose(out, expected)

    def test_equals_the_numpy_twin(self):
        rng = np.random.default_rng(0)
        errors = rng.exponential(size=(9, 30)).astype(np.float32)
        valid = rng.random((9, 30)) < 0.3
        valid[:, 0] = False
        out = value.sequence_priority(tf.constant(errors), tf.constant(valid), 0.7)
        self.assertAllClose(out, reference.sequence_priorities(errors, valid, 0.7))
        self.assertEqual(float(out[0]), 0.0)

    @parameterized.parameters(
        ((3,), (3, 2), "magnitude: expected rank 2"),
        ((3, 2), (3,), "valid: expected rank 2"),
        ((3, 2), (3, 1), "incompatible"),
    )
    def test_bad_shapes_raise(self, magnitude, valid, message):
        with self.assertRaisesRegex(ValueError, message):
            value.sequence_priority(tf.zeros(magnitude), tf.zeros(valid, tf.bool), 0.9)
