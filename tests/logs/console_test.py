"""The views of a running job: panel, plain lines, nothing."""

from __future__ import annotations

import io

from absl.testing import absltest
from rich.console import Console

from tfrl.logs import console

ROW = {
    "run/env_steps": 25_000,
    "run/episodes": 321,
    "run/env_steps_per_s": 5_000.0,
    "run/updates_per_s": 1_250.0,
    "actor/episode_return_mean": 198.25,
    "replay/samples_per_insert": 8.0,
    "actor/epsilon": 0.05,
    "learner/policy_version_updates": 6_000,
    "actor/policy_lag_updates": 32,
}
EVALUATION = {
    "run/env_steps": 20_000, "evaluator/return_mean": 410.0, "evaluator/return_std": 20.5
}  # fmt: skip
SHOWN = (
    "25,000",
    "50,000",
    "0:00:05 left",
    "return 198.2",
    "env steps/s 5,000",
    "updates/s 1,250",
    "samples/insert 8.00",
    "epsilon 0.050",
    "policy version 6,000",
    "policy lag 32",
    "evaluation 410.0 +- 20.5 at 20,000",
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class KindTest(absltest.TestCase):
    def test_auto_is_a_panel_on_a_terminal_only(self):
        self.assertIsInstance(console.make_view("auto", Terminal(), "t", 1), console.PanelView)
        self.assertIsInstance(console.make_view("auto", io.StringIO(), "t", 1), console.PlainView)

    def test_none_shows_nothing(self):
        out = io.StringIO()
        view = console.make_view("none", out, "t", 1)
        view.announce("x")
        view.show(ROW)
        view.close()
        self.assertEqual(out.getvalue(), "")


class PanelTest(absltest.TestCase):
    def panel(self, encoding="utf-8", width=100):
        out = Terminal()
        out.encoding = encoding
        return console.PanelView(Console(file=out, width=width), "dqn-CartPole", 50_000), out

    def text(self, view, width=100):
        out = io.StringIO()
        Console(file=out, width=width).print(view.render())
        return out.getvalue()

    def test_all_that_is_known_is_shown(self):
        view, _ = self.panel()
        view.show(EVALUATION)
        view.show(ROW)
        view.close()
        text = self.text(view)
        for part in (*SHOWN, "50%", "dqn-CartPole"):
            self.assertIn(part, text)

    def test_asynchronous_runs_show_the_lag_of_what_is_trained_and_the_queue(self):
        view, _ = self.panel()
        more = {"replay/queue_items": 12, "learner/policy_lag_mean_updates": 3.25}
        view.show({**ROW, **more})
        view.close()
        text = self.text(view)
        self.assertIn("policy lag 3.2", text)
        self.assertIn("queue 12", text)
        self.assertNotIn("policy lag 32", text)

    def test_first_row_may_know_little(self):
        view, _ = self.panel()
        view.show({"run/env_steps": 8})
        view.close()
        text = self.text(view)
        self.assertIn("8 / 50,000 env steps", text)
        self.assertNotIn("epsilon", text)
        self.assertNotIn("left", text)

    def test_narrow_terminal(self):
        view, _ = self.panel(width=50)
        view.show(ROW)
        view.close()
        self.assertLessEqual(max(map(len, self.text(view, 50).splitlines())), 50)

    def test_no_blocks_where_the_terminal_cannot_show_them(self):
        for encoding, count in (("utf-8", 1), ("ascii", 0)):
            view, out = self.panel(encoding)
            for step in (1, 2):
                view.show({"run/env_steps": step, "actor/episode_return_mean": step})
            view.close()
            self.assertEqual("█" in out.getvalue().rpartition("\x1b[1A")[2], bool(count))

    def test_announcements_before_among_and_after_rows(self):
        view, out = self.panel()
        view.announce("first")
        view.show(ROW)
        view.announce("second [bold] stays")
        view.close()
        view.close()
        view.announce("third " + "x" * 200)
        self.assertIn("first\n", out.getvalue())
        self.assertIn("second [bold] stays", out.getvalue())
        self.assertIn("third " + "x" * 200, out.getvalue())

    def test_sparkline(self):
        self.assertEqual(console.sparkline([(0, 0.0), (1, 7.0)], 2), "▁█")
        self.assertEqual(console.sparkline([(0, 3.0), (10, 3.0)], 4), "▁▁▁▁")
        self.assertEqual(console.sparkline([(0, 0.0), (10, 7.0)], 3), "▁▁█")
        self.assertEqual(console.sparkline([(5, 1.0), (5, 2.0)], 2), "██")


class PlainTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.now, self.out = 0.0, io.StringIO()
        self.view = console.PlainView(self.out, 50_000, clock=lambda: self.now)

    def test_one_line_with_all_that_is_known(self):
        self.view.announce("environments: native")
        self.view.show({**EVALUATION, **ROW, "run/env_steps": 20_000})
        self.view.show(ROW)
        self.view.close()
        lines = self.out.getvalue().splitlines()
        self.assertEqual(lines[0], "environments: native")
        for part in SHOWN[2:]:
            self.assertIn(part, lines[-1])
        self.assertStartsWith(lines[-1], "25,000/50,000 env steps | ")
        self.assertTrue(self.out.getvalue().isascii())

    def test_intervals_grow_and_the_end_is_shown(self):
        times = []
        for second in range(36_000):
            self.now, before = float(second), self.out.tell()
            self.view.show({"run/env_steps": second})
            times += [second] if self.out.tell() > before else []
        self.view.close()
        self.assertLess(len(times), 150)
        self.assertLen([t for t in times if t <= 10], 11)
        self.assertLessEqual(max(b - a for a, b in zip(times, times[1:])), 601)
        self.assertStartsWith(self.out.getvalue().splitlines()[-1], "35,999/")


if __name__ == "__main__":
    absltest.main()
