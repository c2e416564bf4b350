"""TD3: twin critics, a smoothed target, and a policy and targets that move after every second update."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import td3
from tfrl.errors import SettingError
from tfrl.testing import actor_critic, conformance

SEED = actor_critic.SEED


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(target_noise=-0.1), "target_noise=-0.1: expected at least 0"),
        (dict(target_noise_clip=-0.1), "target_noise_clip=-0.1: expected at least 0"),
        (dict(policy_period_updates=0), "policy_period_updates=0: expected at least 1"),
        (dict(tau=0.0), "tau=0.0: expected more than 0"),
        (dict(actor_priorities=True), "actor_priorities=True with prioritized=False"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            td3.Config(**settings)


class TargetTest(tf.test.TestCase, parameterized.TestCase):
    def test_the_smallest_of_two_critics_makes_the_target(self):
        learner = actor_critic.linear_learner(td3, prioritized=True, priority_epsilon=0.25)
        # Q'_1 gives 2 and 3, Q'_2 gives 1.5 and 4; the online critics give 0 everywhere.
        actor_critic.set_critics(learner.target_critics, [1.0, 2.5], [0.0, -3.5])
        batch = actor_critic.batch([1.0, -0.5], [0.99, 0.0], obs_t=[[2.0], [3.0]])
        out = learner.update(batch, SEED)
        self.assertAllClose(out.priorities, [2.485 + 0.25, 0.5 + 0.25])
        # Both critics have the same error, and their losses are added.
        self.assertAllClose(out.metrics["learner/loss"], 2 * np.mean([2.485**2 / 2, 0.5**2 / 2]))

    def test_the_priority_is_the_mean_of_both_errors(self):
        learner = actor_critic.linear_learner(td3, prioritized=True)
        actor_critic.set_critics(learner.critics, [0.0, 0.0], [3.0, -1.0])
        out = learner.update(actor_critic.batch([1.0], [0.0]), SEED)
        self.assertAllClose(out.priorities, [(2.0 + 2.0) / 2], atol=1e-5)
        self.assertAllClose(out.metrics["learner/q_mean"], 1.0)

    @parameterized.parameters((1e6, 0.5, {0.4, 1.0}), (1e6, 0.25, {0.65, 1.0}), (0.0, 0.5, {0.9}))
    def test_noise_on_the_next_action_is_clipped_and_the_action_after_it(
        self, sigma, clip, expected
    ):
        learner = actor_critic.linear_learner(
            td3, prioritized=True, target_noise=sigma, target_noise_clip=clip
        )
        # mu' = 0.9 everywhere and Q'(s', a') = a', so that |y| is the next action.
        *_, last = learner.target_policy.head.layers
        last.kernel.assign(tf.zeros_like(last.kernel))
        last.bias.assign([np.arctanh(0.9)])
        actor_critic.set_critics(learner.target_critics, [0.0, 0.0], [0.0, 0.0], [1.0, 1.0])
        out = learner.update(actor_critic.batch([0.0] * 32, [1.0] * 32), SEED)
        found = out.priorities.numpy() - 1e-6
        self.assertEqual({round(float(x), 5) for x in found}, expected)

    def test_each_update_draws_other_noise(self):
        found = []
        for seed in (SEED, SEED, SEED + 1):
            learner = actor_critic.linear_learner(td3, prioritized=True, target_noise=0.1)
            actor_critic.set_critics(learner.target_critics, [0.0, 0.0], [0.0, 0.0], [1.0, 1.0])
            out = learner.update(actor_critic.batch([0.0] * 4, [1.0] * 4), seed)
            found.append(out.priorities.numpy())
        self.assertAllEqual(found[0], found[1])
        self.assertGreater(np.abs(found[0] - found[2]).min(), 1e-4)
        self.assertGreater(np.abs(found[0] - found[0][0])[1:].min(), 1e-4)

    def test_the_policy_climbs_the_first_critic(self):
        for slope in (1.0, -1.0):
            learner = actor_critic.linear_learner(td3)
            actor_critic.set_critics(learner.critics, [0.0, 0.0], [0.0, 0.0], [slope, -9.0 * slope])
            features = tf.ones([1, 1])
            before = float(learner.policy.actions(features))
            metrics = learner.update_policy(actor_critic.batch([0.0], [0.0]), SEED)
            self.assertAllClose(metrics["learner/policy_loss"], -slope * before, atol=1e-6)
            self.assertEqual(np.sign(float(learner.policy.actions(features)) - before), slope)


class PeriodTest(tf.test.TestCase, parameterized.TestCase):
    def test_policy_and_targets_move_after_updates_2_4_6(self):
        """Targets as worked out by hand: a share 0.005 of the way from 0 to 1 and 2 each time."""
        agent = actor_critic.agent(td3, actor_critic.LINE, updates_per_call=1, learning_rate=1e-30)
        loop = conformance.loop(agent, actor_critic.LINE)
        learner = loop.learner
        pairs = [(learner.critics, learner.target_critics), (learner.policy, learner.target_policy)]
        for online, target in pairs:
            for i, (mine, other) in enumerate(zip(online.variables, target.variables, strict=True)):
                mine.assign(tf.fill(mine.shape, 1.0 + i % 2))
                other.assign(tf.zeros_like(other))
        shares = [0.0, 0.005, 0.005, 0.009975, 0.009975, 0.01492512]
        for update, share in enumerate(shares):
            metrics, _ = loop.run(conformance.block(agent, actor_critic.LINE, update))
            made = (update + 1) // 2
            self.assertEqual(int(learner.critic_optimizer.iterations), update + 1)
            self.assertEqual(int(learner.policy_optimizer.iterations), made)
            self.assertEqual("learner/policy_loss" in metrics, update % 2 == 1)
            for _, target in pairs:
                for i, variable in enumerate(target.variables):
                    expected = tf.fill(variable.shape, share * (1.0 + i % 2))
                    self.assertAllClose(variable, expected, atol=1e-7)

    def test_1000_updates_are_500_of_the_policy_and_500_moves(self):
        agent = actor_critic.agent(
            td3, actor_critic.LINE, updates_per_call=1_000, batch_size=2, learning_rate=1e-30,
            tau=0.002,
        )  # fmt: skip
        loop = conformance.loop(agent, actor_critic.LINE)
        learner = loop.learner
        for mine, other in zip(learner.critics.variables, learner.target_critics.variables):
            mine.assign(tf.ones_like(mine))
            other.assign(tf.zeros_like(other))
        loop.run(conformance.block(agent, actor_critic.LINE, 1))
        self.assertEqual(int(learner.critic_optimizer.iterations), 1_000)
        self.assertEqual(int(learner.policy_optimizer.iterations), 500)
        share = 1.0 - (1.0 - 0.002) ** 500
        for variable in learner.target_critics.variables:
            self.assertAllClose(variable, tf.fill(variable.shape, share), atol=2e-5)


class TwinTest(tf.test.TestCase):
    def test_both_learn_and_stay_different(self):
        learner, batch = actor_critic.learner_and_batch(td3, actor_critic.SPEC, learning_rate=1e-2)
        heads = learner.critics.critics.heads
        values = lambda: [[v.numpy() for v in head.variables] for head in heads]
        start = values()
        for i in range(20):
            learner.update(batch, SEED + i)
        now = values()
        for head, (old, new) in enumerate(zip(start, now, strict=True)):
            for a, b in zip(old, new, strict=True):
                self.assertGreater(np.abs(a - b).max(), 1e-3, f"critic {head}")
        for a, b in zip(*now, strict=True):
            self.assertGreater(np.abs(a - b).max(), 1e-3)


if __name__ == "__main__":
    tf.test.main()
