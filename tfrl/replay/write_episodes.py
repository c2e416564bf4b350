"""From vector steps to items whose columns are whole episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tree

from tfrl.agent import Episodes
from tfrl.replay.packing import put, put_record
from tfrl.replay.saved import put_back, saved
from tfrl.replay.sender import Built
from tfrl.replay.sequences import SequenceLayout
from tfrl.types import PolicyStep, VectorStep


def columns(item: Episodes, num_envs: int) -> int:
    """Episodes that an item has room for: all environments may end in the step that completes it.

    A multiple of the least number, for the learner's devices.
    """
    return -(-(item.count - 1 + num_envs) // item.count) * item.count


class EpisodeBuilder:
    """Makes columns that are whole episodes, in the order in which they end.

    They are given out after the vector step with which enough episodes are over, all that are. So no episode that is
    over waits for the next. As one item, of which columns that stay empty are not valid, or where the layout has a
    column for each item, as so many items.

    Attributes:
      steps_left: None, how long it takes to complete an item is not known.
    """

    steps_left: int | None = None

    def __init__(self, layout: SequenceLayout, num_envs: int):
        self._layout, length = layout, layout.item.length
        self._open = np.zeros((length + 1, num_envs), layout.packing.dtype)
        self._fields = {name: self._open[name] for name in self._open.dtype.names}
        self._states = np.zeros(num_envs, layout.state_packing.dtype)
        room = columns(layout.item, num_envs)
        self._item = np.zeros((length + 1, room), layout.packing.dtype)
        self._item_states = np.zeros(room, layout.state_packing.dtype)
        self._return = np.zeros(num_envs, np.float32)
        self._discount = np.float32(layout.item.discount)
        self._length = np.zeros(num_envs, np.int64)  # valid steps of each open episode
        self._rows = np.arange(num_envs)
        self._is_first = np.ones(num_envs, np.bool_)
        self._column = 0
        # Versions of the weights with which each open episode began, and the least of those in the item.
        self._begun_by, self._oldest = np.zeros(num_envs, np.int64), 0

    def add(
        self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep, version: int
    ) -> Built | None:
        """Implements `Builder.add`; an item carries the oldest version with which one of its episodes began."""
        layout, fields = self._layout, self._fields
        where = (self._length, self._rows)
        starts = self._length == 0
        if starts.any():
            put_record(self._states, layout.state, state, starts)
            self._begun_by[starts] = version
        done = step.terminated | step.truncated
        self._return *= layout.item.discount
        self._return += step.reward
        put(fields, layout.obs, where, obs)
        put(fields, layout.action, where, choice.action)
        put(fields, layout.extras, where, choice.extras)
        discount = np.where(step.terminated, np.float32(0.0), self._discount)
        if layout.step_discount:
            discount *= step.discount
        fields["reward"][where], fields["discount"][where] = step.reward, discount
        if layout.num_parts:
            fields["rewards"][where] = step.rewards
        fields["valid"][where], fields["is_last"][where] = step.valid, done | ~step.valid
        fields["discounted_return"][where], fields["is_first"][where] = self._return, self._is_first
        self._is_first = step.is_first
        self._length += step.valid  # an invalid row is overwritten by the next one
        over = done | (self._length == layout.item.length)
        for row in np.flatnonzero(over & step.valid):
            last = (self._length[row], row)
            self._open[last] = np.zeros(
                (), self._open.dtype
            )  # an earlier episode may have left something
            final = tree.map_structure(lambda x, r=row: x[r], step.next_obs)
            put(fields, layout.obs, last, final)
            # What follows a time limit is valued with the memory of the episode, however the environment restarts.
            fields["is_first"][last] = step.terminated[row]
            self._lay(row)
        built = self._whole() if self._column >= layout.item.count else None
        self._return[over | ~step.valid] = 0.0
        if layout.step_discount:
            self._return *= step.discount
        return built

    def state(self) -> dict[str, Any]:
        """Implements `Builder.state`: the open episodes and those that wait for more of their item."""
        names = (
            "_states",
            "_item_states",
            "_return",
            "_length",
            "_is_first",
            "_begun_by",
            "_oldest",
            "_column",
        )
        rows, columns = int(self._length.max()), self._column
        parts = {"open": self._open[:rows].copy(), "item": self._item[:, :columns].copy()}
        return {**saved(self, names), **parts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Implements `Builder.restore`."""
        parts = dict(state)
        opened, item = parts.pop("open"), parts.pop("item")
        put_back(self, parts)
        self._open[: len(opened)], self._item[:, : item.shape[1]] = opened, item

    def _lay(self, row: int) -> None:
        """The finished episode of a row, or the part of one that fills a column, becomes the next column of the item.

        Its last step is marked as last where the episode ended, and not where it was cut: the column ends there anyway.
        """
        length, column = self._length[row], self._column
        begun_by = int(self._begun_by[row])
        self._oldest = min(self._oldest, begun_by) if column else begun_by
        self._item[:, column] = np.zeros((), self._item.dtype)
        self._item[: length + 1, column] = self._open[: length + 1, row]
        self._item["is_last"][length:, column] = True
        self._item["valid"][length:, column] = False
        self._item_states[column] = self._states[row]
        self._length[row] = 0
        self._column = column + 1

    def _whole(self) -> Built:
        """The columns of whole items, of which those from `_column` on are empty."""
        filled, width = self._column, self._layout.columns
        used = -(-filled // width) * width
        rest = slice(filled, used)
        self._item[:, rest] = np.zeros((), self._item.dtype)
        self._item["is_last"][:, rest] = True
        self._item_states[rest] = np.zeros((), self._item_states.dtype)
        self._column = 0
        records = self._item if used == self._item.shape[1] else self._item[:, :used].copy()
        return Built(records, self._item_states[:used], None, self._oldest)
