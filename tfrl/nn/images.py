"""How images are read: which Box is one, where its channels are, and what its values are divided by."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import tensorflow as tf

LAYOUTS = ("auto", "channels_last", "channels_first")
PICTURE_LEAST = 36  # pixels of a side; what is smaller is a grid
GRID_LEAST = 3
CATEGORIES = 10.0  # a grid's values up to this one are distinguished, see `Reader`
_HUGE = 1e6  # limits beyond it do not describe the values


def is_image(space: gym.Space) -> bool:
    """A Box of three axes, or of four, a stack of such images; a uint8 Box of two axes of at least 36 pixels."""
    if not isinstance(space, gym.spaces.Box):
        return False
    if len(space.shape) == 2:
        return space.dtype == np.uint8 and min(space.shape) >= PICTURE_LEAST
    return len(space.shape) in (3, 4)


@dataclasses.dataclass(frozen=True)
class Reader:
    """From images of a Box [B, *shape] to what convolutions take, float32 [B, height, width, channels].

    Attributes:
      space: of one observation, see `is_image`.
      layout: one of `LAYOUTS`; 'auto': channels first where the last two axes are equal and the first is not the same,
        or where the first is the smallest and the others are at least 8.
      scale: divisor of the values; None: picked from the limits of the space, the largest magnitude that they allow; 1
        for bool, for limits within [-1, 1] and without limits. A grid (less than 36 pixels a side)
        whose space allows 255 may hold intensities or, as MiniGrid's, small categories: then every value is read twice,
        divided by 255, and divided by 10 with larger values cut off.
    """

    space: gym.spaces.Box
    layout: str = "auto"
    scale: float | None = None

    @property
    def channels_first(self) -> bool:
        """The axes of one image are [channels, height, width]."""
        if self.layout != "auto" or len(self.space.shape) == 2:
            return self.layout == "channels_first" and len(self.space.shape) > 2
        first, middle, last = self.space.shape[-3:]
        if first == middle:
            return False
        return middle == last or (first < min(middle, last) and min(middle, last) >= 8)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[height, width, channels] of what is read."""
        if len(self.space.shape) == 2:
            height, width, channels = *self.space.shape, 1
        elif self.channels_first:
            channels, height, width = self.space.shape[-3:]
        else:
            height, width, channels = self.space.shape[-3:]
        stack = self.space.shape[0] if len(self.space.shape) == 4 else 1
        return height, width, channels * stack * (2 if self._twice else 1)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Images [B, *shape], of any dtype."""
        rank = len(self.space.shape)
        if rank == 2:
            x = x[..., None]
        if self.channels_first:
            x = tf.transpose(x, [0, 2, 3, 1] if rank == 3 else [0, 3, 4, 1, 2])
        elif rank == 4:
            x = tf.transpose(x, [0, 2, 3, 1, 4])
        if rank == 4:
            x = tf.reshape(x, [-1, x.shape[1], x.shape[2], x.shape[3] * x.shape[4]])
        x = tf.cast(x, tf.float32)
        if self._twice:
            categories = tf.minimum(x, CATEGORIES) * (1.0 / CATEGORIES)
            return tf.concat([x * (1.0 / 255.0), categories], -1)
        scale = self._limit() if self.scale is None else self.scale
        return x if scale == 1.0 else x * (1.0 / scale)

    @property
    def line(self) -> str:
        """Start-up line: the choices made and how to change them; '' where there was none to make.

        Pictures [height, width, channels] of bytes and planes of bool need no choice.
        """
        said, rank = [], len(self.space.shape)
        last = rank == 3 and not self.channels_first
        if self.layout == "auto" and not last:
            order = "channels first" if self.channels_first else "channels last"
            what = {
                2: "one channel",
                3: order,
                4: f"a stack of {self.space.shape[0]} images, {order}",
            }
            said.append(f"{what[rank]} (--image_layout)")
        bytes_or_planes = self.space.dtype in (np.uint8, np.bool_) and self._limit() in (1.0, 255.0)
        if self.scale is None and (self._twice or not bytes_or_planes):
            how = "values not scaled"
            if self._twice:
                how = (
                    f"values read twice, divided by 255 and by {CATEGORIES:g}, because the space does not show "
                    "whether they are intensities or categories"
                )
            elif self._limit() != 1.0:
                how = f"values divided by {self._limit():g}"
            said.append(f"{how} (--image_scale)")
        if not said:
            return ""
        shape = ", ".join(map(str, self.space.shape))
        return f"observation {self.space.dtype.name} [{shape}]: an image, {'; '.join(said)}"

    @property
    def _twice(self) -> bool:
        if self.scale is not None or self._limit() != 255.0:
            return False
        rank, shape = len(self.space.shape), self.space.shape
        sides = shape[-2:] if self.channels_first or rank == 2 else shape[-3:-1]
        return GRID_LEAST <= min(sides) < PICTURE_LEAST

    def _limit(self) -> float:
        """Largest magnitude that the space allows, or 1."""
        if self.space.dtype == np.bool_:
            return 1.0
        low, high = float(self.space.low.min()), float(self.space.high.max())
        largest = max(abs(low), abs(high))
        return largest if 1.0 < largest <= _HUGE else 1.0
