"""A run in one process that is resumed goes on in its episodes: 2 N steps are N steps, a restart and N steps."""

import dataclasses
import io
import json
import pathlib
import tempfile

import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.api import make_job
from tfrl.callbacks import Callback
from tfrl.job import Job
from tfrl.logs import csv_file
from tfrl.logs.logger import Logger
from tfrl.runtime.backends import inprocess
from tfrl.runtime.hooks import Hooks
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.stop import Stop
from tfrl.runtime.storage import checkpoint

COMMON = dict(
    env="CartPole-v1", seed=3, hidden_sizes=(16,), eval_every_env_steps=0, eval_env="none", episodes_csv=False,
    export_policy="last", log_every_s=1e-9, console="plain", tensorboard=False, compile="graph",
    inference="lite", checkpoint_keep=9,
)  # fmt: skip
DQN = dict(
    total_env_steps=1200, checkpoint_every_env_steps=600, min_replay=200, replay_capacity=500,
    batch_size=8, updates_per_call=4, env_steps_per_update=2.0,
)  # fmt: skip
ON_POLICY = dict(total_env_steps=1024, checkpoint_every_env_steps=512)
LSTM = dict(core="lstm", core_size=6, sequence_length=12, sequence_period=8, burn_in=2)
RUNS = {
    "dqn": ("dqn", dict(DQN, num_envs=1, n_step=3, prioritized=True)),
    "dqn, hindsight": (
        "dqn", dict(DQN, env="tfrl.envs.goals:BitFlip", num_envs=2, n_step=2, her_relabels=2),
    ),
    "dqn, native": ("dqn", dict(DQN, num_envs=8, env_backend="native")),
    "dqn, noisy": ("dqn", dict(DQN, num_envs=2, noisy="factorised", n_step=2)),
    "dqn, lstm": (
        "dqn",
        dict(DQN, **LSTM, num_envs=2, env_steps_per_update=20.0, min_replay=20, prioritized=True),
    ),
    "dqn, overlap": ("dqn", dict(DQN, num_envs=2, overlap=True)),
    "ddpg": (
        "ddpg",
        dict(DQN, env="Pendulum-v1", num_envs=2, n_step=2, prioritized=True, exploration_noise="ou",
             noise_final=0.1, normalize_observations=True, env_steps_per_update=0.5,
             random_env_steps=100, policy_hidden_sizes=(8,), critic_hidden_sizes=(8,)),
    ),
    "td3, lstm": (
        "td3",
        dict(DQN, **LSTM, env="Pendulum-v1", num_envs=2, env_steps_per_update=20.0, min_replay=20,
             policy_hidden_sizes=(8,), critic_hidden_sizes=(8,)),
    ),
    "qmix": (
        "qmix",
        dict(DQN, env="tfrl.testing.fakes:TeamMatching", num_envs=3, core_size=6, episode_length=4,
             env_steps_per_update=20.0, prioritized=True, mixing_embed_size=4),
    ),
    "ppo": ("ppo", dict(ON_POLICY, num_envs=1, unroll_length=64)),
    "ppo, native": ("ppo", dict(ON_POLICY, num_envs=8, unroll_length=16, env_backend="native")),
    "ppo, lstm": (
        "ppo",
        dict(ON_POLICY, num_envs=2, unroll_length=32, core="gru", core_size=6, minibatches=2,
             normalize_observations=True, normalize_rewards=True),
    ),
    "ppo, team": (
        "ppo",
        dict(ON_POLICY, env="tfrl/Loads-v0", num_envs=4, unroll_length=16, env_backend="native",
             core="gru", core_size=6, team_policy="independent", central_critic=True,
             normalize_observations=True),
    ),
    "impala": ("impala", dict(ON_POLICY, num_envs=1)),
    "impala, native": ("impala", dict(ON_POLICY, num_envs=8, env_backend="native")),
    "impala, old unrolls": (
        "impala", dict(ON_POLICY, num_envs=2, replay_proportion=0.5, replay_unrolls=20),
    ),
    "pg": ("pg", dict(ON_POLICY, num_envs=2)),
    "a3c": ("a3c", dict(ON_POLICY, num_envs=2)),
    "hdqn": (
        "hdqn",
        dict(DQN, env="tfrl/TrashCoordination9x5-v0", num_envs=6, env_backend="native", hidden_sizes=(8, 8),
             coordination="comm", low_hidden_sizes=(8,), max_goal_length=6, trained_env_steps=4, min_replay=100,
             success_greedy_beta=0.5, env_steps_per_update=16.0),
    ),
    "ars": (
        "ars",
        dict(ON_POLICY, policy="mlp", num_envs=3, num_directions=4, num_top_directions=2,
             normalize_observations=True),
    ),
    "es": (
        "es",
        dict(env="Pendulum-v1", max_episode_steps=30, total_env_steps=4000,
             checkpoint_every_env_steps=1600, num_envs=3, episodes_per_batch=6,
             min_steps_per_batch=500, core="gru", core_size=4),
    ),
    "dqn, observation noise": ("dqn", dict(DQN, num_envs=2, with_=["observation_noise"])),
    "ppo, observation noise": (
        "ppo",
        dict(ON_POLICY, num_envs=8, unroll_length=16, env_backend="native",
             with_=["observation_noise"], noise_std=0.3),
    ),
    "facts": (
        "tfrl.testing.guided",
        dict(DQN, env="tfrl.testing.fakes:PaidByFact", num_envs=2, eval_env="own", eval_episodes=1,
             eval_every_env_steps=250, eval_worlds={"a": {"env_kwargs": {"length": 7}}}),
    ),
    "ppo, mujoco": (
        "ppo",
        dict(ON_POLICY, env="InvertedPendulum-v5", num_envs=2, unroll_length=16,
             normalize_observations=True),
    ),
    "dqn, pong": (
        "dqn",
        dict(DQN, env="ALE/Pong-v5", env_backend="sync", atari_screen_size=36, max_episode_steps=90,
             total_env_steps=400, checkpoint_every_env_steps=200, min_replay=60, num_envs=2,
             n_step=3, prioritized=True, network="mlp"),
    ),
}  # fmt: skip
# Further forms of what the others hold, outside of `make test`.
SLOW = (
    "dqn, native", "dqn, noisy", "dqn, overlap", "ppo, native", "ppo, lstm", "ppo, mujoco", "impala",
    "impala, old unrolls", "a3c", "qmix", "dqn, observation noise", "ddpg", "td3, lstm", "hdqn", "ppo, team",
    "dqn, hindsight", "pg", "ppo, observation noise",
)  # fmt: skip


class Stopping(Callback):
    """Ends a run at its first checkpoint."""

    def on_checkpoint(self, run, env_steps):
        run.stop("the first half is made")


class ExactResumeTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def train(self, name, callbacks=(), **changes):
        """The training of a job of a folder, without what comes before and after it; returns what it said."""
        run_dir = self.folder / name
        job = dataclasses.replace(Job.load(run_dir / "job.json"), **changes)
        said = io.StringIO()
        run_plan = plan_run(job)
        hooks = Hooks(run_plan, callbacks)
        log = (run_dir, job.log, job.total_env_steps)
        with Logger(*log, out=said, metrics=hooks.metrics) as logger:
            inprocess.run(run_plan, logger, Stop(), hooks)
        return said.getvalue()

    def twice(self, algo, **settings):
        """Folders of a run without an interruption, and of one that was resumed, with what it said then."""
        for name in ("whole", "halves"):
            (self.folder / name).mkdir()
            job = make_job(algo, run_dir=str(self.folder / name), **{**COMMON, **settings})
            job.save(self.folder / name / "job.json")
        self.train("whole")
        self.train("halves", [Stopping()])
        said = self.train("halves", resume=True)
        return self.folder / "whole", self.folder / "halves", said

    def test_without_the_state_of_acting_new_episodes_begin(self):
        """Checkpoints of earlier versions have none."""
        settings = {**COMMON, **ON_POLICY, "num_envs": 2}
        (self.folder / "run").mkdir()
        job = make_job("impala", run_dir=str(self.folder / "run"), **settings)
        job.save(self.folder / "run" / "job.json")
        said = self.train("run", [Stopping()])
        self.assertIn("environments: sync, 2; a resumed run goes on in its episodes", said)
        folder = newest(self.folder / "run")
        size = (folder / checkpoint.ACTING).stat().st_size
        self.assertLess(size, 20_000)
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["files"][checkpoint.ACTING]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / checkpoint.ACTING).unlink()
        said = self.train("run", resume=True)
        self.assertIn("episodes: new ones begin (the checkpoint has no state of them)", said)

    def test_with_another_number_of_environments_new_episodes_begin(self):
        settings = {**COMMON, **ON_POLICY, "num_envs": 2}
        (self.folder / "run").mkdir()
        job = make_job("impala", run_dir=str(self.folder / "run"), **settings)
        job.save(self.folder / "run" / "job.json")
        self.train("run", [Stopping()])
        topology = dataclasses.replace(job.topology, num_envs=3)
        said = self.train("run", resume=True, topology=topology)
        self.assertIn("episodes: new ones begin (num_envs was 2)", said)

    def test_environments_that_give_no_state_are_named(self):
        settings = {**COMMON, **ON_POLICY, "num_envs": 2, "env_backend": "async"}
        (self.folder / "run").mkdir()
        job = make_job("impala", run_dir=str(self.folder / "run"), **settings)
        job.save(self.folder / "run" / "job.json")
        said = self.train("run", [Stopping()])
        why = "env_backend=async gives no state of its environments, sync may"
        self.assertIn(f"environments: async, 2; a resumed run begins new episodes ({why})", said)
        self.assertFalse((newest(self.folder / "run") / checkpoint.ACTING).exists())
        said = self.train("run", resume=True)
        self.assertIn(f"episodes: new ones begin ({why})", said)

    def assert_same(self, whole, halves, from_env_steps, in_order=True):
        """Same weights, counts and metrics. Not `in_order`: episodes of the window may have ended in another."""
        arrays = [
            checkpoint.load_arrays(d / "checkpoints" / "last.npz")[0] for d in (whole, halves)
        ]
        for mine, theirs in zip(*arrays, strict=True):
            self.assertAllEqual(mine, theirs)
        states = [json.loads((newest(d) / "state.json").read_text()) for d in (whole, halves)]
        if not in_order:
            for state in states:
                state["window"] = {name: sorted(found) for name, found in state["window"].items()}
        for name in ("env_steps", "written", "sampled", "max_priority", "window", "rng"):
            self.assertEqual(states[0][name], states[1][name], name)
        self.assertEqual(*(s["totals"]["episodes"] for s in states))
        rows = [
            {r["run/env_steps"]: r for r in csv_file.read(d / "metrics.csv")}
            for d in (whole, halves)
        ]
        later = [steps for steps in rows[0] if steps > from_env_steps]
        if (
            not in_order
        ):  # whole iterations: the rows with which an update was made, the last one among them
            made = lambda row: row["run/updates"]
            first = [{made(row): steps for steps, row in reversed(found.items())} for found in rows]
            later = [steps for steps in later if steps in first[0].values()]
            self.assertContainsSubset([max(first[0].values())], rows[1])
            later = [steps for steps in later if steps in first[1].values()]
        self.assertNotEmpty(later)
        self.assertContainsSubset(later, rows[1])
        compared = set()
        for steps in later:
            for name, value in rows[0][steps].items():
                if (
                    name.startswith(("learner/", "actor/"))
                    and "retraces" not in name
                    and "lag" not in name
                ):
                    if name in rows[1][steps]:
                        compared.add(name)
                        self.assertEqual(value, rows[1][steps][name], (steps, name))
        self.assertIn("actor/episode_return_mean", compared)
        self.assertTrue(any(n.endswith(("loss", "/gradient_norm")) for n in compared))

    @parameterized.named_parameters((n, *run) for n, run in RUNS.items() if n not in SLOW)
    def test_it_is_the_run_that_was_never_interrupted(self, algo, settings):
        self.check(algo, settings)

    @parameterized.named_parameters((name, *RUNS[name]) for name in SLOW)
    @pytest.mark.slow
    def test_further_runs_are_those_that_were_never_interrupted(self, algo, settings):
        self.check(algo, settings)

    def check(self, algo, settings):
        whole, halves, said = self.twice(algo, **settings)
        self.assertIn("episodes: those of the checkpoint go on", said)
        first = sorted((halves / "checkpoints").glob("[0-9]*"))[0]
        # Open episodes of a population begin again, and may end after others then.
        in_order = algo not in ("ars", "es")
        self.assert_same(whole, halves, int(first.name.split(".")[0]), in_order)


def newest(run_dir):
    """Folder of the newest checkpoint."""
    return sorted((run_dir / "checkpoints").glob("[0-9]*"))[-1]


if __name__ == "__main__":
    tf.test.main()
