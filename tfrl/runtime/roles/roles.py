"""What each process of a run does: plain functions over the same parts that one process uses.

Each builds its parts from the Job. Experience and weights travel through Reverb; numbers and orders
through the `Link`.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import cloudpickle
import numpy as np
import reverb
import tensorflow as tf

from tfrl.envs.make import make_vector
from tfrl.job import Job
from tfrl.logs import episode_file as episodes
from tfrl.logs.episode_file import EpisodeFile
from tfrl.replay.kinds import check_restarts, make_writer
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.sampler import Samples
from tfrl.replay.tables import EXPERIENCE, experience_table
from tfrl.replay.write_chunks import ChunkSender, ChunkWriter, chunks_table
from tfrl.runtime import seeds
from tfrl.runtime.acting.actor import Actor
from tfrl.runtime.acting.evaluator import Evaluator
from tfrl.runtime.acting.inference import StepSignature, make_engine
from tfrl.runtime.acting.watch import Watch, limit_s
from tfrl.runtime.backends.control import ABANDON, FINISH, RUN, Abandoned, Link
from tfrl.runtime.interrupt import start_tensorflow
from tfrl.runtime.learning import batches
from tfrl.runtime.learning.batches import make_batcher
from tfrl.runtime.learning.learner import LearnerLoop, make_strategy
from tfrl.runtime.learning.sources import DRY_S, LearnerReplaySource, TableSource
from tfrl.runtime.plan import rehearsal, warm_start
from tfrl.runtime.plan.run_plan import Interval, RunPlan, plan_run
from tfrl.runtime.report import peak_memory_mb
from tfrl.runtime.storage import checkpoint
from tfrl.runtime.storage.publish import (
    BoundedCalls,
    VariablePublisher,
    VariableSource,
    variables_table,
)
from tfrl.runtime.storage.replay_server import ReplayServer, shard_folder
from tfrl.types import EnvSpec

PUBLISH_EVERY_S = 0.05
PULL_EVERY_S = 0.02
REPORT_EVERY_S = 0.2
# Of an actor between two looks at its orders, and on their way to the server after them. Reverb
# prints a warning for every few items when there are more than about a hundred.
MAX_STEPS, MAX_PENDING_ITEMS = 64, 32


def replay_main(job: Job, spec: EnvSpec, index: int, slot: int, link: Link) -> None:
    """Serves a shard of the experience; with one shard also weights, by a server of their own.

    One that takes the place of another is told its port, so that all who were connected find it.

    Raises:
      SettingError: see `plan_run`.
    """
    run_plan = plan_run(job, spec)
    shards = job.topology.num_replay_shards
    learner_replay = run_plan.residency == "learner"
    table = (
        _queue(run_plan)
        if learner_replay
        else experience_table(
            run_plan.shard_plan, run_plan.layout, run_plan.items_per_call // shards
        )
    )
    if not link.wait(lambda orders: "restore" in orders):
        return
    restore, sampled = None, None
    found = run_plan.newest() if link.orders["restore"] else None
    if found and found.replay and not learner_replay:
        restore, sampled = found.replay, found.state["sampled"]
        if shards > 1:
            restore, sampled = shard_folder(restore, slot), sampled[slot]
            restore = restore if restore.is_dir() else None  # it did not answer then
    scratch = run_plan.run_dir / "checkpoints"
    server = ReplayServer([table], restore, sampled, scratch, str(slot), link.orders["port"])
    servers = {"address": server}
    if shards == 1:
        servers["variables"] = ReplayServer([variables_table()], scratch=scratch, name="weights")
    client = reverb.Client(server.address)
    link.ready()
    while link.orders["stop"] == RUN:
        if (
            not learner_replay
        ):  # else the learner counts, who alone knows how many items a block has
            info = client.server_info(timeout=10)[EXPERIENCE]
            inserted = info.rate_limiter_info.insert_stats.completed
            link.report(inserted=inserted, size=info.current_size)
        _serve(servers, link)
    with link.busy():
        for server in servers.values():
            server.stop()


def weights_main(job: Job, spec: EnvSpec, index: int, slot: int, link: Link) -> None:
    """Serves weights where the replay has several shards: none of them can take these with it."""
    del spec, index, slot
    scratch = pathlib.Path(job.run_dir) / "checkpoints"
    server = ReplayServer([variables_table()], scratch=scratch, name="weights")
    link.ready()
    while link.orders["stop"] == RUN:
        _serve({"variables": server}, link)
    with link.busy():
        server.stop()


def _serve(servers: Mapping[str, ReplayServer], link: Link) -> None:
    """Tells where the servers are, and waits a little."""
    addresses = {name: server.address for name, server in servers.items()}
    link.report(**addresses, memory_mb=peak_memory_mb())
    time.sleep(REPORT_EVERY_S)


def actor_main(job: Job, spec: EnvSpec, index: int, slot: int, link: Link) -> None:
    """Acts as far as it is granted, with the newest weights.

    `index` gives the seeds, so that a replacement does not repeat what its predecessor did; `slot`
    gives the knobs.

    Raises:
      Abandoned: the order to end at once came within a step, or while it waits for a server.
      SettingError: see `plan_run`; an environment that cannot be used, or a policy that the engine asked for cannot
        run.
      ReplayUnreachable: the server of the weights does not answer.
    """
    run_plan = plan_run(job, spec)
    agent, num_envs = run_plan.agent, job.topology.num_envs
    stream = str(link.orders["env_steps"])  # a resumed run must not repeat its games
    env_seed = seeds.integer(job.seed, "env", index, stream)
    env = make_vector(job.env, num_envs, env_seed, info_names=job.log.info_metrics)
    Watch(env.place, f"actor {index}", limit_s(job.topology), link.say)
    policy = agent.make_policy()
    knobs = sorted(agent.knobs(slot, job.topology.num_actors, num_envs, 0))
    signature = StepSignature(policy, run_plan.spec, num_envs, knobs, explore=True)
    say = link.say if index == 0 else lambda text: None
    engine = make_engine(job.topology.inference, policy, signature, say)
    say(f"environments: {env.backend}, {num_envs} in each of {job.topology.num_actors} actors")
    link.ready()
    if not link.wait(lambda orders: "addresses" in orders):
        return

    def alive() -> None:
        link.beat()
        if link.orders["stop"] == ABANDON:
            raise Abandoned

    source = VariableSource(reverb.Client(link.orders["variables"]), BoundedCalls(on_wait=alive))
    clients = [reverb.Client(address) for address in link.orders["addresses"]]
    if run_plan.sequences:
        check_restarts(env)
    item = agent.replay.item
    if run_plan.residency == "learner":
        send = ChunkSender(clients[0], BoundedCalls(math.inf, alive))
        writer = ChunkWriter(send, item, run_plan.layout, num_envs, writer=index)
    else:
        writer = make_writer(
            clients, item, run_plan.layout, num_envs, index, policy, agent.initial_priority
        )
    writer.patience = alive
    rng = seeds.generator(job.seed, "actor", index, f"noise {stream}")
    num_actors = job.topology.num_actors
    episode_file = None
    if job.log.episodes_csv:
        episode_file = EpisodeFile(run_plan.run_dir / episodes.NAME, index, link.orders["started"])
    actor = Actor(
        agent, engine, _Alive(env, alive), writer, slot, num_actors, rng, env_seed, episode_file
    )
    actor.window = _Episodes(link)
    most, bound = _steps_per_look(run_plan), job.topology.max_weight_delay_env_steps
    ahead = run_plan.items_per_wait if run_plan.waits else math.inf
    version, pulled, trained = None, -math.inf, 0  # items that the weights loaded may have trained
    looked = delay = 0  # env steps made at the last look for weights, and most between two
    weights_s = inside_s = 0.0  # waiting for weights, and for the replay inside `run`
    while link.orders["stop"] == RUN:
        start = time.perf_counter()
        waits = waited = writer.items_written - trained >= ahead
        planned = (writer.vector_steps_to_item or most) * num_envs
        late = bound and actor.env_steps - looked + planned > bound
        if waits or late or time.monotonic() - pulled >= PULL_EVERY_S:
            delay, looked = max(delay, actor.env_steps - looked), actor.env_steps
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
        left = None if math.isinf(ahead) else ahead - (writer.items_written - trained)
        actor.run(steps, link.orders["env_steps"], left)
        inside_s += writer.waited_s - before_s
        writer.flush(MAX_PENDING_ITEMS)
        spent = {**actor.seconds, "room": writer.waited_s, "weights": weights_s}
        spent["write"] -= inside_s
        link.report(
            env_steps=actor.env_steps, episodes=actor.episodes, version=version,
            seconds=spent, memory_mb=peak_memory_mb(), weight_delay=delay,
            **{name: float(np.mean(x)) for name, x in actor.knobs.items()},
        )  # fmt: skip
    if episode_file is not None:
        episode_file.close()
    if link.orders["stop"] == FINISH:
        writer.flush()
        env.close()


def learner_main(job: Job, spec: EnvSpec, index: int, slot: int, link: Link) -> None:
    """Learns what the items pay for, publishes, saves; a restarted one starts at a checkpoint.

    Raises:
      SettingError: see `plan_run`; a checkpoint that does not fit.
      ReplayUnreachable: the server of the weights does not answer.
    """
    del slot
    run_plan = plan_run(job, spec)
    found = _found(run_plan, index)
    strategy = make_strategy(job.topology.num_learner_devices)
    seed = seeds.integer(job.seed, "learner")
    learner_replay = None
    if run_plan.residency == "learner":
        draws = seeds.integer(job.seed, "replay", index)
        learner_replay = LearnerReplay(run_plan.agent.replay, run_plan.layout, draws)
    loop = LearnerLoop(
        run_plan.agent,
        run_plan.layout,
        strategy,
        job.topology.compile,
        seed,
        link.say,
        learner_replay,
    )
    if found:
        checkpoint.restore_learner(found, loop)
        loop.max_priority = found.state["max_priority"]
        loop.compiled = found.state.get("compile")
        if learner_replay is not None:
            learner_replay.max_priority = loop.max_priority
            if found.replay:
                learner_replay.restore(found.replay)
        link.say(f"learner: goes on at update {loop.version:,} from {found.folder}")
    elif job.initial_weights:
        warm_start.start(loop, run_plan, strategy.scope(), link.say)
    rehearsal.of_checkpoint(run_plan, loop, {"max_priority": loop.max_priority})
    link.ready()
    if link.wait(lambda orders: "addresses" in orders):
        items = make_batcher(run_plan).fetch_items
        if learner_replay is None:
            source = TableSource(run_plan, link, items)
        else:
            before = found.state if found and found.replay else {"written": 0, "sampled": 0}
            source = LearnerReplaySource(run_plan, link, items, learner_replay, before)
        learning = _Learning(job, run_plan, loop, link, source, index > 0)
        if found:
            learning.restore(found)
        learning.run()


class _Learning:
    """The loop of a learner process.

    Args:
      source: gives the blocks to learn from.
      is_heir: another learner of this run died before.
    """

    def __init__(
        self,
        job: Job,
        run_plan: RunPlan,
        loop: LearnerLoop,
        link: Link,
        source: TableSource | LearnerReplaySource,
        is_heir: bool,
    ):
        self._job, self._run_plan, self._loop, self._link = job, run_plan, loop, link
        self._source, self._is_heir = source, is_heir
        variables = loop.learner.policy.variables
        client = reverb.Client(link.orders["variables"])
        self._publisher = VariablePublisher(client, variables, BoundedCalls(on_wait=link.beat))
        self._batcher = make_batcher(run_plan)
        self._started_at = loop.version
        self._barrier = run_plan.waits
        self._updates = 0
        self._waited_s = self._starved_s = 0.0
        self._published = self._reported = -math.inf
        self._published_version = 0

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Takes from a checkpoint what is kept of earlier unrolls."""
        lost = self._batcher.restore(found.folder / batches.FOLDER, self._run_plan.layout)
        if lost:
            self._link.say(f"left out, as they are of another number of environments: {lost}")

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
                # What the dead learner had fetched is lost, and its makers may wait for weights that it has trained.
                self._publish()
                dry = time.monotonic()
            elif not source.is_paid():
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
        if link.orders["stop"] != ABANDON:
            self._publish()
        self._report(metrics, final=True)
        self._save()

    def _learn(self, samples: Samples) -> Any:
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
        enough = news >= self._run_plan.agent.updates.updates_per_publish
        return enough and now - self._published >= PUBLISH_EVERY_S

    def _publish(self) -> None:
        facts = {"max_priority": self._loop.max_priority}
        self._published_version = self._loop.version
        self._publisher.publish(self._published_version, self._loop.arrays(), **facts)
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
        # The orders count without this process, which alone knows its own state exactly.
        totals = dict(orders["totals"])
        totals["updates"] += self._updates
        totals["items_sampled"] += self._source.numbers()["sampled"]
        rng = seeds.generator(self._job.seed, "actor", 0, f"noise {totals['env_steps']}")
        state = {
            "totals": totals,
            **self._source.state(),
            "max_priority": self._loop.max_priority,
            "compile": self._loop.compiled,
            "window": orders["window"],
            "rng": rng.bit_generator.state,  # for a resume in one process
        }
        replay = None
        if self._job.checkpoint.checkpoint_replay:
            replay = self._batcher.saving(self._source.save)
        self._link.report(saving=True)
        with self._link.busy():
            self._run_plan.checkpoints.save(totals["env_steps"], self._loop, state, replay)
        self._link.report(saved_at_env_steps=totals["env_steps"], saving=False)


def evaluator_main(job: Job, spec: EnvSpec, index: int, slot: int, link: Link) -> None:
    """Evaluates the newest weights whenever it is ordered to, once per order.

    Raises:
      Abandoned: the order to end at once came within a game, or while it waits for a server.
      SettingError: see `plan_run`.
      ReplayUnreachable: the server of the weights does not answer.
    """
    del slot
    # The scores of an earlier evaluator or of the resumed run count.
    run_plan = plan_run(dataclasses.replace(job, resume=job.resume or index > 0), spec)

    def alive() -> None:
        link.beat()
        if link.orders["stop"] == ABANDON:
            raise Abandoned

    evaluator = Evaluator(run_plan, job.topology.inference, alive, announce=link.say)
    evaluator.rehearse()
    link.ready()
    if not link.wait(lambda orders: "variables" in orders):
        return
    source = VariableSource(reverb.Client(link.orders["variables"]), BoundedCalls(on_wait=alive))
    done, published = 0, None
    while link.orders["stop"] == RUN:
        order, env_steps = link.orders.get("evaluate", (0, 0))
        if order > done:
            published = source.pull() or published
        if order == done or published is None:
            link.beat()
            time.sleep(0.02)
            continue
        if job.evaluation.plays:
            row = evaluator.run(published.arrays, env_steps, published.version)
            link.add_row({"run/env_steps": float(env_steps), **row})
        else:
            evaluator.keep(published.arrays, env_steps, published.version)
        done = order
        link.report(evaluated=done, memory_mb=peak_memory_mb())
    evaluator.close()


ROLES = {
    "replay": replay_main,
    "weights": weights_main,
    "learner": learner_main,
    "actor": actor_main,
    "evaluator": evaluator_main,
}


def play(role: str, payload: bytes, index: int, slot: int, link: Link) -> None:
    """Plays a role of `ROLES` in this process; `payload` is a pickled (Job, EnvSpec). See `control.child_main`.

    Raises what the role raises.
    """
    if role != "learner":  # so that TensorFlow here leaves the cores to the others
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
    start_tensorflow()
    job, spec = cloudpickle.loads(payload)
    ROLES[role](job, spec, index, slot, link)


def _steps_per_look(run_plan: RunPlan) -> int:
    """Vector steps of an actor between two looks at its orders: its share of a call of the learner, at most."""
    topology = run_plan.job.topology
    share = math.ceil(run_plan.env_steps_per_call / topology.num_actors / topology.num_envs)
    most = min(MAX_STEPS, topology.max_weight_delay_env_steps or MAX_STEPS)
    return max(1, min(share, most // topology.num_envs))


def _queue(run_plan: RunPlan) -> reverb.Table:
    """Of blocks, for a replay beside the learner: room for three calls of the learner."""
    topology = run_plan.job.topology
    rows = _steps_per_look(run_plan) * topology.num_envs
    return chunks_table(max(topology.num_actors, math.ceil(3 * run_plan.env_steps_per_call / rows)))


def _found(run_plan: RunPlan, index: int) -> checkpoint.Checkpoint | None:
    """The checkpoint that a role starts from: none in a fresh run, unless one died before it."""
    return run_plan.newest() if run_plan.job.resume or index > 0 else None


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

    def add(self, *episode: Any) -> None:
        self._link.add_episode(*episode)
