"""Plays episodes with the policy of a run: `tfrl evaluate`, and `launchers/evaluate.py` of a checkout."""

from __future__ import annotations

import dataclasses
import json
import sys

from tfrl.config import flags, trust
from tfrl.errors import SettingError
from tfrl.runtime.storage import folders
from tfrl.settings import setting, validate

_USAGE = """Plays seeded episodes with the exported policy of a run: tfrl evaluate --run_dir=FOLDER [...]

Episodes are complete and rewards unclipped; nothing is learned. The same seed gives the same episodes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of this launcher."""

    run_dir: str = setting("", "folder of a finished run")
    trust_modules: tuple[str, ...] = setting(
        (), "your modules whose code the run folder may execute; by default it executes none"
    )
    episodes: int = setting(100, "episodes to play", minimum=1)
    seed: int = setting(0, "seed of the environments and of exploration", minimum=0)
    stochastic: bool = setting(
        False, "act with the exploration of the end of training instead of greedily"
    )
    world: str = setting(
        "", "world of the run's eval_worlds to play in; empty: the environment of training"
    )
    num_envs: int = setting(10, "environments stepped as one batch", minimum=1)
    record_video: bool = setting(
        False,
        "write episodes as mp4 files to <run_dir>/videos, with the score in the file name; needs no display",
    )
    video_episodes: int = setting(
        1, "episodes to record with --record_video, in addition to the scored ones", minimum=1
    )
    json: bool = setting(False, "print one line of JSON to stdout and everything else to stderr")

    def __post_init__(self) -> None:
        validate(self)


def main(argv: list[str]) -> int:
    """Exit code: 0, 1 where no episode ended, 2 for arguments that cannot be used, 130 when interrupted."""
    try:
        options, _ = flags.parse_options(Options, argv, _USAGE)
        run_dir = folders.finished_run(options.run_dir)
        if options.record_video:
            from tfrl.logs import video

            video.prepare()
        trust.name(options.trust_modules)
        from tfrl.cli.quiet import quiet
        from tfrl.runtime import finish  # after the checks: TensorFlow

        out = sys.stderr if options.json else sys.stdout
        greedy = not options.stochastic
        files = []
        with quiet(f"the evaluation of {run_dir}"):
            # First, so that an environment that cannot be drawn is refused before the episodes.
            if options.record_video:
                files = finish.record_run(run_dir, options.video_episodes, options.seed, greedy)
            evaluation = finish.evaluate_run(
                run_dir,
                options.episodes,
                options.seed,
                greedy,
                options.num_envs,
                world=options.world,
            )
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not evaluation:  # the warning has been printed
        return 1
    row = {name.removeprefix("evaluator/"): value for name, value in evaluation.metrics().items()}
    row["episodes"] = len(evaluation.returns)
    mode = "greedy" if greedy else "exploring"
    print(
        f"return: {row['return_mean']:.2f} +- {row['return_std']:.2f}, "
        f"min {row['return_min']:.2f}, max {row['return_max']:.2f}, "
        f"over {row['episodes']} {mode} episodes, seed {options.seed}",
        file=out,
    )
    for file in files:
        print(f"video:  {file}", file=out)
    if options.json:
        facts = {"run_dir": options.run_dir, "seed": options.seed, "mode": mode, **row}
        print(json.dumps({**facts, "videos": [str(file) for file in files]}))
    return 0
