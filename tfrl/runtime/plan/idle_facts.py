"""Facts about an environment and a network, from which `config/idle.py` finds settings without effect."""

from __future__ import annotations

import gymnasium as gym

from tfrl.envs.names import atari_game
from tfrl.job import Job
from tfrl.nn import inputs
from tfrl.nn.torsos import NETWORKS
from tfrl.spaces import leaf_spaces
from tfrl.types import EnvSpec


def facts(job: Job, spec: EnvSpec) -> dict[str, bool]:
    """{name of `idle.FACTS`: whether it holds} for a job on an environment; those of networks only where it has one."""
    found = {
        "box_actions": any(isinstance(s, gym.spaces.Box) for s in leaf_spaces(spec.action_space)),
        "discrete_actions": any(
            isinstance(s, gym.spaces.Discrete) for s in leaf_spaces(spec.action_space)
        ),
        "action_features": spec.has_action_features,
        "team": spec.num_agents > 1,
        "agents_rewards": spec.num_agents > 1 and bool(spec.reward_parts),
        "atari": atari_game(job.env.env) is not None,
    }
    network = getattr(job.config, "network", None)
    if network is not None:
        parts = leaf_spaces(inputs.model_space(spec.observation_space))
        images = any(inputs.is_image(space) for space in parts)
        found["mlp"] = network == "mlp" or network == "auto" and not images
        found["vectors"] = network in NETWORKS and not all(inputs.is_image(s) for s in parts)
    return found
