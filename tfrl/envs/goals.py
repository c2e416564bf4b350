"""Small environments with goals and rare rewards, for hindsight; used as `--env=tfrl.envs.goals:Name`.

Both follow the interface of gymnasium-robotics' GoalEnv: Dict observations with `observation`, `desired_goal` and
`achieved_goal`, and `compute_reward`, here for one goal or for arrays with a row for each. `info["is_success"]` is
whether the goal is achieved in the present state.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

spaces = gym.spaces
PIXELS = 200  # height and width of a picture
GREY, BLUE, RED = (232, 232, 232), (60, 100, 200), (210, 60, 50)


class BitFlip(gym.Env):
    """An action flips one of n bits; the bits must become those of the goal (Andrychowicz et al. 2017, section 3.1).

    Bits and goal are random and differ. There are 2^n states, so that random actions practically never reach the goal
    for n above 15 or so.

    Observation: Dict of `observation` and `achieved_goal`, both the bits, and `desired_goal`: Box float32 [n] of 0, 1.
    Action: Discrete [n], the bit to flip.
    Reward: 0 where the goal is achieved, -1 elsewhere. Terminated there, truncated after n steps, in which every goal
      can be reached. The best return is 1 less than the number of bits that differ, negated.

    Raises:
      ValueError: fewer than 2 bits.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, num_bits: int = 15, render_mode: str | None = None):
        if num_bits < 2:
            raise ValueError(f"num_bits={num_bits}: expected 2 or more")
        self.render_mode = render_mode
        bits = spaces.Box(0.0, 1.0, (num_bits,), np.float32)
        self.observation_space = spaces.Dict(
            {"observation": bits, "desired_goal": bits, "achieved_goal": bits}
        )
        self.action_space = spaces.Discrete(num_bits)
        self._bits, self._goal = np.zeros((2, num_bits), np.float32)
        self._t = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: random bits, and a random goal that differs."""
        super().reset(seed=seed)
        self._t = 0
        self._bits[:] = self._goal[:] = 0.0
        while np.array_equal(self._bits, self._goal):
            self._bits[:], self._goal[:] = self.np_random.integers(2, size=(2, len(self._bits)))
        return self._obs(), {"is_success": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: flips a bit."""
        self._bits[action] = 1.0 - self._bits[action]
        self._t += 1
        success = bool(self.compute_terminated(self._bits, self._goal, {}))
        truncated = self._t >= len(self._bits)
        return self._obs(), float(success) - 1.0, success, truncated, {"is_success": success}

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> Any:
        """Rewards of steps that achieved goals [..., n] where others were desired: 0 for the same, else -1."""
        return self.compute_terminated(achieved_goal, desired_goal, info) - np.float32(1.0)

    def compute_terminated(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any
    ) -> Any:
        """Whether the goal is achieved, for goals [..., n]."""
        del info
        return (achieved_goal == desired_goal).all(-1)

    def render(self) -> np.ndarray:
        """Implements `gymnasium.Env.render`: a bar for each bit, above that of the goal."""
        picture = np.full((PIXELS, PIXELS, 3), 255, np.uint8)
        edges = np.linspace(0, PIXELS, len(self._bits) + 1).astype(int)
        for left, right, bit, goal in zip(edges, edges[1:], self._bits, self._goal):
            picture[: PIXELS // 2 - 4, left : right - 1] = BLUE if bit else GREY
            picture[PIXELS // 2 + 4 :, left : right - 1] = RED if goal else GREY
        return picture

    def _obs(self) -> dict[str, np.ndarray]:
        return {
            "observation": self._bits.copy(),
            "desired_goal": self._goal.copy(),
            "achieved_goal": self._bits.copy(),
        }


class PointGoal(gym.Env):
    """A point in the plane moves to a goal that lies far from its start.

    The point starts at the origin, the goal lies in a random direction at a distance from 1 to 1.5. A step moves each
    coordinate by `speed` at most, within [-2, 2], so that the goal is 20 to 30 steps away on an axis; steps of random
    actions spread by about 0.2 in all.

    Observation: Dict of `observation` and `achieved_goal`, both the place, and `desired_goal`: Box float32 [2].
    Action: Box float32 [2] in [-1, 1], in units of `speed`.
    Reward: 0 within `radius` of the goal, -1 elsewhere. Never terminated, truncated after `length` steps.

    Raises:
      ValueError: a number that is not positive.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        radius: float = 0.05,
        speed: float = 0.05,
        length: int = 50,
        render_mode: str | None = None,
    ):
        if min(radius, speed, length) <= 0:
            raise ValueError(f"radius={radius}, speed={speed}, length={length}: expected positive")
        self.render_mode = render_mode
        place = spaces.Box(-2.0, 2.0, (2,), np.float32)
        self.observation_space = spaces.Dict(
            {"observation": place, "desired_goal": place, "achieved_goal": place}
        )
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._radius, self._speed, self._length = radius, speed, length
        self._place, self._goal = np.zeros((2, 2), np.float32)
        self._t = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: the origin, and a random goal."""
        super().reset(seed=seed)
        self._t = 0
        angle, distance = self.np_random.uniform([0.0, 1.0], [2.0 * np.pi, 1.5])
        self._place[:] = 0.0
        self._goal[:] = distance * np.cos(angle), distance * np.sin(angle)
        return self._obs(), {"is_success": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: moves the point."""
        self._place[:] = np.clip(self._place + self._speed * np.clip(action, -1.0, 1.0), -2.0, 2.0)
        self._t += 1
        reward = float(self.compute_reward(self._place, self._goal, {}))
        return self._obs(), reward, False, self._t >= self._length, {"is_success": reward == 0.0}

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> Any:
        """Rewards of steps to places [..., 2] for goals [..., 2]: 0 within the radius, else -1."""
        del info
        far = np.linalg.norm(achieved_goal - desired_goal, axis=-1) > self._radius
        return -far.astype(np.float32)

    def render(self) -> np.ndarray:
        """Implements `gymnasium.Env.render`: the goal as a disc of its radius, the point as a square."""
        picture = np.full((PIXELS, PIXELS, 3), 255, np.uint8)
        axis = np.linspace(-2.0, 2.0, PIXELS, dtype=np.float32)
        grid = np.stack(np.meshgrid(axis, -axis), -1)  # [height, width, (x, y)], y upwards
        picture[np.linalg.norm(grid - self._goal, axis=-1) <= max(self._radius, 0.03)] = RED
        picture[np.abs(grid - self._place).max(-1) <= 0.03] = BLUE
        return picture

    def _obs(self) -> dict[str, np.ndarray]:
        return {
            "observation": self._place.copy(),
            "desired_goal": self._goal.copy(),
            "achieved_goal": self._place.copy(),
        }
