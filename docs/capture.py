"""Puts the picture and the terminal panel of a finished run into the README.

    python docs/capture.py runs/dqn-CartPole-v1-...

Both are drawn from the files of the run: the panel is the one at half of its env steps.
"""

from __future__ import annotations

import io
import json
import pathlib
import re
import sys

from rich.console import Console

from tfrl.logs import csv_file
from tfrl.logs.console import PanelView
from tfrl.logs.curve import draw_curve

ROOT = pathlib.Path(__file__).resolve().parents[1]
WIDTH = 88


def panel(run_dir: pathlib.Path) -> str:
    """The text of the panel at half of the run."""
    total = json.loads((run_dir / "job.json").read_text(encoding="utf-8"))["total_env_steps"]
    console = Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"),
        width=WIDTH,
        no_color=True,
        record=True,
    )
    view = PanelView(console, run_dir.name, total)
    for row in csv_file.read(run_dir / "metrics.csv"):
        if row[csv_file.STEP] <= total / 2:
            view.show(row)
    view.close()
    console.export_text()  # forgets what the live panel printed
    console.print(view.render())
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def main(argv: list[str]) -> int:
    """Exit code 0."""
    run_dir = pathlib.Path(argv[0])
    draw_curve([run_dir], ROOT / "docs" / "images" / "cartpole_curve.png")
    readme = ROOT / "README.md"
    text = f"<!-- capture -->\n\n```\n{panel(run_dir)}\n```\n\n<!-- end -->"
    old = readme.read_text(encoding="utf-8")
    new = re.sub(r"<!-- capture -->.*?<!-- end -->", lambda match: text, old, flags=re.DOTALL)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
