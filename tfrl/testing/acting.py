"""Real unrolls for tests of learners: environments, an acting engine, a writer and a replay server in one place."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from tfrl.agent import ActorPlace, Agent
from tfrl.envs.make import make_vector
from tfrl.job import EnvPlan
from tfrl.replay.kinds import make_layout
from tfrl.replay.sampler import Samples
from tfrl.runtime.acting.actor import Actor
from tfrl.runtime.acting.inference import StepSignature, make_engine
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.testing.trajectories import UnrollBench


class Acting:
    """An actor whose unrolls are asked for one block at a time.

    Args:
      agent: with sequences as items.
      env: name of the environment.
      num_envs: B.
      engine: 'function' or 'lite'.
      block: items of a block.
      seed: of the environments and the noise.

    Attributes:
      layout: of the items.
    """

    def __init__(
        self,
        agent: Agent,
        env: str,
        num_envs: int = 4,
        engine: str = "function",
        block: int = 1,
        seed: int = 0,
        **env_kwargs: Any,
    ):
        plan = EnvPlan(env=env, env_kwargs=env_kwargs)
        vector = make_vector(plan, num_envs, seed)
        policy = agent.make_policy()
        self.spec = vector.spec
        self.layout = make_layout(agent, vector.spec, policy, num_envs)
        item = agent.experience.item
        self._bench = UnrollBench(self.layout, item, num_envs, block, policy=policy)
        self._block = block
        place = ActorPlace(0, 1, num_envs)
        knobs = sorted(agent.knobs(place, 0, {}))
        signature = StepSignature(policy, vector.spec, num_envs, knobs, explore=True)
        self._actor = Actor(
            agent, make_engine(engine, policy, signature), vector, self._bench.writer, place,
            np.random.default_rng(seed), seed,
        )  # fmt: skip

    def samples(self, loop: LearnerLoop) -> Samples:
        """The next block, made with the weights of a learner."""
        self._actor.load(loop.arrays(), int(loop.updates), loop.facts())
        writer = self._bench.writer
        end = writer.items_written + self._block
        while writer.items_written < end:
            self._actor.run(writer.vector_steps_to_item or 1, 0)
        return self._bench.next()

    def close(self) -> None:
        """Closes the environments and the server."""
        self._actor.env.close()
        self._bench.close()


def acting(*args: Any, **kwargs: Any) -> contextlib.closing[Acting]:
    """An `Acting` that is closed at the end."""
    return contextlib.closing(Acting(*args, **kwargs))
