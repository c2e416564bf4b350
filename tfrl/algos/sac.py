"""SAC: a stochastic policy that seeks return and entropy, trained by critics on replayed transitions.

What it is: soft actor-critic with a learned temperature and without a value network (Haarnoja et al. 2018b, arXiv
1812.05905). Options: a fixed temperature, the mean of the critics in the policy's loss, Discrete actions by exact
expectations (Christodoulou 2019), state-dependent exploration (Raffin et al. 2020), prioritized replay, n-step returns,
a memory trained on replayed sequences, many critics of which a random part makes the target (REDQ, Chen et al. 2021),
dropout and layer normalisation in them (DroQ, Hiraoka et al. 2022), and critics of truncated quantiles (TQC, Kuznetsov
et al. 2020). What it is not: the first version of the paper (1801.01290), which had a value network.

Spaces: actions from a Box with finite limits, or Discrete ones, where a mask in the observation restricts them; any
observation (images through a CNN, the rest flattened). Data: transitions, or sequences with a memory.

Differences from the paper: time limits bootstrap; log-probabilities are those of actions scaled to [-1, 1], so that the
target entropy does not depend on the limits; the logarithm of the temperature is a factor of its loss. With n-step
returns only the last step's entropy enters the target. With `state_dependent_exploration` an update draws a matrix for
each of its rows.

Read `SACLearner` first, then `SACPolicy.choose`, and the stages of an update in `parts/actor_critic_replay.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.agent import About, ActorPlace, Agent, Network
from tfrl.algos.parts import actor_critic_replay as family
from tfrl.algos.parts import replay_policy, replay_settings
from tfrl.algos.parts.actor_critic_replay import ActorCriticLearner, CriticNetwork
from tfrl.algos.parts.replay_policy import ReplayPolicy
from tfrl.errors import SettingError
from tfrl.explore import action_noise, epsilon
from tfrl.explore.action_noise import RandomStartSettings
from tfrl.losses import actor_critic, value
from tfrl.nn import body as bodies
from tfrl.nn import bounded, distributions, inputs, sde, torsos
from tfrl.nn.body import Body, ModelSettings
from tfrl.nn.bounded import BoundedBox
from tfrl.nn.critics import split_seed
from tfrl.optim import apply, optimizers
from tfrl.optim import settings as optim_settings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import Except, setting
from tfrl.types import EnvSpec, PolicyStep, Trajectory, Transition, UpdateOutput

LOG_STD_LIMITS = (-20.0, 2.0)  # of the policy's outputs, as in the authors' code


@dataclasses.dataclass(frozen=True)
class Config(family.Settings, RandomStartSettings, OptimizerSettings, ModelSettings):
    """Settings of SAC; the defaults are those of the paper."""

    temperature: float | None = setting(
        None, "fixed weight of the entropy in the objective; none: learned", minimum=0.0
    )
    initial_temperature: float = setting(
        1.0,
        "initial value of a learned temperature",
        above=0.0,
        idle_if={"temperature": Except((None,))},
    )
    temperature_learning_rate: float | None = setting(
        None,
        "learning rate of the temperature (Adam); none: learning_rate. It decays as learning_rate does",
        above=0.0,
        resumable=True,
        idle_if={"temperature": Except((None,))},
    )
    target_entropy: float | None = setting(
        None,
        "entropy that a learned temperature aims at, of actions scaled to [-1, 1]; none: minus the number of "
        "components of a Box, or target_entropy_ratio of the largest possible for Discrete actions",
        unit="nats",
        idle_if={"temperature": Except((None,))},
    )
    target_entropy_ratio: float = setting(
        0.9,
        "Discrete actions: target entropy as a fraction of the largest possible, log(number of valid actions)",
        minimum=0.0,
        maximum=1.0,
        idle_if=(
            {"discrete_actions": False},
            {"temperature": Except((None,))},
            {"target_entropy": Except((None,))},
        ),
    )
    policy_value: str = setting(
        "min",
        "value of the critics that the policy climbs: their smallest or their mean (REDQ)",
        choices=("min", "mean"),
        idle_if=({"num_critics": 1}, {"num_quantiles": Except((None,))}),
    )
    target_critics: int | None = setting(
        None,
        "critics, drawn at random for each update, whose smallest value makes the target (REDQ: 2 of 10); none: all",
        unit="critics",
        minimum=1,
        idle_if={"num_quantiles": Except((None,))},
    )
    num_quantiles: int | None = setting(
        None,
        "quantiles of each critic (TQC: 25, with 5 critics); none: each gives one value, the expected return",
        unit="quantiles",
        minimum=1,
    )
    dropped_quantiles: int = setting(
        2,
        "largest quantiles per critic that are left out of the target (TQC)",
        unit="quantiles",
        minimum=0,
        idle_if={"num_quantiles": None},
    )
    state_dependent_exploration: bool = setting(
        False,
        "gSDE: exploration noise of Box actions is a random matrix times the features; the matrix is kept for several "
        "steps",
        idle_if={"box_actions": False},
    )
    sde_resample_env_steps: int | None = setting(
        None,
        "steps before the matrix is redrawn within an episode; none: once per episode",
        unit="env steps",
        minimum=1,
        idle_if={"state_dependent_exploration": False},
    )
    log_std_initial: float = setting(
        -3.0,
        "initial log standard deviation of each entry of the matrix",
        idle_if={"state_dependent_exploration": False},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        family.check_rate(self, "temperature_learning_rate")
        if self.target_critics is not None and self.target_critics > self.num_critics:
            raise SettingError(
                f"target_critics={self.target_critics} with num_critics={self.num_critics}: expected at most as many"
            )
        if self.num_quantiles is not None and self.dropped_quantiles >= self.num_quantiles:
            raise SettingError(
                f"dropped_quantiles={self.dropped_quantiles} with num_quantiles={self.num_quantiles}: expected less, "
                "or no quantile is left"
            )
        if self.num_quantiles is not None and self.target_critics is not None:
            raise SettingError(
                f"target_critics={self.target_critics} with num_quantiles={self.num_quantiles}: the quantiles of all "
                "critics make the target; leave one of them out"
            )


class Choice(NamedTuple):
    """The actions over which an expectation is taken in n states: one sample of a Box, all of a Discrete space.

    Attributes:
      action: on the scale [-1, 1] [n, m]; None for Discrete actions.
      probability: [n, A], of a sample ones [n, 1].
      log_prob: [n, A], 0 where the probability is; of a sample the logarithm of its density on the scale [-1, 1],
        [n, 1].
    """

    action: tf.Tensor | None
    probability: tf.Tensor
    log_prob: tf.Tensor

    def mean_log_prob(self) -> tf.Tensor:
        """E[log p], minus the entropy, [n]."""
        return tf.reduce_sum(self.probability * self.log_prob, axis=1)


class SACPolicy(ReplayPolicy):
    """A squashed Gaussian on a bounded Box, or a categorical distribution over Discrete actions.

    Args:
      config: `Config`.
      spec: environment spec.
      body: from observations to features.

    Attributes:
      head: the layers behind the body, and with state-dependent exploration the deviations of its matrix.
      noise: what an exploring step draws.
    """

    def __init__(self, config: Config, spec: EnvSpec, body: Body):
        super().__init__(body, replay_policy.normaliser(config, spec))
        self._discrete = isinstance(spec.action_space, gym.spaces.Discrete)
        self._distribution = distributions.make(spec.action_space, squash=True)
        self.noise = dict(self._distribution.noise)
        outputs = self._distribution.num_params
        if self._discrete:
            self._num_actions = outputs
            self.noise["random_action"] = epsilon.noise(outputs)["action"]
        else:
            self._box = BoundedBox(spec.action_space)
            self.noise.update(action_noise.random_noise(config, self._box.size))
        self._sde = config.state_dependent_exploration
        features = (
            config.policy_hidden_sizes[-1] if config.policy_hidden_sizes else body.output_size
        )
        if self._sde:  # the deviations come from a matrix, the network gives the means
            outputs = self._box.size
            (self._name,) = self._distribution.noise
            self.noise[self._name] = sde.noise_spec(
                features, outputs, config.sde_resample_env_steps
            )
        self.head = _Head(config, body.output_size, features, outputs)

    def params(self, features: tf.Tensor, obs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Parameters of the distribution [n, P], and the last hidden layer [n, H].

        Args:
          features: by `body` [n, F].
          obs: for the mask of Discrete actions.
        """
        hidden, params = self.head(features)
        if self._discrete:
            mask = inputs.action_mask(obs)
            return params if mask is None else self._distribution.mask(params, mask), hidden
        if self._sde:
            log_std = sde.log_std(hidden, self.head.log_std)
        else:
            params, log_std = tf.split(params, 2, axis=-1)
        low, high = LOG_STD_LIMITS
        return tf.concat([params, tf.minimum(tf.maximum(log_std, low), high)], axis=-1), hidden

    def choose(self, features: tf.Tensor, obs: Any, seed: tf.Tensor) -> Choice:
        """The actions over which the expectation in each of n states is taken; in replica context.

        Args:
          features, obs: as `params` takes them.
          seed: int32 [2], of the sample of a Box.
        """
        params, _ = self.params(features, obs)
        if self._discrete:
            log_prob = tf.nn.log_softmax(params)
            probability = tf.exp(log_prob)
            # The huge logarithm of a masked action would overflow in a product with the temperature.
            return Choice(None, probability, tf.where(probability > 0.0, log_prob, 0.0))
        count, size = features.shape[0], self._box.size
        normal = apply.replica_rows(lambda n: tf.random.stateless_normal([n, size], seed), count)
        # u = mean + std eps, a = tanh(u): the gradient passes through the sample (Haarnoja et al. 2018b).
        mean, log_std = tf.split(params, 2, axis=-1)
        u = mean + tf.exp(log_std) * normal
        log_prob = distributions.squashed_log_prob(mean, log_std, u)
        return Choice(tf.tanh(u), tf.ones([count, 1]), log_prob[:, tf.newaxis])

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """Weights of the layer that gives parameters, and the matrix of gSDE; see `agent.Network.outputs`."""
        kernel, log_std = self.head.output.kernel, self.head.log_std
        return (kernel,) if log_std is None else (kernel, log_std)

    def to_unit(self, action: tf.Tensor) -> tf.Tensor | None:
        """Actions as they are stored [n, *shape] -> on the scale [-1, 1], [n, m]; None for Discrete ones."""
        return None if self._discrete else self._box.to_unit(action)

    def taken(self, outputs: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        """Values of the actions taken [N, n], among those of critics [N, n, A], of a Box [N, n, 1]."""
        if not self._discrete:
            return outputs[..., 0]
        one_hot = tf.one_hot(tf.cast(action, tf.int32), self._num_actions)
        return tf.reduce_sum(outputs * one_hot, axis=2)

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        """Implements `Policy.step`: a sample when exploring, uniform while the knob 'random' is 1; else the mode.

        The mode of a Box is tanh of the mean.
        """
        obs = self.inputs(obs)
        features, state = self.body.step(obs, state)
        params, hidden = self.params(features, obs)
        distribution = self._distribution
        if not explore:
            return PolicyStep(distribution.action(distribution.mode(params)), state, {})
        if self._sde:
            normal = sde.normal(hidden, self.head.log_std, noise[self._name])
            noise = {**noise, self._name: normal}
        sample = distribution.sample(params, noise)
        if self._discrete:
            numbers = {"explore": tf.zeros_like(knobs["random"]), "action": noise["random_action"]}
            # epsilon is 0 or 1, and any number is below 1.
            action = epsilon.choose(sample, knobs["random"], numbers, inputs.action_mask(obs))
            return PolicyStep(action, state, {})
        u = tf.tanh(tf.reshape(sample, [-1, self._box.size]))
        u = action_noise.start_at_random(u, knobs, noise)
        return PolicyStep(self._box.to_env(u), state, {})

    def estimates(self, obs: Any, state: Any) -> Mapping[str, tf.Tensor]:
        """Implements `Policy.estimates`: 'probabilities' of Discrete actions."""
        if not self._discrete:
            return {}
        obs = self.inputs(obs)
        params, _ = self.params(self.body.step(obs, state)[0], obs)
        return {"probabilities": self._distribution.probabilities(params)}


class _Head(tf.Module):
    """Features [n, F] -> the last hidden layer [n, H] and outputs [n, P]; `log_std` is None or a matrix [H, P]."""

    def __init__(self, config: Config, num_inputs: int, num_features: int, outputs: int):
        super().__init__()
        self.hidden = torsos.mlp(config.policy_hidden_sizes, config.activation)
        self.output = torsos.head(outputs, 0.01)
        self.log_std = None
        if config.state_dependent_exploration:
            initial = tf.fill([num_features, outputs], config.log_std_initial)
            self.log_std = tf.Variable(initial, name="log_std")
        self(tf.zeros([1, num_inputs]))  # builds the variables

    def __call__(self, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        hidden = self.hidden(features)
        return hidden, self.output(hidden)


class SACLearner(ActorCriticLearner):
    """SAC: the update of the critics, and that of policy and temperature after it.

    Args:
      config: `Config`.
      make_policy, make_critics: see `ActorCriticLearner`.
      target_entropy: of the policy in a state without a mask, in nats.

    Attributes:
      log_alpha: logarithm of the temperature.
    """

    def __init__(self, config: Config, make_policy: Any, make_critics: Any, target_entropy: float):
        super().__init__(config, make_policy, make_critics, with_target_policy=False)
        self._target_entropy = target_entropy
        self.log_alpha, self.temperature_optimizer = None, None
        if config.temperature is None:
            self.log_alpha = tf.Variable(math.log(config.initial_temperature), name="log_alpha")
            rates = family.with_rate(config, config.temperature_learning_rate)
            rate = lambda steps: optim_settings.learning_rate(
                rates, self.env_steps, steps * config.policy_period_updates
            )
            self.temperature_optimizer = optimizers.make("adam", [self.log_alpha], rate)

    def update(self, batch: Transition | Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one step of the critics on the weighted mean loss of the batch's rows.

        Args:
          batch: leaves [b, ...], or with a memory [T, b, ...].
          seed: int32 [2], of the next actions, of the critics drawn and of dropout.
        """
        config, policy = self._config, self.policy
        action_seed, subset_seed, target_seed, dropout_seed = split_seed(seed, 4)
        # w_i: importance weights of prioritized replay, and which rows are no padding.
        weights = self.row_weights(batch)
        with tf.GradientTape() as tape:
            # Rows (s, a, r, discount, s') with the features of all networks.
            rows = family.rows(config, policy, self.critics, self.target_critics, policy, batch)
            # a' ~ pi(s'), or all actions with their probabilities, and what the target critics give for them.
            choice = policy.choose(rows.policy_features_t, rows.obs_t, action_seed)
            next_t = self.target_critics(rows.target_features_t, choice.action, target_seed)
            action_tm1 = policy.to_unit(rows.action_tm1)
            outputs = self.critics(rows.features_tm1, action_tm1, dropout_seed)
            if config.num_quantiles is None:
                # y = r + discount (min_j Q'_j(s', a') - alpha log pi(a'|s')).
                lowest = tf.reduce_min(_subset(next_t, config.target_critics, subset_seed), axis=0)
                soft = actor_critic.soft_value(
                    lowest, choice.probability, choice.log_prob, self._alpha()
                )
                target = value.backup(rows.reward_t, rows.discount_t, soft)
                q_tm1 = policy.taken(outputs, rows.action_tm1)
                td = actor_critic.critics(q_tm1, target)
            else:
                # The same for each of the atoms that are left without the largest (Kuznetsov et al. 2020, eq. 10).
                atoms = actor_critic.truncate(next_t, config.dropped_quantiles)
                soft = atoms - self._alpha() * choice.log_prob
                target = value.backup(rows.reward_t[:, None], rows.discount_t[:, None], soft)
                q_tm1 = tf.reduce_mean(outputs, axis=2)
                td = actor_critic.quantile_critics(outputs, target)
            # Mean of w_i loss_i over the rows of all replicas, penalties, and what a user's network adds.
            total, added = weights.mean(weights.importance * td.loss), self.extra_critic_loss()
            if added is not None:
                total += added
        metrics = self.minimise_critics(tape, total)
        return self.output(batch, weights, td.td_error, q_tm1, added, metrics)

    def update_policy(
        self, batch: Transition | Trajectory, seed: tf.Tensor
    ) -> Mapping[str, tf.Tensor]:
        """Implements `ActorCriticLearner.update_policy`: one step of the policy, and one of the temperature."""
        config, alpha = self._config, self._alpha()
        action_seed, dropout_seed = split_seed(seed, 2)
        weights = self.row_weights(batch)
        with tf.GradientTape() as tape:
            states = family.states(config, self.policy, self.critics, batch)
            choice = self.policy.choose(states.policy_features, states.obs, action_seed)
            # The gradient passes through the action into the policy, and no critic changes.
            outputs = self.critics(states.critic_features, choice.action, dropout_seed)
            if config.num_quantiles is not None:
                q = tf.reduce_mean(outputs, axis=[0, 2])[:, tf.newaxis]
            elif config.policy_value == "min":
                q = tf.reduce_min(outputs, axis=0)
            else:
                q = tf.reduce_mean(outputs, axis=0)
            # alpha log pi(a|s) - Q(s, a), in expectation over the policy's actions.
            soft = actor_critic.soft_value(q, choice.probability, choice.log_prob, alpha)
            total, added = weights.mean(-soft), self.extra_policy_loss()
            if added is not None:
                total += added
        metrics = self.minimise_policy(tape, total)
        log_prob = choice.mean_log_prob()
        metrics["learner/entropy"] = apply.reduce_sum(weights.mean(-log_prob))
        metrics["learner/temperature"] = alpha
        if choice.action is not None:
            saturated = weights.mean(bounded.saturated(choice.action))
            metrics["learner/saturated_ratio"] = apply.reduce_sum(saturated)
        # -log alpha (log pi + H): the temperature rises where the entropy is below its target.
        if self.log_alpha is not None:
            with tf.GradientTape() as tape:
                target = self._target(states.obs)
                loss = weights.mean(actor_critic.temperature(self.log_alpha, log_prob, target))
            apply.minimise(self.temperature_optimizer, tape, loss, [self.log_alpha])
        return metrics

    def networks(self) -> tuple:
        """Implements `Learner.networks`: those of the family, and the temperature."""
        found = super().networks()
        if self.log_alpha is None:
            return found
        return (
            *found,
            Network("temperature", (self.log_alpha,), self.temperature_optimizer),
        )

    def _target(self, obs: Any) -> tf.Tensor | float:
        """Target entropy of each state [n], or of all of them."""
        mask = inputs.action_mask(obs)
        if mask is None or self._config.target_entropy is not None:
            return self._target_entropy
        # A share of what is possible there: with one valid action the entropy is 0 whatever the temperature. A terminal
        # state may have none; its row has weight 0, which a logarithm of 0 would turn into a gradient that is NaN.
        valid = tf.reduce_sum(tf.cast(tf.cast(mask, tf.bool), tf.float32), axis=1)
        valid = tf.maximum(valid, 1.0)
        return self._config.target_entropy_ratio * tf.math.log(valid)

    def _policy_weights(self) -> tuple[tf.Variable, ...]:
        # At 0 the logarithms of deviations would make a deviation of 1.
        deviations = self.policy.head.log_std
        return tuple(v for v in super()._policy_weights() if v is not deviations)

    def _alpha(self) -> tf.Tensor:
        """The temperature, float32 scalar without gradient."""
        if self.log_alpha is None:
            return tf.constant(self._config.temperature, tf.float32)
        return tf.stop_gradient(tf.exp(self.log_alpha))


def _subset(outputs: tf.Tensor, count: int | None, seed: tf.Tensor) -> tf.Tensor:
    """`count` of the critics' outputs [N, n, K], drawn without replacement; all of them with None."""
    if count is None or count == outputs.shape[0]:
        return outputs
    scores = tf.random.stateless_uniform([outputs.shape[0]], seed)
    return tf.gather(outputs, tf.math.top_k(scores, count).indices)


def make(config: Config, spec: EnvSpec) -> Agent:
    """SAC bound to an environment.

    Raises:
      SettingError: the action space is neither a Box with finite limits nor Discrete, settings do not fit it, or
        sequences do not fit the replay.
    """
    family.check("sac", config, spec)
    space = spec.action_space
    discrete = isinstance(space, gym.spaces.Discrete)
    try:
        size = 0 if discrete else BoundedBox(space).size
    except SettingError as error:
        raise SettingError(
            f"algo=sac on {spec.name}: expected a Discrete action space, or {str(error)[9:]}"
        ) from error
    if discrete and config.state_dependent_exploration:
        raise SettingError(
            f"state_dependent_exploration with algo=sac on {spec.name}: expected a Box of actions, got {space}"
        )
    if discrete and config.num_quantiles is not None:
        raise SettingError(
            f"num_quantiles={config.num_quantiles} with algo=sac on {spec.name}: expected a Box of actions, got {space}"
        )
    outputs = int(space.n) if discrete else config.num_quantiles or 1
    most = math.log(space.n) if discrete else size * math.log(2.0)
    entropy = config.target_entropy
    if entropy is None:
        entropy = config.target_entropy_ratio * most if discrete else -float(size)
    elif config.temperature is None and (entropy > most or discrete and entropy < 0.0):
        limits = f"from 0 to {most:.3g}" if discrete else f"at most {most:.3g}"
        raise SettingError(
            f"target_entropy={entropy} with algo=sac on {spec.name}: expected {limits}, the largest entropy over "
            f"{space}, or the temperature would {'rise' if entropy > most else 'fall'} without end"
        )

    def make_policy() -> SACPolicy:
        return SACPolicy(config, spec, bodies.make(config, spec))

    def make_critics(policy: SACPolicy | None) -> CriticNetwork:
        shared = policy is not None and family.shares_body(config)
        own = policy.body if shared else bodies.make(config, spec)
        return CriticNetwork(config, own, size, outputs)

    def knobs(
        place: ActorPlace, env_steps: int, facts: Mapping[str, float]
    ) -> Mapping[str, np.ndarray]:
        del facts
        return {"random": action_noise.random_knob(config, place, env_steps)}

    return Agent(
        make_policy=make_policy,
        make_learner=lambda: SACLearner(config, make_policy, make_critics, entropy),
        experience=replay_settings.replay(config),
        knobs=knobs,
        notes=(*torsos.notes(config, spec), *_note(config, entropy)),
    )


def _note(config: Config, entropy: float) -> tuple[str, ...]:
    if config.temperature is not None:
        return ()
    return (f"target entropy {entropy:.3g} nats (--target_entropy)",)


ABOUT = About(
    title="SAC",
    family="continuous",
    options=(
        "learned temperature, Discrete actions, gSDE, prioritized replay, n-step, memory, many critics (REDQ), dropout "
        "(DroQ), truncated quantiles (TQC)"
    ),
    env="tfrl.testing.fakes:TargetPoint",
    refused="tfrl.testing.fakes:MatchMultiDiscrete",
    small=dict(
        policy_hidden_sizes=(8,), critic_hidden_sizes=(8,), batch_size=8, updates_per_call=2,
        replay_capacity=1000, num_critics=3, target_critics=2, critic_dropout=0.1,
        critic_layer_norm=True, policy_period_updates=2, prioritized=True,
    ),
    variants={
        "with quantiles": dict(num_quantiles=4, target_critics=None, prioritized=False),
        "with lstm": dict(
            sequence_length=6, sequence_period=4, burn_in=2, core_size=6, core="lstm", n_step=2,
            state_dependent_exploration=True, sde_resample_env_steps=3,
        ),
    },
)  # fmt: skip
