"""Networks with weights of their own in every row."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.nn.members import MemberNetwork


def network(core="none", **more):
    tf.keras.utils.set_random_seed(3)
    return MemberNetwork(5, (7, 6), 3, "tanh", core, 4, **more)


class MembersTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(core=("none", "gru", "lstm"), bias=(True, False))
    def test_each_row_is_a_network_with_its_own_weights(self, core, bias):
        net, rng = network(core, bias=bias), np.random.default_rng(0)
        steps = rng.normal(size=(4, net.num_weights)).astype(np.float32)
        xs = rng.normal(size=(3, 4, 5)).astype(np.float32)
        rows, memory = net.perturbed(tf.constant(steps)), net.initial_memory(4)
        together = []
        for x in xs:
            out, memory = net(tf.constant(x), memory, rows)
            together.append(out.numpy())
        before = [v.numpy() for v in net.ordered]
        for row in range(4):
            for v, old, part in zip(net.ordered, before, net.split(tf.constant(steps[row]))):
                v.assign(old + part)
            memory = net.initial_memory(1)
            for t, x in enumerate(xs):
                out, memory = net(tf.constant(x[row : row + 1]), memory, net.weights)
                self.assertAllClose(out[0], together[t][row], atol=2e-5)
        self.assertNotAllClose(together[0][0], together[0][1])

    def test_splitting_and_joining_is_the_identity(self):
        net = network("lstm")
        flat = tf.concat([tf.reshape(v, [-1]) for v in net.ordered], 0)
        self.assertEqual(flat.shape, [net.num_weights])
        for v, part in zip(net.ordered, net.split(flat), strict=True):
            self.assertAllEqual(v, part)
            self.assertEqual(v.dtype, part.dtype)

    @parameterized.parameters("gru", "lstm")
    def test_memory_counts(self, core):
        net = network(core)
        x = tf.ones([1, 5])
        one, memory = net(x, net.initial_memory(1), net.weights)
        two, _ = net(x, memory, net.weights)
        self.assertNotAllClose(one, two)

    def test_a_linear_network_of_zeros(self):
        net = MemberNetwork(4, (), 2, bias=False, zeros=True)
        self.assertEqual(net.num_weights, 8)
        self.assertAllEqual(net(tf.ones([2, 4]), (), net.weights)[0], np.zeros((2, 2)))
