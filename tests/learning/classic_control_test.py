"""The tuned recipes of `configs/` reach their scores. Minutes each, so they are marked slow."""

import pathlib
import tempfile

import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.config import flags

ROOT = pathlib.Path(__file__).parents[2] / "configs"


@pytest.mark.slow
class ClassicControlTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("dqn", "cartpole", 475.0),
        ("dqn", "acrobot", -100.0),
        ("dqn", "mountaincar", -120.0),
        ("dqn", "parametric_cartpole", 150.0),
        ("dqn", "bit_flip", -11.0),  # the best is -9, that without success -20
        ("ppo", "parametric_cartpole", 150.0),
        ("c51", "cartpole", 450.0),
        ("c51", "rainbow_cartpole", 450.0),
        ("qr_dqn", "cartpole", 450.0),
        ("qr_dqn", "acrobot", -100.0),
        ("iqn", "cartpole", 450.0),
        ("sac", "cartpole", 450.0),
        ("sac", "mountaincar_continuous", 90.0),
        ("sac", "repeat_previous", 17.0),
    )
    def test_reaches_its_score(self, algo, recipe, score):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        path = ROOT / algo / f"{recipe}.flags"
        result = tfrl.train(
            flags.parse(
                [
                    f"--algo={algo}",
                    f"--flagfile={path}",
                    f"--run_dir={run_dir}",
                    "--seed=0",
                    "--console=none",
                ]
            )
        )
        self.assertEqual(result.episodes, 100)
        self.assertGreaterEqual(result.return_mean, score)
