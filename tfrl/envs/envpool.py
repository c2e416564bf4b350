"""EnvPool's vector environments, where it is installed."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from typing import Any

import gymnasium as gym
import numpy as np

from tfrl.envs import atari
from tfrl.envs import spaces as space_lib
from tfrl.envs.names import Resolved
from tfrl.envs.vector import BatchVector
from tfrl.job import EnvPlan
from tfrl.settings import nearest
from tfrl.types import EnvSpec

# Arguments of a pool, which the same environment outside one does not take.
_OF_POOLS = ("num_threads", "thread_affinity_offset")


def without_pool(plan: EnvPlan) -> EnvPlan:
    """The plan of one such environment outside a pool, as it is built to read its spaces or to draw it."""
    if plan.env_backend != "envpool":
        return plan
    kwargs = {name: value for name, value in plan.env_kwargs.items() if name not in _OF_POOLS}
    return dataclasses.replace(plan, env_backend="sync", env_kwargs=kwargs)


def why_not(found: Resolved) -> str:
    """Why EnvPool cannot serve; '' if it can."""
    if found.plan.env_wrappers:
        return "env_wrappers are for environments that are stepped one by one"
    if importlib.util.find_spec("envpool") is None:
        return "envpool is not installed; pip install 'tfrl[envpool]'"
    known = importlib.import_module("envpool").list_all_envs()
    name = _name(found)
    return "" if name in known else f"EnvPool has no {name}{nearest(name, known)}"


def make_vector(
    found: Resolved, num_envs: int, seed: int, options: dict[str, Any], num_threads: int
) -> BatchVector:
    """An EnvPool of this environment."""
    plan = found.plan
    kwargs = {"num_threads": num_threads, **plan.env_kwargs}
    if found.game is not None:
        spec = atari.make_spec(dataclasses.replace(found, plan=without_pool(plan)))
        kwargs.update(
            max_episode_steps=atari.limit(found),
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
        env = _Pool(found, num_envs, kwargs)
        return BatchVector(
            env, spec, seed, backend="envpool", channel_last=True, shared_buffer=False, **options
        )
    if plan.max_episode_steps:
        kwargs["max_episode_steps"] = plan.max_episode_steps
    env = _Pool(found, num_envs, kwargs)
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


class _Pool(gym.vector.VectorEnv):
    """An EnvPool that can be seeded at a reset: EnvPool itself takes seeds only when it is made."""

    def __init__(self, found: Resolved, num_envs: int, kwargs: dict[str, Any]):
        super().__init__()
        envpool = importlib.import_module("envpool")
        self._make = lambda seeds: found.call(
            envpool.make_gymnasium,
            _name(found),
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


def _name(found: Resolved) -> str:
    game = found.game
    return f"{game}-v5" if game else found.plan.env
