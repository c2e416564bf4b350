"""On-policy runs in one process repeat from their seed bit for bit."""

import json
import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.runtime.storage import folders

# How the parts are compiled is said, not timed: another way rounds in another way. Kernels of graph mode share sums
# between threads, and on a busy machine not always alike; XLA's shares of a matrix product do not depend on that.
SETTINGS = dict(
    env="CartPole-v1", num_envs=4, unroll_length=16, hidden_sizes=(8,), total_env_steps=600,
    normalize_observations=True, normalize_rewards=True, compile="xla", inference="lite",
    eval_every_env_steps=200, eval_episodes=1, final_eval_episodes=1, export_policy="last",
     checkpoint_every_env_steps=0, console="none", tensorboard=False,
)  # fmt: skip


class DeterminismTest(tf.test.TestCase, parameterized.TestCase):
    def weights(self, algo, **settings):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        tfrl.train(algo, run_dir=str(run_dir), **{**SETTINGS, **settings})
        with np.load(run_dir / folders.POLICY) as file:
            return {name: file[name] for name in file.files}

    def test_a_seed_gives_one_policy(self):
        self.check("impala", dict(batch_env_steps=0, passes=2, replay_proportion=0.5))

    @parameterized.parameters(
        ("pg", dict(unroll_length=40, episodes_per_item=4)),
        ("ppo", dict(epochs=2, minibatches=4, core="gru", core_size=6)),
        ("a2c", {}),
        # Large enough for threads to share its matrix products.
        (
            "ppo",
            dict(
                core="lstm",
                core_size=64,
                hidden_sizes=(64,),
                num_envs=16,
                unroll_length=128,
                total_env_steps=4096,
            ),
        ),
    )
    @pytest.mark.slow
    def test_a_seed_gives_one_policy_of_the_others_too(self, algo, settings):
        self.check(algo, settings)

    def check(self, algo, settings):
        first, again = (self.weights(algo, seed=1, **settings) for _ in range(2))
        self.assertEqual(first.keys(), again.keys())
        for name, array in first.items():
            self.assertEqual(array.tobytes(), again[name].tobytes(), name)

    @pytest.mark.slow
    def test_another_seed_gives_another_policy(self):
        first, other = (self.weights("a2c", seed=seed) for seed in (1, 2))
        different = [not np.array_equal(first[name], other[name]) for name in first]
        self.assertGreater(sum(different), len(different) // 2)

    @pytest.mark.slow
    def test_what_auto_picked_repeats_it(self):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        settings = dict(SETTINGS, compile="auto", inference="auto", epochs=2, minibatches=2)
        tfrl.train("ppo", run_dir=str(run_dir), **settings)
        result = json.loads((run_dir / "result.json").read_text())
        self.assertIn(result["compile"], ("graph", "xla"))
        self.assertIn(result["inference"], ("function", "lite"))
        picked = {name: result[name] for name in ("compile", "inference")}
        again = self.weights("ppo", **dict(settings, **picked))
        with np.load(run_dir / folders.POLICY) as file:
            for name in file.files:
                self.assertEqual(file[name].tobytes(), again[name].tobytes(), name)


if __name__ == "__main__":
    tf.test.main()
