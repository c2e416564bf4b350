"""A3C: settings, and that an actor's gradient, applied by the learner, is an update of A2C."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import a2c, a3c
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.testing import conformance, linear
from tfrl.testing.acting import acting

MASKED = "tfrl.testing.fakes:MaskedBandit"


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(queue_items=0), "queue_items=0: expected at least 1 items"),
        (dict(gae_lambda=2.0), "gae_lambda=2.0: expected at most 1"),
        (
            dict(normalize_observations=True),
            "normalize_observations=True with algo=a3c: its learner sees gradients only",
        ),
        (dict(normalize_rewards=True), "normalize_rewards=True with algo=a3c"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            a3c.Config(**settings)


class AgentTest(tf.test.TestCase, parameterized.TestCase):
    def test_plan(self):
        agent = a3c.make(a3c.Config(queue_items=7), linear.spec(2, 2))
        self.assertEqual(agent.experience.capacity_items, 7)
        self.assertFalse(agent.experience.actors_wait)
        self.assertEqual(agent.experience.batch_items, 1)  # one gradient, one update

    @parameterized.parameters("none", "lstm")
    def test_without_lag_it_is_a2c(self, core):
        spec = make_spec(EnvPlan(env=MASKED))
        settings = dict(
            hidden_sizes=(8,), unroll_length=6, core=core, core_size=6, optimizer="adam",
            learning_rate=1e-2, entropy_coefficient=0.03, gae_lambda=0.9, gradient_clip_norm=0.05,
        )  # fmt: skip
        agents = {m: m.make(m.Config(**settings), spec) for m in (a3c, a2c)}
        loops = {m: conformance.loop(agent, spec) for m, agent in agents.items()}
        policies = lambda: [
            [v.numpy() for v in loop.learner.policy.variables] for loop in loops.values()
        ]
        start = policies()
        self.assertEqual(conformance.apart(*start), 0.0)
        with (
            acting(agents[a3c], MASKED, length=4) as first,
            acting(agents[a2c], MASKED, length=4) as second,
        ):  # the same games, because the weights stay the same
            for _ in range(3):
                metrics = [
                    loops[m].run(actor.samples(loops[m]))[0]
                    for m, actor in ((a3c, first), (a2c, second))
                ]
                for name in (*a3c.SENT, "learner/gradient_norm"):
                    self.assertAllClose(metrics[0][name], metrics[1][name], 1e-4, 1e-5, msg=name)
        end = policies()
        self.assertLess(conformance.apart(*end), 1e-6)
        self.assertGreater(conformance.apart(start[0], end[0]), 1e-3)

    def test_gradients_are_clipped_when_they_are_applied(self):
        learner = linear.learner(
            a3c, [[0.0, 0.0]] * 2, [0.0] * 2, optimizer="sgd", learning_rate=1.0,
            gradient_clip_norm=6.5,
        )  # fmt: skip
        variables = learner.policy.trainable_variables
        sizes = [v.shape.num_elements() for v in variables]
        gradient = np.zeros(sum(sizes), np.float32)
        gradient[:3] = [3.0, 4.0, 12.0]
        before = np.concatenate([v.numpy().reshape(-1) for v in variables])
        computed = a3c.ActorOutput(
            {"gradient": tf.constant(gradient[None]), "metrics": tf.zeros([1, len(a3c.SENT)])},
            tf.zeros([1], tf.int64),
        )
        metrics = learner.update(computed, None).metrics
        after = np.concatenate([v.numpy().reshape(-1) for v in variables])
        self.assertAllClose(metrics["learner/gradient_norm"], 13.0)
        self.assertAllClose((before - after)[:3], [1.5, 2.0, 6.0])


if __name__ == "__main__":
    tf.test.main()
