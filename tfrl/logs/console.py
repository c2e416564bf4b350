"""The output of a run on the console: a live panel on a terminal, else plain lines."""

from __future__ import annotations

import collections
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_PLAIN_LONGEST_S = 600.0  # between two plain lines
_EVALUATION = "evaluator/return_mean"  # a row that has it is an evaluation


class View(Protocol):
    """One way to show a run."""

    def show(self, row: Mapping[str, float]) -> None:
        """Takes a row of training, or of an evaluation, which becomes a line that stays."""

    def announce(self, text: str) -> None:
        """Prints one line that stays."""

    def close(self) -> None:
        """Shows the last state for good; announcements still work."""


def make_view(kind: str, out: TextIO, title: str, total_env_steps: int) -> View:
    """A view of kind 'panel', 'plain', 'none' or 'auto': a panel where `out` is a terminal."""
    if kind == "auto":
        kind = "panel" if out.isatty() else "plain"
    if kind == "panel":
        return PanelView(Console(file=out, force_terminal=True), title, total_env_steps)
    return PlainView(out, total_env_steps) if kind == "plain" else SilentView()


class SilentView:
    """Shows nothing."""

    def show(self, row: Mapping[str, float]) -> None:
        """Implements `View.show`: nothing."""

    def announce(self, text: str) -> None:
        """Implements `View.announce`: nothing."""

    def close(self) -> None:
        """Implements `View.close`: nothing."""


class PlainView:
    """Lines at intervals that grow with the run, so that the log of a long one stays readable.

    Args:
      out: where lines go.
      total_env_steps: length of the run.
      clock: seconds that only grow.
    """

    def __init__(
        self, out: TextIO, total_env_steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out, self._total, self._clock = out, total_env_steps, clock
        self._start = self._next = clock()
        self._state: dict[str, float] = {}
        self._pending = False

    def show(self, row: Mapping[str, float]) -> None:
        """Implements `View.show`: prints a line where one is due."""
        if _EVALUATION in row:
            self.announce(evaluation_line(row))
            return
        self._state, self._pending = dict(row), True
        now = self._clock()
        if now >= self._next:
            # Ten per cent of the time passed: about 24 lines for each factor of ten.
            self._next = now + min(_PLAIN_LONGEST_S, 0.1 * (now - self._start))
            self._print()

    def announce(self, text: str) -> None:
        """Implements `View.announce`."""
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        """Implements `View.close`: prints what came since the last line."""
        if self._pending:
            self._print()

    def _print(self) -> None:
        self._pending = False
        done = self._state.get("run/env_steps", 0)
        parts = [f"{done:,.0f}/{self._total:,} env steps ({_share(done, self._total)})"]
        parts += [f"{label} {text}" for label, text in _facts(self._state)]
        left = _time_left(self._state, self._total)
        parts += [f"{left} left"] if left else []
        print(" | ".join(parts), file=self._out, flush=True)


class PanelView:
    """A panel that is redrawn in place; announcements and evaluations scroll above it."""

    def __init__(self, console: Console, title: str, total_env_steps: int) -> None:
        self._console, self._title, self._total = console, title, total_env_steps
        self._state: dict[str, float] = {}
        self._returns: collections.deque[tuple[float, float]] = collections.deque(maxlen=2000)
        self._live: Live | None = None
        self._drawn = 0, 0  # width and height of the panel on the screen

    def show(self, row: Mapping[str, float]) -> None:
        """Implements `View.show`: draws the panel, on the thread of the caller."""
        if _EVALUATION in row:
            self._state |= {name: x for name, x in row.items() if name.startswith("evaluator/")}
            self._state["evaluation at"] = row["run/env_steps"]
            self.announce(evaluation_line(row))
        else:
            old = {name: x for name, x in self._state.items() if name.startswith("evalua")}
            self._state = {**old, **row}
        if "actor/episode_return_mean" in row and "run/env_steps" in row:
            self._returns.append((row["run/env_steps"], row["actor/episode_return_mean"]))
        if self._live is None:
            # Drawn when there is news, by the caller's thread: no second thread takes its time.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._erase_after_resize()
        panel = self.render()
        self._live.update(panel, refresh=True)
        self._drawn = self._console.width, len(self._console.render_lines(panel))

    def _erase_after_resize(self) -> None:
        """Erases the panel where the width of the terminal has changed since it was drawn.

        A narrower terminal wraps each of its lines into several, which `Live` does not count. The cursor is left where
        `Live` expects it, on the last line of a panel of the old height.
        """
        (width, height), now = self._drawn, self._console.width
        if height and width != now:
            rows = height * -(-width // now)
            up = f"\x1b[{rows - 1}A" if rows > 1 else ""
            self._console.file.write(f"\r{up}\x1b[J" + "\n" * (height - 1))
            self._drawn = now, height

    def announce(self, text: str) -> None:
        """Implements `View.announce`; the text is not read as markup."""
        self._erase_after_resize()
        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """Implements `View.close`: leaves the panel as it is; a row after it begins a new one."""
        if self._live is not None:
            self._erase_after_resize()
            self._live.stop()
            self._live, self._drawn = None, (0, 0)

    def render(self) -> Panel:
        """The panel for the rows so far."""
        state = self._state
        steps = state.get("run/env_steps", 0.0)
        head = Table.grid(expand=True, padding=(0, 1))
        head.add_column(ratio=1)
        head.add_column(justify="right", no_wrap=True)
        left = _time_left(state, self._total)
        text = f"{_share(steps, self._total)}  {steps:,.0f} / {self._total:,} env steps"
        head.add_row(
            ProgressBar(total=self._total, completed=min(steps, self._total)),
            text + (f"  {left} left" if left else ""),
        )
        body = Table.grid(padding=(0, 3))
        facts = [
            Text.assemble((f"{label} ", "dim"), (text, "bold")) for label, text in _facts(state)
        ]
        columns = 3 if self._console.width >= 96 else 2 if self._console.width >= 60 else 1
        for start in range(0, len(facts), columns):
            body.add_row(*facts[start : start + columns])
        parts: list[Any] = [head, body]
        if len(self._returns) > 1 and (self._console.encoding or "").lower().startswith("utf"):
            line = sparkline(list(self._returns), max(10, self._console.width - 24))
            parts.append(Text.assemble(("training return  ", "dim"), (line, "cyan")))
        return Panel(Group(*parts), title=Text(self._title), title_align="left")


def sparkline(points: Sequence[tuple[float, float]], width: int) -> str:
    """Heights of `points` (x, y), by x in `width` columns, as block characters; a gap repeats."""
    blocks = "▁▂▃▄▅▆▇█"
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = points[0][0], points[-1][0]
    columns: list[float | None] = [None] * width
    for x, y in points:
        where = int((x - first) / (last - first) * (width - 1)) if last > first else 0
        columns[where] = y
    text, height = "", points[0][1]
    for column in columns:
        height = height if column is None else column
        share = (height - low) / (high - low) if high > low else 0.0
        text += blocks[round(share * (len(blocks) - 1))]
    return text


def number(value: float) -> str:
    """A measured number for people: four significant digits, thousands whole and with commas."""
    return f"{value:,.0f}" if abs(value) >= 9999.5 else f"{value:.4g}"


def score(mean: float, std: float | None = None) -> str:
    """'410 +- 20.5': a mean return and its standard deviation."""
    return number(mean) if std is None else f"{number(mean)} +- {number(std)}"


def evaluation_line(row: Mapping[str, float]) -> str:
    """The line of an evaluation."""
    text = f"evaluation at {row.get('run/env_steps', 0):,.0f} env steps: return "
    text += score(row[_EVALUATION], row.get("evaluator/return_std"))
    if "evaluator/episodes" in row:
        text += f" over {row['evaluator/episodes']:,.0f} episodes"
    for name, mean in row.items():
        if name.startswith("eval/") and name.endswith("/return_mean"):
            world = name.split("/")[1]
            text += f"; {world} {score(mean, row.get(f'eval/{world}/return_std'))}"
    return text


def _share(done: float, total: int) -> str:
    """Progress in per cent, not rounded up: 100% is the end; a batch may go beyond it."""
    return f"{min(100, int(100 * done / total))}%"


def _facts(state: Mapping[str, float]) -> list[tuple[str, str]]:
    """(label, text) of what is known, in the order in which it is shown."""
    layout = (
        ("training return", "actor/episode_return_mean", ""),
        ("episodes", "run/episodes", ",.0f"),
        ("env steps/s", "run/env_steps_per_s", ",.0f"),
        ("updates/s", "run/updates_per_s", ",.0f"),
        ("samples/insert", "replay/samples_per_insert", ".2f"),
        ("epsilon", "actor/epsilon", ".3f"),
        ("policy version", "learner/policy_version_updates", ",.0f"),
        ("policy lag", "actor/policy_lag_updates", ",.0f"),
    )
    if (
        "replay/queue_items" in state
    ):  # asynchronous: the lag of what is trained on matters more than that of what acts
        lag = ("policy lag", "learner/policy_lag_mean_updates", ",.1f")
        layout = (*layout[:-1], lag, ("queue", "replay/queue_items", ",.0f"))
    facts = [
        (label, format(state[name], spec) if spec else number(state[name]))
        for label, name, spec in layout
        if name in state
    ]
    if _EVALUATION in state:
        text = score(state[_EVALUATION], state.get("evaluator/return_std"))
        facts.append(("evaluation", f"{text} at {state['evaluation at']:,.0f}"))
    return facts


def _time_left(state: Mapping[str, float], total_env_steps: int) -> str:
    rate = state.get("run/env_steps_per_s", 0.0)
    if rate <= 0:
        return ""
    left = max(0.0, total_env_steps - state.get("run/env_steps", 0.0)) / rate
    return str(datetime.timedelta(seconds=round(left)))
