"""Observations with the previous action and reward, whoever steps and whichever way rows restart."""

import importlib.util

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tfrl.envs import make
from tfrl.envs.previous import PreviousStep, observe_previous
from tfrl.envs.vector import BatchVector, SyncVector
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.testing import fakes
from tfrl.types import EnvSpec

spaces = gym.spaces
LENGTHS = ((3, 2), (1, 4))  # of the episodes of row 0 and row 1
HAS_ALE = importlib.util.find_spec("ale_py") is not None


def scripted(kind, clip_rewards=False, inner_clips=None):
    """Two `Counter`s behind one of the three ways to step them."""
    factories = [lambda lengths=lengths: fakes.Counter(lengths) for lengths in LENGTHS]
    env = factories[0]()
    spec = EnvSpec("Counter", env.observation_space, spaces.Discrete(2, dtype=np.int32))
    inner_clips = clip_rewards if inner_clips is None else inner_clips
    if kind == "sync":
        inner = SyncVector(factories, spec, seed=0, clip_rewards=inner_clips)
    else:
        env = SyncVectorEnv(factories, autoreset_mode=AutoresetMode(kind), copy=False)
        inner = BatchVector(
            env, spec, 0, backend=kind, shared_buffer=True, clip_rewards=inner_clips
        )
    return PreviousStep(inner, clip_rewards)


def row_of(nest, row):
    if isinstance(nest, dict):
        return {key: row_of(part, row) for key, part in nest.items()}
    if isinstance(nest, tuple):
        return tuple(row_of(part, row) for part in nest)
    return np.asarray(nest[row])


class CollidingEnv(fakes.TruncatingChain):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict(previous_reward=self.observation_space)


class PreviousStepTest(parameterized.TestCase):
    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_every_transition_carries_what_led_to_it(self, kind):
        vector, rng = scripted(kind), np.random.default_rng(0)
        self.assertEqual(vector.restarts_in_step, kind == "SameStep")
        obs, seen, ends = vector.reset(), 0, 0
        last = {row: (0, 0.0) for row in range(2)}
        for _ in range(40):
            action = rng.integers(2, size=2)
            step = vector.step(action)
            for row in np.flatnonzero(step.valid):
                before, after = row_of(obs, row), row_of(step.next_obs, row)
                self.assertEqual((before["previous_action"], before["previous_reward"]), last[row])
                if before["observation"][1] == 0:
                    self.assertEqual(last[row], (0, 0.0))
                self.assertEqual(after["previous_action"], action[row])
                self.assertEqual(after["previous_reward"], step.reward[row])
                self.assertEqual(after["observation"][1], before["observation"][1] + 1)
                self.assertTrue(vector.spec.observation_space.contains(before))
                self.assertTrue(vector.spec.observation_space.contains(after))
                done = step.terminated[row] or step.truncated[row]
                last[row] = (0, 0.0) if done else (int(action[row]), float(step.reward[row]))
                seen, ends = seen + 1, ends + done
            for row in np.flatnonzero(~step.valid):
                self.assertEqual(step.obs["observation"][row][1], 0)
                self.assertEqual(step.obs["previous_action"][row], 0)
                self.assertEqual(step.obs["previous_reward"][row], 0.0)
            if kind != "SameStep":
                self.assertIs(step.next_obs, step.obs)
            obs = step.obs
        self.assertGreater(seen, 40)
        self.assertGreater(ends, 10)

    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_a_reset_in_mid_episode_forgets(self, kind):
        vector = scripted(kind)
        vector.reset()
        vector.step(np.ones(2, np.int64))
        obs = vector.reset(seed=1)
        np.testing.assert_array_equal(obs["previous_action"], [0, 0])
        np.testing.assert_array_equal(obs["previous_reward"], [0.0, 0.0])
        self.assertEqual(obs["previous_action"].dtype, np.int32)

    @parameterized.parameters(True, False)
    def test_the_reward_is_that_of_the_learner_in_evaluation_too(self, inner_clips):
        vector = scripted("sync", clip_rewards=True, inner_clips=inner_clips)
        vector.reset()
        step = vector.step(np.zeros(2, np.int64))
        np.testing.assert_array_equal(step.next_obs["previous_reward"], [1.0, 1.0])
        self.assertEqual(step.reward[0], 1.0 if inner_clips else np.float32(0.01))
        self.assertEqual(
            vector.spec.observation_space["previous_reward"], spaces.Box(-1, 1, (), np.float32)
        )

    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_arrays_are_not_written_again_and_actions_are_copied(self, kind):
        vector = scripted(kind)
        kept, action = [vector.reset()], np.zeros(2, np.int32)
        for t in range(16):
            action[:] = t % 2  # the same memory each time
            step = vector.step(action)
            kept += [step.obs, step.next_obs]
            if t == 7:
                copies = [{k: v.copy() for k, v in nest.items()} for nest in kept]
        for nest, copy in zip(kept, copies):
            for key in copy:
                np.testing.assert_array_equal(nest[key], copy[key])

    def test_rewards_are_not_clipped_without_being_asked(self):
        vector = scripted("sync")
        self.assertFalse(vector.spec.observation_space["previous_reward"].is_bounded())
        vector.reset()
        step = vector.step(np.zeros(2, np.int64))
        np.testing.assert_allclose(step.next_obs["previous_reward"], [0.01, 0.01])


class SpecTest(parameterized.TestCase):
    def spec(self, observation, action):
        return EnvSpec("e", observation, action, max_episode_steps=9)

    def test_a_dict_keeps_its_keys_and_its_mask(self):
        space = spaces.Dict(observation=spaces.Discrete(3), action_mask=spaces.MultiBinary(2))
        spec = observe_previous(self.spec(space, spaces.Discrete(2)), False)
        self.assertCountEqual(
            spec.observation_space.spaces,
            ["observation", "action_mask", "previous_action", "previous_reward"],
        )
        self.assertTrue(spec.has_action_mask)
        self.assertEqual(spec.max_episode_steps, 9)

    def test_limits_of_actions_include_the_zero_that_stands_for_none(self):
        action = spaces.Dict(
            a=spaces.Box(np.float32([1, -2]), np.float32([2, -1])),
            b=spaces.Tuple([spaces.Discrete(3, dtype=np.int32), spaces.MultiBinary(2)]),
        )
        spec = observe_previous(self.spec(spaces.Discrete(3), action), False)
        previous = spec.observation_space["previous_action"]
        self.assertEqual(previous["a"], spaces.Box(np.float32([0, -2]), np.float32([2, 0])))
        self.assertEqual(previous["b"], action["b"])

    def test_a_key_that_exists_is_refused(self):
        plan = EnvPlan(env=f"{__name__}:CollidingEnv", observe_previous=True)
        for build in (make.make_spec, lambda plan: make.make_vector(plan, 1, 0)):
            with self.assertRaisesRegex(SettingError, "has a key 'previous_reward' already"):
                build(plan)


class MakeTest(parameterized.TestCase):
    @parameterized.parameters("sync", "native", "async")
    def test_all_backends_and_the_spec_agree(self, backend):
        plan = EnvPlan(env_backend=backend, observe_previous=True, max_episode_steps=5)
        vector = make.make_vector(plan, 2, seed=0)
        self.addCleanup(vector.close)
        self.assertEqual(vector.backend, backend)
        self.assertEqual(vector.spec, make.make_spec(plan))
        plain = make.make_vector(EnvPlan(env_backend=backend, max_episode_steps=5), 2, seed=0)
        self.addCleanup(plain.close)
        obs, expected = vector.reset(), plain.reset()
        for _ in range(12):
            np.testing.assert_array_equal(obs["observation"], expected)
            action = np.array([1, 0])
            step, reference = vector.step(action), plain.step(action)
            np.testing.assert_array_equal(step.reward, reference.reward)
            np.testing.assert_array_equal(step.next_obs["previous_action"], action * step.valid)
            np.testing.assert_array_equal(step.next_obs["previous_reward"], step.reward)
            self.assertEqual(step.episodes, reference.episodes)
            obs, expected = step.obs, reference.obs

    def test_a_masked_environment(self):
        plan = EnvPlan(
            env="tfrl.testing.fakes:MaskedBandit", env_kwargs={"length": 5}, observe_previous=True
        )
        vector = make.make_vector(plan, 2, seed=1)
        obs = vector.reset()
        for _ in range(12):
            self.assertTrue(vector.spec.observation_space.contains(row_of(obs, 1)))
            obs = vector.step(obs["action_mask"].argmax(-1)).obs

    def test_box_actions_are_shown_within_their_limits(self):
        plan = EnvPlan(env="tfrl.testing.fakes:TargetPoint", observe_previous=True)
        vector = make.make_vector(plan, 2, seed=1)
        vector.reset()
        obs = vector.step(np.float32([[5, -0.5], [1, -9]])).obs
        np.testing.assert_array_equal(obs["previous_action"], [[2, -0.5], [1, -2]])

    def test_pictures_still_come_out(self):
        plan = EnvPlan(env_kwargs={"render_mode": "rgb_array"}, observe_previous=True)
        try:
            import pygame  # noqa: F401
        except ImportError:
            self.skipTest("pygame is not installed")
        vector = make.make_vector(plan, 1, seed=1)
        vector.reset()
        self.assertEqual(vector.render().shape[-1], 3)
        self.assertEqual(vector.envs[0].metadata["render_fps"], 50)

    @absltest.skipUnless(HAS_ALE, "ale-py is not installed")
    def test_atari_keeps_its_stack_and_forgets_with_a_life(self):
        plan = EnvPlan(env="ALE/Breakout-v5", observe_previous=True)
        for training in (True, False):
            vector = make.make_vector(plan, 2, 0, training=training)
            self.addCleanup(vector.close)
            self.assertEqual(vector.spec.frame_stack, 4)
            image = vector.spec.observation_space["observation"]
            self.assertEqual(image, spaces.Box(0, 255, (84, 84, 4), np.uint8))
            rng, automatic = np.random.default_rng(0), 0
            vector.reset()
            for _ in range(150):
                action = rng.integers(4, size=2)
                step = vector.step(action)
                automatic += int((~step.valid).sum())
                np.testing.assert_array_equal(step.next_obs["previous_action"], action * step.valid)
                np.testing.assert_array_equal(
                    step.next_obs["previous_reward"], np.sign(step.reward)
                )
            self.assertGreater(automatic, 2)


if __name__ == "__main__":
    absltest.main()
