"""A team of agents as one environment row: the form that it must have, and its reward. See docs/teams.md.

observation     Dict of
  observation   Box float32 [N, D], or images [N, height, width, channels]
  action_mask   [N * A] flags, agent after agent; of Discrete actions, always there
  alive         [N] flags; of an agent that is done before the team 0, and only its action 0 is available
  state         Box [S], where the environment has a global state
action          MultiDiscrete([A] * N), or Box [N, d]
reward          of the team, made of the agents' rewards; `reward_parts` are the agents' names
"""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from tfrl.envs.spaces import Declared
from tfrl.types import ACTION_MASK, ALIVE

spaces = gym.spaces
OBSERVATION = "observation"


def form_problems(observations: gym.Space, actions: gym.Space, declared: Declared) -> list[str]:
    """Errors in the form of a team, one sentence each; none for one agent.

    Args:
      observations, actions: as the environment declares them.
      declared: as it declares it.
    """
    count = declared.num_agents
    if count == 1:
        return []
    team, problems = f"num_agents={count}", []
    if not isinstance(observations, spaces.Dict):
        return [
            f"{team} and observation_space is {observations}; expected a Dict with {OBSERVATION}, {ALIVE} and, for "
            f"discrete actions, {ACTION_MASK}"
        ]
    seen = observations.spaces.get(OBSERVATION)
    if not isinstance(seen, spaces.Box) or len(seen.shape) not in (2, 4) or seen.shape[0] != count:
        problems.append(
            f"{team} and {OBSERVATION} is {seen}; expected a Box of shape [{count}, size] or, for images, "
            f"[{count}, height, width, channels]"
        )
    if ALIVE not in observations.spaces:
        problems.append(f"{team} without {ALIVE} in the observation; expected flags [{count}]")
    if isinstance(actions, spaces.MultiDiscrete):
        if actions.shape != (count,) or len({*actions.nvec.tolist()}) > 1:
            problems.append(
                f"{team} and action_space is {actions}; expected the same number of actions for each of {count} agents"
            )
        if ACTION_MASK not in observations.spaces:
            problems.append(
                f"{team} without {ACTION_MASK} in the observation; expected flags "
                f"[{int(actions.nvec.sum())}], agent after agent"
            )
    elif not (
        isinstance(actions, spaces.Box) and len(actions.shape) == 2 and actions.shape[0] == count
    ):
        problems.append(
            f"{team} and action_space is {actions}; expected MultiDiscrete([actions] * {count}) or a Box of shape "
            f"[{count}, size]"
        )
    if len(declared.reward_parts) not in (0, count):
        problems.append(
            f"{team} and reward_parts is {declared.reward_parts}; expected a name for each agent, or none"
        )
    return problems


def reward_of(form: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function from the agents' rewards [..., N] to the team's float32 [...], by the setting `team_reward`."""
    return {
        "sum": lambda rewards: np.add.reduce(rewards, axis=-1, dtype=np.float32),
        "mean": lambda rewards: np.mean(rewards, axis=-1, dtype=np.float32),
        "first": lambda rewards: rewards[..., 0].copy(),
    }[form]
