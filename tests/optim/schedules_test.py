"""Schedules over updates."""

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import ActorPlace
from tfrl.api import make_job
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.explore import epsilon
from tfrl.job import algorithm
from tfrl.optim import schedules
from tfrl.optim import settings as optim_settings
from tfrl.testing import conformance


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


class PiecewiseTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (0, 5e-4), (5_000_000, 3.7500000025e-4), (10_000_000, 2.500000005e-4), (20_000_000, 1e-12),
        (30_000_000, 1e-12),
    )  # fmt: skip
    def test_vectors_of_two_points(self, now, expected):
        points = ((0.0, 5e-4), (2e7, 1e-12))
        for compiled in (False, True):
            f = tf.function(lambda x: schedules.piecewise(points, x), jit_compile=compiled)
            self.assertAllClose(f(tf.constant(now, tf.int64)), expected, rtol=2e-6, atol=0)

    def test_several_points_are_those_of_numpy(self):
        points = ((0.0, 1.0), (10.0, 0.5), (40.0, 0.5), (50.0, 2.0))
        for now in (0, 1, 9, 10, 11, 25, 40, 47, 50, 51, 1_000_000):
            expected = np.interp(now, *zip(*points))
            self.assertAllClose(
                schedules.piecewise(points, tf.constant(now, tf.int64)), expected, rtol=1e-6
            )
            self.assertAllClose(epsilon.piecewise(points, now), expected)

    def test_one_point_is_a_constant(self):
        self.assertAllClose(schedules.piecewise(((0.0, 0.3),), tf.constant(7)), 0.3)


class WarmupTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (0, 0.1), (1, 0.2), (4, 0.5), (5, 0.5), (10, 0.5 * 0.75**2), (25, 0.0), (99, 0.0)
    )  # fmt: skip
    def test_vectors(self, step, expected):
        schedule = schedules.WarmupPolynomialDecay(0.5, 5, 25, power=2.0)
        again = schedules.WarmupPolynomialDecay.from_config(schedule.get_config())
        for compiled in (False, True):
            rate = tf.function(again, jit_compile=compiled)(tf.constant(step, tf.int64))
            self.assertAllClose(rate, expected, rtol=1e-6)
            self.assertEqual(rate.dtype, tf.float32)

    @parameterized.parameters((0, 1.0), (7, 1.0), (7, 0.5))
    def test_the_settings_give_the_same_rates(self, warmup, power):
        schedule = schedules.WarmupPolynomialDecay(0.5, warmup, 30, power)
        config = optim_settings.OptimizerSettings(
            learning_rate=0.5, learning_rate_final=0.0, learning_rate_warmup_updates=warmup,
            learning_rate_updates=30 - warmup, learning_rate_power=power,
        )  # fmt: skip
        for updates in range(35):
            made = tf.constant(updates, tf.int64)
            self.assertAllEqual(schedule(made), optim_settings.learning_rate(config, None, made))

    def test_what_cannot_be_used_is_refused(self):
        with self.assertRaisesRegex(SettingError, "warmup_steps=5 with total_steps=5: expected"):
            schedules.WarmupPolynomialDecay(0.5, 5, 5)
        with self.assertRaisesRegex(SettingError, "power=0.0: expected more than 0"):
            schedules.WarmupPolynomialDecay(0.5, 0, 5, power=0.0)

    def test_rates_of_the_paper_grow_with_the_root_of_the_batch(self):
        # You et al. 2020, table of BERT: 5 / (2^3 1e3) at 512 up to 5 / 1e3 at 32k.
        rates = [schedules.sqrt_batch_scale(5 / 2**3 / 1e3, 512, 512 * 2**i) for i in range(7)]
        self.assertAllClose(rates, [5 / 2 ** (3 - i / 2) / 1e3 for i in range(7)])


class LearnersTest(tf.test.TestCase, parameterized.TestCase):
    """Step sizes of real learners follow `learning_rate_schedule` by env steps."""

    @parameterized.parameters(
        ("dqn", dict(batch_size=4, updates_per_call=2)), ("impala", dict(unroll_length=3))
    )
    def test_the_rate_is_that_of_the_env_steps(self, algo, settings):
        self.check_rate(algo, settings)

    @parameterized.parameters(
        ("dqn", dict(sends_gradients=True, unroll_length=3)), ("a2c", dict(unroll_length=3))
    )
    @pytest.mark.slow
    def test_the_rate_of_other_learners_is_that_of_the_env_steps(self, algo, settings):
        self.check_rate(algo, settings)

    def check_rate(self, algo, settings):
        points = [[0, 1e-2], [100, 1e-3]]
        job = make_job(
            algo, env="tfrl.testing.fakes:MaskedBandit", hidden_sizes=(4,),
            learning_rate_schedule=points, **settings,
        )  # fmt: skip
        spec = make_spec(job.env)
        agent = algorithm(algo).make(job.config, spec)
        loop, rates = conformance.loop(agent, spec), []
        for env_steps in (0, 50, 100, 500):
            metrics, _ = loop.run(conformance.block(agent, spec, env_steps), env_steps)
            rates.append(float(metrics["learner/learning_rate"]))
        self.assertAllClose(rates, [1e-2, 5.5e-3, 1e-3, 1e-3], rtol=1e-5)

    def test_the_share_of_random_actions_is_that_of_the_env_steps(self):
        job = make_job("dqn", epsilon_schedule=[(0, 1.0), (10, 0.2), (20, 0.0)])
        knobs = algorithm("dqn").make(job.config, make_spec(job.env)).knobs
        shares = [knobs(ActorPlace(0, 1, 1), n, {})["epsilon"][0] for n in (0, 5, 10, 15, 99)]
        self.assertAllClose(shares, [1.0, 0.6, 0.2, 0.1, 0.0])
