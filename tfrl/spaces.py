"""Gymnasium spaces as data: their JSON form, their parts, and the names of these.

One rule turns any key of a Dict into a name of ASCII letters, digits and underscores, so that it can be an input of a
SavedModel, a column of a table, a file or a metric. No two keys have the same name:

  letters, digits           as they are, and so is an underscore between two of them (unless `0x` follows it)
  any other character       `_0x<hex>_`, its code point: "arm left" is arm_0x20_left
  an integer key            `_i3`, or `_m3` for -3
  a key inside another      joined by two underscores: arm__left; the parts of a Tuple are 0, 1, ...

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from tfrl.errors import SettingError

_PLAIN = re.compile(r"[A-Za-z0-9]|(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])(?!0x)")
_KINDS = "Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple"

spaces = gym.spaces


def key_name(key: Any, where: str = "space") -> str:
    """The name of one key of a Dict, see above.

    Args:
      where: named in the error, e.g. "env='Foo-v0': observation_space".

    Raises:
      SettingError: a key that is neither a string nor an integer.
    """
    if isinstance(key, str):
        plain = {match.start() for match in _PLAIN.finditer(key)}
        return "".join(c if i in plain else f"_0x{ord(c):X}_" for i, c in enumerate(key)) or "_"
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return f"_i{key}" if key >= 0 else f"_m{-key}"
    raise SettingError(f"{where} has the key {key!r}: expected a string or an integer")


def path_name(prefix: str, path: Sequence[str | int]) -> str:
    """The name of a part: `prefix`, or `prefix_` and the names of the keys that lead to it, joined by two underscores.

    Args:
      path: names of keys (`key_name`), and indices of Tuples.
    """
    return f"{prefix}_{'__'.join(map(str, path))}" if path else prefix


def parts(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, gym.Space]]:
    """(key or index, space) of each part, in the order of the space."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    return list(enumerate(space.spaces))


def part_names(space: spaces.Dict | spaces.Tuple) -> list[Any]:
    """The names of the keys of a Dict, or the indices of a Tuple, in the order of the space."""
    keys = [key for key, _ in parts(space)]
    return [key_name(key) for key in keys] if isinstance(space, spaces.Dict) else keys


def join(space: spaces.Dict | spaces.Tuple, values: Sequence[Any]) -> Any:
    """The values of `parts` as a dict or a tuple."""
    return dict(zip(space.spaces, values)) if isinstance(space, spaces.Dict) else tuple(values)


def leaves(space: gym.Space, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple, gym.Space]]:
    """(path, space) of every part that is no Dict or Tuple itself, in the order of the space."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for key, part in parts(space):
            yield from leaves(part, (*path, key))
    else:
        yield path, space


def leaf_spaces(space: gym.Space) -> list[gym.Space]:
    """Every part that is no Dict or Tuple itself, in the order of the space."""
    return [part for _, part in leaves(space)]


def map_leaves(fn: Callable[..., Any], space: gym.Space, *nests: Any) -> Any:
    """A nest of dicts and tuples like `space` of `fn(part, *values)` for each part that is no Dict or Tuple itself.

    Args:
      fn: called in the order of the space.
      nests: of the values, each like the space.
    """
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return fn(space, *nests)
    found = [map_leaves(fn, part, *(nest[key] for nest in nests)) for key, part in parts(space)]
    return join(space, found)


def leaf_values(space: gym.Space, nest: Any) -> list[Any]:
    """The values of a nest like `space`, in the order of `leaves`."""
    found: list[Any] = []
    map_leaves(lambda _, value: found.append(value), space, nest)
    return found


def map_space(fn: Callable[[gym.Space], gym.Space], space: gym.Space) -> gym.Space:
    """The space with `fn(part)` in the place of each part that is no Dict or Tuple itself."""
    if isinstance(space, spaces.Dict):  # pairs keep their order; gymnasium sorts the keys of a dict
        return spaces.Dict([(key, map_space(fn, part)) for key, part in parts(space)])
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([map_space(fn, part) for _, part in parts(space)])
    return fn(space)


def to_json(space: gym.Space) -> dict[str, Any]:
    """A space as what JSON holds; `from_json` gives an equal one, limits bit for bit.

    Raises:
      SettingError: a space of another kind, or a key that is neither a string nor an integer.
    """
    kind = type(space).__name__
    if isinstance(space, spaces.Dict):
        for key in space.spaces:
            key_name(key)
        return {"kind": "Dict", "spaces": [[_key(k), to_json(s)] for k, s in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"kind": "Tuple", "spaces": [to_json(s) for s in space.spaces]}
    if isinstance(space, spaces.Box):
        low = _limits(space.low, space.bounded_below, "-inf")
        high = _limits(space.high, space.bounded_above, "inf")
        shape = list(space.shape)
        return {"kind": "Box", "low": low, "high": high, "shape": shape, "dtype": space.dtype.name}
    if isinstance(space, spaces.Discrete):
        numbers = {"n": int(space.n), "start": int(space.start)}
        return {"kind": "Discrete", **numbers, "dtype": space.dtype.name}
    if isinstance(space, spaces.MultiDiscrete):
        arrays = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"kind": "MultiDiscrete", **arrays, "dtype": space.dtype.name}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "shape": list(space.shape), "flat": isinstance(space.n, int)}
    raise SettingError(f"a {kind} has no JSON form: expected {_KINDS}")


def from_json(value: Mapping[str, Any]) -> gym.Space:
    """The space of which `to_json` made `value`.

    Raises:
      SettingError: it is not that of a space.
    """
    try:
        return _READERS[value["kind"]](value)
    except SettingError:
        raise
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError) as error:
        raise SettingError(
            f"{str(value)[:200]} is not the JSON form of a space ({type(error).__name__}: {error})"
        ) from error


def _key(key: Any) -> str | int:
    return str(key) if isinstance(key, str) else int(key)


def _limits(limits: np.ndarray, bounded: np.ndarray, infinity: str) -> Any:
    """Limits as nested lists, or one number where all are alike; `infinity` where there is none."""
    values = np.where(bounded, limits.astype(object), infinity)
    flat = values.reshape(-1).tolist()
    if flat and all(x == flat[0] for x in flat):
        return flat[0]
    return values.tolist()


def _box(value: Mapping[str, Any]) -> spaces.Box:
    dtype, shape = np.dtype(value["dtype"]), tuple(value["shape"])

    def read(limits: Any, infinity: str) -> tuple[np.ndarray, np.ndarray]:
        array = np.broadcast_to(np.array(limits, object), shape)
        bounded = array != infinity
        whole = np.iinfo(dtype) if dtype.kind in "iu" else None
        edge = (whole.min if infinity == "-inf" else whole.max) if whole else float(infinity)
        return np.where(bounded, array, edge).astype(dtype), bounded.astype(bool)

    (low, below), (high, above) = read(value["low"], "-inf"), read(value["high"], "inf")
    space = spaces.Box(low, high, dtype=dtype)
    space.bounded_below, space.bounded_above = below, above  # a whole number has no infinity
    return space


def _discrete(value: Mapping[str, Any]) -> spaces.Discrete:
    return spaces.Discrete(value["n"], start=value["start"], dtype=np.dtype(value["dtype"]))


def _multi_discrete(value: Mapping[str, Any]) -> spaces.MultiDiscrete:
    dtype = np.dtype(value["dtype"])
    return spaces.MultiDiscrete(value["nvec"], dtype=dtype, start=value["start"])


def _multi_binary(value: Mapping[str, Any]) -> spaces.MultiBinary:
    shape = value["shape"]
    return spaces.MultiBinary(shape[0] if value["flat"] else shape)


_READERS = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    # A list of pairs keeps its order; gymnasium sorts the keys of a dict.
    "Dict": lambda value: spaces.Dict([(k, from_json(s)) for k, s in value["spaces"]]),
    "Tuple": lambda value: spaces.Tuple([from_json(s) for s in value["spaces"]]),
}
