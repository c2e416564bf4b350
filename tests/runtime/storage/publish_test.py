"""Weights through a real table: newest only, each once, refused unless they fit, bounded calls."""

import time

import numpy as np
import reverb
import tensorflow as tf
from absl.testing import absltest

from tfrl.replay.bounded import BoundedCalls, ReplayUnreachable
from tfrl.runtime.storage import publish
from tfrl.runtime.storage.replay_server import ReplayServer

SPECS = [tf.TensorSpec([2, 3], tf.float32), tf.TensorSpec([], tf.float32)]


def weights(value):
    return [np.full((2, 3), value, np.float32), np.float32(-value)]


class PublishTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        server = ReplayServer([publish.variables_table()])
        self.addCleanup(server.stop)
        self.client = reverb.Client(server.address)
        self.publisher = publish.VariablePublisher(self.client, SPECS, BoundedCalls())
        self.source = publish.VariableSource(self.client, BoundedCalls())

    def test_newest_weights_arrive_once_with_their_facts(self):
        self.assertIsNone(self.source.pull())
        self.publisher.publish(1, weights(1.0), max_priority=2.5)
        self.publisher.publish(7, weights(7.0), max_priority=3.5, other=1.0)
        published = self.source.pull()
        self.assertEqual(published.version, 7)
        self.assertEqual(published.facts, {"max_priority": 3.5, "other": 1.0})
        self.assertLen(published.arrays, 2)
        for got, expected in zip(published.arrays, weights(7.0), strict=True):
            self.assertAllEqual(got, expected)
            self.assertEqual(got.dtype, np.float32)
        self.assertIsNone(self.source.pull())
        self.publisher.publish(8, weights(8.0))
        self.assertEqual(self.source.pull()[::2], (8, {}))

    def test_version_may_go_back_as_after_a_restart_of_the_learner(self):
        self.publisher.publish(100, weights(1.0))
        self.assertEqual(self.source.pull().version, 100)
        self.publisher.publish(50, weights(2.0))
        self.assertEqual(self.source.pull().version, 50)

    def test_each_source_gets_them(self):
        self.publisher.publish(3, weights(3.0))
        other = publish.VariableSource(self.client, BoundedCalls())
        self.assertEqual([s.pull().version for s in (self.source, other)], [3, 3])

    def test_array_of_another_shape_or_type_is_refused(self):
        for wrong in (np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float64)):
            with self.assertRaisesRegex(ValueError, r"expected TensorSpec\(shape=\(2, 3\)"):
                self.publisher.publish(1, [wrong, np.float32(0)])
        self.assertIsNone(self.source.pull())


class BoundedCallsTest(absltest.TestCase):
    def test_waiting_ends_in_time_and_shows_life(self):
        beats = []
        call = BoundedCalls(timeout_s=0.5, on_wait=lambda: beats.append(1))
        start = time.monotonic()
        with self.assertRaisesRegex(ReplayUnreachable, "a long thing: the replay server"):
            call("a long thing", time.sleep, 3)
        self.assertBetween(time.monotonic() - start, 0.4, 2.0)
        self.assertNotEmpty(beats)

    def test_result_and_error_come_back(self):
        call = BoundedCalls()
        self.assertEqual(call("sum", sum, (1, 2)), 3)
        with self.assertRaises(ZeroDivisionError):
            call("division", lambda: 1 / 0)


if __name__ == "__main__":
    absltest.main()
