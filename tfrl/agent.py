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

    def estimates(self, obs: Any, state: Any) -> Mapping[str, Any]:
        """Optional. What the policy computes on its way to a greedy action, for users of a trained policy.

        Args:
          obs, state: as `step` takes them.

        Returns:
          'q_values', float32 [B, A]: the return that each Discrete action promises; a very low number where a mask
          forbids it. 'probabilities', a nest like the action space: of a Discrete [B, n], of a MultiDiscrete
          [B, *shape, largest] with zeros beyond a component's choices, of a MultiBinary those of ones [B, *shape].
        """


class ActorPlace(NamedTuple):
    """The environments of one actor among those of all.

    Attributes:
      worker: index of the actor, from 0.
      num_workers: actors of the run.
      num_envs: environments of each actor.
    """

    worker: int
    num_workers: int
    num_envs: int


class Periodic(NamedTuple):
    """`fn()` runs in cross-replica context after every `every_updates`-th update."""

    every_updates: int
    fn: Callable[[], None]


class Learner(Protocol):
    """What learns. A `tf.Module` that sees tensors only: no replay, no files, no clock."""

    policy: Policy  # what is published, checkpointed and exported

    def prepare(self, batch: Any) -> Any:
        """Optional, for sequences: [T, b, ...] -> rows with leaves [n, ...], which `update` takes.

        In replica context, without gradient, once per sampled batch: targets, advantages, statistics. A row is a step,
        row t * b + i step t of column i, or a column. Rows are shuffled in every epoch where there are several
        minibatches, those of all replicas together. Without this method `update` takes the batch itself.
        """

    def update(self, batch: Any, seed: Any) -> UpdateOutput:
        """One optimiser step in replica context.

        Args:
          batch: `Transition` with leaves [b, ...], or `Trajectory` with leaves [T, b, ...]; b is this replica's share.
          seed: int32 [2] for stateless random ops, equal on all replicas.
        """

    def periodic(self) -> Sequence[Periodic]:
        """Optional. What runs between updates: target copy, sparse topology."""

    def stop(self) -> Any:
        """Optional. Bool scalar, asked after each update: skips what is left of the batch's epochs."""

    def finish(self) -> None:
        """Optional. In cross-replica context after the last update of a batch, e.g. to adapt a coefficient."""

    def adopt(self, env_steps: int) -> None:
        """Optional. The policy's variables were set to those of another run after so many env steps.

        Brings into line what depends on them and is no copy that `periodic` makes, e.g. statistics of observations.
        """

    def facts(self) -> Mapping[str, Any]:
        """Optional. A few named numbers that are published with the weights, e.g. the difficulty of a task.

        `Agent.knobs` and `VectorEnv.set` receive them. Each is a finite number or scalar tensor; a name is an
        identifier of lower-case letters, digits and '_'.
        """

    env_steps: Any  # optional int64 variable; the runtime writes the env steps of the run into it before each call


@dataclasses.dataclass(frozen=True)
class NStep:
    """Items are n-step transitions; sums and powers of `discount` are made before writing."""

    n: int
    discount: float


@dataclasses.dataclass(frozen=True)
class SequenceOf:
    """Items are unrolls of all environments of an actor: `length` consecutive steps, the next item follows at once.

    Attributes:
      length: T, env steps per environment.
      discount: gamma, per env step.
      episodes: 0, or the least number of episodes of items whose columns are whole episodes, each padded to `length` (a
        longer one is cut there, as by a time limit). Episodes that end in the same step are in the same item.
      period: 0; or items are of one environment each, one begins every `period` steps, and they overlap where that is
        less than `length`.
    """

    length: int
    discount: float
    episodes: int = 0
    period: int = 0


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
      max_policy_lag_updates: for queues: 0 is a barrier, every actor waits for the weights that its last item has
        trained; None: no limit.
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
    """How a sampled batch becomes updates: `epochs` passes over `minibatches` parts of it.

    Attributes:
      batch_size: items of a batch, over all replicas. For queues of sequences 0: one item of every actor, or as many as
        `batch_env_steps` takes.
      batch_env_steps: for sequences, a batch has the smallest number of items with at least so many env steps.
      epochs, minibatches: `epochs * minibatches` updates are made of a batch.
      updates_per_call: for items sampled again, updates whose data is drawn at once and which run in one compiled call.
      replay_proportion: for sequences, old items trained on for each new one, drawn from the last `replay_items`.
      passes: times that each batch is trained on; the learner turns between the last `pass_buffer_batches` batches.
      updates_per_publish: least number of updates between two sets of weights sent to the actors.
    """

    batch_size: int = 0
    batch_env_steps: int = 0
    epochs: int = 1
    minibatches: int = 1
    updates_per_call: int = 1
    replay_proportion: float = 0.0
    replay_items: int = 0
    passes: int = 1
    pass_buffer_batches: int = 1
    updates_per_publish: int = 1


@dataclasses.dataclass(frozen=True)
class Agent:
    """An algorithm bound to an environment spec.

    Attributes:
      make_policy: builds a policy with fresh variables.
      make_learner: builds a learner (and its policy) under the current `tf.distribute` strategy.
      replay, updates: plans that the runtime carries out.
      knobs: (place, env_steps, facts) -> {name: float32 [num_envs]}, e.g. epsilon: numbers that the acting policy
        reads. `env_steps` is the run's total so far, `facts` what `Learner.facts` and `on_evaluation` have given, {}
        before the first weights. Each knob is logged as `actor/<name>`, its mean over environments. Pure NumPy.
      in_metrics: None, or place -> bool [num_envs]: environments whose episodes count in the training metrics; None:
        all. Pure NumPy.
      initial_priority: None, or (reward [m], discount [m], before, after) -> float32 [m]: priorities of new n-step
        items from the extras {name: [m]} of the policy's steps on their first observation and on the one that they
        bootstrap from. None: the largest priority seen. Pure NumPy.
      actor_compute: None, or (policy, trajectory of one item) -> {name: tensor}. If given, the actor sends its result
        in place of the trajectory; A3C sends gradients this way. The learner's `update` gets an `ActorOutput` of one
        item.
      notes: start-up lines: choices made for settings left at auto or none, and how to change them.
    """

    make_policy: Callable[[], Policy]
    make_learner: Callable[[], Learner]
    replay: ReplayPlan
    updates: UpdatePlan
    knobs: Callable[[ActorPlace, int, Mapping[str, float]], Mapping[str, Any]]
    actor_compute: Callable[[Policy, Any], Any] | None = None
    in_metrics: Callable[[ActorPlace], Any] | None = None
    initial_priority: Callable[[Any, Any, Mapping[str, Any], Mapping[str, Any]], Any] | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class About:
    """Facts of an algorithm for the documentation and the conformance suite: `ABOUT` in its module.

    The first line of the module's docstring, `NAME: one sentence`, is its description in the tables.

    Attributes:
      title: name in text, e.g. 'QR-DQN'.
      family: page of `docs/` about what it shares with other algorithms, e.g. 'value_based'; '' for none.
      options: options worth naming in the README, e.g. 'double, dueling, n-step'; '' for none.
      env: environment of the conformance suite, a name that the setting `env` accepts.
      refused: environment with a space that `make` must refuse.
      small: settings with which the suite runs the algorithm: small networks and batches.
      variants: {what differs: settings that are added to `small`}. The suite runs each as well.
    """

    title: str
    family: str
    options: str
    env: str
    refused: str
    small: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
