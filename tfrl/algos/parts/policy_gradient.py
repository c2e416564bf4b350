"""What the policy-gradient algorithms share: settings, optimiser, and advantages of a batch of unrolls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfrl.agent import Agent, Learner, Network, Queue, Unroll
from tfrl.errors import SettingError
from tfrl.losses import policy as policy_losses
from tfrl.losses import returns, vtrace
from tfrl.nn import actor_critic, torsos
from tfrl.nn.actor_critic import ActorCritic
from tfrl.nn.normalise import ObservationMoments, ReturnScale
from tfrl.optim import apply
from tfrl.optim import settings as optim_settings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec, Trajectory, UpdateOutput

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


@dataclasses.dataclass(frozen=True)
class AsyncSettings:
    """Settings of actors that do not wait for the learner, and of the V-trace that makes up for it.

    Comes before the other bases of a `Config`: it has other defaults for some of their settings.
    """

    unroll_length: int = setting(
        50, "consecutive steps of each environment in an unroll", unit="env steps", minimum=1
    )
    value_coefficient: float = value_coefficient(0.5)
    entropy_coefficient: float = setting(
        0.01, "weight of the entropy bonus", minimum=0.0, resumable=True
    )
    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 5e-4)
    shared_torso: bool = setting(
        True, "policy and value function share one network instead of having one each"
    )
    batch_env_steps: int = setting(
        500, "minimum batch size; 0: one unroll from each actor", unit="env steps", minimum=0
    )
    queue_items: int = setting(
        16,
        "maximum number of unrolls that wait for the learner; actors wait while the queue is full",
        unit="items",
        minimum=1,
        idle_if={"backend": "inprocess"},
    )
    vtrace: bool = setting(
        True, "correct for outdated acting weights with V-trace; false: uncorrected GAE advantages"
    )
    trace_lambda: float = setting(1.0, "lambda of V-trace or GAE", minimum=0.0, maximum=1.0)
    rho_bar: float | None = setting(
        1.0,
        "upper limit of the importance ratio in value targets; none: no limit",
        above=0.0,
        idle_if={"vtrace": False},
    )
    pg_rho_bar: float | None = setting(
        1.0,
        "upper limit of the importance ratio in advantages; none: no limit",
        above=0.0,
        idle_if={"vtrace": False},
    )
    normalize_advantage: str = setting(
        "none", "standardise advantages over the batch, or not at all", choices=("batch", "none")
    )
    replay_proportion: float = setting(
        0.0, "replayed unrolls per new unroll in training", minimum=0.0
    )
    replay_unrolls: int = setting(
        100, "number of unrolls kept for replay", minimum=1, idle_if={"replay_proportion": 0.0}
    )
    passes: int = setting(1, "number of times each batch is trained on", minimum=1)
    pass_buffer_batches: int = setting(
        1,
        "number of batches that the learner cycles through; above 1 it needs passes above 1",
        minimum=1,
    )
    broadcast_interval_updates: int = setting(
        1,
        "minimum number of updates between two publications of weights to the actors",
        unit="updates",
        minimum=1,
        idle_if={"backend": "inprocess"},
    )


def async_queue(config: Any) -> Queue:
    """The queue of unrolls that `AsyncSettings` describe, and how batches are made of them."""
    return Queue(
        Unroll(config.unroll_length, config.discount),
        capacity_items=config.queue_items,
        batch_env_steps=config.batch_env_steps,
        passes=config.passes,
        pass_buffer_batches=config.pass_buffer_batches,
        replay_proportion=config.replay_proportion,
        replay_items=config.replay_unrolls,
    )


def check_async(config: AsyncSettings) -> None:
    """Raises SettingError for settings of `AsyncSettings` that contradict each other."""
    if config.pass_buffer_batches > 1 and config.passes == 1:
        raise SettingError(
            f"pass_buffer_batches={config.pass_buffer_batches} with passes=1: "
            "batches are kept for further passes only; give passes or leave it at 1"
        )


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
        self.policy = ActorCritic(config, spec, critic)
        self.env_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="env_steps")
        variables = self.policy.trainable_variables
        self.optimizer = optim_settings.make(config, variables, self.env_steps)
        self.statistics = Statistics(config, spec)

    def adopt(self, env_steps: int) -> None:
        """Implements `Learner.adopt`: continues from the policy's statistics of observations."""
        if self.statistics.observations is not None:
            self.statistics.observations.adopt(self.policy.normaliser, env_steps)

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: policy and value function, which one optimiser trains."""
        found = self.policy.networks().items()
        return tuple(Network(name, variables, self.optimizer) for name, variables in found)

    def learning_rate(self) -> tf.Tensor:
        """Step size now, float32 scalar."""
        return optim_settings.learning_rate(self._config, self.env_steps, self.optimizer.iterations)

    def decayed(self, initial: float, final: float | None) -> tf.Tensor:
        """A number that changes where the learning rate's decay does, float32 scalar; see `optim.settings.decayed`."""
        return optim_settings.decayed(
            self._config, initial, final, self.env_steps, self.optimizer.iterations
        )

    def minimise(self, compute: Callable[[], Step]) -> dict[str, tf.Tensor]:
        """One optimiser step on the mean of a loss over the valid steps of all replicas, in replica context.

        Args:
          compute: makes the step; called under a tape.

        Returns:
          {metric: float32 scalar}, equal on all replicas.
        """
        policy, rate = self.policy, self.learning_rate()
        with tf.GradientTape() as tape:
            step = compute()
            count = apply.masked_count(step.valid)
            loss = apply.masked_mean(step.loss, step.valid, count)
            own = policy.losses()  # e.g. penalties on the weights of a user's network
            if own:
                own_loss = apply.global_mean(tf.add_n(own))
                loss += own_loss
        limit = self._config.gradient_clip_norm
        norm = apply.minimise(self.optimizer, tape, loss, policy.trainable_variables, limit)
        metrics = {
            "learner/loss": apply.reduce_sum(loss),
            "learner/gradient_norm": norm,
            "learner/learning_rate": rate,
            **{name: mean_of(x, step.valid, count) for name, x in step.parts.items()},
        }
        if own:
            metrics["learner/network_loss"] = apply.reduce_sum(own_loss)
        if policy.critic:
            metrics["learner/explained_variance"] = explained_variance(
                step.values, step.targets, step.valid
            )
        return metrics

    def actor_critic_update(self, rows: Rows) -> UpdateOutput:
        """One step along the advantages that `rows` carry: the update of PG and A2C; see `actor_critic_step`."""

        def compute() -> Step:
            new, old = evaluate(self.policy, rows)
            return actor_critic_step(
                self._config, self.policy, new, old.advantages, old.targets, old.valid
            )

        return UpdateOutput(self.minimise(compute), None)

    def prepare(self, batch: Trajectory, lambda_: float | None) -> Rows:
        """Advantages and everything else that is fixed while a batch is trained on; no gradient; in replica context.

        Observations are normalised by the statistics that acted, and only then are these brought up to date.

        Args:
          batch: leaves [T, B, ...].
          lambda_: of GAE (Schulman et al. 2016, eq. 16); None: returns that end with the episode, without bootstrap,
            minus the values if any.

        Returns:
          `Rows`, n = T B of them, or with memory n = B.
        """
        policy, statistics = self.policy, self.statistics
        obs = policy.inputs(batch.obs)
        heads = policy.unroll(obs, batch.state, batch.is_first)
        reward = statistics.reward(batch)
        values = heads.values[:-1]
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
            is_first=batch.is_first[:-1] if policy.recurrent else (),
            state=(),
        )
        return to_rows(steps, policy.recurrent)._replace(state=batch.state)


class Rows(NamedTuple):
    """A batch as minibatches take it: leaves [n, ...], one row per step.

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

    def __init__(self, config: Settings, spec: EnvSpec):
        super().__init__()
        self.observations = self.rewards = None
        if config.normalize_observations:
            self.observations = ObservationMoments(spec.observation_space)
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


def to_rows(steps: Rows, recurrent: bool) -> Rows:
    """Leaves [T, B, ...] -> [T * B, ...], or with memory [B, T, ...]."""
    if recurrent:
        return tf.nest.map_structure(_swap, steps)
    return tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *x.shape[2:]]), steps)


def _swap(x: tf.Tensor) -> tf.Tensor:
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


class Evaluated(NamedTuple):
    """Steps under the present weights, float32: params [..., P]; values, log_prob and entropy (nats) [...]."""

    params: tf.Tensor
    values: tf.Tensor
    log_prob: tf.Tensor
    entropy: tf.Tensor


def evaluate(policy: ActorCritic, rows: Rows) -> tuple[Evaluated, Rows]:
    """What the present weights make of a minibatch, and the minibatch laid out alike: [n] or, with memory, [T, n]."""
    if policy.recurrent:
        rows = tf.nest.map_structure(_swap, rows._replace(state=()))._replace(state=rows.state)
        heads = policy.unroll(rows.obs, rows.state, rows.is_first, training=True)
    else:
        heads = policy.heads(rows.obs, training=True)
    return _evaluated(policy, heads.params, heads.values, rows.sample), rows


def evaluate_batch(
    policy: ActorCritic, batch: Trajectory, training: bool = True
) -> tuple[Evaluated, tf.Tensor]:
    """What the present weights make of unrolls, leaves [T, B, ...], and V of the observation after each step [T, B].

    Args:
      training: mode of a user's network; False where no gradient is taken.
    """
    heads = policy.unroll(policy.inputs(batch.obs), batch.state, batch.is_first, training)
    sample = policy.samples(batch.action, batch.extras)
    return _evaluated(policy, heads.params[:-1], heads.values[:-1], sample), heads.values[1:]


def _evaluated(policy: ActorCritic, params: tf.Tensor, values: tf.Tensor, sample: Any) -> Evaluated:
    distribution = policy.distribution
    log_prob = distribution.log_prob(params, sample)
    return Evaluated(params, values, log_prob, distribution.entropy(params))


def standardised(rows: Rows, per_minibatch: bool) -> tf.Tensor:
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


class Step(NamedTuple):
    """What an update needs, all of one shape, e.g. [n] or [T, B].

    Attributes:
      loss: float32, of each step.
      parts: {metric: float32}, logged as means over valid steps.
      valid: bool, steps that count.
      values, targets: float32, V and what it should be; for the explained variance.
    """

    loss: tf.Tensor
    parts: dict[str, tf.Tensor]
    valid: tf.Tensor
    values: tf.Tensor
    targets: tf.Tensor


def actor_critic_step(
    config: Any,
    policy: ActorCritic,
    new: Evaluated,
    advantages: tf.Tensor,
    targets: tf.Tensor,
    valid: tf.Tensor,
) -> Step:
    """-log pi A + c_v (V - target)^2 / 2 - c_e H per step (Mnih et al. 2016, section 4); the second with a critic.

    Args:
      config: has the entropy coefficient c_e and, with a critic, the value coefficient c_v.
      policy: decides whether there is a critic.
      new: steps under the present weights, log_prob, values and entropy [...].
      advantages, targets: float32 [...]; no gradient flows through them.
      valid: bool [...]; nothing is left out of the loss here.

    Raises:
      ValueError: `advantages` of another shape than the log-probabilities.
    """
    policy_loss = policy_losses.policy_gradient(new.log_prob, advantages)
    loss = policy_loss - config.entropy_coefficient * new.entropy
    parts = {"learner/policy_loss": policy_loss, "learner/entropy": new.entropy}
    if policy.critic:
        value_loss = 0.5 * (new.values - tf.stop_gradient(targets)) ** 2
        loss += config.value_coefficient * value_loss
        parts["learner/value_loss"] = value_loss
    return Step(loss, parts, valid, new.values, targets)


def off_policy(
    config: Any, batch: Trajectory, new: Evaluated, log_prob: tf.Tensor, values_next: tf.Tensor
) -> vtrace.VTrace:
    """Value targets and advantages of unrolls that older weights made, float32 [T, B]; no gradient.

    By V-trace (Espeholt et al. 2018, section 4.1), or without it by GAE (Schulman et al. 2016, eq. 16); in replica
    context.

    Args:
      config: `AsyncSettings`.
      batch: leaves [T, B, ...]; its extras hold the log-probabilities of acting time.
      new: for the values [T, B].
      log_prob: of the actions under the policy whose advantages are wanted [T, B].
      values_next: V after each step [T, B].

    Raises:
      ValueError: ranks or shapes that do not fit.
    """
    behaviour, values = batch.extras["log_prob"], tf.stop_gradient(new.values)
    log_prob, values_next = tf.stop_gradient(log_prob), tf.stop_gradient(values_next)
    if config.vtrace:
        trace = vtrace.from_log_probs(
            log_prob, behaviour, batch.reward, batch.discount, batch.is_last, values, values_next,
            config.rho_bar, config.pg_rho_bar, lambda_=config.trace_lambda, valid=batch.valid,
        )  # fmt: skip
    else:
        gae = returns.gae(
            batch.reward, batch.discount, batch.is_last, values, values_next, config.trace_lambda,
            batch.valid,
        )  # fmt: skip
        ratio = policy_losses.ratio(log_prob, behaviour)
        trace = vtrace.VTrace(gae.advantages, gae.targets, ratio)
    if config.normalize_advantage == "batch":
        mean, variance = apply.masked_moments(trace.advantages, batch.valid)
        standard = policy_losses.standardise(trace.advantages, mean, variance)
        trace = trace._replace(advantages=standard)
    return trace


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
    actor_critic.check(config, spec, algo, sends_gradients=actor_compute is not None)
    return Agent(
        make_policy=lambda: ActorCritic(config, spec, critic),
        make_learner=learner,
        experience=queue,
        updates_per_publish=updates_per_publish,
        knobs=lambda place, env_steps, facts: {},
        actor_compute=actor_compute,
        notes=torsos.notes(config, spec),
    )
