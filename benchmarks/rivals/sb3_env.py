"""The environments of a job of tfrl for Stable-Baselines3, and a timed run of its off-policy algorithms."""

from __future__ import annotations

from typing import Any

import shared


def make_env(job: dict[str, Any]) -> Any:
    """The vector of environments: with the DeepMind preprocessing and stacked frames for Atari."""
    from stable_baselines3.common import env_util
    from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage

    plan, num_envs = job["env"], job["topology"]["num_envs"]
    if not shared.is_atari(job):
        return env_util.make_vec_env(plan["env"], num_envs, seed=job["seed"])
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    wrappers = {
        "noop_max": plan["atari_noop_max"],
        "frame_skip": plan["atari_frame_skip"],
        "screen_size": plan["atari_screen_size"],
        "terminal_on_life_loss": plan["atari_terminal_on_life_loss"],
        "clip_reward": plan["clip_rewards"] is not False,
        "action_repeat_probability": plan["atari_sticky_actions"],
    }
    env = env_util.make_atari_env(plan["env"], num_envs, seed=job["seed"], wrapper_kwargs=wrappers)
    return VecTransposeImage(VecFrameStack(env, plan["atari_frame_stack"]))


def timed(model: Any, job: dict[str, Any], clock: shared.Clock) -> None:
    """Trains an off-policy model for the env steps of the job; the clock ticks at every step of the vector until it
    runs, and at the end."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        """Ticks at every step of the vector, until the clock runs."""

        def _on_step(self) -> bool:
            if not clock.running:
                clock.tick(self.num_timesteps, self.model._n_updates)
            return True

    model.learn(total_timesteps=job["total_env_steps"], callback=Watch())
    clock.tick(model.num_timesteps, model._n_updates)
