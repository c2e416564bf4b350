"""Vector classes of others whose single rows can begin an episode of a given seed, for `VectorEnv.restart`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

# (vector, {row: seed}) -> {row: first observation}.
Restart = Callable[[Any, Mapping[int, int]], Mapping[int, np.ndarray]]


def of(env: gym.vector.VectorEnv) -> Restart | None:
    """The function for a vector; None where its class has no such way."""
    kind = type(env.unwrapped)
    return _KNOWN.get(f"{kind.__module__}:{kind.__qualname__}")


def _cartpole(env: Any, seeds: Mapping[int, int]) -> dict[int, np.ndarray]:
    """gymnasium's CartPole keeps its state in the rows of arrays."""
    env = env.unwrapped
    for row, seed in seeds.items():
        env.state[:, row] = np.random.default_rng(seed).uniform(env.low, env.high, 4)
        env.steps[row], env.prev_done[row] = 0, False
    return {row: env.state[:, row].astype(np.float32) for row in seeds}


_KNOWN: Mapping[str, Restart] = {
    "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv": _cartpole,
}
