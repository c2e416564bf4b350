"""The console script: commands, packaged configs, and a wheel that works from another folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from unittest import mock

import pytest
from absl.testing import absltest, parameterized

from tfrl import cli
from tfrl.config import flags
from tfrl.errors import SettingError
from tfrl.testing import fakes
from tfrl.testing.runs import untrained_run

HERE = __name__
ROOT = pathlib.Path(__file__).resolve().parents[2]


def call(*argv):
    """Exit code, stdout and stderr of `tfrl ...`, in this process."""
    out, error = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["tfrl", *argv]), mock.patch.object(
        sys, "path", list(sys.path)
    ), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):  # fmt: skip
        try:
            code = cli.main()
        except SystemExit as exit_:
            code = exit_.code
    return code, out.getvalue(), error.getvalue()


class CommandTest(parameterized.TestCase):
    def test_usage_names_every_command(self):
        for argv in ((), ("--help",), ("help",)):
            code, out, _ = call(*argv)
            self.assertEqual(code, 0)
            for name in cli.COMMANDS:
                self.assertIn(f"\n  {name} ", out)

    def test_no_such_command(self):
        code, _, error = call("evaluat", "--run_dir=x")
        self.assertEqual(code, 2)
        self.assertStartsWith(error, "error: 'evaluat': no such command; did you mean evaluate?")

    @parameterized.parameters(*cli.COMMANDS)
    def test_help_of_a_command(self, name):
        code, out, _ = call(name, "--help")
        self.assertEqual(code, 0)
        self.assertIn(f"tfrl {name}", out)

    def test_launchers_are_the_same_commands(self):
        for path in (ROOT / "launchers").glob("*.py"):
            self.assertIn(f'cli.launch("{path.stem}", sys.argv[1:])', path.read_text())
            self.assertIn(path.stem, cli.COMMANDS)


class ConfigTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        here = os.getcwd()
        os.chdir(self.enter_context(tempfile.TemporaryDirectory()))
        self.addCleanup(os.chdir, here)

    @parameterized.parameters("configs/dqn/cartpole.flags", "dqn/cartpole.flags", "dqn/cartpole")
    def test_configs_of_tfrl_are_found_from_any_folder(self, name):
        job = flags.parse(["--algo=dqn", f"--flagfile={name}"])
        self.assertEqual(
            job, flags.parse(["--algo=dqn", f"--flagfile={ROOT}/configs/dqn/cartpole.flags"])
        )

    def test_a_file_of_the_user_comes_first(self):
        path = pathlib.Path("configs/dqn/cartpole.flags")
        path.parent.mkdir(parents=True)
        path.write_text("--seed=77\n")
        self.assertEqual(flags.parse(["--algo=dqn", f"--flagfile={path}"]).seed, 77)

    @parameterized.parameters("../configs/dqn/cartpole", "/dqn/cartpole", "dqn/none")
    def test_nothing_else_is(self, name):
        with self.assertRaisesRegex(SettingError, "no such file"):
            flags.parse(["--algo=dqn", f"--flagfile={name}"])


class Noisy(fakes.IdentityGame):
    """Writes as C++ libraries do, and may then crash as they do."""

    def __init__(self, crashes=False):
        super().__init__()
        self._crashes = crashes

    def step(self, action):
        os.write(2, b"a notice of a library\n")
        if self._crashes:
            os.abort()
        return super().step(action)


class QuietTest(absltest.TestCase):
    def evaluate(self, **kwargs):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()), "run")
        run = untrained_run(folder, env=f"{HERE}:Noisy", env_kwargs=kwargs)
        trusted = f"--trust_modules={HERE}"
        return subprocess.run(
            [sys.executable, "-m", "tfrl", "evaluate", f"--run_dir={run}", "--episodes=1", "--json", trusted],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}, timeout=300,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def test_notices_of_libraries_are_not_shown(self):
        done = self.evaluate()
        self.assertEqual(done.returncode, 0)
        self.assertNotIn("a notice", done.stderr)
        self.assertStartsWith(done.stderr, "return: ")
        self.assertEqual(json.loads(done.stdout)["episodes"], 1)

    def test_a_crash_is_told_and_leaves_them(self):
        done = self.evaluate(crashes=True)
        self.assertEqual(done.returncode, -signal.SIGABRT)
        self.assertIn("cli_test.py", done.stderr)  # the line of Python that led to it
        last = done.stderr.strip().splitlines()[-1]
        found = re.fullmatch(
            "error: the evaluation of .*/run has ended without a word: .* is in (.*)", last
        )
        log = pathlib.Path(found[1])
        self.addCleanup(shutil.rmtree, log.parent)
        self.assertIn("a notice of a library\n", log.read_text())


@pytest.mark.slow
class WheelTest(absltest.TestCase):
    """The wheel in an environment of its own, which finds the dependencies where this one has them."""

    def run_in(self, *command):
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [str(part) for part in command], cwd=self.folder, env=environ, capture_output=True,
            text=True, timeout=900,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_trains_evaluates_and_exports_from_another_folder(self):
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        pip = ["-m", "pip", "--disable-pip-version-check"]
        build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "wheels"]
        self.run_in(sys.executable, *pip, *build, ROOT)
        (wheel,) = (self.folder / "wheels").glob("tfrl-*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        self.assertIn("tfrl/py.typed", names)
        configs = {str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.flags")}
        self.assertContainsSubset({f"tfrl/{name}" for name in configs}, names)
        venv.create(self.folder / "env", with_pip=True)
        python = self.folder / "env" / "bin" / "python"
        self.run_in(python, *pip, "install", "--quiet", "--no-deps", wheel)
        site = self.run_in(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
        ).strip()
        pathlib.Path(site, "neighbours.pth").write_text(sysconfig.get_path("purelib") + "\n")
        tfrl = self.folder / "env" / "bin" / "tfrl"
        where = self.run_in(python, "-c", "import tfrl; print(tfrl.__file__)").strip()
        self.assertStartsWith(where, site)
        self.run_in(
            tfrl, "run", "--algo=dqn", "--flagfile=dqn/cartpole", "--total_env_steps=3000",
            "--final_eval_episodes=5", "--eval_every_env_steps=0", "--console=plain",
            "--run_dir=mine",
        )  # fmt: skip
        row = json.loads(
            self.run_in(tfrl, "evaluate", "--run_dir=mine", "--episodes=3", "--json").strip()
        )
        self.assertEqual(row["episodes"], 3)
        self.run_in(tfrl, "export", "--run_dir=mine", "--out=exported")
        self.assertTrue((self.folder / "exported" / "saved_model.pb").is_file())
        self.run_in(tfrl, "plot", "mine", "--out=mine.png")
        self.assertIn("no problems found", self.run_in(tfrl, "check", "CartPole-v1"))


if __name__ == "__main__":
    absltest.main()
