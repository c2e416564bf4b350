"""Sequences in a replay beside the learner: what is written is what is drawn, and what updates make of it."""

import pathlib
import tempfile

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree
from absl.testing import parameterized

from tfrl.agent import Replay, Windows
from tfrl.algos import dqn
from tfrl.envs.make import make_spec
from tfrl.job import EnvPlan
from tfrl.replay.kinds import make_layout, sequence_layout, sequence_writer
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.sampler import Samples
from tfrl.replay.sequence_rows import RowSink, SequenceRows
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.testing import conformance, reference, trajectories
from tfrl.types import EnvSpec, PolicyStep

SPEC = EnvSpec(
    "e",
    gym.spaces.Dict(a=gym.spaces.Box(-1, 1, (3,), np.float64), b=gym.spaces.MultiBinary(5)),
    gym.spaces.Discrete(4),
    reward_parts=("gain", "cost"),
    step_discount=True,
)
ITEM, NUM_ENVS = Windows(6, 0.9, period=4), 3


def recorded(steps, memory):
    script = trajectories.random_script(SPEC, NUM_ENVS, steps, 0, same_step=False)
    rng = np.random.default_rng(0)
    out = []
    for i, acted in enumerate(script.acted):
        choice = PolicyStep(rng.integers(4, size=NUM_ENVS), (), {})
        state = rng.normal(size=(NUM_ENVS, 2)).astype(np.float32) if memory else ()
        step = acted.step._replace(next_obs=acted.step.obs)
        out.append(reference.Recorded(acted.obs, state, choice, step, i))
    return out


def filled(records):
    """A replay with the sequences of records, and their layout."""
    layout = sequence_layout(SPEC, ITEM, (records[0].choice, records[0].state), NUM_ENVS)
    plan = Replay(ITEM, 40, 1, 1.0, batch_size=5, priority_exponent=0.5)
    replay = LearnerReplay(plan, SequenceRows(layout), 1)
    writer = sequence_writer(RowSink(replay.insert, SequenceRows(layout)), ITEM, layout, NUM_ENVS)
    for obs, state, choice, step, version in records:
        writer.load((), version, 1.0)
        writer.record(obs, state, choice, step)
    return replay, layout, writer.items_written


class RowsTest(tf.test.TestCase, parameterized.TestCase):
    def assertHolds(self, replay, layout, records):
        unrolls = reference.unrolls(records, ITEM.length, ITEM.discount, ITEM.period)
        self.assertEqual(replay.size, NUM_ENVS * len(unrolls))
        for jit in (False, True):
            read = tf.function(lambda slots: layout.decode(replay.read(slots)), jit_compile=jit)
            found = read(tf.range(replay.size))
            for name in (
                "obs", "action", "reward", "rewards", "discount", "is_last", "valid", "is_first",
            ):  # fmt: skip
                parts = [getattr(u, name) for u in unrolls]
                expected = tree.map_structure(lambda *x: np.concatenate(x, 1), *parts)
                tree.map_structure(self.assertAllEqual, getattr(found, name), expected)
            state = tree.map_structure(lambda *x: np.concatenate(x), *[u.state for u in unrolls])
            tree.map_structure(self.assertAllEqual, found.state, state)
            self.assertAllEqual(found.version, np.concatenate([u.version for u in unrolls]))

    @parameterized.parameters(True, False)
    def test_what_was_written_is_read_and_comes_back_from_a_checkpoint(self, memory):
        records = recorded(30, memory)
        replay, layout, written = filled(records)
        self.assertEqual(replay.written, written)
        self.assertHolds(replay, layout, records)
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "replay"
        replay.save(folder)
        again = filled(records[:1])[0]
        again.restore(folder)
        self.assertHolds(again, layout, records)


class UpdateTest(tf.test.TestCase):
    def test_it_is_that_of_the_same_sequences_from_a_server(self):
        env = "tfrl.envs.memory:RepeatPrevious"
        spec = make_spec(EnvPlan(env=env))
        agent = dqn.make(
            dqn.Config(
                core="gru", core_size=6, hidden_sizes=(8,), sequence_length=6, sequence_period=4,
                burn_in=2, n_step=2, batch_size=5, updates_per_call=1, prioritized=True,
                priority_exponent=0.5, replay_capacity=160, min_replay=40,
            ),
            spec,
        )  # fmt: skip
        layout = make_layout(agent, spec, agent.make_policy(), 4)
        rows = layout.rows()
        replay = LearnerReplay(agent.experience, rows, 1)
        items = conformance.unroll(agent, spec, 30, 0).columns
        sink = RowSink(replay.insert, rows)
        for i in range(30):
            sink.append({name: x[i].numpy() for name, x in items.items()}, 1.0)
        sink.flush(0, 0)
        strategy = tf.distribute.get_strategy()
        beside = LearnerLoop(agent, layout, strategy, "graph", 7, learner_replay=replay)
        served = LearnerLoop(agent, layout, strategy, "graph", 7)
        for update in range(4):
            drawn = replay.sample(5, tf.constant(update, tf.int64))
            keys, probability = tf.zeros([5], tf.uint64), tf.cast(drawn.probability, tf.float64)
            _, priorities = served.run(Samples(keys, probability, drawn.columns))
            beside.run(replay)
            newest = dict(zip(drawn.slots.numpy().tolist(), priorities.tolist(), strict=True))
            found = replay.priority_variables[0].numpy()
            for slot, priority in newest.items():
                self.assertAllClose(found[slot], priority**0.5, rtol=1e-4)
        one, two = (conformance.values(loop.learner) for loop in (beside, served))
        self.assertLess(conformance.apart(one, two), 1e-6)


if __name__ == "__main__":
    tf.test.main()
