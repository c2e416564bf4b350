"""A child's link and its supervisor over a pipe, without TensorFlow."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

from absl.testing import absltest

from tfrl.errors import SettingError
from tfrl.runtime import link as link_lib
from tfrl.runtime.backends import child
from tfrl.runtime.backends.process import Process


class Supervisor:
    """Answers a link from a thread and keeps what it told."""

    def __init__(self, pipe):
        self.orders, self.statuses = {"stop": link_lib.RUN}, []
        self._pipe = pipe
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        try:
            while True:
                self.statuses.append(self._pipe.recv())
                self._pipe.send(self.orders)
        except (EOFError, OSError):
            return

    def wait_for(self, test):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            found = [status for status in list(self.statuses) if test(status)]
            if found:
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"not told; last: {self.statuses[-1:]}")


class LinkTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        # The other end stays open: a link whose supervisor is gone ends its process.
        ours, theirs = multiprocessing.Pipe()
        self.supervisor = Supervisor(ours)
        self.link = link_lib.Link(theirs)

    def test_what_is_told_arrives_once_and_numbers_stay(self):
        self.link.report(env_steps=5)
        self.link.report(episodes=1)
        self.link.say("one")
        self.link.say("two")
        self.link.add_row({"run/env_steps": 5.0})
        for i in range(250):
            self.link.add_episode(i, i, (i / 2,))
        self.link.close(None)
        statuses = self.supervisor.statuses
        self.assertEqual([t for s in statuses for t in s.texts], ["one", "two"])
        self.assertEqual([s.row for s in statuses if s.row], [{"run/env_steps": 5.0}])
        self.assertEqual(
            [e for s in statuses for e in s.episodes], [(float(i), i, (i / 2,)) for i in range(250)]
        )
        self.assertEqual(statuses[-1].numbers, {"env_steps": 5, "episodes": 1})
        self.assertTrue(statuses[-1].done)

    def test_orders_arrive_and_waiting_ends_with_the_order_to_stop(self):
        self.supervisor.orders = {"stop": link_lib.RUN, "address": "here"}
        self.assertTrue(self.link.wait(lambda orders: "address" in orders))
        self.supervisor.orders = {"stop": link_lib.ABANDON}
        self.assertFalse(self.link.wait(lambda orders: "nothing" in orders))

    def test_silence_of_the_loop_counts_once_it_is_ready_and_not_while_it_is_busy(self):
        time.sleep(0.3)
        self.assertEqual(self.supervisor.statuses[-1].idle_s, 0.0)
        self.link.ready()
        self.supervisor.wait_for(lambda status: status.ready and status.idle_s > 0.3)
        with self.link.busy():
            time.sleep(0.5)
            self.assertEqual(self.supervisor.statuses[-1].idle_s, 0.0)
        self.link.beat()
        time.sleep(0.15)
        self.assertLess(self.supervisor.statuses[-1].idle_s, 0.3)

    def test_error_is_told_with_its_trace(self):
        self.link.close(("ValueError: bad", "the trace"))
        self.assertEqual(self.supervisor.statuses[-1].error, ("ValueError: bad", "the trace"))
        self.assertFalse(self.supervisor.statuses[-1].done)

    def test_a_setting_that_is_refused_is_told_in_one_line(self):
        self.assertEqual(
            child._told(SettingError("env='a': no")), ("tfrl.errors.SettingError: env='a': no", "")
        )
        last, trace = child._told(ValueError("no"))
        self.assertEqual((last, trace), ("ValueError: no", "ValueError: no\n"))

    def test_status_stays_small_whatever_is_told(self):
        self.link.say("x" * 1_000_000)
        self.link.close(("error", child._shorten("y" * 1_000_000)))
        longest = max(len(str(status)) for status in self.supervisor.statuses)
        self.assertLess(longest, 16_000)

    def test_importing_it_does_not_import_tensorflow(self):
        for module in ("link", "placement", "backends.child"):
            code = f"import sys, tfrl.runtime.{module}; print('tensorflow' in sys.modules)"
            out = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            self.assertEqual((module, out.stdout.strip()), (module, "False"))


class ChildTest(absltest.TestCase):
    def test_only_the_learner_sees_accelerators_and_the_parent_is_left_as_it_was(self):
        before = dict(os.environ)
        for role, hidden in (("learner", before.get("CUDA_VISIBLE_DEVICES")), ("actor", "-1"),
                             ("evaluator", "-1"), ("replay", "-1")):  # fmt: skip
            with self.subTest(role):
                values = {**before, **child.environment(role)}
                self.assertEqual(values.get("CUDA_VISIBLE_DEVICES"), hidden)
        self.assertEqual(dict(os.environ), before)

    def test_a_child_starts_by_module_name_with_its_own_main_and_ends_its_pipe(self):
        process = Process("tfrl.testing.echo:describe", (b"\0x", 3), {"TFRL_X": "y"})
        told = process.pipe.recv()
        self.assertEqual(told["args"], (b"\0x", 3))
        self.assertEqual(told["variable"], "y")
        self.assertIsNone(told["main_file"])  # the script of the user is not run again
        self.assertEqual(told["path"], sys.path)
        with self.assertRaises(EOFError):
            process.pipe.recv()
        process.join(10)
        self.assertEqual(process.exitcode, 7)
        self.assertNotIn("TFRL_X", os.environ)

    def test_the_exit_code_of_a_killed_child_is_the_signal(self):
        process = Process("tfrl.testing.echo:wait", (), {})
        self.assertTrue(process.is_alive())
        process.kill()
        process.join(10)
        self.assertEqual(process.exitcode, -9)


if __name__ == "__main__":
    absltest.main()
