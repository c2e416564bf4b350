"""Ctrl-C and SIGTERM as a wish to end well, and signals kept away from threads that must not handle one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import tensorflow as tf

FAULTS = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS,
}  # fmt: skip


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


def take_no_signals() -> set[signal.Signals]:
    """Leaves signals, but for faults, to other threads than this one and those that it will start.

    Matrix products of oneDNN as TensorFlow bundles it point the stack pointer into the heap, where a handler
    that the kernel runs in such a thread then writes (github.com/uxlfoundation/oneDNN/issues/4845). The kernel
    prefers the main thread, but takes another while that one has just been continued or has a signal to handle.

    Returns:
      The mask before.
    """
    return signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - FAULTS)


def start_tensorflow() -> None:
    """Starts TensorFlow's threads, which take no signals; nothing where it runs already."""
    before = take_no_signals()
    try:
        tf.config.list_logical_devices()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
