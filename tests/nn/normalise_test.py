"""Running normalisation: vectors, NumPy, replicas, XLA, LiteRT, checkpoints."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.errors import SettingError
from tfrl.nn import normalise
from tfrl.runtime.acting.inference import FunctionEngine, LiteEngine, StepSignature
from tfrl.testing import conformance, replicas
from tfrl.types import EnvSpec, PolicyStep

spaces = gym.spaces
BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
NEST = spaces.Dict(
    action_mask=spaces.Box(0, 1, (3,), np.float32),
    action_features=spaces.Box(-1, 1, (3, 2), np.float32),
    camera=spaces.Box(0, 255, (4, 4, 3), np.uint8),
    gear=spaces.Discrete(5, dtype=np.int32),
    lights=spaces.MultiBinary(4),
    pair=spaces.Tuple([spaces.Box(-9, 9, (), np.float32), spaces.MultiDiscrete([3, 2])]),
    speed=BOX,
    **{"wheel/left": BOX},
)


def moments_of(*batches, shape=(2,)):
    moments = normalise.RunningMoments(shape)
    for batch in batches:
        moments.merge(tf.constant(batch, tf.float32))
    return moments


class RunningMomentsTest(tf.test.TestCase, parameterized.TestCase):
    def test_vector(self):
        moments = moments_of([[1, 2], [3, 6], [5, 4]])
        self.assertAllClose(moments.mean(), [3.0, 4.0])
        self.assertAllClose(moments.std() ** 2, [4.0, 4.0])
        moments.merge(tf.constant([[7.0, 0.0], [9.0, 8.0]]))
        self.assertAllClose(moments.mean(), [5.0, 4.0])
        self.assertAllClose(moments.std() ** 2, [10.0, 10.0])
        self.assertAllClose(moments.population_variance(), [8.0, 8.0])
        self.assertAllEqual(moments.count, 5.0)

    def test_few_rows(self):
        moments = moments_of()
        self.assertAllEqual(moments.mean(), [0.0, 0.0])
        self.assertAllEqual(moments.std(), [1.0, 1.0])
        moments.merge(tf.constant([[3.0, -8.0]]))
        self.assertAllEqual(moments.mean(), [3.0, -8.0])
        self.assertAllEqual(moments.std(), [1.0, 1.0])
        self.assertAllEqual(moments.population_variance(), [1.0, 1.0])
        moments.merge(tf.constant([[5.0, -8.0]]))
        self.assertAllClose(moments.std(), [np.sqrt(2.0), 0.0])

    @parameterized.parameters((0, 1.0), (1e6, 1.0), (-3e4, 0.01))
    def test_equals_numpy_however_the_rows_are_grouped(self, offset, scale):
        rng = np.random.default_rng(0)
        x = (offset + scale * rng.normal(size=(500, 3, 2))).astype(np.float32)
        moments = moments_of(x[:1], x[1:7], x[7:7], x[7:300], x[300:], shape=(3, 2))
        exact = x.astype(np.float64)
        self.assertAllClose(moments.mean(), exact.mean(0), rtol=1e-13, atol=1e-13)
        self.assertAllClose(moments.std(), exact.std(0, ddof=1), rtol=1e-9, atol=0)

    @parameterized.parameters(False, True)
    def test_invalid_rows_do_not_count(self, compiled):
        rng = np.random.default_rng(1)
        x = rng.normal(size=(60, 2)).astype(np.float32)
        valid = rng.random(60) < 0.5
        x[~valid] = rng.choice([np.nan, np.inf, 1e30], size=(np.sum(~valid), 2))
        moments = moments_of()
        merge = tf.function(moments.merge, jit_compile=compiled, autograph=False)
        for part in (slice(0, 25), slice(25, 60)):
            merge(tf.constant(x[part]), tf.constant(valid[part]))
        merge(tf.constant(x[:9]), tf.zeros([9], tf.bool))
        exact = x[valid].astype(np.float64)
        self.assertAllEqual(moments.count, valid.sum())
        self.assertAllClose(moments.mean(), exact.mean(0), rtol=1e-12)
        self.assertAllClose(moments.std(), exact.std(0, ddof=1), rtol=1e-12)

    def test_every_row_of_every_replica_counts_once(self):
        rng = np.random.default_rng(2)
        x = (5 + rng.normal(size=(3, 8, 2))).astype(np.float32)
        valid = rng.random((3, 8)) < 0.6
        valid[1, :4] = False  # the first replica has nothing to add
        strategy = replicas.two_cpus()
        with strategy.scope():
            moments = normalise.RunningMoments((2,))

        def replica(i):
            replica_id = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine = slice(4 * replica_id, 4 * replica_id + 4)
            moments.merge(tf.constant(x)[i, mine], tf.constant(valid)[i, mine])

        @tf.function(autograph=False)
        def run():
            def body(i):
                strategy.run(replica, (i,))
                return i

            return tf.map_fn(body, tf.range(3), parallel_iterations=1)

        run()
        exact = x[valid].astype(np.float64)
        self.assertAllEqual(moments.count, valid.sum())
        self.assertLen(moments.variables, 3)
        for variable in moments.variables:
            copies = [v.numpy() for v in strategy.experimental_local_results(variable)]
            self.assertLen(copies, 2)
            self.assertAllEqual(*copies)
        self.assertAllClose(moments.mean(), exact.mean(0), rtol=1e-12)
        self.assertAllClose(moments.std(), exact.std(0, ddof=1), rtol=1e-12)

    def test_a_checkpoint_goes_on_exactly(self):
        rng = np.random.default_rng(3)
        first, second = rng.normal(size=(2, 20, 2)).astype(np.float32)
        original = moments_of(first)
        path = tf.train.Checkpoint(moments=original).write(self.get_temp_dir() + "/moments")
        restored = moments_of()
        tf.train.Checkpoint(moments=restored).read(path).assert_consumed()
        for moments in (original, restored):
            moments.merge(tf.constant(second))
        self.assertAllEqual(original.std(), restored.std())
        self.assertAllEqual(restored.count, 40.0)

    def test_a_wrong_shape_raises(self):
        with self.assertRaisesRegex(ValueError, r"x: expected \[N, 2\], got \(4, 3\)"):
            moments_of(np.zeros((4, 3)))


class ObservationTest(tf.test.TestCase, parameterized.TestCase):
    def pair(self, space, **options):
        return normalise.ObservationNormaliser(space, **options), normalise.ObservationMoments(
            space
        )

    def test_vector(self):
        normaliser, moments = self.pair(BOX)
        moments.merge(tf.constant([[1.0, 2.0], [3.0, 6.0], [5.0, 4.0]]))
        moments.merge(tf.constant([[7.0, 0.0], [9.0, 8.0]]))
        normaliser.update(moments)
        out = normaliser(tf.constant([[11.0, -4.0], [1000.0, 4.0]]))
        self.assertAllClose(out, [[1.89736659, -2.52982212], [10.0, 0.0]])

    def test_it_starts_as_the_identity_within_the_limit(self):
        normaliser, _ = self.pair(BOX, limit=5.0)
        self.assertAllEqual(normaliser(tf.constant([[1.5, -7.0]])), [[1.5, -5.0]])

    def test_it_changes_only_when_updated_and_is_not_trained(self):
        normaliser, moments = self.pair(BOX)
        moments.merge(tf.constant([[1.0, 2.0], [3.0, 6.0]]))
        x = tf.constant([[3.0, 4.0]])
        self.assertAllEqual(normaliser(x), x)
        normaliser.update(moments)
        self.assertAllClose(normaliser(x), [[2**-0.5, 0.0]])
        self.assertEmpty(normaliser.trainable_variables)
        self.assertLen(normaliser.variables, 2)
        self.assertEqual({v.dtype for v in normaliser.variables}, {tf.float32})

    def test_a_constant_component_becomes_zero(self):
        normaliser, moments = self.pair(BOX)
        moments.merge(tf.constant([[0.1, 2.0]] * 7))
        moments.merge(tf.constant([[0.1, 3.0]] * 5))
        normaliser.update(moments)
        self.assertAllClose(normaliser(tf.constant([[0.1, 2.0]]))[0, 0], 0.0, atol=1e-6)
        self.assertAllEqual(normaliser(tf.constant([[0.2, 2.0]]))[0, 0], 10.0)

    def test_leaves_that_are_no_quantities_pass_unchanged(self):
        leaves = normalise.normalised_leaves(NEST)
        expected = {"observation/pair/0", "observation/speed", "observation/wheel/left"}
        self.assertEqual(set(leaves), expected)
        normaliser, moments = self.pair(NEST)
        obs = conformance.observations(EnvSpec("nest", NEST, spaces.Discrete(3)), 50, seed=0)
        moments.merge(tf.nest.map_structure(tf.constant, obs))
        normaliser.update(moments)
        out = normaliser(obs)
        self.assertEqual(set(out), set(obs))
        for name in ("action_mask", "action_features", "camera", "gear", "lights"):
            self.assertIs(out[name], obs[name])
        self.assertIs(out["pair"][1], obs["pair"][1])
        found = [(obs[k], out[k]) for k in ("speed", "wheel/left")]
        for before, after in (*found, (obs["pair"][0], out["pair"][0])):
            self.assertEqual(after.dtype, tf.float32)
            self.assertAllClose(tf.reduce_mean(after, 0), np.zeros(before.shape[1:]), atol=1e-5)
            self.assertAllClose(np.std(after, 0, ddof=1), np.ones(before.shape[1:]), rtol=1e-5)

    @parameterized.parameters(
        (spaces.Box(0, 255, (128,), np.uint8), ["observation"]),
        (spaces.Box(-1, 1, (4, 4, 3), np.float32), ["observation"]),
        (spaces.Box(0, 1, (), np.float64), ["observation"]),
        (spaces.Dict(a=spaces.Dict(action_mask=BOX)), ["observation/a/action_mask"]),
    )
    def test_which_leaves(self, space, expected):
        self.assertEqual(list(normalise.normalised_leaves(space)), expected)

    @parameterized.parameters(
        (spaces.Box(0, 255, (36, 36, 4), np.uint8),),
        (spaces.Discrete(4),),
        (spaces.Dict(action_mask=BOX, choice=spaces.Discrete(2)),),
    )
    def test_a_space_with_nothing_to_normalise_is_refused(self, space):
        with self.assertRaisesRegex(SettingError, "expected a Box that is no image"):
            normalise.ObservationNormaliser(space)

    @parameterized.parameters(False, True)
    def test_time_and_batch_axes_and_padding(self, compiled):
        rng = np.random.default_rng(4)
        x = rng.normal(size=(6, 5, 2)).astype(np.float32)
        valid = rng.random((6, 5)) < 0.7
        dirty = np.where(valid[..., None], x, np.float32(1e9))
        normaliser, moments = self.pair(BOX)

        def update(obs, mask):
            moments.merge(obs, mask)
            normaliser.update(moments)

        tf.function(update, jit_compile=compiled, autograph=False)(dirty, valid)
        real = x[valid].astype(np.float64)
        expected = (x - real.mean(0)) / real.std(0, ddof=1)
        self.assertAllClose(normaliser(x), expected, rtol=1e-4, atol=1e-5)

    @parameterized.parameters(True, False)
    def test_two_devices_equal_one(self, in_replica_context):
        x = np.random.default_rng(5).normal(3.0, 2.0, size=(8, 2)).astype(np.float32)
        found = []
        for strategy in (tf.distribute.get_strategy(), replicas.two_cpus()):
            with strategy.scope():
                normaliser, moments = self.pair(BOX)

            def replica(normaliser=normaliser, moments=moments):
                context = tf.distribute.get_replica_context()
                share = 8 // context.num_replicas_in_sync
                start = context.replica_id_in_sync_group * share
                moments.merge(tf.constant(x)[start : start + share])
                if in_replica_context:
                    normaliser.update(moments)
                return normaliser(tf.constant(x[:2]))

            out = tf.function(lambda s=strategy, r=replica: s.run(r), autograph=False)()
            if in_replica_context:
                for copy in strategy.experimental_local_results(out):
                    self.assertAllClose(copy, normaliser(x[:2]), rtol=1e-6)
            else:
                with strategy.scope():
                    normaliser.update(moments)
            for variable in normaliser.variables:
                copies = strategy.experimental_local_results(variable)
                self.assertLen({tuple(v.numpy()) for v in copies}, 1)
            found.append(normaliser(tf.constant(x)))
        self.assertAllClose(found[0], (x - x.mean(0)) / x.std(0, ddof=1), rtol=1e-4, atol=1e-5)
        self.assertAllClose(*found, rtol=1e-6, atol=1e-6)

    def test_lite_equals_function_with_published_statistics(self):
        class Echo(tf.Module):
            """Its action is what it sees."""

            noise = {}

            def __init__(self):
                super().__init__()
                self.normaliser = normalise.ObservationNormaliser(NEST)

            def initial_state(self, batch_size, noise):
                return ()

            def step(self, obs, state, knobs, noise, explore):
                seen = self.normaliser(obs)
                return PolicyStep(
                    tf.concat([seen["speed"], seen["pair"][0][:, None]], 1), state, {}
                )

        spec = EnvSpec("nest", NEST, BOX)
        learnt, acting = Echo(), Echo()
        moments = normalise.ObservationMoments(NEST)
        moments.merge(
            tf.nest.map_structure(tf.constant, conformance.observations(spec, 30, seed=1))
        )
        learnt.normaliser.update(moments)
        signature = StepSignature(acting, spec, 3, [], explore=False)
        obs = conformance.observations(spec, 3, seed=2)
        expected = learnt.step(obs, (), {}, {}, False).action
        for engine in (FunctionEngine(acting, signature), LiteEngine(acting, signature)):
            before = np.array(engine.act(obs, (), {}, {}).action)
            engine.load([v.numpy() for v in learnt.variables])
            after = engine.act(obs, (), {}, {}).action
            self.assertAllClose(after, expected, rtol=1e-6, atol=1e-6)
            self.assertNotAllClose(before, after)
            engine.load([v.numpy() for v in Echo().variables])


class TeamTest(tf.test.TestCase):
    def test_agents_that_do_not_live_are_left_out(self):
        """Agent 0 lives in all four observations, of which the last is not valid, agent 1 in the first two, agent 2
        never."""
        space = spaces.Dict(
            observation=spaces.Box(-9, 9, (3, 1), np.float32),
            alive=spaces.Box(0, 1, (3,), np.float32),
        )
        obs = {
            "observation": tf.constant(
                [[[1.0], [4.0], [0.0]], [[2.0], [8.0], [0.0]], [[6.0], [0.0], [0.0]], [[9.0], [0.0], [0.0]]]
            ),
            "alive": tf.constant([[1.0, 1.0, 0.0]] * 2 + [[1.0, 0.0, 0.0]] * 2),
        }  # fmt: skip
        moments = normalise.ObservationMoments(space)
        moments.merge(
            tf.nest.map_structure(lambda x: x[:, None], obs), [[True], [True], [True], [False]]
        )
        leaf = moments.leaves["observation/observation"]
        self.assertAllClose(leaf.count, [[3.0], [2.0], [0.0]])
        self.assertAllClose(leaf.mean(), [[3.0], [6.0], [0.0]])
        self.assertAllClose(leaf.std() ** 2, [[7.0], [8.0], [1.0]])
        # Without a word on what is valid, all that live count; merged with what was there.
        moments.merge(tf.nest.map_structure(lambda x: x[3:], obs))
        self.assertAllClose(leaf.mean(), [[4.5], [6.0], [0.0]])
        self.assertAllClose(leaf.std()[0] ** 2, [41 / 3])
        # A policy that is trained further counts as many observations of each agent.
        normaliser = normalise.ObservationNormaliser(space)
        normaliser.update(moments)
        moments.adopt(normaliser, 10)
        self.assertAllClose(leaf.count, [[10.0], [10.0], [10.0]])
        self.assertAllClose(leaf.mean(), [[4.5], [6.0], [0.0]])


class ReturnScaleTest(tf.test.TestCase, parameterized.TestCase):
    def test_rewards_are_divided_and_not_centred(self):
        scale = normalise.ReturnScale()
        scale.update(tf.constant([[1.0, 3.0], [5.0, 7.0]]))  # population variance 5
        self.assertAllClose(scale(tf.constant([1.0, -2.0, 0.0])), [5**-0.5, -2 * 5**-0.5, 0.0])
        self.assertAllEqual(scale(tf.constant([1e6, -1e6])), [10.0, -10.0])

    def test_it_starts_as_the_identity_within_the_limit(self):
        scale = normalise.ReturnScale(limit=2.0)
        self.assertAllEqual(scale(tf.constant([1.5, -7.0])), [1.5, -2.0])
        scale.update(tf.constant([3.0]))
        self.assertAllClose(scale(tf.constant([1.5, -7.0])), [1.5, -2.0])

    def test_equals_numpy_over_several_batches_with_padding(self):
        rng = np.random.default_rng(6)
        returns = rng.normal(50.0, 20.0, size=(3, 10, 4)).astype(np.float32)
        valid = rng.random((3, 10, 4)) < 0.8
        dirty = np.where(valid, returns, np.float32(np.nan))
        scale = normalise.ReturnScale()
        update = tf.function(scale.update, jit_compile=True, autograph=False)
        for x, mask in zip(dirty, valid, strict=True):
            update(tf.constant(x), tf.constant(mask))
        std = returns[valid].astype(np.float64).std()
        self.assertAllClose(scale(tf.constant([3.0])), [3.0 / std], rtol=1e-5)
        self.assertEqual({v.dtype for v in scale.moments.variables}, {tf.float64})
        self.assertEqual(scale.scale.dtype, tf.float32)
        self.assertEmpty(scale.trainable_variables)
