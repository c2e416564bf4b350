"""DQN: one network of action values, trained on replayed n-step transitions.

What it is: Q-learning with a target network (Mnih et al. 2015), and as options double Q-learning
(van Hasselt et al. 2016, eq. 4), dueling heads (Wang et al. 2016, eq. 9), prioritized replay
(Schaul et al. 2016) and n-step returns (Sutton 1988, as in Hessel et al. 2018). What it is not:
distributional or recurrent.

Spaces: Discrete actions; any observation (images through the Nature CNN, the rest flattened), a Dict observation with
`action_mask` restricts the actions that are chosen, explored and bootstrapped from. Data: transitions.

Differences from the papers: time limits bootstrap; importance weights are normalised by the largest of the batch;
the gradient is clipped by its global norm; RMSProp is replaced by Adam.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.agent import Agent, NStep, Periodic, ReplayPlan, UpdatePlan
from tfrl.config.settings import SettingError, setting, validate
from tfrl.explore import epsilon as exploration
from tfrl.losses import value
from tfrl.nn import inputs, torsos
from tfrl.optim import apply, optimizers, schedules
from tfrl.types import EnvSpec, PolicyStep, Transition, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of DQN; the defaults learn classic control."""

    discount: float = setting(0.99, "discount of the return per env step", minimum=0.0, maximum=1.0)
    n_step: int = setting(1, "length of the n-step return", unit="env steps", minimum=1)
    double: bool = setting(True, "choose the bootstrap action with the online network")
    dueling: bool = setting(False, "separate heads for state value and advantages")
    loss: str = setting(
        "huber", "loss of the temporal-difference error", choices=("huber", "squared")
    )
    huber_delta: float = setting(1.0, "error at which the Huber loss turns linear", above=0.0)
    target_period_updates: int = setting(
        500, "interval of copies to the target network", unit="updates", minimum=1
    )

    batch_size: int = setting(
        32, "transitions per update, over all replicas", unit="transitions", minimum=1
    )
    env_steps_per_update: float = setting(
        4.0, "env steps sampled per update", unit="env steps", above=0.0
    )
    updates_per_call: int = setting(
        32,
        "updates that run in one compiled call between two pieces of acting",
        unit="updates",
        minimum=1,
    )
    replay_capacity: int = setting(50_000, "transitions kept", unit="transitions", minimum=1)
    min_replay: int = setting(
        1_000, "transitions stored before the first update", unit="transitions", minimum=1
    )
    prioritized: bool = setting(False, "prioritized instead of uniform replay")
    priority_exponent: float = setting(0.6, "alpha of prioritized replay", minimum=0.0, maximum=1.0)
    priority_epsilon: float = setting(1e-6, "added to each priority", above=0.0)
    importance_beta: float = setting(
        0.4, "initial exponent of the importance weights", minimum=0.0, maximum=1.0
    )
    importance_beta_final: float = setting(
        1.0, "final exponent of the importance weights", minimum=0.0, maximum=1.0
    )
    importance_beta_updates: int = setting(
        20_000, "length of that change", unit="updates", minimum=0
    )

    learning_rate: float = setting(5e-4, "step size of Adam", above=0.0)
    learning_rate_final: float | None = setting(
        None, "step size at the end of its decay; none: constant", minimum=0.0
    )
    learning_rate_updates: int = setting(0, "length of that decay", unit="updates", minimum=0)
    adam_epsilon: float = setting(1e-7, "epsilon of Adam", above=0.0)
    gradient_clip_norm: float | None = setting(
        10.0, "largest global norm of the gradient; none: no limit", above=0.0
    )

    epsilon_initial: float = setting(
        1.0, "share of random actions at the start", minimum=0.0, maximum=1.0
    )
    epsilon_final: float = setting(
        0.05, "share of random actions after the decay", minimum=0.0, maximum=1.0
    )
    epsilon_decay_env_steps: int = setting(
        10_000, "length of the linear decay", unit="env steps", minimum=0
    )

    network: str = setting(
        "auto",
        "mlp, cnn, resnet, rllib_cnn, auto (cnn for images) or package.module:builder of a Keras model",
    )
    hidden_sizes: tuple[int, ...] = setting(
        (64, 64), "units of the MLP's layers", unit="units", minimum=1
    )
    activation: str = setting("relu", "activation of the MLP")
    rescale_observations: bool = setting(
        False, "the MLP sees bounded components of a Box observation mapped to [-1, 1]"
    )
    head_hidden_sizes: tuple[int, ...] = setting(
        (), "units of each head's hidden layers", unit="units", minimum=1
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.min_replay > self.replay_capacity:
            raise SettingError(
                f"min_replay={self.min_replay} with replay_capacity={self.replay_capacity}: "
                "updates would never start; min_replay may be at most replay_capacity"
            )
        if self.batch_size > self.replay_capacity:
            raise SettingError(
                f"replay_capacity={self.replay_capacity} with batch_size={self.batch_size}: "
                "the replay must hold at least one batch"
            )
        if self.learning_rate_final is not None and self.learning_rate_updates == 0:
            raise SettingError(
                f"learning_rate_final={self.learning_rate_final} with learning_rate_updates=0: "
                "give the length of the decay in updates"
            )


class QPolicy(tf.Module):
    """Action values and the epsilon-greedy choice among them; stateless."""

    def __init__(self, config: Config, spec: EnvSpec):
        super().__init__()
        self._num_actions = int(spec.action_space.n)
        self._torso = torsos.Torso(
            spec,
            config.network,
            config.hidden_sizes,
            config.activation,
            config.rescale_observations,
        )
        self._advantage = self._head(config, self._num_actions, "advantage")
        self._value = self._head(config, 1, "value") if config.dueling else None
        self.noise = exploration.noise(self._num_actions)
        self.q_values(torsos.example_batch(spec.observation_space, 1))  # builds the variables

    @staticmethod
    def _head(config: Config, outputs: int, name: str) -> tf.keras.Sequential:
        layers = [tf.keras.layers.Dense(n, config.activation) for n in config.head_hidden_sizes]
        return tf.keras.Sequential([*layers, tf.keras.layers.Dense(outputs)], name=name)

    def q_values(self, obs: Any) -> tf.Tensor:
        """Observations, leaves [B, ...] -> [B, A]; invalid actions hold `value.INVALID_VALUE`."""
        mask = inputs.action_mask(obs)
        features = self._torso(obs)
        q = self._advantage(features)
        if self._value is not None:
            q = value.dueling(self._value(features), q, mask)
        return value.mask_invalid(q, mask)

    def initial_state(self, batch_size: int) -> tuple[()]:
        del batch_size
        return ()

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ):
        action = tf.argmax(self.q_values(obs), axis=1, output_type=tf.int32)
        if explore:
            action = exploration.choose(action, knobs["epsilon"], noise, inputs.action_mask(obs))
        return PolicyStep(action, state, {})


class QLearner(tf.Module):
    """Online and target network, optimiser, and one update of a batch of transitions."""

    def __init__(self, config: Config, spec: EnvSpec):
        super().__init__()
        self._config = config
        self._delta = config.huber_delta if config.loss == "huber" else None
        self.policy = QPolicy(config, spec)
        self.target = QPolicy(config, spec)
        self._copy_target()
        final = config.learning_rate_final
        self._rate = schedules.Linear(
            config.learning_rate,
            config.learning_rate if final is None else final,
            config.learning_rate_updates,
        )
        self.optimizer = optimizers.make(
            "adam", self.policy.trainable_variables, self._rate, epsilon=config.adam_epsilon
        )

    def update(self, batch: Transition, seed: tf.Tensor) -> UpdateOutput:
        del seed
        config = self._config
        q_t = self.target.q_values(batch.obs_t)
        selector_t = self.policy.q_values(batch.obs_t) if config.double else q_t
        weights = tf.ones_like(batch.reward_t)
        rate, beta = self._rate(self.optimizer.iterations), self._beta()
        if config.prioritized:
            weights = value.importance_weights(batch.probability, beta)
        with tf.GradientTape() as tape:
            q_tm1 = self.policy.q_values(batch.obs_tm1)
            td = value.q_learning(
                q_tm1,
                batch.action_tm1,
                batch.reward_t,
                batch.discount_t,
                q_t,
                selector_t,
                self._delta,
            )
            loss = apply.global_mean(weights * td.loss)
        variables = self.policy.trainable_variables
        norm = apply.minimise(self.optimizer, tape, loss, variables, config.gradient_clip_norm)
        magnitude = tf.abs(td.td_error)
        metrics = {
            "learner/loss": apply.reduce_sum(loss),
            "learner/td_error_abs_mean": apply.reduce_sum(apply.global_mean(magnitude)),
            "learner/q_mean": apply.reduce_sum(
                apply.global_mean(value.select(q_tm1, batch.action_tm1))
            ),
            "learner/gradient_norm": norm,
            "learner/learning_rate": rate,
        }
        if config.prioritized:
            metrics["learner/importance_beta"] = beta
        return UpdateOutput(
            metrics, magnitude + config.priority_epsilon if config.prioritized else None
        )

    def periodic(self) -> Sequence[Periodic]:
        return (Periodic(self._config.target_period_updates, self._copy_target),)

    def _beta(self) -> tf.Tensor:
        config = self._config
        updates = self.optimizer.iterations
        return schedules.linear(
            config.importance_beta,
            config.importance_beta_final,
            config.importance_beta_updates,
            updates,
        )

    def _copy_target(self) -> None:
        for target, online in zip(self.target.variables, self.policy.variables, strict=True):
            target.assign(online)


def make(config: Config, spec: EnvSpec) -> Agent:
    """DQN bound to an environment.

    Raises:
      SettingError: the action space is not Discrete.
    """
    if not isinstance(spec.action_space, gym.spaces.Discrete):
        raise SettingError(
            f"algo=dqn on {spec.name}: expected a Discrete action space, got {spec.action_space}"
        )

    def knobs(
        worker: int, num_workers: int, num_envs: int, env_steps: int
    ) -> Mapping[str, np.ndarray]:
        del worker, num_workers
        now = exploration.linear(
            config.epsilon_initial, config.epsilon_final, config.epsilon_decay_env_steps, env_steps
        )
        return {"epsilon": np.full(num_envs, now, np.float32)}

    return Agent(
        make_policy=lambda: QPolicy(config, spec),
        make_learner=lambda: QLearner(config, spec),
        replay=ReplayPlan(
            kind="prioritized" if config.prioritized else "uniform",
            item=NStep(config.n_step, config.discount),
            capacity_items=config.replay_capacity,
            min_items=config.min_replay,
            samples_per_insert=config.batch_size / config.env_steps_per_update,
            priority_exponent=config.priority_exponent,
        ),
        updates=UpdatePlan(batch_size=config.batch_size, updates_per_call=config.updates_per_call),
        knobs=knobs,
    )
