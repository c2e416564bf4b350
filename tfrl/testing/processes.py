"""A run by the command line in processes of its own, watched from outside."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from tfrl.logs import csv_file

ROOT = pathlib.Path(__file__).parents[2]
END_S = 240  # of a whole run; two busy cores start six processes for long


class Run:
    """`launchers/run.py --backend=processes` in a process of its own.

    Args:
      folder: of the run's folder and of what it prints.
      algo: algorithm.
      **settings: flags; one of None is left out.

    Attributes:
      dir: folder of the run.
      process: of the launcher.
    """

    def __init__(self, folder: pathlib.Path, algo: str, **settings: Any):
        self.dir, self.out = folder / "run", folder / f"out-{time.monotonic_ns()}.txt"
        values = {"algo": algo, "backend": "processes", "run_dir": self.dir, **settings}
        flags = [f"--{name}={value}" for name, value in values.items() if value is not None]
        command = [sys.executable, str(ROOT / "launchers" / "run.py")]
        with open(self.out, "w") as file:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(
                command + flags, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=folder
            )
        self._children: dict[int, tuple[str, psutil.Process]] = {}

    def text(self) -> str:
        """The output of the run."""
        return self.out.read_text()

    def children(self) -> dict[str, psutil.Process]:
        """{name: process} of the roles; the name is that of the log file they write to."""
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if child.pid not in self._children and os.path.exists(f"/proc/{child.pid}/fd/1"):
                    log = os.path.basename(os.readlink(f"/proc/{child.pid}/fd/1"))
                    if log.endswith(".log") and log not in ("native.log", "fork_server.log"):
                        self._children[child.pid] = (log.removesuffix(".log"), child)
        except (psutil.NoSuchProcess, FileNotFoundError):
            pass  # it ended while it was looked at
        return {name: child for name, child in self._children.values() if child.is_running()}

    def rows(self) -> list[dict[str, float]]:
        """Rows of the metrics, so far."""
        path = self.dir / "metrics.csv"
        return csv_file.read(path) if path.exists() else []

    def wait_for(self, what: str, test: Callable[[], Any], limit_s: float = END_S) -> Any:
        """The result of `test`, once it is true; AssertionError when the run ends or the time is up."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            found = test()
            if found:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"no {what}; the run printed:\n{self.text()}")

    def wait_for_updates(self, num: int) -> None:
        """Returns once the metrics show so many updates; raises AssertionError as `wait_for`."""

        def far() -> bool:
            return any(row.get("run/updates", 0) >= num for row in self.rows())

        self.wait_for(f"{num} updates", far)

    def wait(self, limit_s: float = END_S) -> int:
        """Exit code; raises AssertionError where the run does not end within `limit_s`."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run does not end; it printed:\n{self.text()}") from None

    def result(self) -> dict[str, Any]:
        """The contents of `result.json`; raises FileNotFoundError before it is written."""
        return json.loads((self.dir / "result.json").read_text())

    def close(self) -> None:
        """Kills it where it still runs."""
        if self.process.poll() is None:
            self.children()
            self.process.kill()
            self.process.wait()


def end_of(processes: Sequence[psutil.Process], limit_s: float) -> list[psutil.Process]:
    """The processes that are still there after a while."""
    return psutil.wait_procs(processes, timeout=limit_s)[1]
