"""Trains an agent: `tfrl run`, and `launchers/run.py` of a checkout."""

from __future__ import annotations

import sys

from tfrl.config import resolve
from tfrl.errors import RunFailed, SettingError
from tfrl.runtime.stop import stop_on_signals


def main(argv: list[str]) -> int:
    """Exit code: 0, 1 for a run that failed, 2 for settings that cannot be used, 130 for an interrupted run."""
    try:
        with stop_on_signals() as stop:
            job = resolve.job_from_argv(argv)
            import tfrl  # after the checks: `train` imports TensorFlow

            interrupted = tfrl.train(job, stop=stop).interrupted
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 130 if interrupted else 0
