"""Finds the run that a user names. Nothing here imports TensorFlow."""

from __future__ import annotations

import os
import pathlib
import tempfile

from tfrl.config.near import nearest_run
from tfrl.errors import SettingError
from tfrl.runtime.storage.owner import owner_of

POLICY = pathlib.Path("checkpoints", "policy.npz")  # the exported policy's variables
ARTIFACTS = "artifacts"  # results that are not weights, a file each
SPEC = "spec.json"  # the environment's spaces, with which a policy is built without the environment


def finished_run(run_dir: str | os.PathLike) -> pathlib.Path:
    """The folder, if it is that of a finished run.

    Raises:
      SettingError: it is not; the message names the nearest run folder, or else the newest.
    """
    folder = pathlib.Path(run_dir)
    if not str(run_dir):
        raise SettingError(f"run_dir: not given; expected the folder of a run{nearest_run('')}")
    try:
        if not (folder / "job.json").exists():
            raise SettingError(f"run_dir={str(folder)!r}: no run there{nearest_run(folder)}")
        if not (folder / POLICY).exists():
            owner = owner_of(folder)
            if owner is not None:
                raise SettingError(
                    f"run_dir={str(folder)!r}: this run goes on, {owner}; there is no policy of it yet"
                )
            raise SettingError(
                f"run_dir={str(folder)!r}: this run has not finished, there is no {POLICY}; "
                f"run.py --resume --run_dir={folder} continues it"
            )
    except OSError as error:
        raise SettingError(f"run_dir={str(folder)!r}: cannot be read, {error.strerror}") from None
    return folder


def check_writable(out: pathlib.Path, suffix: str = "") -> None:
    """Raises SettingError where `out` cannot be made: a file with this suffix if one is given, else a folder."""
    if suffix and (out.suffix.lower() != suffix or out.is_dir()):
        raise SettingError(f"out={str(out)!r}: expected the name of a file that ends in {suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise SettingError(f"out={str(out)!r}: cannot be written: {error.strerror}") from None
