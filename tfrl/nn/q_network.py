"""The network of the value-based family: observations to one or more outputs for each action.

A torso and, where there is one, a memory (`body`), then heads of dense or noisy layers: one output for each action, or
with dueling those and the state's, or with action features a query that is compared with each action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrl.losses import value
from tfrl.nn import action_features, inputs, noisy, torsos
from tfrl.nn.body import ModelSettings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec


@dataclasses.dataclass(frozen=True)
class QNetworkSettings(action_features.ActionFeatureSettings):
    """Settings of `QHeads`, a base of algorithms' `Config` before `ModelSettings`, of which some differ here."""

    activation: str = with_default(
        ModelSettings,
        "activation",
        "relu",
        idle_if={"mlp": False, "action_features": False, "head_hidden_sizes": ()},
    )
    core: str = with_default(
        ModelSettings,
        "core",
        "none",
        help="recurrent memory after the network; with a memory the replay holds sequences",
    )
    rescale_observations: bool = setting(
        False,
        "map bounded components of Box observations to [-1, 1] for the MLP",
        idle_if={"vectors": False},
    )
    head_hidden_sizes: tuple[int, ...] = setting(
        (), "units per hidden layer of each head", unit="units", minimum=1
    )
    dueling: bool = setting(False, "separate heads for state value and advantages")
    noisy: str = setting(
        "none", "learned noise on the weights of the heads", choices=("none", *noisy.KINDS)
    )
    noisy_sigma: float | None = setting(
        None,
        "initial scale of the noise: sigma_0 if factorised, the standard deviation if independent; none: 0.5 "
        "or 0.017",
        above=0.0,
        idle_if={"noisy": "none"},
    )


class QHeads(tf.Module):
    """Features [B, F] -> outputs [B, A, K].

    Args:
      config: `QNetworkSettings` and `ModelSettings`.
      spec: environment spec with Discrete actions.
      num_features: F.
      outputs: K, of each action.

    Attributes:
      noise: what the noisy layers draw, {} where there are none.
    """

    def __init__(self, config: Any, spec: EnvSpec, num_features: int, outputs: int = 1):
        super().__init__()
        self._num_actions, self._outputs = int(spec.action_space.n), outputs
        self._scores, width = None, self._num_actions
        if spec.has_action_features:
            self._scores = action_features.ActionScores(
                spec, config.action_hidden_sizes, config.activation
            )
            width = self._scores.width
        self._advantage = _Head(config, num_features, width * outputs, "advantage")
        self._value = None
        if config.dueling:
            self._value = _Head(config, num_features, outputs, "value")
        self.noise = dict(self._advantage.noise)
        if self._value is not None:
            self.noise.update(self._value.noise)
        example = torsos.example_batch(spec.observation_space, 1)
        self(tf.zeros([1, num_features]), example)  # builds the variables

    def __call__(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """[B, F] -> [B, A, K]; several features for each row, [B, N, F], and K = 1 -> [B, A, N].

        Args:
          features: of the state.
          obs: for the mask and the action features, leaves [B, ...]. Invalid actions have outputs too.
          noise: as `NoisyDense` takes it.
        """
        raw = self._advantage(features, noise)
        several = features.shape.rank == 3
        if self._scores is not None:
            if not several:
                raw = tf.reshape(raw, [-1, self._outputs, self._scores.width])
            out = self._scores(raw, obs)
        elif several:
            out = tf.transpose(raw, [0, 2, 1])
        else:
            out = tf.reshape(raw, [-1, self._num_actions, self._outputs])
        if self._value is None:
            return out
        return value.dueling(self.state_value(features, noise), out, inputs.action_mask(obs))

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """Weights of the layers that give the outputs; all of noisy heads, whose weights are two for one."""
        scores = () if self._scores is None else self._scores.output_kernels
        value_head = () if self._value is None else self._value.output_kernels
        return (*self._advantage.output_kernels, *value_head, *scores)

    def state_value(
        self, features: tf.Tensor, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """State value, to which dueling adds the advantages: [B, F] -> [B, 1, K], [B, N, F] -> [B, 1, N]."""
        out = self._value(features, noise)
        return tf.transpose(out, [0, 2, 1]) if features.shape.rank == 3 else out[:, None]

    def q_values(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """The outputs as action values, for K = 1: float32 [B, A]."""
        return tf.squeeze(self(features, obs, noise), 2)

    def draw(self, seed: tf.Tensor) -> dict[str, tf.Tensor] | None:
        """Noise for a batch from a seed int32 [2], see `noisy.draw`."""
        return noisy.draw(self.noise, seed)


class _Head(tf.Module):
    """Hidden layers and a linear one, all dense or all noisy: [B, F] -> [B, outputs], [B, N, F] -> [B, N, outputs]."""

    def __init__(self, config: Any, width: int, outputs: int, name: str):
        super().__init__(name)
        self._activation = tf.keras.activations.get(config.activation)
        self._noisy = config.noisy != "none"
        self._layers, self.noise = [], {}
        for i, units in enumerate([*config.head_hidden_sizes, outputs]):
            if self._noisy:
                layer = noisy.NoisyDense(
                    width, units, config.noisy, config.noisy_sigma, f"{name}_{i}"
                )
                self.noise.update(layer.noise)
            else:
                layer = tf.keras.layers.Dense(units, dtype="float32")
            self._layers.append(layer)
            width = units

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """The weights of the last layer, or of all noisy ones."""
        if not self._noisy:
            return (self._layers[-1].kernel,)
        return tuple(v for layer in self._layers for v in (layer.kernel, layer.kernel_sigma))

    def __call__(self, x: tf.Tensor, noise: Mapping[str, tf.Tensor] | None = None) -> tf.Tensor:
        *hidden, last = self._layers
        for layer in hidden:
            x = self._activation(layer(x, noise) if self._noisy else layer(x))
        return last(x, noise) if self._noisy else last(x)
