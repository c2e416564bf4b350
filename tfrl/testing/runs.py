"""Run folders for tests of what comes after training, and of what comes before it."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import tempfile
import types
from typing import Any
from unittest import mock

from absl.testing import absltest

from tfrl.api import make_job
from tfrl.job import Job
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.storage import checkpoint, folders
from tfrl.testing import conformance


def untrained_run(run_dir: str | os.PathLike, algo: str = "dqn", **settings: Any) -> pathlib.Path:
    """Writes what a finished run leaves for its evaluation: job.json, spec.json and a policy, a fresh one."""
    run_dir = pathlib.Path(run_dir)
    run_dir.mkdir(parents=True)
    job = make_job(algo, run_dir=str(run_dir), **settings)
    job.save(run_dir / "job.json")
    run_plan = plan_run(job)
    (run_dir / folders.SPEC).write_text(json.dumps(run_plan.spec.to_json()))
    policy = run_plan.agent.make_policy()
    arrays = [variable.numpy() for variable in policy.variables]
    checkpoint.save_arrays(run_dir / folders.POLICY, arrays, env_steps=0)
    return run_dir


def newest_learner(run_dir: str | os.PathLike) -> tuple[LearnerLoop, dict[str, Any]]:
    """The learner of a run's newest checkpoint, and the numbers beside it."""
    run_plan = plan_run(Job.load(pathlib.Path(run_dir) / "job.json"))
    found = run_plan.checkpoints.newest()
    loop = conformance.loop(run_plan.agent, run_plan.spec)
    checkpoint.restore_learner(found, loop)
    return loop, json.loads((found.folder / "state.json").read_text())


def toy_algorithm(test: absltest.TestCase, name: str, config: type) -> pathlib.Path:
    """An algorithm that does nothing and an empty folder to work in, for as long as a test lasts.

    Args:
      name: of the algorithm, dotted.
      config: its `Config`.

    Returns:
      The folder.
    """
    module = types.ModuleType(name)
    module.Config, module.make = config, lambda config, spec: None
    test.enter_context(mock.patch.dict(sys.modules, {name: module}))
    folder = pathlib.Path(test.enter_context(tempfile.TemporaryDirectory()))
    here = os.getcwd()
    os.chdir(folder)
    test.addCleanup(os.chdir, here)
    return folder
