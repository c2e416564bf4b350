"""The examples of docs/add_an_algorithm.md are programs: they train, resume, run in processes and pass every check."""

import importlib
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import absltest

import tfrl
from tfrl.config import flags
from tfrl.errors import SettingError
from tfrl.logs import csv_file
from tfrl.testing import algorithm_checks

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add_an_algorithm.md").read_text()


def _code(title):
    return re.search(r"```python\n(.*?)```", PAGE[PAGE.index(f"## {title}\n") :], re.DOTALL)[1]


REINFORCE, CODE = _code("A first algorithm"), _code("An algorithm with a replay")
SMALL = dict(hidden_sizes=(16,), batch_size=16, min_replay=100)
QUIET = dict(
    eval_every_env_steps=0, final_eval_episodes=20, console="none", tensorboard=False,
    log_every_s=0.05, compile="graph", inference="lite",
)  # fmt: skip


class Package(absltest.TestCase):
    def package(self, code, name="sarsa"):
        """Puts the code into a package of its own that can be imported; gives the dotted name and the folder."""
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        package = f"package_{self.id().rsplit('.', 1)[1]}"
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
        (folder / package / f"{name}.py").write_text(code)
        sys.path.insert(0, str(folder))
        self.addCleanup(sys.path.remove, str(folder))
        importlib.invalidate_caches()
        return f"{package}.{name}", folder

    def check(self, folder, algo, *argv):
        """Runs the command that checks an algorithm."""
        return subprocess.run(
            [sys.executable, "-m", "tfrl.testing.algorithm_checks", f"--algo={algo}", *argv],
            capture_output=True, text=True, cwd=folder, timeout=300,
            env={"PYTHONPATH": str(ROOT), "PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip


class ReinforceTest(Package):
    """The first example: 60 lines in a user's module are a whole algorithm."""

    def train(self, algo, folder, **settings):
        settings = {
            "env": "tfrl.testing.fakes:IdentityGame", "env_kwargs": {"length": 10}, "discount": 0.0,
            "length": 10, "num_envs": 4, "total_env_steps": 3_000, "hidden_sizes": (16,),
            "learning_rate": 2e-2, **QUIET, **settings,
        }  # fmt: skip
        return tfrl.train(algo, run_dir=folder / "run", **settings)

    def test_it_is_short_and_sees_no_replay_and_no_runtime(self):
        lines = [line.strip() for line in REINFORCE.splitlines()]
        code = [line for line in lines if line and not line.startswith(("#", '"""'))]
        self.assertLessEqual(len(code), 60)
        self.assertNotRegex(REINFORCE, r"tfrl[\w.]*\._|tfrl\.(runtime|replay|job|algos)")

    def test_it_trains_scores_exports_and_goes_on(self):
        algo, folder = self.package(REINFORCE, "reinforce")
        result = self.train(algo, folder)
        self.assertGreater(result.return_mean, 9.0)  # of 10; random actions reach 2.5
        found = tfrl.evaluate(result.run_dir, episodes=20, seed=3, trust_modules=(algo,))
        self.assertGreater(np.mean(found.returns), 9.0)
        exported = tf.saved_model.load(str(result.export_dir))
        obs = np.eye(4, dtype=np.float32)
        step = exported.act(tf.constant(obs), exported.initial_state(4))
        policy = tfrl.load(result.run_dir, trust_modules=(algo,))
        self.assertEqual(step["action"].numpy().tolist(), list(policy.predict(obs)))
        more = tfrl.train(algo, run_dir=result.run_dir, resume=True, total_env_steps=4_000)
        self.assertGreater(more.updates, result.updates)
        self.assertGreaterEqual(more.env_steps, 4_000)
        self.assertGreater(more.return_mean, 9.0)

    @pytest.mark.slow
    def test_it_trains_in_processes(self):
        algo, folder = self.package(REINFORCE, "reinforce")
        result = self.train(algo, folder, backend="processes", num_actors=2, total_env_steps=6_000)
        self.assertGreater(result.return_mean, 8.0)

    @pytest.mark.slow
    def test_it_passes_every_check(self):
        algo, folder = self.package(REINFORCE, "reinforce")
        done = self.check(folder, algo, "--env=CartPole-v1", "--hidden_sizes=8", "--length=12")
        count = len(algorithm_checks.CHECKS)
        self.assertIn(f"{count} of {count} checks passed", done.stdout, done.stderr[-2_000:])

    def test_help_shows_its_settings(self):
        algo, _ = self.package(REINFORCE, "reinforce")
        text = flags.help_text(algo)
        for name in ("learning_rate", "hidden_sizes", "episodes", "length"):
            self.assertIn(f"--{name}", text)


# What an algorithm of tfrl has beyond one of a user: a longer docstring, a refusal by name, and `ABOUT`.
DOCSTRING = '''"""REINFORCE: makes actions more probable by the returns that followed them.

What it is: Williams 1992. What it is not: bootstrapped.

Spaces: Discrete actions; any observation. Data: whole episodes.

Differences from the paper: none.
"""'''
REFUSAL = """
    from tfrl.errors import SettingError
    if not hasattr(spec.action_space, "n"):
        raise SettingError(f"algo=reinforce on {spec.name}: expected a Discrete action space")
"""
ABOUT = """

ABOUT = About(
    title="REINFORCE", family="policy_gradient", options="none at all",
    env="tfrl.testing.fakes:IdentityGame", refused="tfrl.testing.fakes:TargetPoint",
    small={"hidden_sizes": (8,), "length": 20, "episodes": 4},
)
"""


class InTheTreeTest(absltest.TestCase):
    @pytest.mark.slow
    def test_its_module_alone_puts_it_into_the_tables_and_the_conformance_suite(self):
        tree = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        for folder in ("tfrl", "docs", "configs", "benchmarks"):
            shutil.copytree(ROOT / folder, tree / folder)
        (tree / "tests").mkdir()
        for file in (
            "README.md",
            "pyproject.toml",
            "tests/conftest.py",
            "tests/conformance_test.py",
        ):
            shutil.copy(ROOT / file, tree / file)
        code = REINFORCE.replace(REINFORCE.splitlines()[0], DOCSTRING) + ABOUT
        code = code.replace("import Agent,", "import About, Agent,")
        code = code.replace("def make(config, spec):\n", f"def make(config, spec):{REFUSAL}")
        (tree / "tfrl" / "algos" / "reinforce.py").write_text(code)
        env = {"PYTHONPATH": str(tree), "PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}

        def run(*argv):
            return subprocess.run(
                [sys.executable, *argv],
                cwd=tree,
                env=env,
                capture_output=True,
                text=True,
                timeout=500,
            )

        done = run("docs/generate.py")
        self.assertEqual(done.returncode, 0, done.stderr[-2_000:])
        what = "makes actions more probable by the returns that followed them"
        row = f"| [REINFORCE](docs/algorithms/reinforce.md) | {what} | none at all |"
        self.assertIn(row, (tree / "README.md").read_text())
        self.assertIn(f"| REINFORCE: {what} |", (tree / "docs" / "index.md").read_text())
        page = (tree / "docs" / "algorithms" / "reinforce.md").read_text()
        self.assertStartsWith(page, "# REINFORCE\n")
        for words in ("What it is not: bootstrapped", "| `hidden_sizes` |", "| `learner/loss` |"):
            self.assertIn(words, page)
        done = run("-m", "pytest", "-q", "-n", "0", "tests/conformance_test.py", "-k", "reinforce")
        counted = re.search(r"^(\d+) passed", done.stdout, re.M)
        self.assertIsNotNone(counted, done.stdout[-3_000:])
        # Every check, and the tests beside them.
        self.assertGreaterEqual(int(counted[1]), len(algorithm_checks.CHECKS) + 3)


class ReplayTest(Package):
    """The second example: a replay, a setting that excludes another, and a metric of its own."""

    def train(self, algo, folder, **settings):
        settings = {
            "env": "tfrl.testing.fakes:IdentityGame", "total_env_steps": 3_000, **SMALL, **QUIET,
            **settings,
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
            done = self.check(
                folder, name, "--env=CartPole-v1", "--hidden_sizes=8", "--batch_size=8"
            )
            self.assertIn(words, done.stdout, done.stderr[-2_000:])
            self.assertEqual(done.returncode, code)


if __name__ == "__main__":
    absltest.main()
