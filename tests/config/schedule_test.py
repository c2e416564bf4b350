"""Schedules of several points as settings, and what a resumed run may change of a schedule."""

from absl.testing import absltest, parameterized

from tfrl.api import make_job
from tfrl.config import flags, resolve
from tfrl.errors import SettingError
from tfrl.job import Job


class ScheduleTest(parameterized.TestCase):
    def test_command_line_python_and_json_are_one(self):
        text = "--learning_rate_schedule=0:1e-3, 50_000:1e-4"
        job = flags.parse(["--algo=dqn", text])
        self.assertEqual(job.config.learning_rate_schedule, ((0.0, 1e-3), (50_000.0, 1e-4)))
        python = make_job("dqn", learning_rate_schedule=[[0, 1e-3], (5e4, 1e-4)])
        self.assertEqual(python, job)
        self.assertEqual(Job.from_json(job.to_json()), job)
        shown = flags.value_text(job.config.learning_rate_schedule)
        self.assertEqual(flags.parse(["--algo=dqn", f"--learning_rate_schedule={shown}"]), job)

    @parameterized.parameters(
        ("learning_rate_schedule", "1:2:3", "expected list of step:value"),
        ("learning_rate_schedule", "7", "expected list of step:value"),
        ("learning_rate_schedule", "5:1", "points at 5 env steps; expected the first at 0"),
        ("learning_rate_schedule", "0:1,9:1,9:2", "points at 0, 9, 9 env steps"),
        ("learning_rate_schedule", "0:-1", "learning_rate_schedule=-1.0: expected at least 0"),
        ("epsilon_schedule", "0:1.5", "epsilon_schedule=1.5: expected at most 1"),
    )
    def test_what_is_no_schedule_is_refused(self, name, text, message):
        with self.assertRaisesRegex(SettingError, message):
            flags.parse(["--algo=dqn", f"--{name}={text}"])

    def test_points_are_refused_in_the_unit_of_the_schedule(self):
        flags_ = ["--learning_rate_schedule=0:1,9:1,9:2", "--learning_rate_schedule_unit=updates"]
        with self.assertRaisesRegex(SettingError, "points at 0, 9, 9 updates; expected"):
            flags.parse(["--algo=dqn", *flags_])

    @parameterized.parameters(
        ("dqn", dict(learning_rate_schedule=((0, 1),), learning_rate_final=0.1, learning_rate_updates=5)),
        ("ppo", dict(learning_rate_schedule=((0, 1),), learning_rate_final=0.1, learning_rate_env_steps=5)),
        ("dqn", dict(epsilon_schedule=((0, 1),), epsilon_final=0.1)),
        ("dqn", dict(epsilon_schedule=((0, 1),), epsilon_ladder="actor")),
    )  # fmt: skip
    def test_a_schedule_and_its_other_form_exclude_each_other(self, algo, settings):
        with self.assertRaisesRegex(SettingError, "with (learning_rate|epsilon)_.*leave one of"):
            make_job(algo, **settings)

    @parameterized.parameters(
        ("dqn", dict(learning_rate=0.5, epsilon_final=0.2, gradient_clip_norm=None)),
        ("dqn", dict(learning_rate_schedule=((0.0, 1.0),), epsilon_schedule=((0.0, 0.5),))),
        ("ppo", dict(learning_rate=0.5, entropy_coefficient=0.3)),
    )
    def test_a_resumed_run_may_change_rates_and_schedules(self, algo, changes):
        job = resolve.change(make_job(algo), "a", {"config": changes})
        for name, value in changes.items():
            self.assertEqual(getattr(job.config, name), value)

    def test_a_changed_rate_must_fit_the_rest(self):
        saved = make_job("dqn", learning_rate_schedule=((0, 1),))
        with self.assertRaisesRegex(SettingError, "learning_rate_final=0.1 with learning_rate_s"):
            changes = {"learning_rate_final": 0.1, "learning_rate_updates": 5}
            resolve.change(saved, "a", {"config": changes})


if __name__ == "__main__":
    absltest.main()
