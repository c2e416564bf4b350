"""DQN and its relatives learn environments whose answers are known: seconds each."""

import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.testing import fakes

COMMON = dict(
    hidden_sizes=(16,),
    batch_size=32,
    env_steps_per_update=2.0,
    updates_per_call=64,
    min_replay=200,
    eval_every_env_steps=0,
    eval_episodes=2,
    final_eval_episodes=10,
    export_policy="last",
    checkpoint_every_env_steps=0,
    checkpoint_replay=False,
    console="none",
    tensorboard=False,
)
CHAIN = dict(
    COMMON, discount=0.9, learning_rate=5e-3, target_period_updates=30, total_env_steps=4_000
)


RAINBOW = dict(
    noisy="factorised",
    prioritized=True,
    n_step=2,
    head_hidden_sizes=(16,),
    target_period_updates=50,
)


class TerminatingChain(fakes.TruncatingChain):
    """The same, but its time limit is declared a termination."""

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, truncated, False, info


class LearningTest(tf.test.TestCase, parameterized.TestCase):
    def train(self, algo="dqn", **settings):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        return tfrl.train(algo, run_dir=str(run_dir), **settings)

    def value_of_chain(self, env, **settings):
        result = self.train(env=env, **{**CHAIN, **settings})
        q = tfrl.load(result.run_dir).q_values(tf.ones([1, 1]))
        return result, float(q.max()), float(q.min())

    def test_a_time_limit_does_not_end_the_value(self):
        # Reward 1 for ever: 1 / (1 - 0.9) = 10.
        result, high, low = self.value_of_chain("tfrl.testing.fakes:TruncatingChain")
        self.assertAllClose([high, low], [10.0, 10.0], rtol=0.05)
        self.assertEqual((result.return_mean, result.env_steps), (10.0, 4_000))
        # 1,900 of these updates fit the (4,000 - 200) items; the last block may not.
        self.assertBetween(result.updates, 1_900 - 64, 1_900)

    def test_nor_with_longer_returns(self):
        _, high, low = self.value_of_chain("tfrl.testing.fakes:TruncatingChain", n_step=3)
        self.assertAllClose([high, low], [10.0, 10.0], rtol=0.05)

    def test_a_termination_does(self):
        # One step in ten is worth 1, the others 1 + 0.9 v: the mean is v = 1 + 0.81 v = 5.26.
        _, high, low = self.value_of_chain(f"{__name__}:TerminatingChain", loss="squared")
        self.assertAllClose([high, low], [1 / 0.19] * 2, rtol=0.2)
        self.assertLess(high, 7.5)

    def test_the_identity_game_is_solved(self):
        result = self.train(
            env="tfrl.testing.fakes:IdentityGame",
            num_envs=4,
            learning_rate=3e-3,
            discount=0.5,
            epsilon_decay_env_steps=1_500,
            total_env_steps=3_000,
            **COMMON,
        )
        self.assertEqual((result.return_mean, result.return_std, result.episodes), (20.0, 0.0, 10))

    def test_masked_actions_are_never_taken(self):
        self.check_masks("dqn", dict(epsilon_decay_env_steps=1_000))

    @parameterized.parameters(
        ("c51", dict(RAINBOW, num_atoms=21, v_min=-1.0, v_max=1.0)),
        ("qr_dqn", dict(RAINBOW, num_quantiles=5, huber_delta=0.1)),
        ("iqn", dict(RAINBOW, num_tau=8, num_target_tau=8, num_act_tau=8, huber_delta=0.1)),
    )
    @pytest.mark.slow
    def test_masked_actions_are_never_taken_by_the_others(self, algo, own):
        self.check_masks(algo, own)

    def check_masks(self, algo, own):
        # An invalid action would raise; the best valid one is the last.
        result = self.train(
            algo,
            env="tfrl.testing.fakes:MaskedBandit",
            num_envs=2,
            learning_rate=3e-3,
            discount=0.0,
            total_env_steps=2_500,
            dueling=True,
            **COMMON,
            **own,
        )
        policy = tfrl.load(result.run_dir)
        masks = ((np.arange(1, 32)[:, None] >> np.arange(5)) & 1).astype(np.int8)
        obs = {"observation": masks.astype(np.float32), "action_mask": masks}
        actions = policy.predict(obs)
        best = [max(np.flatnonzero(mask)) for mask in masks]
        self.assertAllEqual(actions, best)
