"""LAMB and LARS: against a slow twin, in Keras, and as optimisers of every algorithm."""

import os
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.job import EnvPlan, algorithm
from tfrl.optim import apply, optimizers, schedules
from tfrl.optim import settings as optim_settings
from tfrl.optim.lamb import LAMB, LARS
from tfrl.optim.settings import OptimizerSettings
from tfrl.testing import algorithm_checks, reference, replicas

# Layers of a small network; the last one begins at zero.
SHAPES = {"in": (4, 5), "bias": (5,), "out": (5, 3), "scale": (), "zero": (3, 2)}
NOTHING = ()  # excluded
# Kind and options of the slow twin -> the optimiser with them.
CASES = {
    "lamb": ("lamb", {"weight_decay": 0.1}, LAMB, {}),
    "lamb_all": ("lamb", {"weight_decay": 0.1}, LAMB, {"exclude_from_weight_decay": NOTHING}),
    "lamb_uncorrected": (
        "lamb",
        {"bias_correction": False, "trust_clip": (0.5, 1.5), "betas": (0.8, 0.9)},
        LAMB,
        {},
    ),
    "lars": ("heavy_ball", {"weight_decay": 0.1}, LARS, {}),
    "lars_all": (
        "heavy_ball",
        {"weight_decay": 0.1, "nesterov": True, "coefficient": 0.1, "trust_clip": (0.5, 1.5)},
        LARS,
        {"exclude_from_weight_decay": NOTHING},
    ),
    "paper": ("paper", {"weight_decay": 0.1, "momentum": 0.5}, LARS, {}),
    "paper_all": (
        "paper",
        {"nesterov": True},
        LARS,
        {"exclude_from_layer_adaptation": NOTHING},
    ),
}


def start():
    """Values of the layers."""
    rng = np.random.default_rng(0)
    values = [rng.normal(0, 0.5, shape).astype(np.float32) for shape in SHAPES.values()]
    return [*values[:-1], np.zeros_like(values[-1])]


def layers(values):
    """Variables of the layers."""
    return [tf.Variable(x, name=name) for name, x in zip(SHAPES, values, strict=True)]


def gradients(steps=20):
    """Weights of all layers; that of the second layer is zero at first."""
    rng = np.random.default_rng(1)
    given = [[rng.normal(size=s).astype(np.float32) for s in SHAPES.values()] for _ in range(steps)]
    given[0][2] *= 0
    return given


def made(cls, kind, options, rate=0.03, **own):
    """The optimiser with the options of the slow twin."""
    own = {**own, **options}
    if "betas" in own:
        own["beta_1"], own["beta_2"] = own.pop("betas")
    if "coefficient" in own:
        own["trust_coefficient"] = own.pop("coefficient")
    if cls is LARS:
        own["variant"] = kind
    return cls(rate, **own)


def trained(optimizer, values, given, jit=False):
    """Values of the layers after each step of a traced function."""
    variables, out = layers(values), []
    optimizer.build(variables)

    @tf.function(jit_compile=jit, autograph=False)
    def step(gradients):
        optimizer.apply_gradients(zip(gradients, variables))

    for each in given:
        step([tf.constant(g) for g in each])
        out.append([v.numpy() for v in variables])
    return out


@tf.keras.saving.register_keras_serializable("tests")
def is_output(variable):
    """Predicate of the tests, which a saved optimiser finds because it is registered."""
    return variable.shape.rank == 2 and variable.shape[-1] == 3


class ArithmeticTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters(
        (name, *case, name.endswith("_all")) for name, case in CASES.items()
    )
    def test_equals_the_slow_twin(self, kind, options, cls, own, jit):
        optimizer, given = made(cls, kind, options, **own), gradients()
        found = trained(optimizer, start(), given, jit)
        excluded = [not own and len(shape) < 2 for shape in SHAPES.values()]
        if "exclude_from_layer_adaptation" in own:  # the case has no decay
            self.assertNotIn("weight_decay", options)
        expected = reference.layer_wise(kind, start(), given, lambda t: 0.03, excluded, **options)
        for mine, theirs in zip(found, expected, strict=True):
            for x, y in zip(mine, theirs, strict=True):
                self.assertAllClose(x, y, rtol=0, atol=1e-6)
        self.assertGreater(np.abs(found[-1][-1]).max(), 0.0)  # the layer of zeros has moved

    @parameterized.parameters(
        (LAMB, {}), (LAMB, {"weight_decay": 0.1}), (LARS, {"variant": "paper"}),
        (LARS, {"variant": "paper", "weight_decay": 0.1}),
    )  # fmt: skip
    def test_a_step_has_the_length_of_its_layer(self, cls, options):
        rate = schedules.WarmupPolynomialDecay(0.05, 3, 25)
        steps = trained(cls(rate, **options), start(), gradients())
        for t, (before, after) in enumerate(zip([start(), *steps], steps)):
            for i in (0, 2):
                x, y = np.float64(before[i]), np.float64(after[i])
                if not (t == 0 and i == 2):  # its gradient is zero
                    length = float(rate(t)) * np.linalg.norm(x)
                    self.assertAllClose(np.linalg.norm(y - x), length, rtol=1e-5)
        # Not so the layers that are left out.
        lengths = [np.linalg.norm(b[1] - a[1]) for a, b in zip(steps, steps[1:])]
        sizes = [float(rate(t + 1)) * np.linalg.norm(a[1]) for t, a in enumerate(steps[1:])]
        self.assertGreater(np.abs(np.array(lengths) / sizes - 1).min(), 1e-3)

    @parameterized.parameters(
        (LAMB, dict(epsilon=1e-12)),
        (LARS, dict(trust_coefficient=1.0, exclude_from_weight_decay=NOTHING)),
        (LARS, dict(variant="paper", exclude_from_weight_decay=NOTHING)),
    )
    def test_the_scale_of_the_loss_changes_nothing(self, cls, options):
        values, given, ends = start(), gradients(), []
        for scale in (1.0, 1000.0):
            scaled = [[np.float32(scale) * g for g in each] for each in given]
            ends.append(trained(cls(0.03, **options), values, scaled)[-1])
        del (
            ends[0][-1],
            ends[1][-1],
            values[-1],
        )  # the layer that begins at zero has ratio 1 at first
        for x, y, first in zip(*ends, values, strict=True):
            self.assertAllClose(x, y, rtol=0, atol=1e-4)
            self.assertGreater(np.abs(x - first).max(), 1e-4)

    def test_norms_of_half_precision_do_not_overflow(self):
        variable = tf.Variable(tf.fill([300, 300], tf.constant(8.0, tf.float16)))
        self.assertTrue(np.isinf(tf.reduce_sum(tf.square(variable)).numpy()))
        for optimizer in (LAMB(0.125), LARS(0.125, variant="paper")):
            variable.assign(tf.fill([300, 300], tf.constant(8.0, tf.float16)))
            optimizer.build([variable])
            optimizer.apply_gradients([(tf.ones_like(variable), variable)])
            self.assertAllEqual(variable, tf.fill([300, 300], tf.constant(7.0, tf.float16)))

    def test_rows_of_an_embedding_and_gradients_that_are_missing(self):
        rows = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([2, 2]), tf.constant([3, 2]))
        whole = tf.constant([[0.0, 0.0], [0.0, 0.0], [2.0, 2.0]])
        for kind in ("lamb", "lars"):
            tables = [tf.Variable(tf.ones([3, 2])) for _ in range(3)]
            for gradient, table in zip((rows, whole), tables):
                optimizer = optimizers.make(kind, [table, tables[2]], 0.1)
                apply.step(optimizer, [gradient, None], [table, tables[2]])
            self.assertAllEqual(tables[0], tables[1])
            self.assertLess(float(tables[0][2, 0]), 1.0)
            self.assertAllEqual(tables[2], tf.ones([3, 2]))


class ExclusionsTest(tf.test.TestCase, parameterized.TestCase):
    def excluded(self, optimizer):
        """Names of the layers without decay, and of those without a ratio of their own."""
        optimizer.build(layers(start()))
        names = np.array(list(SHAPES))
        decay, adaptation = np.array(optimizer._decays) == 0, ~np.array(optimizer._adapts)
        return list(names[decay]), list(names[adaptation])

    @parameterized.parameters(
        ({}, ["bias", "scale"], ["bias", "scale"]),
        (dict(exclude_from_weight_decay=["^o", "b.a"]), ["bias", "out"], ["bias", "out"]),
        (dict(exclude_from_layer_adaptation=["zero"]), ["bias", "scale"], ["zero"]),
        (
            dict(exclude_from_weight_decay=[], exclude_from_layer_adaptation=is_output),
            [],
            ["out"],
        ),
        (dict(exclude_from_weight_decay=is_output), ["out"], ["out"]),
    )
    def test_names_and_predicates_survive_the_config(self, rules, decay, adaptation):
        for cls in (LAMB, LARS):
            optimizer = cls(0.1, weight_decay=0.5, **rules)
            self.assertEqual(self.excluded(optimizer), (decay, adaptation))
            again = cls.from_config(optimizer.get_config())
            self.assertEqual(again.get_config(), optimizer.get_config())
            self.assertEqual(self.excluded(again), (decay, adaptation))
            form = tf.keras.optimizers.serialize(optimizer)
            self.assertEqual(
                self.excluded(tf.keras.optimizers.deserialize(form)), (decay, adaptation)
            )

    def test_the_method_of_keras_serves_too(self):
        optimizer = LAMB(0.1, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["out"])
        self.assertEqual(self.excluded(optimizer), (["bias", "out", "scale"], ["bias", "scale"]))

    def test_every_argument_is_in_the_config(self):
        given = dict(
            learning_rate=0.25, beta_1=0.5, beta_2=0.75, epsilon=0.125, weight_decay=0.5,
            bias_correction=False, trust_clip=(0.5, 2.0), global_clipnorm=1.0, name="mine",
        )  # fmt: skip
        config = LAMB(**given).get_config()
        self.assertEqual({name: config[name] for name in given}, given)
        given = dict(
            learning_rate=0.25, momentum=0.5, weight_decay=0.5, trust_coefficient=0.125,
            nesterov=True, variant="paper",
        )  # fmt: skip
        config = LARS(**given).get_config()
        self.assertEqual({name: config[name] for name in given}, given)

    @parameterized.parameters(
        (LAMB, dict(beta_1=1.0), "beta_1=1.0: expected at least 0 and below 1"),
        (LAMB, dict(beta_2=-0.5), "beta_2=-0.5: expected at least 0 and below 1"),
        (LAMB, dict(epsilon=0.0), "epsilon=0.0: expected more than 0"),
        (LAMB, dict(weight_decay=-1.0), "weight_decay=-1.0: expected at least 0"),
        (LAMB, dict(trust_clip=(2.0, 1.0)), r"trust_clip=\(2.0, 1.0\): expected two norms"),
        (LAMB, dict(trust_clip=(1.0,)), r"trust_clip=\(1.0,\): expected two norms"),
        (LAMB, dict(exclude_from_weight_decay=["("]), r"exclude_from_weight_decay: '\(' is no reg"),
        (LARS, dict(exclude_from_layer_adaptation="bias"), "expected a list of patterns"),
        (LARS, dict(momentum=1.0), "momentum=1.0: expected at least 0 and below 1"),
        (LARS, dict(trust_coefficient=0.0), "trust_coefficient=0.0: expected more than 0"),
        (LARS, dict(variant="papers"), "variant='papers': expected one of .* did you mean paper"),
    )
    def test_what_cannot_be_used_is_refused(self, cls, options, message):
        with self.assertRaisesRegex(SettingError, message):
            cls(0.1, **options)


class KerasTest(tf.test.TestCase, parameterized.TestCase):
    X = np.random.default_rng(2).normal(size=(64, 6)).astype(np.float32)
    Y = np.tanh(X @ np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32))

    def model(self):
        tf.keras.utils.set_random_seed(0)
        dense = [tf.keras.layers.Dense(16, activation="tanh"), tf.keras.layers.LayerNormalization()]
        return tf.keras.Sequential([tf.keras.Input(6), *dense, tf.keras.layers.Dense(3)])

    def fitted(self, optimizer, jit, epochs=8):
        model = self.model()
        model.compile(optimizer, "mse", jit_compile=jit)
        losses = model.fit(
            self.X, self.Y, batch_size=32, epochs=epochs, verbose=0, shuffle=False
        ).history["loss"]
        return model, losses

    def test_model_fit_learns_with_lars(self):
        _, losses = self.fitted(LARS(0.3, trust_coefficient=0.1, weight_decay=0.01), False)
        self.assertLess(losses[-1], 0.5 * losses[0])

    def test_model_fit_learns_compiled_or_not(self):
        ends = []
        for jit in (False, True):
            model, losses = self.fitted(LAMB(0.03, weight_decay=0.01), jit)
            self.assertLess(losses[-1], 0.5 * losses[0])
            ends.append(model.get_weights())
        for x, y in zip(*ends, strict=True):
            self.assertAllClose(x, y, rtol=0, atol=1e-4)

    def test_a_saved_model_goes_on_exactly(self):
        rate = schedules.WarmupPolynomialDecay(0.05, 4, 16)
        options = dict(weight_decay=0.1, exclude_from_layer_adaptation=is_output)
        whole, _ = self.fitted(LAMB(rate, **options), False)
        half, _ = self.fitted(LAMB(rate, **options), False, epochs=4)
        path = os.path.join(self.enter_context(tempfile.TemporaryDirectory()), "half.keras")
        half.save(path)
        again = tf.keras.models.load_model(path)
        self.assertEqual(again.optimizer.get_config(), half.optimizer.get_config())
        again.fit(self.X, self.Y, batch_size=32, epochs=4, verbose=0, shuffle=False)
        for x, y in zip(whole.get_weights(), again.get_weights(), strict=True):
            self.assertAllEqual(x, y)


class PlacesTest(tf.test.TestCase, parameterized.TestCase):
    """A least-squares fit by `optimizers.make` gives the same weights wherever it runs, and after a restart."""

    KINDS = (
        ("lamb", "lamb", dict(weight_decay=0.1)),
        ("lars", "lars", dict(weight_decay=0.1, trust_coefficient=0.1)),
        ("paper", "lars", dict(variant="paper", nesterov=True)),
    )
    X = np.random.default_rng(4).normal(size=(8, 3)).astype(np.float32)

    def begin(self, kind, options, strategy=None):
        """Strategy, variables, optimiser and one update in replica context."""
        strategy = strategy or tf.distribute.get_strategy()
        with strategy.scope():
            kernel = tf.Variable(np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2))
            bias = tf.Variable([0.5, 0.0])
            rate = schedules.Linear(0.1, 0.01, 4)
            optimizer = optimizers.make(kind, [kernel, bias], rate, **options)

        def update():
            context = tf.distribute.get_replica_context()
            share = 8 // context.num_replicas_in_sync
            rows = context.replica_id_in_sync_group * share
            x = tf.constant(self.X)[rows : rows + share]
            with tf.GradientTape() as tape:
                errors = tf.reduce_sum(tf.square(x @ kernel + bias - 2.0), 1)
                loss = apply.global_mean(errors)
            apply.minimise(optimizer, tape, loss, [kernel, bias], 1.0)

        return strategy, [kernel, bias], optimizer, update

    def train(self, kind, options, strategy=None, jit=False, updates=6, loops=1):
        strategy, variables, optimizer, update = self.begin(kind, options, strategy)

        def body(i):
            strategy.run(update)
            return i + 1

        @tf.function(jit_compile=jit, autograph=False)
        def run():
            return tf.while_loop(lambda i: i < loops, body, [tf.constant(0)])

        for _ in range(updates // loops):
            run()
        copies = [[c.numpy() for c in strategy.experimental_local_results(v)] for v in variables]
        for mine in copies:
            for copy in mine:
                self.assertAllEqual(copy, mine[0])
        self.assertEqual(optimizer.iterations.numpy(), updates)
        return np.concatenate([mine[0].ravel() for mine in copies])

    @parameterized.named_parameters(*KINDS)
    def test_devices_xla_and_loops_agree(self, kind, options):
        one = self.train(kind, options)
        self.assertGreater(np.abs(one - [*np.linspace(-1, 1, 6), 0.5, 0.0]).max(), 1e-3)
        self.assertAllClose(one, self.train(kind, options, jit=True, loops=3), rtol=0, atol=1e-6)
        two = self.train(kind, options, replicas.two_cpus(), loops=3)
        self.assertAllClose(one, two, rtol=0, atol=1e-6)

    @parameterized.named_parameters(*KINDS)
    def test_a_checkpoint_goes_on_exactly(self, kind, options):
        _, whole, _, update = self.begin(kind, options)
        for _ in range(6):
            update()
        _, first, optimizer, update = self.begin(kind, options)
        for _ in range(3):
            update()
        folder = self.enter_context(tempfile.TemporaryDirectory())
        path = tf.train.Checkpoint(v=first, o=optimizer).write(os.path.join(folder, "saved"))
        _, second, optimizer, update = self.begin(kind, options)
        tf.train.Checkpoint(v=second, o=optimizer).read(path).assert_existing_objects_matched()
        for _ in range(3):
            update()
        for x, y, before in zip(whole, second, first, strict=True):
            self.assertAllEqual(x, y)
            self.assertNotAllClose(x, before)


class VocabularyTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (
            dict(
                optimizer="lamb", adam_beta_1=0.5, adam_beta_2=0.75, optimizer_epsilon=0.125,
                weight_decay=0.25, trust_clip=(0.5, 2.0), lamb_bias_correction=False,
            ),
            LAMB,
            dict(
                beta_1=0.5, beta_2=0.75, epsilon=0.125, weight_decay=0.25, trust_clip=(0.5, 2.0),
                bias_correction=False,
            ),
        ),
        (
            dict(
                optimizer="lars", momentum=0.5, weight_decay=0.25, trust_clip=(0.5, 2.0),
                nesterov=True, lars_trust_coefficient=0.125,
            ),
            LARS,
            dict(
                momentum=0.5, weight_decay=0.25, trust_clip=(0.5, 2.0), nesterov=True,
                trust_coefficient=0.125, variant="heavy_ball",
            ),
        ),
        (dict(optimizer="lars", lars_variant="paper"), LARS, dict(variant="paper", momentum=0.9)),
    )  # fmt: skip
    def test_the_settings_reach_the_optimiser(self, settings, cls, expected):
        config = OptimizerSettings(learning_rate=0.5, learning_rate_warmup_updates=4, **settings)
        optimizer = optim_settings.make(config, layers(start()), None)
        self.assertIsInstance(optimizer, cls)
        mine = {name: getattr(optimizer, name) for name in expected}
        self.assertEqual(mine, expected)
        self.assertAllClose(optimizer.learning_rate, 0.125)  # of the first update

    @parameterized.parameters(("sac", {}), ("ppo", dict(free_log_std=True)))
    def test_deviations_of_gsde_are_no_layer(self, algo, settings):
        settings |= dict(state_dependent_exploration=True, optimizer="lamb", weight_decay=0.1)
        spec, module = make_spec(EnvPlan(env="tfrl.testing.fakes:TargetPoint")), algorithm(algo)
        learner = module.make(module.Config(**settings), spec).make_learner()
        (deviations, optimizer) = next(
            (v, n.optimizer) for n in learner.networks() for v in n.variables if "log_std" in v.name
        )
        self.assertEqual(deviations.shape.rank, 2)
        place = optimizer._place(deviations)
        self.assertEqual(optimizer._decays[place], 0.0)
        self.assertFalse(optimizer._adapts[place])
        self.assertIn(0.1, optimizer._decays)

    def subject(self, algo, settings):
        module = algorithm(algo)
        spec = make_spec(EnvPlan(env=module.ABOUT.env))
        agent = module.make(module.Config(**{**module.ABOUT.small, **settings}), spec)
        return algorithm_checks.Subject(algo, module, agent, spec)

    CASES = (
        ("dqn", dict(optimizer="lamb", learning_rate=0.02)),
        (
            "ppo",
            dict(
                optimizer="lars",
                learning_rate=0.05,
                lars_trust_coefficient=0.1,
                core="none",
                kl_coefficient=0.0,
                normalize_rewards=False,
            ),
        ),
    )
    SLOW = (
        *CASES[1:],
        ("dqn", dict(optimizer="lars", learning_rate=0.05, lars_trust_coefficient=0.1)),
        ("dqn", dict(optimizer="lars", lars_variant="paper", learning_rate=0.02)),
        ("ppo", dict(optimizer="lamb", learning_rate=0.02)),
        ("a3c", dict(optimizer="lamb", learning_rate=0.02)),
        ("iqn", dict(optimizer="lamb", learning_rate=0.02)),
        ("td3", dict(optimizer="lamb", learning_rate=0.02)),
        ("sac", dict(optimizer="lars", learning_rate=0.05, lars_trust_coefficient=0.1)),
    )

    @parameterized.parameters(*CASES[:1])
    def test_algorithms_train_on_two_devices_as_on_one(self, algo, settings):
        algorithm_checks.two_devices_equal_one(self.subject(algo, settings))

    @parameterized.parameters(*CASES[:1])
    def test_algorithms_go_on_exactly(self, algo, settings):
        algorithm_checks.save_and_restore_continue_exactly(self.subject(algo, settings))

    @parameterized.parameters(*SLOW)
    @pytest.mark.slow
    def test_other_algorithms(self, algo, settings):
        subject = self.subject(algo, settings)
        algorithm_checks.two_devices_equal_one(subject)
        algorithm_checks.save_and_restore_continue_exactly(subject)
        algorithm_checks.eager_equals_traced(subject)


if __name__ == "__main__":
    tf.test.main()
