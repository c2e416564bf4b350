"""Games of teams: rules against numbers worked out by hand, one row against many, masks, pictures, saved states."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized

from tfrl.envs import make
from tfrl.envs.check import check_env
from tfrl.envs.games.grid import Loads
from tfrl.envs.games.ids import GAMES
from tfrl.errors import SettingError
from tfrl.job import EnvPlan


def vector_of(env, num_envs=1, backend="auto", seed=0, **kwargs):
    plan = EnvPlan(env=env, env_kwargs=kwargs, env_backend=backend)
    return make.make_vector(plan, num_envs, seed)


def play(vector, *actions):
    """Steps of all rows, each with one joint action."""
    return [vector.step(np.tile(np.int32(a), (vector.num_envs, 1))) for a in actions]


def random_actions(obs, num_agents, rng):
    """Available actions, int32 [B, N]."""
    mask = obs["action_mask"].reshape(len(obs["action_mask"]), num_agents, -1)
    return np.int32(np.argmax(rng.random(mask.shape) * mask, axis=2))


class TwoStepTest(parameterized.TestCase):
    @parameterized.product(
        backend=("sync", "native"), joint=list(itertools.product((0, 1), repeat=4))
    )
    def test_every_play(self, backend, joint):
        vector = vector_of("tfrl/TwoStep-v0", 2, backend)
        first = vector.reset()
        np.testing.assert_array_equal(first["state"], [[1, 0, 0]] * 2)
        np.testing.assert_array_equal(
            first["observation"][0], [[1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]
        )
        one, two = play(vector, joint[:2], joint[2:])
        risky = joint[0] == 1
        place = 2 if risky else 1
        np.testing.assert_array_equal(np.flatnonzero(one.obs["state"][0]), [place])
        np.testing.assert_array_equal(np.flatnonzero(one.obs["observation"][1]), [place, 9 + place])
        team = [[0, 1], [1, 8]][joint[2]][joint[3]] if risky else 7
        np.testing.assert_array_equal(one.reward, [0, 0])
        np.testing.assert_array_equal(two.reward, [team] * 2)
        np.testing.assert_array_equal(two.rewards, [[team / 2] * 2] * 2)
        np.testing.assert_array_equal(two.terminated, [True, True])
        self.assertEqual([e.episode_return for e in two.episodes], [team] * 2)
        self.assertEqual([e.length_env_steps for e in two.episodes], [2, 2])
        np.testing.assert_array_equal(two.next_obs["alive"], np.ones((2, 2)))
        self.assertTrue(two.next_obs["observation"].any())
        np.testing.assert_array_equal(two.next_obs["action_mask"], [[1, 0, 1, 0]] * 2)
        (again,) = play(vector, (0, 0))
        np.testing.assert_array_equal(again.valid, [False, False])
        np.testing.assert_array_equal(again.obs["state"], first["state"])

    def test_uniform_play_returns_4_75_in_the_mean(self):
        returns = []
        for joint in itertools.product((0, 1), repeat=4):
            vector = vector_of("tfrl/TwoStep-v0")
            vector.reset()
            returns.append(play(vector, joint[:2], joint[2:])[1].reward[0])
        self.assertEqual((np.mean(returns), max(returns)), (4.75, 8.0))


class MatrixTest(parameterized.TestCase):
    @parameterized.parameters(
        ({}, (0, 0), 11), ({}, (0, 1), -30), ({}, (1, 1), 7), ({}, (1, 2), 6), ({}, (2, 2), 5),
        (dict(payoff="penalty"), (0, 2), -100), (dict(payoff="penalty", penalty=-20), (2, 0), -20),
        (dict(payoff="penalty"), (2, 2), 10), (dict(payoff="penalty"), (1, 1), 2),
        (dict(payoff=[[1, 2], [3, 4]]), (1, 0), 3),
    )  # fmt: skip
    def test_payoffs(self, kwargs, joint, payoff):
        vector = vector_of("tfrl/Matrix-v0", **kwargs)
        vector.reset()
        (step,) = play(vector, joint)
        self.assertEqual(step.reward[0], payoff)
        np.testing.assert_allclose(step.rewards[0], [payoff / 2] * 2)
        self.assertTrue(step.terminated[0])

    def test_three_agents_with_unequal_actions(self):
        payoff = np.arange(12.0).reshape(2, 3, 2).tolist()
        vector = vector_of("tfrl/Matrix-v0", payoff=payoff, rounds=2)
        self.assertEqual(vector.spec.num_agents, 3)
        self.assertEqual(vector.spec.action_space.nvec.tolist(), [3, 3, 3])
        obs = vector.reset()
        np.testing.assert_array_equal(obs["action_mask"], [[1, 1, 0, 1, 1, 1, 1, 1, 0]])
        one, two = play(vector, (1, 2, 0), (0, 1, 1))
        self.assertEqual((one.reward[0], two.reward[0]), (10.0, 3.0))
        self.assertEqual((one.terminated[0], two.terminated[0]), (False, True))
        vector.reset()
        with self.assertRaisesRegex(ValueError, "action 2 of agent 0 in row 0 is not available"):
            play(vector, (2, 0, 0))

    @parameterized.parameters(
        (dict(payoff="climb"), "expected climbing, penalty, or a nested list"),
        (dict(payoff=[1, 2]), "nested once for each of two agents or more"),
        (dict(payoff=[[1, 2], [3]]), "lists of equal lengths"),
        (dict(payoff=[[1, None]]), "expected finite numbers"),
        (dict(rounds=0), "rounds=0"),
        (dict(payof=[[1]]), "payof"),
    )
    def test_bad_payoffs_are_refused(self, kwargs, message):
        with self.assertRaisesRegex(SettingError, message):
            make.make_spec(EnvPlan(env="tfrl/Matrix-v0", env_kwargs=kwargs))


def placed(agents, loads, **kwargs):
    """The rules of one row of a 4 x 4 grid with agents and loads on these cells."""
    game = Loads(1, size=4, num_agents=len(agents), num_loads=len(loads), **kwargs)
    game.restart(np.array([0]), np.random.default_rng(0))
    game._agents[0], game._loads[0] = agents, loads
    return game


class LoadsTest(parameterized.TestCase):
    def play(self, game, *action):
        rewards, terminated = game.play(np.array([action]), None)
        return rewards[0].tolist(), bool(terminated[0])

    def test_two_agents_lift_what_one_cannot(self):
        game = placed([(0, 0), (2, 1)], [(0, 1), (3, 3)])
        self.assertEqual(game.available()[0].tolist(), [[1, 0, 1, 0, 0, 1], [1, 1, 1, 1, 1, 0]])
        self.assertEqual(self.play(game, 5, 1), ([0.0, 0.0], False))  # alone; the other comes
        self.assertEqual(game.available()[0].tolist(), [[1, 0, 1, 0, 0, 1], [1, 0, 1, 1, 1, 1]])
        self.assertEqual(self.play(game, 5, 5), ([0.25, 0.25], False))
        self.assertEqual(game.available()[0].tolist(), [[1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 1, 0]])
        np.testing.assert_array_equal(game.observe()[0][0, :, -2:], [[0, 1], [0, 1]])
        self.assertEqual(self.play(game, 4, 2), ([0.0, 0.0], False))
        np.testing.assert_array_equal(game._agents[0], [(0, 1), (2, 1)])

    def test_the_last_load_ends_the_episode_and_shares_are_equal(self):
        game = placed([(0, 0), (1, 1), (0, 2)], [(0, 1)])
        rewards, terminated = self.play(game, 5, 5, 5)
        np.testing.assert_allclose(rewards, [1 / 3] * 3)
        self.assertTrue(terminated)

    def test_one_agent_lifts_all_loads_around_it(self):
        game = placed([(1, 1), (0, 0)], [(0, 1), (1, 0)])
        self.assertEqual(self.play(game, 5, 5), ([0.5, 0.5], True))

    def test_observations(self):
        game = placed([(0, 0), (3, 1)], [(0, 3)])
        seen, state = game.observe()
        np.testing.assert_allclose(
            seen[0], [[0, 0, 1, 1 / 3, 0, 1, 1], [1, 1 / 3, -1, -1 / 3, -1, 2 / 3, 1]], rtol=1e-6
        )
        np.testing.assert_allclose(state[0], [0, 0, 1, 1 / 3, 0, 1, 1], rtol=1e-6)

    def test_places_are_different_cells(self):
        game = Loads(200, size=2, num_loads=2)
        game.restart(np.arange(200), np.random.default_rng(0))
        cells = np.concatenate([game._agents, game._loads], axis=1) @ [2, 1]
        np.testing.assert_array_equal(np.sort(cells, axis=1), [[0, 1, 2, 3]] * 200)
        self.assertGreater(len(np.unique(cells, axis=0)), 15)

    def test_time_limit(self):
        for backend in ("sync", "native"):
            vector = vector_of("tfrl/Loads-v0", 2, backend)
            vector.reset()
            for t in range(30):
                (step,) = play(vector, (0, 0))
                np.testing.assert_array_equal(step.truncated, [t == 29] * 2)
            self.assertTrue(step.next_obs["alive"].all())  # a truncated state has a value
            self.assertTrue(step.next_obs["observation"].any())

    @parameterized.parameters(
        (dict(lifters=3), "lifters from 1 to the number of agents"),
        (dict(num_agents=1, lifters=1), "two agents or more"),
        (dict(size=2, num_loads=3), "a cell for each of 2 agents and 3 loads"),
        (dict(num_loads=0), "a load or more"),
    )
    def test_bad_numbers_are_refused(self, kwargs, message):
        with self.assertRaisesRegex(SettingError, message):
            make.make_spec(EnvPlan(env="tfrl/Loads-v0", env_kwargs=kwargs))


class EveryGameTest(parameterized.TestCase):
    @parameterized.parameters(*GAMES)
    def test_the_checker_finds_nothing(self, env):
        self.assertEqual(check_env(env, num_steps=120), [])

    @parameterized.parameters(*GAMES)
    def test_rows_of_a_vector_have_the_form_of_a_team(self, env):
        self.assertEqual(vector_of(env, 1).backend, "sync")
        self.assertEqual(vector_of(env, 2).backend, "native")
        vector = vector_of(env, 6)
        spec, rng = vector.spec, np.random.default_rng(0)
        self.assertEqual(vector.backend, "native")
        self.assertEqual(spec, vector_of(env, 1, "sync").spec)
        self.assertLen(spec.reward_parts, spec.num_agents)
        obs = vector.reset()
        ended = 0
        for _ in range(120):
            step = vector.step(random_actions(obs, spec.num_agents, rng))
            np.testing.assert_allclose(step.reward, step.rewards.sum(1), rtol=1e-5)
            # All agents end with the team, whose last observation shows how.
            mask = step.next_obs["action_mask"].reshape(6, spec.num_agents, -1)
            self.assertTrue(step.next_obs["alive"].all())
            self.assertTrue(step.next_obs["observation"].any(2).all())
            self.assertTrue((mask[step.terminated] == np.eye(mask.shape[2])[0]).all())
            self.assertTrue((mask.sum(2) > 0).all())
            ended += len(step.episodes)
            obs = step.obs
        self.assertGreaterEqual(ended, 6)

    @parameterized.product(env=list(GAMES), backend=("sync", "native"))
    def test_a_restored_game_goes_on_as_the_saved_one(self, env, backend):
        one, other = vector_of(env, 4, backend), vector_of(env, 4, backend, seed=9)
        rng = np.random.default_rng(1)
        obs = one.reset()
        for _ in range(7):
            obs = one.step(random_actions(obs, one.spec.num_agents, rng)).obs
        other.reset()
        other.restore(one.state())
        for _ in range(60):
            action = random_actions(obs, one.spec.num_agents, rng)
            a, b = one.step(action), other.step(action)
            for x, y in zip(a[2:], b[2:]):
                np.testing.assert_equal(x, y)
            np.testing.assert_equal(a.obs, b.obs)
            obs = a.obs

    @parameterized.parameters(*GAMES)
    def test_pictures_change_with_the_game(self, env):
        made = make.make_env(EnvPlan(env=env, env_kwargs={"render_mode": "rgb_array"}))
        obs, _ = made.reset(seed=0)
        rng, pictures = np.random.default_rng(0), []
        for _ in range(10):
            pictures.append(made.render())
            batch = {key: value[None] for key, value in obs.items()}
            obs, _, terminated, truncated, _ = made.step(
                random_actions(batch, made.get_wrapper_attr("num_agents"), rng)[0]
            )
            pictures.append(made.render())
            if terminated or truncated:
                obs, _ = made.reset()
        self.assertEqual((pictures[0].dtype, pictures[0].ndim), (np.uint8, 3))
        self.assertGreater(len({p.tobytes() for p in pictures}), 1)


if __name__ == "__main__":
    absltest.main()
