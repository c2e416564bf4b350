"""Dynamic sparse training of plain Keras models."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.errors import SettingError
from tfrl.keras import LAMB, SparseTraining

keras = tf.keras


def model_of(optimizer, **compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Dense(32, "relu", input_shape=(8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile(optimizer, "mse", **compiled)
    return model


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

    def test_refused(self):
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
