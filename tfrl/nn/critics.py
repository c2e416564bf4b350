"""An ensemble of critics, functions Q(s, a): twin critics of TD3 and SAC, and many of them for REDQ, DroQ and TQC.

Each critic has variables of its own, so that optimisers, masks and trust ratios see one network each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfrl.optim import apply
from tfrl.settings import setting


@dataclasses.dataclass(frozen=True)
class CriticSettings:
    """Settings of the layers of policy and critics after the network of `ModelSettings`, a base of `Config`s."""

    policy_hidden_sizes: tuple[int, ...] = setting(
        (256, 256),
        "units per hidden layer of the policy, after the network",
        unit="units",
        minimum=1,
    )
    critic_hidden_sizes: tuple[int, ...] = setting(
        (256, 256),
        "units per hidden layer of each critic, after the network",
        unit="units",
        minimum=1,
    )
    num_critics: int = setting(2, "critics of an ensemble", unit="critics", minimum=1)
    critic_layer_norm: bool = setting(
        False, "layer normalisation in each hidden layer of the critics, before the activation"
    )
    critic_dropout: float = setting(
        0.0,
        "probability with which a unit of the critics' hidden layers is left out in an update (DroQ: 0.01, with "
        "critic_layer_norm)",
        minimum=0.0,
        maximum=0.9,
    )
    shared_torso: bool = setting(
        False,
        "policy and critics share the network before their layers (that of images, or hidden_sizes), which only the "
        "critics' loss trains; a memory is always shared",
        idle_if={"core": frozenset(("lstm", "gru", "gtrxl"))},
    )


class Critics(tf.Module):
    """Inputs [n, F], features of states or of states and actions -> outputs of N critics float32 [N, n, K].

    Args:
      config: `CriticSettings` and `ModelSettings`, of which `activation` is read.
      num_inputs: F.
      outputs: K.

    Attributes:
      heads: the N critics, modules.
    """

    def __init__(self, config: CriticSettings, num_inputs: int, outputs: int):
        super().__init__()
        self.heads = [_Critic(config, outputs) for _ in range(config.num_critics)]
        self._dropout = config.critic_dropout
        self(tf.zeros([1, num_inputs]))  # builds the variables

    def __call__(self, x: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Outputs [N, n, K].

        Args:
          x: float32 [n, F].
          seed: int32 [2] of dropout, in replica context; None: no unit is left out.
        """
        seeds: Sequence[tf.Tensor | None] = [None] * len(self.heads)
        if self._dropout and seed is not None:
            seeds = split_seed(seed, len(self.heads))
        return tf.stack([head(x, each) for head, each in zip(self.heads, seeds, strict=True)])


class _Critic(tf.Module):
    """Dense layers [n, F] -> [n, K], each: product, dropout, layer normalisation, activation (Hiraoka et al. 2022)."""

    def __init__(self, config: CriticSettings, outputs: int):
        super().__init__()
        dense, keras = tf.keras.layers.Dense, tf.keras.layers
        # An initialiser each: one instance would give all layers and critics the same numbers.
        self.hidden = [dense(n, dtype="float32") for n in config.critic_hidden_sizes]
        self.norms = []
        if config.critic_layer_norm:
            self.norms = [keras.LayerNormalization(dtype="float32") for _ in self.hidden]
        self.output = dense(outputs, dtype="float32")
        self._activation = tf.keras.activations.get(config.activation)
        self._dropout = config.critic_dropout

    def __call__(self, x: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        seeds = None if seed is None else split_seed(seed, len(self.hidden))
        for i, layer in enumerate(self.hidden):
            x = layer(x)
            if seeds is not None:
                x = _dropped(x, self._dropout, seeds[i])
            if self.norms:
                x = self.norms[i](x)
            x = self._activation(x)
        return self.output(x)


def _dropped(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Units [n, F] with a share `rate` of them at 0 and the others larger, so that their expectation stays."""
    width = x.shape[-1]
    draw = lambda rows: tf.random.stateless_uniform([rows, width], seed)
    keep = apply.replica_rows(draw, x.shape[0]) >= rate
    return tf.where(keep, x / (1.0 - rate), 0.0)


def split_seed(seed: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Independent seeds int32 [2] of one, none of them negative.

    XLA and TensorFlow's kernels draw the same integers from such seeds only; their floats differ with any seed.
    """
    seeds = tf.random.experimental.stateless_split(seed, count)
    return tf.unstack(tf.bitwise.bitwise_and(seeds, tf.int32.max))
