"""A run whose console fails goes on, and what was not shown is in a file."""

from __future__ import annotations

import errno
import io
import os
import pathlib
import sys
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized

from tfrl.job import LogPlan
from tfrl.logs.logger import Logger


class Failing(io.StringIO):
    """A terminal that takes some writes and then raises for ever, in `write` or in `flush`."""

    encoding = "utf-8"

    def __init__(self, error: Exception, writes: int, where: str):
        super().__init__()
        self._error, self._left, self._where = error, writes, where

    def isatty(self):
        return True

    def write(self, text):
        self._fail("write")
        return super().write(text)

    def flush(self):
        self._fail("flush")

    def _fail(self, where):
        if where == self._where:
            self._left -= 1
            if self._left < 0:
                raise self._error


class GuardedTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.file = self.folder / "logs" / "console.log"

    def log(self, out, kind="plain"):
        streams = sys.stdout, sys.stderr
        with Logger(self.folder, LogPlan(console=kind, tensorboard=False), 100, out=out) as logger:
            logger.announce("übung ▁ one")
            for step in (10, 20, 30):
                logger.write({"run/env_steps": step, "actor/episode_return_mean": 1.0})
            logger.announce("two")
        logger.announce("three")
        self.assertEqual((sys.stdout, sys.stderr), streams)
        self.assertLen((self.folder / "metrics.csv").read_text().splitlines(), 4)

    @parameterized.product(
        kind=("plain", "panel"),
        error=(
            BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.EIO, "Input/output error"),
            OSError(errno.EBADF, "Bad file descriptor"),
        ),
        where=("write", "flush"),
        writes=(0, 1, 3),
    )  # fmt: skip
    def test_an_error_moves_the_view_to_the_file(self, kind, error, where, writes):
        out = Failing(error, writes, where)
        self.log(out, kind)
        text = self.file.read_text()
        self.assertStartsWith(text, "The console failed; the following lines were not shown on it.")
        # Of a closed pipe the library that draws the panel only says that it exits.
        self.assertIn(
            "SystemExit" if (kind, error.errno) == ("panel", errno.EPIPE) else str(error), text
        )
        for word in ("one", "two", "three"):  # nothing is lost
            self.assertIn(word, out.getvalue() + text)
        self.assertEndsWith(text, "three\n")

    @parameterized.parameters("auto", "plain", "panel")
    def test_a_closed_stream(self, kind):
        out = io.StringIO()
        out.close()
        self.log(out, kind)
        self.assertRegex(self.file.read_text(), r"(?s)one\n.*30/100 env steps.*\nthree\n$")

    def test_no_stream_at_all(self):
        with mock.patch.object(sys, "stdout", None):
            self.log(None, "auto")
        self.assertFalse(self.file.exists())

    @parameterized.parameters("plain", "panel")
    def test_letters_that_a_terminal_lacks_are_replaced(self, kind):
        raw = io.BytesIO()
        out = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
        self.log(out, kind)
        shown = raw.getvalue().decode("ascii")
        self.assertIn("bung ? one", shown)
        self.assertIn("three", shown)
        self.assertFalse(self.file.exists())

    @parameterized.parameters("0", "1", "5")
    def test_a_terminal_without_width(self, columns):
        out = Failing(OSError(), 10**9, "write")
        with mock.patch.dict(os.environ, {"COLUMNS": columns, "LINES": columns}):
            self.log(out, "panel")
        self.assertFalse(self.file.exists())

    def test_nowhere_to_write_at_all(self):
        self.file.mkdir(parents=True)
        self.log(Failing(BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "write"))


if __name__ == "__main__":
    absltest.main()
