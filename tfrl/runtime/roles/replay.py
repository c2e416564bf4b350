"""The role of a replay server: serves a shard of the experience, and weights where there is one shard."""

from __future__ import annotations

import math

import reverb

from tfrl.job import Job
from tfrl.replay.tables import EXPERIENCE, experience_table
from tfrl.replay.write_chunks import chunks_table
from tfrl.runtime.link import RUN, Link
from tfrl.runtime.plan import residency
from tfrl.runtime.plan.run_plan import RunPlan, plan_run
from tfrl.runtime.roles.actor import steps_per_look
from tfrl.runtime.roles.weights import report_addresses
from tfrl.runtime.storage.publish import variables_table
from tfrl.runtime.storage.replay_server import ReplayServer, shard_folder
from tfrl.types import EnvSpec


def main(job: Job, spec: EnvSpec, index: int, slot: int, link: Link) -> None:
    """Serves a shard of the experience; with one shard also weights, by a server of their own.

    A replacement gets the port of its predecessor, so that all connections find it.

    Raises:
      SettingError: see `plan_run`.
    """
    run_plan = plan_run(job, spec)
    shards = job.topology.num_replay_shards
    learner_replay = run_plan.residency == residency.LEARNER
    if learner_replay:
        table = _queue(run_plan)
    else:
        share = run_plan.items_per_call // shards
        table = experience_table(run_plan.shard_plan, run_plan.layout, share)
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
        if not learner_replay:  # else the learner counts, which alone knows the items of a chunk
            info = client.server_info(timeout=10)[EXPERIENCE]
            inserted = info.rate_limiter_info.insert_stats.completed
            link.report(inserted=inserted, size=info.current_size)
        report_addresses(servers, link)
    with link.busy():
        for server in servers.values():
            server.stop()


def _queue(run_plan: RunPlan) -> reverb.Table:
    """The queue of chunks for a replay beside the learner, with room for three of its calls."""
    topology = run_plan.job.topology
    rows = steps_per_look(run_plan) * topology.num_envs
    return chunks_table(max(topology.num_actors, math.ceil(3 * run_plan.env_steps_per_call / rows)))
