"""Returns and GAE: vectors, a slow NumPy twin, identities, padding, and how the graph grows."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.losses import returns
from tfrl.testing import reference


def column(*numbers, dtype=np.float32):
    """One environment's steps as [T, 1]."""
    return tf.constant(np.array(numbers, dtype)[:, None])


def sequences(length, batch, seed, padded=False, own=False):
    """Random episodes, terminated or truncated, as keyword arguments of `gae` without lambda.

    Args:
      own: discounts are the environment's own, another in every step.
    """
    rng = np.random.default_rng(seed)
    normal = lambda: rng.normal(scale=2.0, size=(length, batch)).astype(np.float32)
    valid = rng.random((length, batch)) > 0.2 if padded else np.ones((length, batch), bool)
    ends = rng.random((length, batch)) < 0.1
    terminated = ends & (rng.random((length, batch)) < 0.5)
    return dict(
        reward=normal(),
        discount=np.where(terminated, 0.0, _discounts(rng, own, 0.99, terminated)).astype(
            np.float32
        ),
        is_last=ends | ~valid,
        values=normal(),
        values_next=normal(),
        valid=valid,
    )


def _discounts(rng, own, gamma, like):
    """gamma, or where the environment gives its own any discount in [0, 1), 0 in one step of ten."""
    return rng.random(like.shape) * (rng.random(like.shape) > 0.1) if own else gamma


def as_returns(arrays):
    renamed = {k: v for k, v in arrays.items() if k not in ("values", "values_next")}
    return {**renamed, "bootstrap_next": arrays["values_next"]}


def tensors(arrays):
    return {name: tf.constant(x) for name, x in arrays.items()}


class DiscountedReturnsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((0.0, [5.23, 4.7, 3.0]), (10.0, [12.52, 12.8, 12.0]))
    def test_vector(self, bootstrap, expected):
        out = returns.discounted_returns(
            column(1, 2, 3), column(0.9, 0.9, 0.9), column(0, 0, 0, dtype=bool),
            column(5e5, 5e5, bootstrap),
        )  # fmt: skip
        self.assertAllClose(out[:, 0], expected)

    def test_a_truncation_bootstraps_and_a_termination_does_not(self):
        is_last = column(0, 1, 0, dtype=bool)
        bootstrap = column(7, 10, 100)
        rewards = column(1, 2, 3)
        truncated = returns.discounted_returns(rewards, column(0.9, 0.9, 0.9), is_last, bootstrap)
        self.assertAllClose(truncated[:, 0], [1 + 0.9 * 11, 2 + 0.9 * 10, 3 + 0.9 * 100])
        terminated = returns.discounted_returns(rewards, column(0.9, 0.0, 0.9), is_last, bootstrap)
        self.assertAllClose(terminated[:, 0], [1 + 0.9 * 2, 2.0, 3 + 0.9 * 100])

    @parameterized.product(length=(1, 2, 7, 65), padded=(False, True), own=(False, True))
    def test_equals_the_numpy_twin(self, length, padded, own):
        arrays = as_returns(sequences(length, 5, seed=length, padded=padded, own=own))
        out = returns.discounted_returns(**tensors(arrays))
        self.assertAllClose(out, reference.discounted_returns(**arrays), rtol=1e-5, atol=1e-5)


class NStepTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (0.0, [0.729, 0.729, 0.0, 0.0, 0.0]), (0.9, [0.729, 0.729, 0.729, 0.81, 0.9])
    )
    def test_vector(self, last, discounts):
        """Discount 0.9, n 3, rewards 1 to 5: the episode ends terminated, and truncated."""
        out = returns.n_step(
            column(1, 2, 3, 4, 5), column(0.9, 0.9, 0.9, 0.9, last),
            column(0, 0, 0, 0, 1, dtype=bool), 3,
        )  # fmt: skip
        self.assertAllClose(out.reward[:, 0], [5.23, 7.94, 10.65, 8.5, 5.0])
        self.assertAllClose(out.discount[:, 0], discounts)
        self.assertAllEqual(out.steps[:, 0], [3, 3, 3, 2, 1])

    def test_no_sum_reaches_over_an_end(self):
        is_last = column(0, 1, 0, 0, dtype=bool)
        out = returns.n_step(column(1, 2, 4, 8), column(1, 0, 1, 1), is_last, 3)
        self.assertAllEqual(out.reward[:, 0], [3, 2, 12, 8])
        self.assertAllEqual(out.discount[:, 0], [0, 0, 1, 1])
        self.assertAllEqual(out.steps[:, 0], [2, 1, 2, 1])

    @parameterized.product(n=(1, 2, 5, 40), padded=(False, True), own=(False, True))
    def test_equals_the_numpy_twin(self, n, padded, own):
        arrays = sequences(23, 7, seed=n, padded=padded, own=own)
        arrays = {k: arrays[k] for k in ("reward", "discount", "is_last", "valid")}
        out = returns.n_step(**tensors(arrays), n=n)
        for mine, theirs in zip(out, reference.n_step(**arrays, n=n), strict=True):
            shown = arrays["valid"]
            self.assertAllClose(mine.numpy()[shown], theirs[shown], 1e-5, 1e-5)

    def test_padding_changes_nothing(self):
        arrays = sequences(23, 7, seed=5, padded=True)
        arrays = {k: arrays[k] for k in ("reward", "discount", "is_last", "valid")}
        whole = returns.n_step(**tensors(arrays), n=4)
        padding = ~arrays["valid"]
        for name in ("reward", "discount"):
            arrays[name] = np.where(padding, np.float32(7.0), arrays[name])
        for mine, theirs in zip(returns.n_step(**tensors(arrays), n=4), whole, strict=True):
            self.assertAllEqual(mine.numpy()[~padding], theirs.numpy()[~padding])

    def test_shapes_that_do_not_fit_raise(self):
        with self.assertRaisesRegex(ValueError, "is_last: expected the shape of reward"):
            returns.n_step(tf.zeros([3, 2]), tf.zeros([3, 2]), tf.zeros([3, 1], tf.bool), 2)


class GaeTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters(
        ("truncated", (0.9, 0.9, 0.9), 0, 0.8, [2.84432, 2.006, 2.3], [3.34432, 3.006, 3.8]),
        ("terminated", (0.9, 0.9, 0.0), 0, 0.8, [1.9112, 0.71, 0.5], [2.4112, 1.71, 2.0]),
        ("terminated_after_1", (0.9, 0, 0.9), 1, 0.8, [0.68, -1.0, 2.3], [1.18, 0.0, 3.8]),
        ("lambda_1", (0.9, 0.9, 0.9), 0, 1.0, [3.578, 2.42, 2.3], None),
        ("lambda_0", (0.9, 0.9, 0.9), 0, 0.0, [1.4, 0.35, 2.3], None),
    )
    def test_vector(self, discount, cut_1, lambda_, advantages, targets):
        out = returns.gae(
            column(1, 0, 2), column(*discount), column(0, cut_1, 0, dtype=bool),
            column(0.5, 1, 1.5), column(1, 1.5, 2), lambda_,
        )  # fmt: skip
        self.assertAllClose(out.advantages[:, 0], advantages)
        if targets is not None:
            self.assertAllClose(out.targets[:, 0], targets)

    @parameterized.parameters(
        (0.0, [2.1399575, 1.2865, 0.3, 1.0]), (0.9, [2.6662955, 1.9021, 1.02, 1.0])
    )
    def test_two_episodes(self, last_discount, expected):
        """The reset observation's value 0.9 must not be read at the truncation."""
        out = returns.gae(
            column(1, 1, 1, 1), column(0.9, 0.9, last_discount, 0.9),
            column(0, 0, 1, 0, dtype=bool), column(0.5, 0.6, 0.7, 0.9),
            column(0.6, 0.7, 0.8, 1.0), 0.95,
        )  # fmt: skip
        self.assertAllClose(out.advantages[:, 0], expected)

    @parameterized.parameters(
        (0.0, [2.1399575, 1.2865, 0.3, 0, 1.0]), (0.9, [2.6662955, 1.9021, 1.02, 0, 1.0])
    )
    def test_two_episodes_with_the_dummy_step_of_a_reset(self, last_discount, expected):
        out = returns.gae(
            column(1, 1, 1, 0, 1), column(0.9, 0.9, last_discount, 0.9, 0.9),
            column(0, 0, 1, 1, 0, dtype=bool), column(0.5, 0.6, 0.7, 0.8, 0.9),
            column(0.6, 0.7, 0.8, 0.9, 1.0), 0.95, column(1, 1, 1, 0, 1, dtype=bool),
        )  # fmt: skip
        self.assertAllClose(out.advantages[:, 0], expected)
        self.assertEqual(float(out.advantages[3, 0]), 0.0)

    def test_folding_the_bootstrap_into_the_reward_is_the_same(self):
        out = returns.gae(
            column(1, 1, 1 + 0.9 * 0.8, 1), column(0.9, 0.9, 0, 0.9), column(0, 0, 1, 0, dtype=bool),
            column(0.5, 0.6, 0.7, 0.9), column(0.6, 0.7, 0.0, 1.0), 0.95,
        )  # fmt: skip
        self.assertAllClose(out.advantages[:, 0], [2.6662955, 1.9021, 1.02, 1.0])

    @parameterized.product(
        length=(1, 2, 7, 128), lambda_=(0.0, 0.95, 1.0), padded=(False, True), own=(False, True)
    )
    def test_equals_the_numpy_twin(self, length, lambda_, padded, own):
        arrays = sequences(length, 6, seed=length, padded=padded, own=own)
        out = returns.gae(**tensors(arrays), lambda_=lambda_)
        expected = reference.gae(**arrays, lambda_=lambda_)
        self.assertAllClose(out.advantages, expected, rtol=1e-5, atol=1e-5)
        self.assertAllClose(out.targets, expected + arrays["values"], rtol=1e-5, atol=1e-5)

    @parameterized.product(compiled=(False, True), gamma=(0.99, 0.999, 1.0))
    def test_long_sequences_stay_accurate_in_float32(self, compiled, gamma):
        """Rounding is measured against the sum of the magnitudes that are added."""
        rng = np.random.default_rng(0)
        reward = rng.normal(scale=3.0, size=(1024, 4)).astype(np.float32)
        zeros = np.zeros_like(reward)
        arrays = dict(
            discount=np.full_like(reward, gamma), is_last=zeros > 0, values=zeros, values_next=zeros
        )
        run = tf.function(returns.gae, jit_compile=compiled, autograph=False)
        out = run(tf.constant(reward), **tensors(arrays), lambda_=1.0).advantages
        expected = reference.gae(reward, **arrays, lambda_=1.0)
        magnitude = reference.gae(np.abs(reward), **arrays, lambda_=1.0)
        self.assertGreater(magnitude.max(), 200.0)
        self.assertLess(np.max(np.abs(out - expected) / magnitude), 1e-6)

    def test_lambda_1_is_the_monte_carlo_return_minus_the_value(self):
        arrays = sequences(50, 4, seed=1)
        # The telescoping needs one value per observation.
        follows = ~arrays["is_last"][:-1]
        arrays["values_next"][:-1] = np.where(
            follows, arrays["values"][1:], arrays["values_next"][:-1]
        )
        out = returns.gae(**tensors(arrays), lambda_=1.0)
        monte_carlo = returns.discounted_returns(**tensors(as_returns(arrays)))
        self.assertAllClose(out.targets, monte_carlo, rtol=1e-4, atol=1e-4)

    def test_lambda_0_is_the_one_step_error(self):
        arrays = sequences(20, 4, seed=2)
        out = returns.gae(**tensors(arrays), lambda_=0.0)
        target = arrays["reward"] + arrays["discount"] * arrays["values_next"]
        self.assertAllClose(out.targets, target, rtol=1e-5, atol=1e-5)


class PropertiesTest(tf.test.TestCase, parameterized.TestCase):
    def both(self, arrays):
        advantages = returns.gae(**tensors(arrays), lambda_=0.9).advantages
        return advantages, returns.discounted_returns(**tensors(as_returns(arrays)))

    @parameterized.parameters("numbers", "nan")
    def test_padding_never_changes_a_result(self, content):
        arrays = sequences(40, 5, seed=3, padded=True)
        padding = ~arrays["valid"]
        self.assertGreater(padding.sum(), 20)
        changed = {k: v.copy() for k, v in arrays.items()}
        rng = np.random.default_rng(9)
        for name in ("reward", "discount", "values", "values_next"):
            changed[name][padding] = (
                np.nan if content == "nan" else 1e3 * rng.normal(size=padding.sum())
            )
        changed["is_last"][padding] = rng.random(padding.sum()) < 0.5
        for before, after in zip(self.both(arrays), self.both(changed), strict=True):
            self.assertAllEqual(before, after)
            self.assertAllEqual(after[padding], np.zeros(padding.sum()))
            self.assertGreater(np.abs(after[~padding]).min(), 0.0)

    def test_columns_do_not_depend_on_each_other(self):
        arrays = sequences(30, 8, seed=4, padded=True)
        order = np.random.default_rng(0).permutation(8)
        shuffled = {k: x[:, order] for k, x in arrays.items()}
        for whole, part in zip(self.both(arrays), self.both(shuffled), strict=True):
            self.assertAllEqual(tf.gather(whole, order, axis=1), part)

    def test_a_trace_stops_at_a_cut(self):
        arrays = sequences(30, 3, seed=5)
        arrays["is_last"][11] = True
        changed = {k: v.copy() for k, v in arrays.items()}
        changed["reward"][12:] += 5.0
        for before, after in zip(self.both(arrays), self.both(changed), strict=True):
            self.assertAllEqual(before[:12], after[:12])
            self.assertGreater(np.abs((before - after).numpy()[12:]).min(), 0.0)

    def test_no_gradient_flows(self):
        floats = tensors(sequences(10, 3, seed=6))
        rest = {name: floats.pop(name) for name in ("is_last", "valid")}
        with tf.GradientTape() as tape:
            tape.watch(floats)
            out = returns.gae(**floats, **rest, lambda_=0.9)
            total = returns.discounted_returns(
                floats["reward"], floats["discount"], rest["is_last"], floats["values_next"]
            )
            loss = tf.reduce_sum(out.advantages + out.targets + total)
        self.assertEqual(set(tape.gradient(loss, floats).values()), {None})

    @parameterized.parameters(
        ("reward", (10,), "reward: expected rank 2"),
        ("values", (10, 3, 1), "values: expected rank 2"),
        ("is_last", (10, 1), "is_last: expected the shape of reward"),
        ("values_next", (11, 3), "values_next: expected the shape of reward"),
    )
    def test_bad_shapes_raise(self, name, shape, message):
        arrays = tensors(sequences(10, 3, seed=7))
        arrays[name] = tf.zeros(shape, arrays[name].dtype)
        with self.assertRaisesRegex(ValueError, message):
            returns.gae(**arrays, lambda_=0.9)

    def test_a_time_axis_of_unknown_length_raises(self):
        run = tf.function(returns.linear_recurrence, autograph=False)
        spec = tf.TensorSpec([None, 2])
        with self.assertRaisesRegex(ValueError, "time axis of known length"):
            run.get_concrete_function(spec, spec)

    def test_the_graph_grows_with_the_logarithm_of_the_length(self):
        def operations(length):
            spec = tf.TensorSpec([length, 2])
            run = tf.function(returns.linear_recurrence, autograph=False)
            return len(run.get_concrete_function(spec, spec).graph.get_operations())

        self.assertLess(operations(1024) - operations(512), 50)
        self.assertLess(operations(1024), 400)
