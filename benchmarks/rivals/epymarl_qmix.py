"""Times QMIX of EPyMARL on a job of tfrl: `python epymarl_qmix.py TASK`; see `shared.py`.

EPyMARL is no package: its folder `src` is to be on the path of this Python (a checkout of its repository, with what it
imports). Its runner, replay, controller and learner are called as its own `run.py` calls them: one environment, and an
update after each episode once the replay has a batch of them.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()  # before the imports, which are part of the process's time

import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
import types  # noqa: E402
from typing import Any  # noqa: E402

import shared  # noqa: E402

# What it always does here: setting -> values of tfrl that mean it.
_FIXED = {
    **shared.ADAM,
    "mixer": ("qmix",),
    "network": ("auto", "mlp"),
    "core": ("gru",),
    "activation": ("relu",),
    "normalize_observations": (False,),
    "replay_of": ("episodes",),
    "prioritized": (False,),
    "n_step": (1,),
    "value_rescaling_epsilon": (None,),
    "learning_rate_final": (None,),
    "epsilon_schedule": ([],),
    "epsilon_ladder": ("none",),
    "env_steps_per_update": (None,),
    "batch_env_steps": (0,),
}
# Environments by the names that they have in tfrl.
_TWO_STEP = "tfrl/TwoStep-v0"


def translate(job: dict[str, Any]) -> dict[str, Any]:
    """Its arguments that mean the same as the job.

    Raises:
      ValueError: a setting that has no equal there.
    """
    config = job["config"]
    shared.refuse(config, _FIXED)
    if config["hidden_sizes"] != [config["core_size"]]:
        raise ValueError("hidden_sizes: expected one layer of core_size units")
    return {
        "batch_size": config["batch_size"],
        "buffer_size": config["replay_capacity"] // config["episode_length"],
        "lr": config["learning_rate"],
        "gamma": config["discount"],
        "grad_norm_clip": config["gradient_clip_norm"],
        "hidden_dim": config["core_size"],
        "obs_agent_id": config["add_agent_id"],
        "obs_last_action": config["add_last_action"],
        "double_q": config["double"],
        "mixing_embed_dim": config["mixing_embed_size"],
        "hypernet_layers": config["hypernet_layers"],
        "hypernet_embed": config["hypernet_size"],
        "target_update_interval_or_tau": config["target_period_updates"],
        "epsilon_start": 1.0 if config["epsilon_initial"] is None else config["epsilon_initial"],
        "epsilon_finish": 0.05 if config["epsilon_final"] is None else config["epsilon_final"],
        "epsilon_anneal_time": max(1, config["epsilon_decay_env_steps"]),
        "env_args": {
            "key": _key(job),
            "time_limit": config["episode_length"],
            "pretrained_wrapper": None,
            "seed": job["seed"],
        },
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Trains and times."""
    start = time.perf_counter()
    import torch

    # The games of another package that it would import, which no run here plays.
    absent = types.ModuleType("smaclite_wrapper")
    absent.SMACliteWrapper = None
    sys.modules["envs.smaclite_wrapper"] = absent
    from components.episode_buffer import ReplayBuffer
    from components.transforms import OneHot
    from controllers import REGISTRY as controllers
    from learners import REGISTRY as learners
    from runners import REGISTRY as runners
    from utils.logging import Logger

    import_s = time.perf_counter() - start
    job = task["job"]
    torch.set_num_threads(1)  # as its main.py
    torch.manual_seed(job["seed"])
    if job["env"]["env"] == _TWO_STEP:
        _register_two_step()
    given = translate(job)
    args = types.SimpleNamespace(**_DEFAULTS, **given)
    clock = shared.Clock(task, _STARTED, import_s)
    quiet = logging.getLogger("epymarl")
    quiet.setLevel(logging.CRITICAL)
    logger = Logger(quiet)
    runner = runners["episode"](args=args, logger=logger)
    info = runner.get_env_info()
    args.n_agents, args.n_actions = info["n_agents"], info["n_actions"]
    args.state_shape = info["state_shape"]
    scheme = {
        "state": {"vshape": info["state_shape"]},
        "obs": {"vshape": info["obs_shape"], "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (info["n_actions"],), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }
    groups = {"agents": args.n_agents}
    preprocess = {"actions": ("actions_onehot", [OneHot(out_dim=args.n_actions)])}
    length = info["episode_limit"] + 1
    buffer = ReplayBuffer(scheme, groups, args.buffer_size, length, preprocess, device="cpu")
    controller = controllers["basic_mac"](buffer.scheme, groups, args)
    runner.setup(scheme=scheme, groups=groups, preprocess=preprocess, mac=controller)
    learner = learners["q_learner"](controller, buffer.scheme, logger, args)
    # The first update comes when the replay has what tfrl's has before its own.
    least, episode = max(job["config"]["min_replay"] // (length - 1), args.batch_size), 0
    while runner.t_env < job["total_env_steps"]:
        buffer.insert_episode_batch(runner.run(test_mode=False))
        episode += 1
        if episode >= least:
            sample = buffer.sample(args.batch_size)
            learner.train(sample[:, : sample.max_t_filled()], runner.t_env, episode)
        clock.tick(runner.t_env, learner.training_steps)
    return {
        "settings": given,
        "versions": shared.versions("torch", "gymnasium", "numpy"),
        "run": clock.run(shared.memory_peak_mb()),
    }


# Of its default.yaml and qmix.yaml, what no setting of tfrl means.
_DEFAULTS = {
    "env": "gymma", "common_reward": True, "reward_scalarisation": "sum", "batch_size_run": 1,
    "test_nepisode": 0, "runner_log_interval": 10**12, "learner_log_interval": 10**12, "device": "cpu",
    "use_cuda": False, "agent": "rnn", "use_rnn": True, "obs_individual_obs": False, "mixer": "qmix",
    "action_selector": "epsilon_greedy", "agent_output_type": "q", "evaluation_epsilon": 0.0,
    "mask_before_softmax": True, "standardise_returns": False, "standardise_rewards": False,
    "add_value_last_step": True,
}  # fmt: skip


def _key(job: dict[str, Any]) -> str:
    """Its name of the environment."""
    env = job["env"]
    return "TwoStep-v0" if env["env"] == _TWO_STEP else env["env_kwargs"]["id"]


def _register_two_step() -> None:
    """The two-step game in the form of the environments that it takes: Tuples with a part for each agent."""
    import gymnasium as gym
    import numpy as np

    class TwoStep(gym.Env):
        n_agents = 2

        def __init__(self) -> None:
            box = gym.spaces.Box(0.0, 1.0, (6,), np.float32)
            self.observation_space = gym.spaces.Tuple([box, box])
            self.action_space = gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Discrete(2)])
            self._place = 0

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
            super().reset(seed=seed)
            self._place = 0
            return self._obs(), {}

        def step(self, action: Any) -> tuple:
            first, second = (int(a) for a in action)
            if self._place == 0:
                self._place = 1 + first
                return self._obs(), [0.0, 0.0], False, False, {}
            payoff = 7.0 if self._place == 1 else ((0.0, 1.0), (1.0, 8.0))[first][second]
            return self._obs(), [payoff / 2, payoff / 2], True, False, {}

        def _obs(self) -> tuple:
            one_hot = np.eye(6, dtype=np.float32)
            return one_hot[self._place], one_hot[self._place + 3]

    gym.register("TwoStep-v0", entry_point=TwoStep)


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
