"""A plain policy gradient learns every action space: distributions, casts and fakes fit together."""

import numpy as np
import pytest
import tensorflow as tf
import tree
from absl.testing import parameterized

from tfrl.envs import make
from tfrl.job import EnvPlan
from tfrl.nn import distributions, inputs

NUM_ENVS, UPDATES = 64, 500


class Linear(tf.Module):
    """Params linear in the observation; log-probabilities times advantages go uphill by Adam."""

    def __init__(self, spec, squash):
        super().__init__()
        self.distribution = distributions.make(spec.action_space, squash)
        self._inputs = inputs.model_space(spec.observation_space).shape[0]
        self._weights = tf.Variable(tf.zeros([self._inputs + 1, self.distribution.num_params]))
        rate = tf.keras.optimizers.schedules.PolynomialDecay(0.02, UPDATES, 0.0)
        self._optimizer = tf.keras.optimizers.Adam(rate, jit_compile=False)

    def params(self, obs):
        x = inputs.model_input(obs)
        params = x @ self._weights[:-1] + self._weights[-1]
        mask = inputs.action_mask(obs)
        return params if mask is None else self.distribution.mask(params, mask)

    @tf.function
    def act(self, obs, noise):
        params = self.params(obs)
        sample = self.distribution.sample(params, noise)
        greedy = self.distribution.action(self.distribution.mode(params))
        return sample, self.distribution.action(sample), greedy

    @tf.function
    def learn(self, obs, sample, advantage):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.distribution.log_prob(self.params(obs), sample) * advantage)
        self._optimizer.minimize(loss, [self._weights], tape)


class LearningTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("MatchBox", False),
        ("MatchTuple", False),
        ("MaskedPair", False),
    )
    def test_every_space_is_learnt(self, name, squash):
        self.check(name, squash)

    @parameterized.parameters(
        ("MatchBox", True), ("MatchMultiDiscrete", False), ("MatchMultiBinary", False)
    )
    @pytest.mark.slow
    def test_other_spaces_are_learnt(self, name, squash):
        self.check(name, squash)

    @parameterized.parameters(True, False)
    @pytest.mark.slow
    def test_a_dict_is_learnt(self, squash):
        self.check("MatchDict", squash)

    def check(self, name, squash):
        plan = EnvPlan(env=f"tfrl.testing.fakes:{name}", env_kwargs={"length": 1_000})
        vector = make.make_vector(plan, NUM_ENVS, seed=0)  # no episode ends: every row is valid
        policy = Linear(vector.spec, squash)
        rng = np.random.default_rng(0)
        draw = {"uniform": rng.random, "normal": rng.standard_normal}
        obs, rewards = vector.reset(), []
        for i in range(UPDATES + 40):
            noise = {
                k: draw[n.kind]((NUM_ENVS, *n.shape), np.float32)
                for k, n in policy.distribution.noise.items()
            }
            sample, action, greedy = policy.act(obs, noise)
            step = vector.step(tree.map_structure(np.array, greedy if i >= UPDATES else action))
            if i < UPDATES:
                policy.learn(obs, sample, step.reward - step.reward.mean())
            rewards.append(step.reward.mean())
            obs = step.obs
        self.assertLess(rewards[0], 0.7)
        self.assertGreater(np.mean(rewards[UPDATES:]), 0.95)
