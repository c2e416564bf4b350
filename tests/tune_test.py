"""The search of settings: what is searched, what is pruned, what is left."""

import pathlib
import tempfile

import pytest
from absl.testing import absltest, parameterized

from tfrl import tune
from tfrl.errors import SettingError

pytest.importorskip("optuna")

SETTINGS = dict(
    env="tfrl.testing.fakes:IdentityGame", env_kwargs={"length": 5}, total_env_steps=400, eval_every_env_steps=100,
    eval_episodes=2, final_eval_episodes=4, min_replay=100, console="none", tensorboard=False,
    compile="graph", inference="function", hidden_sizes=(8,), checkpoint_every_env_steps=0,
)  # fmt: skip


class RangesTest(parameterized.TestCase):
    @parameterized.parameters(
        ({}, "expected at least one setting"),
        ({"learning_rat": {"log": [1, 2]}}, "unknown setting 'learning_rat'; did you mean learning_rate"),
        ({"n_step": [1, 2]}, "expected {kind: values}"),
        ({"n_step": {"choice": [1, 2]}}, "did you mean choices"),
        ({"n_step": {"int": [2, 2]}}, r"expected \[lowest, highest\]"),
        ({"learning_rate": {"log": [0, 1]}}, "a lowest above 0"),
        ({"n_step": {"choices": []}}, "expected a list of values"),
    )  # fmt: skip
    def test_what_cannot_be_searched_is_refused(self, search, message):
        with self.assertRaisesRegex(SettingError, message):
            tune.ranges(search, "dqn")

    def test_settings_of_a_switch_are_searched_with_it(self):
        search = {"noise_std": {"uniform": [0.0, 1.0]}}
        found = tune.ranges(search, "dqn", ["observation_noise"])
        self.assertEqual(found["noise_std"].values, (0.0, 1.0))
        with self.assertRaisesRegex(SettingError, "add with_=observation_noise"):
            tune.ranges(search, "dqn")

    def test_trials_need_a_score(self):
        search = {"n_step": {"int": [1, 3]}}
        with self.assertRaisesRegex(SettingError, "expected final_eval_episodes above 0"):
            tune.tune("dqn", search, 1, "unused", final_eval_episodes=0)
        with self.assertRaisesRegex(SettingError, "n_step: given and searched"):
            tune.tune("dqn", search, 1, "unused", n_step=3)


class TuneTest(absltest.TestCase):
    def test_the_better_setting_is_found_and_a_study_goes_on(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "study"
        search = {
            "discount": {"uniform": [0.0, 0.1]},
            "hidden_sizes": {"choices": [[4], [16, 16]]},
            "learning_rate": {"log": [1e-3, 1e-2]},
        }
        settings = {k: v for k, v in SETTINGS.items() if k != "hidden_sizes"}
        lines = []
        study = tune.tune("dqn", search, 1, folder, announce=lines.append, **settings)
        self.assertLen(study.trials, 1)
        self.assertRegex(
            lines[0], r"^trial 0: [-\d.]+, discount=.*, hidden_sizes=.*, learning_rate="
        )
        study = tune.tune("dqn", search, 1, folder, announce=lines.append, **settings)
        self.assertLen(study.trials, 2)
        self.assertTrue((folder / "trial-0001" / "result.json").exists())
        text = (folder / "best.flags").read_text()
        self.assertIn(f"trial {study.best_trial.number} of 2: {study.best_value:g}", text)
        self.assertRegex(text, r"--hidden_sizes=(4|16,16)\n")

    def test_a_trial_that_falls_behind_is_ended(self):
        import optuna

        class Behind:
            number, reports = 7, []

            def report(self, value, step):
                self.reports.append((value, step))

            def should_prune(self):
                return len(self.reports) == 2

        trial, folder = Behind(), pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        from tfrl import api

        result = api.train(
            "dqn", callbacks=[tune._Reports(trial)], run_dir=folder / "run", **SETTINGS
        )
        self.assertEqual(result.stopped_by, tune.PRUNED)
        self.assertLess(result.env_steps, 400)
        self.assertLen(trial.reports, 2)
        self.assertEqual(trial.reports[-1][1], result.env_steps)
        self.assertTrue(issubclass(optuna.TrialPruned, Exception))


if __name__ == "__main__":
    absltest.main()
