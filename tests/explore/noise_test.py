"""Noise: Ornstein-Uhlenbeck processes, draws made again of their seeds, states that begin with a draw."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.errors import SettingError
from tfrl.explore.noise import regenerate
from tfrl.runtime.acting.inference import NoiseStream, StepSignature
from tfrl.types import EnvSpec, NoiseSpec, PolicyStep

BOX = gym.spaces.Box(-1, 1, (2,), np.float32)


class Policy(tf.Module):
    """Declares noise, and returns nothing of it."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def initial_state(self, batch_size, noise):
        return ()

    def step(self, obs, state, knobs, noise, explore):
        return PolicyStep(obs, state, {})


def stream(noise, size, seed=0):
    """A stream over noise."""
    signature = StepSignature(Policy(noise), EnvSpec("e", BOX, BOX), size, [], explore=True)
    return NoiseStream(signature, np.random.default_rng(seed))


def taken(noises, count, *, name="x", restart=None):
    """Noise of a stream in some steps [count, B, ...]; new episodes begin in the rows `restart[t]` after step t."""
    values = []
    for t, noise in enumerate(noises.steps(count)):
        values.append(noise[name].copy())
        noises.restart(np.zeros(noises.size, np.bool_) if restart is None else restart[t])
    return np.array(values)


class ProcessTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((0.15, 0.2, 1.0), (0.6, 1.5, 0.05), (1.2, 0.3, 1.0))
    def test_variance_and_correlation_are_those_of_the_process(self, theta, sigma, dt):
        noises = stream({"x": NoiseSpec((50,), "ou", theta=theta, sigma=sigma, dt=dt)}, 80)
        burn_in = int(12 / (theta * dt))
        taken(noises, burn_in)
        x = taken(noises, 40)  # 4,000 processes
        self.assertEqual(x.dtype, np.float32)
        variance = sigma**2 / (2 * theta - theta**2 * dt)
        self.assertAllClose(x.var(), variance, rtol=0.05)
        self.assertAllClose(x.mean(), 0.0, atol=0.05 * variance**0.5)
        if theta * dt < 0.1:  # near the process in continuous time
            self.assertAllClose(x.var(), sigma**2 / (2 * theta), rtol=0.07)
        for lag in (1, 5):
            correlation = (x[:-lag] * x[lag:]).mean() / variance
            self.assertAllClose(correlation, (1 - theta * dt) ** lag, atol=0.05)
        kurtosis = (x**4).mean() / x.var() ** 2
        self.assertAllClose(kurtosis, 3.0, atol=0.2)

    def test_it_begins_at_zero_with_each_episode(self):
        sigma, theta = 0.5, 0.1
        noises = stream({"x": NoiseSpec((4000,), "ou", theta=theta, sigma=sigma)}, 2)
        restart = np.zeros((30, 2), np.bool_)
        restart[20, 1] = True
        x = taken(noises, 30, restart=restart)
        for row, t, steps in (
            (0, 0, 1),
            (1, 0, 1),
            (1, 20, 21),
            (1, 21, 1),
            (1, 25, 5),
            (0, 29, 30),
        ):
            expected = sigma**2 * sum((1 - theta) ** (2 * i) for i in range(steps))
            self.assertAllClose(x[t, row].var(), expected, rtol=0.1, msg=(row, t))
        self.assertAllClose(np.corrcoef(x[20, 1], x[21, 1])[0, 1], 0.0, atol=0.07)
        self.assertGreater(np.corrcoef(x[20, 0], x[21, 0])[0, 1], 0.8)

    def test_it_goes_on_where_it_was_saved(self):
        specs = {
            "x": NoiseSpec((3,), "ou"), "held": NoiseSpec((2,), "normal", None),
            "seeded": NoiseSpec((2,), "normal", 4, seeded=True), "each": NoiseSpec((), "uniform"),
        }  # fmt: skip
        noises = stream(specs, 3)
        taken(noises, 6)
        state, rng = noises.state(), noises._rng.bit_generator.state
        other = stream(specs, 3, seed=9)
        taken(other, 3)
        other.restore(state)
        other._rng.bit_generator.state = rng
        for _ in range(5):
            (one,), (two,) = list(noises.steps(1)), list(other.steps(1))
            self.assertEqual(one.keys(), specs.keys())
            for name in specs:
                self.assertAllEqual(one[name], two[name])
            self.assertAllEqual(noises.seeds["seeded_seed"], other.seeds["seeded_seed"])
            ends = np.array([False, True, False])
            noises.restart(ends)
            other.restart(ends)

    @parameterized.parameters(
        (dict(kind="gauss"), "kind='gauss': expected uniform, normal or ou"),
        (dict(kind="normal", hold_env_steps=0), "hold_env_steps=0: expected at least 1"),
        (dict(kind="ou", hold_env_steps=None), "neither held nor seeded"),
        (dict(kind="ou", seeded=True), "neither held nor seeded"),
        (dict(kind="ou", theta=3.0), "expected 0 < theta dt < 2"),
        (dict(kind="ou", sigma=-1.0), "sigma >= 0"),
    )
    def test_noise_that_cannot_be_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            NoiseSpec((), **settings)


class SeededTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(kind=("uniform", "normal"), hold=(1, 3, None), shape=((), (7,), (2, 3)))
    def test_a_seed_makes_its_draw_again(self, kind, hold, shape):
        spec = NoiseSpec(shape, kind, hold, seeded=True)
        noises = stream({"x": spec}, 4)
        traced = tf.function(lambda seeds: regenerate(spec, seeds))
        restart, seen = np.array([False, True, False, False]), []
        for noise in noises.steps(7):
            seeds = noises.seeds["x_seed"].copy()
            self.assertEqual((seeds.dtype, seeds.shape), (np.int32, (4, 2)))
            seen.append(seeds)
            self.assertAllEqual(regenerate(spec, seeds), noise["x"])
            self.assertAllEqual(traced(seeds[None, :2])[0], noise["x"][:2])
            self.assertAllEqual(regenerate(spec, seeds[3]), noise["x"][3])
            noises.restart(restart)
        changes = np.array([(a != b).any(1) for a, b in zip(seen, seen[1:])])
        self.assertTrue(changes[:, 1].all())  # an episode ends at every step there
        expected = [hold is not None and t % hold == 0 for t in range(1, 7)]
        self.assertAllEqual(changes[:, 0], expected)

    @parameterized.parameters("uniform", "normal")
    def test_draws_have_their_distribution(self, kind):
        spec = NoiseSpec((5,), kind, seeded=True)
        rng = np.random.default_rng(0)
        draws = tf.function(lambda seeds: regenerate(spec, seeds))
        x = draws(rng.integers(-(2**31), 2**31, (4000, 2), np.int32)).numpy()
        mean, variance = {"uniform": (0.5, 1 / 12), "normal": (0.0, 1.0)}[kind]
        self.assertAllClose(x.mean(0), [mean] * 5, atol=0.06)
        self.assertAllClose(np.cov(x.T), variance * np.eye(5), atol=0.08)
        if kind == "uniform":
            self.assertBetween(x.min(), 0.0, 0.001)
            self.assertBetween(x.max(), 0.999, 1.0 - 1e-8)
        else:
            inside = [(np.abs(x) < z).mean() for z in (0.5, 1.0, 2.0, 3.0)]
            self.assertAllClose(inside, [0.3829, 0.6827, 0.9545, 0.9973], atol=0.01)
        follow = regenerate(spec, np.int32([[1, 1], [1, 2], [2, 1], [2, 2]])).numpy()
        self.assertLen(np.unique(follow), 20)

    def test_xla_makes_the_same_but_for_rounding(self):
        seeds = np.int32([[3, -4], [2**31 - 1, -(2**31)]])
        for kind, exact in (("uniform", True), ("normal", False)):
            spec = NoiseSpec((9,), kind, seeded=True)
            here = regenerate(spec, seeds)
            there = tf.function(lambda s, spec=spec: regenerate(spec, s), jit_compile=True)(seeds)
            if exact:
                self.assertAllEqual(here, there)
            self.assertAllClose(here, there, atol=1e-5)


if __name__ == "__main__":
    tf.test.main()
