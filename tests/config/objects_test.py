"""Objects as settings: their names, the way to other processes, and what is refused."""

import dataclasses
import functools
import json
import pathlib
import pickle
import subprocess
import sys
import tempfile
import threading

import cloudpickle
import gymnasium as gym
import numpy as np
from absl.testing import absltest

from tfrl.api import make_job
from tfrl.config import objects, resolve
from tfrl.envs.make import make_env, make_spec, make_vector
from tfrl.errors import SettingError
from tfrl.job import EnvPlan, Job
from tfrl.testing import fakes


class Callable:
    """Makes an environment when it is called."""

    def __call__(self):
        return gym.make("CartPole-v1")


class ObjectsTest(absltest.TestCase):
    def test_what_can_be_imported_becomes_its_dotted_name(self):
        name = objects.named(fakes.TargetPoint)
        self.assertEqual(name, "tfrl.testing.fakes:TargetPoint")
        self.assertNotIsInstance(name, objects.Live)
        self.assertIs(objects.resolve(name, "env"), fakes.TargetPoint)

    def test_what_cannot_be_imported_is_a_readable_name_with_the_object(self):
        def local():
            return gym.make("CartPole-v1")

        half = functools.partial(gym.make, "CartPole-v1")
        cases = {
            "<Callable instance>": Callable(),
            f"<{__name__}:ObjectsTest.{self._testMethodName}.<locals>.local>": local,
            "<partial of gymnasium.envs.registration:make>": half,
            "<OrderEnforcing instance>": gym.wrappers.OrderEnforcing(fakes.IntegerPoint()),
        }
        for name, value in cases.items():
            live = objects.named(value)
            self.assertEqual(live, name)
            self.assertIs(objects.resolve(live, "env"), value)
        self.assertEqual(objects.named(eval("lambda: 0", {"__name__": "__main__"})), "<lambda>")

    def test_a_function_behind_another_of_its_name_is_not_taken_for_it(self):
        hidden = type(fakes.TargetPoint)("TargetPoint", (fakes.TargetPoint,), {})
        hidden.__module__, hidden.__qualname__ = "tfrl.testing.fakes", "TargetPoint"
        self.assertIsInstance(objects.named(hidden), objects.Live)

    def test_every_kind_builds_environments(self):
        kinds = (
            lambda: gym.make("CartPole-v1"),
            Callable(),
            functools.partial(gym.make, "CartPole-v1"),
            type("Mine", (fakes.IntegerPoint,), {}),
        )
        for kind in kinds:
            plan = make_job("dqn", env=kind).env
            env = make_vector(plan, 2, 0)
            self.assertEqual(env.reset().shape[0], 2)
            env.close()
            make_env(plan).close()

    def test_one_environment_is_one_row_and_stays_open(self):
        inner = gym.make("CartPole-v1")
        closed = []
        inner.unwrapped.close = lambda: closed.append(1)
        plan = make_job("dqn", env=inner).env
        self.assertEqual(make_spec(plan).max_episode_steps, 500)
        env = make_vector(plan, 1, 0)
        env.reset()
        env.step(np.zeros(1, np.int32))
        env.close()
        self.assertEqual(closed, [])
        with self.assertRaisesRegex(SettingError, "num_envs=2 with env='<.*instance>': one env"):
            make_vector(plan, 2, 0)
        with self.assertRaisesRegex(SettingError, "env_backend=async with env='<.*instance>'"):
            make_vector(dataclasses.replace(plan, env_backend="async"), 1, 0)

    def test_json_keeps_the_name_only_and_says_so_when_it_is_used(self):
        job = make_job("dqn", env=lambda: gym.make("CartPole-v1"))
        self.assertIn("<lambda>", json.loads(job.to_json())["env"]["env"])
        again = Job.from_json(job.to_json())
        self.assertEqual(again, job)
        with self.assertRaisesRegex(SettingError, "env='<.*lambda>>': an object of the Python"):
            make_spec(again.env)

    def test_a_resume_is_given_the_object_again(self):
        make = lambda: gym.make("CartPole-v1")
        saved = Job.from_json(make_job("dqn", env=make).to_json())
        given = {"env": {"env": objects.named(make)}}
        self.assertIs(resolve.change(saved, "a", given).env.env.target, make)
        with self.assertRaisesRegex(SettingError, "a resumed run may change only"):
            resolve.change(saved, "a", {"env": {"env": objects.named(Callable())}})

    def test_child_processes_get_the_object_itself(self):
        plan = EnvPlan(env=objects.named(lambda: 7))
        self.assertEqual(cloudpickle.loads(objects.dumps(plan)).env.target(), 7)
        lock = threading.Lock()
        with self.assertRaisesRegex(
            SettingError, "backend=processes with env='<.*lambda>>': cloudpickle cannot.*lock"
        ):
            objects.dumps(make_job("dqn", env=lambda: lock))

    def test_paths_and_numbers_of_numpy_are_plain_settings(self):
        job = make_job(
            "dqn", run_dir=pathlib.Path("a/b"), total_env_steps=np.int64(7),
            learning_rate=np.float32(0.5), double=np.bool_(False), env_kwargs={"x": np.int32(3)},
        )  # fmt: skip
        self.assertEqual((job.run_dir, job.total_env_steps), ("a/b", 7))
        self.assertEqual((job.config.learning_rate, job.config.double), (0.5, False))
        self.assertEqual(Job.from_json(job.to_json()).env.env_kwargs["x"].dtype, np.int32)
        with self.assertRaisesRegex(
            SettingError, "seed=<.*: expected a plain value; env, network, optimizer may"
        ):
            make_job("dqn", seed=lambda: 0)

    def test_a_live_name_survives_plain_pickling_of_importable_parts(self):
        live = objects.Live("<x>", 3)
        again = pickle.loads(pickle.dumps(live))
        self.assertEqual((again, again.target), ("<x>", 3))


class ScriptTest(absltest.TestCase):
    """A script of a user's."""

    def test_a_script_without_a_main_guard_may_have_environments_in_processes(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        script = folder / "script.py"
        script.write_text(
            "import gymnasium as gym\n"
            "from tfrl.api import make_job\n"
            "from tfrl.envs.make import make_vector\n"
            "class Mine(gym.Wrapper):\n"
            "    def __init__(self):\n"
            "        super().__init__(gym.make('CartPole-v1'))\n"
            "env = make_vector(make_job('dqn', env=Mine, env_backend='async').env, 2, 0)\n"
            "print('shape', env.reset().shape)\n"
            "env.close()\n",
        )
        root = str(pathlib.Path(__file__).parents[2])
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, timeout=100,
            env={"PYTHONPATH": root, "PATH": ""},
        )  # fmt: skip
        self.assertEqual(done.stdout, "shape (2, 4)\n", done.stderr)


if __name__ == "__main__":
    absltest.main()
