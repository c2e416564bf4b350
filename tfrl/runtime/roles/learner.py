"""The role of the learner: trains on what the actors make, publishes weights and writes checkpoints."""

from __future__ import annotations

import math
import time
from typing import Any

import reverb

from tfrl.job import Job
from tfrl.replay.bounded import BoundedCalls
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.sampler import Samples
from tfrl.runtime import build, rehearsal, seeds
from tfrl.runtime.interval import Interval
from tfrl.runtime.learning.batches import Batcher
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.runtime.learning.sources import (
    DRY_S,
    LearnerReplaySource,
    PopulationSource,
    TableSource,
)
from tfrl.runtime.link import ABANDON, FINISH, Link
from tfrl.runtime.plan.run_plan import RunPlan, plan_run
from tfrl.runtime.report import peak_memory_mb
from tfrl.runtime.storage import checkpoint
from tfrl.runtime.storage.publish import VariablePublisher
from tfrl.types import EnvSpec

PUBLISH_EVERY_S = 0.05
REPORT_EVERY_S = 0.2


def main(job: Job, spec: EnvSpec, index: int, slot: int, link: Link) -> None:
    """Learns what the items pay for, publishes, saves; a restarted one starts at a checkpoint.

    Raises:
      SettingError: see `plan_run`; a checkpoint that does not fit.
      ReplayUnreachable: the server of the weights does not answer.
    """
    del slot
    run_plan = plan_run(job, spec)
    found = _found(run_plan, index)
    replay = build.learner_replay(run_plan, found, index)
    loop = build.learner(run_plan, found, link.say, replay)
    if found:
        link.say(f"learner: goes on at update {loop.version:,} from {found.folder}")
    rehearsal.of_checkpoint(run_plan, loop, {"max_priority": loop.max_priority})
    link.ready()
    if link.wait(lambda orders: "addresses" in orders):
        batcher = build.batcher(run_plan, found, link.say)
        items = batcher.fetch_items
        if run_plan.population:
            state = found.state if found else {}
            env_steps = state.get(
                checkpoint.EXACT_ENV_STEPS, state.get("totals", {}).get("env_steps", 0)
            )
            source = PopulationSource(run_plan, link, loop.version, env_steps, index)
        elif replay is None:
            source = TableSource(run_plan, link, items)
        else:
            before = found.state if found and found.replay else {"written": 0, "sampled": 0}
            source = LearnerReplaySource(run_plan, link, items, replay, before)
        _Learning(job, run_plan, loop, link, source, batcher, index > 0).run()


class _Learning:
    """The loop of a learner process.

    Args:
      source: gives the blocks to learn from.
      batcher: makes batches of them.
      is_heir: another learner of this run died before.
    """

    def __init__(
        self,
        job: Job,
        run_plan: RunPlan,
        loop: LearnerLoop,
        link: Link,
        source: TableSource | LearnerReplaySource | PopulationSource,
        batcher: Batcher,
        is_heir: bool,
    ):
        self._job, self._run_plan, self._loop, self._link = job, run_plan, loop, link
        self._source, self._is_heir = source, is_heir
        variables = loop.learner.policy.variables
        client = reverb.Client(link.orders["variables"])
        self._publisher = VariablePublisher(client, variables, BoundedCalls(on_wait=link.beat))
        self._batcher = batcher
        self._started_at = loop.version
        self._barrier = run_plan.waits
        self._updates = 0
        self._waited_s = self._starved_s = 0.0
        self._published = self._reported = -math.inf
        self._published_version = 0
        self._facts = source.facts  # published last

    def run(self) -> None:
        job, link, source = self._job, self._link, self._source
        saves = Interval(job.checkpoint.checkpoint_every_env_steps, link.orders["env_steps"])
        self._publish()
        metrics: Any = {}
        dry = time.monotonic()
        while link.orders["stop"] != ABANDON:
            link.beat()
            start, inserted = time.perf_counter(), source.inserted
            last = link.orders["stop"] == FINISH
            samples = self._batcher.next(source.next)
            fetched = time.perf_counter()
            if samples is not None:
                metrics = self._learn(samples)
            if samples is not None or inserted != source.inserted:
                dry = time.monotonic()
            elif last and source.is_dry(time.monotonic() - dry):
                break
            elif self._barrier and self._is_heir and time.monotonic() - dry > DRY_S:
                # Items that the dead learner had fetched are lost, and their makers may wait for its weights.
                self._publish()
                dry = time.monotonic()
            elif not source.is_paid():
                time.sleep(0.002)
            if samples is None:
                self._starved_s += time.perf_counter() - start
            else:
                self._waited_s += fetched - start
            now = time.monotonic()
            if samples is not None and self._publishes(now) or source.facts != self._facts:
                self._publish()
            if now - self._reported >= REPORT_EVERY_S:
                self._report(metrics)
            if saves.due(link.orders["env_steps"]):
                self._save()
        if link.orders["stop"] != ABANDON:
            self._publish()
        self._report(metrics, final=True)
        self._save()

    def _learn(self, samples: Samples | LearnerReplay) -> Any:
        env_steps = self._link.orders["env_steps"]
        if self._updates:
            metrics, priorities = self._loop.run(samples, env_steps)
        else:
            with self._link.busy():  # the first call compiles
                metrics, priorities = self._loop.run(samples, env_steps)
        if priorities is not None:
            self._source.write_priorities(priorities)
        self._updates = self._loop.version - self._started_at
        return metrics

    def _publishes(self, now: float) -> bool:
        """Whether new weights are due: at once where actors wait for them."""
        if self._barrier:
            return True
        news = self._loop.version - self._published_version
        enough = news >= self._run_plan.agent.updates_per_publish
        return enough and now - self._published >= PUBLISH_EVERY_S

    def _publish(self) -> None:
        self._published_version = self._loop.version
        self._facts = self._source.facts
        arrays, facts = self._loop.arrays(), {**self._loop.facts(), **self._facts}
        self._publisher.publish(self._published_version, arrays, **facts)
        self._published = time.monotonic()

    def _report(self, metrics: Any, final: bool = False) -> None:
        self._reported = time.monotonic()
        self._link.report(
            **self._source.numbers(), updates=self._updates, version=self._loop.version,
            seconds={
                "sample": self._waited_s, "learn": self._loop.seconds, "experience": self._starved_s
            },
            lags=self._loop.lags.counts.tolist(),
            metrics={
                **{name: float(value) for name, value in metrics.items()},
                "learner/retraces": self._loop.retraces,
            },
            memory_mb=peak_memory_mb(), final=final,
        )  # fmt: skip

    def _save(self) -> None:
        orders = self._link.orders
        # The orders count without this process, which alone has its exact state.
        totals = dict(orders["totals"])
        totals["updates"] += self._updates
        totals["items_sampled"] += self._source.numbers()["sampled"]
        rng = seeds.generator(self._job.seed, "actor", 0, f"noise {totals['env_steps']}")
        state = build.state(
            self._loop, totals, self._source.state(), rng,  # the generator is for a resume in one process
            evaluation_facts=orders.get("facts", {}), window=orders["window"],
        )  # fmt: skip
        replay = None
        if self._job.checkpoint.checkpoint_replay:
            replay = self._batcher.saving(self._source.save)
        self._link.report(saving=True)
        with self._link.busy():
            self._run_plan.checkpoints.save(
                totals["env_steps"], self._loop, state, replay, artifacts=self._loop.artifacts()
            )
        self._link.report(saved_at_env_steps=totals["env_steps"], saving=False)


def _found(run_plan: RunPlan, index: int) -> checkpoint.Checkpoint | None:
    """The checkpoint that a role starts from: none in a fresh run, unless one died before it."""
    return run_plan.newest() if run_plan.job.resume or index > 0 else None
