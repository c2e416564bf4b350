"""How unrolls become batches: replay of old ones, several passes, and what counts as new."""

import math

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import Queue, Unroll
from tfrl.api import make_job
from tfrl.errors import SettingError
from tfrl.replay.sampler import Samples
from tfrl.runtime.learning.batches import Batcher, PassBuffer, ReplayRing
from tfrl.runtime.plan.run_plan import plan_run


class Source:
    """Blocks of numbered items, as many as there are."""

    def __init__(self, block, items=math.inf):
        self.block, self.left, self.fetched = block, items, 0

    def __call__(self):
        if self.left < self.block:
            return None
        self.left -= self.block
        ids = np.arange(self.fetched, self.fetched + self.block)
        self.fetched += self.block
        ones = tf.ones([self.block], tf.float64)
        return Samples(tf.constant(ids, tf.uint64), ones, {"id": tf.constant(ids)})


def plan(**settings):
    return Queue(Unroll(1, 0.9), capacity_items=1, batch_env_steps=1, **settings)


def emitted(slots, passes, count):
    """Batch numbers in the order of emission, with a star where a batch is emitted for the last time."""
    buffer, new, out = PassBuffer(slots, passes), 0, []
    last = {}
    for _ in range(8 * count):  # long enough to see which emissions are the last
        wants = buffer.wants_new
        batch, first = buffer.next(new if wants else None)
        assert first == wants == (batch == new)
        new += first
        last[batch] = len(out)
        out.append(batch)
    return [f"{batch}*" if last[batch] == i else str(batch) for i, batch in enumerate(out)][:count]


class PassBufferTest(parameterized.TestCase):
    @parameterized.parameters(
        (1, 1, "0* 1* 2* 3*"),
        (1, 2, "0* 1 1* 2 2* 3 3*"),
        (2, 3, "0* 1 2 1* 2 3 2* 3 4 3* 4 5"),
        (4, 2, "0* 1 2 3 4 1* 2* 3* 4* 5 6 7 8 5*"),
    )
    def test_order_of_emission(self, slots, passes, expected):
        expected = expected.split()
        self.assertEqual(emitted(slots, passes, len(expected)), expected)


class BatchItemsTest(parameterized.TestCase):
    @parameterized.parameters(
        (50, 5, 500, 2), (50, 5, 1000, 4), (50, 5, 600, 3), (50, 1, 500, 10), (50, 5, 1, 1)
    )
    def test_a_batch_has_the_fewest_unrolls_with_enough_steps(
        self, length, num_envs, env_steps, items
    ):
        job = make_job(
            "impala",
            env="tfrl.testing.fakes:IdentityGame",
            unroll_length=length,
            num_envs=num_envs,
            batch_env_steps=env_steps,
        )
        run_plan = plan_run(job)
        self.assertEqual(run_plan.batch_items, items)
        self.assertEqual(run_plan.env_steps_per_call, items * length * num_envs)

    def test_without_a_size_a_batch_has_an_unroll_of_every_actor(self):
        settings = dict(env="tfrl.testing.fakes:IdentityGame", backend="processes", num_actors=3)
        self.assertEqual(plan_run(make_job("a2c", **settings)).batch_items, 3)
        impala = make_job("impala", batch_env_steps=0, **settings)
        self.assertEqual(plan_run(impala).batch_items, 3)

    @parameterized.parameters((1, 2), (10, 2), (400, 2), (401, 4), (1200, 6))
    def test_where_actors_wait_a_batch_has_as_many_unrolls_of_each(self, env_steps, items):
        """Else two actors would wait for a third unroll that none of them makes."""
        job = make_job(
            "ppo", env="tfrl.testing.fakes:IdentityGame", unroll_length=50, num_envs=4,
            batch_env_steps=env_steps, backend="processes", num_actors=2,
        )  # fmt: skip
        run_plan = plan_run(job)
        self.assertEqual((run_plan.batch_items, run_plan.items_per_wait), (items, items // 2))

    def test_too_few_old_unrolls_are_refused(self):
        settings = dict(
            env="tfrl.testing.fakes:IdentityGame", unroll_length=50, batch_env_steps=500,
            replay_proportion=0.5,
        )  # fmt: skip
        self.assertEqual(
            plan_run(make_job("impala", replay_unrolls=11, **settings)).batch_items, 10
        )
        with self.assertRaisesRegex(
            SettingError, "replay_unrolls=10 with replay_proportion=0.5: expected more than 10"
        ):
            plan_run(make_job("impala", replay_unrolls=10, **settings))


class ReplayTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((0.5, 150), (2.5, 150))
    def test_old_items_for_each_new_one(self, proportion, tolerance):
        """10,000 new items; three standard deviations of a fair coin are 150."""
        ring = ReplayRing(proportion, slots=100, warm_up=10, rng=np.random.default_rng(0))
        counts = [len(ring.add(i)) for i in range(10_010)]
        self.assertAllEqual(counts[:10], [0] * 10)
        whole = math.floor(proportion)
        self.assertEqual(set(counts[10:]), {whole, whole + 1})
        self.assertBetween(
            sum(counts), 10_000 * proportion - tolerance, 10_000 * proportion + tolerance
        )

    def test_old_items_are_uniform_over_the_newest(self):
        slots, rounds = 20, 20_000
        ring = ReplayRing(1.0, slots, warm_up=slots, rng=np.random.default_rng(1))
        ages = []
        for i in range(rounds):
            ages += [i - old for old in ring.add(i)]
        self.assertEmpty(ages[rounds:])
        ring = ReplayRing(1.0, slots, warm_up=slots - 1, rng=np.random.default_rng(1))
        ages = [i - old for i in range(rounds) for old in ring.add(i)]
        shares = np.bincount(ages, minlength=slots) / len(ages)
        self.assertLen(shares, slots)
        # Four standard deviations of a share of 1 / 20 in 20,000 draws.
        self.assertAllClose(shares, np.full(slots, 1 / slots), atol=4 * 0.00155, rtol=0)

    def test_trained_is_sampled_and_replayed_up_to_the_unfinished_batch(self):
        batch_items, new = 10, 10_000
        source = Source(1, new)
        batcher = Batcher(
            plan(replay_proportion=0.5, replay_items=100), batch_items, batch_items,
            np.random.default_rng(0),
        )  # fmt: skip
        self.assertEqual(batcher.fetch_items, 1)
        fresh = replayed = 0
        seen = set()
        while (samples := batcher.next(source)) is not None:
            first = samples.columns["is_new"].numpy()
            ids = samples.columns["id"].numpy()
            self.assertLen(ids, batch_items)
            self.assertNoCommonElements(seen, ids[first])
            self.assertTrue(seen.union(ids[first]).issuperset(ids[~first]))
            seen.update(ids[first])
            fresh, replayed = fresh + first.sum(), replayed + (~first).sum()
        self.assertEqual(source.fetched, new)
        self.assertBetween(replayed, 5_000 - 150, 5_000 + 150)
        self.assertBetween(fresh, new - batch_items, new)
        self.assertEqual((fresh + replayed) % batch_items, 0)

    def test_runs_with_one_seed_draw_the_same(self):
        def drawn(seed):
            rng = np.random.default_rng(seed)
            batcher = Batcher(plan(replay_proportion=1.5, replay_items=9), 4, 4, rng)
            source = Source(1)
            return [batcher.next(source).columns["id"].numpy().tolist() for _ in range(20)]

        self.assertEqual(drawn(3), drawn(3))
        self.assertNotEqual(drawn(3), drawn(4))


class BatcherTest(tf.test.TestCase):
    def batcher(self, batch_items=2, **settings):
        return Batcher(plan(**settings), batch_items, batch_items, np.random.default_rng(0))

    def test_plain_batches_pass_as_they_are(self):
        batcher, source = self.batcher(), Source(2, 4)
        self.assertEqual(batcher.fetch_items, 2)
        found = [batcher.next(source) for _ in range(3)]
        self.assertAllEqual([s.columns["id"].numpy() for s in found[:2]], [[0, 1], [2, 3]])
        self.assertNotIn("is_new", found[0].columns)  # all are new
        self.assertIsNone(found[2])

    def test_only_the_first_pass_is_a_first_use(self):
        batcher, source = self.batcher(passes=2), Source(2, 6)
        found = []
        while (samples := batcher.next(source)) is not None:
            columns = {k: v.numpy().tolist() for k, v in samples.columns.items()}
            found.append((columns["id"], columns["is_new"]))
        yes, no = [True, True], [False, False]
        self.assertEqual(
            found, [([0, 1], yes), ([2, 3], yes), ([2, 3], no), ([4, 5], yes), ([4, 5], no)]
        )

    def test_passes_over_batches_with_old_items(self):
        settings = dict(passes=2, replay_proportion=1.0, replay_items=8)
        batcher, source = self.batcher(**settings), Source(1, 40)
        first_uses = []
        passes = {}
        while (samples := batcher.next(source)) is not None:
            ids, first = (samples.columns[k].numpy() for k in ("id", "is_new"))
            first_uses += ids[first].tolist()
            key = tuple(ids)
            passes.setdefault(key, []).append(first.any())
        self.assertEqual(first_uses, sorted(set(first_uses)))  # each item once, in order
        self.assertGreater(len(first_uses), 36)
        self.assertGreater(sum(map(len, passes.values())), 60)

    def test_it_goes_on_when_there_are_items_again(self):
        batcher, source = (
            self.batcher(batch_items=3, replay_proportion=0.01, replay_items=9),
            Source(1, 2),
        )
        self.assertIsNone(batcher.next(source))
        source.left = 1
        self.assertAllEqual(batcher.next(source).columns["id"], [0, 1, 2])


if __name__ == "__main__":
    tf.test.main()
