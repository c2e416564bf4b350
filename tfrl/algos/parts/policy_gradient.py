"""Shared parts of the policy-gradient algorithms: settings, a policy in training, advantages of a batch of unrolls, and
the actor-critic loss.

An update goes: `evaluate` (or `evaluate_batch`) -> a `PolicyLoss` of each step -> `batch_loss`, all under the
algorithm's own tape, -> `Training.minimise`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfrl.agent import Agent, Learner, Network, Queue
from tfrl.losses import policy as policy_losses
from tfrl.losses import returns
from tfrl.nn import shared_policy, torsos
from tfrl.nn.actor_critic import ActorCritic
from tfrl.nn.normalise import ObservationMoments, ReturnScale
from tfrl.optim import apply
from tfrl.optim import settings as optim_settings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec, Trajectory

QUEUE_ITEMS = 64  # that may wait where actors wait for the weights that they have trained


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of every algorithm of the family, a base of their `Config`s before `OptimizerSettings` and
    `ModelSettings`: it has other defaults for some of their settings."""

    discount: float = setting(0.99, "discount factor per env step", minimum=0.0, maximum=1.0)
    unroll_length: int = setting(
        128, "consecutive steps of each environment in an unroll", unit="env steps", minimum=1
    )
    entropy_coefficient: float = setting(
        0.0, "weight of the entropy bonus", minimum=0.0, resumable=True
    )
    normalize_rewards: bool = setting(
        False, "divide rewards by the running standard deviation of the discounted return"
    )

    optimizer_epsilon: float = with_default(OptimizerSettings, "optimizer_epsilon", 1e-5)
    gradient_clip_norm: float | None = with_default(OptimizerSettings, "gradient_clip_norm", 0.5)


def value_coefficient(default: float) -> Any:
    """The setting of that name, for algorithms with a value function."""
    return setting(default, "weight of the value loss", minimum=0.0, idle_if={"baseline": False})


class Training(tf.Module):
    """A policy, its optimiser with a step size that decays over env steps, and running statistics.

    Attributes:
      policy: with value function if `critic`.
      optimizer: of its variables.
      statistics: of observations and returns.
      env_steps: int64 variable, written by the runtime.
    """

    def __init__(self, config: Settings, spec: EnvSpec, critic: bool = True):
        super().__init__()
        self._config = config
        self.policy = shared_policy.make(config, spec, critic)
        self.env_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="env_steps")
        variables = self.policy.trainable_variables
        self.optimizer = optim_settings.make(config, variables, self.env_steps)
        self.statistics = Statistics(config, self.policy)

    def learning_rate(self) -> tf.Tensor:
        """Step size of the next update, float32 scalar."""
        return optim_settings.learning_rate(self._config, self.env_steps, self.optimizer.iterations)

    def decayed(self, initial: float, final: float | None) -> tf.Tensor:
        """A number that changes where the learning rate's decay does, float32 scalar; see `optim.settings.decayed`."""
        return optim_settings.decayed(
            self._config, initial, final, self.env_steps, self.optimizer.iterations
        )

    def minimise(
        self, tape: tf.GradientTape, loss: BatchLoss, steps: PolicyLoss
    ) -> dict[str, tf.Tensor]:
        """One optimiser step on a loss of the batch, in replica context.

        Args:
          tape: has seen the loss.
          loss: of `batch_loss(policy, steps)`.
          steps: for the metrics.

        Returns:
          {metric: float32 scalar}, equal on all replicas.
        """
        # Gradient summed over replicas, clipped by its global norm, and applied with the step size of now.
        rate, variables = self.learning_rate(), self.policy.trainable_variables
        limit = self._config.gradient_clip_norm
        norm = apply.minimise(self.optimizer, tape, loss.total, variables, limit)
        # Means over the valid steps of all replicas.
        metrics = {
            "learner/loss": apply.reduce_sum(loss.total),
            "learner/gradient_norm": norm,
            "learner/learning_rate": rate,
            **{name: mean_of(x, steps.valid, loss.count) for name, x in steps.metrics.items()},
        }
        if loss.network is not None:
            metrics["learner/network_loss"] = apply.reduce_sum(loss.network)
        if self.policy.critic:
            metrics["learner/explained_variance"] = explained_variance(
                steps.values, steps.targets, steps.valid
            )
        return metrics

    def prepare(self, batch: Trajectory, lambda_: float | None) -> TrainBatch:
        """Advantages and everything else that is fixed while a batch is trained on; no gradient; in replica context.

        Observations are normalised by the statistics that acted, and only then are these brought up to date.

        Args:
          batch: leaves [T, B, ...].
          lambda_: of GAE (Schulman et al. 2016, eq. 16); None: returns that end with the episode, without bootstrap,
            minus the values if any.

        Returns:
          `TrainBatch` with n = T B rows, or with memory n = B.
        """
        policy, statistics = self.policy, self.statistics
        # Of a team whose agents share the policy, a column for each agent.
        batch = policy.columns(batch)
        # Outputs of the networks, T + 1 of them, with the weights and the statistics that acted.
        obs = policy.inputs(batch.obs)
        heads = policy.unroll(obs, batch.state, batch.is_first)
        reward = statistics.reward(batch)
        values = heads.values[:-1]
        # Advantages A_t and value targets: G_t - V_t and G_t, or those of GAE.
        if lambda_ is None:
            nothing = tf.zeros_like(reward)
            targets = returns.discounted_returns(
                reward, batch.discount, batch.is_last, nothing, batch.valid
            )
            gae = returns.Gae(targets - values, targets)
        else:
            gae = returns.gae(
                reward,
                batch.discount,
                batch.is_last,
                values,
                heads.values[1:],
                lambda_,
                batch.valid,
            )
        # From the next batch on, observations are normalised by statistics that know this one.
        statistics.merge(policy, batch)
        # One row for each step, or with memory for each sequence.
        steps = TrainBatch(
            obs=tf.nest.map_structure(lambda x: x[:-1], obs),
            sample=policy.samples(batch.action, batch.extras),
            log_prob=batch.extras["log_prob"],
            params=heads.params[:-1],
            advantages=gae.advantages,
            targets=gae.targets,
            values=values,
            valid=batch.valid,
            is_first=batch.is_first[:-1] if policy.recurrent else (),
            state=(),
        )
        return to_rows(steps, policy.recurrent)._replace(state=batch.state)


class PolicyLearner(Learner):
    """Base of the family's learners: one policy, trained by one optimiser. An algorithm adds `update`.

    Args:
      config, spec, critic: as `Training` takes them.
    """

    def __init__(self, config: Settings, spec: EnvSpec, critic: bool = True):
        super().__init__()
        self._config = config
        self._training = Training(config, spec, critic)
        self.policy, self.env_steps = self._training.policy, self._training.env_steps

    def adopt(self, env_steps: int) -> None:
        """Implements `Learner.adopt`: continues from the policy's statistics of observations."""
        if self._training.statistics.observations is not None:
            self._training.statistics.observations.adopt(self.policy.normaliser, env_steps)

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: policy and value function, which one optimiser trains."""
        optimizer = self._training.optimizer
        outputs = {id(v) for v in self.policy.output_kernels}
        return tuple(
            Network(name, variables, optimizer, outputs=[v for v in variables if id(v) in outputs])
            for name, variables in self.policy.networks().items()
        )


class TrainBatch(NamedTuple):
    """A batch that is ready for updates, or a minibatch of it: leaves [n, ...], one row per step.

    With memory a row is a whole sequence, leaves [n, T, ...], and `state` is the one before it, leaves [n, ...].

    Attributes:
      obs: inputs of the networks (`ActorCritic.inputs`).
      sample: actions as the distribution takes them.
      log_prob, params: of the weights that acted; float32, `params` with P as the last axis.
      advantages, targets, values: as estimated with them; float32, in units of the learner's rewards.
      valid: bool.
      is_first: bool, see `Trajectory`; () without memory.
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
    is_first: Any
    state: Any


class Statistics(tf.Module):
    """Running statistics of observations and returns; every batch of fresh experience is merged once."""

    def __init__(self, config: Settings, policy: ActorCritic):
        super().__init__()
        self.observations = self.rewards = None
        if config.normalize_observations:
            self.observations = ObservationMoments(policy.seen.observation_space, policy.reads)
        if config.normalize_rewards:
            self.rewards = ReturnScale()

    def reward(self, batch: Trajectory) -> tf.Tensor:
        """The batch's rewards, float32 [T, B], in units of the deviation of returns, which takes in the batch first.

        In replica context. Without normalisation of rewards they are as they came.
        """
        if self.rewards is None:
            return batch.reward
        self.rewards.update(batch.discounted_return, batch.valid & batch.is_new)
        return self.rewards(batch.reward)

    def merge(self, policy: ActorCritic, batch: Trajectory) -> None:
        """Takes in the batch's observations; the policy's normaliser changes, so call it after what must not.

        In replica context; nothing happens without normalisation of observations.
        """
        if self.observations is None:
            return
        obs = tf.nest.map_structure(lambda x: x[:-1], batch.obs)
        self.observations.merge(obs, batch.valid & batch.is_new)
        policy.normaliser.update(self.observations)


def to_rows(steps: TrainBatch, recurrent: bool) -> TrainBatch:
    """Leaves [T, B, ...] -> [T * B, ...], or with memory [B, T, ...]."""
    if recurrent:
        return tf.nest.map_structure(_swap, steps)
    return tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *x.shape[2:]]), steps)


def _swap(x: tf.Tensor) -> tf.Tensor:
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


class PolicyOutputs(NamedTuple):
    """Outputs of the present weights on steps, float32: params [..., P]; values, log_prob and entropy (nats) [...]."""

    params: tf.Tensor
    values: tf.Tensor
    log_prob: tf.Tensor
    entropy: tf.Tensor


def evaluate(policy: ActorCritic, rows: TrainBatch) -> tuple[PolicyOutputs, TrainBatch]:
    """Outputs of the present weights on a minibatch, and the minibatch laid out alike: [n] or, with memory, [T, n]."""
    if policy.recurrent:
        rows = tf.nest.map_structure(_swap, rows._replace(state=()))._replace(state=rows.state)
        heads = policy.unroll(rows.obs, rows.state, rows.is_first, training=True)
    else:
        heads = policy.heads(rows.obs, training=True)
    return _outputs(policy, heads.params, heads.values, rows.sample), rows


def evaluate_batch(
    policy: ActorCritic, batch: Trajectory, training: bool = True
) -> tuple[PolicyOutputs, tf.Tensor]:
    """Outputs of the present weights on unrolls, leaves [T, B, ...], and V of the observation after each step [T, B].

    Args:
      training: mode of a user's network; False where no gradient is taken.
    """
    heads = policy.unroll(policy.inputs(batch.obs), batch.state, batch.is_first, training)
    sample = policy.samples(batch.action, batch.extras)
    return _outputs(policy, heads.params[:-1], heads.values[:-1], sample), heads.values[1:]


def _outputs(
    policy: ActorCritic, params: tf.Tensor, values: tf.Tensor, sample: Any
) -> PolicyOutputs:
    distribution = policy.distribution
    log_prob = distribution.log_prob(params, sample)
    return PolicyOutputs(params, values, log_prob, distribution.entropy(params))


def standardised(rows: TrainBatch, per_minibatch: bool) -> tf.Tensor:
    """Advantages with mean 0 and deviation 1 over the valid rows of all replicas: RLlib's form or, per minibatch, that
    of Stable-Baselines3.

    In replica context.

    Args:
      rows: advantages float32 and valid bool, [n] or with memory [n, T].
      per_minibatch: divide by the sample's deviation plus 1e-8; else by the population's, at least 1e-4.

    Returns:
      float32, the shape of the advantages; entries that are not valid are meaningless.
    """
    mean, variance = apply.masked_moments(rows.advantages, rows.valid)
    if per_minibatch:
        count = apply.masked_count(rows.valid)
        return policy_losses.standardise_minibatch(rows.advantages, mean, variance, count)
    return policy_losses.standardise(rows.advantages, mean, variance)


class PolicyLoss(NamedTuple):
    """Loss of each step, all of one shape, e.g. [n] or [T, B].

    Attributes:
      loss: float32, the quantity to minimise.
      metrics: {metric: float32}, logged as means over valid steps.
      valid: bool, steps that count.
      values, targets: float32, V and what it should be; for the explained variance.
    """

    loss: tf.Tensor
    metrics: dict[str, tf.Tensor]
    valid: tf.Tensor
    values: tf.Tensor
    targets: tf.Tensor


class BatchLoss(NamedTuple):
    """Loss of a batch, float32 scalars.

    Attributes:
      total: this replica's part of what is minimised; the sum over replicas is the mean over the global batch.
      count: valid steps of the global batch.
      network: this replica's part of the losses that a user's network adds; None where there are none.
    """

    total: tf.Tensor
    count: tf.Tensor
    network: tf.Tensor | None


def batch_loss(policy: ActorCritic, steps: PolicyLoss) -> BatchLoss:
    """Mean over the valid steps of all replicas, plus the losses of a user's network; under the tape, in replica
    context."""
    count = apply.masked_count(steps.valid)
    total, network = apply.masked_mean(steps.loss, steps.valid, count), None
    added = policy.losses()  # e.g. penalties on weights
    if added:
        network = apply.global_mean(tf.add_n(added))
        total += network
    return BatchLoss(total, count, network)


def actor_critic_loss(
    config: Any,
    policy: ActorCritic,
    new: PolicyOutputs,
    advantages: tf.Tensor,
    targets: tf.Tensor,
    valid: tf.Tensor,
) -> PolicyLoss:
    """-log pi A + c_v (V - target)^2 / 2 - c_e H of each step (Mnih et al. 2016, section 4); the second with a critic.

    Args:
      config: has the entropy coefficient c_e and, with a critic, the value coefficient c_v.
      policy: decides whether there is a critic.
      new: steps under the present weights, log_prob, values and entropy [...].
      advantages, targets: float32 [...]; no gradient flows through them.
      valid: bool [...]; nothing is left out of the loss here.

    Raises:
      ValueError: `advantages` of another shape than the log-probabilities.
    """
    # Policy gradient -log pi(a|s) A with the entropy bonus.
    policy_loss = policy_losses.policy_gradient(new.log_prob, advantages)
    loss = policy_loss - config.entropy_coefficient * new.entropy
    metrics = {"learner/policy_loss": policy_loss, "learner/entropy": new.entropy}
    # Value loss (V - target)^2 / 2.
    if policy.critic:
        value_loss = 0.5 * (new.values - tf.stop_gradient(targets)) ** 2
        loss += config.value_coefficient * value_loss
        metrics["learner/value_loss"] = value_loss
    return PolicyLoss(loss, metrics, valid, new.values, targets)


def shared_variable(value: tf.Tensor, name: str) -> tf.Variable:
    """An untrained variable that all replicas set to the same value; it has the shape and dtype of `value`."""
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(value, trainable=False, aggregation=first, name=name)


def mean_of(x: tf.Tensor, valid: tf.Tensor, count: tf.Tensor | None = None) -> tf.Tensor:
    """A metric: the mean over valid steps of all replicas, without gradient; in replica context.

    Args:
      x: float32 of any shape.
      valid: bool, the shape of `x`.
      count: `apply.masked_count(valid)` where it is known already.

    Returns:
      float32 scalar, equal on all replicas; 0 where no step is valid.

    Raises:
      ValueError: shapes that differ.
    """
    return apply.reduce_sum(apply.masked_mean(tf.stop_gradient(x), valid, count))


def explained_variance(values: tf.Tensor, targets: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Share of the targets' variance that the values explain, over valid steps of all replicas; in replica context.

    Args:
      values, targets: float32 of any shape.
      valid: bool, the same shape.

    Returns:
      float32 scalar, equal on all replicas: 1 is perfect; 0 if targets do not vary.

    Raises:
      ValueError: `valid` of another shape.
    """
    _, residual = apply.masked_moments(targets - values, valid)
    _, total = apply.masked_moments(targets, valid)
    return policy_losses.explained_variance(residual, total)


def make_agent(
    algo: str,
    config: Any,
    spec: EnvSpec,
    learner: Callable[[], Learner],
    queue: Queue,
    *,
    critic: bool = True,
    updates_per_publish: int = 1,
    actor_compute: Callable | None = None,
) -> Agent:
    """An agent of the family: an `ActorCritic` that learns from a queue and has no knobs.

    Args:
      algo: name, for messages.
      learner, queue, updates_per_publish, actor_compute: of the agent.
      critic: the policy has a value function.

    Raises:
      SettingError: settings that do not fit the environment's spaces.
    """
    shared_policy.check(config, spec, algo, sends_gradients=actor_compute is not None)
    return Agent(
        make_policy=lambda: shared_policy.make(config, spec, critic),
        make_learner=learner,
        experience=queue,
        updates_per_publish=updates_per_publish,
        knobs=lambda place, env_steps, facts: {},
        actor_compute=actor_compute,
        notes=torsos.notes(config, shared_policy.seen_spec(config, spec)),
    )
