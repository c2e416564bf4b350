"""A nest of plain data and arrays as one npz file, which holds no code: it is read without pickle."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from tfrl.runtime.storage.checkpoint_files import damaged

_TREE = "tree"  # name of the array with the nest as JSON; the others are its arrays, by number
_ARRAY, _NUMBER, _TUPLE, _DICT, _BYTES = "array", "number", "tuple", "dict", "bytes"


def write(path: pathlib.Path, nest: Any) -> None:
    """Writes a nest of None, bool, int, float, str, bytes, NumPy numbers and arrays in lists, tuples and dicts.

    Raises:
      TypeError: something else is in it; arrays of objects too.
    """
    arrays: list[np.ndarray] = []

    def plain(value: Any) -> Any:
        if value is None or value.__class__ in (bool, int, float, str):
            return value
        if isinstance(value, list):
            return [plain(part) for part in value]
        if isinstance(value, tuple):
            return {_TUPLE: [plain(part) for part in value]}
        if isinstance(value, dict):
            return {_DICT: [[plain(key), plain(part)] for key, part in value.items()]}
        if isinstance(value, bytes):
            kind, value = _BYTES, np.frombuffer(value, np.uint8)
        else:
            kind = _NUMBER if isinstance(value, np.generic) else _ARRAY
        if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.hasobject:
            raise TypeError(f"{type(value).__name__} is neither plain data nor an array of numbers")
        arrays.append(np.asarray(value))
        return {kind: len(arrays) - 1}

    tree = np.frombuffer(json.dumps(plain(nest)).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez(file, **{_TREE: tree}, **{f"{i}": x for i, x in enumerate(arrays)})


def read(path: pathlib.Path) -> Any:
    """The nest that `write` wrote.

    Raises:
      SettingError: the file is damaged.
    """

    def nest(value: Any) -> Any:
        if isinstance(value, list):
            return [nest(part) for part in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == _TUPLE:
            return tuple(nest(part) for part in content)
        if kind == _DICT:
            return {nest(key): nest(part) for key, part in content}
        array = stored[str(content)]
        return {_ARRAY: lambda: array, _NUMBER: lambda: array[()], _BYTES: array.tobytes}[kind]()

    try:
        with np.load(path, allow_pickle=False) as stored:
            return nest(json.loads(stored[_TREE].tobytes()))
    except OSError:
        raise
    except Exception as error:  # whatever the parsers of NumPy and JSON stumble over
        raise damaged(path, error) from error
