"""Evaluation in several worlds: what is played where, which world judges, and where the scores are shown."""

import csv
import json
import pathlib
import shutil
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.api import make_job
from tfrl.cli import evaluate
from tfrl.config import flags, trust
from tfrl.errors import SettingError
from tfrl.job import EnvPlan, EvalPlan, Job
from tfrl.logs import console, curve
from tfrl.runtime.plan.run_plan import plan_run

GAME = "tfrl.testing.fakes:IdentityGame"
WORLDS = {
    "short": {"env_kwargs": {"length": 5}},
    "train": {},
    "long": {"env_kwargs": {"length": 40}},
}
SETTINGS = dict(
    env=GAME, env_kwargs={"num_actions": 3}, hidden_sizes=(8,), total_env_steps=200, min_replay=50,
    updates_per_call=4, eval_every_env_steps=100, eval_episodes=3, final_eval_episodes=4, console="none",
    compile="graph", inference="function", tensorboard=False, eval_worlds=WORLDS,
)  # fmt: skip


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


class PlanTest(parameterized.TestCase):
    def test_a_world_is_the_environment_of_training_but_for_its_settings(self):
        env = EnvPlan(env=GAME, env_kwargs={"num_actions": 3, "length": 10}, max_episode_steps=7)
        plan = EvalPlan(
            eval_worlds={
                "a": {},
                "b": {"env_kwargs": {"length": 5}, "max_episode_steps": 9},
                "c": {"env": "CartPole-v1"},
                "d": {"env_wrappers": ["a:B"]},
            }
        )
        worlds = plan.worlds(env)
        self.assertEqual(list(worlds), ["a", "b", "c", "d"])
        self.assertEqual(worlds["a"], env)
        self.assertEqual(worlds["b"].env_kwargs, {"num_actions": 3, "length": 5})
        self.assertEqual((worlds["b"].max_episode_steps, worlds["c"].max_episode_steps), (9, 7))
        self.assertEqual((worlds["c"].env, worlds["c"].env_kwargs), ("CartPole-v1", {}))
        self.assertEqual(worlds["d"].env_wrappers, ("a:B",))
        self.assertEqual(EvalPlan().worlds(env), {"": env})

    def test_the_first_judges_unless_another_is_named(self):
        self.assertEqual(EvalPlan(eval_worlds=WORLDS).judge, "short")
        self.assertEqual(EvalPlan(eval_worlds=WORLDS, eval_world="long").judge, "long")
        self.assertEqual(EvalPlan().judge, "")

    def test_flags_python_and_job_json_keep_the_order(self):
        text = json.dumps(WORLDS)
        typed = flags.parse(["--algo=dqn", f"--eval_worlds={text}"])
        self.assertEqual(typed, make_job("dqn", eval_worlds=WORLDS))
        again = Job.from_json(typed.to_json())
        self.assertEqual(list(again.evaluation.eval_worlds), ["short", "train", "long"])
        self.assertEqual(again, typed)

    @parameterized.parameters(
        ({"A": {}}, "eval_worlds\\['A'\\]: expected a name of lower-case letters"),
        ({"a": 3}, "eval_worlds\\['a'\\]=3: expected settings of the environment"),
        (
            {"a": {"env_kwarg": {}}},
            "eval_worlds\\['a'\\]: unknown setting 'env_kwarg'; did you mean env_kw",
        ),
        (
            {"a": {"max_episode_steps": 0}},
            "eval_worlds\\['a'\\]: max_episode_steps=0: expected at l",
        ),
    )
    def test_worlds_are_checked(self, worlds, message):
        with self.assertRaisesRegex(SettingError, message):
            make_job("dqn", eval_worlds=worlds)

    def test_settings_without_effect_are_refused(self):
        with self.assertRaisesRegex(SettingError, "eval_world=.*no effect with eval_worlds={}"):
            make_job("dqn", eval_world="a")
        with self.assertRaisesRegex(SettingError, "eval_world='lon': .*did you mean long"):
            make_job("dqn", eval_worlds=WORLDS, eval_world="lon")
        with self.assertRaisesRegex(SettingError, "no effect with eval_env=none"):
            make_job("dqn", eval_worlds=WORLDS, eval_env="none")

    def test_other_spaces_are_refused_before_the_run(self):
        worlds = {**WORLDS, "wide": {"env_kwargs": {"num_actions": 5}}}
        job = make_job("dqn", **{**SETTINGS, "eval_worlds": worlds, "run_dir": "x"})
        with self.assertRaisesRegex(SettingError, "eval_worlds\\['wide'\\]: .*trained with Box"):
            plan_run(job, starting=True)
        worlds = {"wrong": {"env": "tfrl.testing.fakes:IdentityGam"}}
        job = make_job("dqn", **{**SETTINGS, "eval_worlds": worlds, "run_dir": "x"})
        with self.assertRaisesRegex(SettingError, "eval_worlds\\['wrong'\\]: .*IdentityGam"):
            plan_run(job, starting=True)

    def test_a_run_folder_may_not_name_modules_by_a_world(self):
        for changes in ({"env": "json.tool:main"}, {"env_wrappers": ["json.tool:main"]}):
            with mock.patch.object(trust, "_named", set()):
                job = Job.from_json(make_job("dqn").to_json())
                plan = EvalPlan(eval_worlds={"a": changes})
                job = tfrl.job.dataclasses.replace(job, evaluation=plan)
                with self.assertRaisesRegex(SettingError, "is named by a run folder"):
                    trust.check_job(job)
                trust.name_settings(None, {"eval_worlds": json.dumps({"a": changes})})
                self.assertEqual(trust._named, {"json.tool"})


class RunTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def test_scores_of_every_world_are_everywhere(self):
        run_dir = self.folder / "run"
        result = tfrl.train("dqn", run_dir=run_dir, **SETTINGS)
        self.assertEqual(list(result.worlds), ["short", "train", "long"])
        self.assertEqual(result.return_mean, result.worlds["short"]["return_mean"])
        self.assertLessEqual(result.worlds["short"]["return_mean"], 5)
        self.assertEqual([w["episodes"] for w in result.worlds.values()], [4, 4, 4])
        stored = json.loads((run_dir / "result.json").read_text())
        self.assertEqual(stored["worlds"], result.worlds)
        self.assertEqual(stored["evaluation_mode"], "greedy")
        found = [r for r in rows(run_dir / "metrics.csv") if r["evaluator/return_mean"]]
        self.assertLen(found, 2)
        for row in found:
            self.assertEqual(row["evaluator/return_mean"], row["eval/short/return_mean"])
            lengths = [row[f"eval/{w}/length_mean_env_steps"] for w in WORLDS]
            self.assertEqual([float(x) for x in lengths], [5.0, 20.0, 40.0])
        drawn = curve.read_run(run_dir)
        self.assertEqual(list(drawn.worlds), ["train", "long"])
        self.assertLen(drawn.worlds["long"][0], 2)
        line = console.evaluation_line({k: float(v) for k, v in found[0].items() if v})
        self.assertRegex(line, "; short .*; train .*; long ")
        longer = tfrl.evaluate(run_dir, episodes=2, world="long")
        self.assertEqual(longer.lengths_env_steps, (40, 40))
        self.assertEqual(tfrl.evaluate(run_dir, episodes=1).lengths_env_steps, (20,))
        with self.assertRaisesRegex(SettingError, "world='lon': .*did you mean long"):
            tfrl.evaluate(run_dir, episodes=1, world="lon")
        self.assertEqual(evaluate.main([f"--run_dir={run_dir}", "--episodes=1", "--world=long"]), 0)
        resumed = tfrl.train("dqn", run_dir=run_dir, resume=True, total_env_steps=240)
        self.assertEqual(list(resumed.worlds), ["short", "train", "long"])

    def test_sampled_evaluations_explore_as_training_does(self):
        settings = {
            **SETTINGS, "eval_worlds": {}, "eval_mode": "sampled", "eval_every_env_steps": 0,
            "final_eval_episodes": 20, "epsilon_initial": 1.0, "epsilon_final": 1.0,
        }  # fmt: skip
        result = tfrl.train("dqn", run_dir=self.folder / "run", **settings)
        # All actions are random: one in three pays.
        error = 5 * np.sqrt(20 * 2 / 9 / 20)
        self.assertBetween(result.return_mean, 20 / 3 - error, 20 / 3 + error)
        stored = json.loads((self.folder / "run" / "result.json").read_text())
        self.assertEqual(stored["evaluation_mode"], "sampled")


if __name__ == "__main__":
    tf.test.main()
