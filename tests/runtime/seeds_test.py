"""Seeds: the same for the same place in a run, different anywhere else."""

import itertools

from absl.testing import absltest

from tfrl.runtime import seeds


class SeedsTest(absltest.TestCase):
    def test_a_place_has_one_seed_for_ever(self):
        self.assertEqual(seeds.integer(0, "actor"), seeds.integer(0, "actor", 0, ""))
        self.assertEqual(
            seeds.generator(3, "env", 1, "x").random(), seeds.generator(3, "env", 1, "x").random()
        )

    def test_places_do_not_share_seeds(self):
        places = list(
            itertools.product((0, 1, 7), ("actor", "env", "learner"), (0, 1, 2), ("", "noise"))
        )
        self.assertLen({seeds.integer(*place) for place in places}, len(places))
        self.assertLen({seeds.generator(*place).random() for place in places}, len(places))
        for place in places:
            self.assertBetween(seeds.integer(*place), 0, 2**31 - 1)
