"""SavedModel export: a policy that runs with TensorFlow alone."""

from __future__ import annotations

import pathlib
from typing import Any

import tensorflow as tf
import tree

from tfrl import files
from tfrl.agent import Policy
from tfrl.config.settings import SettingError
from tfrl.nn.torsos import example_batch
from tfrl.types import EnvSpec


class _Exported(tf.Module):
    """Holds the variables that acting reads, not the policy, so that nothing of tfrl or Keras is needed to load it."""

    def __init__(self, policy: Policy, spec: EnvSpec):
        super().__init__()

        def free(x: Any) -> tf.TensorSpec:
            x = tf.convert_to_tensor(x)
            return tf.TensorSpec([None, *x.shape[1:]], x.dtype)

        obs = tree.map_structure(free, example_batch(spec.observation_space, 1))
        state = tree.map_structure(free, policy.initial_state(1))

        def act(observation: Any, state: Any) -> dict[str, Any]:
            step = policy.step(observation, state, {}, {}, False)
            return {"action": step.action, "state": step.state}

        def initial_state(batch_size: tf.Tensor) -> Any:
            # Rows of a fresh state are alike; one is repeated to the batch that is asked for.
            return tree.map_structure(
                lambda x: tf.repeat(tf.convert_to_tensor(x), batch_size, axis=0),
                policy.initial_state(1),
            )

        self.act = tf.function(act, input_signature=[obs, state], autograph=False)
        self.initial_state = tf.function(
            initial_state,
            input_signature=[tf.TensorSpec([], tf.int32, "batch_size")],
            autograph=False,
        )
        self.signature = _flat_signature(act, obs, state)
        functions = [f.get_concrete_function() for f in (self.act, self.initial_state)]
        read = {id(handle) for f in functions for handle in f.captured_inputs}
        self.exported_variables = [v for v in policy.variables if id(v.handle) in read]


def _flat_signature(act: Any, obs: Any, state: Any) -> Any:
    """`act` with one named tensor per leaf, see `leaf_names`, and 'state_<i>'; for serving."""
    names = leaf_names("observation", obs)
    specs = [tf.TensorSpec(s.shape, s.dtype, n) for n, s in zip(names, tree.flatten(obs))]
    for i, spec in enumerate(tree.flatten(state)):
        specs.append(tf.TensorSpec(spec.shape, spec.dtype, f"state_{i}"))
    num_obs = len(tree.flatten(obs))

    def flat(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        out = act(
            tree.unflatten_as(obs, tensors[:num_obs]), tree.unflatten_as(state, tensors[num_obs:])
        )
        action = out["action"]
        return {
            **dict(zip(leaf_names("action", action), tree.flatten(action))),
            **{f"state_{i}": x for i, x in enumerate(tree.flatten(out["state"]))},
        }

    return tf.function(flat, input_signature=specs, autograph=False)


def leaf_names(name: str, nest: Any) -> list[str]:
    """Names of the leaves in the order of `tree.flatten`: `name`, or `name` and the keys that lead to each, joined by
    '_'; a name that is taken gets another '_'."""
    names: list[str] = []
    for path, _ in tree.flatten_with_path(nest):
        candidate = "_".join([name, *map(str, path)])
        while candidate in names:
            candidate += "_"
        names.append(candidate)
    return names


def export(policy: Policy, spec: EnvSpec, folder: pathlib.Path, lite: bool = False) -> pathlib.Path:
    """Writes the greedy policy as a SavedModel; replaces an older export in one step.

    The loaded object has `act(observation, state) -> {'action': [B, ...], 'state': [B, ...]}` and
    `initial_state(batch_size) -> state`, any batch size; observations are raw, as the environment of `spec` gives them,
    and an action is a nest like the action space. The signature 'serving_default' takes and gives one tensor per leaf:
    'observation' or 'observation_<key>', 'action' or 'action_<key>', 'state_<i>'.

    Args:
      lite: also write `policy.tflite`, the same signature with batch size 1.

    Raises:
      SettingError: with `lite`, a policy that the converter refuses, as it does bfloat16; an older export stays.
    """
    with files.replacing(folder) as scratch:
        _write(policy, spec, scratch, lite)
    return folder


def _write(policy: Policy, spec: EnvSpec, scratch: pathlib.Path, lite: bool) -> None:
    """Writes the SavedModel to `scratch`; see `export`."""
    module = _Exported(policy, spec)
    tf.saved_model.save(module, str(scratch), signatures={"serving_default": module.signature})
    if lite:
        fixed = [
            tf.TensorSpec([1, *s.shape[1:]], s.dtype, s.name)
            for s in module.signature.input_signature
        ]
        concrete = tf.function(
            module.signature.python_function, autograph=False
        ).get_concrete_function(*fixed)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
        try:
            (scratch / "policy.tflite").write_bytes(converter.convert())
        except Exception as error:  # the converter raises types of its own, with pages of trace
            raise SettingError(
                f"lite: LiteRT cannot run this policy ({str(error).splitlines()[0]}); export without it"
            ) from error
