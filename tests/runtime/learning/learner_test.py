"""The learner loop with DQN: one expected number, and that nothing depends on how it runs."""

import dataclasses
import os
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import dqn
from tfrl.runtime.learning import learner as learner_loop
from tfrl.testing import conformance, reference, replicas
from tfrl.types import EnvSpec

SPEC = EnvSpec("box", gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(4))


def agent_of(spec=SPEC, **settings):
    defaults = dict(hidden_sizes=(16,), batch_size=8, updates_per_call=1, target_period_updates=3)
    return dqn.make(dqn.Config(**{**defaults, **settings}), spec)


class OneNumberTest(tf.test.TestCase):
    """Features relu(x0/2 + x1/2), Q = [2, 3] features; one transition."""

    def test_update(self):
        spec = EnvSpec("two", gym.spaces.Box(-9, 9, (2,), np.float32), gym.spaces.Discrete(2))
        agent = agent_of(
            spec,
            hidden_sizes=(1,),
            batch_size=1,
            learning_rate=0.125,
            double=False,
            target_period_updates=100,
        )
        loop = conformance.loop(agent, spec)
        for policy in (loop.learner.policy, loop.learner.target):
            by_shape = {tuple(v.shape): v for v in policy.variables}
            by_shape[2, 1].assign([[0.5], [0.5]])
            by_shape[1, 2].assign([[2.0, 3.0]])
        block = conformance.samples(
            agent,
            spec,
            1,
            0,
            obs_tm1=np.float32([[1, 1]]),
            obs_t=np.float32([[2, 2]]),
            action=[0],
            reward=[1.0],
            discount=[0.5],
        )
        metrics, priorities = loop.run(block)
        # Q(s, 0) = 2, target 1 + 0.5 * 6 = 4: error -2, Huber 1.5, dL/dQ = -1.
        self.assertIsNone(priorities)
        self.assertAllClose(metrics["learner/loss"], 1.5)
        self.assertAllClose(metrics["learner/td_error_abs_mean"], 2.0)
        self.assertAllClose(metrics["learner/q_mean"], 2.0)
        self.assertAllClose(metrics["learner/gradient_norm"], np.sqrt(1 + 1 + 4 + 4 + 4))
        by_shape = {tuple(v.shape): v.numpy() for v in loop.learner.policy.variables}
        # Adam's first step is the learning rate in the direction of each gradient.
        self.assertAllClose(by_shape[1, 2], [[2.125, 3.0]], atol=1e-5)
        self.assertAllClose(by_shape[2, 1], [[0.625], [0.625]], atol=1e-5)
        self.assertAllClose(by_shape[2,], [0.125, 0.0], atol=1e-5)
        self.assertEqual(int(loop.updates), 1)


class SameResultTest(tf.test.TestCase, parameterized.TestCase):
    def run_blocks(self, agent, blocks, mode="graph", strategy=None):
        loop = conformance.loop(agent, SPEC, mode, strategy)
        outs = [loop.run(block) for block in blocks]
        return loop, outs

    def blocks(self, agent, count):
        size = agent.experience.batch_size * agent.experience.updates_per_call
        return [conformance.samples(agent, SPEC, size, seed) for seed in range(count)]

    def assertSameVariables(self, a, b, tolerance):
        self.assertLessEqual(
            conformance.apart(conformance.values(a), conformance.values(b)), tolerance
        )

    @parameterized.parameters((True,))
    def test_eager_equals_traced_equals_xla(self, prioritized):
        self.check_modes(prioritized)

    @parameterized.parameters((False,))
    @pytest.mark.slow
    def test_eager_equals_traced_equals_xla_without_priorities(self, prioritized):
        self.check_modes(prioritized)

    def check_modes(self, prioritized):
        agent = agent_of(updates_per_call=4, prioritized=prioritized, dueling=True)
        blocks = self.blocks(agent, 2)
        graph, graph_out = self.run_blocks(agent, blocks)
        xla, xla_out = self.run_blocks(agent, blocks, "xla")
        tf.config.run_functions_eagerly(True)
        self.addCleanup(tf.config.run_functions_eagerly, False)
        eager, eager_out = self.run_blocks(agent, blocks)
        for other, out in ((xla, xla_out), (eager, eager_out)):
            self.assertSameVariables(graph, other, 2e-6)
            for (metrics, priorities), (theirs, others) in zip(graph_out, out, strict=True):
                self.assertAllClose(metrics, theirs, rtol=1e-4)
                if prioritized:
                    self.assertAllClose(priorities, others, rtol=1e-4)
        fresh = conformance.loop(agent, SPEC)
        self.assertGreater(
            conformance.apart(conformance.values(fresh)[:8], conformance.values(graph)[:8]), 1e-4
        )

    @parameterized.parameters((True,))
    def test_two_devices_equal_one(self, prioritized):
        self.check_devices(prioritized)

    @parameterized.parameters((False,))
    @pytest.mark.slow
    def test_two_devices_equal_one_without_priorities(self, prioritized):
        self.check_devices(prioritized)

    def check_devices(self, prioritized):
        agent = agent_of(updates_per_call=4, prioritized=prioritized, gradient_clip_norm=0.5)
        blocks = self.blocks(agent, 2)
        one, one_out = self.run_blocks(agent, blocks)
        two, two_out = self.run_blocks(agent, blocks, "auto", replicas.two_cpus())
        self.assertSameVariables(one, two, 1e-6)
        for (metrics, priorities), (theirs, others) in zip(one_out, two_out, strict=True):
            self.assertAllClose(metrics, theirs, rtol=1e-4)
            if prioritized:
                self.assertAllClose(priorities, others, rtol=1e-4)

    def test_timing_both_ways_does_not_train(self):
        agent = agent_of(updates_per_call=4, prioritized=True, target_period_updates=2)
        blocks = self.blocks(agent, 1)
        once, _ = self.run_blocks(agent, blocks)
        timed, _ = self.run_blocks(agent, blocks, "auto")
        self.assertEqual(int(timed.updates), 4)
        self.assertEqual(int(timed.learner.optimizer.iterations), 4)
        self.assertSameVariables(once, timed, 2e-6)
        self.assertAllClose(once.max_priority, timed.max_priority, rtol=1e-4)

    @parameterized.parameters(3, 12)
    def test_a_loop_of_updates_equals_single_ones(self, calls):
        single = agent_of(prioritized=True, dueling=True)
        blocks = self.blocks(single, 12)
        one, one_out = self.run_blocks(single, blocks)
        many = dataclasses.replace(
            single, experience=dataclasses.replace(single.experience, updates_per_call=calls)
        )
        joined = [
            tf.nest.map_structure(lambda *x: tf.concat(x, 0), *blocks[i : i + calls])
            for i in range(0, 12, calls)
        ]
        loop, out = self.run_blocks(many, joined)
        self.assertSameVariables(one, loop, 2e-6)
        self.assertAllClose(
            np.concatenate([p for _, p in one_out]), np.concatenate([p for _, p in out]), rtol=1e-4
        )
        losses = [float(m["learner/loss"]) for m, _ in one_out]
        means = np.reshape(losses, [-1, calls]).mean(1)
        self.assertAllClose([float(m["learner/loss"]) for m, _ in out], means, rtol=1e-4)

    def test_the_same_blocks_give_the_same_weights_bit_for_bit(self):
        agent = agent_of(updates_per_call=3)
        blocks = self.blocks(agent, 2)
        self.assertSameVariables(
            self.run_blocks(agent, blocks)[0], self.run_blocks(agent, blocks)[0], 0.0
        )


class TargetTest(tf.test.TestCase, parameterized.TestCase):
    def weights(self, policy):
        return [v.numpy() for v in policy.variables]

    def test_copied_at_every_multiple_whatever_the_block(self):
        period, total = 3, 20
        single = agent_of(target_period_updates=period)
        blocks = [conformance.samples(single, SPEC, 8, seed) for seed in range(total)]
        loop = conformance.loop(single, SPEC)
        history = [self.weights(loop.learner.policy)]
        copies = 0
        for i, block in enumerate(blocks):
            before = self.weights(loop.learner.target)
            loop.run(block)
            history.append(self.weights(loop.learner.policy))
            target = self.weights(loop.learner.target)
            last = history[(i + 1) // period * period]
            self.assertEqual(conformance.apart(target, last), 0.0)  # bit for bit
            copies += conformance.apart(before, target) > 0
        self.assertEqual(copies, total // period)
        for calls in (4, 20):
            agent = agent_of(target_period_updates=period, updates_per_call=calls)
            loop = conformance.loop(agent, SPEC)
            for i in range(0, total, calls):
                loop.run(tf.nest.map_structure(lambda *x: tf.concat(x, 0), *blocks[i : i + calls]))
            target = self.weights(loop.learner.target)
            self.assertLess(conformance.apart(target, history[18]), 2e-6)
            for other in (15, 17, 19, 20):
                self.assertGreater(conformance.apart(target, history[other]), 1e-4)

    def test_it_is_a_copy_not_an_alias(self):
        learner = agent_of().make_learner()
        online, target = self.weights(learner.policy), self.weights(learner.target)
        self.assertEqual(conformance.apart(online, target), 0.0)
        for variable in learner.policy.variables:
            variable.assign_add(tf.ones_like(variable))
        self.assertEqual(conformance.apart(target, self.weights(learner.target)), 0.0)

    def test_an_update_leaves_the_target_alone(self):
        agent = agent_of(target_period_updates=100)
        loop = conformance.loop(agent, SPEC)
        before = self.weights(loop.learner.target)
        loop.run(conformance.samples(agent, SPEC, 8, 0))
        self.assertEqual(conformance.apart(before, self.weights(loop.learner.target)), 0.0)
        self.assertGreater(conformance.apart(before, self.weights(loop.learner.policy)), 1e-4)


class DataTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_the_target_of_a_termination_does_not_depend_on_the_next_state(self, double):
        agent = agent_of(double=double)
        ends = np.zeros(8)

        def trained(seed, discount):
            loop = conformance.loop(agent, SPEC)
            obs_t = np.random.default_rng(seed).normal(size=(8, 3)).astype(np.float32)
            loop.run(conformance.samples(agent, SPEC, 8, 0, discount=discount, obs_t=obs_t))
            return conformance.values(loop)

        self.assertEqual(conformance.apart(trained(1, ends), trained(2, ends)), 0.0)
        self.assertGreater(conformance.apart(trained(1, ends + 0.9), trained(2, ends + 0.9)), 1e-5)

    def test_priorities_and_weights_of_prioritized_replay(self):
        agent = agent_of(
            prioritized=True,
            priority_epsilon=0.5,
            importance_beta=0.4,
            importance_beta_updates=10,
            gradient_clip_norm=None,
        )
        loop = conformance.loop(agent, SPEC)
        block = conformance.samples(agent, SPEC, 8, 3)
        batch = loop._layout.decode(block.columns, tf.ones([8]))
        q = loop.learner.policy.q_values
        loss, error, _ = reference.q_learning(
            *(
                x.numpy()
                for x in (
                    q(batch.obs_tm1),
                    batch.action_tm1,
                    batch.reward_t,
                    batch.discount_t,
                    q(batch.obs_t),
                    q(batch.obs_t),
                )
            ),
            delta=1.0,
        )
        metrics, priorities = loop.run(block)
        self.assertAllClose(priorities, np.abs(error) + 0.5, rtol=1e-4)
        p = block.probability.numpy()
        weights = p**-0.4 / np.max(p**-0.4)
        self.assertAllClose(metrics["learner/loss"], np.mean(weights * loss), rtol=1e-4)
        self.assertAllClose(metrics["learner/importance_beta"], 0.4)
        self.assertAllClose(loop.max_priority, max(1.0, float(np.max(priorities))))
        for i in range(5):
            metrics, _ = loop.run(conformance.samples(agent, SPEC, 8, i))
        self.assertAllClose(metrics["learner/importance_beta"], 0.7)

    def test_seed_of_an_update(self):
        """Every update has the loop's seed and its own number, in blocks too."""
        seen = []
        agent = agent_of(updates_per_call=3)
        make = agent.make_learner

        def spying():
            learner = make()
            update = learner.update

            def spy(batch, seed):
                tf.numpy_function(lambda x: seen.append(x.tolist()), [seed], [])
                return update(batch, seed)

            learner.update = spy
            return learner

        loop = conformance.loop(dataclasses.replace(agent, make_learner=spying), SPEC)
        for seed in range(2):
            loop.run(conformance.samples(agent, SPEC, 24, seed))
        self.assertAllEqual(seen, [[7, i] for i in range(6)])


class CompareTest(tf.test.TestCase):
    def test_turns_and_medians(self):
        order, times = [], {"a": iter([1.0, 90.0, 1.2, 1.1, 1.0]), "b": iter([0.1, 2, 2, 2, 2])}

        def measure(name):
            order.append(name)
            return next(times[name])

        with mock.patch.object(learner_loop, "MOST_ROUNDS", 5):
            found = learner_loop.compare(
                {name: lambda name=name: measure(name) for name in times}, budget_s=60.0
            )
        self.assertEqual(order, ["a", "b"] * 5)
        self.assertEqual(found, {"a": 1.1, "b": 2.0})  # a slow and a quick moment decide nothing

    def test_a_slow_learner_is_timed_a_few_times_only(self):
        calls = []
        learner_loop.compare({"a": lambda: calls.append(0) or 1.0}, budget_s=0.0)
        self.assertLen(calls, learner_loop.LEAST_ROUNDS)

    def test_the_line_says_what_the_choice_cost(self):
        agent, lines = agent_of(), []
        loop = conformance.loop(agent, SPEC, "auto")
        loop._announce = lines.append
        loop.run(conformance.samples(agent, SPEC, 8, 0))
        self.assertRegex(
            lines[-1],
            r"^learning: (graph|xla), 1 updates per call \(graph \d+ us, xla \d+ us per update; compiling and timing "
            r"both took \d+\.\d s, which --compile=(graph|xla) saves\)$",
        )

    def test_a_flag_of_xla_is_added_once_and_the_users_stands(self):
        ours, other = "--xla_disable_hlo_passes=tree_reduction_rewriter", "--xla_cpu_fast=true"
        theirs = "--xla_disable_hlo_passes=dce"
        for before, after in (("", ours), (other, f"{other} {ours}"), (theirs, theirs)):
            with mock.patch.dict(os.environ, XLA_FLAGS=before):
                for _ in range(2):  # every learner of a process adds it
                    learner_loop._set_xla_flags()
                    self.assertEqual(os.environ["XLA_FLAGS"], after)

    def test_values_of_variables(self):
        agent = agent_of()
        for strategy in (None, replicas.two_cpus()):
            loop = conformance.loop(agent, SPEC, "graph", strategy)
            before = loop.arrays()
            self.assertAllEqual(before[0], loop.learner.policy.variables[0].numpy())
            kept = before[0].copy()
            loop.run(conformance.samples(agent, SPEC, 8, 0))
            self.assertAllEqual(before[0], kept)  # a copy, which an update does not change
            self.assertNotAllEqual(loop.arrays()[0], kept)
