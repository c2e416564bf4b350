"""Settings of the optimiser, the same for every algorithm, and what is made of them.

The step size is a constant, a linear decay, or a piecewise-linear schedule, each over env steps or over updates.
`decayed`, `learning_rate` and `make` are the only places that read these settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tfrl.config import objects
from tfrl.errors import SettingError
from tfrl.settings import Except, Points, choose, setting, validate

# Optimisers by name; see the classes of `optim/optimizers.py`.
OPTIMIZERS = ("adam", "adamw", "rmsprop", "rmsprop_keras", "rmsprop_tf1", "sgd")
_ADAMS = Except(("adam", "adamw"))
_RMSPROPS = Except(("rmsprop", "rmsprop_keras", "rmsprop_tf1"))


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Settings of the optimiser, a base of every algorithm's `Config`; families have their own defaults."""

    optimizer: str = setting(
        "adam",
        "adam, adamw, rmsprop (epsilon outside the root, as in PyTorch), rmsprop_keras (inside the root), rmsprop_tf1 "
        "(inside the root, mean square starts at 1), sgd, or package.module:name of a Keras optimiser",
    )
    learning_rate: float = setting(
        3e-4, "learning rate of the optimiser", above=0.0, resumable=True
    )
    learning_rate_final: float | None = setting(
        None,
        "learning rate after linear decay over learning_rate_env_steps or learning_rate_updates; none: no decay",
        minimum=0.0,
        resumable=True,
    )
    learning_rate_env_steps: int = setting(
        0,
        "length of the learning rate's decay in env steps",
        unit="env steps",
        minimum=0,
        resumable=True,
    )
    learning_rate_updates: int = setting(
        0,
        "length of the learning rate's decay in updates",
        unit="updates",
        minimum=0,
        resumable=True,
        idle_if={"learning_rate_final": None},
    )
    learning_rate_hold_env_steps: int = setting(
        0,
        "env steps before a decay over learning_rate_env_steps begins",
        unit="env steps",
        minimum=0,
        resumable=True,
    )
    learning_rate_schedule: Points = setting(
        (),
        "learning rates at given env steps or updates, see learning_rate_schedule_unit, interpolated linearly; "
        "replaces the settings above, e.g. 0:1e-3,50000:1e-4",
        minimum=0.0,
        resumable=True,
    )
    learning_rate_schedule_unit: str = setting(
        "env_steps",
        "unit in which learning_rate_schedule counts",
        choices=("env_steps", "updates"),
        resumable=True,
        idle_if={"learning_rate_schedule": ()},
    )
    optimizer_epsilon: float = setting(
        1e-7,
        "epsilon of Adam, AdamW or RMSProp",
        above=0.0,
        idle_if={"optimizer": _ADAMS | _RMSPROPS},
    )
    adam_beta_1: float = setting(
        0.9,
        "decay of Adam's mean of the gradient",
        minimum=0.0,
        maximum=1.0,
        idle_if={"optimizer": _ADAMS},
    )
    adam_beta_2: float = setting(
        0.999,
        "decay of Adam's mean of the squared gradient",
        minimum=0.0,
        maximum=1.0,
        idle_if={"optimizer": _ADAMS},
    )
    rmsprop_decay: float = setting(
        0.99,
        "decay of RMSProp's mean square",
        minimum=0.0,
        maximum=1.0,
        idle_if={"optimizer": _RMSPROPS},
    )
    momentum: float = setting(
        0.0,
        "momentum of SGD or RMSProp",
        minimum=0.0,
        maximum=1.0,
        idle_if={"optimizer": _RMSPROPS | {"sgd"}},
    )
    weight_decay: float = setting(
        0.01,
        "decoupled weight decay of AdamW: an update subtracts learning_rate * weight_decay times each variable",
        minimum=0.0,
        idle_if={"optimizer": Except(("adamw",))},
    )
    gradient_clip_norm: float | None = setting(
        None,
        "maximum global norm of the gradient; none: no clipping",
        above=0.0,
        resumable=True,
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.optimizer not in OPTIMIZERS and not objects.is_object_name(self.optimizer):
            raise SettingError(
                f"optimizer={self.optimizer!r}: {choose(self.optimizer, OPTIMIZERS)}, or package.module:name of a "
                "Keras optimiser"
            )
        for name in ("adam_beta_1", "adam_beta_2", "momentum"):
            if getattr(self, name) == 1.0:
                raise SettingError(f"{name}=1: the mean would never change; expected less than 1")
        final, env_steps = self.learning_rate_final, self.learning_rate_env_steps
        if final is not None and not env_steps and not self.learning_rate_updates:
            raise SettingError(
                f"learning_rate_final={final} with learning_rate_env_steps=0 and learning_rate_updates=0: give the "
                "length of the decay, in env steps or in updates"
            )
        if final is not None and env_steps and self.learning_rate_updates:
            raise SettingError(
                f"learning_rate_env_steps={env_steps} with learning_rate_updates={self.learning_rate_updates}: the "
                "decay has one length; leave one of them out"
            )
        if final is None and env_steps:
            raise SettingError(
                f"learning_rate_final=None with learning_rate_env_steps={env_steps}: give both or neither"
            )
        if self.learning_rate_schedule and final is not None:
            raise SettingError(
                f"learning_rate_final={final} with learning_rate_schedule: the schedule holds all step sizes; leave "
                "one of them out"
            )
        if self.learning_rate_hold_env_steps and not env_steps:
            raise SettingError(
                f"learning_rate_hold_env_steps={self.learning_rate_hold_env_steps} with learning_rate_env_steps=0: "
                "there is no decay that could wait; give learning_rate_final and learning_rate_env_steps"
            )


def reads_env_steps(config: OptimizerSettings) -> bool:
    """Whether the step size depends on the env steps of the run, so that a learner needs `Learner.env_steps`."""
    scheduled = config.learning_rate_schedule and config.learning_rate_schedule_unit == "env_steps"
    return bool(scheduled or config.learning_rate_env_steps)


def make_clock(config: OptimizerSettings) -> Any:
    """The variable `Learner.env_steps`, int64, which the runtime writes; None where no schedule reads it: writing takes
    time."""
    import tensorflow as tf

    if not reads_env_steps(config):
        return None
    return tf.Variable(0, dtype=tf.int64, trainable=False, name="env_steps")


def decayed(
    config: OptimizerSettings, initial: float, final: float | None, env_steps: Any, updates: Any
) -> Any:
    """A number that changes linearly where the learning rate's decay does, float32 scalar.

    Args:
      initial, final: first and last value; `final` None: constant.
      env_steps: of the run, integer scalar; None where `reads_env_steps` is False.
      updates: made so far, integer scalar.
    """
    import tensorflow as tf

    from tfrl.optim import schedules

    if final is None:
        return tf.constant(initial, tf.float32)
    if config.learning_rate_env_steps:
        now = env_steps - config.learning_rate_hold_env_steps
        return schedules.linear(initial, final, config.learning_rate_env_steps, now)
    return schedules.linear(initial, final, config.learning_rate_updates, updates)


def learning_rate(config: OptimizerSettings, env_steps: Any, updates: Any) -> Any:
    """Step size of the next update, float32 scalar; `env_steps` and `updates` as in `decayed`."""
    from tfrl.optim import schedules

    if config.learning_rate_schedule:
        now = env_steps if config.learning_rate_schedule_unit == "env_steps" else updates
        return schedules.piecewise(config.learning_rate_schedule, now)
    return decayed(config, config.learning_rate, config.learning_rate_final, env_steps, updates)


def make(config: OptimizerSettings, variables: Sequence[Any], env_steps: Any) -> Any:
    """The optimiser of `variables`, for `apply.minimise`; call it under the strategy of the learner.

    Args:
      env_steps: int64 variable, see `decayed`.

    Raises:
      SettingError: a user's optimiser that cannot be used, see `optimizers.make`.
    """
    from tfrl.optim import optimizers

    kind, options = config.optimizer, {}
    if kind in ("adam", "adamw"):
        options = {"beta_1": config.adam_beta_1, "beta_2": config.adam_beta_2}
    elif kind.startswith("rmsprop") and kind in OPTIMIZERS:
        options = {"decay": config.rmsprop_decay, "momentum": config.momentum}
    elif kind == "sgd":
        options = {"momentum": config.momentum}
    if kind in OPTIMIZERS and kind != "sgd":
        options["epsilon"] = config.optimizer_epsilon
    if kind == "adamw":
        options["weight_decay"] = config.weight_decay
    rate = lambda updates: learning_rate(config, env_steps, updates)
    return optimizers.make(kind, variables, rate, **options)


def check(config: Any) -> None:
    """Raises SettingError for a user's optimiser that could not train; one step of it is tried on a variable.

    Args:
      config: settings of any algorithm; one without an optimiser passes.
    """
    kind = getattr(config, "optimizer", "")
    if isinstance(config, OptimizerSettings) and kind not in OPTIMIZERS:
        from tfrl.optim import optimizers

        optimizers.check(kind)
