"""What libraries print is kept from the user of a command that has no run folder for it."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from tfrl.logs.native import native_output_to
from tfrl.runtime.backends.last_words import VANISHED, last_words


@contextlib.contextmanager
def quiet(what: str) -> Iterator[None]:
    """While it is open, pages of notices of C++ libraries go into a file that is thrown away at the end.

    A process that vanishes leaves the file, and a line with its name.

    Args:
      what: goes on, for the line, e.g. 'the export of runs/a'.
    """
    with tempfile.TemporaryDirectory(prefix="tfrl_") as folder:
        log = pathlib.Path(folder, "native.log")
        text = f"error: {what} has ended without a word: {VANISHED}; what libraries printed is in {log}"
        with native_output_to(log), last_words(text):
            yield
