"""Evaluation: who plays how many games, with which seeds, and which policy is kept."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import ActorPlace
from tfrl.api import make_job
from tfrl.envs.vector import BatchVector, SyncVector
from tfrl.runtime.acting.actor import Actor
from tfrl.runtime.acting.evaluator import Evaluation, Evaluator, evaluate
from tfrl.runtime.acting.inference import FunctionEngine, StepSignature
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.stop import Stop
from tfrl.runtime.storage import checkpoint
from tfrl.testing import fakes
from tfrl.types import EnvSpec, NoiseSpec, PolicyStep


class Still(tf.Module):
    """Always takes action 0, or 1 where its noise is below the knob."""

    noise = {"coin": NoiseSpec((), "uniform")}

    def initial_state(self, batch_size, noise):
        return ()

    def step(self, obs, state, knobs, noise, explore):
        action = tf.zeros(tf.shape(obs)[:1], tf.int32)
        if explore:
            action = tf.cast(noise["coin"] < knobs["share"], tf.int32)
        return PolicyStep(action, state, {})


def setup(factories, explore=False):
    env = factories[0]()
    spec = EnvSpec("e", env.observation_space, env.action_space)
    vector = SyncVector(factories, spec, seed=0)
    policy = Still()
    knobs = ["share"] if explore else []
    return FunctionEngine(
        policy, StepSignature(policy, spec, len(factories), knobs, explore)
    ), vector


class Noisy(fakes.IdentityGame):
    """Pays for action 0 with the target's index, so that a game's return tells its seed."""

    def step(self, action):
        target = self._target
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float(target), terminated, truncated, info


class StepGame(gym.Env):
    """Pays 1 for the action that is the number of the step, from 0; the observation does not tell it."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(10)

    def __init__(self, length):
        self._length = length

    def reset(self, *, seed=None, options=None):
        self._t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = float(action == self._t)
        self._t += 1
        return np.zeros(1, np.float32), reward, self._t == self._length, False, {}


class CountingPolicy(tf.Module):
    """Its action is the number of steps since its state began."""

    noise = {}

    def initial_state(self, batch_size, noise):
        return (tf.zeros([batch_size]),)

    def step(self, obs, state, knobs, noise, explore):
        return PolicyStep(tf.cast(state[0], tf.int32), (state[0] + 1.0,), {})


class StateTest(tf.test.TestCase, parameterized.TestCase):
    """The state of a policy begins with the first observation of an episode, not with the last of the one before."""

    def parts(self, kind):
        factories = [lambda: StepGame(3), lambda: StepGame(5)]
        spec = EnvSpec("e", StepGame.observation_space, StepGame.action_space)
        if kind == "sync":
            vector = SyncVector(factories, spec, seed=0)
        else:
            env = gym.vector.SyncVectorEnv(
                factories, autoreset_mode=gym.vector.AutoresetMode(kind), copy=False
            )
            vector = BatchVector(env, spec, 0, backend=kind, shared_buffer=True)
        policy = CountingPolicy()
        return FunctionEngine(policy, StepSignature(policy, spec, 2, [], False)), vector

    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_in_evaluation(self, kind):
        out = evaluate(*self.parts(kind), episodes=8, seed=0)
        self.assertEqual(
            sorted(zip(out.lengths_env_steps, out.returns)), [(3, 3.0)] * 4 + [(5, 5.0)] * 4
        )

    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_in_acting(self, kind):
        engine, vector = self.parts(kind)
        agent, writer = mock.Mock(knobs=lambda *args: {}, in_metrics=None), mock.Mock()
        actor = Actor(
            agent, engine, vector, writer, ActorPlace(0, 1, 2), np.random.default_rng(0), seed=0
        )
        rewards = []
        writer.record.side_effect = lambda obs, state, choice, step: rewards.extend(
            step.reward[step.valid]
        )
        actor.run(40, 0)
        self.assertGreater(len(rewards), 60)
        self.assertEqual(set(rewards), {1.0})

    @parameterized.parameters(([True, True], 3, 5), ([False, True], 5, 5), ([True, False], 3, 3))
    def test_training_returns_are_those_of_the_rows_that_count(self, in_metrics, low, high):
        engine, vector = self.parts("sync")
        asked = []

        def count(*args):
            asked.append(args)
            return np.array(in_metrics)

        agent = mock.Mock(knobs=lambda *args: {}, in_metrics=count)
        actor = Actor(
            agent,
            engine,
            vector,
            mock.Mock(),
            ActorPlace(4, 7, 2),
            np.random.default_rng(0),
            seed=0,
        )
        actor.run(40, 0)
        self.assertEqual(asked, [(ActorPlace(4, 7, 2),)])
        found = actor.window.metrics()
        self.assertEqual(found["actor/episode_return_min"], low)
        self.assertEqual(found["actor/episode_return_max"], high)
        self.assertEqual(actor.episodes, 40 // 4 + 40 // 6)  # all were played; a reset takes a step


class EvaluateTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((1, 5), (3, 7), (4, 4), (4, 2))
    def test_every_row_plays_as_many_games_up_to_one(self, num_envs, episodes):
        # Row i plays games of i + 1 steps: short games would crowd out long ones if the first were taken.
        factories = [lambda n=i + 1: fakes.TruncatingChain(n) for i in range(num_envs)]
        engine, env = setup(factories)
        out = evaluate(engine, env, episodes, seed=0)
        quota = [episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)]
        expected = sorted(i + 1 for i in range(num_envs) for _ in range(quota[i]))
        self.assertEqual(sorted(out.lengths_env_steps), expected)
        self.assertEqual(sorted(out.returns), [float(x) for x in expected])

    def test_a_seed_is_a_list_of_games(self):
        engine, env = setup([lambda: Noisy(4, 10)] * 2)
        first, again, other = (evaluate(engine, env, 6, seed) for seed in (3, 3, 4))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertGreater(len(set(first.returns)), 1)

    def test_exploration_is_seeded_too(self):
        engine, env = setup([lambda: fakes.IdentityGame(2, 50)] * 2, explore=True)
        knobs = {"share": np.float32([0.5, 0.5])}
        first, again, other = (evaluate(engine, env, 4, seed, knobs) for seed in (1, 1, 2))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_a_limit_ends_it_with_the_games_finished_by_then(self):
        engine, env = setup([lambda: fakes.TruncatingChain(10)])
        out = evaluate(engine, env, 100, seed=0, max_env_steps=35)
        self.assertEqual(out.lengths_env_steps, (10, 10, 10))
        none = evaluate(engine, env, 100, seed=0, max_env_steps=5)
        self.assertEqual(none, Evaluation((), ()))
        self.assertFalse(none)
        self.assertEqual(none.metrics(), {})

    def test_metrics(self):
        row = Evaluation((1.0, 2.0, 6.0), (10, 20, 60)).metrics()
        self.assertAllClose(
            [
                row[f"evaluator/{k}"]
                for k in (
                    "return_mean",
                    "return_std",
                    "return_min",
                    "return_max",
                    "episodes",
                    "length_mean_env_steps",
                )
            ],
            [3.0, np.sqrt(14 / 3), 1.0, 6.0, 3.0, 30.0],
        )

    def test_metrics_of_infos(self):
        infos = ((1.0, np.nan), (0.0, np.nan), (1.0, np.nan))
        played = Evaluation((1.0, 2.0, 6.0), (10, 20, 60), infos)
        self.assertAllClose(played.info_means(["is_success", "other"]), {"is_success": 2 / 3})
        row = played.metrics(["is_success", "other"])
        self.assertAllClose(row["evaluator/info/is_success"], 2 / 3)
        self.assertNotIn("evaluator/info/other", row)
        self.assertEqual(Evaluation((), ()).info_means(["is_success"]), {})


class EvaluatorTest(tf.test.TestCase):
    def test_the_best_policy_is_kept_over_a_restart(self):
        run_dir = self.enter_context(tempfile.TemporaryDirectory())
        job = make_job(
            "dqn",
            env="tfrl.testing.fakes:IdentityGame",
            env_kwargs={"num_actions": 2},
            run_dir=run_dir,
            hidden_sizes=(),
            eval_episodes=4,
            eval_num_envs=2,
            final_eval_episodes=6,
        )
        run_plan = plan_run(job)

        def arrays(scale):  # action values = scale * one-hot of the action that pays
            shapes = [v.shape for v in run_plan.agent.make_policy().variables]
            return [np.eye(2, dtype=np.float32) * scale if len(s) == 2 else np.zeros(2, np.float32)
                    for s in shapes]  # fmt: skip

        evaluator = Evaluator(run_plan, "function")
        scores = [evaluator.run(arrays(s), n, n)["evaluator/return_mean"]
                  for n, s in ((100, -1.0), (200, 2.0), (300, -3.0))]  # fmt: skip
        self.assertEqual(scores, [0.0, 20.0, 0.0])
        evaluator.close()
        folder = pathlib.Path(run_dir) / "checkpoints"
        best, facts = checkpoint.load_arrays(folder / "best.npz")
        self.assertEqual(facts, {"return_mean": 20.0, "env_steps": 200.0, "version": 200.0})
        self.assertAllEqual(best[0], 2 * np.eye(2))
        self.assertEqual(checkpoint.load_arrays(folder / "last.npz")[1]["env_steps"], 300.0)

        resumed = Evaluator(
            dataclasses.replace(run_plan, job=dataclasses.replace(job, resume=True)), "function"
        )
        resumed.run(arrays(-4.0), 400, 400)
        exported, facts = resumed.exported()
        evaluation = resumed.final(exported)[""]
        resumed.close()
        self.assertAllEqual(exported[0], 2 * np.eye(2))
        self.assertEqual(facts["env_steps"], 200.0)
        self.assertEqual(evaluation.returns, (20.0,) * 6)

    def test_without_scores_the_newest_policy_is_the_best(self):
        """So a run that is stopped twice before its first evaluation exports what it has learned since."""
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        job = make_job("dqn", env="tfrl.testing.fakes:IdentityGame", run_dir=str(run_dir))
        run_plan, best = plan_run(job), run_dir / "checkpoints" / "best.npz"
        stop = Stop()
        stop.request()  # no environments
        for session, score, expected in ((1, None, 1), (2, None, 2), (3, 5.0, 3), (4, None, 3)):
            evaluator = Evaluator(run_plan, "function", stop=stop)
            scores = () if score is None else (score,)
            evaluator.keep([np.zeros(1, np.float32)], session, session, *scores)
            self.assertEqual(checkpoint.load_arrays(best)[1]["version"], expected)
