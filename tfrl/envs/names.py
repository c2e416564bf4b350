"""The names that `--env` takes: ids of gymnasium, of packages that register theirs, and of PettingZoo; factories,
existing objects.

An id that cannot be used is refused in one sentence with the nearest one, or the place to which it has moved.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import re
from typing import Any

import gymnasium as gym

from tfrl.config import objects
from tfrl.envs import pettingzoo
from tfrl.envs.games import ids
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.settings import nearest

_VERSIONED = re.compile(r"^(?P<name>[\w./:-]+?)-v(?P<version>\d+)$")
_ATARI = re.compile(r"^(?:ALE/(?P<v5>\w+)-v5|(?P<v4>\w+?)NoFrameskip-v4)$")
_ATARI_OLD = re.compile(
    r"^(?:ALE/)?(?P<game>[A-Za-z0-9]+?)(?P<ram>-ram)?(?P<kind>Deterministic|NoFrameskip)?"
    r"-v(?P<version>\d+)$"
)


@dataclasses.dataclass(frozen=True)
class Resolved:
    """An `EnvPlan` with what its name stands for.

    Attributes:
      plan: with the settings.
      target: a registered spec of gymnasium, a function that builds an environment, or one that exists already.
      game: of Atari, e.g. Pong; None for anything else.
    """

    plan: EnvPlan
    target: Any
    game: str | None

    @property
    def is_registered(self) -> bool:
        """The target is a registered spec of gymnasium."""
        return isinstance(self.target, gym.envs.registration.EnvSpec)

    @property
    def is_one(self) -> bool:
        """The target is one environment that exists already, and not a way to build some."""
        return _is_env(self.target)

    @property
    def clips(self) -> bool:
        """The learner sees the signs of rewards."""
        asked = self.plan.clip_rewards
        return self.game is not None if asked is None else asked

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a maker of environments, with copies of the keyword arguments; its failures become one sentence about
        the setting.

        Raises:
          SettingError: whatever it raised.
        """
        return _call(self.plan, function, *args, **kwargs)


def resolve(plan: EnvPlan) -> Resolved:
    """The environment that the name of a plan stands for.

    Raises:
      SettingError: nothing of this name exists, or it needs a package that is not installed.
    """
    return Resolved(plan, _target(plan.env), atari_game(plan.env))


def is_one(plan: EnvPlan) -> bool:
    """Whether `plan` names one environment that exists already, and not a way to build some."""
    return isinstance(plan.env, objects.Live) and _is_env(plan.env.target)


def _is_env(value: Any) -> bool:
    return isinstance(value, gym.Env) or pettingzoo.is_team(value)


def atari_game(name: str) -> str | None:
    """`PongNoFrameskip-v4` and `ALE/Pong-v5` -> `Pong`; None for anything else."""
    match = _ATARI.match(name.rpartition(":")[2])
    return match and (match["v5"] or match["v4"])


def _target(name: str) -> Any:
    """A registered gymnasium spec, or a factory.

    Raises:
      SettingError: neither exists.
    """
    if isinstance(name, objects.Live) or objects.is_gone(name):
        return objects.resolve(name, "env")
    if ":" in name:
        module, _, rest = name.partition(":")
        if not _VERSIONED.match(rest):
            factory = objects.resolve(name, "env")
            if not callable(factory):
                raise SettingError(
                    f"env={name!r}: {rest!r} is a {type(factory).__name__}, expected a function"
                )
            return factory
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise SettingError(f"env={name!r}: cannot import {module!r} ({error})") from error
        name = rest
    if name.partition("/")[0] in pettingzoo.PACKAGES:
        return pettingzoo.factory(name)
    _check_atari(name)
    _register(name)
    if name in gym.registry:
        return gym.registry[name]
    raise SettingError(f"env={name!r}: {_unknown(name)}")


def _unknown(name: str) -> str:
    match = _VERSIONED.match(name)
    base = match["name"] if match else name
    if versions := _versions(base):
        given = f"there is no version v{match['version']}" if match else "the version is missing"
        return f"{given}; the current one is {base}-v{max(versions)}"
    bases = {known.rpartition("-v")[0].lower(): known for known in gym.registry}
    close = difflib.get_close_matches(base.lower(), bases, n=1, cutoff=0.7)
    hint = f"; did you mean {_newest(bases[close[0]])}?" if close else ""
    return (
        f"no gymnasium environment of this name{hint}; expected a gymnasium id, 'package:id' of another package, or "
        "'package.module:factory'"
    )


def _register_atari() -> bool:
    """Makes the Atari ids known; False where ale-py is not installed."""
    if importlib.util.find_spec("ale_py") is None:
        return False
    ale_py = importlib.import_module("ale_py")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for every emulator
    gym.register_envs(ale_py)
    return True


# Beginnings of ids -> the extra, its packages, and one of the ids that they register.
_PACKAGES = {
    ("MinAtar/",): ("minatar", ("minatar",), "MinAtar/Breakout-v1"),
    ("MiniGrid-", "BabyAI-"): ("minigrid", ("minigrid",), "MiniGrid-Empty-5x5-v0"),
    ("dm_control/",): ("dm_control", ("shimmy", "dm_control"), "dm_control/cartpole-balance-v0"),
    (
        "FetchPickAndPlace", "FetchPush", "FetchReach", "FetchSlide", "HandManipulate", "HandReach", "AdroitHand",
        "AntMaze_", "PointMaze_", "FrankaKitchen",
    ): ("robotics", ("gymnasium_robotics",), "FetchReach-v4"),
}  # fmt: skip


def _register(name: str) -> None:
    """Makes the ids of the package known that `name` belongs to; raises SettingError where it is not installed."""
    if name.startswith("tfrl/"):
        ids.register()
    for beginnings, (extra, packages, known) in _PACKAGES.items():
        if name in gym.registry or not name.startswith(beginnings):
            continue
        if any(importlib.util.find_spec(package) is None for package in packages):
            raise SettingError(f"env={name!r}: a package is missing; pip install 'tfrl[{extra}]'")
        if known not in gym.registry:
            if extra == "minatar":
                importlib.import_module("minatar.gym").register_envs()
            else:
                gym.register_envs(importlib.import_module(packages[0]))


@functools.cache
def games() -> dict[str, str]:
    """Game as ids spell it -> as the ROM is called."""
    roms = importlib.import_module("ale_py.roms")
    return {rom.title().replace("_", ""): rom for rom in roms.get_all_rom_ids()}


def _check_atari(name: str) -> None:
    """Raises SettingError for Atari ids that cannot or should not be used; passes all else."""
    if name in gym.registry and "ale_py" not in str(gym.registry[name].entry_point):
        return
    if not _register_atari():
        if name.startswith("ALE/") or _ATARI.match(name):
            raise SettingError(f"env={name!r}: Atari needs ale-py; pip install 'tfrl[atari]'")
        return
    game = atari_game(name)
    if game is not None:
        if name not in gym.registry:
            known = [k for k in gym.registry if _ATARI.match(k)]
            raise SettingError(f"env={name!r}: no such Atari game{nearest(name, known)}")
        return
    old = _ATARI_OLD.match(name)
    if not old or old["game"] not in games():
        return
    use = f"ALE/{old['game']}-v5"
    if old["ram"]:
        raise SettingError(
            f"env={name!r}: observations of the machine's memory are not offered; use {use}"
        )
    skipped = "" if old["kind"] == "Deterministic" else ", which skipped 2 to 4 frames at random,"
    sticky = "0.25" if old["version"] in ("0", "5") else "0"
    raise SettingError(
        f"env={name!r}: this form of Atari id{skipped} is not used any more; use {use} "
        f"(or {old['game']}NoFrameskip-v4) with --atari_frame_skip=4 --atari_sticky_actions={sticky}"
    )


def _call(plan: EnvPlan, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a maker of environments; its failures become one sentence about the setting."""
    try:
        # An environment may change what it is given: each gets a copy of its own.
        return function(*args, **copy.deepcopy(kwargs))
    except SystemExit as error:
        raise SettingError(
            f"env={plan.env!r} cannot be built: it called sys.exit({error.code!r})"
        ) from error
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise SettingError(f"env={plan.env!r}: {_missing_extra(plan.env, error)}") from error
    except TypeError as error:
        if "argument" in str(error):
            raise SettingError(
                f"env_kwargs={plan.env_kwargs!r} of env={plan.env!r}: {error}"
            ) from error
        raise SettingError(f"env={plan.env!r} cannot be built: TypeError: {error}") from error
    except Exception as error:  # whatever a user's constructor raises, its reader needs the name
        raise SettingError(
            f"env={plan.env!r} cannot be built: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


# Words of an environment's entry point or error -> the extra that has the package, and the package.
_EXTRAS = {
    "box2d": ("box2d", "Box2D"),
    "mujoco": ("mujoco", "mujoco"),
    "ale_py": ("atari", "ale_py"),
    "opencv": ("atari", "cv2"),
}


def _missing_extra(name: str, error: Exception) -> str:
    entry = str(gym.registry[name].entry_point) if name in gym.registry else ""
    text = f"{entry} {error}".lower()
    newest = _newest(name)
    if re.search("mujoco_?py", text) and newest != name:  # of versions that need a package of 2021
        return f"this version is not offered any more; use {newest}"
    for word, (extra, package) in _EXTRAS.items():
        if word in text and importlib.util.find_spec(package) is None:
            return f"a package is missing; pip install 'tfrl[{extra}]'"
    return f"a package is missing: {error}"


def _newest(name: str) -> str:
    """The id of the newest registered version of an environment; the name itself where it has no version."""
    match = _VERSIONED.match(name)
    versions = _versions(match["name"]) if match else []
    return f"{match['name']}-v{max(versions)}" if versions else name


def _versions(base: str) -> list[int]:
    """The registered versions of an environment."""
    found = map(_VERSIONED.match, gym.registry)
    return [int(match["version"]) for match in found if match and match["name"] == base]
