"""Target copies: every variable, no alias, and modules that differ are refused."""

import tensorflow as tf
from absl.testing import absltest

from tfrl.nn.target import copy_target, move_target


def module(*shapes, trainable=True, fill=0.0):
    made = tf.Module()
    made.held = [tf.Variable(tf.fill(shape, fill), trainable=trainable) for shape in shapes]
    return made


class CopyTest(tf.test.TestCase):
    def test_variables_that_no_optimiser_trains_are_copied_too(self):
        for trainable in (True, False):
            online = module([2, 3], [3], trainable=trainable, fill=1.5)
            target = module([2, 3], [3], trainable=trainable)
            copy_target(target, online)
            for mine, theirs in zip(target.variables, online.variables, strict=True):
                self.assertAllEqual(mine, theirs)
            online.held[0].assign_add(tf.ones([2, 3]))
            self.assertAllEqual(target.held[0], tf.fill([2, 3], 1.5))  # a copy, no alias

    def test_modules_that_differ_are_refused(self):
        for other in (module([2, 3]), module([2, 3], [3], [1]), module([2, 4], [3])):
            with self.assertRaises(ValueError):
                copy_target(module([2, 3], [3]), other)


class MoveTest(tf.test.TestCase):
    def test_a_soft_update(self):
        online, target = module([2]), module([2])
        online.held[0].assign([1.0, 2.0])
        for expected in ([0.005, 0.01], [0.009975, 0.01995], [0.01492512, 0.02985025]):
            move_target(target, online, 0.005)
            self.assertAllClose(target.held[0], expected, atol=1e-7)
        for k in range(3, 50):
            move_target(target, online, 0.005)
            share = 1.0 - 0.995 ** (k + 1)
            self.assertAllClose(target.held[0], [share, 2.0 * share], atol=1e-6)

    def test_what_no_optimiser_trains_is_copied_and_tau_one_copies_all(self):
        for trainable, tau in ((False, 0.1), (True, 1.0)):
            online, target = module([2], trainable=trainable, fill=3.0), module([2])
            move_target(target, online, tau)
            self.assertAllEqual(target.held[0], [3.0, 3.0])


if __name__ == "__main__":
    absltest.main()
