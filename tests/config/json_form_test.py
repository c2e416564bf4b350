"""Settings written as JSON read back as the same values, or are refused by name."""

import json

import numpy as np
from absl.testing import absltest, parameterized

from tfrl.config import json_form
from tfrl.errors import SettingError


class JsonFormTest(parameterized.TestCase):
    @parameterized.parameters(
        ((5, 5),),
        ({"size": (5, [1, (2,)]), "name": "a", "none": None, "x": 1.5, "on": True},),
        ({1: "a", (2, 3): {4: ()}, "b": [], None: 0},),
        ({"__tuple__": [1]},),
        ({"__items__": 1, "__array__": 2},),
        (np.float32(0.1),),
        (np.float64(0.1),),
        (np.bool_(True),),
        ({"limits": np.array([[1.5, -np.inf]], np.float32)},),
        (np.zeros((0, 3), np.int8),),
        (np.array(7, np.uint8),),
    )  # fmt: skip
    def test_what_is_written_reads_back(self, value):
        back = json_form.decode(json.loads(json.dumps(json_form.encode(value, "x"))))
        self.assert_identical(value, back)

    def assert_identical(self, a, b):
        self.assertIs(type(a), type(b))
        if isinstance(a, dict):
            self.assertEqual(list(a), list(b))
            self.assertEqual([type(k) for k in a], [type(k) for k in b])
            for key in a:
                self.assert_identical(a[key], b[key])
        elif isinstance(a, (list, tuple)):
            self.assertEqual(len(a), len(b))
            for x, y in zip(a, b):
                self.assert_identical(x, y)
        elif isinstance(a, (np.ndarray, np.generic)):
            self.assertEqual((a.dtype, a.shape), (b.dtype, b.shape))
            np.testing.assert_array_equal(a, b)
        else:
            self.assertEqual(a, b)

    def test_what_json_holds_stays_as_a_person_would_write_it(self):
        value = {"sizes": [1, 2], "name": "x"}
        self.assertEqual(json_form.encode(value, "x"), value)

    @parameterized.parameters(
        (
            {"a": [0, {1, 2}]},
            r"^env_kwargs\['a'\]\[1\]: a builtins.set cannot be written to job.json",
        ),
        ({"a": np.array(["x"])}, r"^env_kwargs\['a'\]: a numpy.ndarray cannot"),
        ({frozenset(): 1}, r"^a key of env_kwargs: a builtins.frozenset cannot"),
    )
    def test_anything_else_is_refused_by_name(self, value, message):
        with self.assertRaisesRegex(SettingError, message):
            json_form.encode(value, "env_kwargs")

    @parameterized.parameters(
        ([64, 64], (64, 64), True),
        ([64, 32], (64, 64), False),
        ({"a": [1, (2,)]}, {"a": (1, [2])}, True),
        ({1: 2}, {"1": 2}, False),
        (np.array([1.0, 2.0]), [1, 2], True),
        (np.float32(0.5), 0.5, True),
    )
    def test_same(self, a, b, expected):
        self.assertEqual(json_form.same(a, b), expected)


if __name__ == "__main__":
    absltest.main()
