"""What the policy-gradient algorithms share: settings, optimiser, and advantages of a batch of unrolls."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from tfrl.agent import ReplayPlan, SequenceOf
from tfrl.config.settings import SettingError, setting, validate
from tfrl.losses import policy as policy_losses
from tfrl.losses import returns
from tfrl.nn.actor_critic import ActorCritic, ModelSettings
from tfrl.nn.normalise import ReturnScale, RunningObservationMoments
from tfrl.optim import apply, optimizers, schedules
from tfrl.types import EnvSpec, Trajectory


@dataclasses.dataclass(frozen=True)
class Settings(ModelSettings):
    """Settings of every algorithm of the family, a base of their `Config`s."""

    discount: float = setting(0.99, "discount of the return per env step", minimum=0.0, maximum=1.0)
    unroll_length: int = setting(
        128, "consecutive steps of each environment in an item", unit="env steps", minimum=1
    )
    value_coefficient: float = setting(0.5, "weight of the value loss", minimum=0.0)
    entropy_coefficient: float = setting(0.0, "weight of the entropy bonus", minimum=0.0)
    normalize_rewards: bool = setting(
        False, "divide rewards by the running deviation of the discounted return"
    )

    optimizer: str = setting(
        "adam", "who steps", choices=("adam", "rmsprop", "rmsprop_tf1", "sgd")
    )
    learning_rate: float = setting(3e-4, "step size", above=0.0)
    learning_rate_final: float | None = setting(
        None, "step size at the end of its decay; none: constant", minimum=0.0
    )
    learning_rate_env_steps: int = setting(0, "length of that decay", unit="env steps", minimum=0)
    optimizer_epsilon: float = setting(1e-5, "epsilon of Adam or RMSProp", above=0.0)
    rmsprop_decay: float = setting(0.99, "decay of RMSProp", minimum=0.0, maximum=1.0)
    gradient_clip_norm: float | None = setting(
        0.5, "largest global norm of the gradient; none: no limit", above=0.0
    )

    def __post_init__(self) -> None:
        validate(self)
        if (self.learning_rate_final is None) != (self.learning_rate_env_steps == 0):
            raise SettingError(
                f"learning_rate_final={self.learning_rate_final} with learning_rate_env_steps="
                f"{self.learning_rate_env_steps}: give both or neither"
            )


class Clock(tf.Module):
    """The optimiser of a policy, with a step size that decays over env steps.

    Attributes:
      env_steps: int64 variable, written by the runtime.
      optimizer: of the given variables.
    """

    def __init__(self, config: Settings, variables: Any):
        super().__init__()
        self._config = config
        self.env_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="env_steps")
        options: dict[str, float] = {}
        if config.optimizer != "sgd":
            options["epsilon"] = config.optimizer_epsilon
        if config.optimizer.startswith("rmsprop"):
            options["decay"] = config.rmsprop_decay
        self.optimizer = optimizers.make(
            config.optimizer, variables, lambda updates: self.rate(), **options
        )

    def rate(self) -> tf.Tensor:
        """Step size now, float32 scalar."""
        config = self._config
        return self.linear(
            config.learning_rate, config.learning_rate_final, config.learning_rate_env_steps
        )

    def linear(self, initial: float, final: float | None, env_steps: int) -> tf.Tensor:
        """A schedule over the env steps of the run; `final` None: constant."""
        if final is None:
            return tf.constant(initial, tf.float32)
        return schedules.linear(initial, final, env_steps, self.env_steps)


class Rows(NamedTuple):
    """A batch as minibatches take it: leaves [n, ...], one row per step.

    With memory a row is a whole sequence, leaves [n, T, ...], and `state` is the one before it.

    Attributes:
      obs: inputs of the networks (`ActorCritic.inputs`).
      sample: actions as the distribution takes them.
      log_prob, params: of the weights that acted.
      advantages, targets, values: as estimated with them.
      valid: bool.
      fresh: bool, see `Trajectory`; () without memory.
      state: () without memory.
    """

    obs: Any
    sample: Any
    log_prob: Any
    params: Any
    advantages: Any
    targets: Any
    values: Any
    valid: Any
    fresh: Any
    state: Any


class Statistics(tf.Module):
    """Running statistics of observations and returns; every batch of fresh experience is merged once."""

    def __init__(self, config: Settings, spec: EnvSpec):
        super().__init__()
        self.observations = self.rewards = None
        if config.normalize_observations:
            self.observations = RunningObservationMoments(spec.observation_space)
        if config.normalize_rewards:
            self.rewards = ReturnScale()

    def reward(self, batch: Trajectory) -> tf.Tensor:
        """The batch's rewards [T, B] in units of the deviation of returns, which takes in the batch first."""
        if self.rewards is None:
            return batch.reward
        self.rewards.update(batch.return_so_far, batch.valid)
        return self.rewards(batch.reward)

    def merge(self, policy: ActorCritic, batch: Trajectory) -> None:
        """Takes in the batch's observations; the policy's normaliser changes, so call it after what must not."""
        if self.observations is None:
            return
        obs = tf.nest.map_structure(lambda x: x[:-1], batch.obs)
        self.observations.merge(obs, batch.valid)
        policy.normaliser.update(self.observations)


def prepare(
    config: Settings, lambda_: float, policy: ActorCritic, statistics: Statistics, batch: Trajectory
) -> Rows:
    """Advantages by GAE and everything else that is fixed while a batch is trained on; no gradient.

    Observations are normalised by the statistics that acted, and only then are these brought up to date.
    """
    obs = policy.inputs(batch.obs)
    heads = policy.unroll(obs, batch.state, batch.fresh)
    reward = statistics.reward(batch)
    values = heads.values[:-1]
    gae = returns.gae(
        reward, batch.discount, batch.cut, values, heads.values[1:], lambda_, batch.valid
    )
    statistics.merge(policy, batch)
    steps = Rows(
        obs=tf.nest.map_structure(lambda x: x[:-1], obs),
        sample=policy.samples(batch.action, batch.extras),
        log_prob=batch.extras["log_prob"],
        params=heads.params[:-1],
        advantages=gae.advantages,
        targets=gae.targets,
        values=values,
        valid=batch.valid,
        fresh=batch.fresh[:-1] if policy.recurrent else (),
        state=(),
    )
    return to_rows(steps, policy.recurrent)._replace(state=batch.state)


def to_rows(steps: Rows, recurrent: bool) -> Rows:
    """Leaves [T, B, ...] -> [T * B, ...], or with memory [B, T, ...]."""
    if recurrent:
        return tf.nest.map_structure(_swap, steps)
    return tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *x.shape[2:]]), steps)


def _swap(x: tf.Tensor) -> tf.Tensor:
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


class Evaluated(NamedTuple):
    """A minibatch under the present weights, leaves [n] or, with memory, [T, n]; `rows` laid out alike."""

    rows: Rows
    params: tf.Tensor
    values: tf.Tensor
    log_prob: tf.Tensor
    entropy: tf.Tensor


def evaluate(policy: ActorCritic, rows: Rows) -> Evaluated:
    """What the present weights make of a minibatch."""
    if policy.recurrent:
        rows = tf.nest.map_structure(_swap, rows._replace(state=()))._replace(state=rows.state)
        heads = policy.unroll(rows.obs, rows.state, rows.fresh)
    else:
        heads = policy.heads(rows.obs)
    distribution = policy.distribution
    return Evaluated(
        rows,
        heads.params,
        heads.values,
        distribution.log_prob(heads.params, rows.sample),
        distribution.entropy(heads.params),
    )


def standardised(rows: Rows, per_minibatch: bool) -> tf.Tensor:
    """Advantages with mean 0 and deviation 1 over the valid rows of all replicas: RLlib's form or, per minibatch, that
    of Stable-Baselines3."""
    mean, variance = apply.masked_moments(rows.advantages, rows.valid)
    if per_minibatch:
        count = apply.masked_count(rows.valid)
        return policy_losses.standardise_minibatch(rows.advantages, mean, variance, count)
    return policy_losses.standardise(rows.advantages, mean, variance)


def mean_of(x: tf.Tensor, valid: tf.Tensor, count: tf.Tensor | None = None) -> tf.Tensor:
    """A metric: the mean over valid steps of all replicas, without gradient."""
    return apply.reduce_sum(apply.masked_mean(tf.stop_gradient(x), valid, count))


def explained_variance(values: tf.Tensor, targets: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Share of the targets' variance that the values explain, over valid steps of all replicas."""
    _, residual = apply.masked_moments(targets - values, valid)
    _, total = apply.masked_moments(targets, valid)
    return policy_losses.explained_variance(residual, total)


def queue(
    config: Settings, capacity_items: int, max_lag_updates: int | None, episodes: int = 0
) -> ReplayPlan:
    """A bounded first-in-first-out queue of unrolls, each trained on once."""
    return ReplayPlan(
        kind="queue",
        item=SequenceOf(config.unroll_length, config.discount, episodes),
        capacity_items=capacity_items,
        min_items=0,
        samples_per_insert=1.0,
        max_times_sampled=1,
        max_policy_lag_updates=max_lag_updates,
    )
