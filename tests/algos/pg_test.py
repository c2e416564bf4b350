"""PG: settings, plan, and returns of complete episodes as weights."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import Episodes
from tfrl.algos import pg
from tfrl.algos.parts import policy_gradient
from tfrl.errors import SettingError
from tfrl.testing import linear

SEED = np.zeros(2, np.int32)
LOGITS, ACTIONS = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], [0, 0, 1]
LENGTH = dict(unroll_length=3)


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(unroll_length=-1), "unroll_length=-1: expected at least 0 env steps"),
        (dict(episodes_per_item=0), "episodes_per_item=0: expected at least 1 episodes"),
        (dict(baseline="yes"), "baseline='yes': expected"),
        (dict(value_coefficient=-1.0), "value_coefficient=-1.0: expected at least 0"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            pg.Config(**settings)

    def test_an_environment_without_a_time_limit_needs_one(self):
        with self.assertRaisesRegex(
            SettingError, "algo=pg on linear: it has no time limit; give unroll_length or max_epis"
        ):
            pg.make(pg.Config(), linear.spec(2, 2))


class AgentTest(tf.test.TestCase, parameterized.TestCase):
    def test_plan(self):
        config = pg.Config(unroll_length=9, episodes_per_item=5, discount=0.8)
        agent = pg.make(config, linear.spec(2, 2))
        self.assertEqual(agent.experience.item, Episodes(9, 0.8, count=5))
        self.assertTrue(agent.experience.actors_wait)

    def prepared(self, rewards, discount, ends=True, **settings):
        values = [0.5, 1.0, 1.5, 2.0, 0.0]
        logits = [[0.0, 0.0]] * (len(rewards) + 1)
        settings = dict(discount=discount, unroll_length=len(rewards), **settings)
        learner = linear.learner(pg, logits, values[: len(logits)], **settings)
        batch = linear.unroll([0] * len(rewards), rewards, np.zeros(len(rewards)), discount)
        is_last = np.zeros([len(rewards), 1], bool)
        is_last[-1] = ends
        return learner.prepare(batch._replace(is_last=tf.constant(is_last)))

    @parameterized.parameters(True, False)
    def test_returns_end_with_the_episode_or_where_it_is_cut(self, ends):
        rows = self.prepared([1.0, 2.0, 3.0], 0.9, ends)
        self.assertAllClose(rows.advantages, [5.23, 4.7, 3.0])  # no bootstrap, even if truncated

    def test_a_baseline_is_subtracted(self):
        rows = self.prepared([1.0, 2.0, 3.0], 0.9, baseline=True)
        self.assertAllClose(rows.advantages, [4.73, 3.7, 1.5])
        self.assertAllClose(rows.targets, [5.23, 4.7, 3.0])

    def test_standardised_returns(self):
        rows = self.prepared([1.0, 2.0, 3.0, 4.0], 0.0, normalize_returns=True)
        self.assertAllClose(rows.advantages, [-1.34164079, -0.4472136, 0.4472136, 1.34164079])

    def test_vector_of_the_loss(self):
        learner = linear.learner(pg, LOGITS, [0.0, 0.0, 0.0], **LENGTH)
        self.assertFalse(learner.policy.critic)
        rows = policy_gradient.TrainBatch(
            obs=tf.eye(3), sample=tf.constant(ACTIONS), log_prob=tf.zeros([3]),
            params=tf.constant(LOGITS), advantages=tf.constant([1.0, -2.0, 0.5]),
            targets=tf.zeros([3]), values=tf.zeros([3]), valid=tf.ones([3], tf.bool),
            is_first=(), state=(),
        )  # fmt: skip
        metrics = learner.update(rows, SEED).metrics
        self.assertAllClose(metrics["learner/loss"], -0.6555627, atol=1e-6)
        self.assertNotIn("learner/value_loss", metrics)


if __name__ == "__main__":
    tf.test.main()
