"""The report of a run, `result.json`, with the versions of the packages that made it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import pathlib
import platform
import resource
from collections.abc import Mapping
from typing import Any

from tfrl import files
from tfrl.runtime.plan.run_plan import RunPlan


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def result_facts(
    run_plan: RunPlan,
    outcome: Mapping[str, Any],
    score: Mapping[str, Any],
    times: Mapping[str, float],
    exported_env_steps: int,
    artifacts: Mapping[str, Any],
) -> dict[str, Any]:
    """The contents of `result.json`.

    Args:
      outcome: of the backend, with 'interrupted' and 'stopped_by'.
      score: 'return_mean', 'return_std', 'episodes' and 'infos' of the last evaluation, and 'worlds', the same of each
        world.
      times: 'train_s' and 'total_s'.
      exported_env_steps: of the run when it had the policy that is exported.
      artifacts: see `Learner.artifacts`; those that are named numbers are contents too.
    """
    job, totals = run_plan.job, outcome["totals"]
    numbers = {name: found for name, found in artifacts.items() if _named_numbers(found)}
    return {
        "algo": job.algo,
        "env": job.env.env,
        "seed": job.seed,
        **score,
        "evaluation_mode": job.evaluation.eval_mode,
        "exported": job.evaluation.exported,
        "exported_env_steps": exported_env_steps,
        "env_steps": totals.env_steps,
        "updates": totals.updates,
        **times,
        "seconds_by_part": totals.seconds,
        "samples_per_insert": _ratio(totals, run_plan),
        "memory_peak_mb": max(peak_memory_mb(), outcome.get("memory_peak_mb", 0.0)),
        "interrupted": outcome["interrupted"],
        "stopped_by": outcome["stopped_by"],
        "backend": job.topology.backend,
        "compile": outcome.get("compile", job.topology.compile),
        "inference": outcome.get("inference", job.topology.inference),
        **({"artifacts": numbers} if numbers else {}),
    }


def _named_numbers(artifact: Any) -> bool:
    return isinstance(artifact, Mapping) and all(
        isinstance(x, (int, float)) for x in artifact.values()
    )


def write_result(path: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Writes `result.json` with the versions beside the facts; replaces the file in one step.

    A number that is not finite becomes null: JSON has none.
    """
    packages = ("tensorflow", "keras", "dm-reverb", "gymnasium", "numpy")
    versions = {
        "python": platform.python_version(),
        **{p: importlib.metadata.version(p) for p in packages},
    }
    files.write_text(
        path, json.dumps(_plain({**facts, "versions": versions}), indent=2, allow_nan=False) + "\n"
    )


def _plain(value: Any) -> Any:
    """A nest of dicts and lists with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ratio(totals: Any, run_plan: RunPlan) -> float | None:
    inserted = totals.items_inserted - run_plan.agent.experience.min_items
    return totals.items_sampled / inserted if inserted > 0 else None
