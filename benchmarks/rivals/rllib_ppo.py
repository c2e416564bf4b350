"""Times RLlib's PPO (new API stack) on a job of tfrl: `python rllib_ppo.py TASK`; see `shared.py`.

One process, as tfrl's: the environments and the learner are local. RLlib standardises advantages over the
whole batch of an iteration, also where the job says minibatch. Its clipping range cannot decay; with the
option {"constant_clip": true} it stays at its first value instead of being refused.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import collections  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import shared  # noqa: E402


def translate(job: dict[str, Any], constant_clip: bool = False) -> dict[str, Any]:
    """Arguments of `PPOConfig.training` that mean the same as the job.

    Raises:
      ValueError: a setting that has no equal there.
    """
    config, num_envs = job["config"], job["topology"]["num_envs"]
    fixed = {
        **shared.PPO,
        "normalize_advantage": ("batch", "minibatch"),
        "shared_torso": (shared.is_atari(job),),
    }
    shared.refuse(config, fixed if constant_clip else {**fixed, "clip_final": (None,)})
    batch_size, rest = divmod(num_envs * config["unroll_length"], config["minibatches"])
    if rest:
        raise ValueError(f"minibatches={config['minibatches']}: parts of unequal size")
    rate = config["learning_rate"]
    if config["learning_rate_final"] is not None:
        rate = [[0, rate], [config["learning_rate_env_steps"], config["learning_rate_final"]]]
    return {
        "lr": rate,
        "train_batch_size_per_learner": num_envs * config["unroll_length"],
        "minibatch_size": batch_size,
        "num_epochs": config["epochs"],
        "gamma": config["discount"],
        "lambda_": config["gae_lambda"],
        "clip_param": config["clip"],
        "vf_clip_param": float("inf"),
        "use_kl_loss": False,
        "vf_loss_coeff": config["value_coefficient"],
        "entropy_coeff": config["entropy_coefficient"],
        "grad_clip": config["gradient_clip_norm"],
        "grad_clip_by": "global_norm",
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times."""
    start = time.perf_counter()
    import ray
    import rllib_env
    import torch
    from ray.rllib.algorithms.ppo import PPOConfig

    import_s = time.perf_counter() - start
    job = task["job"]
    arguments = translate(job, **task["options"])
    ray.init(**rllib_env.RAY)
    clock = shared.Clock(task, _STARTED, import_s)
    config = rllib_env.apply(job, PPOConfig().training(**arguments))
    config = config.env_runners(rollout_fragment_length=job["config"]["unroll_length"])
    # RLlib's own mean is over the episodes since its last result.
    games: collections.deque[float] = collections.deque(maxlen=shared.EPISODES)

    def note(*, episode: Any, prev_episode_chunks: Any = (), **_: Any) -> None:
        # An episode comes in pieces, one of each fragment that it lasts through.
        games.append(sum(piece.get_return() for piece in (*prev_episode_chunks, episode)))

    config = config.callbacks(on_episode_end=note)
    algorithm = config.learners(num_learners=0).build_algo()
    over, env_steps = False, 0
    while env_steps < job["total_env_steps"] and not over:
        result = algorithm.train()
        env_steps = rllib_env.env_steps(result)
        updates = rllib_env.rows_trained(result) // arguments["minibatch_size"]
        clock.tick(env_steps, updates)
        over = clock.score(games, env_steps, updates)
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
