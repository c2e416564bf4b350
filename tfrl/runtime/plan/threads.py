"""How many threads one TensorFlow operation of a run may use."""

from __future__ import annotations

from tfrl.envs.names import atari_game
from tfrl.job import Job


def op_threads(job: Job) -> int:
    """Threads of one operation of the learner; 0: as many as cores.

    An update of policy and critics is products of a few hundred rows and columns. Shared between threads, each loses a
    part of its time to waking them; on one thread each, the critics' run side by side. Convolutions are large enough to
    be shared.
    """
    given = job.topology.op_threads
    if given is not None:
        return given
    dense = getattr(job.config, "network", None) in ("auto", "mlp") and not atari_game(job.env.env)
    return 1 if dense and hasattr(job.config, "critic_hidden_sizes") else 0
