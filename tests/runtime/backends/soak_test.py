"""IMPALA with processes for 10 million env steps: no process keeps growing. Takes 4 minutes on 2 quiet cores.

`SOAK_ENV_STEPS=3000000 python -m pytest tests/runtime/backends/soak_test.py` is a shorter one.
"""

import os
import pathlib
import tempfile
import time

import pytest
from absl.testing import absltest

from tfrl.testing.processes import ROOT, Run

TOTAL = int(os.environ.get("SOAK_ENV_STEPS", "10_000_000"))
MILLION = 1_000_000
MOST_MB = 5.0  # that a process may grow after the first million


def memory_mb(pid: int) -> float:
    """Memory of a process that no file backs."""
    lines = dict(
        line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(lines["RssAnon"].split()[0]) / 1024


@pytest.mark.slow
class SoakTest(absltest.TestCase):
    def test_no_process_grows(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        flags = ROOT / "configs" / "impala" / "cartpole.flags"
        run = Run(folder, "impala", flagfile=flags, total_env_steps=TOTAL, console="plain")
        self.addCleanup(run.close)
        seen: dict[str, list[tuple[float, float]]] = {}  # process -> (env steps, MB)
        while run.process.poll() is None:
            time.sleep(2.0)
            steps = max((row.get("run/env_steps", 0.0) for row in run.rows()), default=0.0)
            for name, child in run.children().items():
                try:
                    seen.setdefault(name, []).append((steps, memory_mb(child.pid)))
                except (FileNotFoundError, KeyError, ProcessLookupError):
                    continue  # it has just ended
        self.assertEqual(run.wait(), 0, run.text())
        self.assertLen(seen, 5)
        for name, points in seen.items():
            # What the allocator gives back for a while comes again: the largest of a stretch counts.
            first = max(mb for steps, mb in points if MILLION <= steps < 2 * MILLION)
            last = max(mb for steps, mb in points if steps >= TOTAL - MILLION)
            print(
                f"{name}: {first:.1f} MB in the second million, {last:.1f} MB in the last",
                flush=True,
            )
            with self.subTest(name):
                self.assertLess(last - first, MOST_MB)


if __name__ == "__main__":
    absltest.main()
