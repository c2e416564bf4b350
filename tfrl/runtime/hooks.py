"""Calls the callbacks of a run: what they declare is checked before it, what they raise ends it in order."""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrl.callbacks import Callback, Run, StopAtReturn
from tfrl.config import switches
from tfrl.errors import SettingError
from tfrl.job import PLANS, Job, algorithm
from tfrl.logs.metrics import METRICS, Metric, check_declared, unit_of
from tfrl.logs.window import info_metric
from tfrl.runtime.acting.evaluator import evaluation_info, world_metric
from tfrl.runtime.finish import last_knobs
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.serving.loaded import LoadedPolicy
from tfrl.runtime.storage import checkpoint, folders


class Hooks:
    """The callbacks of one run.

    Args:
      run_plan: of the run.
      callbacks: those of the user; `stop_at_return` adds one.

    Attributes:
      run: what they are given.
      metrics: those that the algorithm and they declare, and the means of `info_metrics`.

    Raises:
      SettingError: something that is no callback, or a metric that cannot be declared.
    """

    def __init__(self, run_plan: RunPlan, callbacks: Sequence[Callback] = ()):
        job = run_plan.job
        if isinstance(callbacks, Callback):
            raise SettingError(
                f"callbacks: {type(callbacks).__name__}; expected a list of callbacks, e.g. "
                f"[{type(callbacks).__name__}(...)]"
            )
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise SettingError(
                    f"callbacks: {callback!r} is no tfrl.Callback; expected an object of a class that derives from it"
                )
        target = job.evaluation.stop_at_return
        self._callbacks = [*callbacks, *([] if target is None else [StopAtReturn(target)])]
        self.metrics: dict[str, Metric] = {}
        declaring = {f"algo={job.algo}": algorithm(job.algo)}
        declaring.update({f"with={name}": switches.find(name) for name in job.switches})
        for who, module in declaring.items():
            declared = getattr(module, "METRICS", {})
            check_declared(declared, who, {**METRICS, **self.metrics})
            self.metrics.update(declared)
        for callback in self._callbacks:
            who = f"callback {type(callback).__name__}"
            check_declared(callback.metrics, who, {**METRICS, **self.metrics})
            self.metrics.update(callback.metrics)
        for name in job.log.info_metrics:
            meaning = (
                f"mean of info[{name!r}] at the end of the last 100 training episodes that have it"
            )
            self.metrics[info_metric(name)] = Metric("", meaning)
            meaning = f"mean of info[{name!r}] at the end of the evaluation episodes that have it"
            self.metrics[evaluation_info(name)] = Metric("", meaning)
        for world in job.evaluation.eval_worlds:
            for name, metric in {**METRICS, **self.metrics}.items():
                if name.startswith("evaluator/"):
                    meaning = f"{metric.meaning} in the world {world!r}"
                    self.metrics[world_metric(world, name)] = metric._replace(meaning=meaning)
        for name in run_plan.knobs:
            metric = f"actor/{name}"
            if metric not in METRICS and metric not in self.metrics:
                meaning = f"knob {name!r} of acting, mean over environments"
                self.metrics[metric] = Metric(unit_of(name), meaning)
        self._run_plan, self._exported = run_plan, False
        self._policy: Any = None
        self._error: Exception | None = None
        self.run = Run(run_plan.run_dir, settings_of(job), self._load)

    @property
    def stopped(self) -> bool:
        """Whether a callback has asked for the end, or failed."""
        return bool(self.run.stopped_by)

    def start(self) -> None:
        """Before the first step."""
        for callback in self._callbacks:
            self._call(callback, "on_start")

    def extend(self, row: Mapping[str, float]) -> dict[str, float]:
        """A row of the log with what the callbacks add to it."""
        self.run.env_steps = int(row["run/env_steps"])
        more: dict[str, float] = {}
        hook = "on_log"
        if any(name.startswith("evaluator/") for name in row):
            if "evaluator/return_mean" not in row:  # no episode ended: there is no score
                return {**row}
            hook = "on_evaluation"
        for callback in self._callbacks:
            for name, value in (self._call(callback, hook, row) or {}).items():
                if name not in callback.metrics:
                    self._fail(
                        KeyError(
                            f"{type(callback).__name__}.{hook} gives {name!r}, which is not among its `metrics`"
                        )
                    )
                elif np.isfinite(value):
                    more[name] = float(value)
        return {**row, **more}

    def saved(self, env_steps: int) -> None:
        """After a checkpoint."""
        for callback in self._callbacks:
            self._call(callback, "on_checkpoint", env_steps)

    def ended(self, result: Any) -> None:
        """After the export; raises what a callback has raised before."""
        self._exported = True
        for callback in self._callbacks:
            self._call(callback, "on_end", result)
        if self._error is not None:
            raise self._error

    def failed(self, error: BaseException) -> None:
        """The run ends with an error of its own."""
        for callback in self._callbacks:
            try:
                callback.on_failure(self.run, error)
            except Exception as second:  # a user's code; the first error is the one to be seen
                logging.warning("%s.on_failure: %r", type(callback).__name__, second)

    def _call(self, callback: Callback, hook: str, *args: Any) -> Any:
        if self._error is not None:
            return None
        try:
            return getattr(callback, hook)(self.run, *args)
        except Exception as error:  # a user's code may raise anything
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.run.stop(f"a callback failed: {type(error).__name__}: {error}")

    def _load(self) -> Any:
        name = folders.POLICY if self._exported else pathlib.Path("checkpoints", "last.npz")
        path = self._run_plan.run_dir / name
        if not path.exists():
            return None
        arrays, _ = checkpoint.load_arrays(path)
        run_plan = self._run_plan
        if self._policy is None:
            self._policy = run_plan.agent.make_policy()
            knobs = functools.partial(last_knobs, run_plan)
            self._loaded = LoadedPolicy(self._policy, run_plan.spec, knobs)
        for variable, array in zip(self._policy.variables, arrays, strict=True):
            variable.assign(array)
        return self._loaded


def settings_of(job: Job) -> dict[str, Any]:
    """All settings of a job by name."""
    found = {"algo": str(job.algo), "with": tuple(job.switches)}
    for part in (job.config, *(getattr(job, plan) for plan in PLANS), *job.switches.values()):
        found.update({f.name: getattr(part, f.name) for f in dataclasses.fields(part)})
    found.update({f.name: getattr(job, f.name) for f in dataclasses.fields(job) if f.metadata})
    return found
