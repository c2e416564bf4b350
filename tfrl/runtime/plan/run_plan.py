"""From a job to the parts that every role of a run needs; what cannot work is refused here, before any process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrl.agent import (
    ActorPlace,
    Agent,
    Episodes,
    NStep,
    Population,
    Queue,
    Replay,
    Sequences,
    check_learner,
    check_policy,
)
from tfrl.config import switches
from tfrl.envs.goal_rewards import GoalRewards
from tfrl.envs.make import make_goal_rewards, make_spec
from tfrl.envs.vector import VectorEnv
from tfrl.errors import SettingError
from tfrl.job import Job, algorithm
from tfrl.optim import settings as optim_settings
from tfrl.replay import learner_replay, local_queue
from tfrl.replay.budget import Budget
from tfrl.replay.kinds import make_layout
from tfrl.replay.layout import Layout
from tfrl.runtime.plan import batch_sizes, checks, memory, residency, warm_start
from tfrl.runtime.plan.idle_facts import facts
from tfrl.runtime.storage import mend
from tfrl.runtime.storage.checkpoint import Checkpoint, Checkpoints
from tfrl.runtime.storage.replay_server import saved_shapes
from tfrl.types import EnvSpec

# For each episode of an evaluation, where the environment has no time limit.
ENDLESS_ENV_STEPS = 10_000


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A job with its environment spec, its agent, the layout of its items and the place of its replay; `found` is the
    checkpoint from which a resumed run goes on, None where it was stopped before it had made one.
    """

    job: Job
    spec: EnvSpec
    agent: Agent
    layout: Layout
    residency: str = residency.SERVER
    residency_why: str = ""
    found: Checkpoint | None = None
    env: VectorEnv | None = None  # of training, where it is the only one that may be built
    goal_rewards: GoalRewards | None = None  # where a run begins that relabels transitions

    @property
    def run_dir(self) -> pathlib.Path:
        """Folder of the run."""
        return pathlib.Path(self.job.run_dir)

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run, in `checkpoints` of its folder; a new object each time."""
        folder = self.run_dir / "checkpoints"
        return Checkpoints(folder, self.job.algo, self.spec, self.job.checkpoint.checkpoint_keep)

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint, None if there is none.

        Unrolls that wait in its queue, or items of its replay, are left out where this run cannot take them.

        Raises:
          SettingError: see `Checkpoints.newest`.
        """
        found = self.checkpoints.newest()
        if found is None or found.replay is None:
            return found
        return dataclasses.replace(found, unfit=self._why_unfit(found.replay))

    def _why_unfit(self, contents: pathlib.Path) -> str:
        """Why this run cannot take saved contents; '' if it can."""
        topology, layout, shapes = self.job.topology, self.layout, {}
        in_learner = True
        if learner_replay.saved_here(contents):
            rows = layout.rows()
            same = rows is None or learner_replay.saved_row_nbytes(contents) == rows.row_nbytes
        else:
            if local_queue.saved_here(contents):
                shapes = local_queue.saved_shapes(contents)
            else:
                in_learner = False
                # Transitions are many, and only those with parts of the reward may differ in length.
                if self.sequences or self.spec.reward_parts:
                    shapes = saved_shapes(contents)
            same = not shapes or layout.same_row(shapes)
        if in_learner and self.sequences and topology.backend != "inprocess":
            return "they were kept in the learner of a run in one process"
        if not same:
            return (
                "their steps are stored in another form, by an earlier version or an environment with other parts of "
                "the reward"
            )
        if self.queue and not in_learner and not layout.fits(shapes):
            return f"they were made with a different num_envs than {topology.num_envs}"
        return ""

    @property
    def sequences(self) -> Sequences | None:
        """The item kind where items are sequences, None where they are transitions."""
        item = self.agent.experience.item
        return item if isinstance(item, Sequences) else None

    @property
    def population(self) -> bool:
        """Items are iterations of a population."""
        return isinstance(self.agent.experience.item, Population)

    @property
    def relabels(self) -> int:
        """Copies of each transition with goals that were achieved later; 0 for none."""
        item = self.agent.experience.item
        return item.relabels if isinstance(item, NStep) else 0

    @property
    def queue(self) -> Queue | None:
        """The queue of the agent; None where it has a replay, whose items are sampled again and again."""
        experience = self.agent.experience
        return experience if isinstance(experience, Queue) else None

    @property
    def whole_episodes(self) -> bool:
        """Items are made of whole episodes: how many env steps one takes is not known before."""
        return isinstance(self.agent.experience.item, Episodes | Population)

    @property
    def batch_items(self) -> int:
        """Items of a batch, over all replicas."""
        return batch_sizes.batch_items(self.agent.experience, self.job.topology)

    @property
    def waits(self) -> bool:
        """Actors wait for the weights that their items have trained."""
        return self.queue is not None and self.queue.actors_wait

    @property
    def items_per_wait(self) -> int:
        """Items that each actor makes between two waits, where actors wait.

        One that has played its part of a population rests by itself.
        """
        if self.population:
            return sys.maxsize
        return batch_sizes.items_per_wait(self.queue, self.job.topology)

    @property
    def items_per_call(self) -> int:
        """Items that one call of the learner consumes."""
        return self.batch_items * (1 if self.queue else self.agent.experience.updates_per_call)

    @property
    def shard_plan(self) -> Replay | Queue:
        """The experience of each shard of the replay; only a replay has several."""
        plan, shards = self.agent.experience, self.job.topology.num_replay_shards
        if shards == 1:
            return plan
        return dataclasses.replace(
            plan,
            capacity_items=math.ceil(plan.capacity_items / shards),
            min_items=math.ceil(plan.min_items / shards),
        )

    @property
    def item_env_steps(self) -> float:
        """Env steps that make one more item; at most, where items are whole episodes."""
        return self.agent.experience.item.env_steps(self.job.topology.num_envs)

    @property
    def env_steps_per_call(self) -> int:
        """Env steps that pay for one call of the learner (at most, where items are whole episodes)."""
        items = self.items_per_call * self.item_env_steps
        return max(1, round(items / self.agent.experience.samples_per_insert))

    @property
    def too_short_line(self) -> str:
        """The start-up line of a run that ends before its first update; '' where one may be made.

        Actors of a queue go on until a batch is whole, and whole episodes may be short.
        """
        if self.queue or self.whole_episodes or self.found is not None:
            return ""
        items = Budget(self.agent.experience).lacks(self.items_per_call)
        needed, total = math.ceil(items * self.item_env_steps), self.job.total_env_steps
        topology = self.job.topology
        # A run ends with the vector step in which it has made its env steps.
        if total + topology.num_envs * topology.num_actors > needed:
            return ""
        return f"no update will be made: the first one needs {needed:,} env steps, total_env_steps is {total:,}"

    @property
    def residency_line(self) -> str:
        """The start-up line with the place of the replay or the queue, and the reason; '' where there is no choice."""
        what = "queue" if self.queue else "replay"
        line = f"{what}: {self.residency} ({self.residency_why})" if self.residency_why else ""
        if self.found and self.found.unfit:
            left = (
                f"the contents of the {what} in the checkpoint are not restored: {self.found.unfit}"
            )
            return f"{line}; {left}" if line else left
        return line

    @property
    def hindsight_line(self) -> str:
        """The start-up line about copies of transitions with other goals; '' where there are none."""
        if not self.relabels:
            return ""
        note = self.goal_rewards.note if self.goal_rewards else ""
        line = f"hindsight: {self.relabels} copies of each transition, with goals achieved later in its episode"
        return f"{line}; {note}" if note else line

    @property
    def exploration_line(self) -> str:
        """The start-up line about knobs; '' where they are the same everywhere and all episodes count."""
        agent, topology = self.agent, self.job.topology
        if agent.in_metrics is None:
            return ""
        sizes = (topology.num_actors, topology.num_envs)
        places = [ActorPlace(i, *sizes) for i in range(topology.num_actors)]
        in_metrics = np.concatenate([agent.in_metrics(place) for place in places])
        ranges = []
        for name in self.knobs:
            values = np.concatenate([agent.knobs(place, 0, {})[name] for place in places])
            if values.max() == values.min():
                ranges.append(f"{name} {values[0]:.3g} in every environment")
            else:
                ranges.append(f"{name} {values.max():.3g} to {values.min():.3g}")
        return (
            f"exploration: {', '.join(ranges)} over {len(in_metrics)} environments; "
            f"training returns come from {np.count_nonzero(in_metrics)} of them"
        )

    @property
    def knobs(self) -> list[str]:
        """Names of the agent's knobs, sorted."""
        return sorted(self.agent.knobs(ActorPlace(0, 1, 1), 0, {}))

    @property
    def evaluation_line(self) -> str:
        """The start-up line about the limit of an evaluation; '' where a time limit ends every episode."""
        episodes = self.job.evaluation.eval_episodes
        limit = self.most_evaluation_env_steps(episodes)
        if self.job.evaluation.eval_max_env_steps or not limit:
            return ""
        return (
            f"evaluation: the environment has no time limit, so an evaluation of {episodes} episodes ends after "
            f"{limit:,} env steps at most; --max_episode_steps limits episodes, --eval_max_env_steps evaluations"
        )

    def most_evaluation_env_steps(self, episodes: int, spec: EnvSpec | None = None) -> int:
        """Env steps after which an evaluation gives up; 0: never, since every episode ends by the time limit.

        Args:
          episodes: of the evaluation.
          spec: of its environment; None: that of training.
        """
        most, spec = self.job.evaluation.eval_max_env_steps, spec or self.spec
        return most or (0 if spec.max_episode_steps else episodes * ENDLESS_ENV_STEPS)

    def last_knobs(
        self,
        num_envs: int,
        env_steps: int,
        facts: Mapping[str, float] = {},  # noqa: B006 - only read
    ) -> dict[str, np.ndarray]:
        """Knobs of the last actor, which on a ladder is the least random.

        Args:
          num_envs: environments that are stepped together.
          env_steps: of the run so far.
          facts: as knobs receive them.
        """
        actors = self.job.topology.num_actors
        place = ActorPlace(actors - 1, actors, num_envs)
        return dict(self.agent.knobs(place, env_steps, facts))

    def refuse_other_spaces(self, played: EnvSpec, where: str) -> None:
        """Raises SettingError unless an environment has the spaces of training; `where` begins the message."""
        for name, mine in played.describe().items():
            if self.spec.describe()[name] != mine:
                raise SettingError(
                    f"{where}: {name} is {mine}, but the policy was trained with {self.spec.describe()[name]}"
                )

    @property
    def arithmetic(self) -> str:
        """The start-up line with the sizes of batches."""
        if self.population:
            item = self.agent.experience.item
            least = (
                f" until they have {item.min_env_steps:,} env steps" if item.min_env_steps else ""
            )
            return f"rounds of {item.count:,} episodes{least} -> 1 update"
        if self.queue:
            queue, most, what, width = self.queue, "", "env steps", self.item_env_steps
            if self.whole_episodes:
                most, what, width = "up to ", "episodes", queue.item.count
            return (
                f"{self.batch_items} items of {width:,} {what}, {most}{self.env_steps_per_call:,} env steps -> "
                f"{queue.epochs} epochs of {queue.minibatches} minibatches"
            )
        replay = self.agent.experience
        what = items = "items"
        if self.sequences:
            what = "episodes" if self.whole_episodes else "sequences"
            most = "up to " if self.whole_episodes else ""
            items = f"{what} of {most}{self.sequences.length:,} steps"
        return (
            f"{self.env_steps_per_call:,} env steps -> "
            f"{replay.updates_per_call:,} updates of {replay.batch_size:,} {items}, "
            f"{replay.samples_per_insert:g} samples per insert, starting at {replay.min_items:,} {what}"
        )


def make_agent(job: Job, spec: EnvSpec) -> Agent:
    """The agent of a job: what its algorithm makes, changed by its switches in their order.

    Raises:
      SettingError: the algorithm or a switch does not serve the spec or each other.
    """
    agent = _made_agent(job, spec, job.config)
    # Where rates depend on the batch, the agent is made anew with the rates of its own.
    samples = batch_sizes.update_samples(agent.experience, job.topology)
    config, line = optim_settings.scaled(job.config, samples)
    if not line:
        return agent
    agent = _made_agent(job, spec, config)
    return dataclasses.replace(agent, notes=(*agent.notes, line))


def _made_agent(job: Job, spec: EnvSpec, settings: Any) -> Agent:
    """The agent with these settings of the algorithm."""
    agent = algorithm(job.algo).make(settings, spec)
    for name, config in job.switches.items():
        change = getattr(switches.find(name), "agent", None)
        if change is not None:
            agent = change(config, spec, agent)
            if not isinstance(agent, Agent):
                raise SettingError(
                    f"with={name}: agent() returned a {type(agent).__name__}; expected an Agent"
                )
    return agent


def plan_run(job: Job, spec: EnvSpec | None = None, starting: bool = False) -> RunPlan:
    """Builds the spec and the agent of a job.

    Args:
      spec: of the environment, where it is known; None: one is built to see.
      starting: a run begins here: an optimiser that could not train, and a replay or a network that does not fit into
        the free memory, are refused.

    Raises:
      SettingError: an unknown environment, a space the algorithm does not serve, no checkpoint to resume from or that
        of another run.
    """
    spec = make_spec(job.env, job.switches) if spec is None else spec
    job.refuse_idle(facts(job, spec))
    agent = make_agent(job, spec)
    if starting:
        optim_settings.check(job.config)
        memory.refuse_replay(job, agent, spec)
    with memory.limited_weights() if starting else contextlib.nullcontext():
        policy = agent.make_policy()  # a network that cannot be built is refused now
        check_policy(policy)
        if starting and any(hasattr(switches.find(name), "agent") for name in job.switches):
            check_learner(agent.make_learner())  # and a switch that does not fit the learner
    run_plan = RunPlan(job, spec, agent, make_layout(agent, spec, policy, job.topology.num_envs))
    checks.refuse_misfits(run_plan, policy)
    if starting:
        checks.refuse_worlds(run_plan)
    found = _found(run_plan) if job.resume else None
    goal_rewards = None
    if run_plan.relabels and starting:
        goal_rewards = make_goal_rewards(job.env, check=True)
    if job.initial_weights and starting and found is None:
        warm_start.read(job.initial_weights, spec, policy.variables)  # refused now or never
    place = residency.pick(job, agent, run_plan.layout, found.replay if found else None)
    return dataclasses.replace(
        run_plan, residency=place[0], residency_why=place[1], found=found, goal_rewards=goal_rewards
    )


def _found(run_plan: RunPlan) -> Checkpoint | None:
    """The checkpoint to resume from; None for a run that was stopped before its first one."""
    job, found = run_plan.job, run_plan.newest()
    if found is None and not mend.may_start_over(run_plan.run_dir):
        raise SettingError(
            f"resume with run_dir={job.run_dir!r}: expected a complete checkpoint in {run_plan.checkpoints.folder}, "
            "there is none to go on from; start a new run in another folder"
        )
    return found
