"""Facts about an environment and a network, from which `config/idle.py` finds settings without effect."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym

from tfrl.envs.names import atari_game
from tfrl.job import Job
from tfrl.nn import inputs
from tfrl.nn.torsos import NETWORKS
from tfrl.types import EnvSpec


def facts(job: Job, spec: EnvSpec) -> dict[str, bool]:
    """{name of `idle.FACTS`: whether it holds} for a job on an environment; those of networks only where it has one."""
    found = {
        "box_actions": any(isinstance(s, gym.spaces.Box) for s in _parts(spec.action_space)),
        "action_features": spec.has_action_features,
        "atari": atari_game(job.env.env) is not None,
    }
    network = getattr(job.config, "network", None)
    if network is not None:
        parts = list(_parts(inputs.model_space(spec.observation_space)))
        images = any(inputs.is_image(space) for space in parts)
        found["mlp"] = network == "mlp" or network == "auto" and not images
        found["vectors"] = network in NETWORKS and not all(inputs.is_image(s) for s in parts)
    return found


def _parts(space: gym.Space) -> Iterator[gym.Space]:
    """The spaces of a nest that are no Dict or Tuple."""
    if isinstance(space, gym.spaces.Dict):
        nested = list(space.spaces.values())
    elif isinstance(space, gym.spaces.Tuple):
        nested = list(space.spaces)
    else:
        yield space
        return
    for part in nested:
        yield from _parts(part)
