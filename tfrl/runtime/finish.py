"""The end of a run: score, SavedModel, curve and `result.json`; and the way back from a run folder to its policy."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrl import files
from tfrl.agent import Policy
from tfrl.config import objects, trust
from tfrl.config.resolve import load_job
from tfrl.envs import envpool
from tfrl.envs.make import make_vector
from tfrl.envs.names import atari_game
from tfrl.envs.vector import VectorEnv
from tfrl.errors import SettingError
from tfrl.job import EnvPlan, Job
from tfrl.logs import console
from tfrl.logs.curve import draw_curve
from tfrl.logs.logger import Logger
from tfrl.logs.video import VideoRecorder
from tfrl.runtime.acting.evaluator import Evaluation, Evaluator, evaluate, unfinished
from tfrl.runtime.acting.inference import StepSignature, make_engine
from tfrl.runtime.interrupt import start_tensorflow
from tfrl.runtime.plan.run_plan import RunPlan, plan_run
from tfrl.runtime.report import result_facts, write_result
from tfrl.runtime.serving.export import export
from tfrl.runtime.serving.export import save as save_export
from tfrl.runtime.stop import Stop
from tfrl.runtime.storage import checkpoint, folders
from tfrl.settings import choose
from tfrl.types import EnvSpec

if TYPE_CHECKING:
    from tfrl.runtime.rehearsal import Rehearsed


def finish(
    run_plan: RunPlan,
    outcome: dict[str, Any],
    started: float,
    logger: Logger,
    stop: Stop,
    rehearsed: Rehearsed,
) -> dict[str, Any]:
    """Exports and scores the policy of a run; returns the fields of `tfrl.Result`.

    A requested stop ends, or leaves out, the score; a hurried one leaves out the export and the curve, too.

    Args:
      rehearsed: the export as it was traced before training, which gets the weights now.
    """
    job, totals, run_dir = run_plan.job, outcome["totals"], run_plan.run_dir
    inference = outcome.get("inference", job.topology.inference)
    evaluator = Evaluator(run_plan, inference, stop=stop, announce=logger.announce)
    arrays, facts = evaluator.exported()
    checkpoint.save_arrays(run_dir / folders.POLICY, arrays, **facts)
    _assign(rehearsed.policy, arrays)
    artifacts = _write_artifacts(run_plan)
    # Before the episodes: whatever ends these leaves a policy that other programs can use.
    if not stop.hurried:
        logger.announce(f"exporting the {job.evaluation.exported} policy")
    export_dir = None if stop.hurried else save_export(rehearsed.exported, run_dir / "export")
    plan = job.evaluation
    if plan.plays and plan.final_eval_episodes and not stop.requested:
        logger.announce(f"scoring it over {plan.final_eval_episodes:,} {plan.eval_mode} episodes")
    played = evaluator.final(arrays)
    evaluation = played.get(plan.judge)
    evaluator.close()
    curve = None if stop.hurried else run_dir / "curve.png"
    if curve is not None:
        logger.announce("drawing the curve")
    logger.close()  # the curve reads what it wrote
    if curve is not None:
        draw_curve([run_dir], curve)
    # From here on everything is there: a signal that comes now interrupts nothing.
    interrupted = stop.requested
    names = job.log.info_metrics
    worlds = {world: _score(found, names) for world, found in played.items() if world}
    score = {**_score(evaluation, names), "worlds": worlds}
    before_s = _total_s_before(run_plan) if job.resume else 0.0
    times = {"train_s": totals.train_s, "total_s": before_s + time.monotonic() - started}
    outcome = {**outcome, "interrupted": interrupted}
    result = result_facts(run_plan, outcome, score, times, int(facts["env_steps"]), artifacts)
    write_result(run_dir / "result.json", result)
    if evaluation:
        text = console.score(score["return_mean"], score["return_std"])
        logger.announce(f"score: {text} over {score['episodes']:,} {plan.eval_mode} episodes")
    for world, found in worlds.items():
        if found["episodes"]:
            text = console.score(found["return_mean"], found["return_std"])
            logger.announce(f"score in {world}: {text}")
    if not totals.updates and not interrupted:
        short = f"{totals.env_steps:,} env steps are too few for one"
        logger.announce(
            f"no update was made and the policy is untrained: {short} ({run_plan.arithmetic})"
        )
    if export_dir is not None:
        logger.announce(f"policy: {export_dir} (SavedModel)")
    if curve is not None:
        logger.announce(f"curve:  {curve}")
    if outcome["stopped_by"]:
        logger.announce(f"stopped by {outcome['stopped_by']}")
    if interrupted:
        logger.announce(f"interrupted; continue with {trust.resume_flags(run_dir, job)}")
    return {
        "run_dir": run_dir,
        **score,
        "env_steps": totals.env_steps,
        "updates": totals.updates,
        **times,
        "export_dir": export_dir,
        "curve": curve,
        "interrupted": interrupted,
        "stopped_by": outcome["stopped_by"],
    }


def _write_artifacts(run_plan: RunPlan) -> dict[str, Any]:
    """Writes the results that are not weights, of the newest checkpoint, to files in the run folder; returns them."""
    found = run_plan.checkpoints.newest()
    artifacts = found.artifacts() if found else {}
    if not artifacts:
        return {}
    folder = run_plan.run_dir / folders.ARTIFACTS
    folder.mkdir(exist_ok=True)
    for name, value in artifacts.items():
        if isinstance(value, np.ndarray):
            with files.replacing(folder / f"{name}.npy") as scratch, open(scratch, "wb") as file:
                np.save(file, value)
        else:
            files.write_text(folder / f"{name}.json", json.dumps(value, indent=2) + "\n")
    return artifacts


def _score(evaluation: Evaluation | None, info_names: Sequence[str]) -> dict[str, Any]:
    """Mean, standard deviation and number of the returns, None for the first two where there are none; and means of
    the infos."""
    return {
        "return_mean": float(np.mean(evaluation.returns)) if evaluation else None,
        "return_std": float(np.std(evaluation.returns)) if evaluation else None,
        "episodes": len(evaluation.returns) if evaluation else 0,
        "infos": evaluation.info_means(info_names) if evaluation else {},
    }


def load_policy(run_dir: pathlib.Path, network: Any = None) -> tuple[RunPlan, Policy]:
    """A run's parts and its exported policy; no environment is built, and no code of a user's but a network's.

    Args:
      network: the builder of the network, where the run has one of its own that cannot be found by its name.

    Raises:
      SettingError: no finished run there, or one with damaged files; code that nobody has named, see `trust.py`.
    """
    folders.finished_run(run_dir)
    job = load_job(str(run_dir))
    if network is not None:
        network = network if isinstance(network, str) else objects.named(network)
        config = dataclasses.replace(job.config, network=network)
        job = dataclasses.replace(job, config=config)
    trust.check_network(getattr(job.config, "network", None))
    # The folder may have moved, nothing is resumed here, and this machine may have fewer devices.
    topology = dataclasses.replace(job.topology, num_learner_devices=1)
    job = dataclasses.replace(job, run_dir=str(run_dir), resume=False, topology=topology)
    start_tensorflow()
    run_plan = plan_run(job, _saved_spec(job))
    policy = run_plan.agent.make_policy()
    arrays = checkpoint.load_arrays(run_dir / folders.POLICY)[0]
    mine, theirs = ([tuple(x.shape) for x in xs] for xs in (policy.variables, arrays))
    if mine != theirs:
        raise SettingError(
            f"{run_dir / folders.POLICY}: its arrays have shapes {theirs}, the policy of {run_dir / 'job.json'} has "
            f"{mine}; expected the files of one run"
        )
    _assign(policy, arrays)
    return run_plan, policy


def evaluate_run(
    run_dir: pathlib.Path,
    episodes: int,
    seed: int,
    greedy: bool,
    num_envs: int,
    env: Any = None,
    network: Any = None,
    world: str = "",
) -> Evaluation:
    """Plays seeded episodes with a run's exported policy; see `tfrl.evaluate`."""
    run_plan, policy = load_policy(run_dir, network)
    plan = _world(run_plan.job, world)
    if env is not None:
        plan = dataclasses.replace(plan, env=env if isinstance(env, str) else objects.named(env))
    trust.check_env(plan.env, plan.env_wrappers)
    size, switches = min(num_envs, episodes), run_plan.job.switches
    vector = make_vector(plan, size, seed, training=False, switches=switches)
    return _play(run_plan, policy, vector, episodes, seed, greedy)


def _world(job: Job, world: str) -> EnvPlan:
    """The environment of a world of the evaluation, that of training for ''; raises SettingError for an unknown one."""
    worlds = job.evaluation.worlds(job.env)
    if world and world not in worlds:
        known = [name for name in worlds if name]
        what = choose(world, known) if known else "the run has no eval_worlds"
        raise SettingError(f"world={world!r}: {what}")
    return worlds[world] if world else job.env


def record_run(run_dir: pathlib.Path, episodes: int, seed: int, greedy: bool) -> list[pathlib.Path]:
    """Records seeded episodes of a run's exported policy to `run_dir/videos`, after `video.prepare`.

    Returns:
      The files, one per episode; the score is in the name.

    Raises:
      SettingError: no finished run there, or an environment that cannot be drawn.
    """
    run_plan, policy = load_policy(run_dir)
    plan = envpool.without_pool(run_plan.job.env)
    trust.check_env(plan.env, plan.env_wrappers)
    drawn = {**plan.env_kwargs, "render_mode": "rgb_array"}
    plan = dataclasses.replace(plan, env_backend="sync", env_kwargs=drawn)
    switches = run_plan.job.switches
    inner: Any = make_vector(plan, 1, seed, training=False, switches=switches)
    atari = atari_game(plan.env) is not None
    fps = 60 / plan.atari_frame_skip if atari else inner.envs[0].metadata.get("render_fps") or 30
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", plan.env)
    recorder = VideoRecorder(inner, run_dir / "videos", f"{name}-seed{seed}", fps)
    _play(run_plan, policy, recorder, episodes, seed, greedy)
    return recorder.files


def export_run(run_dir: pathlib.Path, folder: pathlib.Path, lite: bool = False) -> pathlib.Path:
    """Writes the SavedModel of a run's exported policy to `folder`; see `export`."""
    run_plan, policy = load_policy(run_dir)
    return export(policy, run_plan.spec, folder, lite)


def _play(
    run_plan: RunPlan, policy: Policy, env: VectorEnv, episodes: int, seed: int, greedy: bool
) -> Evaluation:
    """Episodes in `env`, which is closed afterwards.

    Raises:
      SettingError: its spaces are not those that the policy was trained in.
    """
    try:
        run_plan.refuse_other_spaces(env.spec, f"env={env.spec.name!r}")
        size, explore = env.num_envs, not greedy
        knobs = last_knobs(run_plan, size) if explore else {}
        signature = StepSignature(policy, run_plan.spec, size, sorted(knobs), explore)
        engine = make_engine("function", policy, signature)
        limit = run_plan.most_evaluation_env_steps(episodes)
        evaluation = evaluate(engine, env, episodes, seed, knobs, limit)
        warning = unfinished(evaluation, episodes, limit)
        if warning:
            print(warning, file=sys.stderr)
        return evaluation
    finally:
        env.close()


def last_knobs(run_plan: RunPlan, num_envs: int) -> dict[str, np.ndarray]:
    """Knobs of the exploration at the end of training."""
    return run_plan.last_knobs(num_envs, run_plan.job.total_env_steps)


def _saved_spec(job: Job) -> EnvSpec | None:
    """The spec in a run folder. None in a folder of the first version, whose environment has to be asked."""
    path = pathlib.Path(job.run_dir) / folders.SPEC
    if not path.exists():
        trust.check_env(job.env.env, job.env.env_wrappers)
        return None
    try:
        return EnvSpec.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingError(f"{path}: cannot be read, {error.strerror}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise checkpoint.damaged(path, error) from None


def _assign(policy: Policy, arrays: list[np.ndarray]) -> None:
    for variable, array in zip(policy.variables, arrays, strict=True):
        variable.assign(array)


def _total_s_before(run_plan: RunPlan) -> float:
    """Seconds of the sessions that a resumed run continues; of one that was killed, those of training up to its
    checkpoint, since nothing else was written down."""
    path = run_plan.run_dir / "result.json"
    ended_s = json.loads(path.read_text())["total_s"] if path.exists() else 0.0
    trained_s = run_plan.found.state["totals"]["train_s"] if run_plan.found else 0.0
    return max(ended_s, trained_s)
