"""Observations that carry the action before them and the reward it gave, for policies with a memory.

The observation becomes a Dict of `observation`, `previous_action` and `previous_reward`; a Dict
observation keeps its keys and gets the last two. At the start of an episode both are zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from tfrl.envs.vector import VectorEnv, VectorWrapper
from tfrl.errors import SettingError
from tfrl.spaces import map_leaves, map_space
from tfrl.types import EnvSpec, VectorStep

OBSERVATION = "observation"
PREVIOUS_ACTION = "previous_action"  # of the action space; Box actions within its limits
PREVIOUS_REWARD = "previous_reward"  # float32 scalar, as the learner sees it

spaces = gym.spaces


def observe_previous(spec: EnvSpec, clip_rewards: bool) -> EnvSpec:
    """The spec of an environment whose observations carry the previous action and reward.

    Args:
      clip_rewards: the learner's rewards are signs.

    Raises:
      SettingError: the observation is a Dict that has one of the two keys already.
    """
    inner = spec.observation_space
    parts = dict(inner.spaces) if isinstance(inner, spaces.Dict) else {OBSERVATION: inner}
    for key in (PREVIOUS_ACTION, PREVIOUS_REWARD):
        if key in parts:
            raise SettingError(
                f"observe_previous with env={spec.name!r}: its observation has a key {key!r} already"
            )
    outer = inner if spec.env_observation_space is None else spec.env_observation_space
    action = spec.action_space if spec.env_action_space is None else spec.env_action_space
    return dataclasses.replace(
        spec,
        observation_space=_with_previous(inner, spec.action_space, clip_rewards),
        env_observation_space=_with_previous(outer, action, clip_rewards),
    )


def _with_previous(inner: gym.Space, action: gym.Space, clip_rewards: bool) -> spaces.Dict:
    """An observation space with the action and the reward before it."""
    parts = dict(inner.spaces) if isinstance(inner, spaces.Dict) else {OBSERVATION: inner}
    limit = np.float32(1.0 if clip_rewards else np.inf)
    parts[PREVIOUS_ACTION] = map_space(_with_zero, action)
    parts[PREVIOUS_REWARD] = spaces.Box(-limit, limit, (), np.float32)
    return spaces.Dict(parts)


class PreviousStep(VectorWrapper):
    """Adds the previous action and reward to the observations of `inner`.

    In a row whose episode ended, `next_obs` holds the step that ended it; what follows holds zeros, as does every
    automatic row.
    """

    def __init__(self, inner: VectorEnv, clip_rewards: bool):
        """Takes over `inner`.

        Args:
          clip_rewards: the learner's rewards are signs; in evaluation too, where those of `inner` are not.
        """
        super().__init__(inner, observe_previous(inner.spec, clip_rewards))
        self._clip = clip_rewards
        self._action_space = inner.spec.action_space
        self._is_dict = isinstance(inner.spec.observation_space, spaces.Dict)

    def reset(self, seed: int | None = None) -> Any:
        """Implements `VectorEnv.reset`; previous action and reward are zero."""
        obs = self.inner.reset(seed)
        action = _zeros(self._action_space, self.num_envs)
        return self._join(obs, action, np.zeros(self.num_envs, np.float32))

    def step(self, action: Any) -> VectorStep:
        """Implements `VectorEnv.step`; the rewards stay those of `inner`, only what is observed is clipped here."""
        step = self.inner.step(action)
        action = _cast(self._action_space, action)
        reward = np.sign(step.reward) if self._clip else step.reward
        if not step.valid.all():
            action, reward = _keep(action, step.valid), reward * step.valid
        next_obs = obs = self._join(step.next_obs, action, reward)
        if step.obs is not step.next_obs:
            goes_on = ~(step.terminated | step.truncated)
            obs = self._join(step.obs, _keep(action, goes_on), reward * goes_on)
        return step._replace(obs=obs, next_obs=next_obs)

    def _join(self, obs: Any, action: Any, reward: np.ndarray) -> dict[str, Any]:
        parts = obs if self._is_dict else {OBSERVATION: obs}
        return {**parts, PREVIOUS_ACTION: action, PREVIOUS_REWARD: reward}


def _with_zero(space: gym.Space) -> gym.Space:
    """A part of an action as one of an observation: the limits of a Box include 0, which stands for no action."""
    if not isinstance(space, spaces.Box):
        return space
    zero = space.dtype.type(0)
    low, high = np.minimum(space.low, zero), np.maximum(space.high, zero)
    return spaces.Box(low, high, dtype=space.dtype)


def _zeros(space: gym.Space, num_envs: int) -> Any:
    return map_leaves(lambda part: np.zeros((num_envs, *part.shape), part.dtype), space)


def _cast(space: gym.Space, action: Any) -> Any:
    """A copy of a policy's actions, leaves [B, ...], in the dtype and within the limits of `space`."""

    def cast(part: gym.Space, x: Any) -> np.ndarray:
        x = np.array(x, part.dtype)
        return np.clip(x, part.low, part.high) if isinstance(part, spaces.Box) else x

    return map_leaves(cast, space, action)


def _keep(nest: Any, mask: np.ndarray) -> Any:
    """The nest with zeros in the rows where `mask` [B] is False."""
    if isinstance(nest, Mapping):
        return {key: _keep(part, mask) for key, part in nest.items()}
    if isinstance(nest, tuple):
        return tuple(_keep(part, mask) for part in nest)
    return nest * mask.reshape(-1, *[1] * (nest.ndim - 1)).astype(nest.dtype)
