"""Atari games: their emulator and preprocessing, one at a time or by ale-py's own vector environment."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from tfrl.envs import spaces as space_lib
from tfrl.envs import wrappers
from tfrl.envs.names import Resolved, games
from tfrl.envs.vector import BatchVector, SyncVector, VectorEnv, VectorWrapper
from tfrl.errors import SettingError
from tfrl.types import EnvSpec, VectorStep

# Arguments of Atari environments that have settings of their own; `env_kwargs` must not set them.
_SETTINGS = {
    "frameskip": "atari_frame_skip",
    "repeat_action_probability": "atari_sticky_actions",
    "max_num_frames_per_episode": "max_episode_steps",
    "obs_type": "atari_screen_size",
}
_LIMIT_FRAMES = 108_000  # of the emulator's own ids: 30 minutes of play


def make_spec(found: Resolved) -> EnvSpec:
    """The spec of a game; builds its emulator to read the actions.

    Raises:
      SettingError: settings that Atari games do not have.
    """
    plan = found.plan
    _refuse_wrappers(found)
    # Not by `build`: that needs OpenCV, which ale-py's own path does without.
    emulator = _emulator(found)
    side = plan.atari_screen_size
    space = gym.spaces.Box(0, 255, (side, side, plan.atari_frame_stack), np.uint8)
    spec = EnvSpec(
        plan.env,
        space,
        space_lib.action_space(emulator.action_space, "action_space"),
        plan.atari_frame_stack,
        limit(found),
        env_observation_space=space,
        env_action_space=emulator.action_space,
    )
    emulator.close()
    return spec


def build(found: Resolved) -> gym.Env:
    """One game, without its time limit: gymnasium's form of the preprocessing of ale-py's vector environment.

    Raises:
      SettingError: as `make_spec`.
    """
    _refuse_wrappers(found)
    plan = found.plan
    env: gym.Env = found.call(
        gym.wrappers.AtariPreprocessing,
        _emulator(found),
        noop_max=plan.atari_noop_max,
        frame_skip=plan.atari_frame_skip,
        screen_size=plan.atari_screen_size,
        terminal_on_life_loss=False,  # that wrapper would restart the whole game; see `AtariLives`
    )
    fire = _fire_action(found) if plan.atari_fire_on_reset else None
    if fire is not None:
        env = wrappers.FireReset(env, fire)
    env = gym.wrappers.FrameStackObservation(env, plan.atari_frame_stack, padding_type="zero")
    return wrappers.ChannelLast(env)


def limit(found: Resolved) -> int:
    """The time limit in env steps."""
    return found.plan.max_episode_steps or _LIMIT_FRAMES // found.plan.atari_frame_skip


def why_not(found: Resolved) -> str:
    """Why ale-py's vector environment cannot serve; '' if it can."""
    if found.game is None:
        return "not an Atari id"
    others = sorted(set(found.plan.env_kwargs) - {"full_action_space"} - set(_SETTINGS))
    return f"its vector environment does not take env_kwargs {', '.join(others)}" if others else ""


def make_vector(
    found: Resolved, num_envs: int, seed: int, options: dict[str, Any], num_threads: int
) -> BatchVector:
    """Games in ale-py's own vector environment, in C++."""
    plan = found.plan
    spec = make_spec(found)
    vector_env = importlib.import_module("ale_py.vector_env")
    env = vector_env.AtariVectorEnv(
        games()[found.game],
        num_envs,
        num_threads=num_threads,
        # It counts frames from the end of the reset, so this is exact in env steps.
        max_num_frames_per_episode=limit(found) * plan.atari_frame_skip,
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
        # second one; its reward clipping would hide the returns. `AtariLives` and `BatchVector` do both.
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


def _emulator(found: Resolved, **kwargs: Any) -> gym.Env:
    plan = found.plan
    for key, instead in _SETTINGS.items():
        if key in plan.env_kwargs:
            raise SettingError(f"env_kwargs: {key!r} of an Atari game is the setting {instead}")
    return found.call(
        gym.make,
        f"ALE/{found.game}-v5",
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


def _fire_action(found: Resolved) -> int | None:
    return _fire_index(found.game, bool(found.plan.env_kwargs.get("full_action_space", False)))


def _refuse_wrappers(found: Resolved) -> None:
    plan = found.plan
    if plan.env_wrappers:
        raise SettingError(
            f"env_wrappers={list(plan.env_wrappers)} with env={plan.env!r}: Atari games have settings of their own "
            "(--atari_...); leave it out, or give a function that builds and wraps the game"
        )


def with_lives(vector: VectorEnv, found: Resolved, training: bool) -> VectorEnv:
    """The vector with lost lives as terminations in training, and the next life begun, where the settings say so."""
    plan = found.plan
    if not plan.atari_terminal_on_life_loss:
        return vector
    fire = _fire_action(found) if plan.atari_fire_on_reset else None
    return AtariLives(vector, fire or 0, terminate=training)


class AtariLives(VectorWrapper):
    """Makes lost lives terminations for the learner, and starts the next life; the inner vector
    plays full episodes.

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
        super().__init__(inner)
        self._action, self._terminate = automatic_action, terminate
        self._lives = np.zeros(self.num_envs, np.int32)
        self._pending: np.ndarray | None = None

    def reset(self, seed: int | None = None) -> Any:
        """Implements `VectorEnv.reset`: new episodes with all lives."""
        obs = self.inner.reset(seed)
        self._lives, self._pending = self.inner.lives.copy(), None
        return obs

    def step(self, action: np.ndarray) -> VectorStep:
        """Implements `VectorEnv.step`; the action of a row that lost a life in the previous step is not read either."""
        pending = self._pending
        if pending is not None:
            action = np.where(pending, self._action, action)
        step = self.inner.step(action)
        lives = self.inner.lives.copy()
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

    def own_state(self) -> dict[str, Any]:
        """Implements `VectorWrapper.own_state`."""
        pending = None if self._pending is None else self._pending.copy()
        return {"lives": self._lives.copy(), "pending": pending}

    def restore_own(self, state: Mapping[str, Any]) -> None:
        """Implements `VectorWrapper.restore_own`."""
        self._lives, self._pending = state["lives"], state["pending"]
