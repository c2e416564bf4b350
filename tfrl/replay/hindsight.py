"""Hindsight experience replay: copies of transitions whose goals were achieved later in their episode, in NumPy.

Andrychowicz et al. 2017, algorithm 1 with the strategy "future" of section 4.5. An original is emitted as it comes, its
copies when its episode ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tree

from tfrl.agent import NStep
from tfrl.envs.goal_rewards import ACHIEVED, DESIRED, GoalRewards
from tfrl.replay.nstep import Emitted, NStepAccumulator
from tfrl.replay.saved import put_back, saved
from tfrl.replay.transitions import TransitionLayout
from tfrl.types import VectorStep

ROOM = 64  # steps of an episode that there is room for at first
MOST_STEPS = 10_000  # of an episode whose goals copies share; what follows counts as another one


class Hindsight(NamedTuple):
    """What copies are made with: the environment's rewards for other goals, and the generator that draws the goals."""

    rewards: GoalRewards
    rng: np.random.Generator


class HindsightAccumulator:
    """Turns vector steps into n-step transitions and k copies of each; used like `NStepAccumulator`.

    The goal of a copy is what a step of its episode achieved, drawn uniformly from the steps that follow its first
    observation. Rewards and terminations of its n steps are computed for this goal, and the sum ends where the goal
    terminates the episode. A termination that the environment's own goal does not explain stays.

    Args:
      item: with k = `relabels` above 0.
      num_envs: rows B of the vector steps.
      layout: records to fill, of observations with goals.
      hindsight: see there.
    """

    def __init__(self, item: NStep, num_envs: int, layout: TransitionLayout, hindsight: Hindsight):
        self._item, self._layout = item, layout
        self._rewards, self._rng = hindsight
        self._originals = NStepAccumulator(item.n, item.discount, num_envs, layout)
        single = NStepAccumulator(1, item.discount, num_envs, layout)
        self._singles = self._originals if item.n == 1 else single
        self._powers = np.power(float(item.discount), np.arange(item.n + 1))
        self._after = tree.flatten(layout.obs_t)  # names of fields
        # One-step transitions of the episodes that go on, and how many each has.
        self._episodes = np.zeros((num_envs, ROOM), layout.packing.dtype)
        self._lengths = np.zeros(num_envs, np.int64)

    def add(self, obs: Any, action: np.ndarray, step: VectorStep) -> Emitted:
        """Takes one vector step; see `NStepAccumulator.add`. Copies follow the originals."""
        emitted = self._originals.add(obs, action, step)
        singles = emitted if self._item.n == 1 else self._singles.add(obs, action, step)
        if self._lengths.max() == self._episodes.shape[1]:
            self._episodes = np.concatenate([self._episodes, np.zeros_like(self._episodes)], 1)
        self._episodes[singles.rows, self._lengths[singles.rows]] = singles.records
        self._lengths[singles.rows] += 1
        ended = (step.terminated | step.truncated) & step.valid
        ended = np.flatnonzero(ended | (self._lengths >= MOST_STEPS))
        if not len(ended):
            return emitted
        copies = [self._copies(int(row), bool(step.terminated[row])) for row in ended]
        self._lengths[ended] = 0
        return Emitted(*(np.concatenate(parts) for parts in zip(emitted, *copies)))

    def _copies(self, row: int, terminated: bool) -> Emitted:
        """The m = T k copies of the episode of T steps that has ended in a row."""
        episode, n = self._episodes[row, : self._lengths[row]], self._item.n
        length, achieved = len(episode), episode[f"obs_t/{ACHIEVED}"]
        # First step of each copy, the later step whose goal it gets, and that goal.
        starts = np.repeat(np.arange(length), self._item.relabels)
        goals = achieved[self._rng.integers(starts, length)]
        # The n steps of each copy [m, n]; beyond the end of the episode its last one, which does not count.
        steps = starts[:, None] + np.arange(n)
        inside, steps = steps < length, np.minimum(steps, length - 1)
        asked = achieved[steps.reshape(-1)], np.repeat(goals, n, 0)
        rewards = self._rewards.rewards(*asked).reshape(-1, n)
        own = terminated and self._ends_for_any_goal(episode[-1:])
        ends = own & (steps == length - 1)
        for_goal = self._rewards.terminated(*asked)
        if for_goal is not None:
            ends |= for_goal.reshape(-1, n)
        # Steps up to the first that terminates: their discounted sum, and the discount behind them.
        ended_before = np.logical_or.accumulate(ends, 1)[:, :-1]
        inside[:, 1:] &= ~ended_before
        spans = np.count_nonzero(inside, 1)
        returns = (np.where(inside, rewards, 0.0) * self._powers[:n]).sum(1)
        discounts = self._powers[spans] * ~(ends & inside).any(1)
        # The copies: observation after the last step that counts, and the goal before and after.
        copies, last = episode[starts], episode[starts + spans - 1]
        for name in self._after:
            copies[name] = last[name]
        copies[f"obs_tm1/{DESIRED}"] = copies[f"obs_t/{DESIRED}"] = goals
        copies["reward"], copies["discount"] = returns, discounts
        return Emitted(copies, np.full(len(copies), row), spans)

    def _ends_for_any_goal(self, last: np.ndarray) -> bool:
        """Whether a termination has another reason than the goal that was desired; `last` is the step [1]."""
        goals = last[f"obs_t/{ACHIEVED}"], last[f"obs_t/{DESIRED}"]
        for_goal = self._rewards.terminated(*goals)
        return for_goal is None or not for_goal[0]

    def state(self) -> dict[str, Any]:
        """The open steps, the episodes that go on and the generator, for `restore`."""
        return {
            "originals": self._originals.state(),
            "episodes": self._episodes[:, : max(1, self._lengths.max())].copy(),
            "rng": self._rng.bit_generator.state,
            **saved(self, ("_lengths",)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on with the episodes of `state`, of an accumulator of the same arguments."""
        self._originals.restore(state["originals"])
        put_back(self, {"_lengths": state["_lengths"]})
        self._episodes = state["episodes"].copy()
        self._rng.bit_generator.state = state["rng"]

    def drop(self) -> None:
        """Forgets the open steps and what came before in the episodes: items begin with the next step."""
        self._originals.drop()
        self._lengths[:] = 0


def accumulator(
    item: NStep, num_envs: int, layout: TransitionLayout, hindsight: Hindsight | None
) -> NStepAccumulator | HindsightAccumulator:
    """What makes the transitions of an item from vector steps; `hindsight` where it has relabels."""
    if not item.relabels:
        return NStepAccumulator(item.n, item.discount, num_envs, layout)
    return HindsightAccumulator(item, num_envs, layout, hindsight)
