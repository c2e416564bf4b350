"""Files that are whole or as they were before: written beside their place, brought to the disk, and renamed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator

# Suffixes of a file or folder that is being written, and of a folder that is being replaced.
_LEFT = re.compile(r"^\.(?P<name>.+)-[0-9a-f]{32}\.(?P<kind>tmp|old)$")


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path beside `path`; the file or folder written there takes the place of `path` when the block ends.

    A block that raises leaves `path` as it is. A machine that loses power leaves the old or the new one.
    """
    scratch = _beside(path, "tmp")
    try:
        yield scratch
        sync(scratch)
        if scratch.is_dir() and path.exists():
            # A folder cannot be renamed over another; `sweep` mends what a kill between the two leaves.
            old = _beside(path, "old")
            os.replace(path, old)
            os.replace(scratch, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(scratch, path)
    except BaseException:
        _remove(scratch)
        raise
    _sync_one(path.parent)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in place of what is there; raises OSError where it cannot, and then nothing has changed."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def sync(path: pathlib.Path) -> None:
    """Brings a file, or a folder with everything in it, to the disk."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _sync_one(pathlib.Path(folder, name))
            _sync_one(pathlib.Path(folder))
    else:
        _sync_one(path)


def sweep(folder: pathlib.Path) -> list[str]:
    """Removes what killed writers left in `folder`, which nobody may be writing to; returns the names.

    A folder that was moved aside for another that never came is moved back.
    """
    gone = []
    for left in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _LEFT.match(left.name)
        if match is None:
            continue
        place = folder / match["name"]
        if match["kind"] == "old" and not place.exists():
            os.replace(left, place)
        else:
            _remove(left)
            gone.append(left.name)
    return gone


def _beside(path: pathlib.Path, kind: str) -> pathlib.Path:
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}.{kind}")


def _sync_one(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
