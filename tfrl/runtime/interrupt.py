"""Signals kept away from threads that must not handle one; what they ask for is in `stop.py`."""

from __future__ import annotations

import signal

import tensorflow as tf

from tfrl.runtime.eager_memory import mend_eager_tensors

FAULTS = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS,
}  # fmt: skip


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
    """Starts TensorFlow's threads, which take no signals, where it does not run yet; mends its leak."""
    mend_eager_tensors()
    before = take_no_signals()
    try:
        tf.config.list_logical_devices()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
