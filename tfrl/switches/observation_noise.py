"""Adds Gaussian noise to the float parts of observations.

What it is: zero-mean noise of one standard deviation on every element of each array of floats that a network reads,
drawn anew at every step and clipped to the limits of the space. Training without noise and evaluating with it, or the
reverse, measures how far a policy depends on exact observations.

What it is not: it changes no side inputs such as action masks, no integers and no images of bytes. With
`observe_previous` the previous action and reward stay exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from tfrl.envs.vector import VectorEnv, VectorWrapper
from tfrl.errors import SettingError
from tfrl.settings import setting, validate
from tfrl.types import SIDE_INPUTS, EnvSpec, VectorStep


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the switch."""

    noise_std: float = setting(
        0.1, "standard deviation of the noise, in units of the observation", minimum=0.0
    )
    noise_in_evaluation: bool = setting(False, "add the noise in evaluation too")

    def __post_init__(self) -> None:
        validate(self)


def environment(
    config: Config, spec: EnvSpec
) -> tuple[EnvSpec, Callable[[VectorEnv, int, bool], VectorEnv]]:
    """The environment with noise; its spaces stay the same.

    Raises:
      SettingError: the observation has no part of floats, or floats that are stacked frames.
    """
    if not _has_floats(spec.observation_space) or spec.frame_stack:
        raise SettingError(
            f"with=observation_noise on {spec.name}: expected an observation with a part of floats, got "
            f"{spec.observation_space}"
        )

    def wrap(vector: VectorEnv, seed: int, training: bool) -> VectorEnv:
        quiet = config.noise_std == 0.0 or not (training or config.noise_in_evaluation)
        return vector if quiet else ObservationNoise(vector, config.noise_std, seed)

    return spec, wrap


class ObservationNoise(VectorWrapper):
    """Observations with noise."""

    def __init__(self, inner: VectorEnv, std: float, seed: int):
        """Takes over `inner`.

        Args:
          std: standard deviation.
          seed: of the noise until a `reset` that has one; the same seed gives the same noise.
        """
        super().__init__(inner)
        self._std, self._rng = np.float32(std), np.random.default_rng(seed)
        self._space = inner.spec.observation_space

    def reset(self, seed: int | None = None) -> Any:
        """Implements `VectorEnv.reset`; a seed is that of the noise too."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        return self._noisy(self._space, self.inner.reset(seed))

    def step(self, action: Any) -> VectorStep:
        """Implements `VectorEnv.step`; each observation has one draw, also where it is given twice."""
        step = self.inner.step(action)
        obs = next_obs = self._noisy(self._space, step.next_obs)
        if step.obs is not step.next_obs:  # rows that have restarted within the step
            ended = step.terminated | step.truncated
            obs = _choose(ended, self._noisy(self._space, step.obs), next_obs)
        return step._replace(obs=obs, next_obs=next_obs)

    def own_state(self) -> dict[str, Any]:
        """Implements `VectorWrapper.own_state`: that of the generator."""
        return self._rng.bit_generator.state

    def restore_own(self, state: dict[str, Any]) -> None:
        """Implements `VectorWrapper.restore_own`."""
        self._rng.bit_generator.state = state

    def _noisy(self, space: gym.Space, obs: Any) -> Any:
        """New arrays for the parts of floats, the given ones for all others."""
        if isinstance(space, gym.spaces.Dict):
            return {
                key: obs[key] if key in SIDE_INPUTS else self._noisy(part, obs[key])
                for key, part in space.spaces.items()
            }
        if isinstance(space, gym.spaces.Tuple):
            return tuple(self._noisy(part, x) for part, x in zip(space.spaces, obs, strict=True))
        if not _is_float(space):
            return obs
        noise = self._rng.standard_normal(obs.shape, np.float32) * self._std
        return np.clip(obs + noise, space.low, space.high).astype(obs.dtype, copy=False)


def _is_float(space: gym.Space) -> bool:
    return isinstance(space, gym.spaces.Box) and space.dtype.kind == "f"


def _has_floats(space: gym.Space) -> bool:
    if isinstance(space, gym.spaces.Dict):
        return any(_has_floats(s) for key, s in space.spaces.items() if key not in SIDE_INPUTS)
    if isinstance(space, gym.spaces.Tuple):
        return any(map(_has_floats, space.spaces))
    return _is_float(space)


def _choose(rows: np.ndarray, a: Any, b: Any) -> Any:
    """`a` in the rows that are True, `b` in the others; leaves [B, ...]."""
    if isinstance(a, dict):
        return {key: _choose(rows, a[key], b[key]) for key in a}
    if isinstance(a, tuple):
        return tuple(_choose(rows, x, y) for x, y in zip(a, b, strict=True))
    return np.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b)
