"""Weights of directions: the vectors of the specification, ties, symmetry, and what no weight depends on."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.losses.population import centered_ranks, evolution_weights, random_search_weights

NOISE = np.array([[1.0, -1.0], [0.5, 2.0], [-2.0, 0.0], [0.0, 1.0]])
RETURNS = np.array([[10.0, 4.0], [7.0, 12.0], [1.0, 3.0], [9.0, 9.5]])


def direction(weights, noise=NOISE):
    return np.asarray(weights) @ noise[: len(weights)]


class EvolutionTest(tf.test.TestCase, parameterized.TestCase):
    def test_ranks_weights_and_gradient(self):
        returns = tf.constant(RETURNS[:3])
        expected = [[0.3, -0.1], [0.1, 0.5], [-0.5, -0.3]]
        self.assertAllClose(centered_ranks(returns), expected, atol=1e-12)
        weights = evolution_weights(returns)
        self.assertAllClose(6.0 * weights, [0.4, -0.4, -0.2], atol=1e-12)
        self.assertAllClose(direction(weights), [0.1, -0.2], atol=1e-12)

    def test_equal_returns_have_their_average_rank(self):
        ranks = centered_ranks(tf.constant([[1.0, 1.0], [2.0, 0.0]], tf.float64))
        self.assertAllClose(ranks, [[0.0, 0.0], [0.5, -0.5]], atol=1e-12)
        ranks = centered_ranks(tf.constant([3.0, 3.0, 3.0, 5.0], tf.float64))
        self.assertAllClose(ranks, np.array([1.0, 1.0, 1.0, 3.0]) / 3 - 0.5, atol=1e-12)

    def test_ranks_are_those_of_a_slow_twin(self):
        rng = np.random.default_rng(0)
        for _ in range(20):
            returns = rng.integers(0, 6, 10).astype(np.float64)
            slow = [(returns < x).sum() + ((returns == x).sum() - 1) / 2 for x in returns]
            self.assertAllClose(centered_ranks(tf.constant(returns)), np.array(slow) / 9 - 0.5)

    def test_no_monotone_map_changes_ranks(self):
        returns = np.random.default_rng(1).normal(size=(6, 2))
        ranks = centered_ranks(tf.constant(returns))
        self.assertAllEqual(ranks, centered_ranks(tf.constant(3.0 * returns + 7.0)))
        self.assertAllEqual(ranks, centered_ranks(tf.constant(np.exp(returns))))

    def test_single_pair(self):
        weights = evolution_weights(tf.constant([[2.0, 1.0]], tf.float64))
        self.assertAllClose(weights, [0.5])


class RandomSearchTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (2, [0.57735027, -2.63931552], 3.03108891),
        (4, [0.5170109, -1.13742397], 3.62661602),
        (9, [0.5170109, -1.13742397], 3.62661602),
    )
    def test_direction_and_deviation(self, top, expected, sigma):
        weights = random_search_weights(tf.constant(RETURNS), top)
        self.assertAllClose(direction(weights), expected, atol=1e-8)
        first = (RETURNS[0, 0] - RETURNS[0, 1]) / (min(top, 4) * sigma)
        self.assertAllClose(weights[0], first, atol=1e-8)
        self.assertAllClose(0.02 * direction(weights), 0.02 * np.array(expected), atol=1e-8)

    def test_without_the_deviation_it_is_basic_random_search(self):
        weights = 3.62661602 * random_search_weights(tf.constant(RETURNS), 4)
        self.assertAllClose(direction(weights), [1.875, -4.125], atol=1e-7)

    def test_of_equal_directions_the_first_are_kept(self):
        returns = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]], tf.float64)
        weights = random_search_weights(returns, 2)
        self.assertAllEqual(np.asarray(weights) != 0.0, [True, True, False])

    def test_large_returns_that_differ_little_count(self):
        returns = 1e6 + np.array([[1.0, 0.0], [0.0, 0.5]])
        weights = random_search_weights(tf.constant(returns), 2)
        small = random_search_weights(tf.constant(returns - 1e6), 2)
        self.assertAllClose(weights, small, rtol=1e-6)


class BothTest(tf.test.TestCase, parameterized.TestCase):
    RULES = {
        "evolution": evolution_weights,
        "search": lambda returns, valid=None: random_search_weights(returns, 3, valid),
    }

    @parameterized.parameters(*RULES)
    def test_swapping_the_signs_turns_the_direction_round(self, rule):
        returns = np.random.default_rng(2).normal(size=(5, 2))
        weigh = self.RULES[rule]
        self.assertAllClose(weigh(tf.constant(returns[:, ::-1])), -weigh(tf.constant(returns)))

    @parameterized.parameters(*RULES)
    def test_constant_returns_give_nothing(self, rule):
        weigh = self.RULES[rule]
        self.assertAllEqual(weigh(tf.fill([5, 2], tf.constant(-3.7, tf.float64))), np.zeros(5))

    def test_returns_that_only_round_differently_are_equal_in_search(self):
        returns = -3.7e6 + 1e-9 * np.arange(10.0).reshape(5, 2)
        self.assertAllEqual(random_search_weights(tf.constant(returns), 5), np.zeros(5))

    @parameterized.parameters(*RULES)
    def test_padding_changes_nothing(self, rule):
        returns = np.random.default_rng(3).normal(size=(4, 2))
        padded = np.concatenate([returns, np.full((3, 2), 100.0)])
        valid = tf.constant([True] * 4 + [False] * 3)
        weigh = self.RULES[rule]
        expected = np.concatenate([weigh(tf.constant(returns)), np.zeros(3)])
        self.assertAllClose(weigh(tf.constant(padded), valid), expected, atol=1e-15)

    @parameterized.parameters(*RULES)
    def test_another_shape_is_refused(self, rule):
        with self.assertRaisesRegex(ValueError, r"expected \[n, 2\]"):
            self.RULES[rule](tf.zeros([4, 3], tf.float64))
