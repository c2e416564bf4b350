"""Spaces as JSON, and one name for every key of a Dict."""

import itertools
import json
import re

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

from tfrl import spaces as space_lib
from tfrl.errors import SettingError
from tfrl.types import EnvSpec

spaces = gym.spaces
SPACES = {
    "box": spaces.Box(-1, 1, (3,)),
    "limits": spaces.Box(np.array([-np.inf, 0.1]), np.array([1, np.inf]), dtype=np.float64),
    "image": spaces.Box(0, 255, (2, 2, 1), np.uint8),
    "whole": spaces.Box(-np.inf, np.inf, (2,), np.int32),
    "huge": spaces.Box(0, 2**64 - 1, (2,), np.uint64),
    "half": spaces.Box(np.float16(0.1), np.float16(0.3), (), np.float16),
    "flags": spaces.Box(0, 1, (2,), bool),
    "empty": spaces.Box(0, 1, (0,)),
    "discrete": spaces.Discrete(3, start=-2),
    "small": spaces.Discrete(3, dtype=np.uint8),
    "multi": spaces.MultiDiscrete([[2, 3]], start=[[1, 2]], dtype=np.int16),
    "binary": spaces.MultiBinary(3),
    "binary grid": spaces.MultiBinary([2, 3]),
    "nest": spaces.Dict(
        [
            ("z ", spaces.Tuple([spaces.Discrete(2), spaces.Dict({})])),
            (1, spaces.Box(-0.1, 0.1, (2,), np.float64)),
        ]
    ),
}


class JsonTest(parameterized.TestCase):
    @parameterized.parameters(*SPACES)
    def test_there_and_back(self, name):
        space = SPACES[name]
        text = json.dumps(space_lib.to_json(space), allow_nan=False)
        back = space_lib.from_json(json.loads(text))
        self.assertEqual(back, space)
        for (path, one), (other_path, other) in zip(
            space_lib.leaves(space), space_lib.leaves(back), strict=True
        ):
            self.assertEqual(path, other_path)
            self.assertEqual((one.dtype, one.shape), (other.dtype, other.shape))
            for attribute in ("low", "high", "bounded_below", "bounded_above", "nvec", "start"):
                mine, theirs = (np.asarray(getattr(x, attribute, 0)) for x in (one, other))
                self.assertEqual(mine.tobytes(), theirs.tobytes(), attribute)

    def test_order_of_a_dict_stays(self):
        space = spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.Discrete(3))])
        back = space_lib.from_json(json.loads(json.dumps(space_lib.to_json(space))))
        self.assertEqual(list(back.spaces), ["b", "a"])

    @parameterized.parameters(
        (spaces.Text(3), "Text has no JSON form"),
        (spaces.Dict([((1, 2), spaces.Discrete(2))]), r"key \(1, 2\): expected a string or an int"),
    )
    def test_refuses_what_has_no_form(self, space, message):
        with self.assertRaisesRegex(SettingError, message):
            space_lib.to_json(space)

    @parameterized.parameters(
        {"kind": "Text"},
        {"kind": "Box", "low": 0},
        {"kind": "Box", "low": 2, "high": 1, "shape": [1], "dtype": "float32"},
        {"kind": "Box", "low": "x", "high": 1, "shape": [1], "dtype": "float32"},
        {"kind": "Discrete", "n": 0, "start": 0, "dtype": "int64"},
        {"kind": "Discrete", "n": 2, "start": 0, "dtype": "os.system"},
    )
    def test_refuses_what_is_no_form(self, **value):
        with self.assertRaisesRegex(SettingError, "is not the JSON form of a space"):
            space_lib.from_json(value)

    def test_spec(self):
        spec = EnvSpec(
            "env", SPACES["box"], SPACES["discrete"], 0, 7, None, spaces.Discrete(2, start=3)
        )
        text = json.dumps(spec.to_json(), allow_nan=False)
        self.assertEqual(EnvSpec.from_json(json.loads(text)), spec)


class NameTest(parameterized.TestCase):
    @parameterized.parameters(
        ("arm_left", "arm_left"),
        ("pos_x", "pos_x"),
        ("arm left", "arm_0x20_left"),
        ("arm/left", "arm_0x2F_left"),
        ("[3]", "_0x5B_3_0x5D_"),
        ("größe", "gr_0xF6__0xDF_e"),
        ("a__b", "a_0x5F__0x5F_b"),
        ("a_0x20_b", "a_0x5F_0x20_b"),
        (3, "_i3"),
        (np.int64(-3), "_m3"),
        ("3", "3"),
    )
    def test_names(self, key, name):
        self.assertEqual(space_lib.key_name(key), name)

    @parameterized.parameters(None, 1.5, True, b"a", ((1, 2),))
    def test_other_keys_are_refused(self, key):
        with self.assertRaisesRegex(SettingError, "^x has the key .*: expected a string or an int"):
            space_lib.key_name(key, "x")

    def test_no_two_paths_have_one_name(self):
        # Every string of up to four characters of those that the rule treats differently.
        letters = "a_0x5 F"
        keys = [
            "".join(x) for size in range(5) for x in itertools.product(letters, repeat=size)
        ] + [*range(-12, 13)]
        names = {space_lib.key_name(key): key for key in keys}
        self.assertLen(names, len(keys))
        for name in names:
            self.assertRegex(name, re.compile(r"\A[A-Za-z0-9_]+\Z"))
        short = [k for k in keys if isinstance(k, int) and abs(k) < 2 or isinstance(k, str) and len(k) < 3]  # fmt: skip
        paths = [(k,) for k in keys] + list(itertools.product(short, repeat=2))
        paths += list(itertools.product(["", "a", "_", " ", "a_", "_a", 0], repeat=3))
        found = {
            space_lib.path_name("p", [space_lib.key_name(k) for k in path]): path for path in paths
        }
        self.assertLen(found, len(paths))


if __name__ == "__main__":
    absltest.main()
