"""Games as mp4 files, drawn without a screen."""

from __future__ import annotations

import importlib.util
import os
import pathlib
from typing import Any

import numpy as np

from tfrl.envs.vector import VectorEnv
from tfrl.errors import SettingError
from tfrl.types import VectorStep

_SMALLEST_SIDE = 320  # pixels; smaller pictures (Atari) are enlarged by a whole factor


def prepare() -> None:
    """Checks that videos can be written and lets pygame and MuJoCo draw without a screen.

    Call it before anything imports them: they read their variables when imported.

    Raises:
      SettingError: no writer is installed.
    """
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise SettingError(
            "record_video: moviepy and its imageio-ffmpeg are not installed; "
            "pip install 'tfrl[video]'"
        )
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


class VideoRecorder(VectorEnv):
    """One environment that leaves an mp4 of every finished episode: `<name>-<n>-score<return>.mp4`.

    The picture of every step is written, also at automatic resets and FIREs. An episode that is
    not finished leaves nothing.

    Attributes:
      files: what was written, in the order of the episodes.
    """

    def __init__(self, inner: VectorEnv, folder: pathlib.Path, name: str, fps: float):
        """Takes over `inner`.

        Args:
          inner: one environment of `env_backend=sync`, made with render_mode="rgb_array".
          folder: where files go; made where it does not exist.
          name: beginning of the file names.
          fps: pictures per second.

        Raises:
          SettingError: more than one environment.
        """
        if inner.num_envs != 1:
            raise SettingError(f"a video of {inner.num_envs} environments: expected 1")
        self.spec, self.num_envs, self.backend = inner.spec, 1, inner.backend
        self.files: list[pathlib.Path] = []
        self._inner, self._folder, self._name, self._fps = inner, folder, name, fps
        self._scratch = folder / f"{name}.part.mp4"
        self._writer: Any = None
        self._shape: tuple[int, ...] = ()  # of the pictures of an episode

    def reset(self, seed: int | None = None) -> Any:
        """Implements `VectorEnv.reset`; an episode under way is dropped.

        Raises:
          SettingError: the environment cannot be drawn.
        """
        obs = self._inner.reset(seed)
        self._drop()
        self._write()
        return obs

    def step(self, action: np.ndarray) -> VectorStep:
        """Implements `VectorEnv.step`; an episode that ends becomes a file.

        Raises:
          SettingError: the environment cannot be drawn.
        """
        step = self._inner.step(action)
        self._write()
        for episode in step.episodes:
            self._writer.close()
            self._writer = None
            number = len(self.files) + 1
            file = self._folder / f"{self._name}-{number}-score{episode.episode_return:.1f}.mp4"
            os.replace(self._scratch, file)
            self.files.append(file)
        return step

    def close(self) -> None:
        """Implements `VectorEnv.close`; an episode under way is dropped."""
        self._drop()
        self._inner.close()

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._scratch.unlink(missing_ok=True)

    def _write(self) -> None:
        frame = self._render()
        factor = max(1, _SMALLEST_SIDE // min(frame.shape[:2]))
        frame = np.ascontiguousarray(frame.repeat(factor, axis=0).repeat(factor, axis=1))
        if self._writer is not None and frame.shape != self._shape:
            raise SettingError(
                f"record_video: render() of env={self.spec.name!r} gave {_kind(frame)} after pictures of shape "
                f"{list(self._shape)}: expected one size for an episode"
            )
        self._shape = frame.shape
        if self._writer is None:
            import imageio_ffmpeg

            self._folder.mkdir(parents=True, exist_ok=True)
            size = (frame.shape[1], frame.shape[0])
            # H.264 wants even sides: frames with odd ones are scaled by a pixel.
            self._writer = imageio_ffmpeg.write_frames(
                str(self._scratch), size, fps=self._fps, macro_block_size=2
            )
            self._writer.send(None)
        self._writer.send(frame)

    def _render(self) -> np.ndarray:
        name = self.spec.name
        try:
            frame = np.asarray(self._inner.render(0))
        except (Exception, SystemExit) as error:  # each drawing library has errors of its own
            text = " ".join(str(error).split()) or type(error).__name__
            hint = f" (MUJOCO_GL is {os.environ.get('MUJOCO_GL', 'not set')})"
            hint = hint if "mujoco" in f"{type(error)} {text}".lower() else ""
            raise SettingError(
                f"record_video: env={name!r} cannot be drawn: {text}{hint}"
            ) from error
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise SettingError(
                f"record_video: render() of env={name!r} gave {_kind(frame)}: expected a uint8 "
                'array [height, width, 3], from an environment made with render_mode="rgb_array"'
            )
        return frame


def _kind(frame: np.ndarray) -> str:
    if frame.dtype == object:
        return f"a {type(frame.item()).__name__}" if frame.ndim == 0 else "objects"
    return f"an array of shape {list(frame.shape)} and dtype {frame.dtype}"
