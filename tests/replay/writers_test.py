"""From trajectories to replay items, over a real Reverb server, against a slow twin."""

import pathlib
from unittest import mock

import gymnasium as gym
import numpy as np
import reverb
import tensorflow as tf
import tree
from absl.testing import parameterized

from tfrl.agent import NStep
from tfrl.envs.vector import SyncVector
from tfrl.replay import write_frames
from tfrl.replay.nstep import NStepAccumulator
from tfrl.replay.transitions import TransitionLayout
from tfrl.testing import fakes, reference, trajectories
from tfrl.types import EnvSpec, VectorStep

spaces = gym.spaces
PLACE = spaces.Box(0, 1e9, (2,), np.float32)  # (row, step) as an observation


def place_spec():
    return EnvSpec("place", PLACE, spaces.Discrete(100))


def place_step(t, reward, terminated=False, truncated=False, valid=True):
    """One row that arrives at place (0, t)."""
    flag = lambda x: np.array([x])
    obs = np.float32([[0, t]])
    return VectorStep(
        obs, obs, np.float32([reward]), flag(terminated), flag(truncated), flag(valid), ()
    )


class ItemsTestCase(tf.test.TestCase, parameterized.TestCase):
    def assertSameItems(self, found, expected):
        self.assertEqual(len(found), len(expected))
        for i, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            for name in ("obs_tm1", "action", "obs_t"):
                tree.map_structure(
                    lambda a, b, where=f"item {i}: {name}": self.assertAllEqual(a, b, where),
                    getattr(mine, name),
                    getattr(theirs, name),
                )
            self.assertAllClose(mine.reward, theirs.reward, 1e-6, 1e-6, msg=f"item {i}: reward")
            self.assertAllClose(mine.discount, theirs.discount, 1e-6, 1e-6, msg=f"item {i}")
            self.assertEqual(np.shape(mine.rewards), np.shape(theirs.rewards))
            self.assertAllClose(mine.rewards, theirs.rewards, 1e-5, 1e-6, msg=f"item {i}: parts")


class VectorTest(ItemsTestCase):
    """gamma 0.9, rewards 1..5, states 0..5."""

    def items(self, n, terminated):
        with trajectories.bench(place_spec(), NStep(n, 0.9), 1) as bench:
            for t in range(5):
                end = t == 4
                bench.writer.write(
                    np.float32([[0, t]]),
                    np.array([10 + t]),
                    place_step(t + 1, t + 1, end and terminated, end and not terminated),
                )
            return bench.drain()[0]

    @parameterized.parameters(
        (True, [0.729, 0.729, 0.0, 0.0, 0.0]), (False, [0.729, 0.729, 0.729, 0.81, 0.9])
    )
    def test_three_steps(self, terminated, discounts):
        items = self.items(3, terminated)
        self.assertAllEqual([i.obs_tm1[1] for i in items], [0, 1, 2, 3, 4])
        self.assertAllEqual([i.action for i in items], [10, 11, 12, 13, 14])
        self.assertAllClose([i.reward for i in items], [5.23, 7.94, 10.65, 8.5, 5.0])
        self.assertAllClose([i.discount for i in items], discounts)
        self.assertAllEqual([i.obs_t[1] for i in items], [3, 4, 5, 5, 5])

    @parameterized.parameters((True, 0.0), (False, 0.9))
    def test_one_step(self, terminated, last):
        items = self.items(1, terminated)
        self.assertAllEqual([i.obs_tm1[1] for i in items], [0, 1, 2, 3, 4])
        self.assertAllClose([i.reward for i in items], [1, 2, 3, 4, 5])
        self.assertAllClose([i.discount for i in items], [0.9, 0.9, 0.9, 0.9, last])
        self.assertAllEqual([i.obs_t[1] for i in items], [1, 2, 3, 4, 5])

    def test_an_end_at_the_time_limit_and_a_termination_at_once_is_a_termination(self):
        with trajectories.bench(place_spec(), NStep(3, 0.9), 1) as bench:
            bench.writer.write(np.float32([[0, 0]]), np.array([0]), place_step(1, 1.0, True, True))
            self.assertAllClose([i.discount for i in bench.drain()[0]], [0.0])


class TrajectoriesTest(ItemsTestCase):
    def test_steps_still_open_are_dropped_at_the_end_and_exact_after_more_steps(self):
        with trajectories.bench(place_spec(), NStep(3, 0.9), 1) as bench:
            sizes = []
            for t in range(4):
                bench.writer.write(np.float32([[0, t]]), np.array([t]), place_step(t + 1, t + 1))
                sizes.append(bench.size())
            self.assertEqual(sizes, [0, 0, 1, 2])
            bench.writer.write(np.float32([[0, 4]]), np.array([4]), place_step(5, 5.0))
            items = bench.drain()[0]
            self.assertAllClose([i.reward for i in items], [5.23, 7.94, 10.65])
            self.assertEqual(bench.writer.items_written, 3)

    def test_an_automatic_reset_is_stored_nowhere_and_spanned_by_nothing(self):
        with trajectories.bench(place_spec(), NStep(3, 0.9), 1) as bench:

            def write(t, step):
                bench.writer.write(np.float32([[0, t]]), np.array([t]), step)

            write(0, place_step(1, 1.0))
            write(1, place_step(2, 2.0, truncated=True))
            write(2, place_step(50, 999.0, valid=False))  # 2 is final; the reset gives 50
            write(50, place_step(51, 3.0))
            write(51, place_step(52, 4.0, terminated=True))
            write(52, place_step(80, 999.0, valid=False))
            items = bench.drain()[0]
        self.assertAllEqual([i.obs_tm1[1] for i in items], [0, 1, 50, 51])
        self.assertAllEqual([i.obs_t[1] for i in items], [2, 2, 52, 52])
        self.assertAllClose([i.reward for i in items], [2.8, 2.0, 6.6, 4.0])
        self.assertAllClose([i.discount for i in items], [0.81, 0.9, 0.0, 0.0])

    @parameterized.product(
        n=(1, 3), same_step=(True, False), parts=((), ("a", "b")), own_discount=(False, True)
    )
    def test_several_environments_equal_the_twin(self, n, same_step, parts, own_discount):
        spec = EnvSpec(
            "rows",
            spaces.Dict(
                row=spaces.Discrete(4, dtype=np.int32), noise=spaces.Box(-1, 1, (3,), np.float32)
            ),
            spaces.Discrete(7),
            reward_parts=parts,
            step_discount=own_discount,
        )
        script = trajectories.random_script(spec, 4, 60, seed=n, same_step=same_step)
        with trajectories.bench(spec, NStep(n, 0.9), 4) as bench:
            for acted in script.acted:
                bench.writer.write(*acted)
            items, _ = bench.drain()
        ended = 0
        for row, steps in enumerate(script.rows):
            mine = [i for i in items if i.obs_tm1["row"] == row]
            self.assertSameItems(mine, reference.n_step_items(steps, n, 0.9))
            ended += sum(i.discount == 0 for i in mine)
        self.assertGreater(ended, 4)

    @parameterized.parameters(1, 3)
    def test_environments_that_end_at_different_times(self, n):
        lengths = ((3, 2), (1, 4), (5,))
        factories = [lambda lengths=lengths_: fakes.Counter(lengths) for lengths_ in lengths]
        env = SyncVector(factories, EnvSpec("c", PLACE, spaces.Discrete(2)), seed=0)
        obs = env.reset()
        rows = [[] for _ in lengths]
        with trajectories.bench(env.spec, NStep(n, 0.9), 3) as bench:
            for _ in range(40):
                action = np.arange(3, dtype=np.int32) % 2
                step = env.step(action)
                bench.writer.write(obs, action, step)
                for row in np.flatnonzero(step.valid):
                    rows[row].append(
                        reference.Step(
                            obs[row],
                            action[row],
                            float(step.reward[row]),
                            step.next_obs[row],
                            step.terminated[row],
                            step.truncated[row],
                        )
                    )
                obs = step.obs
            items, _ = bench.drain()
        expected = [i for steps in rows for i in reference.n_step_items(steps, n, 0.9)]
        for item in items:  # observations are (episode, step): no item leaves its episode
            self.assertEqual(item.obs_tm1[0], item.obs_t[0])
        key = lambda i: (i.obs_tm1.tolist(), i.reward, i.discount, int(i.action))
        self.assertSameItems(sorted(items, key=key), sorted(expected, key=key))
        self.assertGreater(len(items), 60)


OBSERVATIONS = {
    "uint8 image": spaces.Box(0, 255, (5, 4, 3), np.uint8),
    "int16": spaces.Box(-30000, 30000, (3,), np.int16),
    "int64": spaces.Box(-(2**60), 2**60, (2, 2), np.int64),
    "float16": spaces.Box(-1, 1, (3,), np.float16),
    "bool": spaces.Box(0, 1, (7,), np.bool_),
    "discrete": spaces.Discrete(5, dtype=np.int32),
    "multi discrete": spaces.MultiDiscrete([3, 4], dtype=np.int32),
    "multi binary": spaces.MultiBinary(9),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "tuple": spaces.Tuple([spaces.Discrete(3, dtype=np.int32), spaces.Box(0, 255, (3,), np.uint8)]),
    "masked": spaces.Dict(
        observation=spaces.Box(-1, 1, (3,), np.float32),
        action_mask=spaces.Box(0, 1, (4,), np.float32),
        deep=spaces.Dict(flag=spaces.MultiBinary(3)),
    ),
}


class SpacesTest(ItemsTestCase):
    @parameterized.product(name=sorted(OBSERVATIONS), n=(1, 2))
    def test_observations_come_back_bit_for_bit(self, name, n):
        spec = EnvSpec(name, OBSERVATIONS[name], spaces.Discrete(4))
        script = trajectories.random_script(spec, 1, 12, seed=0, same_step=True, end_ratio=0.4)
        with trajectories.bench(spec, NStep(n, 0.9), 1) as bench:
            for acted in script.acted:
                bench.writer.write(*acted)
            items, _ = bench.drain()
        expected = reference.n_step_items(script.rows[0], n, 0.9)
        self.assertSameItems(items, expected)
        for mine, theirs in zip(
            tree.flatten(items[0].obs_t), tree.flatten(expected[0].obs_t), strict=True
        ):
            self.assertEqual(mine.dtype, theirs.dtype)

    @parameterized.parameters(
        (spaces.Box(-1, 1, (2,), np.float32), np.float32),
        (spaces.MultiDiscrete([3, 4], dtype=np.int32), np.int32),
        (spaces.Discrete(9), np.int32),
    )
    def test_actions_come_back(self, space, dtype):
        spec = EnvSpec("actions", PLACE, space)
        script = trajectories.random_script(spec, 1, 10, seed=1, same_step=False)
        with trajectories.bench(spec, NStep(2, 0.9), 1) as bench:
            for acted in script.acted:
                bench.writer.write(*acted)
            items, _ = bench.drain()
        self.assertSameItems(items, reference.n_step_items(script.rows[0], 2, 0.9))
        self.assertEqual(items[0].action.dtype, dtype)


class PriorityTest(ItemsTestCase):
    @parameterized.parameters(False, True)
    def test_items_enter_at_the_writers_priority(self, stacked):
        if stacked:
            spec, script = trajectories.stacked_script(1, 8, 3, 4, 0, True, True)
        else:
            spec = place_spec()
            script = trajectories.random_script(spec, 1, 8, 0, True)
        with trajectories.bench(spec, NStep(1, 0.9), 1, prioritized=True) as bench:
            for i, acted in enumerate(script.acted):
                bench.writer.load((), 0, 1.0 if i < 5 else 7.25)
                bench.writer.write(*acted)
            priorities = bench.drain()[1]
        self.assertAllClose(priorities, [1.0] * 5 + [7.25] * 3)


class FramesTest(ItemsTestCase):
    @parameterized.product(
        n=(1, 3), same_step=(True, False), repeat_first=(True, False), servers=(1, 2)
    )
    def test_stacks_equal_those_acted_on(self, n, same_step, repeat_first, servers):
        """Between two servers, an environment moves every five steps, most often in an episode's middle."""
        spec, script = trajectories.stacked_script(3, 50, 4, 6, n, same_step, repeat_first)
        moving = mock.patch.object(write_frames, "FRAGMENT_STEPS", 5)
        with moving, trajectories.bench(spec, NStep(n, 0.9), 3, servers=servers) as bench:
            for acted in script.acted:
                bench.writer.write(*acted)
            sizes = bench.sizes()
            items, _ = bench.drain()
        self.assertAllInRange(sizes, len(items) // servers * 0.7, len(items))
        expected = [i for steps in script.rows for i in reference.n_step_items(steps, n, 0.9)]
        key = lambda i: (np.asarray(i.obs_tm1).tobytes(), float(i.reward))
        self.assertSameItems(sorted(items, key=key), sorted(expected, key=key))
        self.assertEqual(bench.writer.items_written, len(expected))
        self.assertGreater(sum(i.discount == 0 for i in items), 3)

    def test_both_writers_agree(self):
        spec, script = trajectories.stacked_script(2, 40, 3, 4, 5, False, True)
        whole = EnvSpec(spec.name, spec.observation_space, spec.action_space)  # unrelated arrays
        found = []
        for each in (spec, whole):
            with trajectories.bench(each, NStep(3, 0.95), 2) as bench:
                for acted in script.acted:
                    bench.writer.write(*acted)
                items = bench.drain()[0]
            found.append(sorted(items, key=lambda i: (i.obs_tm1.tobytes(), float(i.reward))))
        self.assertSameItems(*found)
        self.assertGreater(len(found[0]), 50)

    def test_every_frame_is_stored_once(self):
        stack, size, num_envs = 4, 32, 2
        spec, script = trajectories.stacked_script(num_envs, 100, stack, size, 3, True, False)
        appended = []
        append = reverb.TrajectoryWriter.append

        def in_metrics(self, data, **kwargs):
            appended.append("frame" in data)
            return append(self, data, **kwargs)

        with trajectories.bench(spec, NStep(3, 0.9), num_envs) as bench:
            with mock.patch.object(reverb.TrajectoryWriter, "append", in_metrics):
                for acted in script.acted:
                    bench.writer.write(*acted)
            items = bench.size()
            folder = pathlib.Path(bench.client.checkpoint())
            stored = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        steps = sum(map(len, script.rows))
        ends = sum(s.terminated or s.truncated for row in script.rows for s in row)
        last = sum(not (row[-1].terminated or row[-1].truncated) for row in script.rows)
        self.assertEqual(sum(appended), steps + stack * (ends + last))
        noise = (steps + ends + last) * size * size  # which does not compress, unlike zeros
        self.assertBetween(stored, 0.95 * noise, 1.3 * noise)
        self.assertGreater(items * 2 * stack * size * size, 4 * stored)


class AccumulatorTest(ItemsTestCase):
    @parameterized.parameters(2, 5)
    def test_without_discounting_the_sum_is_the_monte_carlo_return(self, n):
        layout = TransitionLayout(place_spec(), prioritized=False)
        accumulator = NStepAccumulator(n, 1.0, 1, layout)
        rewards, out = [0.5, -2.0], []
        for t, reward in enumerate(rewards):
            step = place_step(t + 1, reward, terminated=t == 1)
            emitted = accumulator.add(np.float32([[0, t]]), np.array([0]), step)
            out += emitted.records["reward"].tolist()
            self.assertAllEqual(emitted.records["discount"], np.zeros(len(emitted.records)))
        self.assertAllClose(out, [-1.5, -2.0])


if __name__ == "__main__":
    tf.test.main()
