"""Distributions over action spaces: the vectors of the literature, TensorFlow Probability, and LiteRT."""

import math

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tree
from absl.testing import parameterized

from tfrl.errors import SettingError
from tfrl.nn import distributions
from tfrl.runtime.acting.inference import FunctionEngine, LiteEngine, StepSignature
from tfrl.types import EnvSpec, PolicyStep

spaces = gym.spaces
tfd, tfb = tfp.distributions, tfp.bijectors

PARTS = spaces.Dict(
    arm=spaces.Tuple([spaces.Box(-2, 1, (2,), np.float32), spaces.MultiBinary(3)]),
    gear=spaces.Discrete(4),
    wheels=spaces.MultiDiscrete([2, 3]),
)
SPACES = {
    "discrete": spaces.Discrete(4),
    "even": spaces.MultiDiscrete([3, 3]),
    "uneven": spaces.MultiDiscrete([3, 2, 4]),
    "grid": spaces.MultiDiscrete([[2, 4], [3, 3]]),
    "binary": spaces.MultiBinary(3),
    "binary grid": spaces.MultiBinary((2, 3)),
    "box": spaces.Box(-1, 3, (2,), np.float32),
    "scalar box": spaces.Box(-1, 1, (), np.float32),
    "box grid": spaces.Box(-1, 1, (2, 2), np.float32),
    "nest": PARTS,
}
CASES = [(name, False) for name in SPACES] + [
    (name, True) for name in ("box", "scalar box", "box grid", "nest")
]
# tf.argmax of equal draws aside, a mask that forbids the first choice of each component.
MASKS = {
    "discrete": [0, 1, 0, 1],
    "even": [0, 1, 1, 1, 0, 1],
    "uneven": [0, 1, 1, 0, 1, 0, 1, 1, 0],
    "grid": [0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1],
    "nest": [0, 1, 1, 0, 0, 1, 1, 1, 0],
}


def params_of(distribution, leading, seed=0, scale=0.7):
    rng = np.random.default_rng(seed)
    return tf.constant(
        rng.normal(scale=scale, size=(*leading, distribution.num_params)), tf.float32
    )


def noise_of(distribution, leading, seed=0):
    rng = np.random.default_rng(seed)
    draw = {"uniform": rng.random, "normal": rng.standard_normal}
    return {
        name: tf.constant(draw[spec.kind]((*leading, *spec.shape), np.float32))
        for name, spec in distribution.noise.items()
    }


def components(space):
    """Number of choices of each component of a Discrete or MultiDiscrete space."""
    return np.reshape(getattr(space, "nvec", getattr(space, "n", None)), -1).tolist()


def twins(space, params):
    """Distributions of TensorFlow Probability for the independent parts of a flat sample [..., size]."""
    if isinstance(space, spaces.Box):
        mean, log_std = tf.split(params, 2, axis=-1)
        return [tfd.Normal(m, s) for m, s in zip(last(mean), last(tf.exp(log_std)))]
    if isinstance(space, spaces.MultiBinary):
        return [tfd.Bernoulli(x, dtype=tf.int32) for x in last(params)]
    return [tfd.Categorical(x) for x in tf.split(params, components(space), axis=-1)]


def last(x):
    return tf.unstack(x, axis=-1)


class VectorsTest(tf.test.TestCase):
    """The numbers that are the same in every library."""

    def test_masked_categorical(self):
        d = distributions.make(spaces.Discrete(3))
        logits = d.mask(tf.constant([1.0, 2.0, 3.0]), [1, 0, 1])
        p = [tf.exp(d.log_prob(logits, a)).numpy() for a in range(3)]
        self.assertAllClose(p, [0.11920292, 0, 0.88079708], atol=1e-7, rtol=0)
        self.assertAllClose(d.entropy(logits), 0.36533385, atol=1e-6, rtol=0)

    def test_diagonal_gaussian(self):
        d = distributions.make(spaces.Box(-9, 9, (2,), np.float32))
        params = tf.constant([0, 0, 0, 0.5])
        self.assertAllClose(d.log_prob(params, tf.constant([0.5, -1.0])), -2.64681679, rtol=1e-6)
        self.assertAllClose(d.entropy(params), 3.33787707, rtol=1e-6)
        other = tf.constant([0.5, -0.5, 0.2, 0.1])
        self.assertAllClose(d.kl(params, other), 0.43406184, rtol=1e-6)

    def test_the_entropy_has_the_whole_log_std(self):
        d = distributions.make(spaces.Box(-9, 9, (3,), np.float32))
        params = tf.constant([[0.3, -1, 2, 0.1, -0.4, 0.9]])
        with tf.GradientTape() as tape:
            tape.watch(params)
            entropy = d.entropy(params)
        self.assertAllEqual(tape.gradient(entropy, params), [[0, 0, 0, 1, 1, 1]])

    def test_categorical_log_prob_and_entropy(self):
        d = distributions.make(spaces.Discrete(2))
        logits = tf.constant([[1, 0], [0, 1], [0.5, 0.5]])
        log_prob = d.log_prob(logits, tf.constant([0, 0, 1]))
        self.assertAllClose(log_prob, [-0.31326169, -1.31326169, -0.69314718], rtol=1e-6)
        self.assertAllClose(d.entropy(logits), [0.58220311, 0.58220311, 0.69314718], rtol=1e-6)

    def test_categorical_divergence_has_a_direction(self):
        d = distributions.make(spaces.Discrete(3))
        old = tf.constant([[1.0, 0, -1], [0, 0, 0]])
        new = tf.constant([[0.5, 0.5, -1], [1, 0, -1]])
        self.assertAllClose(d.kl(old, new), [0.10156646, 0.30899368], rtol=1e-5)
        self.assertAllClose(d.kl(new, old), [0.10868978, 0.26621671], rtol=1e-5)
        self.assertAllClose(d.entropy(new), [0.94946753, 0.83239558], rtol=1e-6)
        ratio = tf.exp(d.log_prob(new, [0, 2]) - d.log_prob(old, [0, 2]))
        self.assertAllClose(ratio, [0.67617036, 0.27009172], rtol=1e-6)

    def test_squashed_gaussian(self):
        u, params = tf.constant([0.3, -1.2]), tf.constant([0.1, -1, -0.5, 0.2])
        unit = distributions.make(spaces.Box(-1, 1, (2,), np.float32), squash=True)
        self.assertAllClose(unit.action(u), [0.29131261, -0.83365461], rtol=1e-6)
        self.assertAllClose(unit.log_prob(params, u), -0.32958962, rtol=1e-5)
        wide = distributions.make(spaces.Box(-2, 2, (2,), np.float32), squash=True)
        self.assertAllClose(wide.log_prob(params, u), -1.71588398, rtol=1e-5)
        self.assertAllClose(wide.log_prob(params, u) + wide.log_half_range, -0.32958962, rtol=1e-5)

    def test_affine_map_to_the_limits(self):
        tanh = np.float32([0, 0.5])
        u = tf.constant([*np.arctanh(tanh), -40, 40], tf.float32)
        for low, high, expected in ((-2, 2, [0, 1, -2, 2]), (0, 10, [5, 7.5, 0, 10])):
            d = distributions.make(spaces.Box(low, high, (4,), np.float32), squash=True)
            self.assertAllClose(d.action(u), expected, rtol=1e-6, atol=1e-6)


class EverySpaceTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(*CASES)
    def test_shapes_and_dtypes_with_any_leading_axes(self, name, squash):
        space = SPACES[name]
        d = distributions.make(space, squash)
        wanted = {np.dtype("int64"): "int32"}
        for leading in ((), (5,), (3, 5)):
            params = params_of(d, leading)
            sample, mode = d.sample(params, noise_of(d, leading)), d.mode(params)
            for value in (sample, mode, d.action(sample)):
                tree.assert_same_structure(space.sample(), value, check_types=False)
                flat = tree.flatten(value)
                for leaf, example in zip(flat, tree.flatten(space.sample()), strict=True):
                    example = np.asarray(example)
                    self.assertEqual(leaf.shape, (*leading, *example.shape))
                    self.assertEqual(leaf.dtype.name, wanted.get(example.dtype, example.dtype))
            for number in (d.log_prob(params, sample), d.entropy(params), d.kl(params, params)):
                self.assertEqual((number.shape, number.dtype), (leading, tf.float32))

    @parameterized.parameters(*CASES)
    def test_an_action_is_in_its_space(self, name, squash):
        space = SPACES[name]
        d = distributions.make(space, squash)
        params = params_of(d, (200,), scale=2.0)
        actions = tree.map_structure(np.array, d.action(d.sample(params, noise_of(d, (200,)))))
        if not squash:  # the environment layer clips them
            clip = lambda x: np.clip(x, -1, 1) if x.dtype == np.float32 else x
            actions = tree.map_structure(clip, actions)
        for i in range(200):
            row = tree.map_structure(lambda x, i=i: x[i, ...], actions)
            self.assertTrue(space.contains(row), row)

    @parameterized.parameters(*[name for name in SPACES if name != "nest"])
    def test_equals_tensorflow_probability(self, name):
        space = SPACES[name]
        d = distributions.make(space)
        p, q = params_of(d, (4, 6), 1), params_of(d, (4, 6), 2)
        sample = d.sample(p, noise_of(d, (4, 6), 3))
        parts = list(zip(twins(space, p), twins(space, q), last(tf.reshape(sample, [4, 6, -1]))))
        for value, expected in (
            (d.log_prob(p, sample), [a.log_prob(x) for a, _, x in parts]),
            (d.entropy(p), [a.entropy() for a, _, _ in parts]),
            (d.kl(p, q), [tfd.kl_divergence(a, b) for a, b, _ in parts]),
        ):
            self.assertAllClose(value, sum(expected), rtol=1e-5, atol=1e-5)

    @parameterized.parameters(*CASES)
    def test_the_divergence_of_two_that_are_equal_is_zero(self, name, squash):
        d = distributions.make(SPACES[name], squash)
        params = params_of(d, (9,))
        self.assertAllClose(d.kl(params, params), np.zeros(9), atol=1e-6)
        self.assertAllGreater(d.kl(params, params_of(d, (9,), 5)), 0.0)

    @parameterized.parameters(*CASES)
    def test_divergence_and_entropy_are_means_over_samples(self, name, squash):
        d = distributions.make(SPACES[name], squash)
        count = 100_000
        rows = [tf.repeat(params_of(d, (1,), seed, 0.5), count, axis=0) for seed in (1, 2)]
        sample = d.sample(rows[0], noise_of(d, (count,), 7))
        log_p, log_q = (d.log_prob(x, sample) for x in rows)
        for draws, value in ((-log_p, d.entropy(rows[0])), (log_p - log_q, d.kl(*rows))):
            error = 4 * np.std(draws.numpy()) / math.sqrt(count) + 1e-5
            self.assertAllClose(tf.reduce_mean(draws), value[0], atol=error, rtol=0)

    @parameterized.parameters(*CASES)
    def test_xla_and_graph_equal_eager(self, name, squash):
        d = distributions.make(SPACES[name], squash)
        p, q, noise = params_of(d, (2, 3), 1), params_of(d, (2, 3), 2), noise_of(d, (2, 3))

        def everything(p, q, noise):
            with tf.GradientTape() as tape:
                tape.watch(p)
                if d.mask_size:
                    p = d.mask(p, tf.constant(MASKS[name]))
                sample = d.sample(tf.stop_gradient(p), noise)
                log_prob, entropy, kl = d.log_prob(p, sample), d.entropy(p), d.kl(p, q)
                total = tf.reduce_sum(log_prob + entropy + kl)
            return (
                sample,
                d.action(sample),
                d.mode(p),
                log_prob,
                entropy,
                kl,
                tape.gradient(total, p),
            )

        expected = everything(p, q, noise)
        for jit in (False, True):
            out = tf.function(everything, jit_compile=jit)(p, q, noise)
            tree.map_structure(
                lambda a, b: self.assertAllClose(a, b, rtol=1e-5, atol=1e-5), out, expected
            )

    @parameterized.parameters(*CASES)
    def test_an_unknown_batch_size(self, name, squash):
        d = distributions.make(SPACES[name], squash)
        signature = [
            tf.TensorSpec([None, d.num_params]),
            {k: tf.TensorSpec([None, *s.shape]) for k, s in d.noise.items()},
        ]

        @tf.function(input_signature=signature)
        def act(params, noise):
            sample = d.sample(params, noise)
            return d.action(sample), d.log_prob(params, sample), d.entropy(params)

        for size in (1, 6):
            params, noise = params_of(d, (size,)), noise_of(d, (size,))
            sample = d.sample(params, noise)
            expected = d.action(sample), d.log_prob(params, sample), d.entropy(params)
            tree.map_structure(
                lambda a, b: self.assertAllClose(a, b, rtol=1e-5, atol=1e-5),
                act(params, noise),
                expected,
            )


class Actor(tf.Module):
    """A policy whose observation is the params themselves, and which returns all that acting may need."""

    def __init__(self, distribution, mask):
        super().__init__()
        self.distribution, self.noise, self._mask = distribution, distribution.noise, mask

    def initial_state(self, batch_size, noise):
        return ()

    def step(self, obs, state, knobs, noise, explore):
        d = self.distribution
        params = obs if self._mask is None else d.mask(obs, tf.constant(self._mask))
        mode = d.mode(params)
        sample = d.sample(params, noise) if explore else mode
        flat = {f"sample{i}": x for i, x in enumerate(tree.flatten(sample))}
        extras = {"log_prob": d.log_prob(params, sample), "params": params, **flat}
        return PolicyStep(d.action(sample), state, extras)


class LiteTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(case=CASES, explore=(False, True))
    def test_lite_equals_function(self, case, explore):
        name, squash = case
        d = distributions.make(SPACES[name], squash)
        spec = EnvSpec(name, spaces.Box(-9, 9, (d.num_params,), np.float32), SPACES[name])
        policy = Actor(d, MASKS.get(name))
        signature = StepSignature(policy, spec, 3, [], explore)
        engines = [FunctionEngine(policy, signature), LiteEngine(policy, signature)]
        rng = np.random.default_rng(0)
        for seed in range(5):
            obs = params_of(d, (3,), seed).numpy()
            noise = {k: x[0] for k, x in signature.draw(rng, 1).items()}
            function, lite = (engine.act(obs, (), {}, noise) for engine in engines)
            tree.assert_same_structure(function, lite)
            for a, b in zip(tree.flatten(function), tree.flatten(lite), strict=True):
                self.assertEqual(a.dtype, b.dtype)
                self.assertAllClose(a, b, rtol=1e-5, atol=1e-5)


class CategoricalTest(tf.test.TestCase, parameterized.TestCase):
    COUNT = 200_000

    def frequencies(self, space, params, mask=None):
        """Share of each choice of each component, one list, and the expected standard errors."""
        d = distributions.make(space)
        params = tf.constant(params, tf.float32)
        if mask is not None:
            params = d.mask(params, mask)
        rows = tf.tile(params[tf.newaxis], [self.COUNT, 1])
        samples = d.sample(rows, noise_of(d, (self.COUNT,), 11)).numpy().reshape(self.COUNT, -1)
        sizes = components(space)
        counts = [np.bincount(samples[:, i], minlength=n) for i, n in enumerate(sizes)]
        logits = np.split(params.numpy().astype(np.float64), np.cumsum(sizes)[:-1])
        p = np.concatenate([np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in logits])
        return np.concatenate(counts), p

    @parameterized.parameters(
        ("discrete", [0, 1, -2, 0.5]), ("uneven", [1, 0, -1, 0, 3, 0.1, 0.2, 0.3, 0.4])
    )
    def test_frequencies_equal_probabilities(self, name, params):
        counts, p = self.frequencies(SPACES[name], params)
        error = 4.5 * np.sqrt(p * (1 - p) / self.COUNT)
        self.assertAllLess(np.abs(counts / self.COUNT - p) - error, 0.0)

    @parameterized.parameters(
        ("discrete", [9.0, -30, 9, -40]), ("uneven", [8.0, 1, 0, 30, 1, 2, 3, 9, 40])
    )
    def test_an_invalid_choice_is_never_drawn(self, name, params):
        # The valid logits are far below the invalid ones.
        counts, p = self.frequencies(SPACES[name], params, MASKS[name])
        self.assertAllEqual(counts[np.array(MASKS[name]) == 0], [0] * MASKS[name].count(0))
        error = 4.5 * np.sqrt(p * (1 - p) / self.COUNT)
        self.assertAllLessEqual(np.abs(counts / self.COUNT - p) - error, 0.0)

    def test_the_ends_of_the_noise_choose_validly(self):
        d = distributions.make(spaces.Discrete(3))
        params = d.mask(tf.constant([[50.0, 0, 1]] * 2), [0, 1, 1])
        noise = {"action": tf.constant([[1 - 2**-24, 0.0, 0.0], [0.0, 0.0, 1 - 2**-24]])}
        self.assertAllEqual(d.sample(params, noise), [2, 2])

    @parameterized.parameters("discrete", "even", "uneven", "grid")
    def test_a_mask_equals_a_smaller_space(self, name):
        # Values and gradients are those of the distribution over the valid choices alone.
        space, mask = SPACES[name], np.array(MASKS[name])
        d = distributions.make(space)
        sizes = components(space)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        left = [int(mask[owner == i].sum()) for i in range(len(sizes))]
        small = distributions.make(spaces.MultiDiscrete(left))
        keep = np.flatnonzero(mask)
        chosen = np.concatenate([np.flatnonzero(mask[owner == i])[-1:] for i in range(len(sizes))])
        p, q = params_of(d, (7,), 1, 2.0), params_of(d, (7,), 2, 2.0)

        def evaluate(dist, p, q, actions, mask=None):
            with tf.GradientTape() as tape:
                tape.watch(p)
                masked = [p, q] if mask is None else [dist.mask(x, mask) for x in (p, q)]
                values = tf.stack(
                    [dist.log_prob(masked[0], actions), dist.entropy(masked[0]), dist.kl(*masked)]
                )
                total = tf.reduce_sum(values * [[1.0], [2.0], [3.0]])
            return values, tape.gradient(total, p)

        actions = tf.tile(tf.reshape(chosen, [1, *space.shape]), [7, *[1] * len(space.shape)])
        values, gradient = evaluate(d, p, q, actions, mask)
        last = tf.tile(tf.constant([[n - 1 for n in left]]), [7, 1])
        expected, kept = evaluate(
            small, tf.gather(p, keep, axis=1), tf.gather(q, keep, axis=1), last
        )
        self.assertAllClose(values, expected, rtol=1e-5, atol=1e-5)
        self.assertAllClose(tf.gather(gradient, keep, axis=1), kept, rtol=1e-4, atol=1e-5)
        hidden = np.flatnonzero(mask == 0)
        self.assertAllEqual(tf.gather(gradient, hidden, axis=1), np.zeros((7, len(hidden))))

    def test_one_valid_choice(self):
        d = distributions.make(spaces.Discrete(3))
        logits = tf.Variable([[1e3, -1e3, 5.0]])
        with tf.GradientTape() as tape:
            masked = d.mask(logits, [[0, 1, 0]])
            entropy, log_prob = d.entropy(masked), d.log_prob(masked, [1])
            kl = d.kl(masked, masked)
        self.assertAllEqual(tf.stack([entropy, log_prob, kl]), np.zeros((3, 1)))
        self.assertAllEqual(tape.gradient([entropy, log_prob, kl], logits), [[0, 0, 0]])

    def test_what_was_not_chosen_gets_no_number_beyond_float32(self):
        # The log-probability of an invalid choice is finite, so that a ratio of two is 1, not NaN.
        d = distributions.make(spaces.Discrete(2))
        masked = d.mask(tf.constant([3.0, 1.0]), [0, 1])
        log_prob = d.log_prob(masked, 0)
        self.assertTrue(np.isfinite(log_prob.numpy()))
        self.assertLess(log_prob, -1e30)
        self.assertEqual(tf.exp(log_prob - log_prob), 1.0)

    @parameterized.parameters(bool, np.int8, np.float32)
    def test_masks_of_any_dtype(self, dtype):
        d = distributions.make(spaces.Discrete(3))
        masked = d.mask(tf.constant([[1.0, 2.0, 3.0]]), np.array([[1, 0, 1]], dtype))
        self.assertAllEqual(masked, [[1.0, distributions.INVALID_LOGIT, 3.0]])


class BernoulliTest(tf.test.TestCase):
    def test_frequencies_equal_probabilities(self):
        d = distributions.make(spaces.MultiBinary(4))
        logits = np.float32([-2, 0, 0.7, 40])
        count = 200_000
        ones = d.sample(tf.tile(logits[None], [count, 1]), noise_of(d, (count,)))
        p = 1 / (1 + np.exp(-logits.astype(np.float64)))
        error = 4.5 * np.sqrt(p * (1 - p) / count)
        self.assertAllLessEqual(np.abs(ones.numpy().mean(axis=0) - p) - error, 0.0)

    def test_huge_logits_stay_finite(self):
        d = distributions.make(spaces.MultiBinary(2))
        logits = tf.Variable([[200.0, -200.0], [1e30, -1e30]])
        with tf.GradientTape() as tape:
            values = [d.log_prob(logits, [[1, 0], [1, 0]]), d.entropy(logits), d.kl(logits, logits)]
        self.assertAllClose(tf.stack(values), np.zeros((3, 2)), atol=1e-6)
        self.assertAllClose(tape.gradient(values, logits), np.zeros((2, 2)), atol=1e-6)


class GaussianTest(tf.test.TestCase):
    def test_moments_of_the_samples(self):
        d = distributions.make(spaces.Box(-1, 1, (2,), np.float32))
        count = 200_000
        rows = tf.tile(tf.constant([[1.0, -2.0, 0.0, -1.0]]), [count, 1])
        x = d.sample(rows, noise_of(d, (count,))).numpy()
        std = np.exp([0.0, -1.0])
        self.assertAllLess(np.abs(x.mean(axis=0) - [1, -2]) / std, 4.5 / math.sqrt(count))
        self.assertAllLess(np.abs(x.std(axis=0) / std - 1), 4.5 / math.sqrt(2 * count))
        self.assertGreater(x.max(), 3.0)  # not clipped

    def test_gradients_reach_mean_and_log_std_through_a_sample(self):
        d = distributions.make(spaces.Box(-1, 1, (1,), np.float32))
        params = tf.Variable([[0.5, -0.7]])
        with tf.GradientTape() as tape:
            x = d.sample(params, {"action": tf.constant([[1.5]])})
        self.assertAllClose(tape.gradient(x, params), [[1.0, 1.5 * math.exp(-0.7)]])


class SquashedTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.space = spaces.Box(np.float32([-1, 0]), np.float32([3, 0.5]))
        self.distribution = distributions.make(self.space, squash=True)

    def test_equals_tensorflow_probability(self):
        d = self.distribution
        params = params_of(d, (50,))
        u = d.sample(params, noise_of(d, (50,)))
        low, high = self.space.low, self.space.high
        onto = tfb.Chain([tfb.Shift((low + high) / 2), tfb.Scale((high - low) / 2), tfb.Tanh()])
        mean, log_std = tf.split(params, 2, axis=-1)
        twin = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(mean, tf.exp(log_std)), onto)
        action = onto.forward(u)
        self.assertAllClose(d.action(u), action, rtol=1e-5, atol=1e-6)
        self.assertAllClose(d.log_prob(params, u), twin.log_prob(action), rtol=1e-4, atol=1e-4)

    def test_the_density_of_the_action_integrates_to_one(self):
        d = distributions.make(spaces.Box(-1, 3, (1,), np.float32), squash=True)
        edges = np.linspace(-1, 3, 200_001)
        action = (edges[1:] + edges[:-1]) / 2
        u = tf.constant(np.arctanh((action - 1) / 2)[:, None], tf.float32)
        params = tf.tile(tf.constant([[0.4, -0.3]]), [len(action), 1])
        density = tf.exp(d.log_prob(params, u)).numpy().astype(np.float64)
        self.assertAllClose(density.sum() * (4 / 200_000), 1.0, atol=1e-4)

    def test_saturated_samples_keep_finite_values_and_gradients(self):
        d = distributions.make(spaces.Box(-2, 2, (1,), np.float32), squash=True)
        params = tf.Variable([[30.0, 0.0], [-300.0, 1.0]])
        u = tf.constant([[31.0], [-299.0]])
        with tf.GradientTape() as tape:
            log_prob = d.log_prob(params, u)
        # log(1 - tanh(u)^2) = 2 log 2 - 2 |u| there.
        x = u.numpy()[:, 0].astype(np.float64)
        mean, log_std = np.float64([30, -300]), np.float64([0, 1])
        normal = -0.5 * ((x - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
        expected = normal - (2 * math.log(2) - 2 * np.abs(x)) - math.log(2)
        self.assertAllClose(log_prob, expected, rtol=1e-6)
        self.assertAllClose(
            tape.gradient(log_prob, params)[:, 0], (x - mean) / np.exp(2 * log_std), rtol=1e-5
        )
        self.assertAllEqual(d.action(u), [[2], [-2]])

    @parameterized.parameters(*range(-4, 3))
    def test_entropy_equals_the_integral(self, log_std):
        d = distributions.make(spaces.Box(-1, 3, (1,), np.float32), squash=True)
        for mean in (0.0, 0.6, -3.0):
            z = np.linspace(-9, 9, 200_001)
            density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
            u = mean + math.exp(log_std) * z
            slope = 2 * (math.log(2) - np.abs(u) - np.log1p(np.exp(-2 * np.abs(u))))
            volume = (density * slope).sum() * (z[1] - z[0])
            expected = log_std + 0.5 * math.log(2 * math.pi * math.e) + volume + math.log(2)
            entropy = d.entropy(tf.constant([mean, log_std], tf.float32))
            tolerance = 2e-2 if log_std == 2 else 2e-5
            self.assertAllClose(entropy, expected, atol=tolerance, rtol=1e-5)

    def test_an_action_never_leaves_its_limits(self):
        # In float32 the middle plus the half of these is above the upper limit.
        rng = np.random.default_rng(0)
        low = rng.normal(size=500).astype(np.float32)
        high = low + rng.random(500, np.float32)
        d = distributions.make(spaces.Box(low, high), squash=True)
        for u, limit in ((40.0, high), (-40.0, low)):
            action = d.action(tf.fill([500], u)).numpy()
            self.assertTrue(((action >= low) & (action <= high)).all())
            self.assertAllClose(action, limit, rtol=1e-6, atol=1e-6)


class NestTest(tf.test.TestCase):
    def test_parts_are_independent(self):
        d = distributions.make(PARTS)
        arm = [distributions.make(s) for s in PARTS["arm"]]
        parts = [*arm, distributions.make(PARTS["gear"]), distributions.make(PARTS["wheels"])]
        self.assertEqual(d.num_params, 4 + 3 + 4 + 5)
        p, q = params_of(d, (6,), 1), params_of(d, (6,), 2)
        sample = d.sample(p, noise_of(d, (6,)))
        self.assertEqual(list(sample), ["arm", "gear", "wheels"])
        leaves = [*sample["arm"], sample["gear"], sample["wheels"]]
        ps, qs = (tf.split(x, [x.num_params for x in parts], axis=-1) for x in (p, q))
        self.assertAllClose(
            d.log_prob(p, sample), sum(f.log_prob(x, s) for f, x, s in zip(parts, ps, leaves))
        )
        self.assertAllClose(d.entropy(p), sum(f.entropy(x) for f, x in zip(parts, ps)))
        self.assertAllClose(d.kl(p, q), sum(f.kl(x, y) for f, x, y in zip(parts, ps, qs)))

    def test_each_part_draws_noise_of_its_own(self):
        d = distributions.make(PARTS)
        self.assertEqual(
            {name: (spec.shape, spec.kind) for name, spec in d.noise.items()},
            {
                "action/arm/0": ((2,), "normal"),
                "action/arm/1": ((3,), "uniform"),
                "action/gear": ((4,), "uniform"),
                "action/wheels": ((5,), "uniform"),
            },
        )
        two = distributions.make(spaces.Tuple([spaces.Discrete(3)] * 2))
        self.assertEqual(sorted(two.noise), ["action/0", "action/1"])

    def test_keys_with_a_slash_do_not_collide(self):
        discrete = spaces.Discrete(2)
        d = distributions.make(spaces.Dict({"a": spaces.Dict(b=discrete), "a/b": discrete}))
        self.assertLen(d.noise, 2)

    def test_a_mask_reaches_the_categorical_parts_only(self):
        d = distributions.make(PARTS)
        self.assertEqual(d.mask_size, 9)
        params = params_of(d, (3, 2))
        masked = d.mask(params, tf.constant([MASKS["nest"]] * 2))
        invalid = np.flatnonzero(np.array(MASKS["nest"]) == 0) + 7
        expected = params.numpy()
        expected[..., invalid] = distributions.INVALID_LOGIT
        self.assertAllEqual(masked, expected)

    def test_squash_reaches_a_box_inside(self):
        d = distributions.make(PARTS, squash=True)
        sample = d.sample(params_of(d, (50,), scale=3.0), noise_of(d, (50,)))
        action = d.action(sample)
        self.assertNotAllClose(action["arm"][0], sample["arm"][0])
        self.assertAllInRange(action["arm"][0], -2.0, 1.0)
        for a, b in zip(tree.flatten(action)[1:], tree.flatten(sample)[1:], strict=True):
            self.assertAllEqual(a, b)


class RefusedTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (spaces.Text(3), False, "action space is Text"),
        (spaces.Dict(a=spaces.Tuple([spaces.Text(3)])), False, "action/a/0 space is Text"),
        (spaces.Discrete(3, start=1), False, "counts from 0"),
        (spaces.Box(0, 255, (2,), np.uint8), False, "Box of floats"),
        (spaces.Box(-np.inf, 1, (2,), np.float32), True, "finite limits"),
        (spaces.Box(1, 1, (2,), np.float32), True, "room between"),
    )
    def test_by_name(self, space, squash, text):
        with self.assertRaisesRegex(SettingError, text):
            distributions.make(space, squash)
