"""Unrolls of the environments of an actor as Reverb items: their layout, the writers, the way back into a batch.

An item is of all environments, for a queue, or of one, for a replay that samples each by itself. It is one packed byte
column [T + 1, B, nbytes] (the last row holds only the observation after the last step), the recurrent state before the
first step, and two numbers. Stacked frames keep a column of their own, in which every frame
is stored once and each observation points at its k frames.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf
import tree

from tfrl.agent import Policy, SequenceOf
from tfrl.replay.local_queue import Sink, join
from tfrl.replay.packing import Field, Packing
from tfrl.replay.transitions import observation_fields
from tfrl.replay.writers import bounded
from tfrl.types import ActorOutput, EnvSpec, PolicyStep, Trajectory, VectorStep

# A stack is stored anew where an environment restarts. Items have room for one restart in so many steps, and grow for
# more of them.
STEPS_PER_RESTART = 16

# What a `Trajectory` has once for each column; the rest has time as its first axis.
PER_COLUMN = ("state", "version", "is_new", "probability")


class SequenceLayout:
    """How a `Trajectory` of an actor is stored.

    Args:
      spec: environment spec.
      item: length and discount.
      example: a policy's step for any number of rows, and the state before it: what is stored with each step.
      num_envs: of an actor.

    Attributes:
      packing: of one step of one environment.
      columns: B of an item.
      stack: k frames in an observation where they are stored once, else 0.
      obs, action, extras, state: nests of field names.
      frames_name: name of the observation's leaf that holds the stack.
      frames_shape: of the frames of an item [B, F, H, W], () where they are not stored apart; writers raise F, up to
        `most_frames`, where episodes are short.
    """

    def __init__(
        self, spec: EnvSpec, item: SequenceOf, example: tuple[PolicyStep, Any], num_envs: int
    ):
        step, state = example
        self.item, self.columns = item, 1 if item.period else num_envs
        if item.episodes:
            # All environments may end in the step that completes an item. A multiple, for the learner's devices.
            most = item.episodes - 1 + num_envs
            self.columns = -(-most // item.episodes) * item.episodes
        # Episodes are laid side by side only when they are over, so their frames are stored as they come.
        self.stack = 0 if item.episodes else spec.frame_stack
        fields, self.obs = observation_fields(spec.observation_space, "obs")
        self.frames_name, frame_shape = "", ()
        if self.stack:
            spaces = tree.flatten(_space_nest(spec.observation_space))
            names = tree.flatten(self.obs)
            self.frames_name = next(n for n, s in zip(names, spaces, strict=True) if _is_image(s))
            frame_shape = next(s for s in spaces if _is_image(s)).shape[:-1]
            fields = [f for f in fields if f[0] != self.frames_name]
            self.most_frames = (item.length + 1) * self.stack  # no two observations share one
            dtype = "uint16" if self.most_frames <= 2**16 else "int32"
            fields.append(("stack", (self.stack,), dtype))
        self.action, action_fields = _fields(step.action, "action")
        self.extras, extra_fields = _fields(dict(step.extras), "extras")
        self.state, state_fields = _fields(state, "state")
        flags = [(name, (), "bool") for name in ("terminated", "is_last", "valid", "is_first")]
        scalars: list[Field] = [("reward", (), "float32"), ("discounted_return", (), "float32")]
        steps = sorted([*scalars, *action_fields, *extra_fields, *fields], key=_width, reverse=True)
        self.packing = Packing([*steps, *flags])
        self.state_packing = Packing(sorted(state_fields, key=_width, reverse=True))
        restarts = -(-item.length // STEPS_PER_RESTART)
        room = item.length + self.stack + restarts * (self.stack - 1)
        self.frames_shape = (self.columns, room, *frame_shape) if self.stack else ()

    def signature(self) -> dict[str, tf.TensorSpec]:
        """The signature of the Reverb table."""
        rows = [self.item.length + 1, self.columns, self.packing.nbytes]
        out = {
            "packed": tf.TensorSpec(rows, tf.uint8, "packed"),
            "facts": tf.TensorSpec([2], tf.int64, "facts"),
        }
        if self.state_packing.nbytes:
            shape = [self.columns, self.state_packing.nbytes]
            out["state"] = tf.TensorSpec(shape, tf.uint8, "state")
        if self.stack:
            shape = [self.columns, None, *self.frames_shape[2:]]
            out["frames"] = tf.TensorSpec(shape, tf.uint8, "frames")
        return out

    def decode(
        self, columns: Mapping[str, tf.Tensor], probability: tf.Tensor | None = None
    ) -> Trajectory:
        """Sampled columns of N items, leaves [N, ...] -> a trajectory of N * B columns, item by item.

        Args:
          probability: relative ones of the items [N]; None: 1.
        """
        items, rows, width = columns["packed"].shape[0], self.item.length + 1, self.columns

        def time_major(x: tf.Tensor) -> tf.Tensor:
            x = tf.reshape(x, [items, rows, width, *x.shape[1:]])
            order = [1, 0, 2, *range(3, x.shape.rank)]
            return tf.reshape(tf.transpose(x, order), [rows, items * width, *x.shape[3:]])

        packed = tf.reshape(columns["packed"], [-1, self.packing.nbytes])
        fields = {k: time_major(x) for k, x in self.packing.unpack(packed).items()}
        if self.stack:
            fields[self.frames_name] = self._stacks(columns["frames"], fields["stack"])
        steps = {k: x[:-1] for k, x in fields.items()}
        state: Any = ()
        if self.state_packing.nbytes:
            flat = tf.reshape(columns["state"], [-1, self.state_packing.nbytes])
            state = _nest(self.state, self.state_packing.unpack(flat))
        return Trajectory(
            obs=_nest(self.obs, fields),
            action=_nest(self.action, steps),
            reward=steps["reward"],
            discount=self.item.discount * (1.0 - tf.cast(steps["terminated"], tf.float32)),
            is_last=steps["is_last"],
            valid=steps["valid"],
            is_first=fields["is_first"],
            discounted_return=steps["discounted_return"],
            state=state,
            extras=_nest(self.extras, steps),
            version=tf.repeat(columns["facts"][:, 0], width),
            is_new=tf.repeat(columns.get("is_new", tf.ones([items], tf.bool)), width),
            probability=tf.repeat(tf.ones([items]) if probability is None else probability, width),
        )

    def share(self, batch: Trajectory, index: tf.Tensor, count: int) -> Trajectory:
        """The columns of a batch that replica `index` of `count` trains on."""
        if count == 1:
            return batch
        size = batch.version.shape[0] // count
        start = index * size
        mine = {name: getattr(batch, name) for name in PER_COLUMN}
        mine = tree.map_structure(lambda x: x[start : start + size], mine)
        rest = batch._replace(**dict.fromkeys(PER_COLUMN, ()))
        rest = tree.map_structure(lambda x: x[:, start : start + size], rest)
        return rest._replace(**mine)

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether items of these shapes, {column: shape}, have the present number of columns."""
        return shapes["packed"][1] == self.columns

    def refit(self, items: Sequence[Mapping[str, np.ndarray]]) -> list[Mapping[str, np.ndarray]]:
        """Items of any number of columns -> items of `columns` of them, in the same order; what does not fill one is
        left out. A new item has the oldest weight version of those that it is made of.
        """
        if all(self.fits({name: x.shape for name, x in item.items()}) for item in items):
            return list(items)
        column = lambda name, x, i: x[:, i] if name == "packed" else x[i]
        stored = [name for name in ("packed", "state", "frames") if name in items[0]]
        columns = [
            {"facts": item["facts"], **{name: column(name, item[name], i) for name in stored}}
            for item in items
            for i in range(item["packed"].shape[1])
        ]
        out = []
        for start in range(0, len(columns) - self.columns + 1, self.columns):
            mine = columns[start : start + self.columns]
            oldest = min((c["facts"] for c in mine), key=lambda facts: facts[0])
            joined = {name: join([c[name] for c in mine]) for name in stored}
            joined["packed"] = np.moveaxis(joined["packed"], 0, 1)
            out.append({**joined, "facts": oldest})
        return out

    def _stacks(self, frames: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Frames [N, B, F, H, W], index [T + 1, N * B, k] -> observations [T + 1, N * B, H, W, k]."""
        shape = self.frames_shape[2:]
        room = tf.shape(frames)[2] if frames.shape[2] is None else frames.shape[2]
        flat = tf.reshape(frames, [-1, *shape])
        start = tf.range(index.shape[1], dtype=tf.int32)[None, :, None] * room
        stacks = tf.gather(flat, tf.cast(index, tf.int32) + start)
        return tf.transpose(stacks, [0, 1, *range(3, 3 + len(shape)), 2])


class ComputedLayout:
    """How what actors compute of their unrolls is stored (`Agent.actor_compute`); one item is a batch.

    Args:
      unrolls: layout of the unrolls that never leave the actor.
      compute: (policy, trajectory of one item) -> {name: tensor}.
      policy: for the shapes of the results.
    """

    def __init__(self, unrolls: SequenceLayout, compute: Callable, policy: Policy):
        self.unrolls, self.item, self.columns = unrolls, unrolls.item, unrolls.columns
        self._compute = compute
        outputs = self.traced(policy).structured_outputs
        self._specs = {k: tf.TensorSpec(x.shape, x.dtype, k) for k, x in outputs.items()}

    def traced(self, policy: Policy) -> tf.types.experimental.ConcreteFunction:
        """`compute` on the columns of one unroll, with the variables of `policy`."""

        def of_columns(columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            columns = {name: x[None] for name, x in columns.items()}
            return self._compute(policy, self.unrolls.decode(columns))

        return tf.function(of_columns, autograph=False).get_concrete_function(
            self.unrolls.signature()
        )

    def signature(self) -> dict[str, tf.TensorSpec]:
        """The signature of the Reverb table."""
        return {**self._specs, "facts": tf.TensorSpec([2], tf.int64, "facts")}

    def decode(self, columns: Mapping[str, tf.Tensor]) -> ActorOutput:
        """Sampled columns, leaves [N, ...]."""
        values = {name: columns[name] for name in self._specs}
        return ActorOutput(values, columns["facts"][:, 0])

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Like `SequenceLayout.fits`: what was computed has no columns."""
        del shapes
        return True

    def refit(self, items: Sequence[Mapping[str, np.ndarray]]) -> list[Mapping[str, np.ndarray]]:
        """Like `SequenceLayout.refit`: what was computed has no columns."""
        return list(items)

    def share(self, batch: ActorOutput, index: tf.Tensor, count: int) -> ActorOutput:
        """All of it: every replica makes the same update."""
        del index, count
        return batch


class SequenceWriter:
    """Writes the unroll of every `length` vector steps.

    Args:
      first: vector steps before the first unroll.
      gap: vector steps between two unrolls.

    Attributes:
      version: of the weights that act from now on; an item carries the one of its first step.
      priority: of new items, for a replay that samples by it.
      items_written: items handed over.
      patience: see `bounded`.
      waited_s: seconds in calls that wait until the server takes what was written.
    """

    def __init__(
        self, sender: Sender, layout: SequenceLayout, num_envs: int, first: int = 0, gap: int = 0
    ):
        self.version, self.items_written = 0, 0
        self._layout, item = layout, layout.item
        self._sender, self._gap = sender, gap
        records = np.zeros((item.length + 1, num_envs), layout.packing.dtype)
        self._records, self._fields = records, {n: records[n] for n in records.dtype.names}
        self._state = np.zeros(num_envs, layout.state_packing.dtype)
        self._return = np.zeros(num_envs, np.float32)
        self._is_first = np.ones(num_envs, np.bool_)
        self._t, self._begun_by = -first, 0  # the step of the unroll; below 0 none has begun
        self._frames = _Frames(layout, num_envs, self._fields["stack"]) if layout.stack else None
        self._restarted = np.zeros(num_envs, np.bool_)

    @property
    def patience(self) -> Callable[[], None] | None:
        """Called while a call waits for the server, see `bounded`; None: such a call may fail."""
        return self._sender.patience

    @patience.setter
    def patience(self, value: Callable[[], None] | None) -> None:
        self._sender.patience = value

    @property
    def priority(self) -> float:
        """Of new items, for a replay that samples by it."""
        return self._sender.priority

    @priority.setter
    def priority(self, value: float) -> None:
        self._sender.priority = value

    @property
    def waited_s(self) -> float:
        """Seconds in calls that wait until the server takes what was written."""
        return self._sender.waited_s

    @property
    def vector_steps_to_item(self) -> int | None:
        """Vector steps until the present item is whole, None where nobody knows."""
        return self._layout.item.length - self._t

    def record(self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep) -> None:
        """Takes one vector step.

        Args:
          obs: acted on, leaves [B, ...].
          state: recurrent state that acted, leaves [B, ...].
          choice: of the policy there.
          step: what came of it, from environments that restart in a step of their own.
        """
        layout, running = self._layout, self._return
        running *= layout.item.discount
        running += step.reward
        ended = step.terminated | step.truncated | ~step.valid
        if self._t == 0:
            self._begun_by = self.version
            _put_record(self._state, layout.state, state)
        if self._t >= 0:
            self._put_step(obs, choice, step, ended)
        if ended.any():
            running[ended] = 0.0
        self._is_first, self._restarted = step.is_first, ~step.valid
        self._t += 1
        if self._t == layout.item.length:
            self._put_obs(step.obs, self._t)
            self._t = -self._gap
            frames = self._frames.frames if self._frames else None
            self.items_written += self._sender.send(
                self._records, self._state, frames, self._begun_by
            )

    def _put_step(self, obs: Any, choice: PolicyStep, step: VectorStep, ended: np.ndarray) -> None:
        layout, fields, t = self._layout, self._fields, self._t
        self._put_obs(obs, t)
        _put(fields, layout.action, t, choice.action)
        _put(fields, layout.extras, t, choice.extras)
        fields["reward"][t] = step.reward
        fields["terminated"][t] = step.terminated
        fields["is_last"][t] = ended
        fields["valid"][t] = step.valid
        fields["discounted_return"][t] = self._return

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes the weights that act from now on."""
        self._sender.load(arrays)

    def flush(self, pending: int = 0) -> None:
        """Returns when all but `pending` items are with the server.

        Raises:
          reverb.errors.DeadlineExceededError: see `bounded`; or what `patience` raises.
        """
        self._sender.flush(pending)

    def close(self) -> None:
        """Drops the item that is not whole; items already written stay."""
        self._sender.close()

    def _put_obs(self, obs: Any, t: int) -> None:
        layout, fields = self._layout, self._fields
        fields["is_first"][t] = self._is_first
        if self._frames is None:
            _put(fields, layout.obs, t, obs)
            return
        for name, value in zip(tree.flatten(layout.obs), tree.flatten(obs), strict=True):
            if name == layout.frames_name:
                self._frames.put(value, t, self._restarted)
            else:
                fields[name][t] = value


class OverlappingWriter:
    """Writes the sequences of each environment by itself, one begins every `period` vector steps.

    As many writers as overlap take turns, each with unrolls that follow each other without an overlap. So a step is
    stored with every sequence that it is in: more bytes, but one column that costs little to sample.

    Attributes as those of `SequenceWriter`; `vector_steps_to_item` is None: weights may change within a sequence.
    """

    vector_steps_to_item: int | None = None

    def __init__(self, sender: Sender, layout: SequenceLayout, num_envs: int):
        period, length = layout.item.period, layout.item.length
        count = -(-length // period)
        gap = count * period - length
        self._sender = sender
        self._writers = [
            SequenceWriter(sender, layout, num_envs, i * period, gap) for i in range(count)
        ]

    patience, waited_s = SequenceWriter.patience, SequenceWriter.waited_s
    priority, load = SequenceWriter.priority, SequenceWriter.load
    flush, close = SequenceWriter.flush, SequenceWriter.close

    @property
    def version(self) -> int:
        """Updates behind the weights that act from now on; a sequence carries the one of its first step."""
        return self._writers[0].version

    @version.setter
    def version(self, value: int) -> None:
        for writer in self._writers:
            writer.version = value

    @property
    def items_written(self) -> int:
        """Items handed over, of all environments."""
        return sum(writer.items_written for writer in self._writers)

    def record(self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep) -> None:
        """As `SequenceWriter.record`."""
        for writer in self._writers:
            writer.record(obs, state, choice, step)


class EpisodeWriter:
    """Writes items whose columns are whole episodes, in the order in which they end; as `SequenceWriter` otherwise.

    An item is written after the vector step with which enough episodes are over, and holds all that are. So a vector
    step makes one item at most, and no episode that is over waits for the next. Columns that stay empty are not valid.
    """

    def __init__(self, sender: Sender, layout: SequenceLayout, num_envs: int):
        self.version, self.items_written = 0, 0
        self._layout, length = layout, layout.item.length
        self._sender = sender
        self._open = np.zeros((length + 1, num_envs), layout.packing.dtype)
        self._fields = {name: self._open[name] for name in self._open.dtype.names}
        self._states = np.zeros(num_envs, layout.state_packing.dtype)
        self._item = np.zeros((length + 1, layout.columns), layout.packing.dtype)
        self._item_states = np.zeros(layout.columns, layout.state_packing.dtype)
        self._return = np.zeros(num_envs, np.float32)
        self._length = np.zeros(num_envs, np.int64)  # valid steps of each open episode
        self._rows = np.arange(num_envs)
        self._is_first = np.ones(num_envs, np.bool_)
        self._column = 0

    patience, waited_s = SequenceWriter.patience, SequenceWriter.waited_s
    priority, load = SequenceWriter.priority, SequenceWriter.load
    flush, close = SequenceWriter.flush, SequenceWriter.close
    vector_steps_to_item = None

    def record(self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep) -> None:
        """As `SequenceWriter.record`."""
        layout, fields = self._layout, self._fields
        where = (self._length, self._rows)
        starts = self._length == 0
        if starts.any():
            _put_record(self._states, layout.state, state, starts)
        done = step.terminated | step.truncated
        self._return *= layout.item.discount
        self._return += step.reward
        _put(fields, layout.obs, where, obs)
        _put(fields, layout.action, where, choice.action)
        _put(fields, layout.extras, where, choice.extras)
        fields["reward"][where], fields["terminated"][where] = step.reward, step.terminated
        fields["valid"][where], fields["is_last"][where] = step.valid, done | ~step.valid
        fields["discounted_return"][where], fields["is_first"][where] = self._return, self._is_first
        self._is_first = step.is_first
        self._length += step.valid  # an invalid row is overwritten by the next one
        over = done | (self._length == layout.item.length)
        for row in np.flatnonzero(over & step.valid):
            last = (self._length[row], row)
            self._open[last] = np.zeros(
                (), self._open.dtype
            )  # an earlier episode may have left something
            final = tree.map_structure(lambda x, r=row: x[r], step.next_obs)
            _put(fields, layout.obs, last, final)
            fields["is_first"][last] = self._is_first[row]
            self._lay(row)
        if self._column >= layout.item.episodes:
            self._send()
        self._return[over | ~step.valid] = 0.0

    def _lay(self, row: int) -> None:
        """The finished episode of a row becomes the next column of the item."""
        length, column = self._length[row], self._column
        self._item[:, column] = np.zeros((), self._item.dtype)
        self._item["is_last"][:, column] = True
        self._item[: length + 1, column] = self._open[: length + 1, row]
        self._item["is_last"][length - 1 :, column] = True
        self._item["valid"][length:, column] = False
        self._item_states[column] = self._states[row]
        self._length[row] = 0
        self._column = column + 1

    def _send(self) -> None:
        """Hands the item over, whose columns from `_column` on are empty."""
        rest = slice(self._column, None)
        self._item[:, rest] = np.zeros((), self._item.dtype)
        self._item["is_last"][:, rest] = True
        self._item_states[rest] = np.zeros((), self._item_states.dtype)
        self._column = 0
        self.items_written += self._sender.send(self._item, self._item_states, None, self.version)


class Sender:
    """Hands whole items to where they are kept, or what is computed of them.

    Args:
      sink: where they go.
      layout: of what is sent.
      actor: whose index goes with it.
      policy: whose weights compute; only for a `ComputedLayout`.

    Attributes:
      priority: of the items from now on.
      patience, waited_s: see `SequenceWriter`.
    """

    def __init__(
        self,
        sink: Sink,
        layout: SequenceLayout | ComputedLayout,
        actor: int = 0,
        policy: Policy | None = None,
    ):
        self.patience: Callable[[], None] | None = None
        self.waited_s, self.priority = 0.0, 1.0
        self._actor, self._compute, self._variables = actor, None, []
        self._layout = layout
        if isinstance(layout, ComputedLayout):
            self._layout = layout.unrolls
            self._compute = layout.traced(policy)
            self._variables = list(policy.variables)
        self._sink = sink

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes the weights that compute, in the order of `policy.variables`; none where nothing is computed."""
        for variable, array in zip(self._variables, arrays):  # noqa: B905 - none where nothing is computed
            variable.assign(array)

    def send(
        self, records: np.ndarray, state: np.ndarray, frames: np.ndarray | None, version: int
    ) -> int:
        """Sends an unroll of all environments, as one item or as many as the layout has it; returns how many.

        Waits while more than one item is not yet with a server.

        Args:
          records: packed steps [T + 1, B] of the layout's dtype.
          state: packed state before the first of them [B].
          frames: uint8 [B, F, H, W], or None where frames are not stored apart.
          version: updates behind the weights that acted.

        Raises:
          reverb.errors.DeadlineExceededError: see `bounded`; or what `patience` raises.
        """
        layout = self._layout
        rows, columns = records.shape
        packed = records.view(np.uint8).reshape(rows, columns, layout.packing.nbytes)
        facts = np.array([version, self._actor], np.int64)
        starts = range(0, columns, layout.columns)
        for start in starts:
            mine = slice(start, start + layout.columns)
            item = {"packed": np.ascontiguousarray(packed[:, mine]), "facts": facts}
            if layout.state_packing.nbytes:
                item["state"] = layout.state_packing.rows(state)[mine]
            if frames is not None:
                item["frames"] = frames[mine]
            self._sink.append(self._computed(item), self.priority)
        # A full queue of a server holds the actor back here: that bounds memory, and the lag of what it does next.
        self.flush(1)
        return len(starts)

    def _computed(self, item: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is sent in place of an item, or the item."""
        if self._compute is None:
            return item
        results = self._compute(*(tf.convert_to_tensor(item[name]) for name in sorted(item)))
        return {**{name: x.numpy() for name, x in results.items()}, "facts": item["facts"]}

    def flush(self, pending: int) -> None:
        """Returns when all but `pending` items are where they are kept.

        Raises:
          reverb.errors.DeadlineExceededError: see `bounded`; or what `patience` raises.
        """
        self.waited_s += bounded(functools.partial(self._sink.flush, pending), self.patience)

    def close(self) -> None:
        """Ends the stream; items that have arrived stay."""
        self._sink.close()


class _Frames:
    """Frames of an unroll [B, F, H, W], each stored once, and which k of them each observation shows.

    F grows where episodes end so often that their first stacks do not fit, and stays so.
    """

    def __init__(self, layout: SequenceLayout, num_envs: int, index: np.ndarray):
        self.frames = np.zeros((num_envs, *layout.frames_shape[1:]), np.uint8)
        self._stack, self._index, self._most = layout.stack, index, layout.most_frames
        self._next = np.zeros(num_envs, np.int64)
        self._rows = np.arange(num_envs)

    def put(self, obs: np.ndarray, t: int, restarted: np.ndarray) -> None:
        """Takes observations uint8 [B, H, W, k]; rows that `restarted` may share no frame with those before."""
        stack, index = self._stack, self._index
        if t == 0:
            self.frames[:, :stack] = np.moveaxis(obs, -1, 1)
            index[0] = np.arange(stack)
            self._next[:] = stack
            return
        index[t, :, :-1] = index[t - 1, :, 1:]
        going_on = ~restarted
        for row in np.flatnonzero(restarted):
            # After a lost life the stack goes on.
            shared = np.moveaxis(obs[row, ..., :-1], -1, 0)
            if np.array_equal(shared, self.frames[row, index[t, row, :-1]]):
                going_on[row] = True
            else:
                self._begin(obs[row], t, row)
        rows = self._rows[going_on]
        if len(rows):
            self.frames[rows, self._next[rows]] = obs[rows, ..., -1]
            index[t, rows, -1] = self._next[rows]
            self._next[rows] += 1

    def _begin(self, obs: np.ndarray, t: int, row: int) -> None:
        """Stores the stack [H, W, k] with which a row starts anew; equal neighbours are one frame."""
        after = self._index.shape[0] - 1 - t  # steps that follow and bring a frame each
        self._reserve(self._next[row] + self._stack + after)
        for i in range(self._stack):
            if i == 0 or not np.array_equal(obs[..., i], obs[..., i - 1]):
                self.frames[row, self._next[row]] = obs[..., i]
                self._next[row] += 1
            self._index[t, row, i] = self._next[row] - 1

    def _reserve(self, room: int) -> None:
        """Makes room for so many frames of each row; doubles it, as every new size is traced anew."""
        have = self.frames.shape[1]
        if room > have:
            more = np.zeros(
                (len(self.frames), min(2 * have, self._most), *self.frames.shape[2:]), np.uint8
            )
            more[:, :have] = self.frames
            self.frames = more


def _fields(nest: Any, prefix: str) -> tuple[Any, list[Field]]:
    """Names of the leaves [B, ...] of a nest, and the fields that hold them."""
    fields: list[Field] = []
    names = []
    for path, x in tree.flatten_with_path(nest):
        name = "/".join([prefix, *map(str, path)])
        names.append(name)
        fields.append(
            (name, tuple(x.shape[1:]), np.dtype(tf.as_dtype(x.dtype).as_numpy_dtype).name)
        )
    return tree.unflatten_as(nest, names), fields


def _is_image(space: gym.Space) -> bool:
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


def _width(field: Field) -> int:
    return np.dtype(field[2]).itemsize


def _space_nest(space: gym.Space) -> Any:
    """A nest of the leaves' spaces, shaped like an observation."""
    if isinstance(space, gym.spaces.Dict):
        return {k: _space_nest(s) for k, s in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_space_nest(s) for s in space.spaces)
    return space


def _put(fields: Mapping[str, np.ndarray], names: Any, where: Any, values: Any) -> None:
    """fields[name][where] = value, leaf by leaf."""
    if isinstance(names, str):  # the common case, without walking a nest
        fields[names][where] = values
        return
    if not names:
        return
    for name, value in zip(tree.flatten(names), tree.flatten(values), strict=True):
        fields[name][where] = value


def _put_record(record: np.ndarray, names: Any, values: Any, rows: Any = slice(None)) -> None:
    """record[name][rows] = value[rows], leaf by leaf."""
    for name, value in zip(tree.flatten(names), tree.flatten(values), strict=True):
        record[name][rows] = value[rows]


def _nest(names: Any, fields: Mapping[str, tf.Tensor]) -> Any:
    return tree.map_structure(fields.__getitem__, names)
