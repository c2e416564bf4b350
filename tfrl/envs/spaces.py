"""From gymnasium spaces to the few that algorithms see, and the casts between the two.

Left: the space of the user's environment. Right: the space in `EnvSpec`, which arrays follow.

  Box float64                        Box float32
  Box of any other dtype             unchanged
  Discrete(n, start)                 Discrete(n) int32, shifted to start at 0
  MultiDiscrete(nvec, start)         MultiDiscrete(nvec) int32, shifted to start at 0
  MultiBinary                        unchanged (int8)
  Dict, Tuple                        Dict, Tuple of the above; arrays in plain dicts and tuples
  `action_mask`, `alive`, `labels`   Box(0, 1) float32, whatever the environment used; side inputs, see `types.py`
  keys of a Dict                     their names, see `tfrl/spaces.py`: most are their own

The same casts as graphs, for exported policies, are in `tfrl/runtime/serving/translate.py`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from tfrl.errors import SettingError
from tfrl.spaces import join, key_name, part_names, parts
from tfrl.types import ACTION_FEATURES, ACTION_MASK, ALIVE, EXPERT, SIDE_INPUTS, STATE, side_inputs

spaces = gym.spaces


class Leaf(NamedTuple):
    """One array of an observation.

    Attributes:
      path: keys that lead to it in what the environment gives.
      names: keys that lead to it after the cast.
      shape, dtype: after the cast.
      start: to subtract from it: 0, or an int64 array or scalar.
    """

    path: tuple[Any, ...]
    names: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    start: Any

    def count_from_zero(self, value: Any) -> Any:
        """The environment's value less `start`, in int64: a narrow dtype may not hold the difference."""
        if isinstance(self.start, int):
            return value
        return np.subtract(value, self.start, dtype=np.int64, casting="unsafe")


class Declared(NamedTuple):
    """Attributes that an environment may declare beside its spaces; `EnvSpec` has the same.

    Attributes:
      num_agents: int, agents of a team that acts as one environment.
      reward_parts: names of the numbers in `info["reward_parts"]` of every step.
      step_discount: True where `info["discount"]` of every step is the environment's own discount.
      goals: see `EnvSpec`.
    """

    num_agents: int = 1
    reward_parts: tuple[str, ...] = ()
    step_discount: bool = False
    goals: Mapping[str, Any] | None = None


def declared(env: gym.Env | gym.vector.VectorEnv, where: str) -> Declared:
    """Reads the attributes of `Declared` from an environment or from one inside its wrappers.

    Args:
      where: named in the error, e.g. "env='Foo-v0'".

    Raises:
      SettingError: a number of agents below 1, or parts that are not different names of letters, digits, '_', '.', '-'.
    """
    found = {}
    for name in Declared._fields:
        inner: Any = env
        while inner is not None and name not in found:
            value = inspect.getattr_static(inner, name, None)
            if value is not None:
                found[name] = getattr(inner, name)
            inner = (
                inner.env if isinstance(inner, (gym.Wrapper, gym.vector.VectorWrapper)) else None
            )
    agents, parts = found.get("num_agents", 1), found.get("reward_parts", ())
    if isinstance(agents, bool) or not isinstance(agents, (int, np.integer)) or agents < 1:
        raise SettingError(f"{where}: num_agents is {agents!r}; expected a whole number from 1 on")
    names = [] if isinstance(parts, str) else list(parts)
    good = [isinstance(n, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", n) for n in names]
    if isinstance(parts, str) or not all(good) or len({*names}) < len(names):
        raise SettingError(
            f"{where}: reward_parts is {parts!r}; expected different names of letters, digits, '_', '.', '-'"
        )
    goals = found.get("goals")
    if goals is not None and (not isinstance(goals, Mapping) or {*goals} != {"function", "kwargs"}):
        raise SettingError(
            f"{where}: goals is {goals!r}; expected {{'function': 'package.module:name', 'kwargs': {{...}}}}"
        )
    return Declared(int(agents), tuple(names), bool(found.get("step_discount", False)), goals)


def observation_space(space: gym.Space, where: str, root: bool = True) -> gym.Space:
    """The space of what comes out for an environment that declares `space`.

    Args:
      where: named in the error, e.g. "env='Foo-v0': observation_space".
      root: `space` is the whole observation, whose side inputs are parts of it.

    Raises:
      SettingError: a space with no fixed shape (Text, Sequence, Graph, OneOf), or a class of its
        own; a key of a Dict that is neither a string nor an integer.
    """
    if isinstance(space, spaces.Dict):
        out = {}
        for key, inner in space.spaces.items():
            name = key_name(key, where)
            if _is_flag(key, root):
                if not isinstance(inner, (spaces.Box, spaces.MultiBinary)) or len(inner.shape) != 1:
                    raise SettingError(
                        f"{where}[{key!r}] is {inner}: "
                        f"expected a Box or MultiBinary of shape {SIDE_INPUTS[key].shape}"
                    )
                out[name] = spaces.Box(0.0, 1.0, inner.shape, np.float32)
            else:
                out[name] = observation_space(inner, f"{where}[{key!r}]", False)
        return spaces.Dict(out)
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple(
            [observation_space(s, f"{where}[{i}]", False) for i, s in enumerate(space.spaces)]
        )
    if isinstance(space, spaces.Box):
        return _box(space)
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n), dtype=np.int32)
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.astype(np.int32), dtype=np.int32)
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiBinary(space.n)
    raise SettingError(
        f"{where} is {space}: "
        "expected Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them"
    )


def served(space: gym.Space) -> bool:
    """Whether `observation_space` takes the space."""
    try:
        observation_space(space, "")
    except SettingError:
        return False
    return True


def action_space(space: gym.Space, where: str) -> gym.Space:
    """The space of the actions that a policy must produce for an environment that declares `space`.

    Raises:
      SettingError: a space with no fixed shape, a class of its own, or a Dict or Tuple without parts.
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)) and not len(space.spaces):
        raise SettingError(f"{where} is {space}: expected at least one part")
    if isinstance(space, spaces.Dict):
        # Pairs keep their order, which a mask follows; gymnasium sorts the keys of a dict.
        return spaces.Dict(
            [
                (key_name(k, where), action_space(s, f"{where}[{k!r}]"))
                for k, s in space.spaces.items()
            ]
        )
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([action_space(s, f"{where}[{i}]") for i, s in enumerate(space.spaces)])
    return observation_space(space, where, False)


def _is_flag(key: Any, root: bool) -> bool:
    """Whether a part of a Dict holds flags; the mask does at any depth."""
    return key == ACTION_MASK or root and key in SIDE_INPUTS and SIDE_INPUTS[key].is_flag


def side_input_problems(observations: gym.Space, actions: gym.Space, num_agents: int) -> list[str]:
    """Errors in the side inputs of an observation space, one sentence each.

    Args:
      observations, actions: as the environment declares them.
      num_agents: of `EnvSpec`.
    """
    found = side_inputs(observations)
    problems = []
    if ACTION_FEATURES in found:
        space, count = found[ACTION_FEATURES], getattr(actions, "n", None)
        fits = isinstance(actions, spaces.Discrete) and isinstance(space, spaces.Box)
        if not fits or len(space.shape) != 2 or space.shape[0] != count:
            problems.append(
                f"{ACTION_FEATURES} is {space} and action_space is {actions}: "
                "expected a Box of shape [num_actions, features] and Discrete actions"
            )
    if ACTION_MASK in found:
        size, space = mask_size(actions), found[ACTION_MASK]
        if not size:
            problems.append(
                f"the observation has an {ACTION_MASK}, but action_space is {actions}: "
                "expected Discrete, MultiDiscrete, or a Dict or Tuple with one of them"
            )
        elif space.shape != (size,):
            problems.append(
                f"{ACTION_MASK} has shape {list(space.shape)}, the action space {actions}; "
                f"expected [{size}], one entry for each choice"
            )
    if STATE in found and not isinstance(found[STATE], spaces.Box):
        problems.append(f"{STATE} is {found[STATE]}; expected a Box")
    if ALIVE in found and found[ALIVE].shape != (num_agents,):
        problems.append(
            f"{ALIVE} is {found[ALIVE]}; expected a Box or MultiBinary of shape [{num_agents}], one entry for each of "
            f"num_agents={num_agents}"
        )
    if EXPERT in found and not _same_form(found[EXPERT], actions):
        problems.append(f"{EXPERT} is {found[EXPERT]}; expected the form of action_space {actions}")
    return problems


def _same_form(one: gym.Space, other: gym.Space) -> bool:
    """Whether values of the spaces have the same parts, kinds and shapes; limits may differ."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (spaces.Dict, spaces.Tuple)):
        inner = zip(parts(one), parts(other))
        same_keys = part_names(one) == part_names(other)
        return same_keys and all(_same_form(a, b) for (_, a), (_, b) in inner)
    return one.shape == other.shape and getattr(one, "n", 0) == getattr(other, "n", 0)


def _box(space: spaces.Box) -> spaces.Box:
    if space.dtype != np.float64:
        return space
    # Rounding is monotone, so a float64 value within its limits is within the rounded ones after
    # the cast.
    return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def leaves(space: gym.Space, path: tuple[Any, ...] = (), names: tuple[Any, ...] = ()) -> list[Leaf]:
    """The arrays of an observation, in the order of `packer`; `space` is the environment's own."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        found = zip(parts(space), part_names(space))
        return [x for (key, s), n in found for x in leaves(s, (*path, key), (*names, n))]
    if path and _is_flag(path[-1], len(path) == 1):
        return [Leaf(path, names, space.shape, np.dtype(np.float32), 0)]
    start = np.asarray(getattr(space, "start", 0)).astype(np.int64)
    out = observation_space(space, "observation_space", False)
    return [Leaf(path, names, out.shape, out.dtype, start if np.any(start) else 0)]


def packer(space: gym.Space) -> Callable[[list[np.ndarray]], Any]:
    """A function that puts the arrays of `leaves(space)`, after the cast, into dicts and tuples."""

    def prepare(space: gym.Space) -> Callable[[Iterator[np.ndarray]], Any]:
        if not isinstance(space, (spaces.Dict, spaces.Tuple)):
            return next
        inner = [prepare(part) for _, part in parts(space)]
        if isinstance(space, spaces.Tuple):
            return lambda arrays: tuple(pack(arrays) for pack in inner)
        named = list(zip(part_names(space), inner))
        return lambda arrays: {name: pack(arrays) for name, pack in named}

    pack = prepare(space)
    return lambda arrays: pack(iter(arrays))


def at(nest: Any, path: tuple[Any, ...]) -> Any:
    """The part of a nest that `path` leads to."""
    for key in path:
        nest = nest[key]
    return nest


def action_cast(space: gym.Space) -> Callable[[Any], Any] | None:
    """A function from a policy's actions, leaves [B, ...], to the environment's, or None where they
    are the same.

    Discrete and MultiDiscrete are shifted by `start`; Box is cast to the environment's dtype, then
    clipped to its limits (in that order: float32 0.1 is above float64 0.1). Dict and Tuple: each
    part, under the environment's own key.
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        names, found = part_names(space), parts(space)
        casts = [action_cast(part) for _, part in found]
        if not any(casts) and names == [key for key, _ in found]:
            return None
        return lambda action: join(
            space, [f(action[n]) if f else action[n] for n, f in zip(names, casts)]
        )
    if isinstance(space, spaces.Box):
        dtype, low, high = space.dtype, space.low, space.high
        if not (np.isfinite(low).any() or np.isfinite(high).any()):
            return lambda action: action.astype(dtype, copy=False)
        return lambda action: np.minimum(np.maximum(action.astype(dtype, copy=False), low), high)
    if isinstance(space, spaces.MultiBinary):
        return None
    start = space.start.astype(np.int64)
    if np.any(start) or not np.can_cast(np.int32, space.dtype):
        return lambda action: (action + start).astype(space.dtype)
    return None


def action_rows(space: gym.Space) -> Callable[[Any], Any] | None:
    """A function from the environment's actions, leaves [B, ...], to B actions as `space.sample()`
    gives them, or None where the rows of the one array are those."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        keys = [key for key, _ in parts(space)]
        splits = [action_rows(part) for _, part in parts(space)]

        def split(action: Any) -> list[Any]:
            columns = [f(action[k]) if f else action[k] for k, f in zip(keys, splits)]
            return [join(space, row) for row in zip(*columns)]

        return split
    if isinstance(space, spaces.Discrete):
        return lambda action: action.tolist()
    if not space.shape:  # indexing would give scalars, which a Box does not contain
        return lambda action: [action[i, ...] for i in range(len(action))]
    return None


def mask_size(space: gym.Space) -> int:
    """Entries of the action mask for an action space: one per choice of its Discrete and
    MultiDiscrete parts, in the order of the space; 0 if it has none."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return sum(mask_size(part) for _, part in parts(space))
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return int(space.n) if isinstance(space, spaces.Discrete) else 0


def mask_starts(space: gym.Space) -> np.ndarray:
    """Index of the first entry of each choice in the action mask for an action space, int64 [choices]."""

    def sizes(space: gym.Space) -> list[int]:
        if isinstance(space, (spaces.Dict, spaces.Tuple)):
            return [size for _, part in parts(space) for size in sizes(part)]
        if isinstance(space, spaces.MultiDiscrete):
            return space.nvec.reshape(-1).tolist()
        return [int(space.n)] if isinstance(space, spaces.Discrete) else []

    return np.cumsum([0, *sizes(space)[:-1]])


def split_mask(space: gym.Space, mask: np.ndarray) -> Any:
    """A mask [mask_size(space)] as `space.sample` takes it: int8, None where nothing is masked."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        inner = [part for _, part in parts(space)]
        pieces = np.split(mask, np.cumsum([mask_size(part) for part in inner])[:-1])
        return join(space, [split_mask(part, piece) for part, piece in zip(inner, pieces)])
    if isinstance(space, spaces.Discrete):
        return mask.astype(np.int8)
    if not isinstance(space, spaces.MultiDiscrete):
        return None
    nvec = space.nvec
    pieces = np.split(mask.astype(np.int8), np.cumsum(nvec.reshape(-1))[:-1])

    def nest(pieces: list[np.ndarray], shape: tuple[int, ...]) -> Any:
        if len(shape) == 1:
            return tuple(pieces)
        width = len(pieces) // shape[0]
        rows = (pieces[i * width : (i + 1) * width] for i in range(shape[0]))
        return tuple(nest(row, shape[1:]) for row in rows)

    return nest(pieces, nvec.shape)
