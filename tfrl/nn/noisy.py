"""Dense layers with noise on their weights, whose size is learnt (Fortunato et al. 2018).

The noise is an argument: actors draw it for each environment (`NoisyDense.noise`), learners once for a batch (`draw`).
Without it the layer is an ordinary one with the mean weights, as in evaluation and export.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import tensorflow as tf

from tfrl.types import NoiseSpec

KINDS = ("factorised", "independent")


class NoisyDense(tf.Module):
    """y = (mu + sigma * e) x + mu_b + sigma_b * e_b, linear; e and e_b are standard normal noise.

    Factorised noise has e = f(e_in) f(e_out)^T and e_b = f(e_out) with f(x) = sign(x) sqrt(|x|) (eq. 10 and 11);
    independent noise has a draw for every weight. First values (section 3.2): mu and mu_b uniform in +-1/sqrt(p) for
    factorised, in +-sqrt(3/p) for independent noise, p inputs; sigma and sigma_b constant.

    Args:
      inputs: p.
      units: q.
      kind: 'factorised' or 'independent'.
      sigma: sigma_0 of factorised noise, whose deviations start at sigma_0 / sqrt(p); of independent noise the
        deviation itself. None: the paper's 0.5 and 0.017.
      name: begins the names of the noise.

    Attributes:
      noise: {name: shape and kind}: '<name>_in' [p] and '<name>_out' [q], or '<name>_kernel' [p, q] and
        '<name>_bias' [q].
    """

    def __init__(self, inputs: int, units: int, kind: str, sigma: float | None, name: str):
        super().__init__(name)
        self._factorised = kind == "factorised"
        if self._factorised:
            self._keys, shapes = (f"{name}_in", f"{name}_out"), ((inputs,), (units,))
            bound, sigma = 1.0 / math.sqrt(inputs), 0.5 if sigma is None else sigma
            sigma /= math.sqrt(inputs)
        else:
            self._keys, shapes = (f"{name}_kernel", f"{name}_bias"), ((inputs, units), (units,))
            bound, sigma = math.sqrt(3.0 / inputs), 0.017 if sigma is None else sigma
        self.noise = {k: NoiseSpec(s, "normal") for k, s in zip(self._keys, shapes, strict=True)}
        uniform = lambda *shape: tf.random.uniform(shape, -bound, bound)
        self.kernel = tf.Variable(uniform(inputs, units), name="kernel")
        self.bias = tf.Variable(uniform(units), name="bias")
        self.kernel_sigma = tf.Variable(tf.fill([inputs, units], sigma), name="kernel_sigma")
        self.bias_sigma = tf.Variable(tf.fill([units], sigma), name="bias_sigma")

    def __call__(self, x: tf.Tensor, noise: Mapping[str, tf.Tensor] | None = None) -> tf.Tensor:
        """[B, p] -> [B, q], or [B, N, p] -> [B, N, q].

        Args:
          noise: {name: [B, ...]} as `self.noise` declares, a draw for each row; [1, ...]: one for all. Other names are
            ignored. None: no noise.
        """
        if noise is None:
            return tf.matmul(x, self.kernel) + self.bias
        first, second = (noise[key] for key in self._keys)
        wide = x.shape.rank == 3
        if self._factorised:
            first, second = _signed_root(first), _signed_root(second)
            if wide:
                first, second = first[:, None], second[:, None]
            spread = tf.matmul(x * first, self.kernel_sigma) + self.bias_sigma
            return tf.matmul(x, self.kernel) + self.bias + spread * second
        bias = self.bias + self.bias_sigma * second
        if first.shape[0] == 1:
            return tf.matmul(x, self.kernel + self.kernel_sigma * first[0]) + bias
        kernel = self.kernel + self.kernel_sigma * first
        if wide:
            return tf.matmul(x, kernel) + bias[:, None]
        return tf.squeeze(tf.matmul(x[:, None], kernel), 1) + bias


def draw(noise: Mapping[str, NoiseSpec], seed: tf.Tensor) -> dict[str, tf.Tensor] | None:
    """One draw of normal noise for a whole batch, {name: [1, *shape]}; None where there is nothing to draw.

    Args:
      noise: what layers declare.
      seed: int32 [2].
    """
    if not noise:
        return None
    sizes = {name: math.prod(noise[name].shape) for name in sorted(noise)}
    parts = tf.split(tf.random.stateless_normal([sum(sizes.values())], seed), list(sizes.values()))
    return {
        name: tf.reshape(part, [1, *noise[name].shape])
        for name, part in zip(sizes, parts, strict=True)
    }


def _signed_root(x: tf.Tensor) -> tf.Tensor:
    return tf.sign(x) * tf.sqrt(tf.abs(x))
