"""What every algorithm of `tfrl/algos` must do; an algorithm joins by a row of `FACTS`."""

import dataclasses
import inspect
import pathlib
import re
import sys
import tempfile
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.api import make_job
from tfrl.config.settings import SettingError
from tfrl.envs.make import make_spec
from tfrl.job import EnvPlan, algorithm, algorithms
from tfrl.runtime.checkpoint import Checkpoints, restore_learner
from tfrl.runtime.export import export
from tfrl.testing import conformance, replicas


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
        "tfrl.envs.fakes:MaskedBandit", "tfrl.envs.fakes:IntegerPoint", {**shared, **settings},
        ("unrol_length", "unroll_length"),
    )  # fmt: skip


def _distributional(**settings):
    shared = dict(
        hidden_sizes=(8,), head_hidden_sizes=(6,), batch_size=8, updates_per_call=2, n_step=2,
        prioritized=True, dueling=True, target_period_updates=3,
    )  # fmt: skip
    return Facts(
        "tfrl.envs.fakes:MaskedBandit", "tfrl.envs.fakes:TargetPoint", {**shared, **settings},
        ("learning_rat", "learning_rate"),
    )  # fmt: skip


FACTS = {
    "dqn": Facts(
        "tfrl.envs.fakes:MaskedBandit",
        "tfrl.envs.fakes:TargetPoint",
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
        env="tfrl.envs.fakes:TargetPoint"
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

# A field whose name ends so is an interval or a length, and says in which unit.
UNITS = {"_env_steps": "env steps", "_updates": "updates", "_s": "s", "_items": "items"}


class ConformanceTest(tf.test.TestCase, parameterized.TestCase):
    def test_every_algorithm_has_a_row(self):
        self.assertEqual(sorted(FACTS), algorithms())

    def make(self, name):
        facts, module = CASES[name], algorithm(name.split()[0])
        spec = make_spec(EnvPlan(env=facts.env))
        return module.make(module.Config(**facts.settings), spec), spec

    def blocks(self, agent, spec, count):
        return [conformance.block(agent, spec, seed) for seed in range(count)]

    def trained(self, agent, spec, blocks, mode="graph", strategy=None):
        loop = conformance.loop(agent, spec, mode, strategy)
        before = [v.numpy() for v in loop.learner.policy.variables]
        for block in blocks:
            metrics, _ = loop.run(block)
        for name, metric in metrics.items():
            self.assertTrue(np.isfinite(metric.numpy()), name)
        after = [v.numpy() for v in loop.learner.policy.variables]
        self.assertGreater(conformance.apart(before, after), 1e-5)  # it trains at all
        return loop

    @parameterized.parameters(list(CASES))
    def test_eager_equals_traced(self, name):
        agent, spec = self.make(name)
        blocks = self.blocks(agent, spec, 2)
        traced = self.trained(agent, spec, blocks)
        tf.config.run_functions_eagerly(True)
        self.addCleanup(tf.config.run_functions_eagerly, False)
        eager = self.trained(agent, spec, blocks)
        self.assertLess(
            conformance.apart(conformance.values(traced), conformance.values(eager)), 2e-6
        )

    @parameterized.parameters(list(CASES))
    def test_two_devices_equal_one(self, name):
        agent, spec = self.make(name)
        blocks = self.blocks(agent, spec, 2)
        one = self.trained(agent, spec, blocks)
        two = self.trained(agent, spec, blocks, strategy=replicas.two_cpus())
        self.assertLess(conformance.apart(conformance.values(one), conformance.values(two)), 1e-6)

    @parameterized.parameters(list(CASES))
    def test_save_and_restore_continue_exactly(self, name):
        agent, spec = self.make(name)
        blocks = self.blocks(agent, spec, 4)
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = Checkpoints(folder, name, spec, 1)
        loop = conformance.loop(agent, spec)
        for i, block in enumerate(blocks):
            if i == 2:
                checkpoints.save(2, loop, {}, None)
            loop.run(block)
        again = conformance.loop(agent, spec)
        for variable in conformance.variables(again):
            variable.assign(tf.zeros_like(variable))
        restore_learner(checkpoints.newest(), again)
        for block in blocks[2:]:
            again.run(block)
        self.assertEqual(
            conformance.apart(conformance.values(loop), conformance.values(again)), 0.0
        )
        with self.assertRaisesRegex(SettingError, f"algo is {name}, but this run has other"):
            Checkpoints(folder, "other", spec, 1).newest()

    @parameterized.parameters(list(CASES))
    def test_the_export_acts_alike(self, name):
        agent, spec = self.make(name)
        policy = agent.make_policy()
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "export"
        loaded = tf.saved_model.load(str(export(policy, spec, folder)))
        for size in (1, 7):
            obs = tf.nest.map_structure(tf.constant, conformance.observations(spec, size, size))
            acted = loaded.act(obs, loaded.initial_state(tf.constant(size)))
            expected = policy.step(obs, policy.initial_state(size), {}, {}, False)
            # Eager ops and a graph may round the last digit of a real number differently.
            self.assertAllClose(acted["action"], expected.action, rtol=1e-6, atol=1e-7)

    @parameterized.parameters(list(CASES))
    def test_a_greedy_step_needs_no_noise_and_an_exploring_one_what_it_declares(self, name):
        agent, spec = self.make(name)
        policy = agent.make_policy()
        obs = conformance.observations(spec, 5, 0)
        knobs = dict(agent.knobs(0, 1, 5, 0))
        for knob, x in knobs.items():
            self.assertEqual((x.shape, x.dtype), ((5,), np.float32), knob)
        rng = np.random.default_rng(0)
        noise = {k: rng.random((5, *n.shape), np.float32) for k, n in policy.noise.items()}
        for step in (policy.step(obs, policy.initial_state(5), {}, {}, False),
                     policy.step(obs, policy.initial_state(5), knobs, noise, True)):  # fmt: skip
            for action in step.action.numpy():
                self.assertTrue(spec.action_space.contains(action.astype(spec.action_space.dtype)))

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
    def test_every_setting_is_documented_and_read(self, name):
        module = algorithm(name)
        modules = [sys.modules[c.__module__] for c in module.Config.__mro__[:-1]]
        modules += [
            x
            for x in vars(module).values()
            if inspect.ismodule(x) and x.__name__.startswith("tfrl.algos._")
        ]
        source = "\n".join(inspect.getsource(x) for x in modules)
        for field in dataclasses.fields(module.Config):
            self.assertTrue(field.metadata and field.metadata["help"], field.name)
            for suffix, unit in UNITS.items():
                if field.name.endswith(suffix):
                    self.assertEqual(field.metadata["unit"], unit, field.name)
            reads = re.findall(rf"(?:config|self)\.{field.name}\b", source)
            self.assertNotEmpty(reads, f"{field.name} is read nowhere")

    @parameterized.parameters(algorithms())
    def test_the_module_says_what_it_is(self, name):
        text = algorithm(name).__doc__
        for words in ("What it is", "What it is not", "Spaces", "Data", "Differences"):
            self.assertIn(words, text)
