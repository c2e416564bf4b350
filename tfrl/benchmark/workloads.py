"""The table of workloads: which run is timed, over which piece of it, and against whom."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tfrl.errors import SettingError
from tfrl.settings import choose


class Figure(NamedTuple):
    """A number of a run that is compared: its title and format in a table, and which end is better."""

    title: str
    form: str
    less_is_better: bool = False


# Figures that may be a workload's headline and have a target.
FIGURES = {
    "env_steps_per_s": Figure("env steps/s", ",.0f"),
    "updates_per_s": Figure("updates/s", ",.0f"),
    "seconds_to_score": Figure("seconds to the score", ".1f", less_is_better=True),
    "env_steps_to_score": Figure("env steps to the score", ",.0f", less_is_better=True),
}

# Name -> what the reader calls it; the Python of each is a flag of `launchers/benchmark.py`.
RIVALS = {
    "sb3": "Stable-Baselines3",
    "rllib": "RLlib",
    "sample_factory": "Sample Factory",
    "cleanrl": "CleanRL",
    "sbx": "SBX",
    "epymarl": "EPyMARL",
}

# Nothing but acting and learning while the clock runs; what a run writes anyway stays on.
_QUIET = {
    "eval_every_env_steps": 0,
    "eval_episodes": 1,
    "final_eval_episodes": 0,
    "checkpoint_every_env_steps": 0,
    "checkpoint_replay": False,
    "console": "none",
    "log_every_s": 0.1,
}


@dataclasses.dataclass(frozen=True)
class Rival:
    """A program that does the same work.

    Attributes:
      script: file of `benchmarks/rivals`.
      targets: {figure: how many times better tfrl's median is to be}.
      options: further arguments of the script.
    """

    script: str
    targets: Mapping[str, float] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Workload:
    """One timed run.

    Attributes:
      what: one line for the reader.
      algo, settings: the run, as `tfrl.train` takes it; `total_env_steps` is the next two.
      warmup_env_steps: the clock starts here at the earliest, and after the first update.
      timed_env_steps: from there to the end.
      figure: the headline, a key of `FIGURES`.
      rivals: key of `RIVALS` -> the same run elsewhere.
      score: mean return over the last 100 training episodes to which the run is timed, if any; the
        rival's run ends there.
      asynchronous: actors run ahead of the learner, so that env steps count when they are trained on.
    """

    name: str
    what: str
    algo: str
    settings: Mapping[str, Any]
    warmup_env_steps: int
    timed_env_steps: int
    figure: str = "env_steps_per_s"
    rivals: Mapping[str, Rival] = dataclasses.field(default_factory=dict)
    score: float | None = None
    asynchronous: bool = False

    def task(self, scale: float, seed: int) -> dict[str, Any]:
        """The arguments of `measure`; `scale` multiplies the timed piece, never the warm-up."""
        total = self.warmup_env_steps + math.ceil(scale * self.timed_env_steps)
        return {
            "algo": self.algo,
            "settings": {**_QUIET, **self.settings, "total_env_steps": total, "seed": seed},
            "warmup_env_steps": self.warmup_env_steps,
            "score": self.score,
            "asynchronous": self.asynchronous,
        }


# Spelled out although most are defaults: defaults may move, a benchmark may not.
_DQN = {
    "discount": 0.99,
    "n_step": 1,
    "double": False,
    "dueling": False,
    "prioritized": False,
    "loss": "huber",
    "huber_delta": 1.0,
    "batch_size": 32,
    "env_steps_per_update": 4.0,
    "target_period_updates": 500,
    "gradient_clip_norm": 10.0,
    "optimizer_epsilon": 1e-7,
    "epsilon_initial": 1.0,
    "epsilon_final": 0.05,
    "epsilon_decay_env_steps": 10_000,
}
_CARTPOLE = {
    **_DQN,
    "overlap": True,  # the rivals have no such option
    "env": "CartPole-v1",
    "hidden_sizes": (64, 64),
    "activation": "relu",
    "learning_rate": 5e-4,
    "replay_capacity": 50_000,
    "min_replay": 1_000,
}
_DISTRIBUTIONAL = {k: v for k, v in _CARTPOLE.items() if k != "loss"}
_QR_DQN_CARTPOLE = {**_DISTRIBUTIONAL, "num_quantiles": 25}
# Sizes and schedule of CleanRL's c51.py, most of which are written into it.
_C51_CARTPOLE = {
    **{k: v for k, v in _DISTRIBUTIONAL.items() if k != "huber_delta"},
    "num_atoms": 101,
    "v_min": -100.0,
    "v_max": 100.0,
    "hidden_sizes": (120, 84),
    "learning_rate": 2.5e-4,
    "optimizer_epsilon": 0.01 / 128,
    "gradient_clip_norm": None,
    "batch_size": 128,
    "env_steps_per_update": 10.0,
    "target_period_updates": 50,
    "replay_capacity": 10_000,
}
# As configs/dqn/apex_cartpole.flags.
_APEX_CARTPOLE = {
    "env": "CartPole-v1",
    "backend": "processes",
    "num_envs": 4,
    "max_weight_delay_env_steps": 400,
    "epsilon_ladder": "actor",
    "replay_capacity": 20_000,
    "min_replay": 1_000,
    "prioritized": True,
    "priority_exponent": 0.6,
    "actor_priorities": True,
    "importance_beta": 0.4,
    "importance_beta_final": 0.4,
    "discount": 0.99,
    "n_step": 3,
    "double": True,
    "dueling": True,
    "hidden_sizes": (64, 64),
    "activation": "relu",
    "learning_rate": 1e-3,
    "batch_size": 64,
    "env_steps_per_update": 4.0,
    "updates_per_call": 32,
    "target_period_updates": 400,
}
# Actor processes and shards of the replay.
_APEX_SIZES = ((1, 1), (2, 1), (4, 1), (4, 2), (4, 4))
_PONG = {
    **_DQN,
    "env": "PongNoFrameskip-v4",
    "network": "cnn",
    "learning_rate": 1e-4,
    "replay_capacity": 10_000,
    "min_replay": 1_000,
}
_ACTOR_CRITIC = {
    "network": "auto",
    "core": "none",
    "normalize_observations": False,
    "normalize_rewards": False,
    "optimizer": "adam",
    "discount": 0.99,
    "value_coefficient": 0.5,
    "learning_rate_final": None,
    "learning_rate_env_steps": 0,
}
_PPO = {
    **_ACTOR_CRITIC,
    "optimizer_epsilon": 1e-5,
    "num_envs": 8,
    "batch_env_steps": 0,
    "gae_lambda": 0.95,
    "clip_final": None,
    "value_clip": None,
    "kl_coefficient": 0.0,
    "kl_stop": None,
    "gradient_clip_norm": 0.5,
    "normalize_advantage": "minibatch",
    "overlap": True,  # the rivals have no such option
}
_PPO_CARTPOLE = {
    **_PPO,
    "env": "CartPole-v1",
    "hidden_sizes": (64, 64),
    "activation": "tanh",
    "shared_torso": False,
    "unroll_length": 128,
    "epochs": 10,
    "minibatches": 4,
    "clip": 0.2,
    "entropy_coefficient": 0.0,
    "learning_rate": 2.5e-4,
}
_IMPALA_PONG = {
    **_ACTOR_CRITIC,
    "env": "PongNoFrameskip-v4",
    "backend": "processes",
    "num_actors": 2,
    "num_envs": 8,
    "precision": "bfloat16",  # the rivals have no such option
    "shared_torso": True,
    "unroll_length": 50,
    "batch_env_steps": 800,
    "entropy_coefficient": 0.01,
    "learning_rate": 5e-4,
    "gradient_clip_norm": 40.0,
}
_HALF_CHEETAH = {
    "env": "HalfCheetah-v5",
    "discount": 0.99,
    "n_step": 1,
    "prioritized": False,
    "policy_hidden_sizes": (256, 256),
    "critic_hidden_sizes": (256, 256),
    "num_critics": 2,
    "activation": "relu",
    "batch_size": 256,
    "env_steps_per_update": 1.0,
    "updates_per_call": 16,
    "learning_rate": 3e-4,
    "tau": 0.005,
    "replay_capacity": 1_000_000,
    "min_replay": 1_000,
    "gradient_clip_norm": None,
}
# Networks of EPyMARL's QMIX with its GRU, and as many updates: one for each episode.
_QMIX = {
    "mixer": "qmix",
    "mixing_embed_size": 32,
    "hypernet_layers": 2,
    "hypernet_size": 64,
    "hidden_sizes": (64,),
    "core": "gru",
    "core_size": 64,
    "add_agent_id": True,
    "add_last_action": True,
    "double": True,
    "discount": 0.99,
    "batch_size": 32,
    "env_steps_per_update": None,
    "target_period_updates": 200,
    "optimizer": "adam",
    "learning_rate": 5e-4,
    "gradient_clip_norm": 10.0,
    "epsilon_initial": 1.0,
    "epsilon_final": 0.05,
    "epsilon_decay_env_steps": 50_000,
    "num_envs": 8,
    "overlap": True,  # the rival has no such option
}

# Those that are defaults of sb3-contrib's ARS.
_ARS = {
    "policy": "linear",
    "core": "none",
    "normalize_observations": False,
    "num_directions": 8,
    "num_top_directions": None,
    "noise_stdev": 0.05,
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "reward_shift": 0.0,
    "l2_coeff": 0.0,
    "gradient_clip_norm": None,
}
# As many episodes of a round as environments, or a multiple, so that no actor waits for another.
_ES = {
    "policy": "mlp",
    "core": "none",
    "hidden_sizes": (64, 64),
    "normalize_observations": True,
    "episodes_per_batch": 32,
    "min_steps_per_batch": 0,
    "noise_stdev": 0.02,
    "optimizer": "adam",
    "learning_rate": 0.01,
}
_TWO_ACTORS = {"backend": "processes", "num_actors": 2, "num_envs": 8, "env_backend": "sync"}
_ONE_ACTOR = {**_TWO_ACTORS, "num_actors": 1, "num_envs": 16}
# End of a workload's name, who acts in words, the settings of it, and whether rivals run beside it.
_ACTING = (
    ("", "2 actor processes", _TWO_ACTORS, True),
    ("-1", "1 actor process", _ONE_ACTOR, False),
    (
        "-envpool",
        "2 actor processes, environments of EnvPool",
        {**_TWO_ACTORS, "env_backend": "envpool"},
        True,
    ),
)

WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            name="dqn-cartpole",
            what="DQN CartPole-v1, MLP 64x64, batch 32, 1 environment, an update per 4 env steps",
            algo="dqn",
            settings=_CARTPOLE,
            warmup_env_steps=2_000,
            timed_env_steps=60_000,
            rivals={"sb3": Rival("sb3_dqn.py", {"env_steps_per_s": 6.0})},
        ),
        Workload(
            name="dqn-cartpole-8",
            what="DQN CartPole-v1, MLP 64x64, batch 32, 8 environments, an update per 4 env steps",
            algo="dqn",
            settings={**_CARTPOLE, "num_envs": 8},
            warmup_env_steps=2_000,
            timed_env_steps=80_000,
            rivals={"sb3": Rival("sb3_dqn.py", {"env_steps_per_s": 10.0})},
        ),
        Workload(
            name="dqn-cartpole-updates",
            what="DQN CartPole-v1, MLP 64x64, batch 32, full replay, 128 updates per env step",
            algo="dqn",
            settings={
                **_CARTPOLE,
                "min_replay": 50_000,
                "env_steps_per_update": 1 / 128,
                "target_period_updates": 512,
            },
            warmup_env_steps=50_010,
            timed_env_steps=160,
            figure="updates_per_s",
            rivals={"sb3": Rival("sb3_dqn.py", {"updates_per_s": 10.0})},
        ),
        Workload(
            name="dqn-cartpole-prioritized",
            what="DQN CartPole-v1 as dqn-cartpole, with prioritized replay",
            algo="dqn",
            settings={**_CARTPOLE, "prioritized": True},
            warmup_env_steps=2_000,
            timed_env_steps=60_000,
        ),
        *(
            Workload(
                name=f"apex-cartpole-{actors}-{shards}",
                what=f"Ape-X DQN CartPole-v1, {actors} actor processes of 4 environments, {shards} replay shards",
                algo="dqn",
                settings={
                    **_APEX_CARTPOLE,
                    "num_actors": actors,
                    "num_replay_shards": shards,
                },
                warmup_env_steps=4_000,
                timed_env_steps=40_000,
            )
            for actors, shards in _APEX_SIZES
        ),
        Workload(
            name="qr-dqn-cartpole",
            what="QR-DQN CartPole-v1, MLP 64x64, 25 quantiles, batch 32, 1 environment, an update per 4 env steps",
            algo="qr_dqn",
            settings=_QR_DQN_CARTPOLE,
            warmup_env_steps=2_000,
            timed_env_steps=60_000,
            rivals={"sb3": Rival("sb3_dqn.py", {"env_steps_per_s": 5.0})},
        ),
        Workload(
            name="c51-cartpole",
            what="C51 CartPole-v1, MLP 120x84, 101 atoms, batch 128, 1 environment, an update per 10 env steps",
            algo="c51",
            settings=_C51_CARTPOLE,
            warmup_env_steps=2_000,
            timed_env_steps=60_000,
            rivals={"cleanrl": Rival("cleanrl_c51.py", {"env_steps_per_s": 5.0})},
        ),
        Workload(
            name="dqn-pong",
            what="DQN Pong, Nature CNN, batch 32, 1 environment, an update per 4 env steps",
            algo="dqn",
            settings=_PONG,
            warmup_env_steps=1_500,
            timed_env_steps=3_000,
            rivals={"sb3": Rival("sb3_dqn.py")},
        ),
        Workload(
            name="dqn-pong-updates",
            what="DQN Pong, Nature CNN, batch 32, replay of 5,000, 32 updates per env step",
            algo="dqn",
            settings={
                **_PONG,
                "min_replay": 5_000,
                "env_steps_per_update": 1 / 32,
                "target_period_updates": 512,
            },
            warmup_env_steps=5_004,
            timed_env_steps=20,
            figure="updates_per_s",
            rivals={"sb3": Rival("sb3_dqn.py", {"updates_per_s": 1.6})},
        ),
        Workload(
            name="ppo-cartpole",
            what="PPO CartPole-v1, two MLPs 64x64, 8 environments x 128 steps, 10 epochs of 4 minibatches",
            algo="ppo",
            settings=_PPO_CARTPOLE,
            warmup_env_steps=4 * 1024,
            timed_env_steps=160 * 1024,
            rivals={
                "sb3": Rival("sb3_ppo.py", {"env_steps_per_s": 6.0}),
                "rllib": Rival("rllib_ppo.py", {"env_steps_per_s": 12.0}),
            },
        ),
        Workload(
            name="ppo-cartpole-score",
            what="PPO CartPole-v1 to a mean return of 475, settings of RL Baselines3 Zoo",
            algo="ppo",
            settings={
                **_PPO_CARTPOLE,
                "unroll_length": 32,
                "epochs": 20,
                "minibatches": 1,
                "discount": 0.98,
                "gae_lambda": 0.8,
                "learning_rate": 1e-3,
                "learning_rate_final": 0.0,
                "learning_rate_env_steps": 100_000,
                "clip_final": 0.0,
            },
            warmup_env_steps=2_560,
            timed_env_steps=97_440,
            figure="seconds_to_score",
            rivals={
                "sb3": Rival("sb3_ppo.py", {"seconds_to_score": 3.0}),
                "rllib": Rival("rllib_ppo.py", options={"constant_clip": True}),
            },
            score=475.0,
        ),
        Workload(
            name="ppo-pong",
            what="PPO Pong, Nature CNN, 8 environments x 128 steps, 4 epochs of 4 minibatches",
            algo="ppo",
            settings={
                **_PPO,
                "env": "PongNoFrameskip-v4",
                "overlap": False,  # convolutions take every core while they learn
                "precision": "bfloat16",  # the rivals have no such option
                "shared_torso": True,
                "unroll_length": 128,
                "epochs": 4,
                "minibatches": 4,
                "entropy_coefficient": 0.01,
                "clip": 0.1,
                "clip_final": 0.0,
                "learning_rate": 2.5e-4,
                "learning_rate_final": 0.0,
                "learning_rate_env_steps": 10_000_000,
            },
            warmup_env_steps=1024,
            timed_env_steps=8 * 1024,
            rivals={"sb3": Rival("sb3_ppo.py", {"env_steps_per_s": 1.8})},
        ),
        *(
            Workload(
                name=f"{algo}-halfcheetah",
                what=f"{title} HalfCheetah-v5, layers 256x256, batch 256, 1 environment, an update per env step",
                algo=algo,
                settings=_HALF_CHEETAH,
                warmup_env_steps=1_500,
                timed_env_steps=3_000,
                figure="updates_per_s",
                rivals={
                    "sbx": Rival("sb3_continuous.py", {"updates_per_s": 1.5}, {"library": "sbx"}),
                    "sb3": Rival("sb3_continuous.py"),
                    **others,
                },
            )
            for algo, title, others in (
                ("sac", "SAC", {"rllib": Rival("rllib_sac.py")}),
                ("td3", "TD3", {}),  # which RLlib no longer has
            )
        ),
        Workload(
            name="qmix-two-step",
            what="QMIX two-step game, GRU 64, 32 episodes per update, an update per episode of 2 steps",
            algo="qmix",
            settings={
                **_QMIX,
                "env": "tfrl/TwoStep-v0",
                "episode_length": 2,
                "replay_capacity": 10_000,
                "min_replay": 1_000,
                "updates_per_call": 16,
            },
            warmup_env_steps=2_000,
            timed_env_steps=8_000,
            rivals={"epymarl": Rival("epymarl_qmix.py", {"env_steps_per_s": 5.0})},
        ),
        Workload(
            name="qmix-foraging",
            what="QMIX Foraging-8x8-2p-2f, GRU 64, 32 episodes per update, an update per episode of up to 50 steps",
            algo="qmix",
            settings={
                **_QMIX,
                "env": "tfrl.envs.pettingzoo:tuple_team",
                "env_kwargs": {"id": "lbforaging:Foraging-8x8-2p-2f-v3"},
                "episode_length": 50,
                "replay_capacity": 250_000,
                "min_replay": 1_600,
                "updates_per_call": 8,
            },
            warmup_env_steps=3_000,
            timed_env_steps=9_000,
            rivals={"epymarl": Rival("epymarl_qmix.py", {"env_steps_per_s": 5.0})},
        ),
        Workload(
            name="ars-cartpole",
            what="ARS CartPole-v1, linear policy, 8 directions, 16 environments in NumPy",
            algo="ars",
            settings={**_ARS, "env": "CartPole-v1", "num_envs": 16, "env_backend": "native"},
            warmup_env_steps=50_000,
            timed_env_steps=400_000,
            rivals={"sb3": Rival("sb3_ars.py", {"env_steps_per_s": 10.0})},
        ),
        *(
            Workload(
                name=f"ars-{env.partition('-')[0].lower()}{suffix}",
                what=f"ARS {env}, linear policy, 8 directions, {what}",
                algo="ars",
                settings={**_ARS, "env": env, **acting},
                warmup_env_steps=warmup,
                timed_env_steps=timed,
                rivals={"sb3": Rival("sb3_ars.py", {"env_steps_per_s": 6.0})} if races else {},
            )
            for env, warmup, timed in (
                ("Pendulum-v1", 20_000, 200_000),
                ("Swimmer-v5", 32_000, 160_000),
            )
            for suffix, what, acting, races in _ACTING
        ),
        *(
            Workload(
                name=f"es-swimmer{suffix}",
                what=f"ES Swimmer-v5, MLP 64x64, 32 episodes a round, {what}",
                algo="es",
                settings={**_ES, "env": "Swimmer-v5", **acting},
                warmup_env_steps=32_000,
                timed_env_steps=160_000,
            )
            for suffix, what, acting, _ in _ACTING[:2]
        ),
        Workload(
            name="impala-pong",
            what="IMPALA Pong, Nature CNN, 2 actor processes of 8 environments, batches of 16 x 50 steps",
            algo="impala",
            settings=_IMPALA_PONG,
            # More than the queue holds, which is full when the learner has compiled.
            warmup_env_steps=8_000,
            timed_env_steps=24_000,
            asynchronous=True,
            rivals={
                "rllib": Rival(
                    "rllib_impala.py",
                    {"env_steps_per_s": 3.0},
                    {"algorithm": "IMPALA", "num_learners": 0},
                ),
                "sample_factory": Rival("sample_factory_appo.py", {"env_steps_per_s": 3.0}),
            },
        ),
        Workload(
            name="appo-pong",
            what="APPO on the job of impala-pong: a forward pass more, of the target policy",
            algo="appo",
            settings={**_IMPALA_PONG, "clip": 0.4},
            warmup_env_steps=8_000,
            timed_env_steps=24_000,
            asynchronous=True,
            rivals={
                "rllib": Rival("rllib_impala.py", options={"algorithm": "APPO", "num_learners": 0}),
                "sample_factory": Rival("sample_factory_appo.py"),
            },
        ),
    )
}


def choose_workloads(names: Iterable[str]) -> list[Workload]:
    """The workloads of these names, in the order given and once each; `all` stands for the table.

    Raises:
      SettingError: a name that is not in the table (the nearest is named), or none at all.
    """
    chosen: dict[str, Workload] = {}
    for name in names:
        if name != "all" and name not in WORKLOADS:
            raise SettingError(f"workloads={name!r}: {choose(name, ['all', *WORKLOADS])}")
        chosen.update(WORKLOADS if name == "all" else {name: WORKLOADS[name]})
    if not chosen:
        raise SettingError(f"workloads: none given; expected some of all, {', '.join(WORKLOADS)}")
    return list(chosen.values())
