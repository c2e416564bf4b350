"""QMIX: a team whose agents choose by their own action values, which a mixer joins to the value of the joint action.

What it is: Q-learning of cooperating agents that share one network and act on what each of them sees. With
`mixer=qmix` a network whose weights the state of the environment makes joins their values (Rashid et al. 2018), with
`mixer=vdn` their sum does (Sunehag et al. 2018); both are monotonic, so each agent's best action is its part of the
best joint one. `mixer=none` is independent Q-learning, IQL (Tan 1993): each agent has a loss of its own. Options:
double Q-learning, n-step returns, a GRU, LSTM or GTrXL or no memory, prioritized episodes, one or two layers for the
weights of the mixer, and by flags of the run Ape-X QMIX (actors on a ladder of epsilons, a sharded replay).
What it is not: a method for agents with opposed rewards, or with continuous actions.

Spaces: teams (docs/teams.md) whose agents have Discrete actions of one size; each agent's observation a vector or an
image. `action_mask` restricts what is chosen, explored and bootstrapped from; agents that are not `alive` add nothing
to the loss; the mixer reads `state`, or without one all agents' observations. Data: whole episodes, or windows with a
stored state and burn-in. `normalize_observations` is for the agents' network alone: the mixer reads its input as the
environment gives it, and dead agents do not count.

Differences from the papers: dead agents enter the mixer with a value of 0; time limits bootstrap; new episodes get the
largest priority so far. From RLlib 0.6: the mixer is trained and copied to the target; QMIX and VDN learn from the
team's reward, not from the mean of the agents'; the batch and the replay count episodes of full length where RLlib
counted steps, so each update has the same number of episodes.

Read `QMIXLearner.update` and `loss` first, then `algos/parts/team_policy.py` (acting, and the values along a sequence),
`nn/mixers.py` and `nn/teams.py`.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from tfrl.agent import About, Agent, Episodes
from tfrl.algos.parts import q_learning, q_steps, replay_policy, replay_settings
from tfrl.algos.parts.q_learning import ValueSettings
from tfrl.algos.parts.replay_settings import ReplaySettings
from tfrl.algos.parts.team_policy import TeamQPolicy
from tfrl.errors import SettingError
from tfrl.explore import epsilon
from tfrl.losses import value
from tfrl.nn import mixers, teams, torsos
from tfrl.nn.body import ModelSettings, flat
from tfrl.nn.mixers import MixerSettings, QMixer, VDNMixer
from tfrl.nn.teams import TeamSettings
from tfrl.optim.settings import OptimizerSettings
from tfrl.settings import Except, setting, with_default
from tfrl.types import EnvSpec, Trajectory, UpdateOutput

_EPISODES = {"replay_of": "episodes"}


@dataclasses.dataclass(frozen=True)
class Config(MixerSettings, TeamSettings, ValueSettings, OptimizerSettings, ModelSettings):
    """Settings of QMIX, VDN and IQL."""

    iql_reward: str = setting(
        "individual",
        "reward that each agent learns from where there is no mixer: its own, or the team's",
        choices=("individual", "team"),
        idle_if={"mixer": frozenset(mixers.KINDS)},
    )
    replay_of: str = setting(
        "episodes",
        "what is replayed: whole episodes, or windows of sequence_length steps that begin with a stored state (with a "
        "memory)",
        choices=("episodes", "windows"),
    )
    episode_length: int = setting(
        0,
        "steps that an item holds. A longer episode goes on, and what follows is an item that begins with the stored "
        "state of the memory; the last observation of a part is always bootstrapped from. 0: the environment's time "
        "limit",
        unit="env steps",
        minimum=0,
        idle_if={"replay_of": "windows"},
    )
    bootstrap_time_limits: bool = setting(
        True,
        "bootstrap from the last observation of an episode that a time limit has ended; false: count it as a "
        "termination, where values that only a time limit ends would drift. Parts that episode_length cuts are no ends",
    )
    sequence_length: int = with_default(
        ReplaySettings,
        "sequence_length",
        40,
        help="with windows: steps per replayed sequence, including burn-in",
        idle_if=_EPISODES,
    )
    sequence_period: int = with_default(
        ReplaySettings,
        "sequence_period",
        20,
        help="with windows: steps from the start of one sequence to the start of the next; below sequence_length they "
        "overlap",
        idle_if=_EPISODES,
    )
    burn_in: int = with_default(
        ReplaySettings,
        "burn_in",
        0,
        help="with windows: initial steps of a sequence that only refresh the stored state and are not trained on",
        idle_if=_EPISODES,
    )
    batch_size: int = with_default(
        ReplaySettings,
        "batch_size",
        32,
        help="episodes or windows per update, over all learner devices",
        idle_if={"batch_env_steps": Except((0,))},
    )
    batch_env_steps: int = setting(
        0,
        "least env steps per update, counted as episodes of full length or as windows; 0: batch_size of them",
        unit="env steps",
        minimum=0,
    )
    env_steps_per_update: float | None = with_default(
        ReplaySettings,
        "env_steps_per_update",
        None,
        help="env steps per update, an episode counted as one of full length; none: one for each episode or window",
        idle_if=(),
    )
    updates_per_call: int = with_default(ReplaySettings, "updates_per_call", 4, idle_if=())
    replay_capacity: int = with_default(
        ReplaySettings,
        "replay_capacity",
        50_000,
        help="env steps of the items in the replay, an episode counted as one of full length",
        unit="env steps",
        idle_if=(),
    )
    min_replay: int = with_default(
        ReplaySettings,
        "min_replay",
        1_000,
        help="env steps of the items in the replay before the first update, counted as those of replay_capacity",
        unit="env steps",
        idle_if=(),
    )
    priority_eta: float = with_default(
        ReplaySettings,
        "priority_eta",
        0.9,
        help="weight of the largest error in the priority of an episode or window; the mean error has the remaining "
        "weight",
        idle_if={"prioritized": False},
    )
    hidden_sizes: tuple[int, ...] = with_default(ModelSettings, "hidden_sizes", (64,))
    core: str = with_default(ModelSettings, "core", "gru")
    core_size: int = with_default(ModelSettings, "core_size", 64)
    optimizer: str = with_default(OptimizerSettings, "optimizer", "rmsprop")
    optimizer_epsilon: float = with_default(OptimizerSettings, "optimizer_epsilon", 1e-5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replay_of == "windows" and self.core == "none":
            raise SettingError(
                "replay_of=windows with core=none: a window begins with the stored state of a memory; expected a "
                "core, or replay_of=episodes"
            )
        if self.replay_of == "episodes" and self.burn_in:
            raise SettingError(
                f"burn_in={self.burn_in} with replay_of=episodes: an episode has no steps before it that could "
                "refresh a state; expected burn_in=0, or replay_of=windows"
            )


def loss(
    config: Config,
    policy: TeamQPolicy,
    target: TeamQPolicy,
    mixer: QMixer | VDNMixer | None,
    target_mixer: QMixer | VDNMixer | None,
    batch: Trajectory,
    columns: Trajectory,
) -> q_learning.Loss:
    """(Q_tot(s, a) - y)^2 of each step, y = r + discount Q_tot'(s', a'), a' the best available action of each agent.

    Rashid et al. 2018, eq. 6, with the double Q-learning of van Hasselt et al. 2016, eq. 4. Without a mixer each agent
    is a team of its own, whose value is Q_tot.

    Args:
      config: settings.
      policy, target: online and target policy.
      mixer, target_mixer: online and target mixer, None for independent agents.
      batch: leaves [T, b, ...].
      columns: the same as `of_columns` gives it.

    Returns:
      `Loss`, float32 [n], n = b T' steps after the burn-in, without a mixer b N T'; the priority is |Q_tot - y|.
    """
    team, burn_in = policy.team, config.burn_in
    # Values of all actions of every agent, by both networks [T' + 1, b, N, A].
    q_target = target.unrolled_values(batch, burn_in)
    q = policy.unrolled_values(batch, burn_in, training=True)
    obs = flat(tf.nest.map_structure(lambda x: x[burn_in:], batch.obs))
    by_step = lambda x: tf.reshape(x, [*q.shape[:2], *x.shape[1:]])
    # What each agent did, and would do at the next observation: the best of its available actions.
    chosen = value.select(q[:-1], batch.action[burn_in:])
    available = by_step(team.available(obs))
    selector = value.mask_invalid(q if config.double else q_target, available)
    best = tf.argmax(tf.stop_gradient(selector), axis=3, output_type=tf.int32)
    ahead = value.select(q_target, best)
    # Agents that are dead add nothing.
    alive = tf.cast(by_step(team.alive(obs)), tf.float32)
    chosen, ahead = chosen * alive[:-1], ahead * alive
    state = by_step(team.state(obs))
    if mixer is None:
        # Each agent is a team of its own: [.., b, N] -> [.., b * N, 1].
        chosen, ahead = (tf.reshape(x, [x.shape[0], -1, 1]) for x in (chosen, ahead))
        state = tf.zeros([ahead.shape[0], ahead.shape[1], 0])
        mixer = target_mixer = VDNMixer(1)
    # Steps with their n-step returns, and the value of the joint action here and where they bootstrap.
    steps = q_steps.late_steps(columns, config.n_step, burn_in)
    q_tm1 = mixer(steps.now(chosen), steps.now(state))
    q_t = target_mixer(steps.then(ahead), steps.then(state))
    td = value.joint_q_learning(
        q_tm1, steps.reward_t, steps.discount_t, q_t, config.value_rescaling_epsilon
    )
    priority = tf.abs(td.td_error)
    metrics = {"learner/td_error_abs_mean": priority, "learner/q_mean": q_tm1}
    return q_learning.Loss(td.loss, priority, metrics)


def of_columns(config: Config, team: teams.TeamInputs, batch: Trajectory) -> Trajectory:
    """The batch in columns of the loss: one for each team, or without a mixer one for each agent.

    A column of an agent has the reward that `iql_reward` says, and its steps count while it is alive. Without
    `bootstrap_time_limits` the discount of every step that ended an episode is 0; the last step of a part that
    `episode_length` has cut ended none.

    Args:
      batch: leaves [T, b, ...].

    Returns:
      The batch with action, reward, discount, is_last, valid and probability of the columns.
    """
    if not config.bootstrap_time_limits:
        ends = tf.where(batch.is_last, tf.zeros_like(batch.discount), batch.discount)
        batch = batch._replace(discount=ends)
    if config.mixer in mixers.KINDS:
        return batch
    agents, valid = team.num_agents, batch.valid
    each = lambda x: tf.repeat(x, agents, axis=1)
    reward = each(batch.reward)
    if config.iql_reward == "individual":
        reward = tf.reshape(batch.rewards, reward.shape)
    now = tf.nest.map_structure(lambda x: x[:-1], batch.obs)
    alive = tf.reshape(team.alive(flat(now)), reward.shape)
    return batch._replace(
        action=tf.reshape(batch.action, reward.shape),
        reward=reward,
        discount=each(batch.discount),
        is_last=each(batch.is_last),
        valid=each(valid) & alive,
        probability=tf.repeat(batch.probability, agents),
    )


class QMIXLearner(q_learning.QLearner):
    """Networks and mixers, online and target, their optimiser, and the update of a batch."""

    def update(self, batch: Trajectory, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one optimiser step of network and mixer on the weighted mean loss of the steps.

        Args:
          batch: leaves [T, b, ...].
          seed: not read.
        """
        del seed
        config, policy = self._config, self.policy
        # Columns that have a loss each, and how much each of their steps counts.
        columns = of_columns(config, policy.team, batch)
        weights = self.row_weights(columns)
        with tf.GradientTape() as tape:
            # Loss of each step, then the mean of w_i loss_i over the steps of all replicas.
            out = loss(config, policy, self.target, self.mixer, self.target_mixer, batch, columns)
            total, added = weights.mean(weights.importance * out.loss), self.network_losses()
            if added is not None:
                total += added
        # Gradient summed over replicas, clipped by the global norm of network and mixer; one optimiser step.
        metrics = self.minimise(tape, total)
        # Statistics of observations take in the batch only after the update that read them.
        self.merge_observations(batch)
        # Means of the metrics, and new priorities: an item of independent agents has the mean of theirs.
        made = self.output(columns, weights, out, added, metrics)
        if made.priorities is None or self.mixer is not None:
            return made
        by_agent = tf.reshape(made.priorities, [-1, policy.team.num_agents])
        return made._replace(priorities=tf.reduce_mean(by_agent, axis=1))


def make(config: Config, spec: EnvSpec) -> Agent:
    """QMIX, VDN or IQL bound to an environment.

    Raises:
      SettingError: no team with Discrete actions, no rewards of agents where they are wanted, no limit of episodes, or
        sequences that do not fit the replay.
    """
    teams.check("qmix", spec, f"mixer={config.mixer}")
    individual = config.mixer not in mixers.KINDS and config.iql_reward == "individual"
    if individual and len(spec.reward_parts) != spec.num_agents:
        raise SettingError(
            f"algo=qmix on {spec.name}: iql_reward=individual: expected a reward for each of {spec.num_agents} agents, "
            f"got the parts {list(spec.reward_parts)}; set iql_reward=team"
        )
    team = teams.TeamInputs(spec, config.add_agent_id, config.add_last_action)
    torsos.check(config, team.spec, sends_gradients=False)
    replay_policy.check(config)
    # What is replayed, and how many of it an update takes.
    item = (
        replay_settings.windows(config) if config.replay_of == "windows" else episodes(config, spec)
    )
    if config.batch_env_steps:
        batch = math.ceil(config.batch_env_steps / item.length)
        config = dataclasses.replace(config, batch_size=batch)

    def make_policy() -> TeamQPolicy:
        return TeamQPolicy(config, spec)

    def make_mixer() -> QMixer | VDNMixer | None:
        return mixers.make(config, team.num_agents, team.state_size)

    return Agent(
        make_policy=make_policy,
        make_learner=lambda: QMIXLearner(config, make_policy, make_mixer),
        experience=replay_settings.replay_of(config, item),
        knobs=epsilon.knob(config, noisy=False),
        in_metrics=epsilon.in_metrics(config),
        notes=torsos.notes(config, team.spec),
    )


def episodes(config: Config, spec: EnvSpec) -> Episodes:
    """The item of whole episodes.

    Raises:
      SettingError: episodes without a known limit, or shorter than a return.
    """
    length = config.episode_length or spec.max_episode_steps
    if not length:
        raise SettingError(
            f"algo=qmix on {spec.name}: it has no time limit; give episode_length or max_episode_steps"
        )
    if config.n_step > length:
        raise SettingError(
            f"n_step={config.n_step} with episodes of up to {length} steps: expected at most {length}"
        )
    return Episodes(length, config.discount, count=1)


ABOUT = About(
    title="QMIX",
    family="teams",
    options=(
        "VDN, independent Q-learning (IQL), double, n-step, prioritized episodes, memory (GRU, LSTM, GTrXL), windows "
        "with a stored state, action masks, Ape-X QMIX"
    ),
    env="tfrl.testing.fakes:TeamMatching",
    refused="tfrl.testing.fakes:TargetPoint",
    small=dict(
        hidden_sizes=(8,), core="none", batch_size=4, updates_per_call=2, prioritized=True,
        target_period_updates=3, mixing_embed_size=4, hypernet_layers=2, hypernet_size=5,
        episode_length=4,
    ),
    variants={
        "as iql over windows": dict(
            mixer="none", core="gru", core_size=4, replay_of="windows", sequence_length=4, sequence_period=3,
            burn_in=1, n_step=2,
        ),
    },
)  # fmt: skip
