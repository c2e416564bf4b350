"""Keeps what the C++ libraries print (Reverb, TensorFlow, LiteRT: pages of notices) out of the
user's sight, in a file."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Iterator


class _Descriptor2:
    """File descriptor 2 and `sys.stderr`, one of each in a process: the first run redirects, the last one restores."""

    def __init__(self) -> None:
        self._lock, self._runs = threading.Lock(), 0
        self._restore = contextlib.ExitStack()

    def take(self, path: pathlib.Path) -> None:
        with self._lock:
            self._runs += 1
            if self._runs == 1:
                with contextlib.ExitStack() as stack:
                    _redirect(path, stack)
                    self._restore = stack.pop_all()

    def give(self) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0:
                self._restore.close()


_DESCRIPTOR_2 = _Descriptor2()


@contextlib.contextmanager
def native_output_to(path: pathlib.Path) -> Iterator[None]:
    """While it is open, writes to file descriptor 2 go to `path`; Python's `sys.stderr` still reaches the user.

    Library loggers are raised to errors meanwhile. Child processes that inherit the descriptor write to the file too.
    Runs in several threads share the file of the first one, until the last of them ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _DESCRIPTOR_2.take(path)
    try:
        yield
    finally:
        _DESCRIPTOR_2.give()


def _redirect(path: pathlib.Path, stack: contextlib.ExitStack) -> None:
    """Redirects at once; `stack` takes what undoes it."""
    for name in ("tensorflow", "absl"):
        logger = logging.getLogger(name)
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
    with contextlib.suppress(AttributeError, OSError, ValueError):  # missing, broken or closed
        sys.stderr.flush()
    try:
        original = os.dup(2)
    except OSError:  # closed: libraries have written to nobody, and will again
        original = os.open(os.devnull, os.O_WRONLY)
    stack.callback(os.close, original)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 2)
    stack.callback(os.dup2, original, 2)
    if _writes_to(sys.stderr, 2):  # not where a notebook or a test has put its own stream
        stream = stack.enter_context(os.fdopen(os.dup(original), "w", buffering=1))
        stack.callback(setattr, sys, "stderr", sys.stderr)
        sys.stderr = stream


def _writes_to(stream: object, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):
        return False
