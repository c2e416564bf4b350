"""Sampling from a real Reverb server: distribution, priorities written back, ratio, time-outs."""

import pathlib
import tempfile

import gymnasium as gym
import numpy as np
import reverb
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import NStep, Replay
from tfrl.replay.kinds import make_writer
from tfrl.replay.sampler import ReplayTimeout, Sampler
from tfrl.replay.tables import EXPERIENCE, experience_table
from tfrl.replay.transitions import TransitionLayout
from tfrl.runtime.storage.replay_server import ReplayServer, save_contents
from tfrl.testing import reference, trajectories
from tfrl.types import EnvSpec

SPEC = EnvSpec("one", gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(3))


def plan(kind, priority_exponent=0.0, **changes):
    values = dict(
        item=NStep(1, 0.9), capacity_items=1_000, min_items=10, samples_per_insert=8.0, batch_size=4,
        priority_exponent=priority_exponent if kind == "prioritized" else None,
    )  # fmt: skip
    return Replay(**{**values, **changes})


class SamplingTest(tf.test.TestCase, parameterized.TestCase):
    def serve(self, replay_plan, items, samples_per_block=None):
        layout = TransitionLayout(SPEC, replay_plan.prioritized)
        server = ReplayServer([experience_table(replay_plan, layout, samples_per_block)])
        self.addCleanup(server.stop)
        client = reverb.Client(server.address)
        writer = make_writer([client], replay_plan.item, layout, 1)
        self.addCleanup(writer.close)
        for acted in trajectories.random_script(SPEC, 1, items, 0, same_step=True).acted:
            writer.write(*acted)
        writer.flush()
        return server, client, layout

    def draw(self, server, blocks, size):
        sampler = Sampler(server.address, size, timeout_s=20.0)
        samples = [sampler.next() for _ in range(blocks)]
        keys = np.concatenate([s.keys.numpy() for s in samples])
        probability = np.concatenate([s.probability.numpy() for s in samples])
        return keys, probability

    def test_prioritized_draws_follow_the_exponent(self):
        num_items, draws = 12, 20_000
        server, client, _ = self.serve(plan("prioritized", priority_exponent=0.6), num_items)
        known = np.unique(self.draw(server, 5, 200)[0])
        self.assertLen(known, num_items)
        priorities = np.linspace(0.1, 5.0, num_items) ** 2
        client.mutate_priorities(EXPERIENCE, dict(zip(known.tolist(), priorities.tolist())))
        keys, probability = self.draw(server, draws // 2_000, 2_000)
        expected = reference.prioritized_probabilities(priorities, 0.6)
        for key, p in zip(known, expected):
            self.assertAllClose(np.unique(probability[keys == key]), [p], rtol=1e-6)
        counts = np.array([np.count_nonzero(keys == key) for key in known])
        self.assertEqual(counts.sum(), draws)
        chi_squared = float(np.sum((counts - draws * expected) ** 2 / (draws * expected)))
        self.assertLess(chi_squared, 40.0)  # 11 degrees of freedom: by chance in 4 of 100,000 runs
        flat = np.full(num_items, draws / num_items)
        self.assertGreater(np.sum((counts - flat) ** 2 / flat), 1_000.0)  # uniform would be seen

    def test_uniform_draws(self):
        server, _, _ = self.serve(plan("uniform"), 16)
        keys, probability = self.draw(server, 10, 2_000)
        self.assertAllClose(np.unique(probability), [1 / 16])
        counts = np.unique(keys, return_counts=True)[1]
        self.assertLen(counts, 16)
        self.assertLess(float(np.sum((counts - 1_250.0) ** 2 / 1_250.0)), 46.0)

    def test_the_oldest_items_leave_first(self):
        server, client, layout = self.serve(plan("uniform", capacity_items=20), 50)
        self.assertEqual(client.server_info()[EXPERIENCE].current_size, 20)
        script = trajectories.random_script(SPEC, 1, 50, 0, same_step=True)
        samples = Sampler(server.address, 2_000, timeout_s=20.0).next()
        batch = layout.decode(samples.columns, tf.ones([2_000]))
        rewards = np.float32([a.step.reward[0] for a in script.acted])
        self.assertAllEqual(np.unique(batch.reward_t), np.unique(rewards[-20:]))

    def test_waiting_for_items_ends_in_an_error_that_says_who_waits(self):
        server, _, _ = self.serve(plan("uniform"), 0)
        sampler = Sampler(server.address, 4, timeout_s=0.3)
        with self.assertRaisesRegex(ReplayTimeout, "waited 0 s for experience.*stopped inserting"):
            sampler.next()

    def test_a_limiter_of_processes_holds_the_ratio(self):
        # 8 samples per insert from 10 items on, and room for three blocks of 16 on either side.
        server, client, _ = self.serve(plan("uniform"), 15, samples_per_block=16)
        sampler = Sampler(server.address, 16, timeout_s=0.5)
        taken = 0
        with self.assertRaises(ReplayTimeout):
            while taken < 10_000:
                sampler.next()
                taken += 16
        info = client.server_info()[EXPERIENCE].rate_limiter_info
        self.assertEqual((info.samples_per_insert, info.min_size_to_sample), (8.0, 10))
        completed = info.sample_stats.completed
        self.assertBetween(completed, 8 * (15 - 10), 8 * (15 - 10) + 48)
        self.assertBetween(taken, completed - 48, completed)

    def test_a_restored_server_holds_what_was_saved(self):
        server, client, layout = self.serve(plan("prioritized", priority_exponent=1.0), 30)
        keys = np.unique(self.draw(server, 2, 500)[0])
        priorities = {int(k): 1.0 + i for i, k in enumerate(keys)}
        client.mutate_priorities(EXPERIENCE, priorities)
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "replay"
        save_contents(client, folder)
        table = experience_table(plan("prioritized", priority_exponent=1.0), layout, None)
        again = ReplayServer([table], restore=folder)
        self.addCleanup(again.stop)
        self.assertEqual(reverb.Client(again.address).server_info()[EXPERIENCE].current_size, 30)
        found, probability = self.draw(again, 4, 2_000)
        for key, p in zip(found, probability):
            self.assertAlmostEqual(p, priorities[int(key)] / sum(priorities.values()), places=6)
