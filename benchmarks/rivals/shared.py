"""What the scripts of this folder share: reading a job, the clock, and the shape of the answer.

A script is called `python SCRIPT TASK`, with TASK a JSON object:
  job: a job as in job.json, in full.
  warmup_env_steps: the clock of the timed piece starts here, and after the first update.
  score: None, or the mean return over the last 100 training episodes that ends the run.
  options: of this rival, see `tfrl.benchmark.workloads`.

It prints one line of JSON last: {"settings": ..., "versions": ..., "run": ...}, shaped like the answer of
`tfrl.benchmark.measure`. Nothing here imports tfrl, which is not installed where a rival runs.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

# The only optimiser that all rivals have.
ADAM = {
    "optimizer": ("adam",),
    "adam_beta_1": (0.9,),
    "adam_beta_2": (0.999,),
    "learning_rate_updates": (0,),
    "learning_rate_schedule": ([],),
}
# What no rival does for the actor-critic algorithms here: setting -> values that it can follow.
ACTOR_CRITIC = {
    "network": ("auto",),
    "core": ("none",),
    "normalize_observations": (False,),
    "learning_rate_hold_env_steps": (0,),
    "normalize_rewards": (False,),
    **ADAM,
}
PPO = {
    **ACTOR_CRITIC,
    "batch_env_steps": (0,),
    "value_clip": (None,),
    "kl_coefficient": (0.0,),
    "kl_stop": (None,),
    "activation": ("tanh", "relu"),
}
# What no rival does for the value-based algorithms here.
VALUE_BASED = {
    "double": (False,),
    "dueling": (False,),
    "noisy": ("none",),
    "prioritized": (False,),
    "core": ("none",),
    "value_rescaling_epsilon": (None,),
    "learning_rate_final": (None,),
    **ADAM,
    "activation": ("relu",),
    "head_hidden_sizes": ([],),
}

EPISODES = 100  # over which the mean return of a score is taken


class Mark(NamedTuple):
    """A moment of a run: `time.perf_counter()`, and what had been done by then."""

    time_s: float
    env_steps: int
    updates: int


class Clock:
    """Marks where the timed piece begins and ends, and where the score was reached.

    Args:
      task: see the head of this file.
      started: `time.perf_counter()` when the process began.
      import_s: time that the imports took.
    """

    def __init__(self, task: Mapping[str, Any], started: float, import_s: float):
        self._warmup, self._score = task["warmup_env_steps"], task.get("score")
        self._started, self._import_s = started, import_s
        self._door = time.perf_counter()
        self._begin: Mark | None = None
        self._end: Mark | None = None
        self._reached: Mark | None = None

    @property
    def running(self) -> bool:
        """Whether the timed piece has begun."""
        return self._begin is not None

    def tick(self, env_steps: int, updates: int) -> None:
        """Called between two pieces of work, e.g. after each iteration."""
        self._end = Mark(time.perf_counter(), int(env_steps), int(updates))
        if self._begin is None and env_steps >= self._warmup and updates > 0:
            self._begin = self._end

    def score(self, returns: Collection[float], env_steps: int, updates: int) -> bool:
        """Whether the run is over: the mean of the last 100 returns has reached the score."""
        if self._reached is None and self._score is not None and len(returns) >= EPISODES:
            if sum(returns) / len(returns) >= self._score:
                self._reached = Mark(time.perf_counter(), int(env_steps), int(updates))
        return self._reached is not None

    def run(self, memory_peak_mb: float) -> dict[str, Any]:
        """The figures; raises ValueError when there was no timed piece."""
        begin, end, door = self._begin, self._end, self._door
        if begin is None or end is None or end.env_steps <= begin.env_steps:
            raise ValueError("too short to be timed: nothing after the warm-up and an update")
        seconds, whole_s = end.time_s - begin.time_s, end.time_s - door
        run = {
            "env_steps": end.env_steps - begin.env_steps,
            "updates": end.updates - begin.updates,
            "seconds": seconds,
            "env_steps_per_s": (end.env_steps - begin.env_steps) / seconds,
            "updates_per_s": (end.updates - begin.updates) / seconds,
            "whole_env_steps": end.env_steps,
            "whole_updates": end.updates,
            "whole_s": whole_s,
            "whole_env_steps_per_s": end.env_steps / whole_s,
            "import_s": self._import_s,
            "outside_s": time.perf_counter() - self._started - whole_s,
            "memory_peak_mb": memory_peak_mb,
        }
        if self._score is not None:
            reached = self._reached
            run["seconds_to_score"] = reached.time_s - door if reached else None
            run["env_steps_to_score"] = reached.env_steps if reached else None
        return run


def refuse(config: Mapping[str, Any], fixed: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError for a setting with a value that the rival cannot follow.

    Args:
      config: the algorithm's settings of a job.
      fixed: setting -> values of tfrl that mean what the rival always does.
    """
    for name, allowed in fixed.items():
        if config[name] not in allowed:
            raise ValueError(f"{name}={config[name]!r}: expected {' or '.join(map(repr, allowed))}")


def is_atari(job: Mapping[str, Any]) -> bool:
    return "NoFrameskip" in job["env"]["env"]


def learning_rate(config: Mapping[str, Any], env_steps: float) -> float:
    """Step size after so many env steps, linear between its ends."""
    return _linear(config, "learning_rate", env_steps)


def clip(config: Mapping[str, Any], env_steps: float) -> float:
    """Clipping range of PPO's ratio after so many env steps."""
    return _linear(config, "clip", env_steps)


def _linear(config: Mapping[str, Any], name: str, env_steps: float) -> float:
    initial, final = config[name], config[f"{name}_final"]
    if final is None:
        return initial
    share = min(1.0, env_steps / config["learning_rate_env_steps"])
    return initial + share * (final - initial)


def versions(*packages: str) -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}


def memory_peak_mb() -> float:
    """Sum over this process and its descendants that still run of the largest resident sizes."""
    parents, peaks = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/status"):
        try:
            lines = path.read_text().splitlines()
        except OSError:  # has ended meanwhile
            continue
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        pid = int(fields["Pid"])
        parents[pid] = int(fields["PPid"])
        peaks[pid] = int(fields.get("VmHWM", "0 kB").split()[0]) / 1024
    tree = {int(pathlib.Path("/proc/self").readlink().name)}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(peaks.get(pid, 0.0) for pid in tree)
