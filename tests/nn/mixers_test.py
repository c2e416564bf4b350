"""Tests of the mixers of teams."""

import itertools
import types

import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from tfrl.errors import SettingError
from tfrl.nn import mixers
from tfrl.nn.mixers import QMixer, VDNMixer


def layer(kernel: list, bias: list) -> list[np.ndarray]:
    """Weights of a dense layer of a matrix whose rows are its outputs."""
    return [np.float32(kernel).T, np.float32(bias)]


def by_hand() -> QMixer:
    """Two agents, a state of two numbers, two hidden units, and weights written out."""
    mixer = QMixer(2, 2, 2)
    mixer._weights_1.layers[0].set_weights(
        layer([[0.5, -0.2], [0.1, 0.3], [-0.4, 0.2], [0.6, -0.1]], [0.1, -0.1, 0.2, 0])
    )
    mixer._bias_1.layers[0].set_weights(layer([[0.2, 0.1], [-0.3, 0.4]], [0, 0.05]))
    mixer._weights_2.layers[0].set_weights(layer([[0.3, 0.3], [-0.5, 0.2]], [0.1, 0]))
    mixer._value.layers[0].set_weights(layer([[0.2, -0.6], [0.5, 0.5]], [0, -0.1]))
    mixer._value.layers[1].set_weights(layer([[1, -1]], [0.25]))
    return mixer


class MixersTest(parameterized.TestCase):
    @parameterized.parameters(
        ([1.5, -0.5], -0.425, [0.26, 0.24]),
        ([-3.0, -2.0], -1.68831487, [0.11748642, 0.11491172]),  # the negative side of elu
    )
    def test_numbers_by_hand(self, q, total, gradient):
        mixer, q = by_hand(), tf.constant([q])
        with tf.GradientTape() as tape:
            tape.watch(q)
            out = mixer(q, tf.constant([[1.0, 2.0]]))
        np.testing.assert_allclose(out, [total], atol=1e-6)
        np.testing.assert_allclose(tape.gradient(out, q), [gradient], atol=1e-6)

    @parameterized.parameters(1, 2)
    def test_five_hundred_random_mixers_are_monotonic_and_keep_each_agents_best_action(
        self, layers
    ):
        agents, actions, size, states = 3, 4, 5, 4
        joint = np.array(list(itertools.product(range(actions), repeat=agents)))
        mixer = QMixer(agents, size, 4, layers, 6)

        @tf.function(autograph=False)
        def total_and_gradient(q, state):
            with tf.GradientTape() as tape:
                tape.watch(q)
                total = mixer(q, state)
            return total, tape.gradient(total, q)

        for seed in range(500):
            rng = np.random.default_rng(seed)
            for variable in mixer.variables:
                variable.assign(rng.normal(size=variable.shape))
            q = rng.normal(size=[states, agents, actions], scale=3).astype(np.float32)
            state = rng.normal(size=[states, size]).astype(np.float32)
            # Each agent's value of its part of each joint action, [states, joint actions, agents].
            parts = np.stack([q[:, i, joint[:, i]] for i in range(agents)], axis=-1)
            total, gradient = total_and_gradient(
                tf.constant(parts.reshape(-1, agents)), tf.constant(state.repeat(len(joint), 0))
            )
            self.assertGreaterEqual(float(tf.reduce_min(gradient)), 0.0)
            total = total.numpy().reshape(states, len(joint))
            greedy = (joint == q.argmax(-1)[:, None]).all(-1).argmax(-1)
            # Where elu is flat in float32 another action may be as good; none is better.
            best = total[np.arange(states), greedy]
            np.testing.assert_allclose(best, total.max(1), rtol=1e-5, atol=1e-5)

    def test_two_layers_make_the_weights_with_a_relu_between_them(self):
        mixer = QMixer(2, 3, 4, hypernet_layers=2, hypernet_size=5)
        shapes = sorted(tuple(v.shape) for v in mixer.trainable_variables)
        self.assertEqual(
            shapes,
            sorted(
                [(3, 5), (5,), (5, 8), (8,), (3, 4), (4,), (3, 5), (5,), (5, 4), (4,)]  # W1, b1, w2
                + [(3, 4), (4,), (4, 1), (1,)]
            ),
        )
        q, state = np.float32([[1, -2]]), np.float32([[0.5, -1, 2]])

        def layers(parts, x):
            *hidden, last = parts.layers
            for one in hidden:
                x = np.maximum(x @ one.kernel.numpy() + one.bias.numpy(), 0)
            return x @ last.kernel.numpy() + last.bias.numpy()

        weights = np.abs(layers(mixer._weights_1, state)).reshape(2, 4)
        hidden = q @ weights + layers(mixer._bias_1, state)
        hidden = np.where(hidden > 0, hidden, np.expm1(hidden))
        total = (hidden * np.abs(layers(mixer._weights_2, state))).sum(1)
        total += layers(mixer._value, state)[:, 0]
        np.testing.assert_allclose(mixer(tf.constant(q), tf.constant(state)), total, rtol=1e-5)

    def test_every_variable_has_a_gradient(self):
        mixer = QMixer(2, 3, hypernet_layers=2)
        with tf.GradientTape() as tape:
            total = mixer(tf.random.normal([8, 2]), tf.random.normal([8, 3]))
        gradients = tape.gradient(total, mixer.trainable_variables)
        self.assertTrue(all(np.abs(g).max() > 0 for g in gradients))
        self.assertLen(mixer.output_kernels, 4)

    def test_the_other_mixer_is_the_sum_of_the_values(self):
        mixer = VDNMixer(3, 7)
        total = mixer(tf.constant([[1.0, 2.0, -4.0]]), tf.zeros([1, 7]))
        np.testing.assert_allclose(total, [-1.0])
        self.assertEmpty(mixer.variables)

    def test_settings_choose_the_mixer(self):
        config = mixers.MixerSettings(mixing_embed_size=3)
        self.assertEqual(mixers.make(config, 2, 4).output_kernels[1].shape, [4, 3])
        self.assertIsInstance(mixers.make(mixers.MixerSettings(mixer="vdn"), 2, 4), VDNMixer)
        for word in ("none", "iql"):
            self.assertIsNone(mixers.make(mixers.MixerSettings(mixer=word), 2, 4))
        with self.assertRaisesRegex(SettingError, "mixer='qmx'.*did you mean qmix"):
            mixers.make(types.SimpleNamespace(mixer="qmx"), 2, 4)
        with self.assertRaisesRegex(SettingError, "hypernet_layers=3: expected 1 or 2"):
            QMixer(2, 2, hypernet_layers=3)

    @parameterized.parameters(([4, 3], [4, 2]), ([4], [4, 2]), ([4, 2], [4]), ([4, 2], [3, 2]))
    def test_shapes_that_do_not_fit_are_refused(self, q, state):
        with self.assertRaises(ValueError):
            QMixer(2, 2)(tf.zeros(q), tf.zeros(state))


if __name__ == "__main__":
    absltest.main()
