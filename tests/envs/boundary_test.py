"""What environments give is checked at every step, and neither side writes into the other's arrays."""

import importlib.util
import tempfile

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import tfrl
from tfrl.envs import make
from tfrl.envs.vector import BatchVector, SyncVector
from tfrl.errors import EnvironmentFailed, SettingError
from tfrl.job import EnvPlan
from tfrl.testing import fakes

spaces = gym.spaces
KINDS = ("sync", "NextStep", "SameStep")
HERE = __name__
INF = float("inf")


def vector_of(kind, factories, plan_env=None):
    """A vector of environments that one kind of vector steps."""
    spec = make.spec_of(EnvPlan(env=plan_env or "Test"), factories[0](), None)
    if kind == "sync":
        return SyncVector(factories, spec, seed=0)
    env = SyncVectorEnv(factories, autoreset_mode=AutoresetMode(kind), copy=False)
    return BatchVector(env, spec, 0, backend=kind)


class Poisoned(gym.Env):
    """Gives what `poison` makes of (obs, reward, terminated, truncated) in its third step."""

    def __init__(self, poison=lambda *parts: parts, at=3, space=None):
        self.observation_space = space or spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._poison, self._at, self._t = poison, at, 0

    def reset(self, *, seed=None, options=None):
        self._t = 0
        obs = self._obs()
        return (self._poison(obs, 0.0, False, False)[0] if self._at == 0 else obs), {}

    def step(self, action):
        self._t += 1
        parts = (self._obs(), 1.0, False, False)
        parts = self._poison(*parts) if self._t == self._at else parts
        return (*parts, {})

    def _obs(self):
        self.observation_space.seed(1)
        return self.observation_space.sample()


def observing(value):
    return lambda obs, *rest: (value, *rest)


def entry(value):
    return lambda obs, *rest: (np.array([0, value, 0], np.float32), *rest)


def paying(value):
    return lambda obs, reward, *flags: (obs, value, *flags)


def ending(**flags):
    flags = {"terminated": False, "truncated": False, **flags}
    return lambda obs, reward, *_: (obs, reward, *flags.values())


DICT = spaces.Dict(arm=spaces.Box(-1, 1, (2,), np.float64), gear=spaces.Discrete(3, start=5))
GOOD = {"arm": np.zeros(2), "gear": 5}
# (name, space, poison, text of the refusal)
POISON = [
    ("nan", None, entry(np.nan), r"observation\[1\] is nan; expected a finite number"),
    ("inf", None, entry(INF), r"observation\[1\] is inf; expected a finite number"),
    ("minus_inf", None, entry(-INF), r"observation\[1\] is -inf"),
    ("both", None, observing(np.float32([INF, -INF, 0])), r"observation\[0\] is inf"),
    ("beyond_float32", None, observing(np.array([0, 0, 1e39])), r"observation\[2\] is inf"),
    ("none", None, observing(None), r"observation is None of type NoneType; expected an array"),
    ("short", None, observing(np.zeros(1, np.float32)), r"observation has shape \[1\]; expected \[3\]"),
    ("scalar", None, observing(0.0), r"observation has shape \[\]; expected \[3\]"),
    ("text", None, observing(["a", "b", "c"]), r"observation is a list of 3; expected an array"),
    ("ragged", None, observing([[1], [1, 2], 3]), r"observation is a list of 3"),
    ("nested", DICT, observing({**GOOD, "arm": np.array([0, np.nan])}), r"observation\['arm'\]\[1\] is nan"),
    ("key", DICT, observing({"arm": np.zeros(2)}), r"observation\['gear'\] is missing"),
    ("choice", DICT, observing({**GOOD, "gear": 8}), r"observation\['gear'\] is 8; expected one of its space, 5 to 7"),
    ("below", DICT, observing({**GOOD, "gear": 4}), r"observation\['gear'\] is 4; expected one of its space"),
    ("half", DICT, observing({**GOOD, "gear": 5.5}), r"observation\['gear'\] is 5.5 .*cannot|is 5.5"),
    ("uint8", spaces.Box(0, 255, (2,), np.uint8), observing(np.array([3, 256])), r"observation\[1\] is 256"),
    ("bits", spaces.MultiBinary(2), observing(np.int8([0, 2])), r"observation\[1\] is 2"),
    ("reward_nan", None, paying(np.nan), "reward is nan; expected a finite number"),
    ("reward_inf", None, paying(-INF), "reward is -inf; expected a finite number"),
    ("reward_beyond", None, paying(1e39), "reward is (1e[+]39|inf); expected a finite number of float32"),
    ("reward_none", None, paying(None), "reward is (None|nan)"),
    ("flag_none", None, ending(terminated=None), "terminated is None of type NoneType"),
    ("flag_nan", None, ending(truncated=np.nan), "truncated is nan"),
    ("flag_two", None, ending(terminated=2), "terminated is 2"),
]  # fmt: skip
# gymnasium's own vectors turn these into something else before anybody sees them.
BATCHED = {
    "nan",
    "inf",
    "minus_inf",
    "both",
    "nested",
    "reward_nan",
    "reward_inf",
    "reward_beyond",
    "bits",
}
LEGITIMATE = [
    ("float64", None, observing(np.array([1.0, 2.0, 1e30]))),
    ("list", None, observing([1, 2, 3])),
    ("large", None, observing(np.float32([3e38, -3e38, 1e-40]))),
    ("outside_limits", spaces.Box(-1, 1, (2,), np.float32), observing(np.float32([7, -7]))),
    ("whole_floats", DICT, observing({**GOOD, "gear": 7.0})),
    ("small_int64", spaces.Box(0, 255, (2,), np.uint8), observing(np.array([3, 255]))),
    ("bool", spaces.MultiBinary(2), observing(np.array([True, False]))),
    ("numpy_reward", None, paying(np.float32(2.5))),
    ("array_reward", None, paying(np.array(2.5))),
    ("int_reward", None, paying(-3)),
    ("numpy_flag", None, ending(truncated=np.bool_(True))),
    ("array_flag", None, ending(terminated=np.array(True))),
    ("number_flag", None, ending(terminated=1)),
]


class PoisonTest(parameterized.TestCase):
    @parameterized.named_parameters(*POISON)
    def test_refused_by_row_key_step_and_value(self, space, poison, text):
        vector = vector_of(
            "sync", [lambda: Poisoned(space=space), lambda: Poisoned(poison, space=space)], "Bad-v0"
        )
        vector.reset()
        vector.step(np.zeros(2, np.int64))
        vector.step(np.zeros(2, np.int64))
        with self.assertRaisesRegex(
            SettingError, rf"env='Bad-v0': environment row 1, step 3 of its episode: {text}"
        ):
            vector.step(np.zeros(2, np.int64))

    @parameterized.named_parameters(*(p for p in POISON if not p[0].startswith(("reward", "flag"))))
    def test_refused_at_a_reset(self, space, poison, text):
        vector = vector_of(
            "sync", [lambda: Poisoned(space=space), lambda: Poisoned(poison, 0, space)]
        )
        with self.assertRaisesRegex(SettingError, f"environment row 1, reset: {text}"):
            vector.reset()

    @parameterized.product(
        case=[p for p in POISON if p[0] in BATCHED], kind=("NextStep", "SameStep")
    )
    def test_refused_behind_a_vector_class(self, case, kind):
        _, space, poison, text = case
        vector = vector_of(
            kind, [lambda: Poisoned(space=space), lambda: Poisoned(poison, space=space)]
        )
        vector.reset()
        vector.step(np.zeros(2, np.int64))
        vector.step(np.zeros(2, np.int64))
        with self.assertRaisesRegex(
            SettingError, f"environment row 1, step 3 of its episode: {text}"
        ):
            vector.step(np.zeros(2, np.int64))

    def test_a_poisoned_final_observation_is_refused(self):
        def poison(obs, reward, *_):
            return np.float32([np.nan, 0, 0]), reward, True, False

        vector = vector_of("SameStep", [Poisoned, lambda: Poisoned(poison)])
        vector.reset()
        vector.step(np.zeros(2, np.int64))
        vector.step(np.zeros(2, np.int64))
        with self.assertRaisesRegex(
            SettingError, r"row 1, step 3 of its episode: observation\[0\] is nan"
        ):
            vector.step(np.zeros(2, np.int64))

    @parameterized.named_parameters(
        ("row", np.zeros((2, 2), np.float32), [0.0, 0.0], [False] * 2, r"observation has shape \[2\]; expected \[3\]"),
        ("batch", np.zeros((1, 3), np.float32), [0.0, 0.0], [False] * 2, "as observation; expected an array with one"),
        ("rewards", np.zeros((2, 3), np.float32), [0.0], [False] * 2, "as reward; expected an array with one"),
        ("none", np.zeros((2, 3), np.float32), [0.0, None], [False] * 2, "row 1, step 1.*reward is None"),
        ("flags", np.zeros((2, 3), np.float32), [0.0, 0.0], [False, 3], "row 1, step 1.*terminated is 3"),
        ("no_flags", np.zeros((2, 3), np.float32), [0.0, 0.0], None, "gave None of type NoneType as terminated"),
    )  # fmt: skip
    def test_a_vector_class_of_other_shapes_is_refused(self, obs, reward, terminated, text):
        vector = vector_of("NextStep", [Poisoned] * 2)
        vector.reset()
        vector.env.step = lambda action: (obs, reward, terminated, np.zeros(2, np.bool_), {})
        with self.assertRaisesRegex(SettingError, text):
            vector.step(np.zeros(2, np.int64))

    @parameterized.named_parameters(*LEGITIMATE)
    def test_what_is_legitimate_passes(self, space, poison):
        given = poison(None, 1.0, False, False)
        vector = vector_of("sync", [lambda: Poisoned(poison, 1, space)])
        vector.reset()
        step = vector.step(np.zeros(1, np.int64))
        self.assertEqual(step.reward[0], np.float32(given[1]))
        self.assertEqual((step.terminated[0], step.truncated[0]), given[2:])
        if isinstance(space, spaces.Dict):
            np.testing.assert_array_equal(step.obs["gear"], [2])
        elif given[0] is not None:
            np.testing.assert_array_equal(step.obs[0], np.asarray(given[0]).astype(step.obs.dtype))

    @parameterized.product(result=(None, (1, 2, 3, 4)), call=("reset", "step"))
    def test_something_else_than_the_parts_is_refused(self, result, call):
        env = Poisoned()
        vector = vector_of("sync", [lambda: env])
        if call == "step":
            vector.reset()
            vector._rows = [(0, lambda action: result)]
            expected = (
                r"step returned .*expected \(observation, reward, terminated, truncated, info\)"
            )
        else:
            env.reset = lambda seed=None: result
            expected = r"reset returned .*expected the pair \(observation, info\)"
        with self.assertRaisesRegex(SettingError, expected):
            vector.step(np.zeros(1, np.int64)) if call == "step" else vector.reset()

    @parameterized.parameters(*KINDS)
    def test_sys_exit_is_an_error(self, kind):
        def leave(*parts):
            raise SystemExit(0)

        vector = vector_of(kind, [Poisoned, lambda: Poisoned(leave)])
        vector.reset()
        vector.step(np.zeros(2, np.int64))
        vector.step(np.zeros(2, np.int64))
        with self.assertRaisesRegex(
            EnvironmentFailed, r"(row 1|vector class) called sys.exit\(0\)"
        ):
            vector.step(np.zeros(2, np.int64))


def leaves_when_built():
    raise SystemExit(0)


class BuildTest(absltest.TestCase):
    def test_sys_exit_in_a_factory_is_refused(self):
        with self.assertRaisesRegex(SettingError, r"cannot be built: it called sys.exit\(0\)"):
            make.make_spec(EnvPlan(env=f"{HERE}:leaves_when_built"))

    def test_each_environment_has_arguments_of_its_own(self):
        plan = EnvPlan(env=f"{HERE}:Marks", env_kwargs={"marks": [0]})
        vector = make.make_vector(plan, 3, seed=0)
        self.assertEqual([env.marks for env in vector.envs], [[0, 1]] * 3)
        self.assertEqual(plan.env_kwargs, {"marks": [0]})


class Marks(fakes.TruncatingChain):
    """Changes the list that it is given."""

    def __init__(self, marks):
        super().__init__()
        self.marks = marks
        self.marks.append(1)


SINGLE = fakes.TruncatingChain()


def the_same():
    return SINGLE


def the_same_wrapped():
    return gym.wrappers.TimeLimit(SINGLE, 5)


class SharedTest(parameterized.TestCase):
    @parameterized.parameters("the_same", "the_same_wrapped")
    def test_a_factory_that_gives_one_object_for_two_rows_is_refused(self, name):
        plan = EnvPlan(env=f"{HERE}:{name}")
        self.assertEqual(make.make_vector(plan, 1, seed=0).num_envs, 1)
        with self.assertRaisesRegex(
            SettingError, "the same object twice, for row 0 and for row 1; expected a new"
        ):
            make.make_vector(plan, 2, seed=0)

    def test_training_and_evaluation_do_not_share_one(self):
        run_dir = self.enter_context(tempfile.TemporaryDirectory()) + "/run"
        with self.assertRaisesRegex(SettingError, "for training, row 0 and for evaluation, row 0"):
            tfrl.train(
                "dqn", env=f"{HERE}:the_same", num_envs=1, eval_num_envs=1, run_dir=run_dir, console="none",
                total_env_steps=100, compile="graph", inference="function", tensorboard=False,
            )  # fmt: skip


class CloseTest(absltest.TestCase):
    def test_an_error_while_closing_loses_no_run(self):
        class Stuck(Poisoned):
            def close(self):
                raise RuntimeError("the window is gone")

        closed = []
        last = Poisoned()
        last.close = lambda: closed.append(True)
        vector = vector_of("sync", [Stuck, lambda: last])
        with self.assertLogs(level="WARNING") as logs:
            vector.close()
        self.assertIn(
            "closing environment row 0 of 'Test': RuntimeError: the window is gone", logs.output[0]
        )
        self.assertEqual(closed, [True])


class Reusing(gym.Env):
    """Reuses its arrays and writes into the action: obs = [t, t], reward t, ends after 3 steps."""

    def __init__(self, action_space, nested=False):
        box = spaces.Box(0, 99, (2,), np.float32)
        self.observation_space = spaces.Dict(a=box) if nested else box
        self.action_space, self._nested = action_space, nested
        self._obs, self._reward = np.zeros(2, np.float32), np.zeros((), np.float32)
        self._flags, self._t = [np.zeros((), np.bool_), np.zeros((), np.bool_)], 0

    def reset(self, *, seed=None, options=None):
        self._t = 0
        self._obs[:] = 0
        return self._seen(), {}

    def step(self, action):
        for part in action.values() if isinstance(action, dict) else [action]:
            part[...] = 0
        self._t += 1
        self._obs[:], self._reward[...], self._flags[0][...] = self._t, self._t, self._t == 3
        return self._seen(), self._reward, *self._flags, {}

    def _seen(self):
        return {"a": self._obs} if self._nested else self._obs


class ReusingVector(gym.vector.VectorEnv):
    """A vector class that reuses all its arrays and writes into the actions."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self):
        self.num_envs = 2
        self.single_observation_space = spaces.Box(0, 99, (2,), np.float32)
        self.single_action_space = spaces.Discrete(5)
        self._obs, self._reward = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
        self._ends, self._cuts, self._t = np.zeros(2, np.bool_), np.zeros(2, np.bool_), 0

    def reset(self, *, seed=None, options=None):
        self._t, self._obs[:] = 0, 0
        return self._obs, {}

    def step(self, actions):
        actions[:] = 0
        self._t += 1
        self._obs[:], self._reward[:], self._ends[:] = self._t % 4, self._t, self._t % 4 == 3
        return self._obs, self._reward, self._ends, self._cuts, {}


ACTION_SPACES = {
    "MultiDiscrete": spaces.MultiDiscrete([5, 5]),
    "MultiBinary": spaces.MultiBinary(2),
    "Box": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "Box_with_limits": spaces.Box(0, 5, (2,), np.float32),
    "Dict": spaces.Dict(b=spaces.MultiDiscrete([5, 5]), c=spaces.Box(-np.inf, np.inf, (2,), np.float32)),
}  # fmt: skip


class OwnershipTest(parameterized.TestCase):
    @parameterized.product(kind=("sync", "NextStep"), nested=(False, True))
    def test_arrays_that_environments_reuse_are_copied(self, kind, nested):
        vector = vector_of(kind, [lambda: Reusing(ACTION_SPACES["MultiBinary"], nested)] * 2)
        part = (lambda obs: obs["a"]) if nested else (lambda obs: obs)
        obs, steps = vector.reset(), []
        for _ in range(3):
            steps.append((obs, vector.step(np.ones((2, 2), np.int8))))
            obs = steps[-1][1].obs
        for t, (before, step) in enumerate(steps):
            np.testing.assert_array_equal(part(before), np.full((2, 2), t))
            np.testing.assert_array_equal(part(step.next_obs), np.full((2, 2), t + 1))
            np.testing.assert_array_equal(step.reward, [t + 1] * 2)
            np.testing.assert_array_equal(step.terminated, [t == 2] * 2)

    def test_arrays_that_a_vector_class_reuses_are_copied(self):
        env = ReusingVector()
        spec = make.spec_of(EnvPlan(env="Native"), Reusing(ACTION_SPACES["MultiBinary"]), None)
        vector = BatchVector(env, spec, 0, backend="native")
        action = np.ones(2, np.int64)
        first, one, two, three = vector.reset(), *(vector.step(action) for _ in range(3))
        np.testing.assert_array_equal(
            [x[0, 0] for x in (first, one.obs, two.obs, three.obs)], [0, 1, 2, 3]
        )
        np.testing.assert_array_equal([x.reward[1] for x in (one, two, three)], [1, 2, 3])
        np.testing.assert_array_equal(
            [x.terminated[1] for x in (one, two, three)], [False, False, True]
        )
        np.testing.assert_array_equal(action, [1, 1])
        vector.step(action)
        np.testing.assert_array_equal(three.terminated, [True, True])
        np.testing.assert_array_equal(three.truncated, [False, False])

    @parameterized.parameters("ale", "envpool")
    def test_native_code_gives_new_arrays_at_every_step(self, backend):
        if backend == "envpool" and not importlib.util.find_spec("envpool"):
            self.skipTest("EnvPool is not installed")
        vector = make.make_vector(EnvPlan(env="ALE/Pong-v5", env_backend=backend), 2, seed=0)
        self.addCleanup(vector.close)
        kept = [vector.reset()]
        for t in range(8):
            step = vector.step(np.array([2, 3]) if t % 2 else np.array([3, 0]))
            kept += [step.obs, step.reward, step.terminated, step.truncated]
        copies = [array.copy() for array in kept]
        for _ in range(30):
            vector.step(np.array([2, 2]))
        for array, copy in zip(kept, copies):
            np.testing.assert_array_equal(array, copy)

    @parameterized.product(kind=KINDS, space=list(ACTION_SPACES))
    def test_an_environment_that_changes_its_action_changes_a_copy(self, kind, space):
        vector = vector_of(kind, [lambda: Reusing(ACTION_SPACES[space])] * 2)
        vector.reset()
        action = np.ones((2, 2), np.float32 if "Box" in space else np.int64)
        if space == "Dict":
            action = {"b": np.ones((2, 2), np.int64), "c": np.ones((2, 2), np.float32)}
        vector.step(action)
        for part in action.values() if space == "Dict" else [action]:
            np.testing.assert_array_equal(part, np.ones((2, 2)))


if __name__ == "__main__":
    absltest.main()
