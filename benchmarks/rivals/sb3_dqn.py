"""Times Stable-Baselines3's DQN on a job of tfrl: `python sb3_dqn.py TASK` prints one line of JSON.

TASK is a JSON object {"job": a job as in job.json, "warmup_env_steps": n}. Runs where
Stable-Baselines3 is installed; tfrl need not be. A setting that its DQN cannot follow is refused.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import importlib.metadata  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

# What the DQN of Stable-Baselines3 always does: setting -> values of tfrl that mean it.
_FIXED = {
    "double": (False,),
    "dueling": (False,),
    "prioritized": (False,),
    "loss": ("huber",),
    "huber_delta": (1.0,),
    "learning_rate_final": (None,),
    "activation": ("relu",),
    "head_hidden_sizes": ([],),
    "network": ("auto", "mlp", "cnn"),
}


def translate(job: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `DQN` that mean the same as the job.

    Raises:
      ValueError: a setting that has no equal there.
    """
    config, num_envs = job["config"], job["topology"]["num_envs"]
    for name, allowed in _FIXED.items():
        if config[name] not in allowed:
            raise ValueError(f"{name}={config[name]!r}: expected {' or '.join(map(repr, allowed))}")
    per_update = config["env_steps_per_update"]
    # `train_freq` counts steps of the whole vector, `gradient_steps` the updates after them.
    train_freq = max(1, round(per_update / num_envs))
    gradient_steps = round(train_freq * num_envs / per_update)
    if gradient_steps * per_update != train_freq * num_envs:
        raise ValueError(f"env_steps_per_update={per_update:g} with num_envs={num_envs}: not whole")
    image = is_atari(job)
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
        "policy_kwargs": {**network, "optimizer_kwargs": {"eps": config["adam_epsilon"]}},
        "seed": job["seed"],
    }


def is_atari(job: dict[str, Any]) -> bool:
    return "NoFrameskip" in job["env"]["env"]


def make_env(job: dict[str, Any]) -> Any:
    """The vector of environments: with the DeepMind preprocessing and stacked frames for Atari."""
    from stable_baselines3.common import env_util
    from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage

    plan, num_envs = job["env"], job["topology"]["num_envs"]
    if not is_atari(job):
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


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times; the answer is shaped like that of `tfrl.benchmark.measure`."""
    start = time.perf_counter()
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    import_s = time.perf_counter() - start
    job, warmup = task["job"], task["warmup_env_steps"]
    arguments = translate(job)
    model = DQN(env=make_env(job), **arguments)

    class Clock(BaseCallback):
        """Notes time and counters when the clock starts: after the warm-up and an update."""

        begin: tuple[float, int, int] | None = None

        def _on_step(self) -> bool:
            if self.begin is None and self.num_timesteps >= warmup and self.model._n_updates:
                self.begin = (time.perf_counter(), self.num_timesteps, self.model._n_updates)
            return True

    clock = Clock()
    start = time.perf_counter()
    model.learn(total_timesteps=job["total_env_steps"], callback=clock)
    end = time.perf_counter()
    if clock.begin is None:
        raise ValueError("too short to be timed: no update before the end of the warm-up")
    began, env_steps, updates = clock.begin
    seconds = end - began
    env_steps, updates = model.num_timesteps - env_steps, model._n_updates - updates
    run = {
        "env_steps": env_steps,
        "updates": updates,
        "seconds": seconds,
        "env_steps_per_s": env_steps / seconds,
        "updates_per_s": updates / seconds,
        "whole_env_steps": model.num_timesteps,
        "whole_updates": model._n_updates,
        "whole_s": end - start,
        "whole_env_steps_per_s": model.num_timesteps / (end - start),
        "import_s": import_s,
        "outside_s": time.perf_counter() - _STARTED - (end - start),
        "memory_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    packages = ("stable-baselines3", "torch", "gymnasium", "numpy")
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    settings = {**arguments, "torch_threads": torch.get_num_threads(), "device": str(model.device)}
    return {"settings": settings, "versions": versions, "run": run}


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
