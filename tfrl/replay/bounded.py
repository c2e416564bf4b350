"""Calls of Reverb's writers that wait for a server, bounded in time."""

from __future__ import annotations

import time
from collections.abc import Callable

import reverb

FLUSH_TIMEOUT_MS = 60_000
PATIENCE_MS = 250


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
