"""What the value-based algorithms share: settings, the policy, the learner, and the plans of an agent.

An algorithm adds a model of features (`QHeads`, or a module around one) and a loss of steps. Where the steps come from
is settled here: transitions, or with a memory sequences from a stored state (R2D2, Kapturowski et al. 2019).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.agent import ActorPlace, Agent, Learner, Network, NStep, Periodic, Queue, Replay, Windows
from tfrl.errors import SettingError
from tfrl.explore import epsilon as exploration
from tfrl.losses import returns, value
from tfrl.nn import action_features, inputs, torsos, user_model
from tfrl.nn import body as bodies
from tfrl.nn.body import Body, flat
from tfrl.nn.normalise import ObservationMoments, ObservationNormaliser
from tfrl.nn.target import copy_target
from tfrl.optim import apply, schedules
from tfrl.optim import settings as optim_settings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import Points, setting, with_default
from tfrl.types import EnvSpec, PolicyStep, Trajectory, Transition, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of every algorithm of the family, a base of their `Config`s before `OptimizerSettings` and
    `ModelSettings`: it has other defaults for some of their settings."""

    discount: float = setting(0.99, "discount factor per env step", minimum=0.0, maximum=1.0)
    n_step: int = setting(1, "length of the n-step return", unit="env steps", minimum=1)
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

    sequence_length: int = setting(
        40,
        "with a memory: steps per replayed sequence, including burn-in",
        unit="env steps",
        minimum=1,
        idle_if=({"core": "none"}, {"sends_gradients": True}),
    )
    sequence_period: int = setting(
        20,
        "with a memory: steps from the start of one sequence to the start of the next; below sequence_length "
        "they overlap",
        unit="env steps",
        minimum=1,
        idle_if=({"core": "none"}, {"sends_gradients": True}),
    )
    burn_in: int = setting(
        20,
        "with a memory: initial steps of a sequence that only refresh the stored state and are not trained on",
        unit="env steps",
        minimum=0,
        idle_if=({"core": "none"}, {"sends_gradients": True}),
    )

    batch_size: int = setting(
        32,
        "transitions per update (with a memory: sequences), over all learner devices",
        unit="items",
        minimum=1,
        idle_if={"sends_gradients": True},
    )
    env_steps_per_update: float = setting(
        4.0,
        "env steps per update",
        unit="env steps",
        above=0.0,
        idle_if={"sends_gradients": True},
    )
    updates_per_call: int = setting(
        32,
        "updates per compiled call; no env steps are taken in between",
        unit="updates",
        minimum=1,
        idle_if={"sends_gradients": True},
    )
    replay_capacity: int = setting(
        50_000,
        "maximum number of transitions in the replay",
        unit="transitions",
        minimum=1,
        idle_if={"sends_gradients": True},
    )
    min_replay: int = setting(
        1_000,
        "transitions in the replay before the first update",
        unit="transitions",
        minimum=1,
        idle_if={"sends_gradients": True},
    )
    prioritized: bool = setting(False, "sample by priority instead of uniformly")
    priority_exponent: float = setting(
        0.6,
        "exponent alpha of prioritized replay",
        minimum=0.0,
        maximum=1.0,
        idle_if={"prioritized": False},
    )
    priority_epsilon: float = setting(
        1e-6, "constant added to each priority", above=0.0, idle_if={"prioritized": False}
    )
    priority_eta: float = setting(
        0.9,
        "with a memory: weight of the largest error in the priority of a sequence; the mean error has the "
        "remaining weight",
        minimum=0.0,
        maximum=1.0,
        idle_if=({"prioritized": False}, {"core": "none"}),
    )
    importance_beta: float = setting(
        0.4,
        "initial exponent of the importance weights",
        minimum=0.0,
        maximum=1.0,
        idle_if={"prioritized": False},
    )
    importance_beta_final: float = setting(
        1.0,
        "final exponent of the importance weights",
        minimum=0.0,
        maximum=1.0,
        idle_if={"prioritized": False},
    )
    importance_beta_updates: int = setting(
        20_000,
        "updates over which the exponent changes from importance_beta to importance_beta_final",
        unit="updates",
        minimum=0,
        idle_if={"prioritized": False},
    )

    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 5e-4)
    gradient_clip_norm: float | None = with_default(OptimizerSettings, "gradient_clip_norm", 10.0)

    epsilon_initial: float | None = setting(
        None,
        "initial probability of a random action; none: 1, or 0 with noisy layers",
        minimum=0.0,
        maximum=1.0,
        resumable=True,
    )
    epsilon_final: float | None = setting(
        None,
        "probability of a random action after the decay; none: 0.05, or 0 with noisy layers",
        minimum=0.0,
        maximum=1.0,
        resumable=True,
    )
    epsilon_decay_env_steps: int = setting(
        10_000,
        "length of epsilon's linear decay",
        unit="env steps",
        minimum=0,
        resumable=True,
        idle_if=(
            {"epsilon_ladder": frozenset(("actor", "env"))},
            {
                "noisy": frozenset(("independent", "factorised")),
                "epsilon_initial": None,
                "epsilon_final": None,
            },
        ),
    )
    epsilon_schedule: Points = setting(
        (),
        "epsilon at given env steps, interpolated linearly; replaces the three settings above, e.g. "
        "0:1,10000:0.1,100000:0.01",
        minimum=0.0,
        maximum=1.0,
        resumable=True,
    )
    epsilon_ladder: str = setting(
        "none",
        "constant epsilon per actor or per environment (Ape-X), replacing the decay; training returns then "
        "come only from the least random third",
        choices=("none", "actor", "env"),
    )
    epsilon_ladder_base: float = setting(
        0.4,
        "epsilon of the first rung of the ladder",
        above=0.0,
        maximum=1.0,
        idle_if={"epsilon_ladder": "none"},
    )
    epsilon_ladder_exponent: float = setting(
        7.0,
        "the last rung of the ladder has epsilon base**(1 + exponent)",
        minimum=0.0,
        idle_if={"epsilon_ladder": "none"},
    )

    def __post_init__(self) -> None:
        OptimizerSettings.__post_init__(self)
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
        if self.n_step > self.replay_capacity:
            raise SettingError(
                f"n_step={self.n_step} with replay_capacity={self.replay_capacity}: "
                "expected at most as many steps as the replay holds"
            )
        if self.burn_in >= self.sequence_length:
            raise SettingError(
                f"burn_in={self.burn_in} with sequence_length={self.sequence_length}: "
                "nothing would be left to train on; burn_in must be below sequence_length"
            )
        if self.sequence_period > self.sequence_length:
            raise SettingError(
                f"sequence_period={self.sequence_period} with sequence_length="
                f"{self.sequence_length}: steps would be left out; at most sequence_length"
            )
        if self.epsilon_schedule and self.epsilon_ladder != "none":
            raise SettingError(
                f"epsilon_schedule with epsilon_ladder={self.epsilon_ladder}: the ladder has constant shares; leave "
                "one of them out"
            )
        for name in ("epsilon_initial", "epsilon_final"):
            if self.epsilon_schedule and getattr(self, name) is not None:
                raise SettingError(
                    f"{name}={getattr(self, name)} with epsilon_schedule: the schedule holds all shares; leave one of "
                    "them out"
                )
            if self.epsilon_ladder != "none" and getattr(self, name) is not None:
                raise SettingError(
                    f"{name}={getattr(self, name)} with epsilon_ladder={self.epsilon_ladder}: the ladder has "
                    "constant shares; leave it out, or set epsilon_ladder=none"
                )


class QPolicy(tf.Module):
    """The epsilon-greedy choice among the action values of a model.

    With noisy layers an exploring step adds new noise to the weights for each environment and step; a greedy
    step acts on the mean weights.

    Args:
      spec: environment spec.
      body: from observations to features.
      model: has `q_values(features, obs, noise) -> [B, A]` and `noise`, what that draws when exploring.
      tells_values: an exploring step's extras are 'q_taken' and 'q_max' [B], the values of the action taken and of the
        best one.
      rescale_epsilon: the model's values are rescaled returns, see `value.rescale`; None: they are returns.
      normaliser: of observations, or None.
    """

    def __init__(
        self,
        spec: EnvSpec,
        body: Body,
        model: Any,
        tells_values: bool = False,
        rescale_epsilon: float | None = None,
        normaliser: ObservationNormaliser | None = None,
    ):
        super().__init__()
        self.normaliser, self._rescale_epsilon = normaliser, rescale_epsilon
        self.body, self.model, self._tells_values = body, model, tells_values
        self.noise = {**exploration.noise(int(spec.action_space.n)), **model.noise}

    def values(
        self, features: tf.Tensor, obs: Any, noise: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Features [B, F] of observations -> float32 [B, A]; invalid actions hold `value.INVALID_VALUE`.

        Args:
          obs: for the mask and the action features, leaves [B, ...].
          noise: as the model takes it; None: no noise.
        """
        return self.masked(self.model.q_values(features, obs, noise), obs)

    def q_values(self, obs: Any, noise: Mapping[str, tf.Tensor] | None = None) -> tf.Tensor:
        """`values` of observations, leaves [B, ...]; with a memory, of those that begin an episode."""
        rows = tf.nest.flatten(obs)[0].shape[0]
        obs = self.inputs(obs)
        features, _ = self.body.step(obs, self.body.initial_state(rows))
        return self.values(features, obs, noise)

    def masked(self, q: tf.Tensor, obs: Any) -> tf.Tensor:
        """Action values [B, A] with the values of actions that are invalid in `obs` replaced."""
        return value.mask_invalid(q, inputs.action_mask(obs))

    def inputs(self, obs: Any) -> Any:
        """Raw observations -> what the body reads."""
        return obs if self.normaliser is None else self.normaliser(obs)

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """The variables that an optimiser may change: frozen layers of a user's network are left out."""
        return user_model.trainable(self, super().trainable_variables)

    def initial_state(self, batch_size: int) -> Any:
        """Implements `Policy.initial_state`: the state of the memory, () without one."""
        return self.body.initial_state(batch_size)

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        """Implements `Policy.step`, with the knob 'epsilon'; the action is int32 [B], extras are float32 [B]."""
        obs = self.inputs(obs)
        features, state = self.body.step(obs, state)
        q = self.values(features, obs, noise if explore and self.model.noise else None)
        action = tf.argmax(q, axis=1, output_type=tf.int32)
        if explore:
            action = exploration.choose(action, knobs["epsilon"], noise, inputs.action_mask(obs))
        if not explore or not self._tells_values:
            return PolicyStep(action, state, {})
        extras = {"q_taken": value.select(q, action), "q_max": tf.reduce_max(q, axis=1)}
        return PolicyStep(action, state, extras)

    def estimates(self, obs: Any, state: Any) -> Mapping[str, tf.Tensor]:
        """Implements `Policy.estimates`: 'q_values', without exploration, as returns."""
        obs = self.inputs(obs)
        features, _ = self.body.step(obs, state)
        q = self.model.q_values(features, obs, None)
        if self._rescale_epsilon is not None:
            q = value.unrescale(q, self._rescale_epsilon)
        return {"q_values": self.masked(q, obs)}

    def unroll(self, batch: Trajectory, burn_in: int, training: bool = False) -> tf.Tensor:
        """Features of a sequence's observations from its stored state on, [T + 1 - burn_in, B, F].

        The first `burn_in` observations only refresh the state (Kapturowski et al. 2019, section 3); no
        gradient passes through them.

        Args:
          batch: leaves [T, B, ...].
          burn_in: of the T steps.
          training: mode of a user's network in the steps that follow.
        """
        obs, state, is_first = self.inputs(batch.obs), batch.state, batch.is_first
        if burn_in:
            first = tf.nest.map_structure(lambda x: x[:burn_in], obs)
            _, state = self.body.unroll(first, state, is_first[:burn_in])
            state = tf.nest.map_structure(tf.stop_gradient, state)
            obs = tf.nest.map_structure(lambda x: x[burn_in:], obs)
        features, _ = self.body.unroll(obs, state, is_first[burn_in:], training)
        return features


class Steps(NamedTuple):
    """What a loss compares, rows [n]: transitions, or the steps of sequences one sequence after the other.

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


def of_transitions(policy: QPolicy, target: QPolicy, batch: Transition) -> Steps:
    """Each transition of a batch, leaves [b, ...], is a step: n = b rows.

    A user's network is in training mode where the gradient is taken, on `obs_tm1`, and is called there last.
    """
    obs_tm1, obs_t = policy.inputs(batch.obs_tm1), policy.inputs(batch.obs_t)
    features_t = policy.body.step(obs_t, ())[0]
    return Steps(
        obs_tm1,
        obs_t,
        policy.body.step(obs_tm1, (), training=True)[0],
        features_t,
        target.body.step(target.inputs(batch.obs_t), ())[0],
        batch.action_tm1,
        batch.reward_t,
        batch.discount_t,
    )


def of_sequences(
    policy: QPolicy, target: QPolicy, batch: Trajectory, n: int, burn_in: int
) -> Steps:
    """The steps after the burn-in: T' of each of b sequences, n = b T' rows.

    Both networks read the sequence from the stored state on. n-step sums end where the sequence or an episode does,
    with the discount that belongs to their length.
    """
    features = policy.unroll(batch, burn_in, training=True)
    target_features = target.unroll(batch, burn_in)
    obs = tf.nest.map_structure(lambda x: x[burn_in:], batch.obs)
    late = (x[burn_in:] for x in (batch.reward, batch.discount, batch.is_last, batch.valid))
    reward, discount, is_last, valid = late
    ahead = returns.n_step(reward, discount, is_last, n, valid)
    steps, width = valid.shape
    # Where the observation that a step is bootstrapped from stands among [T' + 1, b], flattened.
    where = (tf.range(steps)[:, None] + ahead.steps) * width + tf.range(width)
    where = by_sequence(where)

    def now(nest: Any) -> Any:
        return tf.nest.map_structure(lambda x: by_sequence(x[:steps]), nest)

    def then(nest: Any) -> Any:
        return tf.nest.map_structure(lambda x: tf.gather(x, where), flat(nest))

    return Steps(
        now(obs),
        then(obs),
        now(features),
        then(tf.stop_gradient(features)),
        then(target_features),
        by_sequence(batch.action[burn_in:]),
        by_sequence(ahead.reward),
        by_sequence(ahead.discount),
    )


def by_sequence(x: tf.Tensor) -> tf.Tensor:
    """[T, B, ...] -> [B * T, ...]: replicas, which have some of the sequences each, so have consecutive rows."""
    x = tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
    return tf.reshape(x, [-1, *x.shape[2:]])


class Loss(NamedTuple):
    """Loss of each step, float32, rows [n] as in `Steps`.

    Attributes:
      loss: the quantity to minimise.
      magnitude: absolute error of the row, its new priority. A sequence combines those of its steps.
      parts: {metric: [n]}, logged as means.
    """

    loss: tf.Tensor
    magnitude: tf.Tensor
    parts: Mapping[str, tf.Tensor]


class Noise(NamedTuple):
    """Noise of the layers in the three evaluations of an update; None without noisy layers."""

    online: Mapping[str, tf.Tensor] | None
    target: Mapping[str, tf.Tensor] | None
    selector: Mapping[str, tf.Tensor] | None


def draw(model: Any, seed: tf.Tensor) -> Noise:
    """Three draws for a whole batch, equal on all replicas.

    Args:
      model: has `draw`, from a seed to noise.
      seed: int32 [2].
    """
    seeds = tf.random.experimental.stateless_split(seed, 3)
    return Noise(*(model.draw(seeds[i]) for i in range(3)))


def make_clock(config: OptimizerSettings) -> tf.Variable | None:
    """The `env_steps` of a learner, which the runtime writes; None where no schedule reads it: writing takes time."""
    if not optim_settings.reads_env_steps(config):
        return None
    return tf.Variable(0, dtype=tf.int64, trainable=False, name="env_steps")


class QLearner(Learner):
    """Online and target network, optimiser, and one update of a batch of transitions or sequences.

    Args:
      config: `Settings`, `OptimizerSettings`, `QNetworkSettings` and `ModelSettings`.
      make_policy: builds a `QPolicy`.
      loss: (config, online policy, target policy, steps, seed) -> `Loss`, without reduction; called under a tape.
    """

    def __init__(
        self,
        config: Any,
        make_policy: Callable[[], QPolicy],
        loss: Callable[[Any, QPolicy, QPolicy, Steps, tf.Tensor], Loss],
    ):
        super().__init__()
        self._config, self._loss = config, loss
        self.policy = make_policy()
        self.target = make_policy()
        self.statistics = None
        if self.policy.normaliser is not None:
            self.statistics = ObservationMoments(self.policy.normaliser.space)
        copy_target(self.target, self.policy)
        self.env_steps = make_clock(config)
        variables = self.policy.trainable_variables
        self.optimizer = optim_settings.make(config, variables, self.env_steps)

    def adopt(self, env_steps: int) -> None:
        """Implements `Learner.adopt`: continues from the policy's statistics of observations."""
        if self.statistics is not None:
            self.statistics.adopt(self.policy.normaliser, env_steps)

    def update(self, batch: Transition | Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one optimiser step on the mean loss, weighted by the importance weights of
        prioritized replay (Schaul et al. 2016, section 3.4).

        Priorities, float32 [b], are the magnitudes plus `priority_epsilon`, of sequences as `value.sequence_priority`
        joins them; None with uniform replay.
        """
        config = self._config
        beta = self._beta()
        rate = optim_settings.learning_rate(config, self.env_steps, self.optimizer.iterations)
        weights, valid, mean = tf.ones_like(batch.probability), None, apply.global_mean
        if config.prioritized:
            weights = value.importance_weights(batch.probability, beta)
        if _has_memory(config):
            valid = batch.valid[config.burn_in :]
            weights = tf.repeat(weights, valid.shape[0])
            rows, count = by_sequence(valid), apply.masked_count(valid)
            mean = lambda x: apply.masked_mean(x, rows, count)
        with tf.GradientTape() as tape:
            out = self.loss(batch, seed)
            loss = mean(weights * out.loss)
            own = self.policy.body.losses()  # e.g. penalties on the weights of a user's network
            if own:
                own_loss = apply.global_mean(tf.add_n(own))
                loss += own_loss
        variables = self.policy.trainable_variables
        norm = apply.minimise(self.optimizer, tape, loss, variables, config.gradient_clip_norm)
        if self.statistics is not None:
            self._take_statistics(batch)
        metrics = {
            "learner/loss": apply.reduce_sum(loss),
            **{name: apply.reduce_sum(mean(x)) for name, x in out.parts.items()},
            "learner/gradient_norm": norm,
            "learner/learning_rate": rate,
        }
        if own:
            metrics["learner/network_loss"] = apply.reduce_sum(own_loss)
        if not config.prioritized:
            return UpdateOutput(metrics, None)
        metrics["learner/importance_beta"] = beta
        priorities = out.magnitude
        if valid is not None:
            magnitude = tf.transpose(tf.reshape(priorities, valid.shape[::-1]))
            priorities = value.sequence_priority(magnitude, valid, config.priority_eta)
        return UpdateOutput(metrics, priorities + config.priority_epsilon)

    def loss(self, batch: Transition | Trajectory, seed: tf.Tensor) -> Loss:
        """Of each step of a batch; those that are not valid too.

        Args:
          batch: leaves [b, ...], or with a memory [T, b, ...].
          seed: int32 [2].

        Returns:
          `Loss` of b rows, or with a memory of the steps after the burn-in, one sequence after the other.
        """
        config, policy, target = self._config, self.policy, self.target
        if _has_memory(config):
            steps = of_sequences(policy, target, batch, config.n_step, config.burn_in)
        else:
            steps = of_transitions(policy, target, batch)
        return self._loss(config, policy, target, steps, seed)

    def _take_statistics(self, batch: Transition | Trajectory) -> None:
        """Merges the batch's observations, of a step each, after the update that they are normalised in.

        The target network keeps the statistics of its weights until the next copy.
        """
        if _has_memory(self._config):
            obs = tf.nest.map_structure(lambda x: x[:-1], batch.obs)
            self.statistics.merge(obs, batch.valid)
        else:
            self.statistics.merge(batch.obs_tm1)
        self.policy.normaliser.update(self.statistics)

    def periodic(self) -> Sequence[Periodic]:
        """Implements `Learner.periodic`: the copy to the target network."""
        period = self._config.target_period_updates
        return (Periodic(period, lambda: copy_target(self.target, self.policy)),)

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: the online network and its target copy."""
        return q_networks(self.policy, self.target, self.optimizer)

    def _beta(self) -> tf.Tensor:
        config = self._config
        return schedules.linear(
            config.importance_beta,
            config.importance_beta_final,
            config.importance_beta_updates,
            self.optimizer.iterations,
        )


def q_networks(online: QPolicy, target: QPolicy, optimizer: Any) -> tuple[Network, ...]:
    """What `Learner.networks` returns for an online network and its target copy."""
    return (
        Network("q", online.trainable_variables, optimizer),
        Network("target_q", target.trainable_variables, copy_of="q"),
    )


def make(
    algo: str,
    config: Any,
    spec: EnvSpec,
    make_model: Callable[[int], Any],
    loss: Callable[[Any, QPolicy, QPolicy, Steps, tf.Tensor], Loss],
    initial_priority: Callable | None = None,
    queue: Queue | None = None,
) -> Agent:
    """An algorithm of the family bound to an environment.

    Args:
      algo: its name, for messages.
      config: `Settings`, `OptimizerSettings`, `QNetworkSettings` and `ModelSettings`.
      make_model: width of the features -> what `QPolicy` takes.
      loss: see `QLearner`.
      initial_priority: of transitions, see `Agent`; the extras are those of `QPolicy`.
      queue: takes the place of the replay that the settings describe.

    Raises:
      SettingError: the action space is not Discrete, action features do not fit it, or sequences do not fit the replay.
    """
    if not isinstance(spec.action_space, gym.spaces.Discrete):
        raise SettingError(
            f"algo={algo} on {spec.name}: expected a Discrete action space, got {spec.action_space}"
        )
    try:
        action_features.check(spec)
    except SettingError as error:
        raise SettingError(f"algo={algo} on {spec.name}: {error}") from error
    torsos.check(config, spec, sends_gradients=queue is not None)
    if config.normalize_observations and config.rescale_observations:
        raise SettingError(
            "normalize_observations=True with rescale_observations=True: either brings observations to one scale; "
            "leave one of them out"
        )
    initial, final = _epsilon(config)
    climbs = config.epsilon_ladder != "none"

    def rungs(place: ActorPlace) -> tuple[np.ndarray, int]:
        worker, num_workers, num_envs = place
        if config.epsilon_ladder == "actor":
            return np.full(num_envs, worker), num_workers
        return worker * num_envs + np.arange(num_envs), num_workers * num_envs

    def knobs(
        place: ActorPlace, env_steps: int, facts: Mapping[str, float]
    ) -> Mapping[str, np.ndarray]:
        del facts
        if climbs:
            base, exponent = config.epsilon_ladder_base, config.epsilon_ladder_exponent
            return {"epsilon": exploration.ladder(base, exponent, *rungs(place))}
        if config.epsilon_schedule:
            now = exploration.piecewise(config.epsilon_schedule, env_steps)
        else:
            now = exploration.linear(initial, final, config.epsilon_decay_env_steps, env_steps)
        return {"epsilon": np.full(place.num_envs, now, np.float32)}

    def make_policy() -> QPolicy:
        body = bodies.make(config, spec, rescale=config.rescale_observations)
        normaliser = None
        if config.normalize_observations:
            normaliser = ObservationNormaliser(spec.observation_space, config.observation_clip)
        model, rescale_epsilon = make_model(body.output_size), config.value_rescaling_epsilon
        extras = initial_priority is not None
        return QPolicy(spec, body, model, extras, rescale_epsilon, normaliser)

    return Agent(
        make_policy=make_policy,
        make_learner=lambda: QLearner(config, make_policy, loss),
        experience=_replay(config) if queue is None else queue,
        knobs=knobs,
        in_metrics=(lambda place: exploration.least_random(*rungs(place))) if climbs else None,
        initial_priority=initial_priority,
        notes=torsos.notes(config, spec),
    )


def _has_memory(config: Any) -> bool:
    return config.core != "none"


def _replay(config: Any) -> Replay:
    """Of transitions, or with a memory of as many sequences as take as many env steps to make."""
    item: NStep | Windows = NStep(config.n_step, config.discount)
    period = 1  # env steps per item
    if _has_memory(config):
        period, trained = config.sequence_period, config.sequence_length - config.burn_in
        item = Windows(config.sequence_length, config.discount, period)
        if config.n_step > trained:
            raise SettingError(
                f"n_step={config.n_step} with sequence_length={config.sequence_length} and "
                f"burn_in={config.burn_in}: expected at most {trained}, what is trained of a sequence"
            )
    capacity, least = config.replay_capacity // period, math.ceil(config.min_replay / period)
    if max(config.batch_size, least) > capacity:
        raise SettingError(
            f"replay_capacity={config.replay_capacity} with core={config.core} and "
            f"sequence_period={period}: expected room for a batch and for min_replay, at least "
            f"{max(config.batch_size, least) * period}"
        )
    return Replay(
        item=item,
        capacity_items=capacity,
        min_items=least,
        samples_per_insert=config.batch_size * period / config.env_steps_per_update,
        batch_size=config.batch_size,
        updates_per_call=config.updates_per_call,
        priority_exponent=config.priority_exponent if config.prioritized else None,
    )


def _epsilon(config: Any) -> tuple[float, float]:
    """First and last share of random actions: layers with noise explore by themselves."""
    noisy = config.noisy != "none"
    initial, final = config.epsilon_initial, config.epsilon_final
    if initial is None:
        initial = 0.0 if noisy else 1.0
    if final is None:
        final = 0.0 if noisy else 0.05
    return initial, final
