"""Normalised observations in the value-based family: whose statistics, when they change, where they are read."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import dqn, iqn
from tfrl.errors import SettingError
from tfrl.runtime.learning.learner import make_strategy
from tfrl.testing import conformance
from tfrl.types import EnvSpec

spaces = gym.spaces
SPEC = EnvSpec("e", spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(2))
SIZE = 8
MEMORY = dict(core="gru", sequence_length=6, sequence_period=3, burn_in=2)
IQN = dict(num_tau=4, num_target_tau=3, num_act_tau=5, num_cosines=6)


def agent_of(module, **settings):
    config = module.Config(
        batch_size=SIZE,
        updates_per_call=1,
        normalize_observations=True,
        hidden_sizes=(8,),
        **settings,
    )
    return module.make(config, SPEC)


class NormalisedValuesTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((dqn, {}, 1), (dqn, {}, 2), (dqn, MEMORY, 1), (iqn, IQN, 1))
    def test_statistics_of_what_was_trained_on(self, module, settings, devices):
        agent = agent_of(module, **settings)
        loop = conformance.loop(agent, SPEC, strategy=make_strategy(devices))
        samples = conformance.block(agent, SPEC, 1)
        loop.run(samples)
        batch = loop._layout.decode(samples.columns, tf.ones([SIZE]))
        if settings is MEMORY:
            rows = batch.obs.numpy()[:-1][batch.valid.numpy()]
        else:
            rows = batch.obs_tm1.numpy()
        policy = agent.make_policy()
        for variable, array in zip(policy.variables, loop.arrays(), strict=True):
            variable.assign(array)
        found = policy.inputs(tf.constant(rows))
        expected = (rows - rows.mean(0)) / rows.std(0, ddof=1)
        self.assertAllClose(found, expected, atol=1e-4)
        # The target network keeps the statistics of its weights until it takes both over.
        target = loop.learner.target
        if devices == 1:
            self.assertAllClose(target.inputs(tf.constant(rows)), np.clip(rows, -10, 10))
            loop.learner.periodic()[0].fn()
            self.assertAllClose(target.inputs(tf.constant(rows)), found)

    def test_acting_reads_and_keeps_them(self):
        policy = agent_of(dqn).make_policy()
        obs = conformance.observations(SPEC, 5, 0)
        before = policy.q_values(obs).numpy()
        policy.normaliser._mean["observation"].assign([1.0, -2.0, 3.0])
        shifted = obs + np.float32([1.0, -2.0, 3.0])
        self.assertAllClose(policy.q_values(shifted), before, atol=1e-5)
        state = [v.numpy() for v in policy.variables]
        step = policy.step(shifted, (), {}, {}, False)
        self.assertAllEqual(step.action, np.argmax(before, 1))
        self.assertEqual(conformance.apart(state, [v.numpy() for v in policy.variables]), 0.0)

    def test_refused(self):
        with self.assertRaisesRegex(SettingError, "rescale_observations=True: either"):
            agent_of(dqn, rescale_observations=True)
        with self.assertRaisesRegex(SettingError, "sends_gradients=True: .*gradients only"):
            agent_of(dqn, sends_gradients=True)


if __name__ == "__main__":
    tf.test.main()
