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
from typing import TextIO

import absl.logging


class _Descriptor2:
    """File descriptor 2 and `sys.stderr`, one of each in a process: the first run redirects, the last one restores."""

    def __init__(self) -> None:
        self._lock, self._runs = threading.Lock(), 0
        self._restore = contextlib.ExitStack()
        # What `sys.stderr` is during runs. It is never closed: a handler of a library may have kept it.
        self._stream: TextIO | None = None

    def take(self, path: pathlib.Path) -> None:
        with self._lock:
            self._runs += 1
            if self._runs == 1:
                with contextlib.ExitStack() as stack:
                    self._redirect(path, stack)
                    self._restore = stack.pop_all()

    def give(self) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0:
                self._restore.close()

    def _redirect(self, path: pathlib.Path, stack: contextlib.ExitStack) -> None:
        """Redirects at once; `stack` takes what undoes it."""
        logger = logging.getLogger("tensorflow")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        # Its level as absl knows it: LiteRT's converter reads that, and sets it again when it is done.
        stack.callback(absl.logging.set_verbosity, absl.logging.get_verbosity())
        absl.logging.set_verbosity(absl.logging.ERROR)
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
            if self._stream is None:
                self._stream = os.fdopen(os.dup(original), "w", buffering=1)
            else:
                os.dup2(original, self._stream.fileno(), inheritable=False)
            stack.callback(setattr, sys, "stderr", sys.stderr)
            sys.stderr = self._stream


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


def _writes_to(stream: object, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):
        return False
