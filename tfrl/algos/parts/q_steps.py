"""From a batch of the replay to the rows that a loss of action values compares, with the features of both networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfrl.algos.parts.q_policy import QPolicy
from tfrl.algos.parts.replay_settings import has_memory
from tfrl.losses import returns
from tfrl.nn.body import flat
from tfrl.types import Trajectory, Transition


class TDBatch(NamedTuple):
    """The two sides of a temporal-difference loss, rows [n]: transitions, or steps of one sequence after the other.

    Attributes:
      obs_tm1, obs_t: observations acted on and bootstrapped from; for masks and action features.
      features_tm1, features_t: what the online network's body makes of them [n, F].
      target_features_t: features of `obs_t` by the body of the target network [n, F].
      action_tm1, reward_t, discount_t: as in `Transition`.
    """

    obs_tm1: Any
    obs_t: Any
    features_tm1: tf.Tensor
    features_t: tf.Tensor
    target_features_t: tf.Tensor
    action_tm1: tf.Tensor
    reward_t: tf.Tensor
    discount_t: tf.Tensor


def rows(config: Any, policy: QPolicy, target: QPolicy, batch: Transition | Trajectory) -> TDBatch:
    """The rows of a batch: transitions, or with a memory the steps of its sequences after the burn-in.

    Args:
      config: settings of the replay.
      policy, target: online and target policy.
      batch: leaves [b, ...], or with a memory [T, b, ...].
    """
    if has_memory(config):
        return of_sequences(policy, target, batch, config.n_step, config.burn_in)
    return of_transitions(policy, target, batch)


def of_transitions(policy: QPolicy, target: QPolicy, batch: Transition) -> TDBatch:
    """Each transition of a batch, leaves [b, ...], is a step: n = b rows.

    A user's network is in training mode where the gradient is taken, on `obs_tm1`, and is called there last.
    """
    obs_tm1, obs_t = policy.inputs(batch.obs_tm1), policy.inputs(batch.obs_t)
    features_t = policy.body.step(obs_t, ())[0]
    return TDBatch(
        obs_tm1=obs_tm1,
        obs_t=obs_t,
        features_tm1=policy.body.step(obs_tm1, (), training=True)[0],
        features_t=features_t,
        target_features_t=target.body.step(target.inputs(batch.obs_t), ())[0],
        action_tm1=batch.action_tm1,
        reward_t=batch.reward_t,
        discount_t=batch.discount_t,
    )


def of_sequences(
    policy: QPolicy, target: QPolicy, batch: Trajectory, n: int, burn_in: int
) -> TDBatch:
    """The steps after the burn-in: T' of each of b sequences, n = b T' rows.

    Both networks read the sequence from the stored state on. n-step sums end where the sequence or an episode does,
    with the discount that belongs to their length.
    """
    # Both networks refresh the stored state over the burn-in and read the rest, [T' + 1, b, F].
    features = policy.unroll(batch, burn_in, training=True)
    target_features = target.unroll(batch, burn_in)
    obs = tf.nest.map_structure(lambda x: x[burn_in:], batch.obs)
    steps = late_steps(batch, n, burn_in)
    return TDBatch(
        obs_tm1=steps.now(obs),
        obs_t=steps.then(obs),
        features_tm1=steps.now(features),
        features_t=steps.then(tf.stop_gradient(features)),
        target_features_t=steps.then(target_features),
        action_tm1=steps.action_tm1,
        reward_t=steps.reward_t,
        discount_t=steps.discount_t,
    )


class LateSteps(NamedTuple):
    """The steps of sequences after the burn-in, T' of each of b sequences: rows [b T'], sequence by sequence.

    Attributes:
      now: from a nest [T' + 1, b, ...] to what belongs to each step, [b T', ...].
      then: the same to what belongs to the observation that each step bootstraps from.
      action_tm1, reward_t, discount_t: as in `Transition`.
    """

    now: Callable[[Any], Any]
    then: Callable[[Any], Any]
    action_tm1: tf.Tensor
    reward_t: tf.Tensor
    discount_t: tf.Tensor


def late_steps(batch: Trajectory, n: int, burn_in: int) -> LateSteps:
    """The steps after the burn-in with their n-step returns, which end where the sequence or an episode does.

    Args:
      batch: leaves [T, b, ...].
      n: steps of a return.
      burn_in: of the T steps.
    """
    # n-step returns within the rest, and how many steps ahead each bootstraps, [T', b].
    late = (x[burn_in:] for x in (batch.reward, batch.discount, batch.is_last, batch.valid))
    reward, discount, is_last, valid = late
    ahead = returns.n_step(reward, discount, is_last, n, valid)
    steps, width = valid.shape
    # Place of the observation that each step bootstraps from, among [T' + 1, b] flattened.
    where = by_sequence((tf.range(steps)[:, None] + ahead.steps) * width + tf.range(width))

    def now(nest: Any) -> Any:
        return tf.nest.map_structure(lambda x: by_sequence(x[:steps]), nest)

    def then(nest: Any) -> Any:
        if n == 1:  # the next observation, without a gather
            return tf.nest.map_structure(lambda x: by_sequence(x[1:]), nest)
        return tf.nest.map_structure(lambda x: tf.gather(x, where), flat(nest))

    action = by_sequence(batch.action[burn_in:])
    return LateSteps(now, then, action, by_sequence(ahead.reward), by_sequence(ahead.discount))


def by_sequence(x: tf.Tensor) -> tf.Tensor:
    """[T, B, ...] -> [B * T, ...]: replicas, which have some of the sequences each, so have consecutive rows."""
    x = tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
    return tf.reshape(x, [-1, *x.shape[2:]])
