"""From vector steps to unrolls: of all environments one after the other, or of each environment and overlapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tree

from tfrl.replay.packing import put, put_record
from tfrl.replay.saved import put_back, saved
from tfrl.replay.sender import Built, Sender
from tfrl.replay.sequences import SequenceLayout
from tfrl.replay.writer import Writer
from tfrl.types import PolicyStep, VectorStep


class Builder(Protocol):
    """Makes whole sequences of vector steps.

    Attributes:
      steps_left: vector steps until the present one is whole; None where it is not known.
    """

    steps_left: int | None

    def add(
        self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep, version: int
    ) -> Built | None:
        """Takes a vector step, as `Writer.record`, made with the weights of `version`; returns what it completes.

        The arrays are written again by the next call.
        """

    def state(self) -> dict[str, Any]:
        """The unfinished sequences, for a resumed run."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state` of a builder of the same arguments."""


class SequenceWriter(Writer):
    """Writes the sequences that builders make of the vector steps, each by itself.

    Args:
      sender: takes them.
      builders: make them.
      whole: weights are to change between two items only, see `vector_steps_to_item`.
    """

    def __init__(self, sender: Sender, builders: Sequence[Builder], whole: bool):
        self.items_written, self._version = 0, 0
        self._sender, self._builders, self._whole = sender, builders, whole

    @property
    def waited_s(self) -> float:
        """Seconds in calls that wait until what was written is taken."""
        return self._sender.waited_s

    @property
    def vector_steps_to_item(self) -> int | None:
        """Vector steps until the present item is whole, None where weights may change within one."""
        return self._builders[0].steps_left if self._whole else None

    def record(self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep) -> None:
        """Implements `Writer.record`."""
        for builder in self._builders:
            built = builder.add(obs, state, choice, step, self._version)
            if built is not None:
                self.items_written += self._sender.send(built)

    def load(self, arrays: Sequence[np.ndarray], version: int, priority: float) -> None:
        """Implements `Writer.load`."""
        self._version = version
        self._sender.load(arrays, priority)

    def flush(self, pending: int = 0) -> None:
        """Implements `Writer.flush`."""
        self._sender.flush(pending)

    def state(self) -> dict[str, Any]:
        """Implements `Writer.state`."""
        return {"builders": [builder.state() for builder in self._builders]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Implements `Writer.restore`."""
        for builder, mine in zip(self._builders, state["builders"], strict=True):
            builder.restore(mine)

    def close(self) -> None:
        """Implements `Writer.close`."""
        self._sender.close()


class UnrollBuilder:
    """Makes the unroll of every `length` vector steps, of environments that restart in a step of their own.

    Args:
      first: vector steps before the first unroll.
      gap: vector steps between two unrolls.
    """

    def __init__(self, layout: SequenceLayout, num_envs: int, first: int = 0, gap: int = 0):
        self._layout, self._gap, item = layout, gap, layout.item
        records = np.zeros((item.length + 1, num_envs), layout.packing.dtype)
        self._records, self._fields = records, {n: records[n] for n in records.dtype.names}
        self._state = np.zeros(num_envs, layout.state_packing.dtype)
        self._return = np.zeros(num_envs, np.float32)
        self._discount = np.float32(item.discount)
        self._step_discount, self._has_parts = layout.step_discount, layout.num_parts > 0
        self._is_first = np.ones(num_envs, np.bool_)
        self._t, self._begun_by = -first, 0  # the step of the unroll; below 0 none has begun
        self._frames = _Frames(layout, num_envs, self._fields["stack"]) if layout.stack else None
        self._restarted = np.zeros(num_envs, np.bool_)

    @property
    def steps_left(self) -> int:
        """Vector steps until the present unroll is whole."""
        return self._layout.item.length - self._t

    def add(
        self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep, version: int
    ) -> Built | None:
        """Implements `Builder.add`; an unroll carries the version of its first step."""
        layout, running = self._layout, self._return
        running *= layout.item.discount
        running += step.reward
        ended = step.terminated | step.truncated | ~step.valid
        if self._t == 0:
            self._begun_by = version
            put_record(self._state, layout.state, state)
        if self._t >= 0:
            self._put_step(obs, choice, step, ended)
        if ended.any():
            running[ended] = 0.0
        if self._step_discount:
            running *= step.discount
        self._is_first, self._restarted = step.is_first, ~step.valid
        self._t += 1
        if self._t < layout.item.length:
            return None
        self._put_obs(step.obs, self._t)
        self._t = -self._gap
        frames = self._frames.frames if self._frames else None
        return Built(self._records, self._state, frames, self._begun_by)

    def _put_step(self, obs: Any, choice: PolicyStep, step: VectorStep, ended: np.ndarray) -> None:
        layout, fields, t = self._layout, self._fields, self._t
        self._put_obs(obs, t)
        put(fields, layout.action, t, choice.action)
        put(fields, layout.extras, t, choice.extras)
        fields["reward"][t] = step.reward
        if self._has_parts:
            fields["rewards"][t] = step.rewards
        # The step's discount: gamma, times the environment's own, 0 at a termination.
        discount = fields["discount"][t]
        discount[...] = self._discount
        if self._step_discount:
            discount *= step.discount
        discount[step.terminated] = 0.0
        fields["is_last"][t] = ended
        fields["valid"][t] = step.valid
        fields["discounted_return"][t] = self._return

    def state(self) -> dict[str, Any]:
        """Implements `Builder.state`."""
        names = ("_state", "_return", "_is_first", "_restarted", "_t", "_begun_by")
        state = {**saved(self, names), "records": self._records[: max(0, self._t)].copy()}
        if self._frames is not None and self._t > 0:
            state["frames"] = self._frames.state()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Implements `Builder.restore`."""
        parts = dict(state)
        records, frames = parts.pop("records"), parts.pop("frames", None)
        put_back(self, parts)
        self._records[: len(records)] = records
        if frames is not None:
            self._frames.restore(frames)

    def _put_obs(self, obs: Any, t: int) -> None:
        layout, fields = self._layout, self._fields
        fields["is_first"][t] = self._is_first
        if self._frames is None:
            put(fields, layout.obs, t, obs)
            return
        for name, value in zip(tree.flatten(layout.obs), tree.flatten(obs), strict=True):
            if name == layout.frames_name:
                self._frames.put(value, t, self._restarted)
            else:
                fields[name][t] = value


def windows(layout: SequenceLayout, num_envs: int) -> list[UnrollBuilder]:
    """Builders of sequences that begin every `period` vector steps.

    As many as overlap take turns, each with unrolls that follow each other without an overlap. So a step is stored with
    every sequence that it is in: more bytes, but one column that costs little to sample.
    """
    period, length = layout.item.period, layout.item.length
    count = -(-length // period)
    gap = count * period - length
    return [UnrollBuilder(layout, num_envs, i * period, gap) for i in range(count)]


class _Frames:
    """Frames of an unroll [B, F, H, W], each stored once, and which k of them each observation shows.

    F grows where episodes end so often that their first stacks do not fit, and stays so.
    """

    def __init__(self, layout: SequenceLayout, num_envs: int, index: np.ndarray):
        self.frames = np.zeros((num_envs, *layout.frames_shape[1:]), np.uint8)
        self._stack, self._index, self._most = layout.stack, index, layout.most_frames
        self._next = np.zeros(num_envs, np.int64)
        self._rows = np.arange(num_envs)

    def state(self) -> dict[str, np.ndarray]:
        """The frames so far and how many there are of each row; which of them are shown is in the records."""
        return {"frames": self.frames.copy(), "next": self._next.copy()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from `state`."""
        self.frames, self._next[:] = state["frames"], state["next"]

    def put(self, obs: np.ndarray, t: int, restarted: np.ndarray) -> None:
        """Takes observations uint8 [B, H, W, k]; rows that `restarted` may share no frame with those before."""
        stack, index = self._stack, self._index
        if t == 0:
            self.frames[:, :stack] = np.moveaxis(obs, -1, 1)
            index[0] = np.arange(stack)
            self._next[:] = stack
            return
        index[t, :, :-1] = index[t - 1, :, 1:]
        going_on = ~restarted
        for row in np.flatnonzero(restarted):
            # After a lost life the stack goes on.
            shared = np.moveaxis(obs[row, ..., :-1], -1, 0)
            if np.array_equal(shared, self.frames[row, index[t, row, :-1]]):
                going_on[row] = True
            else:
                self._begin(obs[row], t, row)
        rows = self._rows[going_on]
        if len(rows):
            self.frames[rows, self._next[rows]] = obs[rows, ..., -1]
            index[t, rows, -1] = self._next[rows]
            self._next[rows] += 1

    def _begin(self, obs: np.ndarray, t: int, row: int) -> None:
        """Stores the stack [H, W, k] with which a row starts anew; equal neighbours are one frame."""
        after = self._index.shape[0] - 1 - t  # steps that follow and bring a frame each
        self._reserve(self._next[row] + self._stack + after)
        for i in range(self._stack):
            if i == 0 or not np.array_equal(obs[..., i], obs[..., i - 1]):
                self.frames[row, self._next[row]] = obs[..., i]
                self._next[row] += 1
            self._index[t, row, i] = self._next[row] - 1

    def _reserve(self, room: int) -> None:
        """Makes room for so many frames of each row; doubles it, as every new size is traced anew."""
        have = self.frames.shape[1]
        if room > have:
            more = np.zeros(
                (len(self.frames), min(2 * have, self._most), *self.frames.shape[2:]), np.uint8
            )
            more[:, :have] = self.frames
            self.frames = more
