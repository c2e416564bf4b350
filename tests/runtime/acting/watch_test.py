"""Environments that do not answer, leave or vanish are named."""

import contextlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl.testing import absltest, parameterized

import tfrl
from tfrl.envs import make
from tfrl.errors import RunFailed, SettingError
from tfrl.job import EnvPlan
from tfrl.runtime.acting.watch import Watch
from tfrl.testing import fakes
from tfrl.testing.processes import END_S, ROOT

HERE = __name__
SHORT = dict(
    hidden_sizes=(4,), min_replay=100, replay_capacity=500, compile="graph", inference="function", tensorboard=False,
    total_env_steps=300, eval_every_env_steps=0, eval_episodes=1, final_eval_episodes=0,
)  # fmt: skip


class Hanging(fakes.TruncatingChain):
    """Its 20th step waits until the class's `come_back` says so."""

    come_back = None

    def __init__(self, hangs=True):
        super().__init__()
        self._left = 20 if hangs else -1

    def step(self, action):
        self._left -= 1
        if self._left == 0:
            assert Hanging.come_back(END_S)
        return super().step(action)


class Failing(fakes.TruncatingChain):
    """Leaves at its 50th step, in the way that `how` says."""

    def __init__(self, how):
        super().__init__()
        self._how, self._left = how, 50

    def step(self, action):
        self._left -= 1
        if self._left == 0:
            if self._how == "exit":
                raise SystemExit(0)
            if self._how == "os_exit":
                os._exit(0)
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().step(action)


class WatchTest(parameterized.TestCase):
    @parameterized.parameters("sync", "async", "native")
    def test_the_row_that_gives_no_answer_is_named(self, backend):
        signs = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "said"
        plan = EnvPlan(env=f"{HERE}:Waiting", env_kwargs={"path": str(signs)}, env_backend=backend)
        if backend == "native":
            plan = EnvPlan(env="CartPole-v1", env_backend="native")
        vector = make.make_vector(plan, 2, seed=0)
        self.addCleanup(vector.close)
        vector.reset()
        if backend == "native":
            inner = vector.env.step
            vector.env.step = lambda action: appears(signs) and inner(action)
        lines = []

        def announce(text):
            lines.append(text)
            signs.touch()

        watch = Watch(vector.place, "training", 0.1, announce)
        vector.step(np.array([0, 1]))
        watch.close()
        who = (
            "the environments of training"
            if backend == "native"
            else "environment row 1 of training"
        )
        self.assertStartsWith(lines[0], f"warning: {who} has not responded for")

    def test_a_run_says_so_and_goes_on(self):
        out = self.enter_context(contextlib.redirect_stdout(io.StringIO()))
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"

        def come_back(limit_s):
            end = time.monotonic() + limit_s
            while "environment row 0 of training has not responded" not in out.getvalue():
                if time.monotonic() > end:
                    return False
                time.sleep(0.01)
            return True

        Hanging.come_back = come_back
        settings = {
            **SHORT,
            "env": f"{HERE}:Hanging",
            "heartbeat_timeout_s": 0.3,
            "console": "plain",
        }
        self.assertEqual(tfrl.train("dqn", run_dir=str(run_dir), **settings).env_steps, 300)
        self.assertIn("environment row 0 of training responded after", out.getvalue())


class Waiting(fakes.TruncatingChain):
    """The action 1 waits for a file."""

    def __init__(self, path):
        super().__init__()
        self._path = pathlib.Path(path)

    def step(self, action):
        assert not action or appears(self._path)
        return super().step(action)


def appears(path):
    """Whether a file is there before the end of the time."""
    end = time.monotonic() + END_S
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class LeavingTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def test_sys_exit_of_an_environment_fails_the_run(self):
        settings = {
            **SHORT,
            "env": f"{HERE}:Failing",
            "env_kwargs": {"how": "exit"},
            "console": "none",
        }
        with self.assertRaisesRegex(RuntimeError, r"environment row 0 called sys.exit\(0\)"):
            tfrl.train("dqn", run_dir=str(self.folder / "run"), **settings)

    def test_sys_exit_of_a_module_is_refused(self):
        (self.folder / "leaves_at_import.py").write_text("raise SystemExit(0)\n")
        self.enter_context(_on_path(self.folder))
        with self.assertRaisesRegex(
            SettingError, "cannot import 'leaves_at_import'.*SystemExit: 0"
        ):
            tfrl.train(
                "dqn", env="leaves_at_import:make", run_dir=str(self.folder / "run"), console="none"
            )

    def test_sys_exit_of_anything_else_fails_the_run(self):
        (self.folder / "leaving_network.py").write_text(
            "def build(*args, **kwargs):\n    raise SystemExit(0)\n"
        )
        self.enter_context(_on_path(self.folder))
        settings = {
            **SHORT,
            "env": "CartPole-v1",
            "network": "leaving_network:build",
            "console": "none",
        }
        del settings["hidden_sizes"]  # the network has its own
        with self.assertRaisesRegex((RunFailed, SettingError), r"sys.exit\(0\)|SystemExit"):
            tfrl.train("dqn", run_dir=str(self.folder / "run"), **settings)

    @parameterized.parameters(("os_exit", 0, ""), ("crash", -signal.SIGSEGV, "watch_test.py"))
    def test_a_process_that_vanishes_leaves_a_line(self, how, code, also):
        flags = {
            **{k: v for k, v in SHORT.items() if k != "hidden_sizes"}, "algo": "dqn", "run_dir": self.folder / "run",
            "env": f"{HERE}:Failing", "env_kwargs": f'{{"how": "{how}"}}',
        }  # fmt: skip
        process = subprocess.run(
            [sys.executable, str(ROOT / "launchers" / "run.py"), *(f"--{k}={v}" for k, v in flags.items())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}, timeout=END_S,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        self.assertEqual(process.returncode, code)
        self.assertRegex(
            process.stderr.strip().splitlines()[-1],
            "error: the run in .*/run has ended without a word",
        )
        self.assertIn(also, process.stderr)


@contextlib.contextmanager
def _on_path(folder):
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


if __name__ == "__main__":
    absltest.main()
