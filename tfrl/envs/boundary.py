"""Checks observations, rewards and flags of environments before they enter a run: shapes, dtypes and values.

Refused, by the name of the environment's row, the step and the key:

  observation  a missing part, another shape than the space's, anything but an array of numbers, a value that the
               space's dtype cannot hold (0.5 in int64), NaN and infinity (also where the limits of a Box are
               infinite: no network computes with them), a Discrete or MultiDiscrete value that the space does not have
  reward       anything but one finite number of float32's range
  flags        anything but True, False, 0 or 1
  parts        info["reward_parts"] of an environment that declares `reward_parts`: anything but as many finite numbers
  discount     info["discount"] of an environment that declares `step_discount`: anything but a number in [0, 1]

Box values outside finite limits pass: many environments state their limits loosely, and `tfrl.envs.check` reports them.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from tfrl.envs import spaces as space_lib
from tfrl.errors import EnvironmentFailed, SettingError
from tfrl.spaces import leaf_spaces

# Classes of rewards (up to `MOST`) and of flags that need no further check.
MOST = float(np.finfo(np.float32).max)
NUMBERS = frozenset({float, int, bool, np.bool_, np.float64, np.float32, np.int64, np.int32})
FLAGS = frozenset({bool, np.bool_})
# Keys of the info of a step, for environments that declare what they hold; see `tfrl.envs.spaces.declared`.
REWARD_PARTS, DISCOUNT = "reward_parts", "discount"
_DTYPES = [np.dtype(c) for c in "?bhilqBHILQefd"]


class Boundary:
    """Checks what the environments of a vector give.

    Args:
      name: of the environment, for messages.
      space: observation space as the environment states it.
      reward_parts: names of the parts of its reward.

    Attributes:
      leaves: of the space, in the order of `space_lib.packer`.
      dtypes: for each leaf, dtypes of observations that are cast to the leaf's without a look at the values.
    """

    def __init__(self, name: str, space: gym.Space, reward_parts: tuple[str, ...] = ()):
        self.name, self.reward_parts = name, reward_parts
        self.leaves = space_lib.leaves(space)
        counts = [
            None if leaf.dtype.kind == "f" else _choices(part)
            for leaf, part in zip(self.leaves, leaf_spaces(space), strict=True)
        ]
        self.dtypes = [
            frozenset(d for d in _DTYPES if _is_cast(d, leaf.dtype, count is not None))
            for leaf, count in zip(self.leaves, counts)
        ]
        self._floats = [i for i, leaf in enumerate(self.leaves) if leaf.dtype.kind == "f"]
        self._choices = [(i, count) for i, count in enumerate(counts) if count is not None]

    def first(self, result: Any, row: int) -> tuple[Any, dict]:
        """The result of `reset`; raises SettingError unless it is the pair (observation, info)."""
        if not (isinstance(result, (tuple, list)) and len(result) == 2):
            self.refuse(row, 0, f"reset returned {kind(result)}", "the pair (observation, info)")
        return result

    def result(self, result: Any, row: int, step: int) -> tuple[Any, Any, Any, Any, dict]:
        """The result of `step`; raises SettingError unless it has five parts."""
        if not (isinstance(result, (tuple, list)) and len(result) == 5):
            expected = "(observation, reward, terminated, truncated, info)"
            self.refuse(row, step, f"step returned {kind(result)}", expected)
        return result

    def observation(self, obs: Any, row: int, step: int) -> list[np.ndarray]:
        """The arrays of one observation, in the order of `leaves`, not yet cast.

        Args:
          obs: as the environment gave it.
          row, step: where; step 0 is a reset.

        Raises:
          SettingError: a part is missing or cannot be used.
        """
        arrays = []
        for index, leaf in enumerate(self.leaves):
            try:
                value = space_lib.at(obs, leaf.path)
            except (KeyError, IndexError, TypeError):
                self.refuse(
                    row, step, f"{part_name(leaf.path)} is missing", "all parts of the space"
                )
            arrays.append(self.leaf(index, value, row, step))
        return arrays

    def leaf(self, index: int, value: Any, row: int, step: int) -> np.ndarray:
        """One array of an observation; see `observation`."""
        leaf, dtypes = self.leaves[index], self.dtypes[index]
        if value.__class__ is np.ndarray and value.shape == leaf.shape and value.dtype in dtypes:
            return value
        try:
            array = np.asarray(value)
        except ValueError:  # lists of unequal lengths
            array = np.empty((), object)
        name = part_name(leaf.path)
        if array.dtype.kind not in "biuf":
            self.refuse(
                row,
                step,
                f"{name} is {kind(value)}",
                f"an array of {leaf.dtype}, shape {list(leaf.shape)}",
            )
        if array.shape != leaf.shape:
            self.refuse(
                row,
                step,
                f"{name} has shape {list(array.shape)}",
                f"{list(leaf.shape)}, as in its space",
            )
        if array.dtype not in dtypes:
            with np.errstate(invalid="ignore"):
                lost = np.argwhere(array.astype(leaf.dtype) != array)
            if len(lost):
                at = tuple(int(i) for i in lost[0])
                entry = f"{name}{list(at) if at else ''}"
                self.refuse(
                    row,
                    step,
                    f"{entry} is {array[at]} ({array.dtype})",
                    f"a value of {leaf.dtype}, as in its space",
                )
        return array

    def reward(self, reward: Any, row: int, step: int) -> float:
        """A reward as a number; raises SettingError for what is none, NaN, infinity, and what float32 cannot hold."""
        array = np.asarray(reward)
        if array.shape != () or array.dtype.kind not in "biuf":
            self.refuse(row, step, f"reward is {kind(reward)}", "a number")
        number = float(array)
        if not -MOST <= number <= MOST:
            self.refuse(row, step, f"reward is {number}", "a finite number of float32's range")
        return number

    def parts(self, info: Any, row: int, step: int) -> np.ndarray:
        """The parts of a reward in the info of its step, float32 [R].

        Raises:
          SettingError: they are missing, or no finite numbers of float32's range, or not as many as were declared.
        """
        names, given = self.reward_parts, info.get(REWARD_PARTS)
        if given.__class__ is np.ndarray and given.shape == (len(names),):
            if given.dtype == np.float32 and is_finite(given):
                return given.copy()
        key = f"info[{REWARD_PARTS!r}]"
        expected = f"{len(names)} finite numbers: {', '.join(names)}"
        if REWARD_PARTS not in info:
            self.refuse(row, step, f"{key} is missing", expected)
        try:
            array = np.asarray(given)
        except ValueError:  # lists of unequal lengths
            array = np.empty((), object)
        if array.shape != (len(names),) or array.dtype.kind not in "biuf":
            self.refuse(row, step, f"{key} is {kind(given)}", expected)
        wrong = np.flatnonzero(~(np.abs(array) <= MOST))
        if len(wrong):
            at = int(wrong[0])
            self.refuse(row, step, f"{key}[{at}], {names[at]}, is {array[at]}", expected)
        return array.astype(np.float32)

    def discount(self, info: Any, row: int, step: int) -> float:
        """The environment's own discount in the info of a step; raises SettingError for what is none."""
        key, expected = f"info[{DISCOUNT!r}]", "a number in [0, 1]"
        if DISCOUNT not in info:
            self.refuse(row, step, f"{key} is missing", expected)
        array = np.asarray(info[DISCOUNT])
        if array.shape != () or array.dtype.kind not in "biuf" or not 0.0 <= array <= 1.0:
            self.refuse(row, step, f"{key} is {kind(info[DISCOUNT])}", expected)
        return float(array)

    def flag(self, name: str, flag: Any, row: int, step: int) -> bool:
        """A flag as a bool; raises SettingError for what is none."""
        array = np.asarray(flag)
        if array.shape != () or array.dtype.kind not in "biuf" or array not in (0, 1):
            self.refuse(row, step, f"{name} is {kind(flag)}", "True or False")
        return bool(array)

    def values(self, arrays: list[np.ndarray], steps: Any) -> None:
        """Checks the values of all rows at once.

        Args:
          arrays: of the observations, one per leaf, [B, ...], cast.
          steps: gives the step of a row, for the message.

        Raises:
          SettingError: NaN, infinity, or a choice that the space does not have.
        """
        for index in self._floats:
            array = arrays[index]
            if not is_finite(array) and not np.isfinite(array).all():
                row, *at = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
                name = f"{part_name(self.leaves[index].path)}{at or ''}"
                self.refuse(row, steps(row), f"{name} is {array[(row, *at)]}", "a finite number")
        for index, count in self._choices:
            leaf = self.leaves[index]
            # Negative numbers are large ones without their sign.
            wrong = arrays[index].view(f"u{leaf.dtype.itemsize}") >= count
            if np.count_nonzero(wrong):
                row, *at = (int(i) for i in np.argwhere(wrong)[0])
                start = np.broadcast_to(leaf.start, leaf.shape)[tuple(at)]
                value, most = (
                    arrays[index][(row, *at)],
                    np.broadcast_to(count, leaf.shape)[tuple(at)],
                )
                self.refuse(
                    row,
                    steps(row),
                    f"{part_name(leaf.path)}{at or ''} is {value + start}",
                    f"one of its space, {start} to {start + int(most) - 1}",
                )

    def refuse(self, row: int, step: int, given: str, expected: str) -> NoReturn:
        """Raises the SettingError that names where and what."""
        when = f"step {step} of its episode" if step else "reset"
        raise SettingError(
            f"env={self.name!r}: environment row {row}, {when}: {given}; expected {expected}. "
            "tfrl.envs.check.check_env lists all that is wrong with an environment"
        )

    def exited(self, row: int | None, error: SystemExit) -> EnvironmentFailed:
        """The error to raise in the place of a SystemExit, which would end the run without a word."""
        where = "its vector class" if row is None else f"environment row {row}"
        return EnvironmentFailed(
            f"env={self.name!r}: {where} called sys.exit({error.code!r}); an environment must "
            "raise an error, or end the episode"
        )


def is_finite(array: np.ndarray) -> bool:
    """False where an array of floats has NaN or infinity in it, and where its sum of squares overflows.

    One pass, without an array in between; who gets False looks again.
    """
    return math.isfinite(np.vdot(array, array))


def part_name(path: tuple[Any, ...]) -> str:
    """`observation['arm'][0]` of the keys that lead to a part."""
    return "observation" + "".join(f"[{key!r}]" for key in path)


def kind(value: Any) -> str:
    """A value in a few words: its shape and dtype if it is an array, else itself and its type."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)} and dtype {value.dtype}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {type(value).__name__}"


def _is_cast(dtype: np.dtype, leaf: np.dtype, choices: bool) -> bool:
    """Whether values of `dtype` may be cast to that of a leaf unseen: to floats all, else where none can be lost.

    Args:
      choices: the range of the values is checked, so that all integers are welcome.
    """
    return leaf.kind == "f" or np.can_cast(dtype, leaf, "safe") or (choices and dtype.kind in "iu")


def _choices(space: gym.Space) -> Any:
    """How many values each entry can have, an array for MultiDiscrete; None for a Box."""
    if isinstance(space, gym.spaces.Discrete):
        return np.uint32(space.n)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.nvec.astype(np.uint32)
    return np.uint8(2) if isinstance(space, gym.spaces.MultiBinary) else None
