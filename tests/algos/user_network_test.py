"""What every algorithm honours of a user's Keras model: frozen layers, modes, running statistics, losses, dtypes."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.algos import a2c, a3c, appo, c51, ddpg, dqn, impala, iqn, pg, ppo, qr_dqn, td3
from tfrl.errors import SettingError
from tfrl.runtime.learning.learner import make_strategy
from tfrl.testing import conformance
from tfrl.types import EnvSpec

layers = tf.keras.layers
spaces = gym.spaces
SPEC = EnvSpec("e", spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2), max_episode_steps=6)
BOX = EnvSpec("b", SPEC.observation_space, spaces.Box(-1, 1, (2,), np.float32), max_episode_steps=6)
WORDS = EnvSpec("w", spaces.Box(0, 9, (3,), np.int32), spaces.Discrete(2), max_episode_steps=6)
VALUE = dict(batch_size=8, updates_per_call=1, target_period_updates=10**6)
UNROLL = dict(unroll_length=6)
CRITICS = dict(VALUE, policy_hidden_sizes=(8,), critic_hidden_sizes=(8,))
ALGORITHMS = {
    "dqn": (dqn, VALUE),
    "dqn_memory": (
        dqn,
        {**VALUE, "core": "gru", "sequence_length": 6, "sequence_period": 3, "burn_in": 2},
    ),
    "dqn_gradients": (dqn, dict(sends_gradients=True, unroll_length=6)),
    "c51": (c51, {**VALUE, "num_atoms": 5}),
    "qr_dqn": (qr_dqn, {**VALUE, "num_quantiles": 4}),
    "iqn": (iqn, {**VALUE, "num_tau": 4, "num_target_tau": 3, "num_act_tau": 5, "num_cosines": 6}),
    "ddpg": (ddpg, CRITICS),
    "td3_shared": (td3, {**CRITICS, "shared_torso": True, "policy_period_updates": 1}),
    "pg": (pg, UNROLL),
    "a2c": (a2c, UNROLL),
    "a3c": (a3c, UNROLL),
    "ppo": (ppo, {**UNROLL, "epochs": 1, "minibatches": 1}),
    "ppo_memory": (ppo, {**UNROLL, "epochs": 1, "minibatches": 1, "core": "gru"}),
    "appo": (appo, {**UNROLL, "target_period_updates": 10**6}),
    "impala": (impala, UNROLL),
}
CONTINUOUS = ("ddpg", "td3_shared")
QUICK = ("dqn", "dqn_memory", "dqn_gradients", "a3c", "ppo", "impala", "ddpg")
SLOW = tuple(sorted(ALGORITHMS.keys() - set(QUICK)))
SENDERS = ("dqn_gradients", "a3c")


class Zero(layers.Layer):
    """Zeros in training, the input otherwise."""

    def call(self, x, training=None):
        return tf.zeros_like(x) if training else x


def dense(units=4, **options):
    return layers.Dense(units, **options)


def penalised(name=None):
    penalty = tf.keras.regularizers.L2(10.0)
    return dense(kernel_initializer="ones", kernel_regularizer=penalty, name=name)


def everything(spec):
    """A frozen layer, running statistics and a penalty of 10 * 16."""
    del spec
    norm = layers.BatchNormalization(momentum=0.5)
    return tf.keras.Sequential([dense(name="held", trainable=False), norm, penalised("free")])


def stateless(spec):
    """The same without statistics."""
    del spec
    return tf.keras.Sequential([dense(name="held", trainable=False), penalised("free")])


def normed(spec):
    del spec
    return tf.keras.Sequential([layers.BatchNormalization(momentum=0.5), dense()])


def switching(spec):
    del spec
    return tf.keras.Sequential([Zero(), dense(name="after", use_bias=False)])


def dropping(spec):
    del spec
    return tf.keras.Sequential([dense(), layers.Dropout(0.5)])


def plain(spec):
    del spec
    return tf.keras.Sequential([dense(kernel_initializer="ones")])


def punished(spec):
    del spec
    return tf.keras.Sequential([penalised()])


class Inside(tf.Module):
    """Keras layers as attributes of something that is no Keras model."""

    def __init__(self):
        super().__init__()
        self.layer = penalised()

    def __call__(self, x):
        return self.layer(x)


def inside(spec):
    del spec
    return Inside()


def embedding(spec):
    del spec
    return tf.keras.Sequential([layers.Embedding(10, 4), layers.Flatten()])


@functools.cache
def one_model():
    return tf.keras.Sequential([dense()])


def same(spec):
    del spec
    return one_model()


@functools.cache
def one_layer():
    return dense()


def same_layer(spec):
    del spec
    return tf.keras.Sequential([one_layer()])


def narrow(spec):
    del spec
    return tf.keras.Sequential([tf.keras.Input((2,)), dense()])


def two(spec):
    x = tf.keras.Input(spec.observation_space.shape)
    return tf.keras.Model(x, [dense()(x), dense()(x)])


def flat(spec):
    del spec
    return tf.keras.Sequential([dense(1), layers.Flatten(), layers.Lambda(lambda x: x[:, 0])])


def mixing(spec):
    del spec
    return tf.keras.Sequential([layers.Lambda(lambda x: tf.reshape(x, [1, -1]))])


def integers(spec):
    del spec
    return tf.keras.Sequential([layers.Lambda(lambda x: tf.cast(x, tf.int32))])


def closure(spec):
    del spec
    layer = dense()
    return lambda x: layer(x)


def wide(spec):
    del spec
    return tf.keras.Sequential([dense(dtype="float64")])


def half(spec):
    del spec
    return tf.keras.Sequential([dense(dtype="mixed_float16")])


class Counts(layers.Layer):
    """Counts its calls, in acting too."""

    def build(self, shape):
        del shape
        self.calls = self.add_weight("calls", [], trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


def counting(spec):
    del spec
    return tf.keras.Sequential([Counts(), dense()])


def spec_of(algo):
    return BOX if algo in CONTINUOUS else SPEC


def agent_of(algo, builder, spec=None, **settings):
    module, own = ALGORITHMS[algo]
    spec = spec_of(algo) if spec is None else spec
    network = builder if isinstance(builder, str) else f"{__name__}:{builder.__name__}"
    return module.make(module.Config(network=network, **{**own, **settings}), spec)


class UserNetworkTest(tf.test.TestCase, parameterized.TestCase):
    def run_once(self, algo, builder, spec=None, mode="graph", devices=1, **settings):
        """The learner, before and after one call: (loop, policy's variables before, metrics, samples)."""
        tf.keras.utils.set_random_seed(3)
        spec = spec_of(algo) if spec is None else spec
        agent = agent_of(algo, builder, spec, **settings)
        loop = conformance.loop(agent, spec, mode, make_strategy(devices))
        before = [v.numpy() for v in loop.learner.policy.variables]
        samples = conformance.block(agent, spec, 1)
        metrics, _ = loop.run(samples)
        return loop, before, {k: float(x) for k, x in metrics.items()}, samples

    @parameterized.parameters(*QUICK)
    def test_an_update(self, algo):
        self.check_update(algo)

    @parameterized.parameters(*SLOW)
    @pytest.mark.slow
    def test_an_update_of_other_algorithms(self, algo):
        self.check_update(algo)

    def check_update(self, algo):
        """What is frozen stays, statistics move, penalties are added once and pull."""
        builder = stateless if algo in SENDERS else everything
        loop, before, metrics, _ = self.run_once(algo, builder)
        found = {"held": [], "free": [], "batch_normalization": []}
        policy = loop.learner.policy
        acting = {id(v) for v in getattr(policy, "online", policy).variables}
        for variable, old in zip(policy.variables, before, strict=True):
            if id(variable) not in acting:  # those of a target network that travels along
                continue
            layer, _, part = variable.name.partition("/")
            layer = "batch_normalization" if layer.startswith("batch_norm") else layer
            if part.startswith(("kernel", "moving_mean")) and layer in found:
                found[layer].append((variable.numpy(), old))
        towers = 2 if algo in ("a2c", "a3c", "ppo", "ppo_memory") else 1  # policy and value
        for new, old in found["held"]:
            self.assertAllEqual(new, old)
        self.assertLen(found["held"], towers)
        self.assertLen(found["free"], towers)
        for new, old in found["free"]:
            self.assertLess(new.max(), old.min())
        self.assertLen(found["batch_normalization"], 0 if algo in SENDERS else towers)
        for new, old in found["batch_normalization"]:
            self.assertAllEqual(old, np.zeros(4))
            self.assertGreater(np.abs(new).max(), 0.0)
        self.assertGreater(metrics["learner/loss"], 160.0 * towers - 10.0)
        self.assertLess(metrics["learner/loss"], 160.0 * towers + 10.0)
        if algo not in SENDERS:
            self.assertAllClose(metrics["learner/network_loss"], 160.0 * towers)
        if hasattr(loop.learner, "target"):  # called for inference only; takes all over
            mean = lambda x: [v.numpy() for v in x.variables if "moving_mean" in v.name]
            self.assertAllEqual(mean(loop.learner.target)[0], np.zeros(4))
            loop.learner.periodic()[0].fn()
            self.assertAllEqual(mean(loop.learner.target), mean(loop.learner.policy))

    @parameterized.parameters(("ddpg", 2), ("td3_shared", 1))
    def test_policy_and_critics_have_a_body_each_unless_they_share_one(self, algo, bodies):
        """Both keep what is frozen, move statistics, and pay their own penalties; targets take statistics over."""
        loop, _, metrics, _ = self.run_once(algo, everything)
        learner = loop.learner
        found = {id(x): x for x in (learner.policy.body, learner.critics.body)}
        self.assertLen(found, bodies)
        self.assertAllClose(metrics["learner/network_loss"], 160.0)
        policy_loss = metrics["learner/policy_loss"]
        self.assertAllClose(policy_loss, 160.0 if bodies == 2 else 0.0, atol=2.0)
        free = {id(v) for n in learner.networks() for v in n.variables}
        mean = lambda body: [v.numpy() for v in body.variables if "moving_mean" in v.name]
        for body in found.values():
            held = [v for v in body.variables if v.name.startswith("held")]
            self.assertLen(held, 2)
            self.assertFalse(free & {id(v) for v in held})
            kernel = next(v for v in body.variables if v.name.startswith("free/kernel"))
            self.assertLess(kernel.numpy().max(), 1.0)  # it began at 1 and is pulled to 0
            self.assertGreater(np.abs(mean(body)[0]).max(), 0.0)
        for target in (learner.target_policy.body, learner.target_critics.body):
            self.assertAllEqual(mean(target)[0], np.zeros(4))
        learner.periodic()[0].fn()
        self.assertAllEqual(mean(learner.target_policy.body), mean(learner.policy.body))
        self.assertAllEqual(mean(learner.target_critics.body), mean(learner.critics.body))

    @parameterized.parameters("dqn", "dqn_gradients", "ppo", "impala")
    def test_layers_know_where_a_gradient_is_taken(self, algo):
        """Zeros in training leave no gradient for the kernel behind them; in acting it does its work."""
        loop, before, _, _ = self.run_once(algo, switching)
        variables = loop.learner.policy.variables
        kernels = [(v.numpy(), x) for v, x in zip(variables, before) if v.name.startswith("after/")]
        self.assertNotEmpty(kernels)
        for new, old in kernels:
            self.assertAllEqual(new, old)
        policy = getattr(loop.learner.policy, "online", loop.learner.policy)
        body = policy.body if hasattr(policy, "body") else policy._policy_body
        features, _ = body.step(conformance.observations(SPEC, 5, 0), ())
        self.assertGreater(float(tf.reduce_max(tf.abs(features))), 0.0)

    @parameterized.product(mode=["graph", "xla"], devices=[1, 2])
    def test_statistics_are_those_of_what_was_acted_on(self, mode, devices):
        """One update of DQN: half of the way from 0 to the mean, over all devices."""
        if mode == "xla" and devices == 2:
            self.skipTest("XLA compiles one replica only")
        loop, _, _, samples = self.run_once("dqn", normed, mode=mode, devices=devices)
        batch = loop._layout.decode(samples.columns, tf.ones([8]))
        names = [v.name for v in loop.learner.policy.variables]
        means = [x for x, name in zip(loop.arrays(), names) if "moving_mean" in name]
        self.assertAllClose(means, [0.5 * tf.reduce_mean(batch.obs_tm1, 0)], atol=1e-6)

    @parameterized.parameters("dqn", "ppo")
    def test_acting_leaves_the_statistics(self, algo):
        tf.keras.utils.set_random_seed(0)
        policy = agent_of(algo, normed).make_policy()
        before = [v.numpy() for v in policy.variables]
        policy.step(conformance.observations(SPEC, 5, 0), (), {}, {}, False)
        self.assertEqual(conformance.apart(before, [v.numpy() for v in policy.variables]), 0.0)

    @parameterized.parameters(*SENDERS)
    def test_running_statistics_are_refused_where_only_gradients_travel(self, algo):
        with self.assertRaisesRegex(SettingError, "moving_mean.*only gradients reach.*LayerNorm"):
            agent_of(algo, normed)

    @parameterized.parameters("dqn", "ppo")
    def test_dropout_drops_in_training_only(self, algo):
        losses = []
        for _ in range(2):
            loop, _, metrics, _ = self.run_once(algo, dropping, mode="auto")
            self.assertEqual(loop.compiled, "graph")  # XLA would ignore the seed
            losses.append(metrics["learner/loss"])
        self.assertEqual(*losses)
        policy = agent_of(algo, dropping).make_policy()
        obs = conformance.observations(SPEC, 64, 0)
        values = policy.q_values if algo == "dqn" else lambda x: policy.heads(x).params
        self.assertAllEqual(values(obs), values(obs))

    def test_a_module_with_keras_layers_inside(self):
        losses = [self.run_once("dqn", b)[2]["learner/loss"] for b in (plain, inside)]
        self.assertAllClose(losses[1] - losses[0], 120.0, rtol=1e-4)

    @parameterized.parameters(("dqn",))
    def test_penalties_on_two_devices_are_those_of_one(self, algo):
        found = []
        for devices in (1, 2):
            loop, before, metrics, _ = self.run_once(algo, punished, devices=devices)
            after = loop.arrays()
            found.append((metrics["learner/network_loss"], metrics["learner/gradient_norm"]))
            kernels = [i for i, x in enumerate(before) if x.shape == (3, 4)]
            for i in kernels:  # it pulls every entry towards 0
                self.assertLess(after[i].max(), before[i].min())
        self.assertAllClose(found[0], found[1], rtol=1e-4)

    @parameterized.parameters(("dqn", 1), ("ppo", 2), ("a3c", 1))
    def test_embeddings(self, algo, devices):
        """Their gradients are sparse."""
        loop, before, metrics, _ = self.run_once(
            algo, embedding, WORDS, devices=devices, gradient_clip_norm=0.5
        )
        self.assertGreater(metrics["learner/gradient_norm"], 0.0)
        self.assertGreater(conformance.apart(before, loop.arrays()), 0.0)

    @parameterized.parameters(
        (same, "the builder returned the same model twice"),
        (same_layer, "the builder returned the same layers twice"),
        (narrow, r"does not take the observation, float32 \[None, 3\]: ValueError: .*"),
        (two, "expected a model with one output, .*, got a list of 2"),
        (flat, r"expected a model that gives \[batch, features\], got \[batch\]"),
        (mixing, r"expected a model that gives \[batch, features\], got \[1, 9\]"),
        (integers, "expected features of a float type, got int32"),
        (closure, "reads variables that are not its own .*kernel.*be neither trained nor saved"),
        (wide, "kernel:0 is float64, expected float32 variables"),
        (half, "computes in float16, whose gradients vanish"),
        (counting, "changes variables when it is called with training=False"),
    )
    def test_refused_before_training(self, builder, message):
        for algo in ("dqn", "ppo"):
            with self.assertRaisesRegex(
                SettingError, f"network='{__name__}:{builder.__name__}': .*{message}"
            ) as caught:
                agent_of(algo, builder)
            self.assertNotIn("\n", str(caught.exception))


class GlobalPolicyTest(tf.test.TestCase, parameterized.TestCase):
    """A dtype policy or float type that the user has set for all of Keras."""

    def tearDown(self):
        tf.keras.mixed_precision.set_global_policy("float32")
        tf.keras.backend.set_floatx("float32")
        super().tearDown()

    def test_named_networks_stay_float32(self):
        self.check_float32("ppo", "mixed_float16")

    @pytest.mark.slow
    def test_named_networks_stay_float32_under_float64(self):
        self.check_float32("iqn", "float64")

    def check_float32(self, algo, policy):
        losses = []
        image = EnvSpec("i", spaces.Box(0, 255, (8, 8, 2), np.uint8), spaces.Discrete(2))
        for name in ("float32", policy):
            tf.keras.mixed_precision.set_global_policy(name)
            for spec, network in ((SPEC, "mlp"), (image, "small_cnn")):
                tf.keras.utils.set_random_seed(3)
                agent = agent_of(algo, network, spec, hidden_sizes=(8,))
                loop = conformance.loop(agent, spec)
                self.assertEqual({v.dtype for v in loop.learner.policy.variables}, {tf.float32})
                metrics, _ = loop.run(conformance.block(agent, spec, 1))
                losses.append(float(metrics["learner/loss"]))
        self.assertAllClose(losses[:2], losses[2:], rtol=1e-6)

    def test_a_model_in_mixed_bfloat16(self):
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
        for algo in ("dqn", "ppo"):
            agent = agent_of(algo, punished)
            loop = conformance.loop(agent, SPEC)
            metrics, _ = loop.run(conformance.block(agent, SPEC, 1))
            self.assertTrue(np.isfinite(float(metrics["learner/loss"])))

    def test_a_model_in_mixed_float16_is_refused(self):
        tf.keras.mixed_precision.set_global_policy("mixed_float16")
        for algo in ("dqn", "ppo"):
            with self.assertRaisesRegex(SettingError, "computes in float16.*mixed_bfloat16"):
                agent_of(algo, plain)


if __name__ == "__main__":
    tf.test.main()
