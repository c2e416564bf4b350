"""IMPALA: settings, plan, and a whole update on written-down numbers."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import Unroll
from tfrl.algos import impala
from tfrl.errors import SettingError
from tfrl.testing import linear

SEED = np.zeros(2, np.int32)
MU, PI = [[0.0, 0], [0, 1], [1, 0]], [[1.0, 0], [0, 0], [1, 1]]
ACTIONS, REWARDS, VALUES = [0, 1, 0], [1.0, 0.0, -1.0], [0.0, 0.5, 1.0, 0.25]


def behaviour():
    """log mu of the actions."""
    mu = np.array(MU)
    return (mu - np.log(np.exp(mu).sum(1, keepdims=True)))[range(3), ACTIONS]


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(batch_env_steps=-1), "batch_env_steps=-1: expected at least 0 env steps"),
        (dict(queue_items=0), "queue_items=0: expected at least 1 items"),
        (dict(trace_lambda=1.5), "trace_lambda=1.5: expected at most 1"),
        (dict(rho_bar=0.0), "rho_bar=0.0: expected more than 0"),
        (dict(pg_rho_bar=-1.0), "pg_rho_bar=-1.0: expected more than 0"),
        (dict(replay_proportion=-0.5), "replay_proportion=-0.5: expected at least 0"),
        (dict(replay_unrolls=0), "replay_unrolls=0: expected at least 1"),
        (dict(passes=0), "passes=0: expected at least 1"),
        (dict(pass_buffer_batches=0), "pass_buffer_batches=0: expected at least 1"),
        (dict(broadcast_interval_updates=0), "broadcast_interval_updates=0: expected at least 1"),
        (dict(pass_buffer_batches=2), "pass_buffer_batches=2 with passes=1: batches are kept"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            impala.Config(**settings)


class AgentTest(tf.test.TestCase, parameterized.TestCase):
    def test_plans(self):
        config = impala.Config(
            unroll_length=20, queue_items=5, replay_proportion=0.5, replay_unrolls=30, passes=2,
            pass_buffer_batches=3, broadcast_interval_updates=4,
        )  # fmt: skip
        agent = impala.make(config, linear.spec(2, 2))
        self.assertEqual(agent.experience.item, Unroll(20, 0.99))
        self.assertEqual(agent.experience.capacity_items, 5)
        self.assertFalse(agent.experience.actors_wait)
        queue = agent.experience
        self.assertEqual((queue.replay_proportion, queue.replay_items), (0.5, 30))
        self.assertEqual((queue.passes, queue.pass_buffer_batches), (2, 3))
        self.assertEqual((agent.updates_per_publish, queue.batch_env_steps), (4, 500))

    def metrics(self, batch=None, **settings):
        settings = dict(value_coefficient=0.5, entropy_coefficient=0.01, **settings)
        learner = linear.learner(impala, [*PI, [0.0, 0.0]], VALUES, discount=0.99, **settings)
        batch = batch or linear.unroll(ACTIONS, REWARDS, behaviour(), 0.99)
        return learner.update(batch, SEED).metrics

    def test_vector(self):
        metrics = self.metrics()
        self.assertAllClose(metrics["learner/loss"], -0.06082171, atol=1e-6)
        self.assertAllClose(3 * metrics["learner/policy_loss"], -0.8404889, atol=1e-6)
        self.assertAllClose(3 * metrics["learner/value_loss"], 1.35541751, atol=1e-6)
        self.assertAllClose(3 * metrics["learner/entropy"], 1.96849747, atol=1e-6)
        rho = [1.46211716, 0.68393972, 0.68393972]
        self.assertAllClose(metrics["learner/rho"], np.mean(rho), atol=1e-6)

    def test_a_step_that_is_not_valid_changes_nothing_before_an_end(self):
        """A termination, and the automatic reset after it."""
        batch = linear.unroll(ACTIONS, REWARDS, behaviour(), 0.99)
        column = lambda x: tf.constant(np.reshape(x, [-1, 1]))
        batch = batch._replace(
            discount=column(np.float32([0.99, 0.0, 0.99])),
            is_last=column([False, True, True]),
            valid=column([True, True, False]),
        )
        short = linear.unroll(ACTIONS[:2], REWARDS[:2], behaviour()[:2], 0.99)
        short = short._replace(
            obs=batch.obs[:3], discount=batch.discount[:2], is_last=batch.is_last[:2]
        )
        metrics, expected = self.metrics(batch), self.metrics(short)
        for name in ("learner/loss", "learner/policy_loss", "learner/value_loss", "learner/rho"):
            self.assertAllClose(metrics[name], expected[name], msg=name)

    def test_without_vtrace_the_advantages_are_plain(self):
        metrics = self.metrics(vtrace=False, trace_lambda=0.0)
        values = np.array(VALUES)
        delta = np.array(REWARDS) + 0.99 * values[1:] - values[:3]
        self.assertAllClose(metrics["learner/value_loss"], np.mean(0.5 * delta**2), atol=1e-6)

    def test_standardised_advantages(self):
        valid = np.array([True, True, False])
        batch = linear.unroll(ACTIONS, REWARDS, behaviour(), 0.99)
        column = lambda x: tf.constant(np.reshape(x, [-1, 1]))
        batch = batch._replace(valid=column(valid), is_last=column([False, True, True]))
        settings = dict(vtrace=False, trace_lambda=0.0)
        metrics = self.metrics(batch, normalize_advantage="batch", **settings)
        values = np.array(VALUES)
        delta = (np.array(REWARDS) + 0.99 * values[1:] - values[:3])[valid]
        advantages = (delta - delta.mean()) / delta.std()
        pi = np.array(PI)
        log_pi = (pi - np.log(np.exp(pi).sum(1, keepdims=True)))[range(3), ACTIONS][valid]
        self.assertAllClose(
            metrics["learner/policy_loss"], np.mean(-log_pi * advantages), atol=1e-6
        )
        plain = self.metrics(batch, **settings)
        self.assertAllClose(metrics["learner/value_loss"], plain["learner/value_loss"])


if __name__ == "__main__":
    tf.test.main()
