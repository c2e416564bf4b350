"""Ctrl-C and SIGTERM as a wish to end well."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol


class Stoppable(Protocol):
    """Something that looks at its own `stop` often."""

    stop: bool


@contextlib.contextmanager
def stop_on_signal(target: Stoppable) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into `target.stop = True`; a second one interrupts at once.

    Outside the main thread, where Python takes no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {}

    def handle(number: int, frame: Any) -> None:
        del frame
        target.stop = True
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
