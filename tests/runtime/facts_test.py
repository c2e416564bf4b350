"""Facts of a learner reach knobs, environments and the log; its artifacts reach the run folder."""

import csv
import json
import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.envs.make import make_vector
from tfrl.errors import RunFailed
from tfrl.job import EnvPlan
from tfrl.runtime import facts
from tfrl.runtime.storage.checkpoint import Checkpoint
from tfrl.testing import fakes

ENV = "tfrl.testing.fakes:PaidByFact"
SETTINGS = dict(
    env=ENV, hidden_sizes=(8,), total_env_steps=4_000, eval_env="none", min_replay=50, console="none",
    log_every_s=0.05, updates_per_call=4, compile="graph", inference="function", tensorboard=False,
)  # fmt: skip


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


class RunTest(tf.test.TestCase, parameterized.TestCase):
    def test_a_fact_of_the_learner_reaches_knobs_and_environments(self):
        self.check("inprocess")

    @pytest.mark.slow
    def test_a_fact_of_the_learner_reaches_those_of_other_processes(self):
        self.check("processes")

    def check(self, backend):
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place) / "run"
            tfrl.train("tfrl.testing.guided", run_dir=folder, backend=backend, **SETTINGS)
            paid = [float(row["return"]) / 10 for row in rows(folder / "episodes.csv")]
            logged = [
                float(row["actor/boldness"])
                for row in rows(folder / "metrics.csv")
                if row["actor/boldness"]
            ]
            # What is no weight is in the run folder as files, and was in the newest checkpoint.
            shape = json.loads((folder / "artifacts" / "shape.json").read_text())
            layer = np.load(folder / "artifacts" / "first_layer.npy", allow_pickle=False)
            newest = Checkpoint(max((folder / "checkpoints").glob("0*")), {}).artifacts()
        self.assertEqual([shape["rows"], shape["columns"]], list(layer.shape))
        self.assertAllEqual(newest["first_layer"], layer)
        self.assertGreater(np.abs(layer).sum(), 0.0)
        self.assertGreater(len(set(paid)), 3)  # it follows the weights
        self.assertNotEmpty(logged)
        for value in logged:
            self.assertBetween(value, min(paid) - 1e-3, max(paid) + 1.0)
        self.assertGreater(min(paid), 0.0)  # from the first step on


class StopAfterTwo(tfrl.Callback):
    """Ends the run at its second evaluation."""

    count = 0

    def on_evaluation(self, run, row):
        self.count += 1
        if self.count == 2:
            run.stop("two evaluations")


class EvaluationTest(tf.test.TestCase, parameterized.TestCase):
    @pytest.mark.slow
    def test_a_fact_of_an_evaluation_reaches_the_environments_of_training(self):
        self.check("inprocess")

    @pytest.mark.slow
    def test_a_fact_of_an_evaluation_reaches_those_of_other_processes(self):
        self.check("processes")

    def check(self, backend):
        settings = dict(
            backend=backend, total_env_steps=60_000, eval_env="own", eval_every_env_steps=2_000,
            eval_episodes=1, final_eval_episodes=0, info_metrics=("skill", "difficulty"),
            eval_worlds={"train": {}, "long": {"env_kwargs": {"length": 30}}},
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place) / "run"
            more = {**SETTINGS, **settings}
            tfrl.train("tfrl.testing.guided", run_dir=folder, callbacks=[StopAfterTwo()], **more)
            found = rows(folder / "episodes.csv")
            tfrl.train(
                "tfrl.testing.guided", run_dir=folder, resume=True, callbacks=[StopAfterTwo()]
            )
            again = rows(folder / "episodes.csv")[len(found) :]
        skills = [row["skill"] for row in found]
        self.assertEqual(skills[0], "")  # before the first evaluation
        self.assertEqual(float(skills[-1]), 20.0)  # of 10 and 30 env steps
        self.assertEqual(float(again[0]["skill"]), 20.0)  # a resumed run has it from its start on
        self.assertGreater(float(found[-1]["difficulty"]), 0.0)  # beside those of the learner


class EnvironmentTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters("sync", "async")
    def test_a_vector_passes_facts_to_those_that_take_them(self, backend):
        vector = make_vector(EnvPlan(env=ENV, env_backend=backend, observe_previous=True), 2, 0)
        vector.reset(0)
        vector.set({"difficulty": 3.0})
        self.assertAllEqual(vector.step(np.zeros(2, np.int64)).reward, [3.0, 3.0])
        vector.close()
        other = make_vector(EnvPlan(env_backend=backend), 1, 0)
        other.set({"difficulty": 3.0})
        other.close()

    def test_a_wrapper_may_take_them(self):
        env = fakes.PaidByFact()
        self.assertTrue(env.has_wrapper_attr("set_facts"))


class CheckTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ({"A": 1}, "expected a name of lower-case letters"),
        ({"a": float("nan")}, "fact 'a' is nan; expected a finite number"),
        ({"a": "x"}, "fact 'a' is 'x'"),
        ({facts.MAX_PRIORITY: 1.0}, "another source gives a fact of this name"),
    )
    def test_what_cannot_be_published_is_refused_by_name(self, given, message):
        with self.assertRaisesRegex(RunFailed, f"Learner.facts: .*{message}"):
            facts.checked(given, "Learner.facts", {facts.MAX_PRIORITY: 1.0})

    def test_a_name_of_both_is_refused(self):
        self.assertEqual(facts.merged({"a": 1.0}, {"b": 2.0}), {"a": 1.0, "b": 2.0})
        with self.assertRaisesRegex(RunFailed, "fact 'a': both Learner.facts and Agent.on_ev"):
            facts.merged({"a": 1.0}, {"a": 2.0})

    def test_tensors_become_floats(self):
        self.assertEqual(facts.checked({"a": tf.constant(2.0)}, "x", {}), {"a": 2.0})


if __name__ == "__main__":
    tf.test.main()
