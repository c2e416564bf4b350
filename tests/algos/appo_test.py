"""APPO: settings, the target policy and its penalty."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import appo
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.testing import conformance, linear

MASKED = "tfrl.testing.fakes:MaskedBandit"
SEED = np.zeros(2, np.int32)


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(clip=0.0), "clip=0.0: expected more than 0"),
        (dict(target_period_updates=0), "target_period_updates=0: expected at least 1 updates"),
        (dict(kl_coefficient=-0.1), "kl_coefficient=-0.1: expected at least 0"),
        (dict(kl_target=0.0), "kl_target=0.0: expected more than 0"),
        (dict(pass_buffer_batches=2), "pass_buffer_batches=2 with passes=1"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            appo.Config(**settings)


class TargetTest(tf.test.TestCase, parameterized.TestCase):
    def loop(self, **settings):
        spec = make_spec(EnvPlan(env=MASKED))
        defaults = dict(hidden_sizes=(8,), unroll_length=5, batch_env_steps=0, learning_rate=1e-2)
        agent = appo.make(appo.Config(**{**defaults, **settings}), spec)
        return conformance.loop(agent, spec), lambda seed: conformance.block(agent, spec, seed)

    def weights(self, policy):
        return [v.numpy() for v in policy.variables]

    def test_it_is_copied_at_every_period(self):
        loop, block = self.loop(target_period_updates=3, normalize_observations=True)
        history = [self.weights(loop.learner.policy)]
        for i in range(7):
            loop.run(block(i))
            history.append(self.weights(loop.learner.policy))
            self.assertGreater(conformance.apart(history[-1], history[-2]), 1e-5)
            target = self.weights(loop.learner.target)
            self.assertEqual(conformance.apart(target, history[(i + 1) // 3 * 3]), 0.0)

    def test_the_penalty_is_measured_from_it(self):
        loop, block = self.loop(target_period_updates=3, kl_coefficient=0.1, kl_target=1e-9)
        found, coefficients = [], []
        for i in range(4):
            metrics, _ = loop.run(block(i))
            found.append(float(metrics["learner/kl"]))
            coefficients.append(float(loop.learner._kl_coefficient))
        for is_first in (found[0], found[3]):  # right after a copy
            self.assertLess(abs(is_first), 1e-6)
        self.assertGreater(min(found[1:3]), 1e-5)
        # It shrinks or stays where there is no distance, and grows by half where there is too much.
        self.assertAllClose(np.divide(coefficients[1:3], coefficients[:2]), [1.5, 1.5])


class LossTest(tf.test.TestCase):
    """One step: mu(a) = 0.5, pi_old(a) = 0.4, pi_new(a) = 0.6."""

    def metrics(self, advantage, mu, old, new, **settings):
        """With V = 0 and nothing after it, a step's advantage is min(1, pi_old / mu) times its reward."""
        logits = lambda p: [[np.log(p), np.log(1 - p)], [0.0, 0.0]]
        learner = linear.learner(
            appo, logits(new), [0.0, 0.0], clip=0.4, entropy_coefficient=0.0, **settings
        )
        linear.put(learner.target, logits(old), [0.0, 0.0])
        reward = advantage / min(1.0, old / mu)
        batch = linear.unroll([0], [reward], [np.log(mu)], 0.99)
        return learner.update(batch, SEED).metrics

    def test_vector_of_the_surrogate(self):
        for mu, old, new, advantage, expected in (
            (0.5, 0.4, 0.6, 1.0, 1.4), (0.25, 0.5, 0.3, -1.0, -0.6), (0.4, 0.1, 0.5, 0.5, 0.7),
        ):  # fmt: skip
            found = self.metrics(advantage, mu, old, new)["learner/policy_loss"]
            self.assertAllClose(found, -expected, atol=1e-6)

    def test_without_vtrace_the_ratio_is_that_to_the_behaviour(self):
        found = self.metrics(1.0, 0.5, 0.5, 0.6, vtrace=False)["learner/policy_loss"]
        self.assertAllClose(found, -1.2, atol=1e-6)


if __name__ == "__main__":
    tf.test.main()
