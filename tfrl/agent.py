"""The contract between an algorithm and the runtime: an `Agent` is a frozen description made by `make(config, spec)`.

An algorithm sees tensors only; everything about processes, files, clocks and replay servers is the runtime's.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.types import EvaluationEpisode, NoiseSpec, PolicyStep, UpdateOutput


class Policy(Protocol):
    """The acting part of an algorithm. Concrete classes subclass `tf.Module` and nothing else."""

    noise: Mapping[str, NoiseSpec]  # what one exploring step draws per environment; {} for none

    def initial_state(self, batch_size: int, noise: Mapping[str, Any]) -> Any:
        """Recurrent state with which episodes begin: a nest of leaves [batch_size, ...], () when stateless.

        It is made anew in each row that begins an episode, with the weights that act in its first step.

        Args:
          noise: {name: float32 [batch_size, ...]}: what `self.noise` declares to be held for whole episodes
            (`hold_env_steps=None`), the draws that `step` is given in these episodes; {} in greedy acting.
        """

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
        """Optional. Values that the policy computes on its way to a greedy action, for users of a trained policy.

        Args:
          obs, state: as `step` takes them.

        Returns:
          'q_values', float32 [B, A]: the return that each Discrete action promises; a very low number where a mask
          forbids it; of a team [B, N, A], that of each agent's actions. 'probabilities', a nest like the action space:
          of a Discrete [B, n], of a MultiDiscrete [B, *shape, largest] with zeros beyond a component's choices, of a
          MultiBinary those of ones [B, *shape].
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
    """`fn()` runs in cross-replica context after every `every_updates`-th update.

    Attributes:
      every_updates: at least 1.
      fn: changes variables of the learner.
      at_start: `fn` also runs once where a run begins with the weights of another one, as target copies must; False
        for what changes trained weights.
    """

    every_updates: int
    fn: Callable[[], None]
    at_start: bool = True


class Delayed(NamedTuple):
    """A second step on the batch of every `every_updates`-th update, made just after it and before `Periodic`s.

    TD3's policy is trained this way (Fujimoto et al. 2018, section 5.2).

    Attributes:
      every_updates: at least 1; the step follows update number `every_updates`, 2 * `every_updates`, ...
      fn: (batch, seed) -> {metric: float32 scalar, equal on all replicas}, in replica context. `batch` is what
        `Learner.update` got, `seed` int32 [2] another seed. Names are not those of the update's metrics; values are
        logged as means over these steps, and left out where a call of the learner had none.
    """

    every_updates: int
    fn: Callable[[Any, Any], Mapping[str, Any]]


class Network(NamedTuple):
    """A network of a learner: which variables it has, and who changes them.

    Attributes:
      name: e.g. 'q', 'policy', 'value', 'target_q'; no two are alike.
      variables: those that an optimiser may change, in a fixed order; of a target copy those that correspond to them.
      optimizer: that trains them; None for a target copy.
      copy_of: name of the network that a target copy follows, with variables of the same shapes in the same order; None
        for a network that is trained.
      outputs: those of its kernels that give the outputs, of each head; None: the last of its kernels alone. A target
        copy has those of its original.
    """

    name: str
    variables: Sequence[tf.Variable]
    optimizer: Any = None
    copy_of: str | None = None
    outputs: Sequence[tf.Variable] | None = None

    @property
    def kernels(self) -> tuple[tf.Variable, ...]:
        """The variables of at least two axes: weights of dense, convolutional and recurrent layers, no biases.

        Tables of `tf.keras.layers.Embedding` are none: their rows are looked up and multiply nothing. They are in the
        order in which they were made, which is that of the layers. (`tf.Module` gives the last layer of a Keras model
        before its others.)
        """
        found = (v for v in self.variables if v.shape.rank >= 2 and not _is_embedding(v))
        return tuple(sorted(found, key=_made))

    @property
    def hidden_kernels(self) -> tuple[tf.Variable, ...]:
        """The kernels of a trained network that do not give its outputs."""
        outputs = self.kernels[-1:] if self.outputs is None else self.outputs
        outputs = {id(variable) for variable in outputs}
        return tuple(v for v in self.kernels if id(v) not in outputs)


def _is_embedding(variable: tf.Variable) -> bool:
    return variable.name.rpartition("/")[2].startswith("embeddings:")


def _made(variable: tf.Variable) -> int:
    """A number that grows from each variable to the next one that is made."""
    return int(variable._unique_id.rpartition("_")[2])


class Learner(tf.Module):
    """Base class of learners. A learner sees tensors only: no replay, no files, no clock.

    A subclass sets `policy` and has `update`; every other method has a default that does nothing.

    Attributes:
      policy: what is published, checkpointed and exported.
      env_steps: None, or an int64 variable; the runtime writes the env steps of the run into it before each call.
    """

    policy: Policy
    env_steps: tf.Variable | None = None

    def prepare(self, batch: Any) -> Any:
        """For queues: [T, b, ...] -> rows with leaves [n, ...], which `update` takes. The batch itself by default.

        In replica context, without gradient, once per sampled batch: targets, advantages, statistics. A row is a step,
        row t * b + i step t of column i, or a column. Rows are shuffled in every epoch where there are several
        minibatches, those of all replicas together.
        """
        return batch

    def update(self, batch: Any, seed: Any) -> UpdateOutput:
        """One optimiser step in replica context.

        Args:
          batch: `Transition` with leaves [b, ...], or `Trajectory` with leaves [T, b, ...]; b is this replica's share.
            `Members` of a whole population, the same on every replica.
          seed: int32 [2] for stateless random ops, equal on all replicas.
        """
        raise NotImplementedError(f"{type(self).__name__}.update")

    def delayed(self) -> Delayed | None:
        """A second step on the same batch every so many updates; None by default."""
        return None

    def periodic(self) -> Sequence[Periodic]:
        """Functions that run between updates: target copies, sparse topology. None by default."""
        return ()

    def stop(self) -> Any:
        """Bool scalar, read after each update: True skips the rest of the batch's epochs. False by default."""
        return False

    def finish(self) -> None:
        """Runs in cross-replica context after the last update of a batch of a queue, e.g. to adapt a coefficient."""

    def adopt(self, env_steps: int) -> None:
        """The policy's variables were set to those of another run after so many env steps.

        Brings into line what depends on them and is no copy that `periodic` makes, e.g. statistics of observations.
        """

    def networks(self) -> Sequence[Network]:
        """Every trainable variable of the learner, in exactly one network. () by default, for networks unknown.

        Sparse training, layer-wise optimisers and exporters read it.
        """
        return ()

    def facts(self) -> Mapping[str, Any]:
        """A few named numbers that are published with the weights, e.g. the difficulty of a task; {} by default.

        `Agent.knobs` and `VectorEnv.set` receive them. Each is a finite number or scalar tensor; a name is an
        identifier of lower-case letters, digits and '_'.
        """
        return {}

    def artifacts(self) -> Mapping[str, Any]:
        """Results that are not weights, by name, e.g. the best graph found; {} by default.

        Each is plain data or an array. All are in every checkpoint, and at the end in the run folder, as
        `artifacts/<name>.json` or `artifacts/<name>.npy`. A dict of numbers is in `result.json` too. A resumed run has
        them if they come from variables.
        """
        return {}


def check_policy(policy: Any) -> None:
    """Refuses what `make_policy` must not return, as soon as it has.

    Raises:
      SettingError: a method is missing, or does not take the arguments of `Policy`.
    """
    for name in ("initial_state", "step"):
        where = f"policy {type(policy).__name__}: {name}"
        expected = [*inspect.signature(getattr(Policy, name)).parameters][1:]
        form = f"expected {name}({', '.join(expected)})"
        method = getattr(policy, name, None)
        if not callable(method):
            raise SettingError(f"{where} is no method; {form}")
        try:
            inspect.signature(method).bind(*expected)
        except TypeError:
            raise SettingError(f"{where}{inspect.signature(method)}: {form}") from None


def check_learner(learner: Any) -> None:
    """Refuses what `make_learner` must not return, as soon as it has.

    Raises:
      SettingError: no `Learner`, a period below 1, or networks that contradict each other.
    """
    who = f"learner {type(learner).__name__}"
    if not isinstance(learner, Learner):
        raise SettingError(f"{who}: expected a subclass of tfrl.agent.Learner")
    delayed = learner.delayed()
    for step in (*learner.periodic(), *([] if delayed is None else [delayed])):
        if not isinstance(step.every_updates, int) or step.every_updates < 1:
            kind = type(step).__name__
            raise SettingError(
                f"{who}: {kind} with every_updates={step.every_updates!r}: expected an int of at least 1"
            )
    _check_networks(who, learner.networks())


def _check_networks(who: str, networks: Sequence[Network]) -> None:
    by_name = {network.name: network for network in networks}
    if len(by_name) < len(networks):
        raise SettingError(f"{who}: two networks have one name, of {[n.name for n in networks]}")
    seen: set[int] = set()
    for network in networks:
        where = f"{who}: network {network.name!r}"
        if (network.optimizer is None) == (network.copy_of is None):
            raise SettingError(f"{where}: expected either an optimizer or copy_of")
        found = {id(variable) for variable in network.variables}
        if len(found) < len(network.variables) or found & seen:
            raise SettingError(f"{where}: a variable stands in it twice, or in another one too")
        seen |= found
        if not set(map(id, network.outputs or ())) <= set(map(id, network.kernels)):
            raise SettingError(f"{where}: expected outputs among its kernels")
        if network.copy_of is None:
            continue
        original = by_name.get(network.copy_of)
        if original is None or original.copy_of is not None:
            raise SettingError(f"{where}: copy_of={network.copy_of!r} is no trained network")
        mine, theirs = ([v.shape.as_list() for v in n.variables] for n in (network, original))
        if mine != theirs:
            raise SettingError(
                f"{where}: shapes {mine}, expected those of {original.name!r}, {theirs}"
            )


@dataclasses.dataclass(frozen=True)
class NStep:
    """Items are n-step transitions; sums and powers of `discount` are made before writing.

    Attributes:
      n: largest number of env steps that an item spans.
      discount: gamma, per env step.
      relabels: copies of each transition whose goal is one that was achieved later in its episode (hindsight experience
        replay, Andrychowicz et al. 2017); items themselves, for environments with goals only.

    Raises:
      SettingError: a field out of range.
    """

    n: int
    discount: float
    relabels: int = 0

    def __post_init__(self) -> None:
        _at_least(self, 1, "n")
        _at_least(self, 0, "relabels")
        _check_discount(self)

    def env_steps(self, num_envs: int) -> float:
        """Env steps that make one more item: copies are items too."""
        del num_envs
        return 1 / (1 + self.relabels)


@dataclasses.dataclass(frozen=True)
class Unroll:
    """Items are of all environments of an actor: `length` consecutive steps, the next item follows at once.

    Attributes:
      length: T, env steps per environment.
      discount: gamma, per env step.

    Raises:
      SettingError: a field out of range.
    """

    length: int
    discount: float

    def __post_init__(self) -> None:
        _at_least(self, 1, "length")
        _check_discount(self)

    def env_steps(self, num_envs: int) -> int:
        """Env steps that make one more item."""
        return self.length * num_envs


@dataclasses.dataclass(frozen=True)
class Windows:
    """Items are of one environment each: `length` consecutive steps, one item begins every `period` steps.

    Attributes:
      length: T, env steps.
      discount: gamma, per env step.
      period: env steps from the start of an item to that of the next; items overlap where it is less than `length`.

    Raises:
      SettingError: a field out of range.
    """

    length: int
    discount: float
    period: int

    def __post_init__(self) -> None:
        _at_least(self, 1, "length", "period")
        _check_discount(self)

    def env_steps(self, num_envs: int) -> int:
        """Env steps that make one more item."""
        del num_envs
        return self.period


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Items have whole episodes as columns, each padded to `length`.

    In a queue, episodes that end in the same step share an item. In a replay each episode is an item of its own.

    Attributes:
      length: T, env steps of a column. A longer episode goes on in another column, which begins with the state of the
        memory that it has there; at the cut no step is the last one, and its observation is bootstrapped from.
      discount: gamma, per env step.
      count: least number of episodes of an item; 1 in a replay.

    Raises:
      SettingError: a field out of range.
    """

    length: int
    discount: float
    count: int

    def __post_init__(self) -> None:
        _at_least(self, 1, "length", "count")
        _check_discount(self)

    def env_steps(self, num_envs: int) -> int:
        """Env steps that make one more item, at most."""
        del num_envs
        return self.length * self.count


Sequences = Unroll | Windows | Episodes


@dataclasses.dataclass(frozen=True)
class Population:
    """Items are iterations of a population: results of episodes, each of a member with weights of its own.

    A member's weights follow from the weights of the learner and from the policy's seeded noise that is held for whole
    episodes (`NoiseSpec`). Which draw, sign and episode a member has is a function of the run's seed, the iteration and
    the member, whoever plays it: `explore/noise.py` makes the draws again. The learner's `update` gets a `Members`.

    Attributes:
      count: members of a round, an even number: members 2 i and 2 i + 1 have draw i of the iteration and its negative.
      min_env_steps: whole rounds are played until an iteration has so many env steps; 0: one round.
      common_seeds: both members of a pair play an episode of the same seed, where environments can be seeded row by
        row.
      moments: sums and sums of squares of the observations of each episode travel too.

    Raises:
      SettingError: a field out of range.
    """

    count: int
    min_env_steps: int = 0
    common_seeds: bool = False
    moments: bool = False

    def __post_init__(self) -> None:
        _at_least(self, 2, "count")
        _at_least(self, 0, "min_env_steps")
        _check(self, "count", self.count % 2 == 0, "an even number")

    def env_steps(self, num_envs: int) -> int:
        """Env steps that make one more item, at least."""
        del num_envs
        return max(self.count, self.min_env_steps)


@dataclasses.dataclass(frozen=True)
class Replay:
    """Experience that is sampled again and again.

    Attributes:
      item: shape of an item in time.
      capacity_items: items kept; the oldest leave first.
      min_items: items inserted before the first update.
      samples_per_insert: items consumed by updates per item inserted, held in every backend.
      batch_size: items of an update, over all replicas.
      updates_per_call: updates whose items are drawn at once and which run in one compiled call.
      priority_exponent: alpha of proportional prioritisation (Schaul et al. 2016, eq. 1); None: uniform sampling.

    Raises:
      SettingError: a field out of range, or an item that is not for a replay.
    """

    item: NStep | Windows | Episodes
    capacity_items: int
    min_items: int
    samples_per_insert: float
    batch_size: int
    updates_per_call: int = 1
    priority_exponent: float | None = None

    def __post_init__(self) -> None:
        _check_item(self, (NStep, Windows, Episodes))
        if isinstance(self.item, Episodes):
            _check(self, "item", self.item.count == 1, "Episodes with count=1")
        _at_least(self, 1, "capacity_items", "batch_size", "updates_per_call")
        _at_least(self, 0, "min_items", "priority_exponent")
        _check(self, "samples_per_insert", self.samples_per_insert > 0, "more than 0")
        if self.min_items > self.capacity_items:
            _check(self, "min_items", False, f"at most capacity_items={self.capacity_items}")

    @property
    def prioritized(self) -> bool:
        """Items are sampled in proportion to their priorities."""
        return self.priority_exponent is not None


@dataclasses.dataclass(frozen=True)
class Queue:
    """Experience that is trained on in the order in which it comes, bounded: actors wait while the queue is full.

    Attributes:
      item: shape of an item in time.
      capacity_items: items that may wait for the learner.
      batch_items: items of a batch, over all replicas. 0: as many as `batch_env_steps` takes, or without those one of
        every actor.
      batch_env_steps: a batch has the smallest number of items with at least so many env steps; 0: see `batch_items`.
      epochs, minibatches: a batch makes `epochs` passes over its `minibatches` parts, an update each.
      passes: times that each batch is trained on; the learner turns between the last `pass_buffer_batches` batches.
      pass_buffer_batches: batches between which the passes turn.
      replay_proportion: old items trained on for each new one, drawn from the last `replay_items`.
      replay_items: old items kept, read where `replay_proportion` is above 0.
      actors_wait: every actor waits for the weights that its last items have trained.

    Raises:
      SettingError: a field out of range, fields that contradict each other, or an item that is not for a queue.
    """

    item: Unroll | Episodes | Population
    capacity_items: int
    batch_items: int = 0
    batch_env_steps: int = 0
    epochs: int = 1
    minibatches: int = 1
    passes: int = 1
    pass_buffer_batches: int = 1
    replay_proportion: float = 0.0
    replay_items: int = 0
    actors_wait: bool = False

    # Each item pays for one training on it, from the first item on.
    min_items: ClassVar[int] = 0
    samples_per_insert: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check_item(self, (Unroll, Episodes, Population))
        _at_least(self, 1, "capacity_items", "epochs", "minibatches")
        _at_least(self, 1, "passes", "pass_buffer_batches")
        _at_least(self, 0, "batch_items", "batch_env_steps", "replay_proportion", "replay_items")
        if self.batch_items and self.batch_env_steps:
            _check(self, "batch_items", False, f"0 with batch_env_steps={self.batch_env_steps}")
        if self.replay_proportion and not self.replay_items:
            expected = f"at least 1 with replay_proportion={self.replay_proportion:g}"
            _check(self, "replay_items", False, expected)
        if self.pass_buffer_batches > 1 and self.passes == 1:
            _check(self, "pass_buffer_batches", False, "1 with passes=1")
        if isinstance(self.item, Population):
            once = self.batch_items == self.epochs == self.minibatches == self.passes == 1
            once = once and self.actors_wait and not self.replay_proportion
            expected = "a sequence, unless batch_items=1, actors_wait=True, and each batch makes one update"
            _check(self, "item", once, expected)

    @property
    def updates_per_call(self) -> int:
        """Updates that a batch makes in one compiled call, at most."""
        return self.epochs * self.minibatches


@dataclasses.dataclass(frozen=True)
class Agent:
    """An algorithm bound to an environment spec.

    Attributes:
      make_policy: builds a policy with fresh variables.
      make_learner: builds a learner (and its policy) under the current `tf.distribute` strategy.
      experience: what is learnt from, and how it becomes updates; the runtime carries it out.
      knobs: (place, env_steps, facts) -> {name: float32 [num_envs]}, e.g. epsilon: numbers that the acting policy
        reads. `env_steps` is the run's total so far, `facts` what `Learner.facts` and `on_evaluation` have given, {}
        before the first weights. Each knob is logged as `actor/<name>`, its mean over environments. Pure NumPy.
      in_metrics: None, or place -> bool [num_envs]: environments whose episodes count in the training metrics; None:
        all. Pure NumPy.
      initial_priority: None, or (reward [m], discount [m], before, after) -> float32 [m]: priorities of new n-step
        items from the extras {name: [m]} of the policy's steps on their first observation and on the one that they
        bootstrap from. None: the largest priority seen. Pure NumPy.
      updates_per_publish: least number of updates between two sets of weights sent to the actors.
      actor_compute: None, or (policy, trajectory of one item) -> {name: tensor}. If given, the actor sends its result
        in place of the trajectory; A3C sends gradients this way. The learner's `update` gets an `ActorOutput` of one
        item.
      on_evaluation: None, or (episodes of one evaluation) -> {name: number}: facts that knobs and environments of
        training receive beside those of the learner, until the next evaluation. No name is one of the learner's.
      notes: start-up lines: choices made for settings left at auto or none, and how to change them.
    """

    make_policy: Callable[[], Policy]
    make_learner: Callable[[], Learner]
    experience: Replay | Queue
    knobs: Callable[[ActorPlace, int, Mapping[str, float]], Mapping[str, Any]]
    updates_per_publish: int = 1
    actor_compute: Callable[[Policy, Any], Any] | None = None
    in_metrics: Callable[[ActorPlace], Any] | None = None
    initial_priority: Callable[[Any, Any, Mapping[str, Any], Mapping[str, Any]], Any] | None = None
    on_evaluation: Callable[[Sequence[EvaluationEpisode]], Mapping[str, float]] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        kinds = isinstance(self.experience, Replay | Queue)
        _check(self, "experience", kinds, "a Replay or a Queue")
        _at_least(self, 1, "updates_per_publish")
        if self.actor_compute is not None:
            computed = isinstance(self.experience, Queue)
            computed = computed and isinstance(self.experience.item, Sequences)
            _check(self, "experience", computed, "a Queue with actor_compute, of sequences")
        if self.initial_priority is not None:
            fits = isinstance(self.experience, Replay) and isinstance(self.experience.item, NStep)
            fits = fits and self.experience.prioritized and not self.experience.item.relabels
            expected = "a prioritised Replay of NStep items without relabels, with initial_priority"
            _check(self, "experience", fits, expected)


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
      variants: {what differs: settings that are added to `small`, and `env` where that is another}. The suite runs each
        as well.
    """

    title: str
    family: str
    options: str
    env: str
    refused: str
    small: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def _check(owner: Any, name: str, holds: bool, expected: str) -> None:
    """Raises SettingError, which names a field of `owner` and what was expected, unless `holds`."""
    if not holds:
        given = getattr(owner, name)
        raise SettingError(f"{type(owner).__name__}.{name}={given!r}: expected {expected}")


def _at_least(owner: Any, least: float, *names: str) -> None:
    """Raises SettingError for a field that is less; None passes."""
    for name in names:
        value = getattr(owner, name)
        _check(owner, name, value is None or value >= least, f"at least {least}")


def _check_discount(item: NStep | Sequences) -> None:
    _check(item, "discount", 0.0 <= item.discount <= 1.0, "a number from 0 to 1")


def _check_item(experience: Replay | Queue, kinds: tuple[type, ...]) -> None:
    expected = " or ".join(kind.__name__ for kind in kinds)
    _check(experience, "item", isinstance(experience.item, kinds), expected)
