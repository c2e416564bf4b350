"""Batches of a queue: new items, old ones among them, and several passes over each batch, as in RLlib's IMPALA."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import tensorflow as tf

from tfrl.agent import Queue
from tfrl.replay.layout import Layout
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.local_queue import join, load_items, save_items
from tfrl.replay.sampler import Samples
from tfrl.runtime import seeds
from tfrl.runtime.plan.run_plan import RunPlan

Item = TypeVar("Item")
FOLDER = "batches"  # beside the contents of the replay in a checkpoint
STATE = "state.json"


class ReplayRing(Generic[Item]):
    """Mixes items of the past with new ones.

    After each new item come floor(p) old ones, and one more with probability p - floor(p), drawn uniformly from the
    last `slots`, once there are more than `warm_up` of those.

    Args:
      proportion: p, old items per new one.
      slots: items kept.
      warm_up: items of a batch.
      rng: draws.
    """

    def __init__(self, proportion: float, slots: int, warm_up: int, rng: np.random.Generator):
        self._proportion, self._slots, self._warm_up, self._rng = proportion, slots, warm_up, rng
        self._items: list[Item] = []
        self._next = 0

    @property
    def items(self) -> list[Item]:
        """The items kept, oldest first."""
        return self._items[self._next :] + self._items[: self._next]

    def restore(self, items: list[Item]) -> None:
        """Takes what `items` was; of more than there is room for, the newest."""
        self._items, self._next = items[-self._slots :], 0

    def add(self, item: Item) -> list[Item]:
        """Takes a new item; returns the old ones to be trained on after it."""
        if not self._proportion:
            return []
        if len(self._items) < self._slots:
            self._items.append(item)
        else:
            self._items[self._next] = item
            self._next = (self._next + 1) % self._slots
        if len(self._items) <= self._warm_up:
            return []
        whole = int(self._proportion)
        count = whole + int(self._rng.random() < self._proportion - whole)
        return [self._items[i] for i in self._rng.integers(len(self._items), size=count)]


class PassBuffer(Generic[Item]):
    """Emits each batch several times, turning between the last few.

    The slots are visited in turn. An empty one takes the next new batch. The first batches are allowed fewer passes, 1,
    2 and so on up to `passes`, so that the slots do not all fall empty at once.

    Args:
      slots: batches between which the passes turn.
      passes: times that each batch is emitted.
    """

    def __init__(self, slots: int, passes: int):
        self._batches: list[Item | None] = [None] * slots
        self._left = [0] * slots
        self._allowed, self._passes, self._slot = 1, passes, 0

    @property
    def wants_new(self) -> bool:
        """The next batch must be a new one."""
        return self._left[self._slot] == 0

    def next(self, new: Item | None = None) -> tuple[Item, bool]:
        """The batch to train on, and whether this is its first pass; `new` is needed where `wants_new`."""
        slot, first = self._slot, self.wants_new
        if first:
            self._batches[slot], self._left[slot] = new, self._allowed
            self._allowed = min(self._allowed + 1, self._passes)
        self._left[slot] -= 1
        self._slot = (slot + 1) % len(self._batches)
        batch = self._batches[slot]
        if self._left[slot] == 0:
            self._batches[slot] = None
        return batch, first

    def state(self) -> tuple[list[Item | None], dict[str, Any]]:
        """The batches in the slots, None in empty ones, and the counters, as JSON holds them."""
        return self._batches, {"left": self._left, "allowed": self._allowed, "slot": self._slot}

    def restore(self, batches: list[Item | None], counters: Mapping[str, Any]) -> None:
        """Takes what `state` was, in a buffer of the same size."""
        self._batches, self._left = list(batches), list(counters["left"])
        self._allowed, self._slot = counters["allowed"], counters["slot"]


class Batcher:
    """Makes the batches of a plan out of fetched blocks.

    Args:
      queue: with its replay proportion and passes; None: every batch is passed on as it is fetched.
      batch_items: of a batch.
      block_items: of one call of the learner, several batches where those are small.
      rng: draws old items.

    Attributes:
      fetch_items: items to fetch at a time.
    """

    def __init__(
        self, queue: Queue | None, batch_items: int, block_items: int, rng: np.random.Generator
    ):
        self._mixes = queue is not None and queue.replay_proportion > 0
        self._plain = queue is None or not self._mixes and queue.passes == 1
        self.fetch_items = 1 if self._mixes else block_items
        self._batch_items = batch_items
        if queue is not None:
            proportion, slots = queue.replay_proportion, queue.replay_items
            self._ring: ReplayRing[dict] = ReplayRing(proportion, slots, batch_items, rng)
            self._passes: PassBuffer[Samples] = PassBuffer(queue.pass_buffer_batches, queue.passes)
        self._waiting: list[dict] = []  # columns of single items, new and old
        self._rng = rng

    def next(
        self, fetch: Callable[[], Samples | LearnerReplay | None]
    ) -> Samples | LearnerReplay | None:
        """The next batch, or None when it takes items that `fetch` does not have.

        A replay beside the learner is passed on: updates draw from it.
        """
        if self._plain:
            return fetch()
        new = None
        if self._passes.wants_new:
            new = self._mixed(fetch) if self._mixes else fetch()
            if new is None:
                return None
        batch, first = self._passes.next(new)
        count = batch.keys.shape[0]
        is_new = batch.columns.get("is_new", tf.ones([count], tf.bool))
        if not first:
            is_new = tf.zeros([count], tf.bool)
        return batch._replace(columns={**batch.columns, "is_new": is_new})

    def _mixed(self, fetch: Callable[[], Samples | None]) -> Samples | None:
        """A batch of new items with old ones among them, in the order in which they came."""
        while len(self._waiting) < self._batch_items:
            sample = fetch()
            if sample is None:
                return None
            columns = {**sample.columns, "is_new": tf.ones([1], tf.bool)}
            old = [{**c, "is_new": tf.zeros([1], tf.bool)} for c in self._ring.add(columns)]
            self._waiting += [columns, *old]
        chosen = self._waiting[: self._batch_items]
        del self._waiting[: self._batch_items]
        return _samples({name: _concat([c[name] for c in chosen]) for name in chosen[0]})

    def saving(self, contents: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], None]:
        """A function that saves the contents of a replay to a folder, and beside it what is kept here.

        Args:
          contents: saves the contents.
        """
        if self._plain:
            return contents

        def save(folder: pathlib.Path) -> None:
            contents(folder)
            self.save(folder.with_name(FOLDER))

        return save

    def save(self, folder: pathlib.Path) -> None:
        """Writes old items, batches with passes left and the draws of old items to `folder`, which must not exist."""
        slots, counters = self._passes.state()
        batches = [batch.columns for batch in slots if batch is not None]
        save_items(folder / "old", self._ring.items)
        save_items(folder / "waiting", self._waiting)
        save_items(folder / "passes", batches)
        filled = [batch is not None for batch in slots]
        state = {"rng": self._rng.bit_generator.state, "filled": filled, **counters}
        (folder / STATE).write_text(json.dumps(state) + "\n")

    def restore(self, folder: pathlib.Path, layout: Layout) -> str:
        """Takes what `save` wrote.

        Returns:
          The items left out and the reason (a run with another number of environments, or another form of storage); ''
          if nothing was.

        Args:
          folder: need not exist: then nothing was kept.
          layout: of the items now.
        """
        if self._plain or not folder.is_dir():
            return ""
        state = json.loads((folder / STATE).read_text())
        self._rng.bit_generator.state = state["rng"]
        old, waiting, passes = (load_items(folder / n) for n in ("old", "waiting", "passes"))
        apart = [{name: x[0] for name, x in item.items()} for item in old]
        kept = old + waiting + passes
        shapes = [{n: x.shape[1:] for n, x in item.items()} for item in kept]
        if not all(map(layout.same_row, shapes)):
            count = len(old) + len(waiting)
            return f"{count} unrolls and {len(passes)} batches with passes left, whose steps are stored in another form"
        fits = all(map(layout.fits, shapes))
        self._ring.restore([{n: x[None] for n, x in item.items()} for item in layout.refit(apart)])
        if not fits:
            what = f"{len(waiting)} unrolls of the batch begun and {len(passes)} batches with passes left"
            return f"{what}, because num_envs has changed"
        self._waiting = waiting
        batches = iter(_samples(columns) for columns in passes)
        slots = [next(batches) if filled else None for filled in state["filled"]]
        self._passes.restore(slots, state)
        return ""


def _samples(columns: Mapping[str, Any]) -> Samples:
    """Columns, leaves [N, ...], as they are fetched."""
    columns = {name: tf.convert_to_tensor(x) for name, x in columns.items()}
    count = next(iter(columns.values())).shape[0]
    return Samples(tf.zeros([count], tf.uint64), tf.ones([count], tf.float64), columns)


def _concat(columns: list[Any]) -> tf.Tensor:
    """A column of single items, each [1, ...]; where some are smaller, zeros fill what they lack."""
    if len({tuple(x.shape) for x in columns}) == 1:
        return tf.concat(columns, 0)
    return tf.convert_to_tensor(join([np.asarray(x)[0] for x in columns]))


def make_batcher(run_plan: RunPlan) -> Batcher:
    """The batches of a run."""
    rng = seeds.generator(run_plan.job.seed, "learner", 0, "replay")
    return Batcher(run_plan.queue, run_plan.batch_items, run_plan.items_per_call, rng)
