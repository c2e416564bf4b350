"""Where libraries print to, for one run and for several in threads."""

import logging
import os
import pathlib
import sys
import tempfile

from absl.testing import absltest

from tfrl.logs.native import native_output_to


class NativeOutputTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        # Descriptor 2 is a file here, and sys.stderr writes to it, as in a program of a user's.
        before, self.user = os.dup(2), self.folder / "user"
        with open(self.user, "wb") as file:
            os.dup2(file.fileno(), 2)
        stream, sys.stderr = sys.stderr, os.fdopen(2, "w", buffering=1, closefd=False)
        self.addCleanup(lambda: (os.dup2(before, 2), os.close(before)))
        self.addCleanup(lambda: setattr(sys, "stderr", stream))

    def test_libraries_write_to_the_file_and_python_to_the_user(self):
        with native_output_to(self.folder / "a"):
            os.write(2, b"library\n")
            print("mine", file=sys.stderr)
        print("after", file=sys.stderr)
        self.assertEqual((self.folder / "a").read_text(), "library\n")
        self.assertEqual(self.user.read_text(), "mine\nafter\n")

    def test_a_handler_that_was_made_in_a_run_works_after_it_and_in_the_next_one(self):
        with native_output_to(self.folder / "a"):
            handler = logging.StreamHandler()  # keeps the stream of this moment
        record = logging.LogRecord("library", logging.ERROR, "", 0, "told", None, None)
        handler.emit(record)
        with native_output_to(self.folder / "b"):
            handler.emit(record)
        self.assertEqual(self.user.read_text(), "told\ntold\n")

    def test_runs_that_overlap_leave_open_streams_whoever_ends_first(self):
        first, second = (native_output_to(self.folder / name) for name in "ab")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        print("one goes on", file=sys.stderr)
        os.write(2, b"library\n")
        second.__exit__(None, None, None)
        print("end", file=sys.stderr)
        os.write(2, b"program\n")
        self.assertEqual(self.user.read_text(), "one goes on\nend\nprogram\n")
        self.assertEqual((self.folder / "a").read_text(), "library\n")


if __name__ == "__main__":
    absltest.main()
