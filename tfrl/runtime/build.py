"""The parts of a run, each made in one place: a backend decides only which of them share a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import reverb

from tfrl.agent import ActorPlace, Policy
from tfrl.envs.make import make_goal_rewards, make_vector
from tfrl.envs.vector import VectorEnv
from tfrl.logs import episode_file as episodes
from tfrl.logs.episode_file import EpisodeFile
from tfrl.replay.hindsight import Hindsight
from tfrl.replay.kinds import check_restarts, make_writer, sequence_writer
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.local_queue import LocalQueue, TableSink
from tfrl.replay.population import Collector
from tfrl.replay.sequence_rows import RowSink
from tfrl.replay.write_chunks import ChunkWriter
from tfrl.replay.write_population import PopulationWriter
from tfrl.replay.writer import Writer
from tfrl.runtime import seeds
from tfrl.runtime.acting.actor import Actor
from tfrl.runtime.acting.inference import Engine, StepSignature, make_engine
from tfrl.runtime.acting.population import PopulationActor
from tfrl.runtime.learning import batches
from tfrl.runtime.learning.batches import Batcher, make_batcher
from tfrl.runtime.learning.learner import LearnerLoop, make_strategy
from tfrl.runtime.plan import residency, warm_start
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.storage import checkpoint
from tfrl.runtime.storage.checkpoint import Checkpoint

Announce = Callable[[str], None]


def learner_replay(
    run_plan: RunPlan, found: Checkpoint | None, index: int = 0
) -> LearnerReplay | None:
    """The replay beside the learner, with the contents of a checkpoint; None where it lives elsewhere.

    Args:
      found: the checkpoint to start from.
      index: of the learner, for the seed of the draws.
    """
    if run_plan.residency != residency.LEARNER or run_plan.queue:
        return None
    seed = seeds.integer(run_plan.job.seed, "replay", index)
    replay = LearnerReplay(run_plan.agent.experience, run_plan.layout.rows(), seed)
    if found and found.replay:
        replay.restore(found.replay)
    return replay


def local_queue(run_plan: RunPlan, found: Checkpoint | None) -> LocalQueue | None:
    """The queue beside the learner, with the contents of a checkpoint; None where it lives elsewhere."""
    if run_plan.residency != residency.LEARNER or not run_plan.queue:
        return None
    queue = LocalQueue()
    if found and found.replay:
        queue.restore(found.replay, run_plan.layout.refit)
    return queue


def learner(
    run_plan: RunPlan,
    found: Checkpoint | None,
    announce: Announce,
    replay: LearnerReplay | None = None,
    num_devices: int | None = None,
) -> LearnerLoop:
    """The learner: as a checkpoint holds it, or new, then with `initial_weights` where the job names some.

    Args:
      replay: the one beside it.
      num_devices: replicas; None: as in the job.

    Raises:
      SettingError: a checkpoint or weights that do not fit.
    """
    job = run_plan.job
    strategy = make_strategy(
        job.topology.num_learner_devices if num_devices is None else num_devices
    )
    loop = LearnerLoop(
        run_plan.agent, run_plan.layout, strategy, job.topology.compile,
        seeds.integer(job.seed, "learner"), announce, replay,
    )  # fmt: skip
    if found:
        checkpoint.restore_learner(found, loop)
        loop.max_priority = found.state["max_priority"]
        loop.compiled = found.state.get("compile")
        if replay is not None:
            replay.max_priority = loop.max_priority
    elif job.initial_weights:
        warm_start.start(loop, run_plan, strategy.scope(), announce)
    return loop


def state(
    learner: LearnerLoop,
    totals: Mapping[str, Any],
    items: Mapping[str, Any],
    rng: np.random.Generator,
    **more: Any,
) -> dict[str, Any]:
    """State of a checkpoint beside variables and contents, as JSON; `learner` and the backends read it.

    Args:
      totals: of the run.
      items: 'written' and 'sampled', since the replay was empty.
      rng: noise of exploration.
      **more: 'evaluation_facts', 'window', 'inference', where they are known.
    """
    return {
        "totals": totals,
        **items,
        "max_priority": learner.max_priority,
        # Other code rounds otherwise: a resumed run goes on with what `auto` came to.
        "compile": learner.compiled,
        "rng": rng.bit_generator.state,
        **more,
    }


def batcher(run_plan: RunPlan, found: Checkpoint | None, announce: Announce) -> Batcher:
    """The maker of batches of fetched items, with the earlier items that a checkpoint keeps."""
    made = make_batcher(run_plan)
    if found and (lost := made.restore(found.folder / batches.FOLDER, run_plan.layout)):
        announce(f"not restored: {lost}")
    return made


def environments(run_plan: RunPlan, seed: int) -> VectorEnv:
    """The environments of one actor: those of the plan where no others may be built.

    Raises:
      SettingError: environments that cannot be used, or not for sequences.
    """
    job = run_plan.job
    names = job.log.info_metrics
    env = run_plan.env or make_vector(
        job.env,
        job.topology.num_envs,
        seed,
        info_names=names,
        switches=job.switches,
        num_vectors=job.topology.num_actors,
    )
    if run_plan.sequences:
        check_restarts(env)
    return env


def engine(run_plan: RunPlan, inference: str, announce: Announce) -> Engine:
    """The engine of an exploring policy; `inference` as in `make_engine`."""
    policy, num_envs = run_plan.agent.make_policy(), run_plan.job.topology.num_envs
    signature = StepSignature(policy, run_plan.spec, num_envs, run_plan.knobs, explore=True)
    # The results of a population must not depend on which engine was faster at the start of a process.
    return make_engine(inference, policy, signature, announce, timed=not run_plan.population)


def writer(
    run_plan: RunPlan,
    policy: Policy,
    index: int = 0,
    insert: Callable[[Any], None] | None = None,
    queue: LocalQueue | None = None,
    clients: Sequence[reverb.Client] = (),
    patience: Callable[[], None] | None = None,
    stream: str = "",
) -> Writer:
    """The writer of an actor, for one of three destinations.

    Args:
      policy: whose weights compute what is written, where anything is computed.
      index: of the actor.
      insert: takes chunks for a replay beside the learner.
      queue: beside the learner.
      clients: of the servers.
      patience: see `bounded`.
      stream: of its random numbers, which a resumed run must not repeat.
    """
    agent, layout, num_envs = run_plan.agent, run_plan.layout, run_plan.job.topology.num_envs
    item = agent.experience.item
    if run_plan.population:
        version = run_plan.found.state["totals"]["updates"] if run_plan.found else 0
        return PopulationWriter(
            run_plan.spec, layout, TableSink(clients[0]) if queue is None else queue, num_envs,
            population_seed(run_plan), Collector(layout, version) if queue is not None else None, patience,
        )  # fmt: skip
    made_with = hindsight(run_plan, index, stream) if run_plan.relabels else None
    if insert is not None and run_plan.sequences:
        return sequence_writer(RowSink(insert, layout.rows()), item, layout, num_envs)
    if insert is not None:
        return ChunkWriter(insert, item, layout, num_envs, writer=index, hindsight=made_with)
    if queue is not None:
        return sequence_writer(queue, item, layout, num_envs, policy=policy)
    return make_writer(
        clients, item, layout, num_envs, index, policy, agent.initial_priority, patience, made_with
    )


def hindsight(run_plan: RunPlan, index: int, stream: str) -> Hindsight:
    """What the actor `index` makes copies of transitions with, see `NStep.relabels`; `stream` as in `writer`."""
    rewards = run_plan.goal_rewards or make_goal_rewards(run_plan.job.env)
    return Hindsight(rewards, seeds.generator(run_plan.job.seed, "hindsight", index, stream))


def actor(
    run_plan: RunPlan,
    engine: Engine,
    env: VectorEnv,
    writer: Writer,
    rng: np.random.Generator,
    seed: int,
    started: float,
    slot: int = 0,
    index: int = 0,
) -> Actor:
    """An actor that resets its environments.

    Args:
      rng: noise of exploration.
      seed: of the environments.
      started: time at which the run started, seconds since the epoch, for `episodes.csv`.
      slot: place among the actors, for its knobs.
      index: id of this one, for `episodes.csv`.
    """
    log, topology = run_plan.job.log, run_plan.job.topology
    place = ActorPlace(slot, topology.num_actors, topology.num_envs)
    file = None
    if log.episodes_csv:
        file = EpisodeFile(run_plan.run_dir / episodes.NAME, index, started)
    parts = (run_plan.agent, engine, env, writer, place, rng, seed, file, log.info_metrics)
    if run_plan.population:
        return PopulationActor(*parts, population_seed(run_plan))
    return Actor(*parts)


def population_seed(run_plan: RunPlan) -> int:
    """The seed from which all that the members of the run's populations do follows."""
    return seeds.integer(run_plan.job.seed, "population")
