"""A replay in several shards: what goes where, probabilities over all of them, and a shard that goes away."""

import functools
import pathlib
import tempfile
import time
import types

import numpy as np
import reverb
import tensorflow as tf
from absl.testing import absltest, parameterized

from tfrl.api import make_job
from tfrl.errors import SettingError
from tfrl.losses import value
from tfrl.replay.kinds import make_writer
from tfrl.replay.spread import Spread
from tfrl.replay.tables import EXPERIENCE, experience_table
from tfrl.runtime.learning.sources import TableSource
from tfrl.runtime.link import RUN
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.storage.replay_server import ReplayServer, saved_shards, shard_folder
from tfrl.runtime.supervisor import sampled_before
from tfrl.testing import trajectories
from tfrl.types import PolicyStep

BATCH, CALLS, ALPHA = 8, 4, 0.6
SETTINGS = dict(
    env="tfrl.testing.fakes:IdentityGame", backend="processes", num_replay_shards=2, prioritized=True,
    priority_exponent=ALPHA, batch_size=BATCH, updates_per_call=CALLS, env_steps_per_update=1,
    min_replay=20, replay_capacity=4_000,
)  # fmt: skip


class Shards:
    """Two servers, a writer that spreads over them, and the source of a learner.

    Args:
      test: cleans up.
      priorities: takes the reward of a transition, gives its priority.
    """

    def __init__(self, test, priorities=lambda reward: np.abs(reward) + 0.1, **settings):
        self.run_plan = plan_run(make_job("dqn", **{**SETTINGS, **settings}))
        self.servers = [self.serve() for _ in range(2)]
        for slot in range(2):
            test.addCleanup(lambda slot=slot: self.servers[slot].stop())
        self.said = []
        orders = {
            "stop": RUN, "addresses": [s.address for s in self.servers], "shards": [(0, 0), (1, 0)]
        }  # fmt: skip
        self.link = types.SimpleNamespace(orders=orders, say=self.said.append)
        self.clients = [reverb.Client(address) for address in orders["addresses"]]
        self.writer = make_writer(
            self.clients, self.run_plan.agent.experience.item, self.run_plan.layout, 4,
            initial_priority=lambda reward, discount, before, after: priorities(reward),
            patience=self._patience,
        )  # fmt: skip
        self._deadline = time.monotonic() + 200.0
        self.seed = 0

    @functools.cached_property
    def source(self):
        """Made after what is to be drawn from is there, since it fetches ahead."""
        return TableSource(self.run_plan, self.link, BATCH * CALLS)

    def _patience(self):
        if time.monotonic() > self._deadline:
            raise AssertionError("the servers take nothing")

    def serve(self):
        run_plan = self.run_plan
        # Without a limiter, which would hold back a test in one thread; the source counts for itself.
        table = experience_table(run_plan.shard_plan, run_plan.layout, samples_per_block=None)
        return ReplayServer([table])

    def write(self, steps):
        self.seed += 1
        spec = self.run_plan.spec
        for acted in trajectories.random_script(spec, 4, steps, self.seed, True).acted:
            told = PolicyStep(acted.action, (), {"q_max": np.zeros(4, np.float32)})
            self.writer.record(acted.obs, (), told, acted.step)
        self.writer.flush()

    def next(self, limit_s=60.0):
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            samples = self.source.next()
            if samples is not None:
                return samples
            time.sleep(0.01)
        raise AssertionError("no block")

    def settle(self, limit_s=60.0):
        """Waits until both servers have told what they hold; the first answer of one may take long."""
        end = time.monotonic() + limit_s
        while any(shard.silent or not shard.inserted for shard in self.source.shards):
            assert time.monotonic() < end, "a server does not answer"
            for shard in self.source.shards:
                shard.count()
            time.sleep(0.01)

    def contents(self, slot):
        """{key: (reward, priority)} of what a shard holds."""
        found = {}
        for item in self.clients[slot].sample(EXPERIENCE, 400, emit_timesteps=False):
            row = np.asarray(item.data[0]).reshape(1, -1)
            record = row.view(self.run_plan.layout.packing.dtype)
            found[int(item.info.key)] = (float(record["reward"].reshape(-1)[0]), item.info.priority)
        return found


class ShardsTest(tf.test.TestCase, parameterized.TestCase):
    def sizes(self, shards):
        return [c.server_info()[EXPERIENCE].current_size for c in shards.clients]

    def test_items_are_spread_and_each_goes_to_one_shard(self):
        shards = Shards(self)
        shards.write(100)
        sizes = self.sizes(shards)
        self.assertEqual(sum(sizes), 400)
        self.assertBetween(sizes[0], 200 - 36, 200 + 36)  # a burst of 32 and the items of a step

    def test_batches_and_weights_are_of_all_shards(self):
        # Rewards above 0 have a priority 50 times that of the others.
        shards = Shards(self, lambda r: np.where(r > 0, 5.0, 0.1).astype(np.float32))
        shards.write(40)
        shards.settle()
        totals = []
        drawn = [shards.next() for _ in range(12)]
        held = [set(s for s in part) for part in map(shards.contents, range(2))]
        for samples in drawn:
            keys = samples.keys.numpy().reshape(CALLS, BATCH)
            for batch in keys:  # half of each batch is of each shard
                first = sum(int(key) in held[0] for key in batch)
                second = sum(int(key) in held[1] for key in batch)
                totals.append((first, second))
        self.assertTrue(all(max(pair) <= BATCH // 2 for pair in totals), totals)
        # P(i) is half of that under the shard, whose sum of priority**alpha is found from its own items.
        probability = np.concatenate([s.probability.numpy() for s in drawn])
        keys = np.concatenate([s.keys.numpy() for s in drawn])
        priority = np.concatenate([s.columns["priority"].numpy() for s in drawn])
        self.assertGreater(np.mean(priority == 5.0), 0.5)
        weight = priority**ALPHA
        sums = weight / (2 * probability)
        of_first = np.array([int(key) in held[0] for key in keys])
        of_second = np.array([int(key) in held[1] for key in keys])
        for mine in (of_first, of_second):  # one sum for each shard, whichever item tells it
            self.assertAllClose(sums[mine], np.full(mine.sum(), sums[mine][0]), rtol=1e-4)
        batch = probability[:BATCH] / probability[:BATCH].min()
        beta = 0.4
        expected = (160 * probability[:BATCH]) ** -beta
        found = value.importance_weights(tf.constant(batch, tf.float32), tf.constant(beta))
        self.assertAllClose(found, expected / expected.max(), rtol=1e-5)

    def test_priorities_go_back_to_the_shard_that_has_the_item(self):
        shards = Shards(self)
        shards.write(60)
        samples = shards.next()
        new = np.arange(1, BATCH * CALLS + 1, dtype=np.float32) * 100
        shards.source.write_priorities(new)
        time.sleep(0.5)
        wanted = {}
        for key, priority in zip(samples.keys.numpy().tolist(), new.tolist()):
            wanted.setdefault(key, set()).add(priority)  # an item may have been drawn twice
        found = {**shards.contents(0), **shards.contents(1)}
        seen = [found[key][1] in values for key, values in wanted.items() if key in found]
        self.assertGreater(len(seen), 10)
        self.assertTrue(all(seen))

    def test_without_a_shard_the_others_go_on(self):
        shards = Shards(self)
        shards.write(60)
        shards.settle()
        shards.next()
        gone = shards.source.shards[1]
        gone.count = lambda: setattr(gone._count, "silent", True)
        gone.count()
        for _ in range(3):
            samples = shards.next()
            self.assertEqual([shard.index for shard, _ in shards.source._given], [0, 0])
            weight = samples.columns["priority"].numpy() ** ALPHA
            total = weight / samples.probability.numpy()  # all of P is this shard's
            self.assertAllClose(total, np.full(BATCH * CALLS, total[0]), rtol=1e-4)
        del gone.count
        shards.link.orders["shards"] = [(0, 0), (7, 0)]
        shards.next()
        taken = shards.source.numbers()
        self.assertEqual(taken["sampled_of"].keys(), {0, 7})
        self.assertEqual(taken["sampled"], 5 * BATCH * CALLS)

    def test_contents_of_all_shards_are_saved_and_restored(self):
        shards = Shards(self)
        shards.write(50)
        shards.settle()
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "replay"
        shards.source.save(folder)
        self.assertEqual(saved_shards(folder), 2)
        self.assertEqual(shards.source.state(), {"written": 200, "sampled": [0, 0]})
        for slot, size in enumerate(self.sizes(shards)):
            plan, layout = shards.run_plan.shard_plan, shards.run_plan.layout
            again = ReplayServer([experience_table(plan, layout, 16)], shard_folder(folder, slot))
            self.addCleanup(again.stop)
            info = reverb.Client(again.address).server_info()[EXPERIENCE]
            self.assertEqual(info.current_size, size)


class SpreadTest(absltest.TestCase):
    """Servers are functions that confirm, or do not."""

    def setUp(self):
        super().setUp()
        self.up, self.spread, self.waits = [True, True, True], Spread(3), 0

    def flush(self, slot, timeout_ms):
        if not self.up[slot]:
            raise reverb.errors.DeadlineExceededError("no answer")

    def wait(self, all_of_them=False):
        def patience():
            self.waits += 1
            if self.waits == 3:
                self.up[1] = True

        flushes = [functools.partial(self.flush, slot) for slot in range(3)]
        self.spread.wait(flushes, patience, all_of_them)

    def test_the_fewest_come_first(self):
        self.assertEqual([self.spread.take(n) for n in (5, 3, 4, 1, 1, 1)], [0, 1, 2, 1, 1, 2])

    def test_who_does_not_confirm_gets_no_more_and_need_not_catch_up(self):
        self.up[1] = False
        self.wait()
        self.assertEqual([self.spread.take(10) for _ in range(4)], [0, 2, 0, 2])
        self.assertFalse(self.spread.keeps_up(1))
        self.up[1] = True
        self.wait()
        self.assertEqual([self.spread.take(10) for _ in range(4)], [0, 1, 2, 0])

    def test_it_waits_while_nobody_confirms(self):
        self.up = [False, False, False]
        self.wait()
        self.assertEqual(self.waits, 3)
        self.assertEqual([self.spread.take(1) for _ in range(2)], [1, 1])

    def test_at_the_end_all_must_confirm(self):
        self.up[1] = False
        self.wait(all_of_them=True)
        self.assertEqual(self.waits, 3)


class SettingsTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(backend="inprocess"), "num_replay_shards=2 with backend=inprocess"),
        (dict(replay_residency="learner"), "num_replay_shards=2 with replay_residency=learner"),
        (dict(num_replay_shards=3), "num_replay_shards=3 with batch_size=8.*multiple of 3"),
        (dict(num_replay_shards=0), "num_replay_shards=0: expected at least 1"),
        (
            dict(num_replay_shards=1, actor_priorities=True, replay_residency="learner"),
            "replay_residency=learner with actor_priorities=True",
        ),
        (
            dict(max_weight_delay_env_steps=3, num_envs=4),
            "max_weight_delay_env_steps=3 with num_envs=4",
        ),
        (
            dict(max_weight_delay_env_steps=8, num_replay_shards=1, backend="inprocess"),
            "max_weight_delay_env_steps=8 with backend=inprocess: .*set backend=processes",
        ),
    )
    def test_what_cannot_be_spread_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            plan_run(make_job("dqn", **{**SETTINGS, **settings}))

    def test_a_shard_that_a_checkpoint_lacks_starts_from_nothing(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        shard_folder(folder, 0).mkdir()
        found = types.SimpleNamespace(replay=folder, state={"sampled": [70, 80]})
        self.assertEqual([sampled_before(found, slot) for slot in (0, 1)], [70, 0])
        alone = types.SimpleNamespace(replay=folder, state={"sampled": 90})
        self.assertEqual(sampled_before(alone, 0), 90)
        without = types.SimpleNamespace(replay=None, state={"sampled": [70, 80]})
        self.assertEqual(sampled_before(without, 1), 0)
        self.assertEqual(sampled_before(None, 0), 0)

    @parameterized.parameters(
        (dict(num_replay_shards=2), "num_replay_shards=2 with algo=a3c: expected 1"),
        (
            dict(max_weight_delay_env_steps=19, unroll_length=10, num_envs=2),
            "max_weight_delay_env_steps=19: .*at least 20",
        ),
    )
    def test_unrolls_are_not_spread(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            plan_run(make_job("a3c", env=SETTINGS["env"], backend="processes", **settings))

    def test_shards_hold_their_share(self):
        job = make_job("dqn", **{**SETTINGS, "replay_capacity": 4_001})
        run_plan = plan_run(job)
        self.assertEqual(
            (run_plan.shard_plan.capacity_items, run_plan.shard_plan.min_items), (2_001, 10)
        )
        self.assertEqual(run_plan.residency_line, "replay: server (2 shards of 2,001 items)")

    def test_the_line_of_the_ladder(self):
        settings = {**SETTINGS, "num_actors": 3, "num_envs": 2, "epsilon_ladder": "actor"}
        line = plan_run(make_job("dqn", **settings)).exploration_line
        self.assertEqual(
            line,
            "exploration: epsilon 0.4 to 0.000655 over 6 environments; training returns come from 2 of "
            "them",
        )
        alone = {**settings, "num_actors": 1}
        line = plan_run(make_job("dqn", **alone)).exploration_line
        self.assertRegex(line, "epsilon 0.4 in every environment over 2 environments")


if __name__ == "__main__":
    tf.test.main()
