"""What the user sees while a run goes on: a live panel on a terminal, else plain lines."""

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


class View(Protocol):
    """One way to show a run."""

    def show(self, row: Mapping[str, float]) -> None:
        """Takes a row; a metric that it lacks keeps its last value."""

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
        """As of `View.show`: nothing."""
        pass

    def announce(self, text: str) -> None:
        """As of `View.announce`: nothing."""
        pass

    def close(self) -> None:
        """As of `View.close`: nothing."""
        pass


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
        """As of `View.show`: prints a line where one is due."""
        _remember(self._state, row)
        self._pending = True
        now = self._clock()
        if now >= self._next:
            # Ten per cent of the time passed: about 24 lines for each factor of ten.
            self._next = now + min(_PLAIN_LONGEST_S, 0.1 * (now - self._start))
            self._print()

    def announce(self, text: str) -> None:
        """As of `View.announce`."""
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        """As of `View.close`: prints what came since the last line."""
        if self._pending:
            self._print()

    def _print(self) -> None:
        self._pending = False
        parts = [f"{self._state.get('run/env_steps', 0):,.0f}/{self._total:,} env steps"]
        parts += [f"{label} {text}" for label, text in _facts(self._state)]
        left = _time_left(self._state, self._total)
        parts += [f"{left} left"] if left else []
        print(" | ".join(parts), file=self._out, flush=True)


class PanelView:
    """A panel that is redrawn in place; announcements scroll above it."""

    def __init__(self, console: Console, title: str, total_env_steps: int) -> None:
        self._console, self._title, self._total = console, title, total_env_steps
        self._state: dict[str, float] = {}
        self._returns: collections.deque[tuple[float, float]] = collections.deque(maxlen=2000)
        self._live: Live | None = None

    def show(self, row: Mapping[str, float]) -> None:
        """As of `View.show`: draws the panel, on the thread of the caller."""
        _remember(self._state, row)
        if "actor/episode_return_mean" in row and "run/env_steps" in row:
            self._returns.append((row["run/env_steps"], row["actor/episode_return_mean"]))
        if self._live is None:
            # Drawn when there is news, by the caller's thread: no second thread takes its time.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(self.render(), refresh=True)

    def announce(self, text: str) -> None:
        """As of `View.announce`; the text is not read as markup."""
        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """As of `View.close`: leaves the panel as it is; a row after it begins a new one."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def render(self) -> Panel:
        """The panel for the rows so far."""
        state = self._state
        steps = state.get("run/env_steps", 0.0)
        head = Table.grid(expand=True, padding=(0, 1))
        head.add_column(ratio=1)
        head.add_column(justify="right", no_wrap=True)
        left = _time_left(state, self._total)
        text = f"{steps / self._total:4.0%}  {steps:,.0f} / {self._total:,} env steps"
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
            line = sparkline(list(self._returns), max(10, self._console.width - 20))
            parts.append(Text.assemble(("return  ", "dim"), (line, "cyan")))
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


def _remember(state: dict[str, float], row: Mapping[str, float]) -> None:
    state.update(row)
    if "evaluator/return_mean" in row:
        state["evaluation at"] = row.get("run/env_steps", state.get("run/env_steps", 0.0))


def _facts(state: Mapping[str, float]) -> list[tuple[str, str]]:
    """(label, text) of what is known, in the order in which it is shown."""
    layout = (
        ("return", "actor/episode_return_mean", ".1f"),
        ("episodes", "run/episodes", ",.0f"),
        ("env steps/s", "run/env_steps_per_s", ",.0f"),
        ("updates/s", "run/updates_per_s", ",.0f"),
        ("samples/insert", "replay/samples_per_insert", ".2f"),
        ("epsilon", "actor/epsilon", ".3f"),
        ("policy version", "learner/policy_version_updates", ",.0f"),
        ("policy lag", "actor/policy_lag_updates", ",.0f"),
    )
    if "replay/queue_items" in state:  # asynchronous: what is trained on says more than what acts
        lag = ("policy lag", "learner/policy_lag_mean_updates", ",.1f")
        layout = (*layout[:-1], lag, ("queue", "replay/queue_items", ",.0f"))
    facts = [(label, format(state[name], spec)) for label, name, spec in layout if name in state]
    if "evaluator/return_mean" in state:
        text = f"{state['evaluator/return_mean']:.1f}"
        if "evaluator/return_std" in state:
            text += f" +- {state['evaluator/return_std']:.1f}"
        facts.append(("evaluation", f"{text} at {state['evaluation at']:,.0f}"))
    return facts


def _time_left(state: Mapping[str, float], total_env_steps: int) -> str:
    rate = state.get("run/env_steps_per_s", 0.0)
    if rate <= 0:
        return ""
    left = max(0.0, total_env_steps - state.get("run/env_steps", 0.0)) / rate
    return str(datetime.timedelta(seconds=round(left)))
