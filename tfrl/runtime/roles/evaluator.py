"""The role of the evaluator: scores the newest weights whenever it is ordered to."""

from __future__ import annotations

import dataclasses
import time

import reverb

from tfrl.job import Job
from tfrl.replay.bounded import BoundedCalls
from tfrl.runtime.acting.evaluator import Evaluator
from tfrl.runtime.link import RUN, Link
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.report import peak_memory_mb
from tfrl.runtime.storage.publish import VariableSource
from tfrl.types import EnvSpec


def main(job: Job, spec: EnvSpec, index: int, slot: int, link: Link) -> None:
    """Evaluates the newest weights whenever it is ordered to, once per order.

    Raises:
      Abandoned: the order to end at once came within an episode, or while it waits for a server.
      SettingError: see `plan_run`.
      ReplayUnreachable: the server of the weights does not answer.
    """
    del slot
    # The scores of an earlier evaluator or of the resumed run count.
    run_plan = plan_run(dataclasses.replace(job, resume=job.resume or index > 0), spec)

    evaluator = Evaluator(run_plan, job.topology.inference, link.alive, announce=link.say)
    evaluator.rehearse()
    link.ready()
    if not link.wait(lambda orders: "variables" in orders):
        return
    source = VariableSource(
        reverb.Client(link.orders["variables"]), BoundedCalls(on_wait=link.alive)
    )
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
            facts = published.facts
            row = evaluator.run(published.arrays, env_steps, published.version, facts)
            link.add_row({"run/env_steps": float(env_steps), **row})
        else:
            evaluator.keep(published.arrays, env_steps, published.version)
        done = order
        link.report(evaluated=done, facts=evaluator.facts, memory_mb=peak_memory_mb())
    evaluator.close()
