"""Callbacks that send a run's metrics to Weights & Biases or MLflow. Their packages are imported when a run starts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from tfrl.callbacks import Callback, Run
from tfrl.errors import SettingError


def _package(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingError(
            f"callbacks: {name} is not installed ({error}); pip install 'tfrl[{extra}]'"
        ) from error


class Wandb(Callback):
    """Logs every row to a Weights & Biases run.

    Args:
      **init: arguments of `wandb.init`, e.g. `project="cartpole"`; name, folder and settings of the run are given.

    Raises:
      SettingError: wandb is not installed.
    """

    def __init__(self, **init: Any):
        self._wandb, self._init = _package("wandb", "wandb"), init
        self._run: Any = None

    def on_start(self, run: Run) -> None:
        """Begins a W&B run with all settings; rows are drawn over env steps."""
        given = {"name": run.run_dir.name, "dir": str(run.run_dir), "config": run.settings}
        self._run = self._wandb.init(**{**given, **self._init})
        self._run.define_metric("*", step_metric="run/env_steps")

    def on_log(self, run: Run, row: Mapping[str, float]) -> None:
        """Sends the row."""
        self._run.log(dict(row))

    def on_evaluation(self, run: Run, row: Mapping[str, float]) -> None:
        """Sends the row."""
        self._run.log(dict(row))

    def on_end(self, run: Run, result: Any) -> None:
        """Writes the final score to the summary and ends the W&B run."""
        self._run.summary.update(_summary(result))
        self._run.finish()

    def on_failure(self, run: Run, error: BaseException) -> None:
        """Ends the W&B run as failed."""
        if self._run is not None:
            self._run.finish(exit_code=1)


class MLflow(Callback):
    """Logs every row to an MLflow run, at its env steps, and the export as an artifact.

    Args:
      **start: arguments of `mlflow.start_run`, e.g. `experiment_id="1"`; the run has the name of its folder.

    Raises:
      SettingError: mlflow is not installed.
    """

    MOST_PARAMS = 100  # that MLflow takes at once

    def __init__(self, **start: Any):
        self._mlflow, self._start = _package("mlflow", "mlflow"), start
        self._started = False

    def on_start(self, run: Run) -> None:
        """Begins an MLflow run with all settings as its parameters."""
        self._mlflow.start_run(**{"run_name": run.run_dir.name, **self._start})
        self._started = True
        params = list(run.settings.items())
        for i in range(0, len(params), self.MOST_PARAMS):
            self._mlflow.log_params(dict(params[i : i + self.MOST_PARAMS]))

    def on_log(self, run: Run, row: Mapping[str, float]) -> None:
        """Sends the row."""
        self._mlflow.log_metrics(dict(row), step=int(row["run/env_steps"]))

    def on_evaluation(self, run: Run, row: Mapping[str, float]) -> None:
        """Sends the row."""
        self._mlflow.log_metrics(dict(row), step=int(row["run/env_steps"]))

    def on_end(self, run: Run, result: Any) -> None:
        """Sends the final score and the export, and ends the MLflow run."""
        self._mlflow.log_metrics(_summary(result), step=result.env_steps)
        if result.export_dir is not None:
            self._mlflow.log_artifacts(str(result.export_dir), "export")
        self._mlflow.end_run()

    def on_failure(self, run: Run, error: BaseException) -> None:
        """Ends the MLflow run as failed."""
        if self._started:
            self._mlflow.end_run(status="FAILED")


def _summary(result: Any) -> dict[str, float]:
    score = {"final/return_mean": result.return_mean, "final/return_std": result.return_std}
    return {name: value for name, value in score.items() if value is not None}
