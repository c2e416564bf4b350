"""Names: what resolves to what, and what is said when nothing does."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

from tfrl.config.settings import SettingError
from tfrl.envs import fakes, make
from tfrl.job import EnvPlan


def limited(length=6):
    return gym.wrappers.TimeLimit(fakes.TruncatingChain(length=1000), length)


def no_environment():
    return "an environment"


def broken():
    raise RuntimeError("no licence")


class UserVectorEnv(gym.vector.VectorEnv):
    """A vector class that forgot to say how it restarts."""

    def __init__(self, num_envs):
        single = fakes.TruncatingChain()
        self.num_envs = num_envs
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        self.metadata = {}


class NamesTest(parameterized.TestCase):
    @parameterized.parameters(
        ("CartPoel-v1", "did you mean CartPole-v1"),
        ("CartPole", "version is missing.*CartPole-v1"),
        ("CartPole-v7", "no version v7.*CartPole-v1"),
        ("LunarLander-v2", "no version v2.*LunarLander-v3"),
        ("Taxi-v1", "no version v1.*current one is Taxi-v"),
        ("ALE/Pongg-v5", "no such Atari game; did you mean ALE/Pong-v5"),
        ("PongDeterministic-v4", "use ALE/Pong-v5.*PongNoFrameskip-v4.*sticky_actions=0$"),
        ("Pong-v0", "use ALE/Pong-v5.*sticky_actions=0.25$"),
        ("Pong-v4", "use ALE/Pong-v5"),
        ("PongNoFrameskip-v0", "use ALE/Pong-v5"),
        ("Pong-ram-v4", "memory.*use ALE/Pong-v5"),
        ("no.such.module:Env-v0", "cannot import 'no.such.module'"),
        ("no.such.module:factory", "cannot import 'no.such.module'"),
        ("tfrl.envs.fakes:IdentytiGame", "did you mean IdentityGame"),
        ("tfrl.envs.fakes:np", "is a module, expected a function"),
        (f"{__name__}:no_environment", "returned a builtins.str: expected a gymnasium.Env"),
        (f"{__name__}:broken", "cannot be built: RuntimeError: no licence"),
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
            make.make_spec(EnvPlan(env="tfrl.envs.fakes:IdentityGame", env_kwargs={"wings": 2}))

    def test_unserved_space(self):
        with self.assertRaisesRegex(SettingError, "observation_space is Text.*expected Box"):
            make.make_spec(EnvPlan(env=f"{__name__}:TextEnv"))

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
        self.assertEqual(make.atari_game("ale_py:ALE/Pong-v5"), "Pong")
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
            "import sys, tfrl.envs.make, tfrl.envs.fakes, tfrl.envs.check;"
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
