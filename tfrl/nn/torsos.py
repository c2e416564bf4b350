"""Networks from observations to features; plain Keras models, so that a user's own takes the same place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import tensorflow as tf

from tfrl.config.settings import SettingError, import_dotted, nearest
from tfrl.nn import inputs
from tfrl.types import EnvSpec

NETWORKS = ("auto", "mlp", "cnn")


def mlp(sizes: Sequence[int], activation: str) -> tf.keras.Sequential:
    """Dense layers [B, F] -> [B, sizes[-1]], each followed by the activation."""
    return tf.keras.Sequential([tf.keras.layers.Dense(n, activation) for n in sizes], name="mlp")


def nature_cnn(features: int = 512) -> tf.keras.Sequential:
    """The convolutional network of Mnih et al. 2015: uint8 [B, H, W, C] -> [B, features]; pixels scaled to [0, 1]."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Lambda(lambda x: tf.cast(x, tf.float32) * (1.0 / 255.0)),
            layers.Conv2D(32, 8, 4, activation="relu"),
            layers.Conv2D(64, 4, 2, activation="relu"),
            layers.Conv2D(64, 3, 1, activation="relu"),
            layers.Flatten(),
            layers.Dense(features, activation="relu"),
        ],
        name="nature_cnn",
    )


class Torso(tf.Module):
    """Observation nest, leaves [B, ...] -> features [B, F].

    Args:
      spec: environment spec.
      network: 'mlp', 'cnn', 'auto' (cnn for images) or 'package.module:builder', a function
        (EnvSpec) -> Keras model that takes the observation without its action mask and gives
        [B, F].
      hidden_sizes, activation: of the MLP.
      rescale: the MLP sees bounded components of a Box mapped to [-1, 1], see `inputs.flatten`.

    Raises:
      SettingError: the network does not serve the observation space.
    """

    def __init__(
        self,
        spec: EnvSpec,
        network: str,
        hidden_sizes: Sequence[int],
        activation: str,
        rescale: bool = False,
    ):
        super().__init__()
        self._space = inputs.model_space(spec.observation_space)
        image = inputs.is_image(self._space)
        self._flattens, self._rescale = False, rescale
        check_activation(activation)
        if network == "cnn" or (network == "auto" and image):
            if not image:
                raise SettingError(
                    f"network=cnn: expected uint8 [height, width, channels] images, got {self._space}"
                )
            if min(self._space.shape[:2]) < 36:
                raise SettingError(
                    f"network=cnn: expected images of at least 36x36 pixels, got {self._space.shape}"
                )
            self.model = nature_cnn()
        elif network in ("mlp", "auto"):
            self._flattens = True
            self.model = mlp(hidden_sizes, activation)
        else:
            self.model = import_dotted(network, "network")(spec)

    def __call__(self, obs: Any) -> tf.Tensor:
        x = inputs.model_input(obs)
        if self._flattens:
            image = inputs.is_image(self._space)
            x = inputs.flatten(x, self._space, self._rescale and not image)
            if image:
                x = x * (1.0 / 255.0)
        features = self.model(x)
        if features.shape.rank != 2:
            raise SettingError(
                f"network: expected a model that gives [batch, features], got {features.shape}"
            )
        return features


def check_activation(name: str) -> None:
    """Raises SettingError unless Keras knows an activation of this name."""
    try:
        tf.keras.activations.get(name)
    except ValueError:
        known = ("relu", "tanh", "elu", "selu", "gelu", "swish", "sigmoid", "softplus", "linear")
        raise SettingError(
            f"activation={name!r}: Keras has none of this name{nearest(name, known)}"
        ) from None


def example_batch(space: gym.Space, batch_size: int) -> Any:
    """A nest of zeros [B, ...] of the dtypes of `space`: builds the variables of a model."""
    if isinstance(space, gym.spaces.Dict):
        return {k: example_batch(s, batch_size) for k, s in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(example_batch(s, batch_size) for s in space.spaces)
    return tf.zeros((batch_size, *space.shape), space.dtype)
