"""Values of the choices of a team's agents: one network for all or one for each, with messages or without."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfrl.nn import torsos


class AgentValues(tf.Module):
    """Inputs of N agents [m, N, F] -> values of their choices [m, N, A].

    With `communicates` each hidden layer after the first reads, beside the agent's own hidden units, the mean of those
    of the other agents that live (CommNet, Sukhbaatar et al. 2016; hCom in Tang et al. 2018, section 4.2); the gradient
    passes through these messages.

    Args:
      num_agents, num_inputs, outputs: N, F, A.
      sizes: units of each hidden layer; with `communicates` at least two.
      activation: of the hidden layers.
      shared: all agents have the same network; else each has its own.
      communicates: see above.
    """

    def __init__(
        self,
        num_agents: int,
        num_inputs: int,
        sizes: Sequence[int],
        activation: str,
        outputs: int,
        shared: bool = True,
        communicates: bool = False,
    ):
        super().__init__()
        self._num_agents, self._communicates = num_agents, communicates
        # Without messages all hidden layers are one stack, with them each is a stack of its own.
        stacks = [[size] for size in sizes] if communicates else [list(sizes)]
        copies = 1 if shared else num_agents
        self._stacks = [[torsos.mlp(s, activation) for _ in range(copies)] for s in stacks]
        self._heads = [tf.keras.layers.Dense(outputs, dtype="float32") for _ in range(copies)]
        self(
            tf.zeros([1, num_agents, num_inputs]), tf.ones([1, num_agents])
        )  # builds the variables

    def __call__(self, x: tf.Tensor, alive: tf.Tensor) -> tf.Tensor:
        """Values float32 [m, N, A].

        Args:
          x: inputs [m, N, F].
          alive: 1 where an agent lives, float32 [m, N]; read for messages alone.
        """
        for number, stack in enumerate(self._stacks):
            if number:
                x = tf.concat([x, self._messages(x, alive)], axis=-1)
            x = self._each(stack, x)
        return self._each(self._heads, x)

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """Weights of the layers that give the values, see `agent.Network.outputs`."""
        return tuple(head.kernel for head in self._heads)

    def _each(self, layers: Sequence, x: tf.Tensor) -> tf.Tensor:
        """Applies the one layer to all agents, or to each its own: [m, N, F] -> [m, N, H]."""
        if len(layers) == 1:
            flat = layers[0](tf.reshape(x, [-1, x.shape[-1]]))
            return tf.reshape(flat, [-1, self._num_agents, flat.shape[-1]])
        return tf.stack([layer(x[:, i]) for i, layer in enumerate(layers)], axis=1)

    def _messages(self, x: tf.Tensor, alive: tf.Tensor) -> tf.Tensor:
        """Mean over the other agents that live, 0 where there is none: [m, N, H] -> the same shape."""
        sent = x * alive[:, :, None]
        others = tf.reduce_sum(sent, axis=1, keepdims=True) - sent
        count = tf.reduce_sum(alive, axis=1, keepdims=True) - alive
        return others / tf.maximum(count, 1.0)[:, :, None]
