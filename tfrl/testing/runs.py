"""Run folders without training, for tests of what comes after it."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from tfrl.api import make_job
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.storage import checkpoint, folders


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
