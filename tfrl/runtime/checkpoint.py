"""Checkpoints: everything that a run needs to go on exactly, in one folder whose manifest is renamed into place last.

`checkpoints/<env steps>/` (with `.1` where that exists) holds the learner (variables, target,
optimiser slots, counters), the replay contents and `state.json`; it counts only once
`manifest.json` is there and every file it lists has its size. So a failed or cut-off write never
harms an older checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrl.config.settings import SettingError
from tfrl.types import EnvSpec

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Found:
    """A complete checkpoint: its folder, `state` as it was saved, and whether replay contents are in it."""

    folder: pathlib.Path
    state: dict[str, Any]

    @property
    def replay(self) -> pathlib.Path | None:
        """Folder of the replay contents, None where there are none."""
        folder = self.folder / "replay"
        return folder if folder.is_dir() else None


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: where they are kept.
      algo, spec: a checkpoint of another algorithm or other spaces is refused.
      keep: complete checkpoints that are kept; older and incomplete ones are removed after a newer is complete.
    """

    def __init__(self, folder: pathlib.Path, algo: str, spec: EnvSpec, keep: int):
        self.folder, self._algo, self._keep = folder, algo, keep
        self._identity = {"algo": algo, **spec.describe()}

    def save(
        self,
        env_steps: int,
        learner: tf.Module,
        state: Mapping[str, Any],
        save_replay: Callable[[pathlib.Path], None] | None,
    ) -> pathlib.Path:
        """Writes a checkpoint; returns its folder.

        Args:
          env_steps: names it.
          learner: its variables are saved.
          state: counters, generator states and whatever else JSON holds.
          save_replay: writes the replay's contents to a folder that does not exist yet; None leaves them out.
        """
        name = f"{env_steps:012d}"
        folder, again = self.folder / name, 0
        while folder.exists():  # what is there stays until this one is complete
            again += 1
            folder = self.folder / f"{name}.{again}"
        folder.mkdir(parents=True)
        tf.train.Checkpoint(learner=learner).write(str(folder / "learner"))
        if save_replay is not None:
            save_replay(folder / "replay")
        _write(folder / "state.json", {"identity": self._identity, "env_steps": env_steps, **state})
        files = {
            str(p.relative_to(folder)): p.stat().st_size
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }
        _write(folder / MANIFEST, {"files": files})
        kept = [f for f in self._complete() if f == folder or f.name.split(".")[0] != name][
            -self._keep :
        ]
        for old in self._folders():
            if old not in kept:
                shutil.rmtree(old)
        return folder

    def newest(self) -> Found | None:
        """The newest complete checkpoint, None if there is none; incomplete ones are skipped with a warning.

        Raises:
          SettingError: it belongs to another algorithm or to other spaces.
        """
        complete = self._complete(warn=True)
        if not complete:
            return None
        state = _read(complete[-1] / "state.json")
        for key, mine in self._identity.items():
            theirs = state["identity"].get(key)
            if theirs != mine:
                raise SettingError(
                    f"checkpoint {complete[-1]}: {key} is {theirs}, but this run has {mine}"
                )
        return Found(complete[-1], state)

    def _folders(self) -> list[pathlib.Path]:
        return sorted(p for p in self.folder.glob("[0-9]*") if p.is_dir())

    def _complete(self, warn: bool = False) -> list[pathlib.Path]:
        found = []
        for folder in self._folders():
            problem = _problem(folder)
            if problem is None:
                found.append(folder)
            elif warn:
                logging.warning("skipping checkpoint %s: %s", folder, problem)
        return found


def restore_learner(found: Found, learner: tf.Module) -> None:
    """Puts the saved variables back; every one must be there.

    Raises:
      SettingError: the file cannot be read.
    """
    path = str(found.folder / "learner")
    try:
        status = tf.train.Checkpoint(learner=learner).read(path)
    except (tf.errors.OpError, ValueError) as error:
        raise _damaged(found.folder, error) from error
    status.assert_existing_objects_matched()


def save_arrays(path: pathlib.Path, arrays: list[np.ndarray], **facts: float) -> None:
    """Writes the values of a policy's variables with named numbers beside them; replaces the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp.npz")
    named = {f"variable_{i}": a for i, a in enumerate(arrays)}
    np.savez(scratch, **named, **{f"fact_{k}": np.float64(v) for k, v in facts.items()})
    os.replace(scratch, path)


def load_arrays(path: pathlib.Path) -> tuple[list[np.ndarray], dict[str, float]]:
    """What `save_arrays` wrote.

    Raises:
      SettingError: the file is damaged.
    """
    try:
        with np.load(path) as stored:
            count = sum(name.startswith("variable_") for name in stored)
            arrays = [stored[f"variable_{i}"] for i in range(count)]
            facts = {
                name.removeprefix("fact_"): float(stored[name])
                for name in stored
                if name.startswith("fact_")
            }
    except OSError:
        raise
    except Exception as error:  # whatever the parsers of NumPy stumble over
        raise _damaged(path, error) from error
    return arrays, facts


def _problem(folder: pathlib.Path) -> str | None:
    manifest = folder / MANIFEST
    if not manifest.exists():
        return "it has no manifest, its writing was cut off"
    try:
        files = _read(manifest)["files"]
        _read(folder / "state.json")
    except (SettingError, OSError) as error:
        return str(error)
    for name, size in files.items():
        file = folder / name
        if not file.exists() or file.stat().st_size != size:
            return f"{name} is missing or has another size"
    return None


def _read(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise _damaged(path, error) from None


def _damaged(path: pathlib.Path, error: Exception) -> SettingError:
    reason = str(error).split("\n")[0][:200]
    return SettingError(f"{path}: cannot be read, it is damaged ({type(error).__name__}: {reason})")


def _write(path: pathlib.Path, value: Any) -> None:
    scratch = path.with_name(path.name + ".tmp")
    with open(scratch, "w") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
