"""Noise from seeds: the same seed gives the same draw, to actors and to learners.

An actor that perturbs its weights (evolution strategies, Salimans et al. 2017; ARS, Mania et al. 2018) sends the seed
of a perturbation in place of the perturbation, or nothing where the seed follows from what both know. Draws are made of
Philox integers (Salmon et al. 2011) by formulas written here, so that they do not depend on how a library makes floats
of its random bits: on a CPU they are equal to the bit in eager and in traced code, one at a time or many at once. XLA
computes logarithm, sine and cosine with other roundings, so normal draws agree to some 1e-6 there.
"""

from __future__ import annotations

import math

import tensorflow as tf

from tfrl.explore.table import shared_table
from tfrl.types import NoiseSpec

_BITS = 24  # random bits of a float in [0, 1), as many as float32 has
_LANES = 16  # floats that a vector instruction takes: each draw is padded to whole ones, whose roundings are alike
_PHILOX = 1  # number of the algorithm in TensorFlow's ops
_GROUP = 4  # integers of one value of Philox' counter


def regenerate(spec: NoiseSpec, seeds: tf.Tensor) -> tf.Tensor:
    """The draws of some seeds, float32 [..., *spec.shape].

    Args:
      spec: seeded noise.
      seeds: int32 [..., 2], as stored in the extra `<name>_seed`.
    """
    made = tf.map_fn(
        lambda seed: draws(spec, seed, 0, 1)[0],
        tf.reshape(seeds, [-1, 2]),
        fn_output_signature=tf.TensorSpec(spec.shape, tf.float32),
    )
    return tf.reshape(made, tf.concat([tf.shape(seeds)[:-1], spec.shape], 0))


def draws(spec: NoiseSpec, seed: tf.Tensor, first: tf.Tensor | int, count: int) -> tf.Tensor:
    """Draws number `first`, `first` + 1, ... of a seed, float32 [count, *spec.shape].

    Args:
      spec: seeded noise.
      seed: int32 [2].
      first: integer scalar, at least 0.
      count: how many, at least 1.
    """
    size = math.prod(spec.shape)
    if spec.table:
        table = shared_table(spec.table)
        # The place of a part from one integer of its own; the tiny excess of low places does not count.
        places = tf.cast(_integers(seed, first, count, _GROUP)[:, 0], tf.int64)
        places %= spec.table - size + 1
        parts = tf.map_fn(
            lambda place: tf.slice(table, place[None], [size]),
            places,
            fn_output_signature=tf.TensorSpec([size], tf.float32),
        )
        return tf.reshape(parts, [count, *spec.shape])
    if spec.kind == "uniform":
        width = -(-size // _LANES) * _LANES
        numbers = _floats(_integers(seed, first, count, width)) * 2.0**-_BITS
    else:  # Box and Muller 1958: two normal numbers of two uniform ones, the first of these in (0, 1]
        half = -(-size // (2 * _LANES)) * _LANES
        uniform = tf.reshape(_floats(_integers(seed, first, count, 2 * half)), [count, 2, half])
        radius = tf.sqrt(-2.0 * tf.math.log((uniform[:, 0] + 1.0) * 2.0**-_BITS))
        angle = uniform[:, 1] * (2.0 * math.pi * 2.0**-_BITS)
        numbers = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], 1)
    return tf.reshape(numbers[:, :size], [count, *spec.shape])


def _integers(seed: tf.Tensor, first: tf.Tensor | int, count: int, width: int) -> tf.Tensor:
    """Uint32 [count, width]: rows `first`, ... of the stream of a seed, all of that width, a multiple of `_GROUP`."""
    key = tf.reshape(tf.bitcast(seed, tf.uint64), [1])
    start = tf.cast(first, tf.int64) * (width // _GROUP)
    counter = tf.cast(tf.stack([start, tf.constant(0, tf.int64)]), tf.uint64)
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[count, width], key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32
    )


def _floats(integers: tf.Tensor) -> tf.Tensor:
    """Uint32 -> float32 in [0, 2**24), whole numbers of the upper bits."""
    return tf.cast(tf.bitwise.right_shift(integers, tf.constant(32 - _BITS, tf.uint32)), tf.float32)
