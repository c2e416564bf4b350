"""Calls of Reverb that wait for a server, bounded in time.

`bounded` is for those that take a time-out themselves; the others are made on a thread, and waited for in two ways:
`BoundedCalls` until the answer is there, `Patient` only a little.
"""

from __future__ import annotations

import concurrent.futures
import functools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import reverb

FLUSH_TIMEOUT_MS = 60_000
PATIENCE_MS = 250
CALL_TIMEOUT_S = 60.0
ANSWER_S = 0.25  # after which a server that does not answer is left alone until it does


def bounded(call: Callable[..., None], patience: Callable[[], None] | None) -> float:
    """Makes a call of a writer that waits for the server, which may hold inserts back to keep the ratio to samples.

    Returns the seconds that it took.

    Args:
      call: takes `timeout_ms`.
      patience: None to wait for `FLUSH_TIMEOUT_MS`; else called some times a second for as long as it takes, it raises
        to give up.

    Raises:
      reverb.errors.DeadlineExceededError: not done within `FLUSH_TIMEOUT_MS`.
    """
    start = time.perf_counter()
    if patience is None:
        call(timeout_ms=FLUSH_TIMEOUT_MS)
        return time.perf_counter() - start
    while True:
        try:
            call(timeout_ms=PATIENCE_MS)
            return time.perf_counter() - start
        except reverb.errors.DeadlineExceededError:
            patience()


class ReplayUnreachable(RuntimeError):
    """A call to the replay server did not come back in time."""


class _Thread:
    """Makes calls one after the other. No pool: Python waits for the threads of one when it ends, and a call may never
    come back.
    """

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._work, name="reverb", daemon=True).start()

    def submit(self, fn: Callable, *args: Any, **kwargs: Any) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._asked.put((future, functools.partial(fn, *args, **kwargs)))
        return future

    def _work(self) -> None:
        while True:
            future, call = self._asked.get()
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)


class BoundedCalls:
    """Makes calls without a time-out on a thread, and stops waiting for them in time.

    Args:
      timeout_s: longest wait.
      on_wait: called some times a second while waiting.
    """

    def __init__(
        self, timeout_s: float = CALL_TIMEOUT_S, on_wait: Callable[[], None] = lambda: None
    ):
        self._timeout_s, self._on_wait = timeout_s, on_wait
        self._thread = _Thread()

    def __call__(self, what: str, fn: Callable, *args: Any) -> Any:
        """`fn(*args)`; raises ReplayUnreachable naming `what` when it takes too long."""
        future, waited = self._thread.submit(fn, *args), 0.0
        while True:
            try:
                return future.result(timeout=0.25)
            except concurrent.futures.TimeoutError:
                waited += 0.25
                self._on_wait()
            if waited >= self._timeout_s:
                raise ReplayUnreachable(
                    f"{what}: the replay server did not answer for {waited:.0f} s"
                )


class Patient:
    """Makes calls to a server that may be gone, one at a time, and waits for each only a little.

    Attributes:
      silent: the last call has not come back, or came back because the server went away.
    """

    def __init__(self) -> None:
        self._thread = _Thread()
        self._open: concurrent.futures.Future | None = None
        self.silent = False

    def __call__(self, fn: Callable, *args: Any, **kwargs: Any) -> Any:
        """The result of `fn`, None while it is under way; not called while an earlier call is."""
        if not self._is_free():
            return None
        done = self._open = self._thread.submit(fn, *args, **kwargs)
        return done.result() if self._is_free() else None

    def _is_free(self) -> bool:
        if self._open is None:
            return True
        try:
            self._open.exception(0.0 if self.silent else ANSWER_S)
        except concurrent.futures.TimeoutError:
            self.silent = True
            return False
        error, self._open = self._open.exception(), None
        # Errors of Reverb when a server goes away or does not answer.
        if error is not None and not isinstance(error, (RuntimeError, reverb.errors.ReverbError)):
            raise error
        self.silent = error is not None
        return not self.silent
