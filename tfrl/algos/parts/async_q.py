"""Asynchronous Q-learning: actors send gradients of what they have just seen, and there is no replay.

Mnih et al. 2016, algorithm S2 (n-step Q-learning) and S1 (one step), with the loss of the algorithm that uses it. The
target network travels to the actors with the weights. Differences from the paper: the gradient is that of the mean
over an unroll of all environments of an actor, and one learner holds the optimiser's state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfrl.agent import Agent, Learner, Network, Periodic, Queue, Unroll
from tfrl.algos.parts import actor_gradients as gradients
from tfrl.algos.parts import q_learning, q_steps
from tfrl.algos.parts.q_policy import QPolicy
from tfrl.errors import SettingError
from tfrl.nn.target import copy_target
from tfrl.optim import apply
from tfrl.optim import settings as optim_settings
from tfrl.types import ActorOutput, PolicyStep, Trajectory, UpdateOutput

SENT = ("learner/loss", "learner/td_error_abs_mean", "learner/q_mean")


def check(config: Any) -> None:
    """Raises SettingError for settings that need a replay, or more steps than an unroll has."""
    if config.prioritized:
        raise SettingError(
            "prioritized=True with sends_gradients=True: there is no replay; set prioritized=False"
        )
    if config.normalize_observations:
        raise SettingError(
            "normalize_observations=True with sends_gradients=True: the learner sees gradients only; leave it out, or "
            "set rescale_observations where the space has limits"
        )
    if config.noisy != "none":
        raise SettingError(
            f"noisy={config.noisy} with sends_gradients=True: actors draw noise for acting only; set noisy=none"
        )
    if config.n_step > config.unroll_length:
        raise SettingError(
            f"n_step={config.n_step} with unroll_length={config.unroll_length}: expected at most the steps of an unroll"
        )


class TargetedPolicy(tf.Module):
    """A policy and its target network: both are published, one acts, and a gradient needs the two."""

    def __init__(self, make_policy: Callable[[], QPolicy]):
        super().__init__()
        self.online, self.target = make_policy(), make_policy()
        self.noise = self.online.noise
        self.copy_target()

    def initial_state(self, batch_size: int, noise: Mapping[str, Any]) -> Any:
        """Implements `Policy.initial_state`: that of the online network."""
        return self.online.initial_state(batch_size, noise)

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        """Implements `Policy.step`: the online network acts."""
        return self.online.step(obs, state, knobs, noise, explore)

    def copy_target(self) -> None:
        """The target network becomes the online one."""
        copy_target(self.target, self.online)


def gradient(
    config: Any, loss: Callable[..., q_learning.Loss], policy: TargetedPolicy, batch: Trajectory
) -> dict[str, tf.Tensor]:
    """The gradient of an unroll, float32 [P], with the metrics `SENT`, float32 [M]; see `actor_gradients.pack`.

    Args:
      config: settings.
      loss: (config, online policy, target policy, rows, seed) -> `Loss`; it must not draw random numbers.
      policy: whose weights acted.
      batch: leaves [T, B, ...].
    """
    online, target = policy.online, policy.target
    valid = q_steps.by_sequence(batch.valid)
    with tf.GradientTape() as tape:
        # Rows of the unroll; n-step sums end with it.
        rows = q_steps.of_sequences(online, target, batch, config.n_step, burn_in=0)
        # Loss of each row, and the mean over those that are no padding, with what a user's network adds.
        out = loss(config, online, target, rows, tf.zeros([2], tf.int32))  # nothing is drawn
        mean = tf.add_n([apply.masked_mean(out.loss, valid), *online.body.losses()])
    metrics = {name: apply.masked_mean(out.metrics[name], valid) for name in SENT[1:]}
    metrics = {"learner/loss": mean, **metrics}
    return gradients.pack(tape, mean, online.trainable_variables, metrics)


class AsyncQLearner(Learner):
    """Both networks and the optimiser that takes the actors' gradients in order of arrival."""

    def __init__(self, config: Any, make_policy: Callable[[], TargetedPolicy]):
        super().__init__()
        self._config, self.policy = config, make_policy()
        self._variables = self.policy.online.trainable_variables
        self.env_steps = optim_settings.make_clock(config)
        self.optimizer = optim_settings.make(config, self._variables, self.env_steps)

    def update(self, batch: ActorOutput, seed: Any) -> UpdateOutput:
        """Implements `Learner.update`: one optimiser step along the gradient of one item.

        The metrics are those of the actor, the norm of the gradient and the step size; `seed` is not read, and there
        are no priorities.
        """
        del seed
        rate = optim_settings.learning_rate(self._config, self.env_steps, self.optimizer.iterations)
        metrics = gradients.apply_packed(
            batch, SENT, self.optimizer, self._variables, self._config.gradient_clip_norm
        )
        return UpdateOutput({**metrics, "learner/learning_rate": rate}, None)

    def periodic(self) -> Sequence[Periodic]:
        """Implements `Learner.periodic`: the copy to the target network, which is published with the weights."""
        return (Periodic(self._config.target_period_updates, self.policy.copy_target),)

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: the online network and its target copy."""
        return q_learning.networks(self.policy.online, self.policy.target, self.optimizer)


def queue(config: Any) -> Queue:
    """The queue of gradients, each of one unroll; every gradient is an update."""
    item = Unroll(config.unroll_length, config.discount)
    return Queue(item, capacity_items=config.queue_items, batch_items=1)


def sending_gradients(agent: Agent, config: Any, loss: Callable[..., q_learning.Loss]) -> Agent:
    """The same policy and exploration, trained on gradients that actors compute.

    Args:
      agent: that would learn from items of `queue`.
      config: its settings.
      loss: as `gradient` takes it.
    """

    def make_policy() -> TargetedPolicy:
        return TargetedPolicy(agent.make_policy)

    return dataclasses.replace(
        agent,
        make_policy=make_policy,
        make_learner=lambda: AsyncQLearner(config, make_policy),
        actor_compute=lambda policy, batch: gradient(config, loss, policy, batch),
    )
