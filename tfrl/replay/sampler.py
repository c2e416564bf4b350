"""From Reverb items to batches: many batches per fetch, fetched ahead while the learner computes."""

from __future__ import annotations

import math
from typing import NamedTuple

import reverb
import tensorflow as tf

from tfrl.replay.tables import EXPERIENCE


class Samples(NamedTuple):
    """keys uint64 [N], probability float64 [N] under the sampler, columns {name: [N, ...]}."""

    keys: tf.Tensor
    probability: tf.Tensor
    columns: dict[str, tf.Tensor]


class ReplayTimeout(RuntimeError):
    """The replay gave nothing for too long; the message names the parts that may be waiting for each other."""


class Sampler:
    """Iterates over blocks of `num_items` sampled items.

    The next block is fetched while the present one is used, so a block is up to two blocks older
    than the newest insert.

    Args:
      address: of the Reverb server.
      num_items: items in a block.
      timeout_s: longest wait for the rate limiter; math.inf: no limit.
      workers: threads that fetch.
    """

    def __init__(self, address: str, num_items: int, timeout_s: float, workers: int = 1):
        self._timeout_s = timeout_s
        dataset = reverb.TrajectoryDataset.from_table_signature(
            address,
            EXPERIENCE,
            max_in_flight_samples_per_worker=max(num_items, 1),
            num_workers_per_iterator=workers,
            rate_limiter_timeout_ms=-1 if math.isinf(timeout_s) else int(timeout_s * 1000),
        )
        options = tf.data.Options()
        options.autotune.enabled = False
        options.threading.private_threadpool_size = 1
        shapes = tf.nest.map_structure(lambda spec: spec.shape, dataset.element_spec)
        if all(shape.is_fully_defined() for shape in tf.nest.flatten(shapes)):
            dataset = dataset.batch(num_items, drop_remainder=True)
        else:  # zeros fill what smaller ones lack
            dataset = dataset.padded_batch(num_items, shapes, drop_remainder=True)
        self._iterator = iter(dataset.prefetch(1).with_options(options))

    def next(self) -> Samples:
        """The next block.

        Raises:
          ReplayTimeout: no items within `timeout_s`.
        """
        try:
            sample = next(self._iterator)
        except StopIteration:
            raise ReplayTimeout(
                f"the learner waited {self._timeout_s:.0f} s for experience: "
                "the actors have stopped inserting, or the replay holds fewer items than min_replay"
            ) from None
        return Samples(sample.info.key, sample.info.probability, dict(sample.data))
