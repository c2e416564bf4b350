"""Recurrent cores: what a policy remembers between the steps of an episode.

All cores have one interface:

- `initial_state(batch_size)`: state of fresh episodes, a tuple of float32 [B, ...], all zeros.
- `step(x [B, F], state) -> (out [B, H], state)`: one step; for acting.
- `unroll(x [T, B, F], state, is_first bool [T, B]) -> (out [T, B, H], state)`: T steps, time-major;
  rows with `is_first[t]` restart from the initial state before step t. Same numbers as a loop of
  `step`, gradients included.
- `output_size`: H.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.settings import nearest

KINDS = ("lstm", "gru", "gtrxl")

State = tuple[tf.Tensor, ...]
Core = Any  # Lstm | Gru | GatedTransformerXL


def make(
    kind: str,
    input_size: int,
    units: int = 256,
    memory_length: int = 32,
    num_layers: int = 2,
    num_heads: int = 4,
) -> Core:
    """The core that `kind` names.

    Args:
      kind: 'lstm', 'gru' or 'gtrxl'.
      input_size: F, size of the features that enter.
      units: H, size of the output; of a GTrXL also the size of its embeddings.
      memory_length, num_layers, num_heads: of a GTrXL; the others have none of them.

    Raises:
      SettingError: `kind` is none of these, or of a GTrXL `units` is no multiple of `num_heads` or `memory_length` is
        below 1.
    """
    if kind == "lstm":
        return Lstm(input_size, units)
    if kind == "gru":
        return Gru(input_size, units)
    if kind == "gtrxl":
        return GatedTransformerXL(input_size, units, memory_length, num_layers, num_heads)
    raise SettingError(f"core={kind!r}: expected one of {', '.join(KINDS)}{nearest(kind, KINDS)}")


class _Gated(tf.Module):
    """Base of `Lstm` and `Gru`. One matrix product before the loop brings the inputs of all T steps to all gates.

    `unroll` computes its own gradient. The derivatives of the gates are computed for all steps at once. A loop from
    the last step to the first has one matrix product per step. One product after that loop gives the gradient of the
    recurrent kernel. TensorFlow's gradient of a loop would add to the kernel's gradient in every step, and under XLA
    copy all outputs in every step.

    A subclass has `_kernel`, `_recurrent_kernel` and `_bias` for G gates of H units, and the four methods at the end.
    """

    def step(self, x: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """One step: x float32 [B, F] -> out [B, H], and the state after it."""
        recurrent = tf.matmul(state[0], self._recurrent_kernel)
        state, _ = self._cell(self._project(x), recurrent, state)
        return state[0], state

    def unroll(self, x: tf.Tensor, state: State, is_first: tf.Tensor) -> tuple[tf.Tensor, State]:
        """T steps: x float32 [T, B, F], is_first bool [T, B] -> out [T, B, H], and the state after the last.

        Raises:
          ValueError: `x` is not of rank 3, or `is_first` does not fit it.
        """
        _check(x, is_first)
        keep = 1.0 - tf.cast(is_first, tf.float32)[:, :, None]

        @tf.custom_gradient
        def run(projected: tf.Tensor, kernel: tf.Tensor, *initial: tf.Tensor) -> Any:
            def forward(values: list[tf.Tensor], state: State) -> tuple[State, State]:
                projected_t, keep_t = values
                state = tuple(s * keep_t for s in state)  # zeros where an episode begins
                state, gates = self._cell(projected_t, tf.matmul(state[0], kernel), state)
                return (*state, gates), state

            (*states, gates), last = _loop(forward, [projected, keep], initial, len(initial) + 1)

            def gradient(d_outputs: tf.Tensor, *d_last: tf.Tensor) -> Any:
                d_outputs = tf.ensure_shape(d_outputs, states[0].shape)
                d_last = [tf.ensure_shape(d, s.shape) for d, s in zip(d_last, last, strict=True)]
                # State that each step began with, and derivatives of its gates, for all steps at once.
                before = [
                    tf.concat([s[None], after[:-1]], 0) * keep
                    for s, after in zip(initial, states, strict=True)
                ]
                slopes = self._slopes(gates, before, states)

                def backward(values: list[tf.Tensor], d_state: State) -> tuple[State, State]:
                    d_out, keep_t, *slopes_t = values
                    d_state = (d_state[0] + d_out, *d_state[1:])
                    d_projected, (d_before, *rest) = self._back(d_state, slopes_t)
                    d_recurrent = self._recurrent(d_projected, slopes_t)
                    d_before += tf.matmul(d_recurrent, kernel, transpose_b=True)
                    return (d_projected,), tuple(d * keep_t for d in (d_before, *rest))

                (d_projected,), d_initial = _loop(
                    backward, [d_outputs, keep, *slopes], d_last, 1, backwards=True
                )
                d_recurrent = self._recurrent(d_projected, slopes)
                rows = [tf.reshape(v, [-1, v.shape[-1]]) for v in (before[0], d_recurrent)]
                return d_projected, tf.matmul(*rows, transpose_a=True), *d_initial

            return (states[0], *last), gradient

        kernel = tf.convert_to_tensor(self._recurrent_kernel)
        outputs, *last = run(self._project(x), kernel, *state)
        return outputs, tuple(last)

    def _project(self, x: tf.Tensor) -> tf.Tensor:
        """Contribution of the input [..., F] to the gates, [..., gates * H]."""
        return _dense(x, self._kernel, self._bias)

    def _cell(
        self, projected: tf.Tensor, recurrent: tf.Tensor, state: State
    ) -> tuple[State, tf.Tensor]:
        """One step, from what input and state contribute to the gates, float32 [B, G H] each, and the state [B, H].

        Returns:
          The state after it, whose first part is the output, and what `_slopes` needs of the step, [B, 4 H].
        """
        raise NotImplementedError

    def _slopes(self, gates: tf.Tensor, before: list, states: list) -> list[tf.Tensor]:
        """Derivatives that `_back` and `_recurrent` read, float32 [T, B, n H] each.

        Args:
          gates: what `_cell` gave besides the state, [T, B, 4 H].
          before, states: parts of the states before and after the steps, [T, B, H] each.
        """
        raise NotImplementedError

    def _back(self, d_state: State, slopes: list[tf.Tensor]) -> tuple[tf.Tensor, State]:
        """One step back, from the gradient of the state after it, [B, H] each.

        Returns:
          Gradients of what the input contributes, [B, G H], and of the state before the step without what passes the
          recurrent product, [B, H] each.
        """
        raise NotImplementedError

    def _recurrent(self, d_projected: tf.Tensor, slopes: list[tf.Tensor]) -> tf.Tensor:
        """The gradient of what the state contributes, from that of what the input contributes, both [..., G H]."""
        raise NotImplementedError


class Lstm(_Gated):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000, eq. 1-6).

    The state is (output [B, H], cell [B, H]). Gates stand in the order input, forget, candidate, output; the
    forget gate's bias starts at 1 (Jozefowicz et al. 2015).
    """

    def __init__(self, input_size: int, units: int):
        super().__init__()
        self.output_size = units
        with self.name_scope:
            self._kernel = _glorot([input_size, 4 * units], "kernel")
            self._recurrent_kernel = _orthogonal(units, 4, "recurrent_kernel")
            self._bias = tf.Variable(tf.repeat(tf.one_hot(1, 4), units), name="bias")

    def initial_state(self, batch_size: int | tf.Tensor) -> State:
        """State of fresh episodes: zeros, (output [B, H], cell [B, H]), float32."""
        return tf.zeros([batch_size, self.output_size]), tf.zeros([batch_size, self.output_size])

    def _cell(
        self, projected: tf.Tensor, recurrent: tf.Tensor, state: State
    ) -> tuple[State, tf.Tensor]:
        i, f, candidate, o = tf.split(projected + recurrent, 4, axis=-1)
        i, f, candidate, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(candidate), tf.sigmoid(o)
        cell = f * state[1] + i * candidate
        return (o * tf.tanh(cell), cell), tf.concat([i, f, candidate, o], -1)

    def _slopes(self, gates: tf.Tensor, before: list, states: list) -> list[tf.Tensor]:
        i, f, candidate, o = tf.split(gates, 4, axis=-1)
        output = tf.tanh(states[1])
        # Of the cell by what enters the first three gates; below of the output by what enters the last gate and by the
        # cell, and of the cell by the one before.
        by_cell = [candidate * i * (1 - i), before[1] * f * (1 - f), i * (1 - candidate**2)]
        return [tf.concat(by_cell, -1), output * o * (1 - o), o * (1 - output**2), f]

    def _back(self, d_state: State, slopes: list[tf.Tensor]) -> tuple[tf.Tensor, State]:
        (d_out, d_cell), (by_cell, by_out, out_by_cell, f) = d_state, slopes
        d_cell += d_out * out_by_cell
        d_projected = tf.concat([by_cell * tf.concat([d_cell] * 3, -1), d_out * by_out], -1)
        return d_projected, (tf.zeros_like(d_out), d_cell * f)

    def _recurrent(self, d_projected: tf.Tensor, slopes: list[tf.Tensor]) -> tf.Tensor:
        return d_projected


class Gru(_Gated):
    """Gated recurrent unit (Cho et al. 2014), the reset gate after the product as in cuDNN.

    The state is (output [B, H],). Gates stand in the order update, reset, candidate;
    out = z * out + (1 - z) * tanh(W x + b + r * (U out)).
    """

    def __init__(self, input_size: int, units: int):
        super().__init__()
        self.output_size = units
        with self.name_scope:
            self._kernel = _glorot([input_size, 3 * units], "kernel")
            self._recurrent_kernel = _orthogonal(units, 3, "recurrent_kernel")
            self._bias = tf.Variable(tf.zeros([3 * units]), name="bias")

    def initial_state(self, batch_size: int | tf.Tensor) -> State:
        """State of fresh episodes: zeros, (output [B, H],), float32."""
        return (tf.zeros([batch_size, self.output_size]),)

    def _cell(
        self, projected: tf.Tensor, recurrent: tf.Tensor, state: State
    ) -> tuple[State, tf.Tensor]:
        update, reset, candidate = tf.split(projected, 3, axis=-1)
        recurrent_update, recurrent_reset, recurrent_candidate = tf.split(recurrent, 3, axis=-1)
        update = tf.sigmoid(update + recurrent_update)
        reset = tf.sigmoid(reset + recurrent_reset)
        candidate = tf.tanh(candidate + reset * recurrent_candidate)
        out = update * state[0] + (1.0 - update) * candidate
        return (out,), tf.concat([update, reset, candidate, recurrent_candidate], -1)

    def _slopes(self, gates: tf.Tensor, before: list, states: list) -> list[tf.Tensor]:
        update, reset, candidate, recurrent_candidate = tf.split(gates, 4, axis=-1)
        # Of the output by what enters each gate.
        by_candidate = (1.0 - update) * (1.0 - candidate**2)
        by_reset = by_candidate * recurrent_candidate * reset * (1.0 - reset)
        by_update = (before[0] - candidate) * update * (1.0 - update)
        return [tf.concat([by_update, by_reset, by_candidate], -1), update, reset]

    def _back(self, d_state: State, slopes: list[tf.Tensor]) -> tuple[tf.Tensor, State]:
        (d_out,), (by_gate, update, _) = d_state, slopes
        return by_gate * tf.concat([d_out] * 3, -1), (d_out * update,)

    def _recurrent(self, d_projected: tf.Tensor, slopes: list[tf.Tensor]) -> tf.Tensor:
        d_update, d_reset, d_candidate = tf.split(d_projected, 3, axis=-1)
        return tf.concat([d_update, d_reset, d_candidate * slopes[2]], -1)


class GatedTransformerXL(tf.Module):
    """GTrXL: attention over the last steps of the episode (Parisotto et al. 2019, section 3.2).

    Each layer normalises its input (identity-map reordering), attends with relative positions (Dai et al. 2019, eq. in
    section 3.3) and joins both of its parts by GRU gates whose bias keeps them near the identity at the start.

    The state is (memory [B, L, M, D], count [B]): inputs of each of the L layers at the last M steps, oldest first, and
    how many of them belong to this episode. A step sees itself and at most M steps back, in each layer.

    Differences from the papers: the position enters by a learned vector per distance, since distances never exceed M;
    gradients flow through what was remembered inside one unroll (the state that comes in is data, the caller's matter).

    Raises:
      SettingError: a number of units that is no multiple of the number of heads, or a memory below 1 step.
    """

    def __init__(
        self,
        input_size: int,
        units: int,
        memory_length: int,
        num_layers: int,
        num_heads: int,
    ):
        super().__init__()
        if units % num_heads:
            raise SettingError(
                f"core=gtrxl with {units} units and {num_heads} heads: "
                "expected a number of units that is a multiple of the number of heads"
            )
        if memory_length < 1:
            raise SettingError(
                f"core=gtrxl: expected a memory of 1 step or more, got {memory_length}"
            )
        self.output_size = units
        self.memory_length = memory_length
        with self.name_scope:
            self._kernel = _glorot([input_size, units], "kernel")
            self._bias = tf.Variable(tf.zeros([units]), name="bias")
            self._layers = [
                _GatedLayer(units, memory_length, num_heads, name=f"layer_{i}")
                for i in range(num_layers)
            ]

    def initial_state(self, batch_size: int | tf.Tensor) -> State:
        """State of fresh episodes: zeros, (memory [B, L, M, D], count [B]), float32."""
        shape = [batch_size, len(self._layers), self.memory_length, self.output_size]
        return tf.zeros(shape), tf.zeros([batch_size])

    def step(self, x: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """One step: x float32 [B, F] -> out [B, H], and the state after it; the state moves on by one slot."""
        memory, count = state
        # Slot j was written M - j steps ago; the last column is the step itself.
        age = tf.range(self.memory_length, -1, -1, dtype=tf.float32)
        visible = age[None, :] <= count[:, None]
        embedding = _dense(x, self._kernel, self._bias)[:, None, :]
        rows, memories = visible[:, None, :], []
        for i, layer in enumerate(self._layers):
            context = tf.concat([memory[:, i], embedding], axis=1)
            memories.append(context[:, 1:])
            embedding = layer(embedding, context, rows)
        count = tf.minimum(count + 1.0, float(self.memory_length))
        return embedding[:, 0], (tf.stack(memories, axis=1), count)

    def unroll(self, x: tf.Tensor, state: State, is_first: tf.Tensor) -> tuple[tf.Tensor, State]:
        """T steps at once: x float32 [T, B, F], is_first bool [T, B] -> out [T, B, H], and the state after the last.

        Attention over the memory and the T steps, masked where an episode or the memory's length ends.

        Raises:
          ValueError: `x` is not of rank 3, or `is_first` does not fit it.
        """
        _check(x, is_first)
        memory, count = state
        length, steps = self.memory_length, _size(x, 0)
        embedding = tf.transpose(_dense(x, self._kernel, self._bias), [1, 0, 2])
        # Episodes of a row are numbered; slots of the memory that hold nothing have number -1.
        episode = tf.cumsum(tf.transpose(tf.cast(is_first, tf.int32)), axis=1)
        age = tf.range(length, 0, -1, dtype=tf.float32)
        remembered = tf.where(age[None, :] <= count[:, None], 0, -1)
        episodes = tf.concat([remembered, episode], axis=1)
        # Query t stands in column t + M of the context; it may see columns t .. t + M.
        offset = tf.range(length + steps)[None, :] - tf.range(steps)[:, None]
        near = (offset >= 0) & (offset <= length)
        visible = near[None] & (episodes[:, None, :] == episode[:, :, None])
        last = episode[:, -1:]
        valid = episodes[:, -length:] == last
        kept = tf.cast(valid | (last == 0), tf.float32)[:, :, None]  # an old episode leaves zeros
        memories = []
        for i, layer in enumerate(self._layers):
            context = tf.concat([memory[:, i], embedding], axis=1)
            memories.append(context[:, -length:] * kept)
            embedding = layer(embedding, context, visible)
        count = tf.reduce_sum(tf.cast(valid, tf.float32), axis=1)
        return tf.transpose(embedding, [1, 0, 2]), (tf.stack(memories, axis=1), count)


class _GatedLayer(tf.Module):
    """Attention and a two-layer MLP, each normalised before and gated after."""

    def __init__(self, units: int, memory_length: int, num_heads: int, name: str):
        super().__init__(name)
        head = units // num_heads
        self._num_heads, self._head, self._length = num_heads, head, memory_length
        with self.name_scope:
            self._attention_norm = _LayerNorm(units, "attention_norm")
            self._mlp_norm = _LayerNorm(units, "mlp_norm")
            self._query = _glorot([units, units], "query")
            self._key_value = _glorot([units, 2 * units], "key_value")
            self._output = _glorot([units, units], "output")
            # Row j belongs to the distance M - j, so that the last row is the step itself.
            self._position = _glorot([memory_length + 1, units], "position")
            self._content_bias = tf.Variable(tf.zeros([units]), name="content_bias")
            self._position_bias = tf.Variable(tf.zeros([units]), name="position_bias")
            self._mlp_kernels = [_glorot([units, units], f"mlp_kernel_{i}") for i in range(2)]
            self._mlp_biases = [
                tf.Variable(tf.zeros([units]), name=f"mlp_bias_{i}") for i in range(2)
            ]
            self._attention_gate = _GruGate(units, "attention_gate")
            self._mlp_gate = _GruGate(units, "mlp_gate")

    def __call__(self, x: tf.Tensor, context: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
        """x [B, T, D], context [B, M + T, D] whose last T entries are `x`, visible bool [B, T, M + T] -> [B, T, D]."""
        x = self._attention_gate(x, tf.nn.relu(self._attend(x, context, visible)))
        y = self._mlp_norm(x)
        for kernel, bias in zip(self._mlp_kernels, self._mlp_biases, strict=True):
            y = tf.nn.relu(_dense(y, kernel, bias))
        return self._mlp_gate(x, y)

    def _attend(self, x: tf.Tensor, context: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
        context = self._attention_norm(context)
        query = _dense(context[:, self._length :], self._query)
        key, value = tf.split(_dense(context, self._key_value), 2, axis=2)
        content = tf.matmul(
            self._heads(query + self._content_bias), self._heads(key), transpose_b=True
        )
        position = tf.matmul(
            self._heads(query + self._position_bias),
            self._heads(self._position[None]),
            transpose_b=True,
        )
        scores = (content + self._align(position)) * self._head**-0.5
        scores = tf.where(visible[:, None], scores, tf.float32.min / 2)
        read = tf.matmul(tf.nn.softmax(scores), self._heads(value))
        read = tf.reshape(tf.transpose(read, [0, 2, 1, 3]), tf.shape(x))
        return _dense(read, self._output)

    def _heads(self, x: tf.Tensor) -> tf.Tensor:
        """[B, N, D] -> [B, heads, N, D / heads]."""
        shape = [-1, _size(x, 1), self._num_heads, self._head]
        return tf.transpose(tf.reshape(x, shape), [0, 2, 1, 3])

    def _align(self, position: tf.Tensor) -> tf.Tensor:
        """Scores by slot of the window [B, heads, T, M + 1] -> by column of the context [B, heads, T, M + T].

        Query t sees columns t .. t + M. One row of padding more than fits shifts each row by one
        against the one before; what lies outside of the window gets 0 and is masked later.
        """
        steps, window = _size(position, 2), self._length + 1
        if isinstance(steps, int) and steps == 1:
            return position
        padded = tf.pad(position, [[0, 0], [0, 0], [0, 0], [0, steps]])
        flat = tf.reshape(padded, [-1, self._num_heads, steps * (window + steps)])
        columns = self._length + steps
        return tf.reshape(flat[:, :, : steps * columns], [-1, self._num_heads, steps, columns])


class _GruGate(tf.Module):
    """Joins x and y, both [..., D], as a GRU joins state and input (Parisotto et al. 2019, section 3.2).

    The bias of 2 of the update gate keeps the result near `x` at the start.
    """

    def __init__(self, units: int, name: str):
        super().__init__(name)
        with self.name_scope:
            self._y_kernel = _glorot([units, 3 * units], "y_kernel")
            self._x_kernel = _glorot([units, 2 * units], "x_kernel")
            self._candidate_kernel = _glorot([units, units], "candidate_kernel")
            self._update_bias = tf.Variable(tf.fill([units], 2.0), name="update_bias")

    def __call__(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        reset_y, update_y, candidate_y = tf.split(_dense(y, self._y_kernel), 3, axis=-1)
        reset_x, update_x = tf.split(_dense(x, self._x_kernel), 2, axis=-1)
        reset = tf.sigmoid(reset_y + reset_x)
        update = tf.sigmoid(update_y + update_x - self._update_bias)
        candidate = tf.tanh(candidate_y + _dense(reset * x, self._candidate_kernel))
        return (1.0 - update) * x + update * candidate


class _LayerNorm(tf.Module):
    """(x - mean) / sqrt(variance + 1e-5) over the last axis, scaled and shifted (Ba et al. 2016)."""

    def __init__(self, units: int, name: str):
        super().__init__(name)
        with self.name_scope:
            self._scale = tf.Variable(tf.ones([units]), name="scale")
            self._shift = tf.Variable(tf.zeros([units]), name="shift")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        return centred * tf.math.rsqrt(variance + 1e-5) * self._scale + self._shift


def _loop(
    body: Callable[[list[tf.Tensor], State], tuple[State, State]],
    sequences: list[tf.Tensor],
    state: State,
    num_outputs: int,
    backwards: bool = False,
) -> tuple[list[tf.Tensor], State]:
    """Calls `body` once for each step of the sequences, from the first step, or with `backwards` from the last.

    Args:
      body: takes the values of all sequences at one step and the state; returns the outputs of the step and the state.
      sequences: float32 [T, ...] each.
      state: before the first call, float32 [B, ...] each.
      num_outputs: number of outputs that `body` returns.
      backwards: the last step comes first; outputs still stand in the order of time.

    Returns:
      The outputs, float32 [T, ...] each, and the state after the last call.
    """
    steps = _size(sequences[0], 0)
    sources = [tf.TensorArray(tf.float32, steps).unstack(x) for x in sequences]
    outputs = tuple(tf.TensorArray(tf.float32, steps) for _ in range(num_outputs))

    def one(i: tf.Tensor, state: State, outputs: tuple) -> Any:
        t = steps - 1 - i if backwards else i
        made, state = body([source.read(t) for source in sources], state)
        return i + 1, state, tuple(o.write(t, x) for o, x in zip(outputs, made, strict=True))

    _, state, outputs = tf.while_loop(
        lambda i, *_: i < steps,
        one,
        (tf.constant(0), tuple(state), outputs),
        maximum_iterations=steps,  # a second derivative under XLA needs to know it
    )
    return [x.stack() for x in outputs], state


def _dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    """[..., F] -> [..., G] as one product of two matrices."""
    shape = [_size(x, i) for i in range(x.shape.rank)]
    if x.shape.rank > 2:
        x = tf.reshape(x, [-1, shape[-1]])
    y = tf.matmul(x, kernel)
    if bias is not None:
        y = y + bias
    return tf.reshape(y, [*shape[:-1], kernel.shape[-1]]) if len(shape) > 2 else y


def _size(x: tf.Tensor, axis: int) -> int | tf.Tensor:
    """Length of an axis: a Python int where it is static."""
    return x.shape[axis] if x.shape[axis] is not None else tf.shape(x)[axis]


def _check(x: tf.Tensor, is_first: tf.Tensor) -> None:
    if x.shape.rank != 3 or not x.shape[:2].is_compatible_with(is_first.shape):
        raise ValueError(
            f"unroll: expected x [T, B, F] and is_first [T, B], got {x.shape} and {is_first.shape}"
        )


def _glorot(shape: list[int], name: str) -> tf.Variable:
    return tf.Variable(tf.keras.initializers.GlorotUniform()(shape), name=name)


def _orthogonal(units: int, gates: int, name: str) -> tf.Variable:
    """[H, gates * H]: one orthogonal matrix per gate (Saxe et al. 2014)."""
    parts = [tf.keras.initializers.Orthogonal()([units, units]) for _ in range(gates)]
    return tf.Variable(tf.concat(parts, axis=1), name=name)
