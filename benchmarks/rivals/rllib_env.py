"""The environments and networks of a job of tfrl for RLlib."""

from __future__ import annotations

import os
from typing import Any

import shared

# More CPUs than there are: Ray gives each of its processes one, and would wait for them forever.
RAY = {"num_cpus": 16, "include_dashboard": False, "log_to_driver": False}
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

_NATURE = [[32, 8, 4], [64, 4, 2], [64, 3, 1]]  # [channels, kernel, stride]


def make_atari(plan: dict[str, Any]) -> Any:
    """One Atari game with the DeepMind preprocessing; frames are stacked by the connectors."""
    import ale_py
    import gymnasium
    from ray.rllib.env.wrappers.atari_wrappers import FireResetEnv

    gymnasium.register_envs(ale_py)
    env = gymnasium.wrappers.AtariPreprocessing(
        gymnasium.make(plan["env"], repeat_action_probability=plan["atari_sticky_actions"]),
        noop_max=plan["atari_noop_max"],
        frame_skip=plan["atari_frame_skip"],
        screen_size=plan["atari_screen_size"],
        terminal_on_life_loss=plan["atari_terminal_on_life_loss"],
        grayscale_newaxis=True,
        scale_obs=True,  # RLlib's networks take floats
    )
    fire = plan["atari_fire_on_reset"] and "FIRE" in env.unwrapped.get_action_meanings()
    return FireResetEnv(env) if fire else env


def network(job: dict[str, Any]) -> dict[str, Any]:
    """Fields of RLlib's `DefaultModelConfig` that give the job's network."""
    config = job["config"]
    if shared.is_atari(job):
        return {
            "conv_filters": _NATURE,
            "conv_activation": "relu",
            "head_fcnet_hiddens": [512],
            "head_fcnet_activation": "relu",
            "vf_share_layers": True,
        }
    return {
        "fcnet_hiddens": list(config.get("critic_hidden_sizes", config["hidden_sizes"])),
        "fcnet_activation": config["activation"],
        "head_fcnet_hiddens": [],
        "vf_share_layers": False,
    }


def apply(job: dict[str, Any], config: Any) -> Any:
    """An `AlgorithmConfig` with the environment, the network and the seed of the job."""
    from ray.rllib.connectors.env_to_module.frame_stacking import FrameStackingEnvToModule
    from ray.rllib.connectors.learner.frame_stacking import FrameStackingLearner
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune.registry import register_env

    plan, topology = job["env"], job["topology"]
    remote = topology["num_actors"] if topology["backend"] == "processes" else 0
    config = config.env_runners(
        num_env_runners=remote, num_envs_per_env_runner=topology["num_envs"]
    ).debugging(seed=job["seed"])
    config = config.rl_module(model_config=DefaultModelConfig(**network(job)))
    if not shared.is_atari(job):
        return config.environment(plan["env"])
    register_env("atari", lambda _: make_atari(plan))
    frames = plan["atari_frame_stack"]
    return (
        config.environment("atari", clip_rewards=plan["clip_rewards"] is not False)
        .env_runners(
            env_to_module_connector=lambda *_, **__: FrameStackingEnvToModule(num_frames=frames)
        )
        .training(learner_connector=lambda *_, **__: FrameStackingLearner(num_frames=frames))
    )


def env_steps(result: dict[str, Any]) -> int:
    """Env steps taken so far, from the result of `Algorithm.train`."""
    return int(result["env_runners"].get("num_env_steps_sampled_lifetime", 0))


def rows_trained(result: dict[str, Any]) -> int:
    """Rows of all optimiser steps so far."""
    learners = result.get("learners", {}).get("__all_modules__", {})
    return int(learners.get("num_module_steps_trained_lifetime", 0))
