"""The actor of a population: every row of the environments plays a member with weights of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tree

from tfrl.agent import ActorPlace, Policy, Population
from tfrl.errors import SettingError
from tfrl.explore.noise import draws
from tfrl.replay.population import COLLECTOR, ROUNDS
from tfrl.runtime.acting.actor import Actor
from tfrl.runtime.acting.inference import Engine
from tfrl.runtime.stop import Stopped
from tfrl.types import NoiseSpec, VectorStep

STARTS_BYTES = 2**25  # of weights of members that are made at once
STEPS = 64  # of noise that is drawn at once for a member


def check_noise(policy: Policy) -> None:
    """Raises SettingError for noise that a population cannot have."""
    for name, spec in policy.noise.items():
        held = spec.hold_env_steps is None and spec.seeded
        if not held and (spec.hold_env_steps != 1 or spec.seeded or spec.kind == "ou"):
            raise SettingError(
                f"noise {name!r} with a Population: expected noise that is seeded and held for whole episodes, or "
                "drawn at each step and of kind uniform or normal"
            )


def pairs_of(place: ActorPlace, count: int) -> range:
    """The pairs of a round of `count` members that an actor plays: as many as the others, but for one."""
    pairs = count // 2
    bounds = [pairs * i // place.num_workers for i in (place.worker, place.worker + 1)]
    return range(*bounds)


class Starts:
    """The states with which members begin their episodes, some at a time.

    Args:
      policy: whose weights are perturbed.
      count: most members at a time, an even number.

    Attributes:
      count: see above.
    """

    def __init__(self, policy: Policy, count: int):
        held = {k: n for k, n in policy.noise.items() if n.hold_env_steps is None}

        def make(seed: tf.Tensor, first: tf.Tensor) -> Any:
            # Each draw and its negative, one after the other.
            noise = {}
            for name, spec in held.items():
                half = draws(spec, seed, first, count // 2)
                noise[name] = tf.reshape(tf.stack([half, -half], 1), [count, *spec.shape])
            return policy.initial_state(count, noise)

        signature = [tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.int64)]
        self.count = count
        self._make = tf.function(make, signature, autograph=False).get_concrete_function()

    def __call__(self, seed: np.ndarray, first: int) -> list[np.ndarray]:
        """Leaves [count, ...] of the states of the members of pair `first` and of those that follow."""
        made = self._make(tf.constant(seed), tf.constant(first, tf.int64))
        return [x.numpy() for x in tree.flatten(made)]


class RowNoise:
    """Noise of every step, from a generator of its own for each member.

    Args:
      specs: by name; none of them is held.
      size: rows B.
      others: {name: float32 [B, ...]} given with it at each step.
    """

    def __init__(self, specs: Mapping[str, NoiseSpec], size: int, others: Mapping[str, np.ndarray]):
        self._specs, self._rows, self._others = dict(specs), np.arange(size), dict(others)
        self._at = np.full(size, STEPS)
        self._drawn = {k: np.zeros((STEPS, size, *n.shape), np.float32) for k, n in specs.items()}
        self._rngs: list[Any] = [None] * size

    def begin(self, row: int, seed: Sequence[int]) -> None:
        """A member begins in a row; `seed` is its own."""
        if self._specs:
            self._rngs[row] = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
            self._at[row] = STEPS

    def next(self) -> dict[str, np.ndarray]:
        """{name: float32 [B, ...]} of the next step."""
        if not self._specs:
            return self._others
        for row in np.flatnonzero(self._at == STEPS):
            self._at[row] = 0
            if self._rngs[row] is not None:
                for name, spec in self._specs.items():
                    rng, shape = self._rngs[row], (STEPS, *spec.shape)
                    draw = rng.random if spec.kind == "uniform" else rng.standard_normal
                    self._drawn[name][:, row] = draw(shape, dtype=np.float32)
        noise = {name: x[self._at, self._rows] for name, x in self._drawn.items()}
        self._at += 1
        return {**noise, **self._others}


class PopulationActor(Actor):
    """Plays its part of each iteration of a population, with the weights of the learner that the iteration perturbs.

    A row whose episode is over takes the next member that has not begun, and rests where there is none. What a member
    does follows from the seed of the run, the iteration and its number: its draw and sign, the seed of its episode and
    the noise of its steps. (Where environments cannot be seeded row by row, all are reset with a seed of the iteration,
    and episodes follow from the order in which rows take their members.)

    Attributes:
      rests: all of its members of the rounds asked for are over.
    """

    def __init__(
        self,
        agent: Any,
        engine: Engine,
        env: Any,
        writer: Any,
        place: ActorPlace,
        rng: np.random.Generator,
        seed: int,
        episode_file: Any = None,
        info_names: Sequence[str] = (),
        population_seed: int = 0,
    ):
        super().__init__(agent, engine, env, writer, place, rng, seed, episode_file, info_names)
        population: Population = agent.experience.item
        check_noise(engine.policy)
        self._population, self._population_seed = population, population_seed
        self._pairs = pairs_of(place, population.count)
        size, policy = env.num_envs, engine.policy
        held = {k: n for k, n in policy.noise.items() if n.hold_env_steps is None}
        each = {k: n for k, n in policy.noise.items() if k not in held}
        zeros = {k: np.zeros((size, *n.shape), np.float32) for k, n in held.items()}
        self._rows = RowNoise(each, size, zeros)
        # With which the episode of each row has begun; the leaves that are kept are what acts.
        self._initial = [np.array(x) for x in tree.flatten(self._states.value)]
        each_bytes = sum(x.nbytes for x in self._initial) // size
        most = max(2, STARTS_BYTES // max(1, each_bytes) // 2 * 2)
        self._starts = Starts(policy, min(2 * max(1, len(self._pairs)), most))
        self._members = np.full(size, -1)
        self._todo: deque[int] = deque()
        self._made: list[
            np.ndarray
        ] = []  # states of the members of pair `_made_at` and of some that follow
        self._made_at = 0
        self._version, self._rounds, self._collector = -1, 0, None
        self._asked = 0  # rounds

    @property
    def rests(self) -> bool:
        """See above."""
        return self._rounds == self._asked and not self._todo and (self._members < 0).all()

    @property
    def between_items(self) -> bool:
        """No iteration has begun that is not whole."""
        return self._rounds == 0

    def load(self, arrays: Sequence[np.ndarray], version: int, facts: Mapping[str, float]) -> None:
        """Takes published weights, or another round with those that it has."""
        facts = dict(facts)
        asked, collector = int(facts.pop(ROUNDS, 1)), facts.pop(COLLECTOR, None)
        if (version, collector) != (self._version, self._collector):
            super().load(arrays, version, facts)
            self._version, self._collector, self._rounds = version, collector, 0
            self._members[:] = -1
            self._todo.clear()
        self._asked = asked

    def run(self, vector_steps: int, env_steps: int, items: int | None = None) -> None:
        """Makes that many vector steps, or fewer: until it rests, or as `Actor.run`.

        Args:
          vector_steps, env_steps, items: as in `Actor.run`.
        """
        last_item = None if items is None else self.writer.items_written + items
        engine, env, writer, clock = self.engine, self.env, self.writer, time.perf_counter
        knobs = self.knobs = dict(self._agent.knobs(self._place, env_steps, self.facts))
        act_s = env_s = write_s = 0.0
        before, states = self.env_steps, self._states
        try:
            for _ in range(vector_steps):
                if not self._todo and self._rounds < self._asked and (self._members < 0).all():
                    self._begin_round()
                if last_item is not None and writer.items_written >= last_item or self.rests:
                    break
                start = clock()
                choice = engine.act(self._obs, states.value, knobs, self._rows.next())
                acted = clock()
                step = env.step(choice.action)
                stepped = clock()
                writer.record(self._obs, None, choice, step)
                self._obs = step.obs
                states.value = choice.state
                if step.episodes or not step.valid.all():
                    self._turn(step, env_steps - before)
                written = clock()
                act_s, env_s, write_s = (
                    act_s + acted - start,
                    env_s + stepped - acted,
                    write_s + written - stepped,
                )
        except Stopped:  # episodes that have not ended are played again
            pass
        start = clock()
        writer.flush()
        write_s += clock() - start
        if self._episode_file is not None:
            self._episode_file.flush_due()
        for part, spent in (("act", act_s), ("env", env_s), ("write", write_s)):
            self.seconds[part] += spent

    def state(self) -> dict[str, Any] | None:
        """Results of the unfinished iteration, where the episodes that are open will be the same again."""
        known = self.writer.state() if self.env.seeds_rows else {}
        return {"writer": known}

    def restore(self, state: Mapping[str, Any] | None) -> str:
        """Goes on in the iteration of a `state`: the members that it lacks are played; returns why it cannot, or ""."""
        if state is not None:
            self.writer.restore(state["writer"])
            if self.writer.collector is not None:
                self._asked = self.writer.collector.rounds
        return ""

    def _begin_round(self) -> None:
        """All rows take their first members of the next round."""
        first, seed = self._rounds * self._population.count, self._population_seed
        known = () if self.writer.collector is None else self.writer.collector.known
        mine = (first + 2 * pair + sign for pair in self._pairs for sign in (0, 1))
        self._todo = deque(member for member in mine if member not in known)
        sequence = np.random.SeedSequence([seed, self._version, self._rounds])
        made = sequence.generate_state(self._population.count + 1) >> 1
        self._episode_seeds, self._made = made[1:], []
        self._rounds += 1
        rows = {row: self._next(row) for row in range(self.env.num_envs)}
        if self.env.seeds_rows:
            self._obs = self.env.restart(self._obs, rows)
        else:
            self._obs = self.env.reset(int(made[0]))
        self._set_states(rows, [])

    def _turn(self, step: VectorStep, env_steps: int) -> None:
        """Ends the episodes that are over, and begins those of the next members in their rows."""
        changed: dict[int, int | None] = {}
        for episode in step.episodes:
            row, member = episode.row, int(self._members[episode.row])
            if member < 0:
                continue
            self.env_steps += self.writer.finish(row, member)
            self.episodes += 1
            if self._in_metrics is None or self._in_metrics[row]:
                self.window.add(episode.episode_return, episode.length_env_steps, episode.infos)
            if self._episode_file is not None:
                self._episode_file.add(env_steps + self.env_steps, episode)
            changed[row] = self._next(row)
        collector = self.writer.collector
        if collector is not None:
            over = collector.version != self._version
            self._rounds, self._asked = (0, 0) if over else (self._rounds, collector.rounds)
        if changed and self.env.seeds_rows:
            self._obs = self.env.restart(self._obs, changed)
        restarted = np.flatnonzero(~step.valid & (self._members >= 0)).tolist()
        if changed or restarted:
            self._set_states(changed, restarted)

    def _set_states(self, changed: Iterable[int], restarted: Sequence[int]) -> None:
        """Gives rows the states with which episodes begin.

        Args:
          changed: rows with a new member, or with none.
          restarted: rows whose environment was reset by a step of its own; their memory begins there.
        """
        begin = [row for row in changed if self._members[row] >= 0]
        for row in begin:
            made, at = self._states_of(int(self._members[row]))
            for initial, x in zip(self._initial, made, strict=True):
                initial[row] = x[at]
        rows, leaves = [*begin, *restarted], tree.flatten(self._states.value)
        for i, (keeps, initial) in enumerate(zip(self.engine.kept, self._initial, strict=True)):
            if not keeps:
                leaves[i] = np.array(leaves[i])
                leaves[i][rows] = initial[rows]
            elif begin:
                leaves[i] = initial[:]  # another object, which engines bind anew
        self._states.value = tree.unflatten_as(self._states.value, leaves)

    def _states_of(self, member: int) -> tuple[list[np.ndarray], int]:
        """States of some members, and the place of a member among them."""
        pair, most = member // 2, self._starts.count // 2
        if not self._made or not self._made_at <= pair < self._made_at + most:
            seed = np.array([self._population_seed, self._version], np.int32)
            self._made, self._made_at = self._starts(seed, pair), pair
        return self._made, member - 2 * self._made_at

    def _next(self, row: int) -> int | None:
        """The row takes the next member; returns the seed of its episode, None where there is none left."""
        self._members[row] = -1
        self.writer.begin(row)
        if not self._todo:
            return None
        member = self._members[row] = self._todo.popleft()
        number = member % self._population.count
        self._rows.begin(row, (self._population_seed, self._version, member))
        return int(
            self._episode_seeds[number // 2 * 2 if self._population.common_seeds else number]
        )
