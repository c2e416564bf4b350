"""The folders of checkpoints as files: which are complete, which are damaged, and what a failed write has left.

`checkpoints/<env steps>/` (with `.1` where that exists) counts only once its `manifest.json` is there, which lists
every other file with its size and checksum and is written last. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import re
import shutil
import zlib
from collections.abc import Mapping
from typing import Any

from tfrl import files
from tfrl.errors import SettingError

MANIFEST, STATE = "manifest.json", "state.json"
DAMAGED = "damaged.json"  # the manifest of a checkpoint that has failed its checksums
SCRATCH = "tfrl-replay-"  # how the names of a replay server's scratch folders begin
_NAME = re.compile(r"^\d{12}(\.\d+)?$")
_SIGNS = (
    "learner",
    MANIFEST,
    DAMAGED,
)  # how a name begins that every checkpoint has one of, once it is not empty
_PIECE_BYTES = 2**22


def of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints in `folder`, complete or not, the oldest first.

    Old ones are removed, so what has such a name but other contents is none, nor is a link.
    """
    found = [p for p in folder.iterdir() if _NAME.match(p.name)] if folder.is_dir() else []
    return sorted((p for p in found if _is_one(p)), key=_age)


def _is_one(path: pathlib.Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    names = [entry.name for entry in path.iterdir()]
    return not names or any(name.startswith(_SIGNS) for name in names)


def _age(path: pathlib.Path) -> tuple[int, int]:
    env_steps, _, again = path.name.partition(".")
    return int(env_steps), int(again or 0)


def seal(folder: pathlib.Path, state: Mapping[str, Any]) -> None:
    """Adds `state`, brings all files to the disk and lists them in the manifest: now it is a complete checkpoint."""
    (folder / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    files.sync(folder)
    listed = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "crc32": checksum(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    files.write_text(folder / MANIFEST, json.dumps({"files": listed}, indent=2))


def problem(folder: pathlib.Path) -> str | None:
    """Why a checkpoint is not complete, judged by its manifest and the sizes of its files; None if it is."""
    if (folder / DAMAGED).exists():
        return "it is damaged"
    if not (folder / MANIFEST).exists():
        return "it has no manifest, its writing was cut off"
    try:
        for name, size, _ in _listed(folder):
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                return f"{name} is missing or has another size"
        state = read(folder / STATE)
    except (SettingError, OSError) as error:
        return str(error)
    if not isinstance(state, dict) or not isinstance(state.get("identity"), dict):
        return f"{STATE} is damaged: it does not say whose state it is"
    if not isinstance(state.get("env_steps"), int):
        return f"{STATE} is damaged: it has no env_steps"
    return None


def damage(folder: pathlib.Path) -> str | None:
    """The first file of a complete checkpoint that has not the contents that were written; None if all have.

    Reads all of it. Files of a manifest without checksums pass.
    """
    for name, _, crc32 in _listed(folder):
        if crc32 is not None and checksum(folder / name) != crc32:
            return f"{name} fails its checksum"
    return None


def set_aside_damaged(folder: pathlib.Path) -> list[str]:
    """Compares the newest complete checkpoint with its checksums, and as long as one fails the next older checkpoint.

    A checkpoint that fails loses its manifest, so that no process takes it for complete.

    Returns:
      One line for each of them.
    """
    lines = []
    for checkpoint in reversed(of(folder)):
        if problem(checkpoint) is not None:
            continue
        try:
            found = damage(checkpoint)
            if found is None:
                break
            os.replace(checkpoint / MANIFEST, checkpoint / DAMAGED)
        except FileNotFoundError:  # the learner has just removed it
            continue
        lines.append(f"skipping checkpoint {checkpoint}: {found}")
    return lines


def remove_others(folder: pathlib.Path, kept: list[pathlib.Path]) -> None:
    """Removes all checkpoints but those."""
    for old in of(folder):
        if old not in kept:
            # Without its manifest it is none, should this be cut off.
            (old / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(old)


def remove_partial(folder: pathlib.Path) -> None:
    """Removes what processes that were killed have left: checkpoints without a manifest, and scratch of servers."""
    for checkpoint in of(folder):
        if not (checkpoint / MANIFEST).exists() and not (checkpoint / DAMAGED).exists():
            shutil.rmtree(checkpoint)
    for left in folder.glob(f"{SCRATCH}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
    files.sweep(folder)


def warn(lines: list[str]) -> None:
    """Shows lines to the user."""
    for line in lines:
        logging.warning("%s", line)


def checksum(path: pathlib.Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            value = zlib.crc32(piece, value)
    return value


def read(path: pathlib.Path) -> Any:
    """The value of a JSON file; raises SettingError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path, error) from None


def damaged(path: pathlib.Path, error: Exception) -> SettingError:
    """The error to raise for a file that cannot be read because of `error`."""
    reason = str(error).split("\n")[0][:200]
    return SettingError(f"{path}: cannot be read, it is damaged ({type(error).__name__}: {reason})")


def _listed(folder: pathlib.Path) -> list[tuple[str, int, int | None]]:
    """(name, size, CRC-32 or None) of the files of a manifest; raises SettingError where it is damaged."""
    path = folder / MANIFEST
    found = read(path)
    try:
        rows = [
            (name, entry, None)
            if isinstance(entry, int)  # as the first version wrote it
            else (name, int(entry["size"]), int(entry["crc32"]))
            for name, entry in found["files"].items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from None
    outside = [name for name, *_ in rows if pathlib.PurePath(name).is_absolute() or ".." in name]
    if outside:
        raise SettingError(f"{path}: it is damaged, {outside[0]!r} is not in the checkpoint")
    return rows
