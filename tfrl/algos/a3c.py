"""A3C: asynchronous actor-critic; actors compute gradients, and the learner applies them in order of arrival.

What it is: asynchronous advantage actor-critic (Mnih et al. 2016, algorithm S3): GAE advantages (lambda 1: n-step
returns), a value loss and an entropy bonus. Actors send gradients, not experience. What it is not: synchronous (A2C),
or corrected for the age of the weights (IMPALA); the lag is recorded.

Spaces: Discrete, MultiDiscrete, MultiBinary, Box, and Dict or Tuple of them; any observation; action masks; memory.
Data: one gradient per unroll of all environments of an actor.

Differences from the paper: losses are means over steps; gradients go through a queue to one learner, which holds the
optimiser's state; observations and rewards cannot be normalised, because the learner never sees them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfrl.agent import About, Agent, Queue, Unroll
from tfrl.algos.parts import actor_gradients as gradients
from tfrl.algos.parts import policy_gradient
from tfrl.errors import SettingError
from tfrl.losses import returns
from tfrl.nn.actor_critic import ActorCritic, ActorCriticSettings
from tfrl.nn.body import ModelSettings
from tfrl.optim import apply
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import ActorOutput, EnvSpec, Trajectory, UpdateOutput

SENT = ("learner/loss", "learner/policy_loss", "learner/value_loss", "learner/entropy")


@dataclasses.dataclass(frozen=True)
class Config(policy_gradient.Settings, OptimizerSettings, ActorCriticSettings, ModelSettings):
    """Settings of A3C."""

    unroll_length: int = setting(
        10, "consecutive steps of each environment per gradient", unit="env steps", minimum=1
    )
    gae_lambda: float = setting(
        1.0,
        "lambda of GAE; 1: rewards to the end of the unroll plus the value there",
        minimum=0.0,
        maximum=1.0,
    )
    value_coefficient: float = policy_gradient.value_coefficient(0.5)
    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 1e-3)
    queue_items: int = gradients.queue_items()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("normalize_observations", "normalize_rewards"):
            if getattr(self, name):
                raise SettingError(
                    f"{name}=True with algo=a3c: its learner sees gradients only; a2c and impala can"
                )


def gradient(config: Config, policy: ActorCritic, batch: Trajectory) -> dict[str, tf.Tensor]:
    """The gradient of an unroll as one vector, float32 [P], and its `SENT`, float32 [M] (Mnih et al. 2016,
    algorithm S3).

    Args:
      config: settings.
      policy: whose weights acted.
      batch: leaves [T, B, ...].
    """
    with tf.GradientTape() as tape:
        # log pi, H and V under the weights that acted, V after each step too.
        new, values_next = policy_gradient.evaluate_batch(policy, batch)
        # Advantages A_t and targets A_t + V_t; no gradient.
        gae = returns.gae(
            batch.reward, batch.discount, batch.is_last, tf.stop_gradient(new.values),
            tf.stop_gradient(values_next), config.gae_lambda, batch.valid,
        )  # fmt: skip
        # -log pi A + c_v (V - target)^2 / 2 - c_e H of each step, then the mean over valid steps.
        steps = policy_gradient.actor_critic_loss(
            config, policy, new, gae.advantages, gae.targets, batch.valid
        )
        loss = tf.add_n([apply.masked_mean(steps.loss, batch.valid), *policy.losses()])
    # One vector with the gradient of all variables, and the metrics in the order of `SENT`.
    metrics = {name: policy_gradient.mean_of(steps.metrics[name], batch.valid) for name in SENT[1:]}
    metrics = {"learner/loss": tf.stop_gradient(loss), **metrics}
    return gradients.pack(tape, loss, policy.trainable_variables, metrics)


class A3CLearner(policy_gradient.PolicyLearner):
    """Policy with value function, and the optimiser that takes the actors' gradients in order of arrival."""

    def update(self, batch: ActorOutput, seed: Any) -> UpdateOutput:
        """Implements `Learner.update`: one optimiser step along the gradient of one item.

        The metrics are those of the actor, the norm of the gradient and the step size; `seed` is not read, and there
        are no priorities.
        """
        del seed
        training, variables = self._training, self.policy.trainable_variables
        rate = training.learning_rate()
        # One step of the optimiser along the actor's gradient, clipped by its global norm.
        metrics = gradients.apply_packed(
            batch, SENT, training.optimizer, variables, self._config.gradient_clip_norm
        )
        return UpdateOutput({**metrics, "learner/learning_rate": rate}, None)


def make(config: Config, spec: EnvSpec) -> Agent:
    """A3C bound to an environment.

    Raises:
      SettingError: settings that do not fit its spaces.
    """
    item = Unroll(config.unroll_length, config.discount)
    queue = Queue(item, capacity_items=config.queue_items, batch_items=1)
    return policy_gradient.make_agent(
        "a3c", config, spec, lambda: A3CLearner(config, spec), queue,
        actor_compute=lambda policy, batch: gradient(config, policy, batch),
    )  # fmt: skip


ABOUT = About(
    title="A3C",
    family="policy_gradient",
    options="networks and action spaces of PPO",
    env="tfrl.testing.fakes:MaskedBandit",
    refused="tfrl.testing.fakes:IntegerPoint",
    small=dict(
        hidden_sizes=(8,), unroll_length=5, core="gru", core_size=6, normalize_observations=False,
        normalize_rewards=False, learning_rate=1e-2,
    ),
)  # fmt: skip
