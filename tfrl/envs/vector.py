"""B environments behind one interface, whoever steps them and whichever way they restart.

An environment whose episode ended is reset by the vector itself. gymnasium has two ways to do that:

  NEXT_STEP  the ending step returns the final observation; the next step ignores the action and
             returns the reset observation. This row is no transition: it comes out with
             `valid=False`, reward 0, flags False, and `next_obs is obs` at every step.
  SAME_STEP  the ending step returns the reset observation, and the final one on the side: every row
             is valid, and `next_obs` holds the final observations in the rows that ended.

Users of `VectorEnv` need not know which: (obs before, action, reward, terminated, next_obs) of
valid rows are the transitions, in both.

The caller owns the arrays: no array that `reset` or `step` returned is written again, whatever
the environments do with their own; the flag arrays may be shared between steps and are then
read-only. An environment may change the action that it is given: it has a copy. Arrays need not be
contiguous (an ALE observation is a transposed view).

Results of environments are checked at every step, see `envs/boundary.py`.
"""

from __future__ import annotations

import abc
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from tfrl.envs import restarts, team
from tfrl.envs import spaces as space_lib
from tfrl.envs.boundary import (
    DISCOUNT,
    FLAGS,
    MOST,
    NUMBERS,
    REWARD_PARTS,
    Boundary,
    is_finite,
    kind,
    part_name,
)
from tfrl.envs.state import NoState, capture, put_back
from tfrl.errors import SettingError
from tfrl.types import EnvSpec, Episode, VectorStep

_RESTS = 2  # of a row, beside False and True
_BOOL, _FLOAT = np.dtype(np.bool_), np.dtype(np.float32)


class Place:
    """The place at which the environments' own code runs; other threads read it to find a call that does not return.

    Attributes:
      calls: vector steps and resets begun so far.
      inside: True between the begin and the end of such a call.
      rows: gives the rows whose code runs now; none where that is not known.
    """

    __slots__ = ("__weakref__", "calls", "inside", "rows")

    def __init__(self, rows: Callable[[], list[int]] = list):
        self.calls, self.inside, self.rows = 0, False, rows


class VectorEnv(abc.ABC):
    """B environments stepped together.

    Attributes:
      spec: one environment as the algorithm sees it.
      num_envs: B.
      backend: how they are stepped: "native", "sync", "async", "ale" or "envpool".
      place: where the environments' own code runs.
      restarts_in_step: SAME_STEP rather than NEXT_STEP, see above.
      why_no_state: why `state` cannot be called, in some words; "" where it can.
      seeds_rows: `restart` may be called.
    """

    spec: EnvSpec
    num_envs: int
    backend: str
    place: Place
    restarts_in_step: bool = False
    why_no_state: str = "its backend cannot save it"
    seeds_rows: bool = False

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
          action: leaves [B, ...] of `spec.action_space`. Discrete actions count from 0, Box
            actions outside the limits are clipped. Ignored in rows that are reset by this step.
        """

    def restart(self, obs: Any, seeds: Mapping[int, int | None]) -> Any:
        """Begins episodes in some rows now, each of a seed of its own; where `seeds_rows`.

        Args:
          obs: the last observations, leaves [B, ...].
          seeds: by row. A row with None rests from now on until it is begun again: it need not be stepped, and what
            the steps in between give there is to be ignored.

        Returns:
          The observations to act on next, leaves [B, ...].
        """
        raise NotImplementedError(f"{type(self).__name__} cannot begin an episode in one row")

    def state(self) -> Any:
        """The state of all environments with their generators, and what is counted here; plain data and arrays.

        Raises:
          NoState: it cannot be saved, see `why_no_state` and `envs/state.py`.
        """
        raise NoState(self.why_no_state)

    def restore(self, state: Any) -> None:
        """Goes on from what `state` gave, in another vector of the same settings that has been reset.

        The next `step` acts on the last observation before `state`, which is not returned again.

        Raises:
          NoState: it does not fit; the vector must be reset then.
        """
        raise NoState(self.why_no_state)

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the environments; no call may follow."""

    def set(self, facts: Mapping[str, float]) -> None:
        """Passes facts of the learner to the environments, before a step: those with a method `set_facts` receive them.

        Args:
          facts: numbers by name, see `Learner.facts`; all of them, whenever one has changed.
        """
        del facts


def environment_seeds(seed: int, num_envs: int) -> list[int]:
    """B seeds below 2**31 that do not overlap with those of a neighbouring `seed`."""
    return [int(s) >> 1 for s in np.random.SeedSequence(seed).generate_state(num_envs)]


def info_number(env: str, name: str, value: Any) -> float:
    """A number of an info; NaN where it is None.

    Raises:
      SettingError: it is no number.
    """
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise SettingError(
            f"info_metrics: info[{name!r}] of env={env!r} is {str(value)[:60]!r}; expected a number"
        ) from None


def _constant(num_envs: int, value: bool) -> np.ndarray:
    array = np.full(num_envs, value)
    array.flags.writeable = False
    return array


class SyncVector(VectorEnv):
    """Python environments in a plain loop, NEXT_STEP; a few microseconds over the environments' own
    time.

    The time limit is counted here rather than by a wrapper, and the environments come without
    gymnasium's checking wrappers.
    """

    backend = "sync"
    seeds_rows = True

    def __init__(
        self,
        factories: Sequence[Callable[[], gym.Env]],
        spec: EnvSpec,
        seed: int,
        *,
        time_limit: int | None = None,
        clip_rewards: bool = False,
        track_lives: bool = False,
        info_names: tuple[str, ...] = (),
        team_reward: str = "sum",
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
          info_names: see `make_vector`.
          team_reward: the setting of that name.
          closes_envs: False: whoever has made them goes on with them after `close`.

        Raises:
          SettingError: two factories gave the same object.
        """
        self.spec, self.num_envs = spec, len(factories)
        self._closes_envs = closes_envs
        self.envs = [make() for make in factories]
        refuse_shared(spec.name, {f"row {i}": env for i, env in enumerate(self.envs)})
        self.lives = np.zeros(self.num_envs, np.int32) if track_lives else None
        self._info_names = info_names
        self._seed: int | None = seed
        self._limit = time_limit or -1
        self._clip = clip_rewards
        self._space = self.envs[0].observation_space
        self._boundary = Boundary(spec.name, self._space, spec.reward_parts)
        self._leaves = self._boundary.leaves
        self._pack = space_lib.packer(self._space)
        # Whether anything in the info of a step is read; most environments have nothing there.
        self._reads_info = track_lives or bool(spec.reward_parts) or spec.step_discount
        self._part_sums = np.zeros((self.num_envs, len(spec.reward_parts)))  # of the episodes
        self._team_reward = _team_reward(spec, team_reward)
        # One plain array is the common case, and worth a path without lists and dicts.
        self._flat = None
        if (
            len(self._leaves) == 1
            and not self._leaves[0].path
            and isinstance(self._leaves[0].start, int)
        ):
            self._flat = ((self.num_envs, *self._leaves[0].shape), self._leaves[0].dtype)
        self._is_float = self._leaves[0].dtype.kind == "f"
        self._cast = space_lib.action_cast(self.envs[0].action_space)
        self._split = space_lib.action_rows(self.envs[0].action_space)
        # Python's integers cannot be changed in place, and a Box with limits has been copied to be clipped.
        self._copy_action = not isinstance(self.envs[0].action_space, gym.spaces.Discrete)
        self._row = 0  # the one whose code runs
        self.place = Place(lambda: [self._row])
        self._all, self._none = _constant(self.num_envs, True), _constant(self.num_envs, False)
        self._rows = [(i, env.step) for i, env in enumerate(self.envs)]
        # Rows whose next step is a reset, or that rest.
        self._pending: list[bool | int] = [False] * self.num_envs
        self._returns = [0.0] * self.num_envs
        self._lengths = [0] * self.num_envs

    def reset(self, seed: int | None = None) -> Any:
        """Implements `VectorEnv.reset`.

        Raises:
          SettingError: an observation of another shape than its space.
        """
        seed, self._seed = (self._seed if seed is None else seed), None
        seeds = [None] * self.num_envs if seed is None else environment_seeds(seed, self.num_envs)
        arrays = self._new_arrays()
        self.place.calls += 1
        self.place.inside = True
        try:
            for i, env in enumerate(self.envs):
                self._row = i
                obs, info = self._boundary.first(env.reset(seed=seeds[i]), i)
                self._write(arrays, i, obs, 0)
                if self.lives is not None:
                    self.lives[i] = info["lives"]
        except SystemExit as error:
            raise self._boundary.exited(i, error) from error
        self.place.inside = False
        self._pending = [False] * self.num_envs
        self._returns = [0.0] * self.num_envs
        self._lengths = [0] * self.num_envs
        self._part_sums[...] = 0.0
        self._boundary.values(arrays, lambda row: 0)
        return self._pack(arrays)

    def step(self, action: Any) -> VectorStep:
        """Implements `VectorEnv.step`, one environment after the other; `next_obs` is `obs` (NEXT_STEP).

        Raises:
          SettingError: an environment gave what cannot be used, see `envs/boundary.py`.
          EnvironmentFailed: an environment called `sys.exit`.
        """
        if self._cast is not None:
            action = self._cast(action)
        if self._copy_action:
            action = copied(action)
        actions = action if self._split is None else self._split(action)
        flat, boundary = self._flat is not None, self._boundary
        if flat:
            nest = array = np.empty(*self._flat)
            arrays = [array]
            shape, dtypes = self._leaves[0].shape, boundary.dtypes[0]
        else:
            arrays = self._new_arrays()
            nest = self._pack(arrays)
        reward = np.empty(self.num_envs, np.float32)
        terminated = truncated = self._none
        valid = self._all
        episodes: tuple[Episode, ...] = ()
        rewards = discount = None
        reads_info = self._reads_info
        if reads_info:
            rewards, discount = self._room()
        pending, returns, lengths, lives = self._pending, self._returns, self._lengths, self.lives
        place, ndarray = self.place, np.ndarray
        place.calls += 1
        place.inside = True
        try:
            for i, step in self._rows:
                self._row = i
                if pending[i]:
                    reward[i] = 0.0
                    if valid is self._all:
                        valid = np.ones(self.num_envs, np.bool_)
                    valid[i] = False
                    if pending[i] == _RESTS:
                        for leaf in arrays:
                            leaf[i] = 0
                        continue
                    obs, info = boundary.first(self.envs[i].reset(), i)
                    pending[i] = False
                    length = 0
                else:
                    length = lengths[i] + 1
                    result = step(actions[i])
                    if result.__class__ is not tuple or len(result) != 5:
                        boundary.result(result, i, length)
                    obs, r, ended, cut, info = result
                    if r.__class__ not in NUMBERS or not -MOST <= r <= MOST:
                        r = boundary.reward(r, i, length)
                    if ended.__class__ not in FLAGS or cut.__class__ not in FLAGS:
                        ended = boundary.flag("terminated", ended, i, length)
                        cut = boundary.flag("truncated", cut, i, length)
                    if reads_info:
                        if rewards is not None:
                            rewards[i] = boundary.parts(info, i, length)
                            self._part_sums[i] += rewards[i]
                            if self._team_reward is not None:
                                r = self._team_reward(rewards[i])
                        if discount is not None:
                            discount[i] = boundary.discount(info, i, length) * (not ended)
                    reward[i] = r
                    returns[i] += r
                    lengths[i] = length
                    if ended or cut or length == self._limit:
                        if terminated is self._none:
                            terminated = np.zeros(self.num_envs, np.bool_)
                            truncated = np.zeros(self.num_envs, np.bool_)
                        terminated[i] = ended
                        truncated[i] = cut or length == self._limit
                        infos = self._infos(info, i) if self._info_names else ()
                        episodes += (Episode(i, float(returns[i]), length, infos),)
                        pending[i], returns[i], lengths[i] = True, 0.0, 0
                        self._part_sums[i] = 0.0
                if flat:
                    # NumPy would broadcast a wrong shape into the batch in silence.
                    if (
                        obs.__class__ is not ndarray
                        or obs.shape != shape
                        or obs.dtype not in dtypes
                    ):
                        obs = boundary.leaf(0, obs, i, length)
                    array[i] = obs
                else:
                    self._write(arrays, i, obs, length)
                if reads_info and lives is not None:
                    lives[i] = info["lives"]
        except SystemExit as error:
            raise boundary.exited(i, error) from error
        place.inside = False
        if not (flat and self._is_float and is_finite(array)):
            ended_at = {episode.row: episode.length_env_steps for episode in episodes}
            boundary.values(arrays, lambda row: ended_at.get(row, lengths[row]))
        if self._clip:
            np.sign(reward, out=reward)
        return VectorStep(
            nest, nest, reward, terminated, truncated, valid, episodes, discount, rewards
        )

    def restart(self, obs: Any, seeds: Mapping[int, int | None]) -> Any:
        """Implements `VectorEnv.restart`; resting rows are not stepped, and their steps are not valid.

        Raises:
          SettingError: an observation of another shape than its space.
        """
        arrays = [space_lib.at(obs, leaf.names).copy() for leaf in self._leaves]
        self.place.calls += 1
        self.place.inside = True
        try:
            for i, seed in seeds.items():
                self._returns[i], self._lengths[i], self._part_sums[i] = 0.0, 0, 0.0
                self._pending[i] = _RESTS if seed is None else False
                if seed is not None:
                    self._row = i
                    first, info = self._boundary.first(self.envs[i].reset(seed=seed), i)
                    self._write(arrays, i, first, 0)
                    if self.lives is not None:
                        self.lives[i] = info["lives"]
        except SystemExit as error:
            raise self._boundary.exited(self._row, error) from error
        self.place.inside = False
        self._boundary.values(arrays, lambda row: self._lengths[row])
        return self._pack(arrays)

    @property
    def why_no_state(self) -> str:
        """Implements `VectorEnv.why_no_state`."""
        return _why_not(self.envs)

    def state(self) -> dict[str, Any]:
        """Implements `VectorEnv.state`."""
        return {
            "envs": [capture(env) for env in self.envs],
            "pending": list(self._pending),
            "returns": [float(total) for total in self._returns],
            "lengths": [int(length) for length in self._lengths],
            "part_sums": self._part_sums.copy(),
            "lives": None if self.lives is None else self.lives.copy(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Implements `VectorEnv.restore`."""
        if len(state.get("envs", ())) != self.num_envs:
            raise NoState("its environments are stepped in another way")
        for env, saved in zip(self.envs, state["envs"], strict=True):
            put_back(env, saved)
        self._pending, self._returns = list(state["pending"]), list(state["returns"])
        self._lengths, self._seed = list(state["lengths"]), None
        self._part_sums[...] = state["part_sums"]
        if self.lives is not None:
            self.lives[:] = state["lives"]

    def close(self) -> None:
        """Implements `VectorEnv.close`: closes each environment that is its own."""
        for i, env in enumerate(self.envs if self._closes_envs else ()):
            _close(env, f"environment row {i} of {self.spec.name!r}")

    def set(self, facts: Mapping[str, float]) -> None:
        """Implements `VectorEnv.set`: calls `set_facts` of each environment or of its outermost wrapper with one."""
        for env in self.envs:
            if env.has_wrapper_attr("set_facts"):
                env.get_wrapper_attr("set_facts")(dict(facts))

    def render(self, row: int = 0) -> Any:
        """The picture of one environment, uint8 [H, W, 3], if it was made with
        render_mode="rgb_array"."""
        return self.envs[row].render()

    def _room(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Arrays for the parts of rewards and for the environments' discounts, as rows of a reset have them."""
        parts = len(self.spec.reward_parts)
        return (
            np.zeros((self.num_envs, parts), np.float32) if parts else None,
            np.ones(self.num_envs, np.float32) if self.spec.step_discount else None,
        )

    def _infos(self, info: Mapping[str, Any], row: int) -> tuple[float, ...]:
        """By `info_names`: sums over the episode of parts of the reward, numbers of the last step's info."""
        sums = dict(zip(self.spec.reward_parts, self._part_sums[row].tolist()))
        return tuple(
            sums[name] if name in sums else info_number(self.spec.name, name, info.get(name))
            for name in self._info_names
        )

    def _new_arrays(self) -> list[np.ndarray]:
        return [np.empty((self.num_envs, *leaf.shape), leaf.dtype) for leaf in self._leaves]

    def _write(self, arrays: list[np.ndarray], row: int, obs: Any, step: int) -> None:
        values = self._boundary.observation(obs, row, step)
        for array, leaf, value in zip(arrays, self._leaves, values, strict=True):
            array[row] = leaf.count_from_zero(value)


def _why_not(envs: Sequence[Any]) -> str:
    """Why the state of environments cannot be captured; "" where it can."""
    try:
        for env in envs:
            capture(env)
    except NoState as reason:
        return str(reason)
    return ""


def _close(env: gym.Env | gym.vector.VectorEnv, what: str) -> None:
    """Closes environments; an error is logged, since what they gave is complete and a run must not be lost by it."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        logging.warning("closing %s: %s: %s", what, type(error).__name__, error)


def _team_reward(spec: EnvSpec, form: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """The team's reward of its agents' rewards; None for one agent, and where agents have no rewards of their own."""
    return team.reward_of(form) if spec.num_agents > 1 and spec.reward_parts else None


def copied(nest: Any) -> Any:
    """A copy of a nest of arrays in dicts and tuples."""
    if isinstance(nest, dict):
        return {key: copied(part) for key, part in nest.items()}
    return tuple(map(copied, nest)) if isinstance(nest, tuple) else nest.copy()


def refuse_shared(name: str, envs: Mapping[str, gym.Env]) -> None:
    """Raises SettingError where two of the environments are one object, which two would then step and reset.

    Args:
      name: of the environment.
      envs: by what each is for.
    """
    users: dict[int, str] = {}
    for use, env in envs.items():
        other = users.setdefault(id(env.unwrapped), use)
        if other != use:
            raise SettingError(
                f"env={name!r} gave the same object twice, for {other} and for {use}; expected a new environment at "
                "every call"
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
        info_names: tuple[str, ...] = (),
        team_reward: str = "sum",
        channel_last: bool = False,
        shared_buffer: bool = True,
        seed_form: Callable[[list[int]], Any] = list,
        restart: restarts.Restart | None = None,
    ):
        """Takes over `env`.

        Args:
          env: the vector; its metadata must say its autoreset mode.
          spec: of one environment, after the casts of `envs/spaces.py` (and the transposition).
          seed: of the first `reset(None)`.
          backend: name of the backend.
          clip_rewards: the learner's rewards are signs.
          track_lives: keep `infos["lives"]` of Atari games in `lives`.
          info_names: see `make_vector`.
          team_reward: the setting of that name.
          channel_last: move axis 1 of the observations to the end, as a view.
          shared_buffer: `env` may write its observations into the same memory each time, so copy them; False only for
            those known to give new arrays at every step.
          seed_form: from one seed per environment to what `env.reset` takes.
          restart: begins episodes in single rows, where that is known for the class of `env`.

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
        self._info_names = info_names
        self.restarts_in_step = mode is AutoresetMode.SAME_STEP
        self._seed: int | None = seed
        self._seed_form, self._restart = seed_form, restart
        self.seeds_rows = restart is not None
        self._clip = clip_rewards
        self._space = env.single_observation_space
        self._boundary = Boundary(spec.name, self._space, spec.reward_parts)
        self._leaves = self._boundary.leaves
        self._pack = space_lib.packer(self._space)
        # Whether parts of rewards or discounts are read from the infos; most environments have neither.
        self._reads_info = bool(spec.reward_parts) or spec.step_discount
        self._part_sums = np.zeros((self.num_envs, len(spec.reward_parts)))  # of the episodes
        self._team_reward = _team_reward(spec, team_reward)
        # One array that is not cast is the common case.
        self._flat = isinstance(self._space, gym.spaces.Box)
        self._dtype, self._is_float = self._leaves[0].dtype, self._leaves[0].dtype.kind == "f"
        self._channel_last = channel_last
        self._copy = shared_buffer
        self._rows_shape = (self.num_envs,)
        self._ones = np.ones(self.num_envs, np.int64)  # added faster than a number
        self._shapes = [(self.num_envs, *leaf.shape) for leaf in self._leaves]
        self.place = Place(getattr(env, "unanswered", list))
        self._cast = space_lib.action_cast(env.single_action_space)
        self._all, self._none = _constant(self.num_envs, True), _constant(self.num_envs, False)
        self._pending: np.ndarray | None = (
            None  # bool [B], rows whose next step is a reset; None: no row
        )
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)

    def reset(self, seed: int | None = None) -> Any:
        """Implements `VectorEnv.reset`."""
        seed, self._seed = (self._seed if seed is None else seed), None
        seeds = None if seed is None else self._seed_form(environment_seeds(seed, self.num_envs))
        obs, info = self._call(self.env.reset, seed=seeds)
        self._pending = None
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._part_sums[...] = 0.0
        if self.lives is not None:
            self.lives = np.array(info["lives"], np.int32)
        return self._convert(obs)

    def step(self, action: Any) -> VectorStep:
        """Implements `VectorEnv.step`, all of them in one call of `env`.

        Raises:
          SettingError: an environment gave what cannot be used, see `envs/boundary.py`.
          EnvironmentFailed: an environment called `sys.exit`; with processes, one of them failed or died.
        """
        if self._cast is not None:
            action = self._cast(action)
        action = action.copy() if action.__class__ is np.ndarray else copied(action)
        raw, reward, terminated, truncated, info = self._call(self.env.step, action)
        self._lengths += self._ones
        valid = self._all
        if self._pending is not None:
            valid = ~self._pending
            self._lengths[self._pending] = 0
        obs = next_obs = self._convert(raw)
        paid = self._rewards(reward)
        terminated, truncated, done = self._flags(terminated, truncated)
        rewards = discount = None
        if self._reads_info:
            rewards, discount = self._read_info(info, valid, terminated, done)
            if self._team_reward is not None:
                paid = reward = self._team_reward(rewards)
        self._returns += reward
        if self._pending is not None:
            self._returns[self._pending] = 0.0
            self._pending = None
        if self.lives is not None:
            self.lives = np.array(info["lives"], np.int32)
        episodes: tuple[Episode, ...] = ()
        if done is not self._none:
            rows = done.nonzero()[0].tolist()
            ended = zip(rows, self._returns[rows].tolist(), self._lengths[rows].tolist())
            episodes = tuple([Episode(i, r, n, self._infos(info, i)) for i, r, n in ended])
            if self.restarts_in_step:
                next_obs = self._with_final(obs, info, done)
            else:
                self._pending = done
            self._returns[done] = 0.0
            self._lengths[done] = 0
            if self._reads_info:
                self._part_sums[done] = 0.0
        if self._clip:
            np.sign(paid, out=paid)
        return VectorStep(
            obs, next_obs, paid, terminated, truncated, valid, episodes, discount, rewards
        )

    def restart(self, obs: Any, seeds: Mapping[int, int | None]) -> Any:
        """Implements `VectorEnv.restart`; resting rows are stepped on."""
        if self._restart is None:
            return super().restart(obs, seeds)
        begun = {row: seed for row, seed in seeds.items() if seed is not None}
        obs = obs.copy()
        for row, first in self._call(self._restart, self.env, begun).items():
            obs[row], self._returns[row], self._lengths[row] = first, 0.0, 0
            if self._pending is not None:
                self._pending[row] = False
        return obs

    def set(self, facts: Mapping[str, float]) -> None:
        """Implements `VectorEnv.set`: calls `set_facts` of the vector environment, where it has that method."""
        if hasattr(self.env, "set_facts"):
            self._call(self.env.set_facts, dict(facts))

    @property
    def why_no_state(self) -> str:
        """Implements `VectorEnv.why_no_state`; environments in native code or other processes give no state."""
        if self.backend != "native":
            return f"env_backend={self.backend} gives no state of its environments, sync may"
        return _why_not([self.env])

    def state(self) -> dict[str, Any]:
        """Implements `VectorEnv.state`."""
        if self.backend != "native":
            raise NoState(self.why_no_state)
        return {
            "vector": capture(self.env),
            "pending": None if self._pending is None else self._pending.copy(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
            "part_sums": self._part_sums.copy(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Implements `VectorEnv.restore`."""
        if "vector" not in state or len(state["returns"]) != self.num_envs:
            raise NoState("its environments are stepped in another way")
        put_back(self.env, state["vector"])
        self._pending, self._seed = state["pending"], None
        self._returns[:], self._lengths[:] = state["returns"], state["lengths"]
        self._part_sums[...] = state["part_sums"]

    def close(self) -> None:
        """Implements `VectorEnv.close`: closes `env`."""
        _close(self.env, f"the environments of {self.spec.name!r}")

    def _call(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Runs the environments' own code."""
        self.place.calls += 1
        self.place.inside = True
        try:
            result = function(*args, **kwargs)
        except SystemExit as error:
            raise self._boundary.exited(None, error) from error
        self.place.inside = False
        return result

    def _steps(self, row: int) -> int:
        return int(self._lengths[row])

    def _rewards(self, reward: Any) -> np.ndarray:
        """A copy of the rewards, float32 [B]."""
        if reward.__class__ is np.ndarray and reward.shape == self._rows_shape:
            paid = reward.astype(np.float32)
            if is_finite(paid):
                return paid
        rows = enumerate(self._rows_of("reward", reward))
        return np.array([self._boundary.reward(r, i, self._steps(i)) for i, r in rows], np.float32)

    def _flags(self, terminated: Any, truncated: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Copies of the flags, bool [B], and where one of them is set; all are `_none` where none is."""
        if not (
            terminated.__class__ is truncated.__class__ is np.ndarray
            and terminated.dtype is truncated.dtype is _BOOL
            and terminated.shape == truncated.shape == self._rows_shape
        ):
            terminated = self._flag("terminated", terminated)
            truncated = self._flag("truncated", truncated)
        done = terminated | truncated
        if not np.count_nonzero(done):
            return self._none, self._none, self._none
        return terminated.copy(), truncated.copy(), done

    def _flag(self, name: str, flags: Any) -> np.ndarray:
        """Flags that are no array of bools, one by one."""
        rows = enumerate(self._rows_of(name, flags))
        return np.array([self._boundary.flag(name, flag, i, self._steps(i)) for i, flag in rows])

    def _rows_of(self, name: str, values: Any) -> Any:
        """Something with an entry for each row."""
        if not isinstance(values, (np.ndarray, list, tuple)) or len(values) != self.num_envs:
            raise SettingError(
                f"env={self.spec.name!r}: its vector class gave {kind(values)} as {name}; expected an array with one "
                f"entry for each of {self.num_envs} environments"
            )
        return values

    def _read_info(
        self, info: Mapping[str, Any], valid: np.ndarray, terminated: np.ndarray, done: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The parts of the rewards [B, R] and the environments' discounts [B], each None where there are none.

        A step's info has an array for each key, and a mask of the rows that have the key; that of a step after which
        the environment has restarted is in `final_info`.
        """
        parts, where = len(self.spec.reward_parts), self._boundary
        whole = info.get(REWARD_PARTS)
        if (
            whole.__class__ is np.ndarray
            and whole.dtype is _FLOAT
            and whole.shape == self._part_sums.shape
            and not self.restarts_in_step
            and not self.spec.step_discount
            and info.get(f"_{REWARD_PARTS}", self._all)[valid].all()
            and is_finite(whole)
        ):
            rewards = np.where(valid[:, None], whole, np.float32(0.0))
            self._part_sums += rewards
            return rewards, None
        rewards = np.zeros((self.num_envs, parts), np.float32) if parts else None
        discount = np.ones(self.num_envs, np.float32) if self.spec.step_discount else None
        final = info.get("final_info", {}) if self.restarts_in_step else info
        for row in np.flatnonzero(valid):
            of = final if done[row] else info
            mine = {
                key: of[key][row]
                for key in (REWARD_PARTS, DISCOUNT)
                if key in of and of.get(f"_{key}", self._all)[row]
            }
            if rewards is not None:
                rewards[row] = where.parts(mine, int(row), self._steps(row))
            if discount is not None:
                discount[row] = where.discount(mine, int(row), self._steps(row))
        if discount is not None:
            discount[terminated] = 0.0
        if rewards is not None:
            self._part_sums += rewards
        return rewards, discount

    def _infos(self, info: Mapping[str, Any], row: int) -> tuple[float, ...]:
        """The infos of an episode that ended in `row`; `info` has an array for each name, and a mask of its rows."""
        last = info.get("final_info", info) if self.restarts_in_step else info
        found = []
        for name in self._info_names:
            if name in self.spec.reward_parts:  # the sum over the episode
                part = self.spec.reward_parts.index(name)
                found.append(float(self._part_sums[row, part]))
                continue
            has = name in last and last.get(f"_{name}", self._all)[row]
            found.append(info_number(self.spec.name, name, last[name][row] if has else None))
        return tuple(found)

    def _convert(self, obs: Any) -> Any:
        boundary = self._boundary
        if (
            self._flat
            and obs.__class__ is np.ndarray
            and obs.dtype is self._dtype
            and obs.shape == self._shapes[0]
        ):
            array = obs.copy() if self._copy else obs
            if not self._is_float or is_finite(array):
                return np.moveaxis(array, 1, -1) if self._channel_last else array
        arrays = []
        for index, leaf in enumerate(self._leaves):
            try:
                array = space_lib.at(obs, leaf.path)
            except (KeyError, IndexError, TypeError):
                boundary.refuse(
                    0,
                    self._steps(0),
                    f"{part_name(leaf.path)} is missing",
                    "all parts of the space",
                )
            if (
                not isinstance(array, np.ndarray)
                or array.shape != self._shapes[index]
                or array.dtype not in boundary.dtypes[index]
            ):
                rows = self._rows_of(part_name(leaf.path), array)
                rows = [boundary.leaf(index, x, i, self._steps(i)) for i, x in enumerate(rows)]
                array = np.stack(rows)
            array = leaf.count_from_zero(array)
            arrays.append(array.astype(leaf.dtype, order="C", copy=self._copy))
        boundary.values(arrays, self._steps)
        if self._channel_last:
            arrays = [np.moveaxis(array, 1, -1) for array in arrays]
        return self._pack(arrays)

    def _with_final(self, obs: Any, info: Mapping[str, Any], done: np.ndarray) -> Any:
        """`obs` with the rows that ended replaced by the final observations; `obs` itself stays as it is."""
        boundary, arrays, rows = self._boundary, [], np.flatnonzero(done)
        if "final_obs" not in info:
            boundary.refuse(
                int(rows[0]),
                self._steps(rows[0]),
                "infos['final_obs'] is missing",
                "the final observations",
            )
        finals = [boundary.observation(info["final_obs"][i], i, self._steps(i)) for i in rows]
        for index, leaf in enumerate(self._leaves):
            array = space_lib.at(obs, leaf.names).copy()
            for i, final in zip(rows, finals):
                value = leaf.count_from_zero(final[index])
                array[i] = np.moveaxis(value, 0, -1) if self._channel_last else value
            arrays.append(array)
        boundary.values(arrays, self._steps)
        return self._pack(arrays)


class VectorWrapper(VectorEnv):
    """A vector that changes another one: all that a subclass does not define is that of `inner`.

    A subclass that keeps anything from step to step, e.g. a generator, defines `own_state` and `restore_own`.

    Attributes:
      inner: the vector inside.
    """

    def __init__(self, inner: VectorEnv, spec: EnvSpec | None = None):
        """Takes over `inner`.

        Args:
          spec: of one environment as this vector gives it; None: that of `inner`.
        """
        self.inner = inner
        self.spec, self.num_envs = inner.spec if spec is None else spec, inner.num_envs
        self.backend, self.place = inner.backend, inner.place
        self.restarts_in_step = inner.restarts_in_step

    def reset(self, seed: int | None = None) -> Any:
        """Implements `VectorEnv.reset`."""
        return self.inner.reset(seed)

    def step(self, action: Any) -> VectorStep:
        """Implements `VectorEnv.step`."""
        return self.inner.step(action)

    def set(self, facts: Mapping[str, float]) -> None:
        """Implements `VectorEnv.set`."""
        self.inner.set(facts)

    def own_state(self) -> Any:
        """State that this vector keeps beside `inner`, as plain data and arrays; None for nothing."""
        return None

    def restore_own(self, state: Any) -> None:
        """Takes what `own_state` gave."""

    @property
    def why_no_state(self) -> str:
        """Implements `VectorEnv.why_no_state`."""
        return self.inner.why_no_state

    def state(self) -> dict[str, Any]:
        """Implements `VectorEnv.state`."""
        return {"inner": self.inner.state(), "own": self.own_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Implements `VectorEnv.restore`."""
        if "inner" not in state:
            raise NoState("its environments are changed in another way")
        self.inner.restore(state["inner"])
        self.restore_own(state["own"])

    def close(self) -> None:
        """Implements `VectorEnv.close`."""
        self.inner.close()

    def render(self, row: int = 0) -> Any:
        """The picture of one row, see `SyncVector.render`."""
        return self.inner.render(row)

    @property
    def envs(self) -> list[gym.Env]:
        """The gymnasium environments, one per row."""
        return self.inner.envs
