"""Layout of n-step transitions as Reverb items, and their way back into a batch.

A transition is one packed byte column. Stacked frames keep a column of their own, in which every
frame is stored once and items point at the k frames of each of their two stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree

from tfrl.errors import SettingError
from tfrl.replay.layout import Layout, Shapes, apart
from tfrl.replay.packing import Field, Packing
from tfrl.spaces import leaves, map_leaves
from tfrl.types import EnvSpec, Transition


def observation_fields(space: gym.Space, prefix: str) -> tuple[list[Field], Any]:
    """Fields of a flattened observation, and the nest of their names."""
    fields = [
        ("/".join([prefix, *map(str, path)]), tuple(part.shape), np.dtype(part.dtype).name)
        for path, part in leaves(space)
    ]
    names = iter(fields)
    return fields, map_leaves(lambda _: next(names)[0], space)


def stacked(frames: tf.Tensor) -> tf.Tensor:
    """Frames uint8 [N, k, H, W] -> observations [N, H, W, k]."""
    frames = tf.convert_to_tensor(frames)
    if frames.shape[1] != 4:
        return tf.transpose(frames, [0, *range(2, frames.shape.rank), 1])
    # Four bytes are one word, and arithmetic on words is four times as fast as moving bytes.
    first, second, third, fourth = (tf.cast(frames[:, i], tf.int32) for i in range(4))
    words = first + second * 2**8 + third * 2**16 + fourth * 2**24  # wraps in the sign bit
    return tf.bitcast(words, tf.uint8)


class TransitionLayout(Layout):
    """How a `Transition` of an environment is stored.

    Args:
      spec: environment spec.
      prioritized: items carry their initial priority.

    Attributes:
      packing: layout of the byte column; its records have the fields 'action', 'reward', 'discount', with
        `EnvSpec.reward_parts` 'rewards' and, without stacked frames, those of `obs_tm1` and `obs_t`.
      num_parts: R, of the reward; 0 without parts.
      step_discount: the environment gives discounts of its own.
      frames: k newest frames in an observation, 0 when observations are not stacked frames.
      frame_shape: of one frame, () without stacked frames.
      obs_tm1, obs_t: nests of field names, shaped like an observation; None for stacked frames.

    Raises:
      SettingError: stacked frames inside a nest.
    """

    def __init__(self, spec: EnvSpec, prioritized: bool):
        if spec.frame_stack and not isinstance(spec.observation_space, gym.spaces.Box):
            raise SettingError(
                f"observe_previous with env={spec.name!r}: this replay stores stacked frames that stand "
                "alone, not beside other observations; set observe_previous=false, "
                "or use an algorithm without replay, or one with a memory (core)"
            )
        self.prioritized = prioritized
        self.num_parts, self.step_discount = len(spec.reward_parts), spec.step_discount
        self.frames = spec.frame_stack
        self.frame_shape = tuple(spec.observation_space.shape[:-1]) if self.frames else ()
        before, self.obs_tm1 = (
            ([], None) if self.frames else observation_fields(spec.observation_space, "obs_tm1")
        )
        after, self.obs_t = (
            ([], None) if self.frames else observation_fields(spec.observation_space, "obs_t")
        )
        action = spec.action_space
        # 4-byte fields first keeps them aligned for NumPy whatever the observation holds.
        scalars: list[Field] = [
            ("reward", (), "float32"),
            ("discount", (), "float32"),
            (
                "action",
                tuple(action.shape),
                "float32" if isinstance(action, gym.spaces.Box) else "int32",
            ),
        ]
        if self.num_parts:
            scalars.append(("rewards", (self.num_parts,), "float32"))
        self.packing = Packing([*scalars, *before, *after])

    @property
    def row_nbytes(self) -> int:
        """Bytes of an item without its frames."""
        return self.packing.nbytes

    def rows(self) -> TransitionLayout:
        """Implements `Layout.rows`: a row is the packed record."""
        return self

    def same_row(self, shapes: Shapes) -> bool:
        """Implements `Layout.same_row`."""
        return shapes["packed"][-1] == self.packing.nbytes

    def of_rows(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Implements `Rows.of_rows`."""
        return {"packed": rows}

    def signature(self) -> dict[str, tf.TensorSpec]:
        """Implements `Layout.signature`."""
        columns = {"packed": tf.TensorSpec([self.packing.nbytes], tf.uint8, "packed")}
        if self.frames:
            stack = tf.TensorSpec([self.frames, *self.frame_shape], tf.uint8)
            columns.update(frames_tm1=stack, frames_t=stack)
        elif self.prioritized:
            columns["priority"] = tf.TensorSpec([], tf.float32, "priority")
        return columns

    def decode(
        self, columns: Mapping[str, tf.Tensor], probability: tf.Tensor | None = None
    ) -> Transition:
        """Implements `Layout.decode`."""
        fields = self.packing.unpack(columns["packed"])
        if probability is None:
            probability = tf.ones_like(fields["reward"])
        if self.frames:
            obs_tm1, obs_t = stacked(columns["frames_tm1"]), stacked(columns["frames_t"])
        else:
            obs_tm1 = tree.map_structure(fields.__getitem__, self.obs_tm1)
            obs_t = tree.map_structure(fields.__getitem__, self.obs_t)
        return Transition(
            obs_tm1,
            fields["action"],
            fields["reward"],
            fields["discount"],
            obs_t,
            probability,
            fields.get("rewards", ()),
        )

    def batches(
        self, columns: Mapping[str, tf.Tensor], probability: tf.Tensor, count: int, size: int
    ) -> Callable[[tf.Tensor], Transition]:
        """Implements `Layout.batches`: rows are narrow, and cheaper to decode all at once."""
        batches = apart(self.decode(columns, probability), count, size)
        return lambda i: tree.map_structure(lambda x: x[i], batches)

    def share(self, batch: Transition, index: tf.Tensor, count: int) -> Transition:
        """The rows of a batch that replica `index` of `count` trains on."""
        if count == 1:
            return batch
        size = batch.reward_t.shape[0] // count
        start = index * size
        return tree.map_structure(lambda x: x[start : start + size], batch)
