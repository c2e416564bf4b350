"""Rows and where they go: names, episode statistics, CSV, TensorBoard."""

from __future__ import annotations

import csv
import io
import math
import pathlib
import tempfile

from absl.testing import absltest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tfrl.job import LogPlan
from tfrl.logs import csv_file
from tfrl.logs.logger import Logger
from tfrl.logs.metrics import METRICS, check_names
from tfrl.logs.window import EpisodeWindow


class MetricsTest(absltest.TestCase):
    def test_names_are_role_and_name_and_have_a_meaning(self):
        for name, metric in METRICS.items():
            self.assertRegex(name, r"^(run|actor|learner|replay|time|evaluator)/[a-z][a-z0-9_]+$")
            self.assertNotEmpty(metric.meaning)

    def test_unlisted_name_is_refused_with_the_nearest(self):
        check_names({"run/env_steps": 1.0, "learner/loss": 0.5})
        with self.assertRaisesRegex(KeyError, "'learner/los' .* did you mean learner/loss?"):
            check_names({"learner/los": 1.0})


class EpisodeWindowTest(absltest.TestCase):
    def test_nothing_before_the_first_episode(self):
        self.assertEqual(EpisodeWindow().metrics(), {})

    def test_statistics_of_the_last_episodes(self):
        window = EpisodeWindow(size=4)
        for value in (1000.0, 1.0, 2.0, 3.0, 10.0):
            window.add(value, int(value) + 1)
        self.assertEqual(window.total, 5)
        self.assertEqual(
            window.metrics(),
            {
                "actor/episode_return_mean": 4.0,
                "actor/episode_return_min": 1.0,
                "actor/episode_return_max": 10.0,
                "actor/episode_return_median": 2.5,
                "actor/episode_length_mean_env_steps": 5.0,
            },
        )
        check_names(window.metrics())

    def test_default_size_is_100(self):
        window = EpisodeWindow()
        for value in range(101):
            window.add(value, 1)
        self.assertEqual(window.metrics()["actor/episode_return_min"], 1.0)


class LoggerTestCase(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"

    def logger(self, **changes):
        plan = LogPlan(**{"console": "none", **changes})
        return Logger(self.folder, plan, 1000, out=io.StringIO())

    def rows(self):
        return csv_file.read(self.folder / "metrics.csv")


class CsvTest(LoggerTestCase):
    def test_columns_never_move_and_absent_is_empty(self):
        with self.logger() as logger:
            logger.write({"run/env_steps": 8, "learner/loss": 0.1})
            # Read while the run goes on: each row is out at once.
            self.assertLen(self.rows(), 1)
            logger.write({"run/env_steps": 16.0, "evaluator/return_mean": -2.5})
        with open(self.folder / "metrics.csv", newline="") as file:
            header, first, _ = csv.reader(file)
        self.assertEqual(header, list(METRICS))
        self.assertEqual({h: c for h, c in zip(header, first) if c}, {
            "run/env_steps": "8", "learner/loss": "0.1",
        })  # fmt: skip
        self.assertEqual(
            self.rows(),
            [
                {"run/env_steps": 8.0, "learner/loss": 0.1},
                {"run/env_steps": 16.0, "evaluator/return_mean": -2.5},
            ],
        )

    def test_numbers_read_back_exactly(self):
        for value in (0.1, 1 / 3, 1e-300, -7.0, 123456789012.0, 1e300, math.inf):
            self.assertEqual(float(csv_file.number(value)), value)
        self.assertEqual(csv_file.number(123456789012.0), "123456789012")

    def test_a_new_run_starts_a_new_file(self):
        for step in (1, 2):
            with self.logger() as logger:
                logger.write({"run/env_steps": step})
        self.assertEqual(self.rows(), [{"run/env_steps": 2.0}])

    def test_rewind_keeps_what_came_before(self):
        with self.logger() as logger:
            for step in (10, 20, 30):
                logger.write({"run/env_steps": step})
        with self.logger() as logger:
            logger.rewind(20)
            logger.write({"run/env_steps": 25})
        self.assertEqual([row["run/env_steps"] for row in self.rows()], [10, 20, 25])

    def test_rewind_within_a_run(self):
        with self.logger() as logger:
            for step in (10, 20):
                logger.write({"run/env_steps": step})
            logger.rewind(10)
            logger.write({"run/env_steps": 15})
        self.assertEqual([row["run/env_steps"] for row in self.rows()], [10, 15])

    def test_unfinished_line_of_a_killed_run_is_dropped(self):
        with self.logger() as logger:
            logger.write({"run/env_steps": 10})
        path = self.folder / "metrics.csv"
        path.write_text(path.read_text() + "20,3")
        with self.logger() as logger:
            logger.rewind(100)
            logger.write({"run/env_steps": 30})
        self.assertEqual([row["run/env_steps"] for row in self.rows()], [10, 30])

    def test_columns_of_another_version(self):
        self.folder.mkdir()
        (self.folder / "metrics.csv").write_text("gone/name,run/env_steps\n5,10\n")
        with self.logger() as logger:
            logger.rewind(10)
        self.assertEqual(self.rows(), [{"run/env_steps": 10.0}])

    def test_rows_must_be_known_and_placed(self):
        with self.logger() as logger:
            with self.assertRaisesRegex(KeyError, "did you mean run/env_steps"):
                logger.write({"run/env_step": 1.0})
            with self.assertRaisesRegex(KeyError, "run/env_steps"):
                logger.write({"learner/loss": 1.0})
        self.assertFalse(self.folder.exists())


class TensorboardTest(LoggerTestCase):
    def scalars(self, tag):
        events = EventAccumulator(str(self.folder))
        events.Reload()
        return [(event.step, event.value) for event in events.Scalars(tag)]

    def test_step_is_env_steps(self):
        with self.logger() as logger:
            logger.write({"run/env_steps": 8, "learner/loss": 0.5})
            logger.write({"run/env_steps": 16})
        self.assertEqual(self.scalars("learner/loss"), [(8, 0.5)])
        self.assertEqual(self.scalars("run/env_steps"), [(8, 8.0), (16, 16.0)])

    def test_settings_are_the_hyperparameters_of_the_run(self):
        settings = {"lr": 0.5, "core": "gru", "double": True, "sizes": (64, 32), "clip": None}
        plan = LogPlan(console="none")
        with Logger(self.folder, plan, 100, settings=settings) as logger:
            logger.write({"run/env_steps": 8})
        events = EventAccumulator(str(self.folder))
        events.Reload()
        data = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        found = HParamsPluginData.FromString(data).session_start_info.hparams
        self.assertEqual(
            {name: getattr(v, v.WhichOneof("kind")) for name, v in found.items()},
            {"lr": 0.5, "core": "gru", "double": True, "sizes": "64,32", "clip": "none"},
        )

    def test_rewind_drops_later_steps(self):
        with self.logger() as logger:
            for step in (10, 20, 30):
                logger.write({"run/env_steps": step, "learner/loss": 1.0})
        with self.logger() as logger:
            logger.rewind(20)
            logger.write({"run/env_steps": 25, "learner/loss": 2.0})
        self.assertEqual(self.scalars("learner/loss"), [(10, 1.0), (20, 1.0), (25, 2.0)])

    def test_can_be_switched_off(self):
        with self.logger(tensorboard=False) as logger:
            logger.write({"run/env_steps": 8})
        self.assertEqual([p.name for p in self.folder.iterdir()], ["metrics.csv"])


class DueTest(LoggerTestCase):
    def test_due_after_the_interval(self):
        now = [0.0]
        plan = LogPlan(log_every_s=2.0, console="none", tensorboard=False)
        with Logger(self.folder, plan, 1000, clock=lambda: now[0]) as logger:
            self.assertTrue(logger.due())
            logger.write({"run/env_steps": 1})
            now[0] = 1.9
            self.assertFalse(logger.due())
            now[0] = 2.0
            self.assertTrue(logger.due())


if __name__ == "__main__":
    absltest.main()
