"""PettingZoo environments as teams: random fakes against what they gave, real ones, and everything that is refused."""

import importlib.util
import unittest
from unittest import mock

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

import tfrl
from tfrl.envs import check, make, pettingzoo
from tfrl.envs.pettingzoo import Team, is_team
from tfrl.errors import SettingError
from tfrl.job import EnvPlan

spaces = gym.spaces
HAS_MPE = all(importlib.util.find_spec(p) is not None for p in ("pettingzoo", "mpe2"))
BOX = spaces.Box(-2.0, 3.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (4, 5, 3), np.uint8)
THREE = spaces.Discrete(3)
KINDS = (
    BOX,
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    spaces.Discrete(4, start=2),
    spaces.MultiDiscrete([2, 3], start=[1, 0]),
    spaces.MultiBinary(3),
    spaces.Dict(b=BOX, a=spaces.Discrete(2)),
    spaces.Tuple([spaces.MultiBinary(2), BOX]),
)


def masked(space, count):
    return spaces.Dict(observation=space, action_mask=spaces.Box(0, 1, (count,), np.int8))


class Parallel:
    """An environment of the parallel form with any spaces, deaths and masks.

    Attributes:
      given: what the last reset or step gave: observations, masks by agent, rewards.
      taken: actions of the last step.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(
        self, observation=(BOX, BOX), action=(THREE, THREE), *, deaths=None,
        late=(), cut=(), mask_in=None, state=None, length=6,
    ):  # fmt: skip
        self.possible_agents = [f"a{i}" for i in range(len(action))]
        self._observation = dict(zip(self.possible_agents, observation))
        self._action = dict(zip(self.possible_agents, action))
        self._deaths = dict(zip(self.possible_agents, deaths or [length] * len(action)))
        self._late, self._cut, self._mask_in = late, cut, mask_in
        if state is not None:
            self.state_space = state
        self._rng = np.random.default_rng(0)
        self.given, self.taken, self.agents = {}, {}, []

    def observation_space(self, agent):
        space, action = self._observation[agent], self._action[agent]
        return masked(space, int(action.n)) if self._mask_in == "observation" else space

    def action_space(self, agent):
        return self._action[agent]

    def reset(self, seed=None, options=None):
        if seed is not None:
            self._rng = np.random.default_rng(seed)
            for n, agent in enumerate(self.possible_agents):
                self._observation[agent].seed(seed + n)
        self._t = 0
        self.agents = [a for a in self.possible_agents if a not in self._late]
        return self._look({})

    def step(self, actions):
        self.taken = actions
        assert set(actions) == set(self.agents), (actions, self.agents)
        for agent, action in actions.items():
            assert self._action[agent].contains(action), (agent, action)
            mask = self.given["masks"].get(agent)
            assert mask is None or mask[action - self._action[agent].start], (agent, action, mask)
        self._t += 1
        acting, rng = self.agents, self._rng
        rewards = {a: float(rng.normal()) for a in acting}
        done = {a: self._t >= self._deaths[a] for a in acting}
        terminations = {a: done[a] and a not in self._cut for a in acting}
        truncations = {a: done[a] and a in self._cut for a in acting}
        self.agents = [a for a in acting if not done[a]] + [a for a in self._late if self._t == 1]
        obs, infos = self._look({a for a in acting if done[a]})
        self.given["rewards"] = rewards
        return obs, rewards, terminations, truncations, infos

    def state(self):
        self.given["state"] = self.state_space.sample()
        return self.given["state"]

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)

    def close(self):
        pass

    def _look(self, more):
        seen = {
            a: self._observation[a].sample()
            for a in self.possible_agents
            if a in {*self.agents, *more}
        }
        masks, infos, obs = {}, {a: {} for a in seen}, dict(seen)
        if self._mask_in is not None:
            for agent in seen:
                mask = self._rng.integers(0, 2, int(self._action[agent].n)).astype(np.int8)
                mask[self._rng.integers(len(mask))] = 1
                masks[agent] = mask
                if self._mask_in == "info":
                    infos[agent]["action_mask"] = mask
                else:
                    obs[agent] = {"observation": seen[agent], "action_mask": mask}
        self.given = {"observations": seen, "masks": masks}
        return obs, infos


class Alternating(Parallel):
    """AEC whose agents take turns."""

    metadata = {"is_parallelizable": False}

    def agent_iter(self):
        return iter(())


class Fails(Parallel):
    """Leaves something out of the dicts of a step, or gives something else."""

    def __init__(self, fault, **kwargs):
        super().__init__(**kwargs)
        self._fault = fault

    def reset(self, seed=None, options=None):
        obs, infos = super().reset(seed=seed)
        if self._fault == "old reset":
            return obs
        if self._fault == "unknown agent":
            obs["stranger"] = obs["a0"]
        if self._fault == "no first observation":
            del obs["a1"]
        return obs, infos

    def step(self, actions):
        result = list(super().step(actions))
        names = ("observations", "rewards", "terminations", "truncations")
        if self._fault in names:
            result[names.index(self._fault)].pop("a1")
        if self._fault == "gone":
            self.agents = ["a0"]
        if self._fault == "mask":
            result[4]["a1"]["action_mask"] = np.ones(2)
        if self._fault == "shape":
            result[0]["a1"] = np.zeros(9, np.float32)
        return tuple(result)


def fake_step(fake, place, value):
    """A step of which one of the five results says `value` of agent a1."""
    step = fake.step

    def changed(actions):
        result = step(actions)
        result[place]["a1"] = value
        return result

    return changed


class Listed(gym.Env):
    """Tuples with a part for each agent, a list of rewards."""

    observation_space = spaces.Tuple([BOX, BOX])
    action_space = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        return (np.ones(3, np.float32), np.zeros(3, np.float32)), {}

    def step(self, action):
        self._t += 1
        obs = (np.full(3, action[0], np.float32), np.full(3, action[1], np.float32))
        return obs, [0.5, 2.0], self._t == 2, False, {}


def make_fake(**kwargs):
    return Parallel(**kwargs)


def make_failing(fault, **kwargs):
    return Fails(fault, **kwargs)


def make_alternating():
    return Alternating()


FAKE = f"{__name__}:make_fake"


def flat(space, value):
    """gymnasium's own flattening, with images from 0 to 1."""
    if space == IMAGE:
        return np.float32(value).reshape(-1) / 255
    return gym.spaces.utils.flatten(space, value).astype(np.float32)


class PropertyTest(parameterized.TestCase):
    @parameterized.parameters(*range(25))
    def test_random_teams(self, seed):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 5))
        choose = lambda options: [options[i] for i in rng.integers(len(options), size=count)]  # noqa: E731
        boxes = seed % 4 == 3
        some = [
            spaces.Box(-1.0, 1.0, (2,)),
            spaces.Box(-3.0, 0.0, (1, 3)),
            spaces.Box(0.0, 1.0, (1,)),
        ]
        actions = choose(
            some
            if boxes
            else [spaces.Discrete(2), spaces.Discrete(4, start=-1), spaces.Discrete(3)]
        )
        observation = choose((*KINDS, IMAGE))
        fake = Parallel(
            observation, actions, deaths=rng.integers(1, 7, count).tolist(),
            late=("a1",) if seed % 5 == 4 else (), cut=("a0",) if seed % 3 == 0 else (),
            mask_in=None if boxes else (None, "info", "observation")[seed % 3],
            state=(None, BOX, IMAGE, spaces.Dict(a=BOX, b=spaces.Discrete(3)))[seed % 4],
        )  # fmt: skip
        team = Team(fake)
        self.assertEqual(team.num_agents, count)
        team.observation_space.seed(seed)
        team.action_space.seed(seed)
        counts = None if boxes else [int(s.n) for s in actions]
        ends = 0
        obs, _ = team.reset(seed=seed)
        self.assertLooks(team, fake, obs, observation, counts, fake.agents)
        for _ in range(30):
            acting = list(fake.agents)
            action = team.action_space.sample() if boxes else self.valid(obs, count, rng)
            obs, reward, terminated, truncated, info = team.step(action)
            for i, agent in enumerate(fake.possible_agents):
                part = fake.given["rewards"].get(agent, 0.0)
                self.assertAlmostEqual(float(info["reward_parts"][i]), part, places=5)
                if agent in acting and not boxes:
                    self.assertEqual(fake.taken[agent], action[i] + actions[i].start)
                elif agent in acting:
                    own = action[i][: int(np.prod(actions[i].shape))].reshape(actions[i].shape)
                    np.testing.assert_allclose(fake.taken[agent], own, rtol=1e-5)
            self.assertAlmostEqual(reward, sum(fake.given["rewards"].values()), places=4)
            self.assertEqual(terminated or truncated, not fake.agents)
            self.assertFalse(terminated and truncated)
            shown = acting if terminated else list(fake.agents)
            if truncated:
                shown = [a for a in acting if a == "a0"]
                self.assertEqual(shown, ["a0"])
            self.assertLooks(team, fake, obs, observation, counts, shown, terminated)
            if terminated or truncated:
                ends += 1
                obs, _ = team.reset()
        self.assertGreater(ends, 3)

    def valid(self, obs, count, rng):
        mask = obs["action_mask"].reshape(count, -1)
        return np.argmax(rng.random(mask.shape) * mask, axis=1)

    def assertLooks(self, team, fake, obs, observation, counts, shown, terminated=False):
        """The observation has what the fake gave of the agents that are shown, and nothing of others."""
        space = team.observation_space
        self.assertEqual(set(obs), set(space.spaces))
        for key, part in space.spaces.items():
            self.assertEqual((obs[key].shape, obs[key].dtype), (part.shape, part.dtype), key)
        for i, agent in enumerate(fake.possible_agents):
            row = obs["observation"][i].astype(np.float32)
            self.assertEqual(obs["alive"][i], agent in shown)
            expected = np.zeros(row.size, np.float32)
            if agent in shown:
                values = flat(observation[i], fake.given["observations"][agent])
                expected[: len(values)] = values
                if row.ndim == 3:  # all agents have images
                    expected = np.float32(fake.given["observations"][agent]).reshape(-1)
            np.testing.assert_allclose(row.reshape(-1), expected, rtol=1e-5, atol=1e-6)
            if counts is not None:
                mask = obs["action_mask"].reshape(len(counts), -1)[i]
                expected = np.eye(len(mask))[0]
                if agent in shown and not terminated:
                    given = fake.given["masks"].get(agent, np.ones(counts[i]))
                    expected = np.pad(given, (0, len(mask) - counts[i]))
                np.testing.assert_array_equal(mask, expected)
        if "state" in obs:
            given = (
                np.zeros(len(obs["state"]))
                if terminated
                else flat(fake.state_space, fake.given["state"])
            )
            np.testing.assert_allclose(obs["state"], given, rtol=1e-5)
        self.assertEqual("state" in obs, getattr(fake, "state_space", IMAGE) != IMAGE)

    def test_equal_images_stay_images(self):
        team = Team(Parallel((IMAGE, IMAGE)))
        self.assertEqual(team.observation_space["observation"].shape, (2, 4, 5, 3))
        obs, _ = team.reset(seed=0)
        self.assertEqual(obs["observation"].dtype, np.uint8)
        np.testing.assert_array_equal(obs["observation"][1], team.env.given["observations"]["a1"])

    def test_behind_the_vectors_it_is_any_team(self):
        kwargs = dict(deaths=[2, 5], length=5)
        for backend in ("sync", "async"):
            plan = EnvPlan(env=FAKE, env_kwargs=kwargs, env_backend=backend, team_reward="first")
            vector = make.make_vector(plan, 2, 0, info_names=("a0", "a1"))
            self.assertEqual(vector.spec.reward_parts, ("a0", "a1"))
            vector.reset()
            total, episodes = np.zeros((2, 2)), ()
            for t in range(5):
                step = vector.step(np.zeros((2, 2), np.int32))
                total += step.rewards
                np.testing.assert_array_equal(step.reward, step.rewards[:, 0])
                np.testing.assert_array_equal(step.next_obs["alive"], [[t < 1, True]] * 2)
                episodes += step.episodes
            np.testing.assert_array_equal(step.terminated, [True, True])
            for episode in episodes:
                np.testing.assert_allclose(episode.infos, total[episode.row], rtol=1e-5)
            vector.close()

    def test_an_environment_that_exists_is_one_row(self):
        plan = EnvPlan(env=tfrl.config.objects.named(Parallel()))
        self.assertEqual(make.make_spec(plan).num_agents, 2)
        with self.assertRaisesRegex(SettingError, "one environment is one row"):
            make.make_vector(plan, 2, 0)

    def test_the_checker_plays_it(self):
        self.assertEqual(check.check_env(FAKE, num_steps=50), [])

    def test_without_a_state_that_can_be_saved_that_is_said(self):
        vector = make.make_vector(EnvPlan(env=FAKE), 1, 0)
        self.assertIn("Parallel", vector.why_no_state)

    def test_tuples_with_a_part_for_each_agent(self):
        if "Listed-v0" not in gym.registry:
            gym.register("Listed-v0", entry_point=Listed)
        plan = EnvPlan(env="tfrl.envs.pettingzoo:tuple_team", env_kwargs={"id": "Listed-v0"})
        vector = make.make_vector(plan, 1, 0)
        obs = vector.reset()
        np.testing.assert_array_equal(obs["action_mask"], [[1, 1, 1, 1, 1, 0]])
        step = vector.step(np.array([[2, 1]], np.int32))
        np.testing.assert_array_equal(step.obs["observation"], [[[2] * 3, [1] * 3]])
        np.testing.assert_array_equal((step.reward[0], *step.rewards[0]), [2.5, 0.5, 2.0])
        self.assertTrue(vector.step(np.array([[2, 1]], np.int32)).terminated[0])
        with self.assertRaisesRegex(SettingError, "expected Tuples with a part for each agent"):
            make.make_spec(EnvPlan(env=plan.env, env_kwargs={"id": "CartPole-v1"}))


class RefusedTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"all": ["a0", "a1", "a0"]}, "agents .'a0'. are in two groups, or twice in one"),
        ({"one": ["a0"], "two": ["a0", "a1"]}, "agents .'a0'. are in two groups"),
        ({"one": ["a0"], "two": ["a1"]}, "there are 2 groups, .'one', 'two'.; expected one group of all agents"),
        ({}, r"there are 0 groups, \[\]; expected one group of all agents"),
        ({"one": ["a0"]}, "agent 'a1' is missing in group 'one'; expected one group of all agents"),
        (["a0", "a1"], r"groups are \['a0', 'a1'\]; expected one group of all agents, e.g. \{'team': \['a0', 'a1'\]\}"),
        ({"one": "a0"}, "group 'one' is 'a0' of type str; expected one group of all agents"),
        ({"one": 3}, "group 'one' is 3 of type int; expected one group of all agents"),
        ({"one": ["a0", "a1", "a7"]}, "agents .'a7'. of the groups are not among .'a0', 'a1'."),
    )  # fmt: skip
    def test_groups(self, groups, message):
        with self.assertRaisesRegex(SettingError, f"^env='x': .*{message}"):
            Team(Parallel(), groups, where="env='x'")

    def test_a_group_gives_the_order(self):
        team = Team(Parallel(deaths=[1, 9]), {"team": ["a1", "a0"]})
        self.assertEqual(team.reward_parts, ("a1", "a0"))
        team.reset(seed=0)
        obs, _, _, _, info = team.step([2, 1])
        self.assertEqual(team.env.taken, {"a0": 1, "a1": 2})
        np.testing.assert_array_equal(obs["alive"], [1, 0])
        np.testing.assert_allclose(
            info["reward_parts"], [*team.env.given["rewards"].values()][::-1]
        )

    @parameterized.parameters(
        (
            dict(action=(spaces.Discrete(2), BOX)),
            r"action spaces of the agents are 'a0': Discrete\(2\), 'a1': Box.*padded to one form",
        ),
        (dict(action=(spaces.MultiBinary(2),) * 2), "expected all Discrete, or all Boxes"),
        (dict(action=(BOX, spaces.Box(0, 1, (0,)))), "all Boxes with numbers in them"),
        (dict(observation=(BOX, spaces.Text(3))), "agent 'a1': observation_space is Text.*expected Box"),
        (dict(observation=(), action=()), "no possible_agents; expected the ids of all agents"),
        (dict(state=spaces.Text(3)), "state: observation_space is Text"),
    )  # fmt: skip
    def test_spaces(self, kwargs, message):
        with self.assertRaisesRegex(SettingError, f"^env='{FAKE}': .*{message}"):
            make.make_spec(EnvPlan(env=FAKE, env_kwargs=kwargs))

    def test_agents_that_take_turns(self):
        with self.assertRaisesRegex(SettingError, "its agents take turns; expected a parallel"):
            make.make_spec(EnvPlan(env=f"{__name__}:make_alternating"))

    @parameterized.parameters(
        (
            "observations",
            "step 1: agents .'a1'. are missing in the observations, which have .'a0'.",
        ),
        ("rewards", "step 1: agents .'a1'. are missing in the rewards"),
        ("terminations", "agents .'a1'. are missing in the terminations"),
        ("truncations", "agents .'a1'. are missing in the truncations"),
        ("gone", "agents .'a1'. are gone from `agents` without a termination or a truncation"),
        ("unknown agent", "agents .'stranger'. are not among the team's"),
        ("no first observation", "step 0: agents .'a1'. are missing in the observations"),
        (
            "old reset",
            "step 0: reset returned .* of type dict; expected the 2 dicts by agent .observations, infos.",
        ),
        ("mask", r"action_mask of agent 'a1' is an array of shape \[2\].*; expected flags \[3\]"),
        (
            "shape",
            r"agent 'a1': observation is an array of shape \[9\].*expected an array of float32 of shape \[3\]",
        ),
    )
    def test_steps(self, fault, message):
        plan = EnvPlan(env=f"{__name__}:make_failing", env_kwargs={"fault": fault})
        vector = make.make_vector(plan, 1, 0)
        with self.assertRaisesRegex(SettingError, f"^env='{plan.env}': .*{message}"):
            vector.reset()
            vector.step(np.zeros((1, 2), np.int32))

    @parameterized.parameters(
        (1, None, "step 1: agent 'a1': its reward is None of type NoneType; expected a number"),
        (1, [1, 2], "step 1: agent 'a1': its reward is a list of 2; expected a number"),
        (1, [1, [2, 3]], "step 1: agent 'a1': its reward is a list of 2; expected a number"),
        (1, np.nan, "step 1: agent 'a1': its reward is nan; expected a finite number"),
        (1, 1e39, "step 1: agent 'a1': its reward is 1e.39; expected a finite number"),
        (2, None, "step 1: agent 'a1': its termination is None of type NoneType; expected True or False"),
        (2, 2, "step 1: agent 'a1': its termination is 2 of type int; expected True or False"),
        (3, "no", "step 1: agent 'a1': its truncation is 'no' of type str; expected True or False"),
        (4, 3, "step 1: agent 'a1': its info is 3 of type int; expected a dict"),
        (4, {"action_mask": [0, 0, 0]},
         r"action_mask of agent 'a1' is \[0, 0, 0\]: it leaves no action; expected at least one flag"),
        (4, {"action_mask": [[1], [0, 1]]}, r"action_mask of agent 'a1' is a list of 2; expected flags \[3\]"),
        (0, None, "agent 'a1': observation is None of type NoneType; expected an array of float32"),
        (0, [1, [2, 3]], r"agent 'a1': observation is a list of 2; expected an array of float32 of shape \[3\]"),
        (0, [0, np.inf, 0], "step 1: agent 'a1': number 1 of its observation is inf; expected finite numbers"),
    )  # fmt: skip
    def test_what_a_step_says_of_an_agent(self, place, value, message):
        """The error names environment, agent, what was given and what was expected."""
        fake = Parallel()
        result, team = fake_step(fake, place, value), Team(fake, where="env='x'")
        team.reset(seed=0)
        with mock.patch.object(fake, "step", result):
            with self.assertRaisesRegex(SettingError, f"^env='x': .*{message}"):
                team.step([0, 0])

    @parameterized.parameters(
        (spaces.Discrete(4), -1, r"observation is -1 .int64.; expected an integer from 0 to 3"),
        (spaces.Discrete(4), 4, r"observation is 4 .int64.; expected an integer from 0 to 3"),
        (spaces.Discrete(4, start=4), 3, r"observation is 3 .int64.; expected an integer from 4 to 7"),
        (spaces.Discrete(4), np.float32(2), r"observation is 2.0 .float32.; expected an integer from 0 to 3"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, -1]), r"is \[1, -1\] .*integers from \[0, 0\] to \[1, 2\]"),
        (spaces.MultiBinary(2), np.array([0, 2]), r"observation is \[0, 2\] .*; expected 0 and 1"),
        (spaces.Dict(a=BOX, b=THREE), {"a": np.zeros(3)}, r"observation\['b'\] is missing in .*; expected all parts"),
        (spaces.Dict(a=BOX, b=THREE), {"a": np.zeros(3), "b": 3}, r"observation\['b'\] is 3 .*an integer from 0 to 2"),
        (IMAGE, np.full((4, 5, 3), 300), r"expected bytes of shape \[4, 5, 3\]"),
        (masked(BOX, 3), {"observation": np.zeros(3)}, r"observation\['action_mask'\] is missing"),
        (masked(BOX, 3), None, r"observation\['observation'\] is missing in None"),
    )  # fmt: skip
    def test_observations_that_their_space_does_not_have(self, space, value, message):
        fake = Parallel((space, space))
        team = Team(fake, where="env='x'")
        team.reset(seed=0)
        with mock.patch.object(fake, "step", fake_step(fake, 0, value)):
            with self.assertRaisesRegex(SettingError, f"^env='x': agent 'a1': .*{message}"):
                team.step([0, 0])
        # Whole numbers of any kind are welcome.
        if isinstance(space, spaces.Discrete):
            good = np.uint8(space.start + 2)
            with mock.patch.object(fake, "step", fake_step(fake, 0, good)):
                obs = team.step([0, 0])[0]
            np.testing.assert_array_equal(obs["observation"][1], [0, 0, 1, 0])

    @parameterized.parameters(
        (lambda r: r[:4], r"step 1: step returned a tuple of 4; expected the 5 dicts by agent .observations, rewards,"),
        (lambda r: None, "step 1: step returned None of type NoneType; expected the 5 dicts by agent"),
        (lambda r: (*r[:4], None), "step returned infos that are None of type NoneType; expected a dict by agent"),
        (lambda r: (r[0], 1.0, *r[2:]), "step returned rewards that are 1.0 of type float; expected a dict by agent"),
        (lambda r: ([], *r[1:]), "step returned observations that are a list of 0; expected a dict by agent"),
        (lambda r: (*r[:2], False, *r[3:]), "step returned terminations that are False of type bool; expected a dict"),
    )  # fmt: skip
    def test_what_a_step_returns(self, change, message):
        fake = Parallel()
        team, step = Team(fake, where="env='x'"), fake.step
        team.reset(seed=0)
        with mock.patch.object(fake, "step", lambda actions: change(step(actions))):
            with self.assertRaisesRegex(SettingError, f"^env='x': .*{message}"):
                team.step([0, 0])

    @parameterized.parameters(
        (dict(reward=1.5), "the reward is 1.5 of type float; expected 2, one for each of"),
        (dict(reward=[1.5]), "the reward is a list of 1; expected 2, one for each of"),
        (dict(obs=None), "the observation is None of type NoneType; expected 2, one for each of"),
    )
    def test_tuples_without_a_part_for_each_agent(self, given, message):
        if "Listed-v0" not in gym.registry:
            gym.register("Listed-v0", entry_point=Listed)
        team = pettingzoo.tuple_team("Listed-v0")
        team.reset(seed=0)
        obs = given.get("obs", (np.ones(3, np.float32),) * 2)
        step = (obs, given.get("reward", [1.0, 2.0]), False, False, {})
        with mock.patch.object(Listed, "step", lambda *_: step):
            with self.assertRaisesRegex(SettingError, f"^tuple_team of 'Listed-v0': {message}"):
                team.step([0, 0])

    def test_no_other_object_is_taken_for_one(self):
        for value in (Parallel, gym.make("CartPole-v1"), "text", None, spaces.Discrete(2)):
            self.assertFalse(is_team(value))
        self.assertTrue(is_team(Parallel()))


class NamesTest(parameterized.TestCase):
    def test_a_missing_package_is_named_with_the_extra(self):
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            with self.assertRaisesRegex(SettingError, r"pip install 'tfrl\[teams\]'"):
                make.make_spec(EnvPlan(env="mpe2/simple_spread_v3"))


@unittest.skipUnless(HAS_MPE, "pettingzoo and mpe2 are not installed")
class RealTest(parameterized.TestCase):
    @parameterized.parameters(
        "mpe2/simple_spread_v3", "mpe2.simple_spread_v3:parallel_env", "mpe2.simple_spread_v3:env"
    )
    def test_simple_spread(self, env):
        plan = EnvPlan(env=env, env_kwargs={"max_cycles": 4}, team_reward="mean")
        vector = make.make_vector(plan, 2, 0)
        spec = vector.spec
        self.assertEqual(spec.reward_parts, ("agent_0", "agent_1", "agent_2"))
        self.assertEqual(spec.observation_space["observation"].shape, (3, 18))
        self.assertEqual(spec.observation_space["state"].shape, (54,))
        self.assertEqual(spec.action_space.nvec.tolist(), [5] * 3)
        first = vector.reset()
        np.testing.assert_allclose(first["observation"].reshape(2, -1), first["state"])
        for t in range(4):
            step = vector.step(np.zeros((2, 3), np.int32))
            np.testing.assert_array_equal(step.truncated, [t == 3] * 2)
            np.testing.assert_allclose(step.reward, step.rewards.mean(1), rtol=1e-5)
        self.assertTrue((step.next_obs["alive"] == 1).all())
        self.assertFalse(np.array_equal(first["state"][0], first["state"][1]))
        again = make.make_vector(plan, 2, 0)
        np.testing.assert_array_equal(again.reset()["state"], first["state"])
        self.assertEqual(check.check_env(env, num_steps=60), [])

    def test_unequal_observations_and_actions(self):
        spec = make.make_spec(EnvPlan(env="mpe2/simple_speaker_listener_v4"))
        self.assertEqual(spec.observation_space["observation"].shape, (2, 11))
        self.assertEqual(spec.action_space.nvec.tolist(), [5, 5])
        vector = make.make_vector(EnvPlan(env="mpe2/simple_speaker_listener_v4"), 1, 0)
        mask = vector.reset()["action_mask"].reshape(2, 5)
        np.testing.assert_array_equal(mask, [[1, 1, 1, 0, 0], [1] * 5])

    @parameterized.parameters(
        ("mpe2/simple_spread_v4", "mpe2 has no environment of this name.*mpe2/simple_spread_v3"),
        ("mpe2/../os", "mpe2 has no environment of this name"),
        ("pettingzoo/utils/env", "pettingzoo has no environment of this name"),
    )
    def test_unknown_names(self, env, message):
        with self.assertRaisesRegex(SettingError, message):
            make.make_spec(EnvPlan(env=env))

    def test_continuous_actions(self):
        kwargs = {"continuous_actions": True, "max_cycles": 5}
        plan = EnvPlan(env="mpe2/simple_spread_v3", env_kwargs=kwargs)
        vector = make.make_vector(plan, 1, 0)
        self.assertEqual(vector.spec.action_space.shape, (3, 5))
        self.assertNotIn("action_mask", vector.reset())
        vector.step(np.full((1, 3, 5), 7.0, np.float32))  # clipped to the limits

    def test_agents_that_take_turns(self):
        with self.assertRaisesRegex(SettingError, "its agents take turns"):
            make.make_spec(EnvPlan(env="pettingzoo/classic/tictactoe_v3"))


if __name__ == "__main__":
    absltest.main()
