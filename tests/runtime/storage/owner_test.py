"""A run folder belongs to one process, for as long as that lives."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized

from tfrl.config import resolve
from tfrl.errors import SettingError
from tfrl.job import Job
from tfrl.runtime.storage import folders, owner
from tfrl.settings import setting
from tfrl.testing import runs

ALGO = "toy.algo"
ROOT = pathlib.Path(__file__).resolve().parents[3]
# Takes the folder 'a', says so, and keeps it until it is killed.
HOLD = """
import sys, time, types
sys.path.insert(0, sys.argv[1])
from tfrl.runtime.storage import owner
with owner._locked(__import__("pathlib").Path("a")):
    print("held", flush=True)
    time.sleep(600)
"""


@dataclasses.dataclass(frozen=True)
class Config:
    batch_size: int = setting(32, "items per update")


class OwnerTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = runs.toy_algorithm(self, ALGO, Config)

    def job(self, run_dir="", **settings):
        return Job(algo=ALGO, config=Config(), run_dir=run_dir, **settings)

    def hold(self):
        """Another process that runs in the folder 'a'."""
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(ROOT)], stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), "held\n")
        return process

    def test_two_runs_of_one_second_have_two_folders(self):
        with mock.patch.object(resolve.time, "strftime", return_value="20250102-030405"):
            with owner.owned(self.job()) as first, owner.owned(self.job()) as second:
                base = "runs/toy.algo-CartPole-v1-20250102-030405"
                self.assertEqual((first.run_dir, second.run_dir), (base, f"{base}-2"))
                for job in (first, second):
                    self.assertTrue(os.path.isdir(job.run_dir))

    def test_a_folder_that_another_run_makes_in_between_is_not_shared(self):
        """Between the look for a free name and the making of the folder."""
        names = iter(["runs/x", "runs/x-2"])
        os.makedirs("runs/x")
        with mock.patch.object(resolve, "default_run_dir", lambda job: next(names)):
            with owner.owned(self.job()) as job:
                self.assertEqual(job.run_dir, "runs/x-2")

    @parameterized.parameters(False, True)
    def test_a_live_run_is_refused_by_name(self, resume):
        os.mkdir("a")
        if resume:
            self.job("a").save(pathlib.Path("a", "job.json"))
        process = self.hold()
        before = sorted(os.listdir("a"))
        with self.assertRaisesRegex(
            SettingError,
            f"^run_dir='a': in use by process {process.pid} on {socket.gethostname()}, since 20.*stop it first$",
        ):
            with owner.owned(self.job("a", resume=resume)):
                self.fail("two processes run in one folder")
        self.assertEqual(sorted(os.listdir("a")), before)
        self.assertEqual(owner.owner_of("a").pid, process.pid)

    def test_the_lock_of_a_killed_process_is_free(self):
        os.mkdir("a")
        process = self.hold()
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.assertTrue(os.path.exists(pathlib.Path("a", owner.LOCK)))
        self.assertIsNone(owner.owner_of("a"))
        with owner.owned(self.job("a")):
            self.assertEqual(owner.owner_of("a").pid, os.getpid())
        self.assertIsNone(owner.owner_of("a"))

    def test_one_process_cannot_have_it_twice(self):
        with owner.owned(self.job("a")):
            with self.assertRaisesRegex(SettingError, f"in use by process {os.getpid()} "):
                with owner.owned(self.job("a")):
                    self.fail("two runs in one folder")

    def test_a_folder_with_nothing_in_it_goes_at_the_end(self):
        os.mkdir("mine")
        for name, stays in (("a", False), ("mine", True)):
            with self.assertRaises(ZeroDivisionError):
                with owner.owned(self.job(name)):
                    raise ZeroDivisionError
            self.assertEqual(os.path.isdir(name), stays)
        self.assertEmpty(os.listdir("mine"))
        with owner.owned(self.job("a")) as job:
            job.save(pathlib.Path("a", "job.json"))
        self.assertEqual(os.listdir("a"), ["job.json"])

    def test_what_was_free_before_the_lock_and_is_taken_under_it_is_refused(self):
        job = resolve.check(self.job("a"))
        with owner.owned(self.job("a")) as faster:
            faster.save(pathlib.Path("a", "job.json"))
        with self.assertRaisesRegex(SettingError, "run_dir='a': taken by another run"):
            with owner.owned(job):
                self.fail("another run's folder")

    @parameterized.parameters("checkpoints", "metrics.csv", "result.json", "export")
    def test_what_is_left_of_a_run_without_job_is_not_mixed_with_a_new_one(self, name):
        os.makedirs(pathlib.Path("a", name))
        with self.assertRaisesRegex(
            SettingError, f"^run_dir='a': it holds {name} of a run whose job.json is gone"
        ):
            resolve.check(self.job("a"))

    @parameterized.parameters(
        (lambda me: me, True),
        (lambda me: dataclasses.replace(me, started=me.started - 1), False),
        (lambda me: dataclasses.replace(me, pid=2**22 + 1), False),
        (lambda me: dataclasses.replace(me, pid=2**22 + 1, host="another"), True),
    )
    def test_without_locks_the_facts_decide(self, change, lives):
        os.mkdir("a")
        me = owner.Owner(
            os.getpid(), socket.gethostname(), owner._started(os.getpid()), "2026-01-01 00:00:00"
        )
        pathlib.Path("a", owner.LOCK).write_text(json.dumps(dataclasses.asdict(change(me))))
        with mock.patch.object(owner.fcntl, "flock", side_effect=OSError(owner.errno.ENOLCK, "no")):
            self.assertEqual(owner.owner_of("a") is not None, lives)
            if lives:
                with self.assertRaisesRegex(SettingError, "in use by process .*since 2026-01-01"):
                    with owner.owned(self.job("a")):
                        self.fail("two runs in one folder")
            else:
                with owner.owned(self.job("a")):
                    self.assertEqual(owner.owner_of("a").pid, os.getpid())

    def test_a_policy_of_a_live_run_is_not_there_yet(self):
        os.mkdir("a")
        self.job("a").save(pathlib.Path("a", "job.json"))
        process = self.hold()
        with self.assertRaisesRegex(
            SettingError, f"^run_dir='a': this run goes on, process {process.pid} .*no policy"
        ):
            folders.finished_run("a")


if __name__ == "__main__":
    absltest.main()
