"""A replay that lives beside the learner: a ring of variables, sampled and prioritised inside the compiled updates.

Nothing travels between two updates. Sampling is uniform or proportional to priority**alpha (Schaul et al. 2016,
eq. 1), with replacement; unlike in a Reverb table its random numbers are seeded, and priorities count from the next
update on.
"""

from __future__ import annotations

import collections
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfrl.agent import Replay
from tfrl.errors import SettingError
from tfrl.replay.layout import Rows
from tfrl.replay.write_chunks import Chunk

raw = tf.raw_ops
FORM = "resident.json"  # the file that distinguishes this form of saved contents from a Reverb server's
# Written and read at once, so that saved contents are in memory only where they live.
PIECE_BYTES = 2**24


class Drawn(NamedTuple):
    """slots int32 [B], probability float32 [B] of each under the sampler, columns {name: [B, ...]}."""

    slots: tf.Tensor
    probability: tf.Tensor
    columns: dict[str, tf.Tensor]


class Sizes(NamedTuple):
    """Frames kept, branches of each of the four levels of the tree of priorities, and bytes of all of it."""

    frames: int
    branches: int
    nbytes: int

    @property
    def group(self) -> int:
        """Items under one stored sum, and number of sums."""
        return self.branches**2


def sizes(plan: Replay, layout: Rows) -> Sizes:
    """Memory that a replay of this plan takes."""
    capacity, frames, branches = plan.capacity_items, 0, 0
    nbytes = capacity * layout.row_nbytes
    if layout.frames:
        # A frame for each item, and those of first stacks: a tenth is enough unless episodes are
        # shorter than that, and then the oldest items leave earlier.
        frames = capacity + capacity // 10 + 64 * layout.frames
        nbytes += frames * math.prod(layout.frame_shape) + capacity * (2 * layout.frames * 4 + 8)
    if plan.prioritized:
        branches = math.ceil(capacity**0.25)
        nbytes += 4 * (branches**4 + branches**2)
    return Sizes(frames, branches, nbytes)


class LearnerReplay:
    """Items in a ring of variables; the oldest leave first.

    No `tf.Module`, so that a checkpoint of the learner does not take the contents with it: `save` writes them.

    Args:
      plan: capacity and priority exponent.
      layout: of the items.
      seed: of the draws; those of update i use (seed, i).

    Attributes:
      written: items inserted so far; the last `size` of them are there.
      size: items that can be drawn.
    """

    def __init__(self, plan: Replay, layout: Rows, seed: int):
        self._plan, self._layout, self._seed = plan, layout, seed
        self._capacity = plan.capacity_items
        self._prioritized = plan.prioritized
        size = self._sizes = sizes(plan, layout)
        self.written, self.size = 0, 0
        self._frames_written = 0
        with tf.device("CPU:0"):
            self._rows = _zeros([self._capacity, layout.row_nbytes], tf.uint8)
            # First live slot and number of live ones, as the compiled updates read them.
            self._window = _zeros([2], tf.int32)
            if layout.frames:
                self._frames = _zeros([size.frames, *layout.frame_shape], tf.uint8)
                self._refs = _zeros([self._capacity, 2 * layout.frames], tf.int32)
            if self._prioritized:
                # priority**alpha of each slot, and its sum over each group of neighbours.
                self._weights = _zeros([size.group**2], tf.float32)
                self._sums = _zeros([size.group], tf.float32)
                self._largest = tf.Variable(1.0, trainable=False)
        self._oldest_ref = np.zeros(self._capacity if layout.frames else 0, np.int64)
        # For each writer's last chunks: number of the first frame there and here.
        self._writers: dict[int, collections.deque[tuple[int, int]]] = {}
        self._joined: dict[int, int] = {}  # of each writer, the first frame that came here
        # A row's frames are those of its environment's last n + k steps, and a chunk is a step or more.
        self._chunks_kept = layout.frames + plan.item.n + 2 if layout.frames else 1
        specs = [tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.float32)]
        self._set_weights = tf.function(self._assign_weights, specs, autograph=False)

    @property
    def max_priority(self) -> float:
        """Largest priority seen, the one that new items get; 1 at the start."""
        return float(self._largest.numpy()) if self._prioritized else 1.0

    @max_priority.setter
    def max_priority(self, value: float) -> None:
        if self._prioritized:
            self._largest.assign(value)

    @property
    def priority_variables(self) -> list[tf.Variable]:
        """The variables that updates change."""
        return [self._weights, self._sums, self._largest] if self._prioritized else []

    def insert(self, chunk: Chunk) -> None:
        """Adds the rows of a chunk; chunks of a writer must come in their order.

        A replay that joins late, after a learner was killed, leaves out rows over frames that went to the one before.

        Raises:
          ValueError: a row refers to frames of a chunk that is no longer known.
        """
        chunk = self._readable(chunk) if self._layout.frames else chunk
        refs = self._insert_frames(chunk) if self._layout.frames else None
        drop = max(0, len(chunk.rows) - self._capacity)  # rows that leave at once
        count = len(chunk.rows) - drop
        slots = ((self.written + drop + np.arange(count)) % self._capacity).astype(np.int32)
        _store(self._rows, slots, chunk.rows[drop:])
        self.written += len(chunk.rows)
        self.size = min(self.size + len(chunk.rows), self._capacity)
        gone = slots[:0]
        if refs is not None:
            refs = refs[drop:]
            _store(self._refs, slots, (refs % self._sizes.frames).astype(np.int32))
            self._oldest_ref[slots] = refs.min(1)
            gone = self._forget()
        if self._prioritized:
            largest = np.full(count, self.max_priority**self._plan.priority_exponent, np.float32)
            self._set_weights(slots, largest)
            if len(gone):
                self._set_weights(gone, np.zeros(len(gone), np.float32))
        start = (self.written - self.size) % self._capacity
        window = np.array([start, self.size], np.int32)
        raw.AssignVariableOp(resource=self._window.handle, value=window)

    def _readable(self, chunk: Chunk) -> Chunk:
        """The chunk without the rows over frames that its writer had sent before it first sent something here."""
        known = chunk.refs.min(1) >= self._joined.setdefault(int(chunk.writer), int(chunk.first))
        if known.all():
            return chunk
        return chunk._replace(rows=chunk.rows[known], refs=chunk.refs[known])

    def _insert_frames(self, chunk: Chunk) -> np.ndarray:
        """Stores the frames of a chunk; returns the frame numbers of its rows as they are counted here."""
        count, kept = len(chunk.frames), self._sizes.frames
        base, first = self._frames_written, int(chunk.first)
        starts = self._writers.setdefault(
            int(chunk.writer), collections.deque(maxlen=self._chunks_kept)
        )
        starts.append((first, base))
        drop = max(0, count - kept)
        slots = ((base + drop + np.arange(count - drop)) % kept).astype(np.int32)
        _store(self._frames, slots, chunk.frames[drop:])
        self._frames_written += count
        theirs, ours = np.array(starts, np.int64).T
        which = np.searchsorted(theirs, chunk.refs, side="right") - 1
        if which.size and which.min() < 0:
            raise ValueError("a row refers to frames of a chunk that is no longer known")
        return chunk.refs - theirs[which] + ours[which]

    def _forget(self) -> np.ndarray:
        """Slots of items that leave because one of their frames was overwritten, or of an older item than those."""
        live = (self.written - self.size + np.arange(self.size)) % self._capacity
        lost = np.flatnonzero(self._oldest_ref[live] < self._frames_written - self._sizes.frames)
        gone = live[: lost[-1] + 1] if len(lost) else live[:0]
        self.size -= len(gone)
        return gone.astype(np.int32)

    def sample(self, batch_size: int, update: tf.Tensor) -> Drawn:
        """Draws items with replacement; part of a graph.

        Args:
          batch_size: items B.
          update: int64 scalar, number of the update, which seeds the draws.
        """
        seed = tf.stack([tf.constant(self._seed, tf.int32), tf.cast(update, tf.int32)])
        window = self._window.read_value()
        start, size = window[0], window[1]
        if self._prioritized:
            slots, probability = self._draw(batch_size, seed)
        else:
            draw = tf.random.stateless_uniform([batch_size], seed, 0, size, tf.int32, "philox")
            slots = (start + draw) % self._capacity
            probability = tf.ones([batch_size])
        return Drawn(slots, probability, self.read(slots))

    def read(self, slots: Any) -> dict[str, tf.Tensor]:
        """Columns of the items in these slots, int32 [B], as their layout decodes them."""
        columns = self._layout.of_rows(tf.gather(self._rows, slots))
        if self._layout.frames:
            refs, k = tf.gather(self._refs, slots), self._layout.frames
            columns["frames_tm1"] = tf.gather(self._frames, refs[:, :k])
            columns["frames_t"] = tf.gather(self._frames, refs[:, k:])
        return columns

    def _draw(self, batch_size: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Slots in proportion to their weights: from branch to branch of a tree, by sums of what is below.

        Two levels are over the stored sums and two inside a group, whose sums are made on the way.
        """
        size, branches = self._sizes, self._sizes.branches
        # XLA makes other floats of the same bits, so they are made here.
        bits = tf.random.stateless_uniform([4, batch_size, 1], seed, 0, 2**24, tf.int32, "philox")
        uniform = tf.cast(bits, tf.float32) * 2.0**-24
        sums = self._sums.read_value()
        tree = tf.reshape(sums, [branches, branches])
        upper = _pick(tf.reduce_sum(tree, 1)[None], uniform[0])
        group = upper * branches + _pick(tf.gather(tree, upper), uniform[1])
        weights = self._weights.read_value()
        trees = tf.gather(tf.reshape(weights, [size.group, branches, branches]), group)
        upper = _pick(tf.reduce_sum(trees, 2), uniform[2])
        lower = _pick(tf.gather(trees, upper, batch_dims=1), uniform[3])
        slots = group * size.group + upper * branches + lower
        # The tiny number is for an item of no weight, which rounding might let through.
        probability = tf.maximum(tf.gather(weights, slots), 1e-30) / tf.reduce_sum(sums)
        return slots, probability

    def update_priorities(self, slots: tf.Tensor, priorities: tf.Tensor) -> None:
        """Gives drawn items new priorities, float32 [B]; part of a graph."""
        largest = tf.maximum(self._largest.read_value(), tf.reduce_max(priorities))
        self._largest.assign(largest, read_value=False)
        self._assign_weights(slots, priorities**self._plan.priority_exponent)

    def _assign_weights(self, slots: tf.Tensor, weights: tf.Tensor) -> None:
        size = self._sizes
        _scatter(self._weights, slots, weights)
        # Sums are made anew from what they add up, so that errors do not pile up.
        group = slots // size.group
        table = tf.reshape(self._weights.read_value(), [size.group, size.group])
        _scatter(self._sums, group, tf.reduce_sum(tf.gather(table, group), 1))

    def save(self, folder: pathlib.Path) -> None:
        """Writes the contents to `folder`, which must not exist; of rows and frames a piece at a time."""
        folder.mkdir(parents=True)
        live = self.live()
        _write(folder / "rows.npy", self._rows, live)
        if self._layout.frames:
            count = min(self._frames_written, self._sizes.frames)
            numbers = np.arange(self._frames_written - count, self._frames_written)
            _write(folder / "frames.npy", self._frames, numbers % self._sizes.frames)
            # Counted from the oldest frame that is saved.
            slots = tf.gather(self._refs, live).numpy()
            np.save(folder / "refs.npy", (slots - numbers[:1]) % self._sizes.frames)
        if self._prioritized:
            np.save(folder / "weights.npy", tf.gather(self._weights, live).numpy())
            np.save(folder / "sums.npy", self._sums.numpy())
        facts = {
            "items": self.size,
            "written": self.written,
            "max_priority": self.max_priority,
            "frames_written": self._frames_written,
        }
        (folder / FORM).write_text(json.dumps(facts) + "\n")

    def restore(self, folder: pathlib.Path) -> None:
        """Takes the contents that `save` wrote, into an empty replay of the same plan.

        Items have the slots that they had, and sums of priorities the value to the last bit: both decide what is drawn.
        """
        arrays = {p.stem: np.load(p, mmap_mode="r") for p in folder.glob("*.npy")}
        facts = json.loads((folder / FORM).read_text())
        rows, frames = arrays["rows"], arrays.get("frames", np.zeros((0, 0, 0), np.uint8))
        refs = arrays.get("refs", np.zeros((len(rows), 0))).astype(np.int64)
        self.max_priority = facts["max_priority"]
        # The first version did not save how many were written, and began at the first slot.
        self.written = facts.get("written", len(rows)) - len(rows)
        self._frames_written = facts.get("frames_written", len(frames)) - len(frames)
        if len(rows):
            self.insert(Chunk(rows, frames, refs, np.int64(0), np.int64(-1)))
        if self._prioritized and len(rows):
            self._set_weights(self.live(), arrays["weights"])
            if "sums" in arrays:
                self._sums.assign(arrays["sums"])

    def writers(self) -> dict[str, Any]:
        """Places of the frames of each writer's last chunks, so that its next rows may refer to them."""
        starts = {writer: [list(pair) for pair in pairs] for writer, pairs in self._writers.items()}
        return {"starts": starts, "joined": dict(self._joined)}

    def restore_writers(self, state: Mapping[str, Any]) -> None:
        """Takes `writers` of the replay whose contents these are, for writers that go on as they were."""
        for writer, pairs in state["starts"].items():
            pairs = (tuple(pair) for pair in pairs)
            self._writers[writer] = collections.deque(pairs, maxlen=self._chunks_kept)
        self._joined.update(state["joined"])

    def live(self) -> np.ndarray:
        """Slots of the items that can be drawn, int32, oldest first."""
        return ((self.written - self.size + np.arange(self.size)) % self._capacity).astype(np.int32)


def _zeros(shape: list[int], dtype: tf.DType) -> tf.Variable:
    return tf.Variable(tf.zeros(shape, dtype), trainable=False)


def _scatter(variable: tf.Variable, slots: Any, values: Any) -> None:
    """variable[slots] = values, at the price of one op outside graphs too."""
    raw.ResourceScatterUpdate(resource=variable.handle, indices=slots, updates=values)


def _pieces(count: int, nbytes: int) -> Iterator[slice]:
    """Slices of so many entries, each of so many bytes."""
    step = max(1, PIECE_BYTES // max(nbytes, 1))
    return (slice(start, start + step) for start in range(0, count, step))


def _store(variable: tf.Variable, slots: np.ndarray, values: np.ndarray) -> None:
    """variable[slots] = values, outside graphs, a piece at a time: values may be a file's."""
    for piece in _pieces(len(slots), values[:1].nbytes):
        _scatter(variable, slots[piece], values[piece])


def _write(path: pathlib.Path, variable: tf.Variable, slots: np.ndarray) -> None:
    """Writes variable[slots] as an npy file, a piece at a time."""
    dtype, shape = variable.dtype.as_numpy_dtype, (len(slots), *variable.shape[1:])
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape,
    }  # fmt: skip
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in _pieces(len(slots), math.prod(shape[1:]) * np.dtype(dtype).itemsize):
            tf.gather(variable, slots[piece]).numpy().tofile(file)


def _pick(weights: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Indices int32 [B] of entries of [B or 1, S], in proportion to their weights; `uniform` [B, 1] in [0, 1)."""
    sums = tf.cumsum(weights, axis=1)
    passed = (sums > uniform * sums[:, -1:]) & (weights > 0)
    entries = tf.range(weights.shape[1])
    return tf.reduce_min(tf.where(passed, entries, weights.shape[1] - 1), 1)


def saved_here(folder: pathlib.Path) -> bool:
    """Whether saved replay contents are those of a resident replay."""
    return (folder / FORM).is_file()


def saved_row_nbytes(folder: pathlib.Path) -> int:
    """Bytes of an item, without its frames, in saved contents of a resident replay."""
    return np.load(folder / "rows.npy", mmap_mode="r").shape[1]


def check_memory(plan: Replay, layout: Rows) -> None:
    """Raises SettingError when the replay does not fit beside what runs already."""
    needed, free = sizes(plan, layout).nbytes, free_bytes()
    if needed > free:
        raise SettingError(
            f"replay_residency=learner: a replay of {plan.capacity_items:,} items of "
            f"{needed / plan.capacity_items:,.0f} bytes takes {needed / 2**20:,.0f} MB, expected "
            f"at most the {free / 2**20:,.0f} MB that are free; "
            "lower the capacity or set replay_residency=server"
        )


def free_bytes() -> int:
    """Memory that a process may still take: the machine's, or that of its control group if it is less."""
    free = 2**63
    info = pathlib.Path("/proc/meminfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    group = pathlib.Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except OSError:  # no such control group
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))
