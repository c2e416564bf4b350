"""Episodes that begin in single rows, each of a seed of its own; rows that rest."""

import numpy as np
import tree
from absl.testing import absltest, parameterized

from tfrl.envs.make import make_vector
from tfrl.job import EnvPlan

SYNC = EnvPlan(env="CartPole-v1", env_backend="sync")
NATIVE = EnvPlan(env="CartPole-v1", env_backend="native")
NEST = EnvPlan(env="tfrl.testing.fakes:MaskedBandit")


class RestartTest(parameterized.TestCase):
    def play(self, plan, rows, num_envs=4, steps=6, before=0):
        """Observations and rewards of the rows {row: seed}, after so many steps of other episodes."""
        vector = make_vector(plan, num_envs, seed=before)
        self.assertTrue(vector.seeds_rows)
        obs, zeros = vector.reset(), np.zeros(num_envs, np.int32)
        for _ in range(0 if isinstance(obs, dict) else before):
            obs = vector.step(zeros).obs
        obs = vector.restart(obs, rows)
        seen = []
        for t in range(steps):
            action = obs["action_mask"].argmax(1) if isinstance(obs, dict) else zeros + t % 2
            step = vector.step(action.astype(np.int32))
            seen.append((tree.map_structure(np.array, obs), step.reward, step.valid))
            obs = step.obs
        vector.close()
        return seen

    @parameterized.parameters(SYNC, NATIVE, NEST)
    def test_a_seed_begins_the_same_episode_in_any_row_at_any_time(self, plan):
        one = self.play(plan, {0: 11, 2: 12}, steps=4)
        other = self.play(plan, {3: 11, 1: 12}, steps=4, before=3)
        for (obs, reward, valid), (later, paid, holds) in zip(one, other, strict=True):
            for mine, theirs in ((0, 3), (2, 1)):
                tree.map_structure(
                    lambda a, b, i=mine, j=theirs: np.testing.assert_array_equal(a[i], b[j]),
                    obs, later,
                )  # fmt: skip
                self.assertEqual(reward[mine], paid[theirs])
                self.assertTrue(valid[mine] and holds[theirs])
        first = tree.flatten(one[0][0])[-1] if plan is not NEST else None
        if first is not None:
            self.assertFalse(np.array_equal(first[0], first[2]))

    def test_a_resting_row_is_not_stepped(self):
        vector = make_vector(SYNC, 3, seed=0)
        obs = vector.restart(vector.reset(), {0: 5, 1: None, 2: 6})
        calls = []
        vector.envs[1].step = lambda action: calls.append(action)
        for _ in range(30):
            step = vector.step(np.zeros(3, np.int32))
            self.assertFalse(step.valid[1])
            self.assertEqual(step.reward[1], 0.0)
            self.assertNotIn(1, [episode.row for episode in step.episodes])
        self.assertEmpty(calls)
        del vector.envs[1].step
        obs = vector.restart(step.obs, {1: 5})
        again = make_vector(SYNC, 1, seed=0)
        expected = again.restart(again.reset(), {0: 5})
        np.testing.assert_array_equal(obs[1], expected[0])
        self.assertTrue(vector.step(np.zeros(3, np.int32)).valid[1])

    @parameterized.parameters(SYNC, NATIVE)
    def test_a_row_begins_at_once_after_its_episode(self, plan):
        """The step of its own in which it would have been reset is left out."""
        vector = make_vector(plan, 2, seed=0)
        obs = vector.restart(vector.reset(), {0: 5, 1: 6})
        lengths = []
        for _ in range(60):
            step = vector.step(np.zeros(2, np.int32))
            self.assertTrue(step.valid.all())
            obs = step.obs
            if step.episodes:
                lengths += [episode.length_env_steps for episode in step.episodes]
                obs = vector.restart(obs, {episode.row: 7 for episode in step.episodes})
        self.assertGreater(len(lengths), 6)
        self.assertLen(set(lengths[2:]), 1)

    def test_vectors_without_a_way_say_so(self):
        vector = make_vector(EnvPlan(env="CartPole-v1", observe_previous=True), 2, seed=0)
        self.assertFalse(vector.seeds_rows)
        vector.close()


if __name__ == "__main__":
    absltest.main()
