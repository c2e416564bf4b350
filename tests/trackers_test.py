"""W&B and MLflow callbacks, against modules that record what they are called with."""

import pathlib
import sys
import tempfile
from unittest import mock

import pytest
from absl.testing import absltest

import tfrl
from tfrl import trackers
from tfrl.errors import RunFailed, SettingError

SETTINGS = dict(
    env="CartPole-v1", total_env_steps=300, eval_every_env_steps=100, eval_episodes=1, final_eval_episodes=1,
    min_replay=100, log_every_s=0.01, console="none", tensorboard=False, compile="graph",
    inference="function", hidden_sizes=(8,),
)  # fmt: skip


class TrackersTest(absltest.TestCase):
    def train(self, callback, **settings):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        return tfrl.train("dqn", callbacks=[callback], run_dir=folder, **SETTINGS, **settings)

    def inject(self, name):
        module = mock.MagicMock()
        self.put(name, module)
        return module

    def put(self, name, module):
        # Not by `mock.patch.dict`, which would take away what a run imports meanwhile.
        sys.modules[name] = module
        self.addCleanup(sys.modules.pop, name, None)

    def test_wandb(self):
        wandb = self.inject("wandb")
        result = self.train(trackers.Wandb(project="p"))
        arguments = wandb.init.call_args.kwargs
        self.assertEqual(arguments["project"], "p")
        self.assertEqual(arguments["name"], result.run_dir.name)
        self.assertEqual(arguments["config"]["hidden_sizes"], (8,))
        run = wandb.init.return_value
        run.define_metric.assert_called_once_with("*", step_metric="run/env_steps")
        rows = [call.args[0] for call in run.log.call_args_list]
        self.assertTrue(all("run/env_steps" in row for row in rows))
        self.assertTrue(any("evaluator/return_mean" in row for row in rows))
        self.assertTrue(any("learner/loss" in row for row in rows))
        self.assertEqual(
            run.summary.update.call_args.args[0]["final/return_mean"], result.return_mean
        )
        run.finish.assert_called_once_with()

    def test_mlflow(self):
        mlflow = self.inject("mlflow")
        result = self.train(trackers.MLflow(experiment_id="1"))
        mlflow.start_run.assert_called_once_with(run_name=result.run_dir.name, experiment_id="1")
        sent = [call.args[0] for call in mlflow.log_params.call_args_list]
        self.assertLessEqual(max(map(len, sent)), 100)
        self.assertEqual({k: v for part in sent for k, v in part.items()}["env"], "CartPole-v1")
        for call in mlflow.log_metrics.call_args_list[:-1]:
            self.assertEqual(call.kwargs["step"], call.args[0]["run/env_steps"])
        mlflow.log_artifacts.assert_called_once_with(str(result.export_dir), "export")
        mlflow.end_run.assert_called_once_with()

    @pytest.mark.slow
    def test_a_run_that_fails_is_failed_there_too(self):
        wandb, mlflow = self.inject("wandb"), self.inject("mlflow")
        settings = dict(learning_rate=3e38, gradient_clip_norm=None)
        for callback in (trackers.Wandb(), trackers.MLflow()):
            with self.assertRaises(RunFailed):
                self.train(callback, **settings)
        wandb.init.return_value.finish.assert_called_once_with(exit_code=1)
        mlflow.end_run.assert_called_once_with(status="FAILED")

    def test_a_package_that_is_missing_is_named_with_its_extra(self):
        for name, make in (("wandb", trackers.Wandb), ("mlflow", trackers.MLflow)):
            self.put(name, None)
            with self.assertRaisesRegex(SettingError, rf"{name} is not .*'tfrl\[{name}\]'"):
                make()


if __name__ == "__main__":
    absltest.main()
