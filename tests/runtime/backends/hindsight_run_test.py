"""Runs that relabel transitions: what is refused, and the ratio of updates to env steps."""

import pathlib
import tempfile

import pytest
from absl.testing import parameterized

import tfrl
from tfrl.api import make_job
from tfrl.errors import SettingError
from tfrl.logs import csv_file
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.testing.processes import Run

BITS = "tfrl.envs.goals:BitFlip"
SETTINGS = dict(
    env=BITS, her_relabels=4, num_envs=2, batch_size=16, env_steps_per_update=4.0, updates_per_call=8,
    min_replay=100, hidden_sizes=(8,), compile="graph", inference="lite", tensorboard=False,
    eval_every_env_steps=0, final_eval_episodes=4, eval_episodes=2, info_metrics=("is_success",),
)  # fmt: skip


class HindsightRunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    @parameterized.parameters(
        (dict(env="CartPole-v1"), "her_relabels with env='CartPole-v1': .* has no observation, d"),
        (
            dict(observe_previous=True),
            "her_relabels=4 with observe_previous=True: previous rewards would be those of another",
        ),
        (
            dict(with_=["observation_noise"]),
            "her_relabels=4 with with=observation_noise: the environment computes rewards",
        ),
        (dict(env="tfrl.testing.fakes:PartsAndDiscount"), "its steps have parts of rewards"),
        (dict(core="lstm"), "her_relabels=4 with core=lstm: a memory is trained on sequences"),
        (
            dict(prioritized=True, actor_priorities=True),
            "actor_priorities=True with her_relabels=4: actors have no action values",
        ),
        (dict(sends_gradients=True), "her_relabels=4: no effect with sends_gradients=true"),
        (dict(algo="ppo"), "her_relabels"),
        (dict(env="ALE/Pong-v5"), "her_relabels with env='ALE/Pong-v5': .* has no observation"),
    )
    def test_what_does_not_fit_is_refused_before_anything_starts(self, settings, message):
        settings = dict(settings)
        with self.assertRaisesRegex(SettingError, message):
            algo = settings.pop("algo", "dqn")
            job = make_job(algo, **{"env": BITS, "her_relabels": 4, **settings})
            plan_run(job, starting=True)

    def test_copies_change_neither_the_updates_nor_when_they_begin(self):
        with_, without = (
            plan_run(make_job("dqn", **{**SETTINGS, "her_relabels": k}), starting=k > 0)
            for k in (4, 0)
        )
        self.assertEqual(with_.env_steps_per_call, without.env_steps_per_call)
        mine, theirs = with_.agent.experience, without.agent.experience
        self.assertEqual(mine.capacity_items, 5 * theirs.capacity_items)
        self.assertEqual(mine.min_items, 5 * theirs.min_items)
        self.assertEqual(
            with_.hindsight_line,
            "hindsight: 4 copies of each transition, with goals achieved later in its episode",
        )
        self.assertEqual(without.hindsight_line, "")

    def test_a_run_makes_as_many_updates_as_it_should(self):
        self.check_updates("learner")

    @pytest.mark.slow
    def test_over_a_server_it_does_too(self):
        self.check_updates("server")

    def check_updates(self, residency):
        result = tfrl.train(
            "dqn", run_dir=str(self.folder / "run"), total_env_steps=1_500, console="none",
            replay_residency=residency, **SETTINGS,
        )  # fmt: skip
        # The copies of the two episodes that go on are missing, and up to a call of 8 updates.
        wanted = (1_500 - 100) / 4
        self.assertBetween(result.updates, wanted - 2 * 15 / 4 - 8, wanted)
        rows = csv_file.read(self.folder / "run" / "metrics.csv")
        row = [row for row in rows if "replay/items_inserted" in row][-1]
        self.assertBetween(row["replay/items_inserted"], 5 * (1_500 - 2 * 15), 5 * 1_500)
        self.assertIn("info/is_success", row)
        self.assertEqual(set(result.infos), {"is_success"})

    @parameterized.parameters("learner", "server")
    @pytest.mark.slow
    def test_actor_processes_relabel_too(self, residency):
        settings = dict(SETTINGS, hidden_sizes="8", info_metrics="is_success", console="plain")
        run = Run(
            self.folder, "dqn", num_actors=2, total_env_steps=4_000, replay_residency=residency,
            **settings,
        )  # fmt: skip
        self.addCleanup(run.close)
        self.assertEqual(run.wait(), 0, run.text())
        self.assertIn("hindsight: 4 copies of each transition", run.text())
        result, row = run.result(), run.rows()[-1]
        env_steps = result["env_steps"]
        self.assertBetween(row["replay/items_inserted"], 5 * (env_steps - 4 * 15), 5 * env_steps)
        wanted = (env_steps - 100) / 4
        self.assertBetween(result["updates"], wanted - 4 * 15 / 4 - 2 * 8, wanted)
