"""Results of a population: each member once, whole rounds, the same iteration whoever sends it in whichever order."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import Population, Queue
from tfrl.errors import SettingError
from tfrl.nn.normalise import RunningMoments
from tfrl.replay.population import Collector, PopulationLayout
from tfrl.replay.write_population import PopulationWriter
from tfrl.types import EnvSpec, PolicyStep, VectorStep

BOX, ACTIONS = gym.spaces.Box(-9, 9, (3,), np.float32), gym.spaces.Discrete(2)
SPEC = EnvSpec("e", BOX, ACTIONS)


def layout(count=4, min_env_steps=0, spec=SPEC, moments=True):
    return PopulationLayout(spec, Population(count, min_env_steps, moments=moments))


def result(of, member, version=0, length=5):
    rng = np.random.default_rng(member)
    moments = rng.normal(size=(1, of.width))
    return of.results(version, 7, [member], [10.0 + member], [length], moments)


class CollectorTest(tf.test.TestCase, parameterized.TestCase):
    def whole(self, of, members, **more):
        """The iteration that results in this order make, and how many it took."""
        collector = Collector(of, 0)
        for i, member in enumerate(members):
            item = collector.add(result(of, member, **more))
            if item is not None:
                return item, i + 1
        return None, len(members)

    def test_order_and_repetition_change_nothing(self):
        of = layout()
        expected, _ = self.whole(of, [0, 1, 2, 3])
        again, taken = self.whole(of, [2, 2, 0, 3, 2, 0, 1])
        self.assertEqual(taken, 7)
        self.assertAllEqual(expected["member"], [0, 1, 2, 3])
        self.assertAllEqual(expected["returns"], [10.0, 11.0, 12.0, 13.0])
        for name in expected:
            self.assertAllEqual(expected[name], again[name])

    def test_results_of_other_iterations_are_dropped(self):
        of = layout()
        collector = Collector(of, 3)
        for member in range(4):
            self.assertIsNone(collector.add(result(of, member, version=2)))
            self.assertIsNone(collector.add(result(of, member, version=4)))
        items = [collector.add(result(of, member, version=3)) for member in range(4)]
        self.assertIsNone(items[2])
        self.assertIsNotNone(items[3])
        self.assertEqual(collector.version, 4)

    def test_rounds_are_whole_and_padded(self):
        of = layout(min_env_steps=45)  # 20 env steps each
        collector = Collector(of, 0)
        for member in range(11):
            self.assertIsNone(collector.add(result(of, member)))
            self.assertEqual(collector.rounds, 1 + (member + 1) // 4)
        item = collector.add(result(of, 11))
        self.assertAllEqual(item["member"], [*range(12), -1, -1, -1, -1])
        batch = of.decode({k: tf.constant(x[None]) for k, x in item.items()})
        self.assertAllEqual(batch.valid, [True] * 12 + [False] * 4)
        self.assertAllEqual(batch.lengths, [5] * 12 + [0] * 4)
        self.assertAllEqual(batch.seed, [7, 0])
        self.assertEqual(collector.rounds, 1)

    def test_it_goes_on_where_it_was_saved(self):
        of = layout(min_env_steps=30)
        collector, other = Collector(of, 2), Collector(of, 0)
        for member in (1, 0, 3, 2, 6):
            self.assertIsNone(collector.add(result(of, member, version=2)))
        other.restore(collector.state(7))
        self.assertEqual(
            (other.version, other.rounds, sorted(other.known)), (2, 2, [0, 1, 2, 3, 6])
        )
        for member in (4, 5, 7):
            items = [c.add(result(of, member, version=2)) for c in (collector, other)]
        for name in items[0]:
            self.assertAllEqual(items[0][name], items[1][name])

    @parameterized.parameters(
        (dict(count=3), "count=3: expected an even number"),
        (dict(count=0), "count=0: expected at least 2"),
        (dict(count=2, min_env_steps=-1), "min_env_steps=-1: expected at least 0"),
    )
    def test_a_population_that_cannot_be_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            Population(**settings)

    @parameterized.parameters(
        dict(batch_items=2, actors_wait=True), dict(batch_items=1),
        dict(batch_items=1, actors_wait=True, epochs=2),
    )  # fmt: skip
    def test_an_iteration_makes_one_update(self, **settings):
        with self.assertRaisesRegex(SettingError, "batch_items=1, actors_wait=True, and each"):
            Queue(Population(2), 10, **settings)


class Items:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.items = []

    def append(self, item, priority):
        self.items.append(item)

    def flush(self, pending, timeout_ms):
        pass


class WriterTest(tf.test.TestCase, parameterized.TestCase):
    def test_returns_lengths_and_moments_are_those_of_each_episode(self):
        space = gym.spaces.Dict(
            a=gym.spaces.Discrete(3), b=gym.spaces.Box(-9, 9, (2,), np.float32),
            c=gym.spaces.Box(-9, 9, (2, 2), np.float32),
        )  # fmt: skip
        spec, rng, sink = EnvSpec("e", space, ACTIONS), np.random.default_rng(0), Items()
        of = layout(spec=spec)
        writer = PopulationWriter(spec, of, sink, 3, seed=7)
        writer.load([], 5, 1.0)
        none = np.zeros(3, np.bool_)
        seen = {row: [] for row in range(3)}
        for t in range(9):
            obs = {
                "a": rng.integers(0, 3, 3), "b": rng.normal(size=(3, 2)).astype(np.float32),
                "c": rng.normal(size=(3, 2, 2)).astype(np.float32),
            }  # fmt: skip
            valid = np.array([True, t % 3 != 2, t < 4])
            reward = np.where(valid, rng.normal(size=3), 0.0).astype(np.float32)
            step = VectorStep(obs, obs, reward, none, none, valid, ())
            writer.record(obs, None, PolicyStep(None, None, {}), step)
            for row in np.flatnonzero(valid):
                x = np.concatenate([obs["b"][row].ravel(), obs["c"][row].ravel()])
                seen[row].append((float(reward[row]), x.astype(np.float64)))
            if t == 4:  # another episode
                writer.finish(0, 2)
                writer.begin(0)
                first, seen[0] = seen[0], []
        for row, member in ((0, 3), (1, 0), (2, 1)):
            self.assertEqual(writer.finish(row, member), len(seen[row]))
        writer.flush()
        (item,) = sink.items
        self.assertAllEqual(item["facts"], [5, 7])
        self.assertAllEqual(item["member"], [2, 3, 0, 1])
        for i, steps in enumerate((first, seen[0], seen[1], seen[2])):
            xs = np.array([x for _, x in steps])
            self.assertAllClose(item["returns"][i], sum(r for r, _ in steps), atol=1e-6)
            self.assertEqual(item["length"][i], len(steps))
            expected = np.concatenate([xs.sum(0), (xs**2).sum(0)])
            self.assertAllClose(item["moments"][i], expected, atol=1e-9)

    def test_sums_merge_like_the_observations_that_they_are_of(self):
        rng = np.random.default_rng(1)
        x = 100.0 + rng.normal(size=(500, 3))
        one, other = RunningMoments((3,)), RunningMoments((3,))
        for part in (x[:200], x[200:]):
            one.merge(tf.constant(part))
            sums = tf.constant(part.sum(0)), tf.constant((part**2).sum(0))
            other.merge_sums(tf.constant(float(len(part)), tf.float64), *sums)
        self.assertAllClose(one.mean(), other.mean(), rtol=1e-12)
        self.assertAllClose(one.std(), other.std(), rtol=1e-8)
        self.assertAllClose(other.std(), x.std(0, ddof=1), rtol=1e-8)

    def test_no_moments_are_kept_where_none_are_asked_for(self):
        self.assertEqual(layout(moments=False).width, 0)
        self.assertEqual(layout().width, 6)
