"""One policy with value function that all agents of a team share, each acting on its own observation.

The algorithm sees agents: a batch of B teams of N agents becomes one of N B columns, all columns of agent 0 first. So a
policy-gradient algorithm of one agent trains it as it is: independent PPO (de Witt et al. 2020), and with a value
function of the state multi-agent PPO (Yu et al. 2022).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.losses import returns
from tfrl.nn import actor_critic, inputs
from tfrl.nn.actor_critic import ActorCritic
from tfrl.nn.body import flat
from tfrl.nn.teams import AGENT_ID, OBSERVATION, TeamInputs, TeamSettings
from tfrl.settings import setting, with_default
from tfrl.types import ACTION_MASK, STATE, EnvSpec, PolicyStep, Trajectory

_NOT_SHARED = ({"team": False}, {"team_policy": "joint"})


@dataclasses.dataclass(frozen=True)
class TeamPolicySettings:
    """Settings of a policy that may act for a team, a base of algorithms' `Config`."""

    team_policy: str = setting(
        "joint",
        "of a team: one policy gives the joint action from all agents' observations, or each agent acts on its own "
        "observation by a network that all share",
        choices=("joint", "independent"),
        idle_if={"team": False},
    )
    add_agent_id: bool = with_default(TeamSettings, "add_agent_id", True, idle_if=_NOT_SHARED)
    individual_rewards: bool = setting(
        False,
        "each agent learns from its own rewards instead of the team's; they are not clipped",
        idle_if=(*_NOT_SHARED, {"agents_rewards": False}),
    )
    central_critic: bool = setting(
        False,
        "the value function reads the side input state instead of the observation; of a team without one, the "
        "observations of all agents",
    )
    agent_specific_state: bool = setting(
        False,
        "the value function of each agent reads the agent's own observation beside the state (Yu et al. 2022, section "
        "5.2)",
        idle_if=(*_NOT_SHARED, {"central_critic": False}),
    )


def make(config: Any, spec: EnvSpec, critic: bool = True) -> ActorCritic:
    """The policy of an algorithm: one that the agents of a team share, where its settings say so, else one that acts
    for the environment as a whole."""
    if _is_shared(config):
        return SharedActorCritic(config, spec, critic)
    return ActorCritic(config, spec, critic, _is_central(config))


def check(config: Any, spec: EnvSpec, algo: str, sends_gradients: bool = False) -> None:
    """Raises SettingError for settings that do not fit the environment or each other, see `actor_critic.check`."""
    seen = seen_spec(config, spec)
    if _is_central(config):
        if config.shared_torso:
            raise SettingError(
                "central_critic with shared_torso: the value function reads the state, the policy does not; expected "
                "shared_torso=false"
            )
        if STATE not in seen.side_inputs:
            raise SettingError(
                f"central_critic with algo={algo} on {spec.name}: expected an observation with a part {STATE!r}, or a "
                f"team with team_policy=independent, got {spec.observation_space}"
            )
    actor_critic.check(config, seen, algo, sends_gradients)


def seen_spec(config: Any, spec: EnvSpec) -> EnvSpec:
    """The spec of what the networks see: the environment's, or that of one agent of a team.

    Raises:
      SettingError: agents are to act on their own where there is no team, or none whose observation is one array.
    """
    if not _is_shared(config):
        return spec
    where = f"team_policy=independent on {spec.name}"
    if spec.num_agents < 2:
        raise SettingError(f"{where}: expected a team of at least 2 agents, got one agent")
    read = inputs.model_space(spec.observation_space)
    if not isinstance(read, gym.spaces.Box):
        raise SettingError(
            f"{where}: each agent acts on its row of {OBSERVATION!r}; expected no other part that a network reads, got "
            f"{read} (observe_previous adds some)"
        )
    team = TeamInputs(spec, config.add_agent_id)
    space = team.spec.observation_space
    parts = dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {OBSERVATION: space}
    if ACTION_MASK in spec.side_inputs:
        parts[ACTION_MASK] = gym.spaces.Box(0.0, 1.0, (team.num_actions,), np.float32)
    if config.central_critic:
        size = team.state_size + config.add_agent_id * team.num_agents
        size += config.agent_specific_state * team.observation_size
        parts[STATE] = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
    return dataclasses.replace(team.spec, observation_space=gym.spaces.Dict(parts))


class SharedActorCritic(ActorCritic):
    """An `ActorCritic` of one agent that acts for all agents of a team.

    `initial_state`, `step` and `estimates` take and give teams, leaves [B, N, ...]; the other methods take agents.

    Args:
      config: `TeamPolicySettings` beside those of `ActorCritic`.
      spec: of a team.
      critic: as `ActorCritic` has it.
    """

    def __init__(self, config: Any, spec: EnvSpec, critic: bool = True):
        super().__init__(config, seen_spec(config, spec), critic, config.central_critic)
        self._team = TeamInputs(spec, config.add_agent_id)
        self._individual = config.individual_rewards
        self._agent_specific = config.agent_specific_state
        self.noise = {
            name: dataclasses.replace(noise, shape=(spec.num_agents, *noise.shape))
            for name, noise in self.noise.items()
        }

    def initial_state(self, batch_size: int, noise: Mapping[str, Any]) -> Any:
        """Implements `Policy.initial_state`: that of each agent, leaves [B, N, ...]."""
        return self._split(super().initial_state(batch_size * self._team.num_agents, noise))

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        """Implements `Policy.step`: actions and extras [B, N, ...]."""
        out = super().step(self._agents(obs), flat(state), knobs, flat(dict(noise)), explore)
        return PolicyStep(*self._split(tuple(out)))

    def estimates(self, obs: Any, state: Any) -> Mapping[str, Any]:
        """Implements `Policy.estimates`: those of each agent, [B, N, ...]."""
        return self._split(dict(super().estimates(self._agents(obs), flat(state))))

    def columns(self, batch: Trajectory) -> Trajectory:
        """Implements `ActorCritic.columns`: unrolls of B teams as those of N B agents, agent by agent.

        The reward is the team's, or with `individual_rewards` the agent's own. Steps of an agent that is done are not
        valid. Its last step terminates, and is given what the team still earns until the episode or the unroll ends,
        each reward with its discounts: what the agent did may earn it, but there is no value that could say so.
        """
        agents = self._team.num_agents
        steps, teams = batch.is_first.shape

        def own(x: tf.Tensor) -> tf.Tensor:  # [T, B, N, ...] -> [T, N B, ...]
            x = tf.transpose(x, [0, 2, 1, *range(3, x.shape.rank)])
            return tf.reshape(x, [x.shape[0], -1, *x.shape[3:]])

        def alike(x: tf.Tensor) -> tf.Tensor:  # [T, B] -> [T, N B]
            return tf.tile(x, [1, agents])

        rows = tf.nest.map_structure(
            lambda x: own(tf.reshape(x, [steps, teams, agents, *x.shape[1:]])),
            self._agents(flat(batch.obs)),
        )
        # Steps of agents that live, and those after which an agent is done.
        alive = tf.reshape(self._team.alive(flat(batch.obs)), [steps, teams, agents])
        lives, stays = own(alive[:-1]), own(alive[1:])
        done = lives & ~stays
        reward = own(batch.rewards) if self._individual else alike(batch.reward)
        discount, is_last, valid = (alike(x) for x in (batch.discount, batch.is_last, batch.valid))
        rest = returns.discounted_returns(reward, discount, is_last, tf.zeros_like(reward), valid)
        return Trajectory(
            obs=rows,
            action=own(batch.action),
            reward=tf.where(done, rest, reward),
            discount=tf.where(done, tf.zeros_like(discount), discount),
            is_last=is_last | ~stays,
            valid=valid & lives,
            is_first=alike(batch.is_first),
            discounted_return=alike(batch.discounted_return),
            state=tf.nest.map_structure(lambda x: own(x[None])[0], batch.state),
            extras={name: own(x) for name, x in batch.extras.items()},
            version=tf.tile(batch.version, [agents]),
            is_new=tf.tile(batch.is_new, [agents]),
            probability=tf.tile(batch.probability, [agents]),
        )

    def _agents(self, obs: Any) -> dict[str, tf.Tensor]:
        """Observations of teams, leaves [m, ...], as those of agents, leaves [m N, ...], team by team."""
        team = self._team
        rows = team.rows(obs, None)
        rows = dict(rows) if isinstance(rows, dict) else {OBSERVATION: rows}
        if self.seen.has_action_mask:
            rows[ACTION_MASK] = flat(team.available(obs))
        if STATE in self.seen.side_inputs:
            state = flat(tf.tile(team.state(obs)[:, None], [1, team.num_agents, 1]))
            own = [flat(team.observations(obs))] if self._agent_specific else []
            ids = [rows[AGENT_ID]] if AGENT_ID in rows else []
            rows[STATE] = tf.concat([state, *own, *ids], 1)
        return rows

    def _split(self, nest: Any) -> Any:
        """Leaves [B N, ...] -> [B, N, ...]."""
        agents = self._team.num_agents
        return tf.nest.map_structure(lambda x: tf.reshape(x, [-1, agents, *x.shape[1:]]), nest)


def _is_shared(config: Any) -> bool:
    return isinstance(config, TeamPolicySettings) and config.team_policy == "independent"


def _is_central(config: Any) -> bool:
    return isinstance(config, TeamPolicySettings) and config.central_critic
