"""How many items updates may take, by the ratio of samples to inserts: the same arithmetic in every backend."""

from __future__ import annotations

import math

from tfrl.agent import Queue, Replay


class Budget:
    """Counts items on both sides of a replay or a queue.

    Args:
      experience: `min_items` to insert before the first update, and `samples_per_insert` that each further one pays
        for.
      inserted, sampled: items so far.

    Attributes:
      inserted: items inserted since it was empty.
      sampled: items that updates have taken of it.
    """

    def __init__(self, experience: Replay | Queue, inserted: int = 0, sampled: int = 0):
        self._experience = experience
        self.inserted, self.sampled = inserted, sampled

    @property
    def left(self) -> float:
        """Items that are paid for and not taken yet; negative while they are not."""
        paid = self.inserted - self._experience.min_items
        return paid * self._experience.samples_per_insert - self.sampled

    def lacks(self, items: int) -> int:
        """Items to insert until updates may take so many more."""
        return math.ceil((items - self.left) / self._experience.samples_per_insert)

    def pays(self, items: int) -> bool:
        """Whether updates may take so many items more."""
        return self.left >= items
