"""From an `EnvPlan` to environments: its name resolved once, its backend picked by a table, an error in one sentence.

Nothing here imports TensorFlow: processes that only step environments must stay light.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym

from tfrl.config import objects
from tfrl.envs import atari, envpool, restarts, team, wrappers
from tfrl.envs import spaces as space_lib
from tfrl.envs.goal_rewards import GoalRewards
from tfrl.envs.masks import CheckedMasks
from tfrl.envs.names import Resolved, atari_game, resolve
from tfrl.envs.pettingzoo import Team, is_team
from tfrl.envs.previous import PreviousStep, observe_previous
from tfrl.envs.spawn import neutral_main
from tfrl.envs.switched import switched, switched_spec
from tfrl.envs.vector import BatchVector, SyncVector, VectorEnv
from tfrl.envs.workers import Workers
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.types import SIDE_INPUTS, EnvSpec

# Below this many environments our loop over Python environments is faster than CartPole's NumPy
# vector class. A class for which another number holds states it as `pays_from_num_envs`.
NATIVE_FROM_NUM_ENVS = 6


def make_spec(plan: EnvPlan, switches: Mapping[str, Any] = {}) -> EnvSpec:  # noqa: B006 - only read
    """The spec of `plan`'s environment; builds one, reads its spaces and closes it.

    Args:
      plan: of the environment.
      switches: that change it, see `Job.switches`.

    Raises:
      SettingError: an environment that does not exist, cannot be built, or has spaces that nothing
        here serves.
    """
    found = resolve(plan)
    spec = switched_spec(_inner_spec(found), switches)
    return observe_previous(spec, found.clips) if plan.observe_previous else spec


def make_vector(
    plan: EnvPlan,
    num_envs: int,
    seed: int,
    *,
    training: bool = True,
    info_names: Sequence[str] = (),
    switches: Mapping[str, Any] = {},  # noqa: B006 - only read
    num_vectors: int = 1,
) -> VectorEnv:
    """Builds `num_envs` environments behind one interface.

    Args:
      seed: of the first `reset()`.
      training: False for evaluation: rewards are not clipped and a lost life ends nothing.
      info_names: of numbers in the info of an episode's last step, kept in `Episode.infos`.
      switches: that change the environments, see `Job.switches`.
      num_vectors: that a run steps at the same time on this machine; those with threads of their own share its cores.

    Raises:
      SettingError: as `make_spec`, or a backend that cannot serve this environment or these
        settings.
    """
    if num_envs < 1:
        raise SettingError(f"num_envs={num_envs}: expected at least 1")
    found = resolve(plan)
    if found.is_one and num_envs > 1:
        raise SettingError(
            f"num_envs={num_envs} with env={plan.env!r}: one environment is one row; expected num_envs=1, or a "
            "function or class that builds an environment each time it is called"
        )
    options: dict[str, Any] = {
        "clip_rewards": training and found.clips,
        "track_lives": found.game is not None,
        "info_names": tuple(info_names),
        "team_reward": plan.team_reward,
    }
    # ale-py and EnvPool take all cores unless they are told; 0 leaves the choice to them.
    num_threads = max(1, len(os.sched_getaffinity(0)) // num_vectors) if num_vectors > 1 else 0
    make = BACKENDS[_pick(found, num_envs)].make
    vector = make(found, num_envs, seed, options, num_threads)
    if found.game is not None:
        vector = atari.with_lives(vector, found, training)
    vector = switched(vector, switches, seed, training)
    if vector.spec.has_action_mask:
        vector = CheckedMasks(vector)
    return PreviousStep(vector, found.clips) if plan.observe_previous else vector


def pick_backend(plan: EnvPlan, num_envs: int) -> str:
    """The backend: `plan.env_backend`, or the choice of auto for this environment and number.

    auto: ale for Atari ids (sync where an option needs it), the id's own vector class where it
    has one that serves every option and `num_envs` is large enough to pay, else sync.

    Raises:
      SettingError: an environment that does not exist; a named backend that cannot serve the plan, with the reason.
    """
    return _pick(resolve(plan), num_envs)


def _pick(found: Resolved, num_envs: int) -> str:
    """See `pick_backend`."""
    asked, name = found.plan.env_backend, found.plan.env
    if found.is_one and asked not in ("sync", "auto"):
        raise SettingError(
            f"env_backend={asked} with env={name!r}: one environment is stepped here; expected sync or auto"
        )
    if asked != "auto":
        reason = BACKENDS[asked].why_not(found)
        if reason:
            raise SettingError(
                f"env_backend={asked} with env={name!r}: {reason}; expected sync, async or auto"
            )
        return asked
    own = "ale" if found.game is not None else "native"
    if BACKENDS[own].why_not(found):
        return "sync"
    if own == "native":
        least = getattr(_vector_class(found), "pays_from_num_envs", NATIVE_FROM_NUM_ENVS)
        return own if num_envs >= least else "sync"
    return own


def make_env(plan: EnvPlan) -> gym.Env:
    """One environment with its preprocessing and time limit, as a plain gymnasium environment.

    `observe_previous` is no part of it: vectors do that.
    """
    env, limit = _build(resolve(plan))
    return env if limit is None else gym.wrappers.TimeLimit(env, limit)


def make_goal_rewards(plan: EnvPlan, check: bool = False) -> GoalRewards:
    """Rewards of `plan`'s environment for other goals; builds one, which stays as long as the result.

    Args:
      check: compare them with those of some steps, except of an environment that exists already.

    Raises:
      SettingError: an environment without goals or without such functions, or that cannot be built.
    """
    found = resolve(plan)
    rewards = GoalRewards(_build(found)[0], plan.env, found.clips)
    if check and not found.is_one:
        rewards.check_steps()
    return rewards


def _inner_spec(found: Resolved) -> EnvSpec:
    """The spec before switches and `observe_previous`."""
    found = _without_pool(found)
    if found.game is not None:
        return atari.make_spec(found)
    env, limit = _build(found)
    try:
        return spec_of(found.plan, env, limit)
    finally:
        if not found.is_one:
            env.close()


def _build(found: Resolved) -> tuple[gym.Env, int | None]:
    """One environment and the time limit left to the caller to count; None: it limits itself."""
    found = _without_pool(found)
    if found.game is not None:
        return atari.build(found), atari.limit(found)
    env, limit = _build_plain(found)
    _check_api(found.plan, env)
    for name in found.plan.env_wrappers:
        env = _wrapped(found.plan, env, name)
    return env, limit


def _without_pool(found: Resolved) -> Resolved:
    """See `envpool.without_pool`."""
    return dataclasses.replace(found, plan=envpool.without_pool(found.plan))


def _build_plain(found: Resolved) -> tuple[gym.Env, int | None]:
    """The environment before `env_wrappers`, and its limit as in `_build`."""
    plan, target = found.plan, found.target
    if not found.is_registered:
        env = target if found.is_one else found.call(target, **plan.env_kwargs)
        if is_team(env):
            env = Team(env, where=f"env={plan.env!r}")
        if not isinstance(env, gym.Env):
            raise SettingError(
                f"env={plan.env!r} returned a {type(env).__module__}.{type(env).__name__}: "
                f"expected a gymnasium.Env or an environment of PettingZoo{_of_old_gym(env)}"
            )
        if isinstance(env, gym.wrappers.TimeLimit):
            # gymnasium offers no public way to read it.
            limit = plan.max_episode_steps or env._max_episode_steps
            return _unchecked(env.env), limit
        return _unchecked(env), plan.max_episode_steps
    if target.additional_wrappers:
        # They may rely on the TimeLimit below them, so it stays where gymnasium puts it.
        limit = {"max_episode_steps": plan.max_episode_steps} if plan.max_episode_steps else {}
        return found.call(
            gym.make, target, disable_env_checker=True, **limit, **plan.env_kwargs
        ), None
    env = found.call(
        gym.make, target, disable_env_checker=True, max_episode_steps=-1, **plan.env_kwargs
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
    """Advice for an environment of the package that gymnasium replaced; '' for any other."""
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


def _unchecked(env: gym.Env) -> gym.Env:
    """Without gymnasium's outer checking wrappers; they cost as much as CartPole itself."""
    while isinstance(env, (gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker)):
        env = env.env
    return env


def spec_of(plan: EnvPlan, env: gym.Env, limit: int | None) -> EnvSpec:
    """The spec of an environment.

    Args:
      plan: for its name.
      env: one of its environments.
      limit: time limit in env steps, None where `env` has its own or none.

    Raises:
      SettingError: spaces, side inputs or declarations that nothing serves.
    """
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
    observations, actions = env.observation_space, env.action_space
    problems = team.form_problems(observations, actions, space_lib.declared(env, name))
    problems += space_lib.side_input_problems(observations, actions, spec.num_agents)
    if problems:
        raise SettingError(f"{name}: {problems[0]}")
    return spec


def _observation_space(space: gym.Space, name: str) -> gym.Space:
    """The space as algorithms see it; where a part is refused, e.g. a text, the message explains how to drop it."""
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


def _sync(
    found: Resolved, num_envs: int, seed: int, options: dict[str, Any], num_threads: int
) -> SyncVector:
    """Environments in a plain loop."""
    del num_threads
    first, limit = _build(found)
    spec = spec_of(found.plan, first, limit)
    factories = [lambda: first] + [lambda: _build(found)[0]] * (num_envs - 1)
    owned = not found.is_one
    return SyncVector(factories, spec, seed, time_limit=limit, closes_envs=owned, **options)


def _async(
    found: Resolved, num_envs: int, seed: int, options: dict[str, Any], num_threads: int
) -> BatchVector:
    """Environments in processes of their own."""
    del num_threads
    spec = _inner_spec(found)
    with neutral_main():
        declared = space_lib.Declared(spec.num_agents, spec.reward_parts, spec.step_discount)
        env = Workers(found.plan.env, declared, functools.partial(make_env, found.plan), num_envs)
    return BatchVector(env, spec, seed, backend="async", **options)


def _why_not_native(found: Resolved) -> str:
    """Why the vector class of an id cannot serve; '' if it can."""
    if found.plan.env_wrappers:
        return "env_wrappers are for environments that are stepped one by one"
    target = found.target
    if not found.is_registered or target.vector_entry_point is None:
        return "it has no vector class of its own"
    if target.additional_wrappers:
        return "it is registered with wrappers, which its vector class does not take"
    try:
        accepted = inspect.signature(_vector_class(found)).parameters
    except ImportError as error:
        return f"its vector class cannot be imported ({error})"
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
        return ""
    limit = found.plan.max_episode_steps or target.max_episode_steps
    wanted = {*target.kwargs, *found.plan.env_kwargs, *(["max_episode_steps"] if limit else [])}
    missing = sorted(wanted - set(accepted))
    return f"its vector class does not take {', '.join(missing)}" if missing else ""


def _vector_class(found: Resolved) -> Any:
    """The vector class of an id; raises ImportError where it cannot be imported."""
    entry = found.target.vector_entry_point
    return entry if callable(entry) else gym.envs.registration.load_env_creator(entry)


def _native(
    found: Resolved, num_envs: int, seed: int, options: dict[str, Any], num_threads: int
) -> BatchVector:
    """Environments in the vector class of their id."""
    del num_threads
    spec = _inner_spec(found)
    kwargs = dict(found.plan.env_kwargs)
    if found.plan.max_episode_steps:
        kwargs["max_episode_steps"] = found.plan.max_episode_steps
    target = found.target
    env = found.call(
        gym.make_vec, target, num_envs, vectorization_mode="vector_entry_point", **kwargs
    )
    return BatchVector(
        env, spec, seed, backend="native", seed_form=lambda seeds: seeds[0],
        restart=restarts.of(env), **options,
    )  # fmt: skip


class Backend(NamedTuple):
    """A way to step environments.

    Attributes:
      why_not: (resolved) -> why it cannot serve this environment with these settings; '' if it can.
      make: (resolved, num_envs, seed, options of the vector, num_threads) -> the vector; 0 threads: as it chooses.
    """

    why_not: Callable[[Resolved], str]
    make: Callable[[Resolved, int, int, dict[str, Any], int], VectorEnv]


# By the name of `--env_backend`.
BACKENDS = {
    "sync": Backend(lambda found: "", _sync),
    "async": Backend(lambda found: "", _async),
    "native": Backend(_why_not_native, _native),
    "ale": Backend(atari.why_not, atari.make_vector),
    "envpool": Backend(envpool.why_not, envpool.make_vector),
}
