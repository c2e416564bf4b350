"""Times ARS of sb3-contrib on a job of tfrl: `python sb3_ars.py TASK`; see `shared.py`.

It plays one episode after the other, so that more than one environment would only be slower.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import copy  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import shared  # noqa: E402

# What it always does: setting -> values of tfrl that mean it.
_FIXED = {
    "optimizer": ("sgd",),
    "momentum": (None, 0.0),
    "policy": ("linear",),
    "core": ("none",),
    "normalize_observations": (False,),
    "action_noise": (0.0,),
    "l2_coeff": (0.0,),
    "gradient_clip_norm": (None,),
    "learning_rate_final": (None,),
    "learning_rate_schedule": ([],),
}


def translate(job: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `ARS` that mean the same as the job.

    Raises:
      ValueError: a setting that has no equal there.
    """
    config = job["config"]
    shared.refuse(config, _FIXED)
    return {
        "policy": "LinearPolicy",
        "n_delta": config["num_directions"],
        "n_top": config["num_top_directions"],
        "learning_rate": config["learning_rate"],
        "delta_std": config["noise_stdev"],
        "zero_policy": True,
        "alive_bonus_offset": config["reward_shift"],
        "n_eval_episodes": 1,
        "seed": job["seed"],
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times."""
    start = time.perf_counter()
    import sb3_contrib
    from sb3_env import make_env, timed

    job = task["job"]
    import_s = time.perf_counter() - start
    arguments = translate(job)
    clock = shared.Clock(task, _STARTED, import_s)
    alone = {**job, "topology": {**job["topology"], "num_envs": 1}}
    model = sb3_contrib.ARS(env=make_env(alone), **copy.deepcopy(arguments))
    timed(model, job, clock)
    return {
        "settings": arguments,
        "versions": shared.versions("sb3-contrib", "stable-baselines3", "torch", "gymnasium"),
        "run": clock.run(shared.memory_peak_mb()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
