"""From a job to the parts that every role of a run needs; whatever can be refused is refused here,
before any process."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import tensorflow as tf

from tfrl.agent import Agent
from tfrl.config.settings import SettingError
from tfrl.envs.make import make_spec
from tfrl.job import Job, algorithm
from tfrl.replay.transitions import TransitionLayout
from tfrl.runtime.checkpoint import Checkpoints
from tfrl.types import EnvSpec


@dataclasses.dataclass(frozen=True)
class Assembly:
    """A job with its environment spec, its agent and the layout of its items."""

    job: Job
    spec: EnvSpec
    agent: Agent
    layout: TransitionLayout

    @property
    def run_dir(self) -> pathlib.Path:
        return pathlib.Path(self.job.run_dir)

    @property
    def checkpoints(self) -> Checkpoints:
        folder = self.run_dir / "checkpoints"
        return Checkpoints(folder, self.job.algo, self.spec, self.job.checkpoint.checkpoint_keep)

    @property
    def env_steps_per_call(self) -> int:
        """Env steps that pay for one call of the learner."""
        plan = self.agent.updates
        items = plan.batch_size * plan.updates_per_call
        return max(1, round(items / self.agent.replay.samples_per_insert))

    @property
    def arithmetic(self) -> str:
        """The start-up line that answers which number is a batch."""
        plan, replay = self.agent.updates, self.agent.replay
        return (
            f"{self.env_steps_per_call:,} env steps -> {plan.updates_per_call:,} updates of {plan.batch_size:,} items, "
            f"{replay.samples_per_insert:g} samples per insert, from {replay.min_items:,} items on"
        )


def assemble(job: Job) -> Assembly:
    """Builds the spec and the agent of a job.

    Raises:
      SettingError: an unknown environment, a space the algorithm does not serve, a checkpoint of another run.
    """
    spec = make_spec(job.env)
    agent = algorithm(job.algo).make(job.config, spec)
    assembly = Assembly(
        job, spec, agent, TransitionLayout(spec, agent.replay.kind == "prioritized")
    )
    _check_devices(job.topology.num_learner_devices, agent.updates.batch_size, job.topology.compile)
    agent.make_policy()  # a network that cannot be built is refused now
    if job.resume:
        assembly.checkpoints.newest()
    return assembly


def _check_devices(num_devices: int, batch_size: int, compile_mode: str) -> None:
    """Raises SettingError when the learner asks for more devices than there are, or cannot share a
    batch between them."""
    gpus, cpus = tf.config.list_physical_devices("GPU"), tf.config.list_physical_devices("CPU")
    available = len(gpus) or len(tf.config.get_logical_device_configuration(cpus[0]) or [None])
    replicas = num_devices or max(len(gpus), 1)
    if replicas > available:
        kind = "GPU" if gpus else "CPU"
        raise SettingError(
            f"num_learner_devices={num_devices}: expected at most {available}, TensorFlow's {kind} devices"
        )
    if batch_size % replicas:
        raise SettingError(
            f"batch_size={batch_size} with {replicas} learner devices: expected a multiple of {replicas}"
        )
    if compile_mode == "xla" and replicas > 1:
        raise SettingError(
            f"compile=xla with {replicas} learner devices: XLA serves one; use graph or auto"
        )


class Every:
    """Fires once for each multiple of an interval that a counter passes, however coarse its steps are.

    Args:
      interval: in units of the counter; 0: never.
      start: value of the counter now, so that a resumed run keeps its rhythm.
    """

    def __init__(self, interval: int, start: int = 0):
        self._interval = interval
        self._passed = math.floor(start / interval) if interval else 0

    def due(self, now: int) -> bool:
        if not self._interval:
            return False
        passed = math.floor(now / self._interval)
        fired, self._passed = passed > self._passed, passed
        return fired
