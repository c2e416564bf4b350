"""`plot.py`: run folders in, a PNG out, without TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest

from tfrl.job import EnvPlan, LogPlan
from tfrl.logs.logger import Logger

ROOT = pathlib.Path(__file__).resolve().parents[2]


class PlotTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def call(self, *argv):
        return subprocess.run(
            [sys.executable, "-X", "importtime", ROOT / "launchers" / "plot.py", *argv],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def test_draws(self):
        for name in ("a", "b"):
            with Logger(self.folder / name, LogPlan(console="none"), 100) as logger:
                for step in (10, 20):
                    logger.write({"run/env_steps": step, "actor/episode_return_mean": step})
            env = dataclasses.asdict(EnvPlan())
            job = {"algo": "dqn", "seed": 0, "env": env, "config": {}}
            (self.folder / name / "job.json").write_text(json.dumps(job))
        done = self.call("a", "b", "--out=plots/x.png")
        self.assertEqual((done.returncode, done.stdout), (0, "plots/x.png\n"), done.stderr)
        self.assertTrue((self.folder / "plots" / "x.png").exists())
        self.assertNotIn("| tensorflow\n", done.stderr)

    def test_refusals(self):
        for argv, message in (
            ([], "error: expected at least one run folder"),
            (["absent"], "error: 'absent': not a run folder, no job.json there"),
            (["a", "--out=."], "error: out='.': expected the name of a file that ends in .png"),
            (
                ["a", "--out=a.pdf"],
                "error: out='a.pdf': expected the name of a file that ends in .png",
            ),
            (["a", "--ou=x"], "error: --ou: unknown flag; did you mean --out?"),
        ):
            done = self.call(*argv)
            self.assertEqual(done.returncode, 2)
            self.assertEqual(done.stderr.splitlines()[-1], message)
            self.assertNotIn("Traceback", done.stderr)

    def test_help(self):
        done = self.call("--help")
        self.assertEqual(done.returncode, 0)
        self.assertIn("--out  str; default curve.png", done.stdout)


if __name__ == "__main__":
    absltest.main()
