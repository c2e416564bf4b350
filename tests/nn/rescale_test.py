"""The mapping of bounded observations to [-1, 1]."""

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.nn import inputs


class RescaleTest(tf.test.TestCase):
    def test_limits_become_one_and_unbounded_components_stay(self):
        low, high = np.float32([-1.2, -0.07, -np.inf, 0.0]), np.float32([0.6, 0.07, 5.0, np.inf])
        space = gym.spaces.Box(low, high, dtype=np.float32)
        obs = np.float32([[-1.2, -0.07, -3.0, 2.0], [0.6, 0.07, 4.0, 9.0], [-0.3, 0.0, 0.0, 0.0]])
        expected = [[-1, -1, -3, 2], [1, 1, 4, 9], [0, 0, 0, 0]]
        self.assertAllClose(inputs.flatten(obs, space, rescale=True), expected, atol=1e-6)
        self.assertAllClose(inputs.flatten(obs, space), obs)

    def test_only_boxes_change_inside_a_nest(self):
        space = gym.spaces.Dict(
            a=gym.spaces.Box(0.0, 10.0, (1,), np.float32), b=gym.spaces.Discrete(2)
        )
        obs = {"a": np.float32([[10.0]]), "b": np.int32([1])}
        self.assertAllClose(inputs.flatten(obs, space, rescale=True), [[1.0, 0.0, 1.0]])

    def test_huge_limits_say_nothing(self):
        space = gym.spaces.Box(-3e38, 3e38, (2,), np.float32)
        obs = np.float32([[1.0, -2.0]])
        self.assertAllClose(inputs.flatten(obs, space, rescale=True), obs)
