"""Noise from seeds: the same seed gives the same draw, to actors and to learners.

An actor that perturbs its weights (evolution strategies, Salimans et al. 2017; ARS, Mania et al. 2018) sends the seed
of a perturbation in place of the perturbation. Draws are made of integers by formulas written here, so that they do not
depend on how a library makes floats of its random bits: on a CPU they are equal to the bit in eager and in traced
code. XLA computes logarithm, sine and cosine with other roundings, so normal draws agree to some 1e-6 there.
"""

from __future__ import annotations

import math

import tensorflow as tf

from tfrl.types import NoiseSpec

_BITS = 24  # random bits of a float in [0, 1), as many as float32 has


def regenerate(spec: NoiseSpec, seeds: tf.Tensor) -> tf.Tensor:
    """The draws of some seeds, float32 [..., *spec.shape].

    Args:
      spec: seeded noise.
      seeds: int32 [..., 2], as stored in the extra `<name>_seed`.
    """
    flat = tf.reshape(seeds, [-1, 2])
    # One after the other: each has tensors of the same size then, and so the same roundings.
    draws = tf.map_fn(
        lambda seed: _draw(spec, seed),
        flat,
        fn_output_signature=tf.TensorSpec(spec.shape, tf.float32),
    )
    return tf.reshape(draws, tf.concat([tf.shape(seeds)[:-1], spec.shape], 0))


def _draw(spec: NoiseSpec, seed: tf.Tensor) -> tf.Tensor:
    count = math.prod(spec.shape)
    if spec.kind == "uniform":
        return tf.reshape(tf.cast(_integers([count], seed), tf.float32) * 2.0**-_BITS, spec.shape)
    # Box and Muller 1958: two normal numbers of two uniform ones, the first of these in (0, 1].
    integers = tf.cast(_integers([2, -(-count // 2)], seed), tf.float32)
    radius = tf.sqrt(-2.0 * tf.math.log((integers[0] + 1.0) * 2.0**-_BITS))
    angle = integers[1] * (2.0 * math.pi * 2.0**-_BITS)
    pair = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], 0)
    return tf.reshape(pair[:count], spec.shape)


def _integers(shape: list[int], seed: tf.Tensor) -> tf.Tensor:
    # As numbers that are not negative: XLA and TensorFlow's kernels draw other numbers from those that are.
    seed = tf.cast(tf.bitcast(seed, tf.uint32), tf.int64)
    return tf.random.stateless_uniform(shape, seed, 0, 2**_BITS, tf.int32, "philox")
