"""Decides which code the names in a run folder may lead to.

A run folder may come from anywhere, and its `job.json` holds names of Python objects: a module with an algorithm, a
builder of networks, a factory of environments. Importing a module runs it, so a name in a file alone never
imports one. Code is run in three cases:

  its module was named by whoever uses this process: in the settings of `tfrl.train`, on the command line, or by `name`;
  it belongs to tfrl;
  its module has been imported by this process already, and it is an environment class, a builder of networks or
  optimisers, or an algorithm. A function that makes environments is not enough there: the folder chooses the arguments
  that it is called with.

Even in a module that was named, only an environment factory or a builder is called, and only if the module itself
defines it. Nothing here imports TensorFlow, and gymnasium only to look at an environment.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shlex
import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any

from tfrl.config import objects
from tfrl.errors import SettingError
from tfrl.settings import import_dotted, import_module, value_text

# Modules whose classes are environments, and modules of goal spaces, of wrappers and of optimisers.
_ENVIRONMENTS = ("tfrl.testing.fakes", "tfrl.envs.memory", "tfrl.envs.parametric")
_GOALS = ("tfrl.envs.games.trash", "tfrl.envs.games.half_court")
_WRAPPERS = ("gymnasium.wrappers", "minigrid.wrappers")
_OPTIMIZERS = ("keras.optimizers", "tensorflow.keras.optimizers")
_named: set[str] = set()  # by the user of this process


def name(modules: Iterable[str]) -> None:
    """Lets run folders use these modules, and what is inside such packages, for as long as this process lives.

    Raises:
      SettingError: there is no such module, or it is not the name of one.
    """
    for module in modules:
        if not isinstance(module, str) or not all(module.split(".")):
            raise SettingError(f"trust_modules={module!r}: expected the name of a module")
        if module not in sys.modules and not _exists(module):
            raise SettingError(f"trust_modules={module!r}: there is no such module")
        _named.add(module)


def name_settings(algo: Any, settings: Mapping[str, Any]) -> None:
    """The same for the modules that settings name: what a user gives is what the user wants to run.

    Args:
      algo: name of an algorithm or of a module that is one; None for none.
      settings: flag name -> value; `env`, `env_wrappers`, `network`, `optimizer`, `goal_space` and `with` count.
    """
    if isinstance(algo, str) and "." in algo:
        _named.add(algo)
    combined = settings.get("with") or settings.get("with_") or ()
    combined = combined.split(",") if isinstance(combined, str) else combined
    if isinstance(combined, (list, tuple)):
        _named.update(name.strip() for name in combined if isinstance(name, str) and "." in name)
    wrappers = settings.get("env_wrappers") or ()
    wrappers = wrappers.split(",") if isinstance(wrappers, str) else wrappers
    of_worlds = _of_worlds(settings.get("eval_worlds"))
    named = map(settings.get, ("env", "network", "optimizer", "goal_space"))
    for value in (*named, *wrappers, *of_worlds):
        path = objects.named(value) if callable(value) else value
        if _is_path(path):
            _named.add(path.partition(":")[0])


def check_job(job: Any) -> None:
    """Raises SettingError for a `Job` of a run folder with a network, optimiser, goals or environment refused below."""
    check_network(getattr(job.config, "network", None))
    check_goal_space(getattr(job.config, "goal_space", None))
    check_optimizer(getattr(job.config, "optimizer", None))
    check_env(job.env.env, job.env.env_wrappers)
    plan = job.evaluation
    for world in plan.worlds(job.env).values() if plan.eval_worlds else ():
        check_env(world.env, world.env_wrappers, f"--eval_worlds={value_text(plan.eval_worlds)}")


def resume_flags(run_dir: str | os.PathLike, job: Any) -> str:
    """The flags that continue this run, as a shell takes them."""
    own = [f"--run_dir={run_dir}", *flags_to_name(job)]
    return shlex.join(["--resume", *own])


def flags_to_name(job: Any) -> list[str]:
    """The flags without which a resume of this run would be refused here, e.g. ['--env=mine:make']."""
    config, own = job.config, {}
    names = {
        "env": (job.env.env, _ENVIRONMENTS),
        "network": (getattr(config, "network", None), ()),
        "optimizer": (getattr(config, "optimizer", None), _OPTIMIZERS),
        "goal_space": (getattr(config, "goal_space", None), _GOALS),
    }
    for flag, (value, known) in names.items():
        if _is_foreign(value, known):
            own[flag] = value
    if any(_is_foreign(wrapper, _WRAPPERS) for wrapper in job.env.env_wrappers):
        own["env_wrappers"] = job.env.env_wrappers
    if any("." in switch for switch in job.switches):
        own["with"] = tuple(job.switches)
    if any(
        _is_foreign(x, (*_ENVIRONMENTS, *_WRAPPERS)) for x in _of_worlds(job.evaluation.eval_worlds)
    ):
        own["eval_worlds"] = job.evaluation.eval_worlds
    if "." in job.algo:
        own = {"algo": job.algo, **own}
    return [f"--{flag}={value_text(value)}" for flag, value in own.items()]


def _is_foreign(value: Any, known: tuple[str, ...]) -> bool:
    """Whether it is `module:name` of another module than the known ones."""
    return _is_path(value) and value.partition(":")[0] not in known


def check_algorithm(algo: str) -> None:
    """Raises SettingError for an algorithm of a run folder whose module may not be imported."""
    if "." in algo and not _may_import(algo) and algo not in sys.modules:
        raise _refusal("algo", algo, algo)


def check_switch(name: str) -> None:
    """Raises SettingError for a switch of a run folder whose module may not be imported."""
    if "." in name and not _may_import(name) and name not in sys.modules:
        raise _refusal("with", name, name)


def check_network(network: Any) -> None:
    """Raises SettingError for a network of a run folder that is not a builder, or whose module may not be imported."""
    _check_builder("network", network, "a builder of networks")


def check_goal_space(goal_space: Any) -> None:
    """Raises SettingError for goals of a run folder that no function gives, or whose module may not be imported."""
    _check_builder("goal_space", goal_space, "a function that returns a GoalSpace", _GOALS)


def _check_builder(setting: str, value: Any, expected: str, known: tuple[str, ...] = ()) -> None:
    if not _is_path(value):
        return
    module = value.partition(":")[0]
    if not _may_import(module) and module not in (*sys.modules, *known):
        raise _refusal(setting, value, module)
    builder = import_dotted(value, setting)
    if not _is_own(builder, module):
        raise SettingError(
            f"{setting}={value!r}: {_kind(builder)} that {module!r} does not define; expected {expected}"
        )


def check_optimizer(optimizer: Any) -> None:
    """Raises SettingError for an optimiser of a run folder that is none, or whose module may not be imported."""
    if not _is_path(optimizer):
        return
    module = optimizer.partition(":")[0]
    if not _may_import(module) and module not in (*sys.modules, *_OPTIMIZERS):
        raise _refusal("optimizer", optimizer, module)
    found = import_dotted(optimizer, "optimizer")
    if not _is_optimizer_class(found) and not _is_own(found, module):
        raise SettingError(
            f"optimizer={optimizer!r}: {_kind(found)} that {module!r} does not define; expected a class of Keras "
            "optimisers or a function that makes one"
        )


def check_env(env: str, wrappers: Iterable[str] = (), flag: str = "") -> None:
    """Raises SettingError for an environment of a run folder that is none, or whose module may not be imported, and for
    such wrappers.

    An id without a module is looked up among those that are registered, and needs no check.

    Args:
      flag: what names it for a resume; '': the flag of the setting itself.
    """
    for wrapper in wrappers:
        _check_wrapper(wrapper, flag)
    if not _is_path(env):
        return
    module, _, rest = env.partition(":")
    if not _may_import(module) and module not in _ENVIRONMENTS:
        if module not in sys.modules or not _is_environment(sys.modules[module], rest):
            raise _refusal("env", env, module, flag)
        return
    found = _find(import_module(module, f"env={env!r}"), rest)
    if (
        found is None
    ):  # an id that the module registers, or a name that is not there: refused where it is used
        return
    if not _is_factory(found, module):
        raise SettingError(
            f"env={env!r}: {_kind(found)}, which is no environment factory; expected a class of gymnasium.Env, or a "
            f"function that {module!r} defines"
        )


def _of_worlds(worlds: Any) -> list[Any]:
    """Environments and wrappers that `eval_worlds` names, in a dict or in the JSON of one."""
    if isinstance(worlds, str):
        try:
            worlds = json.loads(worlds)
        except ValueError:  # the flag's parser refuses it
            return []
    found = []
    for changes in worlds.values() if isinstance(worlds, Mapping) else ():
        if isinstance(changes, Mapping):
            found += [changes.get("env"), *(changes.get("env_wrappers") or ())]
    return found


def _check_wrapper(wrapper: str, flag: str) -> None:
    if not _is_path(wrapper):
        return
    module = wrapper.partition(":")[0]
    if not _may_import(module) and module not in _WRAPPERS:
        raise _refusal("env_wrappers", wrapper, module, flag)
    found = import_dotted(wrapper, "env_wrappers")
    if not _is_env_class(found) and not (_may_import(module) and _is_own(found, module)):
        raise SettingError(
            f"env_wrappers={wrapper!r}: {_kind(found)}; expected a class of gymnasium.Wrapper, or a function that "
            f"{module!r} defines"
        )


def _exists(module: str) -> bool:
    """Whether there is such a module, without importing it; packages above it are imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _is_path(value: Any) -> bool:
    """Whether it is `module:name`, and not an object of this process or the name of one of another."""
    is_object = isinstance(value, objects.Live) or not isinstance(value, str)
    return not is_object and not objects.is_gone(value) and ":" in value


def _may_import(module: str) -> bool:
    return any(module == known or module.startswith(f"{known}.") for known in _named) or (
        module.startswith("tfrl.algos.") and "." not in module.removeprefix("tfrl.algos.")
    )


def _find(module: types.ModuleType, path: str) -> Any:
    """The object of this name in a module, None where there is none."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _is_environment(module: types.ModuleType, path: str) -> bool:
    """Whether the name is that of an environment class there, or an id that is registered."""
    import gymnasium as gym

    return path in gym.registry or _is_env_class(_find(module, path))


def _is_env_class(found: Any) -> bool:
    import gymnasium as gym

    return isinstance(found, type) and issubclass(found, gym.Env)


def _is_optimizer_class(found: Any) -> bool:
    """Whether it is a class of Keras optimisers, which only take what they are given; Keras is not imported."""
    bases = found.__mro__ if isinstance(found, type) else ()
    return any(b.__name__ == "Optimizer" and b.__module__.startswith("keras.") for b in bases)


def _is_factory(found: Any, module: str) -> bool:
    """Whether calling it makes an environment, as far as one can see without calling it."""
    if isinstance(found, functools.partial):
        return _is_factory(found.func, module)
    return _is_env_class(found) or _is_own(found, module)


def _is_own(found: Any, module: str) -> bool:
    """A function or callable object that the module, or one inside it, defines."""
    if isinstance(found, functools.partial):
        return _is_own(found.func, module)
    if not isinstance(found, (types.FunctionType, type)):
        found = type(found)  # of a callable object, the class
    home = found.__module__
    return callable(found) and (home == module or home.startswith(f"{module}."))


def _kind(found: Any) -> str:
    home, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return f"it is {home}.{name}" if home and name else f"it is a {type(found).__name__}"


def _refusal(setting: str, value: str, module: str, flag: str = "") -> SettingError:
    flag, trust = (
        shlex.quote(flag or f"--{setting}={value}"),
        shlex.quote(f"--trust_modules={module}"),
    )
    return SettingError(
        f"{setting}={value!r} is named by a run folder, which may come from elsewhere; to let it run code of "
        f"{module!r}, name that: {flag} to resume, {trust} to evaluate or export"
    )
