"""A line for the user where a run's process ends without one: killed, crashed in native code, or by `os._exit`.

A process that ends so cannot print anything. A shell that waits for the end of a pipe can: the kernel closes the pipe
with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import pathlib
import subprocess
import sys
from collections.abc import Iterator

# Signals of the terminal are for the run; the shell waits for its end.
_SCRIPT = 'trap "" INT TERM HUP; read -r word || printf "%s\\n" "$0" >&2'


@contextlib.contextmanager
def last_words(run_dir: pathlib.Path) -> Iterator[None]:
    """While it is open, the user's stderr gets a line when this process vanishes.

    A crash of native code prints the Python lines that led to it before that. Threads beside the run are
    not distinguished: the line comes when the process ends.

    Args:
      run_dir: of the run, for the line.
    """
    text = (
        f"error: the run in {run_dir} has ended without a word: its process was killed, has crashed, or something in "
        f"it called os._exit; its logs are in {run_dir / 'logs'}, --resume --run_dir={run_dir} goes on from the newest "
        "checkpoint"
    )
    stderr = _descriptor()
    shell = subprocess.Popen(
        ["/bin/sh", "-c", _SCRIPT, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )
    enabled = not faulthandler.is_enabled()
    if enabled:
        faulthandler.enable(stderr)
    try:
        yield
    finally:
        if enabled:
            faulthandler.disable()
        with contextlib.suppress(BrokenPipeError):  # the shell was ended
            shell.communicate(b"done\n")


def _descriptor() -> int:
    """File descriptor of the stream that reaches the user; 2 where a notebook or a test has put its own."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return 2
