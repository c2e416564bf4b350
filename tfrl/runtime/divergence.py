"""Learning that has diverged is found before its weights act, are published, kept or saved, and it is named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrl.envs.boundary import is_finite
from tfrl.errors import RunFailed


def diverged(what: str, value: float, when: str) -> RunFailed:
    """The failure of a run whose learning gives numbers that are not finite.

    Data from the environments is finite (`envs/boundary.py`), so the cause is in the learning.

    Args:
      what: the metric or variable, e.g. 'learner/loss'.
      value: what it is.
      when: e.g. '120 updates'.
    """
    return RunFailed(
        f"{what} is {value} at {when}, after finite observations and rewards: learning has diverged; lower "
        "learning_rate or gradient_clip_norm, or look for observations or rewards that are too large"
    )


def refuse_arrays(names: Sequence[str], arrays: Sequence[np.ndarray], updates: int) -> None:
    """Raises RunFailed where the values of a policy's variables are not all finite.

    Args:
      names: of the variables.
      updates: behind the values.
    """
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind == "f" and not is_finite(array):
            wrong = array[~np.isfinite(array)]
            if wrong.size:
                raise diverged(f"learner/policy: {name!r}", wrong.flat[0], f"{updates:,} updates")


def refuse_variables(learner: tf.Module, env_steps: int) -> None:
    """Raises RunFailed where the variables that a checkpoint of `learner` would hold are not all finite.

    Args:
      env_steps: of the run so far.
    """
    for variable in tf.train.TrackableView(learner).descendants():
        if isinstance(variable, tf.Variable) and variable.dtype.is_floating:
            array = variable.numpy()
            wrong = array[~np.isfinite(array)]
            if wrong.size:
                when = f"{env_steps:,} env steps, so this checkpoint is not written"
                raise diverged(f"learner/state: {variable.name!r}", wrong.flat[0], when)
