"""Draws learning curves of run folders: `tfrl plot`, and `launchers/plot.py` of a checkout."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from tfrl.config import flags
from tfrl.errors import SettingError
from tfrl.runtime.storage import folders
from tfrl.settings import setting, validate

_USAGE = """Draws learning curves: tfrl plot RUN_FOLDER [RUN_FOLDER ...] [--out=FILE] [--labels=A,B,...]

Runs of one algorithm that differ only in their seed become one line with a band. Each environment
gets its own plot."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of this launcher."""

    out: str = setting("curve.png", "PNG file to write")
    labels: tuple[str, ...] = setting(
        (), "names for the legend, one per run folder; runs with the same name become one line"
    )

    def __post_init__(self) -> None:
        validate(self)


def main(argv: list[str]) -> int:
    """Exit code: 0, or 2 for arguments that cannot be used."""
    try:
        options, run_dirs = flags.parse_options(Options, argv, _USAGE, positional="run folders")
        if not run_dirs:
            raise SettingError("expected at least one run folder")
        folders.check_writable(pathlib.Path(options.out), ".png")
        from tfrl.logs.curve import draw_curve  # matplotlib only when there is something to draw

        draw_curve(run_dirs, options.out, options.labels)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0
