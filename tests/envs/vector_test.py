"""The vector interface: the same transitions whoever steps and whichever way rows restart."""

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tfrl.envs import make
from tfrl.envs import spaces as space_lib
from tfrl.envs.masks import CheckedMasks
from tfrl.envs.vector import BatchVector, SyncVector, environment_seeds
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.testing import fakes
from tfrl.types import EnvSpec, Episode

spaces = gym.spaces
LENGTHS = ((3, 2), (1, 4))  # of the episodes of row 0 and row 1


def spec_of(env):
    return EnvSpec(type(env).__name__, env.observation_space, env.action_space)


def scripted(kind, **kwargs):
    """Two `Counter`s behind one of the three ways to step them."""
    factories = [lambda lengths=lengths: fakes.Counter(lengths) for lengths in LENGTHS]
    spec = spec_of(factories[0]())
    if kind == "sync":
        return SyncVector(factories, spec, seed=0, **kwargs)
    env = SyncVectorEnv(factories, autoreset_mode=AutoresetMode(kind), copy=False)
    return BatchVector(env, spec, 0, backend=kind, shared_buffer=True, **kwargs)


def expected(row, num):
    """The first `num` transitions of a row: (obs, reward, terminated, truncated, next_obs)."""
    out, episode = [], 0
    while len(out) < num:
        length = LENGTHS[row][episode % 2]
        for t in range(1, length + 1):
            ends = t == length
            out.append(
                (
                    (episode, t - 1),
                    np.float32(episode + t / 100),
                    ends and episode % 2 == 0,
                    ends and episode % 2 == 1,
                    (episode, t),
                )
            )
        episode += 1
    return out[:num]


class FinalDict(gym.Env):
    """Dict observations with an offset Discrete inside, ends after 2 steps."""

    observation_space = gym.spaces.Dict(
        place=gym.spaces.Discrete(5, start=10),
        rest=gym.spaces.Tuple([gym.spaces.Box(0, 9, (2,), np.float64), gym.spaces.MultiBinary(3)]),
    )
    action_space = gym.spaces.Discrete(2, start=7)

    def reset(self, *, seed=None, options=None):
        self._t = 0
        return self._obs(), {}

    def step(self, action):
        assert action in (7, 8), action
        self._t += 1
        return self._obs(), 1.0, self._t == 2, False, {}

    def _obs(self):
        return {
            "place": 10 + self._t,
            "rest": (np.full(2, self._t, np.float64), np.array([1, 0, 1], np.int8)),
        }


class AutoresetTest(parameterized.TestCase):
    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_valid_rows_are_exactly_the_transitions(self, kind):
        vector = scripted(kind)
        obs = vector.reset()
        seen = ([], [])
        for _ in range(20):
            step = vector.step(np.zeros(2, np.int64))
            for row in np.flatnonzero(step.valid):
                seen[row].append(
                    (
                        tuple(obs[row]),
                        step.reward[row],
                        bool(step.terminated[row]),
                        bool(step.truncated[row]),
                        tuple(step.next_obs[row]),
                    )
                )
            obs = step.obs
        for row in range(2):
            self.assertGreaterEqual(len(seen[row]), 10)
            self.assertEqual(seen[row], expected(row, len(seen[row])))

    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_automatic_rows_are_marked_and_empty(self, kind):
        vector = scripted(kind)
        vector.reset()
        invalid = 0
        for _ in range(20):
            step = vector.step(np.zeros(2, np.int64))
            for row in np.flatnonzero(~step.valid):
                invalid += 1
                self.assertEqual(step.reward[row], 0.0)
                self.assertFalse(step.terminated[row] or step.truncated[row])
                self.assertEqual(step.obs[row][1], 0)  # a reset observation
            if kind != "SameStep":
                self.assertIs(step.next_obs, step.obs)
        if kind == "SameStep":
            self.assertEqual(invalid, 0)
        else:
            self.assertGreater(invalid, 5)

    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_episode_statistics(self, kind):
        vector = scripted(kind, clip_rewards=True)
        vector.reset()
        episodes, rewards = [], set()
        for _ in range(12):
            step = vector.step(np.zeros(2, np.int64))
            episodes += step.episodes
            rewards |= set(step.reward[step.valid].tolist())
        first = [e for e in episodes if e.row == 0][:2]
        self.assertEqual([e.length_env_steps for e in first], [3, 2])
        # Sums of the raw rewards, although the learner sees their signs.
        np.testing.assert_allclose([e.episode_return for e in first], [0.06, 2.03], rtol=1e-6)
        self.assertEqual(rewards, {1.0})

    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_returned_arrays_are_never_written_again(self, kind):
        vector = scripted(kind)
        kept = [vector.reset()]
        for _ in range(8):
            step = vector.step(np.zeros(2, np.int64))
            kept += [
                step.obs,
                step.next_obs,
                step.reward,
                step.terminated,
                step.truncated,
                step.valid,
            ]
        copies = [array.copy() for array in kept]
        for _ in range(8):
            vector.step(np.zeros(2, np.int64))
        for array, copy in zip(kept, copies):
            np.testing.assert_array_equal(array, copy)

    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_reset_in_mid_episode_starts_anew(self, kind):
        vector = scripted(kind)
        vector.reset()
        for _ in range(3):  # row 1 has ended, row 0 just now
            vector.step(np.zeros(2, np.int64))
        obs = vector.reset(seed=5)
        np.testing.assert_array_equal(obs, [[0, 0], [0, 0]])
        step = vector.step(np.zeros(2, np.int64))
        np.testing.assert_array_equal(step.valid, [True, True])
        self.assertEqual(step.episodes[0].length_env_steps, 1)

    @parameterized.parameters("Disabled", None, "Sometimes")
    def test_other_modes_are_refused(self, mode):
        env = SyncVectorEnv([fakes.Counter])
        env.metadata["autoreset_mode"] = AutoresetMode(mode) if mode == "Disabled" else mode
        with self.assertRaisesRegex(
            SettingError, "autoreset_mode.*expected AutoresetMode.NEXT_STEP"
        ):
            BatchVector(env, spec_of(fakes.Counter()), 0, backend="native")


class SpacesTest(parameterized.TestCase):
    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_nests_offsets_and_dtypes(self, kind):
        plan = EnvPlan(env=f"{__name__}:FinalDict")
        spec = make.make_spec(plan)
        factories = [FinalDict] * 3
        if kind == "sync":
            vector = SyncVector(factories, spec, 0)
        else:
            env = SyncVectorEnv(factories, autoreset_mode=AutoresetMode(kind))
            vector = BatchVector(env, spec, 0, backend=kind)
        self.assertEqual(spec.action_space, gym.spaces.Discrete(2, dtype=np.int32))
        obs = vector.reset()
        for t in (1, 2):
            step = vector.step(np.array([0, 1, 0]))
            for nest in (obs, step.obs, step.next_obs):
                for row in range(3):
                    one = {
                        "place": nest["place"][row],
                        "rest": tuple(part[row] for part in nest["rest"]),
                    }
                    self.assertTrue(spec.observation_space.contains(one), one)
            np.testing.assert_array_equal(step.next_obs["place"], [t] * 3)
            np.testing.assert_array_equal(step.next_obs["rest"][0], [[t, t]] * 3)
            obs = step.obs
        self.assertEqual(obs["place"].dtype, np.int32)
        self.assertEqual(obs["rest"][0].dtype, np.float32)
        np.testing.assert_array_equal(obs["place"], [0 if kind == "SameStep" else 2] * 3)

    def test_action_mask(self):
        plan = EnvPlan(env="tfrl.testing.fakes:MaskedBandit", env_kwargs={"length": 5})
        vector = make.make_vector(plan, 3, seed=1)
        self.assertTrue(vector.spec.has_action_mask)
        obs = vector.reset()
        masks = set()
        for _ in range(12):
            mask = obs["action_mask"]
            self.assertEqual((mask.shape, mask.dtype), ((3, 5), np.float32))
            one = {key: part[0] for key, part in obs.items()}
            self.assertTrue(vector.spec.observation_space.contains(one))
            masks |= {tuple(row) for row in mask.tolist()}
            obs = vector.step(mask.argmax(-1)).obs  # an invalid action would raise
        self.assertGreater(len(masks), 4)

    @parameterized.product(kind=("sync", "SameStep"), at=("reset", "step", "truncated", "end"))
    def test_a_state_that_goes_on_without_a_valid_action_ends_the_run(self, kind, at):
        class DeadEnd(fakes.MaskedBandit):
            """Without a valid action at one place: a first state, a later one, or the last."""

            def _draw(self):
                obs = super()._draw()
                place = {"reset": 0, "step": 2, "truncated": 4, "end": 4}[at]
                obs["action_mask"][:] = self._t != place
                return obs

            def step(self, action):
                self._mask[:] = 1
                obs, reward, _, is_last, info = super().step(action)
                return obs, reward, is_last and at == "end", is_last and at == "truncated", info

        factories = [lambda: DeadEnd(length=4)] * 2
        env = factories[0]()
        mask = spaces.Box(0, 1, (5,), np.float32)
        spec = EnvSpec(
            "DeadEnd",
            spaces.Dict(**{**env.observation_space, "action_mask": mask}),
            env.action_space,
        )
        if kind == "sync":
            inner = SyncVector(factories, spec, seed=0)
        else:
            mode = AutoresetMode(kind)
            inner = BatchVector(
                SyncVectorEnv(factories, autoreset_mode=mode), spec, 0, backend=kind
            )
        vector = CheckedMasks(inner)

        def play():
            vector.reset()
            return [vector.step(np.zeros(2, np.int64)) for _ in range(4)]

        if at == "end":  # nothing follows a terminal state
            self.assertTrue(play()[-1].terminated.all())
            return
        with self.assertRaisesRegex(
            SettingError, r"env='DeadEnd': action_mask \[0, 0, 0, 0, 0\] of a"
        ):
            play()

    def test_each_part_of_an_action_needs_a_valid_choice(self):
        space = spaces.Tuple(
            [spaces.MultiDiscrete([2, 3]), spaces.Box(0, 1, (2,)), spaces.Discrete(2)]
        )
        self.assertEqual(space_lib.mask_starts(space).tolist(), [0, 2, 5])
        self.assertEqual(space_lib.mask_starts(spaces.Discrete(4)).tolist(), [0])

        plan = EnvPlan(env="tfrl.testing.fakes:MaskedPair")
        vector = make.make_vector(plan, 2, seed=0)
        self.assertIsInstance(vector, CheckedMasks)
        mask = vector.reset()["action_mask"]
        self.assertEqual(mask.shape[1], space_lib.mask_size(vector.spec.action_space))

    def test_box_actions_are_clipped_in_the_dtype_of_the_environment(self):
        class Reach(fakes.TargetPoint):
            def __init__(self):
                super().__init__(limit=1.0)
                self.action_space = gym.spaces.Box(-0.1, 0.1, (2,), np.float64)

            def step(self, action):
                self.seen = action.copy()
                return super().step(action)

        plan = EnvPlan()
        vector = SyncVector([Reach], make.spec_of(plan, Reach(), None), 0)
        vector.reset()
        self.assertEqual(vector.spec.action_space.dtype, np.float32)
        # float32 0.1 is above float64 0.1; `contains` inside the environment would raise.
        vector.step(np.array([[0.1, -7.0]], np.float32))
        np.testing.assert_array_equal(vector.envs[0].seen, [0.1, -0.1])

    @parameterized.product(
        name=("MatchBox", "MatchMultiDiscrete", "MatchMultiBinary", "MatchDict", "MatchTuple"),
        kind=("sync", "NextStep", "SameStep"),
    )
    def test_every_environment_gets_its_own_action(self, name, kind):
        env_class = getattr(fakes, name)
        spec = make.make_spec(EnvPlan(env=f"tfrl.testing.fakes:{name}"))
        if kind == "sync":
            vector = SyncVector([env_class] * 3, spec, 0)
        else:
            env = SyncVectorEnv([env_class] * 3, autoreset_mode=AutoresetMode(kind))
            vector = BatchVector(env, spec, 0, backend=kind)
        obs, best = vector.reset(), 0
        for _ in range(12):
            # What the observation asks for, as a policy would give it; a wrong one would be raised.
            action = fakes.matching_action(spec.action_space, obs)
            step = vector.step(action)
            np.testing.assert_allclose(step.reward[step.valid], 1.0, atol=1e-6)
            best += sum(episode.episode_return for episode in step.episodes)
            obs = step.obs
        self.assertAlmostEqual(best, 36 if kind == "SameStep" else 24, places=4)

    def test_nested_actions_are_clipped_and_of_the_dtype_of_the_environment(self):
        spec = make.make_spec(EnvPlan(env="tfrl.testing.fakes:MatchDict"))
        self.assertEqual(spec.action_space["push"].dtype, np.float32)
        vector = SyncVector([fakes.MatchDict], spec, 0)
        vector.reset()
        seen = []
        step = vector.envs[0].step
        vector._rows = [(0, lambda action: seen.append(action) or step(action))]
        switches = (np.zeros((1, 2), np.int8), np.ones((1, 2), np.int32))
        action = {
            "gear": np.int32([0]), "push": np.float32([[-9, 0.5]]), "switches": switches
        }  # fmt: skip
        vector.step(action)
        np.testing.assert_array_equal(seen[0]["push"], [-2, 0.5])
        self.assertEqual((seen[0]["gear"], seen[0]["push"].dtype), (1, np.float64))

    def test_discrete_observation(self):
        vector = make.make_vector(EnvPlan(env="FrozenLake-v1"), 2, seed=0)
        obs = vector.reset()
        self.assertEqual((obs.shape, obs.dtype), ((2,), np.int32))
        self.assertTrue(vector.spec.observation_space.contains(obs[0]))
        self.assertEqual(vector.step(np.array([1, 2])).obs.dtype, np.int32)

    def test_wrong_shape_is_refused_rather_than_broadcast(self):
        class Wrong(fakes.TruncatingChain):
            def reset(self, *, seed=None, options=None):
                return np.float32(1), {}

        vector = SyncVector([Wrong], spec_of(Wrong()), 0)
        with self.assertRaisesRegex(
            SettingError,
            r"row 0, reset: observation has shape \[\]; expected \[1\], as in its space.*check_env",
        ):
            vector.reset()


class BackendTest(parameterized.TestCase):
    def test_cartpole_native_equals_the_scalar_environment(self):
        """Same states, actions -> same rewards, ends and observations, through 500-step truncations
        too."""
        num = 6
        vector = make.make_vector(EnvPlan(env_backend="native"), num, seed=1)
        self.assertEqual(vector.backend, "native")
        vector.reset()
        singles = [gym.make("CartPole-v1", disable_env_checker=True) for _ in range(num)]

        def copy_state(row):
            singles[row].reset()
            singles[row].unwrapped.state = tuple(vector.env.state[:, row])

        for row in range(num):
            copy_state(row)
        rng, ends, cuts = np.random.default_rng(0), 0, 0
        for _ in range(1200):
            angle, speed = vector.env.state[2], vector.env.state[3]
            balanced = (angle + 0.3 * speed > 0).astype(np.int64)
            action = np.where(np.arange(num) < 2, balanced, rng.integers(2, size=num))
            step = vector.step(action)
            for row in range(num):
                if not step.valid[row]:
                    copy_state(row)
                    continue
                obs, reward, terminated, truncated, _ = singles[row].step(int(action[row]))
                np.testing.assert_array_equal(step.next_obs[row], obs)
                self.assertEqual(
                    (step.reward[row], step.terminated[row], step.truncated[row]),
                    (reward, terminated, truncated),
                )
                ends, cuts = ends + terminated, cuts + truncated
        self.assertGreater(ends, 50)
        self.assertGreater(cuts, 1)

    def test_auto_picks_by_number_and_options(self):
        self.assertEqual(make.pick_backend(EnvPlan(), 1), "sync")
        self.assertEqual(make.pick_backend(EnvPlan(), 8), "native")
        self.assertEqual(make.pick_backend(EnvPlan(max_episode_steps=50), 8), "native")
        odd = EnvPlan(env="Acrobot-v1")
        self.assertEqual(make.pick_backend(odd, 8), "sync")

    @parameterized.parameters("sync", "native", "async")
    def test_time_limit_is_a_truncation(self, backend):
        plan = EnvPlan(env_backend=backend, max_episode_steps=7)
        vector = make.make_vector(plan, 2, seed=0)
        self.addCleanup(vector.close)
        self.assertEqual(vector.spec.max_episode_steps, 7)
        vector.reset()
        for t in range(1, 8):
            step = vector.step(np.array([t % 2, t % 2]))
        np.testing.assert_array_equal(step.truncated, [True, True])
        np.testing.assert_array_equal(step.terminated, [False, False])
        self.assertEqual(step.episodes, (Episode(0, 7.0, 7), Episode(1, 7.0, 7)))

    @parameterized.parameters("sync", "native", "async")
    def test_seeds(self, backend):
        def rollout(seed, reset_seed=None):
            vector = make.make_vector(EnvPlan(env_backend=backend), 2, seed)
            self.addCleanup(vector.close)
            out = [vector.reset(reset_seed)]
            for t in range(30):
                out.append(vector.step(np.array([t % 2, 1])).obs)
            return np.stack(out)

        first = rollout(3)
        np.testing.assert_array_equal(first, rollout(3))
        np.testing.assert_array_equal(first, rollout(4, reset_seed=3))
        self.assertFalse(np.array_equal(first[0, 0], first[0, 1]))
        if backend != "async":
            self.assertFalse(np.array_equal(first, rollout(4)))

    def test_environments_that_fail_on_purpose_count_over_episodes(self):
        plan = EnvPlan(
            env="tfrl.testing.fakes:CrashingEnv", env_kwargs={"crash_after": 13, "length": 5}
        )
        vector = make.make_vector(plan, 1, 0)
        vector.reset()
        for _ in range(14):  # 12 real steps and 2 resets
            vector.step(np.zeros(1, np.int64))
        with self.assertRaisesRegex(RuntimeError, "on purpose"):
            vector.step(np.zeros(1, np.int64))

    def test_seeds_of_neighbours_do_not_overlap(self):
        seeds = [seed for base in range(50) for seed in environment_seeds(base, 16)]
        self.assertLen(set(seeds), len(seeds))


if __name__ == "__main__":
    absltest.main()
