"""A view of a run that outlives its console: a closed pipe, a terminal that is gone, text that it cannot write."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import TextIO

from tfrl.logs.console import PlainView, SilentView, View


class GuardedView:
    """Shows a run on `out`, and in a file from the first error of the console on.

    Args:
      make: from a stream to the view on it.
      out: where the user looks; None where there is no such stream.
      file: takes plain lines once `out` has failed; the first of them is the error.
      total_env_steps: length of the run.
    """

    def __init__(
        self,
        make: Callable[[TextIO], View],
        out: TextIO | None,
        file: pathlib.Path,
        total_env_steps: int,
    ) -> None:
        self._out, self._file, self._total = out, file, total_env_steps
        self._streams = sys.stdout, sys.stderr  # a live panel puts its own in their place
        self._lost: TextIO | None = None  # the file, once it is needed
        self._view: View = SilentView()
        if out is not None:
            try:
                self._view = make(out)
            except Exception:  # a closed stream cannot even say whether it is a terminal
                self._lose(traceback.format_exc())

    def show(self, row: Mapping[str, float]) -> None:
        """Implements `View.show`."""
        self._guard(lambda: self._view.show(row))

    def announce(self, text: str) -> None:
        """Implements `View.announce`."""
        self._guard(lambda: self._view.announce(text))

    def close(self) -> None:
        """Implements `View.close`."""
        self._guard(lambda: self._view.close())

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            try:
                call()
            except UnicodeEncodeError:
                if not hasattr(self._out, "reconfigure"):
                    raise
                self._out.reconfigure(errors="replace")
                call()
        # Whatever a console may raise; the library that draws the panel exits where its pipe is closed.
        except (Exception, SystemExit):
            self._lose(traceback.format_exc())
            call()

    def _lose(self, error: str) -> None:
        """Goes on in the file; in silence where that cannot be written either."""
        if self._lost is None:
            with contextlib.suppress(Exception, SystemExit):
                self._view.close()  # gives the streams back, if it still can
            sys.stdout, sys.stderr = self._streams
            with contextlib.suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._lost = open(self._file, "a", encoding="utf-8", errors="replace")
                self._view = PlainView(self._lost, self._total)
                self._view.announce(
                    f"The console failed; the following lines were not shown on it.\n{error}"
                )
                return
        self._view = SilentView()
