"""Times SAC or TD3 of Stable-Baselines3, or of SBX, which is the same in JAX: `python sb3_continuous.py TASK`.

See `shared.py`. The option {"library": "sbx"} chooses SBX.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import copy  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import shared  # noqa: E402

_PACKAGES = {"sbx": ("sbx-rl", "jax"), "stable_baselines3": ("torch",)}
# What both always do: setting -> values of tfrl that mean it.
FIXED = {
    **shared.ADAM,
    "network": ("auto", "mlp"),
    "core": ("none",),
    "hidden_sizes": ([],),
    "activation": ("relu",),
    "normalize_observations": (False,),
    "prioritized": (False,),
    "n_step": (1,),
    "num_critics": (2,),
    "critic_dropout": (0.0,),
    "critic_layer_norm": (False,),
    "l2_penalty": (0.0,),
    "gradient_clip_norm": (None,),
    "learning_rate_final": (None,),
}
SAC = {
    "temperature": (None,),
    "target_entropy": (None,),
    "temperature_learning_rate": (None,),
    "policy_value": ("min",),
    "target_critics": (None,),
    "num_quantiles": (None,),
    "state_dependent_exploration": (False,),
    "policy_period_updates": (1,),
    "target_period_updates": (1,),
}
TD3 = {
    "loss": ("squared",),
    "exploration_noise": ("gaussian",),
    "noise_final": (1.0,),
    "policy_period_updates": (2,),
    "target_noise": (0.2,),
    "target_noise_clip": (0.5,),
}


def translate(job: dict[str, Any], library: str) -> dict[str, Any]:
    """Arguments of `SAC` or `TD3` that mean the same as the job; only SBX has a learning rate for critics alone.

    Raises:
      ValueError: a setting that has no equal there.
    """
    config, num_envs = job["config"], job["topology"]["num_envs"]
    shared.refuse(config, {**FIXED, **(SAC if job["algo"] == "sac" else TD3)})
    if config["policy_hidden_sizes"] != config["critic_hidden_sizes"]:
        raise ValueError("policy_hidden_sizes and critic_hidden_sizes differ")
    per_update = config["env_steps_per_update"]
    gradient_steps = round(num_envs / per_update)
    if gradient_steps * per_update != num_envs:
        raise ValueError(f"env_steps_per_update={per_update:g} with num_envs={num_envs}: not whole")
    rate = config["policy_learning_rate"] or config["learning_rate"]
    if library != "sbx" and rate != config["learning_rate"]:
        raise ValueError("policy_learning_rate and learning_rate differ")
    return {
        "policy": "MlpPolicy",
        "learning_rate": rate,
        **({"qf_learning_rate": config["learning_rate"]} if library == "sbx" else {}),
        "buffer_size": config["replay_capacity"],
        "learning_starts": config["min_replay"],
        "batch_size": config["batch_size"],
        "tau": config["tau"],
        "gamma": config["discount"],
        "train_freq": 1,
        "gradient_steps": gradient_steps,
        "policy_kwargs": {"net_arch": list(config["critic_hidden_sizes"])},
        "seed": job["seed"],
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times."""
    start = time.perf_counter()
    job, library = task["job"], task["options"].get("library", "stable_baselines3")
    algorithm = getattr(importlib.import_module(library), job["algo"].upper())
    from sb3_env import make_env, timed

    import_s = time.perf_counter() - start
    arguments = translate(job, library)
    clock = shared.Clock(task, _STARTED, import_s)
    model = algorithm(env=make_env(job), **copy.deepcopy(arguments))
    timed(model, job, clock)
    return {
        "settings": arguments,
        "versions": shared.versions(*_PACKAGES[library], "stable-baselines3", "gymnasium", "numpy"),
        "run": clock.run(shared.memory_peak_mb()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
