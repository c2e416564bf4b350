"""SavedModel export: a policy that runs with TensorFlow alone."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tree

from tfrl import files
from tfrl import spaces as space_lib
from tfrl.agent import Policy
from tfrl.errors import SettingError
from tfrl.nn.torsos import example_batch
from tfrl.runtime.serving.translate import Translator
from tfrl.types import EnvSpec


class Exported:
    """A greedy policy as functions of what an environment gives, traced once for any batch size.

    Args:
      policy: acts.
      spec: environment spec.

    Attributes:
      module: what is saved. It holds the functions below and the variables that they read, not the policy, so that
        nothing of tfrl or Keras is needed to load it.
      act: (observation, state) -> {'action', 'state'}.
      initial_state: batch_size -> state.
      estimates: {name: (observation, state) -> nest} of `Policy.estimates`.
      signatures: {name: function of one named tensor per leaf}.
    """

    def __init__(self, policy: Policy, spec: EnvSpec):
        self._policy, self._spec = policy, spec
        translator = Translator(spec)
        obs = translator.observation_specs()
        state = tree.map_structure(free_spec, policy.initial_state(1, {}))

        def initial_state(batch_size: tf.Tensor) -> Any:
            # Rows of a fresh state are alike; one is repeated to the batch that is asked for.
            return tree.map_structure(
                lambda x: tf.repeat(tf.convert_to_tensor(x), batch_size, axis=0),
                policy.initial_state(1, {}),
            )

        def traced(function: Any, signature: list[Any]) -> Any:
            return tf.function(function, input_signature=signature, autograph=False)

        self.act = traced(_act(policy, translator), [obs, state])
        rows = tf.TensorSpec([], tf.int32, "batch_size")
        self.initial_state = traced(initial_state, [rows])
        names = estimate_names(policy, spec)
        self.estimates = {n: traced(_estimate(policy, translator, n), [obs, state]) for n in names}
        self.signatures = {
            "serving_default": _flat(self.act, translator, state),
            **{n: _flat(f, translator, state, n) for n, f in self.estimates.items()},
        }
        functions = {"act": self.act, "initial_state": self.initial_state, **self.estimates}
        self.module = tf.Module()
        for name, function in functions.items():
            setattr(self.module, name, function)
        captured = [f.get_concrete_function().captured_inputs for f in functions.values()]
        read = {id(handle) for handles in captured for handle in handles}
        self.module.exported_variables = [v for v in policy.variables if id(v.handle) in read]

    def write(self, folder: pathlib.Path) -> None:
        """Writes the SavedModel, without the gradients of functions that have their own: acting needs none."""
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(self.module, str(folder), signatures=self.signatures, options=options)

    def lite(self) -> bytes:
        """The signature 'serving_default' for batches of 1, as a LiteRT file.

        Raises:
          SettingError: a policy that the converter refuses, as it does bfloat16.
        """
        translator = Translator(self._spec, lite=True)
        state = tree.map_structure(free_spec, self._policy.initial_state(1, {}))
        flat = _flat(_act(self._policy, translator), translator, state, batch_size=1)
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [flat.get_concrete_function()], self.module
        )
        try:
            return converter.convert()
        except Exception as error:  # the converter raises types of its own, with pages of trace
            raise SettingError(
                f"lite: LiteRT cannot run this policy ({str(error).splitlines()[0]}); export without it"
            ) from error


def estimate_names(policy: Policy, spec: EnvSpec) -> list[str]:
    """Names of what a policy estimates beside its action, see `Policy.estimates`; [] where it has none."""
    if not hasattr(policy, "estimates"):
        return []
    example = example_batch(spec.observation_space, 1)
    return sorted(policy.estimates(example, policy.initial_state(1, {})))


def _act(policy: Policy, translator: Translator) -> Any:
    def act(observation: Any, state: Any) -> dict[str, Any]:
        step = policy.step(translator.observation(observation), state, {}, {}, False)
        return {"action": translator.action(step.action), "state": step.state}

    return act


def _estimate(policy: Policy, translator: Translator, name: str) -> Any:
    def estimate(observation: Any, state: Any) -> Any:
        return translator.by_part(
            policy.estimates(translator.observation(observation), state)[name]
        )

    return estimate


def free_spec(x: Any) -> tf.TensorSpec:
    """The spec of a tensor [1, ...] with any number of rows."""
    x = tf.convert_to_tensor(x)
    return tf.TensorSpec([None, *x.shape[1:]], x.dtype)


def _flat(
    function: Any, translator: Translator, state: Any, name: str = "", batch_size: int | None = None
) -> Any:
    """A function of (observation, state) with one named tensor per leaf, see `export`; for serving.

    Args:
      state: a nest of specs.
      name: of the output; '': the function gives 'action' and 'state'.
    """
    obs = translator.observation_specs(batch_size)
    leaves = named_leaves("observation", obs)
    specs = [tf.TensorSpec(s.shape, s.dtype, n) for n, s in leaves.items()]
    for i, spec in enumerate(tree.flatten(state)):
        specs.append(tf.TensorSpec([batch_size, *spec.shape[1:]], spec.dtype, f"state_{i}"))

    def flat(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        given = iter(tensors)
        first = _fill(obs, given)
        out = function(first, tree.unflatten_as(state, list(given)))
        if name:
            return named_leaves(name, out)
        states = {f"state_{i}": x for i, x in enumerate(tree.flatten(out["state"]))}
        return {**named_leaves("action", out["action"]), **states}

    return tf.function(flat, input_signature=specs, autograph=False)


def named_leaves(name: str, nest: Any) -> dict[str, Any]:
    """{name of a leaf: leaf} in the order of the nest; the name is `name` and the keys that lead to it, see
    `tfrl/spaces.py`."""
    return {space_lib.path_name(name, path): leaf for path, leaf in _walk(nest)}


def _walk(nest: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(nest, dict):
        for key, part in nest.items():
            yield from _walk(part, (*path, space_lib.key_name(key)))
    elif isinstance(nest, tuple):
        for i, part in enumerate(nest):
            yield from _walk(part, (*path, i))
    else:
        yield path, nest


def _fill(nest: Any, leaves: Iterator[Any]) -> Any:
    """The nest with the next of `leaves` in the place of each leaf."""
    if isinstance(nest, dict):
        return {key: _fill(part, leaves) for key, part in nest.items()}
    if isinstance(nest, tuple):
        return tuple(_fill(part, leaves) for part in nest)
    return next(leaves)


def export(policy: Policy, spec: EnvSpec, folder: pathlib.Path, lite: bool = False) -> pathlib.Path:
    """Writes the greedy policy as a SavedModel; replaces an older export in one step.

    The loaded object has `act(observation, state) -> {'action': [B, ...], 'state': [B, ...]}` and
    `initial_state(batch_size) -> state`, any batch size. Observations are as the environment of `spec` gives them, in
    the dtypes of its space, and each row of the action is one that its action space contains; both are nests like the
    spaces. The signature 'serving_default' takes and gives one tensor per leaf: 'observation' or 'observation_<key>',
    'action' or 'action_<key>', 'state_<i>'. See `tfrl/spaces.py` for the form of keys. Where the algorithm has them,
    there are also functions and signatures 'probabilities' and 'q_values', see `Policy.estimates`.

    Args:
      lite: also write `policy.tflite`, 'serving_default' with batch size 1.

    Raises:
      SettingError: with `lite`, a policy that the converter refuses, as it does bfloat16; an older export stays.
    """
    return save(Exported(policy, spec), folder, lite)


def save(exported: Exported, folder: pathlib.Path, lite: bool = False) -> pathlib.Path:
    """Writes what `export` describes, of functions that have been traced before."""
    with files.replacing(folder) as scratch:
        exported.write(scratch)
        if lite:
            (scratch / "policy.tflite").write_bytes(exported.lite())
    return folder
