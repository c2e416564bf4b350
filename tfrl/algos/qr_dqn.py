"""QR-DQN: quantiles of the return at fixed fractions.

What it is: quantile regression Q-learning (Dabney et al. 2018a, algorithm 1): for each action, `num_quantiles` outputs
are the quantiles at the midpoints of equal parts of [0, 1]. Options as in DQN: double, dueling per quantile, n-step,
prioritized replay, noisy layers. What it is not: tied to a range of returns (C51 is) or to sampled fractions (IQN is).

Spaces: as in DQN: Discrete actions, any observation, action masks and action features. Data: transitions, or sequences
with a memory.

Differences from the paper: the priority of a transition is its loss. The differences of DQN apply too (time limits,
importance weights, clipping).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrl.agent import About, Agent
from tfrl.algos.parts import value_based as value_based
from tfrl.losses import distributional
from tfrl.nn.body import ModelSettings
from tfrl.nn.q_network import QHeads, QNetworkSettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting
from tfrl.types import EnvSpec


@dataclasses.dataclass(frozen=True)
class Config(value_based.Settings, OptimizerSettings, QNetworkSettings, ModelSettings):
    """Settings of QR-DQN."""

    num_quantiles: int = setting(25, "number of quantiles per action", minimum=1)
    huber_delta: float = setting(
        1.0, "error at which the quantile Huber loss becomes linear (kappa)", above=0.0
    )


class Quantiles(tf.Module):
    """Quantiles of the return of each action.

    Attributes:
      tau: what each output is the quantile of, float32 [K].
      noise: what an exploring evaluation draws.
    """

    def __init__(self, config: Config, spec: EnvSpec, num_features: int):
        super().__init__()
        self.tau = distributional.midpoints(config.num_quantiles)
        self._heads = QHeads(config, spec, num_features, config.num_quantiles)
        self.noise = self._heads.noise

    def quantiles(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Features [B, F] of observations, leaves [B, ...] -> float32 [B, A, K]; `noise` as `QHeads` takes it."""
        return self._heads(features, obs, noise)

    def q_values(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Like `QHeads.q_values`: the means of the quantiles, float32 [B, A]; invalid actions have values too."""
        return tf.reduce_mean(self.quantiles(features, obs, noise), axis=2)

    def draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor] | None:
        """Like `QHeads.draw`: noise for a batch from a seed int32 [2], None without noisy layers."""
        return self._heads.draw(seed)


def loss(
    config: Config,
    policy: value_based.QPolicy,
    target: value_based.QPolicy,
    steps: value_based.Steps,
    seed: tf.Tensor,
) -> value_based.Loss:
    """Quantile regression of each step (Dabney et al. 2018a, algorithm 1); see `value_based.QLearner`.

    Args:
      config: settings.
      policy, target: online and target policy.
      steps: rows [n].
      seed: int32 [2], of the noise of noisy layers.

    Returns:
      `Loss`, float32 [n]; the magnitude is the loss itself.
    """
    model, noise = policy.model, value_based.draw(policy.model, seed)
    quantiles_t = target.model.quantiles(steps.target_features_t, steps.obs_t, noise.target)
    if config.double:
        selector_t = policy.values(steps.features_t, steps.obs_t, noise.selector)
    else:
        selector_t = target.masked(tf.reduce_mean(quantiles_t, axis=2), steps.obs_t)
    out = distributional.quantile_q_learning(
        model.quantiles(steps.features_tm1, steps.obs_tm1, noise.online),
        tf.constant(model.tau),
        steps.action_tm1,
        steps.reward_t,
        steps.discount_t,
        quantiles_t,
        selector_t,
        config.huber_delta,
        config.value_rescaling_epsilon,
    )
    parts = {
        "learner/td_error_abs_mean": tf.abs(out.td_error),
        "learner/q_mean": tf.reduce_mean(out.prediction, axis=1),
    }
    return value_based.Loss(out.loss, out.loss, parts)


def make(config: Config, spec: EnvSpec) -> Agent:
    """QR-DQN bound to an environment.

    Raises:
      SettingError: the action space is not Discrete, action features do not fit it, or sequences do not fit the replay.
    """
    return value_based.make(
        "qr_dqn", config, spec, lambda width: Quantiles(config, spec, width), loss
    )


ABOUT = About(
    title="QR-DQN",
    family="value_based",
    options="those of DQN",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:TargetPoint",
    small=dict(
        hidden_sizes=(8,), head_hidden_sizes=(6,), batch_size=8, updates_per_call=2, n_step=2,
        prioritized=True, dueling=True, target_period_updates=3, num_quantiles=5,
        noisy="independent",
    ),
)  # fmt: skip
