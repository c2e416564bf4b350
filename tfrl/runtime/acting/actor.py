"""The acting half of a run: policy, environments and writer in one loop, the same in every backend."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tree

from tfrl.agent import ActorPlace, Agent
from tfrl.envs.state import NoState
from tfrl.envs.vector import VectorEnv
from tfrl.logs.episode_file import EpisodeFile
from tfrl.logs.window import EpisodeWindow
from tfrl.replay.writer import Writer
from tfrl.runtime.acting.inference import Engine, NoiseStream, States
from tfrl.runtime.facts import MAX_PRIORITY, merged
from tfrl.runtime.stop import Stopped

# Items on their way to the server when `run` returns: bounds memory, rarely waits.
MAX_PENDING_ITEMS = 512


class Actor:
    """Steps B environments with a policy and writes what happens.

    Args:
      agent: for its knobs.
      engine: the exploring policy, for batches of B.
      env: B environments.
      writer: takes the vector steps.
      place: which environments these are among those of all actors.
      rng: noise of exploration.
      seed: of the environments.
      episode_file: takes a row for each episode.
      info_names: of `Episode.infos`.

    Attributes:
      env_steps, episodes: transitions made and episodes finished here.
      seconds: {'env' | 'act' | 'write': time spent}.
      facts: numbers of the learner and of evaluations that knobs and environments have received last.
      window: returns and lengths of the last episodes that count, see `Agent.in_metrics`.
      rests: there is nothing to do until other weights come.
      between_items: a run may end here; items that are not whole are of use later, or none has begun.
    """

    rests: bool = False
    between_items: bool = True

    def __init__(
        self,
        agent: Agent,
        engine: Engine,
        env: VectorEnv,
        writer: Writer,
        place: ActorPlace,
        rng: np.random.Generator,
        seed: int,
        episode_file: EpisodeFile | None = None,
        info_names: Sequence[str] = (),
    ):
        self.engine, self.env, self.writer, self.rng = engine, env, writer, rng
        self.env_steps, self.episodes = 0, 0
        self.seconds = {"env": 0.0, "act": 0.0, "write": 0.0}
        self.window = EpisodeWindow(info_names=info_names)
        self._episode_file = episode_file
        self.knobs: dict[str, np.ndarray] = {}
        self.facts: dict[str, float] = {}
        self._of_learner: dict[str, float] = {}
        self._of_evaluation: dict[str, float] = {}
        self._agent, self._place = agent, place
        self._in_metrics = agent.in_metrics(place) if agent.in_metrics else None
        self._seed, self._obs = seed, env.reset(seed)
        self._states = States(engine)
        self._noise = NoiseStream(engine.signature, rng)

    def run(self, vector_steps: int, env_steps: int, items: int | None = None) -> None:
        """Makes that many vector steps, or fewer; a step that the environments end by Stopped is dropped.

        Args:
          vector_steps: steps of all B environments together.
          env_steps: total of the run so far, for schedules; they advance once per call.
          items: ends after the vector step with which so many items have been written in this call; None: goes on.
        """
        last_item = None if items is None else self.writer.items_written + items
        engine, env, writer, clock = self.engine, self.env, self.writer, time.perf_counter
        knobs = self.knobs = dict(self._agent.knobs(self._place, env_steps, self.facts))
        act_s = env_s = write_s = 0.0
        before = self.env_steps
        states, seeds = self._states, self._noise.seeds
        carries, drawn = self._noise.holds or states.carries, states.drawn
        for noise in self._noise.steps(vector_steps):
            start = clock()
            if drawn:
                states.begin(noise)
            choice = engine.act(self._obs, states.value, knobs, noise)
            if seeds:
                extras = {name: x.copy() for name, x in seeds.items()}
                choice = choice._replace(extras={**choice.extras, **extras})
            acted = clock()
            try:
                step = env.step(choice.action)
            except Stopped:
                self._noise.take_back()
                break
            stepped = clock()
            writer.record(self._obs, states.value, choice, step)
            written = clock()
            act_s, env_s, write_s = (
                act_s + acted - start,
                env_s + stepped - acted,
                write_s + written - stepped,
            )
            self._obs = step.obs
            if carries:
                is_first = step.is_first
                self._noise.restart(is_first)
                states.step(choice.state, is_first)
            self.env_steps += int(np.count_nonzero(step.valid))
            self.episodes += len(step.episodes)
            for episode in step.episodes:
                if self._in_metrics is None or self._in_metrics[episode.row]:
                    self.window.add(episode.episode_return, episode.length_env_steps, episode.infos)
                if self._episode_file is not None:
                    made = self.env_steps - before
                    self._episode_file.add(env_steps + made, episode)
            if last_item is not None and writer.items_written >= last_item:
                break
        start = clock()
        writer.flush(MAX_PENDING_ITEMS)
        write_s += clock() - start
        if self._episode_file is not None:
            self._episode_file.flush_due()
        for part, spent in (("act", act_s), ("env", env_s), ("write", write_s)):
            self.seconds[part] += spent

    def load(self, arrays: Sequence[np.ndarray], version: int, facts: Mapping[str, float]) -> None:
        """Takes published weights.

        Args:
          arrays: values of the policy's variables.
          version: updates behind them.
          facts: published with them; the writer takes the priority of new items, knobs and environments the others.
        """
        self.engine.load(arrays)
        self.writer.load(arrays, version, facts[MAX_PRIORITY])
        if len(facts) > 1:
            self._of_learner = {name: x for name, x in facts.items() if name != MAX_PRIORITY}
            self._take_facts()

    def load_evaluation(self, facts: Mapping[str, float]) -> None:
        """Takes the facts of an evaluation, which stay until the next one."""
        if facts != self._of_evaluation:
            self._of_evaluation = dict(facts)
            self._take_facts()

    def _take_facts(self) -> None:
        """Passes facts to knobs, and to the environments where they have changed."""
        facts = merged(self._of_learner, self._of_evaluation)
        if facts != self.facts:
            self.facts = facts
            self.env.set(facts)

    def state(self) -> dict[str, Any] | None:
        """State with which acting goes on in the same episodes; None where the environments cannot save theirs.

        The generator of the noise, the weights and the window are saved by themselves. Steps that the writer has not
        flushed are not in it.
        """
        if self.env.place.inside:  # interrupted in the middle of a vector step
            return None
        try:
            env = self.env.state()
        except NoState:
            return None
        return {
            "num_envs": self.env.num_envs,
            "env": env,
            "obs": tree.map_structure(np.array, self._obs),
            "policy": self._states.state(),
            "noise": self._noise.state(),
            "writer": self.writer.state(),
        }

    def restore(self, state: Mapping[str, Any] | None) -> str:
        """Goes on in the episodes of a `state`; returns why it cannot, and begins new ones then, or "".

        Args:
          state: of an actor of the same run; None where there is none.
        """
        why = (
            ""
            if state is not None
            else self.env.why_no_state or "the checkpoint has no state of them"
        )
        if state is not None and state["num_envs"] != self.env.num_envs:
            why = f"num_envs was {state['num_envs']}"
        if why:
            return why
        try:
            self.env.restore(state["env"])
        except NoState as reason:
            self._obs = self.env.reset(self._seed)
            return str(reason)
        self._obs = state["obs"]
        self._states.restore(state["policy"])
        self._noise.restore(state["noise"])
        self.writer.restore(state["writer"])
        return ""

    def close(self) -> None:
        """Finishes the writes and closes the environments."""
        self.writer.flush()
        self.writer.close()
        self.env.close()
        self.close_file()

    def close_file(self) -> None:
        """Writes the rows of episodes that wait; no step may follow."""
        if self._episode_file is not None:
            self._episode_file.close()
