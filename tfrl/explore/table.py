"""The shared table of normal numbers of evolution strategies (Salimans et al. 2017, section 2.1).

It is one file of the machine's temporary folder, made once and mapped into the memory of every process that reads it,
so that it takes its size once whatever the number of actors. A file that another user owns, of another size, or with
other numbers at its beginning is made anew.
"""

from __future__ import annotations

import fcntl
import functools
import os
import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from tfrl.errors import SettingError

SEED = 123
_CHUNK = 2**22  # numbers drawn at a time
_CHECKED = 4096  # numbers of a file that is there that are compared


@functools.lru_cache(maxsize=2)
def shared_table(size: int) -> tf.Tensor:
    """`size` numbers of NumPy's RandomState(123).randn as float32 [size], in memory that processes share.

    Raises:
      SettingError: the temporary folder has no room for it.
    """
    path = pathlib.Path(tempfile.gettempdir()) / f"tfrl-noise-{os.getuid()}-{size}.f32"
    try:
        if not _is_whole(path, size):
            _write(path, size)
        # Private pages: nobody writes, so that they stay shared, and TensorFlow takes arrays that could be written.
        table = np.asarray(np.memmap(path, np.float32, "c", shape=(size,)))
    except OSError as error:
        raise SettingError(
            f"noise_size={size:,}: the table of {4 * size / 2**20:,.0f} MB cannot be kept in {path.parent} ({error}); "
            "expected room for it, or noise_source=seed"
        ) from error
    with (
        tf.init_scope()
    ):  # a tensor over the same memory, not a constant of the graph that is traced now
        return tf.experimental.dlpack.from_dlpack(table.__dlpack__())


def _is_whole(path: pathlib.Path, size: int) -> bool:
    """The file is the user's own, has the size of the table, and begins with its numbers."""
    try:
        facts = path.stat()
        first = np.fromfile(path, np.float32, min(size, _CHECKED))
    except FileNotFoundError:
        return False
    expected = np.random.RandomState(SEED).randn(len(first)).astype(np.float32)
    mine = facts.st_uid == os.getuid() and facts.st_size == 4 * size
    return mine and np.array_equal(first, expected)


def _write(path: pathlib.Path, size: int) -> None:
    """Writes the table beside its place and moves it there, so that no process sees a part of it.

    One process writes at a time, always to the same file, so that what a killed one leaves is used again.
    """
    with open(path.with_suffix(".part"), "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is_whole(path, size):  # another process has written it
            return
        file.truncate(0)
        rng, left = np.random.RandomState(SEED), size
        while left:
            rng.randn(min(left, _CHUNK)).astype(np.float32).tofile(file)
            left -= min(left, _CHUNK)
        file.flush()
        os.replace(file.name, path)
