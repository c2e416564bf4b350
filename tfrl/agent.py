"""The contract between an algorithm and the runtime: an `Agent` is a frozen description made by `make(config, spec)`.

An algorithm sees tensors only; everything about processes, files, clocks and replay servers is the runtime's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tfrl.types import NoiseSpec, PolicyStep, UpdateOutput


class Policy(Protocol):
    """What acts. Concrete classes subclass `tf.Module` and nothing else."""

    noise: Mapping[str, NoiseSpec]  # what one exploring step draws per environment; {} for none

    def initial_state(self, batch_size: int) -> Any:
        """Recurrent state of fresh episodes, leaves [batch_size, ...]; () when stateless."""

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, Any],
        noise: Mapping[str, Any],
        explore: bool,
    ) -> PolicyStep:
        """Chooses actions: a pure graph of tensors, so that the traced function, LiteRT and the export agree.

        Args:
          obs: raw observations, leaves [B, ...]; normalised inside.
          state: recurrent state, leaves [B, ...]; the runtime resets finished rows.
          knobs: {name: float32 [B]}, e.g. epsilon; {} when `explore` is False.
          noise: {name: float32 [B, ...]} as declared by `self.noise`; {} when `explore` is False.
          explore: Python bool, fixed at tracing.
        """


class Periodic(NamedTuple):
    """`fn()` runs in cross-replica context after every `every_updates`-th update."""

    every_updates: int
    fn: Callable[[], None]


class Learner(Protocol):
    """What learns. A `tf.Module` that sees tensors only: no replay, no files, no clock."""

    policy: Policy  # what is published, checkpointed and exported

    def prepare(self, batch: Any) -> Any:
        """Optional. [T, b, ...] -> [n, ...]: targets and advantages, no gradient, once per sampled batch."""

    def update(self, batch: Any, seed: Any) -> UpdateOutput:
        """One optimiser step in replica context.

        Args:
          batch: `Transition` with leaves [b, ...], or `Trajectory` with leaves [T, b, ...]; b is this replica's share.
          seed: int32 [2] for stateless random ops, equal on all replicas.
        """

    def periodic(self) -> Sequence[Periodic]:
        """What runs between updates: target copy, sparse topology."""


@dataclasses.dataclass(frozen=True)
class NStep:
    """Items are n-step transitions; sums and powers of `discount` are made before writing."""

    n: int
    discount: float


@dataclasses.dataclass(frozen=True)
class SequenceOf:
    """Items are runs of `length` consecutive steps, a new one every `period` steps, the first `burn_in` untrained."""

    length: int
    period: int
    burn_in: int = 0


@dataclasses.dataclass(frozen=True)
class ReplayPlan:
    """What the replay holds and how it is read.

    Attributes:
      kind: 'prioritized', 'uniform' or 'queue'.
      item: shape of an item in time.
      capacity_items: items kept; the oldest leave first.
      min_items: items inserted before the first update.
      samples_per_insert: items consumed by updates per item inserted, held in every backend.
      priority_exponent: alpha of prioritized replay.
      max_times_sampled: times an item may be sampled before it leaves (0: no limit).
      max_policy_lag_updates: for queues: 0 is a barrier, None no limit.
    """

    kind: str
    item: NStep | SequenceOf
    capacity_items: int
    min_items: int
    samples_per_insert: float
    priority_exponent: float = 0.0
    max_times_sampled: int = 0
    max_policy_lag_updates: int | None = None


@dataclasses.dataclass(frozen=True)
class UpdatePlan:
    """How a sampled batch becomes updates: global `batch_size` items, `epochs` passes over `minibatches` parts.

    `updates_per_call` is the number of updates whose data is drawn at once and which run in one compiled call.
    """

    batch_size: int
    epochs: int = 1
    minibatches: int = 1
    updates_per_call: int = 1


@dataclasses.dataclass(frozen=True)
class Agent:
    """An algorithm bound to an environment spec.

    Attributes:
      make_policy: builds a policy with fresh variables.
      make_learner: builds a learner (and its policy) under the current `tf.distribute` strategy.
      replay, updates: plans that the runtime carries out.
      knobs: (worker, num_workers, num_envs, env_steps) -> {name: float32 [num_envs]}, e.g. epsilon. `env_steps` is the
        run's total so far. Pure NumPy.
      on_actor: None, or (policy, item) -> (item, priority).
    """

    make_policy: Callable[[], Policy]
    make_learner: Callable[[], Learner]
    replay: ReplayPlan
    updates: UpdatePlan
    knobs: Callable[[int, int, int, int], Mapping[str, Any]]
    on_actor: Callable[[Policy, Any], Any] | None = None
