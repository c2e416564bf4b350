"""The entries of a study: what is kept, found and read from run folders."""

import json
import pathlib
import tempfile

from absl.testing import absltest

from tfrl.benchmark import study


class StudyTest(absltest.TestCase):
    def folder(self):
        return pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def test_entries_stand_on_a_line_each(self):
        path = self.folder() / "results.json"
        self.assertEqual(study.load(path), [])
        first, second = {"algo": "dqn", "seed": 1, "score": 2.5}, {"algo": "dqn", "seed": 2}
        study.append(path, first)
        study.append(path, second)
        self.assertEqual(path.read_text(), f"[\n{json.dumps(first)},\n{json.dumps(second)}\n]\n")
        self.assertEqual(study.load(path), [first, second])

    def test_an_entry_replaces_those_of_its_key(self):
        path = self.folder() / "results.json"
        for entry in ({"algo": "dqn", "score": 1}, {"algo": "ppo", "score": 2}):
            study.append(path, entry)
        study.append(path, {"algo": "dqn", "score": 3}, replaces=["algo"])
        self.assertEqual(
            study.load(path), [{"algo": "ppo", "score": 2}, {"algo": "dqn", "score": 3}]
        )

    def test_entries_of_a_key(self):
        runs = [{"algo": a, "seed": s} for a in ("dqn", "ppo") for s in (1, 2)]
        self.assertEqual(study.of(runs, algo="ppo"), runs[2:])
        self.assertEqual(study.of(runs, algo="dqn", seed=2), runs[1:2])
        self.assertEqual(study.of(runs, seed=3), [])

    def test_evaluations_are_the_rows_that_have_one(self):
        folder = self.folder()
        (folder / "metrics.csv").write_text(
            "run/env_steps,evaluator/return_mean\n100,\n200.0,7.5\n300,\n400.0,9.0\n"
        )
        self.assertEqual(study.evaluations(folder), [[200, 7.5], [400, 9.0]])
        self.assertLen(study.logged(folder, "run/env_steps"), 4)

    def test_the_first_evaluation_that_reaches_a_goal(self):
        evaluations = [[100, 3.0], [200, 7.5], [300, 6.0], [400, 9.0]]
        self.assertEqual(study.env_steps_to(7.5, evaluations), 200)
        self.assertEqual(study.env_steps_to(10.0, evaluations), float("inf"))
        self.assertEqual(study.env_steps_to(0.0, []), float("inf"))


if __name__ == "__main__":
    absltest.main()
