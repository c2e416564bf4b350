"""All metrics of a run with unit and meaning. Names that are not listed here cannot be logged.

Names are `role/name_unit`. A metric without data is absent from a row, never NaN.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tfrl.errors import SettingError
from tfrl.settings import nearest


class Metric(NamedTuple):
    """The unit of a number (empty for pure numbers) and its meaning in one sentence."""

    unit: str
    meaning: str


METRICS: dict[str, Metric] = {
    "run/env_steps": Metric("env steps", "env steps of training, summed over all actors"),
    "run/updates": Metric("updates", "optimiser steps"),
    "run/episodes": Metric("episodes", "training episodes finished"),
    "run/wall_time_s": Metric("s", "time since this process started the run"),
    "run/env_steps_per_s": Metric("env steps/s", "env steps per second since the last row"),
    "run/updates_per_s": Metric("updates/s", "updates per second since the last row"),
    "run/progress_ratio": Metric("", "fraction of total_env_steps taken so far"),
    "run/memory_peak_mb": Metric("MB", "peak resident memory of the process so far"),
    "actor/episode_return_mean": Metric(
        "reward", "mean unclipped return of the last 100 training episodes"
    ),
    "actor/episode_return_min": Metric("reward", "smallest of these returns"),
    "actor/episode_return_max": Metric("reward", "largest of these returns"),
    "actor/episode_return_median": Metric("reward", "median of these returns"),
    "actor/episode_length_mean_env_steps": Metric(
        "env steps", "mean length of the last 100 training episodes"
    ),
    "actor/epsilon": Metric("", "probability of a random action, mean over environments"),
    "actor/low_epsilon": Metric(
        "", "probability of a random action of the low level, without success-greedy exploration"
    ),
    "actor/noise_scale": Metric(
        "", "factor of the noise on actions scaled to [-1, 1], mean over environments"
    ),
    "actor/random": Metric("", "1 while actions are uniformly random at the start, then 0"),
    "actor/policy_lag_updates": Metric(
        "updates", "number of updates by which the acting policy lags behind the learner"
    ),
    "actor/weight_delay_max_env_steps": Metric(
        "env steps", "most env steps an actor process took between two checks for newer weights"
    ),
    "learner/loss": Metric("", "loss that the optimiser minimises, mean over the last batches"),
    "learner/network_loss": Metric(
        "", "penalties on weights, and what the layers of your own network add to the loss"
    ),
    "learner/td_error_abs_mean": Metric("reward", "mean absolute temporal-difference error"),
    "learner/q_mean": Metric("reward", "mean value of the actions in the batch"),
    "learner/kl_target": Metric(
        "nat", "mean KL divergence between target and predicted distributions"
    ),
    "learner/low_loss": Metric("", "loss of the low level, mean over the last batches"),
    "learner/low_gradient_norm": Metric(
        "", "global norm of the low level's gradient before clipping"
    ),
    "learner/low_learning_rate": Metric("", "learning rate of the low level's optimiser"),
    "learner/low_td_error_abs_mean": Metric(
        "", "mean absolute temporal-difference error of the low level, in intrinsic reward"
    ),
    "learner/low_q_mean": Metric(
        "", "mean value of the actions in the batch for the low level, in intrinsic reward"
    ),
    "learner/goal_success_ratio": Metric(
        "", "fraction of the goals chosen in the batch that were reached before they ended"
    ),
    "learner/goal_length_mean_env_steps": Metric(
        "env steps", "mean duration of the goals that were chosen in the batch"
    ),
    "learner/edge_mass": Metric(
        "",
        "probability mass of targets on the first and last atoms; near 1: the support is too narrow",
    ),
    "learner/gradient_norm": Metric("", "global norm of the gradient before clipping"),
    "learner/learning_rate": Metric("", "learning rate of the optimiser"),
    "learner/population_episodes": Metric("episodes", "members of the last iteration, both signs"),
    "learner/population_return_mean": Metric(
        "reward", "mean return of the members of the last iteration, each with perturbed weights"
    ),
    "learner/population_return_std": Metric("reward", "standard deviation of these returns"),
    "learner/population_return_max": Metric("reward", "largest of these returns"),
    "learner/weights_norm": Metric("", "Euclidean norm of all weights of the policy"),
    "learner/policy_loss": Metric("", "loss that the policy minimises, mean over the last batches"),
    "learner/policy_gradient_norm": Metric(
        "", "global norm of the policy's gradient before clipping"
    ),
    "learner/saturated_ratio": Metric(
        "", "fraction of the policy's action components beyond 0.99 of their limits"
    ),
    "learner/temperature": Metric("reward/nat", "weight of the entropy in the objective"),
    "learner/value_loss": Metric("reward^2", "loss of the value function, before its coefficient"),
    "learner/entropy": Metric("nat", "mean entropy of the policy's action distributions"),
    "learner/kl": Metric(
        "nat",
        "mean KL divergence of the updated policy from the acting policy (APPO: from the target policy)",
    ),
    "learner/kl_coefficient": Metric("", "weight of the KL penalty in the loss"),
    "learner/clipped_ratio": Metric(
        "", "fraction of steps whose probability ratio is outside the clip range"
    ),
    "learner/rho": Metric(
        "", "mean probability ratio of the learned policy to the acting policy, before clipping"
    ),
    "learner/sparse_parameters": Metric(
        "", "active weights and biases of the trained networks (switch sparse)"
    ),
    "learner/sparse_parameters_ratio": Metric("", "fraction that these are of all"),
    "learner/sparse_flops": Metric(
        "",
        "floating-point operations of their forward pass on one observation, 2 per active weight",
    ),
    "learner/sparse_flops_ratio": Metric(
        "", "fraction that these are of those of the dense networks"
    ),
    "learner/sparse_rewirings": Metric("", "rewirings of the sparse kernels so far"),
    "learner/explained_variance": Metric(
        "", "fraction of the value targets' variance that the values explain; 1 is perfect"
    ),
    "learner/policy_lag_mean_updates": Metric(
        "updates",
        "updates between acting and learning, mean over the unrolls trained on since the last row",
    ),
    "learner/policy_lag_p95_updates": Metric("updates", "95th percentile of this lag"),
    "learner/policy_lag_max_updates": Metric("updates", "maximum of this lag"),
    "learner/importance_beta": Metric("", "exponent of the importance weights"),
    "learner/policy_version_updates": Metric(
        "updates", "update count of the newest published policy"
    ),
    "learner/retraces": Metric(
        "", "number of times the compiled update was retraced; more than 0 is slow"
    ),
    "replay/size_items": Metric("items", "items in the replay"),
    "replay/queue_items": Metric(
        "items", "unrolls produced but not yet trained on, where actors do not wait for the learner"
    ),
    "replay/samples_per_insert": Metric("", "items sampled per item inserted, over the whole run"),
    "replay/items_inserted": Metric("items", "items inserted"),
    "replay/items_sampled": Metric("items", "items sampled"),
    "time/env_us": Metric(
        "us",
        "time spent stepping environments, per env step since the last row in which some were counted",
    ),
    "time/act_us": Metric(
        "us",
        "time spent choosing actions, per env step since the last row in which some were counted",
    ),
    "time/write_us": Metric(
        "us",
        "time spent writing to the replay, per env step since the last row in which some were counted",
    ),
    "time/sample_us": Metric(
        "us",
        "time spent waiting for samples, per env step since the last row in which some were counted",
    ),
    "time/learn_us": Metric(
        "us", "time spent on updates, per env step since the last row in which some were counted"
    ),
    "time/room_us": Metric(
        "us",
        "time that actors waited for space in the replay, per env step since the last row in which some were counted",
    ),
    "time/weights_us": Metric(
        "us",
        "time that actors waited for weights trained on their unrolls, per env step since the last row in which some "
        "were counted",
    ),
    "time/experience_us": Metric(
        "us",
        "time that the learner waited for experience, per env step since the last row in which some were counted",
    ),
    "evaluator/return_mean": Metric("reward", "mean return of the evaluation episodes"),
    "evaluator/return_std": Metric("reward", "standard deviation of these returns"),
    "evaluator/return_min": Metric("reward", "smallest of these returns"),
    "evaluator/return_max": Metric("reward", "largest of these returns"),
    "evaluator/episodes": Metric("episodes", "number of episodes in the evaluation"),
    "evaluator/length_mean_env_steps": Metric("env steps", "mean length of these episodes"),
}

# Histograms for TensorBoard; `metrics.csv` has summary statistics instead.
HISTOGRAMS: dict[str, Metric] = {
    "learner/policy_lag_updates": Metric(
        "updates",
        "updates between acting and learning, for each unroll trained on since the last row (TensorBoard)",
    ),
}

# Metrics whose names depend on the run.
PATTERNS: dict[str, Metric] = {
    "actor/<knob>": Metric(
        "",
        "a knob of acting that the algorithm declares, mean over environments, e.g. actor/epsilon",
    ),
    "eval/<world>/return_mean": Metric(
        "reward",
        "mean return of the evaluation episodes in a world of eval_worlds; likewise return_std, return_min, "
        "return_max, episodes and length_mean_env_steps",
    ),
}

_NAME = re.compile(r"^[a-z][a-z0-9_]*/[a-z][a-z0-9_]*$")
# Units implied by the end of a name.
_SUFFIXES = {
    "_env_steps": "env steps",
    "_updates": "updates",
    "_items": "items",
    "_mb": "MB",
    "_us": "us",
}


def unit_of(name: str) -> str:
    """The unit that the end of a name implies; '' where it implies none."""
    return next((unit for end, unit in _SUFFIXES.items() if name.endswith(end)), "")


def check_declared(
    table: Mapping[str, Metric], who: str, known: Mapping[str, Metric] = METRICS
) -> None:
    """Checks the metrics declared by a user's algorithm or callback.

    Args:
      who: the algorithm or callback, named at the start of the message.
      known: metrics whose names are taken.

    Raises:
      SettingError: a malformed or taken name, an empty meaning, or a unit that contradicts the name's suffix.
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
                raise SettingError(f"{where}: its unit is {metric.unit!r}; {suffix} means {unit!r}")


def check_names(row: Iterable[str], table: Mapping[str, Metric] = METRICS) -> None:
    """Raises KeyError, with the nearest listed name, for a metric that is not in the table."""
    for name in row:
        if name not in table:
            raise KeyError(
                f"metric {name!r} is not declared{nearest(name, table)}; tfrl's are in logs/metrics.py, a user's own "
                "algorithm has METRICS, a callback has metrics"
            )
