"""Times Sample Factory's APPO on a job of tfrl: `python sample_factory_appo.py TASK`; see `shared.py`.

One pass over the data: a clipped surrogate loss in place of IMPALA's. Its V-trace is off, as by default:
version 2.1.1 fails with it when the learner writes its summaries.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import json  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from typing import Any  # noqa: E402

import shared  # noqa: E402

PLAN = "tfrl_plan"  # its environments get the plan of the job through its own configuration


def translate(job: dict[str, Any]) -> dict[str, Any]:
    """Flags of Sample Factory that mean the same as the job.

    Raises:
      ValueError: a setting or an environment that has no equal here.
    """
    config, topology, plan = job["config"], job["topology"], job["env"]
    if not shared.is_atari(job):
        raise ValueError(f"env={plan['env']!r}: expected a game of Atari")
    shared.refuse(config, {**shared.ACTOR_CRITIC, "shared_torso": (True,)})
    clip_norm = config["gradient_clip_norm"]
    clip = {"ppo_clip_ratio": config["clip"]} if "clip" in config else {}
    return {
        **clip,
        "algo": "APPO",
        "env": plan["env"],
        "experiment": "run",
        "device": "cpu",
        "seed": job["seed"],
        "num_workers": topology["num_actors"],
        "num_envs_per_worker": topology["num_envs"],
        "rollout": config["unroll_length"],
        "batch_size": config["batch_env_steps"],
        "num_batches_per_epoch": 1,
        "num_epochs": 1,
        "with_vtrace": False,
        "normalize_returns": False,
        "normalize_input": False,
        "obs_scale": 255.0,
        "reward_clip": 1.0 if plan["clip_rewards"] is not False else 1e9,
        "gamma": config["discount"],
        "value_loss_coeff": config["value_coefficient"],
        "exploration_loss_coeff": config["entropy_coefficient"],
        "learning_rate": config["learning_rate"],
        "max_grad_norm": 0.0 if clip_norm is None else clip_norm,
        "use_rnn": False,
        "encoder_conv_architecture": "convnet_atari",
        "nonlinearity": "relu",
        "env_frameskip": plan["atari_frame_skip"],
        "env_framestack": plan["atari_frame_stack"],
        "summaries_use_frameskip": False,  # its counts are env steps then
        "train_for_env_steps": job["total_env_steps"],
        "save_every_sec": 100_000,
        "save_best_every_sec": 100_000,
    }


def make_env(name: str, cfg: Any, env_config: Any, render_mode: str | None = None) -> Any:
    """One Atari game with the DeepMind preprocessing."""
    del env_config
    import ale_py  # noqa: F401 - its import registers the games
    import gymnasium
    from sample_factory.envs.env_wrappers import FireResetEnv, NumpyObsWrapper

    plan = json.loads(getattr(cfg, PLAN))
    sticky = plan["atari_sticky_actions"]
    env = gymnasium.make(name, render_mode=render_mode, repeat_action_probability=sticky)
    env = gymnasium.wrappers.AtariPreprocessing(
        env,
        noop_max=plan["atari_noop_max"],
        frame_skip=plan["atari_frame_skip"],
        screen_size=plan["atari_screen_size"],
        terminal_on_life_loss=plan["atari_terminal_on_life_loss"],
    )
    if plan["atari_fire_on_reset"] and "FIRE" in env.unwrapped.get_action_meanings():
        env = FireResetEnv(env)
    env = gymnasium.wrappers.FrameStack(env, plan["atari_frame_stack"])
    return NumpyObsWrapper(env)


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times."""
    start = time.perf_counter()
    import torch
    from sample_factory.algo.runners.runner import AlgoObserver
    from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
    from sample_factory.envs.env_utils import register_env
    from sample_factory.train import make_runner

    import_s = time.perf_counter() - start
    job = task["job"]
    arguments = translate(job)
    register_env(job["env"]["env"], make_env)
    clock = shared.Clock(task, _STARTED, import_s)
    memory_mb = 0.0

    class Watch(AlgoObserver):
        """Ticks after each training iteration, which is one update."""

        def on_training_step(self, runner: Any, training_iteration_since_resume: int) -> None:
            env_steps = runner.env_steps.get(0, 0)
            clock.tick(env_steps, env_steps // arguments["batch_size"])

        def on_stop(self, runner: Any) -> None:
            nonlocal memory_mb
            memory_mb = shared.memory_peak_mb()

    with tempfile.TemporaryDirectory() as folder:
        argv = [f"--{name}={value}" for name, value in arguments.items()]
        argv += [f"--train_dir={pathlib.Path(folder)}", f"--{PLAN}={json.dumps(job['env'])}"]
        parser, _ = parse_sf_args(argv)
        parser.add_argument(f"--{PLAN}", type=str)
        _, runner = make_runner(parse_full_cfg(parser, argv))
        runner.register_observer(Watch())
        runner.init()
        runner.run()
    return {
        "settings": {**arguments, "torch_threads": torch.get_num_threads()},
        "versions": shared.versions("sample-factory", "torch", "gymnasium", "ale-py", "numpy"),
        "run": clock.run(memory_mb),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
