"""From a replay plan to Reverb tables."""

from __future__ import annotations

from typing import Any

import reverb

from tfrl.agent import ReplayPlan

EXPERIENCE = "experience"
VARIABLES = "variables"


def experience_table(plan: ReplayPlan, layout: Any, samples_per_block: int | None) -> reverb.Table:
    """The table of items.

    Args:
      plan: what is kept and how it is sampled.
      layout: of `replay/kinds.py`, for the signature of the items.
      samples_per_block: items that one fetch of the learner takes, where a server must hold the ratio of samples to
        inserts between processes; None where one thread does so by counting (a limiter would block that thread).
    """
    if plan.kind == "queue":
        return reverb.Table.queue(EXPERIENCE, plan.capacity_items, signature=layout.signature())
    selector = {
        "uniform": lambda: reverb.selectors.Uniform(),
        "prioritized": lambda: reverb.selectors.Prioritized(plan.priority_exponent),
    }[plan.kind]()
    if samples_per_block is None:
        limiter = reverb.rate_limiters.MinSize(1)
    else:
        # Room for the block being consumed and the two that are fetched ahead, on either side of the ratio.
        slack = max(3.0 * samples_per_block, 2.0 * plan.samples_per_insert)
        limiter = reverb.rate_limiters.SampleToInsertRatio(
            plan.samples_per_insert, min_size_to_sample=plan.min_items, error_buffer=slack
        )
    return reverb.Table(
        EXPERIENCE,
        sampler=selector,
        remover=reverb.selectors.Fifo(),
        max_size=plan.capacity_items,
        max_times_sampled=plan.max_times_sampled,
        rate_limiter=limiter,
        signature=layout.signature(),
    )
