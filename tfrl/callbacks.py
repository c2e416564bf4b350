"""A user's own functions that a run calls on each row of its log, evaluation and checkpoint, at its start and end.

    class StopWhenSolved(tfrl.Callback):
        def on_evaluation(self, run, row):
            if row["evaluator/return_mean"] >= 475:
                run.stop("solved")

    tfrl.train("dqn", env="CartPole-v1", callbacks=[StopWhenSolved()])

They run in the process that called `tfrl.train`, with every backend, between two pieces of training. They receive
numbers and the policy, but no internals of the run. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from tfrl.logs.metrics import Metric


class Run:
    """The interface of a run to its callbacks.

    Attributes:
      run_dir: folder of the run.
      settings: all settings by name, those of the algorithm among them.
      env_steps: env steps so far.
      stopped_by: reason why the run ends before `total_env_steps`; '' if it does not.
    """

    def __init__(self, run_dir: pathlib.Path, settings: dict[str, Any], load: Callable[[], Any]):
        self.run_dir, self.settings = run_dir, settings
        self.env_steps, self.stopped_by = 0, ""
        self._load = load

    def stop(self, reason: str) -> None:
        """Ends training as if `total_env_steps` were reached: a checkpoint, the final evaluation, the export.

        Args:
          reason: shown to the user and kept in `result.json`; only the first one counts.
        """
        self.stopped_by = self.stopped_by or reason or "a callback"

    def policy(self) -> Any:
        """The policy of the newest evaluation, or the exported one after the end, as `tfrl.load` gives it.

        One object per run, whose weights this call brings up to date; None before the first evaluation.
        """
        return self._load()


class Callback:
    """Base of callbacks: every hook does nothing; override those that you need.

    If a hook raises, the run ends in an orderly way, and `tfrl.train` then raises the error.

    Attributes:
      metrics: {name: Metric(unit, meaning)} of the numbers that its hooks add to the log, e.g. 'callback/distance_m'.
        Names have the form of tfrl's names and differ from all of them.
    """

    metrics: Mapping[str, Metric] = {}

    def on_start(self, run: Run) -> None:
        """Called before the first step."""

    def on_log(self, run: Run, row: Mapping[str, float]) -> Mapping[str, float] | None:
        """Called on a row of training metrics, every `log_every_s`; returns metrics to add to it, or None."""

    def on_evaluation(self, run: Run, row: Mapping[str, float]) -> Mapping[str, float] | None:
        """Called on a row with the `evaluator/...` metrics; returns metrics to add to it, or None."""

    def on_checkpoint(self, run: Run, env_steps: int) -> None:
        """Called when the checkpoint at `env_steps` is complete."""

    def on_end(self, run: Run, result: Any) -> None:
        """Called after the export with the `tfrl.Result`, unless the run fails."""

    def on_failure(self, run: Run, error: BaseException) -> None:
        """Called when the run ends with `error`, which `tfrl.train` raises. Errors of this method are dropped."""


class StopAtReturn(Callback):
    """Stops at a mean return of an evaluation, or of the last 100 training episodes if none is made.

    Args:
      target: return that is enough.
    """

    LEAST_EPISODES = 100

    def __init__(self, target: float):
        self._target, self._evaluates = target, True

    def on_start(self, run: Run) -> None:
        """Finds out whether the run makes evaluations."""
        self._evaluates = (
            run.settings["eval_every_env_steps"] > 0 and run.settings["eval_env"] != "none"
        )

    def on_log(self, run: Run, row: Mapping[str, float]) -> None:
        """Stops on the training return if no evaluation is made."""
        if not self._evaluates and row["run/episodes"] >= self.LEAST_EPISODES:
            self._look(run, row.get("actor/episode_return_mean"), "training")

    def on_evaluation(self, run: Run, row: Mapping[str, float]) -> None:
        """Stops if the evaluation reaches the target."""
        self._look(run, row.get("evaluator/return_mean"), "evaluation")

    def _look(self, run: Run, reached: float | None, where: str) -> None:
        if reached is not None and reached >= self._target:
            run.stop(f"stop_at_return={self._target:g}: {where} return {reached:g}")
