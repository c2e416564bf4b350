"""From gymnasium spaces to the few that algorithms see, and the casts between the two.

What the user's environment declares on the left, what `EnvSpec` says and arrays carry on the right:

  Box float64                        Box float32
  Box of any other dtype             unchanged
  Discrete(n, start)                 Discrete(n) int32, shifted to start at 0
  MultiDiscrete(nvec, start)         MultiDiscrete(nvec) int32, shifted to start at 0
  MultiBinary                        unchanged (int8)
  Dict, Tuple                        Dict, Tuple of the above; arrays in plain dicts and tuples
  `action_mask` of a Dict            Box(0, 1) float32, whatever the environment used
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from tfrl.config.settings import SettingError
from tfrl.types import ACTION_MASK

spaces = gym.spaces


class Leaf(NamedTuple):
    """One array of an observation: keys that lead to it, its shape and dtype after the cast,
    `start` to subtract."""

    path: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    start: Any


def observation_space(space: gym.Space, where: str) -> gym.Space:
    """The space of what comes out for an environment that declares `space`.

    Args:
      where: named in the error, e.g. "env='Foo-v0': observation_space".

    Raises:
      SettingError: a space with no fixed shape (Text, Sequence, Graph, OneOf), or a class of its
        own.
    """
    if isinstance(space, spaces.Dict):
        out = {}
        for key, inner in space.spaces.items():
            if key == ACTION_MASK:
                if not isinstance(inner, (spaces.Box, spaces.MultiBinary)) or len(inner.shape) != 1:
                    raise SettingError(
                        f"{where}[{key!r}] is {inner}: "
                        "expected a Box or MultiBinary of shape [num_actions]"
                    )
                out[key] = spaces.Box(0.0, 1.0, inner.shape, np.float32)
            else:
                out[key] = observation_space(inner, f"{where}[{key!r}]")
        return spaces.Dict(out)
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple(
            [observation_space(s, f"{where}[{i}]") for i, s in enumerate(space.spaces)]
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


def action_space(space: gym.Space, where: str) -> gym.Space:
    """The space of the actions that a policy must produce for an environment that declares `space`.

    Raises:
      SettingError: a space other than Discrete, MultiDiscrete, MultiBinary and Box.
    """
    if not isinstance(
        space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)
    ):
        raise SettingError(
            f"{where} is {space}: expected Discrete, MultiDiscrete, MultiBinary or Box"
        )
    return observation_space(space, where)


def _box(space: spaces.Box) -> spaces.Box:
    if space.dtype != np.float64:
        return space
    # Rounding is monotone, so a float64 value within its limits is within the rounded ones after
    # the cast.
    return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def leaves(space: gym.Space, path: tuple[Any, ...] = ()) -> list[Leaf]:
    """The arrays of an observation, in the order of `pack`; `space` is the environment's own."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, inner in space.spaces.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [leaf for i, inner in enumerate(space.spaces) for leaf in leaves(inner, (*path, i))]
    if path and path[-1] == ACTION_MASK:
        return [Leaf(path, space.shape, np.dtype(np.float32), 0)]
    start = getattr(space, "start", 0)
    out = observation_space(space, "observation_space")
    return [Leaf(path, out.shape, out.dtype, start if np.any(start) else 0)]


def pack(space: gym.Space, arrays: list[np.ndarray]) -> Any:
    """Puts the arrays of `leaves(space)` back into dicts and tuples."""
    return _pack(space, iter(arrays))


def _pack(space: gym.Space, arrays: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _pack(inner, arrays) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_pack(inner, arrays) for inner in space.spaces)
    return next(arrays)


def at(nest: Any, path: tuple[Any, ...]) -> Any:
    """The part of a nest that `path` leads to."""
    for key in path:
        nest = nest[key]
    return nest


def action_cast(space: gym.Space) -> Callable[[np.ndarray], np.ndarray] | None:
    """A function from a policy's actions [B, ...] to the environment's, or None where they are the
    same.

    Discrete and MultiDiscrete are shifted by `start`; Box is cast to the environment's dtype, then
    clipped to its limits (in that order: float32 0.1 is above float64 0.1).
    """
    if isinstance(space, spaces.Box):
        dtype, low, high = space.dtype, space.low, space.high
        if not (np.isfinite(low).any() or np.isfinite(high).any()):
            return lambda action: action.astype(dtype, copy=False)
        return lambda action: np.minimum(np.maximum(action.astype(dtype, copy=False), low), high)
    start = getattr(space, "start", 0)
    return (lambda action: action + start) if np.any(start) else None
