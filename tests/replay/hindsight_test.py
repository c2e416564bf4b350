"""Copies of transitions with goals that were achieved later, against a slow twin."""

from unittest import mock

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree
from absl.testing import parameterized

from tfrl.agent import NStep
from tfrl.envs.goal_rewards import GoalRewards
from tfrl.replay import hindsight
from tfrl.replay.hindsight import Hindsight, HindsightAccumulator
from tfrl.replay.transitions import TransitionLayout
from tfrl.replay.write_chunks import ChunkWriter
from tfrl.testing import reference, trajectories
from tfrl.types import EnvSpec

spaces = gym.spaces
GOAL = spaces.Box(-1.0, 1.0, (2,), np.float64)
OBSERVATION = spaces.Dict(
    observation=spaces.Box(-1.0, 1.0, (3,), np.float32), achieved_goal=GOAL, desired_goal=GOAL,
    row=spaces.Discrete(9),
)  # fmt: skip


def reward(achieved, desired):
    return -float(np.abs(np.subtract(achieved, desired, dtype=np.float64)).sum())


def ends(achieved, desired):
    """Half of the goals, so that sums end early."""
    return bool(achieved[0] + desired[1] > 0.0)


class Goals(gym.Env):
    """Only its functions are used."""

    observation_space, action_space = OBSERVATION, spaces.Discrete(7)

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -np.abs(achieved_goal - desired_goal).sum(-1)


class EndingGoals(Goals):
    """A goal may end the episode; one at a time."""

    def compute_terminated(self, achieved_goal, desired_goal, info):
        return ends(achieved_goal, desired_goal)


def cast():
    """The spec after the casts of `envs/spaces.py`."""
    goal = spaces.Box(-1.0, 1.0, (2,), np.float32)
    parts = {
        **OBSERVATION.spaces, "achieved_goal": goal, "desired_goal": goal,
        "row": spaces.Discrete(9, dtype=np.int32),
    }  # fmt: skip
    return EnvSpec("goals", spaces.Dict(parts), spaces.Discrete(7, dtype=np.int32))


def made_with(env=None, seed=0):
    return Hindsight(GoalRewards(env or Goals(), "goals"), np.random.default_rng(seed))


def accumulator(item, num_envs, env=None, seed=0):
    layout = TransitionLayout(cast(), False)
    return HindsightAccumulator(item, num_envs, layout, made_with(env, seed)), layout


def items_of(layout, records):
    rows = layout.packing.rows(records.copy())
    return trajectories.items_of(layout.decode({"packed": tf.constant(rows)}))


def episodes_of(steps):
    """The complete episodes of an environment's steps."""
    found, begun = [], []
    for step in steps:
        begun.append(step)
        if step.terminated or step.truncated:
            found.append(begun)
            begun = []
    return found


class ItemsTestCase(tf.test.TestCase, parameterized.TestCase):
    def assertSameItem(self, mine, theirs):
        same = np.testing.assert_array_equal
        tree.map_structure(same, mine.obs_tm1, dict(theirs.obs_tm1))
        tree.map_structure(same, mine.obs_t, dict(theirs.obs_t))
        same(mine.action, theirs.action)
        np.testing.assert_allclose(mine.reward, theirs.reward, 1e-5, 1e-5)
        np.testing.assert_allclose(mine.discount, theirs.discount, 1e-6, 1e-6)


class TwinTest(ItemsTestCase):
    @parameterized.product(n=(1, 3), same_step=(True, False), env=(Goals, EndingGoals))
    def test_originals_and_copies_equal_the_twin(self, n, same_step, env):
        script = trajectories.random_script(cast(), 3, 60, seed=n, same_step=same_step)
        made, layout = accumulator(NStep(n, 0.9, 4), 3, env(), seed=n)
        records, ended = [[] for _ in range(3)], 0
        for acted in script.acted:
            emitted = made.add(*acted)
            for row in range(3):
                records[row].append(emitted.records[emitted.rows == row])
        function = ends if env is EndingGoals else None
        lags, early = [], 0
        for row, steps in enumerate(script.rows):
            items = items_of(layout, np.concatenate(records[row]))
            originals = reference.n_step_items(steps, n, 0.9)
            for episode in episodes_of(steps):
                length = len(episode)
                # The originals of the episode, then four copies of each in the same order.
                mine, items = items[: 5 * length], items[5 * length :]
                for item in mine[:length]:
                    self.assertSameItem(item, originals.pop(0))
                for i, copy in enumerate(mine[length:]):
                    first, goal = i // 4, copy.obs_tm1["desired_goal"]
                    later = [
                        t for t, step in enumerate(episode)
                        if np.array_equal(step.next_obs["achieved_goal"], goal)
                    ]  # fmt: skip
                    self.assertLen(later, 1)
                    self.assertGreaterEqual(later[0], first)
                    lags.append((later[0] - first, length - first))
                    twin = reference.relabelled(episode, first, goal, n, 0.9, reward, function)
                    self.assertSameItem(copy, twin)
                    early += copy.discount == 0
                ended += 1
            # What is left belongs to an episode that goes on.
            self.assertLen(items, len(originals))
        self.assertGreater(ended, 12)
        self.assertGreater(early, 10)
        # Uniform over the steps that are left: half of them lie before the middle.
        share = np.mean([(lag + 0.5) / left for lag, left in lags])
        self.assertAllClose(share, 0.5, atol=0.05)

    def test_copies_are_k_of_k_plus_one_items(self):
        script = trajectories.random_script(cast(), 2, 60, seed=1, same_step=True)
        for k in (1, 3):
            made, _ = accumulator(NStep(2, 0.9, k), 2)
            total = 0
            for acted in script.acted:
                total += len(made.add(*acted).rows)
            steps = sum(len(e) for rows in script.rows for e in episodes_of(rows))
            goes_on = sum(len(rows) for rows in script.rows) - steps
            self.assertBetween(total, (k + 1) * steps, (k + 1) * steps + goes_on)
            self.assertGreater(steps, 80)

    def test_a_long_episode_is_copied_in_parts(self):
        script = trajectories.random_script(cast(), 1, 50, seed=0, same_step=True, end_ratio=0.0)
        with self.subTest("room grows"):
            made, _ = accumulator(NStep(1, 0.9, 2), 1)
            with mock.patch.object(hindsight, "MOST_STEPS", 10**9):
                self.assertEqual(sum(len(made.add(*a).rows) for a in script.acted * 4), 200)
        made, _ = accumulator(NStep(1, 0.9, 2), 1)
        with mock.patch.object(hindsight, "MOST_STEPS", 20):
            sizes = [len(made.add(*acted).rows) for acted in script.acted]
        self.assertEqual([i for i, size in enumerate(sizes) if size > 1], [19, 39])
        self.assertEqual(sizes[19], 1 + 2 * 20)


class SeedTest(ItemsTestCase):
    def records(self, seed, restart=None):
        """Records of a script; with `restart`, another accumulator goes on after so many steps."""
        script = trajectories.random_script(cast(), 2, 60, seed=3, same_step=False)
        made, _ = accumulator(NStep(3, 0.9, 2), 2, seed=seed)
        found = []
        for i, acted in enumerate(script.acted):
            if i == restart:
                state = made.state()
                made, _ = accumulator(NStep(3, 0.9, 2), 2, seed=99)
                made.restore(state)
            found.append(made.add(*acted).records.copy())
        return np.concatenate(found).tobytes()

    def test_a_seed_decides_the_goals(self):
        self.assertEqual(self.records(1), self.records(1))
        self.assertNotEqual(self.records(1), self.records(2))

    @parameterized.parameters(0, 7, 31)
    def test_a_saved_state_goes_on(self, restart):
        self.assertEqual(self.records(1, restart), self.records(1))

    def test_dropped_steps_have_no_copies(self):
        script = trajectories.random_script(cast(), 1, 80, seed=5, same_step=True, end_ratio=0.05)
        made, _ = accumulator(NStep(1, 0.9, 1), 1)
        length = next(i for i, a in enumerate(script.acted) if len(made.add(*a).rows) > 1) + 1
        self.assertGreater(length, 2)
        made, _ = accumulator(NStep(1, 0.9, 1), 1)
        made.add(*script.acted[0])
        made.drop()
        sizes = [len(made.add(*acted).rows) for acted in script.acted[1:length]]
        self.assertEqual(sizes, [1] * (length - 2) + [1 + length - 1])


class WritersTest(ItemsTestCase):
    def test_a_server_and_a_replay_beside_the_learner_have_the_same_items(self):
        script = trajectories.random_script(cast(), 2, 160, seed=5, same_step=False, end_ratio=0.01)
        item, blocks = NStep(2, 0.9, 4), []
        layout = TransitionLayout(cast(), False)
        chunks = ChunkWriter(blocks.append, item, layout, 2, hindsight=made_with())
        with trajectories.bench(cast(), item, 2, hindsight=made_with()) as bench:
            for acted in script.acted:
                chunks.write(*acted)
                bench.writer.write(*acted)
            chunks.flush()
            stored, _ = bench.drain()
            self.assertEqual(bench.writer.items_written, chunks.items_written)
        rows = np.concatenate([block.rows for block in blocks])
        beside = trajectories.items_of(layout.decode({"packed": tf.constant(rows)}))
        self.assertLen(stored, chunks.items_written)
        for mine, theirs in zip(stored, beside, strict=True):
            self.assertSameItem(mine, theirs)
        self.assertGreater(len(stored), 1_000)  # several times what may be on its way to a server

    def test_copies_get_the_largest_priority(self):
        script = trajectories.random_script(cast(), 2, 40, seed=5, same_step=True)
        with trajectories.bench(
            cast(), NStep(1, 0.9, 2), 2, prioritized=True, hindsight=made_with()
        ) as bench:
            bench.writer.load([], 0, 3.0)
            for acted in script.acted:
                bench.writer.write(*acted)
            _, priorities = bench.drain()
        self.assertGreater(len(priorities), 150)
        self.assertEqual(set(priorities), {3.0})


if __name__ == "__main__":
    tf.test.main()
