"""Times DQN of Stable-Baselines3, or QR-DQN of its contrib package, on a job of tfrl: `python sb3_dqn.py TASK`.

See `shared.py`.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import copy  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import shared  # noqa: E402

# What both always do: setting -> values of tfrl that mean it.
_FIXED = {**shared.VALUE_BASED, "huber_delta": (1.0,), "network": ("auto", "mlp", "cnn")}


def translate(job: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `DQN` or `QRDQN` that mean the same as the job.

    Raises:
      ValueError: a setting that has no equal there.
    """
    config, num_envs = job["config"], job["topology"]["num_envs"]
    quantiles = {"n_quantiles": config["num_quantiles"]} if job["algo"] == "qr_dqn" else {}
    shared.refuse(config, _FIXED if quantiles else {**_FIXED, "loss": ("huber",)})
    per_update = config["env_steps_per_update"]
    # `train_freq` counts steps of the whole vector, `gradient_steps` the updates after them.
    train_freq = max(1, round(per_update / num_envs))
    gradient_steps = round(train_freq * num_envs / per_update)
    if gradient_steps * per_update != train_freq * num_envs:
        raise ValueError(f"env_steps_per_update={per_update:g} with num_envs={num_envs}: not whole")
    image = shared.is_atari(job)
    network: dict[str, Any] = {} if image else {"net_arch": list(config["hidden_sizes"])}
    clip = config["gradient_clip_norm"]
    return {
        "policy": "CnnPolicy" if image else "MlpPolicy",
        "learning_rate": config["learning_rate"],
        "buffer_size": config["replay_capacity"],
        "learning_starts": config["min_replay"],
        "batch_size": config["batch_size"],
        "tau": 1.0,
        "gamma": config["discount"],
        "n_steps": config["n_step"],
        "train_freq": train_freq,
        "gradient_steps": gradient_steps,
        "target_update_interval": round(config["target_period_updates"] * per_update),
        "exploration_initial_eps": config["epsilon_initial"],
        "exploration_final_eps": config["epsilon_final"],
        "exploration_fraction": config["epsilon_decay_env_steps"] / job["total_env_steps"],
        "max_grad_norm": float("inf") if clip is None else clip,
        # Stacks share their frames in memory, as they do in tfrl; it excludes the other option.
        "optimize_memory_usage": image,
        "replay_buffer_kwargs": {"handle_timeout_termination": not image},
        "policy_kwargs": {
            **network,
            **quantiles,
            "optimizer_kwargs": {"eps": config["optimizer_epsilon"]},
        },
        "seed": job["seed"],
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times."""
    start = time.perf_counter()
    import torch
    from sb3_env import make_env, timed

    job, packages = task["job"], ["stable-baselines3"]
    if job["algo"] == "qr_dqn":
        from sb3_contrib import QRDQN as algorithm

        packages.append("sb3-contrib")
    else:
        from stable_baselines3 import DQN as algorithm
    import_s = time.perf_counter() - start
    arguments = translate(job)
    clock = shared.Clock(task, _STARTED, import_s)
    # QRDQN adds to the arguments of its policy.
    model = algorithm(env=make_env(job), **copy.deepcopy(arguments))
    timed(model, job, clock)
    settings = {**arguments, "torch_threads": torch.get_num_threads(), "device": str(model.device)}
    return {
        "settings": settings,
        "versions": shared.versions(*packages, "torch", "gymnasium", "numpy"),
        "run": clock.run(shared.memory_peak_mb()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
