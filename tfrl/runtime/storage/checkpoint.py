"""Checkpoints: everything that a run needs to go on exactly, in one folder whose manifest is renamed into place last.

`checkpoints/<env steps>/` holds the learner (variables, target, optimiser slots, counters), the replay contents,
`acting.npz` (environments and what acting holds between two steps, of a run in one process) and `state.json`;
`checkpoint_files.py` decides when it counts. A failed or cut-off write never harms an older checkpoint.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrl import files
from tfrl import spaces as space_lib
from tfrl.errors import RunFailed, SettingError
from tfrl.runtime.divergence import refuse_variables
from tfrl.runtime.storage import checkpoint_files, nest_file
from tfrl.runtime.storage.checkpoint_files import damaged
from tfrl.types import EnvSpec

ARTIFACTS = "artifacts.npz"  # results of the learner that are not weights
ACTING = "acting.npz"  # the state of acting in a run in one process
EXACT_ENV_STEPS = "population_env_steps"  # in the state: those of whole iterations of a population


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, `state` as it was saved, and whether replay contents are in it.

    Attributes:
      unfit: why the replay contents in it cannot be used; '' if they can.
    """

    folder: pathlib.Path
    state: dict[str, Any]
    unfit: str = ""

    @property
    def replay(self) -> pathlib.Path | None:
        """Folder of the replay contents, None where there are none that can be used."""
        folder = self.folder / "replay"
        return folder if folder.is_dir() and not self.unfit else None

    def acting(self) -> Any:
        """The state of acting, see `Actor.state`; None where there is none.

        Raises:
          SettingError: the file is damaged.
        """
        path = self.folder / ACTING
        return nest_file.read(path) if path.is_file() else None

    def artifacts(self) -> dict[str, Any]:
        """The results of `Learner.artifacts`, {} where there are none.

        Raises:
          SettingError: the file is damaged.
        """
        path = self.folder / ARTIFACTS
        return nest_file.read(path) if path.is_file() else {}


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: where they are kept.
      algo, spec: a checkpoint of another algorithm or other spaces is refused.
      keep: complete checkpoints that are kept; older and incomplete ones are removed after a newer is complete.
    """

    def __init__(self, folder: pathlib.Path, algo: str, spec: EnvSpec, keep: int):
        self.folder, self._keep = folder, keep
        # Text leaves out the limits of large spaces, and the JSON form of spaces is hard to read in a message.
        spaces = {"observation": spec.observation_space, "action": spec.action_space}
        exact = {name: space_lib.to_json(space) for name, space in spaces.items()}
        self._identity = {"algo": algo, **spec.describe(), "spaces": exact}

    def save(
        self,
        env_steps: int,
        learner: tf.Module,
        state: Mapping[str, Any],
        save_replay: Callable[[pathlib.Path], None] | None,
        acting: Any = None,
        artifacts: Mapping[str, Any] | None = None,
    ) -> pathlib.Path:
        """Writes a checkpoint; returns its folder.

        Args:
          env_steps: names it.
          learner: its variables are saved; RunFailed where they are not finite.
          state: counters, generator states and whatever else JSON holds.
          save_replay: writes the replay's contents to a folder that does not exist yet; None leaves them out.
          acting: plain data and arrays, see `nest_file.py`; None: the episodes that are open do not go on.
          artifacts: see `Learner.artifacts`; plain data and arrays.

        Raises:
          RunFailed: it cannot be written, as on a full disk; nothing is left of it, and older ones are whole.
        """
        refuse_variables(learner, env_steps)
        name = f"{env_steps:012d}"
        folder, again = self.folder / name, 0
        while folder.exists():  # what is there stays until this one is complete
            again += 1
            folder = self.folder / f"{name}.{again}"
        folder.mkdir(parents=True)
        try:
            tf.train.Checkpoint(learner=learner).write(str(folder / "learner"))
            if save_replay is not None:
                save_replay(folder / "replay")
            if acting is not None:
                nest_file.write(folder / ACTING, acting)
            if artifacts:
                nest_file.write(folder / ARTIFACTS, dict(artifacts))
            facts = {"identity": self._identity, "env_steps": env_steps, **state}
            checkpoint_files.seal(folder, facts)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, (OSError, tf.errors.OpError)):
                reason = str(error).split("\n")[0]
                raise RunFailed(
                    f"the checkpoint at {env_steps:,} env steps cannot be written to {self.folder} ({reason}); "
                    "older ones are whole, --resume goes on from the newest"
                ) from error
            raise
        kept = [f for f in self._complete() if f == folder or f.name.split(".")[0] != name]
        checkpoint_files.remove_others(self.folder, kept[-self._keep :])
        return folder

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint, None if there is none; incomplete ones are skipped with a warning.

        Raises:
          SettingError: it belongs to another algorithm or to other spaces.
        """
        complete = self._complete(warn=True)
        if not complete:
            return None
        state = checkpoint_files.read(complete[-1] / checkpoint_files.STATE)
        for key, mine in self._identity.items():
            theirs = state["identity"].get(key)
            if theirs != mine and (key != "spaces" or theirs is not None):
                raise SettingError(
                    f"checkpoint {complete[-1]}: {key} is {theirs}, but this run has {mine}"
                )
        return Checkpoint(complete[-1], state)

    def _complete(self, warn: bool = False) -> list[pathlib.Path]:
        found = []
        for folder in checkpoint_files.of(self.folder):
            problem = checkpoint_files.problem(folder)
            if problem is None:
                found.append(folder)
            elif warn:
                checkpoint_files.warn([f"skipping checkpoint {folder}: {problem}"])
        return found


def restore_learner(found: Checkpoint, learner: tf.Module) -> None:
    """Puts the saved variables back; every one must be there.

    Raises:
      SettingError: the file cannot be read.
    """
    path = str(found.folder / "learner")
    try:
        status = tf.train.Checkpoint(learner=learner).read(path)
    except (tf.errors.OpError, ValueError) as error:
        raise damaged(found.folder, error) from error
    status.assert_existing_objects_matched()


def save_arrays(path: pathlib.Path, arrays: list[np.ndarray], **facts: float) -> None:
    """Writes the values of a policy's variables with named numbers beside them; replaces the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {f"variable_{i}": a for i, a in enumerate(arrays)}
    with files.replacing(path) as scratch, open(scratch, "wb") as file:
        np.savez(file, **named, **{f"fact_{k}": np.float64(v) for k, v in facts.items()})


def load_arrays(path: pathlib.Path) -> tuple[list[np.ndarray], dict[str, float]]:
    """The arrays and numbers that `save_arrays` wrote.

    Raises:
      SettingError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            count = sum(name.startswith("variable_") for name in stored)
            arrays = [stored[f"variable_{i}"] for i in range(count)]
            facts = {
                name.removeprefix("fact_"): float(stored[name])
                for name in stored
                if name.startswith("fact_")
            }
    except OSError:
        raise
    except Exception as error:  # whatever the parsers of NumPy stumble over
        raise damaged(path, error) from error
    return arrays, facts
