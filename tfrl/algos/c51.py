"""C51: the distribution of the return on fixed atoms; Rainbow with all options on.

What it is: categorical distributional Q-learning (Bellemare et al. 2017, algorithm 1) with the options of DQN: double,
dueling per atom, n-step, prioritized replay, noisy layers. All of them together are Rainbow (Hessel et al. 2018):
`configs/c51/rainbow_cartpole.flags`. What it is not: free of a range; returns beyond `v_min` and `v_max` count as these
limits.

Spaces: as in DQN: Discrete actions, any observation, action masks and action features. Data: transitions, or sequences
with a memory.

Differences from the papers: priorities are KL(target || prediction), as in Rainbow; dueling heads average logits, not
probabilities, over actions. The differences of DQN apply too (time limits, importance weights, clipping, Adam).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrl.agent import About, Agent
from tfrl.algos.parts import value_based as value_based
from tfrl.errors import SettingError
from tfrl.losses import distributional
from tfrl.nn.body import ModelSettings
from tfrl.nn.q_network import QHeads, QNetworkSettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting
from tfrl.types import EnvSpec


@dataclasses.dataclass(frozen=True)
class Config(value_based.Settings, OptimizerSettings, QNetworkSettings, ModelSettings):
    """Settings of C51."""

    num_atoms: int = setting(101, "number of atoms of the return distribution", minimum=2)
    v_min: float = setting(-100.0, "return at the first atom", unit="reward")
    v_max: float = setting(100.0, "return at the last atom", unit="reward")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.v_min >= self.v_max:
            raise SettingError(
                f"v_min={self.v_min} with v_max={self.v_max}: expected v_min below v_max"
            )


class Distributions(tf.Module):
    """Distributions of the return of each action.

    Attributes:
      atoms: float32 [K].
      noise: what an exploring evaluation draws.
    """

    def __init__(self, config: Config, spec: EnvSpec, num_features: int):
        super().__init__()
        self.atoms = distributional.support(config.v_min, config.v_max, config.num_atoms)
        self._heads = QHeads(config, spec, num_features, config.num_atoms)
        self.noise = self._heads.noise

    def logits(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Features [B, F] of observations, leaves [B, ...] -> float32 [B, A, K]; `noise` as `QHeads` takes it."""
        return self._heads(features, obs, noise)

    def mean(self, logits: tf.Tensor) -> tf.Tensor:
        """Logits float32 [B, A, K] -> their means, float32 [B, A]."""
        return tf.reduce_sum(tf.nn.softmax(logits) * self.atoms, axis=2)

    def q_values(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Like `QHeads.q_values`: the means of the distributions, float32 [B, A]; invalid actions have values too."""
        return self.mean(self.logits(features, obs, noise))

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
    """Cross entropy with the projected target of each step (Bellemare et al. 2017, algorithm 1); see
    `value_based.QLearner`.

    Args:
      config: settings.
      policy, target: online and target policy.
      steps: rows [n].
      seed: int32 [2], of the noise of noisy layers.

    Returns:
      `Loss`, float32 [n]; the magnitude is KL(target || prediction).
    """
    model, noise = policy.model, value_based.draw(policy.model, seed)
    logits_t = target.model.logits(steps.target_features_t, steps.obs_t, noise.target)
    if config.double:
        selector_t = policy.values(steps.features_t, steps.obs_t, noise.selector)
    else:
        selector_t = target.masked(model.mean(logits_t), steps.obs_t)
    out = distributional.categorical_q_learning(
        model.logits(steps.features_tm1, steps.obs_tm1, noise.online),
        steps.action_tm1,
        steps.reward_t,
        steps.discount_t,
        logits_t,
        selector_t,
        model.atoms,
        config.value_rescaling_epsilon,
    )
    magnitude = tf.maximum(out.kl, 0.0)  # rounding may leave it a little below
    parts = {
        "learner/td_error_abs_mean": tf.abs(out.td_error),
        "learner/q_mean": tf.reduce_sum(out.prediction * model.atoms, axis=1),
        "learner/kl_target": magnitude,
        "learner/edge_mass": out.target[:, 0] + out.target[:, -1],
    }
    return value_based.Loss(out.loss, magnitude, parts)


def make(config: Config, spec: EnvSpec) -> Agent:
    """C51 bound to an environment.

    Raises:
      SettingError: the action space is not Discrete, action features do not fit it, or sequences do not fit the replay.
    """
    return value_based.make(
        "c51", config, spec, lambda width: Distributions(config, spec, width), loss
    )


ABOUT = About(
    title="C51",
    family="value_based",
    options="those of DQN; all together are Rainbow",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:TargetPoint",
    small=dict(
        hidden_sizes=(8,), head_hidden_sizes=(6,), batch_size=8, updates_per_call=2, n_step=2,
        prioritized=True, dueling=True, target_period_updates=3, num_atoms=11, v_min=-5.0,
        v_max=5.0, noisy="factorised",
    ),
)  # fmt: skip
