"""Populations that several processes play: the same weights for any number of actors, and after the death of one."""

import pathlib
import signal
import tempfile

import numpy as np
import pytest
from absl.testing import parameterized

from tfrl.runtime.storage import folders
from tfrl.testing.processes import Run

COMMON = {
    "env": "CartPole-v1", "env_backend": "sync", "num_envs": 2, "seed": 5, "eval_every_env_steps": 0,
    "eval_episodes": 1, "final_eval_episodes": 1, "export_policy": "last", "console": "plain",
    "log_every_s": 0.1, "tensorboard": False, "checkpoint_every_env_steps": 0,
}  # fmt: skip
RUNS = {
    "ars": {"num_directions": 8, "num_top_directions": 4, "normalize_observations": True},
    "es": {
        "episodes_per_batch": 8, "min_steps_per_batch": 600, "hidden_sizes": 8, "core": "gru",
        "core_size": 4, "noise_source": "table", "noise_size": 100_000,
    },
}  # fmt: skip


@pytest.mark.slow
class PopulationRunTest(parameterized.TestCase):
    def train(self, algo, meanwhile=lambda run: None, **settings):
        """The weights of a finished run, and its text."""
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        run = Run(folder, algo, **{**COMMON, **RUNS[algo], **settings})
        self.addCleanup(run.close)
        meanwhile(run)
        self.assertEqual(run.wait(), 0, run.text())
        with np.load(run.dir / folders.POLICY) as file:
            return {name: file[name] for name in file.files}, run.text()

    def assert_same(self, one, other):
        self.assertEqual(one.keys(), other.keys())
        weights = [name for name in one if not name.startswith("fact_")]
        self.assertNotEmpty(weights)
        for name, array in ((name, one[name]) for name in weights):
            self.assertEqual(array.tobytes(), other[name].tobytes(), name)

    @parameterized.parameters(*RUNS)
    def test_one_process_one_actor_and_four_give_the_same_weights(self, algo):
        expected, _ = self.train(algo, backend="inprocess", total_env_steps=15_000)
        for num_actors in (1, 4):
            found, _ = self.train(
                algo, backend="processes", num_actors=num_actors, total_env_steps=15_000
            )
            self.assert_same(expected, found)

    @parameterized.parameters(*RUNS)
    def test_a_killed_actor_changes_nothing(self, algo):
        def kill(run):
            steps = lambda: max((row.get("run/env_steps", 0.0) for row in run.rows()), default=0.0)
            run.wait_for("env steps", lambda: steps() > 5_000)
            actors = [p for name, p in run.children().items() if name.startswith("actor")]
            actors[0].send_signal(signal.SIGKILL)

        settings = {"backend": "processes", "num_actors": 2, "total_env_steps": 60_000}
        expected, _ = self.train(algo, **settings)
        found, text = self.train(algo, kill, **settings)
        self.assertIn("takes its place", text)
        self.assert_same(expected, found)
