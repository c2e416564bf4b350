"""Policies that leave a run speak the environment's language: over random spaces, and by every way of acting."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree

from tfrl import spaces as space_lib
from tfrl.envs.make import make_spec, make_vector
from tfrl.envs.vector import environment_seeds
from tfrl.job import EnvPlan
from tfrl.nn import distributions, inputs
from tfrl.runtime.serving.export import export, named_leaves
from tfrl.runtime.serving.loaded import LoadedPolicy
from tfrl.runtime.serving.translate import Translator, exported_keys
from tfrl.testing.fakes import AnySpaces
from tfrl.types import EnvSpec, PolicyStep

spaces = gym.spaces
KEYS = ["arm left", "arm/left", "arm_left", "a[0],", "größe", "", "__", 3, -3, "3", "UPPER", "x"]
SEED = 5


class Linear(tf.Module):
    """A greedy policy that is linear in the flattened observation, with a state that remembers it."""

    def __init__(self, spec, seed):
        super().__init__()
        self._space = spec.observation_space
        self._distribution = distributions.make(spec.action_space)
        self.noise = self._distribution.noise
        flat = inputs.flatten(_zeros(self._space), self._space)
        self.size = flat.shape[1]
        shape = (self.size, self._distribution.num_params)
        weights = np.random.default_rng(seed).normal(size=shape) * 3
        self._weights = tf.Variable(weights, dtype=tf.float32)

    def initial_state(self, batch_size, noise):
        return {"seen": tf.zeros([batch_size, self.size])}

    def step(self, obs, state, knobs, noise, explore):
        flat = tf.clip_by_value(inputs.flatten(obs, self._space), -3.0, 3.0)
        seen = 0.5 * state["seen"] + flat
        params = seen @ self._weights
        action = self._distribution.action(self._distribution.mode(params))
        return PolicyStep(action, {"seen": seen}, {})

    def estimates(self, obs, state):
        flat = tf.clip_by_value(inputs.flatten(obs, self._space), -3.0, 3.0)
        found = self._distribution.probabilities((0.5 * state["seen"] + flat) @ self._weights)
        return {} if found is None else {"probabilities": found}


def _zeros(space):
    if isinstance(space, spaces.Dict):
        return {k: _zeros(s) for k, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_zeros(s) for s in space.spaces)
    return tf.zeros([1, *space.shape], space.dtype)


def random_space(rng, depth, action=False):
    """A random space, nested up to `depth`, of what a policy can act on or give."""
    kind = rng.choice(["dict", "tuple"] if depth and rng.random() < 0.7 else ["leaf"])
    if kind != "leaf":
        parts = [random_space(rng, depth - 1, action) for _ in range(rng.integers(1, 4))]
        if kind == "tuple":
            return spaces.Tuple(parts)
        keys = [KEYS[i] for i in rng.permutation(len(KEYS))[: len(parts)]]
        return spaces.Dict(list(zip(keys, parts)))
    kind = rng.choice(["box", "discrete", "multi", "binary"])
    if kind == "discrete":
        dtype, start = rng.choice([np.int8, np.int16, np.int32, np.int64]), rng.integers(-100, 20)
        return spaces.Discrete(int(rng.integers(1, 100)), start=int(start), dtype=dtype)
    if kind == "multi":
        shape = [(3,), (2, 2)][rng.integers(2)]
        dtype = rng.choice([np.int8, np.int16, np.int64])
        nvec, start = rng.integers(1, 5, shape), rng.integers(-120, 20, shape)
        return spaces.MultiDiscrete(nvec, start=start, dtype=dtype)
    if kind == "binary":
        return spaces.MultiBinary([2, (2, 3)][rng.integers(2)])
    shape = [(), (2,), (2, 3)][rng.integers(3)]
    dtypes = [np.float16, np.float32, np.float64]
    dtype = rng.choice(dtypes if action else [*dtypes, np.uint8, np.int16, bool])
    if np.dtype(dtype).kind != "f":
        return spaces.Box(0, 1, shape, dtype)
    low = rng.uniform(-0.3, 0.1, shape).astype(dtype)
    high = low + rng.uniform(0.01, 0.5, shape).astype(dtype)
    if rng.random() < 0.3:
        low = np.full(shape, -np.inf, dtype)
    return spaces.Box(low, high, dtype=dtype)


def pair(seed):
    """A random observation and action space."""
    rng = np.random.default_rng(seed)
    return random_space(rng, 2), random_space(rng, 2, action=True)


def plan(observation, action):
    kwargs = {"observation": space_lib.to_json(observation), "action": space_lib.to_json(action)}
    return EnvPlan(env="tfrl.testing.fakes:AnySpaces", env_kwargs=kwargs)


def batch(space, rows):
    """Observations of the space, leaves [rows, ...]."""
    space.seed(0)
    samples = [space.sample() for _ in range(rows)]

    def stack(space, values):
        if isinstance(space, (spaces.Dict, spaces.Tuple)):
            found = [(s, [v[k] for v in values]) for k, s in space_lib.parts(space)]
            return space_lib.join(space, [stack(*x) for x in found])
        return np.stack(values).astype(space.dtype)

    return stack(space, samples)


def row(space, nest, i):
    """Row i of a batch as `space.sample()` gives it."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return space_lib.join(space, [row(s, nest[k], i) for k, s in space_lib.parts(space)])
    value = np.asarray(nest)[i, ...]
    return value[()] if isinstance(space, spaces.Discrete) else value


def names(space, prefix):
    """The names of the leaves of a space, in its order."""
    return list(named_leaves(prefix, Translator(EnvSpec("", space, space)).observation_specs()))


def flat(space, value):
    """The leaves of a value as arrays of one row."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return [x for k, s in space_lib.parts(space) for x in flat(s, value[k])]
    return [np.asarray(value, space.dtype)[None]]


def unflat(space, leaves):
    """The value of which `leaves` iterates over the leaves."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return space_lib.join(space, [unflat(s, leaves) for _, s in space_lib.parts(space)])
    value = np.asarray(next(leaves))[0, ...]
    return value[()] if isinstance(space, spaces.Discrete) else value


def play(env, act):
    """The return of a seeded episode; the environment raises where an action is not contained."""
    obs, _ = env.reset(seed=environment_seeds(SEED, 1)[0])
    total, ended = 0.0, False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(act(obs))
        total, ended = total + reward, terminated or truncated
    return total


def play_signature(run, env, state):
    """The same by a function of named leaves with one row."""
    observation, action = env.observation_space, env.action_space

    def act(obs):
        nonlocal state
        out = run(**dict(zip(names(observation, "observation"), flat(observation, obs))), **state)
        state = {k: np.asarray(v) for k, v in out.items() if k.startswith("state_")}
        return unflat(action, (out[name] for name in names(action, "action")))

    return play(env, act)


def play_act(loaded, env):
    """The same by the nests that `act` of a SavedModel takes and gives."""
    observation, action = env.observation_space, env.action_space
    state = loaded.initial_state(1)

    def nest(space, leaves):
        if isinstance(space, spaces.Tuple):
            return tuple(nest(s, leaves) for s in space.spaces)
        if isinstance(space, spaces.Dict):
            return {k: nest(s, leaves) for k, s in zip(exported_keys(space), space.spaces.values())}
        return next(leaves)

    def leaves(space, value):
        if isinstance(space, spaces.Dict):
            keys = exported_keys(space)
            for k, s in zip(keys, space.spaces.values()):
                yield from leaves(s, value[k])
        elif isinstance(space, spaces.Tuple):
            for s, v in zip(space.spaces, value):
                yield from leaves(s, v)
        else:
            yield value

    def act(obs):
        nonlocal state
        out = loaded.act(nest(observation, iter(flat(observation, obs))), state)
        state = out["state"]
        return unflat(action, leaves(action, out["action"]))

    return play(env, act)


# Plays the same episodes where tfrl cannot be imported: the observations are in a file, the actions go into another.
CONSUMER = """
import sys
for name in ("tfrl", "gymnasium", "reverb"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
for folder in sys.argv[1:]:
    stored = dict(np.load(folder + "/observations.npz"))
    run = tf.saved_model.load(folder + "/export").signatures["serving_default"]
    state, found = {"state_0": tf.zeros([1, int(stored.pop("width"))])}, []
    for t in range(len(next(iter(stored.values())))):
        out = run(**{k: tf.constant(v[t]) for k, v in stored.items()}, **state)
        state = {"state_0": out.pop("state_0")}
        found.append({k: v.numpy() for k, v in out.items()})
    np.savez(folder + "/actions.npz", **{k: np.stack([x[k] for x in found]) for k in found[0]})
print("ok")
"""


class RandomSpacesTest(tf.test.TestCase):
    def test_casts_agree_with_those_of_acting(self):
        """The graph and NumPy give the same, and what they give is contained."""
        kinds = set()
        for seed in range(30):
            observation, action = pair(seed)
            env = plan(observation, action)
            spec = make_spec(env)
            policy = Linear(spec, seed)
            loaded, translator = LoadedPolicy(policy, spec), Translator(spec)
            vector = make_vector(env, 2, 0, training=False)
            acting = vector.reset(0)
            # What acting makes of two samples is what the graph makes of them.
            rows = [loaded.exported(e._obs) for e in vector.envs]
            rows = tree.map_structure(lambda *x: np.concatenate(x), *rows)
            mine = tree.map_structure(lambda x: x.numpy(), translator.observation(rows))
            tree.map_structure(np.testing.assert_array_equal, mine, acting)
            tree.map_structure(lambda x, y: self.assertEqual(x.dtype, y.dtype), mine, acting)
            actions = loaded.predict(batch(observation, 3))
            for i in range(3):
                one = row(action, actions, i)
                self.assertTrue(action.contains(one), (seed, one, action))
            loaded.reset()
            for exploring in (False, True):
                alone = loaded.predict(vector.envs[0]._obs, deterministic=not exploring)
                self.assertTrue(action.contains(alone), (seed, alone, action))
            kinds.add(type(alone).__name__)
            # The environment accepts what becomes of the policy's own action; else it raises.
            step = policy.step(acting, policy.initial_state(2, {}), {}, {}, False)
            vector.step(tree.map_structure(lambda x: x.numpy(), step.action))
            vector.close()
        self.assertContainsSubset({"dict", "tuple", "ndarray"}, kinds)

    def test_one_episode_by_every_way_of_acting(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        expected = {}
        for seed in (1, 4, 6, 12):
            observation, action = pair(seed)
            env = plan(observation, action)
            spec, here = make_spec(env), folder / str(seed)
            policy = Linear(spec, seed)
            # In memory, as an evaluation plays it.
            vector = make_vector(env, 1, SEED, training=False)
            obs, state, seen, total = vector.reset(SEED), policy.initial_state(1, {}), [], 0.0
            for _ in range(8):
                seen.append(vector.envs[0]._obs)
                step = policy.step(obs, state, {}, {}, False)
                state, now = (
                    step.state,
                    vector.step(tree.map_structure(lambda x: x.numpy(), step.action)),
                )
                obs, total = now.obs, total + float(now.reward[0])
            env = AnySpaces(**env.env_kwargs)
            loaded = LoadedPolicy(policy, spec)
            self.assertAllClose(play(env, loaded.predict), total, atol=1e-4)
            export(policy, spec, here / "export", lite=True)
            saved = tf.saved_model.load(str(here / "export"))
            zeros = {"state_0": np.zeros([1, policy.size], np.float32)}
            served = play_signature(saved.signatures["serving_default"], env, zeros)
            self.assertAllClose(served, total, atol=1e-4)
            self.assertAllClose(play_act(saved, env), total, atol=1e-4)
            lite = tf.lite.Interpreter(str(here / "export" / "policy.tflite"))
            played = play_signature(lite.get_signature_runner(), env, zeros)
            self.assertAllClose(played, total, atol=1e-3)
            arrays = [flat(observation, x) for x in seen]
            columns = dict(zip(names(observation, "observation"), map(np.stack, zip(*arrays))))
            np.savez(here / "observations.npz", width=policy.size, **columns)
            expected[str(here)] = total
        done = subprocess.run(
            [sys.executable, "-I", "-c", CONSUMER, *expected],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertEqual((done.returncode, done.stdout), (0, "ok\n"), done.stderr[-3000:])
        for where, total in expected.items():
            observation, action = pair(int(pathlib.Path(where).name))
            stored = np.load(pathlib.Path(where) / "actions.npz")
            self.assertEqual(sorted(stored.files), sorted(names(action, "action")))
            env = AnySpaces(**plan(observation, action).env_kwargs)
            rows = iter(range(8))

            def act(obs):
                t = next(rows)  # noqa: B023 - used in this turn only
                return unflat(action, (stored[n][t] for n in names(action, "action")))  # noqa: B023

            self.assertAllClose(play(env, act), total, atol=1e-4)
        self.assertLen(set(expected.values()), len(expected))

    def test_the_action_before_is_the_environments_too(self):
        """With `observe_previous` the Dict holds the action as it was given to the environment."""
        action = spaces.Dict(
            [
                ("go left", spaces.Discrete(4, start=5)),
                ("push", spaces.Box(-0.3, 0.2, (2,), np.float64)),
            ]
        )
        observation = spaces.Dict(
            [("a b", spaces.Discrete(6, start=2)), ("c", spaces.Box(-1, 1, (2,)))]
        )
        env = dataclasses.replace(plan(observation, action), observe_previous=True)
        spec = make_spec(env)
        policy = Linear(spec, 3)
        vector = make_vector(env, 1, SEED, training=False)
        obs, state, total = vector.reset(SEED), policy.initial_state(1, {}), 0.0
        for _ in range(8):
            step = policy.step(obs, state, {}, {}, False)
            now = vector.step(tree.map_structure(lambda x: x.numpy(), step.action))
            state, obs, total = step.state, now.obs, total + float(now.reward[0])
        loaded, own = LoadedPolicy(policy, spec), AnySpaces(**env.env_kwargs)
        obs, _ = own.reset(seed=environment_seeds(SEED, 1)[0])
        # The first choices, and 0, stand for no action.
        before, paid, played = {"go left": 5, "push": np.zeros(2)}, 0.0, 0.0
        for _ in range(8):
            before = loaded.predict({**obs, "previous_action": before, "previous_reward": paid})
            obs, paid, *_ = own.step(before)
            played += paid
        self.assertAllClose(played, total, atol=1e-4)

    def test_wide_whole_numbers_under_litert(self):
        """LiteRT has no inputs of uint16: the file takes the same numbers as int32."""
        observation = spaces.Box(0, 60_000, (3,), np.uint16)
        spec = make_spec(plan(observation, spaces.Discrete(5, start=2)))
        policy = Linear(spec, 0)
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        export(policy, spec, folder / "export", lite=True)
        run = tf.lite.Interpreter(str(folder / "export" / "policy.tflite")).get_signature_runner()
        loaded, seen = LoadedPolicy(policy, spec), set()
        for obs in np.random.default_rng(0).integers(0, 4, (20, 3)).astype(np.uint16):
            loaded.reset()
            out = run(observation=obs[None].astype(np.int32), state_0=np.zeros([1, 3], np.float32))
            self.assertEqual(out["action"], loaded.predict(obs))
            seen.add(out["action"].item())
        self.assertGreater(len(seen), 1)

    def test_limits_that_float32_does_not_have(self):
        """LiteRT clips in float32; the action is inside the limits all the same."""
        action = spaces.Box(np.array([-0.1, -np.inf]), np.array([0.1, 0.3]), dtype=np.float64)
        env = plan(spaces.Box(-9, 9, (2,), np.float64), action)
        spec = make_spec(env)
        translator = Translator(spec, lite=True)
        for value in (-9.0, 0.0, 9.0):
            x = tf.constant([[value, value]], tf.float32)
            (mine,) = translator.action(x).numpy()
            self.assertTrue(action.contains(mine), mine)
            self.assertAllClose(mine, Translator(spec).action(x)[0], rtol=1e-6)


if __name__ == "__main__":
    tf.test.main()
