"""A trained policy in the hands of its user: observations as the environment gives them, actions that it accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree

from tfrl import spaces as space_lib
from tfrl.agent import Policy
from tfrl.errors import SettingError
from tfrl.runtime.acting.inference import NoiseStream, StepSignature, reset_rows
from tfrl.runtime.serving.export import estimate_names, free_spec
from tfrl.runtime.serving.translate import Translator, exported_keys
from tfrl.types import EnvSpec, PolicyStep

spaces = gym.spaces


class LoadedPolicy:
    """A policy with its weights, which takes and gives values of the environment's own spaces.

    Args:
      policy: of the algorithm, with its weights.
      spec: environment spec.
      knobs: number of rows -> {name: float32 [rows]}, of the exploration at the end of training.

    Attributes:
      policy: as given; it takes and gives values of `spec.observation_space` and `spec.action_space`.
      spec: as given.
      observation_space, action_space: as the environment declares them.
      state: of the memory after the last `predict`, leaves [B, ...]; None before the first one and after `reset`, ()
        without a memory. It may be set to one that was read before.
    """

    def __init__(
        self,
        policy: Policy,
        spec: EnvSpec,
        knobs: Callable[[int], Mapping[str, Any]] = lambda rows: {},
    ):
        self.policy, self.spec, self.state = policy, spec, None
        self._knobs, self._translator = knobs, Translator(spec)
        self.observation_space = self._translator.observation_space
        self.action_space = self._translator.action_space
        self._has_memory = bool(tree.flatten(policy.initial_state(1, {})))
        self._functions: dict[Any, Any] = {}  # traced ones, by what they compute
        self._noise: NoiseStream | None = None
        self._rng = np.random.default_rng(0)

    @property
    def variables(self) -> Any:
        """The policy's variables."""
        return self.policy.variables

    def initial_state(self, batch_size: int) -> Any:
        """State of so many episodes at their start, leaves [batch_size, ...]; () without a memory."""
        return self.policy.initial_state(batch_size, {})

    def step(
        self,
        obs: Any,
        state: Any = (),
        knobs: Mapping[str, Any] | None = None,
        noise: Mapping[str, Any] | None = None,
        explore: bool = False,
    ) -> PolicyStep:
        """`Policy.step` in the environment's values, outside graphs; it keeps no state.

        Args:
          obs: a batch, leaves [B, ...].
          state: as `initial_state` or the last step gave it.
          knobs, noise: for an exploring step, see `Policy.step`.

        Returns:
          The action, the state after it and extras, leaves [B, ...].
        """
        arrays, single, _ = self._rows(obs)
        if single:
            raise SettingError(
                "step: got one observation, expected a batch of them, leaves [B, ...]; predict takes either"
            )
        step = self.policy.step(
            self._translator.observation(arrays),
            state,
            dict(knobs or {}),
            dict(noise or {}),
            explore,
        )
        action = _own_keys(self.action_space, self._translator.action(step.action), _whole)
        return step._replace(action=action)

    def predict(self, obs: Any, *, deterministic: bool = True, episode_start: Any = False) -> Any:
        """Chooses what to do next.

        A policy with a memory remembers what it has seen since the last `reset`, so that it must see every observation
        of an episode once, in their order.

        Args:
          obs: one observation as the environment gives it, or a batch of them, leaves [B, ...]; its shape decides.
          deterministic: the greedy action. False: a draw with the exploration of the end of training, which for
            policies that are probabilities is a draw from these.
          episode_start: whether an episode begins with this observation, for all rows or bool [B]: the memory of these
            rows is cleared before.

        Returns:
          One action as `action_space` contains it, or a batch, leaves [B, ...].

        Raises:
          SettingError: an observation that is not of the observation space, or another number of rows than since the
            last `reset`, where there is a memory.
        """
        arrays, single, rows = self._rows(obs)
        state = self._state(rows)
        is_first = np.broadcast_to(np.asarray(episode_start, bool), (rows,))
        state = reset_rows(
            state, tree.map_structure(np.asarray, self.initial_state(rows)), is_first
        )
        if deterministic:
            action, new = self._function("greedy")(arrays, state)
        else:
            knobs, noise = self._draw(rows, is_first)
            action, new = self._function("explore", sorted(knobs))(arrays, state, knobs, noise)
        self.state = tree.map_structure(lambda x: x.numpy(), new)
        action = tree.map_structure(lambda x: x.numpy(), action)
        return _own_keys(self.action_space, action, _first if single else _whole)

    def reset(self, seed: int | None = None) -> None:
        """Forgets what it has seen: new episodes begin.

        Args:
          seed: of the draws of `predict(..., deterministic=False)`; None: they go on.
        """
        self.state = self._noise = None
        if seed is not None:
            self._rng = np.random.default_rng(seed)

    def q_values(self, obs: Any) -> np.ndarray:
        """The return that each action promises, float32 [n], or [B, n] of a batch; of a team [N, n], or [B, N, n].

        Entry i belongs to the action `action_space.start + i`. An action that the mask forbids has a very low number.
        With a memory, the values go on from `state` and leave it as it is.

        Raises:
          SettingError: the algorithm has no action values; an observation that is not of the observation space.
        """
        return self._estimate("q_values", obs)

    def probabilities(self, obs: Any) -> Any:
        """The probability of each action, a nest like the action space, with another axis [B] of a batch.

        For a Discrete float32 [n], entry i is of `start + i`; of a MultiDiscrete [*shape, largest], with zeros beyond a
        component's choices; of a MultiBinary those of ones [*shape]. With a memory as `q_values`.

        Raises:
          SettingError: the algorithm has no probabilities, or a part of the actions is a Box; an observation that is
            not of the observation space.
        """
        return self._estimate("probabilities", obs)

    def _estimate(self, name: str, obs: Any) -> Any:
        known = estimate_names(self.policy, self.spec)
        if name not in known:
            has = f"it has {' and '.join(known)}" if known else "it has none of the kind"
            raise SettingError(
                f"{name}: this policy on {self.action_space} does not compute them; {has}. Algorithms of action values "
                "have q_values, those of policy gradients probabilities, unless a part of the actions is a Box"
            )
        arrays, single, rows = self._rows(obs)
        found = self._function(name)(arrays, self._state(rows))
        found = tree.map_structure(lambda x: x.numpy(), found)
        return _own_keys(self.action_space, found, (lambda space, x: x[0]) if single else _whole)

    def _state(self, rows: int) -> Any:
        """The state to go on from."""
        if not self._has_memory or self.state is None:
            return tree.map_structure(np.asarray, self.initial_state(rows))
        known = len(tree.flatten(self.state)[0])
        if known != rows:
            raise SettingError(
                f"predict: got {rows} observations after {known}, and this policy has a memory of each; call reset() "
                "before another number of them"
            )
        return self.state

    def _draw(self, rows: int, is_first: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Knobs and noise of the next exploring step."""
        knobs = dict(self._knobs(rows))
        if self._noise is None or self._noise.size != rows:
            signature = StepSignature(self.policy, self.spec, rows, sorted(knobs), explore=True)
            self._noise = NoiseStream(signature, self._rng)
        self._noise.restart(is_first)
        (noise,) = self._noise.steps(1)
        return knobs, noise

    def _function(self, kind: str, knobs: Any = ()) -> Any:
        """The traced function of this kind, for any number of rows."""
        if kind not in self._functions:
            obs = self._translator.observation_specs()
            state = tree.map_structure(free_spec, self.initial_state(1))
            specs: list[Any] = [obs, state]
            policy, translator = self.policy, self._translator

            def act(obs: Any, state: Any, knobs: Any, noise: Any, explore: bool) -> Any:
                step = policy.step(translator.observation(obs), state, knobs, noise, explore)
                return translator.action(step.action), step.state

            if kind == "greedy":
                function = lambda obs, state: act(obs, state, {}, {}, False)
            elif kind == "explore":
                specs.append({name: tf.TensorSpec([None], tf.float32) for name in knobs})
                noise = policy.noise.items()
                specs.append({k: tf.TensorSpec([None, *n.shape], tf.float32) for k, n in noise})
                function = lambda *args: act(*args, True)
            else:
                function = lambda obs, state: translator.by_part(
                    policy.estimates(translator.observation(obs), state)[kind]
                )
            self._functions[kind] = tf.function(function, input_signature=specs, autograph=False)
        return self._functions[kind]

    def exported(self, obs: Any) -> Any:
        """One observation or a batch as `act` of an export takes it: leaves [B, ...] in the dtypes of the space.

        Raises:
          SettingError: it is not of the observation space.
        """
        return self._rows(obs)[0]

    def own_row(self, action: Any) -> Any:
        """The first row of an action as `act` of an export gives it, arrays [B, ...], as `action_space` contains it."""
        return _own_keys(self.action_space, action, _first)

    def _rows(self, obs: Any) -> tuple[Any, bool, int]:
        """The observation as a batch with `exported_keys` in the dtypes of its space, whether it was one only, and its
        number of rows."""
        is_pair = isinstance(obs, tuple) and len(obs) == 2 and isinstance(obs[1], Mapping)
        if is_pair and not isinstance(self.observation_space, spaces.Tuple):
            raise SettingError(
                f"observation is a tuple of 2: expected {self.observation_space}; an environment's reset gives obs, "
                "info"
            )
        arrays: dict[tuple, np.ndarray] = {}
        single = rows = None
        for path, space in space_lib.leaves(self.observation_space):
            part = "observation" + "".join(f"[{key!r}]" for key in path)
            array = _array(obs, path, space, part)
            shape = list(space.shape)
            one = list(array.shape) == shape
            if not one and list(array.shape[1:]) != shape:
                raise SettingError(
                    f"{part} has shape {list(array.shape)}: expected {shape}, or [B{''.join(f', {n}' for n in shape)}] "
                    "of a batch"
                )
            count = 1 if one else len(array)
            if single not in (None, one) or rows not in (None, count):
                raise SettingError(
                    f"{part} has shape {list(array.shape)}, the parts before it are those of "
                    f"{'one observation' if single else f'a batch of {rows}'}: expected the same of all"
                )
            single, rows = one, count
            arrays[path] = array[None] if one else array
        return _nest(self.observation_space, arrays), bool(single), int(rows or 0)


def _array(obs: Any, path: tuple, space: gym.Space, part: str) -> np.ndarray:
    """A part of an observation, in the dtype of its space."""
    for key in path:
        try:
            obs = obs[key]
        except (KeyError, IndexError, TypeError):
            raise SettingError(f"{part} is missing: expected {space}") from None
    try:
        array = np.asarray(obs)
    except ValueError:  # parts of different shapes
        raise SettingError(
            f"{part} is a {type(obs).__name__} of {len(obs)}: expected {space}"
        ) from None
    if not np.can_cast(array.dtype, space.dtype, "same_kind"):
        raise SettingError(
            f"{part} has dtype {array.dtype}: expected {space.dtype}, as {space} says"
        )
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        counts = np.asarray(getattr(space, "nvec", getattr(space, "n", None))).astype(np.int64)
        index = np.subtract(array, space.start, dtype=np.int64, casting="unsafe")
        if (index < 0).any() or (index >= counts).any():
            raise SettingError(f"{part} is {array.tolist()}: expected values of {space}")
    with np.errstate(over="ignore"):  # told below
        array = array.astype(space.dtype, copy=False)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise SettingError(
            f"{part} has values that are not finite: expected numbers of {space.dtype}, as in training"
        )
    return array


def _nest(space: gym.Space, arrays: Mapping[tuple, Any], path: tuple = ()) -> Any:
    """A nest like `space`, with `exported_keys`, of arrays by their own paths."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        inner = [_nest(part, arrays, (*path, key)) for key, part in space_lib.parts(space)]
        if isinstance(space, spaces.Tuple):
            return tuple(inner)
        return dict(zip(exported_keys(space), inner))
    return arrays[path]


def _own_keys(space: gym.Space, nest: Any, fn: Callable[[gym.Space, Any], Any]) -> Any:
    """A nest like an action space with `exported_keys` -> one with its own keys; `fn` of (space, value) for values."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        keys = range(len(space.spaces))
        if isinstance(space, spaces.Dict):
            keys = exported_keys(space)
        found = [(s, nest[key]) for key, (_, s) in zip(keys, space_lib.parts(space))]
        return space_lib.join(space, [_own_keys(s, x, fn) for s, x in found])
    return fn(space, nest)


def _whole(space: gym.Space, x: Any) -> Any:
    return x


def _first(space: gym.Space, x: np.ndarray) -> Any:
    """The first row as `space.sample()` gives it: a scalar of a Discrete, else an array."""
    return x[0] if isinstance(space, spaces.Discrete) else x[0, ...]
