"""Many runs in one process: nothing of one stays for the next."""

import gc
import pathlib
import tempfile

from absl.testing import absltest

import tfrl
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.runtime.learning.learner import LearnerLoop


def learners_and_replays(objects):
    return [x for x in objects if isinstance(x, (LearnerLoop, LearnerReplay))]


class ManyRunsTest(absltest.TestCase):
    def test_networks_and_replays_of_a_run_are_freed_when_it_ends(self):
        folder, objects = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())), []
        # Tests that ran before in this process may have left some; holding them keeps them from being counted below.
        before = learners_and_replays(gc.get_objects())
        known = {id(x) for x in before}
        for i in range(3):
            tfrl.train(
                "dqn", env="CartPole-v1", total_env_steps=200, min_replay=100, eval_every_env_steps=0,
                final_eval_episodes=0, console="none", tensorboard=False, compile="graph", inference="function",
                hidden_sizes=(8,), run_dir=folder / str(i),
            )  # fmt: skip
            found = gc.get_objects()
            self.assertEqual([x for x in learners_and_replays(found) if id(x) not in known], [])
            objects.append(len(found))
            del found
        # What the first run imports and caches stays; the third adds next to nothing to the second.
        self.assertLess(objects[2] - objects[1], 0.01 * objects[1])


if __name__ == "__main__":
    absltest.main()
