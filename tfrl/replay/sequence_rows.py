"""Sequences as rows of bytes, as a replay beside the learner keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from tfrl.replay.write_chunks import Chunk

if TYPE_CHECKING:
    from tfrl.replay.sequences import SequenceLayout

FACTS_BYTES = 2 * 8  # version of the weights and actor, int64


class SequenceRows:
    """How an item of one environment, whose frames are not stored apart, is one row: facts, steps, recurrent state.

    Args:
      layout: of the items.

    Attributes:
      row_nbytes: of a row.
      frames, frame_shape: see `Rows`; no frames are stored apart.
    """

    frames, frame_shape = 0, ()

    def __init__(self, layout: SequenceLayout):
        self._steps = [layout.item.length + 1, layout.columns, layout.packing.nbytes]
        self._state = [layout.columns, layout.state_packing.nbytes]
        self.row_nbytes = FACTS_BYTES + int(np.prod(self._steps) + np.prod(self._state))

    def row(self, item: Mapping[str, np.ndarray]) -> np.ndarray:
        """An item, {column: array}, as uint8 [row_nbytes]."""
        parts = [item["facts"].view(np.uint8), item["packed"].reshape(-1)]
        if "state" in item:
            parts.append(item["state"].reshape(-1))
        return np.concatenate(parts)

    def of_rows(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Implements `Rows.of_rows`."""
        end = FACTS_BYTES + int(np.prod(self._steps))
        facts = tf.bitcast(tf.reshape(rows[:, :FACTS_BYTES], [-1, 2, 8]), tf.int64)
        packed = tf.reshape(rows[:, FACTS_BYTES:end], [-1, *self._steps])
        columns = {"facts": facts, "packed": packed}
        if self._state[-1]:
            columns["state"] = tf.reshape(rows[:, end:], [-1, *self._state])
        return columns


class RowSink:
    """Hands items to a replay beside the learner; a `Sink` for a writer of sequences.

    Args:
      send: takes each chunk of rows.
      rows: how items become rows.
    """

    def __init__(self, send: Callable[[Chunk], None], rows: SequenceRows):
        self._send, self._rows = send, rows
        self._waiting: list[np.ndarray] = []

    def append(self, item: Mapping[str, np.ndarray], priority: float) -> None:
        """Implements `Sink`; the replay gives new items the largest priority it has seen."""
        del priority
        self._waiting.append(self._rows.row(item))

    def flush(self, pending: int, timeout_ms: int) -> None:
        """Implements `Sink`: hands over all that there is, at once."""
        del pending, timeout_ms
        if self._waiting:
            rows, self._waiting = np.stack(self._waiting), []
            frames, refs = np.zeros((0, 0, 0), np.uint8), np.zeros((len(rows), 0), np.int64)
            self._send(Chunk(rows, frames, refs, np.int64(0), np.int64(0)))

    def close(self) -> None:
        """Implements `Sink`; what was not flushed is dropped."""
