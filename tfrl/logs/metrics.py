"""Every metric that a run may emit: its unit and meaning. A name that is not here cannot be logged.

Names are `role/name_unit`. A metric without data is absent from a row, never NaN.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tfrl.config.settings import SettingError, nearest


class Metric(NamedTuple):
    """unit of the number (empty for pure numbers), and what it means in one sentence."""

    unit: str
    meaning: str


METRICS: dict[str, Metric] = {
    "run/env_steps": Metric("env steps", "env steps taken in training, over all actors"),
    "run/updates": Metric("updates", "optimiser steps"),
    "run/episodes": Metric("episodes", "training episodes finished"),
    "run/wall_time_s": Metric("s", "time since this process started the run"),
    "run/env_steps_per_s": Metric("env steps/s", "env steps per second since the last row"),
    "run/updates_per_s": Metric("updates/s", "updates per second since the last row"),
    "run/progress_ratio": Metric("", "env steps taken as a share of total_env_steps"),
    "run/memory_peak_mb": Metric("MB", "largest resident memory of the process so far"),
    "actor/episode_return_mean": Metric(
        "reward", "mean of unclipped returns over the last 100 training episodes"
    ),
    "actor/episode_return_min": Metric("reward", "smallest of these returns"),
    "actor/episode_return_max": Metric("reward", "largest of these returns"),
    "actor/episode_return_median": Metric("reward", "median of these returns"),
    "actor/episode_length_mean_env_steps": Metric(
        "env steps", "mean length of the last 100 training episodes"
    ),
    "actor/epsilon": Metric("", "probability of a random action, mean over environments"),
    "actor/policy_lag_updates": Metric(
        "updates", "updates by which the acting policy is behind the learner"
    ),
    "actor/weight_delay_max_env_steps": Metric(
        "env steps", "most env steps that an actor process made between two looks for newer weights"
    ),
    "learner/loss": Metric("", "loss that the optimiser minimises, mean over the last batches"),
    "learner/network_loss": Metric(
        "", "what the layers of your own network add to that loss, e.g. penalties on weights"
    ),
    "learner/td_error_abs_mean": Metric("reward", "mean absolute temporal-difference error"),
    "learner/q_mean": Metric("reward", "mean value of the actions in the batch"),
    "learner/kl_target": Metric(
        "nat", "mean divergence of the predicted distribution from its target"
    ),
    "learner/edge_mass": Metric(
        "",
        "probability that targets have on the first and last atom; near 1: the support is too small",
    ),
    "learner/gradient_norm": Metric("", "global norm of the gradient before clipping"),
    "learner/learning_rate": Metric("", "step size of the optimiser"),
    "learner/policy_loss": Metric("", "surrogate of the policy gradient, mean over the last batch"),
    "learner/value_loss": Metric("reward^2", "loss of the value function, without its weight"),
    "learner/entropy": Metric("nat", "mean entropy of the policy's action distributions"),
    "learner/kl": Metric("nat", "mean divergence of the new policy from the one that acted"),
    "learner/kl_coefficient": Metric("", "weight of the divergence in the loss"),
    "learner/clipped_ratio": Metric(
        "", "share of steps whose probability ratio is beyond the clip"
    ),
    "learner/rho": Metric(
        "", "mean ratio of the learning to the acting policy's probabilities, before its limit"
    ),
    "learner/explained_variance": Metric(
        "", "share of the value targets' variance that the values explain; 1 is perfect"
    ),
    "learner/policy_lag_mean_updates": Metric(
        "updates",
        "updates between acting and learning, mean over the unrolls trained since the last row",
    ),
    "learner/policy_lag_p95_updates": Metric(
        "updates", "lag that 95 in 100 of these unrolls do not exceed"
    ),
    "learner/policy_lag_max_updates": Metric("updates", "largest lag of these unrolls"),
    "learner/importance_beta": Metric("", "exponent of the importance weights"),
    "learner/policy_version_updates": Metric(
        "updates", "updates behind the newest policy sent out"
    ),
    "learner/retraces": Metric(
        "", "times the compiled update was traced again; more than 0 is slow"
    ),
    "replay/size_items": Metric("items", "items in the replay"),
    "replay/queue_items": Metric(
        "items", "unrolls of actors that do not wait, made and not yet trained on"
    ),
    "replay/samples_per_insert": Metric("", "items sampled per item inserted, over the run"),
    "replay/items_inserted": Metric("items", "items inserted"),
    "replay/items_sampled": Metric("items", "items sampled"),
    "time/env_us": Metric("us", "stepping environments, per env step since the last row"),
    "time/act_us": Metric("us", "choosing actions, per env step since the last row"),
    "time/write_us": Metric("us", "writing to the replay, per env step since the last row"),
    "time/sample_us": Metric("us", "waiting for samples, per env step since the last row"),
    "time/learn_us": Metric("us", "updating, per env step since the last row"),
    "time/room_us": Metric(
        "us",
        "actors waiting until the replay takes what they made, per env step since the last row",
    ),
    "time/weights_us": Metric(
        "us",
        "actors waiting for the weights that their unrolls train, per env step since the last row",
    ),
    "time/experience_us": Metric(
        "us", "the learner waiting for experience, per env step since the last row"
    ),
    "evaluator/return_mean": Metric("reward", "mean return of the evaluated episodes"),
    "evaluator/return_std": Metric("reward", "standard deviation of these returns"),
    "evaluator/return_min": Metric("reward", "smallest of these returns"),
    "evaluator/return_max": Metric("reward", "largest of these returns"),
    "evaluator/episodes": Metric("episodes", "episodes of the evaluation"),
    "evaluator/length_mean_env_steps": Metric("env steps", "mean length of these episodes"),
}

# Drawn by TensorBoard; `metrics.csv` has numbers that sum them up.
HISTOGRAMS: dict[str, Metric] = {
    "learner/policy_lag_updates": Metric(
        "updates",
        "updates between acting and learning, of each unroll trained since the last row (TensorBoard)",
    ),
}


_NAME = re.compile(r"^[a-z][a-z0-9_]*/[a-z][a-z0-9_]*$")
# A name that ends so has this unit.
_SUFFIXES = {
    "_env_steps": "env steps",
    "_updates": "updates",
    "_items": "items",
    "_mb": "MB",
    "_us": "us",
}


def check_declared(
    table: Mapping[str, Metric], who: str, known: Mapping[str, Metric] = METRICS
) -> None:
    """Checks the metrics that an algorithm or a callback of a user's own declares.

    Args:
      who: declares them, the beginning of the message.
      known: names that are taken.

    Raises:
      SettingError: a name that is not like those of tfrl or is taken, no meaning, or a unit that its suffix denies.
    """
    for name, metric in table.items():
        where = f"{who}: metric {name!r}"
        if not isinstance(name, str) or not _NAME.match(name):
            raise SettingError(
                f"{where}: expected 'role/name_unit' of lower-case letters, digits and '_'"
            )
        if name in known:
            raise SettingError(f"{where}: the name is taken; expected another one")
        if not isinstance(metric, Metric) or not str(metric.meaning).strip():
            raise SettingError(
                f"{where}: expected Metric(unit, meaning) with a meaning in one sentence"
            )
        for suffix, unit in _SUFFIXES.items():
            if name.endswith(suffix) and metric.unit != unit:
                raise SettingError(f"{where}: its unit is {metric.unit!r}; {suffix} says {unit!r}")


def check_names(row: Iterable[str], table: Mapping[str, Metric] = METRICS) -> None:
    """Raises KeyError, with the nearest listed name, for a metric that is not in the table."""
    for name in row:
        if name not in table:
            raise KeyError(
                f"metric {name!r} is not declared{nearest(name, table)}; tfrl's are in logs/metrics.py, a user's own "
                "algorithm has METRICS, a callback has metrics"
            )
