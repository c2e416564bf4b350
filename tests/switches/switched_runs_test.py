"""Runs with switches: in one process and several, resumed, evaluated, exported, recorded; every algorithm with each."""

import csv
import json
import pathlib
import shutil
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.config import switches
from tfrl.errors import SettingError
from tfrl.job import Job, algorithm, algorithms
from tfrl.logs import video
from tfrl.runtime import finish
from tfrl.testing import algorithm_checks

METRIC = "tfrl.testing.batch_metric"
FEW = algorithm_checks.few()
TINY = dict(
    hidden_sizes=(8,), eval_every_env_steps=0, final_eval_episodes=2, console="none",
    compile="graph", inference="function", tensorboard=False, max_episode_steps=30, log_every_s=0.05,
)  # fmt: skip
# What makes updates begin at once.
OFF_POLICY = dict(min_replay=40, batch_size=8, updates_per_call=4)
ON_POLICY = dict(unroll_length=5, num_envs=2)
SMALL = dict(
    policy_hidden_sizes=(8,), critic_hidden_sizes=(8,), env="tfrl.testing.fakes:TargetPoint"
)
OWN = {
    "ars": dict(policy="mlp"), "es": {}, "hdqn": dict(total_env_steps=600),
    "qmix": dict(min_replay=40, total_env_steps=400),
}  # fmt: skip
SETTINGS = {
    **{algo: {**OFF_POLICY, **SMALL} for algo in ("ddpg", "td3", "sac")},
    **{algo: OFF_POLICY for algo in ("dqn", "c51", "qr_dqn", "iqn")},
    **{algo: ON_POLICY for algo in ("a2c", "ppo", "impala", "appo", "a3c")},
    "pg": dict(num_envs=2, episodes_per_item=2),
    # As the conformance suite runs them, and for so long that there are updates.
    **{
        algo: {
            **algorithm(algo).ABOUT.small,
            "num_envs": 2,
            "env": algorithm(algo).ABOUT.env,
            **more,
        }
        for algo, more in OWN.items()
    },
}


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


class ConformanceTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    @parameterized.parameters(*sorted(FEW))
    def test_few_algorithms_run_with_every_switch(self, algo):
        self.check(algo)

    @parameterized.parameters(*sorted({*algorithms()} - FEW))
    @pytest.mark.slow
    def test_every_other_algorithm_runs_with_every_switch(self, algo):
        self.check(algo)

    def check(self, algo):
        """All of them at once: each must leave to the next what it needs."""
        run_dir, given = self.folder / "run", [*switches.names(), METRIC]
        settings = {"total_env_steps": 160, **TINY, **SETTINGS[algo], "final_eval_episodes": 0}
        result = tfrl.train(algo, with_=given, run_dir=run_dir, **settings)
        self.assertGreater(result.updates, 0)
        self.assertEqual(list(Job.load(run_dir / "job.json").switches), given)
        last = rows(run_dir / "metrics.csv")[-1]
        self.assertGreater(float(last["learner/batch_numbers"]), 0)
        self.assertLess(float(last["learner/sparse_parameters_ratio"]), 1)


class RunTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        video.prepare()
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def test_two_switches_through_a_whole_run(self):
        run_dir = self.check("inprocess")
        self.check_resumed(run_dir)
        policy = tfrl.load(run_dir)
        exported = tf.saved_model.load(str(run_dir / "export"))
        obs = np.float32([[0.1, -0.2, 0.03, 0.4]])
        acted = exported.act(tf.constant(obs), exported.initial_state(1))["action"]
        self.assertAllEqual(acted, [policy.predict(obs[0])])  # the environment's own space
        self.assertLen(tfrl.evaluate(run_dir, episodes=3).returns, 3)
        self.assertLen(finish.record_run(run_dir, 1, seed=0, greedy=True), 1)

    @pytest.mark.slow
    def test_two_switches_through_a_run_of_processes(self):
        self.check("processes")

    @pytest.mark.slow
    def test_two_switches_through_a_run_of_processes_that_is_resumed(self):
        self.check_resumed(self.check("processes"))

    def check(self, backend):
        run_dir = self.folder / "run"
        settings = {**TINY, **OFF_POLICY, "backend": backend}
        both = dict(
            with_=["observation_noise", METRIC],
            noise_std=0.2,
            batch_scale=2.0,
            noise_in_evaluation=True,
        )
        tfrl.train("dqn", run_dir=run_dir, total_env_steps=300, **both, **settings)
        metrics = [float(r["learner/batch_numbers"] or 0) for r in rows(run_dir / "metrics.csv")]
        self.assertIn(2.0 * 8 * 4, metrics)  # observations of CartPole in a batch, scaled
        stored = json.loads((run_dir / "job.json").read_text())["switches"]
        self.assertEqual(
            stored,
            [
                {
                    "name": "observation_noise",
                    "settings": {"noise_std": 0.2, "noise_in_evaluation": True},
                },
                {"name": METRIC, "settings": {"batch_scale": 2.0}},
            ],
        )
        with self.assertRaisesRegex(SettingError, "noise_std=0.3: the run in .* has noise_std=0.2"):
            tfrl.train("dqn", run_dir=run_dir, resume=True, noise_std=0.3)
        with self.assertRaisesRegex(
            SettingError, "with=observation_noise: the run in .* has with="
        ):
            tfrl.train("dqn", run_dir=run_dir, resume=True, with_="observation_noise")
        return run_dir

    def check_resumed(self, run_dir):
        result = tfrl.train("dqn", run_dir=run_dir, resume=True, total_env_steps=400)
        self.assertGreaterEqual(result.env_steps, 400)

    def test_noise_changes_training(self):
        settings = {**TINY, **OFF_POLICY, "total_env_steps": 120, "final_eval_episodes": 0}
        losses = []
        for name, more in (("plain", {}), ("noisy", {"with_": ["observation_noise"]})):
            tfrl.train("dqn", run_dir=self.folder / name, **settings, **more)
            losses.append([r["learner/loss"] for r in rows(self.folder / name / "metrics.csv")][-1])
        self.assertNotEqual(*losses)


if __name__ == "__main__":
    tf.test.main()
