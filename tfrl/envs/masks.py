"""A vector whose action masks are checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrl.envs import spaces as space_lib
from tfrl.envs.vector import VectorEnv, VectorWrapper
from tfrl.errors import SettingError
from tfrl.types import ACTION_MASK, VectorStep


class CheckedMasks(VectorWrapper):
    """Ends a run at a state that goes on without any valid action: no policy can act there, and no value follows it."""

    def __init__(self, inner: VectorEnv):
        """Takes over `inner`, whose observations have an action mask."""
        super().__init__(inner)
        self._starts = space_lib.mask_starts(inner.spec.action_space)
        self._resting = np.zeros(self.num_envs, np.bool_)
        self.seeds_rows = inner.seeds_rows

    def reset(self, seed: int | None = None) -> Any:
        """Like `inner`; raises SettingError for a state without a valid action, as `step` does."""
        obs = self.inner.reset(seed)
        self._resting[:] = False
        self._check(obs, self._resting)
        return obs

    def restart(self, obs: Any, seeds: Mapping[int, int | None]) -> Any:
        """Implements `VectorEnv.restart`; raises SettingError as `reset` does."""
        obs = self.inner.restart(obs, seeds)
        for row, seed in seeds.items():
            self._resting[row] = seed is None
        self._check(obs, self._resting)
        return obs

    def step(self, action: Any) -> VectorStep:
        """Implements `VectorEnv.step`.

        Raises:
          SettingError: a state that is not terminal has no valid action.
        """
        step = self.inner.step(action)
        self._check(step.next_obs, step.terminated | self._resting)
        if step.obs is not step.next_obs:
            self._check(step.obs, self._resting)
        return step

    def _check(self, obs: Any, ended: np.ndarray) -> None:
        mask = obs[ACTION_MASK]
        if np.count_nonzero(mask) == mask.size:
            return
        valid = np.maximum.reduceat(mask, self._starts, axis=1).min(1) > 0
        bad = np.flatnonzero(~(valid | ended))
        if len(bad):
            raise SettingError(
                f"env={self.spec.name!r}: {ACTION_MASK} {mask[bad[0]].astype(int).tolist()} of a state "
                "that is not terminal has no valid action; expected one at least (for each part of the action)"
            )
