"""Times RLlib's SAC (new API stack) on a job of tfrl: `python rllib_sac.py TASK`; see `shared.py`.

One process, as tfrl's: the environment and the learner are local. An iteration of RLlib samples and makes an update for
every so many env steps; here it is one for each.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import json  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import shared  # noqa: E402
from sb3_continuous import FIXED, SAC  # noqa: E402


def translate(job: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `SACConfig.training` that mean the same as the job.

    Raises:
      ValueError: a setting that has no equal there.
    """
    config = job["config"]
    one = {"env_steps_per_update": (1.0,), "policy_learning_rate": (None,)}
    shared.refuse(config, {**FIXED, **SAC, **one})
    if job["topology"]["num_envs"] != 1:
        raise ValueError("expected one environment")
    if config["policy_hidden_sizes"] != config["critic_hidden_sizes"]:
        raise ValueError("policy_hidden_sizes and critic_hidden_sizes differ")
    rate = config["learning_rate"]
    return {
        "lr": None,
        "actor_lr": rate,
        "critic_lr": rate,
        "alpha_lr": rate,
        "train_batch_size_per_learner": config["batch_size"],
        "num_steps_sampled_before_learning_starts": config["min_replay"],
        "replay_buffer_config": {
            "type": "EpisodeReplayBuffer",
            "capacity": config["replay_capacity"],
        },
        "twin_q": True,
        "tau": config["tau"],
        "gamma": config["discount"],
        "n_step": 1,
        "target_network_update_freq": 0,
        "target_entropy": "auto",
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times."""
    start = time.perf_counter()
    import ray
    import rllib_env
    import torch
    from ray.rllib.algorithms.sac import SACConfig

    import_s = time.perf_counter() - start
    job = task["job"]
    arguments = translate(job)
    ray.init(**rllib_env.RAY)
    clock = shared.Clock(task, _STARTED, import_s)
    config = rllib_env.apply(job, SACConfig().training(**arguments))
    config = config.env_runners(rollout_fragment_length=1)
    config = config.reporting(min_sample_timesteps_per_iteration=100, min_time_s_per_iteration=0)
    algorithm = config.learners(num_learners=0).build_algo()
    env_steps = 0
    while env_steps < job["total_env_steps"]:
        result = algorithm.train()
        env_steps = rllib_env.env_steps(result)
        clock.tick(env_steps, rllib_env.rows_trained(result) // job["config"]["batch_size"])
    run = clock.run(shared.memory_peak_mb())
    algorithm.stop()
    ray.shutdown()
    settings = {**arguments, **rllib_env.network(job), "torch_threads": torch.get_num_threads()}
    return {
        "settings": settings,
        "versions": shared.versions("ray", "torch", "gymnasium", "numpy"),
        "run": run,
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
