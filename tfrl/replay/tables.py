"""From an agent's experience to Reverb tables."""

from __future__ import annotations

from typing import Any

import reverb

from tfrl.agent import Queue, Replay

EXPERIENCE = "experience"
VARIABLES = "variables"


def experience_table(
    experience: Replay | Queue, layout: Any, samples_per_block: int | None
) -> reverb.Table:
    """The table of items.

    Args:
      experience: what is kept and how it is sampled.
      layout: of `replay/kinds.py`, for the signature of the items.
      samples_per_block: items that one fetch of the learner takes, where a server must hold the ratio of samples to
        inserts between processes; None where one thread does so by counting (a limiter would block that thread).
    """
    capacity, signature = experience.capacity_items, layout.signature()
    if isinstance(experience, Queue):
        return reverb.Table.queue(EXPERIENCE, capacity, signature=signature)
    selector = reverb.selectors.Uniform()
    if experience.prioritized:
        selector = reverb.selectors.Prioritized(experience.priority_exponent)
    if samples_per_block is None:
        limiter = reverb.rate_limiters.MinSize(1)
    else:
        # Room for the block being consumed and the two that are fetched ahead, on either side of the ratio.
        slack = max(3.0 * samples_per_block, 2.0 * experience.samples_per_insert)
        limiter = reverb.rate_limiters.SampleToInsertRatio(
            experience.samples_per_insert,
            min_size_to_sample=experience.min_items,
            error_buffer=slack,
        )
    return reverb.Table(
        EXPERIENCE,
        sampler=selector,
        remover=reverb.selectors.Fifo(),
        max_size=capacity,
        rate_limiter=limiter,
        signature=signature,
    )
