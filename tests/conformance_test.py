"""What every algorithm of `tfrl/algos` must do. An algorithm joins by `ABOUT` of its module; see `agent.About`."""

import functools
import inspect
import itertools

import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import About
from tfrl.api import make_job
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.job import EnvPlan, algorithm, algorithms
from tfrl.settings import field_types
from tfrl.testing import algorithm_checks

# 'dqn' or 'dqn with lstm': the algorithm and its settings.
CASES = {name: (name, algorithm(name).ABOUT.small) for name in algorithms()}
for _name in algorithms():
    for _variant, _changes in algorithm(_name).ABOUT.variants.items():
        CASES[f"{_name} {_variant}"] = (_name, {**algorithm(_name).ABOUT.small, **_changes})
# What compiles longest is tried of few algorithms, and of all others in the slow tests. For the value-based ones stands
# DQN with an LSTM and a burn-in, whose update unrolls one core twice.
FEW = algorithm_checks.few() - {"qr_dqn"} | {"dqn with lstm"}
LONG = (algorithm_checks.eager_equals_traced, algorithm_checks.two_devices_equal_one)
# Other settings of an algorithm are tried in the slow tests, but for one with a memory, teams, and an MLP of ARS.
OTHERS = frozenset(CASES) - frozenset(algorithms()) - {"dqn with lstm", "ppo team", "ars mlp"}


def is_slow(case, check):
    return case in OTHERS or check in LONG and case not in FEW


def checks(slow):
    return [
        (f"_{case}_{check.__name__}".replace(" ", "_"), case, check)
        for case, check in itertools.product(CASES, algorithm_checks.CHECKS)
        if is_slow(case, check) == slow
    ]


# The tests of a case come soon after each other, and share what it has made.
@functools.lru_cache(maxsize=4)
def subject(case):
    name, settings = CASES[case]
    module = algorithm(name)
    spec = make_spec(EnvPlan(env=settings.get("env", module.ABOUT.env)))
    settings = {key: value for key, value in settings.items() if key != "env"}
    agent = module.make(module.Config(**settings), spec)
    return algorithm_checks.Subject(name, module, agent, spec)


class ConformanceTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters(*checks(slow=False))
    def test_every_algorithm_passes(self, case, check):
        self.run_check(case, check)

    @parameterized.named_parameters(*checks(slow=True))
    @pytest.mark.slow
    def test_every_algorithm_passes_what_takes_long(self, case, check):
        self.run_check(case, check)

    def run_check(self, case, check):
        check(subject(case))
        if check is algorithm_checks.networks_have_every_variable_once:
            self.assertNotEmpty(subject(case).straight.learner.networks())

    @parameterized.named_parameters((f"_{name}", name) for name in algorithms())
    def test_an_unknown_setting_is_refused_with_the_nearest(self, name):
        for right in sorted(field_types(algorithm(name).Config), key=len)[-3:]:
            wrong = right.replace("e", "", 1)
            with self.assertRaisesRegex(
                SettingError, f"unknown setting '{wrong}'; did you mean {right}"
            ):
                make_job(name, **{wrong: 1})

    @parameterized.named_parameters((f"_{name}", name) for name in algorithms())
    def test_a_wrong_space_is_refused_by_name(self, name):
        module = algorithm(name)
        spec = make_spec(EnvPlan(env=module.ABOUT.refused))
        with self.assertRaisesRegex(SettingError, f"algo={name} on .*: expected "):
            module.make(module.Config(), spec)

    @parameterized.named_parameters((f"_{name}", name) for name in algorithms())
    def test_the_module_describes_itself(self, name):
        module = algorithm(name)
        text, about = inspect.getdoc(module), module.ABOUT
        for words in ("What it is", "What it is not", "Spaces", "Data", "Differences"):
            self.assertIn(words, text)
        self.assertIsInstance(about, About)
        self.assertStartsWith(text, f"{about.title}: ")
        self.assertEqual(about.title.lower().replace("-", "_"), name)
