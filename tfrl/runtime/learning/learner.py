"""The learning half of a run: many updates per call, as one traced loop around `strategy.run`."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tree

from tfrl.agent import Agent, Queue, check_learner
from tfrl.errors import SettingError
from tfrl.logs.histogram import Histogram
from tfrl.replay.layout import Layout
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.sampler import Samples
from tfrl.runtime.divergence import diverged, refuse_arrays
from tfrl.runtime.facts import MAX_PRIORITY, checked
from tfrl.runtime.learning import shuffle

NARROW = 84 * 202  # weights of the largest layer that is known to be faster under XLA on a CPU
TIMING_S = 1.0  # of calls of both, to choose one; at least so many rounds, and no more than these
LEAST_ROUNDS, MOST_ROUNDS = 3, 15
CLEARLY = 0.95  # of the time of the graph, below which XLA is chosen: about the error of the timing
LOOP_UPDATES = 8  # in one call, from which on that holds
DELAYED_STEPS = "delayed_steps"  # among the metrics of a call: delayed steps per update


def make_strategy(num_devices: int) -> tf.distribute.Strategy:
    """The strategy of the learner: mirrored over the accelerators, or the default one on a single device.

    Args:
      num_devices: replicas; 0: one per visible GPU, else one. Without GPUs, more than one are
        logical CPU devices, which the caller must have configured; `plan_run` has checked that
        there are enough.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if num_devices == 0:
        num_devices = max(len(gpus), 1)
    if num_devices == 1:
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return _mirrored(tuple(d.name for d in devices[:num_devices]))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One per process: a second one over the same devices would reuse the keys of the first one's collective ops."""
    return tf.distribute.MirroredStrategy(devices)


class LearnerLoop(tf.Module):
    """Runs updates on blocks of sampled items.

    One call takes the data of `updates_per_call` updates on items that are sampled again, or one batch of
    a queue with all its epochs and minibatches; the loop over the updates is one graph, compiled by XLA
    where that is faster (dense networks on one replica). The global batch is split over replicas by
    slicing, so every replica count sees the same data in the same order.

    Args:
      agent: what learns, and its plans.
      layout: how items become batches.
      strategy: see `make_strategy`.
      compile_mode: 'xla', 'graph', or 'auto' to time both on the first block, where the answer is
        not known beforehand, see `_known_mode`.
      seed: of the learner's random ops; update i uses (seed, i).
      announce: receives the start-up line with the chosen mode.
      learner_replay: replay in this process that updates sample from; None: samples are passed to `run`.

    Attributes:
      learner: the algorithm's learner.
      updates: int64 variable, optimiser steps so far; also the version of the policy.
      compiled: how the update loop is compiled, 'graph' or 'xla'. None until chosen. A resumed run sets it to skip the
        timing.
      max_priority: largest priority so far; new items get it.
      seconds: spent in `run`.
      lags: updates between acting and learning, of every unroll of a queue so far.
    """

    def __init__(
        self,
        agent: Agent,
        layout: Layout,
        strategy: tf.distribute.Strategy,
        compile_mode: str,
        seed: int,
        announce: Callable[[str], None] = lambda text: None,
        learner_replay: LearnerReplay | None = None,
    ):
        super().__init__()
        self.learner_replay = learner_replay
        self._plan, self._strategy, self._layout = agent.experience, strategy, layout
        self._mode, self._seed, self._announce = compile_mode, seed, announce
        tf.keras.utils.set_random_seed(seed)  # of the initial weights
        with strategy.scope():
            self.learner = agent.make_learner()
            self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        check_learner(self.learner)
        self._delayed, self._periodic = self.learner.delayed(), tuple(self.learner.periodic())
        self._delayed_metrics: tuple[str, ...] = ()  # names, known once the step is traced
        self._published = list(
            self.learner.policy.variables
        )  # looked up once, the search through modules is slow
        self._names = [v.name for v in self._published]
        self.max_priority = 1.0
        self.seconds, self.lags = 0.0, Histogram()
        self._run: Any = None
        self.compiled: str | None = None
        self._queue = isinstance(agent.experience, Queue)
        self._prioritized = not self._queue and agent.experience.prioritized

    @property
    def version(self) -> int:
        """Updates made, as a number; a mirrored variable is none."""
        return int(self.updates.numpy())

    @property
    def retraces(self) -> int:
        """Traces of the update loop after the first; more than 0 means that shapes change."""
        return self._run.experimental_get_tracing_count() - 1 if self._run is not None else 0

    def run(
        self, block: Samples | LearnerReplay, env_steps: int = 0
    ) -> tuple[Mapping[str, tf.Tensor], np.ndarray | None]:
        """Runs the updates that a block of items is for.

        Args:
          block: the items; or the replay beside the learner, from which the updates draw theirs.
          env_steps: of the run so far, for schedules.

        Returns:
          Metrics, the means over these updates as scalar tensors, and the new priorities float32
          [items] or None, which is also what a replay beside the learner gives: it has them.
        """
        start = time.perf_counter()
        if self.learner.env_steps is not None:
            self.learner.env_steps.assign(env_steps)
        data = () if self.learner_replay is not None else (block.columns, block.probability)
        if self._queue:  # updates since the weights with which each unroll began
            self.lags.add(self.version - block.columns["facts"][:, 0].numpy())
        if self._run is None:
            self._run = self._compile(*data)
        metrics, priorities = self._run(*data)
        if self._delayed is not None:
            metrics = self._of_made_steps(metrics)
        out = None
        if priorities is not None:
            out = priorities.numpy()
            self._take_priority(float(np.maximum(self.max_priority, out.max())))  # NaN is largest
        elif self.learner_replay is not None and self._prioritized:
            self._take_priority(self.learner_replay.max_priority)
        self.seconds += time.perf_counter() - start
        return metrics, out

    def arrays(self) -> list[np.ndarray]:
        """Values of the policy's variables, as engines load them.

        Raises:
          RunFailed: they are not all finite, and so no policy.
        """
        arrays = [_value(v) for v in self._published]
        refuse_arrays(self._names, arrays, self.version)
        return arrays

    def facts(self) -> dict[str, float]:
        """Numbers that are published with the weights: those of the learner, and the largest priority so far.

        Raises:
          RunFailed: the learner gives a name or a value that cannot be published.
        """
        found = {MAX_PRIORITY: self.max_priority}
        return {**found, **checked(self.learner.facts(), "Learner.facts", found)}

    def artifacts(self) -> Mapping[str, Any]:
        """Results of the learner that are not weights, see `Learner.artifacts`."""
        return self.learner.artifacts()

    def _take_priority(self, priority: float) -> None:
        """Makes a priority that of new items."""
        if not math.isfinite(priority):
            raise diverged("learner/priority", priority, f"{self.version:,} updates")
        self.max_priority = priority

    def _compile(self, *data: Any) -> Callable:
        calls = self._plan.updates_per_call
        one = self._strategy.num_replicas_in_sync == 1
        mode, why = ("graph", "") if self._mode == "auto" else (self._mode, "")
        if self._mode == "auto" and one:
            mode, why = _known_mode(self.learner, calls)
        if mode:
            self.compiled = mode
            self._announce(f"learning: {mode}, {calls} updates per call{why}")
            return self._traced(mode)
        if self.compiled is not None:
            self._announce(f"learning: {self.compiled}, {calls} updates per call (as before)")
            return self._traced(self.compiled)
        # Contents of a checkpoint: `self.variables` would leave out a Keras optimiser, which is no tf.Module.
        everything = [
            v for v in tf.train.TrackableView(self).descendants() if isinstance(v, tf.Variable)
        ]
        if self.learner_replay is not None:
            everything += self.learner_replay.priority_variables
        started, state = time.perf_counter(), [v.numpy() for v in everything]
        functions = {mode: self._traced(mode) for mode in ("graph", "xla")}
        for function in functions.values():
            function(*data)  # compiles
        times = compare(
            {m: functools.partial(_timed, f, *data) for m, f in functions.items()}, TIMING_S
        )
        for variable, value in zip(everything, state, strict=True):  # timing must not train
            variable.assign(value)
        best = self.compiled = "xla" if times["xla"] < CLEARLY * times["graph"] else "graph"
        per_update = {m: t / calls * 1e6 for m, t in times.items()}
        figures = ", ".join(f"{m} {t:.0f} us" for m, t in per_update.items())
        spent = time.perf_counter() - started
        self._announce(
            f"learning: {best}, {calls} updates per call ({figures} per update; compiling and timing both took "
            f"{spent:.1f} s, which --compile={best} saves)"
        )
        return functions[best]

    def _traced(self, mode: str) -> Callable:
        updates = self._batch_updates if self._queue else self._updates
        if self.learner_replay is not None:
            updates = self._learner_replay_updates
        if mode == "xla":
            _set_xla_flags()
        return tf.function(
            updates, jit_compile=mode == "xla", autograph=False, reduce_retracing=False
        )

    def _updates(
        self, columns: Mapping[str, tf.Tensor], probability: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], Any]:
        """`updates_per_call` times: one update on every replica, then what is due between updates."""
        calls, size = self._plan.updates_per_call, self._plan.batch_size
        if (
            self._prioritized
        ):  # relative to the rarest item of each global batch, see `Transition.probability`
            probability = tf.reshape(probability, [calls, size])
            probability /= tf.reduce_min(probability, axis=1, keepdims=True)
            probability = tf.cast(tf.reshape(probability, [-1]), tf.float32)
        else:
            probability = tf.ones([calls * size])

        batch = self._layout.batches(columns, probability, calls, size)
        return self._repeat(lambda index: self._one(batch(index)))

    def _learner_replay_updates(self) -> tuple[dict[str, tf.Tensor], None]:
        """Updates as in `_updates`, each on a batch drawn just before it."""

        def one(index: tf.Tensor) -> tuple[dict[str, tf.Tensor], tuple]:
            del index
            # A batch by the priorities as they are now, and its probabilities relative to its rarest item.
            drawn = self.learner_replay.sample(self._plan.batch_size, self.updates)
            probability = drawn.probability / tf.reduce_min(drawn.probability)
            metrics, priorities = self._one(self._layout.decode(drawn.columns, probability))
            # The new priorities, which the next batch is drawn by.
            if priorities:
                self.learner_replay.update_priorities(drawn.slots, priorities[0])
            return metrics, ()

        return self._repeat(one)

    def _one(self, batch: Any) -> tuple[dict[str, tf.Tensor], tuple]:
        """One update on every replica, and what is due after it; metrics, and priorities if there are any."""
        # The update, each replica on its slice of the batch.
        out = self._strategy.run(self._replica_update, (batch, self._update_seed()))
        # Priorities of all replicas in the order of the batch.
        priorities: tuple = ()
        if out.priorities is not None:
            priorities = (tf.concat(self._strategy.experimental_local_results(out.priorities), 0),)
        # The delayed step on the same slices, and periodic work, where they are due.
        delayed = lambda seed: self._strategy.run(self._replica_delayed, (batch, seed))
        return self._after_update(out.metrics, delayed), priorities

    def _repeat(self, one: Callable[[tf.Tensor], Any]) -> tuple[dict[str, tf.Tensor], Any]:
        """`one` for each update of a call; means of its metrics, all of its priorities or None."""
        calls = self._plan.updates_per_call
        if calls == 1:
            metrics, priorities = one(tf.constant(0))
            return metrics, priorities[0] if priorities else None
        metrics, priorities = _loop(one, calls)
        metrics = {name: tf.reduce_mean(x) for name, x in metrics.items()}
        return metrics, tf.reshape(priorities[0], [-1]) if priorities else None

    def _batch_updates(
        self, columns: Mapping[str, tf.Tensor], probability: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], None]:
        """All epochs and minibatches of one batch of unrolls, or of what was computed of them."""
        del probability
        plan, strategy, learner = self._plan, self._strategy, self.learner
        # Rows once per batch: targets and advantages, each replica of its columns.
        batch = self._layout.decode(columns)
        rows = strategy.run(self._replica_prepare, (batch,))
        # With minibatches, an order of the rows of all replicas for each epoch.
        order: Any = ()
        if plan.minibatches > 1:
            rows, order = self._shuffled(rows, batch)

        def one(index: tf.Tensor) -> dict[str, tf.Tensor]:
            # The update on this index' minibatch, and on the same rows the delayed step where one is due.
            part = (rows, order, index)
            out = strategy.run(
                self._replica_minibatch, (*part, learner.update, self._update_seed())
            )
            delayed = lambda seed: strategy.run(
                self._replica_minibatch, (*part, self._delayed.fn, seed)
            )
            return self._after_update(out.metrics, delayed)

        # All minibatches of all epochs, until `stop`; then what follows a batch.
        times = plan.updates_per_call
        metrics = one(tf.constant(0)) if times == 1 else _mean_while(one, times, learner.stop)
        learner.finish()
        return metrics, None

    def _shuffled(self, rows: Any, batch: Any) -> tuple[Any, tf.Tensor]:
        """The rows of all replicas, and which of them each update takes: int32 [epochs, minibatches, size].

        The order is that of one device, so that every number of replicas makes the same updates.
        """
        plan, replicas = self._plan, self._strategy.num_replicas_in_sync
        if replicas > 1:
            local = self._strategy.experimental_local_results
            rows = tree.map_structure(lambda x: tf.concat(local(x), 0), rows)
        count = tree.flatten(rows)[0].shape[0]
        size = count // plan.minibatches
        if size < replicas:
            raise SettingError(
                f"minibatches={plan.minibatches}: expected at most {count // replicas}, the rows of a batch on each "
                "device"
            )
        order = shuffle.orders(plan.epochs, count, self._update_seed())[
            :, : size * plan.minibatches
        ]
        if replicas > 1:
            columns = batch.version.shape[0] // replicas
            order = shuffle.side_by_side(order, count // columns // replicas, columns, replicas)
        return rows, tf.reshape(order, [plan.epochs, plan.minibatches, size])

    def _update_seed(self) -> tf.Tensor:
        return tf.stack([tf.constant(self._seed, tf.int32), tf.cast(self.updates, tf.int32)])

    def _after_update(
        self, metrics: Mapping[str, Any], delayed: Callable[[tf.Tensor], Mapping[str, Any]]
    ) -> dict[str, tf.Tensor]:
        """Counts an update, runs what is due after it, and takes the first replica's metrics, which are all alike.

        Args:
          metrics: of the update.
          delayed: makes the delayed step on the update's batch with a seed, on every replica.
        """
        self.updates.assign_add(1)
        metrics = self._first(metrics)
        if self._delayed is not None:
            metrics = self._with_delayed(metrics, delayed)
        for every, fn, _ in self._periodic:
            if every == 1:
                fn()
            else:
                due = self.updates % every == 0
                tf.cond(due, lambda fn=fn: _and_zero(fn), lambda: tf.constant(0))
        return metrics

    def _with_delayed(
        self, metrics: dict[str, tf.Tensor], delayed: Callable[[tf.Tensor], Mapping[str, Any]]
    ) -> dict[str, tf.Tensor]:
        """Makes the delayed step where one is due, in cross-replica context: a branch of a replica may not reduce.

        Returns:
          The metrics of both, the step's as zeros where none is due, and `DELAYED_STEPS`, 1 or 0.
        """
        # Update i has the seed (s, i), i from 0; the delayed step after it has (s, 2^31 - 1 - i). Seeds are not
        # negative: XLA and TensorFlow's kernels draw other numbers from those that are.
        seed = tf.stack(
            [
                tf.constant(self._seed, tf.int32),
                tf.int32.max - tf.cast(self.updates, tf.int32) + 1,
            ]
        )

        def step() -> list[tf.Tensor]:
            made = self._first(delayed(seed))
            self._delayed_metrics = tuple(sorted(made))
            return [tf.cast(made[name], tf.float32) for name in self._delayed_metrics]

        def no_step() -> list[tf.Tensor]:
            return [tf.constant(0.0) for _ in self._delayed_metrics]

        due, every = tf.constant(True), self._delayed.every_updates
        if every == 1:
            values = step()
        else:
            due = self.updates % every == 0
            values = tf.cond(due, step, no_step)  # a graph traces both, `step` first
        both = metrics.keys() & set(self._delayed_metrics)
        if both:
            raise ValueError(f"metrics of an update and of its delayed step alike: {sorted(both)}")
        made = dict(zip(self._delayed_metrics, values, strict=True))
        return {**metrics, **made, DELAYED_STEPS: tf.cast(due, tf.float32)}

    def _of_made_steps(self, metrics: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Means over the updates of a call -> those of the delayed step over the steps made, or none without one."""
        metrics = dict(metrics)
        share = metrics.pop(DELAYED_STEPS).numpy()
        for name in self._delayed_metrics:
            metrics[name] = metrics[name] / share if share else None
        return {name: x for name, x in metrics.items() if x is not None}

    def _first(self, metrics: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """The metrics of the first replica."""
        local = self._strategy.experimental_local_results
        return {name: local(x)[0] for name, x in metrics.items()}

    def _replica_prepare(self, batch: Any) -> Any:
        """This replica's rows."""
        return self.learner.prepare(self._replica_share(batch))

    def _replica_minibatch(
        self, rows: Any, order: Any, index: tf.Tensor, fn: Callable[[Any, Any], Any], seed: Any
    ) -> Any:
        """`fn` on this replica's rows of a minibatch, all of them where there is one."""
        minibatches = self._plan.minibatches
        if minibatches > 1:
            chosen = order[index // minibatches, index % minibatches]
            context = tf.distribute.get_replica_context()
            if context.num_replicas_in_sync > 1:
                replica = int(tf.get_static_value(context.replica_id_in_sync_group))
                chosen = chosen[
                    shuffle.part(chosen.shape[0], replica, context.num_replicas_in_sync)
                ]
            rows = tree.map_structure(lambda x: tf.gather(x, chosen), rows)
        return fn(rows, seed)

    def _replica_update(self, batch: Any, seed: tf.Tensor) -> Any:
        return self.learner.update(self._replica_share(batch), seed)

    def _replica_delayed(self, batch: Any, seed: tf.Tensor) -> Any:
        return self._delayed.fn(self._replica_share(batch), seed)

    def _replica_share(self, batch: Any) -> Any:
        """This replica's slice of a global batch."""
        context = tf.distribute.get_replica_context()
        return self._layout.share(
            batch, context.replica_id_in_sync_group, context.num_replicas_in_sync
        )


def _known_mode(learner: Any, updates_per_call: int) -> tuple[str, str]:
    """How to compile on a CPU where no timing is needed to know, and why; empty where it is.

    Measured with TensorFlow 2.15: XLA takes two to twenty times as long for convolutions, and half to a tenth of the
    time for loops of updates of narrow dense layers. The random ops of Keras layers such as Dropout ignore the seed
    under XLA: what they draw depends on what the process has compiled before.
    """
    if any(noise.seeded for noise in learner.policy.noise.values()):
        return "graph", " (XLA would round the draws of seeds in another way than the actors)"
    random_layer = tf.keras.__internal__.layers.BaseRandomLayer
    if any(isinstance(module, random_layer) for module in learner.policy.submodules):
        return "graph", " (XLA would ignore the seed of the network's random layers)"
    if tf.config.list_logical_devices("GPU"):
        return "", ""
    kernels = [v.shape for v in learner.policy.trainable_variables if v.shape.rank >= 2]
    if any(shape.rank == 4 for shape in kernels):
        return "graph", " (XLA is slow on convolutions on a CPU)"
    if updates_per_call >= LOOP_UPDATES and all(s.num_elements() <= NARROW for s in kernels):
        return "xla", " (XLA is fast on narrow layers)"
    return "", ""


def _set_xla_flags() -> None:
    """Adds a flag to the environment variable XLA_FLAGS, unless the user has set it.

    XLA reads the variable once, when the process compiles for the first time.
    """
    # Sums over the rows of a batch, e.g. gradients of biases, are made in one loop. XLA's default, to add up windows of
    # 32 rows first, takes several times as long, and a fifth of PPO's speed on CartPole. It rounds less; in one loop
    # the sum of 65,536 random numbers from 0 to 1 has a relative error of 6e-6.
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_disable_hlo_passes" not in flags:
        flag = "--xla_disable_hlo_passes=tree_reduction_rewriter"
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def _value(variable: tf.Variable) -> np.ndarray:
    """A variable's value; a third of the time of `numpy()`, which counts where one update is a call."""
    if isinstance(variable, tf.distribute.DistributedValues):
        return variable.numpy()
    read = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
    return read.numpy()


def _and_zero(fn: Callable[[], None]) -> tf.Tensor:
    fn()
    return tf.constant(0)


def compare(functions: Mapping[str, Callable[[], float]], budget_s: float) -> dict[str, float]:
    """Medians of what functions measure, each called in turn with the others, so that a machine that is busy for a
    moment slows all of them.

    Args:
      functions: {name: one measurement, s}.
      budget_s: time after which no round begins, from `LEAST_ROUNDS` on; there are `MOST_ROUNDS` at most.
    """
    samples: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    for rounds in range(MOST_ROUNDS):
        if rounds >= LEAST_ROUNDS and time.perf_counter() - start > budget_s:
            break
        for name, measure in functions.items():
            samples[name].append(measure())
    return {name: float(np.median(found)) for name, found in samples.items()}


def _timed(function: Callable, *args: Any) -> float:
    start = time.perf_counter()
    metrics, _ = function(*args)
    next(iter(metrics.values())).numpy()
    return time.perf_counter() - start


def _mean_while(
    body: Callable[[tf.Tensor], dict[str, tf.Tensor]], times: int, stop: Callable[[], Any]
) -> dict[str, tf.Tensor]:
    """Means over body(0), body(1), ... in order, up to `times` of them or until `stop()` after one."""
    traced = tf.function(body, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int32))
    names = sorted(traced.structured_outputs)

    def step(index: tf.Tensor, go: tf.Tensor, sums: list[tf.Tensor]) -> tuple:
        metrics = traced(index)  # once traced is enough
        sums = [total + tf.cast(metrics[name], tf.float32) for total, name in zip(sums, names)]
        with tf.control_dependencies(sums):
            return index + 1, tf.logical_not(stop()), sums

    done, _, sums = tf.while_loop(
        lambda index, go, sums: tf.logical_and(index < times, go),
        step,
        (tf.constant(0), tf.constant(True), [tf.constant(0.0) for _ in names]),
        parallel_iterations=1,
    )
    return {name: total / tf.cast(done, tf.float32) for name, total in zip(names, sums)}


def _loop(body: Callable[[tf.Tensor], Any], times: int) -> Any:
    """[body(0), body(1), ...] stacked leaf by leaf; strictly in order, since `body` has side effects."""
    traced = tf.function(body, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int32))
    specs = tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), traced.structured_outputs)
    return tf.map_fn(traced, tf.range(times), fn_output_signature=specs, parallel_iterations=1)
