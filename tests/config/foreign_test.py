"""Names of other libraries: what the messages suggest, and that all of it exists."""

from __future__ import annotations

import dataclasses
import pathlib

from absl.testing import absltest, parameterized

import tfrl.api
from tfrl.config import flags, foreign
from tfrl.errors import SettingError
from tfrl.job import PLANS, Job, algorithm, algorithms
from tfrl.settings import closest

LAUNCHERS = pathlib.Path(__file__).parents[2] / "launchers"


def message(argv):
    try:
        flags.parse(argv)
    except SettingError as error:
        return str(error)
    raise AssertionError(f"{argv} is accepted")


class ForeignTest(parameterized.TestCase):
    @parameterized.parameters(
        ("dqn", "gamma", "discount"),
        ("dqn", "lr", "learning_rate"),
        ("dqn", "n_sampled_goal", "her_relabels"),
        ("dqn", "n_steps", "n_step"),
        ("ppo", "n_steps", "unroll_length"),
        ("ppo", "num_steps", "unroll_length"),
        ("dqn", "batch", "batch_size"),
        ("ppo", "batch_size", "minibatches"),
        ("ppo", "total_timesteps", "total_env_steps"),
        ("ppo", "total-timesteps", "total_env_steps"),
        ("ppo", "ent_coef", "entropy_coefficient"),
        ("a2c", "vf_loss_coeff", "value_coefficient"),
        ("ppo", "num_sgd_iter", "epochs"),
        ("ppo", "clip_coef", "clip"),
        ("impala", "lambda", "trace_lambda"),
        ("ppo", "lambda", "gae_lambda"),
        ("dqn", "buffer_size", "replay_capacity"),
        ("dqn", "exploration_fraction", "epsilon_decay_env_steps"),
        ("dqn", "fcnet_hiddens", "hidden_sizes"),
        ("dqn", "verbose", "console"),
        ("dqn", "tau", "target_period_updates"),
        ("dqn", "net_arch", "hidden_sizes"),
        ("sac", "net_arch", "policy_hidden_sizes"),
        ("sac", "ent_coef", "temperature"),
        ("sac", "alpha", "temperature"),
        ("sac", "train_freq", "env_steps_per_update"),
        ("sac", "gradient_steps", "env_steps_per_update"),
        ("sac", "use_sde", "state_dependent_exploration"),
        ("sac", "use_sde_at_warmup", "random_env_steps"),
        ("sac", "learning_starts", "min_replay"),
        ("sac", "Q_model", "critic_hidden_sizes"),
        ("sac", "entropy_learning_rate", "temperature_learning_rate"),
        ("sac", "top_quantiles_to_drop_per_net", "dropped_quantiles"),
        ("td3", "policy_delay", "policy_period_updates"),
        ("td3", "smooth_target_policy", "target_noise"),
        ("ddpg", "exploration_final_eps", "noise_final"),
        ("dqn", "exploration_final_eps", "epsilon_final"),
        ("ddpg", "twin_q", "num_critics"),
    )
    def test_suggestion(self, algo, given, ours):
        found = message([f"--algo={algo}", f"--{given}=1"])
        self.assertStartsWith(found, f"--{given}: unknown flag; here it is --{ours}")
        with self.assertRaisesRegex(SettingError, f"here it is {ours}"):
            tfrl.api.make_job(algo, **{given: 1})

    @parameterized.parameters(
        ("sac", "no_done_at_end", "time limits bootstrap"),
        ("sac", "normalize_actions", "actions are on the scale"),
        ("ddpg", "actor_loss_coeff", "Adam does not see the scale"),
    )
    def test_what_is_not_needed(self, algo, given, why):
        self.assertIn(f"there is none: {why}", message([f"--algo={algo}", f"--{given}=1"]))

    def test_a_setting_of_another_algorithm(self):
        self.assertEqual(
            message(["--algo=dqn", "--clip_range=0.2"]),
            "--clip_range: unknown flag; here it is --clip, a setting of appo, ppo, not of dqn",
        )

    def test_every_row_names_a_setting(self):
        known = {f.name for plan in (*PLANS.values(), Job) for f in dataclasses.fields(plan)}
        for algo in algorithms():
            known |= {f.name for f in dataclasses.fields(algorithm(algo).Config)}
        known |= {"record_video", "episodes"}  # of evaluate
        for row in foreign.SETTINGS:
            with self.subTest(row=row):
                self.assertContainsSubset(row.settings, known)
                self.assertTrue(row.foreign)
                self.assertTrue(row.settings or row.note)

    def test_no_suggestion_leads_back(self):
        for algo in algorithms():
            known = [f.name for s in flags.job_sections(algorithm(algo).Config) for f in
                     dataclasses.fields(s.cls)]  # fmt: skip
            for row in foreign.SETTINGS:
                for name in row.foreign:
                    if name not in known:
                        self.assertNotIn(f"--{name} ", foreign.hint(name, known) + " ")

    @parameterized.parameters("trpo", "muzero", "dreamer")
    def test_an_algorithm_that_is_not_there_suggests_none(self, name):
        self.assertTrue(
            message([f"--algo={name}"]).endswith(f"there are {', '.join(algorithms())}")
        )

    @parameterized.parameters(("dqm", "dqn"), ("ppo2", "ppo"), ("c52", "c51"), ("PPO", "ppo"))
    def test_an_algorithm_that_is_near_is_suggested(self, name, near):
        self.assertIn(f"did you mean {near}?", message([f"--algo={name}"]))

    def test_variants_are_named_and_can_be_parsed(self):
        for name, how in foreign.ALGORITHMS.items():
            self.assertIn(how, message([f"--algo={name}"]))
            words = how.replace("=configs", f"={LAUNCHERS.parent}/configs").split()
            argv = [word.rstrip(",") for word in words if word.startswith("--")]
            flags.parse(argv)

    @parameterized.parameters(
        ("sac", ["a3c"], ""),
        ("acb", ["abc"], "abc"),
        ("ac", ["a2c"], "a2c"),
        ("a2cc", ["a2c"], "a2c"),
        ("dqm", ["dqn"], "dqn"),
        ("pg", ["ppo"], ""),
    )
    def test_short_names_are_near_by_one_slip(self, name, known, near):
        self.assertEqual(closest(name, known), near)


if __name__ == "__main__":
    absltest.main()
