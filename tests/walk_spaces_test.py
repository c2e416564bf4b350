"""Walking gymnasium spaces: the one place where Dicts and Tuples are taken apart and put together."""

import gymnasium as gym
import numpy as np
from absl.testing import absltest

from tfrl import spaces as space_lib

spaces = gym.spaces
# Not in the order of the keys, which gymnasium keeps for pairs.
NEST = spaces.Dict(
    [
        ("b", spaces.Tuple([spaces.Discrete(3), spaces.Dict(x=spaces.MultiBinary(2))])),
        ("a", spaces.Box(-1, 1, (2,))),
    ]
)
VALUES = {"b": (1, {"x": np.int8([0, 1])}), "a": np.float32([0.5, -0.5])}


class WalkTest(absltest.TestCase):
    def test_leaves_come_in_the_order_of_the_space(self):
        found = list(space_lib.leaves(NEST))
        self.assertEqual([path for path, _ in found], [("b", 0), ("b", 1, "x"), ("a",)])
        self.assertEqual(space_lib.leaf_spaces(NEST), [space for _, space in found])
        values = space_lib.leaf_values(NEST, VALUES)
        self.assertEqual(list(map(str, values)), ["1", "[0 1]", "[ 0.5 -0.5]"])

    def test_a_space_without_parts_is_its_own_leaf(self):
        box = spaces.Box(0, 1, (3,))
        self.assertEqual(list(space_lib.leaves(box)), [((), box)])
        self.assertEqual(space_lib.leaf_values(box, 7), [7])
        self.assertEqual(space_lib.map_leaves(lambda part, x: (part, x), box, 7), (box, 7))

    def test_a_nest_is_mapped_beside_its_space(self):
        kinds = space_lib.map_leaves(lambda part, x: f"{type(part).__name__} {x}", NEST, VALUES)
        self.assertEqual(
            kinds,
            {"b": ("Discrete 1", {"x": "MultiBinary [0 1]"}), "a": "Box [ 0.5 -0.5]"},
        )
        self.assertEqual(list(kinds), ["b", "a"])

    def test_a_space_is_mapped_to_a_space_with_the_order_of_its_keys(self):
        mapped = space_lib.map_space(
            lambda part: spaces.Discrete(int(np.prod(part.shape)) + 1), NEST
        )
        self.assertEqual(list(mapped.spaces), ["b", "a"])
        self.assertEqual(
            space_lib.leaf_spaces(mapped),
            [spaces.Discrete(2), spaces.Discrete(3), spaces.Discrete(3)],
        )
        self.assertEqual(mapped["b"][1].spaces.keys(), {"x"})


if __name__ == "__main__":
    absltest.main()
