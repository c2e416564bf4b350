"""From arguments to a Job that may start: the run folder is settled and checked first.

Nothing here creates a file or folder, nor starts a process.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tfrl.config import flags, json_form, objects, switches, trust
from tfrl.config.near import nearest_run
from tfrl.errors import SettingError
from tfrl.job import PLANS, Job

# A resumed run may change its length, the place of its parts and its output.
_FREE_SECTIONS = ("topology", "log")
_FREE_SCALARS = ("total_env_steps", "run_dir", "resume")
# Names in a run folder that a new run would write over or, as checkpoints, take for its own.
_OF_A_RUN = ("checkpoints", "metrics.csv", "result.json", "export", "artifacts")


def job_from_argv(argv: Sequence[str]) -> Job:
    """The Job of a command line, ready to start; with `--resume` it is read from the run folder.

    Raises:
      SettingError: anything that cannot be used.
    """
    tokens = flags.expand(argv)
    # Only what absl reads as false: a bare --resume gives 'true', or the argument that follows it.
    word = flags.peek(tokens, "resume") or "false"
    if word.lower() in ("false", "f", "0") or flags.wants_help(tokens):
        return check(flags.parse_given(tokens).job())
    run_dir = flags.peek(tokens, "run_dir")
    if not run_dir:
        if pathlib.Path(word).is_dir():  # the folder, given as if it were the flag's value
            raise SettingError(f"--resume={word}: expected --resume --run_dir={word}")
        raise SettingError("--resume: expected --run_dir with the folder of the run to continue")
    named = ("env", "env_wrappers", "network", "optimizer", "goal_space", "with", "eval_worlds")
    given = {name: flags.peek(tokens, name) for name in named}
    trust.name_settings(flags.peek(tokens, "algo"), given)
    saved = load_job(run_dir)
    parsed = flags.parse_given(tokens, saved.algo, tuple(saved.switches))
    algo, combined, asked_for = parsed.algo, parsed.switches, parsed.asked_for
    return check(change(saved, run_dir, parsed.given, algo, combined, asked_for))


def change(
    saved: Job,
    run_dir: str,
    given: Mapping[str, Mapping[str, Any]],
    algo: str | None = None,
    combined: Sequence[str] | None = None,
    asked_for: Sequence[str] = (),
) -> Job:
    """The Job with which the run `saved` continues.

    Args:
      saved: Job of the run folder.
      run_dir: that folder; it may have moved since.
      given: section key ('config', 'job', a key of `PLANS` or of a switch) -> {setting: value} as wanted.
      algo: algorithm that the user names, None for none.
      combined: switches that the user names, in their order; None: not given.
      asked_for: names of the settings that no flagfile gave; one that is changed without an effect is refused.

    Raises:
      SettingError: a setting that is not free in a resumed run differs from the saved one, or `saved` names code that
        may not run; see `trust.py`.
    """

    def refuse(name: str, wanted: Any, found: Any) -> SettingError:
        wanted, found = flags.value_text(wanted), flags.value_text(found)
        return SettingError(
            f"--{name}={wanted}: the run in {run_dir} has {name}={found}; a resumed run may change "
            "only total_env_steps, rates and schedules, and settings of processes, compilation, console and logs"
        )

    if algo is not None and algo != saved.algo:
        raise refuse("algo", algo, saved.algo)
    if combined is not None and tuple(combined) != tuple(saved.switches):
        raise refuse("with", tuple(combined), tuple(saved.switches))
    own = {switches.key(name): config for name, config in saved.switches.items()}
    holders = {"job": saved, **{key: getattr(saved, key) for key in ("config", *PLANS)}, **own}
    taken: dict[str, dict[str, Any]] = {key: {} for key in holders}
    changed_names = []
    for key, values in given.items():
        holder = holders[key]
        for name, value in values.items():
            if not may_change(key, type(holder), name):
                if not json_form.same(value, getattr(holder, name)):
                    raise refuse(name, value, getattr(holder, name))
                if not isinstance(value, objects.Live):  # the object that job.json has the name of
                    continue
            taken[key][name] = value
            if name in asked_for and not json_form.same(value, getattr(holder, name)):
                changed_names.append(name)
    parts = {
        key: dataclasses.replace(getattr(saved, key), **taken[key]) for key in ("config", *PLANS)
    }
    changed = {
        name: dataclasses.replace(config, **taken[switches.key(name)])
        for name, config in saved.switches.items()
    }
    scalars = {**taken["job"], "run_dir": str(run_dir), "resume": True}
    scalars["asked_for"] = tuple(changed_names)
    job = dataclasses.replace(saved, switches=changed, **parts, **scalars)
    trust.check_job(job)
    return job


def may_change(section: str, cls: type, name: str) -> bool:
    """Whether a resumed run may change a setting.

    Args:
      section: 'config', 'job' or a key of `PLANS`.
      cls: the settings dataclass that has it.
      name: of the setting.
    """
    if section == "job":
        return name in _FREE_SCALARS
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    return section in _FREE_SECTIONS or field.metadata.get("resumable", False)


def load_job(run_dir: str) -> Job:
    """The Job of a run folder; raises SettingError when there is none that can be read."""
    path = pathlib.Path(run_dir) / "job.json"
    try:
        return Job.load(path)
    except (FileNotFoundError, NotADirectoryError):
        raise SettingError(
            f"run_dir={run_dir!r}: no run to resume there, no job.json{nearest_run(run_dir)}"
        ) from None
    except OSError as error:
        raise SettingError(f"run_dir={run_dir!r}: cannot read job.json, {error.strerror}") from None
    except SettingError as error:
        raise SettingError(f"run_dir={run_dir!r}: job.json cannot be used: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(f"run_dir={run_dir!r}: job.json is damaged: {error!r}") from None


def check(job: Job) -> Job:
    """Checks that the run can have its folder and write there; `runtime/owner.py` takes it.

    Raises:
      SettingError: the folder holds another run, there is none to resume, or it cannot be written; a setting that
        job.json cannot hold.
    """
    job.to_json()  # what it cannot hold is refused now, not when it is written
    if job.resume and not job.run_dir:
        raise SettingError("resume=True: expected run_dir with the folder of the run to continue")
    if job.run_dir:
        refuse_taken(job)
    check_writable(job.run_dir or "runs")
    return job


def refuse_taken(job: Job) -> None:
    """Raises SettingError where `run_dir` is not a folder for this job: it holds another run, or none to resume."""
    folder = pathlib.Path(job.run_dir)
    taken = _exists(folder / "job.json")
    if job.resume and not taken:
        raise SettingError(
            f"run_dir={job.run_dir!r}: no run to resume there, no job.json{nearest_run(folder)}"
        )
    if taken and not job.resume:
        raise SettingError(
            f"run_dir={job.run_dir!r}: taken by another run; continue it with --resume, or choose "
            "another folder"
        )
    left = [name for name in _OF_A_RUN if _exists(folder / name)]
    if left and not job.resume:
        raise SettingError(
            f"run_dir={job.run_dir!r}: it holds {left[0]} of a run whose job.json is gone, which would be mixed with "
            "those of this one; choose another folder"
        )


def default_run_dir(job: Job) -> str:
    """`runs/<algo>-<env>-<time>`; a number follows where that folder exists."""
    words = (re.sub(r"[^A-Za-z0-9_.-]+", "_", w.strip("<>")) for w in (job.algo, job.env.env))
    base = "runs/" + "-".join([*words, time.strftime("%Y%m%d-%H%M%S")])
    path, number = base, 2
    while os.path.lexists(path):
        path, number = f"{base}-{number}", number + 1
    return path


def check_writable(run_dir: str) -> None:
    """Raises SettingError unless `run_dir` is, or can be made, a folder that takes files."""
    place = pathlib.Path(run_dir).absolute()
    while not _exists(place):
        place = place.parent
    if not place.is_dir():
        raise SettingError(f"run_dir={run_dir!r}: {str(place)!r} is a file, not a folder")
    try:
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(None, "no permission")
        # Access bits do not show read-only mounts and the like; an anonymous file does.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise SettingError(
            f"run_dir={run_dir!r}: cannot write in {str(place)!r}: {error.strerror}"
        ) from None


def _exists(path: pathlib.Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:  # a folder above may not be entered; `check_writable` reports it
        return False
    except OSError as error:
        raise SettingError(f"run_dir: {str(path)!r} cannot be used: {error.strerror}") from None
    return True
