"""The robots of gymnasium-robotics, where it is installed."""

import importlib.util
import unittest

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

from tfrl.envs import make, names
from tfrl.errors import SettingError
from tfrl.job import EnvPlan

INSTALLED = importlib.util.find_spec("gymnasium_robotics") is not None
REACH = EnvPlan(env="FetchReach-v4")


class MissingTest(parameterized.TestCase):
    @parameterized.parameters(
        ("FetchReach-v4",), ("FetchPickAndPlaceDense-v4",), ("HandManipulateBlock-v1",),
        ("AdroitHandDoor-v1",), ("PointMaze_UMaze-v3",), ("AntMaze_Large-v5",), ("FrankaKitchen-v1",),
    )  # fmt: skip
    @unittest.skipIf(INSTALLED, "gymnasium-robotics is installed")
    def test_without_the_package_the_extra_is_named(self, env):
        with self.assertRaisesRegex(SettingError, rf"^env='{env}'.*pip install 'tfrl\[robotics\]'"):
            names.resolve(EnvPlan(env=env))

    def test_an_id_of_the_users_own_that_begins_alike_needs_no_package(self):
        gym.register("FetchReachCup-v0", entry_point="tfrl.testing.fakes:TargetPoint")
        self.addCleanup(gym.registry.pop, "FetchReachCup-v0")
        resolved = names.resolve(EnvPlan(env="FetchReachCup-v0"))
        self.assertEqual(resolved.target.id, "FetchReachCup-v0")


@unittest.skipUnless(INSTALLED, "gymnasium-robotics is not installed")
class RobotsTest(absltest.TestCase):
    def test_reach_is_an_environment_with_goals(self):
        vector = make.make_vector(REACH, 2, 0)
        obs = vector.reset()
        self.assertEqual(set(obs), {"observation", "achieved_goal", "desired_goal"})
        self.assertEqual({x.dtype for x in obs.values()}, {np.dtype(np.float32)})
        for t in range(1, 51):
            step = vector.step(np.zeros((2, 4), np.float32))
            self.assertFalse(step.terminated.any())
            np.testing.assert_array_equal(step.truncated, [t == 50] * 2)
        vector.close()

    def test_an_old_version_names_the_newest(self):
        with self.assertRaisesRegex(SettingError, "not offered any more; use FetchReach-v4$"):
            make.make_spec(EnvPlan(env="FetchReach-v1"))

    def test_rewards_of_other_goals_are_those_of_its_own_method(self):
        rewards = make.make_goal_rewards(REACH, check=True)
        self.assertEqual(rewards.note, "")  # it takes many goals at once
        achieved = np.zeros((2, 3), np.float32)
        desired = np.array([[0.0, 0.0, 0.04], [0.0, 0.0, 0.06]], np.float32)
        np.testing.assert_array_equal(rewards.rewards(achieved, desired), [0.0, -1.0])


if __name__ == "__main__":
    absltest.main()
