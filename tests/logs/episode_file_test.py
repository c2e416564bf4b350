"""Rows of training episodes, and numbers of their last info, from environments to files."""

import csv
import pathlib
import tempfile
import time

import gymnasium as gym
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import tfrl
from tfrl.envs.make import make_spec, make_vector
from tfrl.envs.vector import BatchVector
from tfrl.errors import SettingError
from tfrl.job import EnvPlan, LogPlan
from tfrl.logs import csv_file, episode_file
from tfrl.types import Episode


class Told(gym.Env):
    """Ends after 3 steps; its info says how many episodes it has ended, and at each other one a second number."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    ended = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {"ended": -1, "even": -1.0}

    def step(self, action):
        self.steps += 1
        self.ended += self.steps == 3
        info = {"ended": self.ended if self.steps == 3 else -2, "text": "a"}
        if self.steps == 3 and self.ended % 2 == 0:
            info["even"] = np.float32(0.5)
        return np.zeros(1, np.float32), 1.0, self.steps == 3, False, info


NAMES = ("ended", "even")


class InfoTest(parameterized.TestCase):
    def played(self, env, steps=9):
        env.reset(0)
        return [
            e for _ in range(steps) for e in env.step(np.zeros(env.num_envs, np.int32)).episodes
        ]

    def check(self, episodes):
        for row in (0, 1):
            infos = [e.infos for e in episodes if e.row == row]
            np.testing.assert_array_equal(infos[:2], [(1.0, np.nan), (2.0, 0.5)])

    @parameterized.parameters("sync", "async")
    def test_the_last_info_of_each_episode_is_kept(self, backend):
        plan = EnvPlan(env=f"{__name__}:Told", env_backend=backend)
        if backend == "async":
            plan = EnvPlan(
                env=tfrl.api.make_job("dqn", env=lambda: Told()).env.env, env_backend="async"
            )
        env = make_vector(plan, 2, 0, info_names=NAMES)
        self.addCleanup(env.close)
        self.check(self.played(env))

    def test_where_the_environment_restarts_within_the_step(self):
        inner = SyncVectorEnv([Told, Told], autoreset_mode=AutoresetMode.SAME_STEP)
        spec = make_spec(EnvPlan(env=f"{__name__}:Told"))
        env = BatchVector(inner, spec, 0, backend="native", info_names=NAMES)
        self.check(self.played(env))

    def test_none_are_kept_unless_they_are_asked_for(self):
        episodes = self.played(make_vector(EnvPlan(env=f"{__name__}:Told"), 2, 0))
        self.assertEqual({e.infos for e in episodes}, {()})

    def test_what_is_no_number_is_refused_by_name(self):
        env = make_vector(EnvPlan(env=f"{__name__}:Told"), 1, 0, info_names=("text",))
        with self.assertRaisesRegex(
            SettingError, r"info_metrics: info\['text'\] of env='.*' is 'a';"
        ):
            self.played(env)
        with self.assertRaisesRegex(SettingError, "info_metrics=a,b c: expected different names"):
            LogPlan(info_metrics=("a", "b c"))


class EpisodeFileTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.path = self.folder / "episodes.csv"

    def rows(self, path=None):
        with open(path or self.path, newline="") as file:
            return list(csv.DictReader(file))

    def test_rows_of_several_actors_and_what_a_resume_keeps(self):
        episode_file.start(self.path, NAMES)
        files = [episode_file.EpisodeFile(self.path, actor, time.time()) for actor in (0, 1)]
        for i in range(1_200):
            files[i % 2].add(i, Episode(i % 3, i / 4, 7, (float(i), float("nan"))))
        files[0].close()
        files[1].close()
        rows = sorted(self.rows(), key=lambda row: int(row["env_steps"]))
        self.assertLen(rows, 1_200)
        self.assertEqual(rows[5]["return"], "1.25")
        self.assertEqual(
            [rows[5][x] for x in ("actor", "env", "ended", "even")], ["1", "2", "5", ""]
        )
        with open(self.path, "a") as file:
            file.write("3,1.0")  # a machine went down here
        episode_file.start(self.path, ("even", "new"), keep_env_steps=9)
        kept = self.rows()
        self.assertEqual(sorted(int(row["env_steps"]) for row in kept), list(range(10)))
        self.assertEqual(list(kept[0]), [*episode_file.COLUMNS, "even", "new"])

    @parameterized.parameters(dict(), dict(backend="processes", num_actors=2))
    @pytest.mark.slow
    def test_runs_write_every_episode(self, **settings):
        result = tfrl.train(
            "dqn", env=lambda: Told(), num_envs=2, total_env_steps=300, min_replay=100, hidden_sizes=(8,),
            eval_every_env_steps=0, final_eval_episodes=0, console="none", tensorboard=False, log_every_s=0.01,
            compile="graph", inference="function", info_metrics=NAMES, run_dir=self.folder / "run", **settings,
        )  # fmt: skip
        rows, logged = (
            self.rows(result.run_dir / "episodes.csv"),
            csv_file.read(result.run_dir / "metrics.csv"),
        )
        self.assertLen(rows, int(logged[-1]["run/episodes"]))
        self.assertEqual({(row["return"], row["length_env_steps"]) for row in rows}, {("3", "3")})
        self.assertEqual({row["actor"] for row in rows}, {"0", "1"} if settings else {"0"})
        self.assertEqual({row["env"] for row in rows}, {"0", "1"})
        self.assertEqual(logged[-1]["info/even"], 0.5)
        ended = [float(row["ended"]) for row in rows]
        self.assertGreater(logged[-1]["info/ended"], 1.0)
        self.assertLessEqual(logged[-1]["info/ended"], max(ended))


if __name__ == "__main__":
    absltest.main()
