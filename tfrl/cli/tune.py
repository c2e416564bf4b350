"""Searches settings with Optuna: `tfrl tune`, and `launchers/tune.py` of a checkout."""

from __future__ import annotations

import dataclasses
import sys

from tfrl.config import flags
from tfrl.errors import SettingError
from tfrl.settings import setting, validate

_USAGE = """Searches for good settings with Optuna: tfrl tune [--trials=N] --search=JSON -- --algo=NAME [flags of a run]

The flags after -- apply to every run. Runs that fall behind the others are ended early."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of this launcher."""

    search: dict = setting(
        {},
        'settings to search, {name: {kind: values}}, e.g. {"learning_rate": {"log": [1e-5, 1e-2]}, '
        '"n_step": {"choices": [1, 3, 5]}}; kinds: log, uniform, int (lowest and highest), choices',
    )
    trials: int = setting(20, "number of runs", minimum=1)
    study_dir: str = setting("runs/tune", "folder of the study; an existing study is continued")
    prune: bool = setting(
        True, "end a run early when its evaluations are below the median of the other runs"
    )
    search_seed: int = setting(0, "seed of the search", minimum=0)

    def __post_init__(self) -> None:
        validate(self)


def main(argv: list[str]) -> int:
    """Exit code: 0, 2 for arguments that cannot be used, 130 for an interrupted search."""
    at = argv.index("--") if "--" in argv else len(argv)
    try:
        options, _ = flags.parse_options(Options, argv[:at], _USAGE)
        parsed = flags.parse_given(flags.expand(argv[at + 1 :]))
        settings = {name: value for part in parsed.given.values() for name, value in part.items()}
        if parsed.switches:
            settings["with_"] = list(parsed.switches)
        from tfrl.tune import tune

        tune(
            parsed.algo, options.search, options.trials, options.study_dir, options.prune,
            options.search_seed, **{"console": "none", **settings},
        )  # fmt: skip
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; repeat the command to continue", file=sys.stderr)
        return 130
    return 0
