"""The role of a weight server, beside a replay of several shards."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping

from tfrl.job import Job
from tfrl.runtime.link import RUN, Link
from tfrl.runtime.report import peak_memory_mb
from tfrl.runtime.storage.publish import variables_table
from tfrl.runtime.storage.replay_server import ReplayServer
from tfrl.types import EnvSpec

REPORT_EVERY_S = 0.2


def main(job: Job, spec: EnvSpec, index: int, slot: int, link: Link) -> None:
    """Serves weights where the replay has several shards: none of them can take these with it."""
    del spec, index, slot
    scratch = pathlib.Path(job.run_dir) / "checkpoints"
    server = ReplayServer([variables_table()], scratch=scratch, name="weights")
    link.ready()
    while link.orders["stop"] == RUN:
        report_addresses({"variables": server}, link)
    with link.busy():
        server.stop()


def report_addresses(servers: Mapping[str, ReplayServer], link: Link) -> None:
    """Reports the addresses of servers, then waits `REPORT_EVERY_S`."""
    addresses = {name: server.address for name, server in servers.items()}
    link.report(**addresses, memory_mb=peak_memory_mb())
    time.sleep(REPORT_EVERY_S)
