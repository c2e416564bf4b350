"""Unrolls of the environments of an actor as Reverb items: their layout, and the way back into a batch.

An item is of all environments, for a queue, or of one, for a replay that samples each by itself. It is one packed byte
column [T + 1, B, nbytes] (the last row holds only the observation after the last step), the recurrent state before the
first step, and two numbers. Stacked frames keep a column of their own, in which every frame
is stored once and each observation points at its k frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree

from tfrl.agent import Policy, Sequences
from tfrl.replay.layout import Layout, Shapes
from tfrl.replay.local_queue import join
from tfrl.replay.packing import Field, Packing
from tfrl.replay.sequence_rows import SequenceRows
from tfrl.replay.transitions import observation_fields
from tfrl.spaces import map_leaves
from tfrl.types import EnvSpec, PolicyStep, Trajectory

# A stack is stored anew where an environment restarts. Items have room for one restart in so many steps, and grow for
# more of them.
STEPS_PER_RESTART = 16

# Fields of a `Trajectory` with one entry for each column; the rest has time as its first axis.
PER_COLUMN = ("state", "version", "is_new", "probability")


class SequenceLayout(Layout):
    """How a `Trajectory` of an actor is stored.

    Args:
      spec: environment spec.
      item: length and discount.
      example: a policy's step for any number of rows, and the state before it: what is stored with each step.
      columns: B of an item.
      stack: k frames in an observation, to be stored once; 0: observations are stored as they come.

    Attributes:
      packing: of one step of one environment.
      columns, stack: see above.
      num_parts: R, of the reward; 0 without parts.
      step_discount: the environment gives discounts of its own.
      obs, action, extras, state: nests of field names.
      frames_name: name of the observation's leaf that holds the stack.
      frames_shape: of the frames of an item [B, F, H, W], () where they are not stored apart; writers raise F, up to
        `most_frames`, where episodes are short.
    """

    def __init__(
        self,
        spec: EnvSpec,
        item: Sequences,
        example: tuple[PolicyStep, Any],
        columns: int,
        stack: int,
    ):
        step, state = example
        self.item, self.columns, self.stack = item, columns, stack
        fields, self.obs = observation_fields(spec.observation_space, "obs")
        self.frames_name, frame_shape = "", ()
        if self.stack:
            spaces = tree.flatten(map_leaves(lambda space: space, spec.observation_space))
            names = tree.flatten(self.obs)
            self.frames_name = next(n for n, s in zip(names, spaces, strict=True) if _is_image(s))
            frame_shape = next(s for s in spaces if _is_image(s)).shape[:-1]
            fields = [f for f in fields if f[0] != self.frames_name]
            self.most_frames = (item.length + 1) * self.stack  # no two observations share one
            dtype = "uint16" if self.most_frames <= 2**16 else "int32"
            fields.append(("stack", (self.stack,), dtype))
        self.action, action_fields = _fields(step.action, "action")
        self.extras, extra_fields = _fields(dict(step.extras), "extras")
        self.state, state_fields = _fields(state, "state")
        self.num_parts, self.step_discount = len(spec.reward_parts), spec.step_discount
        flags = [(name, (), "bool") for name in ("is_last", "valid", "is_first")]
        names = ("reward", "discount", "discounted_return")
        scalars: list[Field] = [(name, (), "float32") for name in names]
        if self.num_parts:
            scalars.append(("rewards", (self.num_parts,), "float32"))
        steps = sorted([*scalars, *action_fields, *extra_fields, *fields], key=_width, reverse=True)
        self.packing = Packing([*steps, *flags])
        self.state_packing = Packing(sorted(state_fields, key=_width, reverse=True))
        restarts = -(-item.length // STEPS_PER_RESTART)
        room = item.length + self.stack + restarts * (self.stack - 1)
        self.frames_shape = (self.columns, room, *frame_shape) if self.stack else ()

    def signature(self) -> dict[str, tf.TensorSpec]:
        """Implements `Layout.signature`."""
        rows = [self.item.length + 1, self.columns, self.packing.nbytes]
        out = {
            "packed": tf.TensorSpec(rows, tf.uint8, "packed"),
            "facts": tf.TensorSpec([2], tf.int64, "facts"),
        }
        if self.state_packing.nbytes:
            shape = [self.columns, self.state_packing.nbytes]
            out["state"] = tf.TensorSpec(shape, tf.uint8, "state")
        if self.stack:
            shape = [self.columns, None, *self.frames_shape[2:]]
            out["frames"] = tf.TensorSpec(shape, tf.uint8, "frames")
        return out

    def decode(
        self, columns: Mapping[str, tf.Tensor], probability: tf.Tensor | None = None
    ) -> Trajectory:
        """Sampled columns of N items, leaves [N, ...] -> a trajectory of N * B columns, item by item.

        Args:
          probability: relative ones of the items [N]; None: 1.
        """
        items, rows, width = columns["packed"].shape[0], self.item.length + 1, self.columns

        def time_major(x: tf.Tensor) -> tf.Tensor:
            x = tf.reshape(x, [items, rows, width, *x.shape[1:]])
            order = [1, 0, 2, *range(3, x.shape.rank)]
            return tf.reshape(tf.transpose(x, order), [rows, items * width, *x.shape[3:]])

        packed = tf.reshape(columns["packed"], [-1, self.packing.nbytes])
        fields = {k: time_major(x) for k, x in self.packing.unpack(packed).items()}
        if self.stack:
            fields[self.frames_name] = self._stacks(columns["frames"], fields["stack"])
        steps = {k: x[:-1] for k, x in fields.items()}
        state: Any = ()
        if self.state_packing.nbytes:
            flat = tf.reshape(columns["state"], [-1, self.state_packing.nbytes])
            state = _nest(self.state, self.state_packing.unpack(flat))
        return Trajectory(
            obs=_nest(self.obs, fields),
            action=_nest(self.action, steps),
            reward=steps["reward"],
            discount=steps["discount"],
            is_last=steps["is_last"],
            valid=steps["valid"],
            is_first=fields["is_first"],
            discounted_return=steps["discounted_return"],
            state=state,
            extras=_nest(self.extras, steps),
            version=tf.repeat(columns["facts"][:, 0], width),
            is_new=tf.repeat(columns.get("is_new", tf.ones([items], tf.bool)), width),
            probability=tf.repeat(tf.ones([items]) if probability is None else probability, width),
            rewards=steps.get("rewards", ()),
        )

    def share(self, batch: Trajectory, index: tf.Tensor, count: int) -> Trajectory:
        """The columns of a batch that replica `index` of `count` trains on."""
        if count == 1:
            return batch
        size = batch.version.shape[0] // count
        start = index * size
        mine = {name: getattr(batch, name) for name in PER_COLUMN}
        mine = tree.map_structure(lambda x: x[start : start + size], mine)
        rest = batch._replace(**dict.fromkeys(PER_COLUMN, ()))
        rest = tree.map_structure(lambda x: x[:, start : start + size], rest)
        return rest._replace(**mine)

    def fits(self, shapes: Shapes) -> bool:
        """Implements `Layout.fits`."""
        return shapes["packed"][1] == self.columns

    @property
    def unrolls(self) -> SequenceLayout:
        """The layout of the unrolls that actors make: this one."""
        return self

    def traced(self, policy: Policy | None) -> None:
        """Actors compute nothing of an unroll: it is sent as it is."""
        del policy

    def rows(self) -> SequenceRows | None:
        """Implements `Layout.rows`: of items of one environment without frames apart, facts, steps and state."""
        return None if self.columns > 1 or self.stack else SequenceRows(self)

    def same_row(self, shapes: Shapes) -> bool:
        """Implements `Layout.same_row`."""
        return shapes["packed"][-1] == self.packing.nbytes

    def refit(self, items: Sequence[Mapping[str, np.ndarray]]) -> list[Mapping[str, np.ndarray]]:
        """Items of any number of columns -> items of `columns` of them, in the same order; what does not fill one is
        left out. A new item has the oldest weight version of those that it is made of.
        """
        if all(self.fits({name: x.shape for name, x in item.items()}) for item in items):
            return list(items)
        column = lambda name, x, i: x[:, i] if name == "packed" else x[i]
        stored = [name for name in ("packed", "state", "frames") if name in items[0]]
        columns = [
            {"facts": item["facts"], **{name: column(name, item[name], i) for name in stored}}
            for item in items
            for i in range(item["packed"].shape[1])
        ]
        out = []
        for start in range(0, len(columns) - self.columns + 1, self.columns):
            mine = columns[start : start + self.columns]
            oldest = min((c["facts"] for c in mine), key=lambda facts: facts[0])
            joined = {name: join([c[name] for c in mine]) for name in stored}
            joined["packed"] = np.moveaxis(joined["packed"], 0, 1)
            out.append({**joined, "facts": oldest})
        return out

    def _stacks(self, frames: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Frames [N, B, F, H, W], index [T + 1, N * B, k] -> observations [T + 1, N * B, H, W, k]."""
        shape = self.frames_shape[2:]
        room = tf.shape(frames)[2] if frames.shape[2] is None else frames.shape[2]
        flat = tf.reshape(frames, [-1, *shape])
        start = tf.range(index.shape[1], dtype=tf.int32)[None, :, None] * room
        stacks = tf.gather(flat, tf.cast(index, tf.int32) + start)
        return tf.transpose(stacks, [0, 1, *range(3, 3 + len(shape)), 2])


def _fields(nest: Any, prefix: str) -> tuple[Any, list[Field]]:
    """Names of the leaves [B, ...] of a nest, and the fields that hold them."""
    fields: list[Field] = []
    names = []
    for path, x in tree.flatten_with_path(nest):
        name = "/".join([prefix, *map(str, path)])
        names.append(name)
        fields.append(
            (name, tuple(x.shape[1:]), np.dtype(tf.as_dtype(x.dtype).as_numpy_dtype).name)
        )
    return tree.unflatten_as(nest, names), fields


def _is_image(space: gym.Space) -> bool:
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


def _width(field: Field) -> int:
    return np.dtype(field[2]).itemsize


def _nest(names: Any, fields: Mapping[str, tf.Tensor]) -> Any:
    return tree.map_structure(fields.__getitem__, names)
