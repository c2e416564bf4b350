"""Environments in processes of their own, behind `env_backend=async`.

gymnasium's `AsyncVectorEnv` moves the data. This module adds three things: every environment's results are checked
before they are written to the shared memory, where a wrong shape would be broadcast; a worker that fails, exits or dies
is named with its row and the reason; a worker ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterable
from multiprocessing import resource_tracker
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import async_vector_env

from tfrl.envs.boundary import DISCOUNT, REWARD_PARTS, Boundary
from tfrl.envs.spaces import Declared
from tfrl.errors import EnvironmentFailed, SettingError
from tfrl.lifeline import die_with

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # those that ask a run to stop
_EXIT_S = 5.0  # a worker whose pipe has closed ends within this time


class Workers(gym.vector.AsyncVectorEnv):
    """An `AsyncVectorEnv` whose errors name the environment that failed and the reason.

    Args:
      name: of the environment, for messages.
      declared: what the environment declares beside its spaces.
      make: builds one environment; called in each process.
      num_envs: processes.
    """

    def __init__(self, name: str, declared: Declared, make: Callable[[], gym.Env], num_envs: int):
        context = multiprocessing.get_context("spawn")  # a fork would inherit TensorFlow's locks
        self._name = name = str(name)  # not the object that may come with it
        self._busy = context.RawArray("b", num_envs)
        worker = functools.partial(_work, name, declared, self._busy)
        # A worker must not get Ctrl-C before `_work` handles it; it inherits the signals that are blocked here.
        resource_tracker.ensure_running()  # which lets signals through again when it starts
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            with self._naming_the_dead():
                super().__init__([make] * num_envs, context="spawn", copy=False, worker=worker)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        """Implements `AsyncVectorEnv.reset`; raises EnvironmentFailed for a process that failed or died."""
        with self._naming_the_dead():
            return super().reset(**kwargs)

    def step(self, actions: Any) -> tuple:
        """Implements `AsyncVectorEnv.step`; raises EnvironmentFailed for a process that failed or died."""
        with self._naming_the_dead():
            return super().step(actions)

    def set_facts(self, facts: dict[str, float]) -> None:
        """Passes facts to the environments that take them; raises EnvironmentFailed as `step` does."""
        with self._naming_the_dead():
            self.call("take_facts", facts)

    def unanswered(self) -> list[int]:
        """Rows whose environment's own code runs at this moment."""
        return [int(row) for row in np.flatnonzero(np.frombuffer(self._busy, np.int8))]

    @contextlib.contextmanager
    def _naming_the_dead(self) -> Any:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            dead = [(i, p) for i, p in enumerate(self.processes) if not _lives(p)]
            self._state = async_vector_env.AsyncState.DEFAULT
            self.close(terminate=True)
            if not dead:
                raise
            row, process = dead[0]
            raise EnvironmentFailed(
                f"env={self._name!r}: the process of environment row {row} {_how(process.exitcode)} without a word"
            ) from error

    def _check_spaces(self) -> None:
        """Called once, when all processes have started."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        super()._check_spaces()

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raises the error of the first worker that failed; gymnasium loses a text with a % in it."""
        failed = [row for row, success in enumerate(successes) if not success]
        if not failed:
            return
        _, error_type, error, trace = self.error_queue.get()
        for row in failed:
            self.parent_pipes[row].close()
            self.parent_pipes[row] = None
        self._state = async_vector_env.AsyncState.DEFAULT
        if issubclass(error_type, (SettingError, EnvironmentFailed)):
            raise error
        raise EnvironmentFailed(f"env={self._name!r}: environment row {failed[0]}:\n{trace}")


class _Row(gym.Wrapper):
    """One environment in its worker: what it gives is checked, and how it fails becomes text."""

    def __init__(self, env: gym.Env, name: str, declared: Declared, row: int, busy: Any):
        super().__init__(env)
        self._declared = declared
        self._boundary = Boundary(name, env.observation_space, declared.reward_parts)
        self._row, self._busy, self._length = row, busy, 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        self._length = 0
        with self._inside("reset"):
            result = self.env.reset(**kwargs)
        obs, info = self._boundary.first(result, self._row)
        self._boundary.observation(obs, self._row, 0)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self._length += 1
        with self._inside("step"):
            result = self.env.step(action)
        boundary, where = self._boundary, (self._row, self._length)
        obs, reward, terminated, truncated, info = boundary.result(result, *where)
        boundary.observation(obs, *where)
        if self._declared.reward_parts:  # as one array of floats, which the parent can take rows of
            info = {**info, REWARD_PARTS: boundary.parts(info, *where)}
        if self._declared.step_discount:
            info = {**info, DISCOUNT: boundary.discount(info, *where)}
        return (
            obs,
            boundary.reward(reward, *where),
            boundary.flag("terminated", terminated, *where),
            boundary.flag("truncated", truncated, *where),
            info,
        )

    def take_facts(self, facts: dict[str, float]) -> None:
        """Passes facts to the environment, if it has `set_facts`."""
        if self.env.has_wrapper_attr("set_facts"):
            with self._inside("set_facts"):
                self.env.get_wrapper_attr("set_facts")(facts)

    @contextlib.contextmanager
    def _inside(self, call: str) -> Any:
        self._busy[self._row] = 1
        try:
            yield
        except SystemExit as error:
            raise self._boundary.exited(self._row, error) from error
        except BaseException as error:  # its type may be one that no other process can import
            raise EnvironmentFailed(
                f"env={self._boundary.name!r}: environment row {self._row}, {call}: "
                f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            ) from None
        finally:
            self._busy[self._row] = 0


def _work(
    name: str, declared: Declared, busy: Any, index: int, make: Callable, pipe: Any, *rest: Any
) -> None:
    """Start of a worker; the arguments after `busy` are those of gymnasium's."""
    die_with(multiprocessing.parent_process().pid)
    for (
        number
    ) in _SIGNALS:  # the run decides when a worker ends; unlike SIG_IGN this is not inherited
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    faulthandler.enable()
    error_queue = rest[2]
    try:
        env = _Row(make(), name, declared, index, busy)
    except BaseException as error:
        text = f"env={name!r}: environment row {index} cannot be built: {type(error).__name__}: {error}"
        failed = SettingError(text) if isinstance(error, SettingError) else EnvironmentFailed(text)
        error_queue.put((index, type(failed), failed, traceback.format_exc()))
        pipe.recv()  # the parent asks for the spaces first
        pipe.send((None, False))
        return
    async_vector_env._async_worker(index, lambda: env, pipe, *rest)


def _lives(process: multiprocessing.Process) -> bool:
    process.join(_EXIT_S if process.exitcode is None else 0)
    return process.exitcode is None


def _how(exitcode: int) -> str:
    """How a process ended."""
    if exitcode < 0:
        return f"was killed by {signal.Signals(-exitcode).name}"
    return f"ended with exit code {exitcode}"
