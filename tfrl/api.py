"""The Python interface: `train`, `load`, `evaluate`. The commands call it. TensorFlow is imported inside the calls."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import numbers
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfrl import files
from tfrl.config import flags, foreign, objects, switches, trust
from tfrl.errors import SettingError
from tfrl.job import Job, settings_classes
from tfrl.settings import from_dict, nearest

if TYPE_CHECKING:
    from tfrl.callbacks import Callback
    from tfrl.runtime.acting.evaluator import Evaluation
    from tfrl.runtime.plan.run_plan import RunPlan
    from tfrl.runtime.serving.loaded import LoadedPolicy
    from tfrl.runtime.stop import Stop


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
      run_dir: folder with everything the run wrote.
      return_mean, return_std, episodes: greedy evaluation of the exported policy; None and 0 if there was none.
      env_steps, updates: totals of the whole run, restarts included.
      train_s: seconds of acting and learning; total_s: seconds in all, start-up and evaluation included.
      export_dir: folder of the SavedModel; None if a second signal skipped the export.
      curve: PNG of the learning curve; None as above.
      interrupted: the run was stopped; `resume` continues it.
      infos: {name of `info_metrics`: its mean over these episodes}.
      worlds: {name: {'return_mean', 'return_std', 'episodes', 'infos'}} of each world of `eval_worlds`; {} without any.
      stopped_by: reason why a callback or `stop_at_return` ended it before `total_env_steps`; '' if none did.
    """

    run_dir: pathlib.Path
    return_mean: float | None
    return_std: float | None
    episodes: int
    env_steps: int
    updates: int
    train_s: float
    total_s: float
    export_dir: pathlib.Path | None
    curve: pathlib.Path | None
    interrupted: bool
    stopped_by: str = ""
    infos: Mapping[str, float] = dataclasses.field(default_factory=dict)
    worlds: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def make_job(algo: str, **settings: Any) -> Job:
    """Makes a job of settings by flag name. Objects are replaced by their names, see `config/objects.py`.

    Raises:
      SettingError: an unknown setting (the nearest is named) or a value that cannot be used.
    """
    trust.name_settings(algo, settings)
    names = named_switches(settings) or ()
    given = sections(algo, settings, names)
    classes = settings_classes(algo, names)
    parts = {part: from_dict(cls, given[part]) for part, cls in classes.items()}
    combined = {name: parts.pop(switches.key(name)) for name in names}
    return Job(algo=algo, switches=combined, asked_for=tuple(settings), **parts, **given["job"])


def named_switches(settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The switches that settings name, None where they name none.

    Raises:
      SettingError: `with_` is no list of names.
    """
    if "with_" not in settings:
        return None
    value = settings["with_"]
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise SettingError(f"with_={value!r}: expected a list of names, e.g. ['observation_noise']")
    return tuple(name.strip() for name in names if name.strip())


def sections(
    algo: str, settings: Mapping[str, Any], combined: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Groups settings by the part of a job that has them: 'job', or a key of `job.settings_classes`.

    Args:
      algo: name of the algorithm.
      settings: flag name -> value; `with_` is left out.
      combined: names of the switches.

    Raises:
      SettingError: a setting that no part has, or as `settings_classes`.
    """
    parts = settings_classes(algo, combined)
    names = {f.name: part for part, cls in parts.items() for f in dataclasses.fields(cls)}
    names.update(
        {
            f.name: "job"
            for f in dataclasses.fields(Job)
            if f.name not in (*parts, "algo", "asked_for", "switches")
        }
    )
    given: dict[str, dict[str, Any]] = {part: {} for part in (*parts, "job")}
    for name, value in settings.items():
        if name == "with_":
            continue
        if name not in names:
            guess = foreign.hint(name, names).replace("--", "")
            guess = guess or flags.switch_hint(name).replace("--with", "with_")
            guess = guess or nearest(name, (*names, "with_"))
            raise SettingError(f"unknown setting {name!r}{guess}")
        given[names[name]][name] = _plain(name, value)
    return given


def train(
    algo: str | Job,
    *,
    callbacks: Sequence[Callback] = (),
    stop: Stop | None = None,
    **settings: Any,
) -> Result:
    """Trains to the end of the job and exports the policy.

    On the main thread, Ctrl-C, SIGTERM and SIGHUP end it early in an orderly way, see docs/concepts.md.

    Args:
      algo: name of an algorithm, or a whole job (then without settings).
      callbacks: objects that are called on every row of the log, evaluation and checkpoint, and may stop the run. See
        `tfrl.Callback`.
      stop: `stop.request()` in another thread ends the run in the same way.
      **settings: any flag, e.g. `env="CartPole-v1", total_env_steps=50_000,
        learning_rate=1e-3`. `with_` is the flag `--with`, a list of switches. `env` may be a class or function that
        makes an environment, or one environment. `network` may be a Keras model or a function that builds one,
        `optimizer` the class of a Keras optimiser or a function that makes one of `learning_rate`.

    Raises:
      SettingError: a setting cannot be used, and nothing has been started; or an environment violates its own spaces
        during the run.
      RunFailed: (of `tfrl.errors`) learning diverges, or with processes a role fails repeatedly.
    """
    started = time.monotonic()
    from tfrl.config import resolve
    from tfrl.errors import RunFailed
    from tfrl.runtime.stop import stop_on_signals
    from tfrl.runtime.storage.owner import owned

    try:
        with stop_on_signals(stop) as stop, owned(resolve.check(_job(algo, settings))) as job:
            return _train(_settle_evaluation(job), started, callbacks, stop)
    except SystemExit as error:  # it would end the program as if all were well
        raise RunFailed(f"something in the run called sys.exit({error.code!r})") from error
    finally:
        # Traced functions are cycles: many runs in one process would keep the networks and replays of several.
        gc.collect()


def _job(algo: str | Job, settings: Mapping[str, Any]) -> Job:
    """The job that `train` was given, whole or in settings; with `resume` the one of the run folder, changed."""
    from tfrl.config import resolve

    trust.name_settings(algo, settings)
    if isinstance(algo, Job):
        if settings:
            raise SettingError(
                f"a whole job and settings besides ({', '.join(settings)}): give one or the other"
            )
        return algo
    if settings.get("resume") and settings.get("run_dir"):
        run_dir = str(settings["run_dir"])
        saved, named = resolve.load_job(run_dir), named_switches(settings)
        given = sections(algo, settings, tuple(saved.switches) if named is None else named)
        return resolve.change(saved, run_dir, given, algo, named, tuple(settings))
    return make_job(algo, **settings)


def _train(job: Job, started: float, callbacks: Sequence[Callback], stop: Stop) -> Result:
    """`train` in a folder that belongs to this process alone."""
    if job.topology.backend == "processes":
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # the learner's process is the one that takes them
    from tfrl.envs.make import make_vector
    from tfrl.runtime.interrupt import start_tensorflow
    from tfrl.runtime.plan.run_plan import plan_run
    from tfrl.runtime.plan.threads import op_threads
    from tfrl.runtime.storage import checkpoint_files, mend

    if job.resume:
        checkpoint_files.warn(mend.mend(pathlib.Path(job.run_dir)))
    start_tensorflow(op_threads(job))
    with contextlib.ExitStack() as stack:
        only = None
        if job.evaluation.eval_env == "none" and job.topology.backend == "inprocess":
            # No second environment may be built, not even to read its spaces.
            names = job.log.info_metrics
            only = make_vector(
                job.env, job.topology.num_envs, job.seed, info_names=names, switches=job.switches
            )
            stack.callback(only.close)
        run_plan = plan_run(job, only and only.spec, starting=True)
        return _run(dataclasses.replace(run_plan, env=only), started, callbacks, stop)


def _run(run_plan: RunPlan, started: float, callbacks: Sequence[Callback], stop: Stop) -> Result:
    """Runs what has been built."""
    from tfrl.envs.make import pick_backend
    from tfrl.logs import episode_file
    from tfrl.logs.logger import Logger
    from tfrl.logs.native import native_output_to
    from tfrl.runtime import rehearsal
    from tfrl.runtime.backends.last_words import VANISHED, last_words
    from tfrl.runtime.finish import finish
    from tfrl.runtime.hooks import Hooks
    from tfrl.runtime.plan import memory
    from tfrl.runtime.storage import folders, mend

    job = run_plan.job
    if run_plan.found is not None:
        _refuse_less(job, run_plan.found.state["env_steps"])
    memory.refuse_too_large(run_plan)
    for num_envs in (job.topology.num_envs, job.evaluation.eval_num_envs):
        pick_backend(job.env, num_envs)  # one that cannot serve is refused now
    if job.topology.isolate:
        from tfrl.runtime.backends.isolation import Isolation

        Isolation().close()  # a machine that has none is refused now
    hooks = Hooks(run_plan, callbacks)
    job.save(run_plan.run_dir / "job.json")
    files.write_text(run_plan.run_dir / folders.SPEC, json.dumps(run_plan.spec.to_json()) + "\n")
    run_dir = run_plan.run_dir
    vanished = (
        f"error: the run in {run_dir} has ended without a word: {VANISHED}; its logs are in {run_dir / 'logs'}, "
        f"{trust.resume_flags(run_dir, job)} goes on from the newest checkpoint"
    )
    with (
        native_output_to(run_plan.run_dir / "logs" / "native.log"),
        last_words(vanished),
        Logger(
            run_plan.run_dir,
            job.log,
            job.total_env_steps,
            metrics=hooks.metrics,
            extend=hooks.extend,
            settings=job.summary(),
        ) as logger,
    ):
        if job.resume and run_plan.found is None:
            mend.start_over(run_plan.run_dir)
            logger.announce(
                "starting again at 0 env steps: the run was stopped before its first checkpoint"
            )
        if job.log.episodes_csv:
            kept = run_plan.found and run_plan.found.state["env_steps"]
            names = job.log.info_metrics
            episode_file.start(run_plan.run_dir / episode_file.NAME, names, kept)
        for line in run_plan.agent.notes:
            logger.announce(line)
        try:
            hooks.start()
            rehearsed = rehearsal.before_training(run_plan)
            outcome = _backend(job.topology.backend)(run_plan, logger, stop, hooks)
            outcome["stopped_by"] = hooks.run.stopped_by
            result = Result(**finish(run_plan, outcome, started, logger, stop, rehearsed))
        except BaseException as error:
            hooks.failed(error)
            raise
    hooks.ended(result)
    return result


def load(
    path: str | pathlib.Path, network: Any = None, trust_modules: Sequence[str] = ()
) -> LoadedPolicy:
    """Loads the exported policy of a run folder: `env.step(policy.predict(obs))`.

    Args:
      path: the run folder. It may come from anywhere: no code that it names is run unless you name it too.
      network: builder of the run's network, an object or its name, if the run has a network of your own.
      trust_modules: modules whose code the folder may run, for a network or an algorithm.

    Raises:
      SettingError: the folder holds no finished run, or needs code that was not named.
    """
    from tfrl.runtime.finish import last_knobs, load_policy
    from tfrl.runtime.serving.loaded import LoadedPolicy

    _trust(trust_modules, network=network)
    run_plan, policy = load_policy(pathlib.Path(path), network)
    return LoadedPolicy(policy, run_plan.spec, lambda rows: last_knobs(run_plan, rows))


def evaluate(
    path: str | pathlib.Path,
    episodes: int = 100,
    seed: int = 0,
    greedy: bool = True,
    num_envs: int = 10,
    env: Any = None,
    network: Any = None,
    trust_modules: Sequence[str] = (),
    world: str = "",
) -> Evaluation:
    """Evaluates the exported policy of a run folder on seeded, full episodes with unclipped rewards.

    Args:
      path: the run folder. It may come from anywhere: no code that it names is run unless you name it too.
      episodes: number of episodes.
      seed: the same seed gives the same episodes.
      greedy: if False, acts with the exploration of the end of training.
      num_envs: most environments that are stepped together.
      env, network: environment and network of the run, if they are objects of yours or come from a module of yours.
      trust_modules: modules whose code the folder may run, instead of naming each object.
      world: one of the run's `eval_worlds`; '': the environment of training.

    Raises:
      SettingError: the folder holds no finished run, or needs code that was not named; a number cannot be used; the
        environment has other spaces.
    """
    for name, value, least in (
        ("episodes", episodes, 1),
        ("seed", seed, 0),
        ("num_envs", num_envs, 1),
    ):
        if not isinstance(value, numbers.Integral) or value < least:
            raise SettingError(f"{name}={value!r}: expected an int of at least {least}")
    from tfrl.runtime.finish import evaluate_run

    _trust(trust_modules, env=env, network=network)
    return evaluate_run(pathlib.Path(path), episodes, seed, greedy, num_envs, env, network, world)


def _trust(modules: Sequence[str], **objects_given: Any) -> None:
    """Lets a run folder use the modules that the user names, as such or by what they hold."""
    trust.name((modules,) if isinstance(modules, str) else modules)
    trust.name_settings(None, objects_given)


def _settle_evaluation(job: Job) -> Job:
    """The job with `eval_env` settled.

    Raises:
      SettingError: one environment is to be two, or to be in several processes.
    """
    from tfrl.envs.names import is_one

    one, where = is_one(job.env), job.evaluation.eval_env
    if one and job.topology.backend == "processes":
        raise SettingError(
            f"backend=processes with env={job.env.env!r}: one environment lives in one process; expected a function or "
            "class that builds one, or backend=inprocess"
        )
    if one and where == "own":
        raise SettingError(
            f"eval_env=own with env={job.env.env!r}: there is one environment; expected a function or class that "
            "builds one, or eval_env=none"
        )
    if where == "auto":
        where = "none" if one else "own"
    return dataclasses.replace(job, evaluation=dataclasses.replace(job.evaluation, eval_env=where))


def _refuse_less(job: Job, done: int) -> None:
    """Raises SettingError where a run that goes on was given fewer env steps than it has made."""
    from tfrl.config import resolve

    # Actors may have made some more than the job before asked for.
    before = resolve.load_job(job.run_dir).total_env_steps
    if job.total_env_steps < min(done, before):
        raise SettingError(
            f"total_env_steps={job.total_env_steps} with resume: the run in {job.run_dir!r} has made {done:,}; "
            "expected at least as many"
        )


def _backend(name: str) -> Callable:
    if name == "processes":
        from tfrl.runtime.backends import processes as multiprocess

        return multiprocess.run
    from tfrl.runtime.backends import inprocess

    return inprocess.run


# Settings that may be Python objects.
_OBJECTS = ("env", "network", "optimizer")


def _plain_world(changes: Any) -> Any:
    """The settings of an evaluation world, objects as their names."""
    if not isinstance(changes, Mapping):
        return changes
    return {name: _plain(name, value) for name, value in changes.items()}


def _plain(name: str, value: Any) -> Any:
    """A setting as a job holds it: objects as their names, NumPy's numbers as Python's.

    Raises:
      SettingError: an object where the setting takes none.
    """
    if isinstance(value, (str, type(None))):
        return value
    if name in _OBJECTS:
        return objects.named(value)
    if name == "eval_worlds" and isinstance(value, Mapping):
        return {world: _plain_world(changes) for world, changes in value.items()}
    if name == "env_wrappers" and isinstance(value, (list, tuple)):
        return tuple(objects.named(x) if callable(x) else x for x in value)
    if callable(value):
        raise SettingError(
            f"{name}={value!r}: expected a plain value; {', '.join(_OBJECTS)} may be objects"
        )
    # A NumPy scalar has `item` and no axis. What `env_kwargs` holds stays as it is.
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value
