"""The interface of a layout: how items of one kind are stored, and how they become batches again."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tree

Shapes = Mapping[str, tuple[int, ...]]  # of the columns of an item


class Rows(Protocol):
    """How a replay beside the learner stores items: a row of bytes each, and their frames apart.

    Attributes:
      row_nbytes: of a row.
      frames: k newest frames in an observation, which are stored once; 0 where no frames are stored apart.
      frame_shape: of one frame, read where `frames` is above 0.
    """

    row_nbytes: int
    frames: int
    frame_shape: tuple[int, ...]

    def of_rows(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Rows uint8 [N, row_nbytes] -> the columns of the items but frames, as their layout decodes them."""


class Layout(abc.ABC):
    """How the items of one kind are stored. Defaults are those of items that do not depend on `num_envs`."""

    @abc.abstractmethod
    def signature(self) -> dict[str, tf.TensorSpec]:
        """Columns of an item, the signature of a Reverb table."""

    @abc.abstractmethod
    def decode(self, columns: Mapping[str, tf.Tensor], probability: tf.Tensor | None = None) -> Any:
        """Sampled columns, leaves [N, ...], and relative probabilities float32 [N] (None: 1) -> a batch of N items."""

    @abc.abstractmethod
    def share(self, batch: Any, index: tf.Tensor, count: int) -> Any:
        """The part of a batch that replica `index` of `count` trains on."""

    def batches(
        self, columns: Mapping[str, tf.Tensor], probability: tf.Tensor, count: int, size: int
    ) -> Callable[[tf.Tensor], Any]:
        """Sampled columns of `count` batches of `size` items each -> batch number i, int32, when it is asked for."""
        blocks = apart((dict(columns), probability), count, size)
        return lambda i: self.decode(*tree.map_structure(lambda x: x[i], blocks))

    def rows(self) -> Rows | None:
        """How a replay beside the learner stores these items; None where it cannot."""
        return None

    def same_row(self, shapes: Shapes) -> bool:
        """Whether what items of these shapes hold of one step takes as many bytes as it does now.

        Items of earlier versions and of an environment with other parts of the reward do not.
        """
        del shapes
        return True

    def fits(self, shapes: Shapes) -> bool:
        """Whether items of these shapes have the present number of columns."""
        del shapes
        return True

    def refit(self, items: Sequence[Mapping[str, np.ndarray]]) -> list[Mapping[str, np.ndarray]]:
        """Items of any number of columns -> items of the present number, in the same order."""
        return list(items)


def apart(batch: Any, count: int, size: int) -> Any:
    """Leaves [count * size, ...] -> [count, size, ...]."""
    return tree.map_structure(lambda x: tf.reshape(x, [count, size, *x.shape[1:]]), batch)
