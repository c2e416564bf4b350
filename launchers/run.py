"""Trains an agent: `python launchers/run.py --algo=dqn --flagfile=configs/dqn/cartpole.flags`."""

from __future__ import annotations

import os
import sys

# TensorFlow's start-up notices (oneDNN, absent GPU libraries) hide what a run has to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(os.getcwd())  # where a user's own environments and networks are

from tfrl import command  # noqa: E402
from tfrl.config import resolve  # noqa: E402
from tfrl.config.settings import SettingError  # noqa: E402
from tfrl.runtime.control import RunFailed  # noqa: E402
from tfrl.runtime.stop import stop_on_signals  # noqa: E402


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


# Child processes import this file again; only the first one runs it.
if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
