"""Times tfrl, and its rivals in turn: `tfrl benchmark`, and `launchers/benchmark.py` of a checkout."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import sys
import time

from tfrl.benchmark.workloads import RIVALS, WORKLOADS, Workload, choose_workloads
from tfrl.config import flags
from tfrl.errors import SettingError
from tfrl.settings import setting, validate

_USAGE = """Times workloads of tfrl: tfrl benchmark [--workloads=NAME,...] [--rival_python=PATH]

If the path to a rival library's Python is given, the same workload also runs in that library, in
turns: tfrl, rival, tfrl, rival, ... Several rivals may be given. --list shows the workloads and their
rivals."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of this launcher."""

    workloads: tuple[str, ...] = setting(("all",), "names of workloads, or 'all'")
    list: bool = setting(False, "list the workloads and exit")
    rival_python: str = setting("", "path to a Python with Stable-Baselines3 (and sb3-contrib)")
    rllib_python: str = setting("", "path to a Python with RLlib")
    sample_factory_python: str = setting("", "path to a Python with Sample Factory")
    cleanrl_python: str = setting("", "path to a Python that finds CleanRL's scripts")
    sbx_python: str = setting("", "path to a Python with SBX")
    epymarl_python: str = setting(
        "",
        "path to a Python with what EPyMARL imports and the folder src of its checkout on its path",
    )
    repeats: int = setting(3, "runs per library", minimum=1)
    scale: float = setting(
        1.0, "multiplies the timed part of each run, but not its warm-up", above=0
    )
    timeout_s: float = setting(1800.0, "maximum duration of one run", unit="s", above=0)
    out: str = setting(
        "", "JSON file or folder to write; default: benchmarks/results/<workload>-<date>.json"
    )

    def __post_init__(self) -> None:
        validate(self)

    @property
    def pythons(self) -> dict[str, str]:
        """Key of `RIVALS` -> Python, of the rivals that run."""
        given = {
            "sb3": self.rival_python,
            "rllib": self.rllib_python,
            "sample_factory": self.sample_factory_python,
            "cleanrl": self.cleanrl_python,
            "sbx": self.sbx_python,
            "epymarl": self.epymarl_python,
        }
        return {rival: python for rival, python in given.items() if python}


def main(argv: list[str]) -> int:
    """Exit code: 0, 1: a run failed, 2: arguments that cannot be used, 130: stopped."""
    try:
        options, _ = flags.parse_options(Options, argv, _USAGE)
        workloads = choose_workloads(options.workloads)
        if options.list:
            for workload in WORKLOADS.values():
                rivals = f" [{', '.join(workload.rivals)}]" if workload.rivals else ""
                print(f"{workload.name:22} {workload.figure:16} {workload.what}{rivals}")
            return 0
        _check_rivals(options.pythons, workloads)
        files = [_out_file(options.out, workload, len(workloads)) for workload in workloads]
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    # As Ctrl-C: the run in progress is ended with the launcher, not left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _measure(options, workloads, files)
    except KeyboardInterrupt:
        print("stopped; the workload in progress is lost", file=sys.stderr)
        return 130


def _measure(options: Options, workloads: list[Workload], files: list[pathlib.Path]) -> int:
    from tfrl.benchmark import compare

    for workload, file in zip(workloads, files):
        try:
            result = compare.compare(
                workload,
                {who: path for who, path in options.pythons.items() if who in workload.rivals},
                options.repeats,
                options.scale,
                options.timeout_s,
            )
        except compare.RunFailed as error:
            print(f"error: {workload.name}: {error}", file=sys.stderr)
            return 1
        file.write_text(json.dumps(result, indent=2) + "\n")
        compare.show(result)
        print(file)
    return 0


def _check_rivals(pythons: dict[str, str], workloads: list[Workload]) -> None:
    """Raises SettingError for a Python that is not there, or that no chosen workload would use."""
    for rival, python in pythons.items():
        flag = "rival_python" if rival == "sb3" else f"{rival}_python"
        if shutil.which(python) is None:
            raise SettingError(f"{flag}={python!r}: no program there")
        if not any(rival in workload.rivals for workload in workloads):
            names = ", ".join(workload.name for workload in workloads)
            able = ", ".join(w.name for w in WORKLOADS.values() if rival in w.rivals) or "none"
            raise SettingError(f"{flag}: {RIVALS[rival]} has no {names}; expected some of {able}")


def _out_file(out: str, workload: Workload, count: int) -> pathlib.Path:
    """The file of a workload's result; its folder is made and can be written."""
    if out.endswith(".json"):
        if count > 1:
            raise SettingError(f"out={out!r}: one file for {count} workloads; expected a folder")
        file = pathlib.Path(out)
    else:
        name = f"{workload.name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        file = pathlib.Path(out or "benchmarks/results") / name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"out={out!r}: {error.strerror}") from None
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise SettingError(f"out={str(file)!r}: cannot be written")
    return file
