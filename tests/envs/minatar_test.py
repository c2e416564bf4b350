"""MinAtar: its games by their ids, what they look like, and how they end."""

import importlib.util
from unittest import mock

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

from tfrl.envs import wrappers
from tfrl.envs.make import make_env, make_spec, make_vector
from tfrl.errors import SettingError
from tfrl.job import EnvPlan

HAS_MINATAR = importlib.util.find_spec("minatar") is not None
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


class Ending(gym.Env):
    """Its second step ends the episode."""

    observation_space = gym.spaces.Discrete(9)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return 0, {}

    def step(self, action):
        self.t += 1
        return self.t, 1.0, self.t == 2, False, {}


class WithoutMinAtarTest(absltest.TestCase):
    def test_says_what_is_missing(self):
        with mock.patch.object(importlib.util, "find_spec", lambda name: None):
            with self.assertRaisesRegex(SettingError, r"pip install 'tfrl\[minatar\]'"):
                make_spec(EnvPlan(env="MinAtar/Breakout-v1"))

    def test_an_end_by_the_clock_is_a_truncation(self):
        env = wrappers.EndsByTime(Ending())
        env.reset()
        self.assertEqual(env.step(0)[2:4], (False, False))
        self.assertEqual(env.step(0)[2:4], (False, True))


class DrawsPixelsTest(absltest.TestCase):
    def test_colours_become_pixels(self):
        env = Ending()
        env.render = lambda: np.array([[[0.0, 0.5, 1.0]], [[1.0, 0.0, 0.2]]])
        frame = wrappers.DrawsPixels(env, 3).render()
        self.assertEqual((frame.shape, frame.dtype), ((6, 3, 3), np.uint8))
        self.assertEqual(frame[2, 2].tolist(), [0, 128, 255])
        self.assertEqual(frame[3, 0].tolist(), [255, 0, 51])
        env.render = lambda: None
        self.assertIsNone(wrappers.DrawsPixels(env).render())


@absltest.skipUnless(HAS_MINATAR, "MinAtar is not installed")
class MinAtarTest(parameterized.TestCase):
    @parameterized.parameters(*GAMES)
    def test_grids_of_planes(self, game):
        vector = make_vector(EnvPlan(env=f"MinAtar/{game}-v1"), 2, 0)
        space = vector.spec.observation_space
        self.assertEqual(space.shape[:2], (10, 10))
        self.assertEqual(space.dtype, np.bool_)
        self.assertEqual(vector.reset().dtype, np.bool_)
        vector.close()

    def test_only_the_clock_ends_freeway(self):
        env = make_env(EnvPlan(env="MinAtar/Freeway-v1"))
        env.reset(seed=0)
        for step in range(1, 10_000):  # noqa: B007
            _, _, terminated, truncated, _ = env.step(1)
            self.assertFalse(terminated)
            if truncated:
                break
        self.assertEqual(step, 2_501)

    def test_it_can_be_filmed(self):
        env = make_env(EnvPlan(env="MinAtar/Seaquest-v1", env_kwargs={"render_mode": "rgb_array"}))
        env.reset(seed=0)
        frame = env.render()
        self.assertEqual((frame.shape, frame.dtype), ((160, 160, 3), np.uint8))
        self.assertGreater(frame.max(), frame.min())
        env.close()

    def test_a_game_that_is_not_there(self):
        with self.assertRaisesRegex(SettingError, "MinAtar/Breakout"):
            make_spec(EnvPlan(env="MinAtar/Brakout-v1"))


if __name__ == "__main__":
    absltest.main()
