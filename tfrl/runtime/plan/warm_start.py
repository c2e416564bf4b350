"""A run that starts from the weights of another run's policy."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfrl import spaces as space_lib
from tfrl.config.near import nearest_run
from tfrl.errors import SettingError
from tfrl.runtime.storage import checkpoint, checkpoint_files, folders
from tfrl.types import EnvSpec

if TYPE_CHECKING:
    from tfrl.runtime.learning.learner import LearnerLoop
    from tfrl.runtime.plan.run_plan import RunPlan


class Weights(NamedTuple):
    """Values of a policy's variables, the env steps that they were trained for, and the file that holds them."""

    arrays: list[np.ndarray]
    env_steps: int
    path: pathlib.Path


def read(run_dir: str, spec: EnvSpec, variables: Sequence[Any]) -> Weights:
    """The weights of a run: of its exported policy, or of the newest evaluated one where it has not finished.

    Args:
      spec, variables: of the run that they are for.

    Raises:
      SettingError: no weights there, or those of other spaces or of another network.
    """
    where, folder = f"initial_weights={run_dir!r}", pathlib.Path(run_dir)
    found = [
        p for p in (folder / folders.POLICY, folder / "checkpoints" / "last.npz") if p.is_file()
    ]
    if not found:
        raise SettingError(
            f"{where}: expected the folder of a run with a policy, there is no {folders.POLICY}"
            f"{'' if (folder / 'job.json').is_file() else nearest_run(folder)}"
        )
    _check_spaces(where, folder, spec)
    arrays, facts = checkpoint.load_arrays(found[0])
    theirs, mine = [x.shape for x in arrays], [tuple(v.shape) for v in variables]
    if theirs != mine:
        raise SettingError(
            f"{where}: {_difference(theirs, mine, variables)}; expected the same network in both runs"
        )
    return Weights(arrays, int(facts["env_steps"]), found[0])


def start(
    loop: LearnerLoop, run_plan: RunPlan, scope: Any, announce: Callable[[str], None]
) -> None:
    """Puts the weights that `initial_weights` names into a learner that has made no update.

    Target copies and running statistics of observations follow. The optimiser, counters and schedules begin anew.

    Args:
      scope: context in which the learner's variables are written, that of its strategy.

    Raises:
      SettingError: see `read`.
    """
    policy = loop.learner.policy
    weights = read(run_plan.job.initial_weights, run_plan.spec, policy.variables)
    with scope:
        for variable, array in zip(policy.variables, weights.arrays, strict=True):
            variable.assign(array)
        for periodic in loop.learner.periodic():
            if periodic.at_start:
                periodic.fn()
        loop.learner.adopt(weights.env_steps)
    announce(f"initial weights: {weights.path}, trained for {weights.env_steps:,} env steps")


def _check_spaces(where: str, folder: pathlib.Path, spec: EnvSpec) -> None:
    """Raises SettingError where the run's checkpoints are of other spaces."""
    complete = [
        f
        for f in checkpoint_files.of(folder / "checkpoints")
        if checkpoint_files.problem(f) is None
    ]
    if not complete:
        return  # the shapes of the weights are compared in any case
    identity = checkpoint_files.read(complete[-1] / checkpoint_files.STATE)["identity"]
    for name, space in (("observation", spec.observation_space), ("action", spec.action_space)):
        theirs = identity.get("spaces", {}).get(name)
        if theirs is not None and theirs != space_lib.to_json(space):
            raise SettingError(
                f"{where}: its {name}_space is {identity[f'{name}_space']}, this run has {space}"
            )


def _difference(theirs: list, mine: list, variables: Sequence[Any]) -> str:
    """The first variable that differs, in words."""
    for i, (a, b) in enumerate(zip(theirs, mine)):
        if a != b:
            return (
                f"variable {i} ({variables[i].name}) has shape {list(a)} there and {list(b)} here"
            )
    return f"the policy has {len(theirs)} variables there and {len(mine)} here"
