"""The role of an actor: acts as far as it is granted and sends what happens to the replay."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import reverb

from tfrl.envs.vector import VectorEnv, VectorWrapper
from tfrl.job import Job
from tfrl.replay.bounded import BoundedCalls
from tfrl.replay.write_chunks import ChunkSender
from tfrl.runtime import build, seeds
from tfrl.runtime.acting.watch import Watch, limit_s
from tfrl.runtime.books import knob_metrics
from tfrl.runtime.link import FINISH, RUN, Link
from tfrl.runtime.plan import residency
from tfrl.runtime.plan.run_plan import RunPlan, plan_run
from tfrl.runtime.report import peak_memory_mb
from tfrl.runtime.storage.publish import VariableSource
from tfrl.types import EnvSpec, VectorStep

PULL_EVERY_S = 0.02
# Items of an actor between two looks at its orders, and on their way to the server after them. Reverb
# prints a warning for every few items when there are more than about a hundred.
MAX_STEPS, MAX_PENDING_ITEMS = 64, 32
STEPS_BEFORE_WAIT = (
    512  # the same where no newer weights can come before the items of one wait are made
)


def main(job: Job, spec: EnvSpec, index: int, slot: int, link: Link) -> None:
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
    num_envs = job.topology.num_envs
    stream = str(link.orders["env_steps"])  # a resumed run must not repeat its episodes
    env_seed = seeds.integer(job.seed, "env", index, stream)
    env = build.environments(run_plan, env_seed)
    Watch(env.place, f"actor {index}", limit_s(job.topology), link.say)
    say = link.say if index == 0 else lambda text: None
    engine = build.engine(run_plan, job.topology.inference, say)
    say(f"environments: {env.backend}, {num_envs} in each of {job.topology.num_actors} actors")
    link.ready()
    if not link.wait(lambda orders: "addresses" in orders):
        return

    source = VariableSource(
        reverb.Client(link.orders["variables"]), BoundedCalls(on_wait=link.alive)
    )
    clients = [reverb.Client(address) for address in link.orders["addresses"]]
    insert = None
    if run_plan.residency == residency.LEARNER:
        insert = ChunkSender(clients[0], BoundedCalls(math.inf, link.alive))
    writer = build.writer(
        run_plan, engine.policy, index, insert, clients=clients, patience=link.alive, stream=stream
    )
    rng = seeds.generator(job.seed, "actor", index, f"noise {stream}")
    started = link.orders["started"]
    env = _Alive(env, link.alive)
    actor = build.actor(run_plan, engine, env, writer, rng, env_seed, started, slot, index)
    actor.window = _Episodes(link)
    most, bound = steps_per_look(run_plan), job.topology.max_weight_delay_env_steps
    ahead = run_plan.items_per_wait if run_plan.waits else math.inf
    version, pulled, trained = None, -math.inf, 0  # items that the weights loaded may have trained
    looked = delay = 0  # env steps made at the last look for weights, and most between two
    weights_s = inside_s = 0.0  # waiting for weights, and for the replay inside `run`
    while link.orders["stop"] == RUN:
        start = time.perf_counter()
        waits = waited = actor.rests or writer.items_written - trained >= ahead
        planned = (writer.vector_steps_to_item or most) * num_envs
        late = bound and actor.env_steps - looked + planned > bound
        if waits or late or time.monotonic() - pulled >= PULL_EVERY_S:
            delay, looked = max(delay, actor.env_steps - looked), actor.env_steps
            published, pulled = source.pull(), time.monotonic()
            if published is not None:
                version, trained = published.version, writer.items_written
                actor.load(published.arrays, version, published.facts)
        actor.load_evaluation(link.orders.get("facts", {}))
        waits = actor.rests or writer.items_written - trained >= ahead
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
            knobs=knob_metrics(actor.knobs),
        )  # fmt: skip
    actor.close_file()
    if link.orders["stop"] == FINISH:
        writer.flush()
        env.close()


def steps_per_look(run_plan: RunPlan) -> int:
    """Vector steps of an actor between two looks at its orders: its share of a call of the learner, at most."""
    topology = run_plan.job.topology
    share = math.ceil(run_plan.env_steps_per_call / topology.num_actors / topology.num_envs)
    # Where actors wait for the weights that they have paid for, none can come before.
    look = STEPS_BEFORE_WAIT if run_plan.waits else MAX_STEPS
    most = min(look, topology.max_weight_delay_env_steps or look)
    return max(1, min(share, most // topology.num_envs))


class _Alive(VectorWrapper):
    """A vector environment that gives a sign of life at every step."""

    def __init__(self, env: VectorEnv, alive: Callable[[], None]):
        super().__init__(env)
        self._alive, self.seeds_rows = alive, env.seeds_rows

    def restart(self, obs: Any, seeds: Mapping[int, int | None]) -> Any:
        """Implements `VectorEnv.restart`."""
        return self.inner.restart(obs, seeds)

    def step(self, action: Any) -> VectorStep:
        """Implements `VectorEnv.step`; raises what `alive` raises, as where the role is to end."""
        out = self.inner.step(action)
        self._alive()
        return out


class _Episodes:
    """Takes the place of an actor's window: the supervisor keeps the one of all actors."""

    def __init__(self, link: Link):
        self._link = link

    def add(self, *episode: Any) -> None:
        self._link.add_episode(*episode)
