"""The views of a running job: panel, plain lines, nothing."""

from __future__ import annotations

import io

from absl.testing import absltest, parameterized
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
    "training return 198.2",
    "env steps/s 5,000",
    "updates/s 1,250",
    "samples/insert 8.00",
    "epsilon 0.050",
    "policy version 6,000",
    "policy lag 32",
    "evaluation 410 +- 20.5 at 20,000",
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

    def test_an_evaluation_is_a_line_that_stays(self):
        view, out = self.panel()
        view.show(ROW)
        view.show({**EVALUATION, "evaluator/episodes": 20})
        view.close()
        self.assertEqual(
            out.getvalue().count(
                "evaluation at 20,000 env steps: return 410 +- 20.5 over 20 episodes\n"
            ),
            1,
        )

    def test_what_a_row_lacks_is_not_shown_again(self):
        view, _ = self.panel()
        view.show(ROW)
        view.show(EVALUATION)
        view.show({"run/env_steps": 26_000})
        view.close()
        text = self.text(view)
        self.assertIn("evaluation 410 +- 20.5 at 20,000", text)  # says of when it is
        for name in ("updates/s", "training return", "policy lag"):
            self.assertNotIn(name, text)

    def test_a_narrower_terminal_leaves_nothing_of_the_wide_panel(self):
        view, out = self.panel(width=100)
        view.show(ROW)
        height = self.text(view).count("\n")
        view._console.width = 40
        before = out.tell()
        view.show(ROW)
        # Every line of 100 columns has become three of at most 40.
        written = out.getvalue()[before:]
        self.assertStartsWith(written, f"\r\x1b[{3 * height - 1}A\x1b[J" + "\n" * (height - 1))
        before = out.tell()
        view.show(ROW)
        self.assertNotIn("\x1b[J", out.getvalue()[before:])
        view.close()

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
        self.view.show(ROW)
        self.view.show(EVALUATION)
        self.view.show(ROW)
        self.view.close()
        lines = self.out.getvalue().splitlines()
        self.assertEqual(lines[0], "environments: native")
        self.assertEqual(lines[2], "evaluation at 20,000 env steps: return 410 +- 20.5")
        for part in SHOWN[2:-1]:
            self.assertIn(part, lines[-1])
        self.assertNotIn("evaluation", "".join(lines[3:]))  # said once
        self.assertStartsWith(lines[-1], "25,000/50,000 env steps (50%) | ")
        self.assertTrue(self.out.getvalue().isascii())

    def test_what_a_row_lacks_is_not_repeated(self):
        self.view.show(ROW)
        self.now = 10.0
        self.view.show({"run/env_steps": 26_000})
        last = self.out.getvalue().splitlines()[-1]
        self.assertEqual(last, "26,000/50,000 env steps (52%)")

    def test_a_last_batch_beyond_the_total_is_the_end(self):
        self.view.show({"run/env_steps": 54_000})
        self.assertIn("54,000/50,000 env steps (100%)", self.out.getvalue())
        self.now = 10.0
        self.view.show({"run/env_steps": 49_999})
        self.assertIn("49,999/50,000 env steps (99%)", self.out.getvalue())

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


class NumberTest(parameterized.TestCase):
    @parameterized.parameters(
        (0.001234567, "0.001235"),
        (-0.5, "-0.5"),
        (0.0, "0"),
        (91.449, "91.45"),
        (198.25, "198.2"),
        (500.0, "500"),
        (9999.4, "9999"),
        (123456.7, "123,457"),
        (1e-9, "1e-09"),
    )
    def test_significant_digits(self, value, text):
        self.assertEqual(console.number(value), text)


if __name__ == "__main__":
    absltest.main()
