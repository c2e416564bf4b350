"""Tiny environments for tests and learning tests; each is used as `--env=tfrl.envs.fakes:Name`."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np

spaces = gym.spaces


class TruncatingChain(gym.Env):
    """Reward 1 at every step, truncated after `length` steps, never terminated: the value is 1 / (1
    - discount).

    Observation: Box float32 [1], constant 1, so that nothing but correct bootstrapping gives that
      value.
    """

    def __init__(self, length: int = 10, num_actions: int = 2):
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(num_actions)
        self._length, self._t = length, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._t = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self._t += 1
        return np.ones(1, np.float32), 1.0, False, self._t >= self._length, {}


class Counter(gym.Env):
    """Observations that name their place: Box float32 [2] = (episode number from 0, step within
    it).

    The reward of the step to place (e, t) is e + t / 100. Episode e has `lengths[e % len(lengths)]`
    steps; even ones terminate, odd ones are truncated. The last action is in `info["action"]`.
    """

    def __init__(self, lengths: tuple[int, ...] = (3, 2)):
        self.observation_space = spaces.Box(0.0, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._lengths, self._episode, self._t = tuple(lengths), -1, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._episode, self._t = (0 if seed is not None else self._episode + 1), 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self._t += 1
        ends = self._t >= self._lengths[self._episode % len(self._lengths)]
        even = self._episode % 2 == 0
        reward = self._episode + self._t / 100
        return self._obs(), reward, ends and even, ends and not even, {"action": action}

    def _obs(self) -> np.ndarray:
        return np.array([self._episode, self._t], np.float32)


class IdentityGame(gym.Env):
    """The observation, one-hot float32 [num_actions], names the action that pays 1; others pay 0.

    Truncated after `length` steps; the best return is `length`.
    """

    def __init__(self, num_actions: int = 4, length: int = 20):
        self.observation_space = spaces.Box(0.0, 1.0, (num_actions,), np.float32)
        self.action_space = spaces.Discrete(num_actions)
        self._length, self._t, self._target = length, 0, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        reward = float(int(action) == self._target)
        self._t += 1
        return self._draw(), reward, False, self._t >= self._length, {}

    def _draw(self) -> np.ndarray:
        self._target = int(self.np_random.integers(self.action_space.n))
        return np.eye(self.action_space.n, dtype=np.float32)[self._target]


class MaskedBandit(gym.Env):
    """Action a pays a / num_actions if it is valid; which are valid changes at every step.

    Observation: Dict of `observation` (float32 [num_actions], the mask again as a feature) and
      `action_mask`
    (int8 [num_actions]). Taking an invalid action raises ValueError. Truncated after `length`
    steps.
    """

    def __init__(self, num_actions: int = 5, length: int = 20):
        self.observation_space = spaces.Dict(
            observation=spaces.Box(0.0, 1.0, (num_actions,), np.float32),
            action_mask=spaces.MultiBinary(num_actions),
        )
        self.action_space = spaces.Discrete(num_actions)
        self._length, self._t, self._mask = length, 0, np.ones(num_actions, np.int8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if not self._mask[int(action)]:
            raise ValueError(f"action {int(action)} is invalid, the mask is {self._mask.tolist()}")
        reward = int(action) / int(self.action_space.n)
        self._t += 1
        return self._draw(), reward, False, self._t >= self._length, {}

    def _draw(self) -> dict[str, np.ndarray]:
        self._mask = self.np_random.integers(0, 2, self.action_space.n).astype(np.int8)
        self._mask[self.np_random.integers(self.action_space.n)] = 1
        return {"observation": self._mask.astype(np.float32), "action_mask": self._mask.copy()}


class ImageGame(gym.Env):
    """uint8 [size, size, 1] frames; the lit half (left, right) names the action that pays 1.

    Terminated after `length` steps; the best return is `length`.
    """

    def __init__(self, size: int = 16, length: int = 20):
        self.observation_space = spaces.Box(0, 255, (size, size, 1), np.uint8)
        self.action_space = spaces.Discrete(2)
        self._size, self._length, self._t, self._target = size, length, 0, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        reward = float(int(action) == self._target)
        self._t += 1
        return self._draw(), reward, self._t >= self._length, False, {}

    def _draw(self) -> np.ndarray:
        self._target = int(self.np_random.integers(2))
        frame = np.zeros((self._size, self._size, 1), np.uint8)
        half = self._size // 2
        frame[:, half * self._target : half * (self._target + 1)] = 255
        return frame


class TargetPoint(gym.Env):
    """Box actions: reward -|action - target|^2 summed over `size` axes, best return 0.

    Observation: the target, float32 [size] in [-1, 1]; actions lie in [-limit, limit]. Truncated
      after `length`
    steps. `info["action"]` is what arrived, to see clipping.
    """

    def __init__(self, size: int = 2, length: int = 20, limit: float = 2.0):
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = spaces.Box(-limit, limit, (size,), np.float32)
        self._length, self._t, self._target = length, 0, np.zeros(size, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if not self.action_space.contains(action):
            raise ValueError(f"action {action} is outside {self.action_space}")
        reward = -float(np.square(action - self._target).sum())
        self._t += 1
        return self._draw(), reward, False, self._t >= self._length, {"action": action}

    def _draw(self) -> np.ndarray:
        self._target = self.np_random.uniform(-1, 1, self._target.shape).astype(np.float32)
        return self._target.copy()


class IntegerPoint(TargetPoint):
    """A Box of integers as action space, which no algorithm here serves."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-2, 2, (2,), np.int32)


class CrashingEnv(TruncatingChain):
    """A `TruncatingChain` that raises RuntimeError at its `crash_after`-th step, counted over all
    episodes."""

    def __init__(self, crash_after: int = 50, length: int = 10):
        super().__init__(length)
        self._left = crash_after

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self._left -= 1
        if self._left <= 0:
            raise RuntimeError("this environment crashes on purpose")
        return super().step(action)


class FreezingEnv(TruncatingChain):
    """A `TruncatingChain` that never returns from its `freeze_after`-th step, counted over all
    episodes."""

    def __init__(self, freeze_after: int = 50, length: int = 10):
        super().__init__(length)
        self._left = freeze_after

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self._left -= 1
        while self._left <= 0:
            time.sleep(3600)
        return super().step(action)
