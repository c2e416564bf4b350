"""Packed records: what goes in as NumPy comes out as tensors, for every dtype and shape."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.replay.packing import Packing

KINDS = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
)


def random_array(rng, shape, kind):
    """Random bits where every bit pattern is a number, else numbers over many magnitudes."""
    if kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if kind.startswith("float"):
        return (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


class PackingTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(range(12))
    def test_round_trip(self, seed):
        rng = np.random.default_rng(seed)
        fields = []
        for i in range(rng.integers(1, 7)):
            shape = tuple(int(n) for n in rng.integers(1, 4, rng.integers(0, 4)))
            fields.append((f"f{i}", shape, KINDS[rng.integers(len(KINDS))]))
        fields.append(("every", (), KINDS[seed]))
        packing = Packing(fields)
        records = np.zeros(5, packing.dtype)
        for name, shape, kind in fields:
            records[name] = random_array(rng, (5, *shape), kind)
        rows = packing.rows(records)
        self.assertEqual(rows.shape, (5, packing.nbytes))
        self.assertEqual(packing.nbytes, sum(records[name][0].nbytes for name, _, _ in fields))
        unpacked = tf.function(packing.unpack)(tf.constant(rows))
        for name, _, _ in fields:
            out = unpacked[name].numpy()
            self.assertEqual(out.dtype, records[name].dtype)
            self.assertEqual(out.shape, records[name].shape)
            self.assertEqual(out.tobytes(), records[name].tobytes())

    def test_no_rows(self):
        packing = Packing([("a", (2,), "float32"), ("b", (), "uint8")])
        out = packing.unpack(tf.zeros([0, 9], tf.uint8))
        self.assertEqual(out["a"].shape, (0, 2))
        self.assertEqual(out["b"].shape, (0,))

    def test_rows_are_views(self):
        packing = Packing([("a", (), "int32")])
        records = np.zeros(2, packing.dtype)
        rows = packing.rows(records)
        records["a"] = [1, 256]
        self.assertAllEqual(rows, [[1, 0, 0, 0], [0, 1, 0, 0]])
