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

Read `HDQNPolicy.step` first, then `HDQNLearner.update` with `high_loss` and `low_loss`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfrl.agent import About, ActorPlace, Agent, Learner, Network, Periodic, Replay, Windows
from tfrl.algos.parts import replay_update
from tfrl.algos.parts.replay_settings import ReplaySettings
from tfrl.errors import SettingError
from tfrl.explore import epsilon
from tfrl.explore.epsilon import EpsilonSettings
from tfrl.losses import returns, value
from tfrl.nn import goals as goal_spaces
from tfrl.nn import inputs, teams
from tfrl.nn.agent_values import AgentValues
from tfrl.nn.body import ModelSettings, flat
from tfrl.nn.mixers import MixerSettings, QMixer
from tfrl.nn.target import copy_target
from tfrl.nn.teams import TeamInputs, TeamSettings
from tfrl.nn.torsos import example_batch
from tfrl.optim import apply
from tfrl.optim import settings as optim_settings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import Except, Points, setting, with_default
from tfrl.types import EnvSpec, GoalSpace, PolicyStep, Trajectory, UpdateOutput

_FLAT, _NO_MIXER = {"levels": 1}, {"coordination": Except(("qmix",))}
SUCCESS_WINDOW = 1_000.0  # ended goals over which the success of a goal is averaged


@dataclasses.dataclass(frozen=True)
class Config(EpsilonSettings, OptimizerSettings):
    """Settings of hierarchical DQN; `epsilon_*`, `learning_rate*` and `discount` are those of the high level."""

    coordination: str = setting(
        "independent",
        "how the high levels of the agents learn together: independent (Ind-hDQN), comm (hCom) or qmix (hQmix)",
        choices=("independent", "comm", "qmix"),
    )
    levels: int = setting(
        2, "2: goals and actions; 1: actions alone, the flat baseline", choices=(1, 2)
    )
    goal_space: str = setting(
        "auto",
        "goals of the high level: auto (those that the environment names) or package.module:function, which takes the "
        "environment's spec and returns a tfrl.types.GoalSpace",
        idle_if=_FLAT,
    )
    max_goal_length: int = setting(
        30, "maximum number of steps that a goal holds", unit="env steps", minimum=1, idle_if=_FLAT
    )
    decisions: str = setting(
        "auto",
        "when an agent chooses a new goal: each (where its own ends), any (all choose where one ends), all (all choose "
        "where the last one has ended); auto: all with coordination=qmix, else each",
        choices=("auto", "each", "any", "all"),
        idle_if=_FLAT,
    )
    acer: bool = setting(
        True,
        "augmented replay: the high level learns from every step of a goal; false: from the steps at which goals are "
        "chosen",
        idle_if=_FLAT,
    )
    goal_reward: float = setting(
        1.0, "intrinsic reward of the step that reaches the goal", idle_if=_FLAT
    )
    step_reward: float = setting(-0.01, "intrinsic reward of every other step", idle_if=_FLAT)
    random_goal_share: float = setting(
        0.0,
        "share of the low level's transitions that are trained for a random goal instead of the one that was acted for",
        minimum=0.0,
        maximum=1.0,
        idle_if=_FLAT,
    )
    pretrain_env_steps: int = setting(
        0,
        "env steps at the start in which the low level alone learns, while goals are random; the high level's epsilon "
        "decays after them. The high level learns nothing in a run that is not longer",
        unit="env steps",
        minimum=0,
        idle_if=_FLAT,
    )
    low_epsilon_final: float = setting(
        0.05,
        "probability of a random action of the low level after its decay from 1",
        minimum=0.0,
        maximum=1.0,
        resumable=True,
        idle_if=_FLAT,
    )
    low_epsilon_decay_env_steps: int = setting(
        10_000,
        "length of the linear decay of the low level's epsilon",
        unit="env steps",
        minimum=0,
        resumable=True,
        idle_if=_FLAT,
    )
    success_greedy_beta: float = setting(
        0.0,
        "weight of 1 - (share of times that a goal was reached before it ended) in the low level's epsilon for this "
        "goal; the decay has the remaining weight",
        minimum=0.0,
        maximum=1.0,
        idle_if=_FLAT,
    )

    epsilon_initial: float | None = with_default(
        EpsilonSettings,
        "epsilon_initial",
        None,
        help="initial probability of a random goal, or with levels=1 action; none: 1",
    )
    epsilon_final: float | None = with_default(
        EpsilonSettings,
        "epsilon_final",
        None,
        help="probability of a random goal, or with levels=1 action, after the decay; none: 0.05",
    )
    epsilon_decay_env_steps: int = with_default(
        EpsilonSettings,
        "epsilon_decay_env_steps",
        10_000,
        help="length of epsilon's linear decay, which begins after pretrain_env_steps",
    )
    epsilon_schedule: Points = with_default(
        EpsilonSettings,
        "epsilon_schedule",
        (),
        help="epsilon at given env steps after pretrain_env_steps, interpolated linearly; replaces the three settings "
        "above, e.g. 0:1,10000:0.1,100000:0.01",
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
        idle_if=_FLAT,
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

    hidden_sizes: tuple[int, ...] = with_default(
        ModelSettings,
        "hidden_sizes",
        (64, 64),
        help="units per hidden layer of the high level",
        idle_if=(),
    )
    low_hidden_sizes: tuple[int, ...] = setting(
        (64, 64), "units per hidden layer of the low level", unit="units", minimum=1, idle_if=_FLAT
    )
    activation: str = with_default(
        ModelSettings,
        "activation",
        "relu",
        help="activation function of the hidden layers",
        idle_if=(),
    )
    shared_parameters: bool = setting(
        True, "all agents have the same networks; false: each has its own"
    )
    add_agent_id: bool = with_default(
        TeamSettings, "add_agent_id", True, idle_if={"shared_parameters": False}
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
        idle_if=(_FLAT, {"learning_rate_schedule": Except(((),))}),
    )
    gradient_clip_norm: float | None = with_default(OptimizerSettings, "gradient_clip_norm", 10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        epsilon.check(self)
        if self.coordination == "comm" and len(self.hidden_sizes) < 2:
            raise SettingError(
                f"hidden_sizes={self.hidden_sizes} with coordination=comm: messages pass between hidden layers; "
                "expected at least two"
            )
        if self.coordination == "qmix" and self.decisions == "each":
            raise SettingError(
                "decisions=each with coordination=qmix: a mixer joins goals that all agents choose at once; expected "
                "auto, any or all"
            )
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

    @property
    def together(self) -> str:
        """'each', 'any' or 'all': whose ends are decisions, see `decisions`."""
        if self.decisions != "auto":
            return self.decisions
        return "all" if self.coordination == "qmix" else "each"


class HDQNPolicy(tf.Module):
    """Goals and actions of N agents; with one level actions alone.

    The state is {'goal': int32 [B, N], 'left': int32 [B, N]}: each agent's goal and the env steps that are left for it,
    0 where a goal is to be chosen; () with one level.

    Args:
      config: `Config`.
      spec: of a team.
      goals: None with one level.

    Attributes:
      team: how observations are read.
      high, low: networks; low is None with one level.
      success: share of times that each goal was reached before it ended, float32 [G], kept by the learner.
      noise: what an exploring step draws.
    """

    def __init__(self, config: Config, spec: EnvSpec, goals: GoalSpace | None):
        super().__init__()
        self.team = TeamInputs(spec, config.shared_parameters and config.add_agent_id)
        self.goals = goals
        self._together, self._beta = config.together, config.success_greedy_beta
        agents, actions = self.team.num_agents, self.team.num_actions
        obs = example_batch(spec.observation_space, 1)
        width = self.rows(obs).shape[-1]
        self.num_choices = actions if goals is None else goals.num_goals
        self.high = AgentValues(
            agents, width, config.hidden_sizes, config.activation, self.num_choices,
            config.shared_parameters, config.coordination == "comm",
        )  # fmt: skip
        noise = epsilon.noise(self.num_choices, (agents,))
        if goals is not None:
            low = epsilon.noise(actions, (agents,))
            noise |= {f"low_{name}": spec for name, spec in low.items()}
        self.noise, self.low = noise, None
        if goals is None:
            return
        self._lengths = np.full(goals.num_goals, config.max_goal_length, np.int32)
        for goal, length in goals.lengths.items():
            self._lengths[goal] = min(length, config.max_goal_length)
        code = goal_spaces.code_size(goals, inputs.model_input(obs)[0])
        self.low = AgentValues(
            agents, width + code, config.low_hidden_sizes, config.activation, actions, config.shared_parameters,
        )  # fmt: skip
        self.success = tf.Variable(tf.zeros([goals.num_goals]), trainable=False, name="success")

    def rows(self, obs: Any) -> tf.Tensor:
        """What the networks read of each agent, float32 [m, N, F]."""
        rows = self.team.rows(obs, None)
        x = inputs.flatten(rows, self.team.spec.observation_space)
        return tf.reshape(x, [-1, self.team.num_agents, x.shape[-1]])

    def alive(self, obs: Any) -> tf.Tensor:
        """1 where an agent lives, float32 [m, N]."""
        return tf.cast(self.team.alive(obs), tf.float32)

    def high_values(self, obs: Any) -> tf.Tensor:
        """Values of goals [m, N, G]; with one level of actions [m, N, A], those that are not available replaced."""
        q = self.high(self.rows(obs), self.alive(obs))
        return q if self.low is not None else self.masked(q, obs)

    def low_values(self, obs: Any, goal: tf.Tensor) -> tf.Tensor:
        """Values of actions towards goals int32 [m, N]: [m, N, A], those that are not available replaced."""
        seen, agents = self._seen(obs), self.team.num_agents
        code = self.goals.encode(seen, tf.one_hot(tf.reshape(goal, [-1]), self.goals.num_goals))
        code = tf.reshape(code, [-1, agents, code.shape[-1]])
        q = self.low(tf.concat([self.rows(obs), code], axis=-1), self.alive(obs))
        return self.masked(q, obs)

    def reached(self, obs: Any, goal: tf.Tensor) -> tf.Tensor:
        """Whether goals int32 [m, N] are reached in observations, bool [m, N]; never by an agent that does not live."""
        reached = tf.cast(self.goals.reached(self._seen(obs)), tf.float32)
        chosen = value.select(reached, tf.reshape(goal, [-1]))
        return tf.reshape(chosen > 0.0, [-1, self.team.num_agents]) & self.team.alive(obs)

    def masked(self, q: tf.Tensor, obs: Any) -> tf.Tensor:
        """Action values [m, N, A] with those of unavailable actions replaced by `value.INVALID_VALUE`."""
        return value.mask_invalid(q, self.team.available(obs))

    def initial_state(self, batch_size: int, noise: Mapping[str, Any]) -> Any:
        """Implements `Policy.initial_state`: no goal yet."""
        if self.low is None:
            return ()
        none = tf.zeros([batch_size, self.team.num_agents], tf.int32)
        return {"goal": none, "left": none}

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        """Implements `Policy.step`, with the knobs 'epsilon' and 'low_epsilon'; the action is int32 [B, N].

        Extras of an exploring step with two levels: 'goal' int32 [B, N], and 'decided' bool [B, N], where it was chosen
        anew in this step.
        """
        available = self.team.available(obs)
        # The best goal of each agent, or with one level its best action.
        choice = tf.argmax(self.high_values(obs), axis=2, output_type=tf.int32)
        if explore:
            mask = available if self.low is None else None
            choice = self._explore(choice, knobs["epsilon"][:, None], noise, "", mask)
        if self.low is None:
            return PolicyStep(choice, (), {})
        # A goal ends where it is reached or its time is over; whose ends are decisions is a setting.
        goal, left = state["goal"], state["left"]
        left = tf.where(self.reached(obs, goal), 0, left)
        decided, alive = left <= 0, self.team.alive(obs)
        if self._together == "any":
            one = tf.reduce_any(decided & alive, axis=1, keepdims=True)
            decided = one | tf.zeros_like(decided)
        elif self._together == "all":
            last = tf.reduce_all(decided | ~alive, axis=1, keepdims=True)
            decided = last & tf.ones_like(decided)
        goal = tf.where(decided, choice, goal)
        chosen = tf.one_hot(goal, self.goals.num_goals, dtype=tf.int32)
        lengths = tf.reduce_sum(chosen * self._lengths, axis=2)
        # The time of a goal that waits for those of others stays over.
        left = tf.maximum(tf.where(decided, lengths, left) - 1, 0)
        # The action towards the goal.
        action = tf.argmax(self.low_values(obs, goal), axis=2, output_type=tf.int32)
        state = {"goal": goal, "left": left}
        if not explore:
            return PolicyStep(action, state, {})
        share = knobs["low_epsilon"][:, None]
        if self._beta:
            success = tf.reduce_sum(tf.cast(chosen, tf.float32) * self.success, axis=2)
            share = (1.0 - self._beta) * share + self._beta * (1.0 - success)
        action = self._explore(action, share, noise, "low_", available)
        return PolicyStep(action, state, {"goal": goal, "decided": decided})

    def estimates(self, obs: Any, state: Any) -> Mapping[str, tf.Tensor]:
        """Implements `Policy.estimates`: 'q_values' of actions with one level [B, N, A]; {} with two."""
        return {} if self.low is not None else {"q_values": self.high_values(obs)}

    def _seen(self, obs: Any) -> tf.Tensor:
        """The observations of agents as a `GoalSpace` reads them, [m * N, D]."""
        x = inputs.model_input(obs)
        return tf.reshape(x, [-1, x.shape[-1]])

    def _explore(
        self,
        greedy: tf.Tensor,
        share: tf.Tensor,
        noise: Mapping[str, tf.Tensor],
        prefix: str,
        mask: tf.Tensor | None,
    ) -> tf.Tensor:
        """Epsilon-greedy choices int32 [B, N] of each agent by itself; `share` [B, 1] or [B, N]."""
        rows = lambda x: tf.reshape(x, [-1, *x.shape[2:]])
        draws = {name: rows(noise[prefix + name]) for name in ("explore", "action")}
        share = share + tf.zeros(greedy.shape)
        chosen = epsilon.choose(
            rows(greedy), rows(share), draws, None if mask is None else rows(mask)
        )
        return tf.reshape(chosen, [-1, self.team.num_agents])


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
    policy: HDQNPolicy,
    target: HDQNPolicy,
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
    q_next = by_step(_select(q_target, best)) * alive
    # Value of the present goals by the online network [P, b, N].
    q = by_step(_select(policy.high_values(early), flat(goal[:steps]))) * alive[:steps]
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
    config: Config, policy: HDQNPolicy, target: HDQNPolicy, batch: Trajectory, seed: tf.Tensor
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
    ahead = _select(q_next, tf.argmax(selector, axis=2, output_type=tf.int32))
    q = _select(policy.low_values(now, goal), flat(batch.action[:steps]))
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


def _select(q: tf.Tensor, choice: tf.Tensor) -> tf.Tensor:
    """Values of choices: [m, N, A], int32 [m, N] -> [m, N]."""
    chosen = value.select(tf.reshape(q, [-1, q.shape[2]]), tf.reshape(choice, [-1]))
    return tf.reshape(chosen, [-1, q.shape[1]])


def _random_goals(
    config: Config, policy: HDQNPolicy, goal: tf.Tensor, seed: tf.Tensor
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
      make_policy: builds an `HDQNPolicy`.

    Attributes:
      policy, target: online and target policy.
      mixer, target_mixer: online and target mixer; None without one.
      optimizer, low_optimizer: of the high level with its mixer, and of the low one (None with one level).
    """

    def __init__(self, config: Config, make_policy: Callable[[], HDQNPolicy]):
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

    def make_policy() -> HDQNPolicy:
        return HDQNPolicy(config, spec, goals)

    high = epsilon.knob(config, noisy=False)

    def knobs(place: ActorPlace, env_steps: int, facts: Mapping[str, float]) -> Mapping[str, Any]:
        if goals is None:
            return high(place, env_steps, facts)
        # Goals are random while the low level is trained alone; then epsilon decays.
        since = env_steps - config.pretrain_env_steps
        shares = dict(high(place, max(since, 0), facts))
        if since < 0:
            shares["epsilon"] = np.ones_like(shares["epsilon"])
        decay = config.low_epsilon_decay_env_steps
        now = epsilon.linear(1.0, config.low_epsilon_final, decay, env_steps)
        return {**shares, "low_epsilon": np.full(place.num_envs, now, np.float32)}

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
        knobs=knobs,
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
