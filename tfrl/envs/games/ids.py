"""Ids of the games that come with tfrl, registered in gymnasium when one of them is asked for."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

# Id -> rules as 'package.module:Class', and what `gymnasium.register` takes beside them.
GAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "tfrl/TwoStep-v0": ("tfrl.envs.games.two_step:TwoStep", {}),
    "tfrl/Matrix-v0": ("tfrl.envs.games.matrix:Matrix", {}),
    "tfrl/Loads-v0": ("tfrl.envs.games.grid:Loads", {"max_episode_steps": 30}),
    **{
        f"tfrl/Trash{name}-v0": (
            "tfrl.envs.games.trash:Trash",
            {"kwargs": {"map": map_}, "max_episode_steps": limit},
        )
        for name, map_, limit in (
            ("", "room", 100),
            ("Room", "room", 100),
            ("Ring", "ring", 100),
            ("Coordination", "coordination", 50),
            ("Room7x7", "room_7x7", 50),
            ("Coordination9x5", "coordination_9x5", 30),
        )
    },  # fmt: skip
    "tfrl/HalfCourt-v0": ("tfrl.envs.games.half_court:HalfCourt", {}),
}


def register() -> None:
    """Makes the ids known; a second call does nothing."""
    for name, (rules, more) in GAMES.items():
        if name not in gym.registry:
            gym.register(
                name,
                entry_point="tfrl.envs.games.game:GameEnv",
                vector_entry_point="tfrl.envs.games.game:GameVector",
                **{**more, "kwargs": {"rules": rules, **more.get("kwargs", {})}},
            )
