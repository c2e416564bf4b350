"""Thirty kills at random moments: the whole run, or one of its processes; each run is resumed and finished.

SEED draws what is killed and when. Another one:
`KILLS_SEED=7 python -m pytest tests/runtime/backends/kills_test.py`.
"""

import math
import os
import pathlib
import signal
import tempfile
import time

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from tfrl.testing.processes import Run, end_of

SEED = int(os.environ.get("KILLS_SEED", "0"))
KILLS = 30
ATTEMPTS = 5  # to kill a run, which may end before its moment
STARTUP_SHARE, STARTUP_S = 0.2, 10.0  # of the kills, and how long after the start these may come

COMMON = {
    "env": "CartPole-v1", "hidden_sizes": "16", "compile": "graph", "inference": "lite",
    "eval_episodes": 2, "eval_num_envs": 2, "final_eval_episodes": 2, "eval_max_env_steps": 2_000,
    "log_every_s": 0.1, "console": "plain", "tensorboard": False,
}  # fmt: skip
VALUE = {
    "batch_size": 32, "env_steps_per_update": 4, "updates_per_call": 8, "min_replay": 400,
    "replay_capacity": 4_000,
}  # fmt: skip
PROCESSES = {"backend": "processes", "num_actors": 2, "num_envs": 2}
RUNS = {
    "dqn": ("dqn", 20_000, {"backend": "inprocess", "num_envs": 4, **VALUE}),
    "ppo": ("ppo", 30_000, {"backend": "inprocess", "num_envs": 4, "unroll_length": 64}),
    "a3c": ("a3c", 20_000, {**PROCESSES, "unroll_length": 10}),
    "impala": ("impala", 30_000, {**PROCESSES, "unroll_length": 20}),
    "apex": (
        "dqn",
        20_000,
        {
            **PROCESSES, **VALUE, "num_replay_shards": 2, "prioritized": True,
            "actor_priorities": True, "epsilon_ladder": "actor", "n_step": 3,
            "max_weight_delay_env_steps": 100,
        },
    ),
    "recurrent": (
        "dqn",
        15_000,
        {
            "backend": "inprocess", "num_envs": 4, **VALUE, "core": "lstm", "core_size": 8,
            "env": "tfrl.envs.memory:RepeatPrevious", "sequence_length": 12, "sequence_period": 10,
            "burn_in": 2, "batch_size": 8, "env_steps_per_update": 20, "min_replay": 500,
        },
    ),
    "team": (
        "qmix",
        12_000,
        {
            **PROCESSES, **VALUE, "env": "tfrl/TwoStep-v0", "episode_length": 2, "core_size": 8,
            "batch_size": 8, "num_replay_shards": 2, "prioritized": True,
            "epsilon_ladder": "actor", "max_weight_delay_env_steps": 100,
        },
    ),
}  # fmt: skip


@pytest.mark.slow
class KillsTest(parameterized.TestCase):
    @parameterized.parameters(*range(KILLS))
    def test_killed_resumed_and_finished(self, number):
        rng = np.random.default_rng([SEED, number])
        name = list(RUNS)[number % len(RUNS)]
        algo, total, settings = RUNS[name]
        settings = {
            **COMMON, **settings, "total_env_steps": total, "eval_every_env_steps": total // 4,
            "checkpoint_every_env_steps": total // 6,
        }  # fmt: skip
        if name in ("dqn", "recurrent") and rng.random() < 0.5:
            settings.update(PROCESSES)
        for _ in range(ATTEMPTS):
            folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
            run = Run(folder, algo, **settings)
            self.addCleanup(run.close)
            self.wait_for_the_moment(run, rng, total)
            processes = {"main": run.process, **dict(sorted(run.children().items()))}
            victim = list(processes)[rng.integers(len(processes))]
            at = self.env_steps(run)
            print(
                f"kill {number}: {name}, {victim} of {list(processes)} at {at:,.0f} env steps",
                flush=True,
            )
            processes[victim].send_signal(signal.SIGKILL)
            code = run.wait()
            self.assertEmpty(end_of(list(run.children().values()), 10))
            if code or victim != "main":
                break
        if victim == "main":
            self.assertEqual(code, -signal.SIGKILL)
        if victim == "main" or code:
            # The processes cannot go on without a replay server whose contents no checkpoint holds.
            self.assertTrue(victim == "main" or "no checkpoint" in run.text(), run.text())
            settings["resume"] = (run.dir / "job.json").exists()
            run = Run(folder, algo, **settings)
            self.addCleanup(run.close)
            self.assertEqual(run.wait(), 0, run.text())

        result = run.result()
        self.assertGreaterEqual(result["env_steps"], total)
        self.assertFalse(result["interrupted"])
        self.assertEqual(result["episodes"], 2)
        self.assertTrue(math.isfinite(result["return_mean"]))
        self.assertTrue((run.dir / "export" / "saved_model.pb").exists())
        self.assertEqual(self.env_steps(run), result["env_steps"])
        left = [p.name for p in (run.dir / "checkpoints").iterdir() if not self.belongs(p)]
        self.assertEmpty(left)

    def wait_for_the_moment(self, run, rng, total):
        """Some seconds after the start, or some env steps into the run."""
        if rng.random() < STARTUP_SHARE:
            time.sleep(rng.uniform(0.0, STARTUP_S))
            return
        wanted = rng.uniform(0.0, 0.9) * total
        run.wait_for("env steps", lambda: self.env_steps(run) >= wanted)
        time.sleep(rng.uniform(0.0, 0.5))

    def env_steps(self, run):
        return max((row.get("run/env_steps", 0.0) for row in run.rows()), default=0.0)

    def belongs(self, path):
        """Whether it is a whole checkpoint or a policy, not what a kill has left."""
        return (
            path.suffix == ".npz" and ".tmp" not in path.name or (path / "manifest.json").exists()
        )


if __name__ == "__main__":
    absltest.main()
