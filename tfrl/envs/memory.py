"""Small environments that cannot be solved without a memory; used as `--env=tfrl.envs.memory:Name`.

Attributes of each: `best_return`, and `chance_return`, the best mean return of a policy without a memory.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

spaces = gym.spaces


class RepeatFirst(gym.Env):
    """A cue is shown, then `delay` distractors, then a question; the action there must be the cue.

    Observation: Box float32 [num_cues + 2]: a symbol one-hot, 1 at the cue, 1 at the question. Distractors are random
      symbols; no symbol is shown with the question.
    Action: Discrete [num_cues]; it counts at the question only.
    Reward: at the question 1 for the cue, 0 for others; 0 before. Terminated there, after `delay` + 2 steps.

    The best return is 1, that of chance 1 / num_cues.

    Raises:
      ValueError: fewer than 2 cues, or a negative delay.
    """

    def __init__(self, num_cues: int = 4, delay: int = 10):
        if num_cues < 2 or delay < 0:
            raise ValueError(
                f"num_cues={num_cues}, delay={delay}: expected 2 cues or more, and no negative delay"
            )
        self.observation_space = spaces.Box(0.0, 1.0, (num_cues + 2,), np.float32)
        self.action_space = spaces.Discrete(num_cues)
        self.best_return, self.chance_return = 1.0, 1.0 / num_cues
        self._num_cues, self._delay = num_cues, delay
        self._t, self._cue = 0, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: a random cue."""
        super().reset(seed=seed)
        self._t, self._cue = 0, int(self.np_random.integers(self._num_cues))
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the action counts at the question only; what follows it is all zeros."""
        asked = self._t == self._delay + 1
        reward = float(asked and int(action) == self._cue)
        self._t += 1
        return self._obs(), reward, asked, False, {}

    def _obs(self) -> np.ndarray:
        obs = np.zeros(self._num_cues + 2, np.float32)
        if self._t == 0:
            obs[[self._cue, self._num_cues]] = 1.0
        elif self._t <= self._delay:
            obs[self.np_random.integers(self._num_cues)] = 1.0
        elif self._t == self._delay + 1:
            obs[self._num_cues + 1] = 1.0
        return obs  # all zero at the end


class RepeatPrevious(gym.Env):
    """A random symbol at every step; the action must be the symbol of `lag` steps ago.

    Observation: Box float32 [num_symbols], the symbol one-hot.
    Action: Discrete [num_symbols].
    Reward: from the step `lag` of an episode on, 1 for the symbol that was shown `lag` steps before and 0 for
      others; 0 in the first `lag` steps. Truncated after `length` steps.

    The best return is length - lag, that of chance (length - lag) / num_symbols; with lag 0 nothing need be remembered,
    and the best is what can be reached without a memory.

    Raises:
      ValueError: fewer than 2 symbols, or a lag outside 0 .. length - 1.
    """

    def __init__(self, num_symbols: int = 4, lag: int = 4, length: int = 40):
        if num_symbols < 2 or not 0 <= lag < length:
            raise ValueError(
                f"num_symbols={num_symbols}, lag={lag}, length={length}: "
                "expected 2 symbols or more and 0 <= lag < length"
            )
        self.observation_space = spaces.Box(0.0, 1.0, (num_symbols,), np.float32)
        self.action_space = spaces.Discrete(num_symbols)
        self.best_return = float(length - lag)
        self.chance_return = self.best_return / (num_symbols if lag else 1)
        self._lag, self._length = lag, length
        self._symbols: list[int] = []  # of this episode, the newest last

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: the first symbol."""
        super().reset(seed=seed)
        self._symbols = []
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the next symbol, and a reward from the step `lag` on."""
        t = len(self._symbols) - 1
        reward = float(t >= self._lag and int(action) == self._symbols[t - self._lag])
        return self._draw(), reward, False, t + 1 == self._length, {}

    def _draw(self) -> np.ndarray:
        num_symbols = int(self.action_space.n)
        self._symbols.append(int(self.np_random.integers(num_symbols)))
        return np.eye(num_symbols, dtype=np.float32)[self._symbols[-1]]


class RepeatNumber(gym.Env):
    """A random number at every step; the action must be the number of `lag` steps ago. `RepeatPrevious` with a Box.

    Observation: Box float32 [1], uniform in [-1, 1].
    Action: Box float32 [1] in [-1, 1].
    Reward: from the step `lag` of an episode on, 1 - 3 (action - number)^2 with the number that was shown `lag` steps
      before; 0 in the first `lag` steps. Truncated after `length` steps.

    The best return is length - lag. Without a memory the best action is 0, which returns 0 in the mean; with lag 0
    nothing need be remembered, and the best is what can be reached without a memory.

    Raises:
      ValueError: a lag outside 0 .. length - 1.
    """

    def __init__(self, lag: int = 2, length: int = 20):
        if not 0 <= lag < length:
            raise ValueError(f"lag={lag}, length={length}: expected 0 <= lag < length")
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.best_return = float(length - lag)
        self.chance_return = 0.0 if lag else self.best_return
        self._lag, self._length = lag, length
        self._numbers: list[np.ndarray] = []  # of this episode, the newest last

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: the first number."""
        super().reset(seed=seed)
        self._numbers = []
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the next number, and a reward from the step `lag` on."""
        t = len(self._numbers) - 1
        reward = 0.0
        if t >= self._lag:
            reward = 1.0 - 3.0 * float((action[0] - self._numbers[t - self._lag][0]) ** 2)
        return self._draw(), reward, False, t + 1 == self._length, {}

    def _draw(self) -> np.ndarray:
        self._numbers.append(self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32))
        return self._numbers[-1].copy()
