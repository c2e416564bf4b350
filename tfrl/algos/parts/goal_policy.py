"""The acting of a hierarchy: agents of a team that choose goals for several steps, and actions towards them.

`GoalSettings` say how long goals hold and how both levels explore, `GoalPolicy` acts, and `knobs` has the schedules of
epsilon. What trains the two levels is `algos/hdqn.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrl.agent import ActorPlace
from tfrl.errors import SettingError
from tfrl.explore import epsilon
from tfrl.explore.epsilon import EpsilonSettings
from tfrl.losses import value
from tfrl.nn import goals as goal_spaces
from tfrl.nn import inputs
from tfrl.nn.agent_values import AgentValues
from tfrl.nn.body import ModelSettings
from tfrl.nn.teams import TeamInputs, TeamSettings
from tfrl.nn.torsos import example_batch
from tfrl.settings import Points, setting, with_default
from tfrl.types import EnvSpec, GoalSpace, PolicyStep

FLAT = {"levels": 1}  # where settings of goals have no effect


@dataclasses.dataclass(frozen=True)
class GoalSettings(EpsilonSettings):
    """Settings of the two levels that act, a base of `Config`s; `epsilon_*` are those of the high level."""

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
        idle_if=FLAT,
    )
    max_goal_length: int = setting(
        30, "maximum number of steps that a goal holds", unit="env steps", minimum=1, idle_if=FLAT
    )
    decisions: str = setting(
        "auto",
        "when an agent chooses a new goal: each (where its own ends), any (all choose where one ends), all (all choose "
        "where the last one has ended); auto: all with coordination=qmix, else each",
        choices=("auto", "each", "any", "all"),
        idle_if=FLAT,
    )
    pretrain_env_steps: int = setting(
        0,
        "env steps at the start in which the low level alone learns, while goals are random; the high level's epsilon "
        "decays after them. The high level learns nothing in a run that is not longer",
        unit="env steps",
        minimum=0,
        idle_if=FLAT,
    )
    low_epsilon_final: float = setting(
        0.05,
        "probability of a random action of the low level after its decay from 1",
        minimum=0.0,
        maximum=1.0,
        resumable=True,
        idle_if=FLAT,
    )
    low_epsilon_decay_env_steps: int = setting(
        10_000,
        "length of the linear decay of the low level's epsilon",
        unit="env steps",
        minimum=0,
        resumable=True,
        idle_if=FLAT,
    )
    success_greedy_beta: float = setting(
        0.0,
        "weight of 1 - (share of times that a goal was reached before it ended) in the low level's epsilon for this "
        "goal; the decay has the remaining weight",
        minimum=0.0,
        maximum=1.0,
        idle_if=FLAT,
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

    hidden_sizes: tuple[int, ...] = with_default(
        ModelSettings,
        "hidden_sizes",
        (64, 64),
        help="units per hidden layer of the high level",
        idle_if=(),
    )
    low_hidden_sizes: tuple[int, ...] = setting(
        (64, 64), "units per hidden layer of the low level", unit="units", minimum=1, idle_if=FLAT
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

    @property
    def together(self) -> str:
        """'each', 'any' or 'all': whose ends are decisions, see `decisions`."""
        if self.decisions != "auto":
            return self.decisions
        return "all" if self.coordination == "qmix" else "each"


def check(config: GoalSettings) -> None:
    """Raises SettingError for settings that contradict each other."""
    epsilon.check(config)
    if config.coordination == "comm" and len(config.hidden_sizes) < 2:
        raise SettingError(
            f"hidden_sizes={config.hidden_sizes} with coordination=comm: messages pass between hidden layers; "
            "expected at least two"
        )
    if config.coordination == "qmix" and config.decisions == "each":
        raise SettingError(
            "decisions=each with coordination=qmix: a mixer joins goals that all agents choose at once; expected "
            "auto, any or all"
        )


class GoalPolicy(tf.Module):
    """Goals and actions of N agents; with one level actions alone.

    The state is {'goal': int32 [B, N], 'left': int32 [B, N]}: each agent's goal and the env steps that are left for it,
    0 where a goal is to be chosen; () with one level.

    Args:
      config: `GoalSettings`.
      spec: of a team.
      goals: None with one level.

    Attributes:
      team: how observations are read.
      high, low: networks; low is None with one level.
      success: share of times that each goal was reached before it ended, float32 [G], kept by the learner.
      noise: what an exploring step draws.
    """

    def __init__(self, config: GoalSettings, spec: EnvSpec, goals: GoalSpace | None):
        super().__init__()
        self.team = TeamInputs(spec, config.shared_parameters and config.add_agent_id)
        self.goals = goals
        self._together, self._beta = config.together, config.success_greedy_beta
        agents, actions = self.team.num_agents, self.team.num_actions
        obs = example_batch(spec.observation_space, 1)
        width = self.rows(obs).shape[-1]
        choices = actions if goals is None else goals.num_goals
        self.high = AgentValues(
            agents, width, config.hidden_sizes, config.activation, choices,
            config.shared_parameters, config.coordination == "comm",
        )  # fmt: skip
        noise = epsilon.noise(choices, (agents,))
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
        reached = tf.reshape(reached, [-1, self.team.num_agents, self.goals.num_goals])
        return (value.select(reached, goal) > 0.0) & self.team.alive(obs)

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
        # The best goal of each agent, or with one level its best action. Each explores by itself.
        choice = tf.argmax(self.high_values(obs), axis=2, output_type=tf.int32)
        if explore:
            mask = available if self.low is None else None
            choice = epsilon.choose(choice, knobs["epsilon"][:, None], noise, mask)
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
        draws = {name: noise[f"low_{name}"] for name in ("explore", "action")}
        action = epsilon.choose(action, share, draws, available)
        return PolicyStep(action, state, {"goal": goal, "decided": decided})

    def estimates(self, obs: Any, state: Any) -> Mapping[str, tf.Tensor]:
        """Implements `Policy.estimates`: 'q_values' of actions with one level [B, N, A]; {} with two."""
        return {} if self.low is not None else {"q_values": self.high_values(obs)}

    def _seen(self, obs: Any) -> tf.Tensor:
        """The observations of agents as a `GoalSpace` reads them, [m * N, D]."""
        x = inputs.model_input(obs)
        return tf.reshape(x, [-1, x.shape[-1]])


def knobs(
    config: GoalSettings,
) -> Callable[[ActorPlace, int, Mapping[str, float]], Mapping[str, np.ndarray]]:
    """`Agent.knobs` with the knobs 'epsilon' and, with two levels, 'low_epsilon', float32 [num_envs].

    Goals are random while the low level is trained alone; the high level's epsilon decays after that.
    """
    high = epsilon.knob(config, noisy=False)
    if config.levels == 1:
        return high

    def both(
        place: ActorPlace, env_steps: int, facts: Mapping[str, float]
    ) -> Mapping[str, np.ndarray]:
        since = env_steps - config.pretrain_env_steps
        shares = dict(high(place, max(since, 0), facts))
        if since < 0:
            shares["epsilon"] = np.ones_like(shares["epsilon"])
        decay = config.low_epsilon_decay_env_steps
        low = epsilon.linear(1.0, config.low_epsilon_final, decay, env_steps)
        return {**shares, "low_epsilon": np.full(place.num_envs, low, np.float32)}

    return both
