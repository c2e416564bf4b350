"""A custom environment and a custom network for `train_and_load.py`.

They are in a module because a run stores their names. Every process of the run, a resume and a later
`tfrl.load` import them again.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.types import EnvSpec


class Corridor(gym.Env):
    """Walk to the right end: observation float32 [1] = place in [0, 1], actions 0 left and 1 right.

    Every step costs 1, the right end terminates. The best return is 1 - `length`.
    """

    def __init__(self, length: int = 8):
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self._length, self._place = length, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._place = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self._place = max(0, self._place + (1 if action == 1 else -1))
        return self._obs(), -1.0, self._place == self._length - 1, False, {}

    def _obs(self) -> np.ndarray:
        return np.array([self._place / (self._length - 1)], np.float32)


def make_env(length: int = 8) -> gym.Env:
    """Returns an environment, for `env=`; `env_kwargs` are the arguments."""
    return Corridor(length)


def network(spec: EnvSpec) -> tf.keras.Model:
    """Returns a Keras model from the observation [B, 1] to features [B, F], for `network=`."""
    del spec  # has the spaces, for networks that depend on them
    return tf.keras.Sequential(
        [
            tf.keras.layers.Dense(32, "tanh"),
            tf.keras.layers.LayerNormalization(),
            tf.keras.layers.Dense(32, "tanh"),
        ]
    )
