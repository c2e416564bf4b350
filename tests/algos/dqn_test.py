"""DQN: its settings, its spaces, and what its options do."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import ActorPlace
from tfrl.algos import dqn
from tfrl.errors import SettingError
from tfrl.losses import value
from tfrl.testing import conformance
from tfrl.types import EnvSpec, Transition

spaces = gym.spaces
SPEC = EnvSpec("box", spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4))
MASKED = EnvSpec(
    "masked",
    spaces.Dict(
        observation=spaces.Box(-1, 1, (3,), np.float32),
        action_mask=spaces.Box(0, 1, (4,), np.float32),
    ),
    spaces.Discrete(4),
)


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(discount=1.5), "discount=1.5: expected at most 1"),
        (dict(n_step=0), "n_step=0: expected at least 1 env steps"),
        (dict(n_step=10**9), "n_step=1000000000 with replay_capacity=50000: expected at most"),
        (dict(replay_capacity=10**30), "replay_capacity=10{30}: expected at most .* 64 bits"),
        (
            dict(min_replay=20, replay_capacity=10, batch_size=4),
            "min_replay=20 with replay_capacity=10",
        ),
        (
            dict(replay_capacity=10, min_replay=5, batch_size=32),
            "replay_capacity=10 with batch_size=32",
        ),
        (
            dict(learning_rate_final=1e-5),
            "learning_rate_final=1e-05 with learning_rate_env_steps=0 and learning_rate_updates=0",
        ),
        (dict(loss="huge"), "loss='huge': .*did you mean huber"),
        (dict(batch_size="many"), "batch_size='many': expected"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            dqn.Config(**settings)


class AgentTest(tf.test.TestCase, parameterized.TestCase):
    def test_plans(self):
        agent = dqn.make(
            dqn.Config(batch_size=64, env_steps_per_update=2, n_step=3, discount=0.9), SPEC
        )
        self.assertFalse(agent.experience.prioritized)
        self.assertEqual(agent.experience.samples_per_insert, 32.0)
        self.assertEqual((agent.experience.item.n, agent.experience.item.discount), (3, 0.9))
        agent = dqn.make(dqn.Config(prioritized=True, priority_exponent=0.7), SPEC)
        self.assertEqual(agent.experience.priority_exponent, 0.7)
        self.assertTrue(agent.experience.prioritized)

    @parameterized.parameters((0, 1.0), (500, 0.55), (1_000, 0.1), (9_000, 0.1))
    def test_epsilon_follows_the_env_steps_of_the_run(self, env_steps, expected):
        config = dqn.Config(epsilon_initial=1.0, epsilon_final=0.1, epsilon_decay_env_steps=1_000)
        knobs = dqn.make(config, SPEC).knobs(ActorPlace(0, 1, 3), env_steps, {})
        self.assertEqual(knobs["epsilon"].dtype, np.float32)
        self.assertAllClose(knobs["epsilon"], [expected] * 3)

    def test_an_image_gets_the_cnn_and_anything_else_the_mlp(self):
        image = EnvSpec("i", spaces.Box(0, 255, (36, 36, 4), np.uint8), spaces.Discrete(2))
        shapes = [tuple(v.shape) for v in dqn.make(dqn.Config(), image).make_policy().variables]
        self.assertIn((8, 8, 4, 32), shapes)
        shapes = [
            tuple(v.shape)
            for v in dqn.make(dqn.Config(hidden_sizes=(5, 7)), SPEC).make_policy().variables
        ]
        self.assertCountEqual(shapes, [(7, 4), (4,), (3, 5), (5,), (5, 7), (7,)])


class PolicyTest(tf.test.TestCase):
    def policy(self, spec, **settings):
        tf.keras.utils.set_random_seed(0)
        return dqn.make(dqn.Config(hidden_sizes=(16,), **settings), spec).make_policy()

    def test_dueling_values_have_the_mean_of_the_state(self):
        policy = self.policy(SPEC, dueling=True)
        obs = conformance.observations(SPEC, 6, 0)
        state = policy.model.state_value(policy.body.step(obs, ())[0])
        self.assertAllClose(tf.reduce_mean(policy.q_values(obs), 1), state[:, 0, 0], atol=1e-6)

    def test_invalid_actions_hold_the_lowest_value(self):
        for dueling in (False, True):
            policy = self.policy(MASKED, dueling=dueling)
            obs = conformance.observations(MASKED, 20, 0)
            q = policy.q_values(obs).numpy()
            invalid = obs["action_mask"] == 0
            self.assertTrue(invalid.any())
            self.assertAllEqual(q[invalid], [np.float32(value.INVALID_VALUE)] * invalid.sum())
            self.assertLess(np.abs(q[~invalid]).max(), 100.0)

    def test_exploration_is_uniform_over_valid_actions(self):
        policy = self.policy(MASKED)
        rng = np.random.default_rng(0)
        row = {
            "observation": np.zeros((1, 3), np.float32),
            "action_mask": np.float32([[1, 0, 1, 1]]),
        }
        obs = tf.nest.map_structure(lambda x: np.repeat(x, 30_000, 0), row)
        noise = {
            "explore": rng.random(30_000, np.float32),
            "action": rng.random((30_000, 4), np.float32),
        }
        knobs = {"epsilon": np.ones(30_000, np.float32)}
        actions = policy.step(obs, (), knobs, noise, True).action.numpy()
        shares = np.bincount(actions, minlength=4) / 30_000
        self.assertEqual(shares[1], 0.0)
        self.assertAllClose(shares[[0, 2, 3]], [1 / 3] * 3, atol=0.012, rtol=0)


class UpdateTest(tf.test.TestCase, parameterized.TestCase):
    def update(self, spec=SPEC, batch=None, online=None, target=None, **settings):
        """td error that a learner reports when its networks give constant action values."""
        agent = dqn.make(dqn.Config(hidden_sizes=(), batch_size=1, **settings), spec)
        learner = agent.make_learner()
        for policy, q in ((learner.policy, online), (learner.target, target)):
            kernel, bias = (policy.variables[i] for i in (0, 1))
            if len(kernel.shape) == 1:
                kernel, bias = bias, kernel
            kernel.assign(tf.zeros_like(kernel))
            bias.assign(q)
        out = learner.update(batch, tf.constant([0, 0]))
        return float(out.metrics["learner/td_error_abs_mean"]), out.priorities

    def batch(self, obs, discount=0.5):
        one = lambda x, dtype=tf.float32: tf.constant([x], dtype)
        return Transition(obs, one(0, tf.int32), one(1.0), one(discount), obs, one(1.0))

    @parameterized.parameters((False, 1.0 + 0.5 * 8.0), (True, 1.0 + 0.5 * 3.0))
    def test_double_chooses_with_the_online_network(self, double, target):
        obs = tf.zeros([1, 3])
        error, _ = self.update(
            batch=self.batch(obs),
            online=[1.0, 5.0, 0.0, 0.0],
            target=[2.0, 3.0, 8.0, 0.0],
            double=double,
        )
        self.assertAlmostEqual(error, target - 1.0, places=5)

    @parameterized.parameters((False, 1.0 + 0.5 * 3.0), (True, 1.0 + 0.5 * 2.0))
    def test_invalid_actions_are_not_bootstrapped(self, double, target):
        obs = {"observation": tf.zeros([1, 3]), "action_mask": tf.constant([[1.0, 1.0, 0.0, 0.0]])}
        error, _ = self.update(
            MASKED,
            self.batch(obs),
            online=[1.5, 1.0, 9.0, 9.0],
            target=[2.0, 3.0, 8.0, 99.0],
            double=double,
        )
        self.assertAlmostEqual(error, target - 1.5, places=5)

    def test_priorities_only_for_prioritized_replay(self):
        obs = tf.zeros([1, 3])
        zeros = [0.0] * 4
        _, none = self.update(batch=self.batch(obs), online=zeros, target=zeros)
        self.assertIsNone(none)
        _, priorities = self.update(
            batch=self.batch(obs),
            online=zeros,
            target=zeros,
            prioritized=True,
            priority_epsilon=0.25,
        )
        self.assertAllClose(priorities, [1.25])
