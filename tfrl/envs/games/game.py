"""Games of a team, played for B rows at once in NumPy, and the two forms in which gymnasium knows them.

The observation of a row is that of every team (docs/teams.md): `observation` float32 [N, D], `action_mask` [N * A],
agent after agent, `alive` [N], and `state` [S]. The action is MultiDiscrete, one number for each agent. The info of a
step has the agents' rewards, `reward_parts` [N].
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from tfrl.config import objects

spaces = gym.spaces


class Game(abc.ABC):
    """Rules of a game and the state of B rows of it; a subclass keeps its state in arrays [B, ...].

    Attributes:
      num_envs, num_agents, num_actions: B, N, A.
      reward_parts: names of the agents.
      observation_space, action_space: of one row.
      goals: what the game suggests for hierarchies, see `EnvSpec`; None for nothing.
    """

    goals: Mapping[str, Any] | None = None

    def __init__(
        self,
        num_envs: int,
        num_agents: int,
        num_actions: int,
        observation_size: int,
        state_size: int,
        low: float = 0.0,
    ):
        """Makes the spaces.

        Args:
          num_envs: B.
          num_agents, num_actions: N, A.
          observation_size, state_size: D, S.
          low: least number of an observation and of the state; the largest is 1.
        """
        self.num_envs, self.num_agents, self.num_actions = num_envs, num_agents, num_actions
        self.reward_parts = tuple(f"agent_{i}" for i in range(num_agents))
        self.observation_space = spaces.Dict(
            observation=spaces.Box(low, 1.0, (num_agents, observation_size), np.float32),
            action_mask=spaces.MultiBinary(num_agents * num_actions),
            alive=spaces.MultiBinary(num_agents),
            state=spaces.Box(low, 1.0, (state_size,), np.float32),
        )
        self.action_space = spaces.MultiDiscrete([num_actions] * num_agents)

    @abc.abstractmethod
    def restart(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        """Begins an episode in some rows.

        Args:
          rows: int [k], their indices.
          rng: generator of all rows.
        """

    @abc.abstractmethod
    def play(self, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One step of all rows; the result of a row that is to be restarted is not used.

        Args:
          action: int [B, N], available ones.
          rng: generator of all rows.

        Returns:
          Rewards of the agents float32 [B, N], and bool [B], the rows that terminated.
        """

    @abc.abstractmethod
    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """Observations float32 [B, N, D] and states float32 [B, S], new arrays."""

    def available(self) -> np.ndarray:
        """The actions that each agent may take, int8 [B, N, A], a new array; all, unless a subclass says otherwise."""
        return np.ones((self.num_envs, self.num_agents, self.num_actions), np.int8)

    @abc.abstractmethod
    def draw(self, row: int) -> np.ndarray:
        """The picture of a row, uint8 [height, width, 3]."""


class _Rows:
    """B rows of a game with the masks of their last observations."""

    def __init__(self, rules: str, num_envs: int, kwargs: dict[str, Any]):
        self.game: Game = objects.resolve(rules, "env")(num_envs, **kwargs)
        self._mask = np.ones(0, np.int8)  # of the last observation [B, N, A]

    def reset(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Begins an episode in every row and gives the first observations."""
        self.game.restart(np.arange(self.game.num_envs), rng)
        return self._observe(np.zeros(self.game.num_envs, np.bool_))

    def step(
        self, action: np.ndarray, ended: np.ndarray, rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """One step.

        Args:
          action: int [B, N].
          ended: bool [B], rows that begin an episode instead.
          rng: generator of all rows.

        Returns:
          Observations, the agents' rewards float32 [B, N], and bool [B], the rows that terminated.

        Raises:
          ValueError: an action that is not available.
        """
        action = np.where(ended[:, None], 0, action)
        taken = np.take_along_axis(self._mask, action[..., None], axis=2)[..., 0]
        if not taken.all():
            row, agent = (int(i) for i in np.argwhere(taken == 0)[0])
            raise ValueError(
                f"action {action[row, agent]} of agent {agent} in row {row} is not available"
            )
        rewards, terminated = self.game.play(action, rng)
        if ended.any():
            self.game.restart(np.flatnonzero(ended), rng)
            rewards[ended], terminated = 0.0, terminated & ~ended
        return self._observe(terminated), rewards, terminated

    def _observe(self, terminated: np.ndarray) -> dict[str, np.ndarray]:
        """Observations of all rows; the last one of a row that terminated shows how it ended, with action 0 alone."""
        seen, state = self.game.observe()
        mask = self.game.available()
        mask[terminated] = 0
        mask[terminated, :, 0] = 1
        alive = np.ones(mask.shape[:2], np.int8)
        self._mask = mask
        flat = mask.reshape(len(mask), -1).copy()
        return {"observation": seen, "action_mask": flat, "alive": alive, "state": state}


class GameEnv(gym.Env):
    """One row of a game."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 6}

    def __init__(self, rules: str, render_mode: str | None = None, **kwargs: Any):
        """Makes the game.

        Args:
          rules: 'package.module:Class', a subclass of `Game`.
          render_mode: None or 'rgb_array'.
          kwargs: for the class.
        """
        self.render_mode = render_mode
        self._rows = _Rows(rules, 1, kwargs)
        self._game = self._rows.game
        self.observation_space = self._game.observation_space
        self.action_space = self._game.action_space
        self.num_agents, self.reward_parts = self._game.num_agents, self._game.reward_parts
        self.goals = self._game.goals

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        return self._row(self._rows.reset(self.np_random)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the reward is the sum of the agents' rewards."""
        goes_on = np.zeros(1, np.bool_)
        obs, rewards, terminated = self._rows.step(
            np.asarray(action)[None], goes_on, self.np_random
        )
        info = {"reward_parts": rewards[0].copy()}
        return self._row(obs), float(rewards[0].sum()), bool(terminated[0]), False, info

    def render(self) -> np.ndarray | None:
        """Implements `gymnasium.Env.render`."""
        return self._game.draw(0) if self.render_mode == "rgb_array" else None

    @staticmethod
    def _row(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: array[0] for key, array in obs.items()}


class GameVector(gym.vector.VectorEnv):
    """B rows of a game; a row whose episode ended begins the next one in the step after (NEXT_STEP)."""

    metadata = {"render_modes": [], "autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
    # A single environment is one row of a game, which takes nearly as long as several.
    pays_from_num_envs = 2

    def __init__(
        self, num_envs: int, rules: str, max_episode_steps: int | None = None, **kwargs: Any
    ):
        """Makes the game.

        Args:
          num_envs: B.
          rules, kwargs: as for `GameEnv`.
          max_episode_steps: steps after which an episode is truncated.
        """
        self.num_envs = num_envs
        self._rows = _Rows(rules, num_envs, kwargs)
        game = self._rows.game
        self.single_observation_space = game.observation_space
        self.single_action_space = game.action_space
        self.observation_space = gym.vector.utils.batch_space(game.observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(game.action_space, num_envs)
        self.num_agents, self.reward_parts = game.num_agents, game.reward_parts
        self._limit = max_episode_steps or -1
        self._ended = np.zeros(num_envs, np.bool_)
        self._lengths = np.zeros(num_envs, np.int64)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.vector.VectorEnv.reset`; one generator, from one seed, serves all rows."""
        super().reset(seed=seed)
        self._ended[:], self._lengths[:] = False, 0
        return self._rows.reset(self.np_random), {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Implements `gymnasium.vector.VectorEnv.step`."""
        obs, rewards, terminated = self._rows.step(np.asarray(actions), self._ended, self.np_random)
        self._lengths = np.where(self._ended, 0, self._lengths + 1)
        truncated = (self._lengths == self._limit) & ~terminated
        self._ended = terminated | truncated
        info = {"reward_parts": rewards, "_reward_parts": np.ones(self.num_envs, np.bool_)}
        return obs, rewards.sum(1, dtype=np.float64), terminated, truncated, info


def one_hot(index: np.ndarray, size: int) -> np.ndarray:
    """float32 [..., size]."""
    return np.eye(size, dtype=np.float32)[index]


def picture(cells: np.ndarray, side: int = 16) -> np.ndarray:
    """Squares with a thin grid between them.

    Args:
      cells: uint8 [height, width, 3], a colour each.
      side: pixels of a square.

    Returns:
      uint8 [height * side, width * side, 3].
    """
    pixels = np.repeat(np.repeat(cells, side, axis=0), side, axis=1)
    pixels[::side] = pixels[:, ::side] = 60
    return pixels


# Colours of agents, by their number modulo the length.
AGENT_COLOURS = np.array(
    [(220, 80, 60), (60, 110, 220), (60, 170, 90), (230, 180, 40), (150, 80, 190), (80, 190, 200)],
    np.uint8,
)
