"""The tables of metric names against what runs emit."""

import pathlib
import tempfile

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tfrl
from tfrl.logs import csv_file
from tfrl.logs.metrics import HISTOGRAMS, METRICS

SETTINGS = dict(
    env="CartPole-v1", log_every_s=0.05, eval_every_env_steps=0, eval_episodes=1, final_eval_episodes=1,
    console="none", compile="graph", inference="function", hidden_sizes=(8,),
)  # fmt: skip
STALLS = {"time/room_us", "time/weights_us", "time/experience_us"}


def penalized(spec):
    """A network with a loss of its own."""
    del spec
    return tf.keras.Sequential([tf.keras.layers.Dense(8, kernel_regularizer="l2")])


class MetricsTest(tf.test.TestCase):
    def run_of(self, algo, **settings):
        """Rows of a short run, and its folder."""
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        settings = {**SETTINGS, "run_dir": str(run_dir), **settings}
        if "network" in settings:
            del settings["hidden_sizes"]
        tfrl.train(algo, **settings)
        return csv_file.read(run_dir / "metrics.csv"), run_dir

    @pytest.mark.slow
    def test_runs_emit_every_metric_of_the_tables(self):
        emitted, histograms = set(), set()
        for algo, settings in (
            (
                "dqn",
                dict(prioritized=True, total_env_steps=700, min_replay=100, updates_per_call=4),
            ),
            (
                "c51",
                dict(
                    network=penalized, total_env_steps=400, min_replay=100, updates_per_call=4
                ),
            ),
            (
                "td3",
                dict(
                    env="tfrl.testing.fakes:TargetPoint", total_env_steps=200, min_replay=100,
                    batch_size=8, updates_per_call=4, policy_hidden_sizes=(8,), critic_hidden_sizes=(8,),
                ),
            ),
            (
                "sac",
                dict(
                    total_env_steps=200, min_replay=100, batch_size=8, updates_per_call=4,
                    policy_hidden_sizes=(8,), critic_hidden_sizes=(8,),
                ),
            ),
            (
                "hdqn",
                dict(
                    env="tfrl/TrashCoordination9x5-v0", max_episode_steps=10, total_env_steps=300, min_replay=60,
                    trained_env_steps=4, max_goal_length=4, low_hidden_sizes=(8,), batch_size=4,
                    env_steps_per_update=16, updates_per_call=2,
                ),
            ),
            ("es", dict(total_env_steps=400, episodes_per_batch=4, normalize_observations=True)),
            (
                "ppo",
                dict(kl_coefficient=0.2, total_env_steps=1_024, unroll_length=64, with_=["sparse"]),
            ),
            (
                "appo",
                dict(
                    total_env_steps=3_000, unroll_length=10, num_envs=4, num_actors=2,
                    backend="processes", batch_env_steps=40, replay_proportion=0.5,
                ),
            ),
        ):  # fmt: skip
            with self.subTest(algo):
                rows, run_dir = self.run_of(algo, **settings)
                names = {name for row in rows for name in row}
                emitted |= names
                events = EventAccumulator(str(run_dir))
                events.Reload()
                histograms |= set(events.Tags()["histograms"]) & set(HISTOGRAMS)
                retraces = [x["learner/retraces"] for x in rows if "learner/retraces" in x]
                self.assertEqual(set(retraces), {0.0})
                # Alone in a process nobody waits, and nothing is queued where actors wait.
                self.assertEqual(bool(names & STALLS), settings.get("backend") == "processes")
                self.assertEqual("replay/queue_items" in names, algo == "appo")
        self.assertEqual(emitted, set(METRICS))
        self.assertEqual(histograms, set(HISTOGRAMS))


if __name__ == "__main__":
    tf.test.main()
