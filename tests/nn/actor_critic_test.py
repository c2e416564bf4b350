"""The policy of the policy-gradient family: deviations in nested spaces, and state-dependent exploration."""

import dataclasses
import pathlib
import tempfile

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
import tree
from absl.testing import parameterized

from tfrl.algos import impala, ppo
from tfrl.errors import SettingError
from tfrl.nn.actor_critic import ActorCritic
from tfrl.runtime.acting.inference import NoiseStream, StepSignature, make_engine
from tfrl.runtime.serving.export import export
from tfrl.testing import conformance
from tfrl.types import EnvSpec

spaces = gym.spaces
BOX = spaces.Box(-2, 2, (2,), np.float32)
GRID = spaces.Box(-1, 1, (2, 2), np.float32)
ACTIONS = {
    "box": BOX,
    "dict": spaces.Dict(a=BOX, b=spaces.Discrete(3), c=GRID),
    "tuple": spaces.Tuple((spaces.MultiBinary(2), GRID, spaces.Dict(x=BOX), spaces.Discrete(2))),
}
DEVIATIONS = {"box": [0, 0], "dict": [0, 0, 1, 1, 1, 1], "tuple": [0, 0, 0, 0, 1, 1]}


def spec_of(name):
    return EnvSpec("e", spaces.Box(-1, 1, (3,), np.float32), ACTIONS[name])


def policy_of(name, **settings):
    tf.keras.utils.set_random_seed(0)
    return ActorCritic(ppo.Config(hidden_sizes=(8,), core_size=8, **settings), spec_of(name))


def observations(name, count, seed=0):
    return tf.constant(conformance.observations(spec_of(name), count, seed))


class FreeDeviationTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(name=list(ACTIONS), squash=(False, True))
    def test_every_box_of_a_space_has_a_deviation_of_its_own(self, name, squash):
        policy = policy_of(name, squash_actions=squash, log_std_initial=-1.5)
        log_std = next(v for v in policy.variables if v.name == "log_std:0")
        count = len(DEVIATIONS[name])
        self.assertAllEqual(log_std, np.full(count, -1.5, np.float32))
        log_std.assign(np.arange(count) / 10.0)
        obs = observations(name, 5)
        params, found = policy.heads(obs).params, []
        self.assertEqual(params.shape, (5, policy.distribution.num_params))
        for x in policy.distribution.deviations.values():
            found.append(params[:, x])
        self.assertAllClose(tf.concat(found, 1), np.tile(np.arange(count) / 10.0, (5, 1)))
        # The variable is all that the deviations depend on, and nothing else depends on it.
        with tf.GradientTape() as tape:
            params = policy.heads(obs).params
            total = tf.add_n(
                [tf.reduce_sum(params[:, x]) for x in policy.distribution.deviations.values()]
            )
        gradients = tape.gradient(total, policy.trainable_variables, unconnected_gradients="zero")
        for variable, gradient in zip(policy.trainable_variables, gradients):
            self.assertAllClose(gradient, tf.fill(gradient.shape, 5.0 * (variable is log_std)))

    def test_a_deviation_moves_its_own_part_only(self):
        policy = policy_of("dict")
        log_std = next(v for v in policy.variables if v.name == "log_std:0")
        obs, rng = observations("dict", 4), np.random.default_rng(0)
        noise = {
            k: tf.constant(rng.random((4, *n.shape), np.float32)) for k, n in policy.noise.items()
        }
        before = policy.step(obs, (), {}, noise, True).action
        log_std.assign([0, 0, 1, 1, 1, 1])
        after = policy.step(obs, (), {}, noise, True).action
        self.assertAllEqual(before["a"], after["a"])
        self.assertAllEqual(before["b"], after["b"])
        greedy = policy.step(obs, (), {}, {}, False).action
        self.assertAllClose(after["c"] - greedy["c"], np.e * (before["c"] - greedy["c"]), rtol=1e-4)

    def test_without_it_the_network_says_them(self):
        policy = policy_of("dict", free_log_std=False)
        self.assertNotIn("log_std:0", [v.name for v in policy.variables])
        x = next(iter(policy.distribution.deviations.values()))
        params = policy.heads(observations("dict", 4)).params[:, x]
        self.assertGreater(np.ptp(params.numpy(), axis=0).min(), 0.0)


class StateDependentTest(tf.test.TestCase, parameterized.TestCase):
    def settings(self, **more):
        return dict(state_dependent_exploration=True, log_std_initial=-1.0, **more)

    @parameterized.product(
        name=("box", "tuple"), core=("none", "gru"), squash=(False, True), mode=("function", "lite")
    )
    def test_exploration_is_a_function_of_the_features_between_draws(
        self, name, core, squash, mode
    ):
        policy = policy_of(
            name, **self.settings(core=core, squash_actions=squash, sde_resample_env_steps=3)
        )
        spec = spec_of(name)
        signature = StepSignature(policy, spec, 2, [], explore=True)
        engine = make_engine(mode, policy, signature)
        stream = NoiseStream(signature, np.random.default_rng(0))
        initial = tree.map_structure(np.asarray, policy.initial_state(2, {}))
        obs, drawn = observations(name, 2).numpy(), []
        # The same observation and state again and again, so that nothing but the noise changes.
        for noise in stream.steps(9):
            step = engine.act(obs, initial, {}, noise)
            expected = policy.step(obs, initial, {}, noise, True)
            tree.map_structure(
                lambda a, b: self.assertAllClose(a, b, rtol=1e-4, atol=1e-5), step, expected
            )
            drawn.append(step.action if name == "box" else step.action[1])
        for t in range(9):
            self.assertAllEqual(drawn[t], drawn[t - t % 3])
        for t in (3, 6):
            self.assertGreater(np.abs(drawn[t] - drawn[t - 1]).min(), 1e-4)

    @parameterized.product(name=("box", "dict"), squash=(False, True))
    def test_samples_over_matrices_have_the_distribution_that_log_probs_say(self, name, squash):
        policy = policy_of(name, **self.settings(squash_actions=squash))
        log_std = next(v for v in policy.variables if v.name == "log_std:0")
        self.assertEqual(log_std.shape, (8, len(DEVIATIONS[name])))
        rng, count = np.random.default_rng(1), 20_000
        log_std.assign(rng.normal(size=log_std.shape) - 1.0)
        obs = tf.repeat(observations(name, 1, seed=3), count, axis=0)
        noise = {}
        for key, n in policy.noise.items():
            draw = rng.standard_normal if n.kind == "normal" else rng.random
            noise[key] = tf.constant(draw((count, *n.shape), np.float32))
        step = policy.step(obs, (), {}, noise, True)
        # E[-log p] is the entropy of what the learner sees, if and only if the two agree.
        params = policy.heads(obs[:1]).params
        entropy = policy.distribution.entropy(params)[0]
        log_prob = step.extras["log_prob"].numpy()
        self.assertAllClose(-log_prob.mean(), entropy, atol=5 * log_prob.std() / count**0.5)
        sample = policy.samples(step.action, step.extras)
        again = policy.distribution.log_prob(tf.repeat(params, count, axis=0), sample)
        self.assertAllClose(again, log_prob, rtol=1e-4, atol=1e-4)

    @parameterized.parameters((ppo, "lstm"), (impala, "gtrxl"))
    def test_a_learner_agrees_with_what_acted(self, module, core):
        self.check_agreement(module, core)

    @parameterized.parameters((ppo, "none"), (impala, "none"), (impala, "lstm"), (ppo, "gtrxl"))
    @pytest.mark.slow
    def test_a_learner_with_another_core_agrees_with_what_acted(self, module, core):
        self.check_agreement(module, core)

    def check_agreement(self, module, core):
        config = module.Config(
            hidden_sizes=(8,), core=core, core_size=8, unroll_length=6, **self.settings()
        )
        agent = module.make(config, spec_of("box"))
        if module is ppo:
            config = dataclasses.replace(config, epochs=1, minibatches=1)
            agent = module.make(config, spec_of("box"))
        loop = conformance.loop(agent, spec_of("box"))
        before = [v.numpy() for v in loop.learner.policy.variables]
        metrics, _ = loop.run(conformance.unroll(agent, spec_of("box"), 4, seed=0))
        for name, metric in metrics.items():
            self.assertTrue(np.isfinite(metric), name)
        after = {v.name: v.numpy() for v in loop.learner.policy.variables}
        index = [v.name for v in loop.learner.policy.variables].index("log_std:0")
        self.assertNotAllEqual(before[index], after["log_std:0"])

    @parameterized.parameters("none", "gru")
    def test_the_export_acts_alike(self, core):
        policy, spec = policy_of("box", **self.settings(core=core)), spec_of("box")
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "export"
        loaded = tf.saved_model.load(str(export(policy, spec, folder)))
        obs = observations("box", 3)
        acted = loaded.act(obs, loaded.initial_state(tf.constant(3)))
        expected = policy.step(obs, policy.initial_state(3, {}), {}, {}, False)
        self.assertAllClose(acted["action"], expected.action, rtol=1e-6)

    @parameterized.parameters(
        (
            spaces.Discrete(3),
            dict(state_dependent_exploration=True),
            "expected a Box among the actions",
        ),
        (BOX, dict(state_dependent_exploration=True, free_log_std=False), "free_log_std=false"),
        (BOX, dict(sde_resample_env_steps=4), "expected state_dependent_exploration with it"),
        (
            BOX,
            dict(sde_resample_env_steps=0, state_dependent_exploration=True),
            "sde_resample_env_steps",
        ),
    )
    def test_what_does_not_fit_is_refused(self, space, settings, message):
        spec = dataclasses.replace(spec_of("box"), action_space=space)
        with self.assertRaisesRegex(SettingError, message):
            ppo.make(ppo.Config(**settings), spec)


class HeldNoiseTest(tf.test.TestCase, parameterized.TestCase):
    """Noise that stays for some steps, as the runtime draws it."""

    def stream(self, period, rows=2):
        policy = policy_of("box", state_dependent_exploration=True, sde_resample_env_steps=period)
        signature = StepSignature(policy, spec_of("box"), rows, [], explore=True)
        self.assertEqual({k: n.shape for k, n in signature.noise.items()}, {"exploration": (8, 2)})
        return NoiseStream(signature, np.random.default_rng(0))

    @parameterized.parameters((1, [0, 1, 2, 3, 4, 5]), (3, [0, 3]), (None, [0]))
    def test_a_new_draw_after_every_period(self, period, expected):
        stream, last, changes = self.stream(period), np.zeros([2, 8, 2]), []
        for t, noise in enumerate(
            [x["exploration"].copy() for _ in range(3) for x in stream.steps(2)]
        ):
            if np.any(noise != last):
                self.assertTrue(np.all(noise != last))
                changes.append(t)
            last = noise
        self.assertEqual(changes, expected)

    def test_an_episode_start_draws_for_its_row_only(self):
        stream = self.stream(4, rows=3)
        (first,) = (x["exploration"].copy() for x in stream.steps(1))
        (second,) = (x["exploration"].copy() for x in stream.steps(1))
        self.assertAllEqual(first, second)
        stream.restart(np.array([False, True, False]))
        rest = [x["exploration"].copy() for x in stream.steps(5)]
        changed = [
            [bool(np.any(x[r] != y[r])) for r in range(3)] for x, y in zip([second, *rest], rest)
        ]
        # Rows count for themselves: the others' period ends after two more steps, row 1's after four.
        expected = [[t == 2, t in (0, 4), t == 2] for t in range(5)]
        self.assertEqual(changed, expected)

    def test_draws_are_standard_normal_and_repeat_by_seed(self):
        drawn = [
            np.stack([x["exploration"].copy() for x in self.stream(1, 50).steps(40)])
            for _ in range(2)
        ]
        self.assertAllEqual(*drawn)
        count = drawn[0].size
        self.assertLess(abs(drawn[0].mean()), 5 / count**0.5)
        self.assertLess(abs(drawn[0].std() - 1), 5 / (2 * count) ** 0.5)
