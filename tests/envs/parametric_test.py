"""The CartPole whose actions are described by features."""

import gymnasium as gym
import numpy as np
from absl.testing import parameterized

from tfrl.envs import check
from tfrl.envs.make import make_spec
from tfrl.envs.parametric import ParametricCartPole
from tfrl.job import EnvPlan


class ParametricCartPoleTest(parameterized.TestCase):
    def pushes(self, env):
        """The feature rows of left and right."""
        return np.float32(env._features)

    @parameterized.parameters((10, 2), (10, 6), (4, 4))
    def test_valid_slots_hold_left_and_right_and_change(self, num_slots, max_valid):
        env = ParametricCartPole(num_slots=num_slots, max_valid=max_valid)
        rows = self.pushes(env)
        counts, places = set(), set()
        obs, _ = env.reset(seed=0)
        for _ in range(200):
            mask, features = obs["action_mask"], obs["action_features"]
            valid = np.flatnonzero(mask)
            counts.add(len(valid))
            places.add(tuple(valid))
            self.assertTrue((features[mask == 0] == 0).all())
            kinds = [int(np.array_equal(features[i], rows[1])) for i in valid]
            for i, kind in zip(valid, kinds):
                np.testing.assert_array_equal(features[i], rows[kind])
            self.assertEqual(set(kinds), {0, 1})
            obs, _, terminated, truncated, _ = env.step(valid[0])
            if terminated or truncated:
                obs, _ = env.reset()
        self.assertEqual(counts, set(range(2, max_valid + 1)))
        if num_slots > max_valid:
            self.assertGreater(len(places), 20)

    def test_the_features_say_which_way_it_is_pushed(self):
        env = ParametricCartPole()
        rows = self.pushes(env)
        for push, sign in ((0, -1), (1, 1)):
            obs, _ = env.reset(seed=3)
            before = obs["observation"][1]
            slot = next(
                i for i in range(10) if np.array_equal(obs["action_features"][i], rows[push])
            )
            obs, *_ = env.step(slot)
            self.assertGreater(sign * (obs["observation"][1] - before), 0.1)

    def test_all_environments_have_the_same_features(self):
        one, two, other = (
            ParametricCartPole(),
            ParametricCartPole(),
            ParametricCartPole(features_seed=1),
        )
        np.testing.assert_array_equal(self.pushes(one), self.pushes(two))
        self.assertFalse(np.array_equal(self.pushes(one), self.pushes(other)))

    def test_an_invalid_slot_raises(self):
        env = ParametricCartPole()
        obs, _ = env.reset(seed=0)
        with self.assertRaisesRegex(ValueError, r"is invalid, the valid ones are \["):
            env.step(int(np.flatnonzero(obs["action_mask"] == 0)[0]))

    def test_it_is_truncated_after_its_length(self):
        env = ParametricCartPole(length=5)
        obs, _ = env.reset(seed=0)
        for t in range(5):
            obs, reward, terminated, truncated, _ = env.step(np.flatnonzero(obs["action_mask"])[0])
            self.assertEqual((reward, terminated, truncated), (1.0, False, t == 4))

    def test_it_passes_the_checker_and_has_a_spec(self):
        check.check_env(ParametricCartPole(max_valid=5))
        spec = make_spec(EnvPlan(env="tfrl.envs.parametric:ParametricCartPole"))
        self.assertTrue(spec.has_action_features and spec.has_action_mask)
        self.assertEqual(spec.observation_space["action_features"].shape, (10, 2))

    def test_the_checker_finds_features_that_do_not_fit(self):
        env = ParametricCartPole()
        env.action_space = gym.spaces.Discrete(9)
        found = check.check_env(env, strict=False)
        self.assertLen([x for x in found if x.startswith("action_features is Box")], 1)

    def test_too_few_slots(self):
        with self.assertRaisesRegex(ValueError, "max_valid=11, num_slots=10"):
            ParametricCartPole(max_valid=11)
