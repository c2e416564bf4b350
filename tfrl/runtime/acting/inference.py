"""Engines that run a policy's step on NumPy arrays: the traced function, or the same graph in
TensorFlow's LiteRT interpreter.

A traced call costs some 0.2 ms whatever it computes; the interpreter runs a small dense policy in some 0.01 ms. For
convolutions the traced function wins. `make_engine` times both on the real policy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tree

from tfrl.agent import Policy
from tfrl.errors import SettingError
from tfrl.explore.noise import regenerate
from tfrl.nn.torsos import example_batch
from tfrl.types import EnvSpec, NoiseSpec, PolicyStep


class StepSignature:
    """Specs of the arguments of `Policy.step` for a fixed batch size.

    Args:
      policy: whose noise and state are read.
      spec: environment spec.
      batch_size: rows B.
      knobs: names of the knobs; none are fed when `explore` is False.
      explore: fixed at tracing.
    """

    def __init__(
        self, policy: Policy, spec: EnvSpec, batch_size: int, knobs: Sequence[str], explore: bool
    ):
        def like(x: Any) -> tf.TensorSpec:
            return tf.TensorSpec(x.shape, x.dtype)

        self.batch_size, self.explore = batch_size, explore
        self.noise = dict(policy.noise) if explore else {}
        # Noise that is held for whole episodes: their first state may depend on it.
        held = self.episode_noise = {
            name: tf.TensorSpec([batch_size, *n.shape], tf.float32)
            for name, n in self.noise.items()
            if n.hold_env_steps is None
        }
        self.args = (
            tree.map_structure(like, example_batch(spec.observation_space, batch_size)),
            tree.map_structure(
                lambda x: like(tf.convert_to_tensor(x)),
                policy.initial_state(batch_size, {k: tf.zeros(held[k].shape) for k in held}),
            ),
            {name: tf.TensorSpec([batch_size], tf.float32) for name in (knobs if explore else ())},
            {
                name: tf.TensorSpec([batch_size, *n.shape], tf.float32)
                for name, n in self.noise.items()
            },
        )

    def trace(self, policy: Policy) -> tf.types.experimental.ConcreteFunction:
        """Traces `step` of a policy for these specs, with its own variables.

        Args:
          policy: with the noise and the state of the one that this signature was made of.

        Returns:
          A function of (obs, state, knobs, noise), in the order of `args`, to a `PolicyStep`.
        """
        explore = self.explore

        def step(obs: Any, state: Any, knobs: Any, noise: Any) -> PolicyStep:
            return policy.step(obs, state, knobs, noise, explore)

        return tf.function(step, autograph=False).get_concrete_function(*self.args)

    def draw(self, rng: np.random.Generator, steps: int) -> dict[str, np.ndarray]:
        """Noise for that many steps, {name: float32 [steps, B, ...]}; see `NoiseStream` for what is held."""
        return {
            name: _draw(rng, spec, (steps, self.batch_size)) for name, spec in self.noise.items()
        }


class NoiseStream:
    """Exploration noise of B environments. Held noise is redrawn when its period or the episode ends.

    Args:
      signature: of the engine that it is for.
      rng: draws.

    Attributes:
      size: B.
      holds: some noise goes on from step to step, so that `restart` is to be called.
      seeds: {name of an extra: int32 [B, 2]} of the seeded noise of the present step; {} where none is seeded.
    """

    def __init__(self, signature: StepSignature, rng: np.random.Generator):
        self._rng, self.size = rng, signature.batch_size
        specs = signature.noise
        self._each = {k: n for k, n in specs.items() if n.hold_env_steps == 1}
        self._held = {k: n for k, n in specs.items() if n.hold_env_steps != 1}
        self._processes = {k: n for k, n in self._each.items() if n.kind == "ou"}
        self._values = {
            k: np.zeros((self.size, *n.shape), np.float32)
            for k, n in (self._held | self._processes).items()
        }
        self._regenerate = {k: _regenerator(n) for k, n in specs.items() if n.seeded}
        self.seeds = {seed_name(k): np.zeros((self.size, 2), np.int32) for k in self._regenerate}
        self._age = np.zeros(self.size, np.int64)  # env steps of each episode so far
        self.holds = bool(self._values)

    def steps(self, count: int) -> Iterator[dict[str, np.ndarray]]:
        """{name: float32 [B, ...]} of each of the next `count` steps; held arrays change with the next one."""
        seeds: dict[str, np.ndarray] = {}
        drawn = {k: self._drawn(k, n, (count, self.size), seeds) for k, n in self._each.items()}
        for t in range(count):
            noise = {name: x[t] for name, x in drawn.items()}
            if self.holds:
                self._renew(noise)
                noise.update(self._values)
            for name, x in seeds.items():
                self.seeds[name] = x[t]
            yield noise

    def state(self) -> dict[str, Any]:
        """Held noise, its seeds and its age, for `restore`; the owner of the generator saves that."""
        return {
            "values": {k: x.copy() for k, x in self._values.items()},
            "seeds": {k: x.copy() for k, x in self.seeds.items()},
            "age": self._age.copy(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on with what `state` holds, of a stream over the same noise."""
        for name, values in state["values"].items():
            self._values[name][...] = values
        self.seeds.update(state["seeds"])
        self._age[:] = state["age"]

    def take_back(self) -> None:
        """The last step was not made: held noise is as old as before it."""
        self._age -= 1

    def restart(self, is_first: np.ndarray) -> None:
        """A new episode begins in the rows `is_first`, bool [B]."""
        if self.holds:
            self._age[is_first] = 0

    def _drawn(
        self, name: str, spec: NoiseSpec, leading: tuple[int, ...], seeds: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Float32 [*leading, *shape]; where the noise is seeded, the seeds go into `seeds`."""
        if name not in self._regenerate:
            return _draw(self._rng, spec, leading)
        made = self._rng.integers(-(2**31), 2**31, (*leading, 2), np.int32)
        seeds[seed_name(name)] = made
        return self._regenerate[name](made).numpy()

    def _renew(self, noise: Mapping[str, np.ndarray]) -> None:
        """Steps the processes, whose normal draws are in `noise`, and draws anew what is due."""
        begins = self._age == 0
        for name, spec in self._processes.items():
            x = self._values[name]
            x[begins] = 0.0
            x *= 1.0 - spec.theta * spec.dt
            x += spec.sigma * math.sqrt(spec.dt) * noise[name]
        for name, spec in self._held.items():
            due = self._age % spec.hold_env_steps if spec.hold_env_steps else self._age
            rows = np.flatnonzero(due == 0)
            if len(rows):
                seeds: dict[str, np.ndarray] = {}
                self._values[name][rows] = self._drawn(name, spec, (len(rows),), seeds)
                for extra, made in seeds.items():
                    self.seeds[extra][rows] = made
        self._age += 1


class Start:
    """The recurrent state with which episodes begin, see `Policy.initial_state`.

    Args:
      policy: whose it is.
      signature: of its step.

    Attributes:
      constant: leaves [B, ...] where the state is always the same; None where noise or weights decide.
    """

    def __init__(self, policy: Policy, signature: StepSignature):
        self.constant: Any = None
        self._names, self._reads = list(signature.episode_noise), []
        specs, size = signature.episode_noise, signature.batch_size
        if not tree.flatten(signature.args[1]):
            self.constant = signature.args[1]
            return
        self._make = tf.function(
            lambda noise: policy.initial_state(size, noise), autograph=False
        ).get_concrete_function(specs)
        self._reads = list(self._make.graph.variables)
        self._variables = list(policy.variables)
        if not self._names and not self._reads:
            self.constant = self([])

    def __call__(self, noise: Mapping[str, Any]) -> Any:
        """The state of B new episodes as arrays, with the weights of the last `load`.

        Args:
          noise: of their first step.
        """
        made = self._make({name: tf.convert_to_tensor(noise[name]) for name in self._names})
        return tree.map_structure(lambda x: x.numpy(), made)

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes published values of the policy's variables, where the state depends on any."""
        if self._reads:
            for variable, array in zip(self._variables, arrays, strict=True):
                variable.assign(array)


class States:
    """The policy's recurrent states of B environments; each begins anew with an episode.

    Args:
      engine: that acts.

    Attributes:
      value: before the next step, leaves [B, ...].
      carries: there is a state, so that `step` is to be called.
      drawn: new states depend on noise or weights, so that `begin` is to be called.
    """

    def __init__(self, engine: Engine):
        self._start, size = engine.start, engine.signature.batch_size
        zeros = lambda spec: np.zeros(spec.shape, spec.dtype.as_numpy_dtype)
        specs, self.drawn = engine.signature.args[1], engine.start.constant is None
        self.value = tree.map_structure(zeros, specs) if self.drawn else engine.start.constant
        self.carries = bool(tree.flatten(specs))
        self._begins = np.ones(size, np.bool_)  # rows whose next step is the first of an episode

    def begin(self, noise: Mapping[str, Any]) -> None:
        """Makes the states of the rows that begin an episode with the next step, whose noise is given."""
        if self._begins.any():
            self.value = reset_rows(self.value, self._start(noise), self._begins)

    def step(self, state: Any, is_first: np.ndarray) -> None:
        """Takes the states after a step; new episodes begin in the rows `is_first`, bool [B]."""
        if self.drawn:
            self.value, self._begins = state, is_first
        else:
            self.value = reset_rows(state, self._start.constant, is_first)

    def state(self) -> dict[str, Any]:
        """For `restore`."""
        return {"value": tree.map_structure(np.array, self.value), "begins": self._begins.copy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave."""
        self.value, self._begins = state["value"], state["begins"]


class Kept:
    """The leaves of a recurrent state that a step returns as it got them, e.g. weights that are held for an episode.

    Engines bind them once, and again when they are given other arrays: no step copies them.

    Args:
      step: traced for `signature`.
      signature: of it.

    Attributes:
      leaves: bool of each leaf of the state.
      all: there are leaves, and no others.
    """

    def __init__(self, step: tf.types.experimental.ConcreteFunction, signature: StepSignature):
        first = len(tree.flatten(signature.args[0]))
        inputs = step.graph.inputs[first : first + len(tree.flatten(signature.args[1]))]
        paths = [path for path, _ in tree.flatten_with_path(step.structured_outputs)]
        outputs = [x for path, x in zip(paths, step.graph.outputs) if path[0] == "state"]
        # A graph returns what it got through identities.
        self.leaves = [
            _behind_identities(made) is got for got, made in zip(inputs, outputs, strict=True)
        ]
        self.all = bool(self.leaves) and all(self.leaves)


class FunctionEngine:
    """Runs the traced step on the policy's own variables."""

    name = "function"

    def __init__(self, policy: Policy, signature: StepSignature):
        self.policy, self.signature = policy, signature
        self._variables = list(policy.variables)
        traced = signature.trace(policy)
        self._kept = Kept(traced, signature)
        self.kept = self._kept.leaves
        self._step, self._copies = _cast_ahead(traced, policy)
        # Noise of which the first state is made may be read by no step.
        inputs = traced.graph.inputs[: len(tree.flatten(signature.args))]
        specs = signature.args[3]
        of_noise = zip(sorted(specs), inputs[len(inputs) - len(specs) :], strict=True)
        self._read = [name for name, tensor in of_noise if tensor.consumers()]
        unread = specs.keys() - set(self._read)
        self._unread = {name: tf.zeros(specs[name].shape) for name in unread}
        self._bound: dict[
            int, tuple[Any, tf.Tensor]
        ] = {}  # leaf of the state: its array, the tensor of that
        self.start = Start(policy, signature)

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes published values of `policy.variables`."""
        for variable, array in zip(self._variables, arrays, strict=True):
            variable.assign(array)
        for copy, variable in self._copies:
            copy.assign(tf.cast(variable, copy.dtype))

    def act(
        self, obs: Any, state: Any, knobs: Mapping[str, Any], noise: Mapping[str, Any]
    ) -> PolicyStep:
        """One step on arrays, leaves [B, ...]; returns arrays."""
        if any(self._kept.leaves):
            return self._act_keeping(obs, state, knobs, noise)
        flat = [tf.convert_to_tensor(_dense(x)) for x in _flatten(obs, state, knobs, noise)]
        return tree.map_structure(
            lambda x: x.numpy(), self._step(*tree.unflatten_as(self.signature.args, flat))
        )

    def _act_keeping(
        self, obs: Any, state: Any, knobs: Mapping[str, Any], noise: Mapping[str, Any]
    ) -> PolicyStep:
        """`act`, where some leaves of the state are kept."""
        kept, leaves = self._kept.leaves, tree.flatten(state)
        for i, (keeps, leaf) in enumerate(zip(kept, leaves, strict=True)):
            if keeps and (i not in self._bound or self._bound[i][0] is not leaf):
                self._bound[i] = (leaf, tf.constant(leaf))
        inner = [self._bound[i][1] if kept[i] else leaf for i, leaf in enumerate(leaves)]
        made = self._step(
            tree.map_structure(lambda x: tf.convert_to_tensor(_dense(x)), obs),
            tree.unflatten_as(state, [tf.convert_to_tensor(x) for x in inner]),
            {name: tf.convert_to_tensor(x) for name, x in knobs.items()},
            {**{name: tf.convert_to_tensor(noise[name]) for name in self._read}, **self._unread},
        )
        numbers = lambda nest: tree.map_structure(lambda x: x.numpy(), nest)
        if not self._kept.all:
            new = tree.flatten(made.state)
            state = tree.unflatten_as(
                state, [old if k else x.numpy() for k, old, x in zip(kept, leaves, new)]
            )
        return PolicyStep(numbers(made.action), state, numbers(dict(made.extras)))


class LiteEngine:
    """Runs the step in the LiteRT interpreter, the policy's variables fed as inputs of the graph.

    Raises:
      SettingError: the policy's graph cannot be converted; the message has the reason.
    """

    name = "lite"

    def __init__(self, policy: Policy, signature: StepSignature):
        self.policy, self.signature = policy, signature
        self.start = Start(policy, signature)
        step = signature.trace(policy)
        self._outputs = step.structured_outputs
        self._kept = Kept(step, signature)
        self.kept = self._kept.leaves
        interpreter = self._interpreter = tf.lite.Interpreter(
            model_content=_convert(step, policy), num_threads=1
        )
        interpreter.allocate_tensors()
        position = {_index(d["name"]): d["index"] for d in interpreter.get_input_details()}
        num_inputs = len(tree.flatten(signature.args))
        # Inputs that the graph does not read are pruned by the converter.
        self._inputs = [position.get(i) for i in range(num_inputs)]
        obs, state, knobs, noise = signature.args
        # One array as observation and no state but one that is kept: the common case, without walking a nest at every
        # step. LiteRT computes with uint16, but its Python interpreter takes no arrays of it; see `_convert`.
        no_state = isinstance(state, tuple) and not state
        self._plain = (
            isinstance(obs, tf.TensorSpec)
            and obs.dtype != tf.uint16
            and (no_state or self._kept.all)
        )
        self._state_set: Any = () if no_state else None
        first = len(tree.flatten(obs))
        self._leaves = dict(enumerate(range(first, first + len(self._kept.leaves))))
        self._bound: dict[int, Any] = {}  # leaf of the state: array that was set last
        before = num_inputs - len(knobs) - len(noise)
        names = [*[None] * before, *sorted(knobs), *sorted(noise)]
        fed = [
            (name, index) for name, index in zip(names, self._inputs) if index is not None and name
        ]
        self._knobs = [(name, index) for name, index in fed if name in knobs]
        self._noise = [(name, index) for name, index in fed if name in noise]
        self._knobs_set: Mapping[str, Any] | None = None
        self._weights = [position.get(num_inputs + i) for i in range(len(policy.variables))]
        # In the order of the graph's outputs. Their names say nothing: outputs that are equal share
        # one, and one that is an input bears the input's.
        results = [d["index"] for d in interpreter.get_output_details()]
        paths = [path for path, _ in tree.flatten_with_path(self._outputs)]
        of_state = [i for i, path in enumerate(paths) if path[0] == "state"]
        returned = {i for i, keeps in zip(of_state, self._kept.leaves, strict=True) if keeps}
        self._results = [index for i, index in enumerate(results) if i not in returned]
        self._returned = [i in returned for i in range(len(results))]
        # An action and nothing else: the common case is not worth walking a nest at every step.
        self._bare = [p for i, p in enumerate(paths) if i not in returned] == [("action",)]
        self.load([v.numpy() for v in policy.variables])

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes published values of `policy.variables`."""
        for index, array in zip(self._weights, arrays, strict=True):
            if index is not None:
                self._interpreter.set_tensor(index, array)
        self.start.load(arrays)

    def act(
        self, obs: Any, state: Any, knobs: Mapping[str, Any], noise: Mapping[str, Any]
    ) -> PolicyStep:
        """One step on arrays, leaves [B, ...]; returns arrays. A `knobs` that was given before is not read again."""
        interpreter = self._interpreter
        if self._plain:
            if self._inputs[0] is not None:
                interpreter.set_tensor(self._inputs[0], _dense(obs))
            if knobs is not self._knobs_set:
                for name, index in self._knobs:
                    interpreter.set_tensor(index, knobs[name])
                self._knobs_set = knobs
            for name, index in self._noise:
                interpreter.set_tensor(index, noise[name])
            if state is not self._state_set:
                self._bind(tree.flatten(state))
                self._state_set = state
        else:
            flat = tree.flatten((obs, state, dict(knobs), dict(noise)))
            kept = {self._leaves[i] for i, keeps in enumerate(self._kept.leaves) if keeps}
            self._bind([flat[i] for i in self._leaves.values()])
            for i, (index, array) in enumerate(zip(self._inputs, flat, strict=True)):
                if index is not None and i not in kept:
                    wide = array.dtype == np.uint16
                    interpreter.set_tensor(index, array.astype(np.int32) if wide else _dense(array))
        interpreter.invoke()
        results = [interpreter.get_tensor(index) for index in self._results]
        if self._bare and self._plain:
            return PolicyStep(results[0], state, {})
        if len(self._results) < len(self._returned):
            made, old = iter(results), iter(tree.flatten(state))
            kept = (leaf for leaf, keeps in zip(old, self._kept.leaves) if keeps)
            results = [next(kept) if returned else next(made) for returned in self._returned]
        return tree.unflatten_as(self._outputs, results)

    def _bind(self, leaves: Sequence[np.ndarray]) -> None:
        """Sets the leaves of the state that are kept, where they are other arrays than before."""
        for i, leaf in enumerate(leaves):
            if self._kept.leaves[i] and self._bound.get(i) is not leaf:
                index = self._inputs[self._leaves[i]]
                if index is not None:
                    self._interpreter.set_tensor(index, leaf)
                self._bound[i] = leaf


Engine = FunctionEngine | LiteEngine


def _draw(rng: np.random.Generator, spec: NoiseSpec, leading: tuple[int, ...]) -> np.ndarray:
    """Float32 [*leading, *shape]."""
    draw = rng.random if spec.kind == "uniform" else rng.standard_normal
    return draw((*leading, *spec.shape), dtype=np.float32)


def _behind_identities(tensor: tf.Tensor) -> tf.Tensor:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def seed_name(name: str) -> str:
    """The extra that stores the seeds of seeded noise."""
    return f"{name}_seed"


def _regenerator(spec: NoiseSpec) -> Callable[[np.ndarray], tf.Tensor]:
    """`regenerate` of noise, traced once for any number of seeds."""
    signature = [tf.TensorSpec([None, 2], tf.int32)]
    traced = tf.function(lambda seeds: regenerate(spec, seeds), signature, autograph=False)
    return lambda seeds: tf.reshape(traced(seeds.reshape(-1, 2)), [*seeds.shape[:-1], *spec.shape])


def reset_rows(state: Any, initial: Any, is_first: np.ndarray) -> Any:
    """The policy's state with the `is_first` rows, bool [B], back at `initial`; leaves [B, ...]."""
    if not is_first.any():
        return state

    def pick(new: np.ndarray, first: np.ndarray) -> np.ndarray:
        return np.where(is_first.reshape(-1, *[1] * (new.ndim - 1)), first, new)

    return tree.map_structure(pick, state, initial)


def make_engine(
    mode: str,
    policy: Policy,
    signature: StepSignature,
    announce: Callable[[str], None] = lambda text: None,
    timed: bool = True,
) -> Engine:
    """The engine that `mode` names; 'auto' times both on zeros and keeps the faster.

    Args:
      timed: False: 'auto' is the interpreter wherever it can run the policy.

    Raises:
      SettingError: `mode` is 'lite' and the policy cannot be converted.
    """
    if mode == "function":
        return FunctionEngine(policy, signature)
    if mode == "lite":
        return LiteEngine(policy, signature)
    function = FunctionEngine(policy, signature)
    try:
        lite = LiteEngine(policy, signature)
    except SettingError as error:
        announce(f"acting: function (lite is unavailable: {error})")
        return function
    if not timed:
        announce("acting: lite")
        return lite
    times = {engine: _time(engine) for engine in (function, lite)}
    best = min(times, key=times.__getitem__)
    figures = ", ".join(f"{e.name} {t * 1e6:.0f} us" for e, t in times.items())
    announce(f"acting: {best.name} ({figures} per batch of {signature.batch_size})")
    return best


def _time(engine: Engine, repeats: int = 5, calls: int = 20) -> float:
    """Seconds per step, the best of some repeats."""
    args = tree.map_structure(
        lambda s: np.zeros(s.shape, s.dtype.as_numpy_dtype), engine.signature.args
    )
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _ in range(calls):
            engine.act(*args)
        best = min(best, (time.perf_counter() - start) / calls)
    return best


def _flatten(obs: Any, state: Any, knobs: Mapping[str, Any], noise: Mapping[str, Any]) -> list[Any]:
    if (
        isinstance(obs, np.ndarray) and isinstance(state, tuple) and not state
    ):  # the hot case, without walking a nest
        return [obs, *(knobs[k] for k in sorted(knobs)), *(noise[k] for k in sorted(noise))]
    return tree.flatten((obs, state, dict(knobs), dict(noise)))


def _dense(array: Any) -> Any:
    """Images that are views with their channels moved to the end, as ALE's are, copied into one piece channel by
    channel: NumPy's general copy, which TensorFlow would make, takes seven times as long.
    """
    if not isinstance(array, np.ndarray) or array.ndim < 4 or array.flags.c_contiguous:
        return array
    out = np.empty(array.shape, array.dtype)
    for channel in range(array.shape[-1]):
        out[..., channel] = array[..., channel]
    return out


def _index(name: str) -> int:
    """Trailing number of a converted tensor's name: `serving_default_arg_12:0` -> 12."""
    return int(name.split(":")[0].rsplit("_", 1)[1]) if "_" in name else 0


def _fed(step: Any, policy: Policy) -> tuple[Any, dict[str, int], list[tf.Tensor]]:
    """The graph of a traced step with a placeholder in the place of every op that reads a variable.

    Returns:
      The `GraphDef` of what its outputs need, {name of a placeholder: index of the variable}, and the tensors of its
      arguments.

    Raises:
      SettingError: it uses something else than its variables, or these other than by reading them.
    """
    graph = step.graph
    variables = list(policy.variables)
    handles = {id(v.handle): i for i, v in enumerate(variables)}
    captured = {}
    for outer, inner in graph.captures:
        if id(outer) not in handles:
            raise SettingError(
                f"its graph captures {inner.op.name}, which is not one of its variables"
            )
        captured[inner.op.name] = handles[id(outer)]
    definition = graph.as_graph_def()
    reads = {}
    for node in definition.node:
        data = [
            name for name in node.input if not name.startswith("^")
        ]  # a pure graph needs no control edges
        del node.input[:]
        node.input.extend(data)
        if node.op == "ReadVariableOp" and node.input[0] in captured:
            index = reads[node.name] = captured[node.input[0]]
            _make_placeholder(node, variables[index].dtype)
    definition = _needed(definition, graph)
    if {node.name for node in definition.node} & captured.keys():
        raise SettingError("its graph uses variables other than by reading them")
    return definition, reads, [t for t in graph.inputs if t.op.name not in captured]


def _make_placeholder(node: Any, dtype: tf.DType) -> None:
    """Turns a node of a `GraphDef` into one."""
    node.op = "Placeholder"
    del node.input[:]
    node.attr.clear()
    node.attr["dtype"].type = dtype.as_datatype_enum


def _needed(definition: Any, graph: Any) -> Any:
    """The part of `graph`'s definition that its outputs need."""
    names = [t.op.name for t in graph.outputs]
    return tf.compat.v1.graph_util.extract_sub_graph(definition, names)


def _cast_ahead(
    step: Any, policy: Policy
) -> tuple[Callable[..., PolicyStep], list[tuple[tf.Variable, tf.Variable]]]:
    """A traced step that reads copies where it casts whole variables, as layers of mixed precision do.

    For a few rows casting the weights costs as much as a layer.

    Returns:
      The function, and (copy, variable) of every cast; without any the step as it is.
    """
    try:
        definition, reads, inputs = _fed(step, policy)
    except SettingError:
        return step, []
    variables, casts = list(policy.variables), {}
    for node in definition.node:
        if node.op == "Cast" and node.input[0] in reads:
            dtype = tf.dtypes.as_dtype(node.attr["DstT"].type)
            casts[node.name] = (variables[reads[node.input[0]]], dtype)
            _make_placeholder(node, dtype)
    if not casts:
        return step, []
    graph = step.graph
    definition = _needed(definition, graph)
    kept = {node.name for node in definition.node}
    copies = {name: tf.Variable(tf.cast(v, dtype)) for name, (v, dtype) in casts.items()}

    @tf.function(input_signature=[tf.TensorSpec(t.shape, t.dtype) for t in inputs], autograph=False)
    def feedforward(*args: tf.Tensor) -> list[tf.Tensor]:
        feeds = {t.name: x for t, x in zip(inputs, args, strict=True) if t.op.name in kept}
        values = {name: variables[i] for name, i in reads.items()} | copies
        feeds.update({f"{k}:0": v.read_value() for k, v in values.items() if k in kept})
        names = [t.name for t in graph.outputs]
        return tf.graph_util.import_graph_def(definition, input_map=feeds, return_elements=names)

    lean = feedforward.get_concrete_function()

    def run(*args: Any) -> PolicyStep:
        return tree.unflatten_as(step.structured_outputs, lean(*tree.flatten(args)))

    return run, [(copies[name], variable) for name, (variable, _) in casts.items()]


def _convert(step: Any, policy: Policy) -> bytes:
    """A LiteRT model of a traced step; its inputs are `arg_0..` for the step's arguments, then one per variable.

    Every op that reads a variable becomes an input of the graph, so that new weights are fed, not compiled in.
    Arguments of uint16 are taken as int32.
    """
    definition, reads, inputs = _fed(step, policy)
    variables = list(policy.variables)
    outputs = [t.name for t in step.graph.outputs]
    kept = {node.name for node in definition.node}
    specs = [tf.TensorSpec(t.shape, tf.int32 if t.dtype == tf.uint16 else t.dtype) for t in inputs]
    specs += [tf.TensorSpec(v.shape, v.dtype) for v in variables]
    specs = [tf.TensorSpec(s.shape, s.dtype, f"arg_{i}") for i, s in enumerate(specs)]

    @tf.function(input_signature=specs, autograph=False)
    def feedforward(*args: tf.Tensor) -> list[tf.Tensor]:
        feeds = {
            t.name: tf.cast(args[i], t.dtype) if t.dtype == tf.uint16 else args[i]
            for i, t in enumerate(inputs)
            if t.op.name in kept
        }
        feeds.update(
            {f"{name}:0": args[len(inputs) + i] for name, i in reads.items() if name in kept}
        )
        results = tf.graph_util.import_graph_def(
            definition, input_map=feeds, return_elements=outputs
        )
        return [tf.identity(x, f"result_{i}") for i, x in enumerate(results)]

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [feedforward.get_concrete_function()]
    )
    try:
        return converter.convert()
    except Exception as error:  # the converter raises types of its own, with pages of trace
        raise SettingError(f"the converter refuses it: {str(error).splitlines()[0]}") from error
