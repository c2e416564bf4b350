"""The end of a run before its time: signals become a wish that everything which takes long looks at.

Nothing here imports TensorFlow, so that signals are handled from the first line of a launcher on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT_S = 2.0  # signals that follow one so soon are the same wish: GNU timeout sends two
PATIENCE_S = 2.0  # after which a step of an environment that goes on is interrupted


class Stopped(BaseException):
    """The run is to stop: ends a step, a reset or a construction of environments, whose outcome is dropped.

    No Exception, so that no environment takes it for an error of its own.
    """


class Stop:
    """Whether a run is to stop before its end.

    A first signal asks for an orderly end: a checkpoint, the policy, its export and `result.json`. Another one, more
    than `REPEAT_S` later, leaves out the export and the curve, and a wait for a checkpoint. One more ends the process.

    Attributes:
      requested: the run is to stop.
      hurried: and to leave out what is not needed to resume it.
      interruptible: the main thread is inside an environment, where `Stopped` may be raised anywhere.
    """

    def __init__(self) -> None:
        self.requested = self.hurried = self.interruptible = False
        self._newest = -float("inf")
        self._nudges = 0

    def request(self) -> None:
        """Asks for an orderly end; from any thread."""
        self.requested = True

    def check(self) -> None:
        """Raises Stopped where the run is to stop."""
        if self.requested:
            raise Stopped

    @contextlib.contextmanager
    def inside_environment(self) -> Iterator[None]:
        """Inside, a stop interrupts the main thread after a little patience; raises Stopped at once if one is due.

        An error once the run is to stop is a stop too: a simulator that the environment has started dies of the same
        Ctrl-C.
        """
        self.check()
        self.interruptible = True
        try:
            yield
        except Exception as error:
            if self.requested:
                raise Stopped from error
            raise
        finally:
            self.interruptible = False

    def on_signal(self, number: int, frame: Any) -> None:
        """Handler of `SIGNALS`, on the main thread."""
        del frame
        now = time.monotonic()
        if self._nudges:
            self._nudges = 0
            if self.interruptible:
                raise Stopped
        elif not self.requested:
            self.requested, self._newest = True, now
            threading.Thread(target=self._nudge, args=[number], name="stop", daemon=True).start()
        elif now - self._newest <= REPEAT_S:
            pass
        elif not self.hurried:
            self.hurried, self._newest = True, now
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _nudge(self, number: int) -> None:
        """Repeats the signal for the main thread while that is inside an environment: system calls return then."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        main = threading.main_thread()
        while main.is_alive():
            time.sleep(PATIENCE_S)
            if self.interruptible and signal.getsignal(number) == self.on_signal:
                self._nudges += 1
                signal.pthread_kill(main.ident, number)


class StoppableVector:
    """A vector environment whose steps and resets a stop ends.

    Args:
      env: a `VectorEnv`.
      stop: looked at before each step; during one that takes long it interrupts.
    """

    def __init__(self, env: Any, stop: Stop):
        self._env, self._stop = env, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, seed: int | None = None) -> Any:
        """Implements `VectorEnv.reset`; raises Stopped where the run is to stop."""
        with self._stop.inside_environment():
            return self._env.reset(seed)

    def restart(self, obs: Any, seeds: Any) -> Any:
        """Implements `VectorEnv.restart`; raises Stopped where the run is to stop."""
        with self._stop.inside_environment():
            return self._env.restart(obs, seeds)

    def step(self, action: Any) -> Any:
        """Implements `VectorEnv.step`; raises Stopped where the run is to stop."""
        stop = self._stop
        if stop.requested:
            raise Stopped
        stop.interruptible = True
        try:
            return self._env.step(action)
        except Exception as error:
            if stop.requested:  # as in `inside_environment`, without its cost
                raise Stopped from error
            raise
        finally:
            stop.interruptible = False

    def close(self) -> None:
        """Implements `VectorEnv.close`; an error after an interrupted step is logged, the state may be any then."""
        if not self._stop.requested:
            self._env.close()
            return
        self._stop.interruptible = True
        try:
            self._env.close()
        except (Exception, Stopped) as error:
            logging.warning("closing the environments after a stop: %r", error)
        finally:
            self._stop.interruptible = False


@contextlib.contextmanager
def stop_on_signals(stop: Stop | None = None) -> Iterator[Stop]:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a request to stop; gives the `Stop`, a new one where none is given.

    A SIGHUP that is ignored, as under nohup, stays ignored. Outside the main thread, where Python takes no signals,
    nothing changes.
    """
    stop = Stop() if stop is None else stop
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {}
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, stop.on_signal)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
