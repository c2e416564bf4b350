"""Times RLlib's IMPALA or APPO (new API stack) on a job of tfrl: `python rllib_impala.py TASK`; see `shared.py`.

Options: {"algorithm": "IMPALA" or "APPO", "num_learners": 0 (in the driver) or 1 (its own process)}.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import json  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import shared  # noqa: E402


def translate(job: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `IMPALAConfig.training`, or `APPOConfig.training`, that mean the same as the job.

    Raises:
      ValueError: a setting that has no equal there.
    """
    config = job["config"]
    shared.refuse(config, {**shared.ACTOR_CRITIC, "shared_torso": (True,)})
    appo = {"clip_param": config["clip"]} if "clip" in config else {}
    return {
        **appo,
        "lr": config["learning_rate"],
        "train_batch_size_per_learner": config["batch_env_steps"],
        "gamma": config["discount"],
        "vf_loss_coeff": config["value_coefficient"],
        "entropy_coeff": config["entropy_coefficient"],
        "grad_clip": config["gradient_clip_norm"],
        "grad_clip_by": "global_norm",
        "num_epochs": 1,
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times."""
    start = time.perf_counter()
    import ray
    import rllib_env
    import torch
    from ray.rllib.algorithms.appo import APPOConfig
    from ray.rllib.algorithms.impala import IMPALAConfig

    import_s = time.perf_counter() - start
    job, options = task["job"], task["options"]
    arguments = translate(job)
    ray.init(**rllib_env.RAY)
    clock = shared.Clock(task, _STARTED, import_s)
    kind = {"IMPALA": IMPALAConfig, "APPO": APPOConfig}[options["algorithm"]]
    config = rllib_env.apply(job, kind().training(**arguments))
    config = config.env_runners(rollout_fragment_length=job["config"]["unroll_length"])
    config = config.reporting(min_time_s_per_iteration=0.5)  # how often the clock is looked at
    algorithm = config.learners(num_learners=options["num_learners"]).build_algo()
    env_steps = 0
    while env_steps < job["total_env_steps"]:
        result = algorithm.train()
        env_steps = rllib_env.env_steps(result)
        updates = rllib_env.rows_trained(result) // arguments["train_batch_size_per_learner"]
        clock.tick(env_steps, updates)
    run = clock.run(shared.memory_peak_mb())
    algorithm.stop()
    ray.shutdown()
    settings = {**arguments, **options, **rllib_env.network(job)}
    return {
        "settings": {**settings, "torch_threads": torch.get_num_threads()},
        "versions": shared.versions("ray", "torch", "gymnasium", "ale-py", "numpy"),
        "run": run,
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
