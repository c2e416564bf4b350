"""The example of docs/add_an_algorithm.md is a program: it trains, declares a metric and passes every check."""

import importlib
import pathlib
import re
import subprocess
import sys
import tempfile

import pytest
from absl.testing import absltest

import tfrl
from tfrl.errors import SettingError
from tfrl.logs import csv_file
from tfrl.testing import algorithm_checks

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add_an_algorithm.md").read_text()
CODE = re.search(r"```python\n(.*?)```", PAGE[PAGE.index("## A complete example") :], re.DOTALL)[1]
SMALL = dict(hidden_sizes=(16,), batch_size=16, min_replay=100)


class AddAnAlgorithmTest(absltest.TestCase):
    def package(self, code):
        """Puts the code into a package of its own that can be imported; gives the dotted name and the folder."""
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        package = f"package_{self.id().rsplit('.', 1)[1]}"
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
        (folder / package / "sarsa.py").write_text(code)
        sys.path.insert(0, str(folder))
        self.addCleanup(sys.path.remove, str(folder))
        importlib.invalidate_caches()
        return f"{package}.sarsa", folder

    def train(self, algo, folder, **settings):
        settings = {
            "env": "tfrl.testing.fakes:IdentityGame", "total_env_steps": 3_000, "eval_every_env_steps": 0,
            "final_eval_episodes": 20, "console": "none", "tensorboard": False, "log_every_s": 0.05,
            "compile": "graph", **SMALL, **settings,
        }  # fmt: skip
        return tfrl.train(algo, run_dir=folder / "run", **settings)

    def test_it_imports_no_private_module(self):
        self.assertNotRegex(CODE, r"(?m)^(import|from) tfrl[\w.]*\._|import _")
        self.assertIn("from tfrl.agent import", CODE)

    def test_it_learns_and_logs_the_metric_that_it_declares(self):
        algo, folder = self.package(CODE)
        result = self.train(algo, folder, env_kwargs={"length": 10}, discount=0.0)
        rows = csv_file.read(result.run_dir / "metrics.csv")
        spreads = [row["learner/q_spread"] for row in rows if "learner/q_spread" in row]
        self.assertNotEmpty(spreads)
        self.assertGreater(spreads[-1], 0.0)
        self.assertGreater(result.return_mean, 9.5)  # of 10; random actions reach 5 at most
        tfrl.load(result.run_dir)

    def test_a_metric_that_is_declared_badly_is_refused_before_the_run(self):
        algo, folder = self.package(CODE.replace("learner/q_spread", "learner/loss"))
        with self.assertRaisesRegex(
            SettingError, f"algo={algo}: metric 'learner/loss': the name is"
        ):
            self.train(algo, folder)
        self.assertFalse((folder / "run" / "metrics.csv").exists())

    @pytest.mark.slow
    def test_the_command_checks_it_and_finds_what_is_wrong(self):
        algo, folder = self.package(CODE)
        # The mean of this replica instead of its part of the mean of all.
        wrong = CODE.replace("apply.global_mean(0.5 * error**2)", "tf.reduce_mean(0.5 * error**2)")
        (folder / algo.split(".")[0] / "wrong.py").write_text(wrong)
        for name, code, words in (
            (algo, 0, f"{len(algorithm_checks.CHECKS)} of {len(algorithm_checks.CHECKS)} checks passed"),
            (algo.replace("sarsa", "wrong"), 1, "FAILED two_devices_equal_one: AssertionError: variables differ"),
        ):  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-m", "tfrl.testing.algorithm_checks", f"--algo={name}", "--env=CartPole-v1",
                 "--hidden_sizes=8", "--batch_size=8"],
                capture_output=True, text=True, cwd=folder, timeout=300,
                env={"PYTHONPATH": str(ROOT), "PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
            )  # fmt: skip
            self.assertIn(words, done.stdout, done.stderr[-2_000:])
            self.assertEqual(done.returncode, code)


if __name__ == "__main__":
    absltest.main()
