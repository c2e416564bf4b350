"""Facts: named numbers of the learner and of evaluations on their way to knobs, environments and writers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tfrl.errors import RunFailed

MAX_PRIORITY = "max_priority"  # largest priority so far, that of new items; the runtime's own fact
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def merged(learner: Mapping[str, float], evaluation: Mapping[str, float]) -> dict[str, float]:
    """The facts of the learner and of the last evaluation.

    Raises:
      RunFailed: both have a fact of one name.
    """
    both = sorted(set(learner) & set(evaluation))
    if both:
        raise RunFailed(f"fact {both[0]!r}: both Learner.facts and Agent.on_evaluation give it")
    return {**learner, **evaluation}


def checked(facts: Mapping[str, Any], source: str, taken: Mapping[str, float]) -> dict[str, float]:
    """Returns facts as floats.

    Args:
      facts: numbers or scalar tensors by name.
      source: function that gave them, for the message.
      taken: facts of other sources, whose names are taken.

    Raises:
      RunFailed: a name that is no identifier or is taken, or a value that is no finite number.
    """
    found = {}
    for name, value in facts.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RunFailed(
                f"{source}: fact {name!r}: expected a name of lower-case letters, digits and '_'"
            )
        if name in taken:
            raise RunFailed(f"{source}: fact {name!r}: another source gives a fact of this name")
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise RunFailed(f"{source}: fact {name!r} is {value!r}; expected a finite number")
        found[name] = number
    return found
