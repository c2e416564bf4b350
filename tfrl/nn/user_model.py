"""A user's own network: how it is built and called, and what is asked of it before training.

Keras models say several things of themselves that a learner must honour: which layers are frozen, which behave
differently in training, which losses they add. Other callables may be a `tf.Module` or a plain function.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfrl.config import objects
from tfrl.errors import SettingError
from tfrl.types import EnvSpec

ROWS = 3  # of the batch that a model is tried on


def build(network: str, spec: EnvSpec) -> Any:
    """The model that the builder of this name returns, or a copy of the Keras model of this name.

    Args:
      network: 'package.module:builder', a function (EnvSpec) -> model.

    Raises:
      SettingError: there is no such builder, it fails, or what it returns cannot be called.
    """
    builder = objects.resolve(network, "network")
    try:
        model = _copy(builder) if isinstance(builder, tf.keras.Model) else builder(spec)
    except Exception as error:  # whatever a user's builder raises, its reader needs the name
        raise SettingError(f"network={network!r}: building failed: {_reason(error)}") from error
    if not callable(model):
        raise SettingError(
            f"network={network!r}: the builder returned {type(model).__name__}, expected a Keras model or the like"
        )
    return model


def _copy(model: tf.keras.Model) -> tf.keras.Model:
    """A model like this one with its weights: policy, target and each critic have networks of their own."""
    copy = type(model).from_config(model.get_config())
    if model.built:
        copy.build(model.input_shape)
        copy.set_weights(model.get_weights())
    return copy


def call(model: Any, x: Any, training: bool) -> Any:
    """`model(x)`, with `training` where it takes that; every Keras model does."""
    if isinstance(model, tf.keras.layers.Layer) or _takes_training(model):
        return model(x, training=training)
    return model(x)


def _takes_training(model: Any) -> bool:
    function = model if inspect.isroutine(model) else type(model).__call__
    try:
        return "training" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable of another language has none
        return False


def trainable(module: tf.Module, variables: Sequence[tf.Variable]) -> tuple[tf.Variable, ...]:
    """The part of `variables` that no Keras layer inside `module` freezes, e.g. by `trainable=False`.

    `trainable` of a frozen layer's variables is still True; only the layer's own attribute is False.
    """
    frozen = {
        id(variable) for layer in _layers(module) for variable in layer.non_trainable_variables
    }
    return tuple(v for v in variables if id(v) not in frozen)


def losses(model: Any) -> list[tf.Tensor]:
    """Scalars that the layers of a model add to the loss: penalties on weights, and what the last call added.

    Read it after the call in training mode, and before another one.
    """
    if isinstance(model, tf.keras.layers.Layer):
        found = model.losses
    elif isinstance(model, tf.Module):
        inner = {id(x) for layer in _layers(model) for x in layer.submodules}
        found = [x for layer in _layers(model) if id(layer) not in inner for x in layer.losses]
    else:
        found = []
    return [tf.cast(x, tf.float32) for x in found]


def _layers(module: tf.Module) -> list[tf.keras.layers.Layer]:
    return [m for m in module.submodules if isinstance(m, tf.keras.layers.Layer)]


def check(network: str, spec: EnvSpec, example: Any, sends_gradients: bool = False) -> None:
    """Raises SettingError for a model that could not be trained as it is meant.

    The builder runs twice; the first model is called on an example, and traced in both modes.

    Args:
      network: 'package.module:builder'.
      spec: environment spec.
      example: what the model takes, leaves [ROWS, ...].
      sends_gradients: the model is trained by gradients that copies of it compute and nothing else of these is kept.
    """
    name = f"network={network!r}"
    model, other = build(network, spec), build(network, spec)
    try:
        features, _ = (call(m, example, False) for m in (model, other))
        traces = {mode: _traced(model, example, mode) for mode in (False, True)}
    except Exception as error:  # whatever a user's model raises, its reader needs the shapes
        shapes = tf.nest.map_structure(lambda x: f"{x.dtype.name} {[None, *x.shape[1:]]}", example)
        raise SettingError(
            f"{name}: the model does not take the observation, {_plain(shapes)}: {_reason(error)}"
        ) from error
    holder, twin = _Holder(model), _Holder(other)
    if {id(x) for x in holder.parts()} & {id(x) for x in twin.parts()}:
        raise SettingError(
            f"{name}: the builder returned the same {'model' if model is other else 'layers'} twice; policy, target, "
            "value function and evaluator need weights of their own: make new layers in every call"
        )
    _check_features(name, features)
    _check_variables(name, holder, traces)
    updates = _assigns(traces[True])
    if _assigns(traces[False]):
        raise SettingError(
            f"{name}: the model changes variables when it is called with training=False; acting must not change it"
        )
    if updates and sends_gradients:
        kept = [v.name for v in holder.variables if not v.trainable]
        raise SettingError(
            f"{name}: the model updates variables while it is trained ({', '.join(kept)}), as BatchNormalization does, "
            "and only gradients reach this learner; expected layers without running statistics, e.g. LayerNormalization"
        )


def _check_features(name: str, features: Any) -> None:
    if not tf.is_tensor(features):
        count = len(tf.nest.flatten(features))
        raise SettingError(
            f"{name}: expected a model with one output, [batch, features], got a {type(features).__name__} of {count}"
        )
    shape = features.shape
    if shape.rank != 2 or shape[0] != ROWS:
        got = ["batch" if n == ROWS else n for n in shape]
        raise SettingError(
            f"{name}: expected a model that gives [batch, features], got {_plain(got)}"
        )
    if not features.dtype.is_floating:
        raise SettingError(f"{name}: expected features of a float type, got {features.dtype.name}")


def _check_variables(name: str, holder: tf.Module, traces: dict[bool, Any]) -> None:
    known = {id(v.handle) for v in holder.variables}  # mixed precision wraps variables in others
    strangers = [
        v.name
        for trace in traces.values()
        for v in trace.graph.variables
        if id(v.handle) not in known
    ]
    if strangers:
        raise SettingError(
            f"{name}: the model reads variables that are not its own ({', '.join(sorted(set(strangers)))}), which "
            "would be neither trained nor saved; expected a Keras model or a tf.Module that has them as attributes"
        )
    for variable in trainable(holder, holder.trainable_variables):
        if variable.dtype != tf.float32:
            raise SettingError(
                f"{name}: {variable.name} is {variable.dtype.name}, expected float32 variables; the Keras policy "
                "mixed_bfloat16 has them"
            )
    for layer in _layers(holder):
        if layer.compute_dtype == "float16" and layer.trainable_variables:
            raise SettingError(
                f"{name}: layer {layer.name!r} computes in float16, whose gradients vanish without a scaled loss; "
                "expected float32, or the Keras policy mixed_bfloat16"
            )


class _Holder(tf.Module):
    """A model of any kind as the attribute of a module, which finds its layers and variables."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def parts(self) -> list[Any]:
        """Its layers and variables."""
        return [*self.submodules, *self.variables]


def _traced(model: Any, example: Any, training: bool) -> Any:
    function = tf.function(lambda x: call(model, x, training), autograph=False)
    return function.get_concrete_function(example)


def _assigns(trace: Any) -> bool:
    """Whether a traced function writes variables."""
    definition = trace.graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    return any(node.op.startswith("Assign") for node in nodes)


def _reason(error: Exception) -> str:
    """The kind of an error and the first lines of its text, which Keras follows with a listing of arguments."""
    text = str(error).partition("Call arguments received")[0]
    text = " ".join(text.split())
    return f"{type(error).__name__}: {text[:400]}"


def _plain(nest: Any) -> str:
    return str(nest).replace("'", "")
