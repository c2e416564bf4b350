"""Distributions over action spaces: from the output of a network to samples, log-probabilities and entropies.

Objects made by `make` hold sizes and limits only, no variables. `params` are float32
[..., num_params] with any leading axes, e.g. [B, P] when acting and [T, B, P] when learning; a
`sample` is a nest like the action space, leaves [..., *shape].

  space          params                             sample               noise per sample
  Discrete(n)    logits [n]                         int32 []             uniform [n]
  MultiDiscrete  logits of all components, joined   int32 [*nvec.shape]  uniform [sum(nvec)]
  MultiBinary    logits of the ones                 int8 [*shape]        uniform [size]
  Box            mean, then log of the standard     float32 [*shape]     normal [size]
                 deviation, both flat
  Dict, Tuple    params of the parts, joined        dict, tuple          noise of the parts

Randomness is an argument, so that the graphs convert to LiteRT; all of it runs under XLA too. The parts of a Dict or
Tuple are independent given the observation: log-probability, entropy and divergence are sums over them.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.nn.bounded import BoundedBox
from tfrl.types import NoiseSpec

spaces = gym.spaces
INVALID_LOGIT = tf.float32.min / 2  # finite, so that arithmetic on masked entries never makes NaN
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Distribution(abc.ABC):
    """A family of distributions over one action space.

    Attributes:
      num_params: P, width of the network output that names a member of the family.
      mask_size: entries of an action mask, 0 where the space has no categorical part.
      noise: what `sample` reads, {name: shape without leading axes, kind}.
      deviations: {name in `noise`: slice of the params} of the logarithms of standard deviations, in their order.
    """

    num_params: int
    mask_size: int
    noise: Mapping[str, NoiseSpec]
    deviations: Mapping[str, slice] = {}

    @abc.abstractmethod
    def sample(self, params: tf.Tensor, noise: Mapping[str, tf.Tensor]) -> Any:
        """Draws actions.

        Args:
          params: [..., P].
          noise: {name: float32 [..., *shape]} as `self.noise` declares; other names are ignored.
        """

    @abc.abstractmethod
    def mode(self, params: tf.Tensor) -> Any:
        """The sample that a greedy policy takes: the most probable one."""

    @abc.abstractmethod
    def log_prob(self, params: tf.Tensor, sample: Any) -> tf.Tensor:
        """log p(sample), float32 [...]."""

    @abc.abstractmethod
    def entropy(self, params: tf.Tensor) -> tf.Tensor:
        """-E[log p], float32 [...], in nats."""

    @abc.abstractmethod
    def kl(self, params_p: tf.Tensor, params_q: tf.Tensor) -> tf.Tensor:
        """KL(p || q) = E_p[log p - log q], float32 [...]."""

    def probabilities(self, params: tf.Tensor) -> Any:
        """A nest like a sample of float32 probabilities, None where a part of the space is a Box.

        Discrete: [..., n]. MultiDiscrete: [..., *shape, largest], zeros beyond a component's choices. MultiBinary:
        those of ones [..., *shape].
        """
        del params
        return None

    def mask(self, params: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Params whose invalid choices have probability 0 and take no part in entropy, divergence and gradients.

        Args:
          mask: [..., mask_size] of any dtype, not 0 where a choice is valid; each component of a
            MultiDiscrete needs at least one. For a Dict or Tuple: the masks of its Discrete and
            MultiDiscrete parts, joined in the order of the space; the rest is not masked.
        """
        del mask
        return params

    def action(self, sample: Any) -> Any:
        """The action that the environment gets. Store and learn from the sample, not from this."""
        return sample


def make(space: gym.Space, squash: bool = False) -> Distribution:
    """The distribution over an action space, as `EnvSpec` gives it (Discrete counts from 0).

    Args:
      squash: samples of a Box go through tanh onto its limits; without it the environment layer
        clips them.

    Raises:
      SettingError: a space that is not served, or a Box without limits that is to be squashed.
    """
    return _make(space, squash, "action")


def _make(space: gym.Space, squash: bool, name: str) -> Distribution:
    if isinstance(space, spaces.Dict):
        parts = {k: _make(s, squash, _join(name, k)) for k, s in space.spaces.items()}
        return Nest(list(parts.values()), list(parts), lambda leaves: dict(zip(parts, leaves)))
    if isinstance(space, spaces.Tuple):
        parts = [_make(s, squash, _join(name, i)) for i, s in enumerate(space.spaces)]
        return Nest(parts, range(len(parts)), tuple)
    if np.any(getattr(space, "start", 0)):
        raise SettingError(f"{name} space is {space}: expected one that counts from 0")
    if isinstance(space, spaces.Discrete):
        return Categorical([int(space.n)], (), name)
    if isinstance(space, spaces.MultiDiscrete):
        return Categorical([int(n) for n in space.nvec.reshape(-1)], space.shape, name)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(space.shape, name)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return SquashedGaussian(space, name) if squash else Gaussian(space.shape, name)
    raise SettingError(
        f"{name} space is {space}: expected Discrete, MultiDiscrete, MultiBinary, Box of floats, "
        "or a Dict or Tuple of them"
    )


def _join(name: str, key: Any) -> str:
    # As in a JSON pointer, so that a '/' in a key cannot make two names equal.
    return f"{name}/{str(key).replace('~', '~0').replace('/', '~1')}"


class Categorical(Distribution):
    """Independent categorical components, each an int32 from 0; `params` are their logits, joined.

    Args:
      sizes: choices of each component.
      shape: of a sample; its product is the number of components.
      name: of the noise.
    """

    def __init__(self, sizes: Sequence[int], shape: tuple[int, ...], name: str):
        self.num_params = self.mask_size = sum(sizes)
        self.noise = {name: NoiseSpec((sum(sizes),), "uniform")}
        self._sizes, self._shape, self._name = list(sizes), tuple(shape), name
        self._largest = max(sizes)

    def sample(self, params: tf.Tensor, noise: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Implements `Distribution.sample`: int32 [..., *shape], the largest logit after Gumbel noise."""
        # Gumbel-max. 2**-25 is below the smallest positive draw: the logarithm stays finite, so
        # that no invalid choice can win.
        gumbel = -tf.math.log(-tf.math.log(tf.maximum(noise[self._name], 2.0**-25)))
        return self.mode(params + gumbel)

    def mode(self, params: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.mode`: the largest logit of each component, int32 [..., *shape]."""
        best = tf.argmax(self._components(params), axis=-1, output_type=tf.int32)
        return _unflatten(best, self._shape)

    def log_prob(self, params: tf.Tensor, sample: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.log_prob`: the sum over the components."""
        chosen = _flatten(tf.cast(sample, tf.int32), self._shape)
        # A product with a one-hot, which compiles better than a gather.
        one_hot = tf.one_hot(chosen, self._largest, True, False, dtype=tf.bool)
        log_p = tf.nn.log_softmax(self._components(params))
        return tf.reduce_sum(tf.where(one_hot, log_p, 0.0), axis=[-2, -1])

    def entropy(self, params: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.entropy`: the sum over the components; choices of probability 0 add nothing."""
        p, log_p = self._log_p(params)
        return -tf.reduce_sum(p * log_p, axis=[-2, -1])

    def kl(self, params_p: tf.Tensor, params_q: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.kl`: the sum over the components; choices that p never takes add nothing."""
        p, log_p = self._log_p(params_p)
        log_q = tf.nn.log_softmax(self._components(params_q))
        gap = tf.where(p > 0.0, log_p - log_q, 0.0)
        return tf.reduce_sum(p * gap, axis=[-2, -1])

    def probabilities(self, params: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.probabilities`."""
        p = tf.nn.softmax(self._components(params))
        return _reshape(p, p.shape.rank - 2, (*self._shape, self._largest))

    def mask(self, params: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.mask`: logits of invalid choices become `INVALID_LOGIT`."""
        return tf.where(tf.cast(mask, tf.bool), params, INVALID_LOGIT)

    def _log_p(self, params: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Probabilities and their logarithms [..., components, largest]; 0 and 0 where invalid."""
        log_p = tf.nn.log_softmax(self._components(params))
        p = tf.exp(log_p)
        return p, tf.where(p > 0.0, log_p, 0.0)

    def _components(self, params: tf.Tensor) -> tf.Tensor:
        """[..., P] -> [..., components, largest]; shorter components end in invalid logits."""
        if len(self._sizes) == 1:
            return params[..., tf.newaxis, :]
        if len(set(self._sizes)) == 1:
            return _unflatten(params, (len(self._sizes), self._largest))
        leading = [[0, 0]] * (len(params.shape) - 1)
        parts = [
            tf.pad(part, [*leading, [0, self._largest - size]], constant_values=INVALID_LOGIT)
            for part, size in zip(tf.split(params, self._sizes, axis=-1), self._sizes)
        ]
        return tf.stack(parts, axis=-2)


class Bernoulli(Distribution):
    """Independent int8 zeros and ones; `params` are the logits of the ones.

    Args:
      shape: of a sample.
      name: of the noise.
    """

    mask_size = 0

    def __init__(self, shape: tuple[int, ...], name: str):
        self.num_params = math.prod(shape)
        self.noise = {name: NoiseSpec((self.num_params,), "uniform")}
        self._shape, self._name = tuple(shape), name

    def sample(self, params: tf.Tensor, noise: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Implements `Distribution.sample`: int8 [..., *shape]."""
        ones = noise[self._name] < tf.sigmoid(params)
        return _unflatten(tf.cast(ones, tf.int8), self._shape)

    def mode(self, params: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.mode`: int8 [..., *shape], 1 where it is more likely than 0."""
        return _unflatten(tf.cast(params > 0.0, tf.int8), self._shape)

    def log_prob(self, params: tf.Tensor, sample: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.log_prob`: the sum over the bits."""
        ones = _flatten(tf.cast(sample, tf.float32), self._shape)
        return tf.reduce_sum(ones * params - _softplus(params), axis=-1)

    def entropy(self, params: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.entropy`: the sum over the bits."""
        return tf.reduce_sum(_softplus(params) - tf.sigmoid(params) * params, axis=-1)

    def kl(self, params_p: tf.Tensor, params_q: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.kl`: the sum over the bits."""
        p = tf.sigmoid(params_p)
        gap = p * (params_p - params_q) - _softplus(params_p) + _softplus(params_q)
        return tf.reduce_sum(gap, axis=-1)

    def probabilities(self, params: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.probabilities`: of ones."""
        return _unflatten(tf.sigmoid(params), self._shape)


class Gaussian(Distribution):
    """Independent normal variables; `params` are the means, then the logarithms of the standard deviations.

    Samples are not clipped, and log-probabilities are those of the unclipped sample.

    Args:
      shape: of a sample.
      name: of the noise.
    """

    mask_size = 0

    def __init__(self, shape: tuple[int, ...], name: str):
        self._size = math.prod(shape)
        self.num_params = 2 * self._size
        self.deviations = {name: slice(self._size, self.num_params)}
        self.noise = {name: NoiseSpec((self._size,), "normal")}
        self._shape, self._name = tuple(shape), name

    def sample(self, params: tf.Tensor, noise: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Implements `Distribution.sample`: mean + std * noise, float32 [..., *shape]."""
        mean, log_std = self._split(params)
        return _unflatten(mean + tf.exp(log_std) * noise[self._name], self._shape)

    def mode(self, params: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.mode`: the mean, float32 [..., *shape]."""
        return _unflatten(self._split(params)[0], self._shape)

    def log_prob(self, params: tf.Tensor, sample: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.log_prob`: the density, summed over the components."""
        mean, log_std = self._split(params)
        x = _flatten(tf.cast(sample, tf.float32), self._shape)
        z = (x - mean) * tf.exp(-log_std)
        return -tf.reduce_sum(0.5 * z * z + log_std + _LOG_SQRT_2PI, axis=-1)

    def entropy(self, params: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.entropy`: log std + log(2 pi e) / 2, summed over components; it may be negative."""
        return tf.reduce_sum(self._split(params)[1] + (0.5 + _LOG_SQRT_2PI), axis=-1)

    def kl(self, params_p: tf.Tensor, params_q: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.kl`: in closed form, summed over the components."""
        mean_p, log_std_p = self._split(params_p)
        mean_q, log_std_q = self._split(params_q)
        log_ratio = log_std_p - log_std_q
        z = (mean_p - mean_q) * tf.exp(-log_std_q)
        gap = 0.5 * (tf.exp(2.0 * log_ratio) + z * z - 1.0) - log_ratio
        return tf.reduce_sum(gap, axis=-1)

    def _split(self, params: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return params[..., : self._size], params[..., self._size :]


class SquashedGaussian(Distribution):
    """A bounded Box: action = centre + half range * tanh(u), u normal (Haarnoja et al. 2018, appendix C).

    A sample is u, before tanh: from the action it could not be had back where tanh has saturated.
    log_prob, entropy and divergence are those of the action on the environment's scale. On [-1, 1],
    which target entropies usually refer to, log_prob is larger by `log_half_range` and the entropy
    smaller by it.

    Args:
      space: with limits on both sides.
      name: of the noise.

    Attributes:
      log_half_range: sum of log((high - low) / 2) over the components.

    Raises:
      SettingError: a component without limits, or without room between them.
    """

    mask_size = 0
    # Nodes, in standard deviations, and weights of the trapezoid rule for the entropy. Its error is about
    # exp(-pi^2 / (0.25 std)): below 1e-6 for std <= e, some 1e-2 at std = e^2.
    _nodes = np.arange(-24, 25, dtype=np.float32) * 0.25
    _weights = np.exp(-0.5 * _nodes**2) / np.exp(-0.5 * _nodes**2).sum()

    def __init__(self, space: spaces.Box, name: str):
        try:
            self._box = BoundedBox(space)
        except SettingError as error:
            raise SettingError(
                f"{name} space is {space}: squashed actions need finite limits with room between them"
            ) from error
        self._inner = Gaussian(space.shape, name)
        self.num_params, self.noise = self._inner.num_params, self._inner.noise
        self.deviations = self._inner.deviations
        self.log_half_range, self._shape = self._box.log_half_range, space.shape

    def sample(self, params: tf.Tensor, noise: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Implements `Distribution.sample`: u, before tanh, float32 [..., *shape]."""
        return self._inner.sample(params, noise)

    def mode(self, params: tf.Tensor) -> tf.Tensor:
        """The mean of u: the median of the action, which is what greedy SAC policies take."""
        return self._inner.mode(params)

    def log_prob(self, params: tf.Tensor, sample: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.log_prob`: log p(u) - log |da/du| (Haarnoja et al. 2018, appendix C)."""
        slope = _log_tanh_slope(_flatten(sample, self._shape))
        volume = tf.reduce_sum(slope, axis=-1) + self.log_half_range
        return self._inner.log_prob(params, sample) - volume

    def entropy(self, params: tf.Tensor) -> tf.Tensor:
        """H(u) + E[log |da/du|]; the expectation by quadrature, as it has no closed form."""
        mean, log_std = self._inner._split(params)
        u = mean[..., tf.newaxis] + tf.exp(log_std)[..., tf.newaxis] * self._nodes
        volume = tf.reduce_sum(_log_tanh_slope(u) * self._weights, axis=[-2, -1])
        return self._inner.entropy(params) + volume + self.log_half_range

    def kl(self, params_p: tf.Tensor, params_q: tf.Tensor) -> tf.Tensor:
        """KL of the normal variables: a change of variables does not alter it."""
        return self._inner.kl(params_p, params_q)

    def action(self, sample: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.action`: u through tanh, float32 [..., *shape] within the Box's limits."""
        return self._box.to_env(tf.tanh(_flatten(sample, self._shape)))


def squashed_log_prob(mean: tf.Tensor, log_std: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
    """Logarithm of the density of tanh(u), u normal, on the scale [-1, 1] (Haarnoja et al. 2018b, appendix C).

    Args:
      mean, log_std, u: [..., m].

    Returns:
      float32 [...], the sum over components.
    """
    z = (u - mean) * tf.exp(-log_std)
    normal = -0.5 * z * z - log_std - _LOG_SQRT_2PI
    return tf.reduce_sum(normal - _log_tanh_slope(u), axis=-1)


class Nest(Distribution):
    """Independent parts of a Dict or Tuple.

    Args:
      parts: distributions of the parts, in the order of the space.
      keys: what leads from a sample to its parts.
      pack: from the list of the parts' samples to a sample.
    """

    def __init__(
        self, parts: Sequence[Distribution], keys: Sequence[Any], pack: Callable[[list[Any]], Any]
    ):
        self._parts, self._keys, self._pack = list(parts), list(keys), pack
        self.num_params = sum(p.num_params for p in parts)
        self.mask_size = sum(p.mask_size for p in parts)
        self.noise = {name: spec for p in parts for name, spec in p.noise.items()}
        starts = np.cumsum([0, *(p.num_params for p in parts)]).tolist()
        self.deviations = {
            name: slice(start + x.start, start + x.stop)
            for p, start in zip(parts, starts)
            for name, x in p.deviations.items()
        }

    def sample(self, params: tf.Tensor, noise: Mapping[str, tf.Tensor]) -> Any:
        """Implements `Distribution.sample`: a dict or tuple of the samples of the parts."""
        return self._pack([p.sample(x, noise) for p, x in self._split(params)])

    def mode(self, params: tf.Tensor) -> Any:
        """Implements `Distribution.mode`: a dict or tuple of the modes of the parts."""
        return self._pack([p.mode(x) for p, x in self._split(params)])

    def log_prob(self, params: tf.Tensor, sample: Any) -> tf.Tensor:
        """Implements `Distribution.log_prob`: the sum over the parts."""
        parts = zip(self._split(params), self._keys)
        return tf.add_n([p.log_prob(x, sample[key]) for (p, x), key in parts])

    def entropy(self, params: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.entropy`: the sum over the parts."""
        return tf.add_n([p.entropy(x) for p, x in self._split(params)])

    def kl(self, params_p: tf.Tensor, params_q: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.kl`: the sum over the parts."""
        parts = zip(self._split(params_p), self._split(params_q))
        return tf.add_n([p.kl(x, y) for (p, x), (_, y) in parts])

    def probabilities(self, params: tf.Tensor) -> Any:
        """Implements `Distribution.probabilities`: a dict or tuple of those of the parts."""
        parts = [p.probabilities(x) for p, x in self._split(params)]
        return None if any(part is None for part in parts) else self._pack(parts)

    def mask(self, params: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Implements `Distribution.mask`: each part takes its share of the joined mask."""
        masks = tf.split(mask, [p.mask_size for p in self._parts], axis=-1)
        masked = [p.mask(x, m) for (p, x), m in zip(self._split(params), masks)]
        return tf.concat(masked, axis=-1)

    def action(self, sample: Any) -> Any:
        """Implements `Distribution.action`: a dict or tuple of the actions of the parts."""
        return self._pack([p.action(sample[key]) for p, key in zip(self._parts, self._keys)])

    def _split(self, params: tf.Tensor) -> list[tuple[Distribution, tf.Tensor]]:
        widths = [p.num_params for p in self._parts]
        return list(zip(self._parts, tf.split(params, widths, axis=-1)))


def _softplus(x: tf.Tensor) -> tf.Tensor:
    """log(1 + e^x) without overflow, of ops that LiteRT has."""
    return tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))


def _log_tanh_slope(u: tf.Tensor) -> tf.Tensor:
    """log(1 - tanh(u)^2), exact where tanh has saturated."""
    return 2.0 * (math.log(2.0) - u - _softplus(-2.0 * u))


def _flatten(x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """[..., *shape] -> [..., size]."""
    if len(shape) == 1:
        return x
    x = tf.convert_to_tensor(x)
    return _reshape(x, x.shape.rank - len(shape), (math.prod(shape),))


def _unflatten(x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """[..., size] -> [..., *shape]."""
    return x if len(shape) == 1 else _reshape(x, x.shape.rank - 1, shape)


def _reshape(x: tf.Tensor, kept: int, shape: tuple[int, ...]) -> tf.Tensor:
    """`x` with its first `kept` axes as they are, the others reshaped to `shape`."""
    leading = x.shape[:kept]
    if leading.is_fully_defined():
        return tf.reshape(x, [*leading, *shape])
    return tf.reshape(x, tf.concat([tf.shape(x)[:kept], shape], axis=0))
