"""A loaded policy in its user's hands: `predict`, its memory, `q_values` and `probabilities`."""

import pathlib
import tempfile

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl import spaces as space_lib
from tfrl.algos import dqn, iqn, ppo
from tfrl.envs import spaces as casts
from tfrl.errors import SettingError
from tfrl.losses import value
from tfrl.runtime.serving.export import export
from tfrl.runtime.serving.loaded import LoadedPolicy
from tfrl.testing.runs import untrained_run
from tfrl.types import EnvSpec

spaces = gym.spaces
BOX = spaces.Box(-1, 1, (3,), np.float64)
OBS = np.random.default_rng(0).uniform(-1, 1, (6, 3))


def spec_of(observation, action):
    cast = casts.observation_space(observation, "obs"), casts.action_space(action, "action")
    return EnvSpec("made up", *cast, 0, None, observation, action)


def loaded(module, observation, action, knobs=lambda rows: {}, **settings):
    tf.keras.utils.set_random_seed(1)
    spec = spec_of(observation, action)
    config = module.Config(hidden_sizes=(8,), **settings)
    return LoadedPolicy(module.make(config, spec).make_policy(), spec, knobs)


class PredictTest(tf.test.TestCase, parameterized.TestCase):
    def test_one_or_a_batch(self):
        policy = loaded(dqn, BOX, spaces.Discrete(4, start=5))
        batch = policy.predict(OBS)
        self.assertEqual((batch.shape, batch.dtype), ((6,), np.int64))
        self.assertGreater(len(set(batch.tolist())), 1)
        for obs, action in zip(OBS, batch):
            one = policy.predict(obs)
            self.assertEqual((one, type(one)), (action, np.int64))
            self.assertTrue(policy.action_space.contains(one))
            self.assertEqual(policy.predict(obs.tolist()), action)  # what is no array, too
        self.assertAllEqual(policy.step(OBS).action, batch)

    def test_nests_with_keys_of_their_own(self):
        observation = spaces.Dict([(1, spaces.Discrete(3, start=-1)), ("b c", BOX)])
        action = spaces.Dict([("b c", spaces.Discrete(2, start=1)), (0, spaces.MultiBinary(2))])
        policy = loaded(ppo, observation, action)
        batch = policy.predict({1: np.array([-1, 0, 1]), "b c": OBS[:3]})
        self.assertEqual({k: v.shape for k, v in batch.items()}, {"b c": (3,), 0: (3, 2)})
        one = policy.predict({1: 0, "b c": OBS[1]})
        self.assertTrue(action.contains(one), one)
        self.assertEqual(one["b c"], batch["b c"][1])

    def test_memory(self):
        policy = loaded(ppo, BOX, spaces.Box(-1, 1, (2,)), core="gru", core_size=4)
        first = policy.predict(OBS[0])
        kept = policy.state
        second = policy.predict(OBS[0])
        self.assertNotAllClose(first, second)  # it remembers
        state = policy.initial_state(1)
        for expected in (first, second):
            step = policy.step(OBS[:1], state)
            state = step.state
            self.assertAllClose(step.action[0], expected)
        policy.state = kept
        self.assertAllClose(policy.predict(OBS[0]), second)
        policy.reset()
        self.assertAllClose(policy.predict(OBS[0]), first)
        with self.assertRaisesRegex(SettingError, r"got 2 observations after 1, .* call reset\(\)"):
            policy.predict(OBS[:2])
        policy.reset()
        twice = np.stack([OBS[0], OBS[0]])
        self.assertAllClose(policy.predict(twice), [first, first])
        self.assertAllClose(policy.predict(twice, episode_start=[True, False]), [first, second])
        # Estimates go on from the memory and leave it.
        before = policy.state
        discrete = loaded(ppo, BOX, spaces.Discrete(3), core="gru", core_size=4)
        fresh = discrete.probabilities(OBS[0])
        discrete.predict(OBS[0])
        self.assertNotAllClose(discrete.probabilities(OBS[0]), fresh)
        self.assertAllClose(discrete.probabilities(OBS[0]), discrete.probabilities(OBS[0]))
        self.assertIs(policy.state, before)

    def test_not_deterministic(self):
        policy = loaded(ppo, BOX, spaces.Box(0, 1, (1,)))
        greedy = policy.predict(OBS[0])
        draws = []
        for seed in (3, 3, 4):
            policy.reset(seed=seed)
            draws.append([policy.predict(OBS[0], deterministic=False) for _ in range(40)])
        self.assertAllEqual(draws[0], draws[1])
        self.assertNotAllClose(draws[0], draws[2])
        self.assertTrue(all(policy.action_space.contains(x) for x in draws[0]))
        self.assertGreater(np.std(draws[0]), 0.1)
        self.assertAllClose(policy.predict(OBS[0]), greedy)
        for epsilon, choices in ((0.0, 1), (1.0, 4)):
            knobs = lambda rows, e=epsilon: {"epsilon": np.full(rows, e, np.float32)}
            q = loaded(dqn, BOX, spaces.Discrete(4, start=5), knobs)
            found = {int(q.predict(OBS[0], deterministic=False)) for _ in range(60)}
            self.assertLen(found, choices)
            self.assertContainsSubset(found, {5, 6, 7, 8})

    def test_held_noise_stays_for_an_episode(self):
        policy = loaded(
            ppo, BOX, spaces.Box(-9, 9, (1,)), state_dependent_exploration=True,
            log_std_initial=1.0,
        )  # fmt: skip
        a, b = (policy.predict(OBS[0], deterministic=False) for _ in range(2))
        self.assertAllEqual(a, b)
        self.assertNotAllClose(policy.predict(OBS[0], deterministic=False, episode_start=True), a)

    @parameterized.parameters(
        (BOX, OBS[:, :2], r"observation has shape \[6, 2\]: expected \[3\], or \[B, 3\]"),
        (BOX, np.array(["a", "b", "c"]), "observation has dtype <U1: expected float64"),
        (spaces.Discrete(4, start=10), 3, "observation is 3: expected values of Discrete"),
        (spaces.Discrete(4, start=10), [10, 14], r"is \[10, 14\]: expected values of Discrete"),
        (spaces.Discrete(4), 1.0, "dtype float64: expected int64"),
        (BOX, (OBS[0], {"info": 1}), "is a tuple of 2: expected Box.*; an environment's reset gives"),
        (BOX, [OBS[0], [1.0]], "is a list of 2: expected Box.*float64.$"),
        (spaces.Discrete(4), (3, {}), "is a tuple of 2: expected Discrete.*reset gives obs, info"),
        (spaces.Dict(a=BOX), ({"a": OBS[0]}, {}), "is a tuple of 2: .*reset gives obs, info"),
        (BOX, [np.nan, 0.0, 0.0], "observation has values that are not finite"),
        (spaces.Box(-9, 9, (2,)), [1e300, 0.0], "not finite: expected numbers of float32"),
        (spaces.Dict(a=BOX), OBS, r"observation\['a'\] is missing"),
        (spaces.Dict(a=BOX, b=BOX), {"a": OBS, "b": OBS[0]}, r"observation\['b'\] has shape \[3\], .*batch of 6"),
    )  # fmt: skip
    def test_what_is_no_observation(self, space, obs, message):
        with self.assertRaisesRegex(SettingError, message):
            loaded(dqn, space, spaces.Discrete(2)).predict(obs)


class EstimatesTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((dqn, {}), (iqn, {}), (dqn, {"value_rescaling_epsilon": 1e-3}))
    def test_q_values(self, module, settings):
        observation = spaces.Dict(action_mask=spaces.MultiBinary(4), rest=BOX)
        policy = loaded(module, observation, spaces.Discrete(4, start=5), **settings)
        obs = {"action_mask": np.array([[1, 1, 1, 1], [0, 1, 0, 1]], np.int8), "rest": OBS[:2]}
        q = policy.q_values(obs)
        self.assertEqual((q.shape, q.dtype), ((2, 4), np.float32))
        self.assertAllEqual(q.argmax(1) + 5, policy.predict(obs))
        self.assertAllLess(q[1, [0, 2]], -1e30)
        self.assertAllClose(policy.q_values({k: v[0] for k, v in obs.items()}), q[0])
        raw = policy.policy
        inner = {"action_mask": obs["action_mask"].astype(np.float32), "rest": OBS[:2].astype("f")}
        expected = raw.model.q_values(raw.body.step(inner, ())[0], inner, None)
        if settings:
            expected = value.unrescale(expected, 1e-3)
        self.assertAllClose(q[0], expected[0])
        with self.assertRaisesRegex(
            SettingError, "probabilities: .*does not compute them; it has q_values"
        ):
            policy.probabilities(obs)

    def test_probabilities(self):
        action = spaces.Dict(
            gear=spaces.Discrete(3, start=1), lamps=spaces.MultiBinary(2),
            wheels=spaces.MultiDiscrete([2, 4], start=[0, 7]),
        )  # fmt: skip
        policy = loaded(ppo, BOX, action)
        p = policy.probabilities(OBS)
        self.assertEqual(
            {k: v.shape for k, v in p.items()},
            {"gear": (6, 3), "lamps": (6, 2), "wheels": (6, 2, 4)},
        )
        self.assertAllClose(p["gear"].sum(-1), np.ones(6))
        self.assertAllClose(p["wheels"].sum(-1), np.ones((6, 2)))
        self.assertAllEqual(p["wheels"][:, 0, 2:], np.zeros((6, 2)))
        # They are the frequencies of draws, and the greedy action is the most probable one.
        one = policy.predict(OBS[0])
        self.assertEqual(one["gear"], 1 + p["gear"][0].argmax())
        self.assertAllEqual(one["wheels"], p["wheels"][0].argmax(-1) + [0, 7])
        self.assertAllEqual(one["lamps"], p["lamps"][0] > 0.5)
        many = policy.predict(np.repeat(OBS[:1], 20_000, 0), deterministic=False)
        self.assertAllClose(np.bincount(many["gear"])[1:] / 20_000, p["gear"][0], atol=0.02)
        self.assertAllClose(many["lamps"].mean(0), p["lamps"][0], atol=0.02)
        wheel = np.bincount(many["wheels"][:, 1])[7:] / 20_000
        self.assertAllClose(wheel, p["wheels"][0, 1], atol=0.02)
        with self.assertRaisesRegex(SettingError, "q_values: .*it has probabilities"):
            policy.q_values(OBS)
        with self.assertRaisesRegex(SettingError, "it has none of the kind"):
            loaded(ppo, BOX, spaces.Tuple([spaces.Discrete(2), BOX])).probabilities(OBS)

    def test_signatures_of_the_export(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        observation = spaces.Dict([("arm left", BOX)])
        action = spaces.Dict([("a/b", spaces.Discrete(3)), ("a", spaces.MultiBinary(2))])
        policy = loaded(ppo, observation, action)
        saved = tf.saved_model.load(str(export(policy.policy, policy.spec, folder / "p")))
        found = saved.signatures["probabilities"](observation_arm_0x20_left=OBS)
        expected = policy.probabilities({"arm left": OBS})
        self.assertEqual(sorted(found), ["probabilities_a", "probabilities_a_0x2F_b"])
        self.assertAllClose(found["probabilities_a_0x2F_b"], expected["a/b"])
        self.assertAllClose(saved.probabilities({"arm left": OBS}, ())["a"], expected["a"])
        policy = loaded(dqn, BOX, spaces.Discrete(3, start=2))
        saved = tf.saved_model.load(str(export(policy.policy, policy.spec, folder / "q")))
        found = saved.signatures["q_values"](observation=OBS)
        self.assertAllClose(found["q_values"], policy.q_values(OBS))

    def test_the_python_door(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        run = untrained_run(folder / "run", env="CartPole-v1", epsilon_final=1.0)
        policy, env = tfrl.load(run), gym.make("CartPole-v1")
        obs, _ = env.reset(seed=0)
        for deterministic in (True, False):
            obs, *_ = env.step(policy.predict(obs, deterministic=deterministic))
        self.assertEqual(policy.q_values(obs).shape, (2,))
        self.assertEqual({int(policy.predict(obs, deterministic=False)) for _ in range(40)}, {0, 1})


class KeysTest(parameterized.TestCase):
    @parameterized.parameters(
        (["arm/left", "arm_left"],), ([("a", "b"), "a/b"],), (["a", "A", "ä", "", " "],), ([3, "3"],)
    )  # fmt: skip
    def test_no_two_parts_share_a_column(self, keys):
        """Columns of a replay, of unrolls and of an export."""
        inner = {k: spaces.Dict([(k[1], BOX)]) for k in keys if isinstance(k, tuple)}
        pairs = [(k[0] if k in inner else k, inner.get(k, BOX)) for k in keys]
        observation = spaces.Dict(pairs)
        spec = spec_of(observation, spaces.Dict(pairs))
        from tfrl.replay.kinds import make_layout
        from tfrl.runtime.serving.export import named_leaves
        from tfrl.runtime.serving.translate import Translator

        agent = ppo.make(ppo.Config(hidden_sizes=(8,)), spec)
        layout = make_layout(agent, spec, agent.make_policy(), 2)
        self.assertLen([n for n in layout.packing.dtype.names if n.startswith("obs")], len(keys))
        self.assertLen([n for n in layout.packing.dtype.names if n.startswith("action")], len(keys))
        q_spec = spec_of(observation, spaces.Discrete(2))
        agent = dqn.make(dqn.Config(hidden_sizes=(8,)), q_spec)
        layout = make_layout(agent, q_spec, agent.make_policy(), 2)
        names = layout.packing.dtype.names
        self.assertLen([n for n in names if n.startswith("obs_tm1")], len(keys))
        exported = named_leaves("observation", Translator(spec).observation_specs())
        self.assertLen(exported, len(keys))
        for name in exported:
            self.assertRegex(name, r"\A[A-Za-z0-9_]+\Z")

    @parameterized.parameters(((1, 2),), (None,), (b"a",), (1.5,))
    def test_another_kind_of_key_is_refused(self, key):
        space = spaces.Dict([(key, BOX)])
        for cast in (casts.observation_space, casts.action_space):
            with self.assertRaisesRegex(SettingError, "^here has the key .*: expected a string or"):
                cast(space, "here")
        self.assertRaises(SettingError, space_lib.key_name, key)


if __name__ == "__main__":
    tf.test.main()
