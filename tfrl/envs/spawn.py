"""Processes that `multiprocessing` spawns for environments, without a second run of the user's script."""

from __future__ import annotations

import contextlib
import sys
import threading
import types
from collections.abc import Iterator

_LOCK = threading.Lock()


@contextlib.contextmanager
def neutral_main() -> Iterator[None]:
    """Inside, spawned processes do not run the script of `__main__` again, so it needs no `if __name__ == "__main__"`.

    Their arguments must not need it either: gymnasium pickles its arguments by cloudpickle, which does not.
    """
    with _LOCK:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
