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

from tfrl.errors import SettingError
from tfrl.settings import choose

Rate = float | Callable[[tf.Tensor], tf.Tensor]
Gradient = tf.Tensor | tf.IndexedSlices | None

FLAT_ELEMENTS = 2**16  # of all variables together, up to which Adam's moments lie in one vector

raw = tf.raw_ops
# `variables` of an optimiser are its own, as in Keras; what it trains belongs to somebody else.
_FOREIGN = frozenset(("_variables", *tf.Module._TF_MODULE_IGNORED_PROPERTIES))


def make(
    kind: str, variables: Sequence[tf.Variable], learning_rate: Rate, **options: Any
) -> Adam | RMSProp | SGD:
    """An optimiser of `variables`, whose slots are made here: call it under the strategy of the learner.

    Args:
      kind: 'adam' (options beta_1, beta_2, epsilon), 'rmsprop' (decay, epsilon, epsilon_inside_root), 'rmsprop_tf1'
        (decay, epsilon, momentum) or 'sgd' (momentum); see the classes. 'rmsprop' is PyTorch's, and with
        `epsilon_inside_root` that of Keras; 'rmsprop_tf1' starts its accumulator at 1.
      learning_rate: a number, or a function of the int64 count of updates made to a float32 scalar.

    Raises:
      SettingError: an unknown kind, or options that exclude each other.
    """
    if kind == "adam":
        return Adam(variables, learning_rate, **options)
    if kind == "rmsprop":
        return RMSProp(variables, learning_rate, **options)
    if kind == "rmsprop_tf1":
        start = {"initial_accumulator": 1.0, "epsilon_inside_root": True}
        return RMSProp(variables, learning_rate, **{**start, **options})
    if kind == "sgd":
        return SGD(variables, learning_rate, **options)
    kinds = ("adam", "rmsprop", "rmsprop_tf1", "sgd")
    raise SettingError(f"optimizer={kind!r}: {choose(kind, kinds)}")


class Adam(tf.Module):
    """Adam (Kingma and Ba 2015, the form before their section 2.1: epsilon is added to the uncorrected root).

    v -= rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(s) + epsilon), as in TensorFlow and Keras. The moments of a
    small network lie in one vector each: a dozen of small kernels cost more than what they compute.

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
    ):
        super().__init__()
        self._variables, self._rate = list(variables), learning_rate
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
        old = self._first[0].read_value(), self._second[0].read_value()
        first = old[0] + (1.0 - self._beta_1) * (gradient - old[0])
        second = old[1] + (1.0 - self._beta_2) * (tf.square(gradient) - old[1])
        sizes = [v.shape.num_elements() for v in self._variables]
        if any(g is None for g in gradients):  # their moments stay as well
            given = np.repeat([g is not None for g in gradients], sizes)
            first, second = tf.where(given, first, old[0]), tf.where(given, second, old[1])
        raw.AssignVariableOp(resource=self._first[0].handle, value=first)
        raw.AssignVariableOp(resource=self._second[0].handle, value=second)
        steps = tf.split(rate * first / (tf.sqrt(second) + self._epsilon), sizes)
        for gradient, variable, step in zip(gradients, self._variables, steps, strict=True):
            if gradient is not None:
                step = tf.reshape(step, variable.shape)
                raw.AssignSubVariableOp(resource=variable.handle, value=step)


class RMSProp(tf.Module):
    """RMSProp (Tieleman and Hinton 2012): steps divided by the root of a running mean square of the gradient.

    Epsilon is added outside the root as in PyTorch, or inside it as in TensorFlow and Keras. TensorFlow 1, and with it
    the settings of IMPALA, starts the mean square at 1.

    Attributes:
      iterations: int64 variable, steps made.

    Raises:
      SettingError: momentum with epsilon outside the root.
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
        if momentum and not epsilon_inside_root:
            raise SettingError(
                f"momentum={momentum:g} of RMSProp: expected 0, or epsilon inside the root"
            )
        self._variables, self._rate = list(variables), learning_rate
        self._decay, self._epsilon, self._momentum = decay, epsilon, momentum
        self.iterations = _counter()
        self._square = _slots(variables, "mean_square", initial_accumulator)
        self._moment = _slots(variables, "momentum") if epsilon_inside_root else []

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
            if self._moment:
                raw.ResourceApplyRMSProp(
                    var=variable.handle, ms=square.handle, mom=self._moment[i].handle, lr=rate,
                    rho=self._decay, momentum=self._momentum, epsilon=self._epsilon, grad=gradient,
                    use_locking=False,
                )  # fmt: skip
            else:
                mean = square.read_value()
                mean += (1.0 - self._decay) * (tf.square(gradient) - mean)
                raw.AssignVariableOp(resource=square.handle, value=mean)
                step = rate * gradient / (tf.sqrt(mean) + self._epsilon)
                raw.AssignSubVariableOp(resource=variable.handle, value=step)
        _count(self.iterations)


class SGD(tf.Module):
    """Gradient descent; with momentum, v = momentum v - rate g is added to the variable (Polyak 1964).

    Attributes:
      iterations: int64 variable, steps made.
    """

    _TF_MODULE_IGNORED_PROPERTIES = _FOREIGN

    def __init__(
        self, variables: Sequence[tf.Variable], learning_rate: Rate, momentum: float = 0.0
    ):
        super().__init__()
        self._variables, self._rate, self._momentum = list(variables), learning_rate, momentum
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
                    momentum=self._momentum, grad=gradient, use_locking=False, use_nesterov=False,
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
    if callable(rate):
        return tf.cast(rate(iterations.read_value()), tf.float32)
    return tf.constant(rate, tf.float32)


def _count(iterations: tf.Variable) -> None:
    raw.AssignAddVariableOp(resource=iterations.handle, value=tf.constant(1, tf.int64))
