"""Signals kept away from threads that must not handle one; what they ask for is in `stop.py`."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

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


@contextlib.contextmanager
def threads_take_no_signals() -> Iterator[None]:
    """Threads that start inside leave signals to others; see `take_no_signals`."""
    before = take_no_signals()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_tensorflow(op_threads: int = 0) -> None:
    """Starts TensorFlow's threads, which take no signals, where it does not run yet; mends its leak.

    Args:
      op_threads: threads of one operation, 0 for TensorFlow's own choice; not read where TensorFlow runs already.
    """
    mend_eager_tensors()
    if op_threads:
        with contextlib.suppress(RuntimeError):  # what TensorFlow raises where it runs
            tf.config.threading.set_intra_op_parallelism_threads(op_threads)
    with threads_take_no_signals():
        tf.config.list_logical_devices()
