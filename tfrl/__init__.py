"""tfrl: reinforcement learning on TensorFlow 2.

`train` runs a job, `load` gives the policy of a run, `evaluate` plays episodes with it; see `docs/`.
TensorFlow is imported by the first of these calls, not by `import tfrl`.
"""

import os

from tfrl import versions

versions.check()
# Read when TensorFlow is imported. Training convolutions with oneDNN takes half to two thirds of the time, and
# TensorFlow leaves it off on processors without AVX-512 VNNI. A value that the user has set stands.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from tfrl.api import Result, evaluate, load, train  # noqa: E402 - after the check
from tfrl.callbacks import Callback  # noqa: E402
from tfrl.logs.metrics import Metric  # noqa: E402

__all__ = ["Callback", "Metric", "Result", "evaluate", "load", "train"]
__version__ = "0.1.0"
