"""Between the values that an environment gives and takes and those of a policy, as graphs.

These are the casts of `envs/spaces.py`, which acting and evaluation make in NumPy, for policies that leave the run: an
export and a loaded policy take observations as the environment gives them and give actions that its space contains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl import spaces as space_lib
from tfrl.envs import spaces as casts
from tfrl.types import EnvSpec

spaces = gym.spaces

# LiteRT has no inputs of these types; the file takes the next wider one in their place.
_LITE_DTYPES = {"uint16": np.int32, "uint64": np.int64}


class Translator:
    """Observations to a policy, and actions from it.

    Args:
      spec: environment spec.
      lite: use operations that LiteRT has: limits of a Box are applied in float32, a limit that float32 does not have
        is the next float32 inside.

    Attributes:
      observation_space, action_space: as the environment declares them.
    """

    def __init__(self, spec: EnvSpec, lite: bool = False):
        own_obs, own_action = spec.env_observation_space, spec.env_action_space
        self.observation_space = spec.observation_space if own_obs is None else own_obs
        self.action_space = spec.action_space if own_action is None else own_action
        self._lite = lite
        self._leaves = casts.leaves(self.observation_space)
        self._pack = casts.packer(self.observation_space)

    def observation_specs(self, batch_size: int | None = None) -> Any:
        """A nest of `tf.TensorSpec` [B, *shape] like the environment's observation, with `exported_keys`."""
        return self._specs(self.observation_space, batch_size)

    def observation(self, obs: Any) -> Any:
        """The environment's observation, leaves [B, ...], keys as in `observation_specs` -> the policy's."""
        arrays = []
        for leaf, x in zip(self._leaves, _values(self.observation_space, obs), strict=True):
            if not isinstance(leaf.start, int):
                x = tf.cast(x, tf.int64) - leaf.start
            arrays.append(tf.cast(x, leaf.dtype))
        return self._pack(arrays)

    def action(self, action: Any) -> Any:
        """The policy's action, leaves [B, ...] -> the environment's, in its dtypes, within its limits, with
        `exported_keys`."""
        return self.by_part(action, self._to_env)

    def by_part(self, nest: Any, fn: Callable[[gym.Space, Any], Any] = lambda space, x: x) -> Any:
        """A nest like the policy's action -> one like the environment's, with `exported_keys`.

        Args:
          fn: from (the environment's space, value) of each part to what stands in its place.
        """

        def convert(space: gym.Space, x: Any) -> Any:
            if not isinstance(space, (spaces.Dict, spaces.Tuple)):
                return fn(space, x)
            names, found = space_lib.part_names(space), space_lib.parts(space)
            inner = [convert(part, x[name]) for name, (_, part) in zip(names, found)]
            if isinstance(space, spaces.Tuple):
                return tuple(inner)
            return dict(zip(exported_keys(space), inner))

        return convert(self.action_space, nest)

    def _specs(self, space: gym.Space, batch_size: int | None) -> Any:
        if isinstance(space, spaces.Dict):
            keys = exported_keys(space)
            return {k: self._specs(s, batch_size) for k, s in zip(keys, space.spaces.values())}
        if isinstance(space, spaces.Tuple):
            return tuple(self._specs(s, batch_size) for s in space.spaces)
        dtype = _LITE_DTYPES.get(space.dtype.name, space.dtype) if self._lite else space.dtype
        return tf.TensorSpec([batch_size, *space.shape], dtype)

    def _to_env(self, space: gym.Space, x: tf.Tensor) -> tf.Tensor:
        dtype = _LITE_DTYPES.get(space.dtype.name, space.dtype) if self._lite else space.dtype
        if isinstance(space, spaces.Box):
            low, high = space.low, space.high
            if self._lite and dtype != np.float32:
                inside = _inside(low, high)
                if inside is not None:
                    return tf.cast(_clip(x, *inside), dtype)
            return _clip(tf.cast(x, dtype), low, high)
        start = np.asarray(getattr(space, "start", 0)).astype(np.int64)
        return tf.cast(tf.cast(x, tf.int64) + start, dtype) if np.any(start) else tf.cast(x, dtype)


def exported_keys(space: spaces.Dict) -> list[str]:
    """The keys of a Dict in an export: its own, or where one is no string, which a SavedModel cannot hold, the names
    of all."""
    if all(isinstance(key, str) for key in space.spaces):
        return [str(key) for key in space.spaces]
    return space_lib.part_names(space)


def _values(space: gym.Space, nest: Any) -> Iterator[Any]:
    """The leaves of a nest with `exported_keys`, in the order of the space."""
    if isinstance(space, spaces.Dict):
        for key, part in zip(exported_keys(space), space.spaces.values()):
            yield from _values(part, nest[key])
    elif isinstance(space, spaces.Tuple):
        for part, x in zip(space.spaces, nest, strict=True):
            yield from _values(part, x)
    else:
        yield nest


def _clip(x: tf.Tensor, low: np.ndarray, high: np.ndarray) -> tf.Tensor:
    """As NumPy does it in `envs/spaces.action_cast`."""
    if np.isfinite(low).any():
        x = tf.maximum(x, low)
    return tf.minimum(x, high) if np.isfinite(high).any() else x


def _inside(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The widest float32 limits within `low` and `high`; None where no float32 lies between two of them."""
    up, down = np.float32(np.inf), np.float32(-np.inf)
    low32, high32 = low.astype(np.float32), high.astype(np.float32)
    low32 = np.where(low32 < low, np.nextafter(low32, up), low32)
    high32 = np.where(high32 > high, np.nextafter(high32, down), high32)
    return None if (low32 > high32).any() else (low32, high32)
