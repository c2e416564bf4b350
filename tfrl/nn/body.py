"""From observations to features: a torso, and after it a memory where there is one."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfrl.nn import images, recurrent, torsos
from tfrl.nn.torsos import Torso, example_batch
from tfrl.settings import setting
from tfrl.types import EnvSpec


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Settings of the network before the heads, a base of every algorithm's `Config`."""

    network: str = setting(
        "auto",
        "mlp, cnn, small_cnn, resnet, rllib_cnn, auto (a CNN for images) or package.module:builder of a Keras "
        "model",
    )
    hidden_sizes: tuple[int, ...] = setting(
        (64, 64),
        "units per hidden layer of the MLP",
        unit="units",
        minimum=1,
        idle_if={"mlp": False},
    )
    activation: str = setting(
        "relu", "activation function of the MLP", idle_if={"mlp": False, "action_features": False}
    )
    precision: str = setting(
        "float32",
        "precision of computation in image networks; variables and later layers stay float32",
        choices=torsos.PRECISIONS,
    )
    image_layout: str = setting(
        "auto",
        "position of the channels in images; auto: inferred from the shape and shown at the start",
        choices=images.LAYOUTS,
    )
    image_scale: float | None = setting(
        None,
        "divisor of image values; none: inferred from the limits of the space and shown at the start",
        above=0.0,
    )
    normalize_observations: bool = setting(
        False, "subtract the running mean of observations and divide by their standard deviation"
    )
    observation_clip: float = setting(
        10.0,
        "maximum magnitude of normalised observations",
        above=0.0,
        idle_if={"normalize_observations": False},
    )
    core: str = setting(
        "none", "recurrent memory after the network", choices=("none", *recurrent.KINDS)
    )
    core_size: int = setting(
        128, "units of the memory", unit="units", minimum=1, idle_if={"core": "none"}
    )


def make(
    config: ModelSettings, spec: EnvSpec, initializer: str = "glorot", rescale: bool = False
) -> Body:
    """The network that the heads stand on; `initializer` and `rescale` as `torsos.Torso` takes them."""
    torso = torsos.Torso(
        spec, config.network, config.hidden_sizes, config.activation, rescale, initializer,
        config.precision, torsos.image_options(config),
    )  # fmt: skip
    return Body(torso, spec, config.core, config.core_size)


class Body(tf.Module):
    """Observations, leaves [B, ...] -> features float32 [B, F] and the state of the memory.

    Args:
      torso: before the memory.
      spec: environment spec.
      core: 'none', or a kind of `recurrent.make`.
      core_size: width of the memory.

    Attributes:
      core: the memory, or None; then states are ().
      output_size: F.

    Raises:
      SettingError: an unknown kind of memory, or a width that it does not take.
    """

    def __init__(self, torso: Torso, spec: EnvSpec, core: str, core_size: int):
        super().__init__()
        self._torso = torso
        features = torso(example_batch(spec.observation_space, 1))
        self.core, self.output_size = None, int(features.shape[-1])
        if core != "none":
            self.core = recurrent.make(core, self.output_size, core_size)
            self.output_size = self.core.output_size

    def initial_state(self, batch_size: int) -> Any:
        """State at the start of episodes, zeros float32, leaves [batch_size, ...]; () without a memory."""
        return () if self.core is None else self.core.initial_state(batch_size)

    def losses(self) -> list[tf.Tensor]:
        """Scalars that a user's network adds to the loss; read them after its call in training mode."""
        return self._torso.losses()

    def step(self, obs: Any, state: Any, training: bool = False) -> tuple[tf.Tensor, Any]:
        """One step: the features of `obs` and the state after it.

        Args:
          obs: leaves [B, ...].
          state: before it, leaves [B, ...]; not read without a memory.
          training: mode of a user's network: True where a gradient is taken.

        Returns:
          Features float32 [B, F], and the state, leaves [B, ...] or ().
        """
        features = self._torso(obs, training)
        return (features, ()) if self.core is None else self.core.step(features, state)

    def unroll(
        self, obs: Any, state: Any, is_first: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """Steps in order, as `recurrent` has it.

        Args:
          obs: leaves [T, B, ...].
          state: before the first of them, leaves [B, ...]; not read without a memory.
          is_first: bool [T, B], the state restarts before this observation.
          training: as in `step`.

        Returns:
          Features float32 [T, B, F], and the state after the last observation, leaves [B, ...] or ().

        Raises:
          ValueError: `is_first` is not of rank 2.
        """
        steps, batch = is_first.shape
        features = self._torso(flat(obs), training)
        features = tf.reshape(features, [steps, batch, features.shape[-1]])
        return (features, ()) if self.core is None else self.core.unroll(features, state, is_first)


def flat(nest: Any) -> Any:
    """Leaves [T, B, ...] -> [T * B, ...], of any dtype."""
    return tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *x.shape[2:]]), nest)
