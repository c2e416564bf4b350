"""Half-court defence: three defenders learn to stop three scripted attackers before the shot clock runs out.

A stand-in for Fever Basketball Defense (Tang et al. 2018, section 5.2), whose game is not free. The numbers here are
those of this game, not of that one.
"""

from __future__ import annotations

import numpy as np

from tfrl.envs.games.game import AGENT_COLOURS, Game, picture
from tfrl.types import EnvSpec, GoalSpace

WIDTH, HEIGHT = 12, 9
BASKET = np.array([11, 4])  # (x, y)
ZONE = np.array([9, 4])  # in front of the basket
TEAM = 3  # players of a team
CLOCK = 24  # steps of an attack
RANGE = 6  # largest distance from the basket of a shot that is not forced
STEAL = 5  # number of the action
MOVES = np.array([(0, 1), (0, -1), (-1, 0), (1, 0), (0, 0), (0, 0)])
COURT, BALL, RIM = (205, 170, 120), (255, 120, 0), (200, 30, 30)
# Columns of an observation: x and y of what the goals are about, relative to the agent.
GOALS = TEAM + 2
TO_X, TO_Y = slice(2, 2 + GOALS), slice(2 + GOALS, 2 + 2 * GOALS)


class HalfCourt(Game):
    """A court of 12 x 9 cells with the basket at (11, 4); one attack is an episode of 24 steps at most.

    Attackers begin far from the basket, defenders close to it, all in random cells. In every step the attacker with the
    ball shoots if the shot is good or time is short, passes to the mate with most room if a defender is near, or goes
    for the basket; the other two move to places that change now and then. A shot from distance d with the nearest
    defender r cells away (the larger of both differences) scores with probability
    (0.95 - 0.06 d) min(1, (r + 0.5) / 3); with r <= 1 it is blocked with probability 0.3 first. A pass is caught with
    probability 0.3 if a defender is within one cell of its middle.

    Action of an agent: 0 down, 1 up, 2 left, 3 right, 4 stay, 5 steal, which succeeds next to the ball with
      probability 0.1. Defenders may share cells.
    Observation of an agent: its place; the places of the attackers, of the zone in front of the basket and of the ball
      relative to it, first x of all, then y; those of the other defenders; who has the ball; the share of the clock
      that is left. State: all places, who has the ball, the clock.
    Reward: at the end alone 1 for a miss, a block, a steal or an expired clock, and -1 for a score, a third of it to
      each agent.
    """

    def __init__(self, num_envs: int):
        super().__init__(
            num_envs, TEAM, len(MOVES), 2 + 2 * GOALS + 2 * (TEAM - 1) + TEAM + 1, 4 * TEAM + TEAM + 1, -1.0,
        )  # fmt: skip
        self.goals = {"function": "tfrl.envs.games.half_court:goal_space", "kwargs": {}}
        self._defence = np.zeros((num_envs, TEAM, 2), np.int64)  # (x, y)
        self._attack = np.zeros((num_envs, TEAM, 2), np.int64)
        self._places = np.zeros(
            (num_envs, TEAM, 2), np.int64
        )  # that attackers without the ball go to
        self._ball = np.zeros(num_envs, np.int64)  # attacker that has it
        self._left = np.zeros(num_envs, np.int64)  # steps on the clock

    def restart(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        """Implements `Game.restart`."""
        size = (len(rows), TEAM)
        self._defence[rows] = np.stack([rng.integers(7, 11, size), rng.integers(1, 8, size)], -1)
        self._attack[rows] = np.stack([rng.integers(0, 5, size), rng.integers(0, HEIGHT, size)], -1)
        self._places[rows] = _places(size, rng)
        self._ball[rows] = rng.integers(TEAM, size=len(rows))
        self._left[rows] = CLOCK

    def play(self, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Game.play`: the defence moves first, then the attack."""
        row, limits = np.arange(len(action)), np.array([WIDTH - 1, HEIGHT - 1])
        self._left -= 1
        self._defence = np.clip(self._defence + MOVES[action], 0, limits)
        # Steals from the attacker with the ball.
        near = np.abs(self._defence - self._attack[row, self._ball][:, None]).max(2)  # [B, 3]
        draws = rng.random((len(action), 3 + TEAM))
        steals = (action == STEAL) & (near <= 1) & (draws[:, 3:] < 0.1)
        stolen = steals.any(1)
        # A shot: when it is good, or the clock is nearly out.
        room = near.min(1)
        distance = np.abs(self._attack[row, self._ball] - BASKET).max(1)
        chance = np.clip(0.95 - 0.06 * distance, 0.0, 1.0) * np.minimum(1.0, (room + 0.5) / 3)
        good = (distance <= RANGE) & (chance > 0.4)
        shoots = ~stolen & (good & (draws[:, 0] < 0.5) | (self._left <= 1))
        blocked = shoots & (room <= 1) & (draws[:, 1] < 0.3)
        scored = shoots & ~blocked & (draws[:, 2] < chance)
        ended = stolen | shoots | (self._left <= 0)
        self._attack_moves(~ended & (room <= 1), row, rng, ended)
        reward = np.where(scored, -1.0, 1.0) * ended / TEAM
        return np.repeat(reward[:, None], TEAM, axis=1).astype(np.float32), ended

    def _attack_moves(
        self, pressed: np.ndarray, row: np.ndarray, rng: np.random.Generator, ended: np.ndarray
    ) -> None:
        """Passes of those that are pressed, and the way of every attacker; `ended` gains the passes that are caught."""
        draws = rng.random((len(row), 2 + TEAM))
        # Room of every attacker; who has the ball is no receiver.
        room = np.abs(self._attack[:, :, None] - self._defence[:, None]).max(3).min(2)
        room[row, self._ball] = -1
        to = room.argmax(1)
        passes = pressed & (draws[:, 0] < 0.6)
        middle = (self._attack[row, self._ball] + self._attack[row, to]) / 2
        near = (np.abs(self._defence - middle[:, None]).max(2) <= 1.0).any(1)
        ended |= passes & near & (draws[:, 1] < 0.3)
        self._ball = np.where(passes, to, self._ball)
        # The attacker with the ball goes for the basket, the others to their places, each in two of three steps.
        changes = np.flatnonzero(rng.random(len(row)) < 0.15)
        self._places[changes] = _places((len(changes), TEAM), rng)
        aims = self._places.copy()
        aims[row, self._ball] = BASKET
        way = np.sign(aims - self._attack)
        # One axis at a time: the longer one.
        far = np.abs(aims - self._attack)
        way[..., 0] *= far[..., 0] >= far[..., 1]
        way[..., 1] *= far[..., 0] < far[..., 1]
        moved = self._attack + way * (draws[:, 2:, None] < 0.67)
        # Nobody enters the cell of a defender.
        free = ~(moved[:, :, None] == self._defence[:, None]).all(3).any(2)
        self._attack = np.where(free[..., None], moved, self._attack)

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Game.observe`."""
        row, scale = np.arange(self.num_envs), np.array([WIDTH, HEIGHT], np.float32)
        ball = self._attack[row, self._ball]
        about = np.concatenate(
            [self._attack, np.broadcast_to(ZONE, (self.num_envs, 1, 2)), ball[:, None]], 1
        )
        relative = (about[:, None] - self._defence[:, :, None]) / scale  # [B, agents, goals, 2]
        others = np.array([[j for j in range(TEAM) if j != i] for i in range(TEAM)])
        mates = (self._defence[:, others] - self._defence[:, :, None]) / scale
        has = np.eye(TEAM)[self._ball]
        clock = (self._left / CLOCK)[:, None]
        shared = np.concatenate([has, clock], 1)
        seen = np.concatenate(
            [
                self._defence / scale, relative[..., 0], relative[..., 1],
                mates.reshape(self.num_envs, TEAM, -1), np.repeat(shared[:, None], TEAM, axis=1),
            ],
            2,
        )  # fmt: skip
        places = np.concatenate([self._defence, self._attack], 1) / scale
        state = np.concatenate([places.reshape(self.num_envs, -1), shared], 1)
        return seen.astype(np.float32), state.astype(np.float32)

    def draw(self, row: int) -> np.ndarray:
        """Implements `Game.draw`: defenders in colours, attackers in grey, the one with the ball in orange."""
        cells = np.full((HEIGHT, WIDTH, 3), COURT, np.uint8)
        cells[BASKET[1], BASKET[0]] = RIM
        for attacker, (x, y) in enumerate(self._attack[row]):
            cells[y, x] = BALL if attacker == self._ball[row] else (90, 90, 90)
        for agent, (x, y) in enumerate(self._defence[row]):
            cells[y, x] = AGENT_COLOURS[1 + agent]
        return picture(cells)


def _places(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cells around the basket, int [*size, 2]."""
    return np.stack([rng.integers(4, WIDTH, size), rng.integers(0, HEIGHT, size)], -1)


def goal_space(spec: EnvSpec) -> GoalSpace:
    """Goals of a defender, for `--algo=hdqn`: guard attacker 1, 2, 3, guard the zone, chase the ball.

    A goal is reached within one cell of what it is about. It is encoded one-hot with the way to it.

    Args:
      spec: of the environment.
    """
    del spec
    here = np.float32(1.5) / np.float32([WIDTH, HEIGHT])
    one_hot, to_x, to_y = np.zeros((3, GOALS, GOALS + 2), np.float32)
    one_hot[:, :GOALS] = np.eye(GOALS)
    to_x[:, GOALS] = to_y[:, GOALS + 1] = 1.0
    return GoalSpace(
        num_goals=GOALS,
        encode=lambda obs, goal: (
            goal @ one_hot + (goal * obs[:, TO_X]) @ to_x + (goal * obs[:, TO_Y]) @ to_y
        ),
        reached=lambda obs: (abs(obs[:, TO_X]) < here[0]) & (abs(obs[:, TO_Y]) < here[1]),
        names=("attacker_1", "attacker_2", "attacker_3", "zone", "ball"),
    )
