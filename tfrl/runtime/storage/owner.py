"""One run at a time in a run folder: it is made, or taken, under a lock before anything else is done there.

`run.lock` is held by `flock` for as long as the run lasts, so the lock of a process that was killed is free at once.
The file names its holder, for messages, and for file systems without locks. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import Any

from tfrl.config import resolve
from tfrl.errors import SettingError
from tfrl.job import Job

LOCK = "run.lock"
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_TRIES = 5  # someone who only looks at the lock holds it for a moment


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that runs a folder.

    Attributes:
      pid, host: which process, and on which machine.
      started: when the process started, in clock ticks since the machine did; None where that cannot be read.
      since: when it took the folder, as text.
    """

    pid: int
    host: str
    started: int | None
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_gone(self) -> bool:
        """The process has ended, as far as this machine can see."""
        return self.host == socket.gethostname() and (
            not os.path.exists(f"/proc/{self.pid}")
            or None not in (self.started, _started(self.pid))
            and self.started != _started(self.pid)
        )


@contextlib.contextmanager
def owned(job: Job) -> Iterator[Job]:
    """Inside, this process alone runs in the folder of `job`, which is given with `run_dir` settled.

    A folder that was made for this and has nothing in it at the end is removed.

    Raises:
      SettingError: another process runs there, or the folder is not one for this job; see `resolve.refuse_taken`.
    """
    folder, is_new = _make(job)
    job = dataclasses.replace(job, run_dir=str(folder))
    try:
        with _locked(folder):
            resolve.refuse_taken(job)
            yield job
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # the run has left something there
                folder.rmdir()


def owner_of(run_dir: str | os.PathLike) -> Owner | None:
    """The process that owns the folder now; None: nobody."""
    path = pathlib.Path(run_dir) / LOCK
    try:
        file = open(path, "rb")
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(path)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            owner = _read(path)
            return None if owner.is_gone else owner
    return None


def _make(job: Job) -> tuple[pathlib.Path, bool]:
    """The folder, and whether it was made for this."""
    folder = pathlib.Path(job.run_dir or resolve.default_run_dir(job))
    while True:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            if job.run_dir:
                return folder, False
            folder = pathlib.Path(resolve.default_run_dir(job))  # another run was faster
        except OSError as error:
            raise SettingError(f"run_dir={str(folder)!r}: {error.strerror}") from None
        else:
            return folder, True


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    path = folder / LOCK
    file = _take(path)
    try:
        me = Owner(os.getpid(), socket.gethostname(), _started(os.getpid()), time.strftime("%F %T"))
        file.truncate()
        file.write(json.dumps(dataclasses.asdict(me)) + "\n")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is free, so that nobody else's is removed
        file.close()


def _take(path: pathlib.Path) -> Any:
    """The open lock file, locked."""
    for left in reversed(range(_TRIES)):
        try:
            file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
        except OSError as error:
            raise SettingError(
                f"run_dir={str(path.parent)!r}: cannot write {LOCK}, {error.strerror}"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                return file
        except BlockingIOError:
            if not left:
                raise _in_use(path) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            owner = _read(path)
            if owner.pid and not owner.is_gone:
                raise _in_use(path) from None
            return file
        file.close()
        time.sleep(0.02)
    raise _in_use(path)


def _is_at(file: Any, path: pathlib.Path) -> bool:
    """Whether the open file is still the one at the path, and not one that its last owner has removed."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _in_use(path: pathlib.Path) -> SettingError:
    return SettingError(
        f"run_dir={str(path.parent)!r}: in use by {_read(path)}; wait for its end or stop it first"
    )


def _read(path: pathlib.Path) -> Owner:
    """The contents of the lock file; a process 0 while it is empty."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Owner(0, "an unknown machine", None, "a moment ago")


def _started(pid: int) -> int | None:
    """Start of a process in clock ticks since the machine started; None where that cannot be read."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # the name before it may hold blanks
