"""Keeps what the C++ libraries print (Reverb, TensorFlow, LiteRT: pages of notices) out of the
user's sight, in a file."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def native_output_to(path: pathlib.Path) -> Iterator[None]:
    """While it is open, writes to file descriptor 2 go to `path`; Python's `sys.stderr` still reaches the user.

    Library loggers are raised to errors meanwhile. Child processes that inherit the descriptor write to the file too.
    """
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    sys.stderr.flush()
    original_fd, original_stream = os.dup(2), sys.stderr
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.ExitStack() as stack:
            if _writes_to(
                original_stream, 2
            ):  # not where a notebook or a test has put its own stream
                sys.stderr = stack.enter_context(os.fdopen(os.dup(original_fd), "w", buffering=1))
            yield
    finally:
        sys.stderr = original_stream
        os.dup2(original_fd, 2)
        os.close(original_fd)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _writes_to(stream: object, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):
        return False
