"""Epsilon-greedy: the schedule, and exact probabilities from a grid of noise."""

import itertools

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.explore import epsilon
from tfrl.testing import reference


class LinearTest(parameterized.TestCase):
    @parameterized.parameters(
        (0, 1.0), (2_500, 0.755), (5_000, 0.51), (10_000, 0.02), (20_000, 0.02)
    )
    def test_vector(self, env_steps, expected):
        self.assertAlmostEqual(epsilon.linear(1.0, 0.02, 10_000, env_steps), expected, places=12)

    def test_equals_the_twin_everywhere(self):
        for now in range(0, 400, 7):
            expected = reference.piecewise_linear([(0, 0.9), (300, 0.1)], now)
            self.assertAlmostEqual(epsilon.linear(0.9, 0.1, 300, now), expected)

    def test_without_a_decay_the_final_value_holds_at_once(self):
        self.assertEqual(epsilon.linear(1.0, 0.05, 0, 0), 0.05)


class LadderTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (8, [0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536]),
        (4, [0.4, 0.0471556, 0.00555913, 0.00065536]),
        (1, [0.4]),
    )
    def test_vectors(self, count, expected):
        found = epsilon.ladder(0.4, 7.0, np.arange(count), count)
        self.assertEqual(found.dtype, np.float32)
        self.assertAllClose(found, expected, rtol=1e-5)

    def test_some_of_32(self):
        found = epsilon.ladder(0.4, 7.0, np.array([0, 1, 15, 16, 31]), 32)
        self.assertAllClose(found, [0.4, 0.32523896, 0.01795555, 0.01459961, 0.00065536], rtol=1e-5)

    @parameterized.parameters((8, 5), (4, 2), (32, 21), (3, 2), (1, 0), (2, 1))
    def test_the_least_random_third(self, count, first):
        found = epsilon.least_random(np.arange(count), count)
        self.assertAllEqual(np.flatnonzero(found), np.arange(first, count))


def grid(num_actions):
    """Every ordering of the action noise times ten evenly spaced draws of 'explore'."""
    orders = np.float32(list(itertools.permutations(range(num_actions)))) / num_actions
    draws = (np.arange(10, dtype=np.float32) + 0.5) / 10
    action = np.repeat(orders, len(draws), axis=0)
    return {"explore": tf.constant(np.tile(draws, len(orders))), "action": tf.constant(action)}


class ChooseTest(tf.test.TestCase, parameterized.TestCase):
    def probabilities(self, greedy, share, mask, num_actions=4):
        noise = grid(num_actions)
        rows = noise["explore"].shape[0]
        mask = None if mask is None else tf.tile(tf.constant([mask]), [rows, 1])
        chosen = epsilon.choose(tf.fill([rows], greedy), tf.fill([rows], share), noise, mask)
        self.assertEqual(chosen.dtype, tf.int32)
        return np.bincount(chosen.numpy(), minlength=num_actions) / rows

    def test_masked_vector(self):
        # Q [1, 5, 2, -1], mask [1, 0, 1, 1]: the greedy action is 2.
        probabilities = self.probabilities(2, 0.3, np.float32([1, 0, 1, 1]))
        self.assertAllClose(probabilities, [0.1, 0.0, 0.8, 0.1], atol=1e-12, rtol=0)

    def test_without_a_mask_all_actions_are_explored(self):
        probabilities = self.probabilities(1, 0.4, None)
        self.assertAllClose(probabilities, [0.1, 0.7, 0.1, 0.1], atol=1e-12, rtol=0)

    @parameterized.parameters((0.0, [0, 0, 1, 0]), (1.0, [1 / 3, 0, 1 / 3, 1 / 3]))
    def test_the_ends_of_the_range(self, share, expected):
        probabilities = self.probabilities(2, share, np.float32([1, 0, 1, 1]))
        self.assertAllClose(probabilities, expected, atol=1e-12, rtol=0)

    def test_each_row_has_its_own_epsilon(self):
        noise = {"explore": tf.constant([0.5, 0.5]), "action": tf.constant([[0.9, 0.1]] * 2)}
        chosen = epsilon.choose(tf.constant([1, 1]), tf.constant([0.6, 0.4]), noise, None)
        self.assertAllEqual(chosen, [0, 1])

    def test_agents_of_a_team_explore_by_themselves(self):
        """Two teams of two agents, with an epsilon each; agent 1 may not take action 0."""
        noise = {
            "explore": tf.constant([[0.3, 0.3], [0.9, 0.1]]),
            "action": tf.constant([[[0.9, 0.1, 0.2]] * 2] * 2),
        }
        mask = tf.constant([[[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]] * 2)
        greedy, share = tf.constant([[1, 1], [1, 1]]), tf.constant([[0.5], [0.2]])
        self.assertAllEqual(epsilon.choose(greedy, share, noise, mask), [[0, 2], [1, 2]])

    def test_noise_declares_what_choose_reads(self):
        declared = epsilon.noise(4)
        self.assertEqual(
            {k: (tuple(s.shape), s.kind) for k, s in declared.items()},
            {"explore": ((), "uniform"), "action": ((4,), "uniform")},
        )
