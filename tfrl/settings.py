"""Settings: frozen dataclasses whose fields carry their own documentation and limits.

A field made by `setting` has its help text, unit, limits and choices. `validate` enforces them, so that the
same declaration serves the constructor, the command line (`config/flags.py`) and the generated documentation.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import json
import numbers
import os
import traceback
import types
import typing
from collections.abc import Container, Iterable, Mapping
from typing import Any

from tfrl.errors import SettingError

Points = tuple[tuple[float, float], ...]  # a schedule: (step, value), linear in between
# Settings of earlier versions -> their names now. Flagfiles and run folders, which are records, may hold the old ones.
RENAMED = {"adam_epsilon": "optimizer_epsilon"}
LARGEST = 3.4028235e38  # that float32 holds
LARGEST_INT = 2**63 - 1


class Except(frozenset):
    """All values but these, in `idle_if`."""

    def __or__(self, others: Iterable[Any]) -> Except:
        return Except((*self, *others))


def setting(
    default: Any,
    help: str,  # noqa: A002 - the word that argparse and absl use
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: Iterable[Any] | None = None,
    resumable: bool = False,
    idle_if: Mapping[str, Any] | Iterable[Mapping[str, Any]] = (),
) -> Any:
    """Declares one dataclass field.

    Args:
      default: value when nothing is given; tuples for lists.
      help: one sentence; it is the text of `--help` and of the docs page.
      unit: unit of the number, e.g. "env steps"; empty for pure numbers and words.
      minimum, maximum: inclusive limits of a number (or of each element of a tuple).
      above: exclusive lower limit.
      choices: the only values allowed.
      resumable: a resumed run may change it.
      idle_if: where the setting has no effect: {other setting, or name of `idle.FACTS`: its value, a frozenset of
        values, or `Except` some values}, all at once; or several such conditions. See `config/idle.py`.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "choices": tuple(choices) if choices is not None else None,
        "resumable": resumable,
        "idle_if": (idle_if,) if isinstance(idle_if, Mapping) else tuple(idle_if),
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def with_default(cls: type, name: str, default: Any, **changes: Any) -> Any:
    """A setting of another settings dataclass with a default of one's own, for a base that comes before that one.

    Args:
      cls, name: the dataclass and its setting.
      default: of one's own.
      **changes: arguments of `setting` that differ too.
    """
    known = next(f for f in dataclasses.fields(cls) if f.name == name).metadata
    changed = setting(default, **{**known, **changes}).metadata
    return dataclasses.field(default=default, metadata=changed)


def name_now(name: str, known: Container[str]) -> str:
    """The name that a setting of an earlier version has among the `known` ones; every other name stays."""
    now = RENAMED.get(name)
    return now if now in known and name not in known else name


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Field name -> resolved type of a settings dataclass (annotations may be strings)."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def type_name(kind: Any) -> str:
    """A type as a user reads it: `int`, `float or none`, `list of int`."""
    if kind == Points:
        return "list of step:value"
    if typing.get_origin(kind) is tuple:
        first, *rest = typing.get_args(kind)
        return f"{'list' if rest == [...] else 'pair'} of {type_name(first)}"
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(type_name(k) for k in typing.get_args(kind))
    if kind is type(None):
        return "none"
    if typing.get_origin(kind) is dict or kind is dict:
        return "JSON object"
    return getattr(kind, "__name__", str(kind))


def command_line_form(kind: Any) -> str:
    """How a value of a type is typed after `--name=`, where the type's name does not say it: for lists and the like."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(filter(None, map(command_line_form, typing.get_args(kind))), "")
    if kind == Points:
        return "separated by commas, e.g. 0:1e-3,50000:1e-4"
    if typing.get_origin(kind) is tuple:
        return f"separated by commas, e.g. {','.join(map(str, _example(kind)))}"
    if typing.get_origin(kind) is dict or kind is dict:
        return """e.g. '{"name": 1}'"""
    return "true or false" if kind is bool else ""


def _python_form(kind: Any) -> str:
    """The same for a value in a program."""
    if typing.get_origin(kind) is tuple:
        return f"{type_name(kind)}, e.g. {_example(kind)}"
    if typing.get_origin(kind) is dict or kind is dict:
        return "a dict"
    return type_name(kind)


def _example(kind: Any) -> tuple:
    if kind == Points:
        return (0, 1e-3), (50_000, 1e-4)
    element = typing.get_args(kind)[0]
    return {int: (64, 64), float: (0.5, 1.0)}.get(element, ("a", "b"))


def _coerce(value: Any, kind: Any) -> Any:
    """`value` as `kind`; raises TypeError when it is something else (an int is an acceptable float)."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(kind):
            try:
                return _coerce(value, option)
            except TypeError:
                continue
        raise TypeError
    if origin is tuple:
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise TypeError
        kinds = typing.get_args(kind)
        if kinds[-1] is not Ellipsis:  # a pair and the like
            value = tuple(value)
            if len(value) != len(kinds):
                raise TypeError
            return tuple(_coerce(v, k) for v, k in zip(value, kinds))
        return tuple(_coerce(v, kinds[0]) for v in value)
    if origin is dict or kind is dict:
        if not isinstance(value, Mapping):
            raise TypeError
        return dict(value)
    if kind is type(None):
        if value is not None:
            raise TypeError
        return None
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError
    return value


def validate(config: Any) -> None:
    """Checks every field of a settings dataclass against its type, limits and choices.

    Call it first in `__post_init__`. Numbers given as int where float is declared are converted.

    Raises:
      SettingError: for the first field that does not fit.
    """
    for field in dataclasses.fields(config):
        if not field.metadata:
            continue
        kind, value, meta = (
            field_types(type(config))[field.name],
            getattr(config, field.name),
            field.metadata,
        )
        try:
            coerced = _coerce(value, kind)
        except TypeError:
            raise SettingError(f"{field.name}={value!r}: expected {_python_form(kind)}") from None
        if coerced is not value:
            object.__setattr__(config, field.name, coerced)
        if kind == Points:
            _check_points(field.name, coerced, getattr(config, f"{field.name}_unit", "env_steps"))
            coerced_numbers = [value for _, value in coerced]
        else:
            coerced_numbers = coerced if isinstance(coerced, tuple) else (coerced,)
        for number in coerced_numbers:
            _check_limits(field.name, number, meta)
        if meta["choices"] is not None and coerced not in meta["choices"]:
            raise SettingError(f"{field.name}={value!r}: {choose(str(value), meta['choices'])}")


def _check_points(name: str, points: Points, unit: str) -> None:
    """Raises SettingError unless the steps of a schedule, which counts in `unit`, begin at 0 and grow."""
    steps = [at for at, _ in points]
    if steps and (steps[0] != 0 or any(b <= a for a, b in zip(steps, steps[1:]))):
        listed = f"{', '.join(f'{at:g}' for at in steps)} {unit.replace('_', ' ')}"
        raise SettingError(
            f"{name}: points at {listed}; expected the first at 0 and each later than the one before"
        )


def _check_limits(name: str, number: Any, meta: Mapping[str, Any]) -> None:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return
    unit = f" {meta['unit']}" if meta["unit"] else ""
    if isinstance(number, float) and not abs(number) <= LARGEST:
        raise SettingError(
            f"{name}={number}: expected a number within {LARGEST:g}, what float32 holds"
        )
    if isinstance(number, int) and abs(number) > LARGEST_INT:
        raise SettingError(f"{name}={number}: expected at most {LARGEST_INT}, what 64 bits hold")
    if meta["minimum"] is not None and number < meta["minimum"]:
        raise SettingError(f"{name}={number}: expected at least {meta['minimum']}{unit}")
    if meta["above"] is not None and number <= meta["above"]:
        raise SettingError(f"{name}={number}: expected more than {meta['above']}{unit}")
    if meta["maximum"] is not None and number > meta["maximum"]:
        raise SettingError(f"{name}={number}: expected at most {meta['maximum']}{unit}")


def value_text(value: Any) -> str:
    """A value as a user would type it after `--name=`; an empty text shows as ''."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        pairs = value and all(isinstance(v, (tuple, list)) for v in value)  # a schedule
        return ",".join(":".join(map(str, v)) if pairs else value_text(v) for v in value) or "''"
    if isinstance(value, dict):
        try:
            return json.dumps(value, default=lambda part: part.tolist())  # of NumPy
        except (AttributeError, TypeError):  # no flag can say it
            return str(value)
    return str(value) or "''"


def nearest(name: str, known: Iterable[str]) -> str:
    """`'; did you mean X?'` for the closest known name, or an empty string when nothing is close."""
    close = closest(name, known)
    return f"; did you mean {close}?" if close else ""


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that `name` was most likely meant to be, '' where none is near.

    Short names share letters by chance (sac, a3c): where both have at most four, a name is near only if one letter
    was changed, left out, added, or swapped with its neighbour.
    """
    name = name.lower()
    for other in difflib.get_close_matches(name, list(known), n=10, cutoff=0.5):
        if max(len(name), len(other)) > 4 or _one_slip(name, other.lower()):
            return other
    return ""


def _one_slip(a: str, b: str) -> bool:
    """Whether one change, omission, insertion or swap of neighbours makes `b` of `a`."""
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    a, b = a[same:], b[same:]
    swapped = a[1:2] + a[:1] + a[2:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or swapped == b


def choose(given: str, choices: Iterable[Any]) -> str:
    """`'expected one of a, b; did you mean a?'`"""
    words = [str(c) for c in choices]
    return f"expected one of {', '.join(words)}{nearest(given, words)}"


def from_dict(cls: type, values: Mapping[str, Any]) -> Any:
    """Builds a settings dataclass from names and values; lists become tuples.

    Raises:
      SettingError: an unknown name (the nearest known one is named), or a value that `cls` refuses.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise SettingError(f"unknown setting {name!r}{nearest(name, known)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def import_module(name: str, where: str) -> types.ModuleType:
    """The module of this absolute name.

    Args:
      where: what names it, the beginning of the message.

    Raises:
      SettingError: it cannot be imported, for whatever reason; the message has the reason and the line.
    """
    if not all(name.split(".")):
        raise SettingError(f"{where}: expected the name of a module, got {name!r}")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise SettingError(f"{where}: cannot import {name!r} ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """One line: what was raised, and where unless it is an import that was not found."""
    text = " ".join(str(error).split())
    if isinstance(error, ImportError):
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    at = "" if isinstance(error, SyntaxError) else f", {last.filename}:{last.lineno}"
    return f"{type(error).__name__}: {text}{at}"


def import_dotted(path: str, what: str) -> Any:
    """The object named `package.module:name`.

    Raises:
      SettingError: the module cannot be imported or the name does not exist; the message names it.
    """
    module_name, _, attribute = path.partition(":")
    if not attribute:
        raise SettingError(f"{what}={path!r}: expected 'package.module:name'")
    target: Any = import_module(module_name, f"{what}={path!r}")
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [n for n in dir(target) if not n.startswith("_")]
            raise SettingError(
                f"{what}={path!r}: {module_name!r} has no {part!r}{nearest(part, public)}"
            )
        target = getattr(target, part)
    return target
