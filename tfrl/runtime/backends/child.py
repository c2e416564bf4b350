"""The start of every process of a run, up to the role that it plays; nothing here imports TensorFlow."""

from __future__ import annotations

import os
import sys
import traceback
from multiprocessing.connection import Connection

from tfrl.errors import SettingError
from tfrl.runtime.backends.isolation import enter
from tfrl.runtime.backends.process import settle
from tfrl.runtime.link import MAX_TEXT, Abandoned, Link
from tfrl.settings import import_dotted


def child_main(
    connection: Connection,
    entry: str,
    role: str,
    index: int,
    slot: int,
    payload: bytes,
    log: str,
    parent: int,
    namespaces: tuple[int, ...],
) -> None:
    """Start of every child: plays its role, sends how that ended, never returns.

    Args:
      connection: this child's pipe.
      entry: 'package.module:name' of the function (role, payload, index, slot, link) that plays the
        role. Imported here, since its imports take seconds and the child is to send statuses before.
      role, index: which role, and its id, never used twice in a run; seeds derive from it.
      slot: which of the actors this one is or replaces.
      payload: what the role is made of, pickled.
      log: file that takes what the process prints.
      parent: process id of the parent, with which it ends.
      namespaces: descriptors of those that it enters, see `Isolation`.
    """
    # First: a process with threads may not, and the kernel then forgets whom to die with.
    enter(namespaces)
    settle(parent, log)
    link = Link(connection)
    error = None
    try:
        import_dotted(entry, "entry")(role, payload, index, slot, link)
    except Abandoned:
        pass  # as ordered
    except BaseException as failure:
        traceback.print_exc()
        error = _told(failure)
    link.close(error)
    sys.stdout.flush()
    sys.stderr.flush()
    # Reverb's destructors would wait for inserts that nobody takes any more.
    os._exit(0 if error is None else 1)


def environment(role: str) -> dict[str, str]:
    """Variables of a child: all but the learner see no accelerator, from their first line on."""
    values = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
    if role != "learner":
        values.update(CUDA_VISIBLE_DEVICES="-1", OMP_NUM_THREADS="1")
    return values


def _told(failure: BaseException) -> tuple[str, str]:
    """`Status.error`. A setting is what the user changes, whatever line refused it, and the log has that."""
    known = isinstance(failure, SettingError)
    trace = "" if known else _shorten("".join(traceback.format_exception(failure)))
    return _last_line(failure), trace


def _last_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()[:MAX_TEXT]


def _shorten(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    return text[: MAX_TEXT // 3] + "\n  ...\n" + text[-MAX_TEXT * 2 // 3 :]
