"""V-trace: vectors, a slow NumPy twin, identities, ends of episodes, and padding."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.losses import returns, vtrace
from tfrl.testing import reference

FLOATS = ("log_prob", "behaviour_log_prob", "reward", "discount", "values", "values_next")


def column(*numbers, dtype=np.float32):
    """One environment's steps as [T, 1]."""
    return tf.constant(np.array(numbers, dtype)[:, None])


def sequences(length, batch, seed, padded=False, own=False):
    """Random off-policy episodes, terminated or truncated; one value per observation inside an episode."""
    rng = np.random.default_rng(seed)
    normal = lambda scale: rng.normal(scale=scale, size=(length, batch)).astype(np.float32)
    valid = rng.random((length, batch)) > 0.2 if padded else np.ones((length, batch), bool)
    ends = rng.random((length, batch)) < 0.1
    terminated = ends & (rng.random((length, batch)) < 0.5)
    is_last = ends | ~valid
    values, values_next = normal(2.0), normal(2.0)
    values_next[:-1] = np.where(is_last[:-1], values_next[:-1], values[1:])
    return dict(
        log_prob=normal(1.0),
        behaviour_log_prob=normal(1.0),
        reward=normal(2.0),
        discount=np.where(terminated, 0.0, rng.random(ends.shape) if own else 0.95).astype(
            np.float32
        ),
        is_last=is_last,
        values=values,
        values_next=values_next,
        valid=valid,
    )


def tensors(arrays):
    return {name: tf.constant(x) for name, x in arrays.items()}


class VectorsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters(
        ("clipped", {}, [4.294, 3.66, 4.8], [3.794, 2.66, 3.3]),
        ("rho_bar_1.5", dict(rho_bar=1.5), [5.66225, 4.4025, 6.45], [4.46225, 3.4025, 3.3]),
        ("pg_rho_bar_2", dict(pg_rho_bar=2.0), [4.294, 3.66, 4.8], [7.588, 2.66, 4.95]),
        ("not_clipped", dict(rho_bar=None, pg_rho_bar=None),
         [6.36225, 4.4025, 6.45], [8.9245, 3.4025, 4.95]),
        ("lambda_.9", dict(lambda_=0.9), [3.934315, 3.5115, 4.8], [3.66035, 2.66, 3.3]),
        ("c_bar_.5", dict(c_bar=0.5), [3.097, 3.66, 4.8], [3.794, 2.66, 3.3]),
        ("terminated_after_1", dict(discount=(0.9, 0, 0.9), is_last=(0, 1, 0)),
         [2.35, 1.5, 4.8], [1.85, 0.5, 3.3]),
        ("terminated_at_the_end", dict(discount=(0.9, 0.9, 0), is_last=(0, 0, 1)),
         [3.565, 2.85, 3.0], [3.065, 1.85, 1.5]),
        ("on_policy", dict(rho=(1, 1, 1)), [6.688, 6.32, 4.8], [6.188, 5.32, 3.3]),
    )  # fmt: skip
    def test_vector(self, changes, targets, advantages):
        changes = dict(changes)
        out = vtrace.from_log_probs(
            tf.math.log(column(*changes.pop("rho", (2, 0.5, 1.5)))),
            column(0, 0, 0),
            column(1, 2, 3),
            column(*changes.pop("discount", (0.9, 0.9, 0.9))),
            column(*changes.pop("is_last", (0, 0, 0)), dtype=bool),
            column(0.5, 1, 1.5),
            column(1, 1.5, 2),
            **changes,
        )
        self.assertAllClose(out.targets[:, 0], targets)
        self.assertAllClose(out.advantages[:, 0], advantages)

    def test_vector_from_logits(self):
        mu, pi = ([[0.0, 0], [0, 1], [1, 0]], [[1.0, 0], [0, 0], [1, 1]])
        action = tf.one_hot([0, 1, 0], 2)
        log_prob, behaviour = (
            tf.reduce_sum(tf.nn.log_softmax(x) * action, axis=1)[:, None] for x in (pi, mu)
        )
        values = column(0, 0.5, 1)
        out = vtrace.from_log_probs(
            log_prob, behaviour, column(1, 0, -1), column(0.99, 0.99, 0.99),
            column(0, 0, 0, dtype=bool), values, column(0.5, 1, 0.25),
        )  # fmt: skip
        self.assertAllClose(out.rho[:, 0], [1.46211716, 0.68393972, 0.68393972])
        self.assertAllClose(out.targets[:, 0], [1.02331951, 0.02355506, -0.19860436])
        self.assertAllClose(out.advantages[:, 0], [1.02331951, -0.47644494, -1.19860436])
        # The paper's losses, as sums.
        self.assertAllClose(tf.reduce_sum(-log_prob * out.advantages), -0.8404889, atol=1e-6)
        self.assertAllClose(0.5 * tf.reduce_sum((values - out.targets) ** 2), 1.35541751)


class TwinTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(
        length=(1, 2, 33),
        limits=((1.0, 1.0, 1.0), (1.5, 3.0, 0.7), (None, None, None)),
        padded=(False, True),
        own=(False, True),
    )
    def test_equals_the_numpy_twin(self, length, limits, padded, own):
        arrays = sequences(length, 5, seed=length, padded=padded, own=own)
        names = ("rho_bar", "pg_rho_bar", "c_bar")
        out = vtrace.from_log_probs(
            **tensors(arrays), **dict(zip(names, limits, strict=True)), lambda_=0.9
        )
        unlimited = {n: np.inf if x is None else x for n, x in zip(names, limits, strict=True)}
        advantages, targets = reference.vtrace(**arrays, **unlimited, lambda_=0.9)
        if None not in limits:
            self.assertAllClose(out.targets, targets, rtol=1e-4, atol=1e-4)
            self.assertAllClose(out.advantages, advantages, rtol=1e-4, atol=1e-4)
        else:  # products of unlimited ratios are as large as they please
            scale = 1.0 + np.max(np.abs(targets))
            self.assertAllClose(out.targets / scale, targets / scale, rtol=0, atol=1e-5)
            self.assertAllClose(out.advantages / scale, advantages / scale, rtol=0, atol=1e-4)

    def test_compiled_equals_eager(self):
        arrays = tensors(sequences(20, 4, seed=0, padded=True))
        run = tf.function(vtrace.from_log_probs, jit_compile=True, autograph=False)
        for compiled, eager in zip(run(**arrays), vtrace.from_log_probs(**arrays), strict=True):
            self.assertAllClose(compiled, eager, rtol=1e-5, atol=1e-5)


class PropertiesTest(tf.test.TestCase, parameterized.TestCase):
    def test_on_policy_targets_are_bootstrapped_n_step_returns(self):
        arrays = sequences(30, 4, seed=1)
        arrays["behaviour_log_prob"] = arrays["log_prob"]
        out = vtrace.from_log_probs(**tensors(arrays))
        expected = reference.discounted_returns(
            *(arrays[k] for k in ("reward", "discount", "is_last", "values_next"))
        )
        self.assertAllClose(out.targets, expected, rtol=1e-4, atol=1e-4)

    @parameterized.parameters(0.0, 0.9, 1.0)
    def test_on_policy_targets_are_those_of_gae(self, lambda_):
        arrays = sequences(30, 4, seed=2, padded=True)
        arrays["behaviour_log_prob"] = arrays["log_prob"]
        out = vtrace.from_log_probs(**tensors(arrays), lambda_=lambda_)
        rest = {k: v for k, v in arrays.items() if "log_prob" not in k}
        expected = returns.gae(**tensors(rest), lambda_=lambda_)
        self.assertAllClose(out.targets, expected.targets, rtol=1e-4, atol=1e-4)

    def test_a_truncation_bootstraps_from_the_final_observation(self):
        arrays = sequences(10, 3, seed=3)
        arrays["is_last"][4], arrays["discount"][4] = True, 0.95
        arrays["values_next"][4] = [3.0, -2.0, 7.0]
        out = vtrace.from_log_probs(**tensors(arrays))
        error = arrays["reward"][4] + 0.95 * np.float32([3.0, -2.0, 7.0]) - arrays["values"][4]
        rho = np.minimum(1.0, np.exp(arrays["log_prob"][4] - arrays["behaviour_log_prob"][4]))
        self.assertAllClose(out.advantages[4], rho * error, rtol=1e-5)
        self.assertAllClose(out.targets[4], arrays["values"][4] + rho * error, rtol=1e-5)
        later = {k: v.copy() for k, v in arrays.items()}
        for name in ("reward", "values", "log_prob"):
            later[name][5:] += 1.0
        after = vtrace.from_log_probs(**tensors(later))
        self.assertAllEqual(out.targets[:5], after.targets[:5])
        self.assertAllEqual(out.advantages[:5], after.advantages[:5])

    @parameterized.parameters("numbers", "nan")
    def test_padding_never_changes_a_result(self, content):
        arrays = sequences(40, 5, seed=4, padded=True)
        padding = ~arrays["valid"]
        changed = {k: v.copy() for k, v in arrays.items()}
        rng = np.random.default_rng(9)
        for name in FLOATS:
            changed[name][padding] = (
                np.nan if content == "nan" else 1e3 * rng.normal(size=padding.sum())
            )
        before, after = (vtrace.from_log_probs(**tensors(x)) for x in (arrays, changed))
        self.assertAllEqual(before.advantages, after.advantages)
        self.assertAllEqual(before.targets[~padding], after.targets[~padding])
        self.assertAllEqual(after.advantages[padding], np.zeros(padding.sum()))
        self.assertAllEqual(after.rho[padding], np.ones(padding.sum()))
        self.assertTrue(np.isfinite(after.targets[~padding]).all())

    def test_extreme_log_ratios_stay_finite(self):
        arrays = sequences(8, 2, seed=5)
        arrays["log_prob"] = np.full((8, 2), 300.0, np.float32)
        arrays["behaviour_log_prob"][:4] = 600.0
        out = vtrace.from_log_probs(**tensors(arrays))
        self.assertAllClose(out.rho[:4], np.full((4, 2), np.exp(-20.0)))
        self.assertAllClose(out.rho[4:], np.full((4, 2), np.exp(20.0)), rtol=1e-5)
        self.assertTrue(np.isfinite(out.targets).all() and np.isfinite(out.advantages).all())

    def test_no_gradient_flows(self):
        floats = tensors(sequences(10, 3, seed=6))
        rest = {name: floats.pop(name) for name in ("is_last", "valid")}
        with tf.GradientTape() as tape:
            tape.watch(floats)
            out = vtrace.from_log_probs(**floats, **rest)
            total = tf.add_n([tf.reduce_sum(x) for x in out])
        self.assertEqual(set(tape.gradient(total, floats).values()), {None})

    @parameterized.parameters(
        ("log_prob", (10,), "log_prob: expected rank 2"),
        ("behaviour_log_prob", (10, 1), "behaviour_log_prob: expected the shape of log_prob"),
        ("values_next", (11, 3), "values_next: expected the shape of log_prob"),
    )
    def test_bad_shapes_raise(self, name, shape, message):
        arrays = tensors(sequences(10, 3, seed=7))
        arrays[name] = tf.zeros(shape)
        with self.assertRaisesRegex(ValueError, message):
            vtrace.from_log_probs(**arrays)
