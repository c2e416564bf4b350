"""State that a step returns as it got it is bound once by the engines, and not copied at every step."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.runtime.acting.inference import StepSignature, make_engine
from tfrl.types import EnvSpec, NoiseSpec, PolicyStep

BOX = gym.spaces.Box(-1, 1, (3,), np.float32)


class Scaled(tf.Module):
    """Observations times a factor of the episode; counts steps if `counts`."""

    def __init__(self, counts):
        super().__init__()
        self.noise = {"factor": NoiseSpec((3,), "normal", None, seeded=True)}
        self.counts = counts

    def initial_state(self, batch_size, noise):
        state = {"factor": tf.convert_to_tensor(noise["factor"]) + 1.0}
        return {**state, "count": tf.zeros([batch_size])} if self.counts else state

    def step(self, obs, state, knobs, noise, explore):
        new = {**state, "count": state["count"] + 1.0} if self.counts else state
        extra = state["count"] if self.counts else tf.zeros_like(obs[:, 0])
        return PolicyStep(obs * state["factor"] + extra[:, None], new, {})


class KeptStateTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(mode=("function", "lite"), counts=(False, True))
    def test_a_leaf_is_read_again_when_it_is_another_array(self, mode, counts):
        policy, spec = Scaled(counts), EnvSpec("s", BOX, BOX)
        engine = make_engine(mode, policy, StepSignature(policy, spec, 2, [], explore=True))
        self.assertEqual(engine.kept, [False, True] if counts else [True])
        rng = np.random.default_rng(0)
        state = {"factor": rng.normal(size=(2, 3)).astype(np.float32)}
        if counts:
            state["count"] = np.zeros(2, np.float32)
        noise = {"factor": np.zeros((2, 3), np.float32)}
        for t in range(6):
            obs = rng.normal(size=(2, 3)).astype(np.float32)
            expected = obs * state["factor"] + (t if counts else 0)
            if t == 2:  # in place: the engine has what it was given
                state["factor"] *= 2.0
            step = engine.act(obs, state, {}, noise)
            self.assertAllClose(step.action, expected, atol=1e-6)
            self.assertIs(step.state["factor"], state["factor"])
            state = step.state
            if t == 2:
                state = {**state, "factor": state["factor"].copy()}
        self.assertIs(state["factor"], step.state["factor"])

    @parameterized.parameters("function", "lite")
    def test_another_leaf_of_the_state_is_not_its_own(self, mode):
        class Swaps(tf.Module):
            noise = {}

            def initial_state(self, batch_size, noise):
                return tf.zeros([batch_size, 3]), tf.ones([batch_size, 3])

            def step(self, obs, state, knobs, noise, explore):
                return PolicyStep(obs + state[0], (state[1], state[0]), {})

        policy, spec = Swaps(), EnvSpec("s", BOX, BOX)
        engine = make_engine(mode, policy, StepSignature(policy, spec, 2, [], explore=False))
        self.assertEqual(engine.kept, [False, False])
        state = (np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32))
        seen = []
        for _ in range(3):
            step = engine.act(np.zeros((2, 3), np.float32), state, {}, {})
            seen.append(float(step.action[0, 0]))
            state = step.state
        self.assertEqual(seen, [0.0, 1.0, 0.0])
