"""Weights on their way from the learner to those who act: one item in a Reverb table of size 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf

from tfrl.replay.bounded import CALL_TIMEOUT_S, BoundedCalls
from tfrl.replay.tables import VARIABLES


class Published(NamedTuple):
    """Updates behind the weights, values of `policy.variables`, and numbers that go with them."""

    version: int
    arrays: list[np.ndarray]
    facts: dict[str, float]


def variables_table() -> reverb.Table:
    """The table that holds the newest weights."""
    return reverb.Table(
        VARIABLES,
        sampler=reverb.selectors.Fifo(),
        remover=reverb.selectors.Fifo(),
        max_size=1,
        rate_limiter=reverb.rate_limiters.MinSize(1),
    )


class VariablePublisher:
    """Puts weights into the table.

    Args:
      client: of the server that holds it.
      specs: of the arrays, to refuse others; `tf.TensorSpec`s or variables.
      call: see `BoundedCalls`.
    """

    def __init__(self, client: reverb.Client, specs: Sequence[Any], call: BoundedCalls):
        self._client, self._call = client, call
        self._specs = [tf.TensorSpec(s.shape, s.dtype) for s in specs]

    def publish(self, version: int, arrays: Sequence[np.ndarray], **facts: float) -> None:
        """Replaces what the table holds.

        Raises:
          ValueError: an array that does not fit its spec.
          ReplayUnreachable: no answer in time.
        """
        for spec, array in zip(self._specs, arrays, strict=True):
            if spec.dtype.as_numpy_dtype != array.dtype or not spec.shape.is_compatible_with(
                array.shape
            ):
                raise ValueError(f"published {array.dtype} {array.shape}, expected {spec}")
        names = np.array(sorted(facts), dtype=object)
        values = np.array([facts[name] for name in names], np.float64)
        # A Reverb item is a list of arrays of numbers, so the names travel as bytes.
        item = [
            np.int64(version),
            np.frombuffer(",".join(names).encode(), np.uint8),
            values,
            *arrays,
        ]
        self._call("publishing weights", self._client.insert, item, {VARIABLES: 1.0})


class VariableSource:
    """Takes weights out of the table, each publication at most once.

    Args:
      client: of the server that holds it.
      call: see `BoundedCalls`.
    """

    def __init__(self, client: reverb.Client, call: BoundedCalls):
        self._client, self._call, self._seen = client, call, 0

    def pull(self) -> Published | None:
        """The newest weights, or None when there are none since the last call.

        Raises:
          ReplayUnreachable: no answer in time.
        """
        published = self._call("looking for weights", self._count)
        if published == self._seen:
            return None
        version, names, values, *arrays = self._call("pulling weights", self._sample)
        self._seen = published
        facts = (
            dict(zip(names.tobytes().decode().split(","), values.tolist(), strict=True))
            if values.size
            else {}
        )
        return Published(int(version), arrays, facts)

    def _count(self) -> int:
        # The count of inserts takes a tenth of the time of a sample.
        info = self._client.server_info(timeout=int(CALL_TIMEOUT_S))[VARIABLES]
        return info.rate_limiter_info.insert_stats.completed

    def _sample(self) -> list[np.ndarray]:
        # Each column comes with an axis of its one time step.
        return [
            column[0]
            for column in next(self._client.sample(VARIABLES, 1, emit_timesteps=False)).data
        ]
