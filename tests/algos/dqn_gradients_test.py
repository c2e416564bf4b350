"""DQN whose actors send gradients: settings, and that such a gradient is the one of an update from replay."""

import dataclasses
import pathlib
import tempfile

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import Queue, Unroll
from tfrl.algos import dqn
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.runtime.serving.export import export
from tfrl.testing import conformance, linear
from tfrl.testing.acting import acting
from tfrl.types import ActorOutput, Transition

MASKED = "tfrl.testing.fakes:MaskedBandit"


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(prioritized=True), "prioritized=True with sends_gradients=True: there is no replay"),
        (dict(noisy="factorised"), "noisy=factorised with sends_gradients=True: actors draw noise"),
        (dict(n_step=4, unroll_length=3), "n_step=4 with unroll_length=3: expected at most"),
        (dict(queue_items=0), "queue_items=0: expected at least 1 items"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            dqn.Config(sends_gradients=True, **settings)

    def test_settings_of_sequences_say_nothing_with_it(self):
        config = dqn.Config(sends_gradients=True, core="lstm", n_step=25, unroll_length=30)
        plan = dqn.make(config, linear.spec(6, 3)).experience
        self.assertIsInstance(plan, Queue)
        self.assertEqual(plan.item, Unroll(30, config.discount))
        with self.assertRaisesRegex(SettingError, "n_step=25 with sequence_length=40"):
            dqn.make(dataclasses.replace(config, sends_gradients=False), linear.spec(6, 3))

    def test_without_it_these_settings_say_nothing(self):
        dqn.Config(prioritized=True, noisy="factorised", n_step=4, unroll_length=3)


def loops(**settings):
    """A learner of gradients and one of transitions that begin alike, and the unroll of one environment of 5 steps."""
    spec = linear.spec(6, 3)
    shared = dict(hidden_sizes=(8,), learning_rate=1e-2, gradient_clip_norm=0.3, **settings)
    learners, agents = [], []
    for sends in (True, False):
        tf.keras.utils.set_random_seed(3)
        agents.append(dqn.make(dqn.Config(sends_gradients=sends, **shared), spec))
        learners.append(agents[-1].make_learner())
    sender, replaying = learners
    for target, online in zip(sender.policy.target.variables, replaying.target.variables):
        values = np.random.default_rng(1).normal(size=online.shape)  # no copy of the online one
        target.assign(values)
        online.assign(values)
    for mine, theirs in zip(sender.policy.online.variables, replaying.policy.variables):
        mine.assign(theirs)
    batch = linear.unroll([0, 2, 1, 1, 0], [1.0, -2.0, 0.5, 3.0, 1.0], [0.0] * 5, 0.9)
    discount = tf.constant([[0.9], [0.0], [0.9], [0.9], [0.9]])  # an episode ends after step 1
    is_last = tf.constant([[False], [True], [False], [False], [False]])
    return agents[0], sender, replaying, batch._replace(discount=discount, is_last=is_last)


class GradientTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(double=[False, True], missing=[None, 3])
    def test_it_is_the_gradient_of_an_update_from_replay(self, double, missing):
        agent, sender, replaying, batch = loops(double=double)
        valid = np.ones((5, 1), np.bool_)
        if missing is not None:
            valid[missing] = False
        rows = np.flatnonzero(valid)
        batch = batch._replace(valid=tf.constant(valid))
        sent = agent.actor_compute(sender.policy, batch)
        told = sender.update(
            ActorOutput({k: x[None] for k, x in sent.items()}, tf.zeros([1], tf.int64)), None
        )
        take = lambda x: tf.gather(x[:, 0], rows)
        transitions = Transition(
            obs_tm1=take(batch.obs[:-1]),
            action_tm1=take(batch.action),
            reward_t=take(batch.reward),
            discount_t=take(batch.discount),
            obs_t=take(batch.obs[1:]),
            probability=tf.ones([len(rows)]),
        )
        start = [v.numpy() for v in replaying.policy.variables]
        expected = replaying.update(transitions, tf.constant([0, 0]))
        for name in told.metrics:
            self.assertAllClose(told.metrics[name], expected.metrics[name], 1e-5, 1e-6, msg=name)
        mine = [v.numpy() for v in sender.policy.online.variables]
        theirs = [v.numpy() for v in replaying.policy.variables]
        self.assertLess(conformance.apart(mine, theirs), 1e-6)
        self.assertGreater(conformance.apart(start, theirs), 1e-3)

    def test_n_steps_are_summed_within_the_unroll(self):
        agent, sender, replaying, batch = loops(n_step=3, double=False)
        sent = agent.actor_compute(sender.policy, batch)
        q = replaying.policy.q_values(batch.obs[:-1, 0]).numpy()
        best = replaying.target.q_values(batch.obs[:, 0]).numpy().max(axis=1)
        reward = batch.reward.numpy()[:, 0]
        g = 0.9
        targets = [
            reward[0] + g * reward[1],  # the episode ends
            reward[1],
            reward[2] + g * reward[3] + g**2 * reward[4] + g**3 * best[5],
            reward[3] + g * reward[4] + g**2 * best[5],  # the unroll ends
            reward[4] + g * best[5],
        ]
        errors = np.abs(targets - q[np.arange(5), batch.action.numpy()[:, 0]])
        self.assertAllClose(sent["metrics"][1], errors.mean(), 1e-5)

    def test_the_target_network_is_published_and_copied(self):
        agent, sender, _, batch = loops(target_period_updates=2)
        online, target = sender.policy.online, sender.policy.target
        self.assertLen(sender.policy.variables, len(online.variables) + len(target.variables))
        (copy,) = sender.periodic()
        self.assertEqual(copy.every_updates, 2)
        values = lambda policy: [v.numpy() for v in policy.variables]
        self.assertGreater(conformance.apart(values(online), values(target)), 0.1)
        copy.fn()
        self.assertEqual(conformance.apart(values(online), values(target)), 0.0)
        is_first = agent.make_policy()
        self.assertEqual(conformance.apart(values(is_first.online), values(is_first.target)), 0.0)

    def test_an_export_leaves_the_target_network_out(self):
        agent, *_ = loops()
        policy = agent.make_policy()
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "export"
        loaded = tf.saved_model.load(str(export(policy, linear.spec(6, 3), folder)))
        self.assertLen(loaded.exported_variables, len(policy.online.variables))


class ActingTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters("none", "lstm")
    def test_actors_send_gradients_of_masked_games(self, core):
        spec = make_spec(EnvPlan(env=MASKED))
        config = dqn.Config(
            sends_gradients=True, hidden_sizes=(8,), unroll_length=6, n_step=3, core=core, core_size=6,
            learning_rate=1e-2, target_period_updates=4,
        )  # fmt: skip
        agent = dqn.make(config, spec)
        self.assertIsInstance(agent.experience, Queue)
        loop = conformance.loop(agent, spec)
        policy = loop.learner.policy
        start = [v.numpy() for v in policy.online.variables]
        with acting(agent, MASKED, length=4, engine="lite") as actor:
            for _ in range(3):
                metrics = loop.run(actor.samples(loop))[0]
                self.assertTrue(all(np.isfinite(x.numpy()) for x in metrics.values()))
        now = [v.numpy() for v in policy.online.variables]
        self.assertGreater(conformance.apart(start, now), 1e-3)
        # Three updates: no copy yet, so the target network still is the first one.
        self.assertEqual(
            conformance.apart(start, [v.numpy() for v in policy.target.variables]), 0.0
        )


if __name__ == "__main__":
    tf.test.main()
