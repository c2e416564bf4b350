"""DQN: one network of action values, trained on replayed n-step transitions.

What it is: Q-learning with a target network (Mnih et al. 2015), and as options double Q-learning
(van Hasselt et al. 2016, eq. 4), dueling heads (Wang et al. 2016, eq. 9), prioritized replay
(Schaul et al. 2016), n-step returns (Sutton 1988, as in Hessel et al. 2018) and noisy layers
(Fortunato et al. 2018). What it is not: distributional (C51, QR-DQN and IQN are) or recurrent.

Spaces: Discrete actions; any observation (images through the Nature CNN, the rest flattened), a Dict observation with
`action_mask` restricts the actions that are chosen, explored and bootstrapped from, and with `action_features` Q(s, a)
compares the state with the features of each action. Data: transitions.

Differences from the papers: time limits bootstrap; importance weights are normalised by the largest of the batch;
the gradient is clipped by its global norm; RMSProp is replaced by Adam; noise is on the layers of the heads only.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrl.agent import Agent
from tfrl.algos import _value_based as value_based
from tfrl.config.settings import setting
from tfrl.losses import value
from tfrl.nn.q_network import ModelSettings, QNetwork
from tfrl.types import EnvSpec, Transition


@dataclasses.dataclass(frozen=True)
class Config(value_based.Settings, ModelSettings):
    """Settings of DQN; the defaults learn classic control."""

    loss: str = setting(
        "huber", "loss of the temporal-difference error", choices=("huber", "squared")
    )
    huber_delta: float = setting(1.0, "error at which the Huber loss turns linear", above=0.0)


def loss(
    config: Config,
    policy: value_based.QPolicy,
    target: value_based.QPolicy,
    batch: Transition,
    seed: tf.Tensor,
) -> value_based.Loss:
    """(Double) Q-learning of a batch; see `_value_based.QLearner`."""
    noise = value_based.draw(policy.model, seed)
    q_t = target.q_values(batch.obs_t, noise.target)
    selector_t = policy.q_values(batch.obs_t, noise.selector) if config.double else q_t
    q_tm1 = policy.q_values(batch.obs_tm1, noise.online)
    td = value.q_learning(
        q_tm1,
        batch.action_tm1,
        batch.reward_t,
        batch.discount_t,
        q_t,
        selector_t,
        config.huber_delta if config.loss == "huber" else None,
    )
    magnitude = tf.abs(td.td_error)
    parts = {
        "learner/td_error_abs_mean": magnitude,
        "learner/q_mean": value.select(q_tm1, batch.action_tm1),
    }
    return value_based.Loss(td.loss, magnitude, parts)


def make(config: Config, spec: EnvSpec) -> Agent:
    """DQN bound to an environment.

    Raises:
      SettingError: the action space is not Discrete.
    """
    return value_based.make("dqn", config, spec, lambda: QNetwork(config, spec), loss)
