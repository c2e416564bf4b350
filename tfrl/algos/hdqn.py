"""hDQN: the agents of a team choose goals by a slow Q-network, and actions towards them by a fast one.

What it is: deep hierarchical Q-learning (Kulkarni et al. 2016) of cooperating agents with temporal abstraction (Tang et
al. 2018). The high level of each agent chooses a goal, which holds until it is reached or its time is over, and learns
from the team's reward by semi-Markov targets. The low level learns to reach goals from intrinsic rewards; agents do so
independently. `coordination` says how the high levels learn together: `independent` (Ind-hDQN), `comm` (hCom: messages
between the networks, as in CommNet) or `qmix` (hQmix: a mixing network). With `acer` every step of a goal is a
transition to the goal's end, with the rest of its reward and of its duration. With `levels=1` there are no goals, the
same networks choose the actions: the flat baselines IL-DQN, CommNet and QMIX without a memory. What it is not: an
option-critic; the goals are given, not learned.

Spaces: teams (docs/teams.md) whose agents have vectors as observations and Discrete actions of one size. Goals are a
`GoalSpace`, which the environment names or `goal_space` does. `action_mask` restricts what is chosen, explored and
bootstrapped from; the mixer reads `state`, or without one all agents' observations. Data: windows of the steps to be
trained on and of those after them in which a goal may end. A team is one environment, so that all its agents are
trained on the same steps (concurrent replay).

Differences from the paper: the reward of a goal is discounted within it; an episode that terminates and a goal that
is reached are not bootstrapped over; the mixer has a target copy; messages pass the gradient; epsilon decays over env
steps; all agents share their networks unless `shared_parameters` is off, and see which agent they are.

Read `HDQNLearner.update` with `high_loss` and `low_loss` first, then `algos/parts/goal_policy.py` (the acting of both
levels) and `nn/agent_values.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfrl.agent import About, Agent, Learner, Network, Periodic, Replay, Windows
from tfrl.algos.parts import goal_policy, replay_update
from tfrl.algos.parts.goal_policy import FLAT, GoalPolicy, GoalSettings
from tfrl.algos.parts.replay_settings import ReplaySettings
from tfrl.errors import SettingError
from tfrl.explore import epsilon
from tfrl.losses import returns, value
from tfrl.nn import goals as goal_spaces
from tfrl.nn import inputs, teams
from tfrl.nn.body import flat
from tfrl.nn.mixers import MixerSettings, QMixer
from tfrl.nn.target import copy_target
from tfrl.optim import apply
from tfrl.optim import settings as optim_settings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import Except, setting, with_default
from tfrl.types import EnvSpec, Trajectory, UpdateOutput

_NO_MIXER = {"coordination": Except(("qmix",))}
SUCCESS_WINDOW = 1_000.0  # ended goals over which the success of a goal is averaged


@dataclasses.dataclass(frozen=True)
class Config(GoalSettings, OptimizerSettings):
    """Settings of hierarchical DQN; `learning_rate*` and `discount` are those of the high level."""

    acer: bool = setting(
        True,
        "augmented replay: the high level learns from every step of a goal; false: from the steps at which goals are "
        "chosen",
        idle_if=FLAT,
    )
    goal_reward: float = setting(
        1.0, "intrinsic reward of the step that reaches the goal", idle_if=FLAT
    )
    step_reward: float = setting(-0.01, "intrinsic reward of every other step", idle_if=FLAT)
    random_goal_share: float = setting(
        0.0,
        "share of the low level's transitions that are trained for a random goal instead of the one that was acted for",
        minimum=0.0,
        maximum=1.0,
        idle_if=FLAT,
    )

    discount: float = with_default(
        ReplaySettings,
        "discount",
        0.95,
        help="discount factor per env step, of the high level",
        minimum=0.01,
    )
    low_discount: float = setting(
        0.9,
        "discount factor per env step, of the low level",
        minimum=0.0,
        maximum=1.0,
        idle_if=FLAT,
    )
    n_step: int = with_default(
        ReplaySettings,
        "n_step",
        1,
        help="with levels=1: length of the n-step return",
        idle_if={"levels": 2},
    )
    double: bool = setting(
        False, "double Q-learning: the online networks choose the bootstrap goal and action"
    )
    loss: str = setting(
        "squared", "loss of the temporal-difference error", choices=("huber", "squared")
    )
    target_period_updates: int = setting(
        100, "interval between copies to the target networks", unit="updates", minimum=1
    )
    trained_env_steps: int = setting(
        16,
        "consecutive env steps of a replayed item that are trained on; it also holds the steps after them in which "
        "their goals end",
        unit="env steps",
        minimum=1,
    )
    batch_size: int = with_default(
        ReplaySettings,
        "batch_size",
        16,
        help="items per update, of trained_env_steps steps each, over all learner devices",
        idle_if=(),
    )
    env_steps_per_update: float = with_default(
        ReplaySettings, "env_steps_per_update", 64.0, idle_if=()
    )
    updates_per_call: int = with_default(ReplaySettings, "updates_per_call", 8, idle_if=())
    replay_capacity: int = with_default(
        ReplaySettings,
        "replay_capacity",
        50_000,
        help="env steps of the items in the replay",
        unit="env steps",
        idle_if=(),
    )
    min_replay: int = with_default(
        ReplaySettings,
        "min_replay",
        2_000,
        help="env steps of the items in the replay before the first update",
        unit="env steps",
        idle_if=(),
    )

    mixing_embed_size: int = with_default(MixerSettings, "mixing_embed_size", 32, idle_if=_NO_MIXER)
    hypernet_layers: int = with_default(MixerSettings, "hypernet_layers", 1, idle_if=_NO_MIXER)
    hypernet_size: int = with_default(
        MixerSettings, "hypernet_size", 64, idle_if=(_NO_MIXER, {"hypernet_layers": 1})
    )
    optimizer: str = with_default(OptimizerSettings, "optimizer", "rmsprop")
    optimizer_epsilon: float = with_default(OptimizerSettings, "optimizer_epsilon", 1e-5)
    learning_rate: float = with_default(OptimizerSettings, "learning_rate", 2.5e-4)
    low_learning_rate: float = setting(
        5e-4,
        "learning rate of the low level; it decays as learning_rate does, and a learning_rate_schedule is that of both "
        "levels",
        above=0.0,
        resumable=True,
        idle_if=(FLAT, {"learning_rate_schedule": Except(((),))}),
    )
    gradient_clip_norm: float | None = with_default(OptimizerSettings, "gradient_clip_norm", 10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        goal_policy.check(self)
        for name, least in (
            ("min_replay", self.min_replay),
            ("batch_size", self.batch_size * self.trained_env_steps),
        ):
            if least > self.replay_capacity:
                raise SettingError(
                    f"replay_capacity={self.replay_capacity} with {name}={getattr(self, name)} and trained_env_steps="
                    f"{self.trained_env_steps}: expected room for at least {least} env steps"
                )

    @property
    def look_ahead(self) -> int:
        """Most env steps from a step to the observation that it bootstraps from."""
        return self.max_goal_length if self.levels == 2 else self.n_step


class LevelLoss(NamedTuple):
    """Loss of the rows of one level.

    Attributes:
      loss: [n].
      valid: rows that count, bool [n].
      metrics: {metric: [n]}, logged as means.
    """

    loss: tf.Tensor
    valid: tf.Tensor
    metrics: Mapping[str, tf.Tensor]


def high_loss(
    config: Config,
    policy: GoalPolicy,
    target: GoalPolicy,
    mixer: QMixer | None,
    target_mixer: QMixer | None,
    batch: Trajectory,
) -> LevelLoss:
    """(Q(s, g) - y)^2, y = R + gamma^k max_g' Q'(s_k, g'), k the steps to the end of the goal, R the reward in them.

    Tang et al. 2018, eq. 5 and 6 and section 4.3; Sutton et al. 1999 for the semi-Markov target. With a mixer, Q is
    that of the joint goal, whose parts begin and end together. With one level, goals are actions and last one step, or
    n steps of an n-step return.

    Args:
      config: settings.
      policy, target: online and target policy.
      mixer, target_mixer: online and target mixer, None without one.
      batch: leaves [T, b, ...]; the first `trained_env_steps` steps are trained on.

    Returns:
      `LevelLoss` of P b N rows, or P b with a mixer.
    """
    steps, agents = config.trained_env_steps, policy.team.num_agents
    length, width = batch.valid.shape
    goal = batch.extras["goal"] if config.levels == 2 else batch.action
    by_step = lambda x: tf.reshape(x, [-1, width, *x.shape[1:]])
    # Value of the best choice of each agent at every observation by the target network [T + 1, b, N].
    obs, early = flat(batch.obs), tf.nest.map_structure(lambda x: flat(x[:steps]), batch.obs)
    q_target = target.high_values(obs)
    selector = policy.high_values(obs) if config.double else q_target
    best = tf.argmax(selector, axis=2, output_type=tf.int32)
    alive = by_step(policy.alive(obs))
    q_next = by_step(value.select(q_target, best)) * alive
    # Value of the present goals by the online network [P, b, N].
    q = by_step(value.select(policy.high_values(early), flat(goal[:steps]))) * alive[:steps]
    # Reward, discount and duration to the end of each agent's goal, and the observation after it [P, b, N].
    ahead = to_the_end(config, batch)
    reward, discount = ahead.reward[:steps], ahead.discount[:steps]
    end = tf.minimum(tf.range(steps)[:, None, None] + ahead.steps[:steps], length)
    # Steps that count: all, or those at which goals were chosen.
    counts = tf.repeat(batch.valid[:steps, :, None], agents, axis=2)
    if config.levels == 2 and not config.acer:
        counts &= batch.extras["decided"][:steps]
    if mixer is None:
        counts &= alive[:steps] > 0.0
    else:
        # One goal for the team: all agents have the same ends, rewards and durations.
        end, reward, discount, counts = (x[:, :, 0] for x in (end, reward, discount, counts))
        state = by_step(policy.team.state(obs))
        q = by_step(mixer(flat(q), flat(state[:steps])))
        q_next = by_step(target_mixer(flat(q_next), flat(state)))
    # y = R + gamma^k Q'(s_k), without gradient, and the loss of Q(s, g) - y.
    target_value = tf.stop_gradient(reward + discount * _at(q_next, end))
    return _loss(config, q, target_value, counts, "learner/")


def to_the_end(config: Config, batch: Trajectory) -> returns.NStepReturns:
    """Discounted reward, discount and number of steps from each step to the end of its agent's goal, [T, b, N] each.

    The j-th step of a goal that lasts k steps has the rewards from there on and the duration k - j, as an entry of the
    augmented replay of Tang et al. 2018, section 4.4. With one level an n-step return.

    Args:
      batch: leaves [T, b, ...].
    """
    length, width = batch.valid.shape
    agents = batch.action.shape[2]
    each = lambda x: tf.repeat(x, agents, axis=1)
    reward, discount, is_last, valid = map(
        each, (batch.reward, batch.discount, batch.is_last, batch.valid)
    )
    if config.levels == 1:
        ahead = returns.n_step(reward, discount, is_last, config.n_step, valid)
    else:
        # A goal ends where the next step begins with another choice, or the episode ends.
        decided = tf.reshape(batch.extras["decided"], [length, width * agents])
        ends = is_last | returns.shift_left(decided)
        ahead = returns.to_ends(reward, discount, ends, valid)
    return returns.NStepReturns(*(tf.reshape(x, [length, width, agents]) for x in ahead))


def low_loss(
    config: Config, policy: GoalPolicy, target: GoalPolicy, batch: Trajectory, seed: tf.Tensor
) -> LevelLoss:
    """(Q(s, g, a) - y)^2, y = r + gamma (1 - reached) max_a' Q'(s', g, a'), r the intrinsic reward of the goal.

    Kulkarni et al. 2016, eq. 3; Tang et al. 2018, section 4.1. Time that is over does not end the sum; an episode that
    terminates, an agent that is done before its team and a goal that is reached do.

    Args:
      config: settings.
      policy, target: online and target policy.
      batch: leaves [T, b, ...]; the first `trained_env_steps` steps are trained on.
      seed: int32 [2], of the random goals.

    Returns:
      `LevelLoss` of P b N rows.
    """
    steps = config.trained_env_steps
    now = tf.nest.map_structure(lambda x: flat(x[:steps]), batch.obs)
    then = tf.nest.map_structure(lambda x: flat(x[1 : steps + 1]), batch.obs)
    goal = batch.extras["goal"][:steps]
    if config.random_goal_share:
        goal = _random_goals(config, policy, goal, seed)
    goal = flat(goal)
    # r = `goal_reward` where the step reached the goal, else `step_reward`.
    reached = policy.reached(then, goal)
    reward = tf.where(reached, config.goal_reward, config.step_reward)
    goes_on = flat(batch.discount[:steps, :, None] > 0.0) & policy.team.alive(then) & ~reached
    # max_a' Q'(s', g, a') over the available actions, and Q(s, g, a).
    q_next = target.low_values(then, goal)
    selector = policy.low_values(then, goal) if config.double else q_next
    ahead = value.select(q_next, tf.argmax(selector, axis=2, output_type=tf.int32))
    q = value.select(policy.low_values(now, goal), flat(batch.action[:steps]))
    discount = config.low_discount * tf.cast(goes_on, tf.float32)
    counts = flat(batch.valid[:steps, :, None]) & policy.team.alive(now)
    return _loss(config, q, tf.stop_gradient(reward + discount * ahead), counts, "learner/low_")


def _loss(
    config: Config, q: tf.Tensor, target: tf.Tensor, counts: tf.Tensor, prefix: str
) -> LevelLoss:
    """The loss of values towards their targets, all of one shape; the rows of it, as one axis [n]."""
    target.shape.assert_is_compatible_with(q.shape)
    counts.shape.assert_is_compatible_with(q.shape)
    q, target, counts = (tf.reshape(x, [-1]) for x in (q, target, counts))
    td_error = q - target
    loss = value.squared(td_error) if config.loss == "squared" else value.huber(td_error)
    metrics = {f"{prefix}td_error_abs_mean": tf.abs(td_error), f"{prefix}q_mean": q}
    return LevelLoss(loss, counts, metrics)


def _random_goals(
    config: Config, policy: GoalPolicy, goal: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Goals [P, b, N] of which a share is replaced by uniform ones; the same for any number of replicas."""
    steps, width, agents = goal.shape
    # Two numbers for each goal: whether it is replaced, and by which one.
    draw = lambda rows: tf.random.stateless_uniform([rows, steps, agents, 2], seed)
    numbers = tf.transpose(apply.replica_rows(draw, width), [1, 0, 2, 3])
    other = tf.cast(numbers[..., 1] * policy.goals.num_goals, tf.int32)
    return tf.where(numbers[..., 0] < config.random_goal_share, other, goal)


def _at(x: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """x[where[t, ...], ...] along the first axis: [T + 1, ...], int32 [P, ...] -> [P, ...]."""
    columns = int(np.prod(where.shape[1:]))
    index = tf.reshape(where, [-1, columns]) * columns + tf.range(columns)
    return tf.reshape(tf.gather(tf.reshape(x, [-1]), index), where.shape)


class HDQNLearner(Learner):
    """Online and target networks of both levels, an optimiser for each, and the update of both.

    Args:
      config: `Config`.
      make_policy: builds an `GoalPolicy`.

    Attributes:
      policy, target: online and target policy.
      mixer, target_mixer: online and target mixer; None without one.
      optimizer, low_optimizer: of the high level with its mixer, and of the low one (None with one level).
    """

    def __init__(self, config: Config, make_policy: Callable[[], GoalPolicy]):
        super().__init__()
        self._config = config
        self.policy, self.target = make_policy(), make_policy()
        self.mixer = self.target_mixer = None
        if config.coordination == "qmix":
            team = self.policy.team
            self.mixer, self.target_mixer = (
                QMixer(
                    team.num_agents, team.state_size, config.mixing_embed_size, config.hypernet_layers,
                    config.hypernet_size,
                )
                for _ in range(2)
            )  # fmt: skip
        self._copy_to_target()
        self.env_steps = optim_settings.make_clock(config)
        if self.env_steps is None and config.levels == 2 and config.pretrain_env_steps:
            self.env_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="env_steps")
        self.optimizer = optim_settings.make(config, self._high_variables(), self.env_steps)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        waits = config.levels == 2 and config.pretrain_env_steps
        if waits and replicas > 1 and isinstance(self.optimizer, tf.keras.optimizers.Optimizer):
            raise SettingError(
                f"pretrain_env_steps={config.pretrain_env_steps} with optimizer={config.optimizer} on {replicas} "
                "devices: a Keras optimiser cannot leave out steps there; expected one of "
                f"{', '.join(optim_settings.OPTIMIZERS)}, or one device"
            )
        self.low_optimizer, self._low_config = None, config
        if config.levels == 2:
            rate, final = config.low_learning_rate, config.learning_rate_final
            if final is not None:  # decays by the same share
                final *= rate / config.learning_rate
            self._low_config = dataclasses.replace(
                config, learning_rate=rate, learning_rate_final=final
            )
            low = self.policy.low.trainable_variables
            self.low_optimizer = optim_settings.make(self._low_config, low, self.env_steps)

    def _high_variables(self) -> tuple[tf.Variable, ...]:
        mixer = () if self.mixer is None else self.mixer.trainable_variables
        return (*self.policy.high.trainable_variables, *mixer)

    def _copy_to_target(self) -> None:
        copy_target(self.target, self.policy)
        if self.mixer is not None:
            copy_target(self.target_mixer, self.mixer)

    def periodic(self) -> tuple[Periodic, ...]:
        """Implements `Learner.periodic`: the copy to the target networks and the target mixer."""
        return (Periodic(self._config.target_period_updates, self._copy_to_target),)

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: high and low level and mixer, and their target copies."""
        found = []
        for name, online, target, optimizer in (
            ("high", self.policy.high, self.target.high, self.optimizer),
            ("low", self.policy.low, self.target.low, self.low_optimizer),
            ("mixer", self.mixer, self.target_mixer, self.optimizer),
        ):
            if online is not None:
                trained, copies = online.trainable_variables, target.trainable_variables
                found.append(Network(name, trained, optimizer, outputs=online.output_kernels))
                found.append(Network(f"target_{name}", copies, copy_of=name))
        return tuple(found)

    def update(self, batch: Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one optimiser step of each level on the mean loss of its rows.

        Args:
          batch: leaves [T, b, ...].
          seed: int32 [2], of random goals.
        """
        config, policy = self._config, self.policy
        # High level, or the only one: mean loss over the steps that count on all replicas.
        with tf.GradientTape() as tape:
            high = high_loss(config, policy, self.target, self.mixer, self.target_mixer, batch)
            count = apply.masked_count(high.valid)
            loss = apply.masked_mean(high.loss, high.valid, count)
        due = None
        if config.levels == 2 and config.pretrain_env_steps:  # not while the low level learns alone
            due = self.env_steps >= config.pretrain_env_steps
        metrics = replay_update.minimise(
            config, self.optimizer, self.env_steps, tape, loss, self._high_variables(), due
        )
        metrics |= _means(high, count)
        if config.levels == 1:
            return UpdateOutput(metrics, None)
        # Low level: the same for its rows.
        with tf.GradientTape() as tape:
            low = low_loss(config, policy, self.target, batch, seed)
            count = apply.masked_count(low.valid)
            loss = apply.masked_mean(low.loss, low.valid, count)
        stepped = replay_update.minimise(
            self._low_config, self.low_optimizer, self.env_steps, tape, loss,
            policy.low.trainable_variables,
        )  # fmt: skip
        metrics |= {name.replace("/", "/low_"): x for name, x in stepped.items()}
        metrics |= _means(low, count)
        return UpdateOutput({**metrics, **self._count_ends(batch)}, None)

    def _count_ends(self, batch: Trajectory) -> dict[str, tf.Tensor]:
        """Takes goals chosen in the steps trained on into the policy's shares of success; metrics of them.

        A goal succeeds where any of its steps reaches it, which need not be the last one with `decisions="all"`. It
        ends early where its agent does. Goals of agents that do not live are none.
        """
        config, policy = self._config, self.policy
        steps = config.trained_env_steps
        length, width = batch.valid.shape
        goal, valid = batch.extras["goal"], batch.valid[:, :, None]
        obs, then = (
            tf.nest.map_structure(lambda x, i=i: flat(x[i : length + i]), batch.obs) for i in (0, 1)
        )
        by_step = lambda x: tf.reshape(x, [length, width, -1])
        alive, lives_on = by_step(policy.team.alive(obs)), by_step(policy.team.alive(then))
        reached = by_step(policy.reached(then, flat(goal)))
        # Steps after which another goal is chosen, the agent is done or the episode ends.
        decided = batch.extras["decided"]
        ends = returns.shift_left(decided) | ~lives_on | batch.is_last[:, :, None]
        # From each step to the end of its goal: steps that reach it, whether there is an end, all steps.
        columns = lambda x: tf.reshape(x, [length, -1])
        each, one = columns(valid | tf.zeros_like(decided)), tf.ones_like(columns(ends), tf.float32)
        to_end = lambda x: by_step(
            returns.to_ends(columns(tf.cast(x, tf.float32)), one, columns(ends), each).reward
        )
        hits, has_end, duration = map(to_end, (reached, ends, tf.ones_like(ends)))
        chosen = tf.cast((decided & alive & valid & (has_end > 0.0))[:steps], tf.float32)
        # Mean over about `SUCCESS_WINDOW` ends of each goal.
        goals = tf.one_hot(goal[:steps], policy.goals.num_goals)
        per_goal = lambda x: apply.reduce_sum(tf.reduce_sum(x[..., None] * goals, axis=[0, 1, 2]))
        count, hits = per_goal(chosen), per_goal(chosen * tf.cast(hits[:steps] > 0.0, tf.float32))
        share, old = tf.minimum(count / SUCCESS_WINDOW, 1.0), policy.success.read_value()
        apply.assign(policy.success, old + share * (hits / tf.maximum(count, 1.0) - old))
        total = apply.reduce_sum(tf.reduce_sum(chosen * duration[:steps]))
        number = tf.maximum(tf.reduce_sum(count), 1.0)
        return {
            "learner/goal_success_ratio": tf.reduce_sum(hits) / number,
            "learner/goal_length_mean_env_steps": total / number,
        }


def _means(level: LevelLoss, count: tf.Tensor) -> dict[str, tf.Tensor]:
    """Means of a level's metrics over all replicas."""
    return {
        name: apply.reduce_sum(apply.masked_mean(x, level.valid, count))
        for name, x in level.metrics.items()
    }


def make(config: Config, spec: EnvSpec) -> Agent:
    """Hierarchical DQN bound to a team.

    Raises:
      SettingError: no team of agents with vectors and Discrete actions, or goals that do not fit them.
    """
    teams.check("hdqn", spec)
    seen = inputs.model_space(spec.observation_space)
    if len(seen.shape) != 2 or seen.dtype != np.float32:
        raise SettingError(
            f"algo=hdqn on {spec.name}: expected a float32 vector for each of {spec.num_agents} agents, got {seen}"
        )
    goals = None
    if config.levels == 2:
        goals = goal_spaces.find(config.goal_space, spec)
        goal_spaces.code_size(goals, tf.zeros(seen.shape))

    def make_policy() -> GoalPolicy:
        return GoalPolicy(config, spec, goals)

    # The steps that are trained on, and those after them in which a goal may end.
    period = config.trained_env_steps
    item = Windows(period + config.look_ahead, config.discount, period)
    return Agent(
        make_policy=make_policy,
        make_learner=lambda: HDQNLearner(config, make_policy),
        experience=Replay(
            item=item,
            capacity_items=config.replay_capacity // period,
            min_items=min(math.ceil(config.min_replay / period), config.replay_capacity // period),
            samples_per_insert=config.batch_size * period / config.env_steps_per_update,
            batch_size=config.batch_size,
            updates_per_call=config.updates_per_call,
        ),
        knobs=goal_policy.knobs(config),
        in_metrics=epsilon.in_metrics(config),
        notes=_notes(config),
    )


def _notes(config: Config) -> tuple[str, ...]:
    """Start-up lines: when the high level begins to learn, where the low one is trained alone first."""
    start = config.pretrain_env_steps
    if config.levels == 1 or not start:
        return ()
    return (
        f"high level: goals are random and it learns nothing in the first {start:,} env steps (pretrain_env_steps); a "
        "run that is not longer trains the low level alone",
    )


ABOUT = About(
    title="hDQN",
    family="hierarchy",
    options=(
        "Ind-hDQN, hCom (CommNet), hQmix, augmented concurrent replay (ACER), goals that end together or apart, "
        "flat baselines"
    ),
    env="tfrl/TrashCoordination9x5-v0",
    refused="CartPole-v1",
    small=dict(
        hidden_sizes=(8,), low_hidden_sizes=(8,), batch_size=4, trained_env_steps=4, max_goal_length=5,
        updates_per_call=2, target_period_updates=3, min_replay=32, coordination="qmix", random_goal_share=0.5,
        success_greedy_beta=0.5, shared_parameters=False,
    ),
)  # fmt: skip
