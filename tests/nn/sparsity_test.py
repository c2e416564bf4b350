"""Masks of sparse kernels: their densities, what is dropped, where weights grow, and the cut of copies."""

import math

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.nn import sparsity

MODES = ("eager", "graph", "xla")


def run(mode, fn, *args):
    """The result of `fn` as an array, compiled as `mode` says."""
    if mode != "eager":
        fn = tf.function(fn, jit_compile=mode == "xla", autograph=False)
    return fn(*map(tf.constant, args)).numpy()


class DensityTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ((17, 256), 7, 7 * 273 / (17 * 256)),  # table of the paper's settings: HalfCheetah
        ((256, 256), 64, 0.5),
        ((4, 8), 5, 1.0),
        ((3, 3, 16, 32), 10, 10 * (3 + 3 + 16 + 32) / (9 * 16 * 32)),
    )
    def test_erdos_renyi(self, shape, strength, expected):
        self.assertAlmostEqual(sparsity.density(shape, strength), expected, places=12)

    @parameterized.parameters(0.05, 0.5, 0.8, 0.999)
    def test_a_share_of_several_kernels(self, share):
        shapes = [(4, 64), (64, 64), (64, 300), (4, 64)]
        found = sparsity.strength(shapes, share)
        kept = sum(math.prod(s) * sparsity.density(s, found) for s in shapes)
        self.assertAlmostEqual(kept / sum(map(math.prod, shapes)), share, places=9)

    def test_all_of_them(self):
        self.assertEqual(sparsity.density((4, 4), sparsity.strength([(4, 4), (9, 4)], 1.0)), 1.0)

    @parameterized.parameters(0.1, 0.439, 0.5, 1.0)
    def test_drawn_masks_have_it_within_three_sigma(self, share):
        for seed in range(3):
            mask = sparsity.draw((120, 90), share, tf.constant([seed, 0]), tf.float32).numpy()
            self.assertEqual(set(np.unique(mask)) - {0.0, 1.0}, set())
            sigma = math.sqrt(mask.size * share * (1 - share))
            self.assertLessEqual(abs(mask.sum() - share * mask.size), 3 * sigma)

    def test_other_seeds_draw_other_masks(self):
        draws = [
            sparsity.draw((30, 30), 0.5, tf.constant(seed), tf.float32).numpy()
            for seed in ([1, 0], [1, 1], [2, 0], [1, 0])
        ]
        self.assertAllEqual(draws[0], draws[3])
        for a, b in ((0, 1), (0, 2), (1, 2)):
            self.assertBetween(np.mean(draws[a] != draws[b]), 0.4, 0.6)


class DropTest(tf.test.TestCase, parameterized.TestCase):
    # Positive 1 to 5, negative 1 to 4, an active zero; 9.0 and -9.0 are not active.
    KERNEL = np.float32([[1, -1, 9, 5], [2, -2, -9, 0], [3, -3, 4, -4]])
    MASK = np.float32([[1, 1, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]])

    @parameterized.product(mode=MODES)
    def test_the_weights_of_each_sign_nearest_to_zero_go(self, mode):
        # 0.4 of 5 are 2, 0.4 of 4 are 1.6 and so 2; the active zero goes in any case.
        kept = run(mode, lambda k, m: sparsity.drop(k, m, 0.4), self.KERNEL, self.MASK)
        self.assertAllEqual(kept, [[0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])

    @parameterized.parameters(
        (0.0, [[1, 1, 0, 1], [1, 1, 0, 0], [1, 1, 1, 1]]),
        (0.05, [[0, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 1]]),
        (1.0, np.zeros((3, 4))),
    )
    def test_of_a_share(self, share, expected):
        self.assertAllEqual(sparsity.drop(self.KERNEL, tf.constant(self.MASK), share), expected)

    def test_ties_are_kept(self):
        kernel, mask = np.float32([[1, 2, 2, 2, 3, 4]]), tf.ones([1, 6])
        self.assertAllEqual(sparsity.drop(kernel, mask, 0.5), [[0, 1, 1, 1, 1, 1]])

    @parameterized.parameters(0.05, 0.3)
    def test_counts(self, share):
        rng = np.random.default_rng(0)
        for positive, negative in ((140, 60), (1, 0), (0, 1), (20, 7)):
            signs = np.repeat([1, -1, 0], [positive, negative, 13])
            kernel = np.float32(signs * rng.uniform(0.1, 1, signs.size))[
                rng.permutation(signs.size)
            ]
            mask = np.float32(kernel != 0)
            kept = sparsity.drop(kernel, tf.constant(mask), share).numpy()
            gone = [math.ceil(round(share * n, 9)) for n in (positive, negative)]
            self.assertEqual((kept * (kernel > 0)).sum(), positive - gone[0])
            self.assertEqual((kept * (kernel < 0)).sum(), negative - gone[1])

    def test_one_sign_alone(self):
        kernel, mask = np.float32([[1, 2, 3, 4]]), tf.ones([1, 4])
        self.assertAllEqual(sparsity.drop(kernel, mask, 0.5), [[0, 0, 1, 1]])
        self.assertAllEqual(sparsity.drop(-kernel, mask, 0.5), [[0, 0, 1, 1]])


class GrowTest(tf.test.TestCase, parameterized.TestCase):
    def test_places_are_the_same_however_it_is_compiled(self):
        mask = np.float32(np.random.default_rng(0).random((40, 30)) < 0.3)
        grown = [
            run(mode, lambda m, n, s: sparsity.grow(m, n, s), mask, 100, [3, 2**31 - 1])
            for mode in MODES
        ]
        self.assertAllEqual(grown[0], grown[1])
        self.assertAllEqual(grown[0], grown[2])

    @parameterized.parameters(0, 1, 17, 100)
    def test_as_many_as_asked_for_beside_those_that_are_active(self, count):
        mask = np.zeros((10, 20), np.float32)
        mask[:5] = 1
        grown = sparsity.grow(tf.constant(mask), tf.constant(count), tf.constant([1, 2])).numpy()
        self.assertEqual(grown.sum(), 100 + count)
        self.assertAllEqual(grown[:5], mask[:5])

    def test_every_free_place_is_as_likely(self):
        mask, rounds = tf.constant(np.float32([[1, 0, 0, 0], [0, 0, 0, 1]])), 900
        grow = tf.function(lambda seed: sparsity.grow(mask, tf.constant(2), seed))
        total = sum(grow(tf.constant([5, i])).numpy() for i in range(rounds)) - mask * rounds
        self.assertAllEqual(total * mask, tf.zeros_like(mask))
        sigma = math.sqrt(rounds * (1 / 3) * (2 / 3))
        self.assertAllClose(total * (1 - mask), rounds / 3 * (1 - mask), atol=4 * sigma)


class PruneTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(mode=MODES)
    def test_the_largest_magnitudes_stay(self, mode):
        x = np.random.default_rng(1).normal(size=(50, 40)).astype(np.float32)
        x[:, ::4] = 0
        pruned = run(mode, sparsity.prune, x, 700)
        least = np.sort(np.abs(x).ravel())[-700]
        self.assertAllEqual(pruned, np.where(np.abs(x) >= least, x, 0))

    def test_nothing_changes_where_few_enough_are_there(self):
        x = np.float32([[1, 0, -2, 1e-30]])
        self.assertAllEqual(sparsity.prune(tf.constant(x), tf.constant(3)), x)
        self.assertAllEqual(sparsity.prune(tf.constant(x), tf.constant(2)), [[1, 0, -2, 0]])

    def test_never_more_than_asked_for(self):
        x = np.float32([3, 1, 1, 1, -1, 2])  # equal magnitudes at the threshold go together
        self.assertAllEqual(sparsity.prune(tf.constant(x), tf.constant(4)), [3, 0, 0, 0, 0, 2])
        self.assertAllEqual(sparsity.prune(tf.constant(x), tf.constant(0)), np.zeros(6))

    def test_a_mask_of_the_largest(self):
        x = tf.constant([[0.1, -3.0, 2.0], [0.0, 2.0, -0.5]])
        self.assertAllEqual(sparsity.largest(x, tf.constant(2)), [[0, 1, 1], [0, 0, 0]])
        self.assertAllEqual(sparsity.largest(x, tf.constant(6)), np.ones((2, 3)))
        self.assertEqual(int(sparsity.nonzeros(x)), 5)


if __name__ == "__main__":
    tf.test.main()
