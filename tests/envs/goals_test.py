"""Environments with goals, and their rewards for other goals."""

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

from tfrl.envs import make
from tfrl.envs.check import check_env
from tfrl.envs.goal_rewards import GoalRewards
from tfrl.envs.goals import BitFlip, PointGoal
from tfrl.errors import SettingError
from tfrl.job import EnvPlan

spaces = gym.spaces


def play(env, player, episodes):
    """Lists of (reward, success) of each episode; player: observation -> action."""
    found = []
    for seed in range(episodes):
        (obs, _), ended, steps = env.reset(seed=seed), False, []
        while not ended:
            obs, reward, terminated, truncated, info = env.step(player(obs))
            steps.append((reward, info["is_success"]))
            ended = terminated or truncated
        found.append(steps)
    return found


class GamesTest(parameterized.TestCase):
    @parameterized.parameters(2, 15)
    def test_flipping_each_wrong_bit_once_is_best(self, num_bits):
        env = BitFlip(num_bits)
        different = lambda obs: np.flatnonzero(obs["observation"] != obs["desired_goal"])
        wrong = [len(different(env.reset(seed=seed)[0])) for seed in range(30)]
        for steps, count in zip(play(env, lambda obs: int(different(obs)[0]), 30), wrong):
            self.assertEqual(steps, [(-1.0, False)] * (count - 1) + [(0.0, True)])
        self.assertGreater(min(wrong), 0)

    def test_random_flips_practically_never_reach_the_goal(self):
        env = BitFlip(15)
        env.action_space.seed(0)
        episodes = play(env, lambda obs: env.action_space.sample(), 200)
        self.assertEqual({len(steps) for steps in episodes}, {15})
        self.assertEqual(sum(steps[-1][1] for steps in episodes), 0)

    def test_a_point_that_moves_towards_the_goal_reaches_it_and_stays(self):
        env = PointGoal()
        to_goal = lambda obs: (obs["desired_goal"] - obs["observation"]) / 0.05
        for steps in play(env, to_goal, 30):
            self.assertLen(steps, 50)
            arrived = steps.index((0.0, True))
            self.assertBetween(arrived, 12, 30)
            self.assertEqual(steps[:arrived], [(-1.0, False)] * arrived)
            self.assertEqual(steps[arrived:], [(0.0, True)] * (50 - arrived))

    def test_a_random_point_practically_never_reaches_it(self):
        env = PointGoal()
        env.action_space.seed(0)
        episodes = play(env, lambda obs: env.action_space.sample(), 200)
        self.assertEqual({step for steps in episodes for step in steps}, {(-1.0, False)})

    @parameterized.parameters("BitFlip", "PointGoal")
    def test_they_keep_the_contract(self, name):
        self.assertEqual(check_env(f"tfrl.envs.goals:{name}"), [])

    @parameterized.parameters(BitFlip, PointGoal)
    def test_pictures_show_the_state(self, game):
        env = game(render_mode="rgb_array")
        env.reset(seed=0)
        before = env.render()
        self.assertEqual((before.shape, before.dtype), ((200, 200, 3), np.uint8))
        env.step(env.action_space.sample())
        self.assertFalse(np.array_equal(env.render(), before))

    @parameterized.parameters(
        ("BitFlip", dict(num_bits=1), "2 or more"), ("PointGoal", dict(radius=0.0), "positive")
    )
    def test_refusals(self, name, kwargs, message):
        plan = EnvPlan(env=f"tfrl.envs.goals:{name}", env_kwargs=kwargs)
        with self.assertRaisesRegex(SettingError, message):
            make.make_spec(plan)


class Reach(gym.Env):
    """A goal of two numbers; the reward is the negative distance."""

    def __init__(self, **parts):
        goal = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        parts = {"observation": goal, "achieved_goal": goal, "desired_goal": goal, **parts}
        self.observation_space = spaces.Dict({k: v for k, v in parts.items() if v is not None})
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        obs = self.observation_space.sample()
        reward = self.compute_reward(obs["achieved_goal"], obs["desired_goal"], {})
        return obs, reward + self.extra, False, False, {}

    extra = 0.0

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -np.linalg.norm(achieved_goal - desired_goal, axis=-1)


class OneByOne(Reach):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return -float(np.hypot(*(achieved_goal - desired_goal)))

    def compute_terminated(self, achieved_goal, desired_goal, info):
        return bool(np.linalg.norm(achieved_goal - desired_goal) < 1.0)  # one number for a batch


class Forever(Reach):
    def compute_terminated(self, achieved_goal, desired_goal, info):
        return False  # for a batch too, as robots of gymnasium-robotics do


class Whole(Reach):
    def compute_terminated(self, achieved_goal, desired_goal, info):
        return bool(
            np.linalg.norm(achieved_goal - desired_goal) > 90.0
        )  # of one goal; of a batch it is wrong


class ByParts(Reach):
    def compute_reward(self, achieved_goal, desired_goal, info):
        gaps = -np.abs(achieved_goal - desired_goal)
        return gaps.sum() if gaps.ndim == 1 else gaps  # of a batch a number for each part of a goal


class NeedsInfo(Reach):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return -info["cost"]


class Nothing(Reach):
    compute_reward = None


class Costs(Reach):
    extra = -0.5


class GoalRewardsTest(parameterized.TestCase):
    @parameterized.parameters(
        (Reach, ""),
        (OneByOne, "compute_reward and compute_terminated of the environment takes one goal at a"),
    )
    def test_batches_are_those_of_single_goals(self, env, note):
        rewards = GoalRewards(env(), "reach")
        self.assertStartsWith(rewards.note, note)
        self.assertEqual(bool(rewards.note), bool(note))
        achieved, desired = np.random.default_rng(0).normal(size=(2, 6, 2)).astype(np.float32)
        expected = -np.hypot(*(achieved - desired).T)
        np.testing.assert_allclose(rewards.rewards(achieved, desired), expected, rtol=1e-6)
        self.assertEqual(rewards.rewards(achieved, desired).dtype, np.float32)
        ends = rewards.terminated(achieved, desired)
        if env is OneByOne:
            np.testing.assert_array_equal(ends, expected > -1.0)
        else:
            self.assertIsNone(ends)

    def test_one_termination_for_all_goals_serves_a_batch(self):
        rewards = GoalRewards(Forever(), "reach")
        self.assertEqual(rewards.note, "")
        ends = rewards.terminated(*np.zeros((2, 3, 2), np.float32))
        self.assertEqual(ends.dtype, np.bool_)
        np.testing.assert_array_equal(ends, [False] * 3)

    def test_a_number_of_a_whole_batch_is_no_batch(self):
        """A function that reduces over the whole batch agrees with single goals while there are few."""
        rewards = GoalRewards(Whole(), "reach")
        self.assertIn(
            "compute_terminated of the environment takes one goal at a time", rewards.note
        )
        achieved, desired = np.zeros((2, 5_000, 2), np.float32)
        ends = rewards.terminated(achieved + 2.0, desired)
        np.testing.assert_array_equal(ends, [False] * 5_000)

    def test_a_batch_of_another_shape_is_no_batch(self):
        rewards = GoalRewards(ByParts(), "reach")
        self.assertIn("compute_reward of the environment takes one goal at a time", rewards.note)
        achieved, desired = np.zeros((3, 2), np.float32), np.full((3, 2), 2.0, np.float32)
        np.testing.assert_array_equal(rewards.rewards(achieved, desired), [-4.0] * 3)

    def test_clipped_rewards_are_signs(self):
        rewards = GoalRewards(Reach(), "reach", clips=True)
        goals = np.float32([[1.0, 2.0], [3.0, 4.0]])
        np.testing.assert_array_equal(rewards.rewards(goals, np.float32([[1.0, 2.0]] * 2)), [0, -1])

    @parameterized.parameters(
        (lambda: Reach(desired_goal=None), "has no desired_goal; expected a Dict of observation"),
        (lambda: gym.make("CartPole-v1"), "has no observation, desired_goal, achieved_goal"),
        (
            lambda: Reach(desired_goal=spaces.Box(-1, 1, (3,), np.float64)),
            r"desired_goal is Box\(.*expected two Boxes or two MultiBinary of one shape",
        ),
        (
            lambda: Reach(desired_goal=spaces.Discrete(2), achieved_goal=spaces.Discrete(2)),
            "expected two Boxes",
        ),
        (Nothing, r"Nothing has no method compute_reward; expected compute_reward\(achieved_goal"),
        (NeedsInfo, "raised KeyError: 'cost'; expected a number for one goal, from the goals"),
    )
    def test_refusals(self, env, message):
        with self.assertRaisesRegex(SettingError, message):
            GoalRewards(env(), "reach")

    def test_another_reward_than_that_of_a_step_is_refused(self):
        GoalRewards(Reach(), "reach").check_steps()
        with self.assertRaisesRegex(SettingError, "compute_reward gives .* expected the same"):
            GoalRewards(Costs(), "reach").check_steps()

    def test_an_environment_that_exists_is_not_stepped(self):
        env = Costs()
        with self.assertRaisesRegex(SettingError, "expected the same"):
            make.make_goal_rewards(EnvPlan(env=f"{__name__}:Costs"), check=True)
        env.step = None
        from tfrl.config import objects

        rewards = make.make_goal_rewards(EnvPlan(env=objects.named(env)), check=True)
        self.assertEqual(rewards.rewards(*np.zeros((2, 1, 2), np.float32)), [0.0])


if __name__ == "__main__":
    absltest.main()
