"""Sources of a learner's experience: the tables of replay servers, or chunks for a replay beside it.

A source gives out a block only when the inserts have paid for it, so the ratio of samples to inserts never exceeds the
stated one; the limiters of the tables, or the bound of the queue, keep the actors from running ahead.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import reverb
import tensorflow as tf

from tfrl.agent import Replay
from tfrl.replay.bounded import Patient
from tfrl.replay.budget import Budget
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.population import COLLECTOR, ROUNDS, Collector, Results
from tfrl.replay.sampler import ReplayTimeout, Sampler, Samples
from tfrl.replay.tables import EXPERIENCE
from tfrl.replay.write_chunks import Chunks
from tfrl.runtime.link import Link
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.storage.checkpoint import EXACT_ENV_STEPS
from tfrl.runtime.storage.replay_server import save_contents, save_shards

SAMPLE_TIMEOUT_S = 300.0  # of one attempt; the next one follows: slow environments are no failure
FETCH_S = 0.1  # longest wait for samples that are paid for, between two looks at the orders
DRY_S = 5.0  # at the end: without samples for so long, there are none left
QUEUE_DRY_S = 1.0  # the same for chunks, which need not wait for each other


class Feed:
    """Experience fetched on a thread, so that the learner's own loop never waits for long.

    Args:
      make_source: makes what has `next()`; again after a `ReplayTimeout`.
    """

    def __init__(self, make_source: Callable[[], Any]):
        self._make_source = make_source
        self._queue: queue.Queue[Any] = queue.Queue(1)
        threading.Thread(target=self._fetch, name="samples", daemon=True).start()

    def next(self, timeout_s: float) -> Any:
        """The next result of the source, or None if there is none yet; raises the error of the fetching."""
        try:
            item = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(item, Exception):
            raise item
        return item

    def _fetch(self) -> None:
        while True:
            try:
                source = self._make_source()
                while True:
                    self._queue.put(source.next())
            except ReplayTimeout:
                continue
            except Exception as error:  # reported to the learner's own thread
                self._queue.put(error)
                return


class Shard:
    """One table of experience, as a learner sees it.

    Args:
      address: of its server, also of one that takes its place.
      plan: of this table.
      items: fetched at a time, a part of a block.
      index: of the replay process that serves it.
      before: items that earlier learners have taken from it.

    Attributes:
      index: see above.
      size: items that it holds, by the server's last answer.
    """

    def __init__(self, address: str, plan: Replay, items: int, index: int, before: int):
        self.client = reverb.Client(address)
        self._plan, self._items, self._budget = plan, items, Budget(plan, sampled=before)
        self._make_feed = lambda: Feed(lambda: Sampler(address, items, SAMPLE_TIMEOUT_S))
        self._feed = self._make_feed()
        self._count, self._put = Patient(), Patient()
        self.index, self._before, self.size = index, before, 0

    @property
    def silent(self) -> bool:
        """The server does not answer."""
        return self._count.silent

    @property
    def inserted(self) -> int:
        """Items inserted, by the server's last answer."""
        return self._budget.inserted

    @property
    def total_sampled(self) -> int:
        """Items taken by all learners."""
        return self._budget.sampled

    @property
    def sampled(self) -> int:
        """Items taken by this learner."""
        return self._budget.sampled - self._before

    @property
    def paid(self) -> float:
        """Parts that inserts have paid for and that were not taken yet."""
        return self._budget.left / self._items

    def renew(self, index: int) -> None:
        """Another process serves an empty table in its place."""
        self.index, self._before, self.size = index, 0, 0
        self._budget = Budget(self._plan)

    def count(self) -> None:
        """Asks the server how many items were inserted."""
        info = self._count(self.client.server_info, timeout=10)
        if info is not None:
            info = info[EXPERIENCE]
            self._budget.inserted = info.rate_limiter_info.insert_stats.completed
            self.size = info.current_size

    def take(self) -> Samples | None:
        """The next part, None if it is not there yet."""
        try:
            part = self._feed.next(FETCH_S)
        except Exception:  # an error of its own, or its server has gone
            self.count()
            if not self.silent:
                raise
            self._feed = self._make_feed()
            return None
        if part is None:
            self.count()
            return None
        self._budget.sampled += self._items
        return part

    def write_priorities(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """Changes priorities; those for a server that does not answer are dropped."""
        new = dict(zip(keys.tolist(), priorities.tolist(), strict=True))
        self._put(self.client.mutate_priorities, EXPERIENCE, new)


class TableSource:
    """Blocks of samples from one or several tables.

    As every source it has `facts`, numbers that are published with the weights.

    A block has as many parts as there are shards: one of each, or several of those that have more to give, so that no
    shard is waited for. Every batch has its share of every part. The probability of an item is that under the draw from
    all shards: the one under its own, times the share of the parts that are its shard's.

    Args:
      run_plan: of the run.
      link: its orders hold 'addresses' and 'shards', [index, items sampled before] of each.
      items: of a block.
    """

    facts: Mapping[str, float] = {}

    def __init__(self, run_plan: RunPlan, link: Link, items: int):
        self._link, plan = link, run_plan.shard_plan
        addresses, shards = link.orders["addresses"], link.orders["shards"]
        self._calls = run_plan.agent.experience.updates_per_call
        part = items // len(addresses)
        self.shards = [
            Shard(address, plan, part, *known)
            for address, known in zip(addresses, shards, strict=True)
        ]
        self._parts: list[tuple[Shard, Samples]] = []  # of the next block
        self._given: list[tuple[Shard, Samples]] = []  # of the last one
        self._sampled_of_lost = 0

    @property
    def inserted(self) -> int:
        """Items inserted into all tables, by their servers' last answers."""
        return sum(shard.inserted for shard in self.shards)

    def is_paid(self) -> bool:
        """Whether the items inserted so far pay for one more block."""
        for shard in self.shards:
            if shard.silent or shard.paid < 1:
                shard.count()
        payable = sum(max(0, int(shard.paid)) for shard in self.shards if not shard.silent)
        return payable >= len(self.shards) - len(self._parts)

    def is_dry(self, waited_s: float) -> bool:
        """Whether nothing more will come, `waited_s` after the last of it, when the actors have ended."""
        return not self.is_paid() or waited_s > DRY_S

    def next(self) -> Samples | None:
        """The next block, None while it is not paid for or not there."""
        for shard, (index, _) in zip(self.shards, self._link.orders["shards"], strict=True):
            if index != shard.index:
                self._sampled_of_lost += shard.sampled
                shard.renew(index)
        if not self.is_paid():
            return None
        while len(self._parts) < len(self.shards):
            ready = [shard for shard in self.shards if not shard.silent and shard.paid >= 1]
            taken = [shard for shard, _ in self._parts]
            shard = min(ready, key=lambda s: (taken.count(s), -s.paid), default=None)
            part = None if shard is None else shard.take()
            if part is None:
                return None
            self._parts.append((shard, part))
        self._given, self._parts = self._parts, []
        return self._joined()

    def write_priorities(self, priorities: np.ndarray) -> None:
        """New priorities float32 [items] of the last block, each to the shard that has the item."""
        parts = len(self._given)
        split = priorities.reshape(self._calls, parts, -1) if parts > 1 else priorities[None, None]
        for i, (shard, part) in enumerate(self._given):
            shard.write_priorities(part.keys.numpy(), split[:, i].reshape(-1))

    def numbers(self) -> dict[str, Any]:
        """Numbers for the supervisor: items taken by this learner, in all and of each shard."""
        taken = {shard.index: shard.sampled for shard in self.shards}
        return {"sampled": self._sampled_of_lost + sum(taken.values()), "sampled_of": taken}

    def state(self) -> dict[str, Any]:
        """The counts that a checkpoint keeps."""
        sampled = [shard.total_sampled for shard in self.shards]
        return {"written": self.inserted, "sampled": sampled if len(sampled) > 1 else sampled[0]}

    def save(self, folder: Path) -> None:
        """Writes the contents of the tables to `folder`, which must not exist."""
        if len(self.shards) == 1:
            save_contents(self.shards[0].client, folder)
            return
        lost = save_shards([shard.client for shard in self.shards], folder)
        for slot in lost:
            self._link.say(f"checkpoint without replay shard {slot}, which does not answer")

    def _joined(self) -> Samples:
        if len(self._given) == 1:
            return self._given[0][1]
        owners = [shard for shard, _ in self._given]
        parts = [
            part._replace(probability=part.probability * (owners.count(shard) / len(owners)))
            for shard, part in self._given
        ]

        def join(*columns: tf.Tensor) -> tf.Tensor:
            rows = [tf.reshape(x, [self._calls, -1, *x.shape[1:]]) for x in columns]
            return tf.reshape(tf.concat(rows, 1), [-1, *columns[0].shape[1:]])

        return tf.nest.map_structure(join, *parts)


class PopulationSource:
    """Whole iterations of a population, made of the results that actors send in any order.

    Once the iterations have the env steps of the run, no further one is asked for: so it ends with the same one however
    many actors there are.

    Args:
      run_plan: of the run.
      link: its orders hold the address of the queue, the index of its server and how many items were taken from it.
      version: updates of the learner.
      env_steps: of the iterations so far.
      learner: index of this one among those that the run has had.

    Attributes:
      inserted: items of results that have come.
    """

    def __init__(self, run_plan: RunPlan, link: Link, version: int, env_steps: int, learner: int):
        self._link, self._learner = link, learner
        (self._index, self._before) = link.orders["shards"][0]
        self._client = reverb.Client(link.orders["addresses"][0])
        self._feed = Feed(lambda: Results(self._client))
        self._collector = Collector(run_plan.layout, version)
        self._total = run_plan.job.total_env_steps
        self._left = self._total - env_steps
        self._whole: dict[str, np.ndarray] | None = None
        self.inserted = 0

    @property
    def facts(self) -> dict[str, float]:
        """What actors must know beside the weights: how many rounds are asked for."""
        return {ROUNDS: self._collector.rounds if self._left > 0 else 0, COLLECTOR: self._learner}

    def is_paid(self) -> bool:
        """Like `TableSource.is_paid`: whether an iteration is whole; takes results that have come."""
        while self._whole is None and (item := self._feed.next(FETCH_S / 10)) is not None:
            self.inserted += 1
            if self._left > 0:
                self._whole = self._collector.add(item)
        return self._whole is not None

    def is_dry(self, waited_s: float) -> bool:
        """Like `TableSource.is_dry`, after a shorter wait: results need not wait for each other."""
        return waited_s > QUEUE_DRY_S

    def next(self) -> Samples | None:
        """The next iteration, None while it is not whole."""
        if not self.is_paid():
            return None
        item, self._whole = self._whole, None
        self._left -= int(item["length"].sum())
        columns = {name: tf.convert_to_tensor(x[None]) for name, x in item.items()}
        return Samples(tf.zeros([1], tf.uint64), tf.ones([1], tf.float64), columns)

    def write_priorities(self, priorities: np.ndarray) -> None:
        """Raises NotImplementedError: results have no priorities."""
        raise NotImplementedError("results of a population have no priorities")

    def numbers(self) -> dict[str, Any]:
        """Like `TableSource.numbers`."""
        over = self._left <= 0
        return {
            "sampled": self.inserted, "sampled_of": {self._index: self.inserted}, "over": over,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Like `TableSource.state`, and the env steps of whole iterations, which the supervisor does not know."""
        taken = self._before + self.inserted
        return {"written": taken, "sampled": taken, EXACT_ENV_STEPS: self._total - self._left}

    def save(self, folder: Path) -> None:
        """Like `TableSource.save`: results that wait; those of an unfinished iteration are played again."""
        save_contents(self._client, folder)


class LearnerReplaySource:
    """Chunks of new transitions from the queue into a replay beside the learner, whose updates draw from it.

    Args:
      run_plan: of the run.
      link: its orders hold the address of the queue.
      items: of a block of samples.
      replay: beside the learner.
      before: 'written' and 'sampled' items of its contents.
    """

    facts: Mapping[str, float] = {}

    def __init__(
        self,
        run_plan: RunPlan,
        link: Link,
        items: int,
        replay: LearnerReplay,
        before: Mapping[str, int],
    ):
        self._items, self._replay, self._before = items, replay, dict(before)
        self._budget = Budget(run_plan.agent.experience, before["written"], before["sampled"])
        client = reverb.Client(link.orders["addresses"][0])
        self._feed = Feed(functools.partial(Chunks, client))

    @property
    def inserted(self) -> int:
        """Items inserted, over all learners."""
        return self._budget.inserted

    def is_paid(self) -> bool:
        """Like `TableSource`; takes the next chunk of new transitions where there is one."""
        if not self._budget.pays(self._items):
            chunk = self._feed.next(0.02)
            if chunk is not None:
                self._replay.insert(chunk)
                self._budget.inserted += len(chunk.rows)
        return self._budget.pays(self._items)

    def is_dry(self, waited_s: float) -> bool:
        """Like `TableSource.is_dry`, after a shorter wait: chunks need not wait for each other."""
        return waited_s > QUEUE_DRY_S

    def next(self) -> LearnerReplay | None:
        """The replay, from which the updates of a block draw; None while these are not paid for."""
        if not self.is_paid():
            return None
        self._budget.sampled += self._items
        return self._replay

    def write_priorities(self, priorities: np.ndarray) -> None:
        """Raises NotImplementedError: the updates write the priorities of this replay."""
        raise NotImplementedError("a replay beside the learner keeps its priorities itself")

    def numbers(self) -> dict[str, Any]:
        """Like `TableSource.numbers`: items taken and items inserted by this learner, and those that can be drawn."""
        inserted = self._budget.inserted - self._before["written"]
        sampled = self._budget.sampled - self._before["sampled"]
        return {"sampled": sampled, "inserted": inserted, "size": self._replay.size}

    def state(self) -> dict[str, Any]:
        """Like `TableSource.state`: items inserted and items taken, over all learners."""
        return {"written": self._budget.inserted, "sampled": self._budget.sampled}

    def save(self, folder: Path) -> None:
        """Like `TableSource.save`: the contents of the replay."""
        self._replay.save(folder)
