"""A cooperative grid: loads that no agent lifts alone."""

from __future__ import annotations

import numpy as np

from tfrl.envs.games.game import AGENT_COLOURS, Game, picture

# Actions 0 to 5: stay, up, down, left, right, lift.
MOVES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)])
LIFT = 5


class Loads(Game):
    """Agents on a square grid lift loads; a load is gone when `lifters` agents next to it lift in the same step.

    Agents and loads begin on different random cells. Agents move to one of the four cells around them, never out of
    the grid and never onto a load; several may stand on one cell. An agent lifts all loads on the four cells around
    it. Each agent that took part in lifting a load receives 1 / (loads * agents that took part), so that the team's
    best return is 1; nobody receives anything for lifting alone. Terminates without loads, truncated after 30 steps.

    Available are the moves that lead to another cell, staying, and lifting beside a load. Observation [N, D], numbers
    in [-1, 1]: the agent's own position, those of the other agents and of the loads relative to it, and whether each
    load is still there; a load that is gone has zeros. State [S]: all positions, and whether each load is there.
    """

    def __init__(
        self,
        num_envs: int,
        size: int = 5,
        num_agents: int = 2,
        num_loads: int = 2,
        lifters: int = 2,
    ):
        """Lays out the numbers of the observation.

        Args:
          num_envs: B.
          size: cells of a side.
          num_agents, num_loads: N, L.
          lifters: agents that a load needs.

        Raises:
          ValueError: no room for all, or a load that needs more agents than there are.
        """
        if not 1 <= lifters <= num_agents or num_loads < 1 or num_agents < 2:
            raise ValueError(
                f"num_agents={num_agents}, num_loads={num_loads}, lifters={lifters}: expected two agents or more, a "
                "load or more, and lifters from 1 to the number of agents"
            )
        if size < 2 or num_agents + num_loads > size * size:
            raise ValueError(
                f"size={size}: expected 2 or more, and a cell for each of {num_agents} agents and {num_loads} loads"
            )
        super().__init__(
            num_envs,
            num_agents,
            num_actions=len(MOVES),
            observation_size=2 * num_agents + 3 * num_loads,
            state_size=2 * num_agents + 3 * num_loads,
            low=-1.0,
        )
        self._size, self._lifters = size, lifters
        self._agents = np.zeros((num_envs, num_agents, 2), np.int64)
        self._loads = np.zeros((num_envs, num_loads, 2), np.int64)
        self._there = np.ones((num_envs, num_loads), np.bool_)
        # Positions of the other agents in the observation of each, [N, N - 1].
        self._others = np.array(
            [[j for j in range(num_agents) if j != i] for i in range(num_agents)]
        )

    def restart(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        """Implements `Game.restart`."""
        cells = rng.random((len(rows), self._size**2)).argsort(axis=1)
        places = np.stack(np.divmod(cells, self._size), axis=2)
        end = self.num_agents + self._loads.shape[1]
        self._agents[rows] = places[:, : self.num_agents]
        self._loads[rows] = places[:, self.num_agents : end]
        self._there[rows] = True

    def play(self, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Game.play`: loads are lifted before anyone moves."""
        takes_part = self._beside() & (action == LIFT)[:, :, None]
        count = takes_part.sum(1)
        lifted = (count >= self._lifters) & self._there
        shares = lifted / (np.maximum(count, 1) * count.shape[1])
        rewards = (takes_part * shares[:, None]).sum(2).astype(np.float32)
        self._there &= ~lifted
        self._agents = self._agents + MOVES[action]
        return rewards, ~self._there.any(1)

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Game.observe`."""
        scale = self._size - 1
        own = self._agents / scale
        loads, there = self._loads / scale, self._there.astype(np.float32)
        others = own[:, self._others] - own[:, :, None]
        relative = (loads[:, None] - own[:, :, None]) * there[:, None, :, None]
        rows, agents = self.num_envs, self.num_agents
        flags = np.repeat(there[:, None], agents, axis=1)
        parts = (own, others.reshape(rows, agents, -1), relative.reshape(rows, agents, -1), flags)
        seen = np.concatenate(parts, axis=2, dtype=np.float32, casting="same_kind")
        left = (loads * there[..., None]).reshape(rows, -1)
        state = (own.reshape(rows, -1), left, there)
        return seen, np.concatenate(state, axis=1, dtype=np.float32, casting="same_kind")

    def available(self) -> np.ndarray:
        """Implements `Game.available`."""
        to = self._agents[:, :, None] + MOVES
        free = ((to >= 0) & (to < self._size)).all(3)
        onto = (to[:, :, :, None] == self._loads[:, None, None]).all(4)
        free &= ~(onto & self._there[:, None, None]).any(3)
        free[:, :, LIFT] = self._beside().any(2)
        return free.astype(np.int8)

    def draw(self, row: int) -> np.ndarray:
        """Implements `Game.draw`: loads are black; of agents on one cell the last is seen."""
        cells = np.full((self._size, self._size, 3), 235, np.uint8)
        for (top, left), there in zip(self._loads[row], self._there[row]):
            if there:
                cells[top, left] = 30
        for agent, (top, left) in enumerate(self._agents[row]):
            cells[top, left] = AGENT_COLOURS[agent % len(AGENT_COLOURS)]
        return picture(cells)

    def _beside(self) -> np.ndarray:
        """Which loads stand next to which agents, bool [B, N, L]."""
        distance = np.abs(self._agents[:, :, None] - self._loads[:, None]).sum(3)
        return (distance == 1) & self._there[:, None]
