"""Transitions on their way to a replay beside the learner: many rows in one chunk, every frame once.

A chunk is what one writer made between two hand-overs. In one process it is handed over as it is; between processes it
is one item of a bounded Reverb queue, which gives every chunk once and in order of insertion.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf

from tfrl.agent import NStep
from tfrl.replay.hindsight import Hindsight, accumulator
from tfrl.replay.nstep import Emitted
from tfrl.replay.saved import put_back, saved
from tfrl.replay.transitions import TransitionLayout
from tfrl.replay.writer import Writer
from tfrl.types import PolicyStep, VectorStep

CHUNKS = "chunks"
MAX_ROWS = 1024  # of a chunk in one process, where nothing waits for it


class Chunk(NamedTuple):
    """Rows of one writer.

    Attributes:
      rows: uint8 [m, nbytes], packed records, oldest first.
      frames: uint8 [f, H, W], new frames; [0, 0, 0] where observations are not stacked frames.
      refs: int64 [m, 2 k], numbers of the frames of `obs_tm1` and of `obs_t` of each row, counted from 0 by the writer;
        [m, 0] without frames. They may lie in earlier chunks.
      first: int64, number of the first of `frames`.
      writer: int64, a number of the writer.
    """

    rows: np.ndarray
    frames: np.ndarray
    refs: np.ndarray
    first: np.ndarray
    writer: np.ndarray


class ChunkWriter(Writer):
    """Makes chunks of n-step transitions, for a replay that gives new items the largest priority it has seen.

    An episode starts with the whole stack of its first observation, in which equal neighbours are one frame.

    Args:
      send: takes each chunk.
      item, layout, num_envs: as in the other writers.
      max_rows: a chunk is sent when it has so many.
      writer: number of this writer among those that send to the same place.
      hindsight: makes the copies of an item with relabels.
    """

    def __init__(
        self,
        send: Callable[[Chunk], None],
        item: NStep,
        layout: TransitionLayout,
        num_envs: int,
        max_rows: int = MAX_ROWS,
        writer: int = 0,
        hindsight: Hindsight | None = None,
    ):
        self.items_written, self.waited_s = 0, 0.0
        self._send, self._layout, self._max_rows = send, layout, max_rows
        self._writer, self._num_frames = np.int64(writer), 0
        self._accumulator = accumulator(item, num_envs, layout, hindsight)
        self._rows, self._count = bytearray(), 0
        self._frames: list[np.ndarray] = []
        self._refs: list[list[int]] = []
        # Numbers of the newest frames of each environment's episode, oldest first; none between episodes.
        history = layout.frames + item.n
        self._stacks = [collections.deque(maxlen=history) for _ in range(num_envs)]

    def record(self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep) -> None:
        """Implements `Writer.record`."""
        del state
        self.write(obs, choice.action, step)

    def write(self, obs: np.ndarray, action: np.ndarray, step: VectorStep) -> None:
        """Takes one vector step; see `NStepAccumulator.add`."""
        emitted = self._accumulator.add(obs, action, step)
        if self._layout.frames:
            for row in np.flatnonzero(step.valid):
                self._rows += self._frames_of(row, obs, step, emitted).tobytes()
        else:
            self._rows += emitted.records.tobytes()
        self._count += len(emitted.rows)
        self.items_written += len(emitted.rows)
        if self._count >= self._max_rows:
            self._hand_over()

    def _frames_of(
        self, row: int, obs: np.ndarray, step: VectorStep, emitted: Emitted
    ) -> np.ndarray:
        """Stores what is new of an environment's frames; the records that it emitted, their frames noted."""
        stack, k = self._stacks[row], self._layout.frames
        if not stack:
            for i in range(k):
                if i and np.array_equal(obs[row, ..., i], obs[row, ..., i - 1]):
                    stack.append(stack[-1])
                else:
                    stack.append(self._add(obs[row, ..., i]))
        stack.append(self._add(step.next_obs[row, ..., -1]))
        numbers, mine = list(stack), np.flatnonzero(emitted.rows == row)
        for length in emitted.lengths[mine]:
            self._refs.append(numbers[-(k + length) : -length] + numbers[-k:])
        if step.terminated[row] or step.truncated[row]:
            stack.clear()
        return emitted.records[mine]

    def _add(self, frame: np.ndarray) -> int:
        self._frames.append(np.ascontiguousarray(frame))
        self._num_frames += 1
        return self._num_frames - 1

    def flush(self, pending: int = 0) -> None:
        """Implements `Writer.flush`: hands over all that there is, at once."""
        del pending
        self._hand_over()

    def state(self) -> dict[str, Any]:
        """State between two vector steps, for a resumed run, after a `flush`."""
        return {
            "accumulator": self._accumulator.state(),
            **saved(self, ("_num_frames", "_stacks")),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state` of a writer of the same arguments, over the same replay."""
        self._accumulator.restore(state["accumulator"])
        put_back(self, {name: state[name] for name in ("_num_frames", "_stacks")})

    def _hand_over(self) -> None:
        if not self._count:
            return
        frames = np.stack(self._frames) if self._frames else np.zeros((0, 0, 0), np.uint8)
        refs = np.array(self._refs, np.int64).reshape(self._count, 2 * self._layout.frames)
        first = np.int64(self._num_frames - len(self._frames))
        rows = np.frombuffer(self._rows, np.uint8).reshape(self._count, -1)
        self._rows, self._count, self._frames, self._refs = bytearray(), 0, [], []
        start = time.perf_counter()
        self._send(Chunk(rows, frames, refs, first, self._writer))
        self.waited_s += time.perf_counter() - start


def chunks_table(max_chunks: int) -> reverb.Table:
    """The queue between actors and a learner: first in, first out, each chunk once; inserts wait when it is full."""
    return reverb.Table.queue(CHUNKS, max_chunks, signature=_signature())


def _signature() -> Chunk:
    return Chunk(
        tf.TensorSpec([None, None], tf.uint8, "rows"),
        tf.TensorSpec([None, None, None], tf.uint8, "frames"),
        tf.TensorSpec([None, None], tf.int64, "refs"),
        tf.TensorSpec([], tf.int64, "first"),
        tf.TensorSpec([], tf.int64, "writer"),
    )


class ChunkSender:
    """Sends chunks to the queue; waits while it is full.

    Args:
      client: of the server.
      call: makes each call that may wait, see `BoundedCalls`: (what, function, *args).
    """

    def __init__(self, client: reverb.Client, call: Callable):
        # Chunks differ in shape, which this writer allows and Reverb's newer ones do not.
        self._writer = client.writer(1, chunk_length=1, max_in_flight_items=1)
        self._call = call

    def __call__(self, chunk: Chunk) -> None:
        self._call("sending experience", self._insert, chunk)

    def _insert(self, chunk: Chunk) -> None:
        self._writer.append(chunk)
        self._writer.create_item(CHUNKS, 1, 1.0)
        self._writer.flush()

    def close(self) -> None:
        """Ends the stream; what was sent stays."""
        self._writer.close()


class Chunks:
    """The chunks of a queue as they come, each once; `next` waits."""

    def __init__(self, client: reverb.Client):
        self._samples = client.sample(CHUNKS, 2**31 - 1, emit_timesteps=False)

    def next(self) -> Chunk:
        """The next chunk, however long it takes; raises what Reverb raises when the server goes away."""
        # A leading axis of 1: the item is a sequence of one step.
        return Chunk(*(column[0] for column in next(self._samples).data))
