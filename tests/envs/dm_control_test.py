"""DeepMind's control suite through shimmy, where both are installed."""

import importlib.util
import unittest

import numpy as np
from absl.testing import absltest

from tfrl.envs import make
from tfrl.errors import SettingError
from tfrl.job import EnvPlan

INSTALLED = all(importlib.util.find_spec(name) for name in ("shimmy", "dm_control"))
BALANCE = EnvPlan(env="dm_control/cartpole-balance-v0")


class MissingTest(absltest.TestCase):
    @unittest.skipIf(INSTALLED, "shimmy and dm_control are installed")
    def test_without_the_packages_the_extra_is_named(self):
        with self.assertRaisesRegex(
            SettingError, r"^env='dm_control/.*pip install 'tfrl\[dm_control\]'"
        ):
            make.make_spec(BALANCE)


@unittest.skipUnless(INSTALLED, "shimmy and dm_control are not installed")
class SuiteTest(absltest.TestCase):
    def test_the_discount_of_a_time_step_arrives_and_a_time_limit_bootstraps(self):
        vector = make.make_vector(BALANCE, 2, 0)
        self.assertTrue(vector.spec.step_discount)
        obs = vector.reset()
        self.assertEqual({key: x.dtype for key, x in obs.items()}, dict.fromkeys(obs, np.float32))
        action = np.zeros((2, 1), np.float32)
        for t in range(1000):
            step = vector.step(action)
            np.testing.assert_array_equal(step.discount, [1.0, 1.0])
            np.testing.assert_array_equal(step.truncated, [t == 999] * 2)
            self.assertFalse(step.terminated.any())
        self.assertEqual([episode.length_env_steps for episode in step.episodes], [1000, 1000])

    def test_a_discount_of_zero_in_the_last_step_is_a_termination(self):
        vector = make.make_vector(EnvPlan(env="dm_control/cartpole-balance-v0"), 1, 0)
        vector.reset()
        vector.step(np.zeros((1, 1), np.float32))
        inner = vector.envs[
            0
        ].unwrapped._env  # a task of dm_control ends an episode by its discount
        inner.task.get_termination = lambda physics: 0.0
        step = vector.step(np.zeros((1, 1), np.float32))
        self.assertEqual(
            (step.terminated[0], step.truncated[0], step.discount[0]), (True, False, 0.0)
        )

    def test_a_discount_below_one_inside_an_episode_arrives(self):
        vector = make.make_vector(BALANCE, 1, 0)
        vector.reset()
        inner = vector.envs[0].unwrapped._env
        plain = type(inner).step
        inner.step = lambda action: plain(inner, action)._replace(discount=0.25)
        step = vector.step(np.zeros((1, 1), np.float32))
        self.assertEqual(
            (step.terminated[0], step.truncated[0], step.discount[0]), (False, False, 0.25)
        )

    def test_seeds_repeat(self):
        firsts = [make.make_vector(BALANCE, 2, seed).reset() for seed in (1, 1, 2)]
        for key in firsts[0]:
            np.testing.assert_array_equal(firsts[0][key], firsts[1][key])
        self.assertTrue(any((firsts[0][key] != firsts[2][key]).any() for key in firsts[0]))

    def test_environments_in_processes_give_it_too(self):
        plan = EnvPlan(env=BALANCE.env, env_backend="async")
        vector = make.make_vector(plan, 2, 0)
        vector.reset()
        np.testing.assert_array_equal(
            vector.step(np.zeros((2, 1), np.float32)).discount, [1.0, 1.0]
        )
        vector.close()


if __name__ == "__main__":
    absltest.main()
