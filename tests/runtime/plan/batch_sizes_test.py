"""Sizes of batches, and learning rates that follow them."""

import dataclasses

import tensorflow as tf
from absl.testing import parameterized

from tfrl.api import make_job
from tfrl.envs.make import make_spec
from tfrl.job import algorithm
from tfrl.optim import settings as optim_settings
from tfrl.runtime.plan import batch_sizes
from tfrl.runtime.plan.run_plan import make_agent, plan_run
from tfrl.settings import setting
from tfrl.testing import conformance

ENV = "tfrl.testing.fakes:MaskedBandit"
CASES = (
    ("dqn", dict(batch_size=24), {}, 24),
    ("dqn", dict(batch_size=24, core="lstm"), {}, 24),  # sequences
    ("ppo", dict(unroll_length=6, minibatches=4), dict(num_envs=4), 6),
    (
        "ppo",
        dict(unroll_length=6, minibatches=3, batch_env_steps=100),
        dict(num_envs=4, num_actors=2, backend="processes"),
        6 * 4 * 2 * 3 / 3,
    ),
    ("impala", dict(unroll_length=6, batch_env_steps=100), dict(num_envs=4), 6 * 4 * 5),
    ("a3c", dict(unroll_length=6), dict(num_envs=4), 24),
    ("pg", dict(episodes_per_item=8, unroll_length=20), dict(num_envs=4), 8),
)


class BatchSizesTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(*CASES)
    def test_samples_of_an_update(self, algo, settings, topology, expected):
        job = make_job(algo, env=ENV, **settings, **topology)
        agent = make_agent(job, make_spec(job.env))
        self.assertEqual(batch_sizes.update_samples(agent.experience, job.topology), expected)


class ScaledRatesTest(tf.test.TestCase, parameterized.TestCase):
    def test_all_rates_are_multiplied_by_the_root(self):
        config = algorithm("dqn").Config(
            learning_rate=0.1, learning_rate_final=0.01, learning_rate_updates=5,
            learning_rate_batch_base=32,
        )  # fmt: skip
        scaled, line = optim_settings.scaled(config, 32 * 16)
        self.assertAllClose((scaled.learning_rate, scaled.learning_rate_final), (0.4, 0.04))
        self.assertIn("multiplied by 4, the square root of 512 / 32", line)
        config = algorithm("dqn").Config(
            learning_rate_schedule=((0, 0.1), (50, 0.2)), learning_rate_batch_base=32
        )
        scaled, _ = optim_settings.scaled(config, 8)
        self.assertAllClose(scaled.learning_rate_schedule, ((0, 0.05), (50, 0.1)))
        self.assertEqual(optim_settings.scaled(scaled, 8), (scaled, ""))

    def test_rates_of_an_algorithm_of_its_own_too(self):
        @dataclasses.dataclass(frozen=True)
        class Config(optim_settings.OptimizerSettings):
            policy_learning_rate: float | None = setting(None, "rate of the policy")
            second_learning_rate: float = setting(0.5, "another rate")

        scaled, _ = optim_settings.scaled(Config(learning_rate_batch_base=16), 64)
        self.assertEqual(scaled.second_learning_rate, 1.0)
        self.assertIsNone(scaled.policy_learning_rate)

    @parameterized.parameters(
        ("dqn", dict(batch_size=16, updates_per_call=1), 2.0),
        ("a2c", dict(unroll_length=3, num_envs=4), 3**0.5),
    )
    def test_a_learner_has_the_rate_of_its_batch_and_a_line_says_so(self, algo, settings, factor):
        job = make_job(
            algo, env=ENV, hidden_sizes=(4,), learning_rate=1e-3, learning_rate_batch_base=4,
            **settings,
        )  # fmt: skip
        plan = plan_run(job)
        self.assertRegex(
            plan.agent.notes[-1], "^learning rates: multiplied by .*learning_rate_batch_base"
        )
        self.assertEqual(plan.job.config.learning_rate_batch_base, 4)  # what job.json keeps
        loop = conformance.loop(plan.agent, plan.spec)
        metrics, _ = loop.run(conformance.block(plan.agent, plan.spec, 0), 0)
        self.assertAllClose(metrics["learner/learning_rate"], 1e-3 * factor)

    def test_a_learner_without_a_known_batch_is_refused(self):
        job = make_job("dqn", env=ENV, learning_rate_batch_base=4)
        agent = algorithm("dqn").make(job.config, make_spec(job.env))
        with self.assertRaisesRegex(ValueError, "learning_rate_batch_base: call `scaled` first"):
            agent.make_learner()


if __name__ == "__main__":
    tf.test.main()
