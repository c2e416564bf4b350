"""PettingZoo environments as teams: many agents with dicts of their own become one environment row.

The form of the row is that of `envs/team.py`. Unequal observations are padded with zeros to the widest, unequal numbers
of actions to the largest, and what was padded is never available. Nothing here imports PettingZoo but the conversion
of an AEC environment: whatever has the methods of a parallel environment is one.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from tfrl.envs import spaces as space_lib
from tfrl.envs.boundary import FLAGS, MOST, NUMBERS, is_finite, kind, part_name
from tfrl.errors import SettingError
from tfrl.settings import nearest
from tfrl.spaces import leaf_spaces
from tfrl.types import ACTION_MASK

spaces = gym.spaces


# Packages whose environments have ids: 'mpe2/simple_spread_v3', 'pettingzoo/butterfly/pistonball_v6'.
PACKAGES = ("mpe2", "pettingzoo")


def factory(name: str) -> Callable[..., Any]:
    """The function that builds the environment of an id; parallel where the package has it so.

    Raises:
      SettingError: a package is missing, or has no environment of this name.
    """
    package, *rest = name.split("/")
    if any(importlib.util.find_spec(needed) is None for needed in (package, "pettingzoo")):
        raise SettingError(f"env={name!r}: a package is missing; pip install 'tfrl[teams]'")
    path = ".".join((package, *rest))
    known = _known(package)
    if name not in known:
        raise SettingError(
            f"env={name!r}: {package} has no environment of this name{nearest(name, known)}"
        )
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise SettingError(f"env={name!r}: a package is missing: {error}") from error
    return getattr(module, "parallel_env", None) or module.env


def _known(package: str) -> list[str]:
    """The ids of a package, by its files."""
    spec = importlib.util.find_spec(package)
    found = []
    for folder in spec.submodule_search_locations or ():
        root = pathlib.Path(folder)
        files = (path.relative_to(root).with_suffix("") for path in root.rglob("*_v*.py"))
        found += ["/".join((package, *path.parts)) for path in files]
    return [name for name in found if re.fullmatch(r"[\w/]+_v\d+", name)]


def is_team(value: Any) -> bool:
    """Whether an object is an environment of PettingZoo's kinds, parallel or AEC."""
    if isinstance(value, (gym.Env, type)):
        return False
    methods = ("reset", "step", "observation_space", "action_space")
    return all(callable(getattr(value, name, None)) for name in methods)


class Team(gym.Env):
    """A PettingZoo environment as one row whose agents act together.

    Its agents are all of `possible_agents`; the team ends when all of them are done. One that is done earlier, or not
    yet there, has a zero observation, `alive` 0, reward 0 and action 0. The last observations of agents that end with
    the team stay: after a truncation a value follows them, after a termination they show what was reached.

    An action mask is taken from the observation, where that is a Dict with `action_mask`, or from the info of an
    agent. `state` is that of the environment; one that is an image is left out.

    Attributes:
      env: the parallel environment.
      agents: ids of the agents, in the order of all arrays.
      num_agents: N.
      reward_parts: the ids as names of letters, digits, '_', '.', '-'.
    """

    def __init__(
        self, env: Any, groups: Mapping[str, Sequence[Any]] | None = None, where: str = ""
    ):
        """Takes over an environment.

        Args:
          env: parallel, or AEC with agents that act at the same time (`metadata["is_parallelizable"]`).
          groups: None, or one group with the ids of all agents, in the order in which arrays are to have them.
          where: named in errors, e.g. "env='package.module:factory'"; '' for the class of `env`.

        Raises:
          SettingError: agents in no group or in two, spaces that cannot be padded to one form, or agents that take
            turns.
        """
        self._where = where or type(env).__name__
        self.env = env = _parallel(env, self._where)
        self.agents = _order(env, groups, self._where)
        self.num_agents = len(self.agents)
        self.reward_parts = _names(self.agents)
        self.metadata = {"render_fps": 10, **getattr(env, "metadata", {})}
        self.render_mode = getattr(env, "render_mode", None)
        self._views = [
            _View(env.observation_space(a), f"{self._where}: agent {a!r}") for a in self.agents
        ]
        self._images = _equal_images(self._views)
        self._actions = _actions(env, self.agents, self._where)
        self.action_space = self._actions.space
        self._state_space = _state_space(env, self._where)
        parts: dict[str, gym.Space] = {
            "observation": self._images or _padded(self._views),
            "alive": spaces.MultiBinary(self.num_agents),
        }
        if self._actions.masks:
            parts[ACTION_MASK] = spaces.MultiBinary(self._actions.masks.size)
        if self._state_space is not None:
            parts["state"] = spaces.Box(-np.inf, np.inf, (self._state_space.size,), np.float32)
        self.observation_space = spaces.Dict(parts)
        self._form = parts["observation"].shape, parts["observation"].dtype
        self._known, self._everyone = frozenset(self.agents), list(enumerate(self.agents))
        self._acting: list[tuple[int, Any]] = []  # (place, id) of the agents that are alive
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Implements `gymnasium.Env.reset`.

        Raises:
          SettingError: it returned something else, or no observation of an agent that is there.
        """
        super().reset(seed=seed)
        result = self.env.reset(seed=seed, options=options)
        self._steps = 0
        observations, infos = self._dicts("reset", result, ("observations", "infos"))
        self._check_known(observations)
        there = set(self.env.agents)
        alive = [agent in there for agent in self.agents]
        self._acting = self._members(alive)
        self._check_there(self._acting, observations=observations)
        return self._observe(observations, infos, alive, False), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Implements `gymnasium.Env.step`: the reward is the sum of the agents' rewards, which the info has as parts.

        Raises:
          SettingError: something is missing in the dicts of a step, or an agent left without an end.
        """
        acting = self._acting
        actions = {agent: self._actions.of(i, action[i]) for i, agent in acting}
        result = self.env.step(actions)
        self._steps += 1
        observations, rewards, terminations, truncations, infos = self._dicts(
            "step", result, ("observations", "rewards", "terminations", "truncations", "infos")
        )
        self._check_known(observations)
        self._check_there(
            acting, rewards=rewards, terminations=terminations, truncations=truncations
        )
        # Who has come to an end, and who is there now. Teams are small: lists are faster than arrays.
        earned = [0.0] * self.num_agents
        ended, cut = [False] * self.num_agents, [False] * self.num_agents
        for i, agent in acting:
            earned[i] = self._reward(agent, rewards[agent])
            ended[i] = self._flag(agent, "termination", terminations[agent])
            cut[i] = self._flag(agent, "truncation", truncations[agent])
        there = set(self.env.agents)
        gone = [agent for i, agent in acting if not (ended[i] or cut[i] or agent in there)]
        if gone:
            raise SettingError(
                f"{self._where}: step {self._steps}: agents {gone} are gone from `agents` without a termination or a "
                "truncation"
            )
        shown = [agent in there and not (ended[i] or cut[i]) for i, agent in self._everyone]
        self._acting = self._members(shown)
        # The team ends with its last agents; where one was cut, a value follows its observation.
        over = not self._acting
        truncated = over and any(c and not e for c, e in zip(cut, ended))
        if truncated:
            shown = [c and not e for c, e in zip(cut, ended)]
        elif over:  # where the environment still gives their observations
            shown = [ended[i] and agent in observations for i, agent in self._everyone]
        self._check_there(self._members(shown), observations=observations)
        obs = self._observe(observations, infos, shown, over and not truncated)
        parts = np.array(earned, np.float32)
        reward = float(np.add.reduce(parts))
        return obs, reward, over and not truncated, truncated, {"reward_parts": parts}

    def render(self) -> Any:
        """Implements `gymnasium.Env.render`."""
        return self.env.render()

    def close(self) -> None:
        """Implements `gymnasium.Env.close`."""
        self.env.close()

    def _members(self, flags: Sequence[bool]) -> list[tuple[int, Any]]:
        """(place, id) of the agents whose flag is set."""
        return [member for member in self._everyone if flags[member[0]]]

    def _observe(
        self, observations: Mapping, infos: Mapping, shown: Sequence[bool], terminated: bool
    ) -> dict[str, np.ndarray]:
        """The observation of the row.

        Args:
          shown: [N], agents whose observations are read; zeros for the others.
          terminated: neither state nor masks are read, since nothing follows.
        """
        seen = np.zeros(*self._form)
        mask = self._actions.masks.none() if self._actions.masks else None
        for i, agent in self._members(shown):
            view = self._views[i]
            value = observations[agent]
            if self._images is None:
                view.flatten(value, seen[i])
            else:
                seen[i] = view.image(value)
            if mask is not None and not terminated:
                given = view.mask(value)
                if given is None:
                    given = self._info(agent, infos).get(ACTION_MASK)
                self._actions.masks.set(mask, i, given)
        if self._images is None and not is_finite(seen) and not np.isfinite(seen).all():
            i, at = (int(x) for x in np.argwhere(~np.isfinite(seen))[0])
            self._refuse(
                self.agents[i], f"number {at} of its observation is {seen[i, at]}", "finite numbers"
            )
        found = {"observation": seen, "alive": np.array(shown, np.int8)}
        if mask is not None:
            found[ACTION_MASK] = mask.reshape(-1)
        if self._state_space is not None:
            state = np.zeros(self._state_space.size, np.float32)
            if not terminated:
                self._state_space.flatten(self.env.state(), state)
            found["state"] = state
        return found

    def _dicts(self, call: str, result: Any, names: Sequence[str]) -> Sequence[Mapping]:
        """What `reset` or `step` returned; raises SettingError unless it is as many dicts by agent."""
        if not isinstance(result, (tuple, list)) or len(result) != len(names):
            raise SettingError(
                f"{self._where}: step {self._steps}: {call} returned {kind(result)}; expected the {len(names)} dicts "
                f"by agent ({', '.join(names)})"
            )
        for name, found in zip(names, result):
            if not isinstance(found, Mapping):
                raise SettingError(
                    f"{self._where}: step {self._steps}: {call} returned {name} that are {kind(found)}; expected a "
                    f"dict by agent, of {self.agents}"
                )
        return result

    def _reward(self, agent: Any, value: Any) -> float:
        """A reward as a number; raises SettingError for what is none of float32's range."""
        if value.__class__ not in NUMBERS:
            array = _array(value)
            if array.shape != () or array.dtype.kind not in "biuf":
                self._refuse(agent, f"its reward is {kind(value)}", "a number")
        number = float(value)
        if not -MOST <= number <= MOST:
            self._refuse(agent, f"its reward is {number}", "a finite number of float32's range")
        return number

    def _flag(self, agent: Any, name: str, value: Any) -> bool:
        """A flag as a bool; raises SettingError for what is none."""
        if value.__class__ not in FLAGS:
            array = _array(value)
            if array.shape != () or array.dtype.kind not in "biuf" or array not in (0, 1):
                self._refuse(agent, f"its {name} is {kind(value)}", "True or False")
        return bool(value)

    def _info(self, agent: Any, infos: Mapping) -> Mapping:
        """The info of an agent, empty where it has none."""
        info = infos.get(agent)
        if info is None:
            return {}
        if not isinstance(info, Mapping):
            self._refuse(agent, f"its info is {kind(info)}", "a dict")
        return info

    def _refuse(self, agent: Any, given: str, expected: str) -> NoReturn:
        raise SettingError(
            f"{self._where}: step {self._steps}: agent {agent!r}: {given}; expected {expected}"
        )

    def _check_known(self, observations: Mapping) -> None:
        if not (self._known.issuperset(observations) and self._known.issuperset(self.env.agents)):
            unknown = [a for a in (*observations, *self.env.agents) if a not in self._known]
            raise SettingError(
                f"{self._where}: step {self._steps}: agents {sorted({*map(str, unknown)})} are not among the team's "
                f"{self.agents}; its members are those of `possible_agents`"
            )

    def _check_there(self, members: Sequence[tuple[int, Any]], **dicts: Any) -> None:
        """Raises SettingError for a member that is missing in one of the dicts of a step."""
        for name, found in dicts.items():
            missing = [agent for _, agent in members if agent not in found]
            if missing:
                raise SettingError(
                    f"{self._where}: step {self._steps}: agents {missing} are missing in the {name}, which have "
                    f"{list(found)}; expected all that have not come to an end"
                )


def tuple_team(id: str, **kwargs: Any) -> Team:  # noqa: A002 - as in gymnasium.make
    """A gymnasium environment whose spaces are Tuples with a part for each agent, and whose reward is a list.

    Those of Level-Based Foraging are such: `--env=tfrl.envs.pettingzoo:tuple_team
    --env_kwargs='{"id": "lbforaging:Foraging-8x8-2p-2f-v3"}'`.

    Args:
      id, kwargs: for `gymnasium.make`.
    """
    where = f"tuple_team of {id!r}"
    return Team(_FromTuples(gym.make(id, disable_env_checker=True, **kwargs), where), where=where)


class _FromTuples:
    """The methods of a parallel environment over one with Tuple spaces; all agents end together."""

    def __init__(self, env: gym.Env, where: str):
        self._where = where
        if not all(isinstance(s, spaces.Tuple) for s in (env.observation_space, env.action_space)):
            raise SettingError(
                f"{where}: observation_space is {env.observation_space} and action_space "
                f"{env.action_space}; expected Tuples with a part for each agent"
            )
        self._env, self.render_mode = env, env.render_mode
        self.metadata = env.metadata
        self.possible_agents = [f"agent_{i}" for i in range(len(env.action_space.spaces))]
        self.agents = list(self.possible_agents)

    def observation_space(self, agent: str) -> gym.Space:
        return self._env.observation_space.spaces[self.possible_agents.index(agent)]

    def action_space(self, agent: str) -> gym.Space:
        return self._env.action_space.spaces[self.possible_agents.index(agent)]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        obs, _ = self._env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._by_agent("observation", obs), {}

    def step(self, actions: Mapping[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        joint = tuple(actions[agent] for agent in self.possible_agents)
        obs, rewards, terminated, truncated, _ = self._env.step(joint)
        agents = self.possible_agents
        self.agents = [] if terminated or truncated else list(agents)
        return (
            self._by_agent("observation", obs),
            self._by_agent("reward", rewards),
            dict.fromkeys(agents, bool(terminated)),
            dict.fromkeys(agents, bool(truncated)),
            {},
        )

    def _by_agent(self, name: str, parts: Any) -> dict[str, Any]:
        """A part for each agent; raises SettingError unless there are as many."""
        count = len(self.possible_agents)
        if not isinstance(parts, (tuple, list, np.ndarray)) or len(parts) != count:
            raise SettingError(
                f"{self._where}: the {name} is {kind(parts)}; expected {count}, one for each of {self.possible_agents}"
            )
        return dict(zip(self.possible_agents, parts))

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()


class _View:
    """How the observation of one agent becomes a vector of float32.

    Attributes:
      space: without an action mask.
      size: numbers of the vector.
      low, high: their limits, float32 [size].
    """

    def __init__(self, space: gym.Space, where: str):
        self._where = where
        self._key: Any = None  # of the part beside a mask, where that is the only one
        self.has_mask = isinstance(space, spaces.Dict) and ACTION_MASK in space.spaces
        if self.has_mask:
            rest = {k: s for k, s in space.spaces.items() if k != ACTION_MASK}
            if len(rest) == 1:
                ((self._key, space),) = rest.items()
            else:
                space = spaces.Dict(rest)
        space_lib.observation_space(space, f"{where}: observation_space", False)
        self.space = space
        # An array of the observation each, with the function that writes it and the place where it goes.
        self._parts = []
        low, high, start = [], [], 0
        for leaf, part in zip(space_lib.leaves(space), leaf_spaces(space), strict=True):
            write, least, most = _writer(part)
            self._parts.append((leaf.path, part, write, slice(start, start + len(least))))
            start += len(least)
            low.append(least)
            high.append(most)
        self.size = start
        if not start:
            raise SettingError(
                f"{where}: observation_space {space} has nothing that a network reads; expected at least one number"
            )
        self.low, self.high = np.concatenate(low), np.concatenate(high)

    def mask(self, value: Any) -> Any:
        """The action mask in an observation; None where it has none."""
        return self._at(value, (ACTION_MASK,)) if self.has_mask else None

    def image(self, value: Any) -> np.ndarray:
        """An observation that is one image."""
        return self._checked(self._inner(value), self.space, (self._key,) if self.has_mask else ())

    def flatten(self, value: Any, out: np.ndarray) -> None:
        """Writes an observation into the beginning of `out`."""
        value = self._inner(value)
        for path, space, write, place in self._parts:
            out[place] = write(self._checked(self._at(value, path), space, path))

    def _inner(self, value: Any) -> Any:
        return value if self._key is None else self._at(value, (self._key,))

    def _at(self, value: Any, path: tuple[Any, ...]) -> Any:
        try:
            return space_lib.at(value, path)
        except (KeyError, IndexError, TypeError):
            raise SettingError(
                f"{self._where}: {part_name(path)} is missing in {kind(value)}; expected all parts of its space"
            ) from None

    def _checked(self, value: Any, space: gym.Space, path: tuple[Any, ...]) -> np.ndarray:
        """The array of a part; raises SettingError for another shape, and for values that the space does not have."""
        is_box = isinstance(space, spaces.Box)
        if is_box and value.__class__ is np.ndarray:
            if value.dtype == space.dtype and value.shape == space.shape:
                return value
        array = _array(value)
        if array.shape != space.shape or array.dtype.kind not in "biuf":
            raise SettingError(
                f"{self._where}: {part_name(path)} is {kind(value)}; expected an array of {space.dtype} of shape "
                f"{list(space.shape)}, as in its space"
            )
        if is_box:
            # An image of bytes keeps its dtype; other Boxes become float32, and their limits may be loose.
            fits = not _is_image(space) or array.dtype == np.uint8 or not _lost(array, np.uint8)
            expected = f"bytes of shape {list(space.shape)}"
        elif isinstance(space, spaces.MultiBinary):
            fits, expected = bool(((array == 0) | (array == 1)).all()), "0 and 1"
        else:
            count = space.n if isinstance(space, spaces.Discrete) else space.nvec
            first, last = np.asarray(space.start), np.asarray(space.start + count - 1)
            fits = array.dtype.kind in "iu" and bool(((first <= array) & (array <= last)).all())
            expected = f"an integer from {first} to {last}"
            if array.ndim:
                expected = f"integers from {first.tolist()} to {last.tolist()}"
        if not fits:
            given = array.tolist() if array.size <= 20 else "an array with other values"
            raise SettingError(
                f"{self._where}: {part_name(path)} is {given} ({array.dtype}); expected {expected}, as in its space"
            )
        return array


def _array(value: Any) -> np.ndarray:
    """A value as an array; one of dtype object for lists of unequal lengths."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.empty((), object)


def _lost(array: np.ndarray, dtype: Any) -> bool:
    """Whether a cast would change a value."""
    with np.errstate(invalid="ignore"):
        return bool((array.astype(dtype) != array).any())


def _writer(space: gym.Space) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray, np.ndarray]:
    """The function from an array of a space to numbers float32, and their limits; by the rules of `nn/inputs.py`."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        counts = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec)
        counts = counts.reshape(-1).astype(np.int64)
        starts = np.cumsum([0, *counts[:-1]]) - np.reshape(space.start, -1)

        def one_hot(value: np.ndarray) -> np.ndarray:
            out = np.zeros(counts.sum(), np.float32)
            out[value.reshape(-1) + starts] = 1.0
            return out

        size = int(counts.sum())
        return one_hot, np.zeros(size, np.float32), np.ones(size, np.float32)
    size = int(np.prod(space.shape))
    if isinstance(space, spaces.MultiBinary):
        return lambda x: x.reshape(-1), np.zeros(size, np.float32), np.ones(size, np.float32)
    low, high = (np.asarray(x, np.float32).reshape(-1) for x in (space.low, space.high))
    if not _is_image(space):
        return lambda x: x.reshape(-1), low, high
    scale = np.float32(1 / 255)
    return lambda x: x.reshape(-1) * scale, low * scale, high * scale


def _is_image(space: gym.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


def _equal_images(views: Sequence[_View]) -> spaces.Box | None:
    """The space of all agents' images, if all have images of one shape."""
    first = views[0].space
    if not _is_image(first) or any(view.space != first for view in views):
        return None
    low, high = (np.stack([x] * len(views)) for x in (first.low, first.high))
    return spaces.Box(low, high, dtype=np.uint8)


def _padded(views: Sequence[_View]) -> spaces.Box:
    """The space of vectors [N, D] with zeros behind the shorter ones, and in the place of agents that are not there."""
    low, high = np.zeros((2, len(views), max(view.size for view in views)), np.float32)
    for i, view in enumerate(views):
        low[i, : view.size] = np.minimum(view.low, 0.0)
        high[i, : view.size] = np.maximum(view.high, 0.0)
    return spaces.Box(low, high, dtype=np.float32)


class _Masks:
    """Availability of actions, int8 [N, A].

    Attributes:
      size: N A.
    """

    def __init__(self, counts: Sequence[int], agents: Sequence[Any], where: str):
        self._counts, self._agents, self._where = counts, agents, where
        self.size = len(counts) * max(counts)

    def none(self) -> np.ndarray:
        """The mask where no agent is there: action 0 alone."""
        mask = np.zeros((len(self._counts), max(self._counts)), np.int8)
        mask[:, 0] = 1
        return mask

    def set(self, mask: np.ndarray, place: int, given: Any) -> None:
        """Enters what an agent may do: all of its actions where `given` is None."""
        count = self._counts[place]
        if given is None:
            mask[place, :count] = 1
            return
        flags = _array(given)
        where = f"{self._where}: {ACTION_MASK} of agent {self._agents[place]!r}"
        if flags.shape != (count,) or flags.dtype.kind not in "biuf":
            raise SettingError(f"{where} is {kind(given)}; expected flags [{count}]")
        if not flags.any():
            raise SettingError(
                f"{where} is {flags.tolist()}: it leaves no action; expected at least one flag that is not 0 until "
                "the agent is done"
            )
        mask[place, :count] = flags != 0


class _Actions:
    """The action space of the team, and the actions of its agents.

    Attributes:
      space: MultiDiscrete or Box.
      masks: of discrete actions; None of Boxes.
    """

    def __init__(self, each: Sequence[gym.Space], agents: Sequence[Any], where: str):
        self._each = each
        self._starts = [int(getattr(space, "start", 0)) for space in each]
        self.masks = None
        if isinstance(each[0], spaces.Discrete):
            counts = [int(space.n) for space in each]
            self.masks = _Masks(counts, agents, where)
            self.space: gym.Space = spaces.MultiDiscrete([max(counts)] * len(each))
            return
        sizes = [int(np.prod(space.shape)) for space in each]
        low, high = -np.ones((len(each), max(sizes))), np.ones((len(each), max(sizes)))
        for i, (space, size) in enumerate(zip(each, sizes)):
            low[i, :size], high[i, :size] = space.low.reshape(-1), space.high.reshape(-1)
        self.space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def of(self, place: int, action: Any) -> Any:
        """The action of one agent as its own space has it."""
        if self.masks:
            return int(action) + self._starts[place]
        space = self._each[place]
        size = int(np.prod(space.shape))
        own = np.asarray(action)[:size].reshape(space.shape).astype(space.dtype)
        return np.clip(own, space.low, space.high)


def _actions(env: Any, agents: Sequence[Any], where: str) -> _Actions:
    """The actions of a team; raises SettingError for spaces that are not all Discrete or all Boxes."""
    each = [env.action_space(agent) for agent in agents]
    for form in (spaces.Discrete, spaces.Box):
        if all(isinstance(space, form) for space in each):
            if form is spaces.Box and 0 in [np.prod(space.shape) for space in each]:
                break
            return _Actions(each, agents, where)
    found = ", ".join(f"{agent!r}: {space}" for agent, space in zip(agents, each))
    raise SettingError(
        f"{where}: action spaces of the agents are {found}; expected all Discrete, or all Boxes with numbers in them, "
        "which can be padded to one form"
    )


def _state_space(env: Any, where: str) -> _View | None:
    """How the global state becomes a vector; None without one, or of an image."""
    space = getattr(env, "state_space", None)
    if not isinstance(space, gym.Space) or _is_image(space):
        return None
    return _View(space, f"{where}: state")


def _parallel(env: Any, where: str) -> Any:
    """The parallel form of an environment."""
    if hasattr(env, "agent_iter"):  # AEC
        if not getattr(env, "metadata", {}).get("is_parallelizable", False):
            raise SettingError(
                f"{where}: its agents take turns; expected a parallel environment, or an AEC environment with "
                "metadata['is_parallelizable'], whose agents act at the same time"
            )
        env = importlib.import_module("pettingzoo.utils.conversions").aec_to_parallel(env)
    return env


def _order(env: Any, groups: Mapping[str, Sequence[Any]] | None, where: str) -> list[Any]:
    """The agents in the order of the group, or of `possible_agents`."""
    possible = list(getattr(env, "possible_agents", None) or ())
    if not possible:
        raise SettingError(
            f"{where}: no possible_agents; expected the ids of all agents that can be there, since a team has a fixed "
            "number of members"
        )
    if groups is None:
        return possible
    expected = f"expected one group of all agents, e.g. {{'team': {possible}}}"
    if not isinstance(groups, Mapping):
        raise SettingError(f"{where}: groups are {groups!r}; {expected}")
    for name, group in groups.items():
        if isinstance(group, str) or not isinstance(group, Sequence):
            raise SettingError(f"{where}: group {name!r} is {kind(group)}; {expected}")
    members = [agent for group in groups.values() for agent in group]
    twice = sorted({str(agent) for agent in members if members.count(agent) > 1})
    if twice:
        raise SettingError(f"{where}: agents {twice} are in two groups, or twice in one")
    unknown = [agent for agent in members if agent not in possible]
    if unknown:
        raise SettingError(f"{where}: agents {unknown} of the groups are not among {possible}")
    missing = [agent for agent in possible if agent not in members]
    why = "since one policy acts for the whole team"
    if len(groups) != 1:
        raise SettingError(
            f"{where}: there are {len(groups)} groups, {list(groups)}; {expected}, {why}"
        )
    if missing:
        (name,) = groups
        lack = f"agent {missing[0]!r} is" if len(missing) == 1 else f"agents {missing} are"
        raise SettingError(f"{where}: {lack} missing in group {name!r}; {expected}, {why}")
    return members


def _names(agents: Sequence[Any]) -> tuple[str, ...]:
    """Different names of letters, digits, '_', '.', '-' for ids."""
    names = [re.sub(r"[^A-Za-z0-9_.-]", "_", str(agent)) for agent in agents]
    return tuple(
        names if len({*names}) == len(names) else (f"agent_{i}" for i in range(len(names)))
    )
