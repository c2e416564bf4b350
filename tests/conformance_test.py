"""What every algorithm of `tfrl/algos` must do; an algorithm joins by a row of `FACTS`."""

import itertools
from typing import NamedTuple

import tensorflow as tf
from absl.testing import parameterized

from tfrl.api import make_job
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.job import EnvPlan, algorithm, algorithms
from tfrl.testing import algorithm_checks


class Facts(NamedTuple):
    """Environment that the algorithm serves, one it must refuse, settings for tiny updates, a misspelt setting."""

    env: str
    refused: str
    settings: dict
    misspelt: tuple[str, str]


def _on_policy(name, **settings):
    shared = dict(
        hidden_sizes=(8,), unroll_length=5, core="gru", core_size=6, normalize_observations=True,
        normalize_rewards=True, learning_rate=1e-2,
    )  # fmt: skip
    return Facts(
        "tfrl.testing.fakes:MaskedBandit", "tfrl.testing.fakes:IntegerPoint", {**shared, **settings},
        ("unrol_length", "unroll_length"),
    )  # fmt: skip


def _distributional(**settings):
    shared = dict(
        hidden_sizes=(8,), head_hidden_sizes=(6,), batch_size=8, updates_per_call=2, n_step=2,
        prioritized=True, dueling=True, target_period_updates=3,
    )  # fmt: skip
    return Facts(
        "tfrl.testing.fakes:MaskedBandit", "tfrl.testing.fakes:TargetPoint", {**shared, **settings},
        ("learning_rat", "learning_rate"),
    )  # fmt: skip


FACTS = {
    "dqn": Facts(
        "tfrl.testing.fakes:MaskedBandit",
        "tfrl.testing.fakes:TargetPoint",
        dict(hidden_sizes=(8,), batch_size=8, updates_per_call=2, prioritized=True, dueling=True,
             target_period_updates=3),
        ("learning_rat", "learning_rate"),
    ),
    "c51": _distributional(num_atoms=11, v_min=-5.0, v_max=5.0, noisy="factorised"),
    "qr_dqn": _distributional(num_quantiles=5, noisy="independent"),
    "iqn": _distributional(
        num_tau=6, num_target_tau=5, num_act_tau=4, num_cosines=7, noisy="factorised"
    ),
    "ppo": _on_policy("ppo", epochs=2, minibatches=2, kl_coefficient=0.2),
    "a2c": _on_policy("a2c", state_dependent_exploration=True, squash_actions=True)._replace(
        env="tfrl.testing.fakes:TargetPoint"
    ),
    "pg": _on_policy("pg", episodes_per_item=4, baseline=True),
    "a3c": _on_policy("a3c", normalize_observations=False, normalize_rewards=False),
    "impala": _on_policy("impala"),
    "appo": _on_policy("appo", kl_coefficient=0.2),
}  # fmt: skip

_SEQUENCES = dict(sequence_length=6, sequence_period=4, burn_in=2, core_size=6)
# Rows of options that change what travels: of the same algorithm with other settings.
VARIANTS = {
    "dqn with lstm": FACTS["dqn"]._replace(
        settings={**FACTS["dqn"].settings, **_SEQUENCES, "core": "lstm", "n_step": 2}
    ),
    "iqn with gru": FACTS["iqn"]._replace(
        settings={**FACTS["iqn"].settings, **_SEQUENCES, "core": "gru", "burn_in": 0}
    ),
    "dqn sending gradients": FACTS["dqn"]._replace(
        settings={
            **FACTS["dqn"].settings,
            "prioritized": False,
            "sends_gradients": True,
            "unroll_length": 5,
        }
    ),
}
CASES = {**FACTS, **VARIANTS}


class ConformanceTest(tf.test.TestCase, parameterized.TestCase):
    def test_every_algorithm_has_a_row(self):
        self.assertEqual(sorted(FACTS), algorithms())

    def subject(self, name):
        facts, module = CASES[name], algorithm(name.split()[0])
        spec = make_spec(EnvPlan(env=facts.env))
        agent = module.make(module.Config(**facts.settings), spec)
        return algorithm_checks.Subject(name, module, agent, spec)

    @parameterized.parameters(*itertools.product(CASES, algorithm_checks.CHECKS))
    def test_every_algorithm_passes(self, name, check):
        check(self.subject(name))

    @parameterized.parameters(algorithms())
    def test_an_unknown_setting_is_refused_with_the_nearest(self, name):
        wrong, right = FACTS[name].misspelt
        with self.assertRaisesRegex(
            SettingError, f"unknown setting '{wrong}'; did you mean {right}"
        ):
            make_job(name, **{wrong: 1})

    @parameterized.parameters(algorithms())
    def test_a_wrong_space_is_refused_by_name(self, name):
        module = algorithm(name)
        spec = make_spec(EnvPlan(env=FACTS[name].refused))
        with self.assertRaisesRegex(SettingError, f"algo={name} on .*: expected "):
            module.make(module.Config(), spec)

    @parameterized.parameters(algorithms())
    def test_the_module_says_what_it_is(self, name):
        text = algorithm(name).__doc__
        for words in ("What it is", "What it is not", "Spaces", "Data", "Differences"):
            self.assertIn(words, text)
