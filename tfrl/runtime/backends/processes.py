"""Many processes on this machine: replay, learner, actors, evaluator; `Supervisor` decides which are started."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from multiprocessing import connection
from typing import Any

from tfrl.config import objects
from tfrl.logs.logger import Logger
from tfrl.runtime.backends.child import environment
from tfrl.runtime.backends.fork_server import Forked, ForkServer
from tfrl.runtime.backends.isolation import Isolation, network_line
from tfrl.runtime.backends.process import Process
from tfrl.runtime.hooks import Hooks
from tfrl.runtime.leave import leave_policy
from tfrl.runtime.link import Status
from tfrl.runtime.placement import Member, Placement
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.stop import Stop
from tfrl.runtime.supervisor import Supervisor

IMPORTED = "tfrl.runtime.roles.play"
FORK_LOG = "fork_server.log"
START, ENTRY = "tfrl.runtime.backends.child:child_main", f"{IMPORTED}:play"


def run(run_plan: RunPlan, logger: Logger, stop: Stop, hooks: Hooks) -> dict[str, Any]:
    """Trains to the end of the job, until a callback ends it, or to a stop.

    `finish` has what it needs in each case.

    Returns:
      Facts for `result.json`: 'totals', and 'memory_peak_mb' over all processes.

    Raises:
      RunFailed: a role fails again and again, or learning diverges.
    """
    if stop.requested:
        return leave_policy(run_plan, logger, stop)
    logger.announce(network_line(run_plan.job.topology.isolate, "--isolate prevents this"))
    return Supervisor(run_plan, Processes(run_plan), logger, stop, hooks).run()


class Processes(Placement):
    """A process for each member, with a pipe and a process group of its own, in a private network where that is asked.

    Args:
      run_plan: its job and spec go to every process.
    """

    def __init__(self, run_plan: RunPlan):
        topology = run_plan.job.topology
        # The processes get the place that was picked: each would find other memory free.
        placed = dataclasses.replace(topology, replay_residency=run_plan.residency)
        job = dataclasses.replace(run_plan.job, topology=placed)
        self._payload = objects.dumps((job, run_plan.spec))
        self._logs = run_plan.run_dir / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._isolation = Isolation() if topology.isolate else None
        self._namespaces = self._isolation.descriptors if self._isolation else ()
        self._fork_server: ForkServer | None = None
        self._processes: dict[Member, Process | Forked] = {}

    def start(self, member: Member) -> None:
        """Implements `Placement.start`: forks all but a learner, which sees accelerators."""
        variables, path = environment(member.role), self.where(member)
        args = (ENTRY, member.role, member.index, member.slot, self._payload, path)
        if member.role == "learner":
            whole = (*args, os.getpid(), self._namespaces)
            self._processes[member] = Process(START, whole, variables, self._namespaces)
            return
        if self._fork_server is None or not self._fork_server.is_alive():
            if self._fork_server is not None:
                self._fork_server.close()
            log = str(self._logs / FORK_LOG)
            self._fork_server = ForkServer([IMPORTED], variables, log, self._namespaces)
        whole = (*args, self._fork_server.pid, self._namespaces)
        self._processes[member] = self._fork_server.start(START, whole)

    def poll(self, timeout_s: float) -> list[tuple[Member, Status]]:
        """Implements `Placement.poll`; the pipe of a process that dies ends, which ends the wait too."""
        waited = connection.wait([p.pipe for p in self._processes.values()], timeout_s)
        statuses = []
        for member, process in self._processes.items():
            if process.pipe in waited:
                with contextlib.suppress(EOFError, OSError):  # it has ended, as `alive` shows
                    statuses.append((member, process.pipe.recv()))
        return statuses

    def send(self, member: Member, orders: dict[str, Any]) -> None:
        """Implements `Placement.send`."""
        with contextlib.suppress(OSError):
            self._processes[member].pipe.send(orders)

    def alive(self, member: Member) -> bool:
        """Implements `Placement.alive`."""
        return self._processes[member].is_alive()

    def exit_text(self, member: Member) -> str:
        """Implements `Placement.exit_text`: the signal, the exit code, or the fork server."""
        process = self._processes[member]
        if isinstance(process, Forked) and process.with_server:
            return (
                f"ended with the fork server, which was killed or crashed ({self._logs / FORK_LOG})"
            )
        code = process.exitcode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def kill(self, member: Member) -> None:
        """Implements `Placement.kill`."""
        process = self._processes.pop(member)
        process.kill()
        process.join(5)
        process.pipe.close()

    def where(self, member: Member) -> str:
        """Implements `Placement.where`: the file of its output."""
        return str(self._logs / f"{member.role}-{member.index}.log")

    def close(self) -> None:
        """Implements `Placement.close`."""
        for member in list(self._processes):
            self.kill(member)
        if self._fork_server is not None:
            self._fork_server.close()
        if self._isolation:
            self._isolation.close()
