"""A learner that trains on a batch while the next one is made: which weights act, when, and who may ask for it."""

import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.errors import SettingError
from tfrl.logs import csv_file
from tfrl.runtime.storage import folders

SETTINGS = dict(
    env="CartPole-v1", num_envs=4, unroll_length=16, hidden_sizes=(8,), total_env_steps=640,
    compile="xla", inference="lite", eval_every_env_steps=0, eval_episodes=1, final_eval_episodes=1,
    export_policy="last", checkpoint_every_env_steps=0, log_every_s=1e-9, console="none",
    tensorboard=False,
)  # fmt: skip


# Where only lags and counters are looked at, not bits.
QUICK = dict(compile="graph", inference="function")


class OverlapTest(tf.test.TestCase, parameterized.TestCase):
    def train(self, algo="ppo", **settings):
        return self.train_of(algo, {**SETTINGS, **settings})

    def train_of(self, algo, settings):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        result = tfrl.train(algo, run_dir=str(run_dir), **settings)
        with np.load(run_dir / folders.POLICY) as file:
            arrays = {name: file[name] for name in file.files}
        return result, arrays, csv_file.read(run_dir / "metrics.csv")

    def lags(self, rows):
        name = "learner/policy_lag_max_updates"
        return {row[name] for row in rows if name in row and row[name] > 0}

    def test_it_lags_by_one_batch_and_trains_on_all(self):
        self.check_lag("ppo", dict(epochs=2, minibatches=3), 6, {6})

    @parameterized.parameters(
        ("a2c", {}, 1, {1}),
        # Of whole episodes the lag counts from their start; of one environment none is open at an update.
        ("pg", dict(unroll_length=40, episodes_per_item=1, num_envs=1), 1, {1}),
    )
    @pytest.mark.slow
    def test_others_lag_by_one_batch_and_train_on_all(self, algo, settings, updates, lags):
        self.check_lag(algo, settings, updates, lags)

    def check_lag(self, algo, settings, updates, lags):
        settings = {**settings, **QUICK}
        result, _, rows = self.train(algo, overlap=True, **settings)
        self.assertNotEmpty(self.lags(rows))
        self.assertEqual(self.lags(rows), lags)
        last = [row for row in rows if "replay/items_inserted" in row][-1]
        self.assertEqual(result.updates, last["replay/items_inserted"] * updates)
        self.assertEqual(last["learner/policy_version_updates"], result.updates)
        rows = self.train(algo, **settings)[2]
        self.assertEmpty(self.lags(rows))  # in turns

    def test_the_lag_of_whole_episodes_counts_from_their_start(self):
        self.check_lag_of_episodes(4)

    @pytest.mark.slow
    def test_the_lag_of_single_episodes_counts_from_their_start(self):
        self.check_lag_of_episodes(1)

    def check_lag_of_episodes(self, episodes):
        settings = dict(unroll_length=40, episodes_per_item=episodes, **QUICK)
        result, _, rows = self.train("pg", overlap=True, **settings)
        last = [row for row in rows if "replay/items_inserted" in row][-1]
        self.assertEqual(result.updates, last["replay/items_inserted"])
        overlapped, (_, _, rows) = self.lags(rows), self.train("pg", **settings)
        self.assertGreaterEqual(min(overlapped), 1)
        # An episode of one environment is open while others end and are trained on.
        self.assertGreaterEqual(max(overlapped), 2)
        self.assertLess(max(self.lags(rows), default=0), max(overlapped) + 1)

    @pytest.mark.slow
    def test_a_checkpoint_and_an_evaluation_do_not_depend_on_who_is_faster(self):
        settings = dict(overlap=True, eval_every_env_steps=200, checkpoint_every_env_steps=300)
        (_, one, _), (_, two, _) = self.train(**settings), self.train(**settings)
        for name, array in one.items():
            self.assertEqual(array.tobytes(), two[name].tobytes(), name)

    def test_an_error_of_the_learner_ends_the_run(self):
        with self.assertRaisesRegex(Exception, "no such loss"):
            settings = {k: v for k, v in SETTINGS.items() if k != "hidden_sizes"}
            self.train_of("ppo", dict(settings, overlap=True, network=f"{__name__}:broken"))

    def test_a_replay_beside_the_learner_is_trained_on_while_the_next_steps_are_made(self):
        settings = dict(
            replay_residency="learner", prioritized=True, replay_capacity=200, min_replay=100,
            batch_size=8, env_steps_per_update=2, updates_per_call=4, learning_rate=0.1,
            epsilon_initial=0.0, epsilon_final=0.0,
            overlap=True, eval_every_env_steps=200, checkpoint_every_env_steps=300,
        )  # fmt: skip
        settings = {**SETTINGS, **settings}
        del settings["unroll_length"]
        (result, one, rows), (_, two, _) = (self.train_of("dqn", settings) for _ in range(2))
        for name, array in one.items():
            self.assertEqual(array.tobytes(), two[name].tobytes(), name)
        last = [row for row in rows if "replay/items_inserted" in row][-1]
        paid = (last["replay/items_inserted"] - 100) // 2
        self.assertEqual(result.updates, paid // 4 * 4)
        self.assertEqual(last["learner/policy_version_updates"], result.updates)
        (_, turns, _) = self.train_of("dqn", {**settings, "overlap": False})
        self.assertTrue(any(np.any(one[name] != turns[name]) for name in one))

    def test_who_cannot_is_told_so(self):
        with self.assertRaisesRegex(
            SettingError,
            "overlap with algo=impala: .*expected a replay, or an algorithm whose actors wait",
        ):
            tfrl.train("impala", env="CartPole-v1", overlap=True)
        with self.assertRaisesRegex(SettingError, "overlap with backend=processes: expected"):
            tfrl.train("ppo", env="CartPole-v1", overlap=True, backend="processes")


def broken(spec):
    """A network that cannot be differentiated."""
    del spec

    @tf.custom_gradient
    def refuse(x):
        def gradient(dy):
            raise ValueError("no such loss")

        return x, gradient

    return tf.keras.Sequential([tf.keras.layers.Dense(4), tf.keras.layers.Lambda(refuse)])


if __name__ == "__main__":
    tf.test.main()
