"""The data that travels between the rooms of tfrl: environment specs, transitions, trajectories, steps, updates.

Nothing here imports TensorFlow; leaves are NumPy arrays in actors and tensors in learners.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym

from tfrl import spaces as space_lib
from tfrl.errors import SettingError

ACTION_MASK, ACTION_FEATURES = "action_mask", "action_features"
STATE, ALIVE, LABELS, EXPERT = "state", "alive", "labels", "expert"


class SideInput(NamedTuple):
    """A part of a Dict observation that no network reads; `envs/spaces.py` refuses one that breaks its rule.

    Attributes:
      holds: its meaning, one entry or row of it.
      shape: without batch, for messages and documentation.
      is_flag: entries are 0 or 1; float32 after the cast, whatever kind of Box or MultiBinary the environment has.
      read_by: who reads it.
    """

    holds: str
    shape: str
    is_flag: bool
    read_by: str


# By its key on the first level of a Dict observation.
SIDE_INPUTS: Mapping[str, SideInput] = {
    ACTION_MASK: SideInput(
        "1 where a choice is valid", "[choices of the action space]", True, "policies and targets"
    ),
    ACTION_FEATURES: SideInput(
        "a row that describes an action", "[actions, features]", False, "scores of actions"
    ),
    STATE: SideInput(
        "the state behind the observations, for training only", "any Box", False, "critics, mixers"
    ),
    ALIVE: SideInput("1 where an agent of a team lives", "[num_agents]", True, "losses of teams"),
    LABELS: SideInput("1 where a proposition is true", "[propositions]", True, "tasks in logic"),
    EXPERT: SideInput(
        "the action of an expert", "that of the action space", False, "losses of imitation"
    ),
}


def side_inputs(space: gym.Space) -> dict[str, gym.Space]:
    """{key: space} of the parts of an observation space that no network reads; {} of what is no Dict."""
    if not isinstance(space, gym.spaces.Dict):
        return {}
    return {key: part for key, part in space.spaces.items() if key in SIDE_INPUTS}


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """The facts of an environment that an algorithm may use; one environment, no batch axis.

    Attributes:
      name: environment id, for messages.
      observation_space: gymnasium space of one observation, after preprocessing.
      action_space: gymnasium space of one action.
      frame_stack: k > 0 means that the last axis of a Box observation (or of the part `observation` of a Dict) holds
        the k newest frames, oldest first; replay then stores each frame once. 0: observations are unrelated arrays.
      max_episode_steps: time limit in env steps, None when there is none or it is unknown.
      env_observation_space, env_action_space: the spaces as the environment declares them, before the casts of
        `envs/spaces.py`; None where they are the ones above. An exported policy takes and gives values of these.
      num_agents: N of a team that acts as one environment, whose leaves have an axis [N, ...]; 1: no team.
      reward_parts: names of the R parts that a reward comes with, e.g. ("forward", "control"); () for none. They are
        given beside the scalar reward and need not add up to it: costs are parts too.
      step_discount: the environment gives a discount of its own with every step, as those of dm_env do.
      goals: the `GoalSpace` that the environment suggests for its agents, {"function": "package.module:name",
        "kwargs": {...}} of a function (spec, **kwargs) -> GoalSpace; None where it has none.
    """

    name: str
    observation_space: gym.Space
    action_space: gym.Space
    frame_stack: int = 0
    max_episode_steps: int | None = None
    env_observation_space: gym.Space | None = None
    env_action_space: gym.Space | None = None
    num_agents: int = 1
    reward_parts: tuple[str, ...] = ()
    step_discount: bool = False
    goals: Mapping[str, Any] | None = None

    @property
    def side_inputs(self) -> dict[str, gym.Space]:
        """{key: space} of the parts of the observation that are side inputs, see `SIDE_INPUTS`."""
        return side_inputs(self.observation_space)

    @property
    def has_action_mask(self) -> bool:
        """The observation is a Dict with an entry `ACTION_MASK`."""
        return ACTION_MASK in self.side_inputs

    @property
    def has_action_features(self) -> bool:
        """The observation is a Dict with an entry `ACTION_FEATURES`."""
        return ACTION_FEATURES in self.side_inputs

    def describe(self) -> dict[str, str]:
        """Spaces as text: what a checkpoint stores, and compares when it is restored."""
        return {
            "observation_space": str(self.observation_space),
            "action_space": str(self.action_space),
            "frame_stack": str(self.frame_stack),
        }

    def to_json(self) -> dict[str, Any]:
        """The spec as what JSON holds; `from_json` gives an equal one."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            k: space_lib.to_json(v) if isinstance(v, gym.Space) else v for k, v in fields.items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EnvSpec:
        """Reads what `to_json` made.

        Raises:
          SettingError: a space in it is not the JSON form of one.
          TypeError: a field is missing or unknown.
        """
        fields = dict(value)
        for name in fields:
            if name.endswith("_space") and fields[name] is not None:
                fields[name] = space_lib.from_json(fields[name])
        fields["reward_parts"] = tuple(fields.get("reward_parts", ()))  # JSON holds a list
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class GoalSpace:
    """Goals that the high level of a hierarchy gives to the low level, the same for every agent of a team.

    The functions are made of operators alone (`obs @ weights > 0.5`), so that they serve NumPy arrays and tensors
    alike, or of TensorFlow's functions; they become part of the policy's graph.

    Attributes:
      num_goals: G.
      encode: (observations of agents float32 [n, D], one-hot goals float32 [n, G]) -> what the low level is given of
        the goal, float32 [n, E].
      reached: observations [n, D] -> bool [n, G], the goals that are reached there.
      lengths: {goal: most env steps that it lasts}, for goals with a limit of their own, e.g. 1 for a single action.
      names: of the goals, for documentation; () for none.

    Raises:
      SettingError: numbers that cannot be.
    """

    num_goals: int
    encode: Callable[[Any, Any], Any]
    reached: Callable[[Any], Any]
    lengths: Mapping[int, int] = dataclasses.field(default_factory=dict)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_goals < 1:
            raise SettingError(f"GoalSpace.num_goals={self.num_goals}: expected at least 1")
        for goal, length in self.lengths.items():
            if not 0 <= goal < self.num_goals or length < 1:
                raise SettingError(
                    f"GoalSpace.lengths={{{goal}: {length}}}: expected goals below num_goals={self.num_goals} and "
                    "lengths of at least 1"
                )
        if self.names and len(self.names) != self.num_goals:
            raise SettingError(
                f"GoalSpace.names has {len(self.names)} names: expected num_goals={self.num_goals}, or none"
            )


@dataclasses.dataclass(frozen=True)
class NoiseSpec:
    """Randomness that one policy step needs, per environment.

    Attributes:
      shape: without batch.
      kind: 'uniform' [0, 1), 'normal', or 'ou' for an Ornstein-Uhlenbeck process, which the runtime steps in each
        environment: x <- x - theta x dt + sigma sqrt(dt) N(0, 1) from 0 at the start of an episode (Uhlenbeck and
        Ornstein 1930, by Euler's method as in Lillicrap et al. 2016). Its variance approaches
        sigma^2 / (2 theta - theta^2 dt), its correlation over k steps is (1 - theta dt)^k.
      hold_env_steps: steps of an episode that are given the same draw; None: all of it. A new episode has a new one.
      theta, sigma, dt: of 'ou': rate of return per unit of time, scale, and time of an env step.
      seeded: each draw comes from a seed of its own, which is stored with the step as extra `<name>_seed`, int32 [2];
        `explore/noise.py` makes the same draw of it again. Those of a population follow from its seed and are not
        stored.
      table: of seeded normal noise: draws are parts of a table of so many normal numbers, which all processes share
        (Salimans et al. 2017, section 2.1); 0: they are made of their seeds.

    Raises:
      SettingError: an unknown kind, or numbers that cannot be.
    """

    shape: tuple[int, ...]
    kind: str
    hold_env_steps: int | None = 1
    theta: float = 0.15
    sigma: float = 0.2
    dt: float = 1.0
    seeded: bool = False
    table: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "normal", "ou"):
            raise SettingError(f"noise kind={self.kind!r}: expected uniform, normal or ou")
        if self.hold_env_steps is not None and self.hold_env_steps < 1:
            raise SettingError(
                f"noise hold_env_steps={self.hold_env_steps}: expected at least 1, or None"
            )
        if self.kind == "ou" and (self.hold_env_steps != 1 or self.seeded):
            raise SettingError("noise kind='ou': a process is neither held nor seeded")
        if self.table and not (self.kind == "normal" and self.seeded):
            raise SettingError(f"noise table={self.table}: expected seeded noise of kind='normal'")
        size = math.prod(self.shape)
        if self.table and self.table < size:
            raise SettingError(
                f"noise table={self.table:,}: a draw has {size:,} numbers; expected a table of at least so many"
            )
        if self.kind == "ou" and not (0.0 < self.theta * self.dt < 2.0 and self.sigma >= 0.0):
            raise SettingError(
                f"noise kind='ou' with theta={self.theta}, sigma={self.sigma}, dt={self.dt}: expected "
                "0 < theta dt < 2, where the process is stable, and sigma >= 0"
            )


class Transition(NamedTuple):
    """An n-step item: leaves [B, ...] in a batch.

    Attributes:
      obs_tm1: observation acted on (nest of arrays).
      action_tm1: action taken there.
      reward_t: float32, sum of the rewards of the k <= n steps until the cut, each times the discounts before it.
      discount_t: float32, product of the discounts of these k steps: gamma**k, times those of the environment where
        `EnvSpec.step_discount`, and 0 if one of them is 0, as that of a step that terminated the episode.
      obs_t: observation after the k-th step; the final one of the episode, never that of a reset.
      probability: float32, P(i) of this item under the sampler divided by the smallest P of the global batch;
        1 for uniform replay. PER's importance weight (max-normalised over the batch) is probability**-beta.
      rewards: float32 [B, R], like `reward_t` for each of `EnvSpec.reward_parts`; () without parts.
    """

    obs_tm1: Any
    action_tm1: Any
    reward_t: Any
    discount_t: Any
    obs_t: Any
    probability: Any
    rewards: Any = ()


class Trajectory(NamedTuple):
    """A sequence item, time-major: leaves [T, B, ...]; `obs` and `is_first` have T + 1 rows. Discounts are per step.

    Attributes:
      obs: observations acted on, and the one after the last step. After a step that ended an episode comes its final
        observation; the row that acts on it is not valid.
      action: what the policy chose there, before it was clipped to the limits of a Box.
      reward: float32, as the learner sees it.
      discount: float32, gamma times the environment's own discount of the step (1 without `EnvSpec.step_discount`), 0
        where the step terminated the episode.
      is_last: bool, the step was the last of its episode or is not valid; no trace may cross it.
      valid: bool, False for padding and for rows in which an environment was only reset.
      is_first: bool [T + 1, B], True where an episode begins: the recurrent state is reset before this observation.
      discounted_return: float32, discounted sum of the episode's rewards up to this step, the oldest discounted most.
        A step's discount applies to the rewards before it.
      state: recurrent state before the first observation, leaves [B, ...].
      extras: named arrays that the policy stored with each step.
      version: int64 [B], updates behind the weights that acted.
      is_new: bool [B], False where these steps have been trained on before.
      probability: float32 [B], of the item as in `Transition`; 1 if all are equally likely.
      rewards: float32 [T, B, R], the parts of `reward` as the environment gave them; () without parts.
    """

    obs: Any
    action: Any
    reward: Any
    discount: Any
    is_last: Any
    valid: Any
    is_first: Any
    discounted_return: Any
    state: Any
    extras: Mapping[str, Any]
    version: Any
    is_new: Any
    probability: Any
    rewards: Any = ()


class ActorOutput(NamedTuple):
    """Results that actors computed of their items (`Agent.actor_compute`), e.g. gradients.

    Attributes:
      values: {name: [B, ...]}, one row per item.
      version: int64 [B], updates behind the weights that acted and computed.
    """

    values: Mapping[str, Any]
    version: Any


class Members(NamedTuple):
    """Results of an iteration of a population (`agent.Population`), the same on every replica.

    Members 2 i and 2 i + 1 had draw number i of the policy's seeded noise and its negative, with the weights of
    `version`.

    Attributes:
      seed: int32 [2], of the iteration's draws, for `explore/noise.py`.
      returns: float64 [n], sum of the rewards of the member's episode, as the learner sees them.
      lengths: int64 [n], its env steps.
      valid: bool [n], False for padding, which comes in whole pairs after all members.
      moments: {path of a leaf of the observation, see `nn/normalise.py`: (sum, sum of squares)}, float64 [n, *shape],
        over the observations that the member acted on; {} where they were not asked for.
      version: int64 scalar, updates behind the weights that were perturbed.
    """

    seed: Any
    returns: Any
    lengths: Any
    valid: Any
    moments: Mapping[str, Any]
    version: Any


class PolicyStep(NamedTuple):
    """action [B, ...], state [B, ...] (nest, () when stateless), extras {name: [B, ...]} stored with the step."""

    action: Any
    state: Any
    extras: Mapping[str, Any]


class UpdateOutput(NamedTuple):
    """metrics {name: scalar}, priorities float32 [b] (new |delta| of each item) or None."""

    metrics: Mapping[str, Any]
    priorities: Any


class VectorStep(NamedTuple):
    """The result of one step of B environments; see `envs/vector.py` for the autoreset modes behind it.

    Attributes:
      obs: observation to act on next, leaves [B, ...].
      next_obs: observation that the action led to, leaves [B, ...]; differs from `obs` only in rows whose
        episode ended and whose environment has already been reset.
      reward: float32 [B], as the learner sees it (clipped when asked).
      terminated, truncated: bool [B].
      valid: bool [B]; False: the row was an automatic reset, not a transition: store, count and learn nothing.
      episodes: statistics of the episodes that ended in this step.
      discount: float32 [B] in [0, 1], the environment's own discount of the step, 0 where it terminated and 1 in rows
        that are not valid; None without `EnvSpec.step_discount`. A learner's is gamma times this.
      rewards: float32 [B, R], the parts of `EnvSpec.reward_parts` as the environment gave them, never clipped; 0 in
        rows that are not valid; None without parts.
    """

    obs: Any
    next_obs: Any
    reward: Any
    terminated: Any
    truncated: Any
    valid: Any
    episodes: tuple[Episode, ...]
    discount: Any = None
    rewards: Any = None

    @property
    def is_first(self) -> Any:
        """Rows in which a policy's recurrent state starts anew after this step, bool [B].

        A truncated row keeps its state for one more observation, the final one, whose value a learner needs; where the
        environment restarted within the step there is no such row.
        """
        is_first = self.terminated | ~self.valid
        return is_first if self.next_obs is self.obs else is_first | self.truncated


class EvaluationEpisode(NamedTuple):
    """One finished episode of an evaluation.

    Attributes:
      world: name of the world, '' where there is one without a name.
      episode_return: sum of unclipped rewards.
      length_env_steps: its length.
      infos: {name of `info_metrics`: number of the last step's info, NaN for one that is not there}.
    """

    world: str
    episode_return: float
    length_env_steps: int
    infos: Mapping[str, float]


class Episode(NamedTuple):
    """One finished episode.

    Attributes:
      row: of the environment.
      episode_return: sum of unclipped rewards.
      length_env_steps: its length.
      infos: numbers of the last step's info, by `info_metrics`; NaN for one that is not there.
    """

    row: int
    episode_return: float
    length_env_steps: int
    infos: tuple[float, ...] = ()
