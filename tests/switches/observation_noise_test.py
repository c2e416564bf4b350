"""Noise on observations: its distribution, its seed, where it is and where it is not."""

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

from tfrl.envs.make import make_spec, make_vector
from tfrl.envs.vector import BatchVector
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.switches import observation_noise
from tfrl.switches.observation_noise import Config, ObservationNoise
from tfrl.testing import fakes
from tfrl.types import EnvSpec

FAKES = "tfrl.testing.fakes:"


def switches(**settings):
    return {"observation_noise": Config(**settings)}


def vector(env="CartPole-v1", num_envs=2, seed=0, training=True, plan=None, **settings):
    plan = EnvPlan(env=env, **(plan or {}))
    return make_vector(plan, num_envs, seed, training=training, switches=switches(**settings))


class Wide(gym.Env):
    """Zeros without limits, in several dtypes."""

    observation_space = gym.spaces.Dict(
        a=gym.spaces.Box(-np.inf, np.inf, (50,), np.float32),
        b=gym.spaces.Tuple([gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)]),
        action_mask=gym.spaces.MultiBinary(2),
        action_features=gym.spaces.Box(-1.0, 1.0, (2, 3), np.float32),
        count=gym.spaces.Box(0, 9, (2,), np.int32),
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        return self._obs(), 0.0, False, False, {}

    def _obs(self):
        return {
            "a": np.zeros(50, np.float32), "b": (np.zeros(3),), "action_mask": np.ones(2, np.int8),
            "action_features": np.zeros((2, 3), np.float32), "count": np.zeros(2, np.int32),
        }  # fmt: skip


class ObservationNoiseTest(parameterized.TestCase):
    def test_its_distribution(self):
        noisy = vector(f"{__name__}:Wide", 4, noise_std=0.3)
        noisy.reset(0)
        draws = [noisy.step(np.zeros(4, np.int64)).obs["a"] for _ in range(200)]
        values = np.stack(draws)
        self.assertEqual(values.dtype, np.float32)
        self.assertAlmostEqual(values.mean(), 0.0, delta=0.3 * 4 / np.sqrt(values.size))
        self.assertAlmostEqual(values.std(), 0.3, delta=0.005)
        self.assertLess(abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]), 0.03)

    def test_what_is_no_float_that_a_network_reads_stays_exact(self):
        noisy = vector(f"{__name__}:Wide", 2)
        obs = noisy.step(np.zeros(2, np.int64)).obs if noisy.reset(0) is None else noisy.reset(0)
        self.assertTrue(np.all(obs["action_mask"] == 1))
        self.assertFalse(np.any(obs["action_features"]))
        self.assertFalse(np.any(obs["count"]))
        self.assertTrue(np.all(obs["b"][0] != 0))

    def test_a_seed_gives_the_same_noise(self):
        def played(seed, again=None):
            noisy = vector(seed=seed)
            seen = [noisy.reset(again)]
            seen += [noisy.step(np.zeros(2, np.int64)).obs for _ in range(30)]
            return np.stack(seen)

        np.testing.assert_array_equal(played(1), played(1))
        np.testing.assert_array_equal(played(1, again=5), played(2, again=5))
        self.assertTrue(np.any(played(1) != played(2)))

    def test_episodes_are_those_without_noise(self):
        noisy, plain = vector(noise_std=0.5), make_vector(EnvPlan(), 2, 0)
        noisy.reset(3), plain.reset(3)
        for t in range(100):
            a, b = (v.step(np.full(2, t % 2)) for v in (noisy, plain))
            np.testing.assert_array_equal(a.terminated, b.terminated)
            np.testing.assert_array_equal(a.valid, b.valid)
            self.assertTrue(np.any(a.obs != b.obs))
            self.assertIs(a.obs, a.next_obs)

    def test_rows_that_restart_within_a_step_have_a_draw_of_their_own(self):
        inner = gym.vector.SyncVectorEnv(
            [lambda: fakes.Counter((2, 3))] * 2, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
        )
        space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        spec = EnvSpec("e", space, fakes.Counter().action_space)
        batch = BatchVector(inner, spec, 0, backend="test")
        noisy = ObservationNoise(batch, 0.01, 0)
        noisy.reset(0)
        ended = 0
        for _ in range(12):
            step = noisy.step(np.zeros(2, np.int64))
            last = step.terminated | step.truncated
            ended += last.sum()
            np.testing.assert_array_equal(step.obs[~last], step.next_obs[~last])
            self.assertTrue(np.all(step.obs[last] != step.next_obs[last]))
        self.assertGreater(ended, 5)

    def test_the_limits_of_the_space_hold(self):
        noisy = vector(f"{FAKES}IdentityGame", noise_std=2.0)
        obs = noisy.reset(0)
        self.assertTrue(np.all((obs >= 0) & (obs <= 1)))
        self.assertEqual(noisy.spec, make_spec(EnvPlan(env=f"{FAKES}IdentityGame")))

    @parameterized.parameters((True, False, True), (False, False, False), (False, True, True))
    def test_evaluation_has_it_only_if_asked(self, training, in_evaluation, expected):
        noisy = vector(training=training, noise_in_evaluation=in_evaluation)
        plain = make_vector(EnvPlan(), 2, 0)
        self.assertEqual(np.any(noisy.reset(0) != plain.reset(0)), expected)

    @parameterized.parameters("sync", "async", "native")
    def test_every_backend(self, backend):
        noisy = vector(plan={"env_backend": backend, "observe_previous": True}, noise_std=0.2)
        noisy.reset(0)
        step = noisy.step(np.ones(2, np.int64))
        np.testing.assert_array_equal(step.obs["previous_reward"], [1.0, 1.0])
        np.testing.assert_array_equal(step.obs["previous_action"], [1, 1])
        noisy.close()

    def test_observations_without_floats_are_refused_by_name(self):
        with self.assertRaisesRegex(
            SettingError,
            "with=observation_noise on .*ImageGame: expected an observation with a part of floats",
        ):
            make_spec(EnvPlan(env=f"{FAKES}ImageGame"), switches())

    def test_no_noise_is_no_wrapper(self):
        plain = make_vector(EnvPlan(), 2, 0)
        wrap = observation_noise.environment(Config(noise_std=0.0), plain.spec)[1]
        self.assertIs(wrap(plain, 0, True), plain)


if __name__ == "__main__":
    absltest.main()
