"""Learners whose logits and values are written down, not learnt: one linear layer over one-hot observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.types import EnvSpec, Trajectory


def spec(num_obs: int, num_actions: int) -> EnvSpec:
    """Observations of `num_obs` numbers, `num_actions` actions."""
    box = gym.spaces.Box(0, 1, (num_obs,), np.float32)
    return EnvSpec("linear", box, gym.spaces.Discrete(num_actions))


def learner(
    module: Any, logits: Sequence[Sequence[float]], values: Sequence[float], **settings: Any
) -> Any:
    """A learner of an on-policy algorithm's module that has these at observations 0, 1, ... (one-hot).

    Args:
      logits: [num_obs, num_actions].
      values: [num_obs].
    """
    num_obs, num_actions = np.shape(logits)
    config = module.Config(hidden_sizes=(), **settings)
    made = module.make(config, spec(num_obs, num_actions)).make_learner()
    policies = [made.policy, *([made.target] if hasattr(made, "target") else [])]
    for policy in policies:
        put(policy, logits, values)
    return made


def put(policy: Any, logits: Sequence[Sequence[float]], values: Sequence[float]) -> None:
    """Writes logits and values into a policy that `learner` made."""
    for variable in policy.trainable_variables:
        shape = tuple(variable.shape)
        if shape == np.shape(logits):
            variable.assign(logits)
        elif shape == (len(values), 1):
            variable.assign(np.reshape(values, [-1, 1]))
        else:
            variable.assign(tf.zeros(shape))


def unroll(
    actions: Sequence[int], rewards: Sequence[float], log_prob: Any, discount: float
) -> Trajectory:
    """One environment that sees observations 0, 1, ... (one-hot) and is cut by nothing; leaves [T, 1, ...]."""
    length = len(actions)
    column = lambda x, dtype=tf.float32: tf.constant(np.reshape(x, [-1, 1]), dtype)
    return Trajectory(
        obs=tf.eye(length + 1)[:, None],
        action=column(actions, tf.int32),
        reward=column(rewards),
        discount=tf.fill([length, 1], discount),
        is_last=tf.zeros([length, 1], tf.bool),
        valid=tf.ones([length, 1], tf.bool),
        is_first=tf.zeros([length + 1, 1], tf.bool),
        discounted_return=tf.zeros([length, 1]),
        state=(),
        extras={"log_prob": column(log_prob)},
        version=tf.zeros([1], tf.int64),
        is_new=tf.ones([1], tf.bool),
        probability=tf.ones([1]),
    )
