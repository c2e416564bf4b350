"""The examples run, in seconds, as their first lines say."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile

from absl.testing import absltest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Runs a program where tfrl cannot be imported.
WITHOUT_TFRL = """
import runpy, sys
sys.modules["tfrl"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class ExamplesTest(absltest.TestCase):
    def call(self, folder, *argv):
        done = subprocess.run(
            [sys.executable, *argv],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.splitlines()

    def test_train_load_evaluate_and_serve(self):
        with tempfile.TemporaryDirectory() as folder:
            lines = self.call(folder, ROOT / "examples" / "train_and_load.py", "run")
            # A step of 4 environments may hold resets, so the run may end some steps later.
            self.assertTrue(
                any(re.fullmatch(r"run: -5\.00 after 3,00\d env steps", line) for line in lines),
                lines,
            )
            self.assertIn("actions: [1, 1, 1]", lines)
            self.assertTrue(any(line.startswith("action values: [[-") for line in lines), lines)
            self.assertIn(f"returns: {(-5.0,) * 10}", lines)
            program = ROOT / "examples" / "serve_savedmodel.py"
            lines = self.call(folder, "-c", WITHOUT_TFRL, program, "run/export")
            self.assertIn(f"actions of 7: {[1] * 7}", lines)
            self.assertIn("q_values: {'q_values': TensorShape([7, 2])}", lines)
            self.assertIn("action: [1, 1] next state: ()", lines)


if __name__ == "__main__":
    absltest.main()
