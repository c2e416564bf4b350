"""The interface of a writer, whatever its items are and wherever they go."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrl.types import PolicyStep, VectorStep


class Writer(abc.ABC):
    """Takes the vector steps of an actor and hands over the items that they make.

    Attributes:
      items_written: items made so far; `flush` hands over the last of them.
      waited_s: seconds in calls that wait until what was written is taken.
      vector_steps_to_item: vector steps until the present item is whole, where weights are to change between two items
        only; None: an item may come of any step.
    """

    items_written: int = 0
    waited_s: float = 0.0
    vector_steps_to_item: int | None = None

    @abc.abstractmethod
    def record(self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep) -> None:
        """Takes one vector step.

        Args:
          obs: acted on, leaves [B, ...].
          state: recurrent state that acted, leaves [B, ...].
          choice: of the policy there.
          step: what came of it.
        """

    def load(self, arrays: Sequence[np.ndarray], version: int, priority: float) -> None:
        """Takes what is published with new weights; by default no item depends on it.

        Args:
          arrays: values of the policy's variables.
          version: updates behind them.
          priority: of the items from now on.
        """

    @abc.abstractmethod
    def flush(self, pending: int = 0) -> None:
        """Returns when all but `pending` items are where they are kept.

        Raises:
          reverb.errors.DeadlineExceededError: see `bounded`; or what its `patience` raises.
        """

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """State between two vector steps, for a resumed run, without items that have not been flushed."""

    @abc.abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state` of a writer of the same arguments."""

    def close(self) -> None:
        """Drops what is open and what was not flushed; items already written stay."""
