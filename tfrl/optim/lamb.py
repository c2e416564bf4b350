"""LAMB and LARS (You et al. 2020 and 2017): optimisers whose step size adapts to each layer, for large batches.

Each variable is a layer. Its step has the length rate * ||x||, whatever the length of its gradient. Both are Keras
optimisers: they serve `model.fit`, a custom loop, and every algorithm of tfrl by `--optimizer=lamb` or `lars`.
Gradients must be summed over replicas before, as Keras and `optim/apply.py` do: norms are of the whole gradient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.settings import choose

# Variables that a rule leaves out: a predicate, or patterns that are searched for in their names. None: see `LAMB`.
Rule = Callable[[tf.Variable], bool] | Sequence[str] | None

VARIANTS = ("heavy_ball", "paper")
_register = tf.keras.saving.register_keras_serializable("tfrl")


def norm(x: tf.Tensor) -> tf.Tensor:
    """L2 norm over all axes, a scalar: float64 of float64, else float32, since squares of float16 overflow."""
    return tf.norm(_wide(x))


def trust_ratio(
    weights: tf.Tensor,
    update: tf.Tensor,
    clip: tuple[float, float] | None = None,
    coefficient: float = 1.0,
) -> tf.Tensor:
    """coefficient phi(||x||) / ||u||, and 1 where either norm is 0 (You et al. 2020, algorithm 2).

    Args:
      weights, update: norms ||x|| and ||u||, scalars of one dtype.
      clip: phi limits ||x|| to this range; None: phi is the identity.

    Returns:
      Scalar of that dtype.
    """
    limited = weights if clip is None else tf.clip_by_value(weights, *clip)
    both = (weights > 0) & (update > 0)
    ratio = coefficient * limited / tf.where(both, update, tf.ones_like(update))
    return tf.where(both, ratio, tf.ones_like(ratio))


def rank_at_most_one(variable: tf.Variable) -> bool:
    """Whether a variable is a bias, a scale or a scalar: what LAMB and LARS leave out by default."""
    return variable.shape.rank <= 1


class LayerWise(tf.keras.optimizers.Optimizer):
    """What LAMB and LARS share: which variables have weight decay and a step size of their own, and what is saved.

    Args:
      name, learning_rate, weight_decay, trust_clip, exclude_from_weight_decay, exclude_from_layer_adaptation: see
        `LAMB`.
      **keras: arguments of every Keras optimiser, e.g. `global_clipnorm`.
    """

    def __init__(
        self,
        name: str,
        learning_rate: Any,
        weight_decay: float,
        trust_clip: tuple[float, float] | None,
        exclude_from_weight_decay: Rule,
        exclude_from_layer_adaptation: Rule,
        **keras: Any,
    ):
        super().__init__(name=name, weight_decay=weight_decay, **keras)
        _check("weight_decay", weight_decay, 0.0)
        self.trust_clip = None if trust_clip is None else check_trust_clip(trust_clip)
        self._no_decay = _checked_rule("exclude_from_weight_decay", exclude_from_weight_decay)
        self._no_adaptation = _checked_rule(
            "exclude_from_layer_adaptation", exclude_from_layer_adaptation
        )
        self._learning_rate = self._build_learning_rate(learning_rate)
        self._mask_of: Callable[[Any], tf.Variable | None] = lambda key: None

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes the slots of the variables; names are looked at here, once, so that replicas agree."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._built = True
        adaptation = self._no_decay if self._no_adaptation is None else self._no_adaptation
        # Decay of each variable, and whether its step has a trust ratio.
        self._decays = [
            0.0
            if _excludes(self._no_decay, v) or not self._use_weight_decay(v)
            else self.weight_decay
            for v in var_list
        ]
        self._adapts = [not _excludes(adaptation, v) for v in var_list]
        self._build_slots(var_list)

    def _build_slots(self, variables: Sequence[tf.Variable]) -> None:
        raise NotImplementedError

    def _slots(self, variables: Sequence[tf.Variable], name: str) -> list[tf.Variable]:
        return [self.add_variable_from_reference(v, name) for v in variables]

    def mask(self, masks: Sequence[tuple[tf.Variable, tf.Variable]]) -> None:
        """From now on the norm of some variables' steps is that of the entries that their masks leave.

        For variables whose other entries are set to 0 after each step (docs/sparse.md): what is taken back would
        shorten the step of the rest. Moments are those of all entries.

        Args:
          masks: variables and their masks of 0 and 1, of the same shapes and dtypes.
        """
        found = {self._var_key(variable): mask for variable, mask in masks}
        # A function, since a dictionary of variables would become part of checkpoints.
        self._mask_of = found.get

    def _step_norm(self, step: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """Norm of a step or gradient, without the entries that a mask leaves out."""
        mask = self._mask_of(self._var_key(variable))
        return norm(step if mask is None else step * _wide(mask))

    def _apply_weight_decay(self, variables: Sequence[tf.Variable]) -> None:
        """Keras would subtract the decay before the step; here it is part of each variable's direction."""

    def _place(self, variable: tf.Variable) -> int:
        return self._index_dict[self._var_key(variable)]

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor by name; predicates as Keras saves functions."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "trust_clip": self.trust_clip,
            "exclude_from_weight_decay": _saved(self._no_decay),
            "exclude_from_layer_adaptation": _saved(self._no_adaptation),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> LayerWise:
        """The optimiser that `get_config` described, without its slots.

        Args:
          custom_objects: {name: function} of predicates that are not registered with Keras.
        """
        config = dict(config)
        for name in ("exclude_from_weight_decay", "exclude_from_layer_adaptation"):
            if isinstance(config.get(name), Mapping):
                config[name] = tf.keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        return super().from_config(config, custom_objects)


@_register
class LAMB(LayerWise):
    """LAMB (You et al. 2020, algorithm 2): Adam's direction with decay, scaled to the norm of each layer.

    m = beta_1 m + (1 - beta_1) g and v = beta_2 v + (1 - beta_2) g^2, both divided by 1 - beta^t;
    u = m / (sqrt(v) + epsilon) + weight_decay x, and x -= learning_rate phi(||x||) / ||u|| u.

    Args:
      learning_rate: a number, a Keras schedule, or a function without arguments. A step changes each layer by this
        part of its norm.
      beta_1, beta_2: of the means of the gradient and of its square, at least 0 and below 1.
      epsilon: added to the root, more than 0.
      weight_decay: part of the direction, at least 0.
      bias_correction: divide m and v by 1 - beta^t; a warm-up of the rate can replace it.
      trust_clip: limits of phi(||x||), (low, high); None: phi is the identity.
      exclude_from_weight_decay: variables without decay: patterns of `re.search` in their names, or a predicate
        `variable -> bool`. None: those of rank 0 and 1, which are biases and scales. A saved optimiser finds a
        predicate again if `tf.keras.saving.register_keras_serializable` knows it.
      exclude_from_layer_adaptation: variables whose ratio phi(||x||) / ||u|| is 1, likewise. None: those that
        `exclude_from_weight_decay` names.
      **keras: arguments of every Keras optimiser, e.g. `global_clipnorm`.

    Raises:
      SettingError: an argument out of range.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        trust_clip: tuple[float, float] | None = None,
        exclude_from_weight_decay: Rule = None,
        exclude_from_layer_adaptation: Rule = None,
        name: str = "LAMB",
        **keras: Any,
    ):
        super().__init__(
            name, learning_rate, weight_decay, trust_clip, exclude_from_weight_decay,
            exclude_from_layer_adaptation, **keras,
        )  # fmt: skip
        _check("beta_1", beta_1, 0.0, 1.0)
        _check("beta_2", beta_2, 0.0, 1.0)
        if not epsilon > 0:
            raise SettingError(f"epsilon={epsilon!r}: expected more than 0")
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.bias_correction = bias_correction

    def _build_slots(self, variables: Sequence[tf.Variable]) -> None:
        self._first = self._slots(variables, "first_moment")
        self._second = self._slots(variables, "second_moment")

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """One step of one variable; Keras calls it, in the update of each replica's copy."""
        place = self._place(variable)
        g, x = _wide(tf.convert_to_tensor(gradient)), _wide(variable)
        # Means of the gradient and of its square.
        m, v = _wide(self._first[place]), _wide(self._second[place])
        m += (1.0 - self.beta_1) * (g - m)
        v += (1.0 - self.beta_2) * (tf.square(g) - v)
        _assign(self._first[place], m)
        _assign(self._second[place], v)
        # Without the bias of their start at 0.
        if self.bias_correction:
            t = tf.cast(self.iterations + 1, x.dtype)
            m /= _one_minus_power(self.beta_1, t)
            v /= _one_minus_power(self.beta_2, t)
        # Adam's direction with decoupled decay.
        u = m / (tf.sqrt(v) + self.epsilon)
        if self._decays[place]:
            u += self._decays[place] * x
        # A step of length rate * phi(||x||) along it.
        rate = tf.cast(tf.convert_to_tensor(self.learning_rate), x.dtype)
        if self._adapts[place]:
            rate *= trust_ratio(norm(x), self._step_norm(u, variable), self.trust_clip)
        _assign(variable, x - rate * u)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor by name."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "bias_correction": self.bias_correction,
        }


@_register
class LARS(LayerWise):
    """LARS: momentum with a step size for each layer, in two forms that differ in what is scaled.

    'heavy_ball' (You et al. 2017) scales the gradient before the momentum, and is the form that most libraries have:
    trust = trust_coefficient phi(||x||) / (||g|| + weight_decay ||x||), m = momentum m + learning_rate trust
    (g + weight_decay x), x -= m. 'paper' (You et al. 2020, algorithm 1) scales the momentum:
    m = momentum m + (1 - momentum) (g + weight_decay x), x -= learning_rate phi(||x||) / ||m|| m.

    Args:
      momentum: at least 0 and below 1.
      trust_coefficient: of 'heavy_ball', more than 0; 'paper' has none.
      nesterov: step along what the momentum will be after the same gradient once more.
      variant: 'heavy_ball' or 'paper'.
      learning_rate, weight_decay, trust_clip, exclude_from_weight_decay, exclude_from_layer_adaptation, **keras: as in
        `LAMB`. Excluded variables have trust 1, without the coefficient.

    Raises:
      SettingError: an argument out of range.
    """

    def __init__(
        self,
        learning_rate: Any = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        nesterov: bool = False,
        variant: str = "heavy_ball",
        trust_clip: tuple[float, float] | None = None,
        exclude_from_weight_decay: Rule = None,
        exclude_from_layer_adaptation: Rule = None,
        name: str = "LARS",
        **keras: Any,
    ):
        super().__init__(
            name, learning_rate, weight_decay, trust_clip, exclude_from_weight_decay,
            exclude_from_layer_adaptation, **keras,
        )  # fmt: skip
        _check("momentum", momentum, 0.0, 1.0)
        if not trust_coefficient > 0:
            raise SettingError(f"trust_coefficient={trust_coefficient!r}: expected more than 0")
        if variant not in VARIANTS:
            raise SettingError(f"variant={variant!r}: {choose(str(variant), VARIANTS)}")
        self.momentum, self.trust_coefficient = momentum, trust_coefficient
        self.nesterov, self.variant = nesterov, variant

    def _build_slots(self, variables: Sequence[tf.Variable]) -> None:
        self._moment = self._slots(variables, "momentum")

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """One step of one variable; Keras calls it, in the update of each replica's copy."""
        place = self._place(variable)
        g, x = _wide(tf.convert_to_tensor(gradient)), _wide(variable)
        rate = tf.cast(tf.convert_to_tensor(self.learning_rate), x.dtype)
        decay, adapts = self._decays[place], self._adapts[place]
        m = self.momentum * _wide(self._moment[place])
        # Gradient with decay; the trust of 'heavy_ball' is that of the two norms apart.
        direction = g + decay * x if decay else g
        if self.variant == "heavy_ball":
            if adapts:
                weights = norm(x)
                update = self._step_norm(g, variable)
                update += decay * weights
                rate *= trust_ratio(weights, update, self.trust_clip, self.trust_coefficient)
            # m = momentum m + rate trust (g + decay x), the step.
            added = rate * direction
            m += added
            step = self.momentum * m + added if self.nesterov else m
        else:
            # m = momentum m + (1 - momentum) (g + decay x), scaled to length rate * phi(||x||).
            added = (1.0 - self.momentum) * direction
            m += added
            along = self.momentum * m + added if self.nesterov else m
            if adapts:
                rate *= trust_ratio(norm(x), self._step_norm(along, variable), self.trust_clip)
            step = rate * along
        _assign(self._moment[place], m)
        _assign(variable, x - step)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor by name."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "trust_coefficient": self.trust_coefficient,
            "nesterov": self.nesterov,
            "variant": self.variant,
        }


def check_trust_clip(limits: Sequence[float]) -> tuple[float, float]:
    """The limits of phi as a pair.

    Raises:
      SettingError: no pair of numbers, the first at least 0 and below the second.
    """
    if len(limits) != 2 or not 0.0 <= limits[0] < limits[1]:
        raise SettingError(
            f"trust_clip={tuple(limits)!r}: expected two norms, the first at least 0 and below the second"
        )
    return float(limits[0]), float(limits[1])


def _wide(x: tf.Tensor | tf.Variable) -> tf.Tensor:
    """A value in the dtype of the arithmetic: float64 of float64, else float32."""
    x = tf.convert_to_tensor(x)
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


def _assign(variable: tf.Variable, value: tf.Tensor) -> None:
    variable.assign(tf.cast(value, variable.dtype))


def _one_minus_power(beta: float, t: tf.Tensor) -> tf.Tensor:
    """1 - beta^t without the cancellation that it has in float32 where beta is near 1."""
    return -tf.math.expm1(t * (math.log(beta) if beta else -math.inf))


def _excludes(rule: Rule, variable: tf.Variable) -> bool:
    if rule is None:
        return rank_at_most_one(variable)
    if callable(rule):
        return bool(rule(variable))
    return any(re.search(pattern, variable.name) for pattern in rule)


def _checked_rule(name: str, rule: Rule) -> Rule:
    """A rule whose patterns are a list of valid ones."""
    if rule is None or callable(rule):
        return rule
    if isinstance(rule, str) or not all(isinstance(pattern, str) for pattern in rule):
        raise SettingError(f"{name}={rule!r}: expected a list of patterns, or a predicate")
    for pattern in rule:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingError(f"{name}: {pattern!r} is no regular expression: {error}") from None
    return list(rule)


def _saved(rule: Rule) -> Any:
    return tf.keras.saving.serialize_keras_object(rule) if callable(rule) else rule


def _check(name: str, value: float, least: float, below: float | None = None) -> None:
    """Raises SettingError for a number that is less, or not below a limit; callers name the argument."""
    if not value >= least or below is not None and not value < below:
        limit = "" if below is None else f" and below {below:g}"
        raise SettingError(f"{name}={value!r}: expected at least {least:g}{limit}")
