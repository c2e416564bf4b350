"""From observations as environments give them to what a network takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.nn.images import Reader, is_image
from tfrl.spaces import leaf_spaces, leaf_values
from tfrl.types import ACTION_MASK, SIDE_INPUTS


def action_mask(obs: Any) -> tf.Tensor | None:
    """The mask [B, A] of a Dict observation, or None when the environment has none."""
    return obs.get(ACTION_MASK) if isinstance(obs, dict) else None


def model_space(space: gym.Space) -> gym.Space:
    """The part of an observation space that a network reads: a Dict loses its side inputs (`types.SIDE_INPUTS`)."""
    if not isinstance(space, gym.spaces.Dict):
        return space
    rest = {k: s for k, s in space.spaces.items() if k not in SIDE_INPUTS}
    return next(iter(rest.values())) if len(rest) == 1 else gym.spaces.Dict(rest)


def model_input(obs: Any) -> Any:
    """The values that belong to `model_space`."""
    if not isinstance(obs, dict):
        return obs
    rest = {k: v for k, v in obs.items() if k not in SIDE_INPUTS}
    return next(iter(rest.values())) if len(rest) == 1 else rest


def pixels(image: tf.Tensor) -> tf.Tensor:
    """Images [B, height, width, channels] of bytes or bool as float32 in [0, 1]."""
    x = tf.cast(image, tf.float32)
    return x if image.dtype == tf.bool else x * (1.0 / 255.0)


class ImageOptions(NamedTuple):
    """How the images of an observation are read.

    Attributes:
      layout, scale: of their `Reader`.
      normalised: those of a float type come normalised, so that nothing is left to scale.
    """

    layout: str = "auto"
    scale: float | None = None
    normalised: bool = False


def reader(space: gym.spaces.Box, options: ImageOptions = ImageOptions()) -> Reader:  # noqa: B008 - immutable
    """How images of `space` are read."""
    scale = options.scale
    if scale is None and options.normalised and np.issubdtype(space.dtype, np.floating):
        scale = 1.0
    return Reader(space, options.layout, scale)


def leaves(obs: Any, space: gym.Space) -> list[tuple[Any, gym.Space]]:
    """(value, space) of every part of an observation that is no Dict or Tuple, in the order of its space."""
    return list(zip(leaf_values(space, obs), leaf_spaces(space), strict=True))


def flatten(
    obs: Any,
    space: gym.Space,
    rescale: bool = False,
    options: ImageOptions = ImageOptions(),  # noqa: B008 - immutable
) -> tf.Tensor:
    """Observations of any nest as one float32 vector per row [B, F].

    Box and MultiBinary are reshaped, the values of images scaled (`images.Reader`), Discrete and MultiDiscrete one-hot
    encoded, Dict and Tuple concatenated in the order of their space (keys sorted).

    Args:
      rescale: map each component of a Box that is bounded on both sides from its limits to [-1, 1]; not of images.
      options: of images.
    """
    if isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        parts = [flatten(o, s, rescale, options) for o, s in leaves(obs, space)]
        return tf.concat(parts, axis=1)
    if isinstance(space, gym.spaces.Discrete):
        return tf.one_hot(tf.cast(obs, tf.int32) - int(space.start), int(space.n))
    if isinstance(space, gym.spaces.MultiDiscrete):
        sizes = [int(n) for n in space.nvec.reshape(-1)]
        columns = tf.unstack(tf.reshape(tf.cast(obs, tf.int32), [-1, len(sizes)]), axis=1)
        return tf.concat([tf.one_hot(c, n) for c, n in zip(columns, sizes, strict=True)], axis=1)
    if is_image(space):
        read = reader(space, options)
        return tf.reshape(read(obs), [-1, int(np.prod(read.shape))])
    x = tf.reshape(obs, [-1, int(np.prod(space.shape))])
    x = tf.cast(x, tf.float32)
    if rescale and isinstance(space, gym.spaces.Box):
        low, high = (np.asarray(limit, np.float64).reshape(-1) for limit in (space.low, space.high))
        bounded = space.bounded_below.reshape(-1) & space.bounded_above.reshape(-1)
        bounded &= (low < high) & (high < 1e6) & (low > -1e6)  # huge limits say nothing
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        centre, half = (high + low) / 2, (high - low) / 2
        x = (x - centre.astype(np.float32)) / half.astype(np.float32)
    return x
