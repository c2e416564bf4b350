"""The observation of a team as networks read it: a row for each agent, and the state behind all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.nn import inputs
from tfrl.settings import setting
from tfrl.types import ACTION_MASK, ALIVE, STATE, EnvSpec

OBSERVATION, AGENT_ID, LAST_ACTION = "observation", "agent_id", "last_action"


@dataclasses.dataclass(frozen=True)
class TeamSettings:
    """Settings of a network that the agents of a team share, a base of `Config`s."""

    add_agent_id: bool = setting(
        True, "the network that all agents share sees which of them it acts for"
    )
    add_last_action: bool = setting(
        True, "the network that all agents share sees the agent's previous action"
    )


def check(algo: str, spec: EnvSpec, why: str = "") -> None:
    """Raises SettingError for what is no team of agents with Discrete actions.

    Args:
      algo: its name, for messages.
      why: what asks for a team, e.g. "mixer=qmix".
    """
    needs = f"{why}: " if why else ""
    where = f"algo={algo} on {spec.name}: {needs}expected"
    if spec.num_agents < 2:
        raise SettingError(
            f"{where} a team of at least 2 agents, got one agent; use algo=dqn for one agent"
        )
    space = spec.action_space
    alike = isinstance(space, gym.spaces.MultiDiscrete) and len(set(space.nvec.reshape(-1))) == 1
    if not alike or space.shape != (spec.num_agents,):
        raise SettingError(
            f"{where} a Discrete action of equal size for each of {spec.num_agents} agents, got {space}"
        )
    parts = spec.side_inputs
    shape = np.shape(getattr(inputs.model_space(spec.observation_space), "low", None))
    if not {ACTION_MASK, ALIVE} <= set(parts) or not shape or shape[0] != spec.num_agents:
        raise SettingError(
            f"{where} a Dict with a Box {OBSERVATION!r} of shape [{spec.num_agents}, ...], a row for each agent, "
            f"{ACTION_MASK!r} and {ALIVE!r}, got {spec.observation_space}"
        )


class TeamInputs:
    """From observations of teams, leaves [m, ...], to what networks read.

    Args:
      spec: of a team of N agents, see `check`.
      add_agent_id: rows have the agent's number, one-hot.
      add_last_action: rows have the agent's last action, one-hot; zeros where an episode begins.

    Attributes:
      num_agents, num_actions: N, and A, 0 where actions are Boxes.
      spec: of one agent, whose observations are the rows: a Box, or with an agent id or a last action a Dict.
      observation_size: F, numbers in the observation of one agent.
      state_size: S.
    """

    def __init__(self, spec: EnvSpec, add_agent_id: bool = False, add_last_action: bool = False):
        self.num_agents = spec.num_agents
        action = spec.action_space
        if isinstance(action, gym.spaces.Box):
            self.num_actions = 0
            own = gym.spaces.Box(action.low.min(0), action.high.max(0), dtype=action.dtype)
        else:
            self.num_actions = int(action.nvec.reshape(-1)[0])
            own = gym.spaces.Discrete(self.num_actions, dtype=np.int32)
        self._id, self._last = add_agent_id, add_last_action
        self._space = inputs.model_space(spec.observation_space)
        box = self._space
        one = gym.spaces.Box(box.low.min(0), box.high.max(0), dtype=box.dtype)
        parts = {OBSERVATION: one}
        flags = lambda size: gym.spaces.Box(0.0, 1.0, (size,), np.float32)
        if add_agent_id:
            parts[AGENT_ID] = flags(self.num_agents)
        if add_last_action:
            parts[LAST_ACTION] = flags(self.num_actions)
        self.spec = EnvSpec(
            name=spec.name,
            observation_space=gym.spaces.Dict(parts) if len(parts) > 1 else one,
            action_space=own,
        )
        self.observation_size = int(np.prod(one.shape))
        self._has_state = STATE in spec.side_inputs
        source = spec.side_inputs[STATE] if self._has_state else box
        self.state_size = int(np.prod(source.shape))

    def rows(self, obs: Any, last_action: tf.Tensor) -> Any:
        """Observations of the agents, of the space of `spec`, leaves [m * N, ...], team by team.

        Args:
          obs: of the teams, leaves [m, ...].
          last_action: int32 [m, N], -1 for none; not read where it is not added.
        """
        x = inputs.model_input(obs)
        parts = {OBSERVATION: tf.reshape(x, [-1, *x.shape[2:]])}
        if self._id:
            count = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
            parts[AGENT_ID] = tf.tile(tf.eye(self.num_agents), [count, 1])
        if self._last:
            parts[LAST_ACTION] = tf.one_hot(tf.reshape(last_action, [-1]), self.num_actions)
        return parts if len(parts) > 1 else parts[OBSERVATION]

    def state(self, obs: Any) -> tf.Tensor:
        """The state of the environment float32 [m, S]; where it gives none, the observations of all agents."""
        if self._has_state:
            return tf.cast(tf.reshape(obs[STATE], [-1, self.state_size]), tf.float32)
        return tf.reshape(self.observations(obs), [-1, self.state_size])

    def observations(self, obs: Any) -> tf.Tensor:
        """What each agent observes, in one row of numbers, float32 [m, N, F]."""
        x = inputs.model_input(obs)
        if x.dtype == tf.uint8:  # images
            x = inputs.pixels(x)
        return tf.cast(tf.reshape(x, [-1, self.num_agents, self.observation_size]), tf.float32)

    def available(self, obs: Any) -> tf.Tensor:
        """1 where an agent may take an action, float32 [m, N, A]."""
        return tf.reshape(obs[ACTION_MASK], [-1, self.num_agents, self.num_actions])

    def alive(self, obs: Any) -> tf.Tensor:
        """Agents that live, bool [m, N]."""
        return obs[ALIVE] > 0
