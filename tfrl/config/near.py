"""The run that a wrong run folder may have meant."""

from __future__ import annotations

import difflib
import os
import pathlib


def nearest_run(wanted: str | os.PathLike) -> str:
    """The end of a message about a folder without a run; '' where no run is known.

    It names the run that has `wanted` in it, one of a similar name beside it, one of a similar name in `runs`, or the
    newest of these.

    Args:
      wanted: what was given; '' where nothing was.
    """
    path = pathlib.Path(wanted)
    for folder in path.parents if str(wanted) else ():
        if (folder / "job.json").exists() and folder != pathlib.Path():
            return f"; did you mean {folder}?"
    known: list[pathlib.Path] = []
    beside = [path.parent] if wanted else []
    for place in dict.fromkeys([*beside, pathlib.Path("runs")]):
        here = {job.parent.name: job.parent for job in sorted(place.glob("*/job.json"))}
        if close := difflib.get_close_matches(path.name, here, n=1, cutoff=0.6):
            return f"; did you mean {here[close[0]]}?"
        known += here.values()
    newest = max(known, key=lambda folder: (folder / "job.json").stat().st_mtime, default=None)
    return f"; the newest run is {newest}" if newest else ""
