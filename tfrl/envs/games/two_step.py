"""The two-step game of Rashid et al. (2018), section 5: coordination that only a joint value represents."""

from __future__ import annotations

import numpy as np

from tfrl.envs.games.game import AGENT_COLOURS, Game, one_hot, picture

START, SAFE, RISKY = range(3)
# Team reward of the joint action [A or B, A or B] in the states `SAFE` and `RISKY`.
PAYOFFS = np.float32([[[7, 7], [7, 7]], [[0, 1], [1, 8]]])


class TwoStep(Game):
    """Two agents, two actions, A and B, two steps.

    In the first state the action of agent 0 alone counts: A leads to the safe state, B to the risky one. The team's
    reward in the second step is 7 in the safe state, and in the risky one 0 for both A, 8 for both B, else 1. Each
    agent receives half of it. 8 is the best return, 4.75 that of uniform play.

    Observation [2, 6]: the state one-hot, in the first three places for agent 0, in the last three for agent 1. State
    [3]: one-hot.
    """

    def __init__(self, num_envs: int):
        super().__init__(num_envs, num_agents=2, num_actions=2, observation_size=6, state_size=3)
        self._place = np.zeros(num_envs, np.int64)

    def restart(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        """Implements `Game.restart`."""
        self._place[rows] = START

    def play(self, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Game.play`."""
        second = self._place != START
        payoff = PAYOFFS[np.maximum(self._place, SAFE) - SAFE, action[:, 0], action[:, 1]]
        shares = np.where(second, payoff / 2, np.float32(0.0))
        self._place = np.where(second, self._place, SAFE + action[:, 0])
        return np.repeat(shares[:, None], 2, axis=1), second

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Game.observe`."""
        return one_hot(self._place[:, None] + np.array([0, 3]), 6), one_hot(self._place, 3)

    def draw(self, row: int) -> np.ndarray:
        """Implements `Game.draw`: the three states, both agents in the present one."""
        cells = np.full((3, 6, 3), 235, np.uint8)
        cells[0, 2:4], cells[2, :2], cells[2, 4:] = (
            (255, 255, 255),
            (190, 230, 190),
            (240, 200, 190),
        )
        top, left = ((0, 2), (2, 0), (2, 4))[self._place[row]]
        cells[top, left : left + 2] = AGENT_COLOURS[:2]
        return picture(cells)
