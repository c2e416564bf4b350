"""Command lines whose streams are closed or break, and that get signals."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = """
import os, signal, sys, time
from tfrl import command

def main(argv):
    {body}
    return 5

sys.exit(command.run(main, []))
"""


class CommandTest(parameterized.TestCase):
    def call(self, body, redirect="", **settings):
        """What `body` does as the main of a command line, started by a shell with `redirect`."""
        command = f'exec "$0" -c "$1" {redirect}'
        return subprocess.run(
            ["bash", "-c", command, sys.executable, SCRIPT.format(body=body)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            **settings,
        )

    def test_the_code_of_main(self):
        done = self.call("print('x')", stdout=subprocess.PIPE)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (5, "x\n", ""))

    def test_a_reader_that_has_gone(self):
        read, write = os.pipe()
        os.close(read)
        for body, code in (("print('x', flush=True)", 141), ("print('x')", 5)):
            done = self.call(body, stdout=write)
            self.assertEqual((done.returncode, done.stderr), (code, ""), body)
        os.close(write)

    @parameterized.parameters(">&-", "2>&-", "<&-", ">&- 2>&- <&-")
    def test_closed_streams(self, redirect):
        with tempfile.NamedTemporaryFile() as file:
            body = (
                f"open({file.name!r}, 'w').write('facts'); print('x'); print('y', file=sys.stderr)"
            )
            done = self.call(body, redirect, stdout=subprocess.DEVNULL)
            self.assertEqual(done.returncode, 5, done.stderr)
            self.assertEqual(pathlib.Path(file.name).read_text(), "facts")
        self.assertIn(done.stderr, ("", "y\n"))

    @parameterized.parameters(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    def test_signals_end_it_with_one_word(self, number):
        done = self.call(f"os.kill(os.getpid(), {int(number)}); time.sleep(60)")
        self.assertEqual((done.returncode, done.stderr), (130, "interrupted\n"))

    def test_what_nohup_ignores_stays_ignored(self):
        body = f"os.kill(os.getpid(), {int(signal.SIGHUP)})"
        script = SCRIPT.format(body=body)
        done = subprocess.run(
            ["bash", "-c", 'trap "" HUP; exec "$0" -c "$1"', sys.executable, script],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=120,
        )
        self.assertEqual(done.returncode, 5)


if __name__ == "__main__":
    absltest.main()
