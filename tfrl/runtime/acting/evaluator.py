"""Evaluation: separate environments, full unclipped episodes, fixed seeds, no learning."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfrl.envs.make import make_vector
from tfrl.envs.vector import VectorEnv, refuse_shared
from tfrl.job import EnvPlan
from tfrl.logs.window import info_metric
from tfrl.runtime import seeds
from tfrl.runtime.acting.inference import (
    Engine,
    NoiseStream,
    States,
    StepSignature,
    make_engine,
)
from tfrl.runtime.acting.watch import Watch, limit_s
from tfrl.runtime.facts import checked
from tfrl.runtime.plan.run_plan import RunPlan
from tfrl.runtime.stop import Stop, StoppableVector, Stopped
from tfrl.runtime.storage import checkpoint
from tfrl.types import EvaluationEpisode


class Evaluation(NamedTuple):
    """Returns, lengths and `Episode.infos` of the evaluated episodes; False where none has ended."""

    returns: tuple[float, ...]
    lengths_env_steps: tuple[int, ...]
    infos: tuple[tuple[float, ...], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.returns)

    def info_means(self, names: Sequence[str]) -> dict[str, float]:
        """Mean of each of `names`, those of `infos`, over the episodes that have it; one that none has is left out."""
        columns = zip(names, np.array(self.infos, np.float64).T) if self else ()
        known = {name: column[~np.isnan(column)] for name, column in columns}
        return {name: float(np.mean(column)) for name, column in known.items() if len(column)}

    def metrics(self, info_names: Sequence[str] = ()) -> dict[str, float]:
        """A row for the logs, empty where no episode has ended; `info_names` are those of `infos`."""
        if not self:
            return {}
        infos = {evaluation_info(name): x for name, x in self.info_means(info_names).items()}
        return {
            **infos,
            "evaluator/return_mean": float(np.mean(self.returns)),
            "evaluator/return_std": float(np.std(self.returns)),
            "evaluator/return_min": float(np.min(self.returns)),
            "evaluator/return_max": float(np.max(self.returns)),
            "evaluator/episodes": float(len(self.returns)),
            "evaluator/length_mean_env_steps": float(np.mean(self.lengths_env_steps)),
        }


def evaluation_info(name: str) -> str:
    """The metric of a number in the infos of evaluation episodes."""
    return f"evaluator/{info_metric(name)}"


def evaluate(
    engine: Engine,
    env: VectorEnv,
    episodes: int,
    seed: int,
    knobs: dict[str, np.ndarray] | None = None,
    max_env_steps: int = 0,
    beat: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Plays episodes and reports them.

    Every row plays the same number of episodes up to one, counted from its reset, so that short ones are not favoured.

    Args:
      engine: greedy, or exploring with `knobs`, for batches of `env.num_envs`.
      env: B environments built with `training=False`.
      episodes: number in all.
      seed: of the environments and of the noise; one seed gives one list of episodes.
      knobs: for an exploring engine.
      max_env_steps: give up after so many, with the episodes that have ended by then; 0: no limit.
      beat: called once a vector step, for whoever watches over this process.
    """
    quota = np.full(env.num_envs, episodes // env.num_envs)
    quota[: episodes % env.num_envs] += 1
    noises = NoiseStream(engine.signature, np.random.default_rng(seed))
    obs = env.reset(seed)
    states, done, vector_steps = States(engine), [], 0
    while quota.any():
        (noise,) = noises.steps(1)
        if states.drawn:
            states.begin(noise)
        choice = engine.act(obs, states.value, knobs or {}, noise)
        step = env.step(choice.action)
        beat()
        obs, vector_steps = step.obs, vector_steps + 1
        states.step(choice.state, step.is_first)
        noises.restart(step.is_first)
        for episode in step.episodes:
            if quota[episode.row]:
                quota[episode.row] -= 1
                done.append(episode)
        if max_env_steps and vector_steps * env.num_envs >= max_env_steps:
            break
    return Evaluation(
        tuple(float(e.episode_return) for e in done),
        tuple(int(e.length_env_steps) for e in done),
        tuple(e.infos for e in done),
    )


def world_metric(world: str, metric: str) -> str:
    """'evaluator/return_mean' of the world 'long' -> 'eval/long/return_mean'."""
    return f"eval/{world}/{metric.partition('/')[2]}"


def unfinished(evaluation: Evaluation, episodes: int, limit: int) -> str:
    """A warning where an evaluation gave up before all of its episodes had ended; '' where it did not."""
    ended = len(evaluation.returns)
    if ended == episodes:
        return ""
    what = f"only {ended} of {episodes} episodes" if ended else "no episode"
    then = "the score covers only these" if ended else "there is no score"
    return (
        f"warning: {what} ended within {limit:,} env steps of evaluation: {then}; --max_episode_steps limits episodes, "
        "--eval_max_env_steps evaluations"
    )


class Evaluator:
    """Scores published policies of a run and keeps the best.

    `checkpoints/best.npz` holds the best policy so far and `checkpoints/last.npz` the newest one
    evaluated; both survive a restart. Each evaluation plays episodes of its own seeds, so that the
    best is not the luckiest on one list. Where there are several worlds, one of them is the judge: its
    scores are those of the run. The others are evaluated beside it, on the same seeds.

    Args:
      run_plan: of the run.
      inference: engine that acts, see `make_engine`.
      beat: called once a vector step.
      stop: ends an evaluation, which then raises Stopped; once it is requested no environment is made.
      announce: takes a warning where an evaluation gives up.

    Without episodes in the plan no environment is built; `keep` alone may be called then.

    Attributes:
      facts: what `Agent.on_evaluation` has given after the last evaluation.
    """

    def __init__(
        self,
        run_plan: RunPlan,
        inference: str,
        beat: Callable[[], None] = lambda: None,
        stop: Stop | None = None,
        announce: Callable[[str], None] = lambda text: None,
    ):
        self._plan = run_plan.job.evaluation
        self._run_plan, self._beat, self._announce = run_plan, beat, announce
        self._stop = Stop() if stop is None else stop
        self.facts: dict[str, float] = {}
        self._envs: dict[str, VectorEnv] = {}  # by world; none where nothing is played
        if self._plan.plays:
            with contextlib.suppress(Stopped), self._stop.inside_environment():
                plans = self._plan.worlds(run_plan.job.env)
                self._envs = {name: self._make_env(plan) for name, plan in plans.items()}
        limit = limit_s(run_plan.job.topology)
        self._watches = [
            Watch(env.place, " ".join(["evaluation", name]).strip(), limit, self._announce)
            for name, env in self._envs.items()
        ]
        self._inference = inference
        self._engine: Engine | None = None
        self.folder = run_plan.run_dir / "checkpoints"
        self._best = -np.inf
        if (
            self.folder / "best.npz"
        ).exists():  # of an earlier session, or of an evaluator before this one
            self._best = checkpoint.load_arrays(self.folder / "best.npz")[1]["return_mean"]

    def refuse_shared(self, training: VectorEnv) -> None:
        """Raises SettingError where an environment of training is one of evaluation too; both would step it."""
        vectors = {"training": training}
        vectors.update(
            {" ".join(["evaluation", name]).strip(): env for name, env in self._envs.items()}
        )
        envs = {
            f"{use}, row {row}": env
            for use, vector in vectors.items()
            for row, env in enumerate(getattr(vector, "envs", []))
        }
        refuse_shared(training.spec.name, envs)

    def prepare(self) -> None:
        """Makes the engine, which the first evaluation would do; training need not wait for it."""
        if self._engine is None and self._plan.plays:
            self._stop.check()
            run_plan, num_envs = self._run_plan, self._num_envs
            policy, explore = run_plan.agent.make_policy(), self._plan.eval_mode == "sampled"
            knobs = run_plan.knobs if explore else ()
            signature = StepSignature(policy, run_plan.spec, num_envs, knobs, explore)
            self._engine = make_engine(self._inference, policy, signature)

    def rehearse(self) -> None:
        """Makes the engine, resets the environments and steps them once with an untrained policy: what cannot be
        played is found out before training."""
        with contextlib.suppress(Stopped):
            for env in self._envs.values():
                self.prepare()
                obs = env.reset(seeds.integer(self._run_plan.job.seed, "evaluator", 0, "first"))
                (noise,) = NoiseStream(self._engine.signature, np.random.default_rng(0)).steps(1)
                states = States(self._engine)
                if states.drawn:
                    states.begin(noise)
                env.step(self._engine.act(obs, states.value, self._knobs(0, {}), noise).action)

    def run(
        self,
        arrays: Sequence[np.ndarray],
        env_steps: int,
        version: int,
        facts: Mapping[str, float] = {},  # noqa: B006 - only read
    ) -> dict[str, float]:
        """Evaluates a policy during training.

        Args:
          arrays: values of its variables.
          env_steps: of the run so far.
          version: updates behind the policy.
          facts: for its knobs, where actions are sampled.

        Returns:
          A row of metrics, empty where no episode of the judging world has ended.

        Raises:
          RunFailed: `Agent.on_evaluation` gives facts that cannot be used.
        """
        episodes, knobs = self._plan.eval_episodes, self._knobs(env_steps, facts)
        played = self._play(arrays, episodes, f"training {env_steps}", knobs)
        names = self._run_plan.job.log.info_metrics
        row = played[self._plan.judge].metrics(names)
        if row:
            row.update(
                {
                    world_metric(world, name): value
                    for world, evaluation in played.items()
                    if world
                    for name, value in evaluation.metrics(names).items()
                }
            )
        if self._run_plan.agent.on_evaluation is not None:
            given = self._run_plan.agent.on_evaluation(self._episodes(played))
            self.facts = checked(given, "Agent.on_evaluation", {})
        self.keep(arrays, env_steps, version, row.get("evaluator/return_mean", -np.inf))
        return row

    def keep(
        self,
        arrays: Sequence[np.ndarray],
        env_steps: int,
        version: int,
        return_mean: float = -np.inf,
    ) -> None:
        """Stores a policy as the newest, and as the best if it is; without a score it is the best only while
        no policy has one."""
        if np.isnan(return_mean):  # the worst score there is, not one that compares with none
            return_mean = -np.inf
        facts = {"return_mean": return_mean, "env_steps": env_steps, "version": version}
        checkpoint.save_arrays(self.folder / "last.npz", arrays, **facts)
        if return_mean >= self._best:  # among policies without a score the newest
            self._best = return_mean
            checkpoint.save_arrays(self.folder / "best.npz", arrays, **facts)

    def exported(self) -> tuple[list[np.ndarray], dict[str, float]]:
        """The policy to export and the facts stored with it."""
        return checkpoint.load_arrays(self.folder / f"{self._plan.exported}.npz")

    def final(self, arrays: Sequence[np.ndarray]) -> dict[str, Evaluation]:
        """The scores of a policy on fresh episodes by world; {} where none are asked for, or a stop ended them."""
        episodes = self._plan.final_eval_episodes if self._plan.plays else 0
        knobs = self._knobs(self._run_plan.job.total_env_steps, {})
        try:
            return self._play(arrays, episodes, "final", knobs) if episodes else {}
        except Stopped:
            return {}

    def close(self) -> None:
        """Frees the environments; no evaluation may follow."""
        for env in self._envs.values():
            env.close()
        for watch in self._watches:
            watch.close()

    @property
    def _num_envs(self) -> int:
        return min(self._plan.eval_num_envs, self._plan.eval_episodes)

    def _knobs(self, env_steps: int, facts: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Knobs of acting, {} where that is greedy."""
        if self._plan.eval_mode == "greedy":
            return {}
        return self._run_plan.last_knobs(self._num_envs, env_steps, facts)

    def _make_env(self, plan: EnvPlan) -> VectorEnv:
        job = self._run_plan.job
        vector = make_vector(
            plan,
            self._num_envs,
            seeds.integer(job.seed, "evaluator"),
            training=False,
            info_names=job.log.info_metrics,
            switches=job.switches,
        )
        return StoppableVector(vector, self._stop)

    def _play(
        self, arrays: Sequence[np.ndarray], episodes: int, stream: str, knobs: dict[str, np.ndarray]
    ) -> dict[str, Evaluation]:
        """Plays in every world, each on the same seeds."""
        self.prepare()
        self._engine.load(arrays)
        seed = seeds.integer(self._run_plan.job.seed, "evaluator", 0, stream)
        played = {}
        for world, env in self._envs.items():
            limit = self._run_plan.most_evaluation_env_steps(episodes, env.spec)
            played[world] = evaluate(
                self._engine, env, episodes, seed, knobs, max_env_steps=limit, beat=self._beat
            )
            warning = unfinished(played[world], episodes, limit)
            if warning:
                self._announce(f"{world}: {warning}" if world else warning)
        return played

    def _episodes(self, played: Mapping[str, Evaluation]) -> list[EvaluationEpisode]:
        names = self._run_plan.job.log.info_metrics
        return [
            EvaluationEpisode(world, episode_return, length, dict(zip(names, infos)))
            for world, evaluation in played.items()
            for episode_return, length, infos in zip(*evaluation, strict=True)
        ]
