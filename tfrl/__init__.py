"""tfrl: reinforcement learning on TensorFlow 2.

`train` runs a job, `load` gives the policy of a run, `evaluate` plays games with it; see `docs/`.
TensorFlow is imported by the first of these calls, not by `import tfrl`.
"""

from tfrl import versions

versions.check()

from tfrl.api import Result, evaluate, load, train  # noqa: E402 - after the check

__all__ = ["Result", "evaluate", "load", "train"]
__version__ = "0.1.0"
