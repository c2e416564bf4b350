"""From a job to its parts, and what is refused before anything starts."""

import json
import pathlib
import tempfile
from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.api import make_job
from tfrl.errors import SettingError
from tfrl.replay import learner_replay
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.storage.checkpoint import Checkpoints

IDENTITY = "tfrl.testing.fakes:IdentityGame"


class RunPlanTest(parameterized.TestCase):
    def test_the_arithmetic_of_a_run(self):
        job = make_job(
            "dqn",
            env=IDENTITY,
            batch_size=64,
            env_steps_per_update=2,
            updates_per_call=128,
            min_replay=1_000,
        )
        run_plan = plan_run(job)
        self.assertEqual(run_plan.agent.experience.samples_per_insert, 32.0)
        self.assertEqual(run_plan.env_steps_per_call, 256)
        self.assertEqual(
            run_plan.arithmetic,
            "256 env steps -> 128 updates of 64 items, 32 samples per insert, starting at 1,000 items",
        )

    @parameterized.parameters(
        ("dqn", dict(min_replay=1_000, batch_size=64, updates_per_call=128), 1_250, 1_256),
        ("dqn", dict(min_replay=1_000, batch_size=64, updates_per_call=128), 1_255, 1_256),
        ("dqn", dict(min_replay=1_000, batch_size=64, updates_per_call=128), 1_256, None),
        ("dqn", dict(min_replay=1_000, batch_size=64, updates_per_call=128, num_envs=8), 1_249, None),
        ("dqn", dict(min_replay=500, core="lstm", sequence_length=20, sequence_period=10, burn_in=2), 300, 570),
        ("a2c", dict(unroll_length=5, num_envs=4), 10, None),
        ("ppo", dict(unroll_length=8, num_envs=1, num_actors=4, backend="processes"), 20, None),
        ("impala", dict(unroll_length=5, num_envs=1, batch_env_steps=40), 30, None),
    )  # fmt: skip
    def test_a_run_without_an_update_is_told_at_its_start(self, algo, settings, total, needed):
        settings = {"env_steps_per_update": 2, **settings} if algo == "dqn" else settings
        job = make_job(algo, env=IDENTITY, total_env_steps=total, **settings)
        line = plan_run(job).too_short_line
        if needed is None:
            self.assertEqual(line, "")
        else:
            self.assertEqual(
                line,
                f"no update will be made: the first one needs {needed:,} env steps, total_env_steps is {total:,}",
            )

    @parameterized.parameters((23, 0), (24, 2))
    def test_the_line_tells_the_truth(self, total, updates):
        settings = dict(
            env=IDENTITY, min_replay=20, batch_size=8, updates_per_call=2, env_steps_per_update=2
        )
        settings.update(
            total_env_steps=total, eval_env="none", final_eval_episodes=0, console="none"
        )
        line = plan_run(make_job("dqn", **settings)).too_short_line
        self.assertEqual(bool(line), not updates)
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        result = tfrl.train("dqn", **settings, run_dir=folder)
        self.assertEqual(
            json.loads((result.run_dir / "result.json").read_text())["updates"], updates
        )

    def test_an_environment_that_shows_the_previous_action(self):
        job = make_job("dqn", env="tfrl.testing.fakes:MaskedBandit", observe_previous=True)
        run_plan = plan_run(job)
        self.assertTrue(run_plan.spec.has_action_mask)
        self.assertIn("obs_t/previous_reward", run_plan.layout.packing.dtype.names)

    @parameterized.parameters((32, 4, 1, 4), (32, 4, 32, 128), (32, 0.5, 1, 1), (10, 2.5, 3, 8))
    def test_env_steps_that_pay_for_a_call(self, batch, per_update, calls, expected):
        job = make_job(
            "dqn",
            env=IDENTITY,
            batch_size=batch,
            env_steps_per_update=per_update,
            updates_per_call=calls,
        )
        self.assertEqual(plan_run(job).env_steps_per_call, expected)

    @parameterized.parameters(
        (dict(env="CartPole-v7"), "CartPole"),
        (
            dict(env="tfrl.testing.fakes:TargetPoint"),
            "algo=dqn .*expected a Discrete action space, got Box",
        ),
        *(
            (
                dict(env=f"tfrl.testing.fakes:{name}"),
                f"expected a Discrete action space, got {kind}",
            )
            for name, kind in (
                ("MatchMultiDiscrete", "MultiDiscrete"),
                ("MatchMultiBinary", "MultiBinary"),
                ("MatchDict", "Dict"),
                ("MatchTuple", "Tuple"),
                ("MaskedPair", "MultiDiscrete"),
            )
        ),
        (dict(env=IDENTITY, network="cnn"), "network=cnn"),
        (dict(env="ALE/Pong-v5", observe_previous=True), "observe_previous .*stacked frames"),
        (dict(env=IDENTITY, network="tfrl.nope:net"), "network='tfrl.nope:net'"),
        (dict(env=IDENTITY, num_learner_devices=2, batch_size=33), "batch_size=33"),
        (dict(env=IDENTITY, num_learner_devices=9), "num_learner_devices=9"),
        (dict(env=IDENTITY, num_learner_devices=2, compile="xla"), "compile=xla"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            plan_run(make_job("dqn", **settings))

    @parameterized.parameters("es", "ars")
    def test_xla_is_refused_where_it_would_round_perturbations_in_another_way(self, algo):
        settings = dict(env=IDENTITY, num_envs=1)
        with self.assertRaisesRegex(
            SettingError, f"compile=xla with algo={algo}: .*use graph or auto"
        ):
            plan_run(make_job(algo, compile="xla", **settings))
        # Those of a table are copied, not computed.
        table = dict(noise_source="table", noise_size=10_000)
        plan_run(make_job(algo, compile="xla", **table, **settings))

    def test_a_checkpoint_of_other_spaces_is_refused(self):
        run_dir = self.enter_context(tempfile.TemporaryDirectory())
        job = make_job("dqn", env=IDENTITY, run_dir=run_dir)
        module = tf.Module()
        module.x = tf.Variable(0.0)
        checkpoints = Checkpoints(
            pathlib.Path(run_dir) / "checkpoints", "dqn", plan_run(job).spec, 2
        )
        checkpoints.save(1, module, {}, None)
        plan_run(make_job("dqn", env=IDENTITY, run_dir=run_dir, resume=True))
        with self.assertRaisesRegex(SettingError, r"\(4,\).* but this run has .*\(3,\)"):
            plan_run(
                make_job(
                    "dqn", env=IDENTITY, env_kwargs={"num_actions": 3}, run_dir=run_dir, resume=True
                )
            )


class ResidencyTest(parameterized.TestCase):
    def test_auto_says_what_it_picked_and_why(self):
        self.assertRegex(
            plan_run(make_job("dqn", env=IDENTITY)).residency_line,
            r"replay: learner \(it takes \d+ MB of [\d,]+ MB free\)",
        )
        with mock.patch.object(learner_replay, "free_bytes", lambda: 3 * 2**20):
            large = plan_run(make_job("dqn", env=IDENTITY))
        self.assertRegex(
            large.residency_line, r"replay: server \(it takes [\d,]+ MB of [\d,]+ MB free\)"
        )
        forced = plan_run(make_job("dqn", env=IDENTITY, replay_residency="server"))
        self.assertEqual(forced.residency_line, "replay: server (as set)")
        self.assertRegex(
            plan_run(make_job("dqn", env=IDENTITY, replay_residency="learner")).residency_line,
            r"replay: learner \(as set; it takes \d+ MB of [\d,]+ MB free\)",
        )

    def test_a_replay_that_does_not_fit_is_refused_before_a_folder_is_made(self):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        with self.assertRaisesRegex(SettingError, "replay_residency=learner: a replay of 10,000,0"):
            tfrl.train(
                "dqn",
                env=IDENTITY,
                replay_capacity=10**10,
                replay_residency="learner",
                run_dir=str(run_dir),
            )
        self.assertFalse(run_dir.exists())
