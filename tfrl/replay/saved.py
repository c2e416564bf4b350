"""State of a writer between two vector steps, for a resumed run that goes on in the same episodes."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def saved(owner: Any, names: Sequence[str]) -> dict[str, Any]:
    """Copies of attributes of `owner`: numbers, arrays, dicts of arrays, lists of deques."""
    return {name: _copy(getattr(owner, name)) for name in names}


def put_back(owner: Any, values: Mapping[str, Any]) -> None:
    """Gives `owner` the attributes of `saved` again; arrays are filled in place, since others may be views of them."""
    for name, value in values.items():
        present = getattr(owner, name)
        if isinstance(present, np.ndarray):
            present[...] = value
        elif isinstance(present, list) and present and isinstance(present[0], collections.deque):
            for queue, parts in zip(present, value, strict=True):
                queue.clear()
                queue.extend(parts)
        else:
            setattr(owner, name, value)


def _copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    if isinstance(value, (list, collections.deque)):
        return [_copy(part) for part in value]
    return value
