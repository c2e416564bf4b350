"""C51: its settings, its means and the warning of its edges."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import c51
from tfrl.errors import SettingError
from tfrl.types import EnvSpec, Transition

SPEC = EnvSpec("box", gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(2))


class C51Test(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (dict(num_atoms=1), "num_atoms=1: expected at least 2"),
        (dict(v_min=1.0, v_max=1.0), "v_min=1.0 with v_max=1.0"),
        (dict(noisy="gauss"), "noisy='gauss': expected one of none, factorised, independent"),
        (dict(min_replay=20, replay_capacity=10, batch_size=4), "min_replay=20 with"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            c51.Config(**settings)

    def test_values_are_means(self):
        model = c51.make(c51.Config(num_atoms=3, v_min=-1, v_max=1), SPEC).make_policy().model
        logits = tf.constant([[[0.0, 0, 1], [1, 0, 0.5]]])
        self.assertAllClose(model.mean(logits), [[0.36417533, -0.19928451]])

    @parameterized.parameters((0.0, 0.0), (3.0, 1.0), (-3.0, 1.0), (1.5, 0.5))
    def test_mass_of_targets_on_the_edges_is_reported(self, reward, expected):
        learner = c51.make(c51.Config(num_atoms=5, v_min=-2, v_max=2), SPEC).make_learner()
        obs, one = tf.zeros([1, 3]), tf.ones([1])
        batch = Transition(obs, tf.constant([0]), reward * one, 0.0 * one, obs, one)
        metrics = learner.update(batch, tf.constant([0, 0])).metrics
        self.assertAllClose(metrics["learner/edge_mass"], expected)

    def test_the_priority_is_the_divergence(self):
        config = c51.Config(num_atoms=5, v_min=-2, v_max=2, prioritized=True, hidden_sizes=())
        learner = c51.make(config, SPEC).make_learner()
        for policy in (learner.policy, learner.target):
            for v in policy.variables:
                v.assign(tf.zeros_like(v))
        obs, one = tf.zeros([1, 3]), tf.ones([1])
        batch = Transition(obs, tf.constant([0]), one, 0.0 * one, obs, one)  # target: one atom
        out = learner.update(batch, tf.constant([0, 0]))
        self.assertAllClose(out.priorities, [np.log(5.0) + 1e-6])
        self.assertAllClose(out.metrics["learner/loss"], np.log(5.0))
