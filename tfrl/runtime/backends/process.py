"""A Python process that starts at a function of tfrl, whatever program the user runs.

`multiprocessing` would run the user's script again in each child, which then needs an `if __name__ == "__main__"`.
Nothing here imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

from tfrl.lifeline import die_with


class Process:
    """Calls `package.module:function(connection, *args)` in a new process.

    Args:
      function: 'package.module:function'.
      args: of the function; pickled with `pickle` alone, so plain numbers, text and bytes.
      environment: variables that replace those of this process.
      descriptors: files that the process finds open under the same numbers.

    Attributes:
      pipe: this end of a two-way pipe, the other end is `connection`; it ends when the process does.
      pid: of the process.
    """

    def __init__(
        self,
        function: str,
        args: tuple,
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
    ):
        self.pipe, theirs = multiprocessing.Pipe()
        self._popen = subprocess.Popen(
            [sys.executable, "-c", code_of(function, theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            pass_fds=(theirs.fileno(), *descriptors),
        )
        self.pid = self._popen.pid
        theirs.close()  # or the end of the child would not end the pipe
        with contextlib.suppress(OSError):  # a child that is dead already is noticed by its end
            self.pipe.send(args)

    @property
    def exitcode(self) -> int | None:
        """The exit code; minus the number of the signal that ended it; None while it runs."""
        return self._popen.poll()

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def kill(self) -> None:
        """Ends it at once by SIGKILL, and its process group where it leads one."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.kill()

    def join(self, timeout_s: float) -> None:
        """Waits for its end, at most so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)


def code_of(function: str, descriptor: int) -> str:
    """Python code that calls 'package.module:function' with what `receive` gives of this descriptor."""
    module, _, name = function.partition(":")
    # The child looks for modules where this process does.
    return (
        f"import sys; sys.path[:] = {sys.path!r}; from {module} import {name}; "
        f"from {__name__} import receive; {name}(*receive({descriptor}))"
    )


def receive(descriptor: int) -> tuple:
    """In the child: (its end of the pipe, *args)."""
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    return (connection, *connection.recv())


def settle(parent: int, log: str) -> None:
    """In the child: leaves its end to those who started it, and prints to a file.

    Args:
      parent: process id of the parent, with which it ends.
      log: file that takes what it prints, Python's lines of a crash of native code included.
    """
    os.setsid()  # a group of its own: no Ctrl-C reaches it, and what it starts dies with it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The supervisor decides when to end; unlike SIG_IGN this is not inherited.
        signal.signal(number, lambda *_: None)
    die_with(parent)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.enable()
