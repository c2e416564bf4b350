"""Shared parts of DDPG, TD3 and SAC: networks, optimisers, and the stages of an update around their losses.

Two networks learn from the replay: critics Q(s, a), and a policy that goes where the critics' values rise. Each has a
body, from observations to features, and dense layers behind it; with `shared_torso` or a memory the critics' body is
the policy's, and only the critics train it. An algorithm adds a policy, the target of the critics and a learner whose
`update` trains the critics and whose `update_policy` trains the policy; see `algos/ddpg.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrl.agent import Delayed, Learner, Network, Periodic
from tfrl.algos.parts import q_steps, replay_policy, replay_settings, replay_update
from tfrl.algos.parts.replay_policy import ReplayPolicy
from tfrl.algos.parts.replay_settings import HindsightSettings, ReplaySettings, has_memory
from tfrl.algos.parts.replay_update import RowWeights
from tfrl.errors import SettingError
from tfrl.nn import body as bodies
from tfrl.nn import torsos, user_model
from tfrl.nn.body import Body, ModelSettings
from tfrl.nn.critics import Critics, CriticSettings
from tfrl.nn.normalise import ObservationMoments
from tfrl.nn.target import copy_target, move_target
from tfrl.optim import apply
from tfrl.optim import settings as optim_settings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec, Trajectory, Transition, UpdateOutput


@dataclasses.dataclass(frozen=True)
class Settings(ReplaySettings, HindsightSettings, CriticSettings):
    """Settings of the family, a base of its `Config`s before `OptimizerSettings` and `ModelSettings`."""

    tau: float = setting(
        0.005,
        "share of the online weights that enters the target networks at each move; 1: hard copies",
        above=0.0,
        maximum=1.0,
    )
    target_period_updates: int = setting(
        1, "interval between moves of the target networks", unit="updates", minimum=1
    )
    policy_period_updates: int = setting(
        1, "updates of the critics per update of the policy", unit="updates", minimum=1
    )
    policy_learning_rate: float | None = setting(
        None,
        "learning rate of the policy; none: learning_rate. It decays as learning_rate does",
        above=0.0,
        resumable=True,
    )
    l2_penalty: float = setting(
        0.0,
        "L2 penalty: this times half the sum of squared weights, biases left out, is added to the losses of critics "
        "and policy; 0: none",
        minimum=0.0,
    )
    l2_biases: bool = setting(
        False,
        "l2_penalty counts biases and scales too, which is the weight decay of PyTorch's Adam",
        idle_if={"l2_penalty": 0.0},
    )

    batch_size: int = with_default(ReplaySettings, "batch_size", 256)
    env_steps_per_update: float = with_default(ReplaySettings, "env_steps_per_update", 1.0)
    updates_per_call: int = with_default(ReplaySettings, "updates_per_call", 16)
    replay_capacity: int = with_default(ReplaySettings, "replay_capacity", 1_000_000)
    hidden_sizes: tuple[int, ...] = with_default(
        ModelSettings,
        "hidden_sizes",
        (),
        help="units per hidden layer of the MLP that stands before the layers of policy and critics; empty: none",
    )
    activation: str = with_default(
        ModelSettings,
        "activation",
        "relu",
        help="activation function of the MLP and of the layers of policy and critics",
        idle_if=(),
    )

    def __post_init__(self) -> None:
        OptimizerSettings.__post_init__(self)
        replay_settings.check(self)
        check_rate(self, "policy_learning_rate")


def check_rate(config: Any, name: str) -> None:
    """Raises SettingError where a network has a learning rate of its own, by setting `name`, beside a schedule."""
    rate = getattr(config, name)
    if rate is not None and config.learning_rate_schedule:
        raise SettingError(
            f"{name}={rate} with learning_rate_schedule: the schedule is that of all networks; leave one of them out"
        )


def shares_body(config: Any) -> bool:
    """Whether policy and critics have one body, which the critics train."""
    return config.shared_torso or has_memory(config)


class CriticNetwork(tf.Module):
    """Critics on a body, which may be the policy's too.

    Args:
      config: `CriticSettings` and `ModelSettings`.
      body: from what the policy's `inputs` gives to features.
      action_size: components of an action that the critics take beside the features; 0: they take none.
      outputs: K of each critic.

    Attributes:
      body: as given.
      critics: the ensemble.
    """

    def __init__(self, config: Any, body: Body, action_size: int, outputs: int = 1):
        super().__init__()
        self.body = body
        self.critics = Critics(config, body.output_size + action_size, outputs)

    def __call__(
        self, features: tf.Tensor, action: tf.Tensor | None, seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Outputs of N critics [N, n, K].

        Args:
          features: of states, by `body` [n, F].
          action: on the scale [-1, 1], [n, m]; None where critics take none.
          seed: of dropout, int32 [2]; None: no unit is left out.
        """
        return self.critics(_joined(features, action), seed)

    def first(self, features: tf.Tensor, action: tf.Tensor | None) -> tf.Tensor:
        """Outputs of the first critic alone [n, K]; arguments as in a call."""
        return self.critics.heads[0](_joined(features, action), None)

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """The variables that an optimiser may change: frozen layers of a user's network are left out."""
        return user_model.trainable(self, super().trainable_variables)


def _joined(features: tf.Tensor, action: tf.Tensor | None) -> tf.Tensor:
    return features if action is None else tf.concat([features, action], axis=1)


class Rows(NamedTuple):
    """The two sides of the critics' loss, rows [n]: transitions, or steps of one sequence after the other.

    Attributes:
      obs_tm1, obs_t: observations acted on and bootstrapped from; for action masks.
      features_tm1: by the body of the critics [n, F].
      target_features_t: by the body of the target critics [n, F].
      policy_features_t: by the body of the policy that chooses the next action [n, F']; no gradient.
      action_tm1, reward_t, discount_t: as in `Transition`.
    """

    obs_tm1: Any
    obs_t: Any
    features_tm1: tf.Tensor
    target_features_t: tf.Tensor
    policy_features_t: tf.Tensor
    action_tm1: tf.Tensor
    reward_t: tf.Tensor
    discount_t: tf.Tensor


def rows(
    config: Any,
    policy: ReplayPolicy,
    critics: CriticNetwork,
    target: CriticNetwork,
    chooser: ReplayPolicy,
    batch: Transition | Trajectory,
) -> Rows:
    """The rows of a batch: transitions, or with a memory the steps of its sequences after the burn-in.

    Args:
      config: settings of the replay.
      policy: has the statistics of observations.
      critics, target: online and target critics.
      chooser: policy that chooses the next action; online or target.
      batch: leaves [b, ...], or with a memory [T, b, ...].
    """
    if has_memory(config):
        return _of_sequences(config, policy, critics, target, chooser, batch)
    obs_tm1, obs_t = policy.inputs(batch.obs_tm1), policy.inputs(batch.obs_t)
    # Features of the next state: of the target critics, and of the policy that acts there.
    target_features_t = target.body.step(obs_t, ())[0]
    policy_features_t = target_features_t
    if chooser.body is not target.body:
        policy_features_t = tf.stop_gradient(chooser.body.step(obs_t, ())[0])
    # A user's network is in training mode where the gradient is taken, and is called there last.
    features_tm1 = critics.body.step(obs_tm1, (), training=True)[0]
    return Rows(
        obs_tm1, obs_t, features_tm1, target_features_t, policy_features_t,
        batch.action_tm1, batch.reward_t, batch.discount_t,
    )  # fmt: skip


def _of_sequences(
    config: Any,
    policy: ReplayPolicy,
    critics: CriticNetwork,
    target: CriticNetwork,
    chooser: ReplayPolicy,
    batch: Trajectory,
) -> Rows:
    """The steps after the burn-in: T' of each of b sequences, n = b T' rows.

    The bodies read the sequence from the stored state on. n-step sums end where the sequence or an episode does, with
    the discount that belongs to their length.
    """
    burn_in, inputs = config.burn_in, policy.inputs(batch.obs)
    # Both bodies refresh the stored state over the burn-in and read the rest, [T' + 1, b, F].
    features = replay_policy.unroll(critics.body, inputs, batch, burn_in, training=True)
    target_features = replay_policy.unroll(target.body, inputs, batch, burn_in)
    chooser_features = target_features if chooser.body is target.body else features
    obs = tf.nest.map_structure(lambda x: x[burn_in:], inputs)
    steps = q_steps.late_steps(batch, config.n_step, burn_in)
    return Rows(
        obs_tm1=steps.now(obs),
        obs_t=steps.then(obs),
        features_tm1=steps.now(features),
        target_features_t=steps.then(target_features),
        policy_features_t=steps.then(tf.stop_gradient(chooser_features)),
        action_tm1=steps.action_tm1,
        reward_t=steps.reward_t,
        discount_t=steps.discount_t,
    )


class States(NamedTuple):
    """The states that a policy learns to act in, rows [n].

    Attributes:
      obs: for action masks.
      policy_features: by the policy's body [n, F'], with a gradient unless the critics train it.
      critic_features: by the critics' body [n, F], without gradient.
    """

    obs: Any
    policy_features: tf.Tensor
    critic_features: tf.Tensor


def states(
    config: Any, policy: ReplayPolicy, critics: CriticNetwork, batch: Transition | Trajectory
) -> States:
    """The states acted in of a batch, its rows as in `rows`."""
    if has_memory(config):
        features = policy.unroll(batch, config.burn_in)[:-1]
        obs = tf.nest.map_structure(lambda x: x[config.burn_in : -1], policy.inputs(batch.obs))
        obs = tf.nest.map_structure(q_steps.by_sequence, obs)
        features = tf.stop_gradient(q_steps.by_sequence(features))
        return States(obs, features, features)
    obs = policy.inputs(batch.obs_tm1)
    critic_features = tf.stop_gradient(critics.body.step(obs, ())[0])
    if policy.body is critics.body:
        return States(obs, critic_features, critic_features)
    return States(obs, policy.body.step(obs, (), training=True)[0], critic_features)


class ActorCriticLearner(Learner):
    """Policy, critics, their targets and optimisers, and the stages of an update.

    An algorithm adds `update`, of the critics, and `update_policy`.

    Args:
      config: settings of the algorithm.
      make_policy: builds a policy, a `ReplayPolicy` with the module `head` of its own layers.
      make_critics: from a policy, whose body they share if `shares_body`, or None for a body of their own.
      with_target_policy: the policy has a target too.

    Attributes:
      policy, critics: online networks.
      target_policy, target_critics: their targets; `target_policy` is None without one.
      critic_optimizer, policy_optimizer: of the online networks.
      statistics: of observations, or None.
    """

    def __init__(
        self,
        config: Any,
        make_policy: Callable[[], Any],
        make_critics: Callable[[Any], CriticNetwork],
        with_target_policy: bool,
    ):
        super().__init__()
        self._config = config
        self.policy = make_policy()
        self.critics = make_critics(self.policy)
        self.target_policy = make_policy() if with_target_policy else None
        self.target_critics = make_critics(self.target_policy)
        self._copy_to_targets()
        self.statistics = None
        if self.policy.normaliser is not None:
            self.statistics = ObservationMoments(self.policy.normaliser.space)
        self.env_steps = optim_settings.make_clock(config)
        self.critic_optimizer = optim_settings.make(
            config, self._critic_variables(), self.env_steps
        )
        self.policy_optimizer = optim_settings.make(
            with_rate(config, config.policy_learning_rate),
            self._policy_variables(),
            self.env_steps,
            config.policy_period_updates,
        )

    def update_policy(self, batch: Transition | Trajectory, seed: tf.Tensor) -> Mapping[str, Any]:
        """One optimiser step of the policy in replica context, after every `policy_period_updates`-th `update`.

        Args:
          batch: what `update` got.
          seed: int32 [2].

        Returns:
          Metrics, float32 scalars equal on all replicas.
        """
        raise NotImplementedError(f"{type(self).__name__}.update_policy")

    def delayed(self) -> Delayed:
        """Implements `Learner.delayed`: the update of the policy."""
        return Delayed(self._config.policy_period_updates, self.update_policy)

    def periodic(self) -> Sequence[Periodic]:
        """Implements `Learner.periodic`: the move of the targets."""
        return (Periodic(self._config.target_period_updates, self._move_targets),)

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: policy, each critic, the critics' body, and the targets."""
        policy, target = self.policy, self.target_policy
        copied = None if target is None else self._policy_variables(target)
        networks = [
            (
                Network(
                    "policy", self._policy_variables(), self.policy_optimizer,
                    outputs=policy.output_kernels,
                ),
                copied,
            )
        ]  # fmt: skip
        heads = zip(self.critics.critics.heads, self.target_critics.critics.heads, strict=True)
        for i, (mine, other) in enumerate(heads):
            trained = Network(f"critic_{i}", mine.trainable_variables, self.critic_optimizer)
            networks.append((trained, other.trainable_variables))
        # The body's features are no output: all of its layers are hidden ones.
        mine, other = (
            user_model.trainable(body, body.trainable_variables)
            for body in (self.critics.body, self.target_critics.body)
        )
        networks.append((Network("critic_body", mine, self.critic_optimizer, outputs=()), other))
        found = []
        for trained, copied in networks:
            if trained.variables:
                found.append(trained)
                if copied is not None:
                    found.append(Network(f"target_{trained.name}", copied, copy_of=trained.name))
        return tuple(found)

    def adopt(self, env_steps: int) -> None:
        """Implements `Learner.adopt`: targets are copies of the networks, however slowly they move later; statistics of
        observations go on from the policy's."""
        self._copy_to_targets()
        if self.statistics is not None:
            self.statistics.adopt(self.policy.normaliser, env_steps)

    # The stages of `update` and `update_policy`, in their order; in replica context.

    def row_weights(self, batch: Transition | Trajectory) -> RowWeights:
        """How much each row counts, see `replay_update.row_weights`."""
        return replay_update.row_weights(self._config, batch, self.critic_optimizer.iterations)

    def extra_critic_loss(self) -> tf.Tensor | None:
        """This replica's part of weight penalties and of what a user's network adds; None: nothing."""
        return self._extra(self.critics.body, self._critic_variables())

    def extra_policy_loss(self) -> tf.Tensor | None:
        """The same for the policy."""
        body = None if shares_body(self._config) else self.policy.body
        return self._extra(body, self._policy_weights())

    def minimise_critics(self, tape: tf.GradientTape, loss: tf.Tensor) -> dict[str, tf.Tensor]:
        """One optimiser step of the critics; its metrics, float32 scalars equal on all replicas."""
        return replay_update.minimise(
            self._config,
            self.critic_optimizer,
            self.env_steps,
            tape,
            loss,
            self._critic_variables(),
        )

    def minimise_policy(self, tape: tf.GradientTape, loss: tf.Tensor) -> dict[str, tf.Tensor]:
        """One optimiser step of the policy; its metrics, float32 scalars equal on all replicas."""
        variables, limit = self._policy_variables(), self._config.gradient_clip_norm
        norm = apply.minimise(self.policy_optimizer, tape, loss, variables, limit)
        return {
            "learner/policy_loss": apply.reduce_sum(loss),
            "learner/policy_gradient_norm": norm,
        }

    def output(
        self,
        batch: Transition | Trajectory,
        weights: RowWeights,
        td_error: tf.Tensor,
        q: tf.Tensor,
        added: tf.Tensor | None,
        metrics: Mapping[str, tf.Tensor],
    ) -> UpdateOutput:
        """Metrics of an update of the critics and the new priorities of its items, float32 [b] or None.

        Statistics of observations take in the batch here, after the update that read them.

        Args:
          td_error, q: errors and values of the actions taken by each critic [N, n].
          added: what `extra_critic_loss` gave.
          metrics: what `minimise_critics` gave.
        """
        config = self._config
        replay_update.merge_observations(config, self.statistics, self.policy.normaliser, batch)
        # The error of a row is the mean over the critics; it is the new priority too.
        error = tf.reduce_mean(tf.abs(td_error), axis=0)
        means = {"learner/td_error_abs_mean": error, "learner/q_mean": tf.reduce_mean(q, axis=0)}
        metrics = {**metrics, **weights.means(means)}
        return replay_update.output(config, batch, weights, error, added, metrics)

    def _critic_variables(self) -> tuple[tf.Variable, ...]:
        return self.critics.trainable_variables

    def _policy_variables(self, policy: Any = None) -> tuple[tf.Variable, ...]:
        """Trained by the policy's loss: its layers, and its body unless that is the critics'."""
        policy = self.policy if policy is None else policy
        head = tuple(policy.head.trainable_variables)
        if shares_body(self._config):
            return head
        return (*user_model.trainable(policy.body, policy.body.trainable_variables), *head)

    def _policy_weights(self) -> tuple[tf.Variable, ...]:
        """Variables of the policy that `l2_penalty` may draw to 0."""
        return self._policy_variables()

    def _extra(self, body: Body | None, variables: Sequence[tf.Variable]) -> tf.Tensor | None:
        terms = list(body.losses()) if body is not None else []
        if self._config.l2_penalty:
            every = self._config.l2_biases
            squares = [tf.nn.l2_loss(v) for v in variables if every or v.shape.rank >= 2]
            terms.append(self._config.l2_penalty * tf.add_n(squares))
        return apply.global_mean(tf.add_n(terms)) if terms else None

    def _copy_to_targets(self) -> None:
        copy_target(self.target_critics, self.critics)
        if self.target_policy is not None:
            copy_target(self.target_policy, self.policy)

    def _move_targets(self) -> None:
        tau, policy, target = self._config.tau, self.policy, self.target_policy
        move_target(self.target_critics, self.critics, tau)
        if target is not None:
            move_target(target.head, policy.head, tau)
            if not shares_body(self._config):
                move_target(target.body, policy.body, tau)


def with_rate(config: Any, rate: float | None) -> Any:
    """The settings with a learning rate in place of the critics', which decays by the same share; None: that one."""
    if rate is None:
        return config
    final = config.learning_rate_final
    if final is not None:
        final *= rate / config.learning_rate
    return dataclasses.replace(config, learning_rate=rate, learning_rate_final=final)


def check(algo: str, config: Any, spec: EnvSpec) -> None:
    """Raises SettingError for an observation or a network that the family cannot serve, or one that is to be shared
    where there is none.

    Args:
      algo: its name, for messages.
    """
    if spec.has_action_features:
        raise SettingError(
            f"algo={algo} on {spec.name}: expected an observation without action features, which this algorithm does "
            "not score"
        )
    torsos.check(config, spec)
    replay_policy.check(config)
    if config.shared_torso and not has_memory(config) and not bodies.make(config, spec).variables:
        raise SettingError(
            f"algo={algo} on {spec.name}: shared_torso without hidden_sizes: no network stands before the layers of "
            "policy and critics, so that there is nothing to share; expected hidden_sizes, or shared_torso=false"
        )
