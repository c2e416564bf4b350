"""A process that imports TensorFlow once, and from which the other processes of a run are forked.

The import takes seconds of a core, a fork takes a hundredth of one, and memory that nobody writes to is shared. What is
imported must start no thread, since a fork would copy locks that nobody releases: TensorFlow starts its own later, with
its first operation. Nothing here imports TensorFlow before the process is started.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection

from tfrl.lifeline import die_with
from tfrl.runtime.backends.process import Process, code_of, receive, settle

POLL_S = 0.05  # between two looks at processes that may have ended
# Of the fork server to the run.
STARTED, ENDED = "started", "ended"


class ForkServer:
    """Starts processes that begin with some modules imported. They end with it, and it ends with this process.

    Args:
      modules: are imported; one that fails to be is left to the processes that need it.
      environment: variables that replace those of this process, in all of them.
      log: file that takes what it prints.
      descriptors: files that all of them find open under the same numbers.

    Attributes:
      pid: of the fork server, the parent of what it forks.
    """

    def __init__(
        self,
        modules: Sequence[str],
        environment: Mapping[str, str],
        log: str,
        descriptors: Sequence[int] = (),
    ):
        args = (tuple(modules), log, os.getpid())
        self._server = Process(f"{__name__}:serve", args, environment, descriptors)
        self.pid = self._server.pid
        self._forked: dict[int, Forked] = {}
        self._keys = itertools.count()
        self._gone = False

    def start(self, function: str, args: tuple) -> Forked:
        """Calls `package.module:function(connection, *args)` in a new process; see `Process`. Does not wait for it."""
        key = next(self._keys)
        pipe, theirs = Pipe()
        forked = self._forked[key] = Forked(self, key, pipe, args)
        if self._gone:
            forked.ended(-signal.SIGKILL, with_server=True)
        with theirs:
            self._tell("start", key, function)
            with contextlib.suppress(OSError):
                reduction.send_handle(self._server.pipe, theirs.fileno(), self.pid)
        return forked

    def is_alive(self) -> bool:
        """Whether it can start another."""
        self.read()
        return not self._gone

    def read(self, timeout_s: float = 0.0) -> None:
        """Takes what it has told; waits for the first news at most so long."""
        if self._gone:
            return
        try:
            while self._server.pipe.poll(timeout_s):
                key, event, number = self._server.pipe.recv()
                timeout_s = 0.0
                if event == STARTED:
                    self._forked[key].started(number)
                else:
                    self._forked.pop(key).ended(number)
        except (EOFError, OSError):  # it is dead, and the kernel has killed all that it forked
            self._gone = True
            for forked in self._forked.values():
                forked.ended(-signal.SIGKILL, with_server=True)
            self._forked.clear()

    def kill(self, key: int) -> None:
        """Kills a process that has not started yet, once it has."""
        self._tell("kill", key, "")

    def close(self) -> None:
        """Ends it, and what is left of the processes."""
        self._server.kill()
        self._server.join(5)
        self.read()
        self._server.pipe.close()

    def _tell(self, *request: object) -> None:
        with contextlib.suppress(OSError):  # it is dead, as the next `read` notices
            self._server.pipe.send(request)


class Forked:
    """A process of a `ForkServer`, with the interface of `Process`.

    Attributes:
      pipe: this end of a two-way pipe; it ends when the process does.
      pid: of the process; None until it has started.
      exitcode: the exit code; minus the number of the signal that ended it; None while it runs or is to start.
      with_server: it ended since the fork server did.
    """

    def __init__(self, server: ForkServer, key: int, pipe: Connection, args: tuple):
        self.pipe, self.pid, self.exitcode, self.with_server = pipe, None, None, False
        self._server, self._key, self._args = server, key, args

    def started(self, pid: int) -> None:
        """Notes the process id and sends the arguments; the server calls it when the process runs."""
        self.pid = pid
        if self.exitcode is None:  # or the order to kill it is on its way
            with contextlib.suppress(OSError):  # it is dead already, as its end tells
                self.pipe.send(self._args)

    def ended(self, exitcode: int, with_server: bool = False) -> None:
        """Notes how the process ended; the server calls it."""
        self.exitcode, self.with_server = exitcode, with_server

    def is_alive(self) -> bool:
        """Whether it runs, or is still to start."""
        self._server.read()
        return self.exitcode is None

    def kill(self) -> None:
        """Ends it at once by SIGKILL, and its process group; one that has not started yet never will."""
        self._server.read()
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            if self.exitcode is None:  # it may not have its own group yet
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        elif self.exitcode is None:
            self._server.kill(self._key)
            self.exitcode = -signal.SIGKILL

    def join(self, timeout_s: float) -> None:
        """Waits for its end, at most so long."""
        end = time.monotonic() + timeout_s
        while self.is_alive() and time.monotonic() < end:
            self._server.read(max(0.0, end - time.monotonic()))


def serve(connection: Connection, modules: Sequence[str], log: str, parent: int) -> None:
    """What the fork server does; ends the process when the pipe ends.

    Args:
      connection: takes ('start', key, function), followed by a descriptor, and ('kill', key, ''); sends (key, STARTED,
        process id) and (key, ENDED, exit code).
      modules, log: see `ForkServer`.
      parent: process id of the run.
    """
    settle(parent, log)
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception:  # the process that needs it fails of it too, and is heard
            traceback.print_exc()
    gc.freeze()  # a collection in a child would write to all pages that it shares
    keys: dict[int, int] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            if connection.poll(POLL_S):
                request, key, function = connection.recv()
                if request == "start":
                    descriptor = reduction.recv_handle(connection)
                    try:
                        pid = _start(connection, function, descriptor)
                    except OSError:  # as many processes as this user may have
                        traceback.print_exc()
                        connection.send((key, ENDED, 1))
                    else:
                        keys[pid] = key
                        connection.send((key, STARTED, pid))
                    os.close(descriptor)
                else:
                    for pid in [pid for pid, of in keys.items() if of == key]:
                        os.kill(pid, signal.SIGKILL)
            while keys:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if pid in keys:  # and not one that an imported module has started
                    connection.send((keys.pop(pid), ENDED, os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _start(server: Connection, function: str, descriptor: int) -> int:
    """Starts a process; its id."""
    if len(os.listdir("/proc/self/task")) > 1:  # something that was imported has started a thread
        os.set_inheritable(descriptor, True)
        command = [sys.executable, "-c", code_of(function, descriptor)]
        return os.posix_spawn(sys.executable, command, os.environ)
    parent, pid = os.getpid(), os.fork()
    if pid:
        return pid
    try:
        die_with(parent)
        server.close()
        if "numpy" in sys.modules:  # whose generator would draw the same in all processes
            sys.modules["numpy"].random.seed()
        module, _, name = function.partition(":")
        getattr(importlib.import_module(module), name)(*receive(descriptor))
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
