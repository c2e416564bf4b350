"""Tries everything that the end of a run needs before its first step: an error there must not cost a day of training.

`before_training` exports the untrained policy, loads the export and acts with it, writes `result.json` and draws the
curve, all in a folder that is removed again. The functions that it traced are kept for the end. `of_checkpoint` writes
a checkpoint of the learner and reads it back. The environments of the evaluation are tried by their owner,
`Evaluator.rehearse`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tree

from tfrl.agent import Policy
from tfrl.errors import SettingError
from tfrl.logs import csv_file
from tfrl.logs.curve import draw_curve
from tfrl.runtime.books import Totals
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.report import result_facts, write_result
from tfrl.runtime.serving.export import Exported
from tfrl.runtime.serving.loaded import LoadedPolicy
from tfrl.runtime.storage import checkpoint

_DPI = 20  # of a curve that nobody sees
# A row as training and evaluation write it.
_ROW = {
    csv_file.STEP: 1.0,
    "actor/episode_return_mean": 0.0,
    "evaluator/return_mean": 0.0,
    "evaluator/return_std": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Rehearsed:
    """A policy, and its export with all functions traced: new weights make it that of a trained one."""

    policy: Policy
    exported: Exported


def before_training(run_plan: RunPlan) -> Rehearsed:
    """Tries the export, `result.json` and the curve.

    Raises:
      SettingError: one of them fails; the message names it and the reason.
    """
    policy = run_plan.agent.make_policy()
    with _scratch(run_plan) as folder:
        with _trial(run_plan, "the export of the policy"):
            exported = Exported(policy, run_plan.spec)
            exported.write(folder / "export")
            _act(tf.saved_model.load(str(folder / "export")), LoadedPolicy(policy, run_plan.spec))
        with _trial(run_plan, "result.json"):
            outcome = {"totals": Totals(env_steps=1), "interrupted": False, "stopped_by": ""}
            score = {
                "return_mean": 0.0,
                "return_std": 0.0,
                "episodes": 1,
                "infos": {},
                "worlds": {},
            }
            times = {"train_s": 0.0, "total_s": 0.0}
            result = result_facts(run_plan, outcome, score, times, 1, {})
            write_result(folder / "result.json", result)
        with _trial(run_plan, "the learning curve"):
            run_plan.job.save(folder / "job.json")
            lines = [",".join(_ROW), ",".join(map(str, _ROW.values())), ""]
            (folder / "metrics.csv").write_text("\n".join(lines))
            draw_curve([folder], folder / "curve.png", dpi=_DPI)
    return Rehearsed(policy, exported)


def of_checkpoint(
    run_plan: RunPlan, learner: LearnerLoop, state: Mapping[str, Any], acting: Any = None
) -> None:
    """Writes a checkpoint without replay contents, and reads it back into the learner.

    Args:
      state, acting: as the run saves them.

    Raises:
      SettingError: one of the two fails, or what was read is not what was written.
    """
    with _scratch(run_plan) as folder, _trial(run_plan, "a checkpoint"):
        before = [variable.numpy() for variable in learner.variables]
        checkpoints = checkpoint.Checkpoints(folder, run_plan.job.algo, run_plan.spec, 1)
        checkpoints.save(0, learner, state, None, acting, learner.artifacts())
        found = checkpoints.newest()
        checkpoint.restore_learner(found, learner)
        found.acting()
        found.artifacts()
        for variable, value in zip(learner.variables, before, strict=True):
            if not np.array_equal(variable.numpy(), value, equal_nan=value.dtype.kind == "f"):
                raise ValueError(f"{variable.name} was not read back as it was")


def _act(saved: Any, policy: LoadedPolicy) -> None:
    """Acts once with a loaded SavedModel; raises ValueError where the environment's space does not contain the action.

    The observation is a sample of the space.
    """
    # A copy, since an environment may draw its observations from its space.
    space = copy.deepcopy(policy.observation_space)
    space.seed(0)
    obs = tree.map_structure(tf.constant, policy.exported(space.sample()))
    action = saved.act(obs, saved.initial_state(1))["action"]
    row = policy.own_row(tree.map_structure(lambda x: x.numpy(), action))
    if not policy.action_space.contains(row):
        raise ValueError(f"its action {row!r} is not of the action space {policy.action_space}")


@contextlib.contextmanager
def _scratch(run_plan: RunPlan) -> Iterator[pathlib.Path]:
    """A folder in that of the run, so that its disk and its name are tried too."""
    run_plan.run_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run_plan.run_dir, prefix="rehearsal-") as folder:
        yield pathlib.Path(folder)


@contextlib.contextmanager
def _trial(run_plan: RunPlan, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, it would end the run after its last step
        reason = " ".join(str(error).split())[:500]
        job = run_plan.job
        raise SettingError(
            f"algo={job.algo} with env={job.env.env!r}: {what} fails, before the first step ({type(error).__name__}: "
            f"{reason})"
        ) from error
