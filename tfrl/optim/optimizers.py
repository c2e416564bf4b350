"""Optimisers on TensorFlow's fused ops: in replica context, inside XLA and in graph loops alike.

They take gradients that are already summed over replicas and clipped (`apply.minimise` does both). In replica context
the handle of a variable is that of this replica's own copy, so no replica talks to another here and any control flow
may be around. Every slot is a variable of the module: checkpoints hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrl.config import objects
from tfrl.errors import SettingError
from tfrl.optim.lamb import LAMB, LARS
from tfrl.optim.settings import OPTIMIZERS
from tfrl.settings import choose

Rate = float | Callable[[tf.Tensor], tf.Tensor]
Gradient = tf.Tensor | tf.IndexedSlices | None

FLAT_ELEMENTS = 2**16  # of all variables together, up to which Adam's moments lie in one vector

raw = tf.raw_ops
# `variables` of an optimiser are its own, as in Keras; the trained variables belong to the learner.
_FOREIGN = frozenset(("_variables", *tf.Module._TF_MODULE_IGNORED_PROPERTIES))


def make(kind: str, variables: Sequence[tf.Variable], learning_rate: Rate, **options: Any) -> Any:
    """An optimiser of `variables`, whose slots are made here: call it under the strategy of the learner.

    Args:
      kind: 'adam' (options beta_1, beta_2, epsilon), 'adamw' (weight_decay too), 'rmsprop', 'rmsprop_keras',
        'rmsprop_tf1' (decay, epsilon, momentum), 'sgd' (momentum, nesterov), 'lamb', 'lars' (arguments of the classes
        of `optim/lamb.py`), or 'package.module:name' of a Keras optimiser (no options); see the classes. 'rmsprop' is
        PyTorch's; 'rmsprop_keras' has epsilon inside the root, and so has 'rmsprop_tf1', which starts its mean square
        at 1.
      learning_rate: a number, or a function of the int64 count of updates made to a float32 scalar.

    Returns:
      An `Adam`, `RMSProp` or `SGD`, or a `tf.keras.optimizers.Optimizer`, which LAMB, LARS and a user's are; all have
      `iterations`, and `apply.minimise` takes them.

    Raises:
      SettingError: an unknown kind, or a user's optimiser that cannot be made.
    """
    if kind in ("adam", "adamw"):
        return Adam(variables, learning_rate, **options)
    if kind == "rmsprop":
        return RMSProp(variables, learning_rate, **options)
    if kind == "rmsprop_keras":
        return RMSProp(variables, learning_rate, **{"epsilon_inside_root": True, **options})
    if kind == "rmsprop_tf1":
        start = {"initial_accumulator": 1.0, "epsilon_inside_root": True}
        return RMSProp(variables, learning_rate, **{**start, **options})
    if kind == "sgd":
        return SGD(variables, learning_rate, **options)
    if kind in ("lamb", "lars"):
        optimizer = {"lamb": LAMB, "lars": LARS}[kind](Schedule(learning_rate), **options)
        optimizer.build(list(variables))
        return optimizer
    if objects.is_object_name(kind):
        return _user_optimizer(kind, variables, learning_rate)
    raise SettingError(f"optimizer={kind!r}: {choose(kind, OPTIMIZERS)}")


class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate as Keras optimisers take it; a changed rate of a resumed run is not read from the checkpoint."""

    def __init__(self, rate: Rate):
        self._function = rate

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Step size after `step` updates, float32 scalar."""
        return _rate_after(self._function, step)


def _user_optimizer(
    name: str, variables: Sequence[tf.Variable], learning_rate: Rate
) -> tf.keras.optimizers.Optimizer:
    """The optimiser that `name(learning_rate=...)` makes, with its slots; `name` is a class or a function."""
    builder = objects.resolve(name, "optimizer")
    if not callable(builder):
        raise SettingError(
            f"optimizer={name!r}: it is a {type(builder).__name__}; expected a class of Keras optimisers, or a "
            "function that makes one, with an argument learning_rate"
        )
    try:
        optimizer = builder(learning_rate=Schedule(learning_rate))
    except Exception as error:  # whatever a user's code raises, its reader needs the name
        raise SettingError(f"optimizer={name!r}: making it failed: {_reason(error)}") from error
    if not isinstance(optimizer, tf.keras.optimizers.Optimizer):
        raise SettingError(
            f"optimizer={name!r}: it made a {type(optimizer).__module__}.{type(optimizer).__qualname__}; expected a "
            "tf.keras.optimizers.Optimizer (those of tf.keras.optimizers.legacy are not)"
        )
    try:
        optimizer.build(list(variables))
    except Exception as error:
        raise SettingError(f"optimizer={name!r}: building failed: {_reason(error)}") from error
    return optimizer


def check(name: str) -> None:
    """Raises SettingError unless a user's optimiser can be made and changes a variable in a traced step."""
    variable = tf.Variable([1.0])
    optimizer = _user_optimizer(name, [variable], 0.1)

    @tf.function(autograph=False)
    def step() -> None:
        optimizer.apply_gradients([(tf.constant([1.0]), variable)], skip_gradients_aggregation=True)

    try:
        step()
    except Exception as error:
        raise SettingError(f"optimizer={name!r}: a step failed: {_reason(error)}") from error
    if float(variable[0]) == 1.0 or int(optimizer.iterations) != 1:
        raise SettingError(
            f"optimizer={name!r}: a step with gradient 1 changed nothing, or was not counted in `iterations`"
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


class Adam(tf.Module):
    """Adam (Kingma and Ba 2015, the form before their section 2.1: epsilon is added to the uncorrected root).

    v -= rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(s) + epsilon), as in TensorFlow and Keras. With
    `weight_decay`, AdamW: each step also subtracts rate weight_decay v (Loshchilov and Hutter 2019, algorithm 2), from
    biases too. The moments of a small network lie in one vector each: a dozen of small kernels cost more than what they
    compute.

    Attributes:
      iterations: int64 variable, steps made.
    """

    _TF_MODULE_IGNORED_PROPERTIES = _FOREIGN

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        learning_rate: Rate,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
    ):
        super().__init__()
        self._variables, self._rate = list(variables), learning_rate
        self._weight_decay = weight_decay
        self._beta_1, self._beta_2, self._epsilon = beta_1, beta_2, epsilon
        self.iterations = _counter()
        elements = sum(v.shape.num_elements() for v in self._variables)
        self._flat = elements <= FLAT_ELEMENTS and all(v.dtype == tf.float32 for v in variables)
        like = [tf.zeros([elements])] if self._flat else self._variables
        self._first, self._second = _slots(like, "first_moment"), _slots(like, "second_moment")

    def apply(self, gradients: Sequence[Gradient]) -> None:
        """One step in replica context; `gradients` in the order of the variables, None leaves one alone.

        Raises:
          ValueError: not as many gradients as variables.
        """
        gradients = _whole(gradients, self._variables)
        rate = _rate(self._rate, self.iterations)
        step = tf.cast(self.iterations.read_value() + 1, tf.float32)
        powers = [tf.pow(tf.constant(beta), step) for beta in (self._beta_1, self._beta_2)]
        if self._weight_decay:  # v -= rate weight_decay v; the step below does not read v
            for gradient, variable in zip(gradients, self._variables, strict=True):
                if gradient is not None:
                    decay = rate * self._weight_decay * variable.read_value()
                    raw.AssignSubVariableOp(resource=variable.handle, value=decay)
        if self._flat:
            self._apply_flat(gradients, rate * tf.sqrt(1.0 - powers[1]) / (1.0 - powers[0]))
        else:
            self._apply_each(gradients, rate, powers)
        _count(self.iterations)

    def _apply_each(
        self, gradients: Sequence[Gradient], rate: tf.Tensor, powers: Sequence[tf.Tensor]
    ) -> None:
        slots = zip(self._variables, self._first, self._second, strict=True)
        for gradient, where in zip(gradients, slots, strict=True):
            if gradient is not None:
                variable, first, second = (v.handle for v in where)
                raw.ResourceApplyAdam(
                    var=variable, m=first, v=second, beta1_power=powers[0], beta2_power=powers[1],
                    lr=rate, beta1=self._beta_1, beta2=self._beta_2, epsilon=self._epsilon,
                    grad=tf.convert_to_tensor(gradient), use_locking=False, use_nesterov=False,
                )  # fmt: skip

    def _apply_flat(self, gradients: Sequence[Gradient], rate: tf.Tensor) -> None:
        """`rate` with the corrections of both moments."""
        places = zip(gradients, self._variables, strict=True)
        whole = [tf.zeros(v.shape) if g is None else tf.convert_to_tensor(g) for g, v in places]
        gradient = tf.concat([tf.reshape(g, [-1]) for g in whole], 0)
        # m = beta_1 m + (1 - beta_1) g and s = beta_2 s + (1 - beta_2) g^2.
        old = self._first[0].read_value(), self._second[0].read_value()
        first = old[0] + (1.0 - self._beta_1) * (gradient - old[0])
        second = old[1] + (1.0 - self._beta_2) * (tf.square(gradient) - old[1])
        sizes = [v.shape.num_elements() for v in self._variables]
        if any(g is None for g in gradients):  # their moments stay as well
            given = np.repeat([g is not None for g in gradients], sizes)
            first, second = tf.where(given, first, old[0]), tf.where(given, second, old[1])
        raw.AssignVariableOp(resource=self._first[0].handle, value=first)
        raw.AssignVariableOp(resource=self._second[0].handle, value=second)
        # v -= rate m / (sqrt(s) + epsilon), each variable its part of the vector.
        steps = tf.split(rate * first / (tf.sqrt(second) + self._epsilon), sizes)
        for gradient, variable, step in zip(gradients, self._variables, steps, strict=True):
            if gradient is not None:
                step = tf.reshape(step, variable.shape)
                raw.AssignSubVariableOp(resource=variable.handle, value=step)


class RMSProp(tf.Module):
    """RMSProp (Tieleman and Hinton 2012): steps divided by the root of a running mean square of the gradient.

    Epsilon is added outside the root as in PyTorch, or inside it as in TensorFlow and Keras. TensorFlow 1, and with it
    the settings of IMPALA, starts the mean square at 1. With momentum, PyTorch's form is u = momentum u + g / root,
    v -= rate u; that of TensorFlow is u = momentum u + rate g / root, v -= u.

    Attributes:
      iterations: int64 variable, steps made.
    """

    _TF_MODULE_IGNORED_PROPERTIES = _FOREIGN

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        learning_rate: Rate,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        momentum: float = 0.0,
        epsilon_inside_root: bool = False,
        initial_accumulator: float = 0.0,
    ):
        super().__init__()
        self._variables, self._rate = list(variables), learning_rate
        self._inside = epsilon_inside_root
        self._decay, self._epsilon, self._momentum = decay, epsilon, momentum
        self.iterations = _counter()
        self._square = _slots(variables, "mean_square", initial_accumulator)
        # TensorFlow's op has the slot in any case.
        self._moment = _slots(variables, "momentum") if momentum or epsilon_inside_root else []

    def apply(self, gradients: Sequence[Gradient]) -> None:
        """One step in replica context; `gradients` in the order of the variables, None leaves one alone.

        Raises:
          ValueError: not as many gradients as variables.
        """
        rate = _rate(self._rate, self.iterations)
        for i, gradient in enumerate(_whole(gradients, self._variables)):
            if gradient is None:
                continue
            gradient = tf.convert_to_tensor(gradient)
            variable, square = self._variables[i], self._square[i]
            if (
                self._inside
            ):  # s = decay s + (1 - decay) g^2, u = momentum u + rate g / sqrt(s + epsilon), v -= u
                raw.ResourceApplyRMSProp(
                    var=variable.handle, ms=square.handle, mom=self._moment[i].handle, lr=rate,
                    rho=self._decay, momentum=self._momentum, epsilon=self._epsilon, grad=gradient,
                    use_locking=False,
                )  # fmt: skip
            else:
                # s = decay s + (1 - decay) g^2.
                mean = square.read_value()
                mean += (1.0 - self._decay) * (tf.square(gradient) - mean)
                raw.AssignVariableOp(resource=square.handle, value=mean)
                if self._moment:  # u = momentum u + g / (sqrt(s) + epsilon), v -= rate u
                    moment = self._momentum * self._moment[i].read_value()
                    moment += gradient / (tf.sqrt(mean) + self._epsilon)
                    raw.AssignVariableOp(resource=self._moment[i].handle, value=moment)
                    step = rate * moment
                else:  # v -= rate g / (sqrt(s) + epsilon)
                    step = rate * gradient / (tf.sqrt(mean) + self._epsilon)
                raw.AssignSubVariableOp(resource=variable.handle, value=step)
        _count(self.iterations)


class SGD(tf.Module):
    """Gradient descent; with momentum, v = momentum v - rate g is added to the variable (Polyak 1964). With
    `nesterov`, momentum v - rate g is added, with the new v (Sutskever et al. 2013).

    Attributes:
      iterations: int64 variable, steps made.
    """

    _TF_MODULE_IGNORED_PROPERTIES = _FOREIGN

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        learning_rate: Rate,
        momentum: float = 0.0,
        nesterov: bool = False,
    ):
        super().__init__()
        self._variables, self._rate, self._momentum = list(variables), learning_rate, momentum
        self._nesterov = nesterov
        self.iterations = _counter()
        self._moment = _slots(variables, "momentum") if momentum else []

    def apply(self, gradients: Sequence[Gradient]) -> None:
        """One step in replica context; `gradients` in the order of the variables, None leaves one alone.

        Raises:
          ValueError: not as many gradients as variables.
        """
        rate = _rate(self._rate, self.iterations)
        for i, gradient in enumerate(_whole(gradients, self._variables)):
            if gradient is None:
                continue
            variable, gradient = self._variables[i], tf.convert_to_tensor(gradient)
            if self._moment:
                raw.ResourceApplyKerasMomentum(
                    var=variable.handle, accum=self._moment[i].handle, lr=rate,
                    momentum=self._momentum, grad=gradient, use_locking=False,
                    use_nesterov=self._nesterov,
                )  # fmt: skip
            else:
                raw.ResourceApplyGradientDescent(
                    var=variable.handle, alpha=rate, delta=gradient, use_locking=False
                )
        _count(self.iterations)


def _counter() -> tf.Variable:
    return tf.Variable(0, dtype=tf.int64, trainable=False, name="iterations")


def _slots(
    variables: Sequence[tf.Variable | tf.Tensor], name: str, value: float = 0.0
) -> list[tf.Variable]:
    return [
        tf.Variable(tf.fill(v.shape, tf.constant(value, v.dtype)), trainable=False, name=name)
        for v in variables
    ]


def _whole(gradients: Sequence[Gradient], variables: Sequence[tf.Variable]) -> Sequence[Gradient]:
    if len(gradients) != len(variables):
        raise ValueError(f"{len(gradients)} gradients for {len(variables)} variables")
    return gradients


def _rate(rate: Rate, iterations: tf.Variable) -> tf.Tensor:
    """The learning rate of the step about to be made, float32 scalar."""
    return _rate_after(rate, iterations.read_value())


def _rate_after(rate: Rate, updates: tf.Tensor) -> tf.Tensor:
    return tf.cast(rate(updates), tf.float32) if callable(rate) else tf.constant(rate, tf.float32)


def _count(iterations: tf.Variable) -> None:
    raw.AssignAddVariableOp(resource=iterations.handle, value=tf.constant(1, tf.int64))
