"""n-step sums over all environments of an actor, in NumPy, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tree

from tfrl.replay.saved import put_back, saved
from tfrl.replay.transitions import TransitionLayout
from tfrl.types import VectorStep


class Emitted(NamedTuple):
    """Finished items: records [m], environment row of each [m], steps that each spans k [m]; oldest first per row."""

    records: np.ndarray
    rows: np.ndarray
    lengths: np.ndarray


class NStepAccumulator:
    """Turns vector steps into n-step transitions.

    R = sum over i < k of r_{t+i} times the discounts of the steps t .. t+i-1, and the item's discount is the product of
    those of all k steps (Sutton 1988, with a discount per step). A step's discount is gamma, times the environment's
    own where `EnvSpec.step_discount`, and 0 where the step terminated.

    An item ends after n steps, or with the episode: then the last steps give items of k < n steps, whose discount is
    gamma^k at a time limit and 0 at a termination. No item spans two episodes or an automatic
    reset. Steps still open when the actor stops are dropped.

    Args:
      n: longest span.
      discount: gamma, per env step.
      num_envs: rows B of the vector steps.
      layout: records to fill.
    """

    def __init__(self, n: int, discount: float, num_envs: int, layout: TransitionLayout):
        self._n, self._layout = n, layout
        self._powers = np.power(float(discount), np.arange(n + 1))
        self._ages = np.arange(n)[:, None]
        self._columns = np.arange(num_envs)
        # For the open steps: observation and action, and the sums so far (float64, rounded once).
        self._ring = np.zeros((n, num_envs), layout.packing.dtype)
        self._returns = np.zeros((n, num_envs))
        # With discounts of the environment: their products since each open step, gamma included.
        self._products = np.zeros((n, num_envs)) if layout.step_discount else None
        self._parts = np.zeros((n, num_envs, layout.num_parts)) if layout.num_parts else None
        self._fields = {name: self._ring[0][name] for name in layout.packing.dtype.names}  # views
        self._ones = np.ones(num_envs, np.int64)
        # Steps seen; the newest open one is at (steps - 1) % n.
        self._steps = np.zeros(num_envs, np.int64)
        self._open = np.zeros(num_envs, np.int64)

    def add(self, obs: Any, action: np.ndarray, step: VectorStep) -> Emitted:
        """Takes one vector step: `obs` acted on and `action`, leaves [B, ...], and what came of it."""
        if self._n == 1:
            return self._add_single(obs, action, step)
        valid, columns = step.valid, self._columns
        self._steps += valid
        self._open += valid
        slot = (self._steps - 1) % self._n
        self._fill(self._ring, (slot[valid], columns[valid]), self._layout.obs_tm1, obs, valid)
        self._ring["action"][slot[valid], columns[valid]] = action[valid]
        self._returns[slot[valid], columns[valid]] = 0.0
        # Discount of the present reward at each of the open steps, newest first, [n, B].
        slots = (self._steps - 1 - self._ages) % self._n
        if self._products is None:
            worth = self._powers[: self._n, None]
        else:
            self._products[slot[valid], columns[valid]] = 1.0
            worth = self._products[slots, columns]
        is_open = self._ages < self._open
        gains = np.where(is_open, worth * step.reward, 0.0)
        self._returns[slots, columns] += gains * valid
        if self._parts is not None:
            self._parts[slot[valid], columns[valid]] = 0.0
            gains = np.where(is_open[..., None], worth[..., None] * step.rewards, 0.0)
            self._parts[slots, columns] += gains * valid[:, None]
        if self._products is not None:
            now = np.where(valid, self._powers[1] * step.discount, 1.0)
            self._products[slots, columns] *= now

        done = (step.terminated | step.truncated) & valid
        full = np.flatnonzero(valid & ~done & (self._open == self._n))
        rows, lengths = [full], [np.full(len(full), self._n)]
        for row in np.flatnonzero(done):
            spans = np.arange(self._open[row], 0, -1)
            rows.append(np.full(len(spans), row))
            lengths.append(spans)
        row, length = np.concatenate(rows), np.concatenate(lengths)
        source = ((self._steps[row] - length) % self._n, row)
        records = self._ring[source]
        records["reward"] = self._returns[source]
        if self._parts is not None:
            records["rewards"] = self._parts[source]
        if self._products is None:
            records["discount"] = self._powers[length] * ~step.terminated[row]
        else:
            records["discount"] = self._products[source] * ~step.terminated[row]
        self._fill(records, slice(None), self._layout.obs_t, step.next_obs, row)
        self._open[full] -= 1
        self._open[done] = 0
        return Emitted(records, row, length)

    def state(self) -> dict[str, np.ndarray]:
        """The open steps and their sums, for `restore`."""
        return saved(self, ("_ring", "_returns", "_products", "_parts", "_steps", "_open"))

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on with the open steps of `state`, of an accumulator of the same arguments."""
        put_back(self, state)

    def drop(self) -> None:
        """Forgets the open steps: items begin with the next one."""
        self._open[:] = 0

    def _add_single(self, obs: Any, action: np.ndarray, step: VectorStep) -> Emitted:
        """n = 1: nothing stays open, so every record is filled and emitted at once."""
        fields = self._fields
        for names, nest in ((self._layout.obs_tm1, obs), (self._layout.obs_t, step.next_obs)):
            if isinstance(names, str):
                fields[names][...] = nest
            elif names is not None:
                for name, value in zip(tree.flatten(names), tree.flatten(nest), strict=True):
                    fields[name][...] = value
        fields["action"][...] = action
        fields["reward"][...] = step.reward
        np.multiply(self._powers[1], ~step.terminated, out=fields["discount"], casting="same_kind")
        if self._products is not None:
            fields["discount"] *= step.discount
        if self._parts is not None:
            fields["rewards"][...] = step.rewards
        records, valid = self._ring[0], np.count_nonzero(step.valid)
        if valid == len(records):
            return Emitted(records, self._columns, self._ones)
        rows = np.flatnonzero(step.valid)
        return Emitted(records[rows], rows, self._ones[:valid])

    @staticmethod
    def _fill(records: np.ndarray, where: Any, names: Any, values: Any, rows: Any) -> None:
        if names is None:
            return
        if isinstance(names, str):  # the common case, without walking a nest
            records[names][where] = values[rows]
            return
        for name, value in zip(tree.flatten(names), tree.flatten(values), strict=True):
            records[name][where] = value[rows]
