"""Values of settings as JSON that reads back as the same values: tuples, keys that are no text, NumPy.

JSON alone turns a tuple into a list and a key 1 into "1", so a run folder would describe another environment. Values
that JSON has stay as they are. Anything else is an object with one key: `__tuple__`, `__items__` (a dict, as pairs),
`__array__` or `__scalar__` (of NumPy).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tfrl.errors import SettingError

TUPLE, ITEMS, ARRAY, SCALAR = "__tuple__", "__items__", "__array__", "__scalar__"
_TAGS = {TUPLE, ITEMS, ARRAY, SCALAR}
NUMBERS = "biuf"  # kinds of NumPy's dtypes


def encode(value: Any, where: str) -> Any:
    """`value` in the form that `decode` reads back.

    Args:
      where: names the value, for the message.

    Raises:
      SettingError: a value, or a part of one, without such a form.
    """
    if isinstance(value, str):
        return str(value)
    kind = _numpy_kind(value)
    if value is None or isinstance(value, (bool, int, float)) and not kind:
        return value
    if isinstance(value, list):
        return [encode(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, tuple):
        return {TUPLE: [encode(part, f"{where}[{i}]") for i, part in enumerate(value)]}
    if isinstance(value, Mapping):
        parts = {key: encode(part, f"{where}[{key!r}]") for key, part in value.items()}
        if all(type(key) is str for key in parts) and not _TAGS & set(parts):
            return parts
        return {ITEMS: [[encode(key, f"a key of {where}"), part] for key, part in parts.items()]}
    if kind and value.dtype.kind in NUMBERS:
        if kind == SCALAR:
            return {SCALAR: [value.dtype.str, value.item()]}
        return {ARRAY: [value.dtype.str, list(value.shape), value.ravel().tolist()]}
    raise SettingError(
        f"{where}: a {type(value).__module__}.{type(value).__qualname__} cannot be written to job.json; expected "
        "numbers, text, lists, tuples, dicts and NumPy arrays of numbers"
    )


def decode(value: Any) -> Any:
    """The value that `encode` was given.

    Raises:
      ValueError, TypeError, KeyError: not what `encode` gives.
    """
    if isinstance(value, list):
        return [decode(part) for part in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and _TAGS & set(value):
        ((tag, content),) = value.items()
        if tag == TUPLE:
            return tuple(decode(part) for part in content)
        if tag == ITEMS:
            return {decode(key): decode(part) for key, part in content}
        import numpy as np

        dtype = np.dtype(content[0])
        if dtype.kind not in NUMBERS:
            raise ValueError(f"an array of {dtype}")
        if tag == ARRAY:
            return np.array(content[2], dtype).reshape(content[1])
        return dtype.type(content[1])
    return {key: decode(part) for key, part in value.items()}


def same(a: Any, b: Any) -> bool:
    """Whether two values say the same, as a user may write them: a list for a tuple, numbers for an array."""
    return _plain(a) == _plain(b)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain_key(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.tolist() if _numpy_kind(value) else value


def _plain_key(key: Any) -> Any:
    return key.item() if _numpy_kind(key) else key


def _numpy_kind(value: Any) -> str:
    """`ARRAY` or `SCALAR` for a value of NumPy, '' for any other. Importing NumPy only to see that would be slow."""
    np = sys.modules.get("numpy")
    if np is None or not isinstance(value, (np.ndarray, np.generic)):
        return ""
    return ARRAY if isinstance(value, np.ndarray) else SCALAR
