"""Shared parts of the value-based learners: networks, optimiser, and the stages of an update around a loss.

An algorithm adds a model of features (`QHeads`, or a module around one), a loss of rows, and a learner whose `update`
puts the stages together; see `algos/dqn.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrl.agent import Agent, Learner, Network, Periodic, Queue
from tfrl.algos.parts import q_policy, replay_settings, replay_update
from tfrl.algos.parts.q_policy import QPolicy
from tfrl.algos.parts.replay_settings import HindsightSettings, ReplaySettings
from tfrl.algos.parts.replay_update import RowWeights
from tfrl.explore import epsilon
from tfrl.explore.epsilon import EpsilonSettings
from tfrl.nn import torsos
from tfrl.nn.normalise import ObservationMoments
from tfrl.nn.target import copy_target
from tfrl.optim import apply
from tfrl.optim import settings as optim_settings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec, Trajectory, Transition, UpdateOutput


@dataclasses.dataclass(frozen=True)
class ValueSettings(ReplaySettings, EpsilonSettings):
    """Settings of every algorithm that learns action values from a replay, a base of their `Config`s before
    `OptimizerSettings` and `ModelSettings`: it has other defaults for some of their settings."""

    double: bool = setting(
        True, "double Q-learning: the online network chooses the bootstrap action"
    )
    target_period_updates: int = setting(
        500, "interval between copies to the target network", unit="updates", minimum=1
    )
    value_rescaling_epsilon: float | None = setting(
        None,
        "epsilon of R2D2's value rescaling h (0.001 in R2D2): the network learns h(return); none: no "
        "rescaling",
        above=0.0,
    )

    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 5e-4)
    gradient_clip_norm: float | None = with_default(OptimizerSettings, "gradient_clip_norm", 10.0)

    def __post_init__(self) -> None:
        OptimizerSettings.__post_init__(self)
        replay_settings.check(self)
        epsilon.check(self)


@dataclasses.dataclass(frozen=True)
class Settings(ValueSettings, HindsightSettings):
    """Settings of every algorithm of the family, for one agent."""


class Loss(NamedTuple):
    """Loss of each row of a `TDBatch`, float32 [n].

    Attributes:
      loss: the quantity to minimise.
      priority: absolute error of the row, its new priority. A sequence combines those of its steps.
      metrics: {metric: [n]}, logged as means.
    """

    loss: tf.Tensor
    priority: tf.Tensor
    metrics: Mapping[str, tf.Tensor]


class QLearner(Learner):
    """Online and target network, optimiser, and the stages of an update. An algorithm adds `update`.

    Args:
      config: `ValueSettings`, `OptimizerSettings` and `ModelSettings`.
      make_policy: builds a policy, e.g. a `QPolicy`.
      make_mixer: builds what is trained with the policy and copied with it, but not needed to act; None: nothing.

    Attributes:
      policy, target: online and target policy.
      mixer, target_mixer: online and target mixer, or None.
      optimizer: of the online policy and mixer.
      statistics: of observations, or None.
    """

    def __init__(
        self,
        config: Any,
        make_policy: Callable[[], Any],
        make_mixer: Callable[[], tf.Module | None] = lambda: None,
    ):
        super().__init__()
        self._config = config
        self.policy, self.mixer = make_policy(), make_mixer()
        self.target, self.target_mixer = make_policy(), make_mixer()
        self.statistics = None
        if self.policy.normaliser is not None:
            self.statistics = ObservationMoments(self.policy.normaliser.space)
        self._copy_to_target()
        self.env_steps = optim_settings.make_clock(config)
        self.optimizer = optim_settings.make(config, self._trained_variables(), self.env_steps)

    def _trained_variables(self) -> tuple[tf.Variable, ...]:
        mixer = () if self.mixer is None else self.mixer.trainable_variables
        return (*self.policy.trainable_variables, *mixer)

    def _copy_to_target(self) -> None:
        copy_target(self.target, self.policy)
        if self.mixer is not None:
            copy_target(self.target_mixer, self.mixer)

    def periodic(self) -> Sequence[Periodic]:
        """Implements `Learner.periodic`: the copy to the target network, and to that of a mixer."""
        return (Periodic(self._config.target_period_updates, self._copy_to_target),)

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: the online network and its target copy, and those of a mixer with weights."""
        found = networks(self.policy, self.target, self.optimizer)
        if self.mixer is None or not self.mixer.trainable_variables:
            return found
        online, target = self.mixer.trainable_variables, self.target_mixer.trainable_variables
        return (
            *found,
            Network("mixer", online, self.optimizer, outputs=self.mixer.output_kernels),
            Network("target_mixer", target, copy_of="mixer"),
        )

    def adopt(self, env_steps: int) -> None:
        """Implements `Learner.adopt`: continues from the policy's statistics of observations."""
        if self.statistics is not None:
            self.statistics.adopt(self.policy.normaliser, env_steps)

    # The stages of `update` that every algorithm has, in their order; in replica context.

    def row_weights(self, batch: Transition | Trajectory) -> RowWeights:
        """How much each row counts, see `replay_update.row_weights`."""
        return replay_update.row_weights(self._config, batch, self.optimizer.iterations)

    def network_losses(self) -> tf.Tensor | None:
        """This replica's part of what a user's network adds to the loss, e.g. penalties on weights; None: nothing."""
        own = self.policy.body.losses()
        return apply.global_mean(tf.add_n(own)) if own else None

    def minimise(self, tape: tf.GradientTape, loss: tf.Tensor) -> dict[str, tf.Tensor]:
        """One optimiser step; metrics of it, float32 scalars equal on all replicas."""
        variables = self._trained_variables()
        return replay_update.minimise(
            self._config, self.optimizer, self.env_steps, tape, loss, variables
        )

    def merge_observations(self, batch: Transition | Trajectory) -> None:
        """Takes the batch's observations, of a step each, into the statistics that normalise them.

        The target network keeps the statistics of its weights until the next copy.
        """
        replay_update.merge_observations(
            self._config, self.statistics, self.policy.normaliser, batch
        )

    def output(
        self,
        batch: Transition | Trajectory,
        weights: RowWeights,
        out: Loss,
        added: tf.Tensor | None,
        metrics: Mapping[str, tf.Tensor],
    ) -> UpdateOutput:
        """Metrics of an update and the new priorities of its items, float32 [b]; None with uniform replay.

        Args:
          added: what `network_losses` gave.
          metrics: what `minimise` gave.
        """
        metrics = {**metrics, **weights.means(out.metrics)}
        return replay_update.output(self._config, batch, weights, out.priority, added, metrics)


def networks(online: QPolicy, target: QPolicy, optimizer: Any) -> tuple[Network, ...]:
    """An online network and its target copy, for `Learner.networks`."""
    return (
        Network("q", online.trainable_variables, optimizer, outputs=online.output_kernels),
        Network("target_q", target.trainable_variables, copy_of="q"),
    )


def make(
    algo: str,
    config: Any,
    spec: EnvSpec,
    make_model: Callable[[int], Any],
    make_learner: Callable[[Any, Callable[[], QPolicy]], Learner],
    initial_priority: Callable | None = None,
    queue: Queue | None = None,
) -> Agent:
    """An algorithm of the family bound to an environment.

    Args:
      algo: its name, for messages.
      config: `Settings`, `OptimizerSettings`, `QNetworkSettings` and `ModelSettings`.
      make_model: width of the features -> what `QPolicy` takes.
      make_learner: (config, builder of a `QPolicy`) -> learner, e.g. a subclass of `QLearner`.
      initial_priority: of transitions, see `Agent`; the extras are those of `QPolicy`.
      queue: takes the place of the replay that the settings describe.

    Raises:
      SettingError: the action space is not Discrete, action features do not fit it, or sequences do not fit the replay.
    """
    q_policy.check(algo, config, spec, sends_gradients=queue is not None)

    def make_policy() -> QPolicy:
        return q_policy.make(config, spec, make_model, gives_values=initial_priority is not None)

    return Agent(
        make_policy=make_policy,
        make_learner=lambda: make_learner(config, make_policy),
        experience=replay_settings.replay(config) if queue is None else queue,
        knobs=epsilon.knob(config, noisy=config.noisy != "none"),
        in_metrics=epsilon.in_metrics(config),
        initial_priority=initial_priority,
        notes=torsos.notes(config, spec),
    )
