"""Intervals of env steps: once for each multiple that is passed."""

import numpy as np
from absl.testing import absltest

from tfrl.runtime.interval import Interval


class IntervalTest(absltest.TestCase):
    def test_fires_once_for_each_multiple_that_is_passed(self):
        interval = Interval(100)
        fired = [now for now in (40, 99, 100, 130, 199, 350, 360, 400) if interval.due(now)]
        self.assertEqual(fired, [100, 350, 400])

    def test_a_resumed_counter_keeps_its_rhythm(self):
        interval = Interval(100, start=250)
        self.assertEqual(
            [interval.due(n) for n in (260, 299, 300, 301)], [False, False, True, False]
        )

    def test_zero_is_never(self):
        self.assertFalse(any(Interval(0).due(int(n)) for n in np.arange(1_000)))


if __name__ == "__main__":
    absltest.main()
