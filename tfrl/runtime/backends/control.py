"""The control plane: a few numbers between the roles of a run and its supervisor, never arrays.

Every child has a pipe of its own and there are no shared locks, so a child that is killed or frozen
at any moment harms nobody else. A child tells (`Status`), the supervisor answers with orders (a
dict); it only ever writes to a child that is waiting for the answer. Nothing here imports
TensorFlow: a child is alive and heard before it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from tfrl.lifeline import die_with
from tfrl.runtime.backends.isolation import enter
from tfrl.runtime.backends.process import Process
from tfrl.settings import import_dotted

INTERVAL_S = 0.1  # between two statuses of a child
BUSY_S = 1800.0  # longest stretch of work that a role may announce as one, e.g. a compilation
MAX_TEXT = 6000  # a status stays small enough for one write, which a kill cannot cut in two
MAX_EPISODES = 100

# The order "stop": go on; end well; end at once, dropping what is under way.
RUN, FINISH, ABANDON = 0, 1, 2


class Abandoned(Exception):
    """The order to end at once reached a role in the middle of its work."""


@dataclasses.dataclass
class Status:
    """What a child tells since its last status.

    Attributes:
      ready: the role has built its parts.
      idle_s: seconds since the role's own loop gave a sign of life; 0 inside `Link.busy`.
      numbers: newest values by name; they stay until they are replaced.
      episodes: (return, length in env steps, infos) of episodes that ended.
      texts: lines for the user.
      row: a row of metrics, or None.
      error: (name of the exception, trace) if the role failed.
      done: the role ended well.
    """

    ready: bool = False
    idle_s: float = 0.0
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    episodes: list[tuple[float, int, tuple]] = dataclasses.field(default_factory=list)
    texts: list[str] = dataclasses.field(default_factory=list)
    row: dict[str, float] | None = None
    error: tuple[str, str] | None = None
    done: bool = False


class Link:
    """A child's end: `report` and `orders` never wait, a thread of its own exchanges them.

    The process ends when the supervisor is gone.

    Args:
      connection: this child's pipe.
    """

    def __init__(self, connection: Connection):
        self.orders: dict[str, Any] = {"stop": RUN, "env_steps": 0}
        self._connection, self._lock = connection, threading.Lock()
        self._numbers: dict[str, Any] = {}
        self._episodes: list[tuple[float, int, tuple]] = []
        self._texts: list[str] = []
        self._rows: list[dict[str, float]] = []
        self._error: tuple[str, str] | None = None
        self._ready = False
        self._last_beat, self._busy_until = time.monotonic(), time.monotonic() + BUSY_S
        self._closing, self._closed = False, threading.Event()
        threading.Thread(target=self._exchange, name="control", daemon=True).start()

    def beat(self) -> None:
        """A sign of life of the role's own loop."""
        self._last_beat = time.monotonic()

    def alive(self) -> None:
        """A sign of life from inside a long piece of work; raises Abandoned where the role is to end at once."""
        self.beat()
        if self.orders["stop"] == ABANDON:
            raise Abandoned

    def report(self, **numbers: Any) -> None:
        """Tells numbers, and that the role is alive."""
        self.beat()
        with self._lock:
            self._numbers.update(numbers)

    def say(self, text: str) -> None:
        """A line for the user."""
        with self._lock:
            self._texts.append(text[:MAX_TEXT])

    def add_episode(
        self, episode_return: float, length_env_steps: int, infos: tuple[float, ...] = ()
    ) -> None:
        """A game that ended: its return and its length in env steps."""
        with self._lock:
            self._episodes.append((float(episode_return), int(length_env_steps), infos))

    def add_row(self, row: dict[str, float]) -> None:
        """A row for the logs."""
        with self._lock:
            self._rows.append(row)

    def ready(self) -> None:
        """The role has built its parts; from now on silence of its loop counts."""
        self.beat()
        self._busy_until, self._ready = 0.0, True

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Inside, the role's loop may be silent, as when it compiles; the process is not."""
        before, self._busy_until = self._busy_until, time.monotonic() + BUSY_S
        try:
            yield
        finally:
            self.beat()
            self._busy_until = before

    def wait(self, test: Callable[[dict[str, Any]], bool], pause_s: float = 0.02) -> bool:
        """Waits for orders that pass `test`; False when the role is to end at once instead."""
        while not test(self.orders):
            if self.orders["stop"] == ABANDON:
                return False
            self.beat()
            time.sleep(pause_s)
        return True

    def close(self, error: tuple[str, str] | None, timeout_s: float = 5.0) -> None:
        """Tells how the role ended and returns once everything has been heard."""
        with self._lock:
            self._error, self._closing = error, True
        self._closed.wait(timeout_s)

    def _exchange(self) -> None:
        try:
            while True:
                status = self._status()
                self._connection.send(status)
                self.orders = self._connection.recv()
                if status.done or status.error is not None:
                    self._closed.set()
                if not self._closing or self._closed.is_set():
                    # Nothing comes unasked: this waits, and ends at once with the pipe.
                    self._connection.poll(INTERVAL_S)
        except (EOFError, OSError):
            os._exit(1)  # nobody supervises this process any more

    def _status(self) -> Status:
        now = time.monotonic()
        idle_s = 0.0 if now < self._busy_until else now - self._last_beat
        with self._lock:
            episodes, self._episodes = self._episodes[:MAX_EPISODES], self._episodes[MAX_EPISODES:]
            texts, self._texts = self._texts[:1], self._texts[1:]
            row = self._rows.pop(0) if self._rows else None
            last = self._closing and not (self._episodes or self._texts or self._rows)
            error = self._error if last else None
            done = last and error is None
            numbers = dict(self._numbers)
        return Status(self._ready, idle_s, numbers, episodes, texts, row, error, done)


class Child:
    """The supervisor's end: a process, its pipe, and what is known of it.

    Args:
      entry, role, index, slot, payload, log, namespaces: see `child_main`.

    Attributes:
      numbers: the newest that it told.
      granted: env steps that an actor may make in all.
      lease: of these, how many may be open at once.
      heard: when it last told anything.
    """

    def __init__(
        self,
        entry: str,
        role: str,
        index: int,
        slot: int,
        payload: bytes,
        log: str,
        namespaces: tuple[int, ...] = (),
    ):
        self.role, self.index, self.slot, self.log = role, index, slot, log
        self.numbers: dict[str, Any] = {}
        self.ready_at = math.inf
        self.idle_s, self.granted, self.lease = 0.0, 0, 0
        self.error: tuple[str, str] | None = None
        self.done = False
        args = (entry, role, index, slot, payload, log, os.getpid(), namespaces)
        environment = _environment(role)
        self.process = Process(f"{__name__}:child_main", args, environment, namespaces)
        self.pipe = self.process.pipe
        self.heard = time.monotonic()

    @property
    def name(self) -> str:
        """Role and index, as in 'actor 3'."""
        return f"{self.role} {self.index}"

    def kill(self) -> None:
        """Ends the process and all that it has started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # it may not have its own group yet
        self.process.join(5)
        self.pipe.close()

    def exit_text(self) -> str:
        """How the process ended, for a message: the error it told, else the signal or the exit code."""
        code = self.process.exitcode
        if self.error:
            return f"failed: {self.error[0]}"
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def child_main(
    connection: Connection,
    entry: str,
    role: str,
    index: int,
    slot: int,
    payload: bytes,
    log: str,
    parent: int,
    namespaces: tuple[int, ...],
) -> None:
    """Start of every child: runs its role, tells how that ended, never returns.

    Args:
      connection: this child's pipe.
      entry: 'package.module:name' of the function (role, payload, index, slot, link) that plays the
        role. Imported here, since its imports take seconds and the child is to be heard before.
      role, index: which role, and its id, never used twice in a run; seeds derive from it.
      slot: which of the actors this one is or replaces.
      payload: what the role is made of, pickled.
      log: file that takes what the process prints.
      parent: process id of the supervisor.
      namespaces: descriptors of those that it enters, see `Isolation`.
    """
    enter(
        namespaces
    )  # first: a process with threads may not, and the kernel then forgets whom to die with
    os.setsid()  # a group of its own: no Ctrl-C reaches it, and what it starts dies with it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The supervisor says when to end; unlike SIG_IGN this is not inherited.
        signal.signal(number, lambda *_: None)
    die_with(parent)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.enable()  # a crash of native code leaves its Python lines in the log
    link = Link(connection)
    error = None
    try:
        import_dotted(entry, "entry")(role, payload, index, slot, link)
    except Abandoned:
        pass  # as ordered
    except BaseException as failure:
        traceback.print_exc()
        error = (_last_line(failure), _shorten(traceback.format_exc()))
    link.close(error)
    sys.stdout.flush()
    sys.stderr.flush()
    # Reverb's destructors would wait for inserts that nobody takes any more.
    os._exit(0 if error is None else 1)


def _environment(role: str) -> dict[str, str]:
    """Variables of a child: all but the learner see no accelerator, from their first line on."""
    values = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
    if role != "learner":
        values.update(CUDA_VISIBLE_DEVICES="-1", OMP_NUM_THREADS="1")
    return values


def _last_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()[:MAX_TEXT]


def _shorten(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    return text[: MAX_TEXT // 3] + "\n  ...\n" + text[-MAX_TEXT * 2 // 3 :]
