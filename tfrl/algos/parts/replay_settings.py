"""Settings of a replay, and the `Replay` that they describe.

Items are n-step transitions, or with a memory overlapping sequences from a stored state (R2D2, Kapturowski et al.
2019). Prioritized replay is that of Schaul et al. 2016, relabelling of goals that of Andrychowicz et al. 2017. Nothing
here depends on what an algorithm learns.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from tfrl.agent import Episodes, NStep, Replay, Windows
from tfrl.errors import SettingError
from tfrl.optim import schedules
from tfrl.settings import setting


@dataclasses.dataclass(frozen=True)
class ReplaySettings:
    """Settings of a replay, a base of `Config`s beside `ModelSettings`, whose `core` is the memory."""

    discount: float = setting(0.99, "discount factor per env step", minimum=0.0, maximum=1.0)
    n_step: int = setting(1, "length of the n-step return", unit="env steps", minimum=1)
    sequence_length: int = setting(
        40,
        "with a memory: steps per replayed sequence, including burn-in",
        unit="env steps",
        minimum=1,
        idle_if=({"core": "none"}, {"sends_gradients": True}),
    )
    sequence_period: int = setting(
        20,
        "with a memory: steps from the start of one sequence to the start of the next; below sequence_length "
        "they overlap",
        unit="env steps",
        minimum=1,
        idle_if=({"core": "none"}, {"sends_gradients": True}),
    )
    burn_in: int = setting(
        20,
        "with a memory: initial steps of a sequence that only refresh the stored state and are not trained on",
        unit="env steps",
        minimum=0,
        idle_if=({"core": "none"}, {"sends_gradients": True}),
    )

    batch_size: int = setting(
        32,
        "transitions per update (with a memory: sequences), over all learner devices",
        unit="items",
        minimum=1,
        idle_if={"sends_gradients": True},
    )
    env_steps_per_update: float = setting(
        4.0,
        "env steps per update",
        unit="env steps",
        above=0.0,
        idle_if={"sends_gradients": True},
    )
    updates_per_call: int = setting(
        32,
        "updates per compiled call; no env steps are taken in between",
        unit="updates",
        minimum=1,
        idle_if={"sends_gradients": True},
    )
    replay_capacity: int = setting(
        50_000,
        "maximum number of transitions in the replay; with her_relabels their copies come in addition",
        unit="transitions",
        minimum=1,
        idle_if={"sends_gradients": True},
    )
    min_replay: int = setting(
        1_000,
        "transitions in the replay before the first update; with her_relabels their copies come in addition",
        unit="transitions",
        minimum=1,
        idle_if={"sends_gradients": True},
    )
    prioritized: bool = setting(False, "sample by priority instead of uniformly")
    priority_exponent: float = setting(
        0.6,
        "exponent alpha of prioritized replay",
        minimum=0.0,
        maximum=1.0,
        idle_if={"prioritized": False},
    )
    priority_epsilon: float = setting(
        1e-6, "constant added to each priority", above=0.0, idle_if={"prioritized": False}
    )
    priority_eta: float = setting(
        0.9,
        "with a memory: weight of the largest error in the priority of a sequence; the mean error has the "
        "remaining weight",
        minimum=0.0,
        maximum=1.0,
        idle_if=({"prioritized": False}, {"core": "none"}),
    )
    importance_beta: float = setting(
        0.4,
        "initial exponent of the importance weights",
        minimum=0.0,
        maximum=1.0,
        idle_if={"prioritized": False},
    )
    importance_beta_final: float = setting(
        1.0,
        "final exponent of the importance weights",
        minimum=0.0,
        maximum=1.0,
        idle_if={"prioritized": False},
    )
    importance_beta_updates: int = setting(
        20_000,
        "updates over which the exponent changes from importance_beta to importance_beta_final",
        unit="updates",
        minimum=0,
        idle_if={"prioritized": False},
    )


@dataclasses.dataclass(frozen=True)
class HindsightSettings:
    """The setting of copies with other goals, a base of algorithms that train on transitions."""

    her_relabels: int = setting(
        0,
        "for environments with goals: copies of each transition whose goal is one that was achieved later in its "
        "episode (hindsight experience replay; 4 in the paper); 0: none",
        unit="copies",
        minimum=0,
        idle_if={"sends_gradients": True},
    )


def check(config: Any) -> None:
    """Raises SettingError for settings that contradict each other."""
    if config.min_replay > config.replay_capacity:
        raise SettingError(
            f"min_replay={config.min_replay} with replay_capacity={config.replay_capacity}: "
            "updates would never start; min_replay may be at most replay_capacity"
        )
    if config.batch_size > config.replay_capacity:
        raise SettingError(
            f"replay_capacity={config.replay_capacity} with batch_size={config.batch_size}: "
            "the replay must hold at least one batch"
        )
    if config.n_step > config.replay_capacity:
        raise SettingError(
            f"n_step={config.n_step} with replay_capacity={config.replay_capacity}: "
            "expected at most as many steps as the replay holds"
        )
    relabels = getattr(config, "her_relabels", 0)
    if relabels and config.core != "none":
        raise SettingError(
            f"her_relabels={relabels} with core={config.core}: a memory is trained on sequences, whose "
            "goals are not changed; expected core=none or her_relabels=0"
        )
    if config.burn_in >= config.sequence_length:
        raise SettingError(
            f"burn_in={config.burn_in} with sequence_length={config.sequence_length}: "
            "nothing would be left to train on; burn_in must be below sequence_length"
        )
    if config.sequence_period > config.sequence_length:
        raise SettingError(
            f"sequence_period={config.sequence_period} with sequence_length="
            f"{config.sequence_length}: steps would be left out; at most sequence_length"
        )


def has_memory(config: Any) -> bool:
    """Whether a batch of `replay` is a `Trajectory` of sequences; else it is a `Transition`."""
    return config.core != "none"


def windows(config: Any) -> Windows:
    """The sequences that `ReplaySettings` describe.

    Raises:
      SettingError: they are too short for `n_step`.
    """
    trained = config.sequence_length - config.burn_in
    if config.n_step > trained:
        raise SettingError(
            f"n_step={config.n_step} with sequence_length={config.sequence_length} and "
            f"burn_in={config.burn_in}: expected at most {trained}, what is trained of a sequence"
        )
    return Windows(config.sequence_length, config.discount, config.sequence_period)


def replay(config: Any) -> Replay:
    """The replay of transitions and their copies, or with a memory of as many sequences as take as many env steps.

    Args:
      config: `ReplaySettings` and `ModelSettings`.

    Raises:
      SettingError: sequences that do not fit the replay, or are too short for `n_step`.
    """
    if has_memory(config):
        return replay_of(config, windows(config))
    return replay_of(config, NStep(config.n_step, config.discount, config.her_relabels))


def replay_of(config: Any, item: NStep | Windows | Episodes) -> Replay:
    """The replay of such items, of which as many are kept as take `replay_capacity` env steps.

    An episode counts as one of the full length. `env_steps_per_update` None is an update for each item.

    Args:
      config: `ReplaySettings` and `ModelSettings`.

    Raises:
      SettingError: sequences that do not fit the replay.
    """
    # Env steps from one item to the next, and items of each.
    period, copies = 1, 1
    if isinstance(item, NStep):
        copies = 1 + item.relabels
    else:
        period = int(item.env_steps(1))
    capacity, least = config.replay_capacity // period, math.ceil(config.min_replay / period)
    if max(config.batch_size, least) > capacity:
        what = f"core={config.core} and sequence_period={period}"
        if isinstance(item, Episodes):
            what = f"episodes of up to {period} steps"
        raise SettingError(
            f"replay_capacity={config.replay_capacity} with {what}: expected room for a batch and for min_replay, at "
            f"least {max(config.batch_size, least) * period}"
        )
    per_update = config.env_steps_per_update or period
    return Replay(
        item=item,
        capacity_items=capacity * copies,
        min_items=least * copies,
        samples_per_insert=config.batch_size * period / (per_update * copies),
        batch_size=config.batch_size,
        updates_per_call=config.updates_per_call,
        priority_exponent=config.priority_exponent if config.prioritized else None,
    )


def importance_beta(config: ReplaySettings, updates: tf.Tensor) -> tf.Tensor:
    """Exponent of the importance weights after so many updates, float32 scalar (Schaul et al. 2016, section 3.4)."""
    return schedules.linear(
        config.importance_beta,
        config.importance_beta_final,
        config.importance_beta_updates,
        updates,
    )
