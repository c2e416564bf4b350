"""Settings without an effect: refused where they were asked for, kept in flagfiles, and declared truly."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile

import gymnasium as gym
from absl.testing import absltest, parameterized

from tfrl import api
from tfrl.config import flags, idle
from tfrl.errors import SettingError
from tfrl.job import PLANS, Job, algorithm, algorithms
from tfrl.runtime.plan.idle_facts import facts
from tfrl.types import EnvSpec

BOX = gym.spaces.Box(-1.0, 1.0, (3,))
IMAGE = gym.spaces.Box(0, 255, (84, 84, 1), "uint8")


class IdleTest(parameterized.TestCase):
    @parameterized.parameters(
        ("dqn", {"priority_exponent": 0.5}, "prioritized=false"),
        ("dqn", {"burn_in": 3}, "core=none"),
        ("dqn", {"core_size": 3}, "core=none"),
        ("dqn", {"loss": "squared", "huber_delta": 2.0}, "loss=squared"),
        ("dqn", {"unroll_length": 5}, "sends_gradients=false"),
        ("dqn", {"sends_gradients": True, "batch_size": 5}, "sends_gradients=true"),
        ("dqn", {"noisy": "factorised", "epsilon_decay_env_steps": 5}, "noisy=factorised"),
        ("dqn", {"epsilon_ladder_base": 0.5}, "epsilon_ladder=none"),
        ("ppo", {"rmsprop_decay": 0.9}, "optimizer=adam"),
        ("ppo", {"kl_target": 0.9}, "kl_coefficient=0.0"),
        ("ppo", {"observation_clip": 5.0}, "normalize_observations=false"),
        ("ppo", {"free_log_std": False, "log_std_initial": 0.5}, "free_log_std=false"),
        ("pg", {"value_coefficient": 0.9}, "baseline=false"),
        ("impala", {"vtrace": False, "rho_bar": 0.9}, "vtrace=false"),
        ("impala", {"replay_unrolls": 9}, "replay_proportion=0.0"),
        ("impala", {"queue_items": 9}, "backend=inprocess"),
    )
    def test_refused_from_python_and_the_command_line(self, algo, settings, why):
        with self.assertRaisesRegex(SettingError, f"no effect with .*{why}"):
            api.make_job(algo, **settings)
        argv = [f"--{name}={str(value).lower()}" for name, value in settings.items()]
        with self.assertRaisesRegex(SettingError, f"no effect with .*{why}"):
            flags.parse([f"--algo={algo}", *argv])

    def test_the_whole_message(self):
        with self.assertRaises(SettingError) as caught:
            api.make_job("dqn", priority_exponent=0.5)
        self.assertEqual(
            str(caught.exception),
            "priority_exponent=0.5: no effect with prioritized=false; leave it out, or change prioritized",
        )

    def test_a_flagfile_may_hold_it(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "a.flags")
            path.write_text("--algo=dqn\n--priority_exponent=0.5\n")
            job = flags.parse([f"--flagfile={path}"])
            self.assertEqual(job.config.priority_exponent, 0.5)
            with self.assertRaises(SettingError):
                flags.parse([f"--flagfile={path}", "--priority_exponent=0.7"])
            flags.parse([f"--flagfile={path}", "--priority_exponent=0.7", "--prioritized"])

    def test_what_was_asked_for_is_not_stored(self):
        job = api.make_job("dqn", double=False)
        self.assertEqual(job.asked_for, ("double",))
        again = Job.from_json(job.to_json())
        self.assertEqual(again, job)
        self.assertEqual(again.asked_for, ())

    @parameterized.parameters(
        ("ppo", "squash_actions", True, "a Box among the actions"),
        ("ppo", "log_std_initial", 0.5, "a Box among the actions"),
        ("ppo", "atari_frame_skip", 2, "an Atari game"),
        ("ppo", "action_hidden_sizes", (3,), "action features"),
        ("ppo", "team_reward", "mean", "agents that have rewards of their own"),
        ("ppo", "team_policy", "independent", "a team of agents"),
    )
    def test_the_environment_leaves_it_without_effect(self, algo, name, value, why):
        job = api.make_job(algo, **{name: value})
        spec = EnvSpec("x", BOX, gym.spaces.Discrete(2))
        with self.assertRaisesRegex(SettingError, f"{name}=.*: no effect without {why}"):
            job.refuse_idle(facts(job, spec))

    def test_facts(self):
        actions = gym.spaces.Dict(a=gym.spaces.Discrete(2), b=gym.spaces.Tuple([BOX]))
        both = gym.spaces.Dict(image=IMAGE, vector=BOX)
        job = api.make_job("ppo", env="ALE/Pong-v5")
        found = facts(job, EnvSpec("x", both, actions))
        self.assertEqual(
            found,
            {
                "box_actions": True, "discrete_actions": True, "action_features": False, "atari": True,
                "mlp": False, "team": False, "agents_rewards": False, "vectors": True,
            },
        )  # fmt: skip
        found = facts(api.make_job("ppo"), EnvSpec("x", IMAGE, gym.spaces.Discrete(2)))
        self.assertEqual((found["mlp"], found["vectors"], found["atari"]), (False, False, False))
        self.assertTrue(
            facts(api.make_job("ppo", network="mlp"), EnvSpec("x", IMAGE, actions))["mlp"]
        )

    def test_conditions_name_settings_and_values_that_exist(self):
        known = {f.name: f for plan in PLANS.values() for f in dataclasses.fields(plan)}
        for algo in algorithms():
            known |= {f.name: f for f in dataclasses.fields(algorithm(algo).Config)}
        for name, field in known.items():
            for condition in field.metadata["idle_if"]:
                for key, wanted in condition.items():
                    with self.subTest(setting=name, key=key):
                        if key in idle.FACTS:
                            self.assertIs(wanted, False)
                            continue
                        self.assertIn(key, known)
                        choices = known[key].metadata["choices"]
                        values = wanted if isinstance(wanted, frozenset) else [wanted]
                        if choices is not None:
                            self.assertContainsSubset(values, choices)

    def test_help_names_the_conditions(self):
        text = flags.help_text("c51")
        self.assertIn(
            "--priority_exponent  float; default 0.6; at least 0; at most 1; no effect with", text
        )
        self.assertNotIn("sends_gradients", text)  # a setting of dqn


if __name__ == "__main__":
    absltest.main()
