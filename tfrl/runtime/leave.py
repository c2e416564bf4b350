"""A stopped run leaves a checkpoint to resume from and a policy, also if its own parts had no time to write them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrl.logs.logger import Logger
from tfrl.runtime import seeds
from tfrl.runtime.acting.evaluator import Evaluator
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.runtime.plan import warm_start
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.report import Totals
from tfrl.runtime.stop import Stop
from tfrl.runtime.storage import checkpoint


def leave_policy(run_plan: RunPlan, logger: Logger, stop: Stop) -> dict[str, Any]:
    """Keeps the policy of the newest checkpoint without a score; an untrained learner is saved where there is none.

    Args:
      logger: of the run; a metrics file without rows is made where there is none.
      stop: requested, so that nothing is played.

    Returns:
      Facts for `result.json`: 'totals', as in the checkpoint.
    """
    job, agent = run_plan.job, run_plan.agent
    if not (run_plan.run_dir / "metrics.csv").exists():
        logger.rewind(0)
    seed = seeds.integer(job.seed, "learner")
    loop = LearnerLoop(agent, run_plan.layout, tf.distribute.get_strategy(), "graph", seed)
    found = run_plan.checkpoints.newest()
    if found is not None:
        checkpoint.restore_learner(found, loop)
        totals = Totals(**found.state["totals"])
    else:
        totals = Totals()
        if job.initial_weights:
            strategy = tf.distribute.get_strategy()
            warm_start.start(loop, run_plan, strategy.scope(), logger.announce)
        rng = seeds.generator(job.seed, "actor", 0, "noise")
        state = {
            "totals": totals.to_dict(),
            "written": 0,
            "sampled": 0,
            "max_priority": loop.max_priority,
            "rng": rng.bit_generator.state,
        }
        run_plan.checkpoints.save(0, loop, state, None)
    evaluator = Evaluator(run_plan, job.topology.inference, stop=stop)
    evaluator.keep(loop.arrays(), totals.env_steps, loop.version)
    return {"totals": totals}
