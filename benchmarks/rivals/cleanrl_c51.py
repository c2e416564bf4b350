"""Times CleanRL's c51.py on a job of tfrl: `python cleanrl_c51.py TASK`; see `shared.py`.

The script runs as it is, found as `cleanrl/c51.py` on the path of this Python (a checkout of CleanRL's repository, with
what the script imports). Its steps and updates are counted where it calls the environment and the optimiser.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import contextlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import pathlib  # noqa: E402
import runpy  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from typing import Any  # noqa: E402

import shared  # noqa: E402

# What is written into the script: setting -> values of tfrl that mean it.
_FIXED = {
    **shared.VALUE_BASED,
    "network": ("auto", "mlp"),
    "hidden_sizes": ([120, 84],),
    "n_step": (1,),
    "gradient_clip_norm": (None,),
}


def translate(job: dict[str, Any]) -> dict[str, Any]:
    """Flags of the script that mean the same as the job.

    Raises:
      ValueError: a setting that has no equal there.
    """
    config, num_envs = job["config"], job["topology"]["num_envs"]
    shared.refuse(config, _FIXED)
    shared.refuse({"num_envs": num_envs}, {"num_envs": (1,)})
    shared.refuse(config, {"optimizer_epsilon": (0.01 / config["batch_size"],)})
    every = config["env_steps_per_update"]
    shared.refuse(config, {"env_steps_per_update": (float(round(every)),)})
    return {
        "env_id": job["env"]["env"],
        "seed": job["seed"],
        "total_timesteps": job["total_env_steps"],
        "learning_rate": config["learning_rate"],
        "n_atoms": config["num_atoms"],
        "v_min": config["v_min"],
        "v_max": config["v_max"],
        "buffer_size": config["replay_capacity"],
        "gamma": config["discount"],
        "target_network_frequency": round(config["target_period_updates"] * every),
        "batch_size": config["batch_size"],
        "start_e": config["epsilon_initial"],
        "end_e": config["epsilon_final"],
        "exploration_fraction": config["epsilon_decay_env_steps"] / job["total_env_steps"],
        "learning_starts": config["min_replay"],
        "train_frequency": round(every),
    }


def find_script() -> pathlib.Path:
    """The first `cleanrl/c51.py` on the path."""
    for folder in sys.path:
        file = pathlib.Path(folder or ".") / "cleanrl" / "c51.py"
        if file.is_file():
            return file.resolve()
    raise FileNotFoundError("no cleanrl/c51.py on the path of this Python")


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times."""
    start = time.perf_counter()
    import gymnasium
    import torch
    import torch.utils.tensorboard  # noqa: F401 - the script imports it, outside of the clock here as there

    import_s = time.perf_counter() - start
    arguments, script = translate(task["job"]), find_script()
    clock = shared.Clock(task, _STARTED, import_s)
    env_steps = updates = 0
    step, optimise = gymnasium.vector.SyncVectorEnv.step, torch.optim.Adam.step

    def counted_step(self: Any, actions: Any) -> Any:
        nonlocal env_steps
        if not clock.running:
            clock.tick(env_steps, updates)
        env_steps += 1
        return step(self, actions)

    def counted_update(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal updates
        updates += 1
        return optimise(self, *args, **kwargs)

    gymnasium.vector.SyncVectorEnv.step = counted_step
    torch.optim.Adam.step = counted_update
    sys.argv = [str(script), "--no-cuda"]
    for name, value in arguments.items():
        sys.argv += [f"--{name.replace('_', '-')}", str(value)]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            runpy.run_path(str(script), run_name="__main__")
    clock.tick(env_steps, updates)
    settings = {**arguments, "torch_threads": torch.get_num_threads(), "device": "cpu"}
    return {
        "settings": settings,
        "versions": shared.versions("torch", "gymnasium", "numpy"),
        "run": clock.run(shared.memory_peak_mb()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
