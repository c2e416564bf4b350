"""Made-up experience whose n-step items are known, and a replay server that gives back what was written."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import reverb
import tree

from tfrl.agent import NStep, Policy, Sequences
from tfrl.replay.computed import ComputedLayout
from tfrl.replay.kinds import make_writer
from tfrl.replay.sampler import Sampler, Samples
from tfrl.replay.sequences import SequenceLayout
from tfrl.replay.tables import EXPERIENCE
from tfrl.replay.transitions import TransitionLayout
from tfrl.testing.reference import Item, Step
from tfrl.types import EnvSpec, Transition, VectorStep


class Acted(NamedTuple):
    """One vector step with what was acted on: the arguments of a writer."""

    obs: Any
    action: np.ndarray
    step: VectorStep


class Script(NamedTuple):
    """Vector steps, and the real steps of each row."""

    acted: list[Acted]
    rows: list[list[Step]]


def stack_rows(values: Sequence[Any]) -> Any:
    """Nests, one per row -> one nest with leaves [B, ...]."""
    return tree.map_structure(lambda *x: np.stack(x), *values)


def sample(space: gym.Space) -> Any:
    """A random member with plain dicts and arrays of the space's dtype."""
    value = space.sample()
    if isinstance(space, gym.spaces.Dict):
        return {k: sample(s) for k, s in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(sample(s) for s in space.spaces)
    return np.asarray(value, space.dtype)


def random_script(
    spec: EnvSpec, num_envs: int, steps: int, seed: int, same_step: bool, end_ratio: float = 0.2
) -> Script:
    """Random observations and rewards; episodes end at random, half of them truncated.

    Observations that are Dicts with a key 'row' hold the index of their row there. Parts of the reward and discounts of
    the environment are random where the spec has them; one discount in ten is 0, without an end.

    Args:
      same_step: restart within the ending step, else with a dummy row after it.
      end_ratio: chance of a step to end its episode.
    """
    rng = np.random.default_rng(seed)
    spec.observation_space.seed(seed)
    spec.action_space.seed(seed)
    named = (
        isinstance(spec.observation_space, gym.spaces.Dict)
        and "row" in spec.observation_space.spaces
    )

    def draw() -> list[Any]:
        drawn = [sample(spec.observation_space) for _ in range(num_envs)]
        for row, obs in enumerate(drawn):
            if named:
                obs["row"] = np.full_like(obs["row"], row)
        return drawn

    acted, rows = [], [[] for _ in range(num_envs)]
    obs, dummy = draw(), np.zeros(num_envs, bool)
    for _ in range(steps):
        action = [np.asarray(spec.action_space.sample()) for _ in range(num_envs)]
        arrived, reset = draw(), draw()
        valid = ~dummy
        ends = (rng.random(num_envs) < end_ratio) & valid
        terminated = ends & (rng.random(num_envs) < 0.5)
        truncated = ends & ~terminated
        reward = np.where(valid, rng.normal(size=num_envs), 0.0).astype(np.float32)
        rewards, discount = _own(spec, rng, valid, terminated)
        for row in np.flatnonzero(valid):
            rows[row].append(
                Step(obs[row], action[row], float(reward[row]), arrived[row],
                     bool(terminated[row]), bool(truncated[row]),
                     1.0 if discount is None else float(discount[row]),
                     () if rewards is None else rewards[row])
            )  # fmt: skip
        after = [reset[i] if same_step and ends[i] else arrived[i] for i in range(num_envs)]
        following = stack_rows(after)
        led_to = stack_rows(arrived) if same_step else following
        step = VectorStep(
            following, led_to, reward, terminated, truncated, valid, (), discount, rewards
        )
        acted.append(Acted(stack_rows(obs), np.stack(action), step))
        obs, dummy = after, np.zeros(num_envs, bool) if same_step else ends
    return Script(acted, rows)


def _own(
    spec: EnvSpec, rng: np.random.Generator, valid: np.ndarray, terminated: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Random parts of the reward and discounts of a vector step; None where the spec has none."""
    rewards = discount = None
    if spec.reward_parts:
        rewards = rng.normal(size=(len(valid), len(spec.reward_parts))).astype(np.float32)
        rewards *= valid[:, None]
    if spec.step_discount:
        discount = rng.random(len(valid)).astype(np.float32) * (rng.random(len(valid)) > 0.1)
        discount = np.where(valid, discount * ~terminated, 1.0).astype(np.float32)
    return rewards, discount


def stacked_script(
    num_envs: int, steps: int, stack: int, size: int, seed: int, same_step: bool, repeat_first: bool
) -> tuple[EnvSpec, Script]:
    """Episodes of random frames with stacked observations uint8 [size, size, stack].

    A third of the ends are lost lives: a termination after which the stack simply goes on, by an automatic step.

    Args:
      repeat_first: an episode's first stack repeats its first frame; else zeros come before it.
    """
    rng = np.random.default_rng(seed)
    frame = lambda: rng.integers(0, 256, (size, size), np.uint8)

    def is_first() -> np.ndarray:
        first = frame()
        before = first if repeat_first else np.zeros_like(first)
        return np.stack([before] * (stack - 1) + [first], axis=-1)

    def pushed(obs: np.ndarray) -> np.ndarray:
        return np.concatenate([obs[..., 1:], frame()[..., None]], axis=-1)

    space = gym.spaces.Box(0, 255, (size, size, stack), np.uint8)
    spec = EnvSpec("frames", space, gym.spaces.Discrete(6), frame_stack=stack)
    acted, rows = [], [[] for _ in range(num_envs)]
    obs, pending = [is_first() for _ in range(num_envs)], [""] * num_envs
    for _ in range(steps):
        action = rng.integers(6, size=num_envs).astype(np.int32)
        reward = rng.normal(size=num_envs).astype(np.float32)
        terminated, truncated, valid = (np.zeros(num_envs, bool) for _ in range(3))
        arrived, after, ending = list(obs), list(obs), [""] * num_envs
        for row in range(num_envs):
            if pending[row]:  # an automatic step: a reset, or the first step of the next life
                arrived[row] = after[row] = (
                    is_first() if pending[row] == "game" else pushed(obs[row])
                )
                reward[row] = 0.0
                continue
            valid[row] = True
            arrived[row] = after[row] = pushed(obs[row])
            fate = rng.random()
            if fate < 0.15:
                terminated[row] = fate < 0.1
                truncated[row] = not terminated[row]
                ending[row] = "life" if fate < 0.05 else "game"
                if same_step and ending[row] == "game":
                    after[row], ending[row] = is_first(), ""
            rows[row].append(
                Step(obs[row], action[row], float(reward[row]), arrived[row],
                     bool(terminated[row]), bool(truncated[row]))
            )  # fmt: skip
        following = np.stack(after)
        led_to = np.stack(arrived) if same_step else following
        step = VectorStep(following, led_to, reward, terminated, truncated, valid, ())
        acted.append(Acted(np.stack(obs), action, step))
        obs, pending = after, ending
    return spec, Script(acted, rows)


class Bench:
    """Reverb servers with one table each, which gives its items in the order of insertion, each once.

    Attributes:
      layout: of the items.
      clients: of the servers, and `client` that of the first.
      writer: writes into them.
    """

    def __init__(
        self,
        spec: EnvSpec,
        item: NStep,
        num_envs: int,
        prioritized: bool = False,
        initial_priority: Any = None,
        servers: int = 1,
        hindsight: Any = None,
    ):
        self.layout = TransitionLayout(spec, prioritized)
        self.servers = [reverb.Server([self._table()]) for _ in range(servers)]
        self.clients = [reverb.Client(f"localhost:{server.port}") for server in self.servers]
        self.client = self.clients[0]
        self.writer = make_writer(
            self.clients, item, self.layout, num_envs, initial_priority=initial_priority,
            hindsight=hindsight,
        )  # fmt: skip

    def _table(self) -> reverb.Table:
        return reverb.Table(
            EXPERIENCE,
            sampler=reverb.selectors.Fifo(),
            remover=reverb.selectors.Fifo(),
            max_size=100_000,
            max_times_sampled=1,
            rate_limiter=reverb.rate_limiters.MinSize(1),
            signature=self.layout.signature(),
        )

    def sizes(self) -> list[int]:
        """Items in the table of each server."""
        self.writer.flush()
        return [c.server_info()[EXPERIENCE].current_size for c in self.clients]

    def size(self) -> int:
        """Items in all tables."""
        return sum(self.sizes())

    def drain(self) -> tuple[list[Item], list[float]]:
        """Removes all items; returns them and their priorities, oldest first of each server."""
        columns, priorities = [], []
        for client, count in zip(self.clients, self.sizes()):
            if not count:
                continue
            for item in client.sample(
                EXPERIENCE, count, emit_timesteps=False, unpack_as_table_signature=True
            ):
                columns.append(item.data)
                priorities.append(item.info.priority)
        if not columns:
            return [], []
        batch = self.layout.decode(stack_rows(columns), np.ones(len(columns), np.float32))
        return items_of(batch), priorities

    def close(self) -> None:
        """Closes the writer and stops the servers."""
        self.writer.close()
        for server in self.servers:
            server.stop()


class UnrollBench:
    """A Reverb server with a queue of unrolls, read by the sampler of a run.

    Args:
      layout: of the items.
      item: their kind.
      num_envs: of the writer.
      block: items read at once.
      policy: whose weights compute, for a `ComputedLayout`.

    Attributes:
      client, writer: of the server.
    """

    def __init__(
        self,
        layout: SequenceLayout | ComputedLayout,
        item: Sequences,
        num_envs: int,
        block: int = 1,
        actor: int = 0,
        policy: Policy | None = None,
    ):
        self.layout, self._block = layout, block
        table = reverb.Table.queue(EXPERIENCE, 1_000, signature=layout.signature())
        self.server = reverb.Server([table])
        self.client = reverb.Client(f"localhost:{self.server.port}")
        self.writer = make_writer([self.client], item, layout, num_envs, actor, policy)
        self._sampler: Sampler | None = None

    def next(self) -> Samples:
        """The next block of items, as columns."""
        self.writer.flush()
        if self._sampler is None:
            self._sampler = Sampler(f"localhost:{self.server.port}", self._block, math.inf)
        return self._sampler.next()

    def decoded(self) -> Any:
        """The next block of items, as a batch of arrays."""
        return tree.map_structure(np.asarray, self.layout.decode(self.next().columns))

    def close(self) -> None:
        """Closes the writer and stops the server."""
        self.writer.close()
        self.server.stop()


def unroll_bench(*args: Any, **kwargs: Any) -> contextlib.closing[UnrollBench]:
    """An `UnrollBench` that is closed at the end."""
    return contextlib.closing(UnrollBench(*args, **kwargs))


def bench(*args: Any, **kwargs: Any) -> contextlib.closing[Bench]:
    """A `Bench` that is closed at the end."""
    return contextlib.closing(Bench(*args, **kwargs))


def items_of(batch: Transition) -> list[Item]:
    """A batch of transitions, one by one, as arrays."""
    arrays = tree.map_structure(np.asarray, batch)
    fields = (arrays.obs_tm1, arrays.action_tm1, arrays.reward_t, arrays.discount_t, arrays.obs_t)
    return [
        Item(
            *(tree.map_structure(lambda x, i=i: x[i], f) for f in fields),
            tree.map_structure(lambda x, i=i: x[i], arrays.rewards),
        )
        for i in range(len(arrays.reward_t))
    ]
