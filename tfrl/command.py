"""Common to all command lines, around their `main`: streams that may be missing or break, and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

INTERRUPTED = 128 + signal.SIGINT
UNHEARD = 128 + signal.SIGPIPE  # the code of a program whose reader has gone


def run(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """The exit code of `main(argv)`; 130 where a signal ends it, 141 where nobody reads what it prints.

    SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, until `main` installs handlers of its own.
    """
    _open_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        code = main(argv)
    except KeyboardInterrupt:
        code = INTERRUPTED
        with contextlib.suppress(OSError):
            print("interrupted", file=sys.stderr)
    except BrokenPipeError:
        code = UNHEARD
    _settle_streams()
    return code


def _open_streams() -> None:
    """Gives closed standard descriptors to nobody: the next file that is opened would become what others print to."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            empty = os.open(os.devnull, os.O_RDWR)
            if empty != descriptor:
                os.dup2(empty, descriptor)
                os.close(empty)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def _settle_streams() -> None:
    """Drops what a broken stream still holds, which Python would complain about when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            empty = os.open(os.devnull, os.O_WRONLY)
            os.dup2(empty, stream.fileno())
            os.close(empty)
