"""Decides which members of a run are started, replaced and ended, and when the run ends, wherever they live.

A dead or frozen actor is replaced by one with a new id; a dead learner is restarted from the newest checkpoint while
its actors go on; a dead evaluator is restarted. When the replay dies, or the server of weights beside several shards of
it, everything goes on from the newest checkpoint. One of several shards is replaced by an empty one, and all others go
on meanwhile. There is one learner; of several, only the chief in slot 0 would publish weights and save checkpoints.
"""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tfrl.errors import RunFailed
from tfrl.logs.histogram import Histogram
from tfrl.logs.logger import Logger
from tfrl.logs.window import EpisodeWindow
from tfrl.runtime import link
from tfrl.runtime.books import Books
from tfrl.runtime.hooks import Hooks
from tfrl.runtime.interval import Interval
from tfrl.runtime.leave import leave_policy
from tfrl.runtime.link import ABANDON, FINISH, RUN, Status
from tfrl.runtime.placement import Member, Placement
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.report import peak_memory_mb
from tfrl.runtime.stop import Stop
from tfrl.runtime.storage import checkpoint_files
from tfrl.runtime.storage.checkpoint import Checkpoint
from tfrl.runtime.storage.replay_server import shard_folder

STARTUP_S = 180.0  # a member that imports TensorFlow on a busy machine may be silent for long
STEADY_S = 30.0  # an actor or a shard that has been at work for so long has not failed at once
# In a row, that end the run.
FAILURES = {"actor": 3, "evaluator": 3, "learner": 4, "replay": 4, "weights": 4}
HOPELESS = (
    "SettingError",
    "RunFailed",
)  # the same settings and weights would come to the same again
HURRY_S = 8.0  # for an orderly end after a signal or a failure
SAVE_S = 600.0  # more for a checkpoint that is being written then: a large replay takes long
END_S = 3.0  # for servers and the evaluator, when nothing depends on them any more
LEASE_S = 0.5  # of env steps granted to an actor in advance
POLL_S = 0.1  # longest wait for a status between two looks at everything else
ASLEEP_S = 5.0  # a turn so long means that this process was frozen itself


def sampled_before(found: Checkpoint | None, slot: int) -> int:
    """Items that had been taken of what a shard of the replay starts with: none where a checkpoint lacks it."""
    if found is None or not found.replay:
        return 0
    sampled = found.state["sampled"]
    if not isinstance(sampled, list):
        return sampled
    return sampled[slot] if shard_folder(found.replay, slot).is_dir() else 0


class Supervisor:
    """The members of a run and its books.

    Args:
      run_plan: of the run.
      placement: where the members live; closed at the end of `run`.
      logger: takes rows, and lines for the user.
      stop: ends the run in little time.
      hooks: end the run, and are called after each checkpoint.
      clock: seconds that only grow.
    """

    def __init__(
        self,
        run_plan: RunPlan,
        placement: Placement,
        logger: Logger,
        stop: Stop,
        hooks: Hooks,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.run_plan, self.placement, self.logger = run_plan, placement, logger
        self.job, self.stop, self.hooks, self._clock = run_plan.job, stop, hooks, clock
        self.failure: RunFailed | None = None
        self.members: list[Member] = []
        self.books = Books(run_plan, logger, clock)
        self.totals = self.books.totals
        self.books.open()
        self.books.resume()
        self._started, self._saved = time.time(), 0
        self._start_env_steps = self.totals.env_steps
        self._num_shards = self.job.topology.num_replay_shards
        # For each shard: index of the member that serves it, and where; of each such member the items taken from it.
        self._shards = [0] * self._num_shards
        self._addresses: list[str | None] = [None] * self._num_shards
        self._weights: str | None = None
        self._sampled_of: dict[int, int] = {}
        self._next_index = dict.fromkeys(FAILURES, 0)
        self._failures: dict[tuple[str, int], list[str]] = {}
        self._stops = dict.fromkeys(FAILURES, RUN)
        self._evaluate = (0, 0)
        self._window, self._lags = EpisodeWindow(info_names=self.job.log.info_metrics), Histogram()
        if run_plan.found and "window" in run_plan.found.state:
            self._window.restore(run_plan.found.state["window"])
        # Facts of the last evaluation, for the knobs and environments of all actors.
        self._facts = run_plan.found.state.get("evaluation_facts", {}) if run_plan.found else {}
        # By role and slot, as reported last: who reports it has ended before the last row.
        self._size_items: dict[tuple[str, int], int] = {}
        self._memory: dict[str, float] = {}
        self._evaluations = Interval(self.job.evaluation.interval_env_steps, self.totals.env_steps)
        self._turned, self._forgive_until = clock(), -math.inf
        self._replacing = True

    # The course of a run.

    def run(self) -> dict[str, Any]:
        """Trains to the end of the job, until a callback ends it, or to a stop; see `processes.run`."""
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
            self.placement.close()
            scratch = f"{checkpoint_files.SCRATCH}*"
            for left in self.run_plan.checkpoints.folder.glob(scratch):
                shutil.rmtree(left, ignore_errors=True)
        if self.failure is not None:
            raise self.failure
        totals = self.totals
        if self.stop.requested:  # the evaluator was given no time to keep the last weights
            totals = leave_policy(self.run_plan, self.logger, self.stop)["totals"]
        return {"totals": totals, "memory_peak_mb": self._memory_mb()}

    def _goes_on(self) -> bool:
        ended = self.totals.env_steps >= self.job.total_env_steps
        if self.run_plan.population:  # whose learner alone knows which iterations are whole
            ended = any(member.numbers.get("over") for member in self._of("learner"))
        return not ended and not self.hooks.stopped

    def _start_all(self, restore: bool) -> None:
        """All at once: TensorFlow is first imported for seconds, by each of them or for them.

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

    def _start(self, role: str, slot: int = 0) -> Member:
        member = Member(role, self._next_index[role], slot, heard=self._clock())
        self._next_index[role] += 1
        self.members.append(member)
        self.placement.start(member)
        return member

    def _hurry(self) -> bool:
        return self.stop.requested or self.failure is not None

    def _while(self, test: Callable[[], bool], limit_s: float = math.inf) -> None:
        """Turns while `test` holds, up to the limit, or to a signal or a failure meanwhile."""
        hurry, end = self._hurry(), self._clock() + limit_s
        while test() and self._hurry() == hurry and self._clock() < end:
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
        for member in list(self.members):
            # Neither a score nor a role that is still starting holds anything to be saved.
            starting = member.ready_at == math.inf and member.role != "replay"
            if member.role == "evaluator" or starting:
                self._remove(member)
        learner = lambda: bool(self._of("learner"))
        self._while(learner, HURRY_S)
        saving = lambda: any(member.numbers.get("saving") for member in self._of("learner"))
        if saving():
            self.logger.announce("writing a checkpoint; another signal abandons it")
            self._while(lambda: learner() and saving() and not self.stop.hurried, SAVE_S)
        if learner():
            self.logger.announce(
                "the learner was killed before it saved; older checkpoints are intact"
            )

    def _stop_servers(self) -> None:
        self._replacing = False
        for member in [*self._of("actor"), *self._of("learner")]:
            self._remove(member)
        self._stops["evaluator"] = ABANDON
        self._while(lambda: bool(self._of("evaluator")), END_S)
        self._stops.update(replay=FINISH, weights=FINISH)
        self._while(lambda: bool(self._of("replay") or self._of("weights")), END_S)

    def _of(self, role: str) -> list[Member]:
        return [member for member in self.members if member.role == role]

    def _learner_is_final(self) -> bool:
        return any(member.numbers.get("final") for member in self._of("learner"))

    def _order_evaluation(self) -> int:
        self._evaluate = (self._evaluate[0] + 1, self.totals.env_steps)
        return self._evaluate[0]

    def _evaluated(self, order: int) -> bool:
        return any(member.numbers.get("evaluated", 0) >= order for member in self._of("evaluator"))

    def _turn(self) -> None:
        """Takes what the members have sent, answers it, looks after them, and logs."""
        # Asked first: all that one who has ended by now has sent comes with this poll.
        ended = [member for member in self.members if not self.placement.alive(member)]
        statuses = self.placement.poll(POLL_S)
        now = self._clock()
        passed, self._turned = now - self._turned, now
        if passed > ASLEEP_S:  # and perhaps the members with this process
            self._forgive_until = now + self.job.topology.heartbeat_timeout_s
        for member, status in statuses:
            member.heard = now
            self._absorb(member, status)
            self.placement.send(member, self._orders(member))
        for member in list(self.members):
            if member in self.members:  # not yet removed together with another
                self._look_after(member, now, member in ended)
        if self.totals.env_steps > self._start_env_steps:
            if self._of("learner") and not self._learner_is_final():
                self.totals.train_s += passed
            if self.books.due():
                self._log()
        due = self._evaluations.due(self.totals.env_steps)
        if due and self.totals.env_steps < self.job.total_env_steps:
            self._order_evaluation()

    # Reports of members, and their orders.

    def _absorb(self, member: Member, status: Status) -> None:
        """Books what a member reports."""
        if status.ready and member.ready_at == math.inf:
            member.ready_at = self._clock()
        member.idle_s, member.error, member.done = status.idle_s, status.error, status.done
        for text in status.texts:
            self.logger.announce(text)
        for episode in status.episodes:
            self._window.add(*episode)
        old, new, totals = member.numbers, status.numbers, self.totals
        member.numbers = new

        def gained(name: str) -> int:
            return new.get(name, 0) - old.get(name, 0)

        self.books.spend(new.get("seconds", {}), old.get("seconds", {}))
        if member.role == "actor":
            made = gained("env_steps")
            totals.env_steps += made
            totals.episodes += gained("episodes")
            member.lease = max(member.lease // 2, math.ceil(made * LEASE_S / link.INTERVAL_S))
        elif member.role == "learner":
            totals.updates += gained("updates")
            saved = new.get("saved_at_env_steps", 0)
            if saved > self._saved:
                self._saved = saved
                self.hooks.saved(saved)
            totals.items_sampled += gained("sampled")
            totals.items_inserted += gained("inserted")  # reported where its replay is beside it
            for index, taken in new.get("sampled_of", {}).items():
                self._sampled_of[index] += taken - old.get("sampled_of", {}).get(index, 0)
            empty = Histogram().counts.tolist()
            self._lags.counts += np.subtract(new.get("lags", empty), old.get("lags", empty))
        elif member.role == "evaluator":
            self._facts = new.get("facts", self._facts)
        elif member.role == "replay" and old:  # the first number is what it was restored with
            totals.items_inserted += gained("inserted")
        if "address" in new:
            self._addresses[member.slot] = new["address"]
        self._weights = new.get("variables", self._weights)
        if "size" in new:
            self._size_items[member.role, member.slot] = new["size"]
        if status.row is not None:
            self.logger.write(status.row)
            self._failures.pop((member.role, member.slot), None)
        if "memory_mb" in new:
            self._memory[member.name] = new["memory_mb"]

    def _orders(self, member: Member) -> dict[str, Any]:
        orders = {
            "stop": self._stops[member.role],
            "env_steps": self.totals.env_steps,
            "started": self._started,
            "facts": self._facts,
        }
        if all(self._addresses) and self._weights:
            orders.update(addresses=self._addresses, variables=self._weights)
        if member.role == "actor":
            orders["granted"] = self._grant(member)
        elif member.role == "learner":
            totals = self.totals.to_dict()
            totals["updates"] -= member.numbers.get("updates", 0)
            totals["items_sampled"] -= member.numbers.get("sampled", 0)
            mine = member.numbers.get("sampled_of", {})
            shards = [(i, self._sampled_of[i] - mine.get(i, 0)) for i in self._shards]
            orders.update(totals=totals, shards=shards, window=self._window.to_dict())
        elif member.role == "replay":
            address = self._addresses[member.slot]
            port = int(address.rsplit(":", 1)[1]) if address else None
            restore = self._restores and member.index in self._first_shards
            orders.update(port=port, restore=restore)
        elif member.role == "evaluator":
            orders["evaluate"] = self._evaluate
        return orders

    def _grant(self, actor: Member) -> int:
        """Env steps that an actor may make in all: a lease ahead of those made, within what is left of the run."""
        actors = self._of("actor")
        open_steps = sum(max(0, a.granted - a.numbers.get("env_steps", 0)) for a in actors)
        left = self.job.total_env_steps - self.totals.env_steps - open_steps
        ahead = actor.granted - actor.numbers.get("env_steps", 0)
        wanted = max(actor.lease, self.run_plan.env_steps_per_call) - ahead
        # An actor may have to wait for the unrolls of the others, so none is kept short of steps at the end.
        actor.granted += max(0, wanted if self.run_plan.queue else min(wanted, left))
        return actor.granted

    # Failures.

    def _look_after(self, member: Member, now: float, ended: bool) -> None:
        """Notices an end or a standstill."""
        if ended:
            if member.done:
                self._remove(member)
            elif member.error:
                self._lost(member, f"failed: {member.error[0]}")
            else:
                self._lost(member, self.placement.exit_text(member))
            return
        if now < self._forgive_until:
            return
        limit, silent = self.job.topology.heartbeat_timeout_s, now - member.heard
        if member.ready_at == math.inf:
            frozen = silent > max(limit, STARTUP_S)
        else:
            silent = max(silent, member.idle_s)
            frozen = silent > limit
        if frozen:
            self._lost(member, f"gave no sign of life for {silent:.0f} s and was killed")

    def _remove(self, member: Member) -> None:
        self.placement.kill(member)  # what it started may still be there
        self.members.remove(member)

    def _lost(self, member: Member, what: str) -> None:
        """Replaces a member that has ended, or ends the run when that has not helped before."""
        where = self.placement.where(member)
        self._remove(member)
        if not self._replacing or (member.role == "actor" and self._stops["actor"] != RUN):
            return
        key = (member.role, member.slot)
        shard = member.role == "replay" and self._num_shards > 1
        if (member.role == "actor" or shard) and self._clock() - member.ready_at > STEADY_S:
            self._failures.pop(key, None)
        trace = f"{member.error[1]}\n" if member.error and member.error[1] else ""
        failures = self._failures.setdefault(key, [])
        failures.append(f"{trace}{member.name} {what}; its log: {where}")
        hopeless = member.error is not None and any(name in member.error[0] for name in HOPELESS)
        server = member.role == "weights" or (member.role == "replay" and not shard)
        if server or member.role == "learner":  # its end may have to do with the disk
            for line in checkpoint_files.set_aside_damaged(self.run_plan.checkpoints.folder):
                self.logger.announce(line)
        restorable = not server or self._replay_checkpoint()
        if hopeless or len(failures) >= FAILURES[member.role] or not restorable:
            times = f" ({len(failures)} times in a row)" if len(failures) > 1 else ""
            lost = {
                "replay": "the replay is lost and no checkpoint holds its contents\n",
                "weights": "the weight server is lost and there is no checkpoint to continue from\n",
            }
            why = "" if restorable else lost[member.role]
            self.failure = RunFailed(f"{why}{failures[0]}{times}")
            self.logger.announce(f"{member.name} {what}; the run ends")
        elif server:
            self._restart_all(member, what)
        else:
            self._replace(member, what, shard)

    def _replace(self, member: Member, what: str, shard: bool) -> None:
        """Starts another one in the place of one that has ended."""
        new = self._start(member.role, member.slot)
        how = f"{new.name} takes its place"
        if shard:
            self._shards[member.slot] = new.index
            self._sampled_of[new.index] = 0
            how += f": shard {member.slot} of the replay starts empty, the others are kept"
        if member.role == "learner":
            found = self.run_plan.newest()
            how = f"{new.name} starts from scratch: there is no checkpoint yet"
            if found:
                how = f"{new.name} continues from {found.folder}"
        self.logger.announce(f"{member.name} {what}; {how}")

    def _replay_checkpoint(self) -> bool:
        found = self.run_plan.newest()
        return found is not None and found.replay is not None

    def _restart_all(self, member: Member, what: str) -> None:
        """Clients wait for ever on a dead server, and the learner must fit the contents."""
        found = self.run_plan.newest()
        self.logger.announce(f"{member.name} {what}; all processes continue from {found.folder}")
        for other in list(self.members):
            self._remove(other)
        self._start_all(restore=True)

    # The log.

    def _log(self) -> None:
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
        if actors:
            more["actor/weight_delay_max_env_steps"] = max(a["weight_delay"] for a in actors)
        waiting = None
        for replay in self._of("replay"):
            if "inserted" in replay.numbers:  # reported one after the other
                waiting = max(0, replay.numbers["inserted"] - self._sampled_of[replay.index])
        size = sum(self._size_items.values()) if self._size_items else None
        knobs = [a["knobs"] for a in actors if "knobs" in a]
        self.books.write(self._window, self._lags, more, knobs, size, waiting)
        self._lags = Histogram()

    def _memory_mb(self) -> float:
        return peak_memory_mb() + sum(self._memory.values())
