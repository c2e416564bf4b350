"""Updates that draw from the replay beside them: the same wherever they run, and as the slow twin has them."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import dqn
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.transitions import TransitionLayout
from tfrl.replay.write_chunks import Chunk
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.testing import conformance, reference, replicas
from tfrl.types import EnvSpec

SPEC = EnvSpec("box", gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(4))
ITEMS = 90


def make(mode="graph", strategy=None, **settings):
    """A loop over a replay of 90 random items."""
    defaults = dict(hidden_sizes=(16,), batch_size=8, updates_per_call=4, target_period_updates=3)
    agent = dqn.make(dqn.Config(**{**defaults, **settings}), SPEC)
    layout = TransitionLayout(SPEC, agent.experience.prioritized)
    replay = LearnerReplay(agent.experience, layout, seed=5)
    rows = conformance.samples(agent, SPEC, ITEMS, 0).columns["packed"].numpy()
    none = np.zeros((0, 0, 0), np.uint8), np.zeros((ITEMS, 0), np.int64)
    replay.insert(Chunk(rows, *none, np.int64(0), np.int64(0)))
    tf.keras.utils.set_random_seed(1)
    strategy = strategy or tf.distribute.get_strategy()
    return LearnerLoop(agent, layout, strategy, mode, seed=7, learner_replay=replay)


def state(loop):
    """All variables; sums of weights as means, so that the same rounding is as small in all of them."""
    weights = [v.numpy() for v in loop.learner_replay.priority_variables]
    if weights:
        weights[1] = weights[1] / ITEMS
    return [*conformance.values(loop), *weights]


class SameResultTest(tf.test.TestCase, parameterized.TestCase):
    def trained(self, calls=3, **settings):
        loop = make(**settings)
        metrics = [loop.run(loop.learner_replay)[0] for _ in range(calls)]
        return loop, metrics

    @parameterized.parameters(False, True)
    def test_graph_xla_and_two_devices_agree(self, prioritized):
        graph, metrics = self.trained(prioritized=prioritized)
        self.assertEqual(int(graph.updates), 12)
        for other in (dict(mode="xla"), dict(mode="auto", strategy=replicas.two_cpus())):
            loop, theirs = self.trained(prioritized=prioritized, **other)
            self.assertLess(conformance.apart(state(graph), state(loop)), 3e-6)
            for mine, same in zip(metrics, theirs, strict=True):
                self.assertAllClose(mine, same, rtol=1e-4)
        other, _ = self.trained(prioritized=prioritized, calls=2)
        self.assertGreater(conformance.apart(state(graph), state(other)), 1e-4)

    @parameterized.parameters(False, True)
    def test_the_number_of_updates_per_call_changes_nothing(self, prioritized):
        many, _ = self.trained(prioritized=prioritized)
        single, _ = self.trained(prioritized=prioritized, updates_per_call=1, calls=12)
        self.assertLess(conformance.apart(state(many), state(single)), 3e-6)

    def test_timing_both_ways_does_not_train(self):
        once, _ = self.trained(prioritized=True, calls=1)
        timed, _ = self.trained(prioritized=True, calls=1, mode="auto")
        self.assertLess(conformance.apart(state(once), state(timed)), 3e-6)
        self.assertEqual(int(timed.updates), 4)

    def test_a_checkpoint_of_the_loop_leaves_the_contents_out(self):
        loop = make(prioritized=True)
        held = [v for v in vars(loop.learner_replay).values() if isinstance(v, tf.Variable)]
        self.assertGreaterEqual(len(held), 4)
        saved = {v.ref() for v in conformance.variables(loop)}
        self.assertNotEmpty(saved)
        self.assertFalse(saved & {v.ref() for v in held})


class TwinTest(tf.test.TestCase):
    def test_priorities_weights_and_loss_of_an_update(self):
        loop = make(
            updates_per_call=1, prioritized=True, priority_epsilon=0.5, importance_beta=0.4,
            priority_exponent=0.6, double=False,
        )  # fmt: skip
        replay, layout = loop.learner_replay, loop._layout
        priorities = np.linspace(0.2, 3.0, ITEMS)
        replay.update_priorities(tf.range(ITEMS), tf.constant(priorities, tf.float32))
        for update in range(3):
            drawn = replay.sample(8, tf.constant(update, tf.int64))
            batch = layout.decode(drawn.columns, tf.ones([8]))
            q_tm1 = loop.learner.policy.q_values(batch.obs_tm1).numpy()
            q_t = loop.learner.target.q_values(batch.obs_t).numpy()
            fields = [x.numpy() for x in (batch.action_tm1, batch.reward_t, batch.discount_t)]
            loss, error, _ = reference.q_learning(q_tm1, *fields, q_t, q_t, delta=1.0)
            slots = drawn.slots.numpy()
            p = reference.prioritized_probabilities(priorities, 0.6)[slots]
            beta = float(loop.learner.row_weights(batch).beta)
            weights = p**-beta / np.max(p**-beta)
            metrics, out = loop.run(replay)
            self.assertIsNone(out)
            self.assertAllClose(metrics["learner/loss"], np.mean(weights * loss), rtol=1e-4)
            priorities[slots] = np.abs(error) + 0.5
            found = replay.priority_variables[0].numpy()[:ITEMS]
            self.assertAllClose(found, priorities**0.6, rtol=1e-4)
            self.assertAllClose(loop.max_priority, max(3.0, priorities.max()), rtol=1e-5)


if __name__ == "__main__":
    tf.test.main()
