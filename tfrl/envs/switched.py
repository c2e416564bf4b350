"""The one place where switches change environments: their specs, and the vectors that every part of a run steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfrl.config import switches
from tfrl.envs.vector import VectorEnv
from tfrl.errors import SettingError
from tfrl.types import EnvSpec

Wrap = Callable[[VectorEnv, int, bool], VectorEnv]


def switched_spec(spec: EnvSpec, combined: Mapping[str, Any]) -> EnvSpec:
    """The spec after switches.

    Args:
      spec: of the environment without them.
      combined: {name of a switch: its settings}, in the order in which they apply.

    Raises:
      SettingError: a switch does not serve the environment.
    """
    return _apply(spec, combined)[0]


def switched(
    vector: VectorEnv, combined: Mapping[str, Any], seed: int, training: bool
) -> VectorEnv:
    """The vector after switches, each with a seed of its own.

    Args:
      vector: without them.
      combined: as for `switched_spec`.
      seed: of the vector.
      training: False for evaluation.

    Raises:
      SettingError: as `switched_spec`; a switch gives a vector with another spec than it has declared.
    """
    if not combined:
        return vector
    for index, (name, spec, wrap) in enumerate(_apply(vector.spec, combined)[1]):
        own = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        vector = wrap(vector, own, training)
        if vector.spec != spec:
            raise SettingError(
                f"with={name}: its vector has the spec {vector.spec.describe()}, but environment() declares "
                f"{spec.describe()}"
            )
    return vector


def _apply(
    spec: EnvSpec, combined: Mapping[str, Any]
) -> tuple[EnvSpec, list[tuple[str, EnvSpec, Wrap]]]:
    """The last spec, and the name, the spec and the `wrap` of each switch that changes environments."""
    wraps = []
    for name, config in combined.items():
        environment = getattr(switches.find(name), "environment", None)
        if environment is not None:
            spec, wrap = environment(config, spec)
            wraps.append((name, spec, wrap))
    return spec, wraps
