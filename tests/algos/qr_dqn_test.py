"""QR-DQN: its settings, and the distribution that it learns."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import qr_dqn
from tfrl.errors import SettingError
from tfrl.types import EnvSpec, Transition

SPEC = EnvSpec("box", gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(2))


class QrDqnTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (dict(num_quantiles=0), "num_quantiles=0: expected at least 1"),
        (dict(huber_delta=0.0), "huber_delta=0.0: expected more than 0"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            qr_dqn.Config(**settings)

    def test_outputs_come_near_the_quantiles_of_the_rewards(self):
        tf.keras.utils.set_random_seed(0)
        config = qr_dqn.Config(
            num_quantiles=5, huber_delta=0.02, hidden_sizes=(), learning_rate=0.05,
            learning_rate_final=1e-3, learning_rate_updates=600, batch_size=2_000,
        )  # fmt: skip
        learner = qr_dqn.make(config, SPEC).make_learner()
        rewards = np.random.default_rng(0).exponential(size=2_000).astype(np.float32)
        obs, zeros = tf.zeros([2_000, 1]), tf.zeros([2_000])
        batch = Transition(obs, tf.zeros([2_000], tf.int32), rewards, zeros, obs, zeros + 1.0)
        update = tf.function(learner.update)
        for i in range(600):
            update(batch, tf.constant([0, i]))
        features = obs = tf.zeros([1, 1])  # no layers before the head
        found = learner.policy.model.quantiles(features, obs)[0, 0]
        self.assertAllClose(found, np.quantile(rewards, [0.1, 0.3, 0.5, 0.7, 0.9]), atol=0.05)
