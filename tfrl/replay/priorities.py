"""Priorities of new transitions from the extras of the acting policy, without evaluating it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tfrl.replay.nstep import Emitted
from tfrl.replay.saved import put_back, saved
from tfrl.types import PolicyStep, VectorStep


class Acted(NamedTuple):
    """One vector step: observation acted on, the policy's action and extras, and the outcome."""

    obs: Any
    choice: PolicyStep
    step: VectorStep


class InitialPriorities:
    """Holds each vector step back until the policy has acted on its last observation, then gives its items priorities.

    Without it the fallback stands: in the last step of all, and at a time limit where the environment
    restarts within the step.

    Args:
      compute: `Agent.initial_priority`.
      n: longest span of an item.
      num_envs: rows B of the vector steps.
    """

    def __init__(self, compute: Callable[..., np.ndarray], n: int, num_envs: int):
        self._compute, self._n = compute, n
        self._held: Acted | None = None
        self._present: Acted | None = None  # whose items are being written
        self._after: Mapping[str, np.ndarray] | None = None
        self._ring: dict[str, np.ndarray] = {}  # extras of the last n valid steps, [n, B]
        self._steps, self._rows = np.zeros(num_envs, np.int64), np.arange(num_envs)

    def delay(self, acted: Acted) -> Acted | None:
        """Takes a vector step; returns the one before it, to be written now."""
        before, self._held = self._held, acted
        return self._turn(before, acted.choice.extras)

    def release(self) -> Acted | None:
        """The step that is held back, to be written although nothing came after it."""
        before, self._held = self._held, None
        return self._turn(before, None)

    @property
    def holds(self) -> bool:
        """A step is held back."""
        return self._held is not None

    def state(self) -> dict[str, Any]:
        """The extras of the last steps, for `restore`; a step that is held back is not in it."""
        return saved(self, ("_ring", "_steps"))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on with the extras of `state`."""
        put_back(self, state)

    def of(self, emitted: Emitted, fallback: float) -> np.ndarray:
        """Priorities float32 [m] of what `NStepAccumulator` emitted for the step to be written."""
        rows, records, step = emitted.rows, emitted.records, self._present.step
        spans = (self._steps[rows] - emitted.lengths) % self._n
        before = {name: ring[spans, rows] for name, ring in self._ring.items()}
        ends = records["discount"] == 0.0
        if self._after is None:  # nothing is bootstrapped where it counts
            after, known = before, ends
        else:
            after = {name: x[rows] for name, x in self._after.items()}
            elsewhere = step.next_obs is not step.obs  # the policy acts on the next episode there
            known = ends | ~(step.truncated[rows] & elsewhere)
        priority = self._compute(records["reward"], records["discount"], before, after)
        return np.where(known, priority, np.float32(fallback)).astype(np.float32)

    def _turn(self, before: Acted | None, after: Mapping[str, np.ndarray] | None) -> Acted | None:
        self._present, self._after = before, after
        if before is not None:
            valid = before.step.valid
            self._steps += valid
            for name, x in before.choice.extras.items():
                ring = self._ring.setdefault(name, np.zeros((self._n, len(self._rows)), x.dtype))
                ring[(self._steps[valid] - 1) % self._n, self._rows[valid]] = x[valid]
        return before
