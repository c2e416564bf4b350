"""Times Stable-Baselines3's PPO on a job of tfrl: `python sb3_ppo.py TASK`; see `shared.py`."""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import json  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import shared  # noqa: E402


def translate(job: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `PPO` that mean the same as the job, but for the two schedules and classes.

    Raises:
      ValueError: a setting that has no equal there.
    """
    config, num_envs = job["config"], job["topology"]["num_envs"]
    image = shared.is_atari(job)
    advantages = ("minibatch", "none")
    fixed = {**shared.PPO, "normalize_advantage": advantages, "shared_torso": (image,)}
    shared.refuse(config, fixed)
    hidden = list(config["hidden_sizes"])
    network = {} if image else {"net_arch": {"pi": hidden, "vf": hidden}}
    clip_norm = config["gradient_clip_norm"]
    batch_size, rest = divmod(num_envs * config["unroll_length"], config["minibatches"])
    if rest:
        raise ValueError(f"minibatches={config['minibatches']}: parts of unequal size")
    return {
        "policy": "CnnPolicy" if image else "MlpPolicy",
        "n_steps": config["unroll_length"],
        "batch_size": batch_size,
        "n_epochs": config["epochs"],
        "gamma": config["discount"],
        "gae_lambda": config["gae_lambda"],
        "normalize_advantage": config["normalize_advantage"] == "minibatch",
        "ent_coef": config["entropy_coefficient"],
        "vf_coef": config["value_coefficient"],
        "max_grad_norm": float("inf") if clip_norm is None else clip_norm,
        "policy_kwargs": {**network, "optimizer_kwargs": {"eps": config["optimizer_epsilon"]}},
        "seed": job["seed"],
        "device": "cpu",
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times."""
    start = time.perf_counter()
    import torch
    from sb3_env import make_env
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    import_s = time.perf_counter() - start
    job, config = task["job"], task["job"]["config"]
    arguments, total = translate(job), job["total_env_steps"]
    per_epoch = config["minibatches"]  # `_n_updates` counts epochs, not optimiser steps
    policy_kwargs = dict(arguments["policy_kwargs"])
    if not shared.is_atari(job):
        policy_kwargs["activation_fn"] = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[
            config["activation"]
        ]
    clock = shared.Clock(task, _STARTED, import_s)
    model = PPO(
        env=make_env(job),
        learning_rate=lambda left: shared.learning_rate(config, (1 - left) * total),
        clip_range=lambda left: shared.clip(config, (1 - left) * total),
        **{**arguments, "policy_kwargs": policy_kwargs},
    )

    class Watch(BaseCallback):
        """Ticks between iterations; ends the run at the score."""

        over = False

        def _on_rollout_start(self) -> None:
            clock.tick(self.num_timesteps, self.model._n_updates * per_epoch)

        def _on_rollout_end(self) -> None:
            games = [game["r"] for game in self.model.ep_info_buffer]  # the newest 100
            updates = self.model._n_updates * per_epoch
            self.over = clock.score(games, self.num_timesteps, updates)

        def _on_step(self) -> bool:
            return not self.over

    model.learn(total_timesteps=total, callback=Watch())
    clock.tick(model.num_timesteps, model._n_updates * per_epoch)
    settings = {**arguments, "torch_threads": torch.get_num_threads()}
    for name in ("learning_rate", "clip"):
        settings[name] = [config[name], config[f"{name}_final"], config["learning_rate_env_steps"]]
    return {
        "settings": settings,
        "versions": shared.versions("stable-baselines3", "torch", "gymnasium", "numpy"),
        "run": clock.run(shared.memory_peak_mb()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
