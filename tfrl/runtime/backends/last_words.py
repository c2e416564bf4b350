"""A line for the user where a process of theirs ends without one: killed, crashed in native code, or by `os._exit`.

A process that ends so cannot print anything. A shell that waits for the end of a pipe can: the kernel closes the pipe
with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import subprocess
import sys
from collections.abc import Iterator

# What has happened then, for the line.
VANISHED = "its process was killed, has crashed, or something in it called os._exit"
# Signals of the terminal are for this process; the shell waits for its end.
_SCRIPT = 'trap "" INT TERM HUP; read -r word || printf "%s\\n" "$0" >&2'


@contextlib.contextmanager
def last_words(text: str) -> Iterator[None]:
    """While it is open, the user's stderr gets a line when this process vanishes.

    A crash of native code prints the Python lines that led to it before that. Threads beside what is
    watched are not distinguished: the line comes when the process ends.

    Args:
      text: the line.
    """
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
