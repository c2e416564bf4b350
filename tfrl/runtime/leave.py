"""A stopped run leaves a checkpoint to resume from and a policy, also if its own parts had no time to write them."""

from __future__ import annotations

from typing import Any

from tfrl.logs.logger import Logger
from tfrl.runtime import build, seeds
from tfrl.runtime.acting.evaluator import Evaluator
from tfrl.runtime.books import Totals
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.stop import Stop


def leave_policy(run_plan: RunPlan, logger: Logger, stop: Stop) -> dict[str, Any]:
    """Keeps the policy of the newest checkpoint without a score; an untrained learner is saved where there is none.

    Args:
      logger: of the run; a metrics file without rows is made where there is none.
      stop: requested, so that nothing is played.

    Returns:
      Facts for `result.json`: 'totals', as in the checkpoint.
    """
    job = run_plan.job
    if not (run_plan.run_dir / "metrics.csv").exists():
        logger.rewind(0)
    found = run_plan.checkpoints.newest()
    loop = build.learner(run_plan, found, logger.announce, num_devices=1)
    if found is not None:
        totals = Totals(**found.state["totals"])
    else:
        totals = Totals()
        rng = seeds.generator(job.seed, "actor", 0, "noise")
        state = build.state(loop, totals.to_dict(), {"written": 0, "sampled": 0}, rng)
        run_plan.checkpoints.save(0, loop, state, None, artifacts=loop.artifacts())
    evaluator = Evaluator(run_plan, job.topology.inference, stop=stop)
    evaluator.keep(loop.arrays(), totals.env_steps, loop.version)
    return {"totals": totals}
