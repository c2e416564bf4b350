"""Searches settings with Optuna: each trial is a run, and a run that falls behind is ended early.

Optuna and TensorFlow are imported by `tune` alone.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfrl import api
from tfrl.callbacks import Callback, Run
from tfrl.config.flags import value_text
from tfrl.errors import SettingError
from tfrl.settings import nearest

if TYPE_CHECKING:
    import optuna

PRUNED = "pruned"
KINDS = ("log", "uniform", "int", "choices")


@dataclasses.dataclass(frozen=True)
class Range:
    """The range of a setting in a search: (lowest, highest) of a 'log', 'uniform' or 'int' range, or the 'choices'."""

    kind: str
    values: tuple[Any, ...]

    def sample(self, name: str, trial: optuna.Trial) -> Any:
        """The value that a trial takes."""
        if self.kind == "choices":
            # Optuna takes numbers and text only, and a choice may be a list.
            return self.values[trial.suggest_categorical(name, list(range(len(self.values))))]
        if self.kind == "int":
            return trial.suggest_int(name, *self.values)
        return trial.suggest_float(name, *self.values, log=self.kind == "log")


def ranges(search: Mapping[str, Any], algo: str, combined: Sequence[str] = ()) -> dict[str, Range]:
    """{setting: Range} of {setting: {kind: values}}.

    Args:
      search: what to search.
      algo: name of the algorithm.
      combined: names of switches, whose settings may be searched too.

    Raises:
      SettingError: nothing to search, an unknown setting, or a range that is none.
    """
    if not search:
        raise SettingError(
            'search: expected at least one setting, e.g. {"learning_rate": {"log": [1e-5, 1e-2]}}'
        )
    api.sections(algo, dict.fromkeys(search), combined)  # refuses unknown names
    found = {}
    for name, spec in search.items():
        where = f"search of {name}: {spec!r}"
        if not isinstance(spec, Mapping) or len(spec) != 1:
            raise SettingError(f'{where}: expected {{kind: values}}, e.g. {{"log": [1e-5, 1e-2]}}')
        ((kind, values),) = spec.items()
        if kind not in KINDS:
            raise SettingError(
                f"{where}: expected one of {', '.join(KINDS)}{nearest(str(kind), KINDS)}"
            )
        values = tuple(values) if isinstance(values, (list, tuple)) else ()
        numbers = all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
        if kind == "choices":
            if not values:
                raise SettingError(f"{where}: expected a list of values")
        elif len(values) != 2 or not numbers or values[0] >= values[1]:
            raise SettingError(f"{where}: expected [lowest, highest]")
        elif kind == "log" and values[0] <= 0:
            raise SettingError(f"{where}: expected a lowest above 0 on a logarithmic range")
        found[name] = Range(kind, values)
    return found


def tune(
    algo: str,
    search: Mapping[str, Any],
    trials: int,
    study_dir: str | pathlib.Path,
    prune: bool = True,
    seed: int = 0,
    announce: Callable[[str], None] = print,
    **settings: Any,
) -> optuna.Study:
    """Looks for the settings with the highest final score.

    Args:
      algo: name of the algorithm.
      search: {setting: {kind: values}}; kinds are 'log', 'uniform' and 'int' with [lowest, highest], and 'choices'.
      trials: runs to make.
      study_dir: folder of the study; each trial has a run folder in it. A study that is there goes on.
      prune: end trials whose evaluations are below the median of the others at as many env steps.
      seed: of the search; trials differ in what is searched alone, and in `seed` of the settings if that is.
      announce: takes a line for each trial.
      **settings: of every run, as in `tfrl.train`.

    Returns:
      The study. `best.flags` in its folder holds what the best trial took.

    Raises:
      SettingError: something cannot be used, Optuna is not installed, or runs without a final score.
      KeyboardInterrupt: a trial was interrupted; the study can go on.
    """
    try:
        import optuna
    except ImportError as error:
        raise SettingError(
            f"tune: a package is missing ({error}); pip install 'tfrl[tune]'"
        ) from error
    from tfrl.errors import RunFailed

    wanted = ranges(search, algo, api.named_switches(settings) or ())
    folder = pathlib.Path(study_dir)
    both = sorted(set(wanted) & set(settings))
    if both:
        raise SettingError(f"{both[0]}: given and searched; expected one of the two")
    job = api.make_job(algo, **settings)
    if not job.evaluation.final_eval_episodes or job.evaluation.eval_env == "none":
        raise SettingError(
            "tune: trials are compared by their final score; expected final_eval_episodes above 0"
        )
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / 'study.db').absolute()}",
        study_name="tfrl",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner(),
    )

    def objective(trial: optuna.Trial) -> float:
        values = {name: found.sample(name, trial) for name, found in wanted.items()}
        words = ", ".join(f"{name}={value_text(value)}" for name, value in values.items())
        callback = _Reports(trial)
        run_dir = folder / f"trial-{trial.number:04d}"
        try:
            result = api.train(
                algo, callbacks=[callback], run_dir=run_dir, **{**settings, **values}
            )
        except RunFailed as error:
            announce(f"trial {trial.number}: failed, {words}: {str(error).splitlines()[-1]}")
            raise
        if result.interrupted:
            raise KeyboardInterrupt
        if result.stopped_by == PRUNED:
            announce(f"trial {trial.number}: pruned at {result.env_steps:,} env steps, {words}")
            raise optuna.TrialPruned
        announce(f"trial {trial.number}: {result.return_mean:g}, {words}")
        return result.return_mean

    study.optimize(objective, n_trials=trials, catch=(RunFailed,))
    done = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if done:
        best = study.best_trial
        chosen = {
            name: wanted[name].values[value] if wanted[name].kind == "choices" else value
            for name, value in best.params.items()
        }
        lines = [f"# trial {best.number} of {len(study.trials)}: {best.value:g}"]
        lines += [f"--{name}={value_text(value)}" for name, value in chosen.items()]
        (folder / "best.flags").write_text("\n".join(lines) + "\n")
        announce(f"best: trial {best.number}, {best.value:g}: {folder / 'best.flags'}")
    return study


class _Reports(Callback):
    """Tells Optuna each evaluation, and ends the run where the trial is to be pruned."""

    def __init__(self, trial: optuna.Trial):
        self._trial = trial

    def on_evaluation(self, run: Run, row: Mapping[str, float]) -> None:
        self._trial.report(row["evaluator/return_mean"], run.env_steps)
        if self._trial.should_prune():
            run.stop(PRUNED)
