"""A stopped run leaves a checkpoint to resume from and a policy, also if its own parts had no time to write them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrl.logs.logger import Logger
from tfrl.runtime import checkpoint, seeds, warm_start
from tfrl.runtime.assembly import Assembly
from tfrl.runtime.evaluator import Evaluator
from tfrl.runtime.learner import LearnerLoop
from tfrl.runtime.report import Totals
from tfrl.runtime.stop import Stop


def leave_policy(assembly: Assembly, logger: Logger, stop: Stop) -> dict[str, Any]:
    """Keeps the policy of the newest checkpoint without a score; an untrained learner is saved where there is none.

    Args:
      logger: of the run; a metrics file without rows is made where there is none.
      stop: requested, so that nothing is played.

    Returns:
      Facts for `result.json`: 'totals', as in the checkpoint.
    """
    job, agent = assembly.job, assembly.agent
    if not (assembly.run_dir / "metrics.csv").exists():
        logger.rewind(0)
    seed = seeds.integer(job.seed, "learner")
    loop = LearnerLoop(agent, assembly.layout, tf.distribute.get_strategy(), "graph", seed)
    found = assembly.checkpoints.newest()
    if found is not None:
        checkpoint.restore_learner(found, loop)
        totals = Totals(**found.state["totals"])
    else:
        totals = Totals()
        if job.initial_weights:
            strategy = tf.distribute.get_strategy()
            warm_start.start(loop, assembly, strategy.scope(), logger.announce)
        rng = seeds.generator(job.seed, "actor", 0, "noise")
        state = {
            "totals": totals.to_dict(),
            "written": 0,
            "sampled": 0,
            "max_priority": loop.max_priority,
            "rng": rng.bit_generator.state,
        }
        assembly.checkpoints.save(0, loop, state, None)
    evaluator = Evaluator(assembly, job.topology.inference, stop=stop)
    evaluator.keep(loop.arrays(), totals.env_steps, loop.version)
    return {"totals": totals}
