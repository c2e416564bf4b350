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

from tfrl.errors import SettingError
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

    def test_a_dollar_in_a_name_is_no_formula(self):
        rows = self.rows()
        runs = [self.run_folder(x, rows, env="mine:$a^$", network=f"{x}:$b_{{$") for x in "ab"]
        (axes,) = self.draw(*runs)
        self.assertEqual(axes.get_title(), "mine:$a^$")
        self.draw(runs[0])

    def test_one_run(self):
        result = {"return_mean": 7.0, "episodes": 3, "env_steps": 30, "exported_env_steps": 20}
        (axes,) = self.draw(self.run_folder("a", self.rows(), seed=4, result=result))
        self.assertEqual(axes.get_title(), "dqn on CartPole-v1, seed 4")
        self.assertEqual(axes.get_xlabel(), "env steps")
        self.assertEqual(self.line(axes, "training"), [[10, 10], [20, 20], [30, 30]])
        self.assertEqual(self.line(axes, "greedy evaluation"), [[20, 5]])
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        self.assertIn("dqn: final score 7 (3 episodes)", labels)

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

    def test_labels_name_the_settings_that_differ(self):
        folders = [self.run_folder(str(n), self.rows(), x=n, y=n, z=n) for n in (1, 2)]
        groups = curve.group([curve.read_run(f) for f in folders])
        self.assertEqual(list(groups), ["dqn (x=1, y=1, z=1)", "dqn (x=2, y=2, z=2)"])

    def test_more_differences_than_a_legend_takes_are_numbered(self):
        same = dict(a=0, b=0, c=0, d=0, e=0)
        folders = [
            self.run_folder("1", self.rows(), **same, f=1),
            self.run_folder("2", self.rows(), **{**same, "a": 1, "b": 1, "c": 1, "d": 1}, f=1),
            self.run_folder("3", self.rows(), **{**same, "e": 1}, f=1),
        ]
        groups = curve.group([curve.read_run(f) for f in folders])
        self.assertEqual(
            list(groups),
            [
                "dqn (1: a=0, b=0, c=0, d=0 and 1 more)",
                "dqn (2: a=1, b=1, c=1, d=1 and 1 more)",
                "dqn (3: a=0, b=0, c=0, d=0 and 1 more)",
            ],
        )

    def legend(self, *folders, labels=()):
        path, figures = self.folder / "labels.png", []
        make = lambda *args, **kwargs: figures.append(Figure(*args, **kwargs)) or figures[-1]
        with mock.patch.object(curve, "Figure", make):
            curve.draw_curve(folders, path, labels)
        return figures[0].axes[0]

    def test_several_runs_of_one_seed_are_not_several_seeds(self):
        for seeds, text in (
            ((1, 1, 1), "mean of 3 runs of one seed, 1"),
            ((1, 2, 3), "mean of 3 seeds"),
            ((1, 2, 2), "mean of 3 runs of 2 seeds"),
        ):
            name = "".join(map(str, seeds))
            folders = [
                self.run_folder(f"{name}-{i}", self.rows(), seed) for i, seed in enumerate(seeds)
            ]
            _, words = self.legend(*folders).get_legend_handles_labels()
            self.assertTrue(all(text in word for word in words), words)

    def test_labels_of_the_user(self):
        folders = [self.run_folder(str(n), self.rows(), n, n_step=n) for n in (1, 2, 3)]
        _, words = self.legend(
            *folders, labels=("mine", "other", "mine")
        ).get_legend_handles_labels()
        self.assertEqual(len({word.partition(":")[0] for word in words}), 2)
        self.assertTrue(any(word.startswith("mine: training") for word in words))
        with self.assertRaisesRegex(SettingError, "labels=a,b: expected 3, one for each run"):
            curve.draw_curve(folders, self.folder / "x.png", ("a", "b"))

    def test_the_legend_hides_no_point(self):
        axes = self.legend(self.run_folder("a", self.rows()))
        axes.figure.canvas.draw()
        legend = axes.get_legend().get_window_extent()
        self.assertLess(legend.y1, axes.get_window_extent().y0)

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
            ("brokn", "not a run folder, no job.json there; did you mean .*/broken"),
            ("empty", "not a run folder, no job.json there"),
            ("broken", "the run folder is damaged"),
        ):
            with self.assertRaisesRegex(SettingError, message):
                curve.draw_curve([self.folder / name], self.folder / "x.png")
        with self.assertRaisesRegex(SettingError, "no run folders"):
            curve.draw_curve([], self.folder / "x.png")


if __name__ == "__main__":
    absltest.main()
