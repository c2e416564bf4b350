"""The control plane: a few numbers between the members of a run and its supervisor, never arrays.

Every member has a connection of its own and there are no shared locks, so one that is killed or frozen at any moment
harms no other. A member sends its `Status`, the supervisor answers with orders (a dict); it only ever writes to a
member that waits for the answer. Nothing here imports TensorFlow: a member is alive and connected before it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

INTERVAL_S = 0.1  # between two statuses of a member
BUSY_S = 1800.0  # longest stretch of work that a role may announce as one, e.g. a compilation
MAX_TEXT = 6000  # a status stays small enough for one write, which a kill cannot cut in two
MAX_EPISODES = 100

# The order "stop": go on; end well; end at once, dropping what is under way.
RUN, FINISH, ABANDON = 0, 1, 2


class Abandoned(Exception):
    """The order to end at once reached a role in the middle of its work."""


@dataclasses.dataclass
class Status:
    """Events in a member since its last status.

    Attributes:
      ready: the role has built its parts.
      idle_s: seconds since the role's own loop gave a sign of life; 0 inside `Link.busy`.
      numbers: newest values by name; they stay until they are replaced.
      episodes: (return, length in env steps, infos) of episodes that ended.
      texts: lines for the user.
      row: a row of metrics, or None.
      error: (the exception, its trace) if the role failed; of a SettingError no trace, "".
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
    """The member's end: `report` and `orders` never wait, a thread of its own exchanges them.

    The process ends when the supervisor is gone.

    Args:
      connection: to the supervisor, with `send`, `recv` and `poll` as those of a pipe.
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
        """Newest values of numbers, and a sign of life."""
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
        """An episode that ended: its return and its length in env steps."""
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
        """Sends how the role ended; returns once everything has been received."""
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
