"""From vector steps to unrolls and back, over a real Reverb server, against a slow twin."""

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
import tree
from absl.testing import parameterized

from tfrl.agent import Episodes, Unroll, Windows
from tfrl.replay import sequences
from tfrl.replay.computed import ComputedLayout
from tfrl.replay.kinds import sequence_layout, sequence_writer
from tfrl.replay.local_queue import LocalQueue
from tfrl.testing import reference, trajectories
from tfrl.types import EnvSpec, PolicyStep, Trajectory, VectorStep

spaces = gym.spaces
DISCOUNT = 0.9
PLAIN = spaces.Box(-1, 1, (3,), np.float32)
NESTED = spaces.Dict(
    row=spaces.Discrete(9, dtype=np.int32),
    deep=spaces.Tuple([spaces.MultiBinary(3), spaces.Box(-1, 1, (2, 2), np.float64)]),
    image=spaces.Box(0, 255, (4, 3, 1), np.uint8),
)
ACTIONS = {
    "discrete": spaces.Discrete(7, dtype=np.int32),
    "nested": spaces.Dict(
        push=spaces.Box(-1, 1, (2,), np.float32),
        pair=spaces.Tuple([spaces.Discrete(3, dtype=np.int32), spaces.MultiBinary(2)]),
    ),
}
OWN = dict(reward_parts=("gain", "cost"), step_discount=True)
STATES = {"none": (), "nested": {"policy": (np.float32, (3,)), "value": (np.int64, ())}}


def as_next_step(step):
    """What an environment gives that restarts in a step of its own: the same nest twice."""
    return step._replace(next_obs=step.obs)


def recorded(
    spec, num_envs, steps, seed, action="discrete", state="none", script=None, same_step=False
):
    """What an actor would hand to a writer: a random script with random choices of a policy."""
    script = script or trajectories.random_script(spec, num_envs, steps, seed, same_step)
    rng = np.random.default_rng(seed)
    space = ACTIONS[action]
    space.seed(seed)
    out = []
    for i, acted in enumerate(script.acted):
        choice = PolicyStep(
            trajectories.stack_rows([trajectories.sample(space) for _ in range(num_envs)]),
            (),
            {
                "log_prob": rng.normal(size=num_envs).astype(np.float32),
                "sample": {"a": rng.normal(size=(num_envs, 2)).astype(np.float32)},
            },
        )
        before = draw_state(state, num_envs, rng)
        step = acted.step if same_step else as_next_step(acted.step)
        out.append(reference.Recorded(acted.obs, before, choice, step, i // 5))
    return out


def draw_state(name, num_envs, rng):
    if name == "none":
        return ()
    kinds = STATES[name]
    return {
        key: rng.integers(100, size=(num_envs, *shape)).astype(dtype)
        for key, (dtype, shape) in kinds.items()
    }


def layout_of(spec, item, records, num_envs):
    first = records[0]
    return sequence_layout(spec, item, (first.choice, first.state), num_envs)


def write(bench, records):
    for obs, state, choice, step, version in records:
        bench.writer.load((), version, 1.0)
        bench.writer.record(obs, state, choice, step)


def joined(items):
    """Items side by side."""

    def join(name):
        axis = 0 if name in sequences.PER_COLUMN else 1
        parts = [getattr(item, name) for item in items]
        return tree.map_structure(lambda *x: np.concatenate(x, axis), *parts)

    return Trajectory(*(join(name) for name in Trajectory._fields))


class UnrollTestCase(tf.test.TestCase, parameterized.TestCase):
    def assertSame(self, found, expected, where=""):
        """Bit for bit, types too; sums to rounding."""
        for name in Trajectory._fields:
            mine, theirs = getattr(found, name), getattr(expected, name)
            tree.assert_same_structure(mine, theirs)
            for a, b in zip(tree.flatten(mine), tree.flatten(theirs), strict=True):
                self.assertEqual(a.dtype, b.dtype, f"{where} {name}")
                if name == "discounted_return":
                    self.assertAllClose(a, b, 1e-5, 1e-5, msg=f"{where} {name}")
                else:
                    self.assertAllEqual(a, b, f"{where} {name}")


class SequenceWriterTest(UnrollTestCase):
    @parameterized.product(
        action=sorted(ACTIONS), state=sorted(STATES), nested=(False, True), own=(False, True)
    )
    def test_what_was_written_comes_back(self, action, state, nested, own):
        spec = EnvSpec("e", NESTED if nested else PLAIN, ACTIONS[action], **(OWN if own else {}))
        records = recorded(spec, 3, 43, 1, action, state)
        item = Unroll(8, DISCOUNT)
        layout = layout_of(spec, item, records, 3)
        expected = reference.unrolls(records, 8, DISCOUNT)
        self.assertLen(expected, 5)
        with trajectories.unroll_bench(layout, item, 3) as bench:
            write(bench, records)
            self.assertEqual(bench.writer.items_written, 5)
            self.assertEqual(bench.writer.vector_steps_to_item, 8 - 43 % 8)
            for i, theirs in enumerate(expected):
                self.assertSame(bench.decoded(), theirs, f"item {i}")
        whole = joined(expected)
        self.assertTrue((whole.discount == 0).any())
        self.assertTrue((~whole.valid).any())
        self.assertTrue((whole.is_last & whole.valid & (whole.discount > 0)).any())  # truncated

    def test_several_items_join_column_by_column(self):
        spec = EnvSpec("e", NESTED, ACTIONS["nested"])
        records = recorded(spec, 2, 36, 2, "nested", "nested")
        item = Unroll(6, DISCOUNT)
        layout = layout_of(spec, item, records, 2)
        expected = reference.unrolls(records, 6, DISCOUNT)
        with trajectories.unroll_bench(layout, item, 2, block=3) as bench:
            write(bench, records)
            for part in (expected[:3], expected[3:]):
                self.assertSame(bench.decoded(), joined(part))

    def test_first_use_is_told_to_each_column(self):
        spec = EnvSpec("e", PLAIN, ACTIONS["discrete"])
        records = recorded(spec, 2, 8, 0)
        item = Unroll(4, DISCOUNT)
        with trajectories.unroll_bench(
            layout_of(spec, item, records, 2), item, 2, block=2
        ) as bench:
            write(bench, records)
            columns = {**bench.next().columns, "is_new": tf.constant([True, False])}
            batch = bench.layout.decode(columns)
        self.assertAllEqual(batch.is_new, [True, True, False, False])

    def test_replicas_share_columns(self):
        spec = EnvSpec("e", NESTED, ACTIONS["nested"])
        records = recorded(spec, 4, 5, 3, "nested", "nested")
        item = Unroll(5, DISCOUNT)
        layout = layout_of(spec, item, records, 4)
        with trajectories.unroll_bench(layout, item, 4) as bench:
            write(bench, records)
            batch = layout.decode(bench.next().columns)
        halves = [layout.share(batch, tf.constant(i), 2) for i in range(2)]
        whole = joined(tree.map_structure(np.asarray, halves))
        self.assertSame(whole, tree.map_structure(np.asarray, batch))
        self.assertAllEqual(halves[1].reward, batch.reward[:, 2:])

    def test_the_recurrent_state_restarts_after_the_final_observation(self):
        """One row: a step, a truncation, the reset, a termination, the reset."""
        spec = EnvSpec("e", PLAIN, ACTIONS["discrete"])
        flags = [(0, 0, 1), (0, 1, 1), (0, 0, 0), (1, 0, 1), (0, 0, 0), (0, 0, 1)]
        records = []
        for base, (terminated, truncated, valid) in zip(
            recorded(spec, 1, len(flags), 0), flags, strict=True
        ):
            one = lambda x: np.array([bool(x)])
            step = base.step._replace(
                terminated=one(terminated), truncated=one(truncated), valid=one(valid),
                reward=np.float32([valid]),
            )  # fmt: skip
            records.append(base._replace(step=step))
        item = Unroll(len(flags), DISCOUNT)
        with trajectories.unroll_bench(layout_of(spec, item, records, 1), item, 1) as bench:
            write(bench, records)
            found = bench.decoded()
        # The final observation of a truncated episode is read with the state of that episode.
        self.assertAllEqual(found.is_first[:, 0], [True, False, False, True, True, True, False])
        self.assertAllEqual(found.is_last[:, 0], [False, True, True, True, True, False])
        self.assertAllClose(found.discount[:, 0], [0.9, 0.9, 0.9, 0.0, 0.9, 0.9])
        self.assertAllClose(found.discounted_return[found.valid], [1.0, 1.9, 1.0, 1.0])


class OverlappingWriterTest(UnrollTestCase):
    NUM_ENVS = 3

    def columns_of(self, unroll):
        """The items of an unroll: one environment each."""
        out = []
        for b in range(self.NUM_ENVS):
            parts = {}
            for name in Trajectory._fields:
                one = (lambda x, b=b: x[b : b + 1]) if name in sequences.PER_COLUMN else (
                    lambda x, b=b: x[:, b : b + 1]
                )  # fmt: skip
                parts[name] = tree.map_structure(one, getattr(unroll, name))
            out.append(Trajectory(**parts))
        return out

    @parameterized.parameters(
        (8, 8, False), (8, 4, False), (8, 3, False), (6, 5, False), (4, 1, False), (8, 3, True)
    )
    def test_one_begins_in_each_environment_every_period(self, length, period, own):
        spec = EnvSpec("e", NESTED, ACTIONS["nested"], **(OWN if own else {}))
        records = recorded(spec, self.NUM_ENVS, 29, 4, "nested", "nested")
        item = Windows(length, DISCOUNT, period=period)
        layout = layout_of(spec, item, records, self.NUM_ENVS)
        self.assertEqual(layout.columns, 1)
        unrolls = reference.unrolls(records, length, DISCOUNT, period)
        self.assertLen(unrolls, (29 - length) // period + 1)
        with trajectories.unroll_bench(layout, item, self.NUM_ENVS) as bench:
            write(bench, records)
            self.assertEqual(bench.writer.items_written, self.NUM_ENVS * len(unrolls))
            self.assertIsNone(bench.writer.vector_steps_to_item)
            for i, unroll in enumerate(unrolls):
                for b, theirs in enumerate(self.columns_of(unroll)):
                    self.assertSame(bench.decoded(), theirs, f"unroll {i}, environment {b}")

    def test_stacks_come_back(self):
        length, period, num_envs = 12, 5, self.NUM_ENVS
        spec, script = trajectories.stacked_script(num_envs, 60, 4, 5, 3, False, True)
        records = recorded(spec, num_envs, 0, 0, script=script)
        item = Windows(length, DISCOUNT, period=period)
        layout = layout_of(spec, item, records, num_envs)
        stored = 0
        with trajectories.unroll_bench(layout, item, num_envs) as bench:
            write(bench, records)
            for unroll in reference.unrolls(records, length, DISCOUNT, period):
                for whole in self.columns_of(unroll):
                    found = bench.decoded()
                    self.assertSame(found, whole)
                    stored += int(found.valid.sum())
        self.assertGreater(stored, 200)

    def test_items_enter_with_the_priority_and_the_version_of_their_time(self):
        spec = EnvSpec("e", PLAIN, ACTIONS["discrete"])
        records = recorded(spec, 1, 8, 0)
        item = Windows(2, DISCOUNT, period=2)
        layout = layout_of(spec, item, records, 1)
        with trajectories.unroll_bench(layout, item, 1) as bench:
            for i in range(4):
                bench.writer.load((), i, i + 1.0)
                for obs, state, choice, step, _ in records[2 * i : 2 * i + 2]:
                    bench.writer.record(obs, state, choice, step)
            bench.writer.flush()
            found = bench.client.sample(
                "experience", 4, emit_timesteps=False, unpack_as_table_signature=True
            )
            self.assertEqual([x.info.priority for x in found], [1.0, 2.0, 3.0, 4.0])

    def test_probabilities_are_those_of_the_items(self):
        spec = EnvSpec("e", PLAIN, ACTIONS["discrete"])
        records = recorded(spec, 2, 4, 0)
        item = Windows(4, DISCOUNT, period=4)
        layout = layout_of(spec, item, records, 2)
        with trajectories.unroll_bench(layout, item, 2, block=2) as bench:
            write(bench, records)
            columns = bench.next().columns
        batch = layout.decode(columns, tf.constant([1.0, 2.5]))
        self.assertAllEqual(batch.probability, [1.0, 2.5])
        self.assertAllEqual(layout.share(batch, tf.constant(1), 2).probability, [2.5])


class FramesTest(UnrollTestCase):
    def wrapped(self, spec, script, beside):
        """The stack alone, or beside other observations."""
        if not beside:
            return spec, script
        space = spaces.Dict(
            observation=spec.observation_space, previous_reward=spaces.Box(-9, 9, (), np.float32)
        )
        spec = EnvSpec(spec.name, space, spec.action_space, frame_stack=spec.frame_stack)

        def wrap(obs):
            mean = obs.reshape(len(obs), -1).mean(1).astype(np.float32)
            return {"observation": obs, "previous_reward": mean}

        acted = [
            a._replace(obs=wrap(a.obs), step=a.step._replace(obs=wrap(a.step.obs)))
            for a in script.acted
        ]
        return spec, trajectories.Script(acted, script.rows)

    @parameterized.product(
        length=(4, 16, 33), repeat_first=(True, False), beside=(True, False), stack=(2, 4)
    )
    def test_every_step_comes_back_however_often_episodes_end(
        self, length, repeat_first, beside, stack
    ):
        num_envs, items = 5, 6
        spec, script = trajectories.stacked_script(
            num_envs, length * items, stack, 5, length, False, repeat_first
        )
        lives = sum(  # a lost life: the stack goes on over the automatic step
            bool(np.array_equal(b.obs[row][..., 1:], b.step.obs[row][..., :-1]))
            for a, b in zip(script.acted, script.acted[1:])
            for row in np.flatnonzero(a.step.terminated)
        )
        self.assertGreater(lives, 0)
        spec, script = self.wrapped(spec, script, beside)
        records = recorded(spec, num_envs, 0, 0, script=script)
        item = Unroll(length, DISCOUNT)
        layout = layout_of(spec, item, records, num_envs)
        self.assertEqual(layout.stack, stack)
        rooms = set()
        with trajectories.unroll_bench(layout, item, num_envs) as bench:
            write(bench, records)
            for whole in reference.unrolls(records, length, DISCOUNT):
                samples = bench.next()
                rooms.add(samples.columns["frames"].shape[2])
                found = tree.map_structure(np.asarray, layout.decode(samples.columns))
                self.assertSame(found, whole)
        self.assertLessEqual(max(rooms), layout.most_frames)
        if repeat_first:  # then a new episode brings one frame, and all of them have room
            self.assertEqual(rooms, {layout.frames_shape[1]})

    def test_items_of_several_sizes_are_one_batch(self):
        """The first unroll has no end, the second one at every other step, over stacks of four new frames."""
        length, num_envs = 16, 2
        rng = np.random.default_rng(0)
        draw = lambda *shape: rng.integers(0, 256, (num_envs, 12, 12, *shape), np.uint8)
        space = spaces.Box(0, 255, (12, 12, 4), np.uint8)
        spec = EnvSpec("frames", space, spaces.Discrete(6), frame_stack=4)
        obs, acted, new, none = draw(4), [], True, np.zeros(num_envs, bool)
        for t in range(2 * length):
            ends = np.full(num_envs, t >= length and t % 2 == 0)
            valid = np.full(num_envs, not (new := t > length and t % 2 == 1))
            after = draw(4) if new else np.concatenate([obs[..., 1:], draw(1)], -1)
            step = VectorStep(after, after, np.ones(num_envs, np.float32), ends, none, valid, ())
            acted.append(trajectories.Acted(obs, np.zeros(num_envs, np.int32), step))
            obs = after
        records = recorded(spec, num_envs, 0, 0, script=trajectories.Script(acted, []))
        item = Unroll(length, DISCOUNT)
        layout = layout_of(spec, item, records, num_envs)
        unrolls = reference.unrolls(records, length, DISCOUNT)
        expected = joined(unrolls)
        with trajectories.unroll_bench(layout, item, num_envs, block=2) as bench:
            write(bench, records)
            columns = bench.next().columns
        self.assertEqual(columns["frames"].shape[2], 2 * layout.frames_shape[1])
        got = tree.map_structure(np.asarray, layout.decode(columns))
        # Either item may be the first of the batch.
        in_order = np.array_equal(got.obs[0], expected.obs[0])
        self.assertSame(got, expected if in_order else joined(unrolls[::-1]))
        local = LocalQueue()
        writer = sequence_writer(local, item, layout, num_envs)
        for obs, state, choice, step, version in records:
            writer.load((), version, 1.0)
            writer.record(obs, state, choice, step)
        columns = local.take(2).columns
        self.assertSame(tree.map_structure(np.asarray, layout.decode(columns)), expected)

    def test_every_frame_is_stored_once(self):
        spec, _ = trajectories.stacked_script(2, 1, 4, 12, 0, False, True)
        records = recorded(spec, 2, 1, 0)
        layout = layout_of(spec, Unroll(32, DISCOUNT), records, 2)
        self.assertEqual(layout.frames_shape, (2, 32 + 4 + 2 * 3, 12, 12))
        self.assertLess(layout.packing.nbytes, 12 * 12)  # no frame beside them


class EpisodeWriterTest(UnrollTestCase):
    @parameterized.product(state=sorted(STATES), length=(4, 12))
    def test_whole_episodes_lie_side_by_side(self, state, length):
        self.check_episodes(state, length, nested=True)

    @parameterized.product(state=sorted(STATES), length=(4, 12))
    @pytest.mark.slow
    def test_whole_episodes_of_plain_observations_lie_side_by_side(self, state, length):
        self.check_episodes(state, length, nested=False)

    def check_episodes(self, state, length, nested):
        spec = EnvSpec("e", NESTED if nested else PLAIN, ACTIONS["nested"])
        least, num_envs = 3, 4
        records = recorded(spec, num_envs, 60, 7, "nested", state)
        item = Episodes(length, DISCOUNT, count=least)
        layout = layout_of(spec, item, records, num_envs)
        episodes = reference.whole_episodes(records, length, DISCOUNT)
        lengths = [len(e) for e in episodes]
        self.assertGreater(len(set(lengths)), 3)
        ends = [e[-1]["discount"] == 0 for e in episodes]
        self.assertTrue(any(ends) and not all(ends))
        columns = 6  # up to 2 of before and 4 that end at once
        self.assertEqual(layout.columns, columns)
        with trajectories.unroll_bench(layout, item, num_envs) as bench:
            write(bench, records)
            items = self.items_of(records, length, least)
            self.assertGreater(len({count for count, _ in items}), 1)
            self.assertEqual(bench.writer.items_written, len(items))
            self.assertIsNone(bench.writer.vector_steps_to_item)
            self.assertGreater(len({version for _, version in items}), 2)
            for count, oldest in items:
                found = bench.decoded()
                self.assertEqual(found.reward.shape, (length, columns))
                for column in range(count):
                    self.assertEpisode(found, column, episodes.pop(0))
                self.assertFalse(found.valid[:, count:].any())
                self.assertTrue(found.is_last[:, count:].all())
                self.assertAllEqual(found.version, [oldest] * columns)
            self.assertLess(len(episodes), least)

    def test_parts_of_rewards_and_own_discounts_lie_with_their_steps(self):
        spec = EnvSpec("e", PLAIN, ACTIONS["discrete"], **OWN)
        records = recorded(spec, 4, 60, 7)
        item = Episodes(12, DISCOUNT, count=3)
        layout = layout_of(spec, item, records, 4)
        episodes = reference.whole_episodes(records, 12, DISCOUNT)
        with trajectories.unroll_bench(layout, item, 4) as bench:
            write(bench, records)
            for count, _ in self.items_of(records, 12, 3):
                found = bench.decoded()
                for column in range(count):
                    steps = episodes.pop(0)
                    for name in ("reward", "rewards", "discount"):
                        mine = getattr(found, name)[: len(steps), column]
                        self.assertAllEqual(mine, np.float32([s[name] for s in steps]), name)
                    mine = found.discounted_return[: len(steps), column]
                    theirs = [s["discounted_return"] for s in steps]
                    self.assertAllClose(mine, theirs, 1e-5, 1e-5)

    @parameterized.parameters(False, True)
    def test_in_a_replay_each_episode_is_an_item(self, same_step):
        """After an episode that was truncated, or cut, the memory is kept for the final observation."""
        spec = EnvSpec("e", NESTED, ACTIONS["nested"])
        length, num_envs = 5, 4
        records = recorded(spec, num_envs, 60, 7, "nested", "nested", same_step=same_step)
        if same_step:
            self.assertTrue(any(r.step.truncated.any() for r in records))
            self.assertTrue(all(r.step.valid.all() for r in records))
        item, example = Episodes(length, DISCOUNT, count=1), (records[0].choice, records[0].state)
        layout = sequence_layout(spec, item, example, num_envs, single=True)
        self.assertEqual(layout.columns, 1)
        queue = LocalQueue()
        writer = sequence_writer(queue, item, layout, num_envs)
        done = 0
        for t, (obs, state, choice, step, version) in enumerate(records):
            writer.load((), version, 1.0)
            writer.record(obs, state, choice, step)
            episodes = reference.whole_episodes(records[: t + 1], length, DISCOUNT)
            self.assertEqual(writer.items_written, len(episodes))
            new, done = len(episodes) - done, len(episodes)
            if not new:
                continue
            found = layout.decode(queue.take(new).columns)
            found = tree.map_structure(lambda x: x.numpy(), found)
            self.assertEqual(found.reward.shape, (length, new))
            for column, steps in enumerate(episodes[-new:]):
                self.assertEpisode(found, column, steps)
        self.assertGreater(done, 20)

    def items_of(self, records, length, least):
        """The episodes of each item, and the oldest weights under which one of them began."""
        items, sent = [], 0
        for t in range(len(records)):
            new = reference.whole_episodes(records[: t + 1], length, DISCOUNT)[sent:]
            if len(new) >= least:
                items.append((len(new), min(episode[0]["version"] for episode in new)))
                sent += len(new)
        return items

    def assertEpisode(self, found, column, steps):
        count = len(steps)
        column_of = lambda nest: tree.map_structure(lambda x: x[:, column], nest)
        for name in ("obs", "action", "extras", "reward", "discount", "is_first"):
            mine = column_of(getattr(found, name))
            for t, step in enumerate(steps):
                tree.map_structure(
                    lambda a, b, t=t: self.assertAllEqual(a[t], np.asarray(b, a.dtype)),
                    mine,
                    step[name],
                )
        tree.map_structure(
            lambda a, b: self.assertAllEqual(a[count], b),
            column_of(found.obs),
            steps[-1]["next_obs"],
        )
        self.assertEqual(found.is_first[count, column], steps[-1]["discount"] == 0)
        self.assertAllClose(
            found.discounted_return[:count, column],
            [s["discounted_return"] for s in steps],
            1e-5,
            1e-5,
        )
        tree.map_structure(
            lambda a, b: self.assertAllEqual(a[column], b), found.state, steps[0]["state"]
        )
        length = len(found.valid)
        self.assertAllEqual(found.valid[:, column], np.arange(length) < count)
        ends = [s["is_last"] for s in steps]  # not where a longer episode was cut
        self.assertAllEqual(found.is_last[:, column], ends + [True] * (length - count))
        self.assertAllEqual(found.reward[count:, column], np.zeros(length - count))


class Scaled(tf.Module):
    """A policy as far as computing goes: one weight."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(1.0)


def scaled_reward(policy, batch):
    total = tf.reduce_sum(tf.where(batch.valid, batch.reward, 0.0), 0)
    return {"total": policy.weight * total, "last": batch.obs[-1], "state": batch.state["value"]}


class ComputedTest(UnrollTestCase):
    def test_what_is_computed_is_the_function_of_the_unroll_under_the_weights_that_acted(self):
        spec = EnvSpec("e", PLAIN, ACTIONS["discrete"])
        records = recorded(spec, 3, 24, 5, state="nested")
        item, policy = Unroll(6, DISCOUNT), Scaled()
        layout = ComputedLayout(layout_of(spec, item, records, 3), scaled_reward, policy)
        mine = Scaled()
        with trajectories.unroll_bench(layout, item, 3, block=2, actor=4, policy=mine) as bench:
            for i in range(4):
                bench.writer.load([np.float32(i + 1)], 0, 1.0)
                write(bench, records[6 * i : 6 * i + 6])
            blocks = [bench.next() for _ in range(2)]
        self.assertEqual(float(policy.weight), 1.0)
        self.assertAllEqual(blocks[0].columns["facts"][:, 1], [4, 4])
        found = [tree.map_structure(np.asarray, layout.decode(b.columns)) for b in blocks]
        for i, unroll in enumerate(reference.unrolls(records, 6, DISCOUNT)):
            block, row = found[i // 2], i % 2
            total = np.where(unroll.valid, unroll.reward, 0).sum(0)
            self.assertAllClose(block.values["total"][row], (i + 1) * total, 1e-5, 1e-5)
            self.assertAllEqual(block.values["last"][row], unroll.obs[-1])
            self.assertAllEqual(block.values["state"][row], unroll.state["value"])
            self.assertEqual(block.version[row], unroll.version[0])


if __name__ == "__main__":
    tf.test.main()
