"""Reduction over replicas, clipping and the optimiser step."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.optim import apply
from tfrl.testing import replicas


def step(variables, gradients, clip_norm):
    """One step of SGD with rate 1 on a loss that has the given gradients; the norm it reports."""
    sgd = tf.keras.optimizers.SGD(1.0)
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(v * g) for v, g in zip(variables, gradients, strict=True)])
    return apply.minimise(sgd, tape, loss, variables, clip_norm)


class ClippingTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (6.5, [1.5, 2.0], [6.0]), (None, [3.0, 4.0], [12.0]), (13.5, [3.0, 4.0], [12.0])
    )
    def test_global_norm_vector(self, limit, first, second):
        variables = [tf.Variable([0.0, 0.0]), tf.Variable([0.0])]
        norm = step(variables, [tf.constant([3.0, 4.0]), tf.constant([12.0])], limit)
        self.assertAllClose(norm, 13.0)
        self.assertAllClose(variables[0], [-x for x in first])
        self.assertAllClose(variables[1], [-x for x in second])


class ReplicasTest(tf.test.TestCase):
    """Loss (w x - y)^2 over 8 rows: the mean over the global batch, whatever the replicas."""

    X = np.arange(8, dtype=np.float32)
    Y = 3 * X + 1

    def train(self, strategy, updates, clip_norm):
        with strategy.scope():
            w = tf.Variable([0.5, 0.0])
            adam = tf.keras.optimizers.Adam(0.1)
            adam.build([w])

        def update():
            context = tf.distribute.get_replica_context()
            share = 8 // context.num_replicas_in_sync
            start = context.replica_id_in_sync_group * share
            x, y = (tf.constant(a)[start : start + share] for a in (self.X, self.Y))
            with tf.GradientTape() as tape:
                loss = apply.global_mean((w[0] * x + w[1] - y) ** 2)
            norm = apply.minimise(adam, tape, loss, [w], clip_norm)
            return apply.reduce_sum(loss), norm

        @tf.function
        def run():
            out = strategy.run(update)
            return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], out)

        history = [[float(x) for x in run()] for _ in range(updates)]
        return w.numpy(), history

    def test_two_devices_equal_one(self):
        for clip_norm in (None, 1.0):
            one, one_history = self.train(tf.distribute.get_strategy(), 5, clip_norm)
            two, two_history = self.train(replicas.two_cpus(), 5, clip_norm)
            self.assertAllClose(one, two, rtol=0, atol=1e-6)
            self.assertAllClose(one_history, two_history, rtol=1e-5)

    def test_the_loss_is_the_mean_over_the_global_batch(self):
        # (0.5 x - 3 x - 1)^2 over x = 0..7: mean of (2.5 x + 1)^2 = 6.25 * 17.5 + 5 * 3.5 + 1.
        _, history = self.train(replicas.two_cpus(), 1, None)
        self.assertAllClose(history[0][0], 127.875)
        # Its gradient is [mean 2 (..) x, mean 2 (..)] = [-2 (2.5 * 17.5 + 3.5), -2 (2.5 * 3.5 + 1)].
        self.assertAllClose(history[0][1], (94.5**2 + 19.5**2) ** 0.5)
