"""One vocabulary of optimisers for all algorithms: what the settings make, old names, and a user's own optimiser."""

import dataclasses
import pathlib
import sys
import tempfile
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.api import make_job
from tfrl.config import flags, idle, resolve, trust
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.job import Job, algorithm, algorithms
from tfrl.optim import optimizers
from tfrl.optim import settings as optim_settings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import name_now, value_text
from tfrl.testing import conformance, reference, replicas

VARIANTS = {
    "adam": (
        dict(optimizer="adam", optimizer_epsilon=1e-3, adam_beta_1=0.5, adam_beta_2=0.9),
        dict(epsilon=1e-3, betas=(0.5, 0.9)),
    ),
    "adamw": (
        dict(optimizer="adamw", optimizer_epsilon=1e-3, weight_decay=0.2),
        dict(epsilon=1e-3, weight_decay=0.2),
    ),
    "rmsprop": (
        dict(optimizer="rmsprop", optimizer_epsilon=1e-3, rmsprop_decay=0.5, momentum=0.3),
        dict(epsilon=1e-3, decay=0.5, momentum=0.3),
    ),
    "rmsprop_keras": (
        dict(optimizer="rmsprop_keras", optimizer_epsilon=1e-3, rmsprop_decay=0.5),
        dict(epsilon=1e-3, decay=0.5),
    ),
    "rmsprop_tf1": (
        dict(optimizer="rmsprop_tf1", optimizer_epsilon=0.1, momentum=0.4),
        dict(epsilon=0.1, momentum=0.4),
    ),
    "sgd": (dict(optimizer="sgd", momentum=0.9), dict(momentum=0.9)),
    "sgd_nesterov": (
        dict(optimizer="sgd", momentum=0.9, nesterov=True),
        dict(momentum=0.9, nesterov=True),
    ),
}
OWN = "tests_own_optimizers"  # module of a user


def scratch(test):
    return test.enter_context(tempfile.TemporaryDirectory())


def own_module(test, text):
    """Makes `text` importable as the module OWN until the end of the test."""
    folder = pathlib.Path(scratch(test))
    (folder / f"{OWN}.py").write_text("import tensorflow as tf\n" + textwrap.dedent(text))
    sys.path.insert(0, str(folder))
    test.addCleanup(sys.path.remove, str(folder))
    test.addCleanup(sys.modules.pop, OWN, None)
    test.addCleanup(trust._named.discard, OWN)


class SettingsTest(tf.test.TestCase, parameterized.TestCase):
    def test_every_algorithm_has_all_of_them(self):
        names = {f.name for f in dataclasses.fields(OptimizerSettings)}
        for algo in algorithms():
            config = algorithm(algo).Config
            self.assertTrue(issubclass(config, OptimizerSettings), algo)
            own = {f.name: f.metadata for f in dataclasses.fields(config)}
            for field in dataclasses.fields(OptimizerSettings):
                self.assertEqual(own[field.name], field.metadata)  # nothing but the default differs
            self.assertContainsSubset(names, own)

    @parameterized.named_parameters((name, *case) for name, case in VARIANTS.items())
    def test_the_equations(self, settings, options):
        """The settings reach the arithmetic: one parameter follows the slow twin."""
        config = OptimizerSettings(learning_rate=0.1, **settings)
        variable = tf.Variable([1.0])
        optimizer = optim_settings.make(config, [variable], None)
        gradients = np.random.default_rng(0).normal(size=20).astype(np.float32)
        found = []
        for gradient in gradients:
            optimizer.apply([tf.constant([gradient])])
            found.append(float(variable[0]))
        expected = reference.optimise(
            settings["optimizer"], 1.0, gradients, lambda t: 0.1, **options
        )
        self.assertAllClose(found, expected, rtol=2e-5, atol=2e-6)

    @parameterized.parameters(
        ({}, 0.1, 0.1, 0.1),
        (dict(learning_rate_final=0.0, learning_rate_env_steps=100), 0.1, 0.05, 0.0),
        (dict(learning_rate_final=0.0, learning_rate_updates=10), 0.1, 0.08, 0.06),
        (
            dict(
                learning_rate_final=0.0,
                learning_rate_env_steps=100,
                learning_rate_hold_env_steps=50,
            ),
            0.1,
            0.1,
            0.05,
        ),
        (dict(learning_rate_schedule=((0, 0.2), (50, 0.4))), 0.2, 0.4, 0.4),
        (
            dict(
                learning_rate_schedule=((0, 0.2), (4, 0.4)), learning_rate_schedule_unit="updates"
            ),
            0.2,
            0.3,
            0.4,
        ),
        (dict(learning_rate_warmup_updates=4), 0.025, 0.075, 0.1),
        # The decay in updates begins when the warm-up is over.
        (
            dict(
                learning_rate_warmup_updates=2, learning_rate_final=0.0, learning_rate_updates=4,
                learning_rate_power=2.0,
            ),
            0.05,
            0.1,
            0.025,
        ),
        # One over env steps, and a schedule, are multiplied.
        (
            dict(
                learning_rate_warmup_updates=4, learning_rate_final=0.02,
                learning_rate_env_steps=100, learning_rate_power=2.0,
            ),
            0.025,
            0.75 * 0.04,
            0.02,
        ),
        (
            dict(learning_rate_warmup_updates=4, learning_rate_schedule=((0, 0.2), (50, 0.4))),
            0.05,
            0.3,
            0.4,
        ),
    )  # fmt: skip
    def test_rates_at_0_50_and_100_env_steps_and_0_2_and_4_updates(self, settings, *expected):
        config = OptimizerSettings(learning_rate=0.1, **settings)
        found = [
            float(optim_settings.learning_rate(config, tf.constant(n), tf.constant(u)))
            for n, u in ((0, 0), (50, 2), (100, 4))
        ]
        self.assertAllClose(found, expected, rtol=1e-6)

    @parameterized.parameters(
        (dict(optimizer="adamm"), "optimizer='adamm': expected one of adam, .* did you mean adam"),
        (dict(momentum=1.0), "momentum=1: the mean would never change"),
        (dict(adam_beta_2=1.5), "adam_beta_2=1.5: expected at most 1"),
        (dict(weight_decay=-1.0), "weight_decay=-1.0: expected at least 0"),
        (
            dict(learning_rate_final=0.1, learning_rate_env_steps=5, learning_rate_updates=5),
            "learning_rate_env_steps=5 with learning_rate_updates=5: the decay has one length",
        ),
        (
            dict(learning_rate_final=0.1, learning_rate_updates=5, learning_rate_hold_env_steps=3),
            "learning_rate_hold_env_steps=3 with learning_rate_env_steps=0",
        ),
        (dict(learning_rate_schedule_unit="frames"), "did you mean|expected one of env_steps"),
        (dict(optimizer="lam"), "optimizer='lam': expected one of adam, .* did you mean lamb"),
        (
            dict(learning_rate_warmup_updates=-1),
            "learning_rate_warmup_updates=-1: expected at least 0 updates",
        ),
        (dict(learning_rate_power=0.0), "learning_rate_power=0.0: expected more than 0"),
        (dict(learning_rate_batch_base=0), "learning_rate_batch_base=0: expected at least 1"),
        (dict(trust_clip=(2.0, 1.0)), "trust_clip=.*: expected the lowest norm first"),
        (dict(trust_clip=(-1.0, 1.0)), "trust_clip=-1.0: expected at least 0"),
        (dict(trust_clip=(1.0,)), "trust_clip=.*: expected pair of float"),
        (dict(lars_variant="heavy"), "lars_variant='heavy': .* did you mean heavy_ball"),
        (
            dict(lars_trust_coefficient=0.0),
            "lars_trust_coefficient=0.0: expected more than 0",
        ),
        (dict(lamb_bias_correction="no"), "lamb_bias_correction='no': expected bool"),
        (dict(optimizer="sgd", nesterov=True), "nesterov=True with momentum=None: .*no momentum"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        for cls in (OptimizerSettings, algorithm("dqn").Config, algorithm("appo").Config):
            with self.assertRaisesRegex(SettingError, message):
                cls(**settings)

    @parameterized.parameters(
        ("momentum", 0.5, "adam"), ("weight_decay", 0.5, "adam"), ("adam_beta_1", 0.5, "sgd"),
        ("rmsprop_decay", 0.5, "adamw"), ("optimizer_epsilon", 0.5, "sgd"),
        ("weight_decay", 0.5, "some.module:Optimizer"), ("weight_decay", 0.5, "sgd"),
        ("optimizer_epsilon", 0.5, "lars"), ("momentum", 0.5, "lamb"), ("adam_beta_2", 0.5, "lars"),
        ("lars_trust_coefficient", 0.5, "lamb"), ("trust_clip", (0.5, 1.0), "adamw"),
        ("lars_variant", "paper", "lamb"), ("lamb_bias_correction", False, "lars"),
        ("nesterov", True, "rmsprop"),
    )  # fmt: skip
    def test_what_the_optimiser_does_not_read_is_refused(self, name, value, optimizer):
        config = OptimizerSettings(optimizer=optimizer, **{name: value})
        given = value_text(value)
        with self.assertRaisesRegex(SettingError, f"{name}={given}: no effect with optimizer="):
            idle.refuse([name], [config])
        words = idle.notes(
            OptimizerSettings.__dataclass_fields__["weight_decay"].metadata, {"optimizer"}
        )
        self.assertEqual(words, ["no effect with optimizer other than adamw/lamb/lars"])

    @parameterized.parameters(
        ("lars_trust_coefficient", 0.5, dict(optimizer="lars", lars_variant="paper")),
        ("learning_rate_power", 2.0, {}),
    )
    def test_what_other_settings_leave_without_effect_is_refused(self, name, value, settings):
        config = OptimizerSettings(**{name: value}, **settings)
        with self.assertRaisesRegex(SettingError, f"{name}={value}: no effect with "):
            idle.refuse([name], [config])

    def test_a_pair_is_typed_with_a_comma(self):
        job = flags.parse(["--algo=dqn", "--optimizer=lamb", "--trust_clip=0.5,2"])
        self.assertEqual(job.config.trust_clip, (0.5, 2.0))
        self.assertEqual(Job.from_json(job.to_json()), job)
        with self.assertRaisesRegex(SettingError, "trust_clip"):
            flags.parse(["--algo=dqn", "--optimizer=lamb", "--trust_clip=0.5"])


class OldNamesTest(parameterized.TestCase):
    def test_a_flagfile_and_a_run_folder_may_hold_them(self):
        path = pathlib.Path(scratch(self)) / "old.flags"
        path.write_text("--algo=dqn\n--adam_epsilon=1e-8\n--learning_rate_updates=7\n")
        job = flags.parse([f"--flagfile={path}"])
        self.assertEqual(job.config.optimizer_epsilon, 1e-8)
        old = job.to_json().replace("optimizer_epsilon", "adam_epsilon")
        self.assertIn('"adam_epsilon": 1e-08', old)
        self.assertEqual(Job.from_json(old), job)

    def test_typed_ones_are_refused_with_the_new_name(self):
        with self.assertRaisesRegex(SettingError, "--adam_epsilon: .*here it is --optimizer_eps"):
            flags.parse(["--algo=dqn", "--adam_epsilon=1e-8"])
        with self.assertRaisesRegex(SettingError, "'adam_epsilon'; here it is optimizer_epsilon"):
            make_job("dqn", adam_epsilon=1e-8)

    def test_a_setting_that_has_the_name_keeps_it(self):
        self.assertEqual(
            name_now("adam_epsilon", {"adam_epsilon", "optimizer_epsilon"}), "adam_epsilon"
        )
        self.assertEqual(name_now("adam_epsilon", {"discount"}), "adam_epsilon")
        self.assertEqual(name_now("adam_epsilon", {"optimizer_epsilon"}), "optimizer_epsilon")


class OwnOptimizerTest(tf.test.TestCase, parameterized.TestCase):
    GOOD = """
        class Halving(tf.keras.optimizers.SGD):
            def __init__(self, learning_rate):
                super().__init__(learning_rate, momentum=0.5)

        def lion(learning_rate):
            return tf.keras.optimizers.Lion(learning_rate)
    """

    @parameterized.parameters(("dqn", "lion", 1), ("dqn", "Halving", 2), ("a2c", "lion", 2))
    def test_it_trains_with_the_rate_of_the_settings(self, algo, name, devices):
        own_module(self, self.GOOD)
        job = make_job(
            algo, env="tfrl.testing.fakes:MaskedBandit", hidden_sizes=(4,), optimizer=f"{OWN}:{name}",
            learning_rate_schedule=[[0, 1e-2], [100, 0.0]], gradient_clip_norm=None,
            **(dict(batch_size=4, updates_per_call=1) if algo == "dqn" else dict(unroll_length=3)),
        )  # fmt: skip
        optim_settings.check(job.config)
        spec = make_spec(job.env)
        strategy = replicas.two_cpus() if devices == 2 else None
        loop = conformance.loop(algorithm(algo).make(job.config, spec), spec, strategy=strategy)
        learner = loop.learner
        before = [v.numpy() for v in learner.policy.trainable_variables]
        metrics, _ = loop.run(conformance.block(algorithm(algo).make(job.config, spec), spec, 0), 0)
        self.assertAllClose(metrics["learner/learning_rate"], 1e-2)
        moved = [v.numpy() for v in learner.policy.trainable_variables]
        self.assertNotAllClose(np.concatenate([x.ravel() for x in before]),
                               np.concatenate([x.ravel() for x in moved]), atol=1e-6)  # fmt: skip
        loop.run(conformance.block(algorithm(algo).make(job.config, spec), spec, 100), 100)
        if name == "lion":  # rate 0, and no momentum outside the rate
            for value, variable in zip(moved, learner.policy.trainable_variables, strict=True):
                self.assertAllEqual(value, variable)

    @parameterized.parameters(
        ("nobody", "has no 'nobody'"),
        ("NUMBER", "it is a int; expected a class of Keras optimisers"),
        ("dense", "it made a .*Dense; expected a tf.keras.optimizers.Optimizer"),
        ("legacy", "those of tf.keras.optimizers.legacy are not"),
        ("Other", "making it failed: TypeError.*learning_rate"),
        ("idle", "a step with gradient 1 changed nothing"),
    )
    def test_what_is_none_is_refused_by_name_before_anything_starts(self, name, message):
        own_module(self, """
            NUMBER = 3
            def dense(learning_rate):
                return tf.keras.layers.Dense(1)
            def legacy(learning_rate):
                return tf.keras.optimizers.legacy.SGD(0.1)
            class Other(tf.keras.optimizers.SGD):
                def __init__(self):
                    super().__init__(0.1)
            def idle(learning_rate):
                return tf.keras.optimizers.SGD(0.0)
        """)  # fmt: skip
        folder = scratch(self) + "/run"
        with self.assertRaisesRegex(
            SettingError, f"optimizer='{OWN}:{name}': .*{message}|{message}"
        ):
            tfrl.train("dqn", env="CartPole-v1", run_dir=folder, optimizer=f"{OWN}:{name}")
        self.assertFalse(pathlib.Path(folder, "checkpoints").exists())

    def test_a_class_may_be_given_as_an_object(self):
        job = make_job("dqn", optimizer=tf.keras.optimizers.Lion)
        self.assertIn("Lion", job.config.optimizer)
        optim_settings.check(job.config)

    def test_a_run_folder_may_name_keras_but_no_module_that_nobody_named(self):
        own_module(self, self.GOOD)
        with self.assertRaisesRegex(SettingError, "optimizer=.* is named by a run folder"):
            trust.check_optimizer(f"{OWN}:lion")
        self.assertNotIn(OWN, sys.modules)
        trust.check_optimizer("keras.optimizers:Lion")
        with self.assertRaisesRegex(SettingError, "optimizer='os:system'"):
            trust.check_optimizer("os:system")
        trust.name_settings("dqn", {"optimizer": f"{OWN}:lion"})
        trust.check_optimizer(f"{OWN}:lion")

    @parameterized.parameters(("dqn", f"{OWN}:Halving", 2))
    def test_a_learner_goes_on_exactly(self, algo, kind, devices):
        self.check_goes_on(algo, kind, devices)

    @parameterized.parameters(("dqn", "adamw", 1), ("dqn", "rmsprop", 2), ("a2c", "sgd", 1))
    @pytest.mark.slow
    def test_a_learner_with_other_optimizers_goes_on_exactly(self, algo, kind, devices):
        self.check_goes_on(algo, kind, devices)

    def check_goes_on(self, algo, kind, devices):
        own_module(self, self.GOOD)
        job = make_job(
            algo, env="tfrl.testing.fakes:MaskedBandit", hidden_sizes=(4,), optimizer=kind,
            learning_rate=1e-2, learning_rate_final=1e-3, learning_rate_updates=5,
            **({"momentum": 0.5} if kind in ("rmsprop", "sgd") else {}),
            **(dict(batch_size=4, updates_per_call=1) if algo == "dqn" else dict(unroll_length=3)),
        )  # fmt: skip
        spec = make_spec(job.env)
        agent = algorithm(algo).make(job.config, spec)

        def start():
            strategy = replicas.two_cpus() if devices == 2 else None
            return conformance.loop(agent, spec, strategy=strategy)

        def run(loop, first, last):
            for n in range(first, last):
                metrics, _ = loop.run(conformance.block(agent, spec, n), n)
            return float(metrics["learner/learning_rate"])

        whole, first, second = start(), start(), start()
        run(whole, 0, 4)
        run(first, 0, 2)
        path = tf.train.Checkpoint(x=first.learner).write(scratch(self) + "/c")
        tf.train.Checkpoint(x=second.learner).read(path).assert_existing_objects_matched()
        rate = run(second, 2, 4)
        self.assertAllClose(rate, 1e-2 - 3 / 5 * 9e-3)
        expected = [v.numpy() for v in whole.learner.policy.trainable_variables]
        found = [v.numpy() for v in second.learner.policy.trainable_variables]
        for mine, theirs in zip(found, expected, strict=True):
            self.assertAllEqual(mine, theirs)
        fresh = start()  # without the slots it would be another run
        for variable, value in zip(
            fresh.learner.policy.variables, first.learner.policy.variables, strict=True
        ):
            variable.assign(value)
        run(fresh, 2, 4)
        others = [v.numpy() for v in fresh.learner.policy.trainable_variables]
        self.assertGreater(conformance.apart(others, expected), 1e-5)

    def test_a_run_goes_on_where_its_module_is_named_again(self):
        own_module(self, self.GOOD)
        folder = scratch(self) + "/run"
        settings = dict(
            env="tfrl.testing.fakes:MaskedBandit", run_dir=folder, hidden_sizes=(4,),
            eval_env="none", console="none", tensorboard=False, compile="graph",
            inference="function",
        )  # fmt: skip
        before = tfrl.train("a2c", optimizer=f"{OWN}:Halving", total_env_steps=50, **settings)
        trust._named.discard(OWN)
        sys.modules.pop(OWN)
        with self.assertRaisesRegex(SettingError, "optimizer=.* is named by a run folder"):
            resolve.job_from_argv(["--resume", f"--run_dir={folder}"])
        job = resolve.job_from_argv(
            [
                "--resume",
                f"--run_dir={folder}",
                f"--optimizer={OWN}:Halving",
                "--total_env_steps=90",
            ]
        )
        result = tfrl.train(job)
        self.assertGreaterEqual(result.env_steps, 90)
        self.assertGreater(result.updates, before.updates)
        tfrl.load(folder)  # needs no optimiser

    def test_a_checkpoint_restores_its_slots_and_not_its_rate(self):
        gradients = np.random.default_rng(2).normal(size=(6, 2)).astype(np.float32)

        def start(rate):
            variable = tf.Variable([1.0, -1.0])
            return variable, optimizers.make("keras.optimizers:RMSprop", [variable], rate)

        def go_on(optimizer, variable, gradients):
            for gradient in gradients:
                optimizer.apply_gradients([(tf.constant(gradient), variable)])

        whole, optimizer = start(0.1)
        go_on(optimizer, whole, gradients)
        first, optimizer = start(0.1)
        go_on(optimizer, first, gradients[:3])
        path = tf.train.Checkpoint(v=first, o=optimizer).write(scratch(self) + "/c")
        results = []
        for rate in (0.1, 0.2):
            second, optimizer = start(rate)
            tf.train.Checkpoint(v=second, o=optimizer).read(path).assert_existing_objects_matched()
            go_on(optimizer, second, gradients[3:])
            results.append(second.numpy())
        self.assertAllEqual(whole, results[0])
        self.assertAllClose(results[1] - first, 2 * (results[0] - first), rtol=1e-4)


if __name__ == "__main__":
    tf.test.main()
