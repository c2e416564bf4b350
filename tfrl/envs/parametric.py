"""CartPole whose actions are described by features and move from slot to slot.

Used as `--env=tfrl.envs.parametric:ParametricCartPole`.
Only the features of an action show whether it pushes left, so a policy must compare them with the state.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from tfrl.types import ACTION_FEATURES, ACTION_MASK

spaces = gym.spaces


class ParametricCartPole(gym.Env):
    """CartPole with `num_slots` actions, of which few are valid and mean left or right; after RLlib's example of 2018.

    Left and right have a feature vector each, fixed by `features_seed`. At every step they are put into slots drawn at
    random; the other slots are invalid and their features zero. With `max_valid` above 2 the number of valid slots
    is drawn too, from 2 to `max_valid`; those beyond the first two repeat left or right.

    Observation: Dict of `observation` (float32 [4], CartPole's), `action_mask` (int8 [num_slots]) and `action_features`
      (float32 [num_slots, num_features]).
    Action: Discrete [num_slots], a slot. An invalid one raises ValueError.
    Reward: 1 at every step. Terminated when the pole falls, truncated after `length` steps, the best return.

    Raises:
      ValueError: `max_valid` outside 2 .. num_slots.
    """

    metadata = CartPoleEnv.metadata

    def __init__(
        self,
        num_slots: int = 10,
        max_valid: int = 2,
        num_features: int = 2,
        features_seed: int = 0,
        length: int = 200,
        render_mode: str | None = None,
    ):
        if not 2 <= max_valid <= num_slots:
            raise ValueError(
                f"max_valid={max_valid}, num_slots={num_slots}: expected 2 <= max_valid <= num_slots"
            )
        self._cartpole, self.render_mode = CartPoleEnv(render_mode=render_mode), render_mode
        self._features = np.random.default_rng(features_seed).normal(size=(2, num_features))
        self._max_valid, self._length, self._t = max_valid, length, 0
        self._pushes = np.full(num_slots, -1)  # of each slot: 0 left, 1 right, -1 nothing
        self.observation_space = spaces.Dict(
            {
                "observation": self._cartpole.observation_space,
                ACTION_MASK: spaces.MultiBinary(num_slots),
                ACTION_FEATURES: spaces.Box(-np.inf, np.inf, (num_slots, num_features), np.float32),
            }
        )
        self.action_space = spaces.Discrete(num_slots)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: CartPole's, with actions in new slots."""
        super().reset(seed=seed)
        self._t = 0
        obs, info = self._cartpole.reset(seed=seed, options=options)
        return self._draw(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: CartPole's step with shuffled actions; ValueError for an invalid one."""
        push = int(self._pushes[int(action)])
        if push < 0:
            valid = np.flatnonzero(self._pushes >= 0).tolist()
            raise ValueError(f"action {int(action)} is invalid, the valid ones are {valid}")
        obs, reward, terminated, _, info = self._cartpole.step(push)
        self._t += 1
        return self._draw(obs), float(reward), terminated, self._t >= self._length, info

    def render(self) -> Any:
        """Implements `gymnasium.Env.render`: CartPole's picture."""
        return self._cartpole.render()

    def close(self) -> None:
        """Implements `gymnasium.Env.close`."""
        self._cartpole.close()

    def _draw(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        rng, num_slots = self.np_random, len(self._pushes)
        count = int(rng.integers(2, self._max_valid + 1))
        slots = rng.choice(num_slots, count, replace=False)
        self._pushes[:] = -1
        self._pushes[slots[:2]] = (0, 1)
        self._pushes[slots[2:]] = rng.integers(2, size=count - 2)
        valid = self._pushes >= 0
        features = np.zeros(self.observation_space[ACTION_FEATURES].shape, np.float32)
        features[valid] = self._features[self._pushes[valid]]
        return {"observation": obs, ACTION_MASK: valid.astype(np.int8), ACTION_FEATURES: features}
