"""The state of environments: saved, put back into others, and the same steps follow to the bit."""

import collections
import importlib.util
import pathlib
import tempfile

import gymnasium as gym
import numpy as np
import tree
from absl.testing import absltest, parameterized

from tfrl.envs import state as state_lib
from tfrl.envs.make import make_vector
from tfrl.envs.state import NoState
from tfrl.envs.vector import SyncVector
from tfrl.job import EnvPlan
from tfrl.runtime.storage import nest_file
from tfrl.types import EnvSpec

STEPS = 50
# Of all kinds of environments and wrappers that can save their state.
CASES = {
    "cartpole": (dict(env="CartPole-v1"), 1),
    "cartpole, native": (dict(env="CartPole-v1", env_backend="native"), 8),
    "acrobot": (dict(env="Acrobot-v1", max_episode_steps=40), 2),
    "pendulum": (dict(env="Pendulum-v1"), 2),
    "mountain car": (dict(env="MountainCarContinuous-v0"), 1),
    "frozen lake": (dict(env="FrozenLake-v1"), 3),
    "inverted pendulum": (dict(env="InvertedPendulum-v5"), 2),
    "ant": (dict(env="Ant-v5", max_episode_steps=45), 1),
    "humanoid": (dict(env="Humanoid-v5"), 1),
    "pong": (dict(env="ALE/Pong-v5", env_backend="sync", max_episode_steps=45), 1),
    "breakout, sticky": (
        dict(env="ALE/Breakout-v5", env_backend="sync", atari_sticky_actions=0.25,
             atari_terminal_on_life_loss=True, atari_fire_on_reset=True),
        2,
    ),
    "minatar": (dict(env="MinAtar/Breakout-v1"), 2),
    "a memory": (dict(env="tfrl.envs.memory:RepeatPrevious"), 2),
    "previous step": (dict(env="tfrl.envs.memory:RepeatFirst", observe_previous=True), 2),
    "features": (dict(env="tfrl.envs.parametric:ParametricCartPole", observe_previous=True), 3),
    "any spaces": (dict(env="tfrl.testing.fakes:MatchDict"), 2),
    "its own methods": (dict(env=f"{__name__}:Walk", env_wrappers=[f"{__name__}:Slow"]), 2),
    "its attributes": (dict(env=f"{__name__}:Plain"), 2),
}  # fmt: skip


class Walk(gym.Env):
    """A random walk, which keeps its place where only it knows."""

    places: dict = {}  # noqa: RUF012 - shared by all on purpose

    def __init__(self):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.places[id(self)] = 0.0
        return self._obs(), {}

    def step(self, action):
        self.places[id(self)] += int(action) - 0.5 + self.np_random.normal()
        return self._obs(), self.places[id(self)], abs(self.places[id(self)]) > 4.0, False, {}

    def _obs(self):
        return np.float32([self.places[id(self)]])

    def save_state(self):
        return {"place": self.places[id(self)]}

    def load_state(self, state):
        self.places[id(self)] = state["place"]


class Slow(gym.ObservationWrapper):
    """A wrapper with a state of its own, that shares its memory between two attributes."""

    state_in_attributes = True

    def __init__(self, env):
        super().__init__(env)
        self._newest = np.zeros(1, np.float32)
        self._last = [self._newest, self._newest]
        self._queue = collections.deque(maxlen=3)

    def observation(self, observation):
        self._newest *= 0.5
        self._newest += observation  # seen through `_last` too
        self._queue.append(float(observation[0]))
        return (self._last[1] + self._last[0] + sum(self._queue)).astype(np.float32)


class Plain(Walk):
    """A walk with its state in attributes."""

    state_in_attributes = True
    save_state = None

    def reset(self, *, seed=None, options=None):
        self._lengths = {"all": [0, ()]}
        if seed is not None:
            self._drift = np.random.RandomState(seed)
        return super().reset(seed=seed)

    def step(self, action):
        self._lengths["all"][0] += 1
        self._place += int(action) - 0.5 + self._drift.normal() + self._lengths["all"][0] / 9
        return self._obs(), self._place, abs(self._place) > 9.0, False, {}

    def _obs(self):
        self._place = 0.0 if self._lengths["all"][0] == 0 else self._place
        return np.float32([self._place])


class Silent(Walk):
    """A walk that says nothing of its state."""

    save_state = None


class Views(Plain):
    """Two attributes over one memory."""

    def reset(self, *, seed=None, options=None):
        out = super().reset(seed=seed)
        self._all = np.zeros(4)
        self._part = self._all[1:3]
        return out


class Simulated(Plain):
    """An attribute that is no plain data."""

    def reset(self, *, seed=None, options=None):
        self._simulator = iter([1, 2])
        return super().reset(seed=seed)


def made(settings, num_envs, seed):
    """A vector and its first observations."""
    vector = make_vector(EnvPlan(**settings), num_envs, seed)
    return vector, vector.reset()


def actions(vector, obs, rng):
    """Random actions, valid ones where there is a mask."""
    if vector.spec.has_action_mask:
        return np.array([rng.choice(np.flatnonzero(row)) for row in obs["action_mask"]], np.int32)

    def of(space):
        if isinstance(space, gym.spaces.Dict):
            return {k: of(s) for k, s in space.spaces.items()}
        if isinstance(space, gym.spaces.Tuple):
            return tuple(map(of, space.spaces))
        shape = (vector.num_envs, *space.shape)
        if isinstance(space, gym.spaces.Box):
            return rng.uniform(-1.0, 1.0, shape).astype(space.dtype)
        return rng.integers(0, getattr(space, "nvec", getattr(space, "n", 2)), shape).astype(
            np.int32
        )

    return of(vector.spec.action_space)


def played(vector, obs, steps, seed):
    """All that some steps gave, and the last observation."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(steps):
        step = vector.step(actions(vector, obs, rng))
        obs = step.obs
        found.append(tree.map_structure(np.array, tuple(step)))
    return found, obs


class StateTest(parameterized.TestCase):
    @parameterized.named_parameters((name, *case) for name, case in CASES.items())
    def test_the_same_steps_follow(self, settings, num_envs):
        if settings["env"].startswith("MinAtar/") and importlib.util.find_spec("minatar") is None:
            self.skipTest("MinAtar is not installed")
        vector, obs = made(settings, num_envs, seed=1)
        self.assertEqual(vector.why_no_state, "")
        _, obs = played(vector, obs, 37, seed=1)
        path = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "state.npz"
        nest_file.write(path, vector.state())
        self.assertLess(path.stat().st_size, 400_000 * num_envs)
        expected, _ = played(vector, obs, STEPS, seed=2)  # with the state taken, nothing changes
        seen = {b"".join(x.tobytes() for x in tree.flatten(step[0])) for step in expected}
        self.assertGreater(len(seen), 5)
        other, start = made(settings, num_envs, seed=7)
        played(other, start, 11, seed=3)
        for _ in range(2):  # again and again
            other.restore(nest_file.read(path))
            again, _ = played(other, obs, STEPS, seed=2)
            for one, two in zip(expected, again, strict=True):
                tree.assert_same_structure(one, two)
                for x, y in zip(tree.flatten(one), tree.flatten(two), strict=True):
                    np.testing.assert_array_equal(x, y)
        vector.close()
        other.close()

    @parameterized.parameters(
        (dict(env="CartPole-v1", env_backend="async"), "env_backend=async gives no state"),
        (dict(env="ALE/Pong-v5"), "env_backend=ale gives no state"),
        (dict(env=f"{__name__}:Silent"), "Silent has no save_state and load_state"),
        (dict(env=f"{__name__}:Views"), "Views._(all|part) and Views._(part|all) share memory"),
        (dict(env=f"{__name__}:Simulated"), "Simulated._simulator is a builtins.list_iterator"),
    )
    def test_where_there_is_none_the_reason_is_known(self, settings, reason):
        vector, _ = made(settings, 1, seed=0)
        self.addCleanup(vector.close)
        self.assertRegex(vector.why_no_state, reason)
        with self.assertRaisesRegex(NoState, reason):
            vector.state()

    def test_another_environment_refuses_it(self):
        saved = made(dict(env="CartPole-v1"), 2, seed=0)[0].state()
        for settings, num_envs, reason in (
            (dict(env="Acrobot-v1"), 2, "CartPoleEnv is a .*AcrobotEnv now"),
            (dict(env="CartPole-v1"), 1, "stepped in another way"),
            (dict(env="CartPole-v1", env_backend="native"), 2, "stepped in another way"),
        ):
            other, start = made(settings, num_envs, seed=0)
            with self.assertRaisesRegex(NoState, reason):
                other.restore(saved)
            self.assertEqual(other.reset().shape, start.shape)

    def test_a_model_that_was_changed_is_another_one(self):
        vector, _ = made(dict(env="InvertedPendulum-v5"), 1, seed=0)
        saved = vector.state()
        vector.envs[0].unwrapped.model.body_mass[1] += 1.0
        with self.assertRaisesRegex(NoState, "its MuJoCo model is another one"):
            vector.restore(saved)

    def test_nothing_of_a_saved_state_changes_with_the_environment(self):
        env = Slow(Plain())
        env.reset(seed=1)
        saved = state_lib.capture(env)
        before = str(saved)
        env.step(1)
        self.assertEqual(str(saved), before)
        other = SyncVector(
            [lambda: Slow(Plain())], EnvSpec("p", env.observation_space, env.action_space), 0
        )
        other.reset()
        state_lib.put_back(other.envs[0], saved)
        self.assertIs(other.envs[0]._last[0], other.envs[0]._newest)


class NestFileTest(parameterized.TestCase):
    def test_every_kind_comes_back(self):
        path = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "nest.npz"
        nest = {
            "a": [None, True, 3, -0.1, float("inf"), "text", b"\x00\xff", 2**127], 7: (1, (), {}),
            (1, "b"): np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2], "n": np.float32(0.1),
            "r": np.zeros(2, [("x", np.int8), ("y", np.float64, (2,))]), "e": np.zeros((0, 3)),
        }  # fmt: skip
        nest_file.write(path, nest)
        again = nest_file.read(path)
        self.assertEqual(str(again), str(nest))
        self.assertEqual(again["r"].dtype, nest["r"].dtype)
        self.assertIs(type(again["n"]), np.float32)
        self.assertIs(type(again["a"][1]), bool)

    @parameterized.parameters((object(),), (np.array([None]),), ({1, 2},), (print,))
    def test_what_is_no_plain_data_is_refused(self, value):
        with (
            tempfile.TemporaryDirectory() as folder,
            self.assertRaisesRegex(TypeError, "plain data"),
        ):
            nest_file.write(pathlib.Path(folder) / "x.npz", {"a": [value]})


if __name__ == "__main__":
    absltest.main()
