"""Curves of run folders."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest
from matplotlib.figure import Figure

from tfrl.config.settings import SettingError
from tfrl.job import EnvPlan, LogPlan
from tfrl.logs import curve
from tfrl.logs.logger import Logger


class CurveTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def run_folder(self, name, rows, seed=0, env="CartPole-v1", result=None, **config):
        folder = self.folder / name
        with Logger(folder, LogPlan(console="none", tensorboard=False), 100) as logger:
            logger.write({"run/env_steps": 0})
            for row in rows:
                logger.write(row)
        job = {"algo": "dqn", "seed": seed, "env": dataclasses.asdict(EnvPlan(env=env))}
        (folder / "job.json").write_text(json.dumps({**job, "config": {"n_step": 1, **config}}))
        if result:
            (folder / "result.json").write_text(json.dumps(result))
        return folder

    def rows(self, offset=0.0):
        rows = [{"run/env_steps": x, "actor/episode_return_mean": x + offset} for x in (10, 20, 30)]
        rows.append(
            {"run/env_steps": 20, "evaluator/return_mean": 5 + offset, "evaluator/return_std": 2}
        )
        return rows

    def draw(self, *folders):
        """The axes of the drawn figure; checks that a PNG was written."""
        path = self.folder / "plots" / "curve.png"
        figures = []
        make = lambda *args, **kwargs: figures.append(Figure(*args, **kwargs)) or figures[-1]
        with mock.patch.object(curve, "Figure", make):
            curve.draw_curve(folders, path)
        self.assertEqual(path.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
        return [axes for axes in figures[0].axes if axes.axison]

    def line(self, axes, word):
        (line,) = [line for line in axes.get_lines() if word in line.get_label()]
        return line.get_xydata().tolist()

    def test_one_run(self):
        result = {"return_mean": 7.0, "episodes": 3, "env_steps": 30, "exported_env_steps": 20}
        (axes,) = self.draw(self.run_folder("a", self.rows(), seed=4, result=result))
        self.assertEqual(axes.get_title(), "dqn on CartPole-v1, seed 4")
        self.assertEqual(axes.get_xlabel(), "env steps")
        self.assertEqual(self.line(axes, "training"), [[10, 10], [20, 20], [30, 30]])
        self.assertEqual(self.line(axes, "greedy evaluation"), [[20, 5]])
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        self.assertIn("dqn: final score 7.0 (3 episodes)", labels)

    def test_seeds_are_one_line_with_their_spread(self):
        folders = [self.run_folder(str(s), self.rows(10.0 * s), seed=s) for s in range(3)]
        (axes,) = self.draw(*folders)
        self.assertEqual(axes.get_title(), "dqn on CartPole-v1, seeds 0, 1, 2")
        self.assertEqual(self.line(axes, "training"), [[10, 20], [20, 30], [30, 40]])
        self.assertEqual(self.line(axes, "greedy evaluation"), [[20, 15]])

    def test_other_settings_are_not_averaged(self):
        folders = [
            self.run_folder("a", self.rows()),
            self.run_folder("b", self.rows(), seed=1),
            self.run_folder("c", self.rows(), n_step=3),
        ]
        groups = curve.group([curve.read_run(folder) for folder in folders])
        sizes = {label: len(runs) for label, runs in groups.items()}
        self.assertEqual(sizes, {"dqn (n_step=1)": 2, "dqn (n_step=3)": 1})

    def test_many_differences_are_numbered(self):
        folders = [
            self.run_folder("a", [], x=1, y=1, z=1), self.run_folder("b", [], x=2, y=2, z=2)
        ]  # fmt: skip
        groups = curve.group([curve.read_run(folder) for folder in folders])
        self.assertEqual(list(groups), ["dqn (settings 1)", "dqn (settings 2)"])

    def test_a_plot_for_each_environment(self):
        folders = [self.run_folder(env, self.rows(), env=env) for env in ("A-v0", "B-v0", "C-v0")]
        titles = [axes.get_title() for axes in self.draw(*folders)]
        self.assertEqual(titles, [f"dqn on {env}-v0, seed 0" for env in "ABC"])

    def test_run_without_an_episode(self):
        (axes,) = self.draw(self.run_folder("a", []))
        self.assertIn("no episode has ended yet", [text.get_text() for text in axes.texts])

    def test_numbers_that_cannot_be_drawn_are_left_out(self):
        rows = [*self.rows(), {"run/env_steps": 40, "actor/episode_return_mean": float("nan")}]
        run = curve.read_run(self.run_folder("a", rows))
        self.assertEqual(run.training[0].tolist(), [10, 20, 30])

    def test_spread(self):
        short = (np.array([0.0, 10.0]), np.array([0.0, 10.0]))
        long = (np.array([2.0, 20.0]), np.array([4.0, 22.0]))
        x, mean, low, high = curve.spread([short, long])
        self.assertEqual((x[0], x[-1]), (2.0, 10.0))
        np.testing.assert_allclose(mean, x + 1)
        np.testing.assert_allclose(low, x)
        np.testing.assert_allclose(high, x + 2)
        apart = (np.array([30.0]), np.array([1.0]))
        self.assertEmpty(curve.spread([short, apart])[0])

    def test_not_a_run_folder(self):
        (self.folder / "empty").mkdir()
        broken = self.run_folder("broken", [])
        (broken / "job.json").write_text("{")
        for name, message in (
            ("absent", "not a run folder, no job.json there"),
            ("empty", "not a run folder, no job.json there"),
            ("broken", "the run folder is damaged"),
        ):
            with self.assertRaisesRegex(SettingError, message):
                curve.draw_curve([self.folder / name], self.folder / "x.png")
        with self.assertRaisesRegex(SettingError, "no run folders"):
            curve.draw_curve([], self.folder / "x.png")


if __name__ == "__main__":
    absltest.main()
