"""Noise on continuous actions: its schedule, its ladder, and its place on the scale of the actions."""

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.agent import ActorPlace
from tfrl.algos import ddpg
from tfrl.errors import SettingError
from tfrl.explore import action_noise
from tfrl.nn.bounded import BoundedBox


def knobs(place, env_steps, **settings):
    return action_noise.knob(ddpg.Config(**settings))(place, env_steps, {})


class KnobTest(tf.test.TestCase):
    def test_a_constant_deviation_is_that_of_gaussian_noise(self):
        found = knobs(ActorPlace(0, 1, 3), 5_000, gaussian_sigma=0.2)
        self.assertAllClose(found["noise_scale"], [0.2] * 3)

    def test_the_process_is_multiplied_by_the_range_of_the_action(self):
        found = knobs(ActorPlace(0, 1, 1), 0, exploration_noise="ou", noise_scale=0.1)
        self.assertAllClose(found["noise_scale"], [0.2])  # [-1, 1] has a range of 2

    def test_it_decays_linearly(self):
        settings = dict(
            exploration_noise="ou", noise_scale=0.1, noise_final=0.02, noise_decay_env_steps=100
        )
        for env_steps, share in ((0, 1.0), (50, 0.51), (100, 0.02), (900, 0.02)):
            found = knobs(ActorPlace(0, 1, 1), env_steps, **settings)
            self.assertAllClose(found["noise_scale"], [0.2 * share])

    def test_the_ladder_of_ape_x(self):
        config = ddpg.Config(exploration_noise="gaussian", gaussian_sigma=0.1, noise_ladder="actor")
        scales = [action_noise.scales(config, ActorPlace(i, 8, 1), 10**6)[0] for i in range(8)]
        expected = [0.04, 0.016, 0.0064, 0.00256, 0.001024, 0.0004096, 0.00016384, 0.000065536]
        self.assertAllClose(scales, expected, rtol=1e-5)
        in_metrics = action_noise.in_metrics(config)
        self.assertEqual([bool(in_metrics(ActorPlace(i, 8, 1))[0]) for i in range(8)],
                         [False] * 5 + [True] * 3)  # fmt: skip

    def test_actions_are_random_until_the_replay_can_be_learned_from(self):
        for settings, last in ((dict(min_replay=70), 70), (dict(random_env_steps=20), 20)):
            self.assertEqual(knobs(ActorPlace(0, 1, 1), last - 1, **settings)["random"], [1.0])
            self.assertEqual(knobs(ActorPlace(0, 1, 1), last, **settings)["random"], [0.0])


class ActionTest(tf.test.TestCase):
    def test_the_process_moves_the_action_of_the_environment(self):
        # States of the process after draws [1, -1], [.5, .5], [0, 2], worked out by hand.
        state = np.zeros(2)
        for draw, expected in (([1, -1], [0.2, -0.2]), ([0.5, 0.5], [0.27, -0.07]),
                               ([0, 2], [0.2295, 0.3405])):  # fmt: skip
            state = state - 0.15 * state + 0.2 * np.asarray(draw)
            self.assertAllClose(state, expected)
        box = BoundedBox(gym.spaces.Box(-2.0, 2.0, (2,)))
        u = box.to_unit(tf.constant([[1.9, -0.3]]))
        noise = {"action_noise": tf.constant([state], tf.float32)}
        noisy = action_noise.perturb(u, {"noise_scale": tf.constant([0.2])}, noise)
        self.assertAllClose(box.to_env(noisy), [[1.9918, -0.1638]])

    def test_noise_stays_within_the_limits(self):
        noise = {"action_noise": tf.constant([[9.0, -9.0]])}
        noisy = action_noise.perturb(tf.zeros([1, 2]), {"noise_scale": tf.constant([1.0])}, noise)
        self.assertAllEqual(noisy, [[1.0, -1.0]])

    def test_random_actions_replace_those_of_the_policy(self):
        noise = {"random_action": tf.constant([[0.25, 1.0], [0.5, 0.5]])}
        got = action_noise.start_at_random(
            tf.fill([2, 2], 0.9), {"random": tf.constant([1.0, 0.0])}, noise
        )
        self.assertAllClose(got, [[-0.5, 1.0], [0.9, 0.9]])

    def test_the_scale_of_a_box(self):
        u = tf.constant([[-1.0], [0.0], [0.5], [1.0]])
        for low, high, expected in ((-2, 2, [-2, 0, 1, 2]), (0, 10, [0, 5, 7.5, 10])):
            box = BoundedBox(gym.spaces.Box(low, high, (1,)))
            self.assertAllClose(box.to_env(u)[:, 0], expected)
            self.assertAllClose(box.to_unit(box.to_env(u)), u, atol=1e-6)
        shaped = BoundedBox(gym.spaces.Box(np.zeros((2, 3)), np.arange(1, 7).reshape(2, 3)))
        u = tf.random.stateless_uniform([5, 6], [0, 1], -1.0, 1.0)
        self.assertEqual(shaped.to_env(u).shape, [5, 2, 3])
        self.assertAllClose(shaped.to_unit(shaped.to_env(u)), u, atol=1e-6)

    def test_a_box_without_limits_is_refused(self):
        for space in (
            gym.spaces.Box(-np.inf, np.inf, (2,)),
            gym.spaces.Box(0.0, 0.0, (1,)),
            gym.spaces.Box(0, 3, (1,), np.int32),
            gym.spaces.Discrete(3),
        ):
            with self.assertRaisesRegex(SettingError, "finite"):
                BoundedBox(space)


if __name__ == "__main__":
    tf.test.main()
