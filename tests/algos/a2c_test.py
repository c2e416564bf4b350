"""A2C: settings, plan, advantages and loss on written-down numbers."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import Unroll
from tfrl.algos import a2c
from tfrl.algos.parts import policy_gradient
from tfrl.errors import SettingError
from tfrl.testing import linear

SEED = np.zeros(2, np.int32)
LOGITS, ACTIONS = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], [0, 0, 1]


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(unroll_length=0), "unroll_length=0: expected at least 1 env steps"),
        (dict(gae_lambda=-0.1), "gae_lambda=-0.1: expected at least 0"),
        (dict(discount=1.5), "discount=1.5: expected at most 1"),
        (dict(learning_rate=0.0), "learning_rate=0.0: expected more than 0"),
        (dict(rmsprop_decay=1.5), "rmsprop_decay=1.5: expected at most 1"),
        (dict(optimizer_epsilon=0.0), "optimizer_epsilon=0.0: expected more than 0"),
        (dict(gradient_clip_norm=0.0), "gradient_clip_norm=0.0: expected more than 0"),
        (dict(entropy_coefficient=-0.01), "entropy_coefficient=-0.01: expected at least 0"),
        (dict(core_size=0), "core_size=0: expected at least 1"),
        (dict(observation_clip=0.0), "observation_clip=0.0: expected more than 0"),
        (dict(hidden_sizes=(0,)), r"hidden_sizes.*expected at least 1"),
        (
            dict(learning_rate_final=1e-5),
            "learning_rate_env_steps=0 and learning_rate_updates=0: give the length",
        ),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message) as caught:
            a2c.Config(**settings)
        self.assertNotIn("\n", str(caught.exception))


class AgentTest(tf.test.TestCase, parameterized.TestCase):
    def test_plan(self):
        agent = a2c.make(a2c.Config(unroll_length=7, discount=0.8), linear.spec(2, 2))
        self.assertEqual(agent.experience.item, Unroll(7, 0.8))
        self.assertTrue(agent.experience.actors_wait)
        self.assertEqual((agent.experience.epochs, agent.experience.minibatches), (1, 1))

    def learner(self, values, **settings):
        logits = [*LOGITS, [0.0, 0.0]][: len(values)]
        return linear.learner(a2c, logits, values, **settings)

    @parameterized.parameters(
        ("fragment end", None, [2.84432, 2.006, 2.3]),
        ("truncated", None, [2.84432, 2.006, 2.3]),
        ("terminated at the end", 2, [1.9112, 0.71, 0.5]),
        ("terminated before", 1, [0.68, -1.0, 2.3]),
    )
    def test_advantages(self, case, terminated, expected):
        learner = self.learner([0.5, 1.0, 1.5, 2.0], discount=0.9, gae_lambda=0.8)
        batch = linear.unroll(ACTIONS, [1.0, 0.0, 2.0], np.zeros(3), 0.9)
        is_last, discount = np.zeros([3, 1], bool), np.full([3, 1], 0.9, np.float32)
        is_last[2] = case == "truncated"
        if terminated is not None:
            is_last[terminated], discount[terminated] = True, 0.0
        rows = learner.prepare(
            batch._replace(is_last=tf.constant(is_last), discount=tf.constant(discount))
        )
        self.assertAllClose(rows.advantages, expected)
        self.assertAllClose(rows.targets, np.float32([0.5, 1.0, 1.5]) + expected)

    @parameterized.parameters(([True] * 3, -0.53675454), ([True, True, False], None))
    def test_vector_of_the_loss(self, valid, expected):
        settings = dict(value_coefficient=0.5, entropy_coefficient=0.01)
        learner = self.learner([0.5, 0.5, 1.0], **settings)
        rows = policy_gradient.TrainBatch(
            obs=tf.eye(3), sample=tf.constant(ACTIONS), log_prob=tf.zeros([3]),
            params=tf.constant(LOGITS), advantages=tf.constant([1.0, -2.0, 0.5]),
            targets=tf.constant([1.0, 0.0, 2.0]), values=tf.zeros([3]), valid=tf.constant(valid),
            is_first=(), state=(),
        )  # fmt: skip
        loss = learner.update(rows, SEED).metrics["learner/loss"]
        if expected is None:  # the first two steps alone
            policy, value, entropy = 0.31326169 - 2.62652338, 0.25, 2 * 0.58220311
            expected = (policy + 0.5 * value - 0.01 * entropy) / 2
        self.assertAllClose(loss, expected, atol=1e-6)


if __name__ == "__main__":
    tf.test.main()
