"""What each process of a run does: plain functions over the same parts that one process uses.

Each builds its parts from the Job. Experience and weights travel through Reverb; numbers and orders
through the `Link`.
"""

from __future__ import annotations

import dataclasses
import math
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import reverb
import tensorflow as tf

from tfrl.envs.make import make_vector
from tfrl.job import Job
from tfrl.replay.blocks import Blocks, BlockSender, BlockWriter, blocks_table
from tfrl.replay.dataset import ReplayTimeout, Sampler, Samples
from tfrl.replay.kinds import check_restarts, make_writer
from tfrl.replay.resident import DRAWN_HERE, ResidentReplay
from tfrl.replay.tables import EXPERIENCE, experience_table
from tfrl.runtime import checkpoint, seeds
from tfrl.runtime.actor import Actor
from tfrl.runtime.assembly import Assembly, Every, assemble
from tfrl.runtime.batches import make_batcher
from tfrl.runtime.control import ABANDON, FINISH, RUN, Abandoned, Link
from tfrl.runtime.evaluator import Evaluator
from tfrl.runtime.inference import StepSignature, make_engine
from tfrl.runtime.learner import LearnerLoop, make_strategy
from tfrl.runtime.publish import BoundedCalls, VariablePublisher, VariableSource, variables_table
from tfrl.runtime.replay_server import ReplayServer
from tfrl.runtime.report import peak_memory_mb

SAMPLE_TIMEOUT_S = 300.0  # of one attempt; the next one follows: slow environments are no failure
DRY_S = 5.0  # at the end: without samples for so long, there are none left
QUEUE_DRY_S = 1.0  # the same for blocks, which need not wait for each other
PUBLISH_EVERY_S = 0.05
PULL_EVERY_S = 0.02
REPORT_EVERY_S = 0.2
# Of an actor between two looks at its orders, and on their way to the server after them. Reverb
# prints a warning for every few items when there are more than about a hundred.
MAX_STEPS, MAX_PENDING_ITEMS = 64, 32


def replay_main(job: Job, index: int, slot: int, link: Link) -> None:
    """Serves experience and weights by two servers; a checkpoint holds the first one's contents."""
    del slot
    assembly = assemble(job)
    agent = assembly.agent
    found = _found(assembly, index)
    resident = assembly.residency == "learner"
    table = (
        _queue(assembly)
        if resident
        else experience_table(agent.replay, assembly.layout, assembly.items_per_call)
    )
    restore = found.replay if found and not resident else None
    sampled = found.state["sampled"] if restore else None
    scratch = assembly.run_dir / "checkpoints"
    scratch.mkdir(parents=True, exist_ok=True)
    for left in scratch.glob("tfrl-replay-*"):  # of a server that was killed
        shutil.rmtree(left, ignore_errors=True)
    server = ReplayServer([table], restore, sampled, scratch)
    variables = ReplayServer([variables_table()], scratch=scratch)
    client = reverb.Client(server.address)
    link.ready()
    while link.orders["stop"] == RUN:
        if not resident:  # else the learner counts, who alone knows how many items a block has
            info = client.server_info(timeout=10)[EXPERIENCE]
            inserted = info.rate_limiter_info.insert_stats.completed
            link.report(inserted=inserted, size=info.current_size)
        link.report(address=server.address, variables=variables.address, memory_mb=peak_memory_mb())
        time.sleep(REPORT_EVERY_S)
    with link.busy():
        variables.stop()
        server.stop()


def actor_main(job: Job, index: int, slot: int, link: Link) -> None:
    """Acts as far as it is granted, with the newest weights.

    `index` gives the seeds, so that a replacement does not repeat what its predecessor did; `slot`
    gives the knobs.
    """
    assembly = assemble(job)
    agent, num_envs = assembly.agent, job.topology.num_envs
    stream = str(link.orders["env_steps"])  # a resumed run must not repeat its games
    env_seed = seeds.integer(job.seed, "env", index, stream)
    env = make_vector(job.env, num_envs, env_seed)
    policy = agent.make_policy()
    knobs = sorted(agent.knobs(slot, job.topology.num_actors, num_envs, 0))
    signature = StepSignature(policy, assembly.spec, num_envs, knobs, explore=True)
    say = link.say if index == 0 else lambda text: None
    engine = make_engine(job.topology.inference, policy, signature, say)
    say(f"environments: {env.backend}, {num_envs} in each of {job.topology.num_actors} actors")
    link.ready()
    if not link.wait(lambda orders: "address" in orders):
        return

    def alive() -> None:
        link.beat()
        if link.orders["stop"] == ABANDON:
            raise Abandoned

    source = VariableSource(reverb.Client(link.orders["variables"]), BoundedCalls(on_wait=alive))
    client = reverb.Client(link.orders["address"])
    if assembly.sequences:
        check_restarts(env)
    item = agent.replay.item
    if assembly.residency == "learner":
        send = BlockSender(client, BoundedCalls(math.inf, alive))
        writer = BlockWriter(send, item, assembly.layout, num_envs, writer=index)
    else:
        writer = make_writer(client, item, assembly.layout, num_envs, index, policy)
    writer.patience = alive
    rng = seeds.generator(job.seed, "actor", index, f"noise {stream}")
    num_actors = job.topology.num_actors
    actor = Actor(agent, engine, _Alive(env, alive), writer, slot, num_actors, rng, env_seed)
    actor.window = _Episodes(link)
    most = _steps_per_look(assembly)
    ahead = assembly.items_per_wait if assembly.waits else math.inf
    version, pulled, trained = None, -math.inf, 0  # items that the weights loaded may have trained
    weights_s = inside_s = 0.0  # waiting for weights, and for the replay inside `run`
    while link.orders["stop"] == RUN:
        start = time.perf_counter()
        waits = waited = writer.items_written - trained >= ahead
        if waits or time.monotonic() - pulled >= PULL_EVERY_S:
            published, pulled = source.pull(), time.monotonic()
            if published is not None:
                version, trained = published.version, writer.items_written
                actor.load(published.arrays, version, published.facts["max_priority"])
        waits = writer.items_written - trained >= ahead
        granted = link.orders.get("granted", 0) - actor.env_steps
        stops = version is None or granted <= 0 or waits
        if stops:
            link.beat()
            time.sleep(0.002)
        weights_s += time.perf_counter() - start if waited else 0.0
        if stops:
            continue
        # Sequences are made whole, so that the weights change between two of them only.
        steps = writer.vector_steps_to_item or min(most, math.ceil(granted / num_envs))
        before_s = writer.waited_s
        actor.run(steps, link.orders["env_steps"])
        inside_s += writer.waited_s - before_s
        writer.flush(MAX_PENDING_ITEMS)
        spent = {**actor.seconds, "room": writer.waited_s, "weights": weights_s}
        spent["write"] -= inside_s
        link.report(
            env_steps=actor.env_steps, episodes=actor.episodes, version=version,
            seconds=spent, memory_mb=peak_memory_mb(),
            **{name: float(np.mean(x)) for name, x in actor.knobs.items()},
        )  # fmt: skip
    if link.orders["stop"] == FINISH:
        writer.flush()
        env.close()


def learner_main(job: Job, index: int, slot: int, link: Link) -> None:
    """Learns what the items pay for, publishes, saves; a restarted one starts at a checkpoint."""
    del slot
    assembly = assemble(job)
    found = _found(assembly, index)
    strategy = make_strategy(job.topology.num_learner_devices)
    seed = seeds.integer(job.seed, "learner")
    resident = None
    if assembly.residency == "learner":
        draws = seeds.integer(job.seed, "replay", index)
        resident = ResidentReplay(assembly.agent.replay, assembly.layout, draws)
    loop = LearnerLoop(
        assembly.agent, assembly.layout, strategy, job.topology.compile, seed, link.say, resident
    )
    if found:
        checkpoint.restore_learner(found, loop)
        loop.max_priority = found.state["max_priority"]
        loop.compiled = found.state.get("compile")
        if resident is not None:
            resident.max_priority = loop.max_priority
            if found.replay:
                resident.restore(found.replay)
        link.say(f"learner: goes on at update {loop.version:,} from {found.folder}")
    link.ready()
    if link.wait(lambda orders: "address" in orders):
        before = found.state if found and found.replay else {"written": 0, "sampled": 0}
        _Learning(job, assembly, loop, link, before, index > 0).run()


class _Learning:
    """The loop of a learner process.

    It consumes a block only when the inserts have paid for it, so the ratio never exceeds the
    stated one; the limiter of the table, or the bound of the queue, keeps the actors from running ahead.

    Args:
      before: 'written' and 'sampled' items of the contents that a replay beside the learner starts with.
      is_heir: another learner of this run died before.
    """

    def __init__(
        self,
        job: Job,
        assembly: Assembly,
        loop: LearnerLoop,
        link: Link,
        before: Mapping[str, int],
        is_heir: bool,
    ):
        self._job, self._assembly, self._loop, self._link = job, assembly, loop, link
        address = link.orders["address"]
        self._call = BoundedCalls(on_wait=link.beat)
        self._client = reverb.Client(address)
        variables = loop.learner.policy.variables
        client = reverb.Client(link.orders["variables"])
        self._publisher = VariablePublisher(client, variables, self._call)
        self._batcher = make_batcher(assembly)
        self._started_at = loop.version
        self._barrier = assembly.agent.replay.max_policy_lag_updates == 0
        self._resident, self._is_heir = loop.resident, is_heir
        self._updates = self._sampled = self._inserted = 0
        if self._resident is None:
            items = self._batcher.fetch_items
            self._feed = _Feed(lambda: Sampler(address, items, SAMPLE_TIMEOUT_S))
            self._before = link.orders["sampled"]  # of the items in the table, by earlier learners
        else:
            self._feed = _Feed(lambda: Blocks(self._client))
            self._inserted, self._before = before["written"], before["sampled"]
        self._first = self._inserted
        self._waited_s = self._starved_s = 0.0
        self._published = self._reported = -math.inf
        self._published_version = 0

    def run(self) -> None:
        job, link = self._job, self._link
        saves = Every(job.checkpoint.checkpoint_every_env_steps, link.orders["env_steps"])
        self._publish()
        metrics: Any = {}
        dry = time.monotonic()
        while link.orders["stop"] != ABANDON:
            link.beat()
            start, inserted = time.perf_counter(), self._inserted
            last = link.orders["stop"] == FINISH
            samples = self._batcher.next(self._fetch)
            fetched = time.perf_counter()
            if samples is not None:
                metrics = self._learn(samples)
            if samples is not None or inserted != self._inserted:
                dry = time.monotonic()
            elif last and self._is_dry(time.monotonic() - dry):
                break
            elif self._barrier and self._is_heir and time.monotonic() - dry > DRY_S:
                # What the dead learner had fetched is lost, and its makers may wait for weights that it has trained.
                self._publish()
                dry = time.monotonic()
            elif not self._is_paid():
                time.sleep(0.002)
            if samples is None:
                self._starved_s += time.perf_counter() - start
            else:
                self._waited_s += fetched - start
            now = time.monotonic()
            if samples is not None and self._publishes(now):
                self._publish()
            if now - self._reported >= REPORT_EVERY_S:
                self._report(metrics)
            if saves.due(link.orders["env_steps"]):
                self._save()
        self._publish()
        self._report(metrics, final=True)
        self._save()

    def _fetch(self) -> Samples | None:
        if not self._is_paid():
            return None
        samples = self._feed.next(0.1) if self._resident is None else DRAWN_HERE
        if samples is not None:
            self._sampled += self._batcher.fetch_items
        return samples

    def _is_paid(self) -> bool:
        """Whether the items inserted so far pay for one more block of samples."""
        plan = self._assembly.agent.replay
        needed = self._before + self._sampled + self._batcher.fetch_items
        if (self._inserted - plan.min_items) * plan.samples_per_insert < needed:
            self._inserted = self._count()
        return (self._inserted - plan.min_items) * plan.samples_per_insert >= needed

    def _count(self) -> int:
        """Items inserted so far; a replay beside the learner takes the next block for it, if there is one."""
        if self._resident is None:
            info = self._client.server_info(timeout=60)[EXPERIENCE]
            return info.rate_limiter_info.insert_stats.completed
        block = self._feed.next(0.02)
        if block is not None:
            self._resident.insert(block)
        return self._inserted + (0 if block is None else len(block.rows))

    def _is_dry(self, waited_s: float) -> bool:
        """Whether nothing more will come, `waited_s` after the last of it, when the actors have ended."""
        if self._resident is not None:
            return waited_s > QUEUE_DRY_S
        return not self._is_paid() or waited_s > DRY_S

    def _learn(self, samples: Samples) -> Any:
        env_steps = self._link.orders["env_steps"]
        if self._updates:
            metrics, priorities = self._loop.run(samples, env_steps)
        else:
            with self._link.busy():  # the first call compiles
                metrics, priorities = self._loop.run(samples, env_steps)
        if priorities is not None:
            new = dict(zip(samples.keys.numpy().tolist(), priorities.tolist(), strict=True))
            self._call("writing priorities", self._client.mutate_priorities, EXPERIENCE, new)
        self._updates = self._loop.version - self._started_at
        return metrics

    def _publishes(self, now: float) -> bool:
        """Whether new weights are due: at once where actors wait for them."""
        if self._barrier:
            return True
        news = self._loop.version - self._published_version
        enough = news >= self._assembly.agent.updates.updates_per_publish
        return enough and now - self._published >= PUBLISH_EVERY_S

    def _publish(self) -> None:
        facts = {"max_priority": self._loop.max_priority}
        self._published_version = self._loop.version
        self._publisher.publish(self._published_version, self._loop.arrays(), **facts)
        self._published = time.monotonic()

    def _report(self, metrics: Any, final: bool = False) -> None:
        self._reported = time.monotonic()
        if self._resident is not None:
            self._link.report(inserted=self._inserted - self._first, size=self._resident.size)
        self._link.report(
            updates=self._updates, sampled=self._sampled, version=self._loop.version,
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
        # The orders count without this process, which alone knows its own state exactly.
        totals = dict(orders["totals"])
        totals["updates"] += self._updates
        totals["items_sampled"] += self._sampled
        rng = seeds.generator(self._job.seed, "actor", 0, f"noise {totals['env_steps']}")
        state = {
            "totals": totals,
            "written": self._inserted,
            "sampled": self._before + self._sampled,
            "max_priority": self._loop.max_priority,
            "compile": self._loop.compiled,
            "rng": rng.bit_generator.state,  # for a resume in one process
        }
        replay = self._resident or self._client if self._job.checkpoint.checkpoint_replay else None
        with self._link.busy():
            self._assembly.checkpoints.save(totals["env_steps"], self._loop, state, replay)
        self._link.report(saved_at_env_steps=totals["env_steps"])


def evaluator_main(job: Job, index: int, slot: int, link: Link) -> None:
    """Evaluates the newest weights whenever it is ordered to, once per order."""
    del slot
    # The scores of an earlier evaluator or of the resumed run count.
    assembly = assemble(dataclasses.replace(job, resume=job.resume or index > 0))

    def alive() -> None:
        link.beat()
        if link.orders["stop"] == ABANDON:
            raise Abandoned

    evaluator = Evaluator(assembly, job.topology.inference, alive)
    link.ready()
    if not link.wait(lambda orders: "variables" in orders):
        return
    source = VariableSource(reverb.Client(link.orders["variables"]), BoundedCalls(on_wait=alive))
    done, published = 0, None
    while link.orders["stop"] == RUN:
        order, env_steps, hurry = link.orders.get("evaluate", (0, 0, False))
        if order > done:
            published = source.pull() or published
        if order == done or published is None:
            link.beat()
            time.sleep(0.02)
            continue
        if hurry:
            evaluator.keep(
                published.arrays, env_steps, published.version
            )  # there may be no time to score it
        row = evaluator.run(published.arrays, env_steps, published.version)
        link.add_row({"run/env_steps": float(env_steps), **row})
        done = order
        link.report(evaluated=done, memory_mb=peak_memory_mb())
    evaluator.close()


ROLES = {
    "replay": replay_main,
    "learner": learner_main,
    "actor": actor_main,
    "evaluator": evaluator_main,
}


def play(role: str, job: str, index: int, slot: int, link: Link) -> None:
    """Plays a role of `ROLES` in this process; `job` is JSON. See `control.child_main`."""
    if role != "learner":  # so that TensorFlow here leaves the cores to the others
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
    ROLES[role](Job.from_json(job), index, slot, link)


def _steps_per_look(assembly: Assembly) -> int:
    """Vector steps of an actor between two looks at its orders: its share of a call of the learner, at most."""
    topology = assembly.job.topology
    share = math.ceil(assembly.env_steps_per_call / topology.num_actors / topology.num_envs)
    return max(1, min(share, MAX_STEPS // topology.num_envs))


def _queue(assembly: Assembly) -> reverb.Table:
    """Of blocks, for a replay beside the learner: room for three calls of the learner."""
    topology = assembly.job.topology
    rows = _steps_per_look(assembly) * topology.num_envs
    return blocks_table(max(topology.num_actors, math.ceil(3 * assembly.env_steps_per_call / rows)))


def _found(assembly: Assembly, index: int) -> checkpoint.Found | None:
    """The checkpoint that a role starts from: none in a fresh run, unless one died before it."""
    return assembly.checkpoints.newest() if assembly.job.resume or index > 0 else None


class _Alive:
    """A vector environment that gives a sign of life at every step."""

    def __init__(self, env: Any, alive: Any):
        self._env, self._alive = env, alive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, action: np.ndarray) -> Any:
        out = self._env.step(action)
        self._alive()
        return out


class _Episodes:
    """Takes the place of an actor's window: the supervisor keeps the one of all actors."""

    def __init__(self, link: Link):
        self._link = link

    def add(self, episode_return: float, length_env_steps: int) -> None:
        self._link.add_episode(episode_return, length_env_steps)


class _Feed:
    """Experience fetched on a thread, so that the learner's own loop never waits for long.

    Args:
      make_source: makes what has `next()`; again after a `ReplayTimeout`.
    """

    def __init__(self, make_source: Callable[[], Any]):
        self._make_source = make_source
        self._queue: queue.Queue[Any] = queue.Queue(1)
        threading.Thread(target=self._fetch, name="samples", daemon=True).start()

    def next(self, timeout_s: float) -> Any:
        """What the source gave next, or None if there is nothing yet; raises what the fetching raised."""
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
            except Exception as error:  # told to the learner's own thread
                self._queue.put(error)
                return
