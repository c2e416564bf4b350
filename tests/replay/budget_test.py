"""The ratio of samples to inserts: what is paid for, to the item."""

import dataclasses

from absl.testing import absltest, parameterized

from tfrl.agent import NStep, Queue, Replay, Unroll
from tfrl.replay.budget import Budget

REPLAY = Replay(
    NStep(1, 0.9), capacity_items=100, min_items=10, samples_per_insert=8.0, batch_size=4
)


class BudgetTest(parameterized.TestCase):
    def test_nothing_before_the_first_items_are_there(self):
        budget = Budget(REPLAY)
        budget.inserted = 10
        self.assertTrue(budget.pays(0))
        self.assertFalse(budget.pays(1))
        budget.inserted = 11
        self.assertTrue(budget.pays(8))
        self.assertFalse(budget.pays(9))

    @parameterized.parameters(0.1, 0.5, 8 / 3, 32.0)
    def test_never_more_than_the_ratio_and_at_most_a_batch_less(self, ratio):
        budget = Budget(dataclasses.replace(REPLAY, samples_per_insert=ratio), 3, 0)
        for inserted in range(3, 400):
            budget.inserted = inserted
            while budget.pays(4):
                budget.sampled += 4
            earned = max(0.0, (inserted - 10) * ratio)
            self.assertLessEqual(budget.sampled, earned)
            self.assertGreater(budget.sampled + 4, earned)

    def test_of_a_queue_each_item_pays_for_itself_from_the_first_on(self):
        budget = Budget(Queue(Unroll(5, 0.9), capacity_items=4), inserted=7, sampled=5)
        self.assertEqual(budget.left, 2)
        self.assertTrue(budget.pays(2))
        self.assertFalse(budget.pays(3))


if __name__ == "__main__":
    absltest.main()
