"""Times tfrl, and a rival in turn: `python launchers/benchmark.py --workloads=dqn-cartpole`."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import sys
import time

from tfrl.benchmark.workloads import WORKLOADS, Workload, choose_workloads
from tfrl.config import flags
from tfrl.config.settings import SettingError, choose, setting, validate

_USAGE = """Times workloads of tfrl: benchmark.py [--workloads=NAME,...] [--rival_python=PATH]

With --rival_python the same workload of the rival runs in turn: tfrl, rival, tfrl, rival, ...
--list shows the workloads."""
_RIVALS = tuple(dict.fromkeys(name for w in WORKLOADS.values() for name in w.rivals))


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of this launcher."""

    workloads: tuple[str, ...] = setting(("all",), "names of workloads, or all")
    list: bool = setting(False, "show the workloads and end")
    rival: str = setting("sb3", "who runs in turn with tfrl", choices=_RIVALS)
    rival_python: str = setting("", "Python of an environment with the rival; none: tfrl alone")
    repeats: int = setting(3, "runs of each side", minimum=1)
    scale: float = setting(1.0, "multiplies the timed piece of every run, not its warm-up", above=0)
    timeout_s: float = setting(1800.0, "longest that one run may take", unit="s", above=0)
    out: str = setting(
        "", "JSON file, or a folder; default benchmarks/results/<workload>-<date>.json"
    )

    def __post_init__(self) -> None:
        validate(self)


def main(argv: list[str]) -> int:
    """Exit code: 0, 1: a run failed, 2: arguments that cannot be used, 130: stopped."""
    try:
        options, _ = flags.parse_options(Options, argv, _USAGE)
        workloads = choose_workloads(options.workloads)
        if options.list:
            for workload in WORKLOADS.values():
                print(f"{workload.name:22} {workload.figure:16} {workload.what}")
            return 0
        _check_rival(options, workloads)
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
                options.rival,
                options.rival_python,
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


def _check_rival(options: Options, workloads: list[Workload]) -> None:
    if not options.rival_python:
        return
    if shutil.which(options.rival_python) is None:
        raise SettingError(f"rival_python={options.rival_python!r}: no program there")
    for workload in workloads:
        if options.rival not in workload.rivals:
            raise SettingError(
                f"rival={options.rival!r} with {workload.name}: "
                f"{choose(options.rival, workload.rivals)}"
            )


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
