"""The two places of unrolls: a table of a Reverb server, or a queue beside the learner."""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import reverb
import tensorflow as tf

from tfrl.replay.sampler import Samples
from tfrl.replay.tables import EXPERIENCE

FORM = (
    "queue.json"  # the file that distinguishes this form of saved contents from a Reverb server's
)


class Sink(Protocol):
    """Takes the items of a writer."""

    def append(self, item: Mapping[str, np.ndarray], priority: float) -> None:
        """Takes an item; its arrays may change after the call."""

    def flush(self, pending: int, timeout_ms: int) -> None:
        """Returns when all but `pending` items have arrived.

        Raises:
          reverb.errors.DeadlineExceededError: not within `timeout_ms`.
        """

    def close(self) -> None:
        """Ends the stream; items that have arrived stay."""


class TableSink:
    """Items go to the table of experience of a Reverb server.

    Args:
      client: of the server.
    """

    def __init__(self, client: reverb.Client):
        self._client = client
        self._writer = client.trajectory_writer(num_keep_alive_refs=1)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._earlier: list[reverb.TrajectoryWriter] = []  # whose last items may be under way

    def append(self, item: Mapping[str, np.ndarray], priority: float) -> None:
        """Implements `Sink`."""
        shapes = {name: x.shape for name, x in item.items()}
        if self._shapes and shapes != self._shapes:
            # A writer of Reverb keeps to the shapes that it began with.
            self._earlier.append(self._writer)
            self._writer = self._client.trajectory_writer(num_keep_alive_refs=1)
        self._shapes = shapes
        writer = self._writer
        writer.append(item)
        writer.create_item(EXPERIENCE, priority, {n: writer.history[n][-1] for n in item})

    def flush(self, pending: int, timeout_ms: int) -> None:
        """Implements `Sink`."""
        while self._earlier:
            self._earlier[0].flush(timeout_ms=timeout_ms)
            self._earlier.pop(0).close()
        self._writer.flush(pending, timeout_ms=timeout_ms)

    def close(self) -> None:
        """Implements `Sink`."""
        for writer in (*self._earlier, self._writer):
            writer.close()


class LocalQueue:
    """Unrolls that wait for the learner of the same process: first in, first out, each given out once.

    It never makes its writer wait. The two sides take turns, so it holds what one turn of acting
    makes and what was left before.
    """

    def __init__(self) -> None:
        self._items: collections.deque[dict[str, np.ndarray]] = collections.deque()

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: Mapping[str, np.ndarray], priority: float) -> None:
        """Implements `Sink`; a queue has no use for priorities."""
        del priority
        self._items.append({name: np.array(x) for name, x in item.items()})

    def flush(self, pending: int, timeout_ms: int) -> None:
        """Implements `Sink`: every item has arrived when `append` returns."""

    def close(self) -> None:
        """Implements `Sink`."""

    def take(self, count: int) -> Samples:
        """The oldest `count` items.

        Raises:
          IndexError: fewer are there.
        """
        items = [self._items.popleft() for _ in range(count)]
        columns = {n: tf.convert_to_tensor(join([i[n] for i in items])) for n in items[0]}
        return Samples(tf.zeros([count], tf.uint64), tf.ones([count], tf.float64), columns)

    def save(self, folder: pathlib.Path) -> None:
        """Writes the items to `folder`, which must not exist."""
        save_items(folder, list(self._items))
        (folder / FORM).write_text(json.dumps({"items": len(self._items)}) + "\n")

    def restore(self, folder: pathlib.Path, refit: Callable[[list], list]) -> None:
        """Takes the items that `save` wrote, into an empty queue.

        Args:
          refit: makes items of the present layout of those of a run with another number of environments.
        """
        self._items.extend(refit(load_items(folder)))


def saved_here(folder: pathlib.Path) -> bool:
    """Whether saved contents are those of a queue beside the learner."""
    return (folder / FORM).is_file()


def saved_shapes(folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the columns of the first item that `save_items` wrote, {column: shape}; {} of none."""
    first = min(folder.glob("*.npz"), default=None)
    if first is None:
        return {}
    with np.load(first) as stored:
        return {name: stored[name].shape for name in stored.files}


def join(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays of one rank as rows of one; where some are smaller, zeros fill what they lack."""
    if len(arrays) == 1:
        return arrays[0][None]
    if len({x.shape for x in arrays}) == 1:
        return np.stack(arrays)
    out = np.zeros((len(arrays), *np.max([x.shape for x in arrays], axis=0)), arrays[0].dtype)
    for row, x in zip(out, arrays, strict=True):
        row[tuple(map(slice, x.shape))] = x
    return out


def save_items(folder: pathlib.Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Writes items, each {name: array}, to `folder`, which must not exist; a file each."""
    folder.mkdir(parents=True)
    for i, item in enumerate(items):
        np.savez(folder / f"{i:06d}.npz", **{name: np.asarray(x) for name, x in item.items()})


def load_items(folder: pathlib.Path) -> list[dict[str, np.ndarray]]:
    """The items that `save_items` wrote, in its order."""
    items = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as stored:
            items.append({name: stored[name] for name in stored.files})
    return items
