"""The form of a team, its reward, and what is refused of them."""

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

import tfrl
from tfrl.envs import check, make
from tfrl.envs.team import reward_of
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.types import EnvSpec

spaces = gym.spaces
LOADS = "tfrl/Loads-v0"


class Pair(gym.Env):
    """Two agents with rewards 1 and 3 at every step, whose parts may be changed."""

    def __init__(self, actions=None, num_agents=2, reward_parts=("a", "b"), **parts):
        seen = dict(
            observation=spaces.Box(0, 1, (2, 3)),
            action_mask=spaces.MultiBinary(4),
            alive=spaces.MultiBinary(2),
        )
        seen = {k: s for k, s in {**seen, **parts}.items() if s is not None}
        self.observation_space = spaces.Dict(seen)
        self.action_space = spaces.MultiDiscrete([2, 2]) if actions is None else actions
        self.num_agents, self.reward_parts = num_agents, reward_parts
        self._t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        return self._obs(), {}

    def step(self, action):
        self._t += 1
        parts = {"reward_parts": np.float32([1, 3])} if self.reward_parts else {}
        return self._obs(), -5.0, False, self._t == 3, parts

    def _obs(self):
        return dict(
            observation=np.ones((2, 3), np.float32),
            action_mask=np.ones(4, np.int8),
            alive=np.ones(2, np.int8),
        )


class Whole(gym.Env):
    """Declares a team, but its observation is one array."""

    num_agents = 2
    observation_space, action_space = spaces.Box(0, 1, (3,)), spaces.Discrete(2)


PAIR = f"{__name__}:Pair"


class RewardTest(parameterized.TestCase):
    @parameterized.product(
        case=(("sum", 4.0), ("mean", 2.0), ("first", 1.0)), backend=("sync", "async")
    )
    def test_of_a_team_whose_environment_gives_another(self, case, backend):
        form, reward = case
        plan = EnvPlan(env=PAIR, team_reward=form, env_backend=backend)
        vector = make.make_vector(plan, 2, 0, info_names=("a", "b"))
        vector.reset()
        steps = [vector.step(np.zeros((2, 2), np.int32)) for _ in range(3)]
        vector.close()
        for step in steps:
            np.testing.assert_array_equal(step.reward, [reward] * 2)
            np.testing.assert_array_equal(step.rewards, [[1, 3]] * 2)
        for episode in steps[-1].episodes:
            self.assertEqual(episode.episode_return, 3 * reward)
            self.assertEqual(episode.infos, (3.0, 9.0))

    @parameterized.parameters("sync", "native")
    def test_of_a_game_of_the_tree(self, backend):
        plan = EnvPlan(env="tfrl/TwoStep-v0", team_reward="mean", env_backend=backend)
        vector = make.make_vector(plan, 2, 0)
        vector.reset()
        vector.step(np.zeros((2, 2), np.int32))
        step = vector.step(np.zeros((2, 2), np.int32))
        np.testing.assert_array_equal(step.reward, [3.5, 3.5])
        self.assertEqual([e.episode_return for e in step.episodes], [3.5, 3.5])

    def test_clipping_leaves_the_agents_rewards(self):
        plan = EnvPlan(env=PAIR, team_reward="first", clip_rewards=True)
        vector = make.make_vector(plan, 1, 0)
        vector.reset()
        step = vector.step(np.zeros((1, 2), np.int32))
        self.assertEqual((step.reward.tolist(), step.rewards.tolist()), ([1.0], [[1.0, 3.0]]))

    def test_an_environment_without_agents_rewards_gives_its_own(self):
        vector = make.make_vector(EnvPlan(env=PAIR, env_kwargs={"reward_parts": []}), 1, 0)
        vector.reset()
        step = vector.step(np.zeros((1, 2), np.int32))
        self.assertEqual((step.reward.tolist(), step.rewards), ([-5.0], None))

    def test_all_leading_axes(self):
        rewards = np.float32([[[1, 2], [3, 6]]])
        for form, expected in (("sum", [[3, 9]]), ("mean", [[1.5, 4.5]]), ("first", [[1, 3]])):
            np.testing.assert_array_equal(reward_of(form)(rewards), expected)

    def test_without_a_team_the_setting_is_refused(self):
        with self.assertRaisesRegex(
            SettingError, "team_reward=mean: no effect without agents that have rewards"
        ):
            tfrl.train(env="CartPole-v1", algo="dqn", team_reward="mean", total_env_steps=10)


class FormTest(parameterized.TestCase):
    def test_the_spec_says_it_and_keeps_it_in_json(self):
        spec = make.make_spec(EnvPlan(env=LOADS, env_kwargs={"num_agents": 3}))
        self.assertEqual((spec.num_agents, len(spec.reward_parts)), (3, 3))
        self.assertEqual(EnvSpec.from_json(spec.to_json()), spec)

    def test_a_good_team_has_no_findings(self):
        self.assertEqual([f for f in check.check_env(Pair(), num_steps=20) if "dtype" not in f], [])

    @parameterized.parameters(
        (dict(observation=spaces.Box(0, 1, (3, 2))), r"observation is Box.*of shape \[2, size\]"),
        (dict(observation=None, other=spaces.Box(0, 1, (3,))), "observation is None"),
        (dict(alive=None), r"without alive in the observation; expected flags \[2\]"),
        (dict(alive=spaces.MultiBinary(3)), r"alive is .*shape \[2\]"),
        (dict(action_mask=None), r"without action_mask in the observation; expected flags \[4\]"),
        (dict(action_mask=spaces.MultiBinary(2)), r"action_mask has shape \[2\].*expected \[4\]"),
        (
            dict(actions=spaces.MultiDiscrete([2, 3]), action_mask=spaces.MultiBinary(5)),
            "expected the same number of actions for each of 2 agents",
        ),
        (
            dict(actions=spaces.Discrete(4)),
            r"expected MultiDiscrete\(\[actions\] \* 2\) or a Box of shape \[2, size\]",
        ),
        (dict(actions=spaces.Box(-1, 1, (4,)), action_mask=None), r"a Box of shape \[2, size\]"),
        (dict(reward_parts=("a", "b", "c")), "expected a name for each agent, or none"),
        (dict(num_agents=3), r"observation is Box.*expected a Box of shape \[3, size\]"),
    )
    def test_what_is_no_team_is_refused(self, kwargs, message):
        with self.assertRaisesRegex(SettingError, f"^env='{PAIR}': .*{message}"):
            make.make_spec(EnvPlan(env=PAIR, env_kwargs=kwargs))
        findings = check.check_env(Pair(**kwargs), num_steps=2, strict=False)
        self.assertRegex("\n".join(findings), message)

    def test_one_array_is_no_team(self):
        with self.assertRaisesRegex(
            SettingError, "num_agents=2 and observation_space is Box.* Dict"
        ):
            make.make_spec(EnvPlan(env=f"{__name__}:Whole"))


class AlgorithmsTest(parameterized.TestCase):
    @parameterized.parameters("dqn", "qr_dqn", "c51", "iqn")
    def test_value_based_ones_of_one_agent_name_the_one_of_teams(self, algo):
        with self.assertRaisesRegex(SettingError, f"algo={algo} .*a team of 2 agents.*=qmix"):
            tfrl.train(env=LOADS, algo=algo, total_env_steps=10)


if __name__ == "__main__":
    absltest.main()
