"""Tiny environments for tests and learning tests; each is used as `--env=tfrl.testing.fakes:Name`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from tfrl import spaces as space_lib

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
        """Implements `gymnasium.Env.reset`: ones."""
        super().reset(seed=seed)
        self._t = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: ones and a reward of 1, whatever the action."""
        self._t += 1
        return np.ones(1, np.float32), 1.0, False, self._t >= self._length, {}


class PaidByFact(TruncatingChain):
    """A `TruncatingChain` that pays the fact `difficulty`, 0 before it has any; other facts are in `facts`."""

    facts: dict[str, float] = {}

    def set_facts(self, facts: dict[str, float]) -> None:
        """Receives the facts of the learner and of evaluations."""
        self.facts = dict(facts)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`; the info holds the facts."""
        obs, _, terminated, truncated, _ = super().step(action)
        return obs, self.facts.get("difficulty", 0.0), terminated, truncated, dict(self.facts)


class PartsAndDiscount(gym.Env):
    """Reward 1 at every step, in two parts, with a discount of its own: the value is 1 / (1 - discount * gamma).

    Observation: Box float32 [2], constant 1 and t / `length`. Step t from 0 on has `gain` 1 + t / `length` and `cost`
    -t / `length`. An episode is truncated after `length` steps and never terminated.
    """

    reward_parts = ("gain", "cost")
    step_discount = True

    def __init__(self, length: int = 10, discount: float = 0.5):
        self.observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._length, self._discount, self._t = length, discount, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: 1 and 0."""
        super().reset(seed=seed)
        self._t = 0
        return np.float32([1.0, 0.0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: a reward of 1, whatever the action."""
        share = self._t / self._length
        info = {"reward_parts": np.float32([1.0 + share, -share]), "discount": self._discount}
        self._t += 1
        obs = np.float32([1.0, self._t / self._length])
        return obs, 1.0, False, self._t >= self._length, info


class SideInputs(TruncatingChain):
    """A chain whose observation has every side input beside `observation`; four actions.

    All of them are random but the mask, which allows action 1 and, in every other step, action 3.
    """

    def __init__(self, length: int = 10):
        super().__init__(length, num_actions=4)
        self.observation_space = spaces.Dict(
            observation=spaces.Box(0.0, 1.0, (2,), np.float32),
            action_mask=spaces.MultiBinary(4),
            action_features=spaces.Box(-1.0, 1.0, (4, 3), np.float32),
            state=spaces.Box(-np.inf, np.inf, (2, 5), np.float64),
            alive=spaces.MultiBinary(1),
            labels=spaces.Box(0, 1, (2,), np.int8),
            expert=spaces.Discrete(4),
        )

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`; raises ValueError for an action that the mask forbids."""
        if action not in (1, 3) or action == 3 and self._t % 2:
            raise ValueError(f"action {action} is not valid in step {self._t}")
        _, *rest = super().step(action)
        return (self._obs(), *rest)

    def _obs(self) -> dict[str, Any]:
        obs = self.observation_space.sample()
        mask = np.int8([0, 1, 0, self._t % 2 == 0])
        return {
            **obs,
            "action_mask": mask,
            "observation": np.float32([1.0, self._t / self._length]),
        }


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
        """Implements `gymnasium.Env.reset`: the next episode; with a seed episode 0."""
        super().reset(seed=seed)
        self._episode, self._t = (0 if seed is not None else self._episode + 1), 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the next place of the episode, whatever the action."""
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
        """Implements `gymnasium.Env.reset`: a random target."""
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: pays by the target that was seen and draws the next one."""
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
        """Implements `gymnasium.Env.reset`: a random mask with one valid action at least."""
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the next mask; raises ValueError for an invalid action."""
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
        """Implements `gymnasium.Env.reset`: a frame with a random half lit."""
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: pays by the half that was lit and draws the next one."""
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

    Observation: the target, float32 [size] in [-1, 1]; actions lie in [-limit, limit], others raise ValueError.
      Truncated after `length` steps. `info["action"]` is what arrived, to see clipping.
    """

    def __init__(self, size: int = 2, length: int = 20, limit: float = 2.0):
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = spaces.Box(-limit, limit, (size,), np.float32)
        self._length, self._t, self._target = length, 0, np.zeros(size, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: a random target."""
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the next target; raises ValueError for an action outside the space."""
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


class Matching(gym.Env):
    """The observation names the action that pays 1; a random one pays less. Any action space.

    The reward of a step is the mean over the parts of the action space: for Discrete 1 or 0, for
    MultiDiscrete and MultiBinary the share of components that are right, for Box
    1 - mean(((action - target) / half range)^2), which may be negative. Every step draws a new
    target, so that no action has consequences; terminated after `length` steps; the best return is
    `length`.

    Observation: Box float32 in [-1, 1], the target: choices one-hot, bits as they are, Box
      components mapped from their limits to [-1, 1].
    Raises ValueError for an action outside the space.
    """

    def __init__(self, action_space: gym.Space, length: int = 4):
        self.action_space = action_space
        self._parts, self._length, self._t = space_lib.leaf_spaces(action_space), length, 0
        size = sum(map(_width, self._parts))
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self._targets: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: a random target."""
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the next target; raises ValueError for an action outside the space."""
        if not self.action_space.contains(action):
            raise ValueError(f"action {action} is outside {self.action_space}")
        values = space_lib.leaf_values(self.action_space, action)
        reward = np.mean([_score(*x) for x in zip(self._parts, values, self._targets)])
        self._t += 1
        return self._draw(), float(reward), self._t >= self._length, False, {}

    def _draw(self) -> np.ndarray:
        self._targets, seen = [], []
        for part in self._parts:
            if isinstance(part, spaces.Box):
                unit = self.np_random.uniform(-0.8, 0.8, part.shape)
                target = (part.high + part.low) / 2 + unit * (part.high - part.low) / 2
                seen.append(unit.reshape(-1))
            elif isinstance(part, spaces.MultiBinary):
                target = self.np_random.integers(0, 2, part.shape)
                seen.append(target.reshape(-1))
            else:
                nvec = np.asarray(getattr(part, "nvec", getattr(part, "n", None)))
                index = self.np_random.integers(0, nvec)
                target = index + part.start
                pairs = zip(nvec.reshape(-1), np.reshape(index, -1))
                seen.extend(np.eye(n)[i] for n, i in pairs)
            self._targets.append(target)
        return np.concatenate(seen).astype(np.float32)


def matching_action(space: gym.Space, obs: np.ndarray) -> Any:
    """The best actions of a `Matching`, leaves [B, ...], as a policy gives them.

    Args:
      space: the action space that policies see.
      obs: [B, F].
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        ends = np.cumsum([sum(map(_width, space_lib.leaf_spaces(part))) for part in parts])[:-1]
        values = [matching_action(p, x) for p, x in zip(parts, np.split(obs, ends, axis=1))]
        return dict(zip(space.spaces, values)) if isinstance(space, spaces.Dict) else tuple(values)
    if isinstance(space, spaces.Box):
        unit = obs.reshape(-1, *space.shape)
        return (space.high + space.low) / 2 + unit * (space.high - space.low) / 2
    if isinstance(space, spaces.MultiBinary):
        return obs.reshape(-1, *space.shape).astype(np.int8)
    nvec = np.reshape(getattr(space, "nvec", getattr(space, "n", None)), -1)
    columns = np.split(obs, np.cumsum(nvec)[:-1], axis=1)
    best = np.stack([np.argmax(x, axis=1) for x in columns], axis=1)
    return best.reshape(-1, *space.shape).astype(np.int32)


def _width(space: gym.Space) -> int:
    """Numbers that name a target in one space."""
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return int(np.prod(space.shape))
    return int(np.sum(getattr(space, "nvec", getattr(space, "n", None))))


def _score(space: gym.Space, action: Any, target: np.ndarray) -> float:
    if isinstance(space, spaces.Box):
        return 1.0 - float(np.mean(np.square((action - target) / ((space.high - space.low) / 2))))
    return float(np.mean(action == target))


class MatchBox(Matching):
    """Two real numbers with limits that are neither equal nor centred; a `Matching`."""

    def __init__(self, length: int = 4):
        super().__init__(spaces.Box(np.float32([-1, 0]), np.float32([3, 0.5])), length)


class MatchMultiDiscrete(Matching):
    """Three choices of different sizes, one of them counted from 2; a `Matching`."""

    def __init__(self, length: int = 4):
        super().__init__(spaces.MultiDiscrete([3, 2, 4], start=[0, 0, 2]), length)


class MatchMultiBinary(Matching):
    """Four bits; a `Matching`."""

    def __init__(self, length: int = 4):
        super().__init__(spaces.MultiBinary(4), length)


class MatchDict(Matching):
    """Dict action with a Discrete counted from 1, a float64 Box and a Tuple inside; a `Matching`."""

    def __init__(self, length: int = 4):
        inner = spaces.Tuple([spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3])])
        gear, push = spaces.Discrete(3, start=1), spaces.Box(-2, 2, (2,), np.float64)
        super().__init__(spaces.Dict(gear=gear, push=push, switches=inner), length)


class MatchTuple(Matching):
    """Tuple action of a Discrete and a Box; a `Matching`."""

    def __init__(self, length: int = 4):
        parts = [spaces.Discrete(3), spaces.Box(-1, 1, (1,), np.float32)]
        super().__init__(spaces.Tuple(parts), length)


class MaskedPair(gym.Env):
    """Two choices of `num_actions`; each pays 1/2 if it is the highest valid one. The mask is the observation's only
    news.

    Action: MultiDiscrete. Observation: Dict of `observation` (float32, the mask again as a feature)
    and `action_mask` (int8 [2 * num_actions], the two masks joined). An invalid choice raises
    ValueError. Terminated after `length` steps; the best return is `length`.
    """

    def __init__(self, num_actions: int = 4, length: int = 4):
        size = 2 * num_actions
        self.observation_space = spaces.Dict(
            observation=spaces.Box(0.0, 1.0, (size,), np.float32),
            action_mask=spaces.MultiBinary(size),
        )
        self.action_space = spaces.MultiDiscrete([num_actions, num_actions])
        self._length, self._t, self._mask = length, 0, np.ones((2, num_actions), np.int8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: random masks, each with one valid choice at least."""
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the next masks; raises ValueError for an invalid choice."""
        if not self._mask[[0, 1], action].all():
            raise ValueError(f"action {action} is invalid, the masks are {self._mask.tolist()}")
        best = [int(np.flatnonzero(mask)[-1]) for mask in self._mask]
        reward = float(np.mean(np.equal(action, best)))
        self._t += 1
        return self._draw(), reward, self._t >= self._length, False, {}

    def _draw(self) -> dict[str, np.ndarray]:
        self._mask = self.np_random.integers(0, 2, self._mask.shape).astype(np.int8)
        self._mask[[0, 1], self.np_random.integers(0, self._mask.shape[1], 2)] = 1
        mask = self._mask.reshape(-1)
        return {"observation": mask.astype(np.float32), "action_mask": mask.copy()}


class TeamMatching(gym.Env):
    """A team; each agent sees which of its actions pays it 1, as long as it lives. The last agent dies after two steps.

    The form is that of every team (docs/teams.md); the mask allows the action that pays and half of the others.
    An action that is not available raises ValueError. Terminated after `length` steps; the best return is
    num_agents * length - (length - 2), with the reward as the sum of the agents'.
    """

    def __init__(self, num_agents: int = 2, num_actions: int = 3, length: int = 4):
        self.num_agents, self._length, self._t = num_agents, length, 0
        self.reward_parts = tuple(f"agent_{i}" for i in range(num_agents))
        self.observation_space = spaces.Dict(
            observation=spaces.Box(0.0, 1.0, (num_agents, num_actions), np.float32),
            action_mask=spaces.MultiBinary(num_agents * num_actions),
            alive=spaces.MultiBinary(num_agents),
            state=spaces.Box(0.0, 1.0, (num_agents + 1,), np.float32),
        )
        self.action_space = spaces.MultiDiscrete([num_actions] * num_agents)
        self._target, self._mask = np.zeros(num_agents, np.int64), np.ones((0, 0), np.int8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: random targets."""
        super().reset(seed=seed)
        self._t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the next targets; raises ValueError for an unavailable action."""
        agents = np.arange(self.num_agents)
        if not self._mask[agents, action].all():
            raise ValueError(
                f"action {action} is not available, the masks are {self._mask.tolist()}"
            )
        rewards = ((action == self._target) & (self._alive() > 0)).astype(np.float32)
        self._t += 1
        obs = self._draw()
        return obs, float(rewards.sum()), self._t >= self._length, False, {"reward_parts": rewards}

    def _alive(self) -> np.ndarray:
        alive = np.ones(self.num_agents, np.int8)
        if self._t >= 2:
            alive[-1] = 0
        return alive

    def _draw(self) -> dict[str, np.ndarray]:
        count, alive = int(self.action_space.nvec[0]), self._alive()
        self._target = self.np_random.integers(0, count, self.num_agents)
        self._mask = self.np_random.integers(0, 2, (self.num_agents, count)).astype(np.int8)
        self._mask[np.arange(self.num_agents), self._target] = 1
        self._mask[alive == 0] = np.eye(count, dtype=np.int8)[0]
        seen = np.eye(count, dtype=np.float32)[self._target] * alive[:, None]
        state = np.append(self._target / count, self._t / self._length).astype(np.float32)
        mask = self._mask.reshape(-1).copy()
        return {"observation": seen, "action_mask": mask, "alive": alive, "state": state}


class AnySpaces(gym.Env):
    """Random observations of any space; the reward is a function of observation and action that no two share.

    Truncated after `length` steps; an action outside the space raises ValueError.

    Args:
      observation, action: spaces in the JSON form of `tfrl/spaces.py`.
    """

    def __init__(self, observation: dict, action: dict, length: int = 8):
        self.observation_space = space_lib.from_json(observation)
        self.action_space = space_lib.from_json(action)
        self._length, self._t, self._obs = length, 0, None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`: a sample of the space."""
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self._t, self._obs = 0, self.observation_space.sample()
        return self._obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: another sample; raises ValueError for an action outside the space."""
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is outside {self.action_space}")
        parts = [*_numbers(self.observation_space, self._obs), *_numbers(self.action_space, action)]
        phase = sum(float(np.tanh(x / 100.0).sum()) * (i + 1) for i, x in enumerate(parts))
        self._t, self._obs = self._t + 1, self.observation_space.sample()
        return self._obs, float(np.cos(phase)), False, self._t >= self._length, {}


def _numbers(space: gym.Space, value: Any) -> list[np.ndarray]:
    return [np.asarray(x, np.float64) for x in space_lib.leaf_values(space, value)]


class CrashingEnv(TruncatingChain):
    """A `TruncatingChain` that raises RuntimeError at its `crash_after`-th step, counted over all
    episodes."""

    def __init__(self, crash_after: int = 50, length: int = 10):
        super().__init__(length)
        self._left = crash_after

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Like `TruncatingChain.step`; raises RuntimeError at its time, and at every step after it."""
        self._left -= 1
        if self._left <= 0:
            raise RuntimeError("this environment crashes on purpose")
        return super().step(action)
