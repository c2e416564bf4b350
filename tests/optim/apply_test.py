"""Reduction over replicas, clipping and the optimiser step."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.optim import apply, optimizers
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

    @parameterized.parameters("keras", "sgd")
    def test_masked_gradients_count_neither_in_the_step_nor_in_the_norm(self, kind):
        x, y = tf.Variable([0.0, 0.0]), tf.Variable([0.0])
        sgd = (
            tf.keras.optimizers.SGD(1.0) if kind == "keras" else optimizers.make("sgd", [x, y], 1.0)
        )
        apply.mask_gradients(sgd, [(x, tf.Variable([1.0, 0.0]))])
        norm = apply.step(sgd, [tf.constant([3.0, 9.0]), tf.constant([4.0])], [x, y], 10.0)
        self.assertAllClose(norm, 5.0)
        self.assertAllClose([*x.numpy(), *y.numpy()], [-3.0, 0.0, -4.0])


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


class MaskedTest(tf.test.TestCase, parameterized.TestCase):
    """Eight entries, five valid: three of them on the first replica, two on the second."""

    X = np.float32([1, 2, 3, np.nan, np.nan, 6, 7, np.inf]) + 1000
    MASK = np.array([1, 1, 1, 0, 0, 1, 1, 0], bool)

    def on(self, strategy, function, mask=MASK):
        @tf.function
        def run():
            def replica():
                context = tf.distribute.get_replica_context()
                share = 8 // context.num_replicas_in_sync
                start = context.replica_id_in_sync_group * share
                return function(*(tf.constant(a)[start : start + share] for a in (self.X, mask)))

            out = strategy.run(replica)
            return tf.nest.map_structure(strategy.experimental_local_results, out)

        return run()

    def strategies(self):
        return tf.distribute.get_strategy(), replicas.two_cpus()

    def test_mean_over_the_valid_entries_of_the_global_batch(self):
        for strategy in self.strategies():
            parts = self.on(strategy, apply.masked_mean)
            self.assertAllClose(sum(float(x) for x in parts), 1003.8)
        self.assertAllClose(parts, [3006 / 5, 2013 / 5])  # not the mean of the replicas' means

    def test_a_replica_without_valid_entries(self):
        mask = np.array([0, 0, 0, 0, 0, 1, 1, 0], bool)
        parts = self.on(replicas.two_cpus(), apply.masked_mean, mask)
        self.assertAllClose(parts, [0.0, 1006.5])
        for strategy in self.strategies():
            parts = self.on(strategy, apply.masked_mean, np.zeros(8, bool))
            self.assertAllEqual(parts, np.zeros(len(parts)))

    def test_moments_are_equal_on_all_replicas(self):
        values = self.X[self.MASK].astype(np.float64)
        for strategy in self.strategies():
            mean, variance = self.on(strategy, apply.masked_moments)
            self.assertAllClose(mean, [values.mean()] * len(mean))
            self.assertAllClose(variance, [values.var()] * len(variance), rtol=1e-4)

    def test_moments_of_nothing_are_zero(self):
        for strategy in self.strategies():
            out = self.on(strategy, apply.masked_moments, np.zeros(8, bool))
            self.assertAllEqual(tf.nest.flatten(out), np.zeros(len(tf.nest.flatten(out))))

    def test_count(self):
        for strategy in self.strategies():
            count = self.on(strategy, lambda x, mask: apply.masked_count(mask))
            self.assertAllEqual(count, [5.0] * len(count))

    @parameterized.parameters(None, 0.5)
    def test_two_devices_learn_as_one(self, clip_norm):
        def train(strategy):
            with strategy.scope():
                w = tf.Variable([0.5])
                sgd = tf.keras.optimizers.SGD(1e-7)
                sgd.build([w])

            def update(x, mask):
                x = tf.where(mask, x, 0.0)
                with tf.GradientTape() as tape:
                    loss = apply.masked_mean((w * x - 2.0) ** 2, mask)
                norm = apply.minimise(sgd, tape, loss, [w], clip_norm)
                return apply.reduce_sum(loss), norm

            loss, norm = self.on(strategy, update)
            return w.numpy(), loss[0], norm[0]

        x = self.X[self.MASK].astype(np.float64)
        one, two = (train(strategy) for strategy in self.strategies())
        for a, b in zip(one, two, strict=True):
            self.assertAllClose(a, b, rtol=1e-6, atol=0)
        self.assertAllClose(one[1], np.mean((0.5 * x - 2) ** 2))
        self.assertAllClose(one[2], np.mean(2 * x * (0.5 * x - 2)))

    def test_compiled(self):
        run = tf.function(apply.masked_moments, jit_compile=True)
        mean, variance = run(tf.constant(self.X), tf.constant(self.MASK))
        values = self.X[self.MASK].astype(np.float64)
        self.assertAllClose([mean, variance], [values.mean(), values.var()], rtol=1e-4)

    def test_shapes_that_would_broadcast_raise(self):
        with self.assertRaisesRegex(ValueError, "incompatible"):
            apply.masked_mean(tf.zeros([4, 1]), tf.ones([4], tf.bool))
