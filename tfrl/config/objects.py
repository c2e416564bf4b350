"""Settings that are Python objects: a function, a class, an environment or a network instead of its name.

An object that other processes can import becomes its name, 'package.module:name'. Any other one becomes a `Live`: text
to read, with the object beside it. It works in the process that has it, and cloudpickle takes it to child processes.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from typing import Any

from tfrl.errors import SettingError
from tfrl.settings import import_dotted


class Live(str):
    """The readable name of an object that cannot be imported, e.g. '<MyEnv>', and the object itself.

    It is a `str`, so that a settings dataclass, its JSON and messages treat it as a name. Read back from JSON it is a
    plain name, which `resolve` refuses.

    Attributes:
      target: the object.
    """

    target: Any

    def __new__(cls, name: str, target: Any) -> Live:
        live = super().__new__(cls, name)
        live.target = target
        return live

    def __reduce__(self) -> tuple:
        return Live, (str(self), self.target)

    def __deepcopy__(self, memo: dict) -> Live:
        del memo
        return self  # `dataclasses.asdict` copies settings; a simulator must not be copied


def named(value: Any) -> str:
    """The name of an object as a setting holds it: dotted where the object can be imported, else a `Live`.

    Args:
      value: a function, class, callable object, `functools.partial`, or an instance such as an environment.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(value, functools.partial):
        return Live(f"<partial of {named(value.func).strip('<>')}>", value)
    if name is None or module is None:
        return Live(f"<{type(value).__qualname__} instance>", value)
    if module == "__main__":
        return Live(f"<{name.strip('<>')}>", value)
    path = f"{module}:{name}"
    return path if _imports_as(value, module, name) else Live(f"<{path}>", value)


def resolve(path: str, what: str) -> Any:
    """The object that a setting names: a `Live`'s own, else that of `package.module:name`.

    Args:
      what: name of the setting, for messages.

    Raises:
      SettingError: the name of an object of another process, or one that cannot be imported.
    """
    if isinstance(path, Live):
        return path.target
    if is_gone(path):
        raise SettingError(
            f"{what}={path!r}: an object of the Python session that started this run, which no other process can "
            f"import; give it again, as in tfrl.train(..., resume=True, {what}=...), or move it to a module"
        )
    return import_dotted(path, what)


def is_gone(path: str) -> bool:
    """Whether this is the name of a `Live` that was read back without its object."""
    return not isinstance(path, Live) and path.startswith("<") and path.endswith(">")


def dumps(value: Any) -> bytes:
    """Bytes of a value with the objects in it, for `cloudpickle.loads` in a child process.

    Raises:
      SettingError: an object that cannot be pickled, by name where it is a `Live`.
    """
    import cloudpickle

    try:
        return cloudpickle.dumps(value)
    except Exception as error:  # an object's own pickling may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise SettingError(
            f"backend=processes with {_culprit(value)}: cloudpickle cannot take it to another process ({reason}); "
            "move it to a module that can be imported, let env be a function that builds it, or set backend=inprocess"
        ) from error


def _imports_as(value: Any, module: str, name: str) -> bool:
    """Whether importing the name gives this very object."""
    if "<" in name or module not in sys.modules:
        return False
    target: Any = importlib.import_module(module)
    for part in name.split("."):
        target = getattr(target, part, None)
    return target is value


def _culprit(value: Any) -> str:
    """The settings of a job that are `Live`s, for a message."""
    found: list[str] = []

    def look(part: Any) -> None:
        fields: Mapping = getattr(part, "__dict__", {})
        for name, entry in fields.items():
            if isinstance(entry, Live):
                found.append(f"{name}={str(entry)!r}")
            elif hasattr(entry, "__dataclass_fields__"):
                look(entry)

    look(value)
    return ", ".join(found) or "these settings"


def is_object_name(text: str) -> bool:
    """Whether a setting names an object rather than one of tfrl's own choices."""
    return isinstance(text, Live) or is_gone(text) or ":" in text or "." in text
