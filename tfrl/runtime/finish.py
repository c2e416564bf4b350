"""The end of a run: score, SavedModel, curve and `result.json`; and the way back from a run folder to its policy."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import numpy as np

from tfrl.agent import Policy
from tfrl.config.settings import SettingError
from tfrl.envs.make import make_vector
from tfrl.job import Job
from tfrl.logs.curve import draw_curve
from tfrl.logs.logger import Logger
from tfrl.runtime import checkpoint
from tfrl.runtime.assembly import Assembly, assemble
from tfrl.runtime.evaluator import Evaluation, Evaluator, evaluate
from tfrl.runtime.export import export
from tfrl.runtime.inference import StepSignature, make_engine
from tfrl.runtime.report import peak_memory_mb, write_result


def finish(assembly: Assembly, outcome: dict[str, Any], started: float, logger: Logger) -> dict[str, Any]:
    """Scores and exports the policy of a finished run; returns the fields of `tfrl.Result`."""
    job, totals, run_dir = assembly.job, outcome["totals"], assembly.run_dir
    evaluator = Evaluator(assembly, job.topology.inference)
    arrays, facts, evaluation = evaluator.final()
    evaluator.close()
    checkpoint.save_arrays(run_dir / "checkpoints" / "policy.npz", arrays, **facts)
    policy = assembly.agent.make_policy()
    _assign(policy, arrays)
    export_dir = export(policy, assembly.spec, run_dir / "export")
    score = {
        "return_mean": float(np.mean(evaluation.returns)) if evaluation else None,
        "return_std": float(np.std(evaluation.returns)) if evaluation else None,
        "episodes": len(evaluation.returns) if evaluation else 0,
    }
    times = {"train_s": totals.train_s, "total_s": time.monotonic() - started}
    write_result(
        run_dir / "result.json",
        {
            "algo": job.algo,
            "env": job.env.env,
            "seed": job.seed,
            **score,
            "evaluation_mode": "greedy",
            "exported": job.evaluation.export_policy,
            "exported_env_steps": int(facts["env_steps"]),
            "env_steps": totals.env_steps,
            "updates": totals.updates,
            **times,
            "seconds_by_part": totals.seconds,
            "samples_per_insert": _ratio(totals, assembly),
            "memory_peak_mb": max(peak_memory_mb(), outcome.get("memory_peak_mb", 0.0)),
            "interrupted": outcome["interrupted"],
            "backend": job.topology.backend,
        },
    )
    curve = run_dir / "curve.png"
    logger.close()  # the curve reads what it wrote
    draw_curve([run_dir], curve)
    if evaluation:
        logger.announce(
            f"score: {score['return_mean']:.1f} +- {score['return_std']:.1f} over {score['episodes']} greedy episodes"
        )
    logger.announce(f"policy: {export_dir} (SavedModel)")
    logger.announce(f"curve:  {curve}")
    return {
        "run_dir": run_dir,
        **score,
        "env_steps": totals.env_steps,
        "updates": totals.updates,
        **times,
        "export_dir": export_dir,
        "curve": curve,
        "interrupted": outcome["interrupted"],
    }


def load_policy(run_dir: pathlib.Path) -> tuple[Assembly, Policy]:
    """A run's parts and its exported policy.

    Raises:
      SettingError: no finished run there.
    """
    for needed in (run_dir / "job.json", run_dir / "checkpoints" / "policy.npz"):
        if not needed.exists():
            raise SettingError(f"{run_dir}: expected the folder of a finished run, but {needed.name} is not there")
    assembly = assemble(Job.load(run_dir / "job.json"))
    policy = assembly.agent.make_policy()
    _assign(policy, checkpoint.load_arrays(run_dir / "checkpoints" / "policy.npz")[0])
    return assembly, policy


def evaluate_run(run_dir: pathlib.Path, episodes: int, seed: int, greedy: bool, num_envs: int) -> Evaluation:
    """Plays seeded games with a run's exported policy; see `tfrl.evaluate`."""
    assembly, policy = load_policy(run_dir)
    num_envs = min(num_envs, episodes)
    env = make_vector(assembly.job.env, num_envs, seed, training=False)
    knobs = {} if greedy else dict(assembly.agent.knobs(0, 1, num_envs, assembly.job.total_env_steps))
    signature = StepSignature(policy, assembly.spec, num_envs, sorted(knobs), explore=not greedy)
    try:
        return evaluate(make_engine("function", policy, signature), env, episodes, seed, knobs)
    finally:
        env.close()


def _assign(policy: Policy, arrays: list[np.ndarray]) -> None:
    for variable, array in zip(policy.variables, arrays, strict=True):
        variable.assign(array)


def _ratio(totals: Any, assembly: Assembly) -> float | None:
    inserted = totals.items_inserted - assembly.agent.replay.min_items
    return totals.items_sampled / inserted if inserted > 0 else None
