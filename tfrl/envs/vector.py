"""B environments behind one interface, whoever steps them and whichever way they restart.

An environment whose episode ended is reset by the vector itself. gymnasium has two ways to do that:

  NEXT_STEP  the ending step returns the final observation; the next step ignores the action and
             returns the reset observation. That row is no transition: it comes out with
             `valid=False`, reward 0, flags False, and `next_obs is obs` at every step.
  SAME_STEP  the ending step returns the reset observation, and the final one on the side: every row
             is valid, and `next_obs` holds the final observations in the rows that ended.

Users of `VectorEnv` need not know which: (obs before, action, reward, terminated, next_obs) of
valid rows are the transitions, in both.

Who owns the arrays: the caller. No array that `reset` or `step` returned is written again, none is
a copy more than needed. The flag arrays may be shared between steps and are then read-only. Arrays
need not be contiguous (an ALE observation is a transposed view).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from tfrl.config.settings import SettingError
from tfrl.envs import spaces as space_lib
from tfrl.types import ACTION_MASK, EnvSpec, Episode, VectorStep


class VectorEnv(abc.ABC):
    """B environments stepped together.

    Attributes:
      spec: one environment as the algorithm sees it.
      num_envs: B.
      backend: who steps them: "native", "sync", "async", "ale" or "envpool".
      restarts_in_step: SAME_STEP rather than NEXT_STEP, see above.
    """

    spec: EnvSpec
    num_envs: int
    backend: str
    restarts_in_step: bool = False

    @abc.abstractmethod
    def reset(self, seed: int | None = None) -> Any:
        """Starts all episodes anew and returns the first observations, leaves [B, ...].

        Args:
          seed: seeds every environment, each differently; None: the seed given at construction the
            first time, then the environments' generators simply continue.
        """

    @abc.abstractmethod
    def step(self, action: Any) -> VectorStep:
        """Steps every environment once.

        Args:
          action: leaves [B, ...] as `spec.action_space` says. Discrete actions count from 0, Box
            actions outside the limits are clipped. Ignored in rows that are reset by this step.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the environments; no call may follow."""


def environment_seeds(seed: int, num_envs: int) -> list[int]:
    """B seeds below 2**31 that do not overlap with those of a neighbouring `seed`."""
    return [int(s) >> 1 for s in np.random.SeedSequence(seed).generate_state(num_envs)]


def _constant(num_envs: int, value: bool) -> np.ndarray:
    array = np.full(num_envs, value)
    array.flags.writeable = False
    return array


class SyncVector(VectorEnv):
    """Python environments in a plain loop, NEXT_STEP; a few microseconds over the environments' own
    time.

    The time limit is counted here rather than by a wrapper, and the environments come without
    gymnasium's checking wrappers: `tfrl.envs.check` is the place to check.
    """

    backend = "sync"

    def __init__(
        self,
        factories: Sequence[Callable[[], gym.Env]],
        spec: EnvSpec,
        seed: int,
        *,
        time_limit: int | None = None,
        clip_rewards: bool = False,
        track_lives: bool = False,
        closes_envs: bool = True,
    ):
        """Builds the environments.

        Args:
          factories: one function per environment.
          spec: of one of them, after the casts of `envs/spaces.py`.
          seed: of the first `reset(None)`.
          time_limit: env steps after which an episode is truncated here; None: the environments do
            it.
          clip_rewards: the learner's rewards are signs.
          track_lives: keep `info["lives"]` of Atari games in `lives`.
          closes_envs: False: whoever has made them goes on with them after `close`.
        """
        self.spec, self.num_envs = spec, len(factories)
        self._closes_envs = closes_envs
        self.envs = [make() for make in factories]
        self.lives = np.zeros(self.num_envs, np.int32) if track_lives else None
        self._seed: int | None = seed
        self._limit = time_limit or -1
        self._clip = clip_rewards
        self._space = self.envs[0].observation_space
        self._leaves = space_lib.leaves(self._space)
        # One plain array is the common case, and worth a path without lists and dicts.
        self._flat = None
        if (
            len(self._leaves) == 1
            and not self._leaves[0].path
            and isinstance(self._leaves[0].start, int)
        ):
            self._flat = ((self.num_envs, *self._leaves[0].shape), self._leaves[0].dtype)
        self._cast = space_lib.action_cast(self.envs[0].action_space)
        self._split = space_lib.action_rows(self.envs[0].action_space)
        self._all, self._none = _constant(self.num_envs, True), _constant(self.num_envs, False)
        self._rows = [(i, env.step) for i, env in enumerate(self.envs)]
        self._pending = [False] * self.num_envs  # rows whose next step is a reset
        self._returns = [0.0] * self.num_envs
        self._lengths = [0] * self.num_envs

    def reset(self, seed: int | None = None) -> Any:
        """As of `VectorEnv.reset`.

        Raises:
          SettingError: an observation of another shape than its space says.
        """
        seed, self._seed = (self._seed if seed is None else seed), None
        seeds = [None] * self.num_envs if seed is None else environment_seeds(seed, self.num_envs)
        arrays = self._new_arrays()
        for i, env in enumerate(self.envs):
            obs, info = env.reset(seed=seeds[i])
            self._check_shapes(obs)
            self._write(arrays, i, obs)
            if self.lives is not None:
                self.lives[i] = info["lives"]
        self._pending = [False] * self.num_envs
        self._returns = [0.0] * self.num_envs
        self._lengths = [0] * self.num_envs
        return space_lib.pack(self._space, arrays)

    def step(self, action: Any) -> VectorStep:
        """As of `VectorEnv.step`, one environment after the other; `next_obs` is `obs` (NEXT_STEP)."""
        if self._cast is not None:
            action = self._cast(action)
        actions = action if self._split is None else self._split(action)
        flat = self._flat is not None
        if flat:
            nest = arrays = np.empty(*self._flat)
        else:
            arrays = self._new_arrays()
            nest = space_lib.pack(self._space, arrays)
        reward = np.empty(self.num_envs, np.float32)
        terminated = truncated = self._none
        valid = self._all
        episodes: tuple[Episode, ...] = ()
        pending, returns, lengths, lives = self._pending, self._returns, self._lengths, self.lives
        for i, step in self._rows:
            if pending[i]:
                obs, info = self.envs[i].reset()
                pending[i] = False
                reward[i] = 0.0
                if valid is self._all:
                    valid = np.ones(self.num_envs, np.bool_)
                valid[i] = False
            else:
                obs, r, ended, cut, info = step(actions[i])
                reward[i] = r
                returns[i] += r
                lengths[i] = length = lengths[i] + 1
                if ended or cut or length == self._limit:
                    if terminated is self._none:
                        terminated = np.zeros(self.num_envs, np.bool_)
                        truncated = np.zeros(self.num_envs, np.bool_)
                    terminated[i] = ended
                    truncated[i] = cut or length == self._limit
                    episodes += (Episode(i, float(returns[i]), length),)
                    pending[i], returns[i], lengths[i] = True, 0.0, 0
            if flat:
                arrays[i] = obs
            else:
                self._write(arrays, i, obs)
            if lives is not None:
                lives[i] = info["lives"]
        if self._clip:
            np.sign(reward, out=reward)
        return VectorStep(nest, nest, reward, terminated, truncated, valid, episodes)

    def close(self) -> None:
        """As of `VectorEnv.close`: closes each environment that is its own."""
        for env in self.envs if self._closes_envs else ():
            env.close()

    def render(self, row: int = 0) -> Any:
        """The picture of one environment, uint8 [H, W, 3], if it was made with
        render_mode="rgb_array"."""
        return self.envs[row].render()

    def _new_arrays(self) -> list[np.ndarray]:
        return [np.empty((self.num_envs, *leaf.shape), leaf.dtype) for leaf in self._leaves]

    def _write(self, arrays: list[np.ndarray], row: int, obs: Any) -> None:
        for array, leaf in zip(arrays, self._leaves, strict=True):
            value = space_lib.at(obs, leaf.path)
            array[row] = value if isinstance(leaf.start, int) else value - leaf.start

    def _check_shapes(self, obs: Any) -> None:
        # NumPy would broadcast a wrong shape into the batch in silence.
        for leaf in self._leaves:
            try:
                shape = np.shape(space_lib.at(obs, leaf.path))
            except (KeyError, IndexError, TypeError):
                shape = None
            if shape != leaf.shape:
                part = "observation" + "".join(f"[{key!r}]" for key in leaf.path)
                given = "is missing" if shape is None else f"has shape {list(shape)}"
                raise SettingError(
                    f"env={self.spec.name!r}: {part} of reset {given}, its observation_space says "
                    f"{list(leaf.shape)}; tfrl.envs.check.check_env lists all that is wrong"
                )


class BatchVector(VectorEnv):
    """Any `gymnasium.vector.VectorEnv`, NEXT_STEP or SAME_STEP."""

    def __init__(
        self,
        env: gym.vector.VectorEnv,
        spec: EnvSpec,
        seed: int,
        *,
        backend: str,
        clip_rewards: bool = False,
        track_lives: bool = False,
        channel_last: bool = False,
        shared_buffer: bool = False,
        seed_form: Callable[[list[int]], Any] = list,
    ):
        """Takes over `env`.

        Args:
          env: the vector; its metadata must say its autoreset mode.
          spec: of one environment, after the casts of `envs/spaces.py` (and the transposition).
          seed: of the first `reset(None)`.
          backend: name of who steps.
          clip_rewards: the learner's rewards are signs.
          track_lives: keep `infos["lives"]` of Atari games in `lives`.
          channel_last: move axis 1 of the observations to the end, as a view.
          shared_buffer: `env` writes its observations into the same memory each time, so copy them.
          seed_form: from one seed per environment to what `env.reset` takes.

        Raises:
          SettingError: an autoreset mode other than the two above, or none stated.
        """
        mode = env.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            stated = "none" if mode is None else str(getattr(mode, "value", mode))
            raise SettingError(
                f"env={spec.name!r}: metadata['autoreset_mode'] of its vector environment is "
                f"{stated}: "
                "expected AutoresetMode.NEXT_STEP or AutoresetMode.SAME_STEP; "
                "env_backend=sync does without it"
            )
        self.spec, self.num_envs, self.backend = spec, env.num_envs, backend
        self.env = env
        self.lives = np.zeros(self.num_envs, np.int32) if track_lives else None
        self.restarts_in_step = mode is AutoresetMode.SAME_STEP
        self._seed: int | None = seed
        self._seed_form = seed_form
        self._clip = clip_rewards
        self._space = env.single_observation_space
        self._leaves = space_lib.leaves(self._space)
        self._flat = isinstance(self._space, (gym.spaces.Box, gym.spaces.MultiBinary))
        self._channel_last = channel_last
        self._copy = shared_buffer
        self._as_is = (
            self._flat
            and not (shared_buffer or channel_last)
            and self._space.dtype == self._leaves[0].dtype
        )
        self._cast = space_lib.action_cast(env.single_action_space)
        self._all = _constant(self.num_envs, True)
        self._pending: np.ndarray | None = (
            None  # bool [B], rows whose next step is a reset; None: no row
        )
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)

    def reset(self, seed: int | None = None) -> Any:
        """As of `VectorEnv.reset`."""
        seed, self._seed = (self._seed if seed is None else seed), None
        seeds = None if seed is None else self._seed_form(environment_seeds(seed, self.num_envs))
        obs, info = self.env.reset(seed=seeds)
        self._pending = None
        self._returns[:] = 0.0
        self._lengths[:] = 0
        if self.lives is not None:
            self.lives = np.array(info["lives"], np.int32)
        return self._convert(obs)

    def step(self, action: Any) -> VectorStep:
        """As of `VectorEnv.step`, all of them in one call of `env`."""
        if self._cast is not None:
            action = self._cast(action)
        raw, reward, terminated, truncated, info = self.env.step(action)
        obs = next_obs = self._convert(raw)
        self._returns += reward
        self._lengths += 1
        valid = self._all
        if self._pending is not None:
            valid = ~self._pending
            self._returns[self._pending] = 0.0
            self._lengths[self._pending] = 0
            self._pending = None
        if self.lives is not None:
            self.lives = np.array(info["lives"], np.int32)
        episodes: tuple[Episode, ...] = ()
        done = terminated | truncated
        if np.count_nonzero(done):
            episodes = tuple(
                Episode(int(i), float(self._returns[i]), int(self._lengths[i]))
                for i in np.flatnonzero(done)
            )
            self._returns[done] = 0.0
            self._lengths[done] = 0
            if self.restarts_in_step:
                next_obs = self._with_final(obs, info["final_obs"], done)
            else:
                self._pending = done
        if self._clip:
            reward = np.sign(reward)
        return VectorStep(
            obs,
            next_obs,
            reward.astype(np.float32, copy=False),
            terminated,
            truncated,
            valid,
            episodes,
        )

    def close(self) -> None:
        """As of `VectorEnv.close`: closes `env`."""
        self.env.close()

    def _convert(self, obs: Any) -> Any:
        if self._as_is:
            return obs
        if self._flat:
            return self._convert_leaf(obs, self._leaves[0])
        parts = [self._convert_leaf(space_lib.at(obs, leaf.path), leaf) for leaf in self._leaves]
        return space_lib.pack(self._space, parts)

    def _convert_leaf(self, array: np.ndarray, leaf: space_lib.Leaf) -> np.ndarray:
        if not isinstance(leaf.start, int):
            array = array - leaf.start
        array = array.astype(leaf.dtype, copy=self._copy)
        return np.moveaxis(array, 1, -1) if self._channel_last else array

    def _with_final(self, obs: Any, final: Any, done: np.ndarray) -> Any:
        """`obs` with the rows that ended replaced by the final observations; `obs` itself stays as
        it is."""
        arrays = []
        for leaf in self._leaves:
            array = space_lib.at(obs, leaf.path).copy()
            for i in np.flatnonzero(done):
                value = space_lib.at(final[i], leaf.path)
                if not isinstance(leaf.start, int):
                    value = value - leaf.start
                array[i] = np.moveaxis(value, 0, -1) if self._channel_last else value
            arrays.append(array)
        return space_lib.pack(self._space, arrays)


class AtariLives(VectorEnv):
    """Makes lost lives terminations for the learner, and starts the next life; the inner vector
    plays full games.

    After a lost life the next row is an automatic step (`valid=False`, its reward is not the
    learner's): FIRE where asked, else a no-op, as a reset by DeepMind's wrappers would do. The
    agent need not find out that a game waits for FIRE, in evaluation neither: there lives are no
    terminations, but FIRE is still pressed.
    """

    def __init__(self, inner: SyncVector | BatchVector, automatic_action: int, *, terminate: bool):
        """Takes over `inner`, whose `lives` must be tracked.

        Args:
          automatic_action: index of the action that starts a life.
          terminate: a lost life is `terminated=True`.
        """
        self.spec, self.num_envs, self.backend = inner.spec, inner.num_envs, inner.backend
        self.restarts_in_step = inner.restarts_in_step
        self._inner, self._action, self._terminate = inner, automatic_action, terminate
        self._lives = np.zeros(self.num_envs, np.int32)
        self._pending: np.ndarray | None = None

    def reset(self, seed: int | None = None) -> Any:
        """As of `VectorEnv.reset`: new games with all lives."""
        obs = self._inner.reset(seed)
        self._lives, self._pending = self._inner.lives.copy(), None
        return obs

    def step(self, action: np.ndarray) -> VectorStep:
        """As of `VectorEnv.step`; the action of a row that has lost a life in the step before is not read either."""
        pending = self._pending
        if pending is not None:
            action = np.where(pending, self._action, action)
        step = self._inner.step(action)
        lives = self._inner.lives.copy()
        lost = (lives < self._lives) & step.valid & ~(step.terminated | step.truncated)
        self._lives = lives
        self._pending = lost if np.count_nonzero(lost) else None
        if pending is None and self._pending is None:
            return step
        reward, terminated, truncated, valid = (
            step.reward,
            step.terminated,
            step.truncated,
            step.valid,
        )
        if self._terminate:
            terminated = terminated | lost
        if pending is not None:
            valid = valid & ~pending
            reward, terminated, truncated = reward * valid, terminated & valid, truncated & valid
        return step._replace(reward=reward, terminated=terminated, truncated=truncated, valid=valid)

    def close(self) -> None:
        """As of `VectorEnv.close`."""
        self._inner.close()

    def render(self, row: int = 0) -> Any:
        """As `SyncVector.render`."""
        return self._inner.render(row)


class CheckedMasks(VectorEnv):
    """Ends a run at a state that goes on without any valid action: no policy can act there, and no value follows it."""

    def __init__(self, inner: VectorEnv):
        """Takes over `inner`, whose observations have an action mask."""
        self.spec, self.num_envs, self.backend = inner.spec, inner.num_envs, inner.backend
        self.restarts_in_step = inner.restarts_in_step
        self._inner = inner
        self._starts = space_lib.mask_starts(inner.spec.action_space)

    def reset(self, seed: int | None = None) -> Any:
        """As of `inner`; raises SettingError for a state without a valid action, as `step` does."""
        obs = self._inner.reset(seed)
        self._check(obs, np.zeros(self.num_envs, np.bool_))
        return obs

    def step(self, action: Any) -> VectorStep:
        """As of `VectorEnv.step`.

        Raises:
          SettingError: a state that is not terminal has no valid action.
        """
        step = self._inner.step(action)
        self._check(step.next_obs, step.terminated)
        if step.obs is not step.next_obs:
            self._check(step.obs, np.zeros(self.num_envs, np.bool_))
        return step

    def close(self) -> None:
        """As of `VectorEnv.close`."""
        self._inner.close()

    def render(self, row: int = 0) -> Any:
        """As `SyncVector.render`."""
        return self._inner.render(row)

    @property
    def envs(self) -> list[gym.Env]:
        """As `SyncVector.envs`."""
        return self._inner.envs

    def _check(self, obs: Any, ended: np.ndarray) -> None:
        valid = np.maximum.reduceat(obs[ACTION_MASK], self._starts, axis=1).min(1) > 0
        bad = np.flatnonzero(~(valid | ended))
        if len(bad):
            raise SettingError(
                f"env={self.spec.name!r}: {ACTION_MASK} {obs[ACTION_MASK][bad[0]].astype(int).tolist()} of a state "
                "that is not terminal has no valid action; expected one at least (for each part of the action)"
            )
