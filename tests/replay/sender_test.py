"""Sequences that are spread over several places."""

import gymnasium as gym
import numpy as np
import reverb
from absl.testing import absltest

from tfrl.agent import Episodes
from tfrl.replay.kinds import sequence_layout
from tfrl.replay.sender import Built, Sender
from tfrl.types import EnvSpec, PolicyStep

SPEC = EnvSpec("e", gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(3))
ITEM = Episodes(3, 0.9, count=1)


class Place:
    """A sink that takes items while it is up."""

    def __init__(self):
        self.items, self.up, self.pending, self.closed = [], True, [], False

    def append(self, item, priority):
        self.items.append((int(item["facts"][0]), priority))

    def flush(self, pending, timeout_ms):
        if not self.up:
            raise reverb.errors.DeadlineExceededError("held back")
        self.pending.append(pending)

    def close(self):
        self.closed = True


class SpreadTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        choice = PolicyStep(np.zeros(2, np.int32), (), {})
        self.layout = sequence_layout(SPEC, ITEM, (choice, ()), 2, single=True)
        self.places, self.waits = [Place(), Place()], 0
        self.sender = Sender(self.places, self.layout, patience=self.wait)

    def wait(self):
        self.waits += 1
        if self.waits > 2:
            self.places[1].up = True

    def send(self, version, episodes=1):
        shape = (ITEM.length + 1, episodes)
        states = np.zeros(episodes, self.layout.state_packing.dtype)
        records = np.zeros(shape, self.layout.packing.dtype)
        return self.sender.send(Built(records, states, None, version))

    def versions(self):
        return [[version for version, _ in place.items] for place in self.places]

    def test_items_go_to_the_places_in_turn(self):
        self.sender.load([], 2.5)
        self.assertEqual([self.send(version) for version in (1, 2, 3)], [1, 1, 1])
        self.assertEqual(self.send(4, episodes=3), 3)
        self.assertEqual(self.versions(), [[1, 3, 4], [2, 4, 4]])
        self.assertEqual({priority for place in self.places for _, priority in place.items}, {2.5})

    def test_one_that_takes_nothing_is_left_alone(self):
        self.places[1].up = False
        for version in range(6):
            self.send(version)
        self.assertLessEqual(len(self.places[1].items), 1)

    def test_at_the_end_all_places_have_all(self):
        self.places[1].up = False
        self.sender.flush(0)
        self.assertEqual(self.waits, 3)
        self.assertEqual([place.pending[-1] for place in self.places], [0, 0])
        self.sender.close()
        self.assertTrue(all(place.closed for place in self.places))


if __name__ == "__main__":
    absltest.main()
