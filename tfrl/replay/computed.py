"""Results that actors compute of their unrolls, as Reverb items (`Agent.actor_compute`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from tfrl.agent import Policy
from tfrl.replay.layout import Layout
from tfrl.replay.sequences import SequenceLayout
from tfrl.types import ActorOutput


class ComputedLayout(Layout):
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
        """Implements `Layout.signature`."""
        return {**self._specs, "facts": tf.TensorSpec([2], tf.int64, "facts")}

    def decode(
        self, columns: Mapping[str, tf.Tensor], probability: tf.Tensor | None = None
    ) -> ActorOutput:
        """Implements `Layout.decode`; a queue gives every item with the same probability."""
        del probability
        values = {name: columns[name] for name in self._specs}
        return ActorOutput(values, columns["facts"][:, 0])

    def share(self, batch: ActorOutput, index: tf.Tensor, count: int) -> ActorOutput:
        """All of it: every replica makes the same update."""
        del index, count
        return batch
