"""The work of a process of a run: one role, whose parts it builds from the Job."""

from __future__ import annotations

import cloudpickle
import tensorflow as tf

from tfrl.runtime.interrupt import start_tensorflow, threads_take_no_signals
from tfrl.runtime.link import Link
from tfrl.runtime.plan.threads import op_threads
from tfrl.runtime.roles import actor, evaluator, learner, replay, weights

ROLES = {
    "replay": replay.main,
    "weights": weights.main,
    "learner": learner.main,
    "actor": actor.main,
    "evaluator": evaluator.main,
}


def play(role: str, payload: bytes, index: int, slot: int, link: Link) -> None:
    """Plays a role of `ROLES` in this process; `payload` is a pickled (Job, EnvSpec). See `control.child_main`.

    Raises what the role raises.
    """
    if role != "learner":  # so that TensorFlow here leaves the cores to the others
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
    with threads_take_no_signals():  # a user's module may start TensorFlow when it is imported
        job, spec = cloudpickle.loads(payload)
    start_tensorflow(op_threads(job) if role == "learner" else 0)
    ROLES[role](job, spec, index, slot, link)
