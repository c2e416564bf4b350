"""Actions with features: scores by hand, the order of actions, and both kinds of network that use them."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import dqn, ppo
from tfrl.errors import SettingError
from tfrl.nn import action_features, body
from tfrl.nn.actor_critic import ActorCritic
from tfrl.nn.q_network import QHeads
from tfrl.testing import conformance
from tfrl.types import EnvSpec

spaces = gym.spaces


def spec_of(actions=5, features=3, action_space=None):
    observation = spaces.Dict(
        observation=spaces.Box(-1, 1, (4,), np.float32),
        action_mask=spaces.Box(0, 1, (actions,), np.float32),
        action_features=spaces.Box(-1, 1, (actions, features), np.float32),
    )
    return EnvSpec("features", observation, action_space or spaces.Discrete(actions))


def permuted(obs, order):
    return {
        **obs,
        "action_mask": obs["action_mask"][:, order],
        "action_features": obs["action_features"][:, order],
    }


class ActionScoresTest(tf.test.TestCase, parameterized.TestCase):
    def test_features_as_embedding(self):
        scores = action_features.ActionScores(spec_of(), (), "relu")
        self.assertEqual(scores.width, 3)
        obs = conformance.observations(spec_of(), 7, 0)
        queries = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
        expected = np.einsum("bke,bae->bak", queries, obs["action_features"]) / np.sqrt(3)
        self.assertAllClose(scores(tf.constant(queries), obs), expected, rtol=1e-5, atol=1e-5)
        self.assertEmpty(scores.variables)

    def test_an_mlp_embeds_every_action_alike(self):
        tf.keras.utils.set_random_seed(0)
        scores = action_features.ActionScores(spec_of(), (8, 6), "tanh")
        self.assertEqual(scores.width, 6)
        obs = conformance.observations(spec_of(), 7, 0)
        obs["action_features"][:, 3] = obs["action_features"][:, 1]
        out = scores(tf.random.normal([7, 2, 6]), obs)
        self.assertEqual(out.shape, (7, 5, 2))
        self.assertAllClose(out[:, 3], out[:, 1])
        self.assertNotAllClose(out[:, 0], out[:, 1])

    @parameterized.parameters(False, True)
    def test_action_values_go_with_the_features_not_with_the_place(self, dueling):
        tf.keras.utils.set_random_seed(0)
        config = dqn.Config(hidden_sizes=(16,), dueling=dueling)
        trunk = body.make(config, spec_of())
        heads = QHeads(config, spec_of(), trunk.output_size, 4)
        network = lambda obs: heads(trunk.step(obs, ())[0], obs)
        obs = conformance.observations(spec_of(), 9, 1)
        order = np.array([3, 0, 4, 1, 2])
        out = network(obs)
        self.assertEqual(out.shape, (9, 5, 4))
        valid = obs["action_mask"][:, order] == 1
        moved = network(permuted(obs, order))
        self.assertAllClose(moved[valid], out.numpy()[:, order][valid], rtol=1e-5, atol=1e-5)
        self.assertGreater(float(tf.reduce_max(tf.math.reduce_std(out, 1))), 0.01)

    def test_probabilities_go_with_the_features_not_with_the_place(self):
        tf.keras.utils.set_random_seed(0)
        policy = ActorCritic(ppo.Config(hidden_sizes=(16,), core="gru", core_size=8), spec_of())
        policy._policy_head.kernel.assign(tf.random.normal(policy._policy_head.kernel.shape))
        obs = conformance.observations(spec_of(), 6, 1)
        order = np.array([3, 0, 4, 1, 2])
        is_first = tf.zeros([2, 3], tf.bool)

        def params(obs):
            obs = {k: x.reshape(2, 3, *x.shape[1:]) for k, x in obs.items()}
            heads = policy.unroll(obs, policy.initial_state(3, {}), is_first)
            return tf.reshape(heads.params, [6, 5]), heads.values

        before, values = params(obs)
        after, same = params(permuted(obs, order))
        self.assertAllClose(after, before.numpy()[:, order], rtol=1e-5, atol=1e-5)
        self.assertAllClose(values, same)
        p = tf.nn.softmax(before).numpy()
        self.assertAllEqual(p[obs["action_mask"] == 0], np.zeros((obs["action_mask"] == 0).sum()))
        self.assertGreater(np.abs(p[:, :, None] - p[:, None]).max(), 0.05)

    @parameterized.parameters(
        (spec_of(action_space=spaces.Discrete(4)), r"expected a Box of shape \[4, features\]"),
        (spec_of(action_space=spaces.MultiDiscrete([2, 3])), "expected a Discrete action space"),
    )
    def test_features_that_do_not_fit_are_refused(self, spec, message):
        with self.assertRaisesRegex(SettingError, message):
            action_features.check(spec)
