"""The queue beside the learner: what goes in comes out, in order, and survives a checkpoint."""

import pathlib
import tempfile

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import Unroll
from tfrl.replay import local_queue
from tfrl.replay.kinds import sequence_layout, sequence_writer
from tfrl.replay.local_queue import LocalQueue
from tfrl.testing import reference, trajectories
from tfrl.types import EnvSpec, PolicyStep

DISCOUNT, LENGTH = 0.9, 4
SPEC = EnvSpec("e", gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(2))


def recorded(num_envs, steps):
    """Steps as an actor hands them to a writer, with a memory of two numbers."""
    script = trajectories.random_script(SPEC, num_envs, steps, 0, same_step=False)
    rng = np.random.default_rng(0)
    out = []
    for i, acted in enumerate(script.acted):
        log_prob = {"log_prob": rng.normal(size=num_envs).astype(np.float32)}
        choice = PolicyStep(rng.integers(2, size=num_envs), (), log_prob)
        state = rng.normal(size=(num_envs, 2)).astype(np.float32)
        step = acted.step._replace(next_obs=acted.step.obs)
        out.append(reference.Recorded(acted.obs, state, choice, step, i // LENGTH))
    return out


def layout_of(records, num_envs):
    item = Unroll(LENGTH, DISCOUNT)
    return sequence_layout(SPEC, item, (records[0].choice, records[0].state), num_envs)


def filled(num_envs, items):
    """A queue with so many items, its layout, and what they are."""
    records = recorded(num_envs, items * LENGTH)
    layout, local = layout_of(records, num_envs), LocalQueue()
    writer = sequence_writer(local, layout.item, layout, num_envs)
    for obs, state, choice, step, version in records:
        writer.load((), version, 1.0)
        writer.record(obs, state, choice, step)
    return local, layout, reference.unrolls(records, LENGTH, DISCOUNT)


class LocalQueueTest(tf.test.TestCase, parameterized.TestCase):
    def assertHolds(self, layout, samples, unrolls):
        batch = layout.decode(samples.columns)
        for name in ("obs", "action", "reward", "is_last", "valid", "is_first"):
            expected = np.concatenate([getattr(u, name) for u in unrolls], 1)
            self.assertAllClose(getattr(batch, name), expected, msg=name)
        for name in ("state", "version"):
            expected = np.concatenate([getattr(u, name) for u in unrolls], 0)
            self.assertAllClose(getattr(batch, name), expected, msg=name)

    def test_items_come_out_in_order_each_once(self):
        local, layout, unrolls = filled(3, 5)
        self.assertLen(local, 5)
        self.assertHolds(layout, local.take(2), unrolls[:2])
        self.assertHolds(layout, local.take(1), unrolls[2:3])
        self.assertHolds(layout, local.take(2), unrolls[3:])
        self.assertLen(local, 0)
        with self.assertRaises(IndexError):
            local.take(1)

    def test_contents_come_back(self):
        local, layout, unrolls = filled(3, 4)
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "replay"
        local.save(folder)
        self.assertTrue(local_queue.saved_here(folder))
        other = LocalQueue()
        other.restore(folder, layout.refit)
        self.assertHolds(layout, other.take(4), unrolls)

    @parameterized.parameters((2, 6), (6, 2), (5, 2), (1, 12), (13, 0))
    def test_they_come_back_to_another_number_of_environments(self, num_envs, items):
        """The columns of all items in their order, as many to an item as there are environments now."""
        local, layout, unrolls = filled(3, 4)
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "replay"
        local.save(folder)
        other, layout = LocalQueue(), layout_of(recorded(num_envs, 1), num_envs)
        other.restore(folder, layout.refit)
        self.assertLen(other, items)
        if not items:
            return
        found = layout.decode(other.take(items).columns)
        for name, axis in (("reward", 1), ("obs", 1), ("valid", 1), ("state", 0)):
            columns = np.concatenate([getattr(u, name) for u in unrolls], axis)
            kept = np.take(columns, range(items * num_envs), axis)
            self.assertAllClose(getattr(found, name), kept, msg=name)
        versions = np.concatenate([u.version for u in unrolls])[: items * num_envs]
        oldest = versions.reshape(items, num_envs).min(1)
        self.assertAllEqual(found.version, np.repeat(oldest, num_envs))


if __name__ == "__main__":
    tf.test.main()
