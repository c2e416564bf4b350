"""Epsilon-greedy exploration: its settings, the schedule in NumPy for actors, the choice as a graph for policies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfrl.agent import ActorPlace
from tfrl.errors import SettingError
from tfrl.settings import Points, setting
from tfrl.types import NoiseSpec


@dataclasses.dataclass(frozen=True)
class EpsilonSettings:
    """Settings of epsilon-greedy exploration, a base of `Config`s."""

    epsilon_initial: float | None = setting(
        None,
        "initial probability of a random action; none: 1, or 0 with noisy layers",
        minimum=0.0,
        maximum=1.0,
        resumable=True,
    )
    epsilon_final: float | None = setting(
        None,
        "probability of a random action after the decay; none: 0.05, or 0 with noisy layers",
        minimum=0.0,
        maximum=1.0,
        resumable=True,
    )
    epsilon_decay_env_steps: int = setting(
        10_000,
        "length of epsilon's linear decay",
        unit="env steps",
        minimum=0,
        resumable=True,
        idle_if=(
            {"epsilon_ladder": frozenset(("actor", "env"))},
            {
                "noisy": frozenset(("independent", "factorised")),
                "epsilon_initial": None,
                "epsilon_final": None,
            },
        ),
    )
    epsilon_schedule: Points = setting(
        (),
        "epsilon at given env steps, interpolated linearly; replaces the three settings above, e.g. "
        "0:1,10000:0.1,100000:0.01",
        minimum=0.0,
        maximum=1.0,
        resumable=True,
    )
    epsilon_ladder: str = setting(
        "none",
        "constant epsilon per actor or per environment (Ape-X), replacing the decay; training returns then "
        "come only from the least random third",
        choices=("none", "actor", "env"),
    )
    epsilon_ladder_base: float = setting(
        0.4,
        "epsilon of the first rung of the ladder",
        above=0.0,
        maximum=1.0,
        idle_if={"epsilon_ladder": "none"},
    )
    epsilon_ladder_exponent: float = setting(
        7.0,
        "the last rung of the ladder has epsilon base**(1 + exponent)",
        minimum=0.0,
        idle_if={"epsilon_ladder": "none"},
    )


def check(config: EpsilonSettings) -> None:
    """Raises SettingError for settings that contradict each other."""
    if config.epsilon_schedule and config.epsilon_ladder != "none":
        raise SettingError(
            f"epsilon_schedule with epsilon_ladder={config.epsilon_ladder}: the ladder has constant shares; leave "
            "one of them out"
        )
    for name in ("epsilon_initial", "epsilon_final"):
        if config.epsilon_schedule and getattr(config, name) is not None:
            raise SettingError(
                f"{name}={getattr(config, name)} with epsilon_schedule: the schedule holds all shares; leave one of "
                "them out"
            )
        if config.epsilon_ladder != "none" and getattr(config, name) is not None:
            raise SettingError(
                f"{name}={getattr(config, name)} with epsilon_ladder={config.epsilon_ladder}: the ladder has "
                "constant shares; leave it out, or set epsilon_ladder=none"
            )


def knob(
    config: EpsilonSettings, noisy: bool
) -> Callable[[ActorPlace, int, Mapping[str, float]], Mapping[str, np.ndarray]]:
    """`Agent.knobs` with the knob 'epsilon', float32 [num_envs].

    Args:
      noisy: layers with noise explore by themselves: epsilon is 0 unless it is set.
    """
    initial, final = config.epsilon_initial, config.epsilon_final
    if initial is None:
        initial = 0.0 if noisy else 1.0
    if final is None:
        final = 0.0 if noisy else 0.05

    def knobs(
        place: ActorPlace, env_steps: int, facts: Mapping[str, float]
    ) -> Mapping[str, np.ndarray]:
        del facts
        # Ape-X: a constant epsilon on the actor's or the environment's rung of a ladder.
        if config.epsilon_ladder != "none":
            base, exponent = config.epsilon_ladder_base, config.epsilon_ladder_exponent
            return {"epsilon": ladder(base, exponent, *rungs(config.epsilon_ladder, place))}
        # One epsilon for all, which decays over the env steps of the run.
        if config.epsilon_schedule:
            now = piecewise(config.epsilon_schedule, env_steps)
        else:
            now = linear(initial, final, config.epsilon_decay_env_steps, env_steps)
        return {"epsilon": np.full(place.num_envs, now, np.float32)}

    return knobs


def in_metrics(config: EpsilonSettings) -> Callable[[ActorPlace], np.ndarray] | None:
    """`Agent.in_metrics`: with a ladder its least random third, else None."""
    if config.epsilon_ladder == "none":
        return None
    return lambda place: least_random(*rungs(config.epsilon_ladder, place))


def rungs(per: str, place: ActorPlace) -> tuple[np.ndarray, int]:
    """Rungs of an actor's environments, int [num_envs], and how many the ladder has.

    Args:
      per: 'actor': a rung for each actor, which its environments share; 'env': one for each environment.
      place: of the actor.
    """
    worker, num_workers, num_envs = place
    if per == "actor":
        return np.full(num_envs, worker), num_workers
    return worker * num_envs + np.arange(num_envs), num_workers * num_envs


def linear(initial: float, final: float, decay_env_steps: int, env_steps: int) -> float:
    """Epsilon after `env_steps` of the whole run: linear from `initial` to `final` over `decay_env_steps`."""
    if env_steps >= decay_env_steps:
        return final
    return initial + (final - initial) * env_steps / decay_env_steps


def piecewise(points: Sequence[tuple[float, float]], env_steps: int) -> float:
    """Epsilon after `env_steps` of the whole run: linear between points (env steps, epsilon), constant outside."""
    steps, values = zip(*points, strict=True)
    return float(np.interp(env_steps, steps, values))


def ladder(base: float, exponent: float, rungs: np.ndarray, count: int) -> np.ndarray:
    """Constant epsilons base**(1 + exponent * i / (count - 1)) (Horgan et al. 2018, section 4).

    Args:
      base: epsilon of the first rung, and of the only one.
      exponent: alpha; the last rung has base**(1 + alpha).
      rungs: i, int [k], from 0.
      count: rungs of the whole ladder.

    Returns:
      float32 [k].
    """
    return np.power(base, 1.0 + exponent * rungs / max(count - 1, 1)).astype(np.float32)


def least_random(rungs: np.ndarray, count: int) -> np.ndarray:
    """True for the `rungs`, int [k], in the last third of a ladder, rounded up: bool [k]."""
    return rungs >= count - math.ceil(count / 3)


def noise(num_actions: int, agents: tuple[int, ...] = ()) -> dict[str, NoiseSpec]:
    """Random numbers that `choose` needs for each environment; of a team for each of its `agents`, (N,)."""
    return {
        "explore": NoiseSpec(agents, "uniform"),
        "action": NoiseSpec((*agents, num_actions), "uniform"),
    }


def choose(
    greedy: tf.Tensor, epsilon: tf.Tensor, noise: dict[str, tf.Tensor], mask: tf.Tensor | None
) -> tf.Tensor:
    """Epsilon-greedy actions int32 [...], of environments or agents; the random ones are uniform over valid actions.

    Args:
      greedy: int32 [...].
      epsilon: float32 [...], or a shape that broadcasts to it.
      noise: 'explore' uniform [...], 'action' uniform [..., A]: the largest entry among valid actions is the random
        choice.
      mask: 1 where an action is valid [..., A], or None.
    """
    scores = noise["action"]
    if mask is not None:
        scores = tf.where(tf.cast(mask, tf.bool), scores, -1.0)
    random = tf.argmax(scores, axis=-1, output_type=tf.int32)
    return tf.where(noise["explore"] < epsilon, random, greedy)
