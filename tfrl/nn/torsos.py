"""Networks from observations to features; plain Keras models, so that a user's own takes the same place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.config import objects
from tfrl.errors import SettingError
from tfrl.nn import images, inputs, user_model
from tfrl.settings import nearest
from tfrl.spaces import leaf_spaces, map_leaves
from tfrl.types import ACTION_FEATURES, ACTION_MASK, STATE, EnvSpec

PRECISIONS = ("float32", "bfloat16")
NETWORKS = ("auto", "mlp", "cnn", "small_cnn", "resnet", "rllib_cnn")
CNN_LEAST = images.PICTURE_LEAST  # pixels of a side, for `nature_cnn`
WIDE = 20  # largest integer of an observation that passes for a small one
INITIALIZERS = ("glorot", "orthogonal")

# (filters, size, stride) of RLlib's default networks by image side, padded. A third layer of 256 filters covers what
# they leave, 11 x 11, whole: it is a dense one, and several times as fast computed as one.
RLLIB_FILTERS = {84: ((16, 8, 4), (32, 4, 2)), 42: ((16, 4, 2), (32, 4, 2))}


def mlp(sizes: Sequence[int], activation: str, initializer: str = "glorot") -> tf.keras.Sequential:
    """Dense layers [B, F] -> float32 [B, sizes[-1]], each followed by the activation.

    Raises:
      SettingError: an unknown initializer.
    """
    layers = [
        tf.keras.layers.Dense(
            n, activation, kernel_initializer=_kernel(initializer), dtype="float32"
        )
        for n in sizes
    ]
    return tf.keras.Sequential(layers, name="mlp")


def nature_cnn(
    features: int = 512,
    initializer: str = "glorot",
    dtype: str = "float32",
    read: Callable[[tf.Tensor], tf.Tensor] = inputs.pixels,
) -> tf.keras.Sequential:
    """The convolutional network of Mnih et al. 2015: images [B, H, W, C] -> [B, features].

    Args:
      read: from the images to float32; the default scales bytes to [0, 1].
    """
    filters = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    return _cnn("nature_cnn", filters, "valid", features, initializer, dtype, read)


def small_cnn(
    features: int = 128,
    initializer: str = "glorot",
    dtype: str = "float32",
    read: Callable[[tf.Tensor], tf.Tensor] = inputs.pixels,
) -> tf.keras.Sequential:
    """The network of MinAtar (Young and Tian 2019), for grids of 10 x 10 or so: [B, H, W, C] -> [B, features]."""
    return _cnn("small_cnn", ((16, 3, 1),), "valid", features, initializer, dtype, read)


def rllib_cnn(
    side: int,
    initializer: str = "glorot",
    dtype: str = "float32",
    read: Callable[[tf.Tensor], tf.Tensor] = inputs.pixels,
) -> tf.keras.Sequential:
    """RLlib's network of 2018 for square images of 84 or 42 pixels: uint8 [B, side, side, C] -> [B, 256].

    Pixels are scaled to [0, 1], which RLlib did not do.
    """
    return _cnn("rllib_cnn", RLLIB_FILTERS[side], "same", 256, initializer, dtype, read)


def _cnn(
    name: str,
    filters: Sequence[tuple[int, int, int]],
    padding: str,
    features: int,
    initializer: str,
    dtype: str,
    read: Callable[[tf.Tensor], tf.Tensor],
) -> tf.keras.Sequential:
    """Convolutions with ReLU, each (filters, size, stride), and a dense layer of as many features."""
    convs = [_conv(*shape, padding, "relu", initializer, dtype) for shape in filters]
    layers = [_read(read), *convs, *_features(features, initializer, dtype)]
    return tf.keras.Sequential(layers, name=name)


def impala_resnet(
    features: int = 256,
    initializer: str = "glorot",
    dtype: str = "float32",
    read: Callable[[tf.Tensor], tf.Tensor] = inputs.pixels,
) -> tf.keras.Sequential:
    """The residual network of Espeholt et al. 2018 (figure 3, right), 15 convolutions: uint8 [B, H, W, C] -> [B, 256].

    Any size of images; pixels are scaled to [0, 1].
    """
    layers = [_read(read)]
    for channels in (16, 32, 32):
        layers += [
            _conv(channels, 3, 1, "same", None, initializer, dtype),
            tf.keras.layers.MaxPool2D(3, 2, "same", dtype=dtype),
            _Residual(channels, initializer, dtype),
            _Residual(channels, initializer, dtype),
        ]
    layers += [tf.keras.layers.ReLU(dtype=dtype), *_features(features, initializer, dtype)]
    return tf.keras.Sequential(layers, name="impala_resnet")


class _Residual(tf.keras.layers.Layer):
    """x + conv(relu(conv(relu(x)))), both 3x3 of as many channels as `x` has."""

    def __init__(self, channels: int, initializer: str, dtype: str):
        super().__init__(dtype=dtype)
        self._convs = [_conv(channels, 3, 1, "same", None, initializer, dtype) for _ in range(2)]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        y = x
        for conv in self._convs:
            y = conv(tf.nn.relu(y))
        return x + y


def head(outputs: int, gain: float, name: str | None = None) -> tf.keras.layers.Dense:
    """Output layer [B, F] -> [B, outputs] with orthogonal weights of this gain; biases start at 0.

    Usual gains: 0.01 for a policy, so that it starts near uniform, 1 for a value (Andrychowicz et al. 2021).
    """
    orthogonal = tf.keras.initializers.Orthogonal(gain)
    return tf.keras.layers.Dense(outputs, kernel_initializer=orthogonal, name=name, dtype="float32")


def _kernel(name: str) -> tf.keras.initializers.Initializer:
    """An initialiser of hidden layers; a new one for each, since one instance repeats itself."""
    if name == "orthogonal":
        return tf.keras.initializers.Orthogonal(2**0.5)  # keeps the scale through a ReLU
    if name == "glorot":
        return tf.keras.initializers.GlorotUniform()
    raise SettingError(
        f"initializer={name!r}: expected one of {', '.join(INITIALIZERS)}{nearest(name, INITIALIZERS)}"
    )


def _read(read: Callable[[tf.Tensor], tf.Tensor]) -> tf.keras.layers.Layer:
    return tf.keras.layers.Lambda(read, dtype="float32")


def _conv(
    filters: int,
    size: int,
    stride: int,
    padding: str,
    activation: str | None,
    initializer: str,
    dtype: str,
) -> tf.keras.layers.Conv2D:
    return tf.keras.layers.Conv2D(
        filters,
        size,
        stride,
        padding,
        activation=activation,
        kernel_initializer=_kernel(initializer),
        dtype=dtype,
    )


def _features(features: int, initializer: str, dtype: str) -> list[tf.keras.layers.Layer]:
    """Layers after the convolutions."""
    dense = tf.keras.layers.Dense(
        features, "relu", kernel_initializer=_kernel(initializer), dtype=dtype
    )
    return [tf.keras.layers.Flatten(dtype=dtype), dense]


class Torso(tf.Module):
    """Observation nest, leaves [B, ...] -> features float32 [B, F].

    A network for images takes every image of a Dict or Tuple observation, each through a network of its own; the rest
    is flattened and stands behind their features.

    Args:
      spec: environment spec.
      network: 'mlp', 'cnn' (Mnih et al. 2015), 'small_cnn' (Young and Tian 2019), 'resnet' (Espeholt et al. 2018),
        'rllib_cnn', 'auto' (for images cnn or, where one is smaller than that takes, small_cnn, else mlp) or
        'package.module:builder', a function (EnvSpec) -> Keras model that takes the observation without its
        side inputs (see `inputs.model_space`; of a Dict with one other entry, this entry) and gives [B, F].
      hidden_sizes, activation: of the MLP.
      rescale: bounded components of a Box are mapped to [-1, 1], see `inputs.flatten`.
      initializer: of hidden layers: 'glorot', or 'orthogonal' with gain sqrt(2), as policy-gradient methods have it.
      precision: 'float32', or 'bfloat16' for the arithmetic of the named networks for images; variables and features
        are float32 always.
      options: how images are read.

    Raises:
      SettingError: the network does not serve the observation space, or not this precision, or Keras has no such
        activation; when called, a user's model gives something else than [B, F].
    """

    def __init__(
        self,
        spec: EnvSpec,
        network: str,
        hidden_sizes: Sequence[int],
        activation: str,
        rescale: bool = False,
        initializer: str = "glorot",
        precision: str = "float32",
        options: inputs.ImageOptions = inputs.ImageOptions(),  # noqa: B008 - immutable
    ):
        super().__init__()
        self._options = options
        self._space = inputs.model_space(spec.observation_space)
        self._rescale = rescale
        self._kind = "own"
        check_activation(activation)
        readers = image_readers(spec, options)
        if network == "auto":
            smallest = min((min(reader.shape[:2]) for reader in readers), default=0)
            least = images.GRID_LEAST
            network = (
                "cnn" if smallest >= CNN_LEAST else "small_cnn" if smallest >= least else "mlp"
            )
        if network == "mlp":
            self._kind = "flat"
            self.model = mlp(hidden_sizes, activation, initializer)
        elif network in NETWORKS:
            self._kind = "images"
            if not readers:
                raise SettingError(
                    f"network={network}: "
                    f"expected images, e.g. uint8 [height, width, channels], got {self._space}"
                )
            self.model = [
                _image_network(network, reader, initializer, precision) for reader in readers
            ]
        elif not _is_own(network):
            raise SettingError(
                f"network={network!r}: expected one of {', '.join(NETWORKS)} "
                f"or package.module:builder{nearest(network, NETWORKS)}"
            )
        else:
            self.model = user_model.build(network, spec)
        if precision != "float32" and self._kind != "images":
            raise SettingError(
                f"precision={precision} with network={network}: expected float32; it is for the networks for images, "
                "cnn, small_cnn, resnet and rllib_cnn"
            )

    def __call__(self, obs: Any, training: bool = False) -> tf.Tensor:
        """Features of observations, leaves [B, ...]; `training` is for a user's model alone."""
        x = inputs.model_input(obs)
        if self._kind == "images":
            return self._join(x)
        if self._kind == "flat":
            return self.model(inputs.flatten(x, self._space, self._rescale, self._options))
        features = user_model.call(self.model, x, training)
        if features.shape.rank != 2:
            raise SettingError(
                f"network: expected a model that gives [batch, features], got {features.shape}"
            )
        return tf.cast(features, tf.float32)

    def losses(self) -> list[tf.Tensor]:
        """Scalars that a user's model adds to the loss, see `user_model.losses`."""
        return user_model.losses(self.model) if self._kind == "own" else []

    def _join(self, obs: Any) -> tf.Tensor:
        """Features of the images in their order, then the other parts in theirs."""
        seen, others = [], []
        for part, space in inputs.leaves(obs, self._space):
            if inputs.is_image(space):
                seen.append(tf.cast(self.model[len(seen)](part), tf.float32))
            else:
                others.append(inputs.flatten(part, space, self._rescale, self._options))
        return tf.concat(seen + others, axis=1) if len(seen + others) > 1 else seen[0]


def image_options(config: Any) -> inputs.ImageOptions:
    """How images are read, from the settings of a model."""
    return inputs.ImageOptions(
        config.image_layout, config.image_scale, config.normalize_observations
    )


def image_readers(spec: EnvSpec, options: inputs.ImageOptions) -> list[images.Reader]:
    """How each image of the observation is read, in the order of the space."""
    space = inputs.model_space(spec.observation_space)
    return [inputs.reader(leaf, options) for leaf in leaf_spaces(space) if images.is_image(leaf)]


def notes(config: Any, spec: EnvSpec) -> tuple[str, ...]:
    """Start-up lines about the choices made for the observation, one for each part: how an image is read, that
    integers of a wide range go to the network as they are, and which parts no network reads because of their names.

    Args:
      config: settings of a model.
      spec: environment spec.
    """
    read = (
        ACTION_MASK,
        ACTION_FEATURES,
        *([STATE] if getattr(config, "central_critic", 0) else []),
    )
    plain = [key for key in spec.side_inputs if key not in read]
    aside = (
        [f"observation {', '.join(plain)}: a side input, which no network reads"] if plain else []
    )
    if _is_own(config.network):
        return tuple(aside)
    lines = aside + [reader.line for reader in image_readers(spec, image_options(config))]
    if not (config.normalize_observations or getattr(config, "rescale_observations", False)):
        space = inputs.model_space(spec.observation_space)
        lines += [_line_of_integers(leaf) for leaf in leaf_spaces(space)]
    return tuple(line for line in lines if line)


def _line_of_integers(space: gym.Space) -> str:
    """A note that the integers of a Box are not scaled; '' for other spaces and for small ranges."""
    if not isinstance(space, gym.spaces.Box) or images.is_image(space):
        return ""
    high = space.high.max()
    if not np.issubdtype(space.dtype, np.integer) or high <= WIDE:
        return ""
    shape = ", ".join(map(str, space.shape))
    return f"observation {space.dtype.name} [{shape}]: values up to {high} are not scaled (--normalize_observations)"


def check(config: Any, spec: EnvSpec, sends_gradients: bool = False) -> None:
    """Raises SettingError for a user's network that could not be trained as it is meant, see `user_model.check`, and
    for settings of images where there is none to read.

    Args:
      config: settings of a model.
      spec: environment spec.
      sends_gradients: see `user_model.check`.
    """
    network, options = config.network, image_options(config)
    if _is_own(network):
        example = example_batch(inputs.model_space(spec.observation_space), user_model.ROWS)
        user_model.check(network, spec, example, sends_gradients)
    for name in ("image_layout", "image_scale"):
        value = getattr(config, name)
        if value in ("auto", None):
            continue
        if _is_own(network):
            raise SettingError(
                f"{name}={value} with network={network!r}: your own network reads images as they come; leave it out"
            )
        if not image_readers(spec, options):
            raise SettingError(
                f"{name}={value}: the observation has no image, it is {spec.observation_space}; leave it out"
            )


def _is_own(network: str) -> bool:
    return network not in NETWORKS and objects.is_object_name(network)


def _image_network(
    network: str, reader: images.Reader, initializer: str, precision: str
) -> tf.keras.Sequential:
    """The named network for images; raises SettingError for a size that it cannot see."""
    height, width, _ = shape = reader.shape
    dtype = "float32" if precision == "float32" else f"mixed_{precision}"
    if network == "resnet":
        return impala_resnet(initializer=initializer, dtype=dtype, read=reader)
    if network == "rllib_cnn":
        if height != width or height not in RLLIB_FILTERS:
            raise SettingError(
                f"network=rllib_cnn: expected images of 84x84 or 42x42 pixels, got {list(shape)}; "
                "resnet takes any size"
            )
        return rllib_cnn(height, initializer, dtype, reader)
    if network == "small_cnn":
        if min(height, width) < 3:
            raise SettingError(
                f"network=small_cnn: expected images of at least 3x3 pixels, got {list(shape)}; use mlp"
            )
        return small_cnn(initializer=initializer, dtype=dtype, read=reader)
    if min(height, width) < CNN_LEAST:
        raise SettingError(
            f"network=cnn: expected images of at least {CNN_LEAST}x{CNN_LEAST} pixels, got {list(shape)}; "
            "small_cnn is for grids, resnet takes any size"
        )
    return nature_cnn(initializer=initializer, dtype=dtype, read=reader)


def check_activation(name: str) -> None:
    """Raises SettingError unless Keras has an activation of this name."""
    try:
        tf.keras.activations.get(name)
    except ValueError:
        known = ("relu", "tanh", "elu", "selu", "gelu", "swish", "sigmoid", "softplus", "linear")
        raise SettingError(
            f"activation={name!r}: Keras has none of this name{nearest(name, known)}"
        ) from None


def example_batch(space: gym.Space, batch_size: int) -> Any:
    """A nest of zeros [B, ...] of the shapes and dtypes of `space`: builds the variables of a model."""
    return map_leaves(lambda part: tf.zeros((batch_size, *part.shape), part.dtype), space)
