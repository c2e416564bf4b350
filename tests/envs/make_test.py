"""Names: what resolves to what, and what is said when nothing does."""

import dataclasses
import importlib.util
import subprocess
import sys
import unittest

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

from tfrl.envs import make, names
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.testing import fakes


def limited(length=6):
    return gym.wrappers.TimeLimit(fakes.TruncatingChain(length=1000), length)


def no_environment():
    return "an environment"


def broken():
    raise RuntimeError("no licence")


class Worded(fakes.TruncatingChain):
    """A part of its observation is a text."""

    def __init__(self, word="name", picture="plan"):
        super().__init__()
        parts = {word: gym.spaces.Text(5), picture: gym.spaces.Box(0, 255, (7, 7, 3), np.uint8)}
        self.observation_space = gym.spaces.Dict(parts)


class Unseeded(fakes.TruncatingChain):
    """As in the old gym: `reset` takes nothing."""

    def reset(self):
        return super().reset()[0]


class OldEnv:
    """Stands for `gym.Env`."""

    def reset(self):
        return 0

    def step(self, action):
        return 0, 0.0, False, {}


OldEnv.__module__ = "gym.core"


class Game(OldEnv):
    pass


class Shifted(gym.ObservationWrapper):
    """A wrapper for `env_wrappers`: adds 1, so that the order shows."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-99, 99, (1,), np.float32)

    def observation(self, obs):
        return np.float32([np.sum(obs) + 1])


class Doubled(Shifted):
    def observation(self, obs):
        return np.float32([2 * np.sum(obs)])


def no_wrapper(env):
    del env
    return "nothing"


def breaking(env):
    raise KeyError("no such part")


class UserVectorEnv(gym.vector.VectorEnv):
    """A vector class that forgot to say how it restarts."""

    def __init__(self, num_envs):
        single = fakes.TruncatingChain()
        self.num_envs = num_envs
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        self.metadata = {}


class NamesTest(parameterized.TestCase):
    @unittest.skipIf(importlib.util.find_spec("jax"), "jax is installed")
    def test_a_missing_package_is_named_also_where_there_is_a_newer_version(self):
        with self.assertRaisesRegex(SettingError, "a package is missing: No module named 'jax'"):
            make.make_spec(EnvPlan(env="phys2d/CartPole-v0"))

    @parameterized.parameters(
        ("CartPoel-v1", "did you mean CartPole-v1"),
        ("CartPole", "version is missing.*CartPole-v1"),
        ("CartPole-v7", "no version v7.*CartPole-v1"),
        ("LunarLander-v2", "no version v2.*LunarLander-v3"),
        ("HalfCheetah-v3", "this version is not offered any more; use HalfCheetah-v5$"),
        ("HalfCheeta-v3", "did you mean HalfCheetah-v5"),
        ("cartpol", "did you mean CartPole-v1"),
        ("PandaReach-v3", "of this name; expected a gymnasium id, 'package:id' of another package"),
        ("Taxi-v1", "no version v1.*current one is Taxi-v"),
        ("ALE/Pongg-v5", "no such Atari game; did you mean ALE/Pong-v5"),
        (
            "PongDeterministic-v4",
            "use ALE/Pong-v5.*PongNoFrameskip-v4.*skip=4 --.*sticky_actions=0$",
        ),
        ("Pong-v0", "2 to 4 frames.*use ALE/Pong-v5.*frame_skip=4 --atari_sticky_actions=0.25$"),
        ("Pong-v4", "use ALE/Pong-v5"),
        ("PongNoFrameskip-v0", "use ALE/Pong-v5"),
        ("Pong-ram-v4", "memory.*use ALE/Pong-v5"),
        ("no.such.module:Env-v0", "cannot import 'no.such.module'"),
        ("no.such.module:factory", "cannot import 'no.such.module'"),
        ("tfrl.testing.fakes:IdentytiGame", "did you mean IdentityGame"),
        ("tfrl.testing.fakes:np", "is a module, expected a function"),
        (f"{__name__}:no_environment", "returned a builtins.str: expected a gymnasium.Env"),
        (f"{__name__}:broken", "cannot be built: RuntimeError: no licence"),
        (f"{__name__}:Game", "returned a .*Game: .*gym, which gymnasium replaced.*shimmy"),
        (f"{__name__}:Unseeded", r"Unseeded.reset\(\) takes no seed, .*terminated, truncated"),
        (f"{__name__}:Worded", r"\['name'\] is Text.*FilterObservation\(env, \['plan'\]\) keeps"),
    )
    def test_bad_names(self, name, message):
        for function in (make.make_spec, lambda plan: make.make_vector(plan, 2, 0)):
            with self.assertRaisesRegex(SettingError, message) as caught:
                function(EnvPlan(env=name))
            self.assertStartsWith(str(caught.exception), f"env='{name}'")
            self.assertNotIn("\n", str(caught.exception))

    def test_missing_extra(self):
        try:
            import Box2D  # noqa: F401
        except ImportError:
            pass
        else:
            self.skipTest("Box2D is installed")
        with self.assertRaisesRegex(SettingError, r"pip install 'tfrl\[box2d\]'"):
            make.make_spec(EnvPlan(env="LunarLander-v3"))

    def test_unknown_environment_argument(self):
        with self.assertRaisesRegex(SettingError, "env_kwargs=.*gravity"):
            make.make_spec(EnvPlan(env_kwargs={"gravity": 3}))
        with self.assertRaisesRegex(SettingError, "env_kwargs=.*'wings'"):
            make.make_spec(EnvPlan(env="tfrl.testing.fakes:IdentityGame", env_kwargs={"wings": 2}))

    def test_unserved_space(self):
        with self.assertRaisesRegex(SettingError, "observation_space is Text.*expected Box"):
            make.make_spec(EnvPlan(env=f"{__name__}:TextEnv"))

    def test_a_mission_is_left_out_by_a_wrapper(self):
        kwargs = {"word": "mission", "picture": "image"}
        plan = EnvPlan(env=f"{__name__}:Worded", env_kwargs=kwargs)
        with self.assertRaisesRegex(
            SettingError,
            "'mission'.*--env_wrappers=minigrid.wrappers:ImgObsWrapper keeps the image",
        ):
            make.make_spec(plan)

    def test_minigrid(self):
        if importlib.util.find_spec("minigrid") is None:
            with self.assertRaisesRegex(SettingError, r"pip install 'tfrl\[minigrid\]'"):
                make.make_spec(EnvPlan(env="MiniGrid-Empty-5x5-v0"))
            return
        with self.assertRaisesRegex(SettingError, "ImgObsWrapper"):
            make.make_spec(EnvPlan(env="MiniGrid-Empty-5x5-v0"))
        wrapper = "minigrid.wrappers:ImgObsWrapper"
        plan = EnvPlan(env="MiniGrid-Empty-5x5-v0", env_wrappers=(wrapper,))
        spec = make.make_spec(plan)
        self.assertEqual(spec.observation_space, gym.spaces.Box(0, 255, (7, 7, 3), np.uint8))
        self.assertIsNone(spec.max_episode_steps)  # MiniGrid ends episodes by itself

    @parameterized.parameters(("Shifted", "Doubled", 4.0), ("Doubled", "Shifted", 3.0))
    def test_wrappers_in_their_order(self, first, second, expected):
        names = tuple(f"{__name__}:{name}" for name in (first, second))
        plan = EnvPlan(env="tfrl.testing.fakes:TruncatingChain", env_wrappers=names)
        self.assertEqual(make.make_spec(plan).observation_space.shape, (1,))
        obs = make.make_vector(plan, 2, 0).reset(0)  # the chain gives ones
        self.assertEqual(obs.tolist(), [[expected]] * 2)

    def test_wrappers_keep_the_vector_class_away(self):
        plan = EnvPlan(env_wrappers=(f"{__name__}:Shifted",))
        self.assertEqual(make.pick_backend(EnvPlan(), 8), "native")
        self.assertEqual(make.pick_backend(plan, 8), "sync")
        with self.assertRaisesRegex(SettingError, "env_backend=native.*env_wrappers"):
            make.pick_backend(dataclasses.replace(plan, env_backend="native"), 8)

    @parameterized.parameters(
        ("CartPole-v1", "Shiftet", "no 'Shiftet'; did you mean Shifted"),
        ("CartPole-v1", "no_wrapper", "env_wrappers=.*returned a str: expected a gymnasium.Env"),
        ("CartPole-v1", "breaking", "env_wrappers=.* around env='CartPole-v1': KeyError"),
        ("CartPole-v1", "np", "expected a class or a function of an environment, got module"),
        ("ALE/Pong-v5", "Shifted", "env_wrappers=.*Atari games have settings of their own"),
    )
    def test_wrappers_that_cannot_be_used(self, env, name, message):
        with self.assertRaisesRegex(SettingError, message):
            make.make_spec(EnvPlan(env=env, env_wrappers=(f"{__name__}:{name}",)))

    def test_factory_and_its_time_limit(self):
        spec = make.make_spec(EnvPlan(env=f"{__name__}:limited"))
        self.assertEqual(spec.max_episode_steps, 6)
        plan = EnvPlan(env=f"{__name__}:limited", max_episode_steps=9)
        vector = make.make_vector(plan, 1, 0)
        vector.reset()
        lengths = [
            e.length_env_steps for _ in range(25) for e in vector.step(np.zeros(1, int)).episodes
        ]
        self.assertEqual(lengths, [9, 9])

    def test_module_with_id(self):
        self.assertEqual(names.atari_game("ale_py:ALE/Pong-v5"), "Pong")
        self.assertEqual(
            make.make_spec(EnvPlan(env="gymnasium:CartPole-v1")).observation_space.shape, (4,)
        )


class TextEnv(fakes.TruncatingChain):
    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Text(5)


class EmptyBox(fakes.TruncatingChain):
    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Dict(
            a=gym.spaces.Discrete(2), b=gym.spaces.Box(0, 1, (0,))
        )


class MaskAlone(fakes.TruncatingChain):
    def __init__(self, size=2):
        super().__init__()
        self.observation_space = gym.spaces.Dict(action_mask=gym.spaces.MultiBinary(size))


class WideMask(fakes.TruncatingChain):
    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Dict(
            action_mask=gym.spaces.MultiBinary(5), x=self.observation_space
        )


class ObservationsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("EmptyBox", r"observation\['b'\] has shape \[0\]; expected at least one number"),
        ("MaskAlone", "has nothing that a network reads; expected a part beside action_mask"),
        (
            "WideMask",
            r"action_mask has shape \[5\], the action space Discrete\(2\); expected \[2\]",
        ),
    )
    def test_nothing_to_read_or_a_mask_of_another_size(self, name, message):
        with self.assertRaisesRegex(SettingError, f"^env='{__name__}:{name}': .*{message}"):
            make.make_spec(EnvPlan(env=f"{__name__}:{name}"))


class BackendNamesTest(parameterized.TestCase):
    @parameterized.parameters(
        ("Acrobot-v1", "native", {}, "has no vector class of its own"),
        ("CartPole-v1", "ale", {}, "not an Atari id"),
        ("CartPole-v1", "native", {"gravity": 1}, "does not take gravity"),
    )
    def test_backend_that_cannot(self, env, backend, kwargs, message):
        plan = EnvPlan(env=env, env_backend=backend, env_kwargs=kwargs)
        with self.assertRaisesRegex(
            SettingError, f"env_backend={backend} with env='{env}': .*{message}"
        ):
            make.make_vector(plan, 8, 0)

    def test_vector_class_without_autoreset_mode(self):
        gym.register(
            "Forgetful-v0", entry_point=fakes.TruncatingChain, vector_entry_point=UserVectorEnv
        )
        self.addCleanup(gym.registry.pop, "Forgetful-v0")
        with self.assertRaisesRegex(SettingError, "autoreset_mode"):
            make.make_vector(EnvPlan(env="Forgetful-v0", env_backend="native"), 8, 0)


class ImportTest(absltest.TestCase):
    def test_tensorflow_stays_out(self):
        code = (
            "import sys, tfrl.envs.make, tfrl.testing.fakes, tfrl.envs.check;"
            "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
        )
        self.assertEqual(subprocess.run([sys.executable, "-c", code], check=False).returncode, 0)


class MujocoTest(absltest.TestCase):
    def test_float64_becomes_float32(self):
        try:
            import mujoco  # noqa: F401
        except ImportError:
            self.skipTest("mujoco is not installed")
        vector = make.make_vector(EnvPlan(env="HalfCheetah-v5"), 2, 0)
        obs = vector.reset()
        self.assertEqual((obs.shape, obs.dtype), ((2, 17), np.float32))
        step = vector.step(np.full((2, 6), 3.0, np.float32))
        self.assertTrue(vector.spec.observation_space.contains(step.obs[0]))
        self.assertEqual(vector.spec.max_episode_steps, 1000)


if __name__ == "__main__":
    absltest.main()
