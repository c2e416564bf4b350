"""Minibatches: one order for any number of replicas and any way of compiling."""

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import ppo
from tfrl.envs.make import make_spec
from tfrl.job import EnvPlan
from tfrl.runtime.learning import shuffle
from tfrl.testing import conformance, replicas

ENV = "tfrl.testing.fakes:MaskedBandit"
SPEC = make_spec(EnvPlan(env=ENV))
SEED = np.array([3, 5], np.int32)
VECTOR = [[3, 4, 0, 2, 1, 5], [2, 1, 0, 3, 4, 5]]


class OrdersTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((1, 1), (3, 2), (4, 1000))
    def test_xla_and_graph_draw_the_same_orders(self, epochs, count):
        found = {
            jit: tf.function(shuffle.orders, jit_compile=jit)(epochs, count, SEED).numpy()
            for jit in (False, True)
        }
        self.assertAllEqual(found[False], found[True])
        self.assertAllEqual(np.sort(found[True], 1), np.tile(np.arange(count), (epochs, 1)))

    def test_vector(self):
        """What seed (3, 5) has always given: a run of another version shuffles alike."""
        self.assertAllEqual(shuffle.orders(2, 6, SEED), VECTOR)

    def test_every_row_comes_first_as_often(self):
        first = shuffle.orders(6000, 6, SEED)[:, 0]
        # Four standard deviations of a share of 1 / 6 in 6,000 draws.
        self.assertAllClose(np.bincount(first) / 6000, [1 / 6] * 6, atol=4 * 0.0048, rtol=0)

    def test_rows_are_found_where_the_replicas_put_them(self):
        steps, columns, count = 3, 2, 3
        whole = np.arange(steps * columns * count).reshape(steps, columns * count)
        parts = [whole[:, r * columns : (r + 1) * columns].reshape(-1) for r in range(count)]
        index = tf.range(whole.size)
        where = shuffle.side_by_side(index, steps, columns, count)
        self.assertAllEqual(np.concatenate(parts)[where], index)

    @parameterized.parameters((7, 2), (8, 2), (10, 3), (2, 2))
    def test_parts_are_all_of_a_minibatch(self, count, replicas_):
        parts = [list(range(count))[shuffle.part(count, i, replicas_)] for i in range(replicas_)]
        self.assertEqual(sum(parts, []), list(range(count)))
        sizes = {len(p) for p in parts}
        self.assertLessEqual(max(sizes) - min(sizes), 1)


class DevicesTest(tf.test.TestCase, parameterized.TestCase):
    def test_two_devices_make_the_updates_of_one(self):
        # 7 rows of 30 in a minibatch, of which a device has 3 or 4.
        self.check(minibatches=4, normalize_observations=True)

    @parameterized.parameters(
        dict(minibatches=3),  # 30 rows, 10 to a minibatch
        dict(minibatches=2, core="gru", core_size=6),  # 3 of 6 sequences
    )
    @pytest.mark.slow
    def test_two_devices_make_the_updates_of_one_in_other_forms(self, **settings):
        self.check(**settings)

    def check(self, **settings):
        """20 updates and more. With sgd, as Adam makes steps of noise out of rounded zeros."""
        shared = dict(
            hidden_sizes=(8,), unroll_length=5, epochs=2, learning_rate=3e-2, optimizer="sgd"
        )
        agent = ppo.make(ppo.Config(**{**shared, **settings}), SPEC)
        loops = [
            conformance.loop(agent, SPEC, strategy=strategy, num_envs=6)
            for strategy in (None, replicas.two_cpus())
        ]
        before = conformance.values(loops[0])
        for i in range(5):
            samples = conformance.unroll(agent, SPEC, 6, i)
            for loop in loops:
                loop.run(samples)
        one, two = map(conformance.values, loops)
        self.assertGreater(conformance.apart(before, one), 1e-2)
        self.assertLess(conformance.apart(one, two), 1e-6)

    def test_xla_makes_the_updates_of_graph(self):
        config = ppo.Config(hidden_sizes=(8,), unroll_length=5, epochs=2, optimizer="sgd")
        agent = ppo.make(config, SPEC)
        loops = [conformance.loop(agent, SPEC, mode) for mode in ("graph", "xla")]
        for i in range(3):
            samples = conformance.unroll(agent, SPEC, 4, i)
            for loop in loops:
                loop.run(samples)
        self.assertLess(conformance.apart(*map(conformance.values, loops)), 1e-6)


if __name__ == "__main__":
    replicas.configure()
    tf.test.main()
