"""The on-policy algorithms learn environments whose answers are known."""

import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.envs.make import make_spec
from tfrl.job import EnvPlan, algorithm
from tfrl.testing import conformance

FAKES, MEMORY = "tfrl.testing.fakes:", "tfrl.envs.memory:"
COMMON = dict(
    num_envs=16, hidden_sizes=(16,), discount=0.5, eval_every_env_steps=0, eval_episodes=2,
    final_eval_episodes=10, export_policy="last", checkpoint_every_env_steps=0, console="none",
    tensorboard=False, compile="graph", inference="lite",
)  # fmt: skip
ALGOS = {
    "ppo": dict(unroll_length=16, learning_rate=1e-2, epochs=4, minibatches=2),
    "a2c": dict(unroll_length=5, learning_rate=1e-2),
    "pg": dict(
        unroll_length=20,
        episodes_per_item=16,
        learning_rate=3e-2,
        normalize_returns=True,
        discount=0.0,
    ),
    "a3c": dict(unroll_length=5, learning_rate=1e-2),
    "impala": dict(unroll_length=10, batch_env_steps=0, learning_rate=1e-2),
    "appo": dict(unroll_length=10, batch_env_steps=0, learning_rate=1e-2),
}
FEW = ("ppo", "impala")  # the others learn in the slow tests


class LearningTestCase(tf.test.TestCase, parameterized.TestCase):
    def train(self, algo, **settings):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        return tfrl.train(algo, run_dir=str(run_dir), **{**COMMON, **ALGOS[algo], **settings})


class MaskTest(LearningTestCase):
    def test_an_invalid_action_is_never_sampled(self):
        spec = make_spec(EnvPlan(env=f"{FAKES}MaskedBandit"))
        rng = np.random.default_rng(0)
        for algo in ("ppo", "pg", "impala"):
            module = algorithm(algo)
            config = module.Config(unroll_length=20)
            policy = module.make(config, spec).make_policy()
            obs = conformance.observations(spec, 2_000, 0)
            noise = {k: rng.random((2_000, *n.shape), np.float32) for k, n in policy.noise.items()}
            actions = policy.step(obs, (), {}, noise, True).action.numpy()
            self.assertAllEqual(obs["action_mask"][np.arange(2_000), actions], np.ones(2_000))


class FakesTest(LearningTestCase):
    @parameterized.parameters(*FEW)
    def test_the_identity_game_is_solved(self, algo):
        self.check_identity(algo)

    @parameterized.parameters(*sorted(set(ALGOS) - set(FEW)))
    @pytest.mark.slow
    def test_the_identity_game_is_solved_by_the_others(self, algo):
        self.check_identity(algo)

    def check_identity(self, algo):
        result = self.train(algo, env=f"{FAKES}IdentityGame", total_env_steps=16_000)
        self.assertGreater(result.return_mean, 19.5)  # of 20; chance is 5

    @parameterized.parameters(*FEW)
    def test_the_best_valid_action_is_found(self, algo):
        """An invalid action would raise."""
        result = self.train(algo, env=f"{FAKES}MaskedBandit", total_env_steps=16_000)
        policy = tfrl.load(result.run_dir)
        masks = ((np.arange(1, 32)[:, None] >> np.arange(5)) & 1).astype(np.int8)
        obs = {"observation": masks.astype(np.float32), "action_mask": masks}
        actions = policy.predict(obs)
        best = np.array([max(np.flatnonzero(mask)) for mask in masks])
        self.assertGreater(np.mean(actions == best), 0.9)

    @parameterized.parameters(("ppo", False), ("ppo", True), ("impala", False))
    def test_a_target_is_met(self, algo, squash):
        result = self.train(
            algo, env=f"{FAKES}TargetPoint", total_env_steps=40_000, squash_actions=squash,
            discount=0.0, log_std_initial=-1.0,
        )  # fmt: skip
        self.assertGreater(result.return_mean, -1.5)  # standing still gives -13


@pytest.mark.slow
class MemoryTest(LearningTestCase):
    """A cue must be remembered over four steps; chance is 1/4."""

    SETTINGS = dict(
        env=f"{MEMORY}RepeatFirst", env_kwargs={"num_cues": 4, "delay": 4}, num_envs=32,
        unroll_length=24, discount=0.99, core_size=32, minibatches=4, final_eval_episodes=100,
        normalize_advantage="batch",
    )  # fmt: skip

    @parameterized.parameters("lstm", "gru", "gtrxl")
    def test_a_memory_recalls(self, core):
        result = self.train("ppo", core=core, total_env_steps=100_000, **self.SETTINGS)
        self.assertGreater(result.return_mean, 0.9)

    def test_without_one_it_stays_at_chance(self):
        result = self.train("ppo", core="none", total_env_steps=40_000, **self.SETTINGS)
        self.assertLess(result.return_mean, 0.25 + 4 * np.sqrt(0.25 * 0.75 / 100))


if __name__ == "__main__":
    tf.test.main()
