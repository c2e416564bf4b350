"""QR-DQN: the distribution of the return by quantiles at fixed fractions.

What it is: quantile regression Q-learning (Dabney et al. 2018a, algorithm 1): `num_quantiles` outputs for each action,
the quantiles at the midpoints of as many equal parts of [0, 1], with the options of DQN: double, dueling per quantile,
n-step, prioritized replay, noisy layers. What it is not: tied to a range of returns (C51 is), nor to sampled fractions
(IQN).

Spaces: as DQN: Discrete actions, any observation, action masks and action features. Data: transitions.

Differences from the paper: priorities are the loss of each transition; those of DQN hold too (time limits, importance
weights, clipping).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrl.agent import Agent
from tfrl.algos import _value_based as value_based
from tfrl.config.settings import setting
from tfrl.losses import distributional
from tfrl.nn.q_network import ModelSettings, QNetwork
from tfrl.types import EnvSpec, Transition


@dataclasses.dataclass(frozen=True)
class Config(value_based.Settings, ModelSettings):
    """Settings of QR-DQN."""

    num_quantiles: int = setting(25, "quantiles of each action's return", minimum=1)
    huber_delta: float = setting(
        1.0, "error at which the quantile Huber loss turns linear (kappa)", above=0.0
    )


class Quantiles(tf.Module):
    """Quantiles of the return of each action.

    Attributes:
      tau: what each output is the quantile of, float32 [K].
      noise: what an exploring evaluation draws.
    """

    def __init__(self, config: Config, spec: EnvSpec):
        super().__init__()
        self.tau = distributional.midpoints(config.num_quantiles)
        self._network = QNetwork(config, spec, config.num_quantiles)
        self.noise = self._network.noise

    def quantiles(self, obs: Any, noise: Mapping[str, tf.Tensor] | None = None) -> tf.Tensor:
        """Observations, leaves [B, ...] -> [B, A, K]."""
        return self._network(obs, noise)

    def q_values(self, obs: Any, noise: Mapping[str, tf.Tensor] | None = None) -> tf.Tensor:
        return tf.reduce_mean(self.quantiles(obs, noise), axis=2)

    def draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor] | None:
        return self._network.draw(seed)


def loss(
    config: Config,
    policy: value_based.QPolicy,
    target: value_based.QPolicy,
    batch: Transition,
    seed: tf.Tensor,
) -> value_based.Loss:
    """Quantile regression of a batch; see `_value_based.QLearner`."""
    model, noise = policy.model, value_based.draw(policy.model, seed)
    quantiles_t = target.model.quantiles(batch.obs_t, noise.target)
    if config.double:
        selector_t = policy.q_values(batch.obs_t, noise.selector)
    else:
        selector_t = target.masked(tf.reduce_mean(quantiles_t, axis=2), batch.obs_t)
    out = distributional.quantile_q_learning(
        model.quantiles(batch.obs_tm1, noise.online),
        tf.constant(model.tau),
        batch.action_tm1,
        batch.reward_t,
        batch.discount_t,
        quantiles_t,
        selector_t,
        config.huber_delta,
    )
    parts = {
        "learner/td_error_abs_mean": tf.abs(out.td_error),
        "learner/q_mean": tf.reduce_mean(out.prediction, axis=1),
    }
    return value_based.Loss(out.loss, out.loss, parts)


def make(config: Config, spec: EnvSpec) -> Agent:
    """QR-DQN bound to an environment.

    Raises:
      SettingError: the action space is not Discrete.
    """
    return value_based.make("qr_dqn", config, spec, lambda: Quantiles(config, spec), loss)
