"""Running normalisation of observations and of rewards.

Statistics are float64 and stay with the learner; what the policy carries are float32 variables, which are published,
exported and never change in evaluation. Merge a batch into the statistics, and hand them to the policy, only after the
last update on that batch: acting and learning must see the same normalised observations.

Observations follow RLlib's MeanStdFilter: the sample's deviation (n - 1), and 1e-8 added to it. Stable-Baselines3 and
CleanRL divide by n, put the 1e-8 inside the root and start from a mean of 0 and a variance of 1 that count as 1e-4
observations; numbers differ slightly at the start of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.nn import inputs
from tfrl.nn.teams import OBSERVATION
from tfrl.optim import apply
from tfrl.spaces import leaf_values, leaves
from tfrl.types import ALIVE, side_inputs

EPSILON = 1e-8
ROOT = "observation"  # name of an observation that is no nest


class RunningMoments(tf.Module):
    """Count, mean and sum of squared deviations of everything merged so far, per element; float64.

    Args:
      shape: of one observation.
      by_agent: the first axis has the agents of a team, whose observations are counted apart.
    """

    def __init__(self, shape: tuple[int, ...], name: str = "moments", by_agent: bool = False):
        super().__init__(name=name)
        self.shape = tuple(shape)
        # Counts are scalars, or [agents, 1, ...].
        self.counted = (self.shape[0], *[1] * (len(self.shape) - 1)) if by_agent else ()
        zeros = tf.zeros(self.shape, tf.float64)
        self.count = tf.Variable(tf.zeros(self.counted, tf.float64), trainable=False, name="count")
        self._mean = tf.Variable(zeros, trainable=False, name="mean")
        self._m2 = tf.Variable(zeros, trainable=False, name="m2")

    def merge(self, x: tf.Tensor, valid: tf.Tensor | None = None) -> None:
        """Adds a batch; in replica context, where the parts of all replicas are counted once, on every replica alike.

        The batch's own moments are made in two passes and joined with the old ones by the formula of Chan et al. 1979,
        so that a large mean does not drown a small variance.

        Args:
          x: [N, *shape] of any numeric dtype; what stands in invalid rows is not read.
          valid: bool [N], with `by_agent` [N, agents], or None when all are.

        Raises:
          ValueError: `x` of another shape.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"x: expected [N, {', '.join(map(str, self.shape))}], got {x.shape}")
        x = tf.cast(x, tf.float64)
        if valid is None:
            rows = tf.cast(tf.shape(x)[0], tf.float64)
        else:
            mask = tf.reshape(valid, [-1, *(self.counted or [1] * len(self.shape))])
            x = tf.where(mask, x, tf.zeros_like(x))
            rows = tf.reshape(tf.reduce_sum(tf.cast(mask, tf.float64), axis=0), self.counted)
        new = apply.reduce_sum(rows)
        new_mean = apply.reduce_sum(tf.reduce_sum(x, axis=0)) / tf.maximum(new, 1.0)
        squares = (x - new_mean) ** 2
        if valid is not None:
            squares = tf.where(mask, squares, tf.zeros_like(squares))
        new_m2 = apply.reduce_sum(tf.reduce_sum(squares, axis=0))

        self._join(new, new_mean, new_m2)

    def merge_sums(self, count: tf.Tensor, total: tf.Tensor, squares: tf.Tensor) -> None:
        """Adds observations of which sums are known; in replica context, where every replica has all of them.

        Args:
          count: of them, float64 scalar.
          total, squares: their sum and the sum of their squares, float64 [*shape].
        """
        mean = total / tf.maximum(count, 1.0)
        self._join(count, mean, tf.maximum(squares - total * mean, 0.0))

    def _join(self, new: tf.Tensor, new_mean: tf.Tensor, new_m2: tf.Tensor) -> None:
        """Joins moments of `new` observations with the present ones (Chan et al. 1979)."""
        old, mean = self.count.read_value(), self._mean.read_value()
        total = old + new
        share = new / tf.maximum(total, 1.0)
        difference = new_mean - mean
        m2 = self._m2.read_value() + new_m2 + difference**2 * old * share
        apply.assign(self._mean, mean + difference * share)
        apply.assign(self._m2, m2)
        apply.assign(self.count, total)

    def adopt(self, mean: Any, std: Any, count: int) -> None:
        """Goes on as if it had merged `count` observations with this mean and deviation (n - 1), [*shape]."""
        self._mean.assign(tf.cast(mean, tf.float64))
        self._m2.assign(tf.cast(std, tf.float64) ** 2 * max(count - 1, 0))
        self.count.assign(tf.fill(self.counted, tf.constant(count, tf.float64)))

    def mean(self) -> tf.Tensor:
        """float64 [*shape], 0 before anything was merged."""
        return self._mean.read_value()

    def std(self) -> tf.Tensor:
        """Deviation of the sample (n - 1), float64 [*shape]; 1 while n < 2."""
        count = self.count.read_value()
        variance = self._m2.read_value() / tf.maximum(count - 1.0, 1.0)
        return tf.where(count < 2.0, tf.ones_like(variance), tf.sqrt(variance))

    def population_variance(self) -> tf.Tensor:
        """Variance with n as the divisor, float64 [*shape]; 1 while n < 2."""
        count = self.count.read_value()
        variance = self._m2.read_value() / tf.maximum(count, 1.0)
        return tf.where(count < 2.0, tf.ones_like(variance), variance)


class ObservationMoments(tf.Module):
    """The learner's statistics of an observation space: `RunningMoments` of each leaf that is normalised.

    The rows of agents that do not live, which are zeros, are left out of those of a team's observation.

    Args:
      space: observation space.
      reads: side inputs among what is normalised.

    Attributes:
      leaves: {path: RunningMoments}.
    """

    def __init__(self, space: gym.Space, reads: Sequence[str] = ()):
        super().__init__()
        self._space, boxes = space, normalised_leaves(space, reads)
        self._team = f"{ROOT}/{OBSERVATION}" if ALIVE in side_inputs(space) else None
        self.leaves = {
            path: RunningMoments(box.shape, by_agent=path == self._team)
            for path, box in boxes.items()
        }

    def merge(self, obs: Any, valid: tf.Tensor | None = None) -> None:
        """Adds observations, leaves [*lead, *shape], where `valid`, bool [*lead], is True; None: all of them.

        In replica context, see `RunningMoments.merge`.
        """
        valid = None if valid is None else tf.reshape(valid, [-1])
        arrays = by_path(obs, self._space)
        for path, moments in self.leaves.items():
            counts = valid
            if path == self._team:
                alive = arrays[f"{ROOT}/{ALIVE}"]
                counts = tf.reshape(alive > 0, [-1, alive.shape[-1]])
                counts = counts if valid is None else counts & valid[:, None]
            moments.merge(tf.reshape(arrays[path], [-1, *moments.shape]), counts)

    def merge_sums(self, count: tf.Tensor, sums: Any) -> None:
        """Adds observations of which sums are known, {path: (sum, sum of squares)}; see `RunningMoments.merge_sums`.

        They have the zeros of agents that do not live.
        """
        for path, moments in self.leaves.items():
            moments.merge_sums(count, *sums[path])

    def adopt(self, normaliser: ObservationNormaliser, count: int) -> None:
        """Goes on as if it had merged `count` observations to what the policy's normaliser holds."""
        for path, moments in self.leaves.items():
            moments.adopt(*normaliser.moments(path), count)


class ObservationNormaliser(tf.Module):
    """clip((x - mean) / std, -limit, limit) of each leaf that is normalised; the others pass unchanged.

    A member of the policy. It changes nothing but what lies beyond the limit until `update` is first called.

    Args:
      space: observation space.
      limit: largest magnitude of a normalised component.
      reads: side inputs among what is normalised.

    Attributes:
      space: as given.

    Raises:
      SettingError: no leaf of the space can be normalised.
    """

    def __init__(self, space: gym.Space, limit: float = 10.0, reads: Sequence[str] = ()):
        super().__init__()
        boxes = normalised_leaves(space, reads)
        if not boxes:
            raise SettingError(
                "normalisation of observations: expected a Box that is no image in the observation "
                f"space, got {space}"
            )
        self.space, self._limit = space, limit
        self._mean = {path: _constant(tf.zeros(box.shape), "mean") for path, box in boxes.items()}
        self._scale = {path: _constant(tf.ones(box.shape), "scale") for path, box in boxes.items()}

    def __call__(self, obs: Any) -> Any:
        """Observations, leaves [..., *shape] -> the same nest; normalised leaves are float32."""
        return self._normalise(obs, self.space, ROOT)

    def update(self, moments: ObservationMoments) -> None:
        """Takes the learner's statistics; in replica context or outside."""
        for path, leaf in moments.leaves.items():
            apply.assign(self._mean[path], tf.cast(leaf.mean(), tf.float32))
            apply.assign(self._scale[path], tf.cast(1.0 / (leaf.std() + EPSILON), tf.float32))

    def moments(self, path: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and deviation of a leaf, as `update` was given them; float32 [*shape]."""
        return self._mean[path].read_value(), 1.0 / self._scale[path].read_value() - EPSILON

    def _normalise(self, x: Any, space: gym.Space, path: str) -> Any:
        if isinstance(space, gym.spaces.Dict):
            return {k: self._normalise(x[k], space[k], f"{path}/{k}") for k in x}
        if isinstance(space, gym.spaces.Tuple):
            parts = zip(x, space.spaces, strict=True)
            return tuple(self._normalise(v, s, f"{path}/{i}") for i, (v, s) in enumerate(parts))
        if path not in self._mean:
            return x
        x = (tf.cast(x, tf.float32) - self._mean[path]) * self._scale[path]
        return tf.clip_by_value(x, -self._limit, self._limit)


class ReturnScale(tf.Module):
    """clip(reward / sqrt(Var(R) + 1e-8), -limit, limit), R_t = discount R_{t-1} + r_t since the episode's start.

    As in Stable-Baselines3's VecNormalize, with two differences: rewards are scaled when they are learnt from, not when
    they are received, so that all of a batch have the same scale; and the scale is 1 until two returns were merged.
    Rewards are not centred. A member of the learner.

    Args:
      limit: largest magnitude of a scaled reward.
    """

    def __init__(self, limit: float = 10.0):
        super().__init__()
        self._limit = limit
        self.moments = RunningMoments(())
        self.scale = _constant(tf.ones([]), "scale")

    def __call__(self, reward: tf.Tensor) -> tf.Tensor:
        """Rewards of any shape -> float32, the same shape."""
        return tf.clip_by_value(tf.cast(reward, tf.float32) * self.scale, -self._limit, self._limit)

    def update(self, discounted_return: tf.Tensor, valid: tf.Tensor | None = None) -> None:
        """Merges running returns R and takes their variance; in replica context, see `RunningMoments.merge`.

        Args:
          discounted_return: R_t of each step, as the actor kept it, any shape; `valid`, bool, of the same.
        """
        valid = None if valid is None else tf.reshape(valid, [-1])
        self.moments.merge(tf.reshape(discounted_return, [-1]), valid)
        variance = self.moments.population_variance()
        apply.assign(self.scale, tf.cast(tf.math.rsqrt(variance + EPSILON), tf.float32))


def normalised_leaves(space: gym.Space, reads: Sequence[str] = ()) -> dict[str, gym.spaces.Box]:
    """{path: Box} of the leaves that are normalised.

    Every Box but images that are not of a float type (`images.is_image`) and the side inputs (`types.SIDE_INPUTS`)
    other than `reads`. Of these the action features are compared between actions, and the others are no input of a
    network. Discrete, MultiDiscrete and MultiBinary leaves are names, not quantities.
    """
    aside = side_inputs(space).keys() - set(reads)
    found = {}
    for path, part in leaves(space):
        is_bytes = inputs.is_image(part) and not np.issubdtype(part.dtype, np.floating)
        if isinstance(part, gym.spaces.Box) and not is_bytes and not (path and path[0] in aside):
            found[_name(path)] = part
    return found


def by_path(x: Any, space: gym.Space) -> dict[str, Any]:
    """{path: array} of all leaves, named as those of `normalised_leaves`."""
    return dict(zip((_name(path) for path, _ in leaves(space)), leaf_values(space, x)))


def _name(path: tuple[Any, ...]) -> str:
    return "/".join([ROOT, *map(str, path)])


def _constant(value: tf.Tensor, name: str) -> tf.Variable:
    return tf.Variable(value, trainable=False, name=name)
