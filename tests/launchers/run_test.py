"""`run.py` as a user meets it before a run starts: help, and one line for what cannot be used."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEAVY = ("tensorflow", "reverb", "gymnasium", "keras")

# Runs the launcher in a process of its own and tells which heavy packages it imported.
PROBE = """
import runpy, sys
sys.argv = ["run.py", *sys.argv[1:]]
try:
    runpy.run_path({path!r}, run_name="__main__")
finally:
    print("imported:", *[name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""


class RunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def call(self, *argv):
        """Exit code, stdout, lines of stderr, and the heavy packages imported."""
        probe = PROBE.format(path=str(ROOT / "launchers" / "run.py"), heavy=HEAVY)
        done = subprocess.run(
            [sys.executable, "-c", probe, *argv],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        *lines, imported = done.stderr.splitlines()
        return done.returncode, done.stdout, lines, imported.split()[1:]

    def test_help_is_light(self):
        code, out, lines, imported = self.call("--help")
        self.assertEqual((code, lines, imported), (0, [], []))
        for text in ("\n  dqn  ", "--algo", "--total_env_steps  int [env steps]; default 50000"):
            self.assertIn(text, out)

    def test_help_of_an_algorithm(self):
        code, out, lines, _ = self.call("--algo=dqn", "--help")
        self.assertEqual((code, lines), (0, []))
        self.assertIn("--learning_rate  float; default", out)
        self.assertIn("--target_period_updates  int [updates]; default", out)

    def test_refused_before_anything_heavy_is_imported(self):
        (self.folder / "file").write_text("")
        for argv, message in (
            ([], "--algo: not given; expected one of "),
            (["--algo=dqm"], "algo='dqm': no such algorithm"),
            (["--flagfile=configs/absent.flags"], "--flagfile=configs/absent.flags: no such file"),
            (["--resume"], "--resume: expected --run_dir"),
            (["--resume", "--run_dir=a"], "run_dir='a': no run to resume there"),
        ):
            code, out, lines, imported = self.call(*argv)
            self.assertEqual((code, out, imported), (2, "", []), argv)
            self.assertLen(lines, 1)
            self.assertStartsWith(lines[0], f"error: {message}")

    @parameterized.parameters(
        ("--learning_rat=1", "--learning_rat: unknown flag; did you mean --learning_rate?"),
        ("--batch_size=abc", "--batch_size=abc: expected int"),
        ("--discount=1.5", "discount=1.5: expected at most 1"),
        ("--run_dir=taken", "run_dir='taken': taken by another run"),
        ("--run_dir=file/a", "run_dir='file/a': "),
        ("word", "unexpected argument 'word'"),
    )
    def test_refused_in_one_line(self, argument, message):
        (self.folder / "file").write_text("")
        (self.folder / "taken").mkdir()
        (self.folder / "taken" / "job.json").write_text("{}")
        before = sorted(self.folder.rglob("*"))
        code, out, lines, _ = self.call("--algo=dqn", argument)
        self.assertEqual((code, out), (2, ""))
        self.assertLen(lines, 1, lines)
        self.assertStartsWith(lines[0], f"error: {message}")
        self.assertEqual(sorted(self.folder.rglob("*")), before)


if __name__ == "__main__":
    absltest.main()
