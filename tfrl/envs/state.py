"""The state of an environment as plain data: what a checkpoint keeps so that a resumed run goes on in the same episode.

The layers of an environment (wrappers and what they wrap) are saved one by one. A layer may do it by itself:

  save_state() -> state   the state of this layer: None, numbers, strings, bytes and arrays in lists, tuples and dicts
  load_state(state)       puts it back, after a reset of another environment of the same settings

The generator `np_random` of such a layer is saved beside it. The layers of gymnasium, ale-py, MinAtar and tfrl need no
such methods, since their state is in their attributes (in the simulation too, for MuJoCo and ALE). A class of a user
whose attributes hold all of its state, and hold nothing but plain data, arrays and generators, may say so with a class
attribute `state_in_attributes = True`.

Objects that several attributes share stay shared. Nothing is pickled, so that a file of this data holds no code.
"""

from __future__ import annotations

import collections
import enum
import importlib
import random
import types
import zlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

# Packages whose environments keep their state in attributes.
_KNOWN = ("gymnasium", "ale_py", "minatar", "tfrl")
# Pictures and their windows, which are made of the state.
_RENDERERS = ("pygame", "gymnasium.envs.mujoco.mujoco_rendering")
_CONSTANTS = (
    type, types.ModuleType, types.BuiltinFunctionType, types.MethodType, enum.Enum, np.dtype, np.ufunc,
    gym.envs.registration.EnvSpec,
)  # fmt: skip
_KIND = "kind"  # key of the dicts that stand for what is no plain data


class NoState(Exception):  # noqa: N818 - an answer rather than an error
    """The state cannot be saved, or not be put back; the message has the reason."""


def capture(env: Any) -> list:
    """The state of an environment, or of a `gymnasium.vector.VectorEnv`: plain data and arrays, copied.

    Raises:
      NoState: a layer does not save its state, or holds what is no plain data.
    """
    return _Saving().layers(env)


def put_back(env: Any, state: list) -> None:
    """Brings an environment that was made with the same settings, and reset, to a captured state.

    Raises:
      NoState: it is made in another way than the one of `state`; it must be reset then.
    """
    layers = _layers(env)
    if len(layers) != len(state):
        raise NoState("its wrappers are others")
    loading = _Loading()
    for layer, saved in zip(layers, state, strict=True):
        if saved["class"] != _class_name(layer):
            raise NoState(f"{saved['class']} is a {_class_name(layer)} now")
        loading.layer(layer, saved)


def _layers(env: Any) -> list[Any]:
    """From the outermost wrapper to the environment."""
    found = [env]
    while isinstance(found[-1], (gym.Wrapper, gym.vector.VectorWrapper)):
        found.append(found[-1].env)
    return found


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _of(package: str, value: Any) -> bool:
    module = type(value).__module__
    return module == package or module.startswith(f"{package}.")


def _own_methods(layer: Any) -> bool:
    return all(callable(getattr(type(layer), name, None)) for name in ("save_state", "load_state"))


def _is_atari(layer: Any) -> bool:
    return _class_name(layer) == "ale_py.env.AtariEnv"


class _Saving:
    """Turns the layers of one environment into plain data."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}  # id of an object that may be shared -> its number
        self._kept: list[Any] = []  # so that no id is used twice
        self._arrays: list[
            tuple[int, int, str]
        ] = []  # memory of each array, and where it was found

    def layers(self, env: Any) -> list:
        found = [self._layer(layer) for layer in _layers(env)]
        self._arrays.sort()
        for (_, end, one), (start, _, other) in zip(self._arrays, self._arrays[1:]):
            if start < end:
                raise NoState(f"{one} and {other} share memory")
        return found

    def _layer(self, layer: Any) -> dict[str, Any]:
        name = type(layer).__qualname__
        saved: dict[str, Any] = {"class": _class_name(layer)}
        if _own_methods(layer):
            saved["own"] = layer.save_state()
            saved["np_random"] = self._value(vars(layer).get("_np_random"), f"{name}.np_random")
        elif _is_atari(layer):
            saved["ale"] = layer.ale.cloneState(include_rng=True).serialize()
            saved["np_random"] = self._value(vars(layer).get("_np_random"), f"{name}.np_random")
        elif _saves_attributes(layer):
            saved["attributes"] = self._attributes(layer, name)
        else:
            raise NoState(f"{name} has no save_state and load_state")
        return saved

    def _attributes(self, value: Any, where: str) -> dict[str, Any]:
        inner = "env" if isinstance(value, (gym.Wrapper, gym.vector.VectorWrapper)) else ""
        return {
            name: self._value(part, f"{where}.{name}")
            for name, part in vars(value).items()
            if name != inner
        }

    def _value(self, value: Any, where: str) -> Any:
        if value is None or value.__class__ in (bool, int, float, str, bytes):
            return value
        if isinstance(value, np.generic):
            return value
        if isinstance(value, tuple) and value.__class__ is tuple:
            return tuple(self._value(part, f"{where}[{i}]") for i, part in enumerate(value))
        if _is_constant(value):
            return {_KIND: "constant"}
        if id(value) in self._numbers:
            return {_KIND: "shared", "number": self._numbers[id(value)]}
        number = self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)
        return {**self._object(value, where), "number": number}

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        if value.__class__ is np.ndarray:
            return {_KIND: "array", "value": self._array(value, where)}
        if value.__class__ in (list, collections.deque):
            parts = [self._value(part, f"{where}[{i}]") for i, part in enumerate(value)]
            more = {"maxlen": value.maxlen} if isinstance(value, collections.deque) else {}
            return {_KIND: type(value).__name__, "parts": parts, **more}
        if value.__class__ is set:
            return {_KIND: "set", "parts": [self._value(part, where) for part in value]}
        if value.__class__ is dict:
            items = [
                [self._value(key, where), self._value(part, f"{where}[{key!r}]")]
                for key, part in value.items()
            ]
            return {_KIND: "dict", "items": items}
        if value.__class__ is np.random.Generator:
            return {_KIND: "generator", "state": value.bit_generator.state}
        if value.__class__ is np.random.RandomState:
            return {_KIND: "random_state", "state": value.get_state(legacy=False)}
        if value.__class__ is random.Random:
            return {_KIND: "random", "state": value.getstate()}
        if isinstance(value, gym.Space):
            return {_KIND: "space", "parts": self._space(value, where)}
        if _of("mujoco", value) and type(value).__name__ == "MjModel":
            return {_KIND: "mj_model", "crc32": _model_checksum(value)}
        if _of("mujoco", value) and type(value).__name__ == "MjData":
            return {_KIND: "mj_data", **_simulation(value)}
        if _saves_attributes(value):
            attributes = self._attributes(value, where)
            return {_KIND: "object", "class": _class_name(value), "attributes": attributes}
        raise NoState(f"{where} is a {type(value).__module__}.{type(value).__qualname__}")

    def _array(self, array: np.ndarray, where: str) -> np.ndarray:
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if array.dtype.hasobject or owner.base is not None:
            raise NoState(f"{where} is an array over memory of something else, or of objects")
        if array.size:
            start, end = (
                np.lib.array_utils.byte_bounds(array)
                if hasattr(np.lib, "array_utils")
                else np.byte_bounds(array)
            )
            self._arrays.append((start, end, where))
        return array.copy()

    def _space(self, space: gym.Space, where: str) -> list:
        """The generators of a space and of its parts; a space itself does not change."""
        return [self._value(vars(part).get("_np_random"), where) for part in _parts(space)]


class _Loading:
    """Puts the layers of one environment back to saved data."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}  # number of a shared object -> the object

    def layer(self, layer: Any, saved: Mapping[str, Any]) -> None:
        if "own" in saved or "ale" in saved:
            layer._np_random = self._value(saved["np_random"], None)
        if "own" in saved:
            layer.load_state(saved["own"])
        elif "ale" in saved:
            ale_py = importlib.import_module("ale_py")
            layer.ale.restoreState(ale_py.ALEState(saved["ale"]))
        else:
            self._attributes(layer, saved["attributes"])

    def _attributes(self, live: Any, saved: Mapping[str, Any]) -> None:
        present = vars(live)
        values = {name: self._value(part, present.get(name)) for name, part in saved.items()}
        if isinstance(live, (gym.Wrapper, gym.vector.VectorWrapper)):
            values["env"] = live.env
        for name in present.keys() - values.keys():
            del present[name]
        present.update(values)

    def _value(self, saved: Any, live: Any) -> Any:
        if isinstance(saved, tuple):
            lives = live if isinstance(live, tuple) else ()
            return tuple(self._value(part, _at(lives, i)) for i, part in enumerate(saved))
        if not isinstance(saved, dict):
            return saved
        if saved[_KIND] == "constant":
            if live is None or not _is_constant(live):
                raise NoState("it holds other objects")
            return live
        if saved[_KIND] == "shared":
            return self._objects[saved["number"]]
        return self._object(saved, live)

    def _object(self, saved: dict[str, Any], live: Any) -> Any:
        kind, number = saved[_KIND], saved["number"]
        if kind in ("list", "deque"):
            value = [] if kind == "list" else collections.deque(maxlen=saved["maxlen"])
            self._objects[number] = value
            lives = list(live) if type(live).__name__ == kind else []
            value.extend(self._value(part, _at(lives, i)) for i, part in enumerate(saved["parts"]))
            return value
        if kind == "dict":
            value = self._objects[number] = {}
            lives = live if isinstance(live, dict) else {}
            for key, part in saved["items"]:
                key = self._value(key, None)
                value[key] = self._value(part, lives.get(key))
            return value
        if kind == "set":
            value = {self._value(part, None) for part in saved["parts"]}
        elif kind == "array":
            value = saved["value"]
        elif kind == "generator":
            value = _generator(saved["state"])
        elif kind == "random_state":
            value = np.random.RandomState()
            value.set_state(saved["state"])
        elif kind == "random":
            value = random.Random()
            value.setstate(saved["state"])
        else:
            value = self._objects[number] = live  # in which the rest is put back
            self._into(saved, live)
        self._objects[number] = value
        return value

    def _into(self, saved: Mapping[str, Any], live: Any) -> None:
        """Puts back what an object that is there anyway holds."""
        kind = saved[_KIND]
        if kind == "space":
            parts = _parts(live) if isinstance(live, gym.Space) else []
            if len(parts) != len(saved["parts"]):
                raise NoState("it holds other spaces")
            for part, rng in zip(parts, saved["parts"], strict=True):
                part._np_random = self._value(rng, None)
        elif kind == "mj_model":
            if type(live).__name__ != "MjModel" or _model_checksum(live) != saved["crc32"]:
                raise NoState("its MuJoCo model is another one")
        elif kind == "mj_data":
            if type(live).__name__ != "MjData":
                raise NoState("it holds no MuJoCo simulation")
            _simulate(live, saved)
        elif _class_name(live) != saved["class"]:
            raise NoState(f"{saved['class']} is a {_class_name(live)} now")
        else:
            self._attributes(live, saved["attributes"])


def _at(values: Any, index: int) -> Any:
    return values[index] if index < len(values) else None


def _saves_attributes(value: Any) -> bool:
    """Whether all state of an object is in its `__dict__`, judged by its class."""
    if not hasattr(value, "__dict__") or type(type(value)).__module__ not in ("builtins", "abc"):
        return False  # a class of a compiled library
    known = any(_of(package, value) for package in _KNOWN)
    return known or getattr(type(value), "state_in_attributes", False) is True


def _is_constant(value: Any) -> bool:
    """Objects that no step changes."""
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return all(_never_changes(content) for content in cells)
    return isinstance(value, _CONSTANTS) or any(_of(package, value) for package in _RENDERERS)


def _never_changes(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_never_changes, value))
    plain = (bool, int, float, complex, str, bytes, np.generic, type(None), gym.Space)
    return isinstance(value, plain) or _is_constant(value)


def _parts(space: gym.Space) -> list[gym.Space]:
    """A space and all spaces in it."""
    inner = getattr(space, "spaces", ())
    inner = inner.values() if isinstance(inner, Mapping) else inner
    return [space, *(part for child in inner for part in _parts(child))]


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    kind = getattr(np.random, state["bit_generator"], None)
    if not (isinstance(kind, type) and issubclass(kind, np.random.BitGenerator)):
        raise NoState(f"NumPy has no bit generator {state['bit_generator']}")
    rng = np.random.Generator(kind())
    rng.bit_generator.state = state
    return rng


# --- MuJoCo


def _integration() -> int:
    return int(importlib.import_module("mujoco").mjtState.mjSTATE_INTEGRATION)


def _simulation(data: Any) -> dict[str, Any]:
    """The state that integration needs, with warm starts, and what the last step derived from the one before.

    Some environments read the latter before their next step, so computing it anew would not give the same.
    """
    mujoco = importlib.import_module("mujoco")
    state = np.zeros(mujoco.mj_stateSize(data.model, _integration()))
    mujoco.mj_getState(data.model, data, state, _integration())
    return {"state": state, "derived": {k: x.copy() for k, x in _derived(data).items()}}


def _simulate(data: Any, saved: Mapping[str, Any]) -> None:
    mujoco = importlib.import_module("mujoco")
    if len(saved["state"]) != mujoco.mj_stateSize(data.model, _integration()):
        raise NoState("its MuJoCo simulation is another one")
    mujoco.mj_setState(data.model, data, saved["state"], _integration())
    mujoco.mj_forward(data.model, data)  # makes contacts and constraints, whose number varies
    for name, x in _derived(data).items():
        value = saved["derived"].get(name)
        if value is not None and value.shape == x.shape:
            x[...] = value


def _derived(data: Any) -> dict[str, np.ndarray]:
    """All arrays of a simulation but those of constraints, whose number varies."""
    found = {}
    for name in dir(data):
        if name.startswith(("_", "efc_", "iefc_", "contact", "efm_")):
            continue
        value = getattr(data, name)
        if isinstance(value, np.ndarray) and value.size and value.flags.writeable:
            found[name] = value
    return found


def _model_checksum(model: Any) -> int:
    mujoco = importlib.import_module("mujoco")
    buffer = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return zlib.crc32(buffer)
