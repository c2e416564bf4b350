"""The policy of a team whose agents share one network of action values: each agent is epsilon-greedy by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrl.algos.parts import replay_policy
from tfrl.algos.parts.replay_policy import ReplayPolicy
from tfrl.explore import epsilon as exploration
from tfrl.losses import value
from tfrl.nn import body as bodies
from tfrl.nn.body import flat
from tfrl.nn.teams import TeamInputs
from tfrl.nn.torsos import example_batch
from tfrl.types import EnvSpec, PolicyStep, Trajectory


class TeamQPolicy(ReplayPolicy):
    """Action values of N agents by one body and one layer after it; each agent chooses among its available actions.

    The state is a tuple: that of the memory for each agent, leaves [B, N, ...], and with `add_last_action` the actions
    of the last step int32 [B, N], -1 for none.

    Args:
      config: `TeamSettings` and `ModelSettings`.
      spec: of a team, see `nn.teams.check`.

    Attributes:
      team: how observations are read.
    """

    def __init__(self, config: Any, spec: EnvSpec):
        self.team = TeamInputs(spec, config.add_agent_id, config.add_last_action)
        super().__init__(
            bodies.make(config, self.team.spec), replay_policy.normaliser(config, spec)
        )
        self._head = tf.keras.layers.Dense(self.team.num_actions, dtype="float32")
        self._adds_last_action = config.add_last_action
        self.noise = exploration.noise(self.team.num_actions, (self.team.num_agents,))
        self.step(
            example_batch(spec.observation_space, 1), self.initial_state(1, {}), {}, {}, False
        )

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """Weights of the layer that gives the action values, see `agent.Network.outputs`."""
        return (self._head.kernel,)

    def initial_state(self, batch_size: int, noise: Mapping[str, Any]) -> Any:
        """Implements `Policy.initial_state`."""
        agents = self.team.num_agents
        core = self._by_team(self.body.initial_state(batch_size * agents))
        last = (tf.fill([batch_size, agents], -1),) if self._adds_last_action else ()
        return (*core, *last)

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        """Implements `Policy.step`, with the knob 'epsilon'; the action is int32 [B, N]."""
        obs = self.inputs(obs)
        q, core = self._one_step(obs, state)
        action = tf.argmax(q, axis=2, output_type=tf.int32)
        if explore:
            # Every agent of a team explores by itself, with the team's epsilon.
            available = self.team.available(obs)
            action = exploration.choose(action, knobs["epsilon"][:, None], noise, available)
        last = (action,) if self._adds_last_action else ()
        return PolicyStep(action, (*core, *last), {})

    def estimates(self, obs: Any, state: Any) -> Mapping[str, tf.Tensor]:
        """Implements `Policy.estimates`: 'q_values' of the actions of each agent [B, N, A]."""
        return {"q_values": self._one_step(self.inputs(obs), state)[0]}

    def unrolled_values(self, batch: Trajectory, burn_in: int, training: bool = False) -> tf.Tensor:
        """Action values of every agent at the observations after the burn-in, float32 [T + 1 - burn_in, B, N, A].

        Values of actions that are not available mean nothing.

        Args:
          batch, burn_in, training: as of `ReplayPolicy.unroll`.
        """
        agents, is_first = self.team.num_agents, batch.is_first
        core, last = self._parts(batch.state)
        # The action before each observation, none where an episode begins [T + 1, B, N].
        before = tf.fill([1, *batch.action.shape[1:]], -1) if last is None else last[None]
        before = tf.concat([before, batch.action], axis=0)
        before = tf.where(is_first[:, :, None], -1, before)
        # Each agent is a row of its own for the network [T + 1, B * N, ...].
        rows = self.team.rows(flat(self.inputs(batch.obs)), tf.reshape(before, [-1, agents]))
        steps, width = is_first.shape[0], is_first.shape[1] * agents
        rows = tf.nest.map_structure(lambda x: tf.reshape(x, [steps, width, *x.shape[1:]]), rows)
        by_agent = batch._replace(state=core, is_first=tf.repeat(is_first, agents, axis=1))
        features = replay_policy.unroll(self.body, rows, by_agent, burn_in, training)
        return tf.reshape(
            self._head(features), [steps - burn_in, -1, agents, self.team.num_actions]
        )

    def _one_step(self, obs: Any, state: Any) -> tuple[tf.Tensor, Any]:
        """Action values [B, N, A], of unavailable ones `value.INVALID_VALUE`, and the state of the memory after it."""
        core, last = self._parts(state)
        features, core = self.body.step(self.team.rows(obs, last), core)
        q, *core = self._by_team((self._head(features), *core))
        return value.mask_invalid(q, self.team.available(obs)), tuple(core)

    def _parts(self, state: Any) -> tuple[Any, tf.Tensor | None]:
        """The memory's state, leaves [B * N, ...], and the last actions [B, N] or None."""
        core, last = (state[:-1], state[-1]) if self._adds_last_action else (state, None)
        return tuple(tf.reshape(x, [-1, *x.shape[2:]]) for x in core), last

    def _by_team(self, core: Any) -> tuple[tf.Tensor, ...]:
        """Leaves [B * N, ...] -> [B, N, ...]."""
        return tuple(tf.reshape(x, [-1, self.team.num_agents, *x.shape[1:]]) for x in core)
