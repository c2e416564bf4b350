"""Finds switches by file name: `observation_noise` is `tfrl/switches/observation_noise.py`, a dotted name any module.

A switch composes with any algorithm. Its module has a settings dataclass `Config` and one or both of

  environment(config, spec) -> (spec, wrap)   changes the environments: `wrap(vector, seed, training)` gives a VectorEnv
                                              whose spec is the returned one
  agent(config, spec, agent) -> agent         changes what the algorithm made for the spec after all switches

and optionally `EXCLUDES`, names of switches that it cannot be combined with, and `METRICS`, as algorithms have.
Switches apply in the order in which they are named: the first one is nearest to the environment and to the algorithm.
Nothing here imports TensorFlow.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from tfrl.errors import SettingError
from tfrl.settings import import_module, nearest

FOLDER = pathlib.Path(__file__).parents[1] / "switches"
_PREFIX = "with:"  # of the key of a switch among the sections of a job


def names() -> list[str]:
    """Switches of tfrl, from the files of `tfrl/switches`; nothing is imported."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_"))


def key(name: str) -> str:
    """The key of a switch's settings among the sections of a job."""
    return f"{_PREFIX}{name}"


def find(name: str) -> Any:
    """The module of a switch.

    Raises:
      SettingError: no such switch (the nearest is named), or a module without `Config`, or without both functions.
    """
    if "." not in name and name not in names():
        known = names()
        raise SettingError(
            f"with={name!r}: no such switch; there are {', '.join(known)}{nearest(name, known)}"
        )
    module = import_module(name if "." in name else f"tfrl.switches.{name}", f"with={name!r}")
    if not hasattr(module, "Config"):
        raise SettingError(f"with={name!r}: the module has no Config")
    if not hasattr(module, "environment") and not hasattr(module, "agent"):
        raise SettingError(f"with={name!r}: the module has neither environment nor agent")
    return module


def modules(given: Iterable[str]) -> dict[str, Any]:
    """The modules of several switches, in their order.

    Raises:
      SettingError: as `find`; one is named twice, or two exclude each other.
    """
    found: dict[str, Any] = {}
    for name in given:
        if name in found:
            raise SettingError(f"with={','.join(given)}: {name} is named twice")
        found[name] = find(name)
    for name, module in found.items():
        for other in getattr(module, "EXCLUDES", ()):
            if other in found:
                raise SettingError(
                    f"with={','.join(found)}: {name} and {other} exclude each other; leave one of them out"
                )
    return found


def check_names(owners: Mapping[str, Iterable[str]]) -> None:
    """Checks that every setting has one owner.

    Args:
      owners: {who, for the message: names of its settings}.

    Raises:
      SettingError: two have a setting of one name.
    """
    seen: dict[str, str] = {}
    for owner, settings in owners.items():
        for name in settings:
            if name in seen:
                raise SettingError(
                    f"setting {name!r} is one of {seen[name]} and of {owner}: they cannot be combined"
                )
            seen[name] = owner
