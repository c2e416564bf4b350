"""Trash collection: optimal plans worked out by hand, moves that are undone, maps, goals; half-court defence."""

import json

import numpy as np
from absl.testing import absltest, parameterized

from tfrl.envs import make
from tfrl.envs.games import half_court, trash
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.types import EnvSpec

KEYS = {key: action for action, key in enumerate("DULR.PX")}  # P picks, X places


def turned(plan):
    """The plan of an agent on the other side of a map that looks the same upside down."""
    return plan.translate(str.maketrans("DULR", "UDRL"))


ROOM = ("UUULLDDDPUUUURRRRRRRRRDX", "DDDLLLUUUPDDDRRRUUURRRRRRRDDDDX")
RING = "UUUPRRDDDXUUUPDDDXRRRPLLLXRRRDDPUULLLX"
PLANS = {
    "tfrl/TrashRoom-v0": (ROOM, 1.0, 31),
    "tfrl/TrashRing-v0": ((RING, turned(RING)), 4.0, 38),
    "tfrl/TrashCoordination-v0": (("LLLPRRRRRRUX", "RRRRPLLLLLLUX"), 2.0, 13),
    "tfrl/TrashRoom7x7-v0": (("UULLLDDPUURRRRRRX", "DDLLLUUPDDRRRRRRX"), 1.0, 17),
    "tfrl/TrashCoordination9x5-v0": (("LLPRRRUX", "RRPLLLUX"), 2.0, 8),
}


def vector_of(env, num_envs=1, **kwargs):
    return make.make_vector(EnvPlan(env=env, env_kwargs=kwargs), num_envs, 0)


def run(vector, *plans):
    """Steps of all rows with a plan for each agent; an agent whose plan is over stays."""
    vector.reset()
    length = max(map(len, plans))
    actions = [[KEYS[k] for k in plan.ljust(length, ".")] for plan in plans]
    return [vector.step(np.tile(np.int32(a), (vector.num_envs, 1))) for a in zip(*actions)]


def places(step, cells, agents=2):
    """Cells of the agents of row 0, from the state."""
    planes = step.obs["state"][0][: agents * cells].reshape(agents, cells)
    return planes.argmax(1).tolist()


class PlansTest(parameterized.TestCase):
    @parameterized.product(env=list(PLANS), num_envs=(1, 8))
    def test_the_best_plan_gives_the_best_return_in_time(self, env, num_envs):
        plans, best, length = PLANS[env]
        *steps, last = run(vector_of(env, num_envs), *plans)
        self.assertFalse(any(step.terminated.any() for step in steps))
        self.assertTrue(last.terminated.all())
        for episode in last.episodes:
            self.assertAlmostEqual(episode.episode_return, best, places=5)
            self.assertEqual(episode.length_env_steps, length)

    @parameterized.parameters(
        (("LLPRRRUX", "RRPLLLUX"), 2.0), (("LLPRRRDX", "RRPLLLDX"), 1.0), (("LLPRRRUX", "RRPLLLDX"), 0.2),
    )  # fmt: skip
    def test_dumps_that_agree_pay_more(self, plans, total):
        steps = run(vector_of("tfrl/TrashCoordination9x5-v0"), *plans)
        self.assertAlmostEqual(sum(step.reward[0] for step in steps), total, places=5)
        self.assertEqual(sum(step.reward[0] != 0 for step in steps), 1)
        np.testing.assert_allclose(steps[-1].rewards[0], [total / 2] * 2)

    def test_each_placing_pays_its_agent(self):
        steps = run(vector_of("tfrl/TrashRoom7x7-v0"), *PLANS["tfrl/TrashRoom7x7-v0"][0][:1], ".")
        np.testing.assert_array_equal(steps[-1].rewards, [[0.5, 0.0]])
        self.assertFalse(steps[-1].terminated[0])

    def test_episodes_without_an_end_are_truncated(self):
        steps = run(vector_of("tfrl/TrashCoordination9x5-v0"), "." * 30, ".")
        self.assertEqual([bool(s.truncated[0]) for s in steps].index(True), 29)

    def test_nothing_is_picked_or_placed_elsewhere(self):
        vector = vector_of("tfrl/TrashRoom7x7-v0")
        steps = run(vector, "PXULP", "X")
        self.assertEqual(sum(step.reward[0] for step in steps), 0.0)
        np.testing.assert_array_equal(steps[-1].obs["state"][0][-2:], [0, 0])


class MovesTest(parameterized.TestCase):
    @parameterized.parameters(
        ("a.b", "R", ".", [1, 2]),
        ("ab.", "R", ".", [0, 1]),  # into one that stays
        ("ab.", "R", "R", [1, 2]),  # after one that leaves
        ("ab.", "R", "L", [0, 1]),  # an exchange
        ("a#b", "R", "L", [0, 2]),  # into a wall
        ("ab#", "R", "R", [0, 1]),  # after one whose way is barred
    )
    def test_moves(self, row, one, two, expected):
        (step,) = run(vector_of("tfrl/Trash-v0", map=f"{row}/t1."), one, two)
        self.assertEqual(places(step, 6), expected)

    def test_a_random_agent_gets_the_cell_that_both_want(self):
        (step,) = run(vector_of("tfrl/Trash-v0", 64, map="a.b/t1."), "R", "L")
        at = step.obs["state"][:, :12].reshape(64, 2, 6).argmax(2).tolist()
        self.assertEqual({tuple(x) for x in at}, {(1, 2), (0, 1)})

    def test_three_agents_follow_each_other_or_none_does(self):
        vector = vector_of("tfrl/Trash-v0", map="abc./t1..")
        self.assertEqual(vector.spec.num_agents, 3)
        self.assertEqual(places(run(vector, "R", "R", "R")[0], 8, 3), [1, 2, 3])
        self.assertEqual(places(run(vector, "R", "R", ".")[0], 8, 3), [0, 1, 2])


class MapsTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(map="rome"), "did you mean room"),
        (dict(map="a./t1."), "equal length"),
        (dict(map="a?/t1"), "unknown"),
        (dict(map="ac/t1"), "without a gap"),
        (dict(map="a./t."), "0 dumps"),
        (dict(map="a./t1", pays="all"), "pays='all'"),
        (dict(mapp="room"), "mapp"),
    )
    def test_bad_maps_are_refused(self, kwargs, message):
        with self.assertRaisesRegex(SettingError, message):
            make.make_spec(EnvPlan(env="tfrl/Trash-v0", env_kwargs=kwargs))

    def test_a_dump_in_a_wall_is_used_from_around_it(self):
        m = trash.read("coordination")
        reach = [sorted(zip(*divmod(np.flatnonzero(r), m.width)[::-1])) for r in m.reach]
        self.assertEqual(reach[0], [(6, 0), (6, 1), (6, 2), (8, 0), (8, 1), (8, 2)])
        self.assertEqual(reach[1], [(6, 4), (6, 5), (6, 6), (8, 4), (8, 5), (8, 6)])
        self.assertTrue(m.wall[m.dumps].all())
        room = trash.read("room")
        self.assertFalse(room.wall[room.dumps].any())

    def test_goals_are_reached_where_they_should_be(self):
        vector = vector_of("tfrl/TrashCoordination9x5-v0")
        spec = EnvSpec.from_json(json.loads(json.dumps(vector.spec.to_json())))
        self.assertEqual(spec, vector.spec)
        goals = trash.goal_space(spec, **spec.goals["kwargs"])
        self.assertEqual(goals.names, ("dump_1", "dump_2", "trash_1", "trash_2", "pick", "place"))
        self.assertEqual(goals.lengths, {4: 1, 5: 1})
        steps = run(vector, "LLPRRRUX", "RR")
        found = [np.flatnonzero(goals.reached(s.obs["observation"][0])[0]).tolist() for s in steps]
        self.assertEqual(
            [set(x) for x in found], [{5}, {2, 5}, {2, 4}, {4}, {4}, {4}, {0, 4}, {0, 5}]
        )
        codes = goals.encode(steps[0].obs["observation"][0][:1], np.eye(6, dtype=np.float32)[:1])
        self.assertEqual(np.flatnonzero(codes[0]).tolist(), [4])


class HalfCourtTest(parameterized.TestCase):
    def attacks(self, choose):
        """Returns and lengths of attacks against defenders that act by `choose(observations [B, 3, 20])`."""
        vector = vector_of("tfrl/HalfCourt-v0", 64)
        obs, returns, lengths = vector.reset(seed=3), [], []
        for _ in range(250):
            step = vector.step(
                np.where(obs["alive"] > 0, choose(obs["observation"]), 0).astype(np.int32)
            )
            returns += [episode.episode_return for episode in step.episodes]
            lengths += [episode.length_env_steps for episode in step.episodes]
            obs = step.obs
        return np.array(returns), np.array(lengths)

    def test_guarding_defends_better_than_standing(self):
        def guard(obs):  # each defender goes to the attacker of its number
            way = np.stack(
                [obs[:, range(3), 2 + np.arange(3)], obs[:, range(3), 7 + np.arange(3)]], -1
            )
            way *= np.float32([half_court.WIDTH, half_court.HEIGHT])
            by_x = np.abs(way[..., 0]) >= np.abs(way[..., 1])
            move = np.where(by_x, np.where(way[..., 0] > 0, 3, 2), np.where(way[..., 1] > 0, 0, 1))
            return np.where(np.abs(way).max(-1) < 0.5, 4, move)

        stands, lengths = self.attacks(lambda obs: np.full(obs.shape[:2], 4))
        guards, _ = self.attacks(guard)
        for returns in (stands, guards):
            np.testing.assert_allclose(np.abs(returns), 1.0, rtol=1e-5)
        self.assertLessEqual(lengths.max(), half_court.CLOCK)
        self.assertGreater(guards.mean(), stands.mean() + 0.2)

    def test_goals_are_about_what_is_near(self):
        vector = vector_of("tfrl/HalfCourt-v0", 16)
        seen = vector.reset(seed=1)["observation"].reshape(-1, 20)
        goals = half_court.goal_space(vector.spec)
        reached = goals.reached(seen)
        # The ball is where its attacker is.
        has = seen[:, -4:-1].astype(bool)
        np.testing.assert_array_equal(reached[:, :3][has], reached[:, 4])
        self.assertTrue(reached[:, 3].any())
        one_hot = np.eye(5, dtype=np.float32)[np.full(len(seen), 3)]
        code = goals.encode(seen, one_hot)
        np.testing.assert_array_equal(code[:, :5], one_hot)
        np.testing.assert_allclose(code[:, 5:], seen[:, [5, 10]], rtol=1e-6)

    def test_the_last_observation_shows_which_goals_were_reached(self):
        vector = vector_of("tfrl/HalfCourt-v0", 64)
        obs, goals, found = vector.reset(seed=2), half_court.goal_space(vector.spec), []
        for _ in range(half_court.CLOCK):
            step = vector.step(np.full((64, 3), 4, np.int32))
            last = step.next_obs
            # Places are those of the state, which has the defence before the attack.
            cells = last["state"][:, :12].reshape(64, 6, 2) * [half_court.WIDTH, half_court.HEIGHT]
            defence, attack = np.round(cells[:, :3]), np.round(cells[:, 3:])
            near = np.abs(defence[:, :, None] - attack[:, None]).max(3) <= 1
            reached = goals.reached(last["observation"].reshape(64 * 3, -1)).reshape(64, 3, -1)
            np.testing.assert_array_equal(reached[step.terminated, :, :3], near[step.terminated])
            found += reached[step.terminated].mean((1, 2)).tolist()
            obs = step.obs
        self.assertTrue(obs["alive"].all())
        self.assertGreater(len(found), 20)
        self.assertBetween(np.mean(found), 0.01, 0.6)


if __name__ == "__main__":
    absltest.main()
