"""A run folder from elsewhere runs no code that its user has not named."""

import dataclasses
import io
import json
import os
import pathlib
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

import tfrl
from tfrl.config import resolve, trust
from tfrl.errors import SettingError
from tfrl.runtime import finish
from tfrl.runtime.storage import folders
from tfrl.testing import fakes
from tfrl.testing.runs import untrained_run

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Leaves a file behind when it is imported, and has what a run folder could name.
EVIL = """
import functools, os, pathlib, shutil
from os import system
from shutil import rmtree
import gymnasium as gym
import tensorflow as tf

pathlib.Path({marker!r}).write_text("imported")

class Env(gym.Env):
    def __new__(cls, *args, **kwargs):
        from tfrl.testing import fakes
        return fakes.IdentityGame(*args, **kwargs)

def make(**kwargs):
    return Env(**kwargs)

class Maker:
    def __call__(self, **kwargs):
        return make(**kwargs)

maker, part = Maker(), functools.partial(make, length=5)
swept = functools.partial(shutil.rmtree, "/nowhere")

def build(spec):
    return tf.keras.Sequential([tf.keras.layers.Dense(64, "relu") for _ in range(2)])
"""


class Plain(fakes.IdentityGame):
    """An environment class of this process."""


def by_arguments(path: str):
    """A function of a module that has been imported, which a run folder would call with arguments of its own."""
    raise AssertionError(f"called with {path}")


class TrustTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.template = untrained_run(
            pathlib.Path(folder.name, "run"), env="tfrl.testing.fakes:IdentityGame"
        )

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.enter_context(mock.patch.object(trust, "_named", set()))
        self.enter_context(mock.patch.dict(sys.modules))
        self.enter_context(mock.patch.object(sys, "path", [*sys.path, str(self.folder)]))
        self.marker = self.folder / "marker"
        (self.folder / "evil_run.py").write_text(EVIL.format(marker=str(self.marker)))
        self.run = pathlib.Path(shutil.copytree(self.template, self.folder / "run"))

    def change(self, part, **values):
        path = self.run / "job.json"
        job = json.loads(path.read_text())
        (job[part] if part else job).update(values)
        path.write_text(json.dumps(job))

    def assert_untouched(self):
        self.assertFalse(self.marker.exists())
        self.assertNotIn("evil_run", sys.modules)

    def resume(self, *argv):
        return resolve.job_from_argv(["--resume", f"--run_dir={self.run}", *argv])

    @parameterized.parameters(
        ("os:system", {"command": "touch {marker}"}),
        ("posix:system", {"command": "touch {marker}"}),
        ("subprocess:call", {"args": ["touch", "{marker}"]}),
        ("shutil:rmtree", {"path": "{folder}"}),
        ("evil_run:make", {}),
        ("evil_run:Env", {}),
        ("evil_run:Some-v0", {}),
        ("gymnasium:make", {"id": "evil_run:Some-v0"}),
        ("tfrl.api:train", {"algo": "dqn", "env": "os:system"}),
        ("tfrl.testing.fakes:np.load", {"file": "x", "allow_pickle": True}),
        ("tfrl.settings:import_module", {"name": "evil_run", "where": ""}),
        ("__main__:main", {"argv": ["--trust_modules=evil_run"]}),
        (f"{__name__}:by_arguments", {"path": "x"}),
    )
    def test_an_environment_that_is_none_is_not_called(self, env, kwargs):
        text = json.dumps(kwargs)
        text = text.replace("{marker}", str(self.marker)).replace("{folder}", str(self.folder))
        self.change("env", env=env, env_kwargs=json.loads(text))
        for call in (lambda: tfrl.evaluate(self.run, episodes=1), self.resume):
            with self.assertRaisesRegex(SettingError, f"^env='{env}'"):
                call()
        self.assertTrue(self.folder.exists())
        self.assert_untouched()

    def test_loading_and_exporting_need_no_environment(self):
        self.change("env", env="evil_run:make")
        self.assertEqual(tfrl.load(self.run).initial_state(1), ())
        finish.export_run(self.run, self.folder / "export")
        self.assertTrue((self.folder / "export" / "saved_model.pb").exists())
        self.assert_untouched()

    @parameterized.parameters(
        ("config", {"network": "evil_run:build"}, "network='evil_run:build'"),
        ("", {"algo": "evil_run"}, "algo='evil_run'"),
        ("", {"algo": "evil.run"}, "algo='evil.run'"),
        ("", {"algo": "tfrl.algos.dqn.os"}, "algo='tfrl.algos.dqn.os'"),
        ("config", {"network": "os:system"}, "network='os:system'"),
    )
    def test_networks_and_algorithms_that_nobody_named(self, part, values, message):
        (self.folder / "evil").mkdir()
        (self.folder / "evil" / "run.py").write_text(EVIL.format(marker=str(self.marker)))
        self.change(part, **values)
        for call in (
            lambda: tfrl.load(self.run),
            lambda: tfrl.evaluate(self.run, episodes=1),
            lambda: finish.export_run(self.run, self.folder / "export"),
            self.resume,
        ):
            with self.assertRaisesRegex(SettingError, message):
                call()
        self.assert_untouched()

    @parameterized.parameters("make", "Env", "maker", "part")
    def test_a_module_that_is_named_may_make_environments(self, name):
        self.change("env", env=f"evil_run:{name}")
        with self.assertRaisesRegex(
            SettingError, "--env=evil_run:.* to resume, --trust_modules=evil_run to eval"
        ):
            tfrl.evaluate(self.run, episodes=1)
        evaluation = tfrl.evaluate(self.run, episodes=2, trust_modules=["evil_run"])
        self.assertLen(evaluation.returns, 2)
        self.assertTrue(self.marker.exists())

    @parameterized.parameters("system", "os.system", "rmtree", "shutil.rmtree", "swept", "tf")
    def test_nothing_that_such_a_module_has_from_elsewhere_is_called(self, name):
        self.change("env", env=f"evil_run:{name}", env_kwargs={"path": str(self.folder)})
        with self.assertRaisesRegex(SettingError, f"^env='evil_run:{name}': it is .*no environm"):
            tfrl.evaluate(self.run, episodes=1, trust_modules=["evil_run"])
        self.assertTrue(self.folder.exists())

    def test_settings_that_are_given_again_name_their_modules(self):
        self.change("env", env="evil_run:make")
        self.change("config", network="evil_run:build")
        for argv in ((), ("--env=evil_run:make",), ("--network=evil_run:build",)):
            trust._named.clear()
            if argv == ():
                with self.assertRaisesRegex(SettingError, "is named by a run folder"):
                    self.resume(*argv)
                self.assert_untouched()
            else:
                self.assertEqual(self.resume(*argv).env.env, "evil_run:make")
        trust._named.clear()
        self.assertLen(tfrl.load(self.run, network="evil_run:build").variables, 6)

    def test_the_flags_that_a_resume_needs_are_those_that_name_such_modules(self):
        job = resolve.load_job(str(self.run))
        self.assertEqual(trust.flags_to_name(job), [])
        env = dataclasses.replace(
            job.env, env="evil_run:make", env_wrappers=("gymnasium.wrappers:TimeAwareObservation",)
        )
        config = dataclasses.replace(job.config, network="evil_run:build")
        job = dataclasses.replace(job, env=env, config=config)
        found = trust.flags_to_name(job)
        self.assertEqual(found, ["--env=evil_run:make", "--network=evil_run:build"])

    @parameterized.parameters(
        ("dqn", "env", dict(env="evil_run:make")),
        ("dqn", "env", dict(env_wrappers=["evil_run:make"])),
        ("dqn", "config", dict(network="evil_run:build")),
        ("dqn", "config", dict(optimizer="evil_run:build")),
        ("hdqn", "config", dict(goal_space="evil_run:build")),
        ("dqn", "evaluation", dict(eval_worlds={"own": {"env": "evil_run:make"}})),
        ("dqn", "evaluation", dict(eval_worlds={"a": {"env_wrappers": ["evil_run:make"]}})),
    )
    def test_a_resume_goes_on_with_the_flags_that_it_asks_for(self, algo, part, changes):
        job = tfrl.api.make_job(algo, env="tfrl.testing.fakes:IdentityGame")
        (self.run / "job.json").write_text(job.to_json())
        self.change(part, **changes)
        with self.assertRaisesRegex(SettingError, "named by a run folder") as refused:
            self.resume()
        asked = re.search("name that: (.*) to resume", str(refused.exception))[1]
        self.assert_untouched()
        told = trust.resume_flags(self.run, resolve.load_job(str(self.run)))
        self.assertEqual(told, f"--resume --run_dir={self.run} {asked}")
        resumed = json.loads(resolve.job_from_argv(shlex.split(told)).to_json())
        ((name, value),) = changes.items()
        self.assertEqual(resumed[part][name], value)

    def test_flags_are_quoted_for_a_shell(self):
        self.change("env", env="x$(touch y):make")
        flags = (
            r"'--env=x\$\(touch y\):make' to resume, '--trust_modules=x\$\(touch y\)' to evaluate"
        )
        with self.assertRaisesRegex(SettingError, flags):
            self.resume()

    def test_arrays_in_the_worlds_of_an_evaluation(self):
        worlds = {"a": {"env": "evil_run:make", "env_kwargs": {"length": np.arange(2)}}}
        job = tfrl.api.make_job("dqn", env="tfrl.testing.fakes:IdentityGame", eval_worlds=worlds)
        trust._named.clear()
        job.save(self.run / "job.json")
        told = trust.resume_flags(self.run, job)
        self.assertIn('"length": [0, 1]', told)
        with self.assertRaisesRegex(SettingError, "named by a run folder"):
            self.resume()
        found = resolve.job_from_argv(shlex.split(told)).evaluation.eval_worlds["a"]
        np.testing.assert_array_equal(found["env_kwargs"]["length"], [0, 1])

    def test_a_class_of_this_process_needs_no_name(self):
        self.change("env", env=f"{__name__}:Plain")
        self.assertLen(tfrl.evaluate(self.run, episodes=2).returns, 2)
        self.assertEqual(self.resume().env.env, f"{__name__}:Plain")

    def test_what_this_process_trained_with_needs_no_name(self):
        self.change("env", env="evil_run:make")
        tfrl.api.make_job("dqn", env="evil_run:make")
        self.assertLen(tfrl.evaluate(self.run, episodes=2).returns, 2)

    def test_an_environment_of_other_spaces_is_refused(self):
        with self.assertRaisesRegex(
            SettingError,
            r"env='CartPole-v1': observation_space is Box.* was trained with Box.*\(4,\)",
        ):
            tfrl.evaluate(self.run, episodes=1, env="CartPole-v1")

    def test_objects_of_a_session_that_is_gone(self):
        """As a notebook leaves them in job.json."""
        self.change("env", env="<MyEnv>")
        self.assertEqual(tfrl.load(self.run).initial_state(1), ())
        with self.assertRaisesRegex(SettingError, "env='<MyEnv>': an object of the Python session"):
            tfrl.evaluate(self.run, episodes=1)
        self.assertLen(tfrl.evaluate(self.run, episodes=2, env=Plain).returns, 2)

    def test_there_must_be_such_a_module(self):
        for module in ("no_such_module", "", "a..b", 3):
            with self.assertRaisesRegex(SettingError, f"^trust_modules={module!r}: "):
                tfrl.load(self.run, trust_modules=[module])

    @parameterized.parameters("{", "[]", "{}", '{"name": 1}', '{"observation_space": 3}', "\x00")
    def test_a_damaged_spec(self, text):
        (self.run / folders.SPEC).write_text(text)
        with self.assertRaises(SettingError) as caught:
            tfrl.load(self.run)
        self.assertIn(folders.SPEC, str(caught.exception))

    def test_a_folder_of_the_first_version_asks_the_environment(self):
        (self.run / folders.SPEC).unlink()
        self.assertEqual(tfrl.load(self.run).initial_state(1), ())
        self.change("env", env="evil_run:make")
        with self.assertRaisesRegex(SettingError, "env='evil_run:make' is named by a run folder"):
            tfrl.load(self.run)
        self.assert_untouched()

    def test_a_policy_that_is_a_pickle_is_not_read(self):
        class Bomb:
            def __reduce__(self):
                return os.system, (f"touch {marker}",)

        marker = self.marker
        bomb = io.BytesIO()
        np.savez(bomb, variable_0=np.array([Bomb()], object), fact_env_steps=np.float64(0))
        for content in (bomb.getvalue(), pickle.dumps(Bomb())):
            (self.run / folders.POLICY).write_bytes(content)
            with self.assertRaisesRegex(SettingError, "policy.npz: cannot be read, it is damaged"):
                tfrl.load(self.run)
        self.assertFalse(self.marker.exists())

    @parameterized.parameters("run", "evaluate")
    def test_launchers_in_a_folder_with_such_a_module(self, launcher):
        self.check_launcher(launcher)

    @parameterized.parameters(("plot",))
    @pytest.mark.slow
    def test_the_curve_of_a_folder_with_such_a_module(self, launcher):
        self.check_launcher(launcher)

    def check_launcher(self, launcher):
        """The working directory is where a user's modules are looked for."""
        self.change("env", env="evil_run:make")
        self.change("config", network="evil_run:build")
        argv = {
            "evaluate": [f"--run_dir={self.run}", "--episodes=1"],
            "run": ["--resume", f"--run_dir={self.run}"],
            "plot": [str(self.run)],
        }[launcher]
        done = subprocess.run(
            [sys.executable, str(ROOT / "launchers" / f"{launcher}.py"), *argv],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        last = done.stderr.splitlines()[-1]
        if launcher == "plot":
            self.assertIn("this run has logged nothing yet", last)
        else:
            self.assertRegex(last, "error: .*evil_run.* is named by a run folder")
        self.assertFalse(self.marker.exists(), textwrap.shorten(done.stderr, 500))


class WrappersTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(mock.patch.object(trust, "_named", set()))

    @parameterized.parameters(
        ("os:system", "name that: --env_wrappers=os:system to resume, --trust_modules=os"),
        ("gymnasium.wrappers:utils", "expected a class of gymnasium.Wrapper"),
        (f"{__name__}:by_arguments", "may come from elsewhere"),
    )
    def test_refused(self, wrapper, message):
        with self.assertRaisesRegex(SettingError, message):
            trust.check_env("CartPole-v1", (wrapper,))

    def test_taken(self):
        trust.check_env("CartPole-v1", ("gymnasium.wrappers:FlattenObservation",))
        own = f"{__name__}:by_arguments"
        trust.name_settings(None, {"env_wrappers": own})
        trust.check_env("CartPole-v1", (own,))


if __name__ == "__main__":
    absltest.main()
