"""An algorithm with a second step on the batch of every so many updates, to check that every loop of a run makes it.

What it is: two linear models of the reward of the action taken. `update` trains the one that acts, `Learner.delayed`
the other, which is held at a random multiple of the reward; both take the seed, so that wrong seeds or wrong shares of
a replica change the weights. What it is not: useful.

Spaces: Box observations of one axis, Discrete actions. Data: transitions of a replay, or the steps of unrolls of a
queue. Differences from a published algorithm: it follows none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

import tfrl
from tfrl.agent import (
    Agent,
    Delayed,
    Learner,
    Network,
    NStep,
    Queue,
    Replay,
    Unroll,
)
from tfrl.optim import apply, optimizers
from tfrl.settings import setting, validate
from tfrl.types import EnvSpec, PolicyStep, Trajectory, Transition, UpdateOutput

METRICS = {
    "learner/delayed_loss": tfrl.Metric("", "loss of the delayed step"),
    "learner/delayed_at_updates": tfrl.Metric("updates", "mean number of updates at delayed steps"),
}
DISCOUNT = 0.9


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the check."""

    kind: str = setting(
        "uniform", "where data waits for the learner", choices=("uniform", "prioritized", "queue")
    )
    delayed_every_updates: int = setting(
        3, "interval between delayed steps", unit="updates", minimum=1
    )
    updates_per_call: int = setting(4, "updates per call", unit="updates", minimum=1)
    batch_size: int = setting(8, "transitions per update", unit="items", minimum=1)
    unroll_length: int = setting(5, "steps of an unroll", unit="env steps", minimum=1)
    epochs: int = setting(2, "passes over a batch of unrolls", minimum=1)
    minibatches: int = setting(2, "minibatches per pass", minimum=1)

    def __post_init__(self) -> None:
        validate(self)


class Linear(tf.Module):
    """Action values that are linear in the observation; acts greedily."""

    def __init__(self, spec: EnvSpec):
        super().__init__()
        self.noise: dict[str, Any] = {}
        size, actions = spec.observation_space.shape[0], int(spec.action_space.n)
        self.kernel = tf.Variable(tf.random.normal([size, actions], stddev=0.1), name="kernel")

    def values(self, obs: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        """Values float32 [n] of actions int32 [n] at observations [n, F]."""
        return tf.gather(tf.matmul(obs, self.kernel), action, batch_dims=1)

    def initial_state(self, batch_size: int, noise: Mapping[str, Any]) -> tuple:
        """Implements `Policy.initial_state`: no state."""
        del batch_size, noise
        return ()

    def step(self, obs: Any, state: Any, knobs: Any, noise: Any, explore: bool) -> PolicyStep:
        """Implements `Policy.step`: the action of the largest value."""
        del knobs, noise, explore
        action = tf.argmax(tf.matmul(obs, self.kernel), axis=1, output_type=tf.int32)
        return PolicyStep(action, state, {})


class Rows(NamedTuple):
    """Input of either step: obs [n, F], action int32 [n], reward float32 [n]."""

    obs: Any
    action: Any
    reward: Any


class DelayedLearner(Learner):
    """Two models with an optimiser each.

    Attributes:
      second: what the delayed step trains.
      steps: int64, delayed steps made.
      same: int64, those on the batch of the newest update.
      made: int64, updates made.
    """

    def __init__(self, config: Config, spec: EnvSpec):
        super().__init__()
        self._config = config
        self.policy, self.second = Linear(spec), Linear(spec)
        self.optimizer = optimizers.make("adam", self.policy.trainable_variables, 1e-2)
        self.second_optimizer = optimizers.make("adam", self.second.trainable_variables, 1e-2)
        first = dict(trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
        self._mark = tf.Variable(0.0, name="mark", **first)
        self.steps, self.same, self.made = (
            tf.Variable(0, dtype=tf.int64, name=name, **first) for name in ("steps", "same", "made")
        )

    def prepare(self, batch: Trajectory) -> Rows:
        """Implements `Learner.prepare`: the steps of the unrolls."""
        flat = lambda x: tf.reshape(x, [-1, *x.shape[2:]])
        return Rows(flat(batch.obs[:-1]), flat(batch.action), flat(batch.reward))

    def update(self, batch: Transition | Rows, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one step on the squared error of the reward, and a mark of the batch."""
        rows = _rows(batch)
        with tf.GradientTape() as tape:
            error = self.policy.values(rows.obs, rows.action) - rows.reward * _noise(rows, seed)
            loss = apply.global_mean(0.5 * error**2)
        norm = apply.minimise(self.optimizer, tape, loss, self.policy.trainable_variables)
        self._mark.assign(_mark(rows))
        self.made.assign_add(tf.constant(1, tf.int64))
        metrics = {"learner/loss": apply.reduce_sum(loss), "learner/gradient_norm": norm}
        priorities = tf.abs(error) + 0.1 if self._config.kind == "prioritized" else None
        return UpdateOutput(metrics, priorities)

    def delayed(self) -> Delayed:
        """Implements `Learner.delayed`: one step of the second model."""
        return Delayed(self._config.delayed_every_updates, self._second_step)

    def _second_step(self, batch: Transition | Rows, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = _rows(batch)
        with tf.GradientTape() as tape:
            error = self.second.values(rows.obs, rows.action) - rows.reward * _noise(rows, seed)
            loss = apply.global_mean(0.5 * error**2)
        apply.minimise(self.second_optimizer, tape, loss, self.second.trainable_variables)
        self.steps.assign_add(tf.constant(1, tf.int64))
        self.same.assign_add(tf.cast(tf.equal(self._mark, _mark(rows)), tf.int64))
        return {
            "learner/delayed_loss": apply.reduce_sum(loss),
            "learner/delayed_at_updates": tf.cast(self.made, tf.float32),
        }

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: both models."""
        return (
            Network("policy", self.policy.trainable_variables, self.optimizer),
            Network("second", self.second.trainable_variables, self.second_optimizer),
        )


def _rows(batch: Transition | Rows) -> Rows:
    if isinstance(batch, Rows):
        return batch
    return Rows(batch.obs_tm1, batch.action_tm1, batch.reward_t)


def _noise(rows: Rows, seed: tf.Tensor) -> tf.Tensor:
    """A factor for each row, [n], of the seed and the row's place in the global batch; XLA draws other numbers."""
    draw = lambda n: (
        1.0 + 0.5 * tf.cos(tf.range(n, dtype=tf.float32) + tf.cast(seed[1], tf.float32))
    )
    return apply.replica_rows(draw, rows.reward.shape[0])


def _mark(rows: Rows) -> tf.Tensor:
    """A number that differs from batch to batch, equal on all replicas."""
    return apply.reduce_sum(apply.global_mean(rows.reward + tf.reduce_sum(rows.obs, 1)))


def make(config: Config, spec: EnvSpec) -> Agent:
    """The check bound to an environment."""
    if config.kind == "queue":
        experience: Replay | Queue = Queue(
            Unroll(config.unroll_length, DISCOUNT),
            capacity_items=16,
            epochs=config.epochs,
            minibatches=config.minibatches,
            actors_wait=True,
        )
    else:
        experience = Replay(
            NStep(1, DISCOUNT),
            capacity_items=1_000,
            min_items=50,
            samples_per_insert=config.batch_size / 4.0,
            batch_size=config.batch_size,
            updates_per_call=config.updates_per_call,
            priority_exponent=0.6 if config.kind == "prioritized" else None,
        )
    return Agent(
        make_policy=lambda: Linear(spec),
        make_learner=lambda: DelayedLearner(config, spec),
        experience=experience,
        knobs=lambda place, env_steps, facts: {},
    )
