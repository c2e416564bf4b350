"""Checks a user's environment and reports everything that is wrong with it at once.

tfrl check my_package.my_module:make_env
"""

from __future__ import annotations

import copy
import numbers
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import gymnasium as gym
import numpy as np

from tfrl.envs import make, team
from tfrl.envs import spaces as space_lib
from tfrl.envs.boundary import kind, part_name
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.spaces import leaf_spaces
from tfrl.types import ACTION_FEATURES, ACTION_MASK, ALIVE, STATE, side_inputs

STEPS = 1000  # that the command plays
WARNING = "warning: "  # findings that begin so do not make an environment unusable


class _Findings(list):
    """Findings in order of discovery, each once: an error at every step is one error."""

    def add(self, text: str) -> None:
        if text not in self:
            self.append(text)


def check_env(
    env: gym.Env | Callable[[], gym.Env] | str,
    *,
    num_steps: int = 1000,
    seed: int = 0,
    strict: bool = True,
    progress: Callable[[int], None] = lambda steps: None,
) -> list[str]:
    """Takes random valid actions and lists every violation of the contract of gymnasium or tfrl.

    Args:
      env: an environment, a function that returns one, or what `--env` takes.
      num_steps: env steps to take.
      seed: seed of the resets and of the actions.
      strict: raise if there are findings other than warnings.
      progress: called before each step with the number of steps made.

    Returns:
      The findings, one sentence each. A finding that begins with "warning: " does not prevent training.

    Raises:
      SettingError: with every finding in the message, if `strict`.
    """
    findings = _Findings()
    name = env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)
    if isinstance(env, str):
        made: Any = make.make_env(EnvPlan(env=env))
    elif isinstance(env, gym.Env) or not callable(env):
        made = env
    else:
        made = env()
    try:
        if not isinstance(made, gym.Env):
            findings.add(f"it is a {type(made).__name__}: expected a gymnasium.Env")
        elif _check_spaces(made, findings) and _check_reset(made, seed, findings):
            _play(made, num_steps, seed, findings, progress)
        if isinstance(made, gym.Env) and not isinstance(env, gym.Env):
            again = make.make_env(EnvPlan(env=env)) if isinstance(env, str) else env()
            if isinstance(again, gym.Env) and again.unwrapped is made.unwrapped:
                findings.add(
                    "two calls gave the same object: expected a new environment at every call"
                )
            else:
                again.close()
            made.close()
    except SystemExit as error:
        findings.add(
            f"it called sys.exit({error.code!r}): expected an error, or the end of an episode"
        )
    errors = [f for f in findings if not f.startswith(WARNING)]
    if strict and errors:
        lines = "".join(f"\n  {i}. {f}" for i, f in enumerate(findings, 1))
        raise SettingError(
            f"env={name!r} cannot be trained on, {len(errors)} error(s) found:{lines}"
        )
    return list(findings)


def _check_spaces(env: gym.Env, findings: _Findings) -> bool:
    """True if both spaces are there and usable, so that playing makes sense."""
    usable = True
    for attribute, convert in (
        ("observation_space", space_lib.observation_space),
        ("action_space", space_lib.action_space),
    ):
        space = getattr(env, attribute, None)
        if not isinstance(space, gym.Space):
            findings.add(f"{attribute} is {space!r}: expected a gymnasium space")
            usable = False
            continue
        try:
            convert(space, attribute)
        except SettingError as error:
            findings.add(str(error))
            usable = False
    if not usable:
        return False
    actions = env.action_space
    for part in leaf_spaces(actions):
        if not isinstance(part, gym.spaces.Box):
            continue
        if not np.issubdtype(part.dtype, np.floating):
            findings.add(
                f"{WARNING}action_space has {part} in it; policies of normal variables need floats, "
                "and Discrete or MultiDiscrete describe whole numbers better"
            )
        elif not part.is_bounded():
            findings.add(
                f"{WARNING}action_space {part} has no limits; "
                "policies that squash their actions need some"
            )
    try:
        declared = space_lib.declared(env, "it")
    except SettingError as error:
        findings.add(str(error))
        return False
    observations = env.observation_space
    problems = team.form_problems(observations, actions, declared)
    problems += space_lib.side_input_problems(observations, actions, declared.num_agents)
    for problem in problems:
        findings.add(problem)
    expected = {ACTION_MASK, ACTION_FEATURES, *((ALIVE, STATE) if declared.num_agents > 1 else ())}
    for key in side_inputs(observations).keys() - expected:
        findings.add(
            f"{WARNING}observation[{key!r}] is a side input by its name: no network reads it"
        )
    return not problems


def _mask_space(space: gym.Space) -> gym.Space | None:
    return space.spaces.get(ACTION_MASK) if isinstance(space, gym.spaces.Dict) else None


def _check_reset(env: gym.Env, seed: int, findings: _Findings) -> bool:
    """True if the environment can be reset, so that it can be stepped."""
    firsts = []
    for _ in range(2):
        try:
            result = env.reset(seed=seed)
        except TypeError as error:
            if "seed" not in str(error):
                raise
            findings.add(f"reset does not take the keyword argument seed ({error})")
            return False
        if not (isinstance(result, tuple) and len(result) == 2):
            findings.add(f"reset returned {kind(result)}: expected the pair (observation, info)")
            return False
        obs, info = result
        if not isinstance(info, dict):
            findings.add(f"reset returned an info of type {type(info).__name__}: expected a dict")
        _check_obs(env, obs, "reset", findings)
        firsts.append(copy.deepcopy(obs))  # it may be written into the same array again
    if not _equal(*firsts):
        findings.add(
            f"two resets with seed={seed} gave different observations: "
            "draw from self.np_random only"
        )
    return True


def _check_obs(env: gym.Env, obs: Any, where: str, findings: _Findings) -> None:
    before = len(findings)
    for leaf, space in zip(
        space_lib.leaves(env.observation_space), leaf_spaces(env.observation_space), strict=True
    ):
        part = part_name(leaf.path)
        try:
            value = space_lib.at(obs, leaf.path)
        except (KeyError, IndexError, TypeError):
            findings.add(f"{part} of {where} is missing")
            continue
        array = np.asarray(value)
        if array.dtype == object:
            findings.add(f"{part} of {where} is {kind(value)}: expected an array")
        elif array.shape != leaf.shape:
            findings.add(
                f"{part} of {where} has shape {list(array.shape)}: expected {list(leaf.shape)}"
            )
        elif np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            worst = "NaN" if np.isnan(array).any() else "infinity"
            findings.add(f"{part} of {where} contains {worst}")
        elif not np.can_cast(array.dtype, space.dtype, "same_kind"):
            findings.add(f"{part} of {where} has dtype {array.dtype}: expected {space.dtype}")
        elif array.dtype != space.dtype and isinstance(value, np.ndarray):
            findings.add(
                f"{WARNING}{part} of {where} has dtype {array.dtype}, "
                f"its space says {space.dtype}; it is cast"
            )
        elif not space.contains(
            array.astype(space.dtype) if array.shape else array.astype(space.dtype)[()]
        ):
            findings.add(f"{part} of {where} is outside its space {space}{_outside(array, space)}")
    mask_space = _mask_space(env.observation_space)
    if mask_space is not None and len(findings) == before:
        mask = np.asarray(obs[ACTION_MASK])
        if not np.isin(mask, (0, 1)).all():
            findings.add(f"{ACTION_MASK} of {where} has entries other than 0 and 1")
        elif not mask.any():
            findings.add(f"{ACTION_MASK} of {where} has no valid action")
        else:
            for part in _masks(space_lib.split_mask(env.action_space, mask)):
                if not part.any():
                    findings.add(f"{ACTION_MASK} of {where} has no valid action for one component")


def _outside(array: np.ndarray, space: gym.Space) -> str:
    """The first entry of a Box that is outside, and the limit that it exceeds, for a message."""
    if not isinstance(space, gym.spaces.Box):
        return f": {array.tolist()}"
    where = np.argwhere((array < space.low) | (array > space.high))
    if not len(where):
        return ""
    at = tuple(where[0])
    limits = f"[{space.low[at]}, {space.high[at]}]"
    return f": entry {[int(i) for i in at]} is {array[at]}, the limits are {limits}"


def _play(
    env: gym.Env,
    num_steps: int,
    seed: int,
    findings: _Findings,
    progress: Callable[[int], None],
) -> None:
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    ended = False
    for step in range(num_steps):
        progress(step)
        action = _action(env, obs)
        result = env.step(action)
        if not (isinstance(result, tuple) and len(result) == 5):
            findings.add(
                f"step returned {kind(result)}: "
                "expected (observation, reward, terminated, truncated, info)"
            )
            return
        obs, reward, terminated, truncated, info = result
        _check_obs(env, obs, "step", findings)
        _check_reward(reward, findings)
        for flag, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, (bool, np.bool_)):
                findings.add(f"{flag} is {kind(value)}: expected bool")
        if not isinstance(info, dict):
            findings.add(f"step returned an info of type {type(info).__name__}: expected a dict")
        if any(not isinstance(v, (bool, np.bool_)) for v in (terminated, truncated)):
            return
        if terminated or truncated:
            ended = True
            obs, _ = env.reset()
            _check_obs(env, obs, "reset", findings)
    if not ended:
        findings.add(
            f"{WARNING}no episode ended within {num_steps} random steps; "
            "returns are only reported for episodes "
            "that end: consider max_episode_steps"
        )


def _action(env: gym.Env, obs: Any) -> Any:
    if _mask_space(env.observation_space) is None:
        return env.action_space.sample()
    mask = np.asarray(obs[ACTION_MASK])
    return env.action_space.sample(space_lib.split_mask(env.action_space, mask))


def _masks(nest: Any) -> list[np.ndarray]:
    """The arrays of what `split_mask` gave."""
    if isinstance(nest, (dict, tuple)):
        parts = nest.values() if isinstance(nest, dict) else nest
        return [mask for part in parts for mask in _masks(part)]
    return [] if nest is None else [nest]


def _check_reward(reward: Any, findings: _Findings) -> None:
    if isinstance(reward, (bool, np.bool_)) or not isinstance(reward, (numbers.Real, np.number)):
        if not (
            isinstance(reward, np.ndarray)
            and reward.shape == ()
            and np.issubdtype(reward.dtype, np.number)
        ):
            findings.add(f"reward is {kind(reward)}: expected a number")
            return
    if not np.isfinite(reward):
        findings.add(f"reward is {float(reward)}: expected a finite number")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return np.array_equal(a, b)


class Progress:
    """Shows the progress of a check in a line every second, rewritten on a terminal; a quick check shows none.

    Args:
      total: env steps that will be taken.
      out: stream that the line is written to.
      clock: monotonic seconds.
    """

    def __init__(self, total: int, out: TextIO, clock: Callable[[], float] = time.monotonic):
        self._total, self._out, self._clock = total, out, clock
        self._said, self._shown = clock(), False

    def __call__(self, steps: int) -> None:
        """Takes the number of steps played."""
        if self._clock() - self._said < 1.0:
            return
        self._said, self._shown = self._clock(), True
        line = f"checking: {steps:,} of {self._total:,} random steps"
        print(
            f"\r{line}" if self._out.isatty() else line, end=self._end, file=self._out, flush=True
        )

    def close(self) -> None:
        """Ends the line that was rewritten."""
        if self._shown:
            print(end="\n" if self._out.isatty() else "", file=self._out, flush=True)

    @property
    def _end(self) -> str:
        return "" if self._out.isatty() else "\n"


def main(argv: Sequence[str]) -> int:
    """Prints the findings for the environment named on the command line; 1 if there are errors, 2 if none is named."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: tfrl check <gymnasium id or package.module:factory>")
        return 0 if argv and argv[0] in ("--help", "-h") else 2
    progress = Progress(STEPS, sys.stderr)
    try:
        findings = check_env(argv[0], num_steps=STEPS, progress=progress)
    except SettingError as error:
        progress.close()
        print(error)
        return 1
    progress.close()
    print("\n".join(findings) or "no problems found")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
