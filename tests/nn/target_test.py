"""Target copies: every variable, no alias, and modules that differ are refused."""

import tensorflow as tf
from absl.testing import absltest

from tfrl.nn.target import copy_target


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


if __name__ == "__main__":
    absltest.main()
