"""Networks whose weights differ from row to row of a batch, as those of the members of a population do.

A row's weights are made once, when its episode begins; a step is one batched product per layer, whatever the number of
members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

Weights = list[tf.Tensor]


class MemberNetwork(tf.Module):
    """A linear map or an MLP, with a GRU or an LSTM before its output if asked for.

    Args:
      inputs: F, size of the features that enter.
      hidden_sizes: units of the hidden layers; () for none.
      outputs: A.
      activation: of the hidden layers.
      core: 'none', 'gru' or 'lstm'.
      core_size: units of the memory.
      bias: layers have one; without it a linear map of zeros is as in ARS.
      zeros: the output layer starts at zero.

    Attributes:
      num_weights: P, of all variables.
      kernel: of the output layer.
    """

    def __init__(
        self,
        inputs: int,
        hidden_sizes: Sequence[int],
        outputs: int,
        activation: str = "tanh",
        core: str = "none",
        core_size: int = 0,
        bias: bool = True,
        zeros: bool = False,
    ):
        super().__init__()
        self._activation = tf.keras.activations.get(activation)
        self._core, self._core_size = core, core_size
        self._bias, self._hidden = bias, len(hidden_sizes)
        glorot = lambda shape: tf.keras.initializers.GlorotUniform()(shape)
        self._variables: list[tf.Variable] = []

        def layer(rows: int, columns: int, name: str, made: Any = glorot) -> tf.Variable:
            kernel = tf.Variable(made([rows, columns]), name=f"{name}/kernel")
            self._variables.append(kernel)
            if bias:
                self._variables.append(tf.Variable(tf.zeros([columns]), name=f"{name}/bias"))
            return kernel

        size = inputs
        for i, units in enumerate(hidden_sizes):
            layer(size, units, f"hidden_{i}")
            size = units
        if core != "none":
            gates = {"gru": 3, "lstm": 4}[core]
            layer(size, gates * core_size, "core_input")
            layer(core_size, gates * core_size, "core_state")
            size = core_size
        self.kernel = layer(size, outputs, "output", tf.zeros if zeros else glorot)
        self.num_weights = sum(v.shape.num_elements() for v in self._variables)

    @property
    def weights(self) -> Weights:
        """The weights of the variables, the same for all rows."""
        return [v.read_value() for v in self._variables]

    @property
    def ordered(self) -> tuple[tf.Variable, ...]:
        """All variables, in the order of the flat vector."""
        return tuple(self._variables)

    def split(self, flat: tf.Tensor) -> list[tf.Tensor]:
        """Vectors [..., P] -> parts [..., *shape] in the shapes and the order of the variables."""
        shapes = [v.shape.as_list() for v in self._variables]
        parts = tf.split(flat, [math.prod(s) for s in shapes], axis=-1)
        lead = flat.shape[:-1].as_list()
        return [tf.reshape(x, [*lead, *s]) for x, s in zip(parts, shapes)]

    def perturbed(self, steps: tf.Tensor) -> Weights:
        """Weights of rows: those of the variables plus a step each.

        Args:
          steps: float32 [B, P].

        Returns:
          Kernels [B, units, inputs], whose products are the faster ones, and biases [B, units].
        """
        made = [v.read_value() + x for v, x in zip(self._variables, self.split(steps))]
        return [tf.linalg.matrix_transpose(x) if x.shape.rank == 3 else x for x in made]

    def initial_memory(self, batch_size: int) -> tuple[tf.Tensor, ...]:
        """Memory at the start of episodes, zeros float32 [batch_size, units] each; () without a core."""
        count = {"none": 0, "gru": 1, "lstm": 2}[self._core]
        return tuple(tf.zeros([batch_size, self._core_size]) for _ in range(count))

    def __call__(
        self, x: tf.Tensor, memory: tuple[tf.Tensor, ...], weights: Weights
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """Features float32 [B, F] -> outputs [B, A] and the memory after them.

        Args:
          memory: before them, as `initial_memory` has it.
          weights: of `perturbed`, a row each, or `weights`.
        """
        rest = iter(weights)
        layer = lambda x: self._layer(x, rest)
        for _ in range(self._hidden):
            x = self._activation(layer(x))
        if self._core == "gru":  # as `nn/recurrent.py`: update, reset, candidate
            (out,) = memory
            z, r, c = tf.split(layer(x), 3, axis=1)
            hz, hr, hc = tf.split(layer(out), 3, axis=1)
            update, candidate = tf.sigmoid(z + hz), tf.tanh(c + tf.sigmoid(r + hr) * hc)
            x = update * out + (1.0 - update) * candidate
            memory = (x,)
        elif self._core == "lstm":  # input, forget, candidate, output
            out, cell = memory
            i, f, c, o = tf.split(layer(x) + layer(out), 4, axis=1)
            cell = tf.sigmoid(f + 1.0) * cell + tf.sigmoid(i) * tf.tanh(c)
            x = tf.sigmoid(o) * tf.tanh(cell)
            memory = (x, cell)
        return layer(x), memory

    def _layer(self, x: tf.Tensor, rest: Any) -> tf.Tensor:
        kernel = next(rest)
        if kernel.shape.rank == 2:
            y = tf.matmul(x, kernel)
        else:
            y = tf.squeeze(tf.matmul(x[:, None], kernel, transpose_b=True), 1)
        return y + next(rest) if self._bias else y
