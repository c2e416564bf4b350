"""Engines of the acting policy: both give the same actions, from the weights they were given."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree
from absl.testing import parameterized

from tfrl.algos import dqn
from tfrl.errors import SettingError
from tfrl.explore import epsilon
from tfrl.runtime.acting.inference import FunctionEngine, LiteEngine, StepSignature, make_engine
from tfrl.testing import conformance
from tfrl.types import EnvSpec, PolicyStep

spaces = gym.spaces
BOX = spaces.Box(-3, 3, (4,), np.float32)
CASES = {
    "mlp": (BOX, {}),
    "dueling": (BOX, dict(dueling=True, head_hidden_sizes=(8,))),
    "discrete": (spaces.Discrete(6, dtype=np.int32), {}),
    "nest": (spaces.Dict(a=BOX, b=spaces.MultiDiscrete([3, 2], dtype=np.int32),
                         c=spaces.MultiBinary(5)), dict(dueling=True)),
    "mask": (spaces.Dict(observation=BOX, action_mask=spaces.Box(0, 1, (5,), np.float32)),
             dict(dueling=True)),
    "cnn": (spaces.Box(0, 255, (36, 36, 2), np.uint8), {}),
    "bfloat16": (spaces.Box(0, 255, (36, 36, 2), np.uint8), dict(precision="bfloat16")),
    "resnet": (
        spaces.Box(0, 255, (6, 6, 2), np.uint8),
        dict(network="resnet", image_scale=255.0),
    ),
    "image in a nest": (spaces.Dict(a=spaces.Box(0, 255, (36, 36, 1), np.uint8),
                                    b=spaces.Box(-9, 9, (), np.float32),
                                    c=spaces.Discrete(3, dtype=np.int32)), {}),
}  # fmt: skip


def policy_of(name, seed=0):
    space, settings = CASES[name]
    spec = EnvSpec(name, space, spaces.Discrete(5))
    tf.keras.utils.set_random_seed(seed)
    config = dqn.Config(hidden_sizes=(16,), **settings)
    return dqn.make(config, spec).make_policy(), spec


class EnginesTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(FunctionEngine, LiteEngine)
    def test_images_that_are_views_with_the_channels_moved(self, engine):
        policy, spec = policy_of("cnn")
        acting = engine(policy, StepSignature(policy, spec, 8, ["epsilon"], explore=False))
        obs = conformance.observations(spec, 8, seed=1)
        view = np.moveaxis(np.ascontiguousarray(np.moveaxis(obs, -1, 1)), 1, -1)
        self.assertFalse(view.flags.c_contiguous)
        values = acting.act(view, (), {}, {}).action, acting.act(obs, (), {}, {}).action
        self.assertAllEqual(*values)
        self.assertGreater(len(set(values[0].tolist())), 1)

    def test_weights_that_layers_cast_follow_those_that_were_loaded(self):
        policy, spec = policy_of("bfloat16")
        newer, _ = policy_of("bfloat16", seed=1)
        engine = FunctionEngine(policy, StepSignature(policy, spec, 8, ["epsilon"], explore=False))
        kernels = [v for v in policy.variables if v.shape.rank == 4]
        read = [variable for _, variable in engine._copies]
        self.assertContainsSubset({id(v) for v in kernels}, {id(v) for v in read})
        obs = conformance.observations(spec, 8, seed=1)
        before = engine.act(obs, (), {}, {}).action
        self.assertAllEqual(before, policy.step(obs, (), {}, {}, False).action)
        engine.load([v.numpy() for v in newer.variables])
        after = engine.act(obs, (), {}, {}).action
        self.assertAllEqual(after, newer.step(obs, (), {}, {}, False).action)
        self.assertNotAllEqual(before, after)

    @parameterized.product(name=sorted(CASES.keys() - {"bfloat16"}), explore=(False, True))
    def test_lite_equals_function(self, name, explore):
        policy, spec = policy_of(name)
        batch = 3
        signature = StepSignature(policy, spec, batch, ["epsilon"], explore)
        engines = [FunctionEngine(policy, signature), LiteEngine(policy, signature)]
        rng = np.random.default_rng(0)
        seen = set()
        for i in range(12):
            obs = conformance.observations(spec, batch, seed=i)
            knobs = {"epsilon": np.float32([0.0, 0.5, 1.0])} if explore else {}
            noise = {k: x[0] for k, x in signature.draw(rng, 1).items()}
            function, lite = (engine.act(obs, (), knobs, noise).action for engine in engines)
            self.assertAllEqual(function, lite)
            self.assertEqual((lite.dtype, lite.shape), (np.int32, (batch,)))
            seen.update(lite.tolist())
            expected = policy.step(obs, (), knobs, noise, explore).action
            self.assertAllEqual(expected, lite)
            if name == "mask":
                valid = obs["action_mask"][np.arange(batch), lite]
                self.assertAllEqual(valid, np.ones(batch))
        self.assertGreater(len(seen), 1)

    @parameterized.product(name=("mlp", "mask", "cnn"), engine=("function", "lite"))
    def test_the_weights_that_were_loaded_act(self, name, engine):
        policy, spec = policy_of(name, seed=0)
        other, _ = policy_of(name, seed=1)
        signature = StepSignature(policy, spec, 16, [], explore=False)
        engine = make_engine(engine, policy, signature)
        obs = conformance.observations(spec, 16, seed=3)
        before = engine.act(obs, (), {}, {}).action.copy()
        arrays = [v.numpy() for v in other.variables]
        head = next(i for i, a in enumerate(arrays) if a.shape == (5,))
        arrays[head] = arrays[head] + np.float32([0, 0, 9, 0, 0])
        for variable, array in zip(other.variables, arrays, strict=True):
            variable.assign(array)
        engine.load(arrays)
        after = engine.act(obs, (), {}, {}).action
        self.assertAllEqual(after, other.step(obs, (), {}, {}, False).action)
        self.assertNotAllEqual(before, after)

    def test_noise_has_the_declared_shape_and_range(self):
        policy, spec = policy_of("mlp")
        signature = StepSignature(policy, spec, 3, ["epsilon"], explore=True)
        drawn = signature.draw(np.random.default_rng(0), 200)
        self.assertEqual(
            {k: x.shape for k, x in drawn.items()}, {"explore": (200, 3), "action": (200, 3, 5)}
        )
        for x in drawn.values():
            self.assertEqual(x.dtype, np.float32)
            self.assertBetween(x.min(), 0.0, 0.01)
            self.assertBetween(x.max(), 0.99, 1.0)
        self.assertEqual(StepSignature(policy, spec, 3, ["epsilon"], explore=False).noise, {})
        again = signature.draw(np.random.default_rng(0), 200)
        self.assertAllEqual(drawn["action"], again["action"])

    def test_auto_says_what_it_picked(self):
        policy, spec = policy_of("mlp")
        said = []
        engine = make_engine("auto", policy, StepSignature(policy, spec, 1, [], False), said.append)
        self.assertRegex(
            said[0], rf"^acting: {engine.name} \(function \d+ us, lite \d+ us per batch of 1\)$"
        )


class Echo(tf.Module):
    """A policy whose outputs are equal to each other, to its inputs, to its variables, or constant."""

    noise = epsilon.noise(5)

    def __init__(self, action):
        super().__init__()
        self._action, self._bias = action, tf.Variable([1.0, 2, 3, 4])

    def initial_state(self, batch_size, noise):
        return {"last": tf.zeros([batch_size, 4]), "count": tf.zeros([batch_size], tf.int32)}

    def step(self, obs, state, knobs, noise, explore):
        best = tf.argmax(obs, axis=1, output_type=tf.int32)
        action = {
            "nest": lambda: {"b": (best, obs), "a": tf.identity(best), "c": tf.cast(best, tf.int8)},
            "part": lambda: {"a": best},
        }[self._action]()
        extras = {f"x{i}": obs * float(i) for i in range(12)}  # two digits in the names
        extras.update(bias=self._bias + 0.0, constant=tf.constant([5.0, 6]), same=best)
        state = {"last": obs, "count": state["count"] + 1}
        return PolicyStep(action, state, extras)


class NestTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(engine=("function", "lite"), action=("nest", "part"))
    def test_outputs_come_back_in_their_places(self, engine, action):
        policy, spec = Echo(action), EnvSpec("s", BOX, spaces.Discrete(5))
        engine = make_engine(engine, policy, StepSignature(policy, spec, 3, [], explore=False))
        state = tree.map_structure(lambda x: x.numpy(), policy.initial_state(3, {}))
        for i in range(3):
            obs = conformance.observations(spec, 3, seed=i)
            expected = policy.step(tf.constant(obs), state, {}, {}, False)
            step = engine.act(obs, state, {}, {})
            tree.assert_same_structure(expected, step)
            for a, b in zip(tree.flatten(expected), tree.flatten(step), strict=True):
                self.assertEqual(a.dtype, b.dtype)
                self.assertAllEqual(a, b)
            state = step.state
        self.assertAllEqual(state["count"], [3, 3, 3])

    @parameterized.parameters("function", "lite")
    def test_one_part_and_nothing_else_is_still_a_nest(self, engine):
        class Part(tf.Module):
            noise = {}

            def initial_state(self, batch_size, noise):
                return ()

            def step(self, obs, state, knobs, noise, explore):
                return PolicyStep({"a": tf.argmax(obs, axis=1, output_type=tf.int32)}, state, {})

        policy, spec = Part(), EnvSpec("s", BOX, spaces.Dict(a=spaces.Discrete(4)))
        engine = make_engine(engine, policy, StepSignature(policy, spec, 2, [], explore=False))
        out = engine.act(np.float32([[0, 1, 0, 0], [0, 0, 0, 1]]), (), {}, {})
        self.assertEqual(list(out.action), ["a"])
        self.assertAllEqual(out.action["a"], [1, 3])


class Stubborn(tf.Module):
    """A policy whose graph LiteRT cannot run."""

    noise = epsilon.noise(5)

    def initial_state(self, batch_size, noise):
        return ()

    def step(self, obs, state, knobs, noise, explore):
        action = tf.numpy_function(lambda x: np.full(len(x), 4, np.int32), [obs], tf.int32)
        return PolicyStep(tf.ensure_shape(action, [2]), state, {})


class FallbackTest(tf.test.TestCase):
    def test_a_policy_that_cannot_be_converted(self):
        policy, spec = Stubborn(), EnvSpec("s", BOX, spaces.Discrete(5))
        signature = StepSignature(policy, spec, 2, [], explore=False)
        with self.assertRaisesRegex(SettingError, "refuses"):
            make_engine("lite", policy, signature)
        said = []
        engine = make_engine("auto", policy, signature, said.append)
        self.assertEqual(engine.name, "function")
        self.assertRegex(said[0], "^acting: function .lite is unavailable: ")
        self.assertAllEqual(engine.act(np.zeros((2, 4), np.float32), (), {}, {}).action, [4, 4])
