"""QMIX, VDN and IQL learn games whose answers are known."""

import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized

import tfrl

COMMON = dict(
    eval_every_env_steps=0, eval_episodes=2, final_eval_episodes=20, export_policy="last",
    checkpoint_every_env_steps=0, checkpoint_replay=False, console="none", tensorboard=False,
    compile="xla", inference="lite", num_envs=8,
)  # fmt: skip
# Uniform play at all times: what greedy play earns then is what the values are, not what was tried last.
TWO_STEP = dict(
    COMMON, env="tfrl/TwoStep-v0", episode_length=2, epsilon_final=1.0, updates_per_call=16
)


class TeamsLearningTest(parameterized.TestCase):
    def train(self, **settings):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        return tfrl.train("qmix", run_dir=str(run_dir), **settings)

    @parameterized.parameters(("qmix", 8.0), ("vdn", 7.0), ("none", 7.0))
    @pytest.mark.slow
    def test_a_mixer_represents_that_both_must_act(self, mixer, score):
        result = self.train(**TWO_STEP, mixer=mixer, total_env_steps=12_000)
        self.assertEqual(result.return_mean, score)

    @pytest.mark.slow
    def test_a_feed_forward_team_finds_the_joint_action_that_pays_most(self):
        result = self.train(
            **TWO_STEP, core="none", add_last_action=False, total_env_steps=4_000, learning_rate=2e-3,
            target_period_updates=100,
        )  # fmt: skip
        self.assertEqual(result.return_mean, 8.0)
        policy = tfrl.load(result.run_dir)
        obs = {
            "observation": np.float32([[[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]]]),
            "action_mask": np.ones((1, 4), np.int8), "alive": np.ones((1, 2), np.int8),
            "state": np.float32([[0, 0, 1]]),
        }  # fmt: skip
        np.testing.assert_array_equal(policy.predict(obs), [[1, 1]])
        self.assertEqual(policy.q_values(obs).shape, (1, 2, 2))


if __name__ == "__main__":
    absltest.main()
