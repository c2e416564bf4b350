"""Settings that other settings, or the environment, leave without effect: refused where the user asked for them.

A setting declares its conditions itself (`setting(..., idle_if=...)`). A flagfile may hold such settings, since it is
often a record of all values; what is typed beside it, or passed to `tfrl.train`, is meant to do something.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from tfrl.config import json_form
from tfrl.errors import SettingError
from tfrl.settings import Except, value_text

# Facts of an environment that conditions may name beside settings -> the words for them.
FACTS = {
    "box_actions": "a Box among the actions",
    "discrete_actions": "a Discrete space among the actions",
    "action_features": "action features in the observation",
    "atari": "an Atari game",
    "team": "a team of agents",
    "agents_rewards": "agents that have rewards of their own",
    "mlp": "an MLP in the network",
    "vectors": "observations that an MLP reads",
}


def refuse(
    asked_for: Iterable[str], parts: Sequence[Any], facts: Mapping[str, bool] | None = None
) -> None:
    """Raises SettingError for the first setting that was asked for and has no effect.

    Args:
      asked_for: names of settings.
      parts: settings dataclasses, which have them.
      facts: {name of `FACTS`: whether it holds}; None: not known yet, and conditions that need them are passed over.
    """
    values: dict[str, Any] = dict(facts or {})
    conditions: dict[str, tuple[Mapping[str, Any], ...]] = {}
    for part in parts:
        for field in dataclasses.fields(part):
            values[field.name] = getattr(part, field.name)
            conditions[field.name] = field.metadata.get("idle_if", ())
    for name in asked_for:
        for condition in conditions.get(name, ()):
            if all(key in values and _is(values[key], condition[key]) for key in condition):
                why = " and ".join(_words(key, values[key]) for key in condition)
                others = " or ".join(key for key in condition if key not in FACTS)
                raise SettingError(
                    f"{name}={value_text(values[name])}: no effect {why}; leave it out"
                    + (f", or change {others}" if others else "")
                )


def notes(metadata: Mapping[str, Any], known: Container[str]) -> list[str]:
    """The conditions of a setting in words, for `--help` and the documentation.

    Args:
      metadata: of the field.
      known: settings of the job; a condition of another algorithm's is left out.
    """
    found = [
        " and ".join(_words(key, wanted) for key, wanted in condition.items())
        for condition in metadata.get("idle_if", ())
        if all(key in known or key in FACTS for key in condition)
    ]
    return [f"no effect {' or '.join(found)}"] if found else []


def _words(key: str, value: Any) -> str:
    """'with core=none', 'without an Atari game'."""
    if key in FACTS:
        return f"without {FACTS[key]}"
    values = sorted(value) if isinstance(value, frozenset) else [value]
    words = "/".join(map(value_text, values))
    return f"with {key} other than {words}" if isinstance(value, Except) else f"with {key}={words}"


def _is(value: Any, wanted: Any) -> bool:
    """Whether a value meets a condition; points of a schedule may be lists."""
    values = wanted if isinstance(wanted, frozenset) else (wanted,)
    found = any(json_form.same(value, each) for each in values)
    return not found if isinstance(wanted, Except) else found
