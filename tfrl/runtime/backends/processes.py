"""Many processes on this machine: replay, learner, actors, evaluator; started, watched, replaced.

A dead or frozen actor is replaced by one with a new id; a dead learner is restarted from the newest
checkpoint while its actors go on; a dead evaluator is restarted. When the replay dies, or the server
of weights beside several shards of it, everything goes on from the newest checkpoint. One of several
shards is replaced by an empty one, and all others go on meanwhile.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

import numpy as np

from tfrl.config import objects
from tfrl.errors import RunFailed
from tfrl.logs.histogram import Histogram
from tfrl.logs.logger import Logger
from tfrl.logs.window import EpisodeWindow
from tfrl.runtime.backends import control
from tfrl.runtime.backends.control import ABANDON, FINISH, RUN, Child, Status
from tfrl.runtime.backends.isolation import Isolation, network_line
from tfrl.runtime.hooks import Hooks
from tfrl.runtime.interval import Interval
from tfrl.runtime.leave import leave_policy
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.report import Report, Totals, lag_metrics, peak_memory_mb
from tfrl.runtime.stop import Stop
from tfrl.runtime.storage import checkpoint_files
from tfrl.runtime.storage.checkpoint import Checkpoint
from tfrl.runtime.storage.replay_server import shard_folder

ENTRY = "tfrl.runtime.roles.play:play"
STARTUP_S = 180.0  # a child that imports TensorFlow on a busy machine may be silent for long
STEADY_S = 30.0  # an actor or a shard that has been at work for so long has not failed at once
# In a row, that end the run.
FAILURES = {"actor": 3, "evaluator": 3, "learner": 4, "replay": 4, "weights": 4}
HURRY_S = 8.0  # for an orderly end after a signal or a failure
SAVE_S = (
    600.0  # more for a checkpoint that is being written then: large contents of a replay take long
)
LEASE_S = 0.5  # of env steps granted to an actor in advance


def run(run_plan: RunPlan, logger: Logger, stop: Stop, hooks: Hooks) -> dict[str, Any]:
    """Trains to the end of the job, until a callback ends it, or to a stop.

    What `finish` needs is there then in each case.

    Returns:
      Facts for `result.json`: 'totals', and 'memory_peak_mb' over all processes.

    Raises:
      RunFailed: a role fails again and again, or learning diverges.
    """
    if stop.requested:
        return leave_policy(run_plan, logger, stop)
    return _Run(run_plan, logger, stop, hooks).run()


def sampled_before(found: Checkpoint | None, slot: int) -> int:
    """Items that had been taken of what a shard of the replay starts with: none where a checkpoint lacks it."""
    if found is None or not found.replay:
        return 0
    sampled = found.state["sampled"]
    if not isinstance(sampled, list):
        return sampled
    return sampled[slot] if shard_folder(found.replay, slot).is_dir() else 0


class _Run:
    """The children of a run and its books."""

    def __init__(self, run_plan: RunPlan, logger: Logger, stop: Stop, hooks: Hooks):
        self.hooks, self._saved = hooks, 0
        self._started = time.time()
        self.run_plan, self.logger, self.job = run_plan, logger, run_plan.job
        self.stop = stop
        self.failure: RunFailed | None = None
        # The children are told the place that was picked: each would find other memory free.
        placed = dataclasses.replace(self.job.topology, replay_residency=run_plan.residency)
        told = dataclasses.replace(self.job, topology=placed)
        self._payload = objects.dumps((told, run_plan.spec))
        self._logs = run_plan.run_dir / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        logger.announce(run_plan.arithmetic)
        for line in (
            run_plan.residency_line,
            run_plan.exploration_line,
            run_plan.evaluation_line,
            network_line(self.job.topology.isolate, "--isolate prevents this"),
        ):
            if line:
                logger.announce(line)
        found = run_plan.found
        self.totals = Totals(**found.state["totals"]) if found else Totals()
        if found:
            logger.rewind(self.totals.env_steps)
            logger.announce(f"resumed at {self.totals.env_steps:,} env steps from {found.folder}")
        self._start_env_steps = self.totals.env_steps
        self._isolation = Isolation() if self.job.topology.isolate else None
        self._children: list[Child] = []
        self._num_shards = self.job.topology.num_replay_shards
        # Of each shard: the process that serves it, and where; of each such process the items taken from it.
        self._shards = [0] * self._num_shards
        self._addresses: list[str | None] = [None] * self._num_shards
        self._weights: str | None = None
        self._sampled_of: dict[int, int] = {}
        self._next_index = dict.fromkeys(FAILURES, 0)
        self._failures: dict[tuple[str, int], list[str]] = {}
        self._stops = dict.fromkeys(FAILURES, RUN)
        self._evaluate = (0, 0)
        self._window, self._lags = EpisodeWindow(info_names=self.job.log.info_metrics), Histogram()
        if found and "window" in found.state:
            self._window.restore(found.state["window"])
        # Of the last evaluation, for the knobs and environments of all actors.
        self._facts = found.state.get("evaluation_facts", {}) if found else {}
        # By role and slot, as told last: who tells it has ended before the last row.
        self._size_items: dict[tuple[str, int], int] = {}
        self._report = Report(
            self.job.total_env_steps, run_plan.agent.experience.min_items, self.totals
        )
        self._evaluations = Interval(self.job.evaluation.interval_env_steps, self.totals.env_steps)
        self._memory: dict[str, float] = {}
        self._turned = self._last_row = time.monotonic()
        self._forgive_until = -math.inf
        self._replacing = True

    def run(self) -> dict[str, Any]:
        try:
            self._start_all(self.job.resume)
            self._while(self._goes_on)
            if not self._hurry():
                self._end_well()
            if self._hurry():
                self._end_now()
            self._stop_servers()
            self._log()
        finally:
            for child in self._children:
                child.kill()
            if self._isolation:
                self._isolation.close()
            for left in (self.run_plan.run_dir / "checkpoints").glob(
                f"{checkpoint_files.SCRATCH}*"
            ):
                shutil.rmtree(left, ignore_errors=True)
        if self.failure is not None:
            raise self.failure
        if self.stop.requested:  # the evaluator was given no time to keep the last weights
            self.totals = leave_policy(self.run_plan, self.logger, self.stop)["totals"]
        return {"totals": self.totals, "memory_peak_mb": self._memory_mb()}

    def _goes_on(self) -> bool:
        return self.totals.env_steps < self.job.total_env_steps and not self.hooks.stopped

    def _start_all(self, restore: bool) -> None:
        """All at once: each of them first imports TensorFlow for seconds.

        Args:
          restore: the replay starts with the contents of the newest checkpoint.
        """
        found = self.run_plan.newest() if restore else None
        self._addresses, self._weights = [None] * self._num_shards, None
        self._sampled_of, self._restores = {}, restore
        for slot in range(self._num_shards):
            self._shards[slot] = index = self._start("replay", slot).index
            self._sampled_of[index] = sampled_before(found, slot)
        self._first_shards = tuple(self._shards)
        if self._num_shards > 1:
            self._start("weights")
        self._start("learner")
        for slot in range(self.job.topology.num_actors):
            if self._stops["actor"] == RUN:
                self._start("actor", slot)
        self._start("evaluator")

    def _start(self, role: str, slot: int = 0) -> Child:
        index = self._next_index[role]
        self._next_index[role] += 1
        log = str(self._logs / f"{role}-{index}.log")
        namespaces = self._isolation.descriptors if self._isolation else ()
        child = Child(ENTRY, role, index, slot, self._payload, log, namespaces)
        self._children.append(child)
        return child

    def _hurry(self) -> bool:
        return self.stop.requested or self.failure is not None

    def _while(self, test: Callable[[], bool], limit_s: float = math.inf) -> None:
        """Turns while `test` holds, up to the limit, or to a signal or a failure meanwhile."""
        hurry, end = self._hurry(), time.monotonic() + limit_s
        while test() and self._hurry() == hurry and time.monotonic() < end:
            self._turn()

    def _end_well(self) -> None:
        """Actors first, then the updates that are paid for, then the score of the last weights."""
        self._stops["actor"] = FINISH
        self._while(lambda: bool(self._of("actor")))
        self._stops["learner"] = FINISH
        self._while(lambda: not self._learner_is_final())
        order = self._order_evaluation()
        self._while(lambda: bool(self._of("learner")) or not self._evaluated(order))

    def _end_now(self) -> None:
        """A checkpoint of the learner, in little time; whoever is late is killed."""
        self._replacing = False
        self._stops.update(actor=ABANDON, learner=ABANDON, evaluator=ABANDON)
        for child in list(self._children):
            # Neither a score nor a role that is still starting holds anything to be saved.
            if child.role == "evaluator" or (child.ready_at == math.inf and child.role != "replay"):
                self._remove(child)
        learner = lambda: bool(self._of("learner"))
        self._while(learner, HURRY_S)
        saving = lambda: any(child.numbers.get("saving") for child in self._of("learner"))
        if saving():
            self.logger.announce("writing a checkpoint; another signal abandons it")
            self._while(lambda: learner() and saving() and not self.stop.hurried, SAVE_S)
        if learner():
            self.logger.announce(
                "the learner was killed before it saved; older checkpoints are intact"
            )

    def _stop_servers(self) -> None:
        self._replacing = False
        for child in [*self._of("actor"), *self._of("learner")]:
            self._remove(child)
        self._stops["evaluator"] = ABANDON
        self._while(lambda: bool(self._of("evaluator")), 3.0)
        self._stops.update(replay=FINISH, weights=FINISH)
        self._while(lambda: bool(self._of("replay") or self._of("weights")), 3.0)

    def _of(self, role: str) -> list[Child]:
        return [child for child in self._children if child.role == role]

    def _learner_is_final(self) -> bool:
        return any(child.numbers.get("final") for child in self._of("learner"))

    def _order_evaluation(self) -> int:
        self._evaluate = (self._evaluate[0] + 1, self.totals.env_steps)
        return self._evaluate[0]

    def _evaluated(self, order: int) -> bool:
        return any(child.numbers.get("evaluated", 0) >= order for child in self._of("evaluator"))

    def _turn(self) -> None:
        """Hears the children, looks after them, and logs."""
        # The pipe of a child that dies ends, so this returns at once then too.
        waited = connection.wait([child.pipe for child in self._children], 0.1)
        now = time.monotonic()
        passed, self._turned = now - self._turned, now
        if passed > 5.0:  # this process was frozen itself, and perhaps the children with it
            self._forgive_until = now + self.job.topology.heartbeat_timeout_s
        for child in list(self._children):
            if child.pipe in waited:
                self._hear(child)
        for child in list(self._children):
            if child in self._children:  # not yet removed together with another
                self._look_after(child, now)
        if self.totals.env_steps > self._start_env_steps:
            self.totals.train_s += (
                passed if self._of("learner") and not self._learner_is_final() else 0.0
            )
            if now - self._last_row >= self.job.log.log_every_s:
                self._log()
        if (
            self._evaluations.due(self.totals.env_steps)
            and self.totals.env_steps < self.job.total_env_steps
        ):
            self._order_evaluation()

    def _hear(self, child: Child) -> None:
        try:
            while child.pipe.poll():
                status = child.pipe.recv()
                child.heard = time.monotonic()
                self._absorb(child, status)
                child.pipe.send(self._orders(child))
        except (EOFError, OSError):
            pass  # it has ended; `_look_after` sees how

    def _absorb(self, child: Child, status: Status) -> None:
        """Books what a child tells."""
        if status.ready and child.ready_at == math.inf:
            child.ready_at = time.monotonic()
        child.idle_s, child.error, child.done = status.idle_s, status.error, status.done
        for text in status.texts:
            self.logger.announce(text)
        for episode in status.episodes:
            self._window.add(*episode)
        old, new, totals = child.numbers, status.numbers, self.totals
        child.numbers = new

        def gained(name: str, start: Any = 0) -> Any:
            return new.get(name, start) - old.get(name, start)

        for part, seconds in new.get("seconds", {}).items():
            gone = seconds - old.get("seconds", {}).get(part, 0.0)
            totals.seconds[part] = totals.seconds.get(part, 0.0) + gone
        if child.role == "actor":
            totals.env_steps += gained("env_steps")
            totals.episodes += gained("episodes")
            child.lease = max(
                child.lease // 2, math.ceil(gained("env_steps") * LEASE_S / control.INTERVAL_S)
            )
        elif child.role == "learner":
            totals.updates += gained("updates")
            saved = new.get("saved_at_env_steps", 0)
            if saved > self._saved:
                self._saved = saved
                self.hooks.saved(saved)
            totals.items_sampled += gained("sampled")
            totals.items_inserted += gained("inserted")  # told where its replay is beside it
            for index, taken in new.get("sampled_of", {}).items():
                before = old.get("sampled_of", {}).get(index, 0)
                self._sampled_of[index] += taken - before
            empty = Histogram().counts.tolist()
            self._lags.counts += np.subtract(new.get("lags", empty), old.get("lags", empty))
        elif child.role == "evaluator":
            self._facts = new.get("facts", self._facts)
        elif child.role == "replay" and old:  # the first number is what it was restored with
            totals.items_inserted += gained("inserted")
        if "address" in new:
            self._addresses[child.slot] = new["address"]
        self._weights = new.get("variables", self._weights)
        if "size" in new:
            self._size_items[child.role, child.slot] = new["size"]
        if status.row is not None:
            self.logger.write(status.row)
            self._failures.pop((child.role, child.slot), None)
        if "memory_mb" in new:
            self._memory[child.name] = new["memory_mb"]

    def _orders(self, child: Child) -> dict[str, Any]:
        orders = {
            "stop": self._stops[child.role],
            "env_steps": self.totals.env_steps,
            "started": self._started,
            "facts": self._facts,
        }
        if all(self._addresses) and self._weights:
            orders.update(addresses=self._addresses, variables=self._weights)
        if child.role == "actor":
            open_steps = sum(
                max(0, a.granted - a.numbers.get("env_steps", 0)) for a in self._of("actor")
            )
            left = self.job.total_env_steps - self.totals.env_steps - open_steps
            block = self.run_plan.env_steps_per_call
            wanted = max(child.lease, block) - (child.granted - child.numbers.get("env_steps", 0))
            # An actor may have to wait for the unrolls of the others, so none is kept short of steps at the end.
            child.granted += max(0, wanted if self.run_plan.queue else min(wanted, left))
            orders["granted"] = child.granted
        elif child.role == "learner":
            totals = self.totals.to_dict()
            totals["updates"] -= child.numbers.get("updates", 0)
            totals["items_sampled"] -= child.numbers.get("sampled", 0)
            mine = child.numbers.get("sampled_of", {})
            shards = [(i, self._sampled_of[i] - mine.get(i, 0)) for i in self._shards]
            orders.update(totals=totals, shards=shards, window=self._window.to_dict())
        elif child.role == "replay":
            address = self._addresses[child.slot]
            port = int(address.rsplit(":", 1)[1]) if address else None
            restore = self._restores and child.index in self._first_shards
            orders.update(port=port, restore=restore)
        elif child.role == "evaluator":
            orders["evaluate"] = self._evaluate
        return orders

    def _look_after(self, child: Child, now: float) -> None:
        """Notices an end or a standstill."""
        if not child.process.is_alive():
            self._hear(child)
            if child.done and child.process.exitcode == 0:
                self._remove(child)
            else:
                self._lost(child, child.exit_text())
            return
        limit = self.job.topology.heartbeat_timeout_s
        silent = now - child.heard
        if now < self._forgive_until:
            return
        if child.ready_at == math.inf:
            frozen = silent > max(limit, STARTUP_S)
        else:
            frozen = max(silent, child.idle_s) > limit
        if frozen:
            child.kill()
            self._lost(
                child, f"gave no sign of life for {max(silent, child.idle_s):.0f} s and was killed"
            )

    def _remove(self, child: Child) -> None:
        child.kill()  # what it started may still be there
        if child in self._children:
            self._children.remove(child)

    def _lost(self, child: Child, what: str) -> None:
        """Replaces a child that has died, or ends the run when that has not helped before."""
        self._remove(child)
        if not self._replacing or (child.role == "actor" and self._stops["actor"] != RUN):
            return
        key = (child.role, child.slot)
        shard = child.role == "replay" and self._num_shards > 1
        if (child.role == "actor" or shard) and time.monotonic() - child.ready_at > STEADY_S:
            self._failures.pop(key, None)
        trace = f"{child.error[1]}\n" if child.error else ""
        failures = self._failures.setdefault(key, [])
        failures.append(f"{trace}{child.name} {what}; its log: {child.log}")
        # The same settings, and the weights of the newest checkpoint, would come to the same again.
        hopeless = child.error is not None and any(
            name in child.error[0] for name in ("SettingError", "RunFailed")
        )
        server = child.role == "weights" or (child.role == "replay" and not shard)
        if server or child.role == "learner":  # its end may have to do with the disk
            for line in checkpoint_files.set_aside_damaged(self.run_plan.checkpoints.folder):
                self.logger.announce(line)
        restorable = not server or self._replay_checkpoint()
        if hopeless or len(failures) >= FAILURES[child.role] or not restorable:
            times = f" ({len(failures)} times in a row)" if len(failures) > 1 else ""
            lost = {
                "replay": "the replay is lost and no checkpoint holds its contents\n",
                "weights": "the weight server is lost and there is no checkpoint to continue from\n",
            }
            why = "" if restorable else lost[child.role]
            self.failure = RunFailed(f"{why}{failures[0]}{times}")
            self.logger.announce(f"{child.name} {what}; the run ends")
            return
        if server:
            self._restart_all(child, what)
            return
        new = self._start(child.role, child.slot)
        how = f"{new.name} takes its place"
        if shard:
            self._shards[child.slot] = new.index
            self._sampled_of[new.index] = 0
            how += f": shard {child.slot} of the replay starts empty, the others are kept"
        if child.role == "learner":
            found = self.run_plan.newest()
            how = (
                f"{new.name} continues from {found.folder}"
                if found
                else f"{new.name} starts from scratch: there is no checkpoint yet"
            )
        self.logger.announce(f"{child.name} {what}; {how}")

    def _replay_checkpoint(self) -> bool:
        found = self.run_plan.newest()
        return found is not None and found.replay is not None

    def _restart_all(self, child: Child, what: str) -> None:
        """Clients wait for ever on a dead server, and the learner must fit the contents."""
        found = self.run_plan.newest()
        self.logger.announce(f"{child.name} {what}; all processes continue from {found.folder}")
        for other in list(self._children):
            self._remove(other)
        self._start_all(restore=True)

    def _log(self) -> None:
        self._last_row = time.monotonic()
        if self.totals.env_steps == self._start_env_steps:
            return
        more = {"run/memory_peak_mb": self._memory_mb()}
        actors = [a.numbers for a in self._of("actor") if "version" in a.numbers]
        for learner in self._of("learner"):
            more.update(learner.numbers.get("metrics", {}))
            if "version" in learner.numbers:
                version = learner.numbers["version"]
                more["learner/policy_version_updates"] = version
                if actors:
                    lags = [max(0, version - a["version"]) for a in actors]
                    more["actor/policy_lag_updates"] = statistics.fmean(lags)
        if self._size_items:
            more["replay/size_items"] = sum(self._size_items.values())
        if self.run_plan.queue and not self.run_plan.waits:
            for replay in self._of("replay"):
                if "inserted" in replay.numbers:
                    # The two are told one after the other.
                    waiting = replay.numbers["inserted"] - self._sampled_of[replay.index]
                    more["replay/queue_items"] = max(0, waiting)
        more.update(lag_metrics(self._lags))
        if actors:
            more["actor/weight_delay_max_env_steps"] = max(a["weight_delay"] for a in actors)
            for name in actors[0].get("knobs", {}):
                more[name] = statistics.fmean(a["knobs"][name] for a in actors if "knobs" in a)
        row = self._report.row(self.totals, self._window, more)
        self.logger.write(row, {"learner/policy_lag_updates": self._lags})
        self._lags = Histogram()

    def _memory_mb(self) -> float:
        return peak_memory_mb() + sum(self._memory.values())
