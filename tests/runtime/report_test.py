"""Rates in the rows of a log."""

from __future__ import annotations

from absl.testing import absltest

from tfrl.logs.window import EpisodeWindow
from tfrl.runtime.books import Report, Totals

RATES = ("run/env_steps_per_s", "run/updates_per_s")


class RatesTest(absltest.TestCase):
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


if __name__ == "__main__":
    absltest.main()
