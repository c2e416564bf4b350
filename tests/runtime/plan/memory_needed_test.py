"""What does not fit into memory is refused before anything starts, with the arithmetic."""

from __future__ import annotations

from unittest import mock

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.api import make_job
from tfrl.errors import SettingError
from tfrl.replay import learner_replay
from tfrl.runtime.plan import memory
from tfrl.runtime.plan.run_plan import plan_run

GB = 2**30


class Large(gym.Env):
    """Images of 600 x 600 pixels."""

    def __init__(self):
        self.observation_space = gym.spaces.Box(0, 255, (600, 600, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.low, {}


class MemoryTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(mock.patch.object(learner_replay, "free_bytes", lambda: 8 * GB))

    def refused(self, algo, **settings):
        with self.assertRaises(SettingError) as caught:
            memory.refuse_too_large(plan_run(make_job(algo, **settings), starting=True))
        return str(caught.exception)

    def test_a_replay_of_vectors(self):
        self.assertEqual(
            self.refused("dqn", replay_capacity=10**12),
            "replay_capacity: 1,000,000,000,000 items of 44 bytes, as stored, take 40,978.2 GB; expected at most "
            "the 8.0 GB that are free, some 195,225,786 items",
        )

    def test_a_replay_of_images_is_refused_before_the_network(self):
        message = self.refused("dqn", env=f"{__name__}:Large")
        size = 12 + 2 * 600 * 600 * 3
        self.assertIn(f"50,000 items of {size / 4:,.0f} bytes, as stored, take 25.1 GB", message)

    def test_a_replay_beside_the_learner(self):
        message = self.refused("dqn", replay_capacity=10**9, replay_residency="learner")
        self.assertIn("a replay of 1,000,000,000 items of 44 bytes takes 41,962 MB", message)

    def test_sequences(self):
        self.assertIn(
            "replay_capacity: 500,000,000 items",
            self.refused("dqn", core="gru", replay_capacity=10**10),
        )

    def test_one_call_of_the_learner(self):
        self.assertRegex(
            self.refused("ppo", unroll_length=10**9),
            r"one call of the learner takes 1 items of .* bytes, 36.3 GB.*lower unroll_length",
        )

    def test_unrolls_of_stacked_frames(self):
        layout = plan_run(make_job("ppo", env="ALE/Pong-v5", unroll_length=32)).layout
        frames = 32 + 4 + 2 * 3
        size = 33 * layout.packing.nbytes + frames * 84 * 84 + 2 * 8
        self.assertEqual(memory.fetched_bytes(layout), size)

    def test_unrolls_kept(self):
        self.assertStartsWith(
            self.refused("impala", replay_proportion=1.0, replay_unrolls=10**9),
            "replay_unrolls: 1,000,000,000 unrolls of 2,005 bytes take 1,867.3 GB",
        )

    @parameterized.parameters("dqn", "ppo")
    def test_a_network(self, algo):
        message = self.refused(algo, hidden_sizes=(10**6, 10**6))
        self.assertStartsWith(
            message, "the network: with its layer of 1000000 x 1000000 weights it takes 3,725.3 GB"
        )

    def test_what_fits_passes(self):
        for algo in ("dqn", "ppo"):
            memory.refuse_too_large(plan_run(make_job(algo), starting=True))

    def test_another_error_is_not_hidden(self):
        with self.assertRaisesRegex(ZeroDivisionError, "x"), memory.limited_weights():
            tf.Variable(1.0)
            raise ZeroDivisionError("x")


if __name__ == "__main__":
    tf.test.main()
