"""PPO: its settings, its plans, and the whole loss on one example."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import ActorPlace, Queue, Unroll
from tfrl.algos import ppo
from tfrl.algos.parts import policy_gradient
from tfrl.errors import SettingError
from tfrl.testing import linear
from tfrl.types import EnvSpec

spaces = gym.spaces
SEED = np.zeros(2, np.int32)


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(epochs=0), "epochs=0: expected at least 1"),
        (dict(minibatches=0), "minibatches=0: expected at least 1"),
        (dict(batch_env_steps=-1), "batch_env_steps=-1: expected at least 0 env steps"),
        (dict(clip=0.0), "clip=0.0: expected more than 0"),
        (dict(value_clip=0.0), "value_clip=0.0: expected more than 0"),
        (dict(gae_lambda=1.1), "gae_lambda=1.1: expected at most 1"),
        (dict(kl_coefficient=-1.0), "kl_coefficient=-1.0: expected at least 0"),
        (dict(kl_target=0.0), "kl_target=0.0: expected more than 0"),
        (dict(kl_stop=0.0), "kl_stop=0.0: expected more than 0"),
        (dict(value_coefficient=-0.5), "value_coefficient=-0.5: expected at least 0"),
        (dict(entropy_coefficient=-0.01), "entropy_coefficient=-0.01: expected at least 0"),
        (dict(normalize_advantage="batches"), "normalize_advantage='batches'.*did you mean batch"),
        (dict(optimizer="adams"), r"optimizer='adams'.*did you mean adam\?"),
        (dict(core="ltsm"), r"core='ltsm'.*did you mean lstm\?"),
        (dict(clip=None), "clip=none with kl_coefficient=0: nothing would hold the policy"),
        (
            dict(clip=None, kl_coefficient=0.2, clip_final=0.1),
            "clip=none with clip_final=0.1: there is no limit that could decay",
        ),
        (dict(clip_final=0.1), "clip_final=0.1 with learning_rate_final=none"),
        (
            dict(learning_rate_final=1e-5),
            "learning_rate_final=1e-05 with learning_rate_env_steps=0 and learning_rate_updates=0: give",
        ),
        (
            dict(learning_rate_env_steps=9),
            "learning_rate_final=None with learning_rate_env_steps=9: give both",
        ),
        (
            dict(learning_rate_hold_env_steps=9),
            "learning_rate_hold_env_steps=9 with learning_rate_env_steps=0: there is no decay",
        ),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message) as caught:
            ppo.Config(**settings)
        self.assertNotIn("\n", str(caught.exception))


class AgentTest(tf.test.TestCase, parameterized.TestCase):
    def test_plans(self):
        config = ppo.Config(
            unroll_length=32, discount=0.9, epochs=3, minibatches=2, batch_env_steps=640
        )
        agent = ppo.make(config, linear.spec(2, 3))
        self.assertEqual(agent.experience.item, Unroll(32, 0.9))
        self.assertIsInstance(agent.experience, Queue)
        self.assertTrue(agent.experience.actors_wait)  # on policy: everyone waits
        self.assertEqual((agent.experience.epochs, agent.experience.minibatches), (3, 2))
        self.assertEqual(agent.experience.batch_env_steps, 640)
        self.assertEqual(agent.knobs(ActorPlace(0, 1, 1), 0, {}), {})

    def test_two_networks_or_a_shared_one(self):
        for shared, torsos in ((False, 2), (True, 1)):
            config = ppo.Config(hidden_sizes=(5,), shared_torso=shared)
            policy = ppo.make(config, linear.spec(4, 3)).make_policy()
            shapes = [tuple(v.shape) for v in policy.trainable_variables]
            self.assertEqual(shapes.count((4, 5)), torsos)
            self.assertEqual(shapes.count((5, 1)), 1)

    def test_the_deviation_of_a_gaussian(self):
        spec = EnvSpec("box", spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)))
        for free, outputs in ((True, 2), (False, 4)):
            config = ppo.Config(hidden_sizes=(5,), free_log_std=free, log_std_initial=-0.5)
            policy = ppo.make(config, spec).make_policy()
            shapes = [tuple(v.shape) for v in policy.trainable_variables]
            self.assertIn((5, outputs), shapes)
            if free:
                params = policy.heads(tf.zeros([1, 3])).params
                self.assertAllClose(params[0, 2:], [-0.5, -0.5])


class LossTest(tf.test.TestCase, parameterized.TestCase):
    """Two steps with three actions; logits and values are the rows of the heads' kernels."""

    OLD, NEW = [[1.0, 0, -1], [0, 0, 0]], [[0.5, 0.5, -1], [1, 0, -1]]
    SETTINGS = dict(
        clip=0.3, kl_coefficient=0.2, value_coefficient=1.0, value_clip=10.0,
        normalize_advantage="none", gradient_clip_norm=None, minibatches=1,
    )  # fmt: skip

    def update(self, valid, **settings):
        learner = linear.learner(ppo, self.NEW, [1.0, 2.0], **{**self.SETTINGS, **settings})
        old = tf.constant(self.OLD)
        sample = tf.constant([0, 2])
        rows = policy_gradient.TrainBatch(
            obs=tf.eye(2),
            sample=sample,
            log_prob=learner.policy.distribution.log_prob(old, sample),
            params=old,
            advantages=tf.constant([1.0, -1.0]),
            targets=tf.constant([1.5, 1.0]),
            values=tf.constant([0.5, 0.0]),
            valid=tf.constant(valid),
            is_first=(),
            state=(),
        )
        return learner, learner.update(rows, SEED).metrics

    def test_vector(self):
        _, metrics = self.update([True, True])
        self.assertAllClose(metrics["learner/loss"], 0.67797083, atol=1e-6)
        self.assertAllClose(metrics["learner/kl"], np.mean([0.10156646, 0.30899368]), atol=1e-6)
        self.assertAllClose(metrics["learner/entropy"], np.mean([0.94946753, 0.83239558]))
        self.assertAllClose(metrics["learner/clipped_ratio"], 1.0)
        self.assertAllClose(metrics["learner/value_loss"], np.mean([0.25, 1.0]))

    @parameterized.parameters(([True, False], -0.40585707), ([False, True], 1.76179874))
    def test_only_valid_steps_count(self, valid, loss):
        _, metrics = self.update(valid)
        self.assertAllClose(metrics["learner/loss"], loss, atol=1e-6)

    def test_the_penalty_alone(self):
        _, metrics = self.update([True, False], clip=None)
        surrogate, kl, value = -0.67617036, 0.10156646, 0.25
        self.assertAllClose(metrics["learner/loss"], surrogate + 0.2 * kl + value, atol=1e-6)
        self.assertNotIn("learner/clipped_ratio", metrics)

    def test_the_entropy_bonus_is_a_bonus(self):
        _, metrics = self.update([True, True], entropy_coefficient=0.5)
        bonus = 0.5 * np.mean([0.94946753, 0.83239558])
        self.assertAllClose(metrics["learner/loss"], 0.67797083 - bonus, atol=1e-6)

    def test_advantages_of_a_minibatch_are_standardised_over_its_valid_steps(self):
        _, metrics = self.update([True, True], normalize_advantage="minibatch")
        # (1, -1) with the sample's deviation sqrt(2).
        expected = np.mean([-0.67617036, 0.7]) / np.sqrt(2)
        self.assertAllClose(metrics["learner/policy_loss"], expected, atol=1e-5)

    @parameterized.parameters("learning_rate_env_steps", "learning_rate_updates")
    def test_limit_and_rate_decay_together_over_env_steps_or_updates(self, unit):
        settings = dict(
            clip=0.3, clip_final=0.1, learning_rate=1e-2, learning_rate_final=0.0, **{unit: 1_000}
        )
        learner = linear.learner(ppo, self.NEW, [1.0, 2.0], **{**self.SETTINGS, **settings})
        counts = {
            "learning_rate_env_steps": learner.env_steps,
            "learning_rate_updates": learner._training.optimizer.iterations,
        }
        for now, rate, clip in ((0, 1e-2, 0.3), (500, 5e-3, 0.2), (2_000, 0.0, 0.1)):
            counts[unit].assign(now)
            self.assertAllClose(learner._training.learning_rate(), rate)
            self.assertAllClose(learner._training.decayed(0.3, 0.1), clip)

    def test_a_decay_can_wait(self):
        settings = dict(
            learning_rate=1e-2, learning_rate_final=0.0, learning_rate_env_steps=1_000,
            learning_rate_hold_env_steps=600,
        )  # fmt: skip
        learner = linear.learner(ppo, self.NEW, [1.0, 2.0], **{**self.SETTINGS, **settings})
        for env_steps, rate in ((0, 1e-2), (600, 1e-2), (1_100, 5e-3), (1_600, 0.0), (9_000, 0.0)):
            learner.env_steps.assign(env_steps)
            self.assertAllClose(learner._training.learning_rate(), rate)


if __name__ == "__main__":
    tf.test.main()
