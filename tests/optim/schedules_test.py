"""Schedules over updates."""

import tensorflow as tf
from absl.testing import parameterized

from tfrl.optim import schedules


class LinearTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((0, 0.4), (5_000, 0.55), (20_000, 1.0), (30_000, 1.0))
    def test_beta_vector(self, now, expected):
        beta = schedules.linear(0.4, 1.0, 20_000, tf.constant(now, tf.int64))
        self.assertAllClose(beta, expected, rtol=1e-6)
        self.assertEqual(beta.dtype, tf.float32)

    @parameterized.parameters(
        (0, 5e-4),
        (5_000_000, 3.7500000025e-4),
        (10_000_000, 2.500000005e-4),
        (20_000_000, 1e-12),
        (30_000_000, 1e-12),
    )
    def test_learning_rate_vector(self, now, expected):
        rate = schedules.Linear(5e-4, 1e-12, 20_000_000)(tf.constant(now, tf.int64))
        self.assertAllClose(rate, expected, rtol=1e-5, atol=1e-13)

    def test_no_duration_gives_the_final_value_at_once(self):
        self.assertAllClose(schedules.linear(0.4, 1.0, 0, tf.constant(0)), 1.0)

    def test_an_optimiser_follows_its_own_counter(self):
        variable = tf.Variable(0.0)
        sgd = tf.keras.optimizers.SGD(schedules.Linear(1.0, 0.0, 4))
        places = []
        for _ in range(6):
            sgd.apply_gradients([(tf.constant(-1.0), variable)])
            places.append(float(variable))
        self.assertAllClose(places, [1.0, 1.75, 2.25, 2.5, 2.5, 2.5])

    def test_the_config_rebuilds_it(self):
        schedule = schedules.Linear(0.3, 0.1, 10)
        again = schedules.Linear.from_config(schedule.get_config())
        self.assertAllClose(again(tf.constant(5)), 0.2)
