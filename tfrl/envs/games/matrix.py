"""Matrix games: one payoff of the team for each joint action."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfrl.envs.games.game import AGENT_COLOURS, Game, one_hot, picture

# Claus and Boutilier (1998), section 4: a wrong guess about the other agent costs much.
CLIMBING = ((11, -30, 0), (-30, 7, 6), (0, 0, 5))


def penalty_payoff(penalty: float) -> tuple[tuple[float, ...], ...]:
    """The penalty game of Claus and Boutilier (1998), section 4: two optima, and a loss for mixing them."""
    return ((10, 0, penalty), (0, 2, 0), (penalty, 0, 10))


class Matrix(Game):
    """The team's reward is the payoff of the joint action, in every step; each agent receives an equal share.

    Agents with fewer actions than others have masks that leave out what is missing. Observation [N, N]: the agent's
    number one-hot, nothing else changes. State [1]: 1. An episode terminates after `rounds` steps.
    """

    def __init__(
        self, num_envs: int, payoff: Any = "climbing", penalty: float = -100.0, rounds: int = 1
    ):
        """Reads the payoffs.

        Args:
          num_envs: B.
          payoff: 'climbing', 'penalty', or numbers nested as deep as there are agents: [A of agent 0][A of agent 1]...
          penalty: of the penalty game, at most 0.
          rounds: steps of an episode.

        Raises:
          ValueError: payoffs of another form, or no rounds.
        """
        named = {"climbing": CLIMBING, "penalty": penalty_payoff(penalty)}
        if isinstance(payoff, str) and payoff not in named:
            raise ValueError(f"payoff={payoff!r}: expected climbing, penalty, or a nested list")
        try:
            table = np.asarray(named[payoff] if isinstance(payoff, str) else payoff, np.float32)
        except (TypeError, ValueError):
            table = np.zeros(0, np.float32)
        if table.ndim < 2 or min(table.shape) < 1 or not np.isfinite(table).all():
            raise ValueError(
                f"payoff={payoff!r}: expected finite numbers in lists of equal lengths, nested once for each of two "
                "agents or more"
            )
        if rounds < 1 or penalty > 0:
            raise ValueError(
                f"rounds={rounds}, penalty={penalty}: expected 1 or more, and 0 or less"
            )
        super().__init__(num_envs, table.ndim, max(table.shape), table.ndim, state_size=1)
        self._payoff, self._rounds = table, rounds
        self._t = np.zeros(num_envs, np.int64)
        self._last = np.zeros((num_envs, table.ndim), np.int64)

    def restart(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        """Implements `Game.restart`."""
        self._t[rows] = 0
        self._last[rows] = -1

    def play(self, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Game.play`."""
        self._t += 1
        self._last = action.astype(np.int64)
        shares = self._payoff[tuple(action.T)] / self.num_agents
        return np.repeat(shares[:, None], self.num_agents, axis=1), self._t >= self._rounds

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Game.observe`."""
        who = one_hot(np.arange(self.num_agents), self.num_agents)
        seen = np.repeat(who[None], self.num_envs, axis=0)
        return seen, np.ones((self.num_envs, 1), np.float32)

    def available(self) -> np.ndarray:
        """Implements `Game.available`."""
        has = np.arange(self.num_actions) < np.array(self._payoff.shape)[:, None]
        return np.repeat(has[None].astype(np.int8), self.num_envs, axis=0)

    def draw(self, row: int) -> np.ndarray:
        """Implements `Game.draw`: a line for each agent, its last action in its colour."""
        cells = np.full((self.num_agents, self.num_actions, 3), 235, np.uint8)
        for agent, action in enumerate(self._last[row]):
            cells[agent, self._payoff.shape[agent] :] = 120
            if action >= 0:
                cells[agent, action] = AGENT_COLOURS[agent % len(AGENT_COLOURS)]
        return picture(cells)
