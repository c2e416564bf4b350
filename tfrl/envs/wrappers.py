"""The few gymnasium wrappers that environments of others need beyond gymnasium's own."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class FireReset(gym.Wrapper):
    """Takes `action` once after every reset: Atari games such as Breakout wait for FIRE before they begin."""

    def __init__(self, env: gym.Env, action: int):
        super().__init__(env)
        self._action = action

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: the observation after `action`, or a reset if it ended the episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        obs, _, terminated, truncated, step_info = self.env.step(self._action)
        if terminated or truncated:
            return self.env.reset(options=options)
        return obs, {**info, **step_info}


class EndsByTime(gym.Wrapper):
    """Reports the end of an episode as a truncation: only the clock ends an episode of MinAtar's Freeway, but the
    environment reports `terminated`."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Implements `gymnasium.Env.step`; `terminated` is always False, `truncated` is True at any end."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, False, terminated or truncated, info


class DmDiscount(gym.Wrapper):
    """Gives the discount of dm_env's time steps, which shimmy keeps in the info, as the environment's own."""

    step_discount = True

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Implements `gymnasium.Env.step`."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "discount": info["timestep.discount"]}


class DrawsPixels(gym.Wrapper):
    """Renders uint8 pixels where the environment gives colours in [0, 1] of a small grid, as MinAtar does.

    Args:
      side: pixels along each side of a cell.
    """

    def __init__(self, env: gym.Env, side: int = 16):
        super().__init__(env)
        self._side = side

    def render(self) -> Any:
        """Implements `gymnasium.Env.render`: floats [H, W, 3] in [0, 1] become uint8 [side H, side W, 3], anything else
        passes.
        """
        frame = self.env.render()
        if not isinstance(frame, np.ndarray) or frame.dtype.kind != "f":
            return frame
        pixels = np.round(frame * 255.0).astype(np.uint8)
        return pixels.repeat(self._side, axis=0).repeat(self._side, axis=1)


class ChannelLast(gym.ObservationWrapper):
    """Moves the first axis of a Box observation to the end, as a view."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        space = env.observation_space
        self.observation_space = gym.spaces.Box(
            np.moveaxis(space.low, 0, -1), np.moveaxis(space.high, 0, -1), dtype=space.dtype
        )

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """[C, H, W] -> [H, W, C], of any dtype."""
        return np.moveaxis(observation, 0, -1)
