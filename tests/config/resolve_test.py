"""The run folder before a run starts, and what a resumed run may change."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
import types
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from tfrl.config import resolve
from tfrl.errors import SettingError
from tfrl.job import EnvPlan, Job
from tfrl.settings import Except, Points, setting
from tfrl.testing import runs

ALGO = "toy.algo"


@dataclasses.dataclass(frozen=True)
class Config:
    batch_size: int = setting(32, "items per update")
    sizes: tuple[int, ...] = setting((64, 64), "units of the layers")
    rate: float = setting(
        1.0, "of learning", resumable=True, idle_if={"rate_schedule": Except([()])}
    )
    rate_schedule: Points = setting((), "points", resumable=True)


class ResolveTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = runs.toy_algorithm(self, ALGO, Config)

    def assert_refused(self, pattern, *argv):
        before = sorted(self.folder.rglob("*"))
        with self.assertRaisesRegex(SettingError, pattern) as caught:
            resolve.job_from_argv(argv)
        self.assertNotIn("\n", str(caught.exception))
        self.assertEqual(sorted(self.folder.rglob("*")), before)

    def save(self, name, **changes):
        job = Job(**{"algo": ALGO, "config": Config(), "run_dir": name, **changes})
        (self.folder / name).mkdir()
        job.save(self.folder / name / "job.json")
        return job


class RunDirTest(ResolveTestCase):
    def test_default_is_safe_as_a_file_name_and_free(self):
        job = Job(algo=ALGO, config=Config(), env=EnvPlan(env="ALE/Pong-v5"))
        with mock.patch.object(resolve.time, "strftime", return_value="20250102-030405"):
            path = resolve.default_run_dir(job)
            self.assertEqual(path, "runs/toy.algo-ALE_Pong-v5-20250102-030405")
            os.makedirs(path)
            self.assertEqual(resolve.default_run_dir(job), f"{path}-2")

    def test_nothing_is_created(self):
        job = resolve.job_from_argv([f"--algo={ALGO}"])
        self.assertEqual(job.run_dir, "")  # made, and named, when it starts
        self.assertEmpty(list(self.folder.iterdir()))

    def test_taken(self):
        self.save("a")
        self.assert_refused(
            "run_dir='a': taken .* --resume, or choose", f"--algo={ALGO}", "--run_dir=a"
        )

    def test_a_folder_without_a_run_is_free(self):
        (self.folder / "a").mkdir()
        self.assertEqual(resolve.job_from_argv([f"--algo={ALGO}", "--run_dir=a"]).run_dir, "a")

    def test_below_a_regular_file(self):
        (self.folder / "file").write_text("")
        for path in ("file", "file/a", "file/a/b"):
            self.assert_refused(
                "file' is a file, not a folder", f"--algo={ALGO}", f"--run_dir={path}"
            )

    def test_no_permission(self):
        (self.folder / "locked").mkdir()
        with mock.patch.object(resolve.os, "access", return_value=False):
            self.assert_refused("cannot write in .*locked'", f"--algo={ALGO}", "--run_dir=locked/a")

    def test_a_place_that_takes_no_files(self):
        if not os.path.isdir("/proc/self"):
            self.skipTest("needs a file system that refuses files even to root")
        self.assert_refused(
            "cannot write in '/proc/self'", f"--algo={ALGO}", "--run_dir=/proc/self/a"
        )


class ResumeTest(ResolveTestCase):
    def test_job_is_that_of_the_folder(self):
        saved = self.save("a", seed=4, env=EnvPlan(env="Acrobot-v1"))
        os.rename("a", "b")
        job = resolve.job_from_argv(["--resume", "--run_dir=b"])
        self.assertEqual(job, dataclasses.replace(saved, run_dir="b", resume=True))

    def test_free_settings_change(self):
        self.save("a")
        job = resolve.job_from_argv(
            ["--resume", "--run_dir=a", "--total_env_steps=99", "--console=none", "--num_envs=3"]
        )
        self.assertEqual((job.total_env_steps, job.log.console), (99, "none"))
        self.assertEqual(job.topology.num_envs, 3)

    def test_a_change_without_an_effect_is_refused(self):
        self.save("a", config=Config(rate_schedule=((0, 1.0), (9, 0.1)), rate=0.5))
        argv = ["--resume", "--run_dir=a"]
        self.assert_refused(
            "^rate=0.2: no effect with rate_schedule=0:1.0,9:0.1;", *argv, "--rate=0.2"
        )
        self.assertEqual(resolve.job_from_argv([*argv, "--rate=0.5"]).config.rate, 0.5)
        (self.folder / "x.flags").write_text("--rate=0.2\n")  # a record of all values
        job = resolve.job_from_argv([*argv, "--flagfile=x.flags"])
        self.assertEqual(job.config.rate, 0.2)
        job = resolve.job_from_argv([*argv, "--rate=0.2", "--rate_schedule="])
        self.assertEqual((job.config.rate, job.config.rate_schedule), (0.2, ()))

    def test_the_command_that_started_it_continues_it(self):
        self.save("a", seed=4)
        argv = ["--resume", "--run_dir=a", f"--algo={ALGO}", "--seed=4", "--sizes=64,64"]
        self.assertEqual(resolve.job_from_argv(argv).seed, 4)

    def test_the_folder_is_named_by_run_dir(self):
        self.save("a")
        self.assert_refused("^--resume: expected --run_dir with the folder", "--resume")
        for argv in (["--resume=a"], ["--resume", "a"]):
            self.assert_refused("^--resume=a: expected --resume --run_dir=a$", *argv)

    @parameterized.parameters(
        ("--seed=1", "--seed=1: the run in a has seed=0; a resumed run may change only"),
        ("--batch_size=8", "--batch_size=8: the run in a has batch_size=32;"),
        ("--sizes=8", "--sizes=8: the run in a has sizes=64,64;"),
        ("--clip_rewards", "--clip_rewards=true: the run in a has clip_rewards=none;"),
        ("--checkpoint_keep=9", "--checkpoint_keep=9: the run in a has checkpoint_keep=2;"),
    )
    def test_other_settings_do_not(self, argument, message):
        self.save("a")
        self.assert_refused(message, "--resume", "--run_dir=a", argument)

    def test_a_list_says_the_same_as_the_tuple_of_the_job(self):
        saved = self.save("a", env=EnvPlan(env_kwargs={"size": (5, 5)}))
        given = {"config": {"sizes": [64, 64]}, "env": {"env_kwargs": {"size": [5, 5]}}}
        job = resolve.change(resolve.load_job("a"), "a", given)
        self.assertEqual(job, dataclasses.replace(saved, run_dir="a", resume=True))
        given["config"]["sizes"] = [64, 65]
        with self.assertRaisesRegex(SettingError, "--sizes=64,65: the run in a has sizes=64,64;"):
            resolve.change(resolve.load_job("a"), "a", given)

    def test_env_kwargs_come_back_as_they_were(self):
        kwargs = {"size": (5, 5), "rewards": {0: -1.0, 1: 1.0}, "limits": np.float32([1, 2])}
        self.save("a", env=EnvPlan(env_kwargs=kwargs))
        found = resolve.load_job("a").env.env_kwargs
        self.assertEqual(found["size"], (5, 5))
        self.assertEqual(found["rewards"], {0: -1.0, 1: 1.0})
        np.testing.assert_array_equal(found["limits"], kwargs["limits"], strict=True)

    def test_env_kwargs_that_no_job_can_hold_are_refused_at_the_start(self):
        job = Job(algo=ALGO, config=Config(), env=EnvPlan(env_kwargs={"x": {1, 2}}), run_dir="a")
        with self.assertRaisesRegex(SettingError, r"^env_kwargs\['x'\]: a builtins.set cannot"):
            resolve.check(job)

    def test_another_algorithm(self):
        self.save("a")
        other = types.ModuleType("toy.other")
        other.Config, other.make = Config, None
        with mock.patch.dict(sys.modules, {"toy.other": other}):
            self.assert_refused(
                "--algo=toy.other: the run in a has algo=toy.algo",
                "--resume", "--run_dir=a", "--algo=toy.other",
            )  # fmt: skip

    def test_nothing_to_resume(self):
        self.assert_refused("expected --run_dir", "--resume")
        self.assert_refused("run_dir='a': no run to resume", "--resume", "--run_dir=a")
        os.makedirs("runs/abc")
        pathlib.Path("runs/abc/job.json").write_text("{}")
        self.assert_refused("no job.json; did you mean runs/abc", "--resume", "--run_dir=runs/abd")
        (self.folder / "other").mkdir()
        self.save("other/abc")
        self.assert_refused("did you mean other/abc?", "--resume", "--run_dir=other/abd")
        with self.assertRaisesRegex(SettingError, "no run to resume"):
            resolve.check(Job(algo=ALGO, config=Config(), run_dir="a", resume=True))
        with self.assertRaisesRegex(SettingError, "expected run_dir"):
            resolve.check(Job(algo=ALGO, config=Config(), resume=True))

    @parameterized.parameters(
        "", "{", "{}", "[]", "3", '{"env": {"enw": 1}}', '{"config": []}', '{"config": 1}', "\x00"
    )
    def test_damaged_job(self, text):
        (self.folder / "a").mkdir()
        (self.folder / "a" / "job.json").write_text(text)
        self.assert_refused("run_dir='a': job.json", "--resume", "--run_dir=a")

    def test_noresume_starts_a_new_run(self):
        job = resolve.job_from_argv([f"--algo={ALGO}", "--resume", "--noresume", "--run_dir=a"])
        self.assertFalse(job.resume)


if __name__ == "__main__":
    absltest.main()
