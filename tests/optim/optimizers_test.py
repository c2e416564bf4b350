"""Optimisers against hand-made numbers, Keras and a slow twin; on two devices, in XLA, in loops, from checkpoints."""

import os
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.errors import SettingError
from tfrl.optim import apply, optimizers, schedules
from tfrl.testing import reference, replicas

KINDS = {
    "adam": ("adam", {"epsilon": 1e-5}),
    "adamw": ("adamw", {"epsilon": 1e-5, "weight_decay": 0.1}),
    "rmsprop": ("rmsprop", {}),
    "rmsprop_momentum": ("rmsprop", {"momentum": 0.5}),
    "rmsprop_inside": ("rmsprop", {"epsilon_inside_root": True}),
    "rmsprop_keras": ("rmsprop_keras", {"momentum": 0.5}),
    "rmsprop_tf1": ("rmsprop_tf1", {"epsilon": 0.1, "momentum": 0.5}),
    "sgd": ("sgd", {}),
    "sgd_momentum": ("sgd", {"momentum": 0.9}),
    "sgd_nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
}


def trained(kind, rate, options, gradients, start=1.0):
    """Values of one parameter after each of the gradients."""
    variable = tf.Variable([start])
    optimizer = optimizers.make(kind, [variable], rate, **options)
    out = []
    for gradient in gradients:
        optimizer.apply([tf.constant([gradient])])
        out.append(float(variable[0]))
    return out


class VectorTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters(
        ("outside", "rmsprop", dict(decay=0.99, epsilon=1e-5), [0.9950005, 0.99947691]),
        (
            "inside",
            "rmsprop",
            dict(decay=0.99, epsilon=1e-5, epsilon_inside_root=True),
            [0.9950025, 0.99947866],
        ),
        ("tf1", "rmsprop_tf1", dict(decay=0.99, epsilon=0.1), [0.99952327, 1.00046399]),
    )
    def test_rmsprop(self, kind, options, expected):
        self.assertAllClose(
            trained(kind, 5e-4, options, [1.0, -2.0]), expected, rtol=0, atol=1.2e-7
        )

    def test_adam_by_hand(self):
        # m = 0.1 then 0.5, s = 0.5 then 4.25, with betas 0.9 and 0.5 and epsilon 0.25.
        found = trained("adam", 0.125, dict(beta_1=0.9, beta_2=0.5, epsilon=0.25), [1.0, 4.1 / 1.0])
        first = 1 - 0.125 * np.sqrt(0.5) / 0.1 * 0.1 / (np.sqrt(0.5) + 0.25)
        second_moment = 0.5 * 0.5 + 0.5 * 4.1**2
        step = np.sqrt(1 - 0.25) / (1 - 0.81) * (0.09 + 0.41) / (np.sqrt(second_moment) + 0.25)
        self.assertAllClose(found, [first, first - 0.125 * step], rtol=1e-6)

    @parameterized.parameters(("adam", 0.0), ("adamw", 0.25))
    def test_adamw_by_hand(self, kind, decay):
        # The first step of Adam is the rate, whatever the gradient; AdamW also takes rate * decay of the value.
        options = dict(epsilon=1e-12) if kind == "adam" else dict(epsilon=1e-12, weight_decay=decay)
        found = trained(kind, 0.5, options, [3.0], start=2.0)
        self.assertAllClose(found, [2.0 - 0.5 - 0.5 * decay * 2.0], rtol=1e-5)

    def test_momentum_of_rmsprop_by_hand(self):
        # With decay 0 and no epsilon to speak of, g / root is the sign; the rate falls from 0.5 to 0.25.
        rate = lambda i: 0.5 / (1.0 + tf.cast(i, tf.float32))
        options = dict(decay=0.0, epsilon=1e-12, momentum=0.5)
        pytorch = trained("rmsprop", rate, options, [3.0, 7.0], start=0.0)
        self.assertAllClose(pytorch, [-0.5, -0.5 - 0.25 * 1.5], rtol=1e-6)
        keras = trained("rmsprop_keras", rate, options, [3.0, 7.0], start=0.0)
        self.assertAllClose(keras, [-0.5, -0.5 - (0.5 * 0.5 + 0.25)], rtol=1e-6)

    def test_sgd_by_hand(self):
        self.assertAllClose(trained("sgd", 0.5, {}, [1.0, -2.0]), [0.5, 1.5])
        # Velocities -0.5, then 0.5 * -0.5 + 1.
        self.assertAllClose(trained("sgd", 0.5, {"momentum": 0.5}, [1.0, -2.0]), [0.5, 1.25])

    @parameterized.named_parameters((name, *case) for name, case in KINDS.items())
    def test_equals_the_slow_twin(self, kind, options):
        gradients = np.random.default_rng(0).normal(size=30).astype(np.float32)
        rate = lambda i: 0.1 / (1 + i)
        found = trained(
            kind, lambda i: 0.1 / (1.0 + tf.cast(i, tf.float32)), options, gradients.tolist()
        )
        expected = reference.optimise(kind, 1.0, gradients, rate, **options)
        self.assertAllClose(found, expected, rtol=2e-6, atol=2e-6)

    @parameterized.parameters(
        ("adam", dict(epsilon=1e-7), lambda: tf.keras.optimizers.Adam(0.01, epsilon=1e-7)),
        (
            "adam",
            dict(epsilon=1e-7, beta_1=0.5, beta_2=0.9),
            lambda: tf.keras.optimizers.Adam(0.01, 0.5, 0.9, epsilon=1e-7),
        ),
        (
            "adamw",
            dict(epsilon=1e-7, weight_decay=0.3),
            lambda: tf.keras.optimizers.AdamW(0.01, weight_decay=0.3, epsilon=1e-7),
        ),
        (
            "rmsprop_keras",
            dict(decay=0.9, epsilon=1e-7, momentum=0.3),
            lambda: tf.keras.optimizers.RMSprop(0.01, rho=0.9, momentum=0.3, epsilon=1e-7),
        ),
        ("sgd", dict(momentum=0.9), lambda: tf.keras.optimizers.SGD(0.01, momentum=0.9)),
        (
            "sgd",
            dict(momentum=0.9, nesterov=True),
            lambda: tf.keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        ),
    )
    def test_equals_keras(self, kind, options, make_theirs):
        theirs = make_theirs()
        rng = np.random.default_rng(1)
        start = rng.normal(size=(3, 4)).astype(np.float32)
        mine, other = tf.Variable(start), tf.Variable(start)
        optimizer = optimizers.make(kind, [mine], 0.01, **options)
        for _ in range(20):
            gradient = tf.constant(rng.normal(size=(3, 4)), tf.float32)
            optimizer.apply([gradient])
            theirs.apply_gradients([(gradient, other)])
        self.assertAllClose(mine, other, rtol=0, atol=3e-6)
        self.assertGreater(np.abs(mine.numpy() - start).max(), 0.01)


class RateTest(tf.test.TestCase):
    def test_a_schedule_sees_the_updates_made(self):
        seen = trained("sgd", schedules.Linear(1.0, 0.0, 4), {}, [1.0] * 6, start=0.0)
        self.assertAllClose(seen, -np.cumsum([1.0, 0.75, 0.5, 0.25, 0.0, 0.0]))

    def test_it_counts(self):
        variable = tf.Variable([0.0])
        optimizer = optimizers.make("adam", [variable], 0.1)
        self.assertEqual(optimizer.iterations.dtype, tf.int64)
        for _ in range(3):
            optimizer.apply([tf.constant([1.0])])
        self.assertEqual(int(optimizer.iterations), 3)
        own = optimizer.variables  # the counter and two slots, without what is trained
        self.assertLen(own, 3)
        self.assertFalse(any(v is variable or v.trainable for v in own))

    def test_an_unknown_kind_is_refused(self):
        with self.assertRaisesRegex(SettingError, "optimizer='adan'.*did you mean adam"):
            optimizers.make("adan", [tf.Variable([0.0])], 0.1)


class GradientsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters((name, *case) for name, case in KINDS.items())
    def test_none_leaves_a_variable_alone(self, kind, options):
        variables = [tf.Variable([1.0]), tf.Variable([1.0])]
        optimizers.make(kind, variables, 0.1, **options).apply([None, tf.constant([1.0])])
        self.assertEqual(float(variables[0][0]), 1.0)
        self.assertLess(float(variables[1][0]), 1.0)

    @parameterized.named_parameters((name, *case) for name, case in KINDS.items())
    def test_rows_of_an_embedding(self, kind, options):
        table, dense = tf.Variable(tf.ones([3, 2])), tf.Variable(tf.ones([3, 2]))
        rows = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([2, 2]), tf.constant([3, 2]))
        optimizers.make(kind, [table], 0.1, **options).apply([rows])
        whole = tf.constant([[0.0, 0.0], [0.0, 0.0], [2.0, 2.0]])
        optimizers.make(kind, [dense], 0.1, **options).apply([whole])
        self.assertAllEqual(table, dense)
        self.assertLess(float(table[2, 0]), 1.0)

    def test_moments_in_one_vector_change_nothing(self):
        rng = np.random.default_rng(3)
        shapes = [(3, 4), (4,), (), (2, 1, 2)]
        start = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
        trained = []
        for limit in (0, optimizers.FLAT_ELEMENTS):
            draws = np.random.default_rng(4)
            variables = [tf.Variable(x) for x in start]
            with mock.patch.object(optimizers, "FLAT_ELEMENTS", limit):
                optimizer = optimizers.make("adam", variables, 0.01, epsilon=1e-5)
            self.assertLen(optimizer.variables, 3 if limit else 9)
            for step in range(8):
                given = [tf.constant(draws.normal(size=shape), tf.float32) for shape in shapes]
                if step % 3 == 1:
                    given[1] = None
                optimizer.apply(given)
            trained.append([v.numpy() for v in variables])
        for each, flat, first in zip(*trained, start, strict=True):
            self.assertAllClose(each, flat, rtol=0, atol=1e-6)
            self.assertGreater(np.abs(flat - first).max(), 0.01)

    def test_the_order_must_be_whole(self):
        variables = [tf.Variable([1.0]), tf.Variable([1.0])]
        for kind, options in KINDS.values():
            with self.assertRaises(ValueError):
                optimizers.make(kind, variables, 0.1, **options).apply([tf.constant([1.0])])


class PlacesTest(tf.test.TestCase, parameterized.TestCase):
    """A least-squares fit gives the same weights wherever it runs."""

    X = np.arange(8, dtype=np.float32) / 8
    Y = 3 * X + 1

    def train(self, kind, options, strategy=None, jit=False, updates=6, loops=1):
        strategy = strategy or tf.distribute.get_strategy()
        with strategy.scope():
            w = tf.Variable([0.5, 0.0])
            rate = schedules.Linear(0.1, 0.01, 4)
            optimizer = optimizers.make(kind, [w], rate, **options)

        def update():
            context = tf.distribute.get_replica_context()
            share = 8 // context.num_replicas_in_sync
            start = context.replica_id_in_sync_group * share
            x, y = (tf.constant(a)[start : start + share] for a in (self.X, self.Y))
            with tf.GradientTape() as tape:
                loss = apply.global_mean((w[0] * x + w[1] - y) ** 2)
            return apply.minimise(optimizer, tape, loss, [w], 1.0)

        def body(i):
            strategy.run(update)
            return i + 1

        @tf.function(jit_compile=jit, autograph=False)
        def run():
            return tf.while_loop(lambda i: i < loops, body, [tf.constant(0)])

        for _ in range(updates // loops):
            run()
        copies = [v.numpy() for v in strategy.experimental_local_results(w)]
        for copy in copies:
            self.assertAllEqual(copy, copies[0])
        self.assertEqual(optimizer.iterations.numpy(), updates)
        return copies[0]

    @parameterized.named_parameters((name, *case) for name, case in KINDS.items())
    def test_devices_xla_and_loops_agree(self, kind, options):
        one = self.train(kind, options)
        self.assertGreater(np.abs(one - [0.5, 0.0]).max(), 1e-3)
        self.assertAllClose(one, self.train(kind, options, loops=3), rtol=0, atol=1e-6)
        self.assertAllClose(one, self.train(kind, options, jit=True, loops=3), rtol=0, atol=1e-6)
        for loops in (1, 3):
            two = self.train(kind, options, replicas.two_cpus(), loops=loops)
            self.assertAllClose(one, two, rtol=0, atol=1e-6)


class CheckpointTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters((name, *case) for name, case in KINDS.items())
    def test_it_goes_on_exactly(self, kind, options):
        gradients = np.random.default_rng(2).normal(size=(6, 2)).astype(np.float32)
        rate = schedules.Linear(0.1, 0.0, 6)

        def is_first():
            variable = tf.Variable([1.0, -1.0])
            return variable, optimizers.make(kind, [variable], rate, **options)

        whole, optimizer = is_first()
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient)])
        first, optimizer = is_first()
        for gradient in gradients[:3]:
            optimizer.apply([tf.constant(gradient)])
        folder = self.enter_context(tempfile.TemporaryDirectory())
        path = tf.train.Checkpoint(v=first, o=optimizer).write(os.path.join(folder, "saved"))
        second, optimizer = is_first()
        found = tf.train.Checkpoint(v=second, o=optimizer).read(path)
        found.assert_existing_objects_matched()
        for gradient in gradients[3:]:
            optimizer.apply([tf.constant(gradient)])
        self.assertAllEqual(whole, second)
        self.assertNotAllClose(first, second)


if __name__ == "__main__":
    tf.test.main()
