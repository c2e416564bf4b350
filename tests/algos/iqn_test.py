"""IQN: the embedding of fractions, the fixed ones of greedy steps, and what is drawn."""

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.algos import iqn
from tfrl.losses import distributional
from tfrl.testing import conformance
from tfrl.types import EnvSpec, NoiseSpec

SPEC = EnvSpec("box", gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(2))


class ImplicitQuantilesTest(tf.test.TestCase):
    def policy(self, **settings):
        tf.keras.utils.set_random_seed(0)
        config = iqn.Config(num_act_tau=6, num_cosines=5, hidden_sizes=(7,), **settings)
        return iqn.make(config, SPEC).make_policy()

    def test_cosines(self):
        out = iqn.cosines(tf.constant([[0.25]]), 4)
        self.assertAllClose(out, [[[1.0, 0.70710678, 0.0, -0.70710678]]], atol=1e-6)
        tau = np.random.default_rng(0).random((3, 40), np.float32)
        exact = np.cos(np.pi * np.arange(64) * tau[:, :, None].astype(np.float64))
        self.assertAllClose(iqn.cosines(tf.constant(tau), 64), exact, rtol=0, atol=1e-5)
        ends = iqn.cosines(tf.constant([[0.0, 1.0]]), 5)
        self.assertAllClose(ends, [[[1, 1, 1, 1, 1], [1, -1, 1, -1, 1]]], rtol=0, atol=1e-6)

    def test_equals_the_formula(self):
        policy = self.policy()
        model = policy.model
        obs = conformance.observations(SPEC, 4, 0)
        tau = np.random.default_rng(0).random((4, 3)).astype(np.float32)
        kernel, bias = (v.numpy() for v in (model._embedding.kernel, model._embedding.bias))
        head = model._heads._advantage._layers[0]
        features = policy.body.step(obs, ())[0].numpy()
        expected = np.zeros((4, 2, 3))
        for b in range(4):
            for n in range(3):
                waves = [np.cos(np.pi * i * tau[b, n]) for i in range(5)]
                phi = np.maximum(waves @ kernel + bias, 0)
                expected[b, :, n] = (features[b] * phi) @ head.kernel.numpy() + head.bias.numpy()
        out = model.quantiles(tf.constant(features), obs, tf.constant(tau))
        self.assertAllClose(out, expected, rtol=1e-5, atol=1e-5)

    def test_a_greedy_step_takes_the_midpoints(self):
        policy = self.policy()
        obs = conformance.observations(SPEC, 4, 0)
        tau = tf.repeat(distributional.midpoints(6)[None], 4, 0)
        expected = tf.reduce_mean(policy.model.quantiles(policy.body.step(obs, ())[0], obs, tau), 2)
        self.assertAllClose(policy.q_values(obs), expected)

    def test_an_exploring_step_takes_what_is_drawn(self):
        policy = self.policy(noisy="factorised")
        self.assertEqual(policy.noise["tau"], NoiseSpec((6,), "uniform"))
        self.assertIn("advantage_0_in", policy.noise)
        obs = conformance.observations(SPEC, 4, 0)
        rng = np.random.default_rng(0)
        noise = {k: tf.constant(rng.random((4, *n.shape)), tf.float32)
                 for k, n in policy.noise.items()}  # fmt: skip
        features, _ = policy.body.step(obs, ())
        expected = tf.reduce_mean(policy.model.quantiles(features, obs, noise["tau"], noise), 2)
        self.assertAllClose(policy.q_values(obs, noise), expected)
        self.assertNotAllClose(policy.q_values(obs), expected)
