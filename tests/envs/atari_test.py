"""Atari on a real ROM: both paths to it, and what they have in common."""

import dataclasses
import importlib
import importlib.util
import os
from unittest import mock

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

from tfrl.envs import make
from tfrl.errors import SettingError
from tfrl.job import EnvPlan

HAS_ALE = importlib.util.find_spec("ale_py") is not None
HAS_CV2 = importlib.util.find_spec("cv2") is not None
BACKENDS = (("ale",), ("sync",)) if HAS_CV2 else (("ale",),)


def play(plan, num_envs, num_steps, training=True):
    """The vector steps of a random policy, and the observations before each."""
    vector = make.make_vector(plan, num_envs, 0, training=training)
    rng = np.random.default_rng(0)
    befores, steps = [vector.reset()], []
    for _ in range(num_steps):
        steps.append(vector.step(rng.integers(vector.spec.action_space.n, size=num_envs)))
        befores.append(steps[-1].obs)
    vector.close()
    return befores[:-1], steps


@absltest.skipUnless(HAS_ALE, "ale-py is not installed")
class AtariTest(parameterized.TestCase):
    @parameterized.parameters("ALE/Pong-v5", "PongNoFrameskip-v4")
    def test_spec(self, name):
        vector = make.make_vector(EnvPlan(env=name), 2, 0)
        self.addCleanup(vector.close)
        self.assertEqual(vector.backend, "ale")
        spec = vector.spec
        self.assertEqual(spec.observation_space, gym.spaces.Box(0, 255, (84, 84, 4), np.uint8))
        self.assertEqual(spec.action_space, gym.spaces.Discrete(6, dtype=np.int32))
        self.assertEqual((spec.frame_stack, spec.max_episode_steps), (4, 27_000))
        obs = vector.reset()
        self.assertTrue(spec.observation_space.contains(obs[0]))

    @parameterized.parameters(*BACKENDS)
    def test_frames_move_through_the_stack(self, backend):
        plan = EnvPlan(env="ALE/Breakout-v5", env_backend=backend)
        befores, steps = play(plan, 2, 150)
        moved = 0
        for before, step in zip(befores, steps):
            for row in np.flatnonzero(step.valid):
                np.testing.assert_array_equal(step.next_obs[row][..., :-1], before[row][..., 1:])
                moved += not np.array_equal(step.next_obs[row][..., -1], before[row][..., -1])
        self.assertGreater(moved, 100)

    @parameterized.parameters(*BACKENDS)
    def test_returns_are_raw_and_rewards_are_signs(self, backend):
        """Space Invaders pays 5 to 30 points a hit."""
        plan = EnvPlan(
            env="ALE/SpaceInvaders-v5", env_backend=backend, atari_terminal_on_life_loss=False
        )
        _, steps = play(plan, 1, 900)
        rewards = np.concatenate([s.reward for s in steps])
        self.assertEqual(set(rewards.tolist()), {0.0, 1.0})
        episode = next(e for s in steps for e in s.episodes)
        hits = sum(s.reward[0] for s in steps[: episode.length_env_steps])
        self.assertGreater(episode.episode_return, 4 * hits)
        _, steps = play(plan, 1, 900, training=False)
        raw = np.concatenate([s.reward for s in steps])
        episode = next(e for s in steps for e in s.episodes)
        self.assertEqual(episode.episode_return, raw[: episode.length_env_steps].sum())

    @parameterized.parameters(*BACKENDS)
    def test_lost_lives_end_the_learners_episode_but_not_the_game(self, backend):
        plan = EnvPlan(env="ALE/Breakout-v5", env_backend=backend)
        _, steps = play(plan, 2, 500)
        for row in range(2):
            games = [t for t, s in enumerate(steps) for e in s.episodes if e.row == row]
            ends = [t for t, s in enumerate(steps) if s.terminated[row]]
            self.assertGreater(len(games), 1)
            between = [t for t in ends if games[0] < t <= games[1]]
            self.assertLen(between, 5)  # lives
            self.assertEqual(between[-1], games[1])
            for t in ends:
                if t + 1 < len(steps):
                    self.assertFalse(steps[t + 1].valid[row])
                self.assertTrue(steps[t].valid[row])
        _, steps = play(plan, 2, 500, training=False)
        for step in steps:
            self.assertEqual(int(step.terminated.sum()), len(step.episodes))

    @parameterized.parameters(*BACKENDS)
    def test_fire_is_pressed_for_the_agent(self, backend):
        """An agent that never presses FIRE loses all its lives instead of waiting for ever."""
        for training in (True, False):
            plan = EnvPlan(env="ALE/Breakout-v5", env_backend=backend)
            vector = make.make_vector(plan, 1, 0, training=training)
            self.addCleanup(vector.close)
            vector.reset()
            episodes = [e for _ in range(300) for e in vector.step(np.zeros(1, np.int64)).episodes]
            self.assertNotEmpty(episodes)

    @parameterized.parameters(*BACKENDS)
    def test_time_limit_in_env_steps(self, backend):
        plan = EnvPlan(env="ALE/Pong-v5", env_backend=backend, max_episode_steps=30)
        _, steps = play(plan, 1, 62)
        self.assertEqual([t for t, s in enumerate(steps) if s.truncated[0]], [29, 60])
        self.assertEqual([t for t, s in enumerate(steps) if not s.valid[0]], [30, 61])
        self.assertFalse(any(s.terminated[0] for s in steps))

    def test_both_paths_play_the_same_game(self):
        """Statistics of random play agree; the emulators are seeded differently, so not step by
        step."""
        if not HAS_CV2:
            self.skipTest("OpenCV is not installed")
        lengths, returns, pixels, valid = [], [], [], []
        for (backend,) in BACKENDS:
            plan = EnvPlan(env="ALE/Breakout-v5", env_backend=backend)
            befores, steps = play(plan, 4, 700)
            episodes = [e for s in steps for e in s.episodes]
            lengths.append(np.array([e.length_env_steps for e in episodes]))
            returns.append(np.array([e.episode_return for e in episodes]))
            pixels.append(np.mean([b.mean() for b in befores]))
            valid.append(np.mean([s.valid.mean() for s in steps]))
        for ale, sync in (lengths, returns):
            error = np.sqrt(ale.var() / len(ale) + sync.var() / len(sync))
            self.assertLess(abs(ale.mean() - sync.mean()), 4 * error)
        np.testing.assert_allclose(*pixels, rtol=0.01)  # the same grey, the same interpolation
        np.testing.assert_allclose(*valid, atol=0.01)

    def test_settings_that_have_a_name_of_their_own(self):
        for key, instead in (("frameskip", "atari_frame_skip"), ("obs_type", "atari_screen_size")):
            plan = EnvPlan(env="ALE/Pong-v5", env_kwargs={key: 1})
            with self.assertRaisesRegex(SettingError, f"{key}.*{instead}"):
                make.make_vector(plan, 1, 0)

    def test_spec_is_that_of_the_sync_path(self):
        if not HAS_CV2:
            self.skipTest("OpenCV is not installed")
        plan = EnvPlan(env="ALE/Pong-v5", env_backend="sync", atari_frame_stack=3)
        vector = make.make_vector(plan, 1, 0)
        self.addCleanup(vector.close)
        self.assertEqual(vector.spec, make.make_spec(plan))

    def test_missing_opencv_is_named(self):
        if HAS_CV2:
            self.skipTest("OpenCV is installed")
        with self.assertRaisesRegex(SettingError, r"pip install 'tfrl\[atari\]'"):
            make.make_vector(EnvPlan(env="ALE/Pong-v5", env_backend="sync"), 1, 0)

    def test_options_that_ale_has_not(self):
        plan = EnvPlan(env="ALE/Pong-v5", env_kwargs={"difficulty": 1})
        self.assertEqual(make.pick_backend(plan, 4), "sync")
        plan = EnvPlan(env="ALE/Pong-v5", env_kwargs={"difficulty": 1}, env_backend="ale")
        with self.assertRaisesRegex(SettingError, "does not take env_kwargs difficulty"):
            make.make_vector(plan, 4, 0)


@absltest.skipUnless(importlib.util.find_spec("envpool"), "envpool is not installed")
class EnvPoolTest(parameterized.TestCase):
    @parameterized.parameters("CartPole-v1", "ALE/Breakout-v5")
    def test_same_interface(self, name):
        plan = EnvPlan(env=name, env_backend="envpool", max_episode_steps=40)
        vector = make.make_vector(plan, 2, 0)
        self.addCleanup(vector.close)
        obs = vector.reset()
        again = vector.reset(0)
        np.testing.assert_array_equal(obs, again)
        self.assertTrue(vector.spec.observation_space.contains(obs[0]))
        lengths = []
        for t in range(100):
            step = vector.step(np.array([t % 2, 0]))
            lengths += [e.length_env_steps for e in step.episodes]
            self.assertIs(step.next_obs, step.obs)
        self.assertNotEmpty(lengths)
        self.assertLessEqual(max(lengths), 40)

    @parameterized.parameters("CartPole-v1", "ALE/Breakout-v5")
    def test_threads_are_arguments_of_the_pool_alone(self, name):
        plan = EnvPlan(env=name, env_backend="envpool", env_kwargs={"num_threads": 1})
        vector = make.make_vector(plan, 2, 0)
        self.addCleanup(vector.close)
        self.assertEqual(vector.spec, make.make_spec(plan))
        make.make_env(plan).close()
        for other in ("sync", "auto"):
            with self.assertRaisesRegex(SettingError, "num_threads"):
                make.make_vector(dataclasses.replace(plan, env_backend=other), 2, 0)

    def test_vectors_of_a_run_share_the_cores(self):
        envpool = importlib.import_module("envpool")
        plan = EnvPlan(env="CartPole-v1", env_backend="envpool")
        given = dataclasses.replace(plan, env_kwargs={"num_threads": 3})
        cores = len(os.sched_getaffinity(0))
        for asked, num_vectors, expected in (
            (plan, 1, 0), (plan, 2, max(1, cores // 2)), (plan, 10 * cores, 1), (given, 2, 3),
        ):  # fmt: skip
            with mock.patch.object(envpool, "make_gymnasium", wraps=envpool.make_gymnasium) as made:
                make.make_vector(asked, 2, 0, num_vectors=num_vectors).close()
            self.assertEqual(made.call_args.kwargs["num_threads"], expected)


class WithoutEnvPoolTest(absltest.TestCase):
    def test_the_extra_is_named(self):
        if importlib.util.find_spec("envpool"):
            self.skipTest("envpool is installed")
        with self.assertRaisesRegex(SettingError, r"pip install 'tfrl\[envpool\]'"):
            make.make_vector(EnvPlan(env_backend="envpool"), 2, 0)


if __name__ == "__main__":
    absltest.main()
