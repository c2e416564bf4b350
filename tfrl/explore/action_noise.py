"""Exploration by noise on continuous actions: settings, schedule and ladder in NumPy for actors, a graph for policies.

Noise is on the scale [-1, 1] of `nn/bounded.py`, whatever the limits of the environment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrl.agent import ActorPlace
from tfrl.explore import epsilon
from tfrl.settings import Except, setting
from tfrl.types import NoiseSpec


@dataclasses.dataclass(frozen=True)
class RandomStartSettings:
    """Settings of the random actions at the start, a base of `Config`s beside `ReplaySettings`."""

    random_env_steps: int | None = setting(
        None,
        "env steps at the start in which actions are uniformly random; none: as many as min_replay",
        unit="env steps",
        minimum=0,
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class ActionNoiseSettings(RandomStartSettings):
    """Settings of noise on the actions of a deterministic policy, a base of `Config`s."""

    exploration_noise: str = setting(
        "gaussian",
        "gaussian: drawn anew at every step; ou: a process of Ornstein and Uhlenbeck in each environment, which starts "
        "at 0 with each episode; none",
        choices=("gaussian", "ou", "none"),
    )
    gaussian_sigma: float = setting(
        0.1,
        "standard deviation of Gaussian noise, of actions scaled to [-1, 1]",
        minimum=0.0,
        resumable=True,
        idle_if={"exploration_noise": Except(("gaussian",))},
    )
    noise_scale: float = setting(
        0.1,
        "Ornstein-Uhlenbeck noise is this times the state of the process times the range of the action",
        minimum=0.0,
        resumable=True,
        idle_if={"exploration_noise": Except(("ou",))},
    )
    ou_theta: float = setting(
        0.15,
        "rate per env step at which the process returns to 0",
        above=0.0,
        maximum=1.0,
        idle_if={"exploration_noise": Except(("ou",))},
    )
    ou_sigma: float = setting(
        0.2,
        "standard deviation of the normal numbers that move the process",
        minimum=0.0,
        idle_if={"exploration_noise": Except(("ou",))},
    )
    noise_final: float = setting(
        1.0,
        "share of the noise that is left after its linear decay; 1: no decay",
        minimum=0.0,
        maximum=1.0,
        resumable=True,
        idle_if=({"exploration_noise": "none"}, {"noise_ladder": Except(("none",))}),
    )
    noise_decay_env_steps: int = setting(
        10_000,
        "length of the noise's linear decay",
        unit="env steps",
        minimum=0,
        resumable=True,
        idle_if=(
            {"exploration_noise": "none"},
            {"noise_ladder": Except(("none",))},
            {"noise_final": 1.0},
        ),
    )
    noise_ladder: str = setting(
        "none",
        "constant share of the noise per actor or per environment (Ape-X), replacing the decay; training returns then "
        "come only from the least random third",
        choices=("none", "actor", "env"),
        idle_if={"exploration_noise": "none"},
    )
    noise_ladder_base: float = setting(
        0.4,
        "share of the first rung of the ladder",
        above=0.0,
        maximum=1.0,
        idle_if={"noise_ladder": "none"},
    )
    noise_ladder_exponent: float = setting(
        7.0,
        "the last rung of the ladder has the share base**(1 + exponent)",
        minimum=0.0,
        idle_if={"noise_ladder": "none"},
    )


def random_env_steps(config: Any) -> int:
    """Env steps with random actions; `config` has `RandomStartSettings` and `ReplaySettings`."""
    given = config.random_env_steps
    return config.min_replay if given is None else given


def random_knob(config: Any, place: ActorPlace, env_steps: int) -> np.ndarray:
    """The knob 'random', float32 [num_envs]: 1 while actions are random, then 0."""
    return np.full(place.num_envs, float(env_steps < random_env_steps(config)), np.float32)


def knob(
    config: Any,
) -> Callable[[ActorPlace, int, Mapping[str, float]], Mapping[str, np.ndarray]]:
    """`Agent.knobs` with 'random' and, where there is noise, 'noise_scale', float32 [num_envs].

    Args:
      config: `ActionNoiseSettings` and `ReplaySettings`.
    """

    def knobs(
        place: ActorPlace, env_steps: int, facts: Mapping[str, float]
    ) -> Mapping[str, np.ndarray]:
        del facts
        found = {"random": random_knob(config, place, env_steps)}
        if config.exploration_noise != "none":
            found["noise_scale"] = scales(config, place, env_steps)
        return found

    return knobs


def scales(config: ActionNoiseSettings, place: ActorPlace, env_steps: int) -> np.ndarray:
    """The factor of the noise in each environment of an actor, float32 [num_envs]."""
    # On [-1, 1] a Gaussian has its deviation, and the process the range of the action, which is 2.
    whole = 2.0 * config.noise_scale
    if config.exploration_noise == "gaussian":
        whole = config.gaussian_sigma
    # Ape-X: a constant share on the actor's or the environment's rung (Horgan et al. 2018, appendix D).
    if config.noise_ladder != "none":
        base, exponent = config.noise_ladder_base, config.noise_ladder_exponent
        rungs, count = epsilon.rungs(config.noise_ladder, place)
        return np.float32(whole) * epsilon.ladder(base, exponent, rungs, count)
    # One share for all, which decays over the env steps of the run.
    share = epsilon.linear(1.0, config.noise_final, config.noise_decay_env_steps, env_steps)
    return np.full(place.num_envs, whole * share, np.float32)


def in_metrics(config: ActionNoiseSettings) -> Callable[[ActorPlace], np.ndarray] | None:
    """`Agent.in_metrics`: with a ladder its least random third, else None."""
    if config.noise_ladder == "none" or config.exploration_noise == "none":
        return None
    return lambda place: epsilon.least_random(*epsilon.rungs(config.noise_ladder, place))


def noise(config: Any, size: int) -> dict[str, NoiseSpec]:
    """Random numbers that `perturb` and `start_at_random` need, of actions with `size` components."""
    found = random_noise(config, size)
    if config.exploration_noise == "gaussian":
        found["action_noise"] = NoiseSpec((size,), "normal")
    if config.exploration_noise == "ou":
        found["action_noise"] = NoiseSpec(
            (size,), "ou", theta=config.ou_theta, sigma=config.ou_sigma
        )
    return found


def random_noise(config: Any, size: int) -> dict[str, NoiseSpec]:
    """Random numbers that `start_at_random` needs; {} where no action is random."""
    return {"random_action": NoiseSpec((size,), "uniform")} if random_env_steps(config) else {}


def perturb(
    u: tf.Tensor, knobs: Mapping[str, tf.Tensor], noise: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """Actions u [B, m] with noise, clipped to [-1, 1]; as they are where there is no noise."""
    if "action_noise" not in noise:
        return u
    u += knobs["noise_scale"][:, tf.newaxis] * noise["action_noise"]
    return tf.minimum(tf.maximum(u, -1.0), 1.0)


def start_at_random(
    u: tf.Tensor, knobs: Mapping[str, tf.Tensor], noise: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """Uniform actions in [-1, 1]^m while the knob 'random' is 1, then the given ones; [B, m]."""
    if "random_action" not in noise:
        return u
    random = knobs["random"][:, tf.newaxis]
    return random * (2.0 * noise["random_action"] - 1.0) + (1.0 - random) * u
