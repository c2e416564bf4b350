"""Rewards and terminations that the steps of an environment would have had for another goal.

An environment with goals follows the interface of gymnasium-robotics (Plappert et al. 2018): its observation is a Dict
of `observation`, `desired_goal` and `achieved_goal`, and `compute_reward(achieved_goal, desired_goal, info)` gives the
reward of the step that achieved the one while the other was wanted. `compute_terminated`, with the same arguments, is
optional. They are called with an empty info: what else happened in a step is not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from tfrl.errors import SettingError

OBSERVATION, DESIRED, ACHIEVED = "observation", "desired_goal", "achieved_goal"
REWARD, TERMINATED = "compute_reward", "compute_terminated"
STEPS = 5  # that are played to compare rewards
MANY = 4_096  # goals for which one number must be that of all


class GoalRewards:
    """The functions of one environment, for batches of goals as a replay stores them.

    Args:
      env: the environment, whose own code alone is asked, without its wrappers.
      name: of the environment, for messages.
      clips: the learner sees the signs of rewards.

    Attributes:
      note: which function takes only one goal at a time, so that batches are slow; "" where none does.

    Raises:
      SettingError: an observation without goals, or no function `compute_reward` of goals alone.
    """

    def __init__(self, env: gym.Env, name: str, clips: bool = False):
        self._env, self._name, self._clips = env, f"her_relabels with env={name!r}", clips
        space = self._goal_space(env.observation_space)
        self._dtype, self._shape = space.dtype, space.shape
        # Rows 0 and 1 have achieved what is desired; the number of rows is no side of a goal.
        rows = 3 + max(space.shape, default=0)
        draws = [[space.sample() for _ in range(rows)] for _ in range(2)]
        achieved, desired = (np.stack(x).reshape(rows, *space.shape) for x in draws)
        achieved[:2] = desired[:2]
        self.note, self._batch = "", {}
        for which in (REWARD, TERMINATED):
            if callable(getattr(env.unwrapped, which, None)):
                self._batch[which] = self._takes_batches(which, achieved, desired)
        if REWARD not in self._batch:
            raise SettingError(
                f"{self._name}: {type(env.unwrapped).__name__} has no method {REWARD}; expected "
                f"{REWARD}(achieved_goal, desired_goal, info) -> reward, for one goal or arrays with a row for each"
            )
        slow = [which for which, batch in self._batch.items() if not batch]
        if slow:
            self.note = (
                f"{' and '.join(slow)} of the environment takes one goal at a time, which is slow"
            )

    def rewards(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        """Rewards float32 [N] of steps that achieved goals [N, *goal] where others [N, *goal] were desired."""
        rewards = self._call(REWARD, achieved, desired, np.float32)
        return np.sign(rewards) if self._clips else rewards

    def terminated(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray | None:
        """Whether the steps would have terminated, bool [N]; None where goals do not decide that."""
        if TERMINATED not in self._batch:
            return None
        return self._call(TERMINATED, achieved, desired, np.bool_)

    def check_steps(self) -> None:
        """Plays some random steps of the environment, which must be nobody else's.

        Raises:
          SettingError: the reward of a step is not the one that `compute_reward` gives for its goals.
        """
        env = self._env
        env.reset(seed=0)
        env.action_space.seed(0)
        for step in range(1, STEPS + 1):
            obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            goals = (np.asarray(obs[key])[None] for key in (ACHIEVED, DESIRED))
            computed = float(self._call(REWARD, *goals, np.float32)[0])
            if not np.isclose(float(reward), computed, 1e-4, 1e-4):
                raise SettingError(
                    f"{self._name}: step {step} gave the reward {float(reward):g}, {REWARD} gives {computed:g} for its "
                    "goals; expected the same, or copies of transitions would have rewards of another task"
                )
            if terminated or truncated:
                env.reset()

    def _goal_space(self, space: gym.Space) -> gym.Space:
        """The space of goals; raises SettingError for one that is missing or cannot be exchanged."""
        parts = space.spaces if isinstance(space, gym.spaces.Dict) else {}
        missing = [key for key in (OBSERVATION, DESIRED, ACHIEVED) if key not in parts]
        if missing:
            raise SettingError(
                f"{self._name}: observation_space {space} has no {', '.join(missing)}; expected a Dict of "
                f"{OBSERVATION}, {DESIRED} and {ACHIEVED}"
            )
        desired, achieved = parts[DESIRED], parts[ACHIEVED]
        kinds = isinstance(desired, (gym.spaces.Box, gym.spaces.MultiBinary))
        alike = type(desired) is type(achieved) and desired.dtype == achieved.dtype
        if not kinds or not alike or desired.shape != achieved.shape:
            raise SettingError(
                f"{self._name}: {DESIRED} is {desired}, {ACHIEVED} is {achieved}; expected two Boxes or two "
                "MultiBinary of one shape and dtype"
            )
        return desired

    def _takes_batches(self, which: str, achieved: np.ndarray, desired: np.ndarray) -> bool:
        """Whether a function gives for rows what it gives for each of them; raises SettingError if it serves none."""
        function = getattr(self._env.unwrapped, which)
        try:
            singles = [_number(function(a, d, {})) for a, d in zip(achieved, desired, strict=True)]
        except Exception as error:  # whatever it raises, its reader needs the name
            raise SettingError(
                f"{self._name}: {which}(achieved_goal, desired_goal, {{}}) raised {type(error).__name__}: "
                f"{' '.join(str(error).split())}; expected a number for one goal, from the goals alone"
            ) from error
        try:
            batch = np.asarray(function(achieved.copy(), desired.copy(), {}), np.float64)
        except Exception:  # it is one for single goals
            return False
        if batch.shape not in ((), (len(singles),)) or not np.allclose(batch, singles, 1e-4, 1e-4):
            return False
        return batch.ndim == 1 or _is_constant(function, batch, desired)

    def _call(
        self, which: str, achieved: np.ndarray, desired: np.ndarray, dtype: Any
    ) -> np.ndarray:
        """Results [N] of a function, in the environment's own dtype of goals."""
        function: Callable = getattr(self._env.unwrapped, which)
        achieved, desired = (x.astype(self._dtype) for x in (achieved, desired))
        if self._batch[which]:
            found = np.asarray(function(achieved, desired, {}))
            found = np.full(len(achieved), found) if found.shape == () else found
        else:
            found = np.array([_number(function(*goals, {})) for goals in zip(achieved, desired)])
        if found.shape != (len(achieved),) or not np.isfinite(found).all():
            raise SettingError(
                f"{self._name}: {which} gave {str(found)[:60]} for {len(achieved)} goals; expected as many finite "
                "numbers"
            )
        return found.astype(dtype)


def _is_constant(function: Callable, value: np.ndarray, goals: np.ndarray) -> bool:
    """Whether a function gives this one value whatever the goals are, such as `return False`: for many, near and far.

    A function of one goal may give one number for a batch too, which is none of its rows'.
    """
    near = np.repeat(goals[:1], MANY, 0)
    far = near + 1e6 if near.dtype.kind == "f" else 1 - near
    try:
        found = [function(a.copy(), b.copy(), {}) for a, b in ((near, near), (near, far))]
    except Exception:  # it is one for single goals
        return False
    return all(np.array_equal(np.asarray(each, np.float64), value) for each in found)


def _number(value: Any) -> float:
    """A number, also of an array with one entry; raises TypeError or ValueError for anything else."""
    return float(np.asarray(value, np.float64).reshape(()))
