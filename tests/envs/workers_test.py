"""Environments in processes of their own: who failed is named, and nobody is left behind."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from unittest import mock

import numpy as np
import psutil
from absl.testing import absltest, parameterized

from tfrl.envs import make
from tfrl.errors import EnvironmentFailed, SettingError
from tfrl.job import EnvPlan
from tfrl.testing import fakes
from tfrl.testing.processes import ROOT, end_of

HERE = __name__


class OwnError(Exception):
    """An error of two arguments, which gymnasium cannot raise again."""

    def __init__(self, first, second):
        super().__init__(f"{first} of {second}")


class Failing(fakes.TruncatingChain):
    """Fails at the action 1, in the way that `how` says."""

    def __init__(self, how):
        super().__init__()
        self._how = how

    def step(self, action):
        if action == 1:
            fail(self._how)
            if self._how == "shape":
                return np.ones(3, np.float32), 1.0, False, False, {}
        return super().step(action)


def fail(how):
    if how == "percent":
        raise ValueError("only 50% of it, %s")
    if how == "local":

        class Local(OwnError):
            pass

        raise Local("one", "two")
    if how == "exit":
        raise SystemExit(0)
    if how == "os_exit":
        os._exit(0)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)


class WorkersTest(parameterized.TestCase):
    @parameterized.parameters(
        ("percent", EnvironmentFailed, r"environment row 1, step: ValueError: only 50% of it, %s"),
        ("local", EnvironmentFailed, "environment row 1, step: Local: one of two"),
        ("exit", EnvironmentFailed, r"environment row 1 called sys.exit\(0\)"),
        (
            "os_exit",
            EnvironmentFailed,
            "the process of environment row 1 ended with exit code 0 without a word",
        ),
        (
            "crash",
            EnvironmentFailed,
            "the process of environment row 1 was killed by SIGSEGV without a word",
        ),
        (
            "shape",
            SettingError,
            r"environment row 1, step 2 of its episode: observation has shape \[3\]; expected \[1\]",
        ),
    )
    def test_the_row_that_fails_is_named_with_the_reason(self, how, error, text):
        plan = EnvPlan(env=f"{HERE}:Failing", env_kwargs={"how": how}, env_backend="async")
        vector = make.make_vector(plan, 2, seed=0)
        self.addCleanup(vector.close)
        workers = [psutil.Process(p.pid) for p in vector.env.processes]
        vector.reset()
        self.assertEqual(vector.step(np.array([0, 0])).reward.tolist(), [1.0, 1.0])
        with self.assertRaisesRegex(error, text):
            vector.step(np.array([0, 1]))
        vector.close()
        self.assertEmpty(end_of(workers, 10))

    def test_signals_to_the_whole_group_leave_workers_alone(self):
        """Ctrl-C at a terminal and GNU timeout reach them too, while they start and later."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        plan = EnvPlan(env="tfrl.testing.fakes:TruncatingChain", env_backend="async")
        started = multiprocessing.process.BaseProcess.start

        def start(process):
            started(process)
            os.kill(process.pid, signal.SIGINT)  # its first line is yet to come

        with mock.patch.object(multiprocessing.process.BaseProcess, "start", start):
            vector = make.make_vector(plan, 2, seed=0)
        self.addCleanup(vector.close)
        self.assertEqual(signal.pthread_sigmask(signal.SIG_BLOCK, ()), mask)
        vector.reset()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for worker in vector.env.processes:
                os.kill(worker.pid, number)
        self.assertEqual(vector.step(np.array([0, 0])).reward.tolist(), [1.0, 1.0])

    def test_no_worker_outlives_a_killed_process(self):
        program = f"""
            import numpy as np
            from tfrl.envs import make
            from tfrl.job import EnvPlan

            if __name__ == "__main__":
                plan = EnvPlan(env="{HERE}:Sleeping", env_backend="async")
                vector = make.make_vector(plan, 2, seed=0)
                vector.reset()
                print(*(p.pid for p in vector.env.processes), flush=True)
                vector.step(np.zeros(2, np.int64))
        """
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        (folder / "program.py").write_text(textwrap.dedent(program))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        process = subprocess.Popen(
            [sys.executable, str(folder / "program.py")],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.addCleanup(process.stdout.close)
        workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        self.assertLen(workers, 2)
        process.kill()
        process.wait()
        self.assertEmpty(end_of(workers, 10))


class Sleeping(fakes.TruncatingChain):
    """Does not come back from a step for an hour."""

    def step(self, action):
        time.sleep(3600)
        return super().step(action)


if __name__ == "__main__":
    absltest.main()
