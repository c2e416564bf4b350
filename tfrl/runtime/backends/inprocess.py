"""One process: acting and learning take turns, over a replay or a queue in the same process.

The ratio of samples to inserts is plain arithmetic here, so nothing can wait for itself. With `overlap` the learner has
a thread of its own and trains while the next steps are made; what is written to a replay beside it waits until that
call has ended. So which weights act does not depend on who is faster: those of all learner calls but the newest, or
after a checkpoint or an evaluation, of all. (What a replay in a server samples does: Reverb draws ahead.)
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from concurrent import futures
from typing import Any

import numpy as np
import reverb

from tfrl.logs.histogram import Histogram
from tfrl.logs.logger import Logger
from tfrl.replay.budget import Budget
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.sampler import Sampler, Samples
from tfrl.replay.tables import EXPERIENCE, experience_table
from tfrl.replay.write_chunks import Chunk
from tfrl.runtime import build, rehearsal, seeds
from tfrl.runtime.acting.evaluator import Evaluator
from tfrl.runtime.acting.watch import Watch, limit_s
from tfrl.runtime.backends.isolation import network_line
from tfrl.runtime.books import Books, knob_metrics
from tfrl.runtime.hooks import Hooks
from tfrl.runtime.interrupt import take_no_signals
from tfrl.runtime.interval import Interval
from tfrl.runtime.leave import leave_policy
from tfrl.runtime.plan import residency
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.stop import Stop, StoppableVector, Stopped
from tfrl.runtime.storage import checkpoint
from tfrl.runtime.storage.replay_server import ReplayServer, save_contents

SAMPLE_TIMEOUT_S = 60.0
EPISODE_STEPS = 32  # vector steps between two looks at whether enough episodes have ended


def run(run_plan: RunPlan, logger: Logger, stop: Stop, hooks: Hooks) -> dict[str, Any]:
    """Trains to the end of the job, until a callback ends it, or to a stop.

    `finish` has what it needs in each case.

    Returns:
      Facts for `result.json`: 'totals', and 'compile' and 'inference' as they were settled.

    Raises:
      RunFailed: learning diverges.
    """
    try:
        stop.check()
        running = _Run(run_plan, logger, stop, hooks)
    except Stopped:
        return leave_policy(run_plan, logger, stop)
    return running.run()


class _Run:
    """The parts of an in-process run, wired."""

    def __init__(self, run_plan: RunPlan, logger: Logger, stop: Stop, hooks: Hooks):
        job, agent = run_plan.job, run_plan.agent
        self.run_plan, self.logger, self.job, self.agent = run_plan, logger, job, agent
        self.stop, self.hooks, self.evaluated_at = stop, hooks, -1
        self.books, found = Books(run_plan, logger), run_plan.found
        self.books.open()
        self.totals = self.books.totals
        self.local = build.local_queue(run_plan, found)
        self.learner_replay = build.learner_replay(run_plan, found)
        self.server: ReplayServer | None = None
        if run_plan.residency == residency.SERVER:
            # One thread writes a whole batch before it samples, so a queue must hold one.
            capacity = max(agent.experience.capacity_items, run_plan.items_per_call)
            plan = dataclasses.replace(agent.experience, capacity_items=capacity)
            table = experience_table(plan, run_plan.layout, samples_per_block=None)
            contents, scratch = found.replay if found else None, run_plan.run_dir / "checkpoints"
            self.server = ReplayServer([table], contents, scratch=scratch)
            self.client = reverb.Client(self.server.address)
            logger.announce(network_line(False, "--backend=processes with --isolate prevents this"))
        self.learner = build.learner(run_plan, found, logger.announce, self.learner_replay)
        # Items written and sampled since the table was empty: what the ratio is held over.
        self.budget = Budget(agent.experience)
        self.counted = 0  # of the items that the writer has made
        rng = seeds.generator(job.seed, "actor", 0, "noise")
        if found:
            rng.bit_generator.state = found.state["rng"]
            if found.replay:
                inserted, sampled = found.state["written"], found.state["sampled"]
                self.budget = Budget(agent.experience, inserted, sampled)
        self.books.resume()
        env_seed = seeds.integer(job.seed, "env", 0, str(self.totals.env_steps))
        with stop.inside_environment():
            env = StoppableVector(build.environments(run_plan, env_seed), stop)
        self.watch = Watch(env.place, "training", limit_s(job.topology), logger.announce)
        later = "begins new episodes" if env.why_no_state else "goes on in its episodes"
        why = f" ({env.why_no_state})" if env.why_no_state else ""
        logger.announce(f"environments: {env.backend}, {env.num_envs}; a resumed run {later}{why}")
        inference = job.topology.inference
        if found and inference == "auto":
            inference = found.state.get("inference", "auto")
        engine = build.engine(run_plan, inference, logger.announce)
        writer = build.writer(
            run_plan, engine.policy,
            insert=self._insert if self.learner_replay is not None else None,
            queue=self.local,
            clients=[self.client] if self.server is not None else [],
            stream=str(self.totals.env_steps),
        )  # fmt: skip
        self.actor = build.actor(run_plan, engine, env, writer, rng, env_seed, time.time())
        if found and "window" in found.state:
            self.actor.window.restore(found.state["window"])
        self._hand_over()
        if found:
            self._go_on(found)
        self.evaluator = Evaluator(run_plan, engine.name, stop=stop, announce=logger.announce)
        self.evaluator.refuse_shared(env)
        if found:
            self.evaluator.facts = found.state.get("evaluation_facts", {})
            self.actor.load_evaluation(self.evaluator.facts)
        self.evaluator.rehearse()
        rehearsal.of_checkpoint(run_plan, self.learner, self._state(), self._acting())
        self.sampler: Sampler | None = None
        self.batcher = build.batcher(run_plan, found, logger.announce)
        self.logged_lags: np.ndarray | int = 0  # counts in the rows so far
        self.metrics: dict[str, Any] = {}
        self.thread = None
        if job.topology.overlap:
            self.thread = futures.ThreadPoolExecutor(1, initializer=take_no_signals)
        self.training: futures.Future | None = None
        self.waiting: list[Chunk] = []  # for the end of the learner call that goes on

    def _go_on(self, found: checkpoint.Checkpoint) -> None:
        """Goes on in the episodes of a checkpoint where its state and these environments allow it."""
        acting = found.acting()
        why = self.actor.restore(acting)
        if not why and self.learner_replay is not None and found.replay:
            self.learner_replay.restore_writers(acting["replay"])
        what = f"new ones begin ({why})" if why else "those of the checkpoint go on"
        self.logger.announce(f"episodes: {what}")

    def _acting(self) -> dict[str, Any] | None:
        """The state of acting that a checkpoint holds; None where the environments cannot save theirs."""
        acting = self.actor.state()
        if acting is not None and self.learner_replay is not None:
            acting["replay"] = self.learner_replay.writers()
        return acting

    def run(self) -> dict[str, Any]:
        try:
            return self._train_to_the_end()
        finally:  # its messages when it stops do not concern the user, least of all after an error
            self.watch.close()
            if self.server is not None:
                self.server.stop()

    def _train_to_the_end(self) -> dict[str, Any]:
        job, totals = self.job, self.totals
        evaluations = Interval(job.evaluation.interval_env_steps, totals.env_steps)
        saves = Interval(job.checkpoint.checkpoint_every_env_steps, totals.env_steps)
        while self._goes_on():
            start = time.perf_counter()
            self._act()
            self._learn()
            totals.train_s += time.perf_counter() - start
            if self.books.due():
                self._log()
            if evaluations.due(totals.env_steps) and totals.env_steps < job.total_env_steps:
                self._evaluate()
            if saves.due(totals.env_steps):
                self._save()
        self._settle()
        self._log()
        self._save()
        # If a callback ended it after an evaluation, this evaluation is the last one.
        if self.evaluated_at != totals.env_steps and not self._evaluate():
            self.evaluator.keep(self.learner.arrays(), totals.env_steps, self.learner.version)
        self.actor.close()
        self.evaluator.close()
        return {
            "totals": totals,
            "compile": self.learner.compiled,
            "inference": self.actor.engine.name,
        }

    def _goes_on(self) -> bool:
        ended = self.totals.env_steps >= self.job.total_env_steps and self.actor.between_items
        return not (ended or self.stop.requested or self.hooks.stopped)

    def _act(self) -> None:
        """Acts for as long as it takes to pay for one call of the learner, or to the end of the run."""
        actor, totals = self.actor, self.totals
        num_envs = actor.env.num_envs
        steps = self.run_plan.env_steps_per_call
        if not self.run_plan.queue:  # its unrolls end whole, a batch after the total at most
            steps = min(steps, self.job.total_env_steps - totals.env_steps)
        vector_steps = math.ceil(steps / num_envs)
        before, seconds, episodes = actor.env_steps, dict(actor.seconds), actor.episodes
        items = None
        if self.run_plan.whole_episodes:
            # How long it takes to end some is not known. The step that completes a batch is the last one
            # under these weights.
            vector_steps = min(vector_steps, EPISODE_STEPS)
            items = self.budget.lacks(self.run_plan.items_per_call)
        actor.run(vector_steps, totals.env_steps, items)
        totals.env_steps += actor.env_steps - before
        self._count_items()
        totals.episodes += actor.episodes - episodes
        self.books.spend(actor.seconds, seconds)

    def _count_items(self) -> None:
        """Adds what the writer has made since the last look; a flush may make some too."""
        new = self.actor.writer.items_written - self.counted
        self.counted += new
        self.budget.inserted += new
        self.totals.items_inserted += new

    def _learn(self) -> None:
        """Makes the learner calls that the items written so far pay for; with `overlap` the last one goes on."""
        spent, start, called = self.totals.seconds, time.perf_counter(), False
        before = spent["sample"]
        stop = self.stop
        if stop.requested and not self.learner.seconds:
            return  # the first call compiles, which may take longer than a stop should
        while (samples := self.batcher.next(self._fetch)) is not None:
            if self.thread is None:
                self.metrics, called = self._train(samples, self.totals.env_steps), True
            else:
                self._join()
                self.training = self.thread.submit(self._train, samples, self.totals.env_steps)
            if stop.requested:
                break
        if called:
            self._hand_over()
        spent["learn"] += time.perf_counter() - start - (spent["sample"] - before)

    def _train(self, samples: Samples | LearnerReplay, env_steps: int) -> Any:
        """One learner call; returns its metrics."""
        metrics, priorities = self.learner.run(samples, env_steps)
        if priorities is not None:
            updates = dict(zip(samples.keys.numpy().tolist(), priorities.tolist(), strict=True))
            self.client.mutate_priorities(EXPERIENCE, updates)
        return metrics

    def _join(self) -> None:
        """Waits for the learner call that goes on, if one does."""
        if self.training is not None:
            self.metrics, self.training = self.training.result(), None
            self._hand_over()
            for chunk in self.waiting:
                self.learner_replay.insert(chunk)
            self.waiting.clear()

    def _settle(self) -> None:
        """`_join` outside `_learn`, whose clock it counts on."""
        start = time.perf_counter()
        self._join()
        waited = time.perf_counter() - start
        self.totals.train_s += waited
        self.totals.seconds["learn"] += waited

    def _insert(self, chunk: Chunk) -> None:
        """Hands a chunk to the replay beside the learner, whose call in progress must not see it."""
        if self.training is None:
            self.learner_replay.insert(chunk)
        else:
            self.waiting.append(chunk)

    def _fetch(self) -> Samples | LearnerReplay | None:
        """Data of the next learner call, if the items written so far pay for it."""
        items = self.batcher.fetch_items
        if not self.budget.pays(items):
            return None
        start = time.perf_counter()
        if self.sampler is None and self.server is not None:
            self.actor.writer.flush()
            self._count_items()
            timeout_s = math.inf if self.run_plan.queue else SAMPLE_TIMEOUT_S
            self.sampler = Sampler(self.server.address, items, timeout_s)
        if self.local is not None:
            samples = self.local.take(items)
        else:
            samples = self.sampler.next() if self.learner_replay is None else self.learner_replay
        self.totals.seconds["sample"] += time.perf_counter() - start
        self.budget.sampled += items
        self.totals.items_sampled += items
        return samples

    def _hand_over(self) -> None:
        """The actor goes on with the learner's weights."""
        learner = self.learner
        self.totals.updates = learner.version
        self.actor.load(learner.arrays(), learner.version, learner.facts())

    def _log(self) -> None:
        metrics = {name: float(value) for name, value in self.metrics.items()}
        metrics["learner/policy_version_updates"] = float(self.totals.updates)
        metrics["learner/retraces"] = self.learner.retraces
        waiting = self.budget.inserted - self.budget.sampled
        size = waiting if self.run_plan.queue else self.budget.inserted
        size = min(size, self.agent.experience.capacity_items)
        if self.learner_replay is not None:
            size = self.learner_replay.size
        counts = self.learner.lags.counts.copy()  # with `overlap` the learner goes on counting
        lags, self.logged_lags = Histogram(counts - self.logged_lags), counts
        knobs = [knob_metrics(self.actor.knobs)]
        self.books.write(self.actor.window, lags, metrics, knobs, size, waiting)

    def _evaluate(self) -> bool:
        """Scores the policy and keeps it; False where a stop ended that, or nothing is to be played."""
        self._settle()
        if not self.job.evaluation.plays:
            return False
        try:
            learner = self.learner
            row = self.evaluator.run(
                learner.arrays(), self.totals.env_steps, learner.version, self.actor.facts
            )
        except Stopped:
            return False
        self.evaluated_at = self.totals.env_steps
        self.actor.load_evaluation(self.evaluator.facts)
        self.logger.write({"run/env_steps": float(self.totals.env_steps), **row})
        return True

    def _state(self) -> dict[str, Any]:
        """The state that a checkpoint holds beside the learner, the replay and acting."""
        return build.state(
            self.learner, self.totals.to_dict(),
            {"written": self.budget.inserted, "sampled": self.budget.sampled}, self.actor.rng,
            evaluation_facts=self.evaluator.facts, window=self.actor.window.to_dict(),
            inference=self.actor.engine.name,
        )  # fmt: skip

    def _save(self) -> None:
        self._settle()
        if self.job.checkpoint.checkpoint_replay:
            self.actor.writer.flush()
            self._count_items()
        save = None
        if self.job.checkpoint.checkpoint_replay:
            beside = self.local if self.local is not None else self.learner_replay
            contents = functools.partial(save_contents, self.client) if self.server else beside.save
            save = self.batcher.saving(contents)
        self.run_plan.checkpoints.save(
            self.totals.env_steps, self.learner, self._state(), save, self._acting(),
            self.learner.artifacts(),
        )  # fmt: skip
        self.hooks.saved(self.totals.env_steps)
