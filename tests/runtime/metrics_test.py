"""The table of metric names against what a run emits."""

import csv
import pathlib

import tensorflow as tf

import tfrl
from tfrl.logs.metrics import METRICS

ONLY_WITH_PROCESSES = {"actor/policy_lag_updates"}  # see multiprocess_test


class MetricsTest(tf.test.TestCase):
    def test_a_run_emits_every_metric_of_the_table(self):
        run_dir = pathlib.Path(self.get_temp_dir()) / "run"
        tfrl.train(
            "dqn", env="CartPole-v1", prioritized=True, total_env_steps=700, min_replay=100,
            updates_per_call=4, log_every_s=0.05, eval_every_env_steps=0, eval_episodes=1,
            final_eval_episodes=0, console="none", compile="graph", inference="function",
            run_dir=str(run_dir),
        )  # fmt: skip
        with open(run_dir / "metrics.csv") as file:
            rows = list(csv.DictReader(file))
        emitted = {name for row in rows for name, value in row.items() if value}
        self.assertEqual(emitted, set(METRICS) - ONLY_WITH_PROCESSES)
        self.assertEqual({float(r["learner/retraces"]) for r in rows if r["learner/retraces"]}, {0})
        for row in rows:
            if row["learner/learning_rate"]:
                self.assertAlmostEqual(float(row["learner/learning_rate"]), 5e-4)
