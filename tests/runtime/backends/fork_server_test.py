"""A fork server, its processes, and what it imports; without TensorFlow but where that is the question."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import psutil
from absl.testing import absltest

from tfrl.runtime.backends.fork_server import ForkServer
from tfrl.runtime.backends.processes import IMPORTED


class ForkServerTest(absltest.TestCase):
    def server(self, *modules, **environment):
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        server = ForkServer(modules, environment, str(self.folder / "log"))
        self.addCleanup(server.close)
        return server

    def ask(self, server, function="describe", *args):
        process = server.start(f"tfrl.testing.echo:{function}", args)
        self.addCleanup(process.pipe.close)
        return process

    def told(self, process):
        process.join(0.0)  # as a run looks after it
        while not process.pipe.poll(0.01):
            process.is_alive()
        return process.pipe.recv()

    def test_processes_begin_with_what_was_imported_and_end_their_pipes(self):
        server = self.server("colorsys", TFRL_X="y")
        first, second = self.ask(server, "describe", b"\0x", 3), self.ask(server)
        told = self.told(first)
        self.assertEqual((told["args"], told["variable"]), ((b"\0x", 3), "y"))
        self.assertIn("colorsys", told["modules"])
        self.assertIsNone(told["main_file"])  # the script of the user is not run again
        self.assertEqual(told["path"], sys.path)
        self.assertEqual(self.told(second)["args"], ())
        with self.assertRaises(EOFError):
            first.pipe.recv()
        first.join(10)
        self.assertEqual(first.exitcode, 7)
        self.assertNotEqual(first.pid, second.pid)
        self.assertNotIn("TFRL_X", os.environ)

    def test_processes_do_not_draw_the_same(self):
        server = self.server("numpy", TFRL_X="", OMP_NUM_THREADS="1")  # or it starts threads
        draws = [self.told(self.ask(server))["draw"] for _ in range(2)]
        self.assertNotEqual(*draws)

    def test_a_killed_one_is_told_by_its_signal(self):
        process = self.ask(self.server(), "wait")
        while process.pid is None:
            self.assertTrue(process.is_alive())
        process.kill()
        process.join(10)
        self.assertEqual(process.exitcode, -9)
        self.assertFalse(process.with_server)

    def test_one_that_is_killed_before_it_starts_is_not_waited_for(self):
        server = self.server()
        psutil.Process(server.pid).suspend()  # as if its imports took long
        process = self.ask(server, "wait")
        process.kill()
        process.join(60)
        self.assertEqual((process.pid, process.exitcode), (None, -9))
        psutil.Process(server.pid).resume()
        with self.assertRaises(EOFError):  # it ends without its arguments
            process.pipe.recv()

    def test_they_end_with_their_server(self):
        server = self.server()
        processes = [self.ask(server, "wait") for _ in range(2)]
        while any(process.pid is None for process in processes):
            self.assertTrue(server.is_alive())
        children = [psutil.Process(process.pid) for process in processes]
        psutil.Process(server.pid).kill()
        self.assertEmpty(psutil.wait_procs(children, timeout=10)[1])
        while server.is_alive():
            time.sleep(0.01)
        self.assertEqual([process.exitcode for process in processes], [-9, -9])
        self.assertTrue(processes[0].with_server)
        late = self.ask(server, "wait")
        with self.assertRaises(EOFError):
            late.pipe.recv()
        self.assertFalse(late.is_alive())

    def test_an_error_and_a_module_that_is_not_there_are_in_the_log(self):
        process = self.ask(self.server("tfrl.no_such_module"))  # lacks its variable
        process.join(20)
        self.assertEqual(process.exitcode, 1)
        log = (self.folder / "log").read_text()
        self.assertIn("No module named 'tfrl.no_such_module'", log)
        self.assertIn("KeyError: 'TFRL_X'", log)

    def test_beside_a_thread_that_a_module_started_nothing_is_forked(self):
        server = self.server("tfrl.testing.threaded", TFRL_X="")
        process = self.ask(server)
        told = self.told(process)
        self.assertNotIn("tfrl.testing.threaded", told["modules"])  # a new interpreter
        self.assertEqual(told["path"], sys.path)
        process.join(10)
        self.assertEqual(process.exitcode, 7)

    def test_what_a_run_imports_starts_no_thread_and_not_tensorflow(self):
        code = (
            f"import os, {IMPORTED}\n"
            "from tensorflow.python.eager import context\n"
            "print(len(os.listdir('/proc/self/task')), context.context()._initialized)"
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        )  # fmt: skip
        self.assertEqual(out.stdout.split(), ["1", "False"])


if __name__ == "__main__":
    absltest.main()
