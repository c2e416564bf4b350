"""The goals of a hierarchy: found by the name of a setting, and checked against the observations of agents."""

from __future__ import annotations

import tensorflow as tf

from tfrl.config import objects
from tfrl.errors import SettingError
from tfrl.types import EnvSpec, GoalSpace


def find(name: str, spec: EnvSpec) -> GoalSpace:
    """The goals that the setting `goal_space` names.

    Args:
      name: 'auto' for those that the environment names, or 'package.module:function', which is called with the spec.

    Raises:
      SettingError: there are none, or what is named gives none.
    """
    where, kwargs = name, {}
    if name == "auto":
        if spec.goals is None:
            raise SettingError(
                f"goal_space=auto on {spec.name}: the environment names no goals; expected package.module:function, "
                "which returns a tfrl.types.GoalSpace, or levels=1"
            )
        where, kwargs = spec.goals["function"], spec.goals["kwargs"]
    elif not objects.is_object_name(name):
        raise SettingError(
            f"goal_space={name!r}: expected auto or package.module:function, which returns a tfrl.types.GoalSpace"
        )
    function = objects.resolve(where, "goal_space")
    if not callable(function):
        raise SettingError(
            f"goal_space={where!r}: expected a function, got {type(function).__name__}"
        )
    goals = function(spec, **kwargs)
    if not isinstance(goals, GoalSpace):
        raise SettingError(
            f"goal_space={where!r} returned a {type(goals).__name__}: expected a tfrl.types.GoalSpace"
        )
    return goals


def code_size(goals: GoalSpace, seen: tf.Tensor) -> int:
    """Size of an encoded goal.

    Args:
      seen: observations of agents, float32 [N, D].

    Raises:
      SettingError: the functions of the goals do not take them, or give something else than they should.
    """
    try:
        code = tf.convert_to_tensor(
            goals.encode(seen, tf.one_hot([0] * len(seen), goals.num_goals))
        )
        reached = tf.convert_to_tensor(goals.reached(seen))
    except Exception as error:  # whatever a user's function raises
        reason = " ".join(str(error).split())[:200]
        raise SettingError(
            f"goal_space: its functions do not take observations of agents of shape {list(seen.shape)}: "
            f"{type(error).__name__}: {reason}"
        ) from error
    rows = len(seen)
    if code.shape.rank != 2 or code.shape[0] != rows or code.dtype != tf.float32:
        raise SettingError(
            f"goal_space: encode gives {code.dtype.name} {list(code.shape)}; expected float32 [{rows}, size of a code]"
        )
    if reached.shape != (rows, goals.num_goals) or reached.dtype != tf.bool:
        raise SettingError(
            f"goal_space: reached gives {reached.dtype.name} {list(reached.shape)}; expected bool "
            f"[{rows}, {goals.num_goals}]"
        )
    return int(code.shape[1])
