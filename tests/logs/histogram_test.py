"""Histograms of whole numbers: exact where small, and what they say of many numbers."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfrl.job import LogPlan
from tfrl.logs.histogram import Histogram
from tfrl.logs.logger import Logger


def of(values):
    histogram = Histogram()
    histogram.add(np.array(values))
    return histogram


class HistogramTest(parameterized.TestCase):
    @parameterized.parameters(0, 1, 2)
    def test_small_numbers_are_exact(self, seed):
        values = np.random.default_rng(seed).integers(0, 65, 501)
        histogram = of(values)
        self.assertAlmostEqual(histogram.mean, values.mean())
        self.assertEqual(histogram.max, values.max())
        for percent in (1, 50, 95, 100):
            expected = np.percentile(values, percent, method="inverted_cdf")
            self.assertEqual(histogram.percentile(percent), expected)

    def test_large_numbers_are_known_to_a_fifth(self):
        for value in (65, 100, 1_234, 99_999, 500_000):
            self.assertBetween(of([value]).max, value, value * 1.2)
        self.assertEqual(of([10**9]).max, Histogram.LIMITS[-1])
        self.assertEqual(of([-3]).max, 0)  # a learner that went back to a checkpoint
        self.assertLess(len(Histogram.LIMITS), 128)

    def test_differences_are_what_came_between(self):
        histogram = of([1, 1, 5])
        before = histogram.counts.copy()
        self.assertFalse(Histogram(histogram.counts - before))
        histogram.add(np.array([[7], [9]]))
        new = Histogram(histogram.counts - before)
        self.assertTrue(new)
        self.assertEqual((new.mean, new.max), (8.0, 9))


class TensorboardTest(absltest.TestCase):
    def test_bars_stand_where_the_numbers_are(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        tag, plan = "learner/policy_lag_updates", LogPlan(console="none")
        with Logger(folder, plan, 100) as logger:
            logger.write({"run/env_steps": 10}, {tag: of([0, 0, 3, 8])})
            logger.write({"run/env_steps": 20}, {tag: Histogram()})
            logger.write({"run/env_steps": 30}, {tag: of([2])})
            with self.assertRaisesRegex(KeyError, "did you mean learner/policy_lag_updates"):
                logger.write({"run/env_steps": 40}, {"learner/policy_lag": of([2])})
        events = EventAccumulator(str(folder), {"histograms": 0})
        events.Reload()
        found = events.Histograms(tag)
        self.assertEqual([event.step for event in found], [10, 30])
        first, last = (event.histogram_value for event in found)
        self.assertEqual((first.min, first.max, first.num, first.sum), (0.0, 8.0, 4.0, 11.0))
        bars, left = [], -float("inf")
        for right, count in zip(first.bucket_limit, first.bucket):
            if count:
                bars.append((right, count))
                self.assertLessEqual(right - left, 1.0)  # no wider than the number
            left = right
        self.assertEqual(bars, [(0.0, 2.0), (3.0, 1.0), (8.0, 1.0)])
        self.assertEqual((last.num, last.sum, last.sum_squares), (1.0, 2.0, 4.0))


if __name__ == "__main__":
    absltest.main()
