"""Action spaces: casts, rows and masks of every kind, nested ones too."""

import gymnasium as gym
import numpy as np
import tree
from absl.testing import absltest, parameterized

from tfrl.envs import spaces as space_lib
from tfrl.errors import SettingError

spaces = gym.spaces
OWN = {
    "discrete": spaces.Discrete(3, start=5),
    "multi": spaces.MultiDiscrete([3, 2], start=[0, 7]),
    "grid": spaces.MultiDiscrete([[2, 3], [1, 2]]),
    "binary": spaces.MultiBinary((2, 2)),
    "box": spaces.Box(-0.1, 0.1, (2,), np.float64),
    "scalar box": spaces.Box(-1, 1, (), np.float32),
    "dict": spaces.Dict(
        b=spaces.Tuple([spaces.Discrete(2, start=1), spaces.Box(-0.1, 0.1, (), np.float64)]),
        a=spaces.MultiDiscrete([3, 2], start=[0, 7]),
        action_mask=spaces.Discrete(4),
    ),
    "tuple": spaces.Tuple([spaces.MultiBinary(2), spaces.Discrete(2)]),
}


def batch_of(space, count):
    """A policy's actions, leaves [count, ...] of the dtypes of `space`."""

    def cast(part, value):
        if isinstance(part, spaces.Dict):
            return {k: cast(s, value[k]) for k, s in part.spaces.items()}
        if isinstance(part, spaces.Tuple):
            return tuple(cast(s, v) for s, v in zip(part.spaces, value))
        return np.asarray(value, part.dtype)

    rows = [cast(space, space.sample()) for _ in range(count)]
    return tree.map_structure(lambda *x: np.stack(x), *rows)


class ActionSpaceTest(parameterized.TestCase):
    @parameterized.parameters(*OWN)
    def test_what_a_policy_gives_becomes_what_the_environment_takes(self, name):
        own = OWN[name]
        cast = space_lib.action_space(own, "action_space")
        cast.seed(0)
        actions = batch_of(cast, 64)
        function = space_lib.action_cast(own)
        mine = function(actions) if function else actions
        split = space_lib.action_rows(own)
        rows = split(mine) if split else mine
        self.assertLen(rows, 64)
        seen = set()
        for i, row in enumerate(rows):
            self.assertTrue(own.contains(row), row)
            # Shifted by `start`, and nothing else.
            starts = tree.map_structure(lambda x, i=i: x[i, ...], actions)
            if name == "dict":
                self.assertEqual(row["b"][0], starts["b"][0] + 1)
                np.testing.assert_array_equal(row["a"], starts["a"] + [0, 7])
                self.assertIs(type(row["b"][0]), int)
            elif name == "discrete":
                self.assertEqual(row, starts + 5)
            seen.add(str(row))
        self.assertGreater(len(seen), 2)

    @parameterized.parameters(
        ("grid", None), ("binary", None), ("tuple", None), ("discrete", ...), ("dict", ...)
    )
    def test_no_cast_where_there_is_nothing_to_do(self, name, expected):
        self.assertEqual(space_lib.action_cast(OWN[name]) is None, expected is None)

    def test_a_part_named_like_a_mask_is_an_action(self):
        cast = space_lib.action_space(OWN["dict"], "action_space")
        self.assertEqual(cast["action_mask"], spaces.Discrete(4, dtype=np.int32))
        self.assertEqual(cast["b"][1].dtype, np.float32)

    def test_parts_keep_their_order(self):
        cast = space_lib.action_space(OWN["dict"], "action_space")
        self.assertEqual(list(cast.spaces), ["b", "a", "action_mask"])

    def test_casting_what_was_cast_changes_nothing(self):
        for name, own in OWN.items():
            cast = space_lib.action_space(own, "action_space")
            self.assertEqual(space_lib.action_space(cast, "action_space"), cast, name)

    @parameterized.parameters(
        (spaces.Text(3), r"^x is Text.*expected Box"),
        (spaces.Dict(a=spaces.Tuple([spaces.Text(3)])), r"^x\['a'\]\[0\] is Text"),
        (spaces.Dict({}), "at least one part"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Tuple([])]), r"^x\[1\] is .*at least one part"),
    )
    def test_refused_by_name(self, space, message):
        with self.assertRaisesRegex(SettingError, message):
            space_lib.action_space(space, "x")


class MaskTest(parameterized.TestCase):
    @parameterized.parameters(
        ("discrete", 3), ("multi", 5), ("grid", 8), ("binary", 0), ("box", 0), ("dict", 11),
        ("tuple", 2),
    )  # fmt: skip
    def test_size(self, name, size):
        self.assertEqual(space_lib.mask_size(OWN[name]), size)

    def test_size_is_that_of_the_distribution(self):
        from tfrl.nn import distributions

        for own in OWN.values():
            cast = space_lib.action_space(own, "action_space")
            self.assertEqual(distributions.make(cast).mask_size, space_lib.mask_size(own))

    @parameterized.parameters("discrete", "multi", "grid", "dict", "tuple")
    def test_samples_keep_to_it(self, name):
        # One valid choice per component leaves one action.
        own = OWN[name]
        cast = space_lib.action_space(own, "action_space")
        rng = np.random.default_rng(3)
        wanted, mask = [], []
        for leaf in _categorical(cast):
            for n in np.reshape(getattr(leaf, "nvec", getattr(leaf, "n", None)), -1):
                wanted.append(int(rng.integers(n)))
                mask.extend(np.eye(n)[wanted[-1]])
        split = space_lib.split_mask(own, np.array(mask))
        for _ in range(5):
            value = own.sample(split)
            found = [
                np.reshape(v, -1) - np.reshape(leaf.start, -1)
                for leaf, v in zip(_categorical(own), _values(own, value))
            ]
            self.assertEqual(np.concatenate(found).tolist(), wanted)


def _categorical(space):
    """The Discrete and MultiDiscrete parts in the order of the space."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return [leaf for part in parts for leaf in _categorical(part)]
    return [space] if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else []


def _values(space, value):
    """The values that belong to `_categorical(space)`."""
    if isinstance(space, spaces.Dict):
        return [x for k, part in space.spaces.items() for x in _values(part, value[k])]
    if isinstance(space, spaces.Tuple):
        return [x for part, v in zip(space.spaces, value) for x in _values(part, v)]
    return [value] if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else []


if __name__ == "__main__":
    absltest.main()
