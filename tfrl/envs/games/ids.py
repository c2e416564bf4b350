"""Ids of the games of the tree, registered in gymnasium when one of them is asked for."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

# Id -> rules as 'package.module:Class', and what `gymnasium.register` takes beside them.
GAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "tfrl/TwoStep-v0": ("tfrl.envs.games.two_step:TwoStep", {}),
    "tfrl/Matrix-v0": ("tfrl.envs.games.matrix:Matrix", {}),
}


def register() -> None:
    """Makes the ids known; a second call does nothing."""
    for name, (rules, more) in GAMES.items():
        if name not in gym.registry:
            gym.register(
                name,
                entry_point="tfrl.envs.games.game:GameEnv",
                vector_entry_point="tfrl.envs.games.game:GameVector",
                kwargs={"rules": rules},
                **more,
            )
