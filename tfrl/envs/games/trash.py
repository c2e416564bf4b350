"""Collection of trash by a team (Tang et al. 2018, section 5.1): agents pick trash up and place it in dumps.

Maps are texts of equal rows, one character a cell: `.` floor, `#` wall, `a` to `f` where the agents start, in their
order, `t` trash, `1` to `9` dumps in their order. Coordinates are (x, y) from the upper left corner. A dump between two
opposite walls (or a wall and the border) is part of the wall: nobody enters it, and it is used from the cells around
it, diagonal ones too. Every other dump is used by who stands on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfrl.envs.games.game import AGENT_COLOURS, Game, picture
from tfrl.settings import choose
from tfrl.types import EnvSpec, GoalSpace

MAPS: Mapping[str, tuple[str, ...]] = {
    "room": (
        "...........", ".......#..1", "..#....####", "..#........", ".t#a.......", "###........",
        "t.#b.......", "..#.....#..", "..#.....#..", "........#..", "........#.2",
    ),
    "ring": (
        "...........", "....t.t....", "...........", "...........", ".t..a.2..t.", "...........",
        ".t..1.b..t.", "...........", "...........", "....t.t....", "...........",
    ),
    "coordination": (
        ".......#.......", ".......1.......", ".......#.......", "t..a...#..b...t", ".......#.......",
        ".......2.......", ".......#.......",
    ),
    "room_7x7": ("......1", "..#....", "t.#a...", "..#....", "t.#b...", "..#....", "......2"),
    "coordination_9x5": ("....1....", "....#....", "t.a.#.b.t", "....#....", "....2...."),
}  # fmt: skip
STAY, PICK, PLACE = 4, 5, 6
ACTIONS = ("down", "up", "left", "right", "stay", "pick", "place")
MOVES = np.array([(0, 1), (0, -1), (-1, 0), (1, 0), (0, 0), (0, 0), (0, 0)])  # (x, y), y downwards
EACH = 0.5  # reward of an agent for each piece of trash that it places
TOGETHER = (1.0, 0.5, 0.1)  # of each agent: all trash in dump 1, all in dump 2, else
FLOOR, WALL, TRASH, DUMPS = (
    (238, 238, 238),
    (70, 70, 70),
    (150, 100, 50),
    ((40, 40, 200), (120, 120, 230)),
)


@dataclasses.dataclass(frozen=True)
class Map:
    """A map as arrays; cells are numbered row by row.

    Attributes:
      width, height: in cells.
      wall: bool [cells], where nobody goes.
      agents, trash, dumps: cells, int [N], [K], [M].
      reach: bool [M, cells], where a dump is used from.
    """

    width: int
    height: int
    wall: np.ndarray
    agents: np.ndarray
    trash: np.ndarray
    dumps: np.ndarray
    reach: np.ndarray


def read(text: str | tuple[str, ...]) -> Map:
    """A map of its name in `MAPS`, or of a text: its rows, or one string with line breaks or '/' between them.

    Raises:
      ValueError: an unknown name, or a text that is no map.
    """
    if isinstance(text, str) and not {*text} & {"/", "\n"}:
        if text not in MAPS:
            raise ValueError(
                f"map={text!r} has no rows with '/' between them, and is no name: {choose(text, MAPS)}"
            )
        text = MAPS[text]
    rows = text.replace("/", "\n").split() if isinstance(text, str) else tuple(text)
    if not rows or len({*map(len, rows)}) > 1:
        raise ValueError(f"map={rows!r}: expected rows of equal length")
    width, height, cells = len(rows[0]), len(rows), "".join(rows)
    strange = {*cells} - {*".#t", *"abcdef", *"123456789"}
    if strange:
        raise ValueError(
            f"map: unknown {''.join(sorted(strange))!r}; expected . # t, a to f, 1 to 9"
        )
    agents, dumps = (_in_order(cells, letters) for letters in ("abcdef", "123456789"))
    trash = np.flatnonzero([cell == "t" for cell in cells])
    if not len(agents) or not len(trash) or not len(dumps):
        raise ValueError(
            f"map: {len(agents)} agents, {len(trash)} trash, {len(dumps)} dumps; expected some of each"
        )
    # A frame of walls, so that every cell has neighbours.
    framed = np.pad(
        np.array([cell == "#" for cell in cells]).reshape(height, width), 1, constant_values=True
    )
    reach = np.zeros((len(dumps), height * width), np.bool_)
    wall = framed[1:-1, 1:-1].copy()
    for dump, (y, x) in enumerate(zip(*divmod(dumps, width))):
        around = framed[y : y + 3, x : x + 3]
        if around[0, 1] and around[2, 1] or around[1, 0] and around[1, 2]:
            wall[y, x] = True
            near = slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2)
            reach[dump].reshape(height, width)[near] = ~wall[near]
        else:
            reach[dump, dumps[dump]] = True
    return Map(width, height, wall.reshape(-1), agents, trash, dumps, reach & ~wall.reshape(-1))


def _in_order(cells: str, letters: str) -> np.ndarray:
    """Cells of the letters that a map has, which must be the first ones, once each."""
    count = sum(letter in cells for letter in letters)
    if any(cells.count(letter) != (i < count) for i, letter in enumerate(letters)):
        raise ValueError(f"map: expected {letters[0]}, {letters[1]}, ... once each, without a gap")
    return np.array([cells.index(letter) for letter in letters[:count]], np.int64)


class Trash(Game):
    """Two agents or more collect trash.

    Observation of an agent: planes of 0 and 1, flattened: itself, the other agents, trash that lies, dumps, walls; and
      whether it carries trash. State: a plane for each agent and one of the trash, and who carries. (The paper has one
      plane for all agents; here one network can serve all of them.)
    Action of an agent: 0 down, 1 up, 2 left, 3 right, 4 stay, 5 pick, 6 place. Moves into walls, into an agent that
      stays, and exchanges of places are undone; of several that want one cell a random one gets it. To pick, an agent
      that carries nothing stands on the trash; to place, it is where a dump is used from.
    Reward: `pays="each"`: 0.5 to the agent for each piece that it places. `pays="together"`: at the end to each agent 1
      if all trash is in dump 1, 0.5 if all is in dump 2, else 0.1. Terminated when all trash is placed.

    The best returns of the team are 1 (room), 4 (ring), 2 (coordination), in 31, 38 and 13 steps; on the small maps 1
    in 17 (room_7x7) and 2 in 8 (coordination_9x5).

    Args:
      num_envs: B.
      map: name or text, see `read`.
      pays: see above; None: as the paper's map of this name, "each" for a text.

    Raises:
      ValueError: a text that is no map, or an unknown word.
    """

    def __init__(self, num_envs: int, map: str | tuple[str, ...] = "room", pays: str | None = None):  # noqa: A002
        if pays is None:
            pays = "together" if str(map).startswith("coordination") else "each"
        if pays not in ("each", "together"):
            raise ValueError(f"pays={pays!r}: {choose(pays, ('each', 'together'))}")
        self._map, self._together = read(map), pays == "together"
        cells, agents = len(self._map.wall), len(self._map.agents)
        super().__init__(
            num_envs, agents, len(ACTIONS), 5 * cells + 1, (agents + 1) * cells + agents
        )
        self.goals = {
            "function": "tfrl.envs.games.trash:goal_space",
            "kwargs": {"map": map if isinstance(map, str) else "/".join(map)},
        }
        self._constant = np.zeros((num_envs, agents, 5 * cells + 1), np.float32)
        self._constant[:, :, 3 * cells + self._map.dumps] = 1.0
        self._constant[:, :, 4 * cells : 5 * cells] = self._map.wall
        self._next = _next_cells(self._map)  # [cells, actions]
        self._at = np.zeros((num_envs, agents), np.int64)  # cells of the agents
        self._carries = np.full((num_envs, agents), -1)  # piece of trash, -1 for none
        self._lies = np.zeros((num_envs, len(self._map.trash)), np.bool_)
        self._placed = np.full((num_envs, len(self._map.trash)), -1)  # dump of a piece, -1 for none

    def restart(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        """Implements `Game.restart`: everything as the map has it."""
        self._at[rows], self._carries[rows] = self._map.agents, -1
        self._lies[rows], self._placed[rows] = True, -1

    def play(self, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Game.play`."""
        self._move(action, rng)
        rewards = np.zeros(self._at.shape, np.float32)
        rows, agents = np.nonzero((action == PICK) & (self._carries < 0))
        if len(rows):
            here = (self._map.trash == self._at[rows, agents, None]) & self._lies[rows]
            found = here.any(1)
            rows, agents, piece = rows[found], agents[found], here[found].argmax(1)
            self._carries[rows, agents], self._lies[rows, piece] = piece, False
        rows, agents = np.nonzero((action == PLACE) & (self._carries >= 0))
        if not len(rows):
            return rewards, np.zeros(len(action), np.bool_)
        near = self._map.reach[:, self._at[rows, agents]]  # [M, k]
        found = near.any(0)
        rows, agents, dump = rows[found], agents[found], near[:, found].argmax(0)
        self._placed[rows, self._carries[rows, agents]] = dump
        self._carries[rows, agents] = -1
        ended = (self._placed >= 0).all(1)
        if not self._together:
            rewards[rows, agents] = EACH
        elif ended.any():
            places, one, two = self._placed[ended], *TOGETHER[:2]
            paid = np.where(
                (places == 0).all(1), one, np.where((places == 1).all(1), two, TOGETHER[2])
            )
            rewards[ended] = paid[:, None]
        return rewards, ended

    def _move(self, action: np.ndarray, rng: np.random.Generator) -> None:
        """Moves all agents; a move that is undone may stop another one, so that it is looked for again."""
        at, count = self._at, self.num_agents
        to = self._next[at, action]
        rank = None
        for _ in range(count):
            undone = np.zeros(to.shape, np.bool_)
            for i in range(count):
                for j in range(i + 1, count):
                    same = to[:, i] == to[:, j]
                    swap = (to[:, i] == at[:, j]) & (to[:, j] == at[:, i])
                    if not (same.any() or swap.any()):
                        continue
                    if rank is None:
                        rank = rng.random(to.shape)
                    moves_i, moves_j = to[:, i] != at[:, i], to[:, j] != at[:, j]
                    first = rank[:, i] < rank[:, j]  # who of two that move gets the cell
                    undone[:, i] |= swap | same & moves_i & (~moves_j | ~first)
                    undone[:, j] |= swap | same & moves_j & (~moves_i | first)
            if not undone.any():
                break
            to = np.where(undone, at, to)
        self._at = to

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Game.observe`."""
        cells, count, envs = len(self._map.wall), self.num_agents, self.num_envs
        seen, row = self._constant.copy(), np.arange(envs)
        state = np.zeros((envs, self.observation_space["state"].shape[0]), np.float32)
        planes = state[:, : (count + 1) * cells].reshape(envs, count + 1, cells)
        planes[row[:, None], np.arange(count), self._at] = 1.0
        lies = self._lies.astype(np.float32)
        planes[:, count, self._map.trash] = lies
        state[:, (count + 1) * cells :] = seen[:, :, -1] = self._carries >= 0
        for agent in range(count):
            seen[row, agent, self._at[:, agent]] = 1.0
            for other in range(count):
                if other != agent:
                    seen[row, agent, cells + self._at[:, other]] = 1.0
        seen[:, :, 2 * cells + self._map.trash] = lies[:, None]
        return seen, state

    def draw(self, row: int) -> np.ndarray:
        """Implements `Game.draw`: an agent that carries trash is darker."""
        m = self._map
        cells = np.full((len(m.wall), 3), FLOOR, np.uint8)
        cells[m.wall] = WALL
        for dump, cell in enumerate(m.dumps):
            cells[cell] = DUMPS[min(dump, 1)]
        cells[m.trash[self._lies[row]]] = TRASH
        for agent in range(self.num_agents):
            colour = AGENT_COLOURS[agent % len(AGENT_COLOURS)]
            cells[self._at[row, agent]] = colour // 2 if self._carries[row, agent] >= 0 else colour
        return picture(cells.reshape(m.height, m.width, 3))


def _next_cells(m: Map) -> np.ndarray:
    """The cell that an agent comes to from each cell by each action, without other agents, int [cells, actions]."""
    y, x = np.divmod(np.arange(len(m.wall)), m.width)
    to_x, to_y = x[:, None] + MOVES[:, 0], y[:, None] + MOVES[:, 1]
    inside = (to_x >= 0) & (to_x < m.width) & (to_y >= 0) & (to_y < m.height)
    to = np.where(inside, to_y * m.width + to_x, 0)
    return np.where(inside & ~m.wall[to], to, np.arange(len(m.wall))[:, None])


def goal_space(spec: EnvSpec, map: str = "room") -> GoalSpace:  # noqa: A002
    """Goals on a map, for `--algo=hdqn`: to be at each dump, at each place of trash, to carry something, and nothing.

    The last two, pick and place, last one step. A goal is encoded as a plane of its cell and two numbers for pick and
    place. An agent is at a dump where the dump is used from.

    Args:
      spec: of the environment.
      map: as `Trash` takes it.

    Raises:
      ValueError: a text that is no map.
    """
    del spec
    m = read(map)
    cells, places = len(m.wall), len(m.dumps) + len(m.trash)
    codes = np.zeros((places + 2, cells + 2), np.float32)
    codes[np.arange(places), np.concatenate([m.dumps, m.trash])] = 1.0
    codes[places, cells] = codes[places + 1, cells + 1] = 1.0
    # Goal g is reached where obs . weights[:, g] + bias[g] is above 1/2.
    weights, bias = (
        np.zeros((5 * cells + 1, places + 2), np.float32),
        np.zeros(places + 2, np.float32),
    )
    weights[:cells, : len(m.dumps)] = m.reach.T
    weights[m.trash, np.arange(len(m.dumps), places)] = 1.0
    weights[-1, places], weights[-1, places + 1], bias[places + 1] = 1.0, -1.0, 1.0
    return GoalSpace(
        num_goals=places + 2,
        encode=lambda obs, goal: goal @ codes,
        reached=lambda obs: obs @ weights + bias > 0.5,
        names=(
            *(f"dump_{i + 1}" for i in range(len(m.dumps))),
            *(f"trash_{i + 1}" for i in range(len(m.trash))),
            "pick", "place",
        ),
        lengths={places: 1, places + 1: 1},
    )  # fmt: skip
