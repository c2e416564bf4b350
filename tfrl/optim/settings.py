"""Settings of the optimiser, the same for every algorithm, and what is made of them.

The step size is a constant, a linear decay, or a piecewise-linear schedule, each over env steps or over updates.
`decayed`, `learning_rate` and `make` are the only places that read these settings.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from tfrl.config import objects
from tfrl.errors import SettingError
from tfrl.settings import Except, Points, choose, setting, validate

# Optimisers by name; see the classes of `optim/optimizers.py` and `optim/lamb.py`.
OPTIMIZERS = ("adam", "adamw", "rmsprop", "rmsprop_keras", "rmsprop_tf1", "sgd", "lamb", "lars")
_ADAMS = Except(("adam", "adamw", "lamb"))
_LAYER_WISE = Except(("lamb", "lars"))
_RMSPROPS = Except(("rmsprop", "rmsprop_keras", "rmsprop_tf1"))


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Settings of the optimiser, a base of every algorithm's `Config`; families have their own defaults."""

    optimizer: str = setting(
        "adam",
        "adam, adamw, rmsprop (epsilon outside the root, as in PyTorch), rmsprop_keras (inside the root), rmsprop_tf1 "
        "(inside the root, mean square starts at 1), sgd, lamb, lars, or package.module:name of a Keras optimiser",
    )
    learning_rate: float = setting(
        3e-4,
        "learning rate of the optimiser",
        above=0.0,
        resumable=True,
        idle_if={"learning_rate_schedule": Except([()])},
    )
    learning_rate_final: float | None = setting(
        None,
        "learning rate after a decay over learning_rate_env_steps or learning_rate_updates; none: no decay",
        minimum=0.0,
        resumable=True,
    )
    learning_rate_env_steps: int = setting(
        0,
        "length of the learning rate's decay in env steps; 0: it is given in updates",
        unit="env steps",
        minimum=0,
        resumable=True,
    )
    learning_rate_updates: int = setting(
        0,
        "length of the learning rate's decay in updates, which begins after the warm-up; 0: it is given in env steps",
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
    learning_rate_power: float = setting(
        1.0,
        "power of the decay: learning_rate_final + (learning_rate - learning_rate_final) * (part of the decay that is "
        "left)^power; 1: linear",
        above=0.0,
        resumable=True,
        idle_if={"learning_rate_final": None},
    )
    learning_rate_warmup_updates: int = setting(
        0,
        "updates in which the learning rate grows linearly to its value; it multiplies a decay over env steps and a "
        "schedule",
        unit="updates",
        minimum=0,
        resumable=True,
    )
    learning_rate_batch_base: int | None = setting(
        None,
        "batch that the learning rates are meant for: they are multiplied by the square root of (batch of an update / "
        "this). A batch counts transitions or sequences of a replay, env steps of unrolls, or episodes; none: rates "
        "are used as they are",
        minimum=1,
        resumable=True,
    )
    learning_rate_schedule: Points = setting(
        (),
        "learning rates at given env steps or updates, see learning_rate_schedule_unit, interpolated linearly; "
        "replaces learning_rate and its decay, but not the warm-up, e.g. 0:1e-3,50000:1e-4",
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
        "constant added to the denominator of Adam, AdamW, LAMB or RMSProp",
        above=0.0,
        idle_if={"optimizer": _ADAMS | _RMSPROPS},
    )
    adam_beta_1: float = setting(
        0.9,
        "decay of Adam's or LAMB's mean of the gradient",
        minimum=0.0,
        maximum=1.0,
        idle_if={"optimizer": _ADAMS},
    )
    adam_beta_2: float = setting(
        0.999,
        "decay of Adam's or LAMB's mean of the squared gradient",
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
    momentum: float | None = setting(
        None,
        "momentum of SGD, RMSProp or LARS; none: 0.9 with LARS, 0 with the others",
        minimum=0.0,
        maximum=1.0,
        idle_if={"optimizer": _RMSPROPS | {"sgd", "lars"}},
    )
    nesterov: bool = setting(
        False,
        "Nesterov's form of the momentum of SGD or LARS",
        idle_if={"optimizer": Except(("sgd", "lars"))},
    )
    weight_decay: float = setting(
        0.01,
        "weight decay. AdamW: an update subtracts learning_rate * weight_decay times each variable. LAMB and LARS: "
        "part of the direction, of variables with at least two axes but the deviations of gSDE",
        minimum=0.0,
        idle_if={"optimizer": _LAYER_WISE | {"adamw"}},
    )
    trust_clip: tuple[float, float] | None = setting(
        None,
        "limits of the norm of a layer's weights, to which the length of its steps is proportional with LAMB or LARS: "
        "lowest,highest; none: no limits",
        minimum=0.0,
        idle_if={"optimizer": _LAYER_WISE},
    )
    lamb_bias_correction: bool = setting(
        True,
        "correct LAMB's means for their start at 0; a warm-up can replace it",
        idle_if={"optimizer": Except(("lamb",))},
    )
    lars_variant: str = setting(
        "heavy_ball",
        "what LARS scales to the norm of a layer's weights: the gradient, before the momentum takes it in "
        "(heavy_ball), or the momentum (paper)",
        choices=("heavy_ball", "paper"),
        idle_if={"optimizer": Except(("lars",))},
    )
    lars_trust_coefficient: float = setting(
        1e-3,
        "heavy_ball: the gradient is scaled to this times the norm of the layer's weights, before the learning rate "
        "multiplies it",
        above=0.0,
        idle_if=({"optimizer": Except(("lars",))}, {"lars_variant": "paper"}),
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
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise SettingError(
                f"nesterov=True with momentum={self.momentum}: there is no momentum; give momentum, or leave it out"
            )
        if self.trust_clip is not None and self.trust_clip[0] >= self.trust_clip[1]:
            raise SettingError(
                f"trust_clip={self.trust_clip}: expected the lowest norm first, below the highest"
            )
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
    config: OptimizerSettings,
    initial: float,
    final: float | None,
    env_steps: Any,
    updates: Any,
    power: float = 1.0,
) -> Any:
    """A number that changes where the learning rate's decay does, float32 scalar.

    Args:
      initial, final: first and last value; `final` None: constant.
      env_steps: of the run, integer scalar; None where `reads_env_steps` is False.
      updates: made so far, integer scalar.
      power: of the change, see `schedules.polynomial`; 1: linear.
    """
    import tensorflow as tf

    from tfrl.optim import schedules

    if final is None:
        return tf.constant(initial, tf.float32)
    if config.learning_rate_env_steps:
        now = env_steps - config.learning_rate_hold_env_steps
        return schedules.polynomial(initial, final, config.learning_rate_env_steps, now, power)
    now = updates - config.learning_rate_warmup_updates
    return schedules.polynomial(initial, final, config.learning_rate_updates, now, power)


def learning_rate(config: OptimizerSettings, env_steps: Any, updates: Any) -> Any:
    """Step size of the next update, float32 scalar; `env_steps` and `updates` as in `decayed`."""
    from tfrl.optim import schedules

    if config.learning_rate_schedule:
        now = env_steps if config.learning_rate_schedule_unit == "env_steps" else updates
        rate = schedules.piecewise(config.learning_rate_schedule, now)
    else:
        initial, final = config.learning_rate, config.learning_rate_final
        rate = decayed(config, initial, final, env_steps, updates, config.learning_rate_power)
    if config.learning_rate_warmup_updates:
        rate *= schedules.warmup(config.learning_rate_warmup_updates, updates)
    return rate


def _rates(config: Any) -> list[str]:
    """Settings that are learning rates; an algorithm's own end in `_learning_rate`."""
    names = (field.name for field in dataclasses.fields(config))
    return [n for n in names if f"_{n}".endswith("_learning_rate") or n == "learning_rate_final"]


def scaled(config: Any, batch: float) -> tuple[Any, str]:
    """The settings with rates for another batch than `learning_rate_batch_base`, which is then None, and a line on it.

    Args:
      config: settings of any algorithm; without a base they are returned as they are, with an empty line.
      batch: of an update, in the unit of the base.
    """
    base = getattr(config, "learning_rate_batch_base", None)
    if base is None:
        return config, ""
    from tfrl.optim import schedules

    factor = schedules.sqrt_batch_scale(1.0, base, batch)
    changes: dict[str, Any] = {
        name: getattr(config, name) * factor
        for name in _rates(config)
        if getattr(config, name) is not None
    }
    points = tuple((at, rate * factor) for at, rate in config.learning_rate_schedule)
    scaled = dataclasses.replace(
        config, **changes, learning_rate_schedule=points, learning_rate_batch_base=None
    )
    return scaled, (
        f"learning rates: multiplied by {factor:.4g}, the square root of {batch:,g} / {base:,} "
        "(learning_rate_batch_base)"
    )


def make(
    config: OptimizerSettings, variables: Sequence[Any], env_steps: Any, updates_per_step: int = 1
) -> Any:
    """The optimiser of `variables`, for `apply.minimise`; call it under the strategy of the learner.

    Args:
      env_steps: int64 variable, see `decayed`.
      updates_per_step: updates of the learner for each step of this optimiser, in which a decay counts.

    Raises:
      SettingError: a user's optimiser that cannot be used, see `optimizers.make`.
    """
    from tfrl.optim import optimizers

    if config.learning_rate_batch_base is not None:
        raise ValueError("learning_rate_batch_base: call `scaled` first, which knows the batch")
    kind = config.optimizer
    rate = lambda steps: learning_rate(config, env_steps, updates_per_step * steps)
    return optimizers.make(kind, variables, rate, **_options(config))


def _options(config: OptimizerSettings) -> dict[str, Any]:
    """What the optimiser of the settings takes beside its rate, by the names of `optimizers.make`."""
    kind = config.optimizer
    momentum = {"momentum": config.momentum or 0.0}
    betas = {"beta_1": config.adam_beta_1, "beta_2": config.adam_beta_2}
    epsilon, decay = {"epsilon": config.optimizer_epsilon}, {"weight_decay": config.weight_decay}
    layers = {
        **decay,
        "trust_clip": config.trust_clip,
        "exclude_from_weight_decay": _is_no_layer,
    }
    if kind == "adam":
        return {**betas, **epsilon}
    if kind == "adamw":
        return {**betas, **epsilon, **decay}
    if kind == "sgd":
        return {**momentum, "nesterov": config.nesterov}
    if kind == "lamb":
        return {**betas, **epsilon, **layers, "bias_correction": config.lamb_bias_correction}
    if kind == "lars":
        return {
            **layers,
            "momentum": 0.9 if config.momentum is None else config.momentum,
            "nesterov": config.nesterov,
            "variant": config.lars_variant,
            "trust_coefficient": config.lars_trust_coefficient,
        }
    if kind in OPTIMIZERS:  # the forms of RMSProp
        return {"decay": config.rmsprop_decay, **momentum, **epsilon}
    return {}


def _is_no_layer(variable: Any) -> bool:
    """Whether LAMB and LARS leave a variable's step as it is: biases, scales, and logarithms of deviations.

    The latter are a matrix with gSDE, whose norm says nothing of the length of a step, and 0 is a deviation of 1.
    """
    from tfrl.optim.lamb import rank_at_most_one

    return rank_at_most_one(variable) or bool(re.search(r"(^|/)log_std(:|$)", variable.name))


def check(config: Any) -> None:
    """Raises SettingError for a user's optimiser that could not train; one step of it is tried on a variable.

    Args:
      config: settings of any algorithm; one without an optimiser passes.
    """
    kind = getattr(config, "optimizer", "")
    if isinstance(config, OptimizerSettings) and kind not in OPTIMIZERS:
        from tfrl.optim import optimizers

        optimizers.check(kind)
