"""From an `EnvPlan` to environments: names resolved, backends picked, everything wrong said in one
sentence.

Nothing here imports TensorFlow: processes that only step environments must stay light.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from tfrl.config import objects
from tfrl.envs import spaces as space_lib
from tfrl.envs import wrappers
from tfrl.envs.previous import PreviousStep, observe_previous
from tfrl.envs.spawn import neutral_main
from tfrl.envs.switched import switched, switched_spec
from tfrl.envs.vector import AtariLives, BatchVector, CheckedMasks, SyncVector, VectorEnv
from tfrl.envs.workers import Workers
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.settings import nearest
from tfrl.types import SIDE_INPUTS, EnvSpec

# Below this many environments our loop over Python environments is faster than CartPole's NumPy
# vector class.
NATIVE_FROM_NUM_ENVS = 6

# Arguments of Atari environments that have settings of their own; `env_kwargs` must not set them.
_ATARI_SETTINGS = {
    "frameskip": "atari_frame_skip",
    "repeat_action_probability": "atari_sticky_actions",
    "max_num_frames_per_episode": "max_episode_steps",
    "obs_type": "atari_screen_size",
}
_ATARI_LIMIT_FRAMES = 108_000  # of the emulator's own ids: 30 minutes of play
_VERSIONED = re.compile(r"^(?P<name>[\w./:-]+?)-v(?P<version>\d+)$")
_ATARI = re.compile(r"^(?:ALE/(?P<v5>\w+)-v5|(?P<v4>\w+?)NoFrameskip-v4)$")
_ATARI_OLD = re.compile(
    r"^(?:ALE/)?(?P<game>[A-Za-z0-9]+?)(?P<ram>-ram)?(?P<kind>Deterministic|NoFrameskip)?"
    r"-v(?P<version>\d+)$"
)


def make_spec(plan: EnvPlan, switches: Mapping[str, Any] = {}) -> EnvSpec:  # noqa: B006 - only read
    """The spec of `plan`'s environment; builds one, reads its spaces and closes it.

    Args:
      plan: of the environment.
      switches: that change it, see `Job.switches`.

    Raises:
      SettingError: an environment that does not exist, cannot be built, or has spaces that nothing
        here serves.
    """
    spec = switched_spec(_inner_spec(plan), switches)
    return observe_previous(spec, _clips(plan)) if plan.observe_previous else spec


def _inner_spec(plan: EnvPlan) -> EnvSpec:
    """The spec before `observe_previous`."""
    if atari_game(plan.env) is not None:
        _resolve(plan.env)
        return _atari_spec(plan)
    env, limit = _build(plan)
    try:
        return _spec_of(plan, env, limit)
    finally:
        if not is_one(plan):
            env.close()


def make_vector(
    plan: EnvPlan,
    num_envs: int,
    seed: int,
    *,
    training: bool = True,
    info_names: Sequence[str] = (),
    switches: Mapping[str, Any] = {},  # noqa: B006 - only read
) -> VectorEnv:
    """Builds `num_envs` environments behind one interface.

    Args:
      seed: of the first `reset()`.
      training: False for evaluation: rewards are not clipped and a lost life ends nothing.
      info_names: of numbers in the info of an episode's last step, kept in `Episode.infos`.
      switches: that change the environments, see `Job.switches`.

    Raises:
      SettingError: as `make_spec`, or a backend that cannot serve this environment or these
        settings.
    """
    if num_envs < 1:
        raise SettingError(f"num_envs={num_envs}: expected at least 1")
    if is_one(plan) and num_envs > 1:
        raise SettingError(
            f"num_envs={num_envs} with env={plan.env!r}: one environment is one row; expected num_envs=1, or a "
            "function or class that builds an environment each time it is called"
        )
    backend = pick_backend(plan, num_envs)
    atari = atari_game(plan.env) is not None
    options: dict[str, Any] = {
        "clip_rewards": training and _clips(plan),
        "track_lives": atari,
        "info_names": tuple(info_names),
    }
    if backend == "sync":
        vector: Any = _sync(plan, num_envs, seed, options)
    elif backend == "async":
        vector = _async(plan, num_envs, seed, options)
    elif backend == "ale":
        vector = _ale(plan, num_envs, seed, options)
    elif backend == "envpool":
        vector = _envpool(plan, num_envs, seed, options)
    else:
        vector = _native(plan, num_envs, seed, options)
    if atari and plan.atari_terminal_on_life_loss:
        fire = _fire_action(plan) if plan.atari_fire_on_reset else None
        vector = AtariLives(vector, fire or 0, terminate=training)
    vector = switched(vector, switches, seed, training)
    if vector.spec.has_action_mask:
        vector = CheckedMasks(vector)
    return PreviousStep(vector, _clips(plan)) if plan.observe_previous else vector


def _clips(plan: EnvPlan) -> bool:
    """Whether the learner sees the signs of rewards."""
    return atari_game(plan.env) is not None if plan.clip_rewards is None else plan.clip_rewards


def pick_backend(plan: EnvPlan, num_envs: int) -> str:
    """Who will step: `plan.env_backend`, or what auto picks for this environment and number.

    auto: ale for Atari ids (sync where an option needs it), the id's own vector class where it
    has one that serves every option and `num_envs` is large enough to pay, else sync.

    Raises:
      SettingError: a named backend that cannot serve the plan, with the reason.
    """
    asked = plan.env_backend
    if is_one(plan) and asked not in ("sync", "auto"):
        raise SettingError(
            f"env_backend={asked} with env={plan.env!r}: one environment is stepped here; expected sync or auto"
        )
    if asked in ("sync", "async"):
        return asked
    reasons = {"ale": _why_not_ale, "native": _why_not_native, "envpool": _why_not_envpool}
    if asked != "auto":
        reason = reasons[asked](plan)
        if reason:
            raise SettingError(
                f"env_backend={asked} with env={plan.env!r}: {reason}; expected sync, async or auto"
            )
        return asked
    if atari_game(plan.env) is not None:
        return "sync" if _why_not_ale(plan) else "ale"
    return "sync" if num_envs < NATIVE_FROM_NUM_ENVS or _why_not_native(plan) else "native"


def make_env(plan: EnvPlan) -> gym.Env:
    """One environment with its preprocessing and time limit, as a plain gymnasium environment.

    `observe_previous` is no part of it: vectors do that.
    """
    env, limit = _build(plan)
    return env if limit is None else gym.wrappers.TimeLimit(env, limit)


def is_one(plan: EnvPlan) -> bool:
    """Whether `plan` names one environment that exists already, and not a way to build some."""
    return isinstance(plan.env, objects.Live) and isinstance(plan.env.target, gym.Env)


def atari_game(name: str) -> str | None:
    """`PongNoFrameskip-v4` and `ALE/Pong-v5` -> `Pong`; None for anything else."""
    match = _ATARI.match(name.rpartition(":")[2])
    return match and (match["v5"] or match["v4"])


# --- Names


def _resolve(name: str) -> Any:
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
    _check_atari(name)
    if name.startswith("MinAtar/"):
        _register_minatar(name)
    if name.startswith(("MiniGrid-", "BabyAI-")):
        _register_minigrid(name)
    if name.startswith("dm_control/"):
        _register_dm_control(name)
    if name in gym.registry:
        return gym.registry[name]
    raise SettingError(f"env={name!r}: {_unknown(name)}")


def _unknown(name: str) -> str:
    known = sorted(gym.registry)
    match = _VERSIONED.match(name)
    base = match["name"] if match else name
    versions = [int(m["version"]) for m in map(_VERSIONED.match, known) if m and m["name"] == base]
    if versions:
        given = f"there is no version v{match['version']}" if match else "the version is missing"
        return f"{given}; the current one is {base}-v{max(versions)}"
    hint = nearest(name, known) or nearest(base, {k.rpartition("-v")[0] for k in known})
    return (
        f"no gymnasium environment of this name{hint}; "
        "expected a gymnasium id or 'package.module:factory'"
    )


def _register_atari() -> bool:
    """Makes the Atari ids known; False where ale-py is not installed."""
    if importlib.util.find_spec("ale_py") is None:
        return False
    ale_py = importlib.import_module("ale_py")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for every emulator
    gym.register_envs(ale_py)
    return True


def _register_minatar(name: str) -> None:
    """Makes the ids of MinAtar known; raises SettingError where it is not installed."""
    if importlib.util.find_spec("minatar") is None:
        raise SettingError(f"env={name!r}: a package is missing; pip install 'tfrl[minatar]'")
    if "MinAtar/Breakout-v1" not in gym.registry:
        importlib.import_module("minatar.gym").register_envs()


def _register_minigrid(name: str) -> None:
    """Makes the ids of MiniGrid known; raises SettingError where it is not installed."""
    if importlib.util.find_spec("minigrid") is None:
        raise SettingError(f"env={name!r}: a package is missing; pip install 'tfrl[minigrid]'")
    importlib.import_module("minigrid")  # registers them


def _register_dm_control(name: str) -> None:
    """Makes the ids of DeepMind's control suite known; raises SettingError where a package is missing."""
    if any(importlib.util.find_spec(package) is None for package in ("shimmy", "dm_control")):
        raise SettingError(f"env={name!r}: a package is missing; pip install 'tfrl[dm_control]'")
    if "dm_control/cartpole-balance-v0" not in gym.registry:
        gym.register_envs(importlib.import_module("shimmy"))


@functools.cache
def _games() -> dict[str, str]:
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
    if not old or old["game"] not in _games():
        return
    use = f"ALE/{old['game']}-v5"
    if old["ram"]:
        raise SettingError(
            f"env={name!r}: observations of the machine's memory are not offered; use {use}"
        )
    settings = "--atari_frame_skip=4" if old["kind"] == "Deterministic" else "--atari_frame_skip"
    sticky = "0.25" if old["version"] in ("0", "5") else "0"
    raise SettingError(
        f"env={name!r}: this form of Atari id is not used any more; use {use} "
        f"(or {old['game']}NoFrameskip-v4) with {settings} --atari_sticky_actions={sticky}"
    )


# --- One environment


def _build(plan: EnvPlan) -> tuple[gym.Env, int | None]:
    """One environment and the time limit left to the caller to count; None: it limits itself."""
    if atari_game(plan.env) is not None:
        _resolve(plan.env)
        _refuse_atari_wrappers(plan)
        return _build_atari(plan), _atari_limit(plan)
    env, limit = _build_plain(plan)
    _check_api(plan, env)
    for name in plan.env_wrappers:
        env = _wrapped(plan, env, name)
    return env, limit


def _build_plain(plan: EnvPlan) -> tuple[gym.Env, int | None]:
    """The environment before `env_wrappers`, and its limit as in `_build`."""
    target = _resolve(plan.env)
    if not isinstance(target, gym.envs.registration.EnvSpec):
        env = target if is_one(plan) else _call(plan, target, **plan.env_kwargs)
        if not isinstance(env, gym.Env):
            raise SettingError(
                f"env={plan.env!r} returned a {type(env).__module__}.{type(env).__name__}: "
                f"expected a gymnasium.Env{_of_old_gym(env)}"
            )
        if isinstance(env, gym.wrappers.TimeLimit):
            # gymnasium offers no public way to read it.
            limit = plan.max_episode_steps or env._max_episode_steps
            return _unchecked(env.env), limit
        return _unchecked(env), plan.max_episode_steps
    if target.additional_wrappers:
        # They may rely on the TimeLimit below them, so it stays where gymnasium puts it.
        limit = {"max_episode_steps": plan.max_episode_steps} if plan.max_episode_steps else {}
        return _call(
            plan, gym.make, target, disable_env_checker=True, **limit, **plan.env_kwargs
        ), None
    env = _call(
        plan, gym.make, target, disable_env_checker=True, max_episode_steps=-1, **plan.env_kwargs
    )
    env = _unchecked(env)
    if target.id.startswith("MinAtar/Freeway-"):
        env = wrappers.EndsByTime(env)
    if target.id.startswith("MinAtar/"):
        env = wrappers.DrawsPixels(env)
    if target.id.startswith("dm_control/"):
        env = wrappers.DmDiscount(env)
    return env, plan.max_episode_steps or target.max_episode_steps


def _of_old_gym(env: Any) -> str:
    """What to do with an environment of the package that gymnasium replaced; '' for anything else."""
    if not any(base.__module__.partition(".")[0] == "gym" for base in type(env).__mro__):
        return ""
    return (
        ", not one of gym, which gymnasium replaced in 2022; port it, or wrap it in "
        "shimmy.GymV21CompatibilityV0(env=...), of gym 0.26 in GymV26CompatibilityV0"
    )


def _check_api(plan: EnvPlan, env: gym.Env) -> None:
    """Raises SettingError for an environment that cannot be seeded as gymnasium has it since 0.26."""
    reset = env.unwrapped.reset
    parameters = inspect.signature(reset).parameters.values()
    if any(p.name == "seed" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return
    raise SettingError(
        f"env={plan.env!r}: {type(env.unwrapped).__name__}.reset{inspect.signature(reset)} takes no seed, as in the "
        "old gym; expected reset(self, *, seed=None, options=None) -> (observation, info), beside "
        "step(self, action) -> (observation, reward, terminated, truncated, info)"
    )


def _wrapped(plan: EnvPlan, env: gym.Env, name: str) -> gym.Env:
    """`env` inside the wrapper of this name."""
    wrapper = objects.resolve(name, "env_wrappers")
    if not callable(wrapper):
        raise SettingError(
            f"env_wrappers={name!r}: expected a class or a function of an environment, got {type(wrapper).__name__}"
        )
    try:
        outer = wrapper(env)
    except Exception as error:  # whatever a wrapper raises, its reader needs the name
        reason = " ".join(str(error).split())
        raise SettingError(
            f"env_wrappers={name!r} around env={plan.env!r}: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(outer, gym.Env):
        raise SettingError(
            f"env_wrappers={name!r} returned a {type(outer).__name__}: expected a gymnasium.Env"
        )
    return outer


def _refuse_atari_wrappers(plan: EnvPlan) -> None:
    if plan.env_wrappers:
        raise SettingError(
            f"env_wrappers={list(plan.env_wrappers)} with env={plan.env!r}: Atari games have settings of their own "
            "(--atari_...); leave it out, or give a function that builds and wraps the game"
        )


def _unchecked(env: gym.Env) -> gym.Env:
    """Without gymnasium's outer checking wrappers; they cost as much as CartPole itself."""
    while isinstance(env, (gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker)):
        env = env.env
    return env


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


def _missing_extra(name: str, error: Exception) -> str:
    entry = str(gym.registry[name].entry_point) if name in gym.registry else ""
    text = f"{entry} {error}".lower()
    extras = {"box2d": "box2d", "mujoco": "mujoco", "ale_py": "atari", "opencv": "atari"}
    for word, extra in extras.items():
        if word in text:
            return f"a package is missing; pip install 'tfrl[{extra}]'"
    return f"a package is missing: {error}"


def _spec_of(plan: EnvPlan, env: gym.Env, limit: int | None) -> EnvSpec:
    name = f"env={plan.env!r}"
    if limit is None and env.spec is not None:
        limit = env.spec.max_episode_steps
    spec = EnvSpec(
        name=plan.env,
        observation_space=_observation_space(env.observation_space, name),
        action_space=space_lib.action_space(env.action_space, f"{name}: action_space"),
        frame_stack=plan.atari_frame_stack if atari_game(plan.env) is not None else 0,
        max_episode_steps=limit,
        **space_lib.declared(env, name)._asdict(),
        env_observation_space=env.observation_space,
        env_action_space=env.action_space,
    )
    for leaf in space_lib.leaves(env.observation_space):
        if 0 in leaf.shape:
            part = "".join(f"[{key!r}]" for key in leaf.path)
            raise SettingError(
                f"{name}: observation{part} has shape {list(leaf.shape)}; expected at least one number"
            )
    parts = spec.observation_space
    if isinstance(parts, gym.spaces.Dict) and not {*parts.spaces} - {*SIDE_INPUTS}:
        raise SettingError(
            f"{name}: observation_space {env.observation_space} has nothing that a network reads; expected a part "
            f"beside {', '.join(spec.side_inputs)}"
        )
    problems = space_lib.side_input_problems(parts, spec.action_space, spec.num_agents)
    if problems:
        raise SettingError(f"{name}: {problems[0]}")
    return spec


def _observation_space(space: gym.Space, name: str) -> gym.Space:
    """The space as algorithms see it; where a part is refused, e.g. a text, the message says how to leave it out."""
    try:
        return space_lib.observation_space(space, f"{name}: observation_space")
    except SettingError as error:
        parts = space.spaces if isinstance(space, gym.spaces.Dict) else {}
        rest = [key for key, part in parts.items() if space_lib.served(part)]
        if len(rest) in (0, len(parts)):
            raise
        advice = f"a function that returns gymnasium.wrappers.FilterObservation(env, {rest}) keeps the rest"
        if "mission" in parts and "image" in rest:
            advice = "--env_wrappers=minigrid.wrappers:ImgObsWrapper keeps the image alone"
        raise SettingError(f"{error}; {advice}") from error


# --- Atari


def _atari_limit(plan: EnvPlan) -> int:
    return plan.max_episode_steps or _ATARI_LIMIT_FRAMES // plan.atari_frame_skip


def _emulator(plan: EnvPlan, **kwargs: Any) -> gym.Env:
    for key, instead in _ATARI_SETTINGS.items():
        if key in plan.env_kwargs:
            raise SettingError(f"env_kwargs: {key!r} of an Atari game is the setting {instead}")
    return _call(
        plan,
        gym.make,
        f"ALE/{atari_game(plan.env)}-v5",
        disable_env_checker=True,
        frameskip=1,
        repeat_action_probability=plan.atari_sticky_actions,
        max_num_frames_per_episode=None,  # counted outside, in env steps from the end of the reset
        **plan.env_kwargs,
        **kwargs,
    ).unwrapped


@functools.lru_cache(maxsize=8)
def _fire_index(game: str, full_action_space: bool) -> int | None:
    env = gym.make(f"ALE/{game}-v5", full_action_space=full_action_space)
    meanings = env.unwrapped.get_action_meanings()
    env.close()
    return meanings.index("FIRE") if "FIRE" in meanings else None


def _fire_action(plan: EnvPlan) -> int | None:
    return _fire_index(atari_game(plan.env), bool(plan.env_kwargs.get("full_action_space", False)))


def _build_atari(plan: EnvPlan) -> gym.Env:
    """The gymnasium path: ale-py's vector environment's preprocessing, one game at a time."""
    env: gym.Env = _call(
        plan,
        gym.wrappers.AtariPreprocessing,
        _emulator(plan),
        noop_max=plan.atari_noop_max,
        frame_skip=plan.atari_frame_skip,
        screen_size=plan.atari_screen_size,
        terminal_on_life_loss=False,  # that wrapper would restart the whole game; see `AtariLives`
    )
    fire = _fire_action(plan) if plan.atari_fire_on_reset else None
    if fire is not None:
        env = wrappers.FireReset(env, fire)
    env = gym.wrappers.FrameStackObservation(env, plan.atari_frame_stack, padding_type="zero")
    return wrappers.ChannelLast(env)


def _why_not_ale(plan: EnvPlan) -> str:
    if atari_game(plan.env) is None:
        return "not an Atari id"
    others = sorted(set(plan.env_kwargs) - {"full_action_space"} - set(_ATARI_SETTINGS))
    return f"its vector environment does not take env_kwargs {', '.join(others)}" if others else ""


def _atari_spec(plan: EnvPlan) -> EnvSpec:
    _refuse_atari_wrappers(plan)
    # Not by `_build`: that needs OpenCV, which ale-py's own path does without.
    emulator = _emulator(plan)
    side = plan.atari_screen_size
    space = gym.spaces.Box(0, 255, (side, side, plan.atari_frame_stack), np.uint8)
    spec = EnvSpec(
        plan.env,
        space,
        space_lib.action_space(emulator.action_space, "action_space"),
        plan.atari_frame_stack,
        _atari_limit(plan),
        env_observation_space=space,
        env_action_space=emulator.action_space,
    )
    emulator.close()
    return spec


def _ale(plan: EnvPlan, num_envs: int, seed: int, options: dict[str, Any]) -> BatchVector:
    spec = _inner_spec(plan)
    vector_env = importlib.import_module("ale_py.vector_env")
    env = vector_env.AtariVectorEnv(
        _games()[atari_game(plan.env)],
        num_envs,
        # It counts frames from the end of the reset, so this is exact in env steps.
        max_num_frames_per_episode=_atari_limit(plan) * plan.atari_frame_skip,
        repeat_action_probability=plan.atari_sticky_actions,
        full_action_space=bool(plan.env_kwargs.get("full_action_space", False)),
        autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP,
        img_height=plan.atari_screen_size,
        img_width=plan.atari_screen_size,
        stack_num=plan.atari_frame_stack,
        frameskip=plan.atari_frame_skip,
        noop_max=plan.atari_noop_max,
        use_fire_reset=plan.atari_fire_on_reset,
        # Its episodic_life restarts the whole game at a lost life, so that no agent would see a
        # second one; its reward clipping would hide the returns. `vector.py` does both.
        episodic_life=False,
        reward_clipping=False,
    )
    return BatchVector(
        env,
        spec,
        seed,
        backend="ale",
        channel_last=True,
        shared_buffer=False,
        seed_form=np.array,
        **options,
    )


# --- Backends


def _sync(plan: EnvPlan, num_envs: int, seed: int, options: dict[str, Any]) -> SyncVector:
    first, limit = _build(plan)
    spec = _spec_of(plan, first, limit)
    factories = [lambda: first] + [lambda: _build(plan)[0]] * (num_envs - 1)
    owned = not is_one(plan)
    return SyncVector(factories, spec, seed, time_limit=limit, closes_envs=owned, **options)


def _async(plan: EnvPlan, num_envs: int, seed: int, options: dict[str, Any]) -> BatchVector:
    spec = _inner_spec(plan)
    with neutral_main():
        declared = space_lib.Declared(spec.num_agents, spec.reward_parts, spec.step_discount)
        env = Workers(plan.env, declared, functools.partial(make_env, plan), num_envs)
    return BatchVector(env, spec, seed, backend="async", **options)


def _why_not_native(plan: EnvPlan) -> str:
    if plan.env_wrappers:
        return "env_wrappers are for environments that are stepped one by one"
    target = _resolve(plan.env)
    if not isinstance(target, gym.envs.registration.EnvSpec) or target.vector_entry_point is None:
        return "it has no vector class of its own"
    if target.additional_wrappers:
        return "it is registered with wrappers, which its vector class does not take"
    entry = target.vector_entry_point
    try:
        creator = entry if callable(entry) else gym.envs.registration.load_env_creator(entry)
    except ImportError as error:
        return f"its vector class cannot be imported ({error})"
    accepted = inspect.signature(creator).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
        return ""
    limit = plan.max_episode_steps or target.max_episode_steps
    wanted = {*target.kwargs, *plan.env_kwargs, *(["max_episode_steps"] if limit else [])}
    missing = sorted(wanted - set(accepted))
    return f"its vector class does not take {', '.join(missing)}" if missing else ""


def _native(plan: EnvPlan, num_envs: int, seed: int, options: dict[str, Any]) -> BatchVector:
    spec = _inner_spec(plan)
    kwargs = dict(plan.env_kwargs)
    if plan.max_episode_steps:
        kwargs["max_episode_steps"] = plan.max_episode_steps
    target = _resolve(plan.env)
    env = _call(
        plan, gym.make_vec, target, num_envs, vectorization_mode="vector_entry_point", **kwargs
    )
    return BatchVector(
        env, spec, seed, backend="native", seed_form=lambda seeds: seeds[0], **options
    )


def _why_not_envpool(plan: EnvPlan) -> str:
    if plan.env_wrappers:
        return "env_wrappers are for environments that are stepped one by one"
    if importlib.util.find_spec("envpool") is None:
        return "envpool is not installed; pip install 'tfrl[envpool]'"
    known = importlib.import_module("envpool").list_all_envs()
    name = _envpool_name(plan)
    return "" if name in known else f"EnvPool has no {name}{nearest(name, known)}"


def _envpool_name(plan: EnvPlan) -> str:
    game = atari_game(plan.env)
    return f"{game}-v5" if game else plan.env


class _Pool(gym.vector.VectorEnv):
    """An EnvPool that can be seeded at a reset: EnvPool itself takes seeds only when it is made."""

    def __init__(self, plan: EnvPlan, num_envs: int, kwargs: dict[str, Any]):
        super().__init__()
        envpool = importlib.import_module("envpool")
        self._make = lambda seeds: _call(
            plan,
            envpool.make_gymnasium,
            _envpool_name(plan),
            num_envs=num_envs,
            seed=seeds,
            **kwargs,
        )
        self.num_envs = num_envs
        self._pool = self._make(list(range(num_envs)))
        self.metadata = self._pool.metadata
        self.single_observation_space = self._pool.observation_space
        self.single_action_space = self._pool.action_space
        self.max_episode_steps = self._pool.config["max_episode_steps"]

    def reset(
        self, *, seed: list[int] | None = None, options: dict | None = None
    ) -> tuple[Any, dict]:
        if seed is not None:
            self._pool.close()
            self._pool = self._make(seed)
        return self._pool.reset()

    def step(self, actions: np.ndarray) -> tuple:
        return self._pool.step(actions)

    def close(self) -> None:
        self._pool.close()


def _envpool(plan: EnvPlan, num_envs: int, seed: int, options: dict[str, Any]) -> BatchVector:
    kwargs = dict(plan.env_kwargs)
    if atari_game(plan.env) is not None:
        spec = _inner_spec(plan)
        kwargs.update(
            max_episode_steps=_atari_limit(plan),
            stack_num=plan.atari_frame_stack,
            frame_skip=plan.atari_frame_skip,
            noop_max=plan.atari_noop_max,
            use_fire_reset=plan.atari_fire_on_reset,
            img_height=plan.atari_screen_size,
            img_width=plan.atari_screen_size,
            repeat_action_probability=plan.atari_sticky_actions,
            episodic_life=False,  # both as for ale: `AtariLives` and the vector itself do these
            reward_clip=False,
        )
        env = _Pool(plan, num_envs, kwargs)
        return BatchVector(
            env, spec, seed, backend="envpool", channel_last=True, shared_buffer=False, **options
        )
    if plan.max_episode_steps:
        kwargs["max_episode_steps"] = plan.max_episode_steps
    env = _Pool(plan, num_envs, kwargs)
    name = f"env={plan.env!r}"
    spec = EnvSpec(
        plan.env,
        space_lib.observation_space(env.single_observation_space, f"{name}: observation_space"),
        space_lib.action_space(env.single_action_space, f"{name}: action_space"),
        max_episode_steps=env.max_episode_steps,
        env_observation_space=env.single_observation_space,
        env_action_space=env.single_action_space,
    )
    return BatchVector(env, spec, seed, backend="envpool", **options)
