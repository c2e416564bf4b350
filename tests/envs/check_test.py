"""The checker finds each fault, and all of them at once."""

import io

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized

from tfrl.envs import check
from tfrl.errors import SettingError
from tfrl.testing import fakes


class Chain(fakes.TruncatingChain):
    """A correct environment; the subclasses below break one thing each."""


class OldReset(Chain):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class NoSeedArgument(Chain):
    def reset(self):
        return super().reset()


class IgnoresSeed(Chain):
    def reset(self, *, seed=None, options=None):
        super().reset()
        return np.random.default_rng().random(1).astype(np.float32), {}


class IgnoresSeedInOneArray(Chain):
    """Writes every observation into the same array, so that two that are kept uncopied are always equal."""

    def reset(self, *, seed=None, options=None):
        super().reset()
        self.array = getattr(self, "array", np.zeros(1, np.float32))
        self.array[:] = np.random.default_rng().random(1)
        return self.array, {}


class Infinite(Chain):
    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def step(self, action):
        return (np.full(1, -np.inf, np.float32), *super().step(action)[1:])


class Leaving(Chain):
    def step(self, action):
        raise SystemExit(0)


ONE = Chain()


def the_same():
    return ONE


class OldStep(Chain):
    def step(self, action):
        return super().step(action)[:4]


class WrongShape(Chain):
    def step(self, action):
        return (np.ones(2, np.float32), *super().step(action)[1:])


class Outside(Chain):
    def step(self, action):
        return (np.full(1, 3, np.float32), *super().step(action)[1:])


class NotANumber(Chain):
    def step(self, action):
        return (np.full(1, np.nan, np.float32), np.nan, *super().step(action)[2:])


class TextReward(Chain):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return (obs, "1", *rest)


class IntegerFlags(Chain):
    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, 0, int(truncated), info


class WrongDtype(Chain):
    def step(self, action):
        return (np.ones(1, np.complex64), *super().step(action)[1:])


class NoSpace(Chain):
    def __init__(self):
        super().__init__()
        self.action_space = None


class TextAction(Chain):
    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Dict(a=gym.spaces.Text(2))


class NothingValid(fakes.MaskedBandit):
    def step(self, action):
        obs, *rest = super().step(action)
        self._mask[:] = 1
        return ({**obs, "action_mask": np.zeros(5, np.int8)}, *rest)


class WrongMask(fakes.MaskedBandit):
    def __init__(self):
        super().__init__()
        self.observation_space["action_mask"] = gym.spaces.MultiBinary(4)


class MaskOfBits(fakes.MaskedBandit):
    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.MultiBinary(5)


class HalfMask(fakes.MaskedPair):
    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.MultiDiscrete([4, 5])


class OneHalfInvalid(fakes.MaskedPair):
    def step(self, action):
        obs, *rest = super().step(action)
        self._mask[:] = 1
        return ({**obs, "action_mask": np.int8([0, 0, 0, 0, 1, 1, 1, 1])}, *rest)


class WholeBox(fakes.MatchBox):
    def __init__(self):
        super().__init__()
        box = gym.spaces.Box(0, 255, (2,), np.uint8)
        self.action_space = gym.spaces.Dict(a=box)
        self._parts = [box]


class MissingKey(fakes.MaskedBandit):
    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        del obs["observation"]
        return obs, info


class Everything(Chain):
    def reset(self, *, seed=None, options=None):
        return np.full(1, 7, np.float32), []

    def step(self, action):
        return np.ones(3, np.float32), None, 0, False, None


class CheckTest(parameterized.TestCase):
    @parameterized.parameters(
        "CartPole-v1",
        "FrozenLake-v1",
        "Pendulum-v1",
        "tfrl.testing.fakes:MaskedBandit",
        fakes.TruncatingChain,
        fakes.Counter,
        fakes.IdentityGame,
        fakes.MaskedBandit,
        fakes.ImageGame,
        fakes.TargetPoint,
        fakes.MatchBox,
        fakes.MatchMultiDiscrete,
        fakes.MatchMultiBinary,
        fakes.MatchDict,
        fakes.MatchTuple,
        fakes.MaskedPair,
    )
    def test_correct_environments(self, env):
        self.assertEmpty(check.check_env(env))

    @parameterized.parameters(
        (OldReset, "reset returned an array.*expected the pair"),
        (NoSeedArgument, "does not take the keyword argument seed"),
        (IgnoresSeed, "two resets with seed=0 gave different observations"),
        (IgnoresSeedInOneArray, "two resets with seed=0 gave different observations"),
        (Infinite, "observation of step contains infinity"),
        (Leaving, r"it called sys.exit\(0\)"),
        (the_same, "two calls gave the same object"),
        (OldStep, "step returned a tuple of 4"),
        (WrongShape, r"observation of step has shape \[2\]: expected \[1\]"),
        (Outside, r"outside its space.*entry \[0\] is 3.0, the limits are \[0.0, 1.0\]"),
        (NotANumber, "contains NaN(.|\n)*reward is nan"),
        (TextReward, "reward is '1' of type str"),
        (IntegerFlags, "terminated is 0 of type int(.|\n)*truncated is 0 of type int"),
        (WrongDtype, "dtype complex64: expected float32"),
        (NoSpace, "action_space is None"),
        (TextAction, r"action_space\['a'\] is Text.*expected Box, Discrete"),
        (MaskOfBits, "has an action_mask, but action_space is MultiBinary.*expected Discrete"),
        (HalfMask, r"action_mask has shape \[8\], the action space .*; expected \[9\]"),
        (OneHalfInvalid, "action_mask of step has no valid action for one component"),
        (NothingValid, "action_mask of step has no valid action"),
        (WrongMask, r"action_mask has shape \[4\], the action space Discrete\(5\); expected \[5\]"),
        (MissingKey, r"observation\['observation'\] of reset is missing"),
        (lambda: "text", "it is a str: expected a gymnasium.Env"),
    )
    def test_one_fault(self, env, message):
        with self.assertRaisesRegex(SettingError, message):
            check.check_env(env)

    def test_all_faults_in_one_message(self):
        findings = check.check_env(Everything, strict=False)
        self.assertLen(findings, 6, findings)
        with self.assertRaises(SettingError) as caught:
            check.check_env(Everything)
        for finding in findings:
            self.assertIn(finding, str(caught.exception))

    def test_a_box_of_whole_numbers_is_a_warning(self):
        findings = check.check_env(WholeBox)
        self.assertLen(findings, 1)
        self.assertStartsWith(
            findings[0], "warning: action_space has Box(0, 255, (2,), uint8) in it"
        )

    def test_endless_episode_is_a_warning(self):
        findings = check.check_env(lambda: fakes.TruncatingChain(length=10_000), num_steps=50)
        self.assertLen(findings, 1)
        self.assertStartsWith(findings[0], "warning: no episode ended within 50")


class ProgressTest(absltest.TestCase):
    def test_a_line_every_second(self):
        now, out = [0.0], io.StringIO()
        progress = check.Progress(1000, out, clock=lambda: now[0])
        for step in range(16):
            now[0] += 0.25
            progress(step)
        progress.close()
        lines = out.getvalue().splitlines()
        self.assertLen(lines, 4)
        self.assertEqual(lines[0], "checking: 3 of 1,000 random steps")

    def test_nothing_about_a_quick_check(self):
        out = io.StringIO()
        progress = check.Progress(1000, out, clock=lambda: 0.0)
        progress(5)
        progress.close()
        self.assertEqual(out.getvalue(), "")

    def test_a_terminal_has_one_line(self):
        now, out = [0.0], io.StringIO()
        out.isatty = lambda: True
        progress = check.Progress(1000, out, clock=lambda: now[0])
        for step in range(3):
            now[0] += 1.0
            progress(step)
        progress.close()
        self.assertEqual(out.getvalue().count("\r"), 3)
        self.assertEqual(out.getvalue().count("\n"), 1)

    def test_the_check_reports_its_steps(self):
        seen = []
        check.check_env(lambda: fakes.TruncatingChain(length=5), num_steps=30, progress=seen.append)
        self.assertEqual(seen, list(range(30)))


if __name__ == "__main__":
    absltest.main()
