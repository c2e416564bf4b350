"""Totals, and what is in the rows of a log."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from tfrl.api import make_job
from tfrl.errors import RunFailed
from tfrl.logs.histogram import Histogram
from tfrl.logs.logger import Logger
from tfrl.logs.window import EpisodeWindow
from tfrl.runtime.books import Books, Report, Totals
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.storage.checkpoint import Checkpoint

RATES = ("run/env_steps_per_s", "run/updates_per_s")


class RatesTest(parameterized.TestCase):
    def rates(self, report, **totals):
        row = report.row(Totals(**totals), EpisodeWindow(100), {})
        return tuple(row.get(name) for name in RATES)

    def test_the_closing_row_has_no_rate_of_nothing(self):
        report = Report(1_000, 0, Totals())
        self.assertEqual(self.rates(report, env_steps=500, updates=50, train_s=1.0), (500, 50))
        # The last learner call has ended since, and nothing else was done.
        self.assertEqual(
            self.rates(report, env_steps=500, updates=52, train_s=1.1), (None, 2 / (1.1 - 1.0))
        )
        self.assertEqual(self.rates(report, env_steps=500, updates=52, train_s=1.101), (None, None))

    def test_a_stall_is_a_rate_of_zero(self):
        report = Report(1_000, 0, Totals(env_steps=500, train_s=1.0))
        self.assertEqual(self.rates(report, env_steps=500, train_s=2.0), (0, 0))

    def test_seconds_of_rows_without_env_steps_are_in_the_next_row_that_has_some(self):
        report, window = Report(1_000, 0, Totals(seconds={"env": 5.0})), EpisodeWindow(100)
        rows = [
            report.row(Totals(env_steps=steps, seconds={"env": spent}), window, {})
            for steps, spent in ((0, 6.0), (0, 7.0), (100, 8.0), (100, 9.0), (150, 11.0))
        ]
        spent_us = [row.get("time/env_us") for row in rows]
        self.assertEqual(spent_us, [None, None, 3.0 / 100 * 1e6, None, 3.0 / 50 * 1e6])

    @parameterized.parameters(
        ("learner/loss", True), ("learner/value_loss", True), ("learner/alpha_loss", True),
        ("learner/gradient_norm", True), ("learner/q_mean", False), ("actor/loss", False),
    )  # fmt: skip
    def test_a_loss_that_is_not_finite_ends_the_run_whatever_its_algorithm(self, name, ends):
        report = Report(1_000, 0, Totals())
        window = EpisodeWindow(100)
        self.assertIn(name, report.row(Totals(env_steps=1), window, {name: 1.0}))
        for bad in (math.nan, math.inf):
            if ends:
                with self.assertRaisesRegex(RunFailed, name):
                    report.row(Totals(env_steps=2), window, {name: bad})
            else:
                self.assertNotIn(name, report.row(Totals(env_steps=2), window, {name: bad}))


class BooksTest(absltest.TestCase):
    """Rows of both backends are made here."""

    def books(self, state=None, **settings):
        folder = self.enter_context(tempfile.TemporaryDirectory())
        job = make_job(
            run_dir=folder, env="tfrl.testing.fakes:IdentityGame", console="none", tensorboard=False, **settings
        )  # fmt: skip
        logger = Logger(folder, job.log, job.total_env_steps)
        self.addCleanup(logger.close)
        self.now = 0.0
        plan = plan_run(job)
        if state is not None:
            plan = dataclasses.replace(plan, found=Checkpoint(pathlib.Path(folder), state))
        return Books(plan, logger, lambda: self.now)

    def row(self, books, lags=None, metrics=None, knobs=(), size=None, waiting=None):
        rows = []
        books._logger.write = lambda row, histograms: rows.append(row)
        books.write(EpisodeWindow(100), lags or Histogram(), metrics or {}, knobs, size, waiting)
        return rows[0]

    def test_what_is_not_known_is_absent_and_knobs_are_means_over_actors(self):
        books = self.books(algo="dqn")
        knobs = [{"actor/epsilon": 0.1}, {"actor/epsilon": 0.3}]
        row = self.row(books, knobs=knobs, size=7, waiting=3)
        self.assertAlmostEqual(row["actor/epsilon"], 0.2)
        self.assertEqual(row["replay/size_items"], 7)
        self.assertNotIn("replay/queue_items", row)  # a replay has none
        row = self.row(books)
        self.assertNoCommonElements(row, ["actor/epsilon", "replay/size_items"])
        self.assertNotIn("learner/policy_lag_mean_updates", row)

    def test_a_queue_is_shown_where_actors_do_not_wait_for_it(self):
        self.assertEqual(self.row(self.books(algo="impala"), waiting=3)["replay/queue_items"], 3)
        self.assertNotIn("replay/queue_items", self.row(self.books(algo="ppo"), waiting=3))

    def test_a_resumed_population_counts_the_iterations_that_its_learner_has_made(self):
        # A stop came between a result and its actor's report: 100 env steps that the totals lack.
        for reported, whole, expected in ((900, 1_000, 1_000), (1_050, 1_000, 1_050)):
            totals = dataclasses.asdict(Totals(env_steps=reported))
            state = {"totals": totals, "population_env_steps": whole}
            books = self.books(state, algo="ars")
            self.assertEqual(books.totals.env_steps, expected)
        books = self.books({"totals": dataclasses.asdict(Totals(env_steps=7))}, algo="dqn")
        self.assertEqual(books.totals.env_steps, 7)

    def test_seconds_are_added_by_part_and_rows_are_due(self):
        books = self.books(algo="dqn", log_every_s=2.0)
        books.spend({"act": 3.0, "room": 1.0}, {"act": 1.0})
        self.assertEqual((books.totals.seconds["act"], books.totals.seconds["room"]), (2.0, 1.0))
        self.now = 2.0
        self.assertTrue(books.due())
        self.row(books)
        self.assertFalse(books.due())


if __name__ == "__main__":
    absltest.main()
