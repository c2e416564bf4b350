"""The learner loop on batches of unrolls: minibatches, early stop, statistics, and what must equal what."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import Learner
from tfrl.algos import a2c, impala, ppo
from tfrl.algos.parts import policy_gradient
from tfrl.envs.make import make_spec
from tfrl.job import EnvPlan
from tfrl.logs.histogram import Histogram
from tfrl.losses import policy as losses
from tfrl.nn.actor_critic import ActorCritic
from tfrl.runtime.learning.batches import Batcher
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.testing import conformance
from tfrl.testing.acting import acting
from tfrl.types import UpdateOutput

MASKED, IDENTITY = "tfrl.testing.fakes:MaskedBandit", "tfrl.testing.fakes:IdentityGame"
SPECS = {env: make_spec(EnvPlan(env=env)) for env in (MASKED, IDENTITY)}


def agent_of(algo, env=MASKED, **settings):
    settings = {"hidden_sizes": (8,), "unroll_length": 5, **settings}
    return algo.make(algo.Config(**settings), SPECS[env])


def block(agent, seed, env=MASKED, num_envs=4):
    return conformance.unroll(agent, SPECS[env], num_envs, seed)


def beside(samples):
    """Blocks -> one of as many items."""
    return tf.nest.map_structure(lambda *x: tf.concat(x, 0), *samples)


def apart(a, b):
    return conformance.apart(conformance.values(a), conformance.values(b))


class Numbering(Learner):
    """A learner whose rows are numbers, and which tells those that each update takes."""

    def __init__(self, policy, told):
        super().__init__()
        self.policy, self._told = policy, told

    def prepare(self, batch):
        return tf.reshape(tf.range(batch.reward.shape.num_elements()), [-1])

    def update(self, rows, seed):
        tf.numpy_function(lambda x: self._told.append(x.tolist()), [rows], [])
        return UpdateOutput({"learner/loss": tf.constant(0.0)}, None)


class MinibatchTest(tf.test.TestCase):
    EPOCHS, MINIBATCHES, ROWS = 3, 3, 20

    def told(self, seed, batches=1):
        """Rows of each update, [batches, epochs, minibatches, size]."""
        agent, told = agent_of(ppo), []
        agent = dataclasses.replace(
            agent,
            make_learner=lambda: Numbering(ActorCritic(ppo.Config(), SPECS[MASKED]), told),
            experience=dataclasses.replace(
                agent.experience, epochs=self.EPOCHS, minibatches=self.MINIBATCHES
            ),
        )
        layout = conformance.loop(agent, SPECS[MASKED])._layout
        loop = LearnerLoop(agent, layout, tf.distribute.get_strategy(), "graph", seed)
        for _ in range(batches):
            loop.run(block(agent, 0))
        return np.reshape(told, [batches, self.EPOCHS, self.MINIBATCHES, -1])

    def test_they_part_the_rows_of_each_epoch(self):
        told = self.told(1)
        self.assertEqual(told.shape[-1], self.ROWS // self.MINIBATCHES)  # two rows are left out
        for epoch in told[0]:
            rows = epoch.reshape(-1)
            self.assertLen(set(rows), len(rows))
            self.assertContainsSubset(rows, range(self.ROWS))
        left_out = {frozenset(range(self.ROWS)) - frozenset(e.reshape(-1)) for e in told[0]}
        self.assertLen(left_out, self.EPOCHS)

    def test_rows_are_shuffled_anew_in_every_epoch_and_batch(self):
        told = self.told(1, batches=2).reshape(2 * self.EPOCHS, -1)
        orders = {tuple(order) for order in told}
        self.assertLen(orders, 2 * self.EPOCHS)
        for order in told:
            self.assertNotEqual(order.tolist(), sorted(order.tolist()))

    def test_a_seed_gives_one_order(self):
        self.assertAllEqual(self.told(1, 2), self.told(1, 2))
        self.assertNotAllEqual(self.told(1), self.told(2))


class FirstMinibatchTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(("none", "lite", False), ("lstm", "function", False))
    def test_ratios_are_one_and_the_kl_is_zero(self, core, engine, shared):
        self.check_agreement(core, engine, shared)

    @parameterized.parameters(("gru", "lite", True), ("gtrxl", "function", True))
    @pytest.mark.slow
    def test_ratios_are_one_and_the_kl_is_zero_with_a_shared_body(self, core, engine, shared):
        self.check_agreement(core, engine, shared)

    def check_agreement(self, core, engine, shared):
        """Acting and training agree: statistics of observations, masks, memory, ends of episodes."""
        agent = agent_of(
            ppo, core=core, core_size=8, normalize_observations=True, normalize_rewards=True,
            epochs=3, minibatches=2, kl_coefficient=0.2, learning_rate=3e-2, shared_torso=shared,
            unroll_length=8,
        )  # fmt: skip
        loop = conformance.loop(agent, SPECS[MASKED])
        policy, prepare = loop.learner.policy, loop.learner.prepare
        ended = 0
        with acting(agent, MASKED, engine=engine, length=5) as actor:
            for _ in range(3):  # fresh weights, and twice after updates
                samples = actor.samples(loop)
                before = conformance.values(loop)
                batch = actor.layout.decode(samples.columns)
                new, old = policy_gradient.evaluate(policy, prepare(batch))
                valid = old.valid
                ratio = losses.ratio(new.log_prob, old.log_prob)
                self.assertAllClose(ratio[valid], tf.ones_like(ratio[valid]), 0, 1e-6)
                kl = policy.distribution.kl(old.params, new.params)
                self.assertAllClose(kl[valid], tf.zeros_like(kl[valid]), 0, 1e-6)
                ended += int(tf.reduce_sum(tf.cast(~batch.valid, tf.int32)))
                conformance.assign(loop, before)  # `prepare` has merged statistics
                metrics, _ = loop.run(samples)
                self.assertGreater(float(metrics["learner/kl"]), 1e-6)
        self.assertGreater(ended, 4)
        moved = conformance.apart(
            [v.numpy() for v in policy.normaliser.variables],
            [v.numpy() for v in agent.make_policy().normaliser.variables],
        )
        self.assertGreater(moved, 0.1)


class KlTest(tf.test.TestCase, parameterized.TestCase):
    def spied(self, told, **settings):
        """An agent that tells the KL of each update."""
        agent = agent_of(ppo, epochs=4, minibatches=2, learning_rate=3e-2, **settings)
        make = agent.make_learner

        def spying():
            learner = make()
            update = learner.update

            def spy(rows, seed):
                out = update(rows, seed)
                tf.numpy_function(lambda x: told.append(float(x)), [out.metrics["learner/kl"]], [])
                return out

            learner.update = spy
            return learner

        return dataclasses.replace(agent, make_learner=spying)

    def test_an_update_that_goes_too_far_ends_the_epochs(self):
        told = []
        agent = self.spied(told, kl_stop=1e9)
        loop = conformance.loop(agent, SPECS[MASKED])
        samples = block(agent, 7)
        loop.run(samples)
        self.assertEqual(int(loop.updates), 8)
        self.assertLen(told, 8)
        free = list(told)
        self.assertLess(free[0], 1e-6)
        limit = float(np.median(free))
        stops = next(i for i, kl in enumerate(free) if kl > limit)
        self.assertBetween(stops, 1, 6)
        told.clear()
        loop = conformance.loop(self.spied(told, kl_stop=limit), SPECS[MASKED])
        metrics, _ = loop.run(samples)
        self.assertEqual(int(loop.updates), stops + 1)
        self.assertAllClose(told, free[: stops + 1], rtol=1e-5)
        self.assertAllClose(metrics["learner/kl"], np.mean(told), rtol=1e-5)
        with self.subTest("the next batch begins anew"):
            told.clear()
            loop.run(block(agent, 8))
            self.assertNotEmpty(told)
            self.assertTrue(all(kl <= limit for kl in told[:-1]))

    def test_the_coefficient_follows_the_last_epoch(self):
        told = []
        loop = conformance.loop(self.spied(told, kl_coefficient=1e-3), SPECS[MASKED])
        samples = block(self.spied([]), 7)
        loop.run(samples)
        last, every = np.mean(told[-2:]), np.mean(told)
        self.assertGreater(last, 1.2 * every)
        target = math.sqrt(last * every) / 2  # twice this lies between the two
        again = conformance.loop(
            self.spied([], kl_coefficient=1e-3, kl_target=target), SPECS[MASKED]
        )
        again.run(samples)
        self.assertAllClose(again.learner._kl_coefficient, 1.5e-3)

    def test_it_follows_no_update_of_an_earlier_batch(self):
        """The second batch ends with its first update, whose KL is near 0; the first one had large ones."""
        told = []
        settings = dict(kl_coefficient=1.0, kl_stop=1e9, kl_target=1e-3)
        loop = conformance.loop(self.spied(told, **settings), SPECS[MASKED])
        loop.run(block(self.spied([]), 7))
        self.assertGreater(min(told[-2:]), 2e-3)
        self.assertAllEqual(loop.learner._kl, [0.0, 0.0])
        self.assertAllClose(loop.learner._kl_coefficient, 1.5)
        loop.learner._kl.assign([0.0, 0.0])
        loop.learner._updates.assign(0)
        loop.learner._remember(tf.constant(1.9e-3))  # of 2 minibatches one was made
        loop.learner.finish()
        self.assertAllClose(loop.learner._kl_coefficient, 1.5)
        loop.learner._remember(tf.constant(2.1e-3))
        loop.learner.finish()
        self.assertAllClose(loop.learner._kl_coefficient, 2.25)

    def test_vector_of_adaptation(self):
        learner = agent_of(ppo, kl_coefficient=0.2, kl_target=0.01, minibatches=3).make_learner()
        found = []
        for kl in (0.03, 0.021, 0.02, 0.01, 0.005, 0.0049, 0.001):
            learner._kl.assign([kl] * 3)
            learner._updates.assign(3)
            learner.finish()
            found.append(float(learner._kl_coefficient))
        self.assertAllClose(found, [0.3, 0.45, 0.45, 0.45, 0.45, 0.225, 0.1125])

    def test_without_a_coefficient_nothing_is_adapted(self):
        told = []
        loop = conformance.loop(self.spied(told, kl_stop=1e9), SPECS[MASKED])
        loop.run(block(self.spied([]), 7))
        self.assertEqual(float(loop.learner._kl_coefficient), 0.0)


class StatisticsTest(tf.test.TestCase, parameterized.TestCase):
    SETTINGS = dict(normalize_observations=True, normalize_rewards=True)

    def expected(self, loop, blocks):
        """Observations acted on and running returns of the valid steps of blocks."""
        seen, returns = [], []
        for samples in blocks:
            batch = loop._layout.decode(samples.columns)
            valid = batch.valid.numpy()
            seen.append(batch.obs["observation"][:-1].numpy()[valid])
            returns.append(batch.discounted_return.numpy()[valid])
        return np.concatenate(seen), np.concatenate(returns)

    def assertStatistics(self, loop, blocks):
        seen, returns = self.expected(loop, blocks)
        statistics = loop.learner._training.statistics
        moments = statistics.observations.leaves
        self.assertLen(moments, 1)  # the mask is not normalised
        moments = next(iter(moments.values()))
        self.assertEqual(float(moments.count), len(seen))
        self.assertAllClose(moments.mean(), seen.mean(0), 1e-6, 1e-6)
        self.assertAllClose(moments.std(), seen.std(0, ddof=1), 1e-6, 1e-6)
        self.assertEqual(float(statistics.rewards.moments.count), len(returns))
        self.assertAllClose(statistics.rewards.moments.mean(), returns.mean(), 1e-5, 1e-5)

    @parameterized.parameters(
        (ppo, dict(epochs=3, minibatches=2)), (a2c, {}), (impala, dict(batch_env_steps=0))
    )
    def test_a_batch_is_merged_once(self, algo, settings):
        agent = agent_of(algo, **settings, **self.SETTINGS)
        loop = conformance.loop(agent, SPECS[MASKED])
        blocks = [block(agent, seed) for seed in range(3)]
        for samples in blocks:
            loop.run(samples)
        self.assertStatistics(loop, blocks)

    @parameterized.parameters((dict(replay_proportion=0.5, replay_unrolls=6, passes=3),))
    def test_old_unrolls_and_further_passes_are_not_merged_again(self, settings):
        self.check_merged_once(settings)

    @parameterized.parameters(
        (dict(passes=2, pass_buffer_batches=2),), (dict(replay_proportion=1.5, replay_unrolls=4),)
    )
    @pytest.mark.slow
    def test_old_unrolls_or_further_passes_are_not_merged_again(self, settings):
        self.check_merged_once(settings)

    def check_merged_once(self, settings):
        agent = agent_of(impala, batch_env_steps=30, **settings, **self.SETTINGS)
        loop = conformance.loop(agent, SPECS[MASKED])
        batch_items, new = 2, 12
        batcher = Batcher(agent.experience, batch_items, batch_items, np.random.default_rng(0))
        blocks = [block(agent, seed) for seed in range(new)]
        waiting = list(blocks)

        def fetch():
            count = batcher.fetch_items
            if len(waiting) < count:
                return None
            taken = [waiting.pop(0) for _ in range(count)]
            return beside(taken)

        used, calls = 0, 0
        while (samples := batcher.next(fetch)) is not None:
            loop.run(samples)
            used += int(tf.reduce_sum(tf.cast(samples.columns["is_new"], tf.int32)))
            calls += 1
        self.assertGreater(calls * batch_items, used)  # something was trained on again
        self.assertBetween(used, new - batch_items, new)
        self.assertStatistics(loop, blocks[:used])


class SameUpdateTest(tf.test.TestCase, parameterized.TestCase):
    SETTINGS = dict(
        core="gru", core_size=6, normalize_observations=True, normalize_rewards=True,
        learning_rate=1e-2,
    )  # fmt: skip

    @pytest.mark.slow
    def test_two_items_equal_one_of_twice_the_width(self):
        agent = agent_of(a2c, **self.SETTINGS)
        two = conformance.loop(agent, SPECS[MASKED], num_envs=4)
        one = conformance.loop(agent, SPECS[MASKED], num_envs=8)
        start = conformance.values(two)
        for seed in range(3):
            parts = [block(agent, 2 * seed + i) for i in range(2)]
            two.run(beside(parts))
            wide = {  # [1, T + 1, B, bytes] and [1, B, bytes] side by side
                name: tf.concat([p.columns[name] for p in parts], axis)
                for name, axis in (("packed", 2), ("state", 1))
            }
            columns = {**wide, "facts": parts[0].columns["facts"]}
            one.run(parts[0]._replace(columns=columns))
        self.assertLess(apart(two, one), 1e-6)
        self.assertGreater(conformance.apart(start, conformance.values(one)), 1e-3)

    def test_impala_without_lag_and_limits_above_one_is_a2c(self):
        self.check_a2c("gru", MASKED, 3)

    @parameterized.parameters(("none", MASKED, 3), ("gru", IDENTITY, 50))
    @pytest.mark.slow
    def test_impala_without_lag_is_a2c_in_other_forms(self, core, env, length):
        self.check_a2c(core, env, length)

    def check_a2c(self, core, env, length):
        shared = dict(
            core=core, core_size=6, normalize_observations=True, normalize_rewards=True,
            optimizer="adam", learning_rate=1e-3, entropy_coefficient=0.02, value_coefficient=0.4,
            shared_torso=True, unroll_length=7,
        )  # fmt: skip
        one = agent_of(a2c, env, gae_lambda=1.0, **shared)
        other = agent_of(
            impala, env, batch_env_steps=0, rho_bar=1.0, pg_rho_bar=1.0, trace_lambda=1.0, **shared
        )
        loops = [conformance.loop(agent, SPECS[env]) for agent in (one, other)]
        self.assertEqual(apart(*loops), 0.0)
        start = conformance.values(loops[0])
        with acting(one, env, length=length) as actor:
            for _ in range(4):
                samples = actor.samples(loops[0])
                for loop in loops:
                    loop.run(samples)
                    self.assertEqual(loop.lags.max, 0)
        policies = [[v.numpy() for v in loop.learner.policy.variables] for loop in loops]
        self.assertLess(conformance.apart(*policies), 1e-6)
        self.assertGreater(conformance.apart(start, conformance.values(loops[0])), 1e-3)


class LagTest(tf.test.TestCase):
    def test_every_unroll_of_a_batch_is_counted(self):
        agent = agent_of(impala, batch_env_steps=0)
        loop = conformance.loop(agent, SPECS[MASKED])
        for seed in range(5):
            loop.run(block(agent, seed))
        parts = [
            p._replace(columns={**p.columns, "facts": tf.constant([[version, 0]], tf.int64)})
            for p, version in ((block(agent, 5), 5), (block(agent, 6), 2))
        ]
        before = loop.lags.counts.copy()
        loop.run(beside(parts))
        lags = Histogram(loop.lags.counts - before)
        self.assertEqual((lags.mean, lags.max, lags.counts.sum()), (1.5, 3, 2))


if __name__ == "__main__":
    tf.test.main()
