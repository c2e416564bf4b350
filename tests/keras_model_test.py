"""Dynamic sparse training of plain Keras models."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.errors import SettingError
from tfrl.keras import LAMB, LARS, SparseTraining
from tfrl.testing import replicas

keras = tf.keras


def model_of(optimizer, **compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Dense(32, "relu", input_shape=(8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile(optimizer, "mse", **compiled)
    return model


class Own(keras.Model):
    """A model that is never built; another layer is before one with weights from its start."""

    def __init__(self, first):
        super().__init__()
        self.first, self.inner = first, model_of("sgd")

    def call(self, x):
        return self.inner(self.first(x))


def data():
    x = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
    return x, x[:, :1] * x[:, 1:2]


class SparseTrainingTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters(
        ("adam", lambda: keras.optimizers.Adam(1e-2)), ("lamb", lambda: LAMB(1e-2))
    )
    def test_weights_stay_few_move_and_learn(self, optimizer):
        model, sparse = model_of(optimizer()), SparseTraining(0.3, rewire_updates=8, seed=1)
        x, y = data()
        before = model.evaluate(x, y, verbose=0)
        model.fit(x, y, batch_size=32, epochs=1, verbose=0, callbacks=[sparse])
        hidden = [layer.kernel.numpy() for layer in model.layers[:2]]
        places = [kernel != 0 for kernel in hidden]
        share = sum(p.sum() for p in places) / sum(k.size for k in hidden)
        self.assertBetween(share, 0.2, 0.4)
        self.assertAllInRange(np.abs(model.layers[2].kernel.numpy()), 1e-12, np.inf)  # dense
        model.fit(x, y, batch_size=32, epochs=30, verbose=0, callbacks=[sparse])
        self.assertEqual(int(sparse.topology.rewirings), 31)
        self.assertLess(model.evaluate(x, y, verbose=0), 0.5 * before)
        found = sparse.summary()
        active = sum(np.count_nonzero(layer.kernel.numpy()) for layer in model.layers[:2])
        grown = found["parameters"] - model.layers[2].count_params() - 64 - active
        # Weights that have just grown are 0 until the next batch.
        self.assertBetween(grown, 0, 0.1 * active)
        moved = [
            (k.numpy() != 0) != p for k, p in zip((l.kernel for l in model.layers[:2]), places)
        ]
        self.assertGreater(sum(m.sum() for m in moved), 20)

    def test_a_seed_gives_one_mask_and_a_static_mask_stays(self):
        x, y = data()
        masks = []
        for _ in range(2):
            model, sparse = model_of("sgd"), SparseTraining(rewire_updates=0, seed=3)
            model.fit(x, y, batch_size=64, epochs=2, verbose=0, callbacks=[sparse])
            masks.append([layer.kernel.numpy() != 0 for layer in model.layers[:2]])
        self.assertAllEqual(masks[0][0], masks[1][0])
        self.assertAllEqual(masks[0][1], masks[1][1])

    def test_rewiring_ends(self):
        x, y = data()
        model, sparse = model_of("sgd"), SparseTraining(rewire_updates=2, stop_updates=5, seed=0)
        model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[sparse])
        self.assertEqual(int(sparse.topology.rewirings), 3)

    @parameterized.named_parameters(
        ("lamb", lambda: LAMB(1e-2)),
        ("lars", lambda: LARS(1e-2, variant="paper")),
        ("lars_heavy_ball", lambda: LARS(10.0, 0.0, trust_coefficient=1e-3)),
    )
    def test_a_step_has_the_length_of_the_active_weights(self, optimizer):
        model, sparse = model_of(optimizer()), SparseTraining(0.2, rewire_updates=0, seed=1)
        x, y = data()
        model.fit(x, y, batch_size=256, verbose=0, callbacks=[sparse])
        before = [layer.kernel.numpy() for layer in model.layers]
        model.fit(x, y, batch_size=256, verbose=0, callbacks=[sparse])
        for old, layer in zip(before, model.layers, strict=True):
            length = np.linalg.norm(layer.kernel.numpy() - old) / np.linalg.norm(old)
            self.assertAllClose(length, 0.01, rtol=1e-3)

    @parameterized.named_parameters(
        ("compiled_anew", lambda model: model.compile(LAMB(1e-2), "mse"), True),
        (
            "inside_another_one",
            lambda model: model.compile(
                keras.mixed_precision.LossScaleOptimizer(LAMB(1e-2)), "mse"
            ),
            True,
        ),
        ("trained_without_masks_before", lambda model: model.fit(*data(), verbose=0), True),
        ("without_masks_afterwards", lambda model: None, False),
    )
    def test_lamb_counts_what_is_trained(self, change, masked):
        model, sparse = model_of(LAMB(1e-2)), SparseTraining(0.2, rewire_updates=0, seed=1)
        x, y = data()
        model.fit(x, y, batch_size=256, verbose=0, callbacks=[sparse])
        places = [layer.kernel.numpy() != 0 for layer in model.layers]
        change(model)
        before = [layer.kernel.numpy() for layer in model.layers]
        if masked:
            before = [kernel * place for kernel, place in zip(before, places, strict=True)]
        model.fit(x, y, batch_size=256, verbose=0, callbacks=[sparse] if masked else [])
        for old, layer in zip(before, model.layers, strict=True):
            length = np.linalg.norm(layer.kernel.numpy() - old) / np.linalg.norm(old)
            self.assertAllClose(length, 0.01, rtol=1e-3)

    def test_two_devices(self):
        with replicas.two_cpus().scope():
            model = model_of("adam")
        sparse = SparseTraining(0.3, rewire_updates=2, seed=1)
        x, y = data()
        model.fit(x, y, batch_size=64, verbose=0, callbacks=[sparse])
        self.assertEqual(sparse.summary()["rewirings"], 2)
        kernel = model.layers[1].kernel
        copies = [copy.numpy() for copy in kernel.values]
        self.assertAllEqual(*copies)
        self.assertBetween(np.mean(copies[0] != 0), 0.1, 0.35)

    def test_an_embedding_stays_dense(self):
        layers = keras.layers
        model = keras.Sequential(
            [layers.Embedding(50, 8, input_length=1), layers.Flatten(), layers.Dense(32), layers.Dense(1)]
        )  # fmt: skip
        model.compile("sgd", "mse")
        x, sparse = np.arange(32)[:, None] % 50, SparseTraining(0.3, rewire_updates=0)
        model.fit(x, np.ones(32), verbose=0, callbacks=[sparse])
        self.assertAllInRange(np.abs(model.layers[0].embeddings.numpy()), 1e-12, np.inf)
        self.assertBetween(np.mean(model.layers[2].kernel.numpy() != 0), 0.1, 0.5)
        active = np.count_nonzero(model.layers[2].kernel.numpy())
        self.assertEqual(sparse.summary()["forward_flops"], 2 * (active + 32))

    def test_a_model_of_ones_own_with_weights_from_its_start(self):
        model, sparse = Own(keras.layers.Dropout(0.1)), SparseTraining(0.3, rewire_updates=0)
        self.assertFalse(model.built)
        model.compile("sgd", "mse")
        model.fit(*data(), verbose=0, callbacks=[sparse])
        self.assertBetween(np.mean(model.inner.layers[1].kernel.numpy() != 0), 0.1, 0.5)

    def test_refused(self):
        x, y = data()
        sparse = SparseTraining()
        model_of("sgd").fit(x, y, verbose=0, callbacks=[sparse])
        with self.assertRaisesRegex(
            SettingError, "^SparseTraining: fit of model 'sequential.*' with the masks of another"
        ):
            model_of("sgd").fit(x, y, verbose=0, callbacks=[sparse])
        dense = keras.layers.Dense
        late = keras.Sequential([dense(4), dense(1)])
        for model in (late, Own(dense(8))):
            model.compile("sgd", "mse")
            callback = SparseTraining(0.2)
            with self.assertRaisesRegex(SettingError, "has no weights, or not all, before .*build"):
                model.fit(x, y, verbose=0, callbacks=[callback])
        model.fit(x, y, verbose=0, callbacks=[callback])  # it has them now
        self.assertIn(0.0, model.inner.layers[1].kernel.numpy())

    def test_a_layer_may_be_frozen_between_fits(self):
        model, sparse = model_of("sgd"), SparseTraining(0.3, rewire_updates=0)
        model.fit(*data(), verbose=0, callbacks=[sparse])
        places = [layer.kernel.numpy() != 0 for layer in model.layers]
        model.layers[0].trainable = False
        model.compile("sgd", "mse")
        model.fit(*data(), verbose=0, callbacks=[sparse])
        self.assertAllEqual(places[1], model.layers[1].kernel.numpy() != 0)

    def test_settings_that_are_refused(self):
        x, y = data()
        with self.assertRaisesRegex(SettingError, "^SparseTraining: density=0"):
            SparseTraining(0.0)
        with self.assertRaisesRegex(SettingError, "seed=-1"):
            SparseTraining(seed=-1)
        with self.assertRaisesRegex(SettingError, "before the first fit"):
            SparseTraining().summary()
        with self.assertRaisesRegex(SettingError, "steps_per_execution=4"):
            model_of("sgd", steps_per_execution=4).fit(
                x, y, verbose=0, callbacks=[SparseTraining()]
            )
        with self.assertRaisesRegex(
            SettingError,
            "^SparseTraining: lambdas=7: .*has 2 layers that can be sparse.*or density$",
        ):
            model_of("sgd").fit(x, y, verbose=0, callbacks=[SparseTraining(lambdas=(7,))])


if __name__ == "__main__":
    tf.test.main()
