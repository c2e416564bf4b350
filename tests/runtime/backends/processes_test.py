"""A run in many processes: real processes, a real replay server, killed and frozen on purpose."""

import os
import pathlib
import signal
import tempfile
import time

import psutil
import pytest
from absl.testing import absltest

from tfrl.testing.processes import Run, end_of

SETTINGS = {
    "env": "CartPole-v1", "num_actors": 2, "num_envs": 4, "total_env_steps": 8000,
    "batch_size": 32, "env_steps_per_update": 2, "updates_per_call": 16, "min_replay": 500,
    "hidden_sizes": "16", "compile": "graph", "inference": "lite",
    "eval_every_env_steps": 0, "eval_episodes": 2, "eval_num_envs": 2,
    "final_eval_episodes": 2, "eval_max_env_steps": 2000, "log_every_s": 0.5,
    "checkpoint_every_env_steps": 1500, "console": "plain", "tensorboard": False,
}  # fmt: skip


BLOCK = SETTINGS["updates_per_call"] * SETTINGS["batch_size"]  # samples of a call of the learner


class ProcessesTest(absltest.TestCase):
    def start(self, **settings):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        run = Run(pathlib.Path(folder.name), "dqn", **{**SETTINGS, **settings})
        self.addCleanup(run.close)
        return run

    def checkpoints(self, run):
        return sorted((run.dir / "checkpoints").glob("[0-9]*/manifest.json"))

    def test_short_run_holds_the_ratio_and_resumes(self):
        self.check_resume(*self.check_ratio("learner"))

    @pytest.mark.slow
    def test_short_run_of_a_server_holds_the_ratio(self):
        self.check_ratio("server")

    @pytest.mark.slow
    def test_short_run_of_a_server_resumes(self):
        self.check_resume(*self.check_ratio("server"))

    def check_ratio(self, residency):
        """A run of 6,000 env steps, and its result."""
        run = self.start(
            total_env_steps=6000, eval_every_env_steps=3000, replay_residency=residency
        )
        children = {}

        def all_started():
            children.update(run.children())
            return len(children) == 5

        run.wait_for("five roles", all_started)
        self.assertEqual(
            set(children), {"replay-0", "learner-0", "actor-0", "actor-1", "evaluator-0"}
        )
        for name, child in children.items():
            hidden = child.environ().get("CUDA_VISIBLE_DEVICES")  # as it was before its first line
            with self.subTest(name):
                self.assertEqual(
                    hidden, os.environ.get("CUDA_VISIBLE_DEVICES") if name == "learner-0" else "-1"
                )
        self.assertEqual(run.wait(), 0, run.text())
        self.assertEmpty(end_of(children.values(), 5))
        first = run.result()
        # Grants are exact up to the environments of an actor.
        self.assertBetween(first["env_steps"], 6000, 6000 + 2 * 4)
        # 32 / 2 samples per insert, never more; less by at most a few blocks of 16 updates.
        self.assertBetween(first["samples_per_insert"], 15.0, 16.0)
        paid = (first["env_steps"] - 500) * 16
        self.assertBetween(first["updates"] * 32, paid - 2 * BLOCK, paid)
        self.assertGreater(first["memory_peak_mb"], 500)
        self.assertFalse(first["interrupted"])
        self.assertEqual(first["episodes"], 2)
        rows = run.rows()
        # What every step inserts arrives, and arrives once.
        self.assertEqual(rows[-1]["replay/items_inserted"], first["env_steps"])
        if residency == "learner":  # the server has gone before the last row
            self.assertEqual(rows[-1]["replay/size_items"], first["env_steps"])
        self.assertTrue(any("actor/policy_lag_updates" in row for row in rows))
        self.assertTrue(
            any("evaluator/return_mean" in row and row["run/env_steps"] < 6000 for row in rows)
        )
        return run, first

    def check_resume(self, run, first):
        changed = dict(
            total_env_steps=8000, eval_every_env_steps=3000, resume=True, replay_residency="auto"
        )
        again = Run(run.dir.parent, "dqn", **{**SETTINGS, **changed})
        self.addCleanup(again.close)
        self.assertEqual(again.wait(), 0, again.text())
        second = again.result()
        self.assertBetween(second["env_steps"], 8000, 8000 + 4 * 4)
        paid = (second["env_steps"] - 500) * 16
        self.assertBetween(second["updates"] * 32, paid - 4 * BLOCK, paid)
        steps = [row["run/env_steps"] for row in again.rows()]
        self.assertGreater(min(s for s in steps if s > first["env_steps"]), 6000)
        self.assertIn("resumed at 6,0", again.text())

    def test_killed_actor_and_killed_learner_are_replaced(self):
        self.kill_actor_and_learner("learner")

    @pytest.mark.slow
    def test_killed_actor_and_killed_learner_of_a_server_are_replaced(self):
        self.kill_actor_and_learner("server")

    def kill_actor_and_learner(self, residency):
        run = self.start(total_env_steps=12000, replay_residency=residency)
        run.wait_for_updates(100)
        run.children()["actor-1"].send_signal(signal.SIGKILL)
        run.wait_for("actor-2", lambda: "actor-2" in run.children())
        run.wait_for("checkpoint", lambda: self.checkpoints(run))
        run.children()["learner-0"].send_signal(signal.SIGKILL)
        self.assertEqual(run.wait(), 0, run.text())
        self.assertIn("actor 1 was killed by SIGKILL; actor 2 takes its place", run.text())
        self.assertRegex(
            run.text(), "learner 0 was killed by SIGKILL; learner 1 continues from .*checkpoints"
        )
        self.assertIn("learner: goes on at update", run.text())
        result = run.result()
        self.assertBetween(result["env_steps"], 12000, 12000 + 3 * 4)
        self.assertBetween(result["samples_per_insert"], 14.0, 16.5)
        self.assertEmpty(end_of(list(run.children().values()), 5))

    @pytest.mark.slow
    def test_killed_learner_of_stacked_frames_is_replaced(self):
        """The new one gets rows over frames that only the old one had."""
        run = self.start(
            env="ALE/Pong-v5", hidden_sizes=None, atari_screen_size=42, total_env_steps=5000,
            min_replay=200, batch_size=8, env_steps_per_update=4, checkpoint_every_env_steps=800, replay_capacity=3000,
            replay_residency="learner", eval_max_env_steps=5000,
        )  # fmt: skip
        run.wait_for("checkpoint", lambda: self.checkpoints(run))
        run.children()["learner-0"].send_signal(signal.SIGKILL)
        self.assertEqual(run.wait(), 0, run.text())
        self.assertRegex(
            run.text(), "learner 0 was killed by SIGKILL; learner 1 continues from .*checkpoints"
        )
        self.assertEqual(run.text().count("takes its place"), 0)
        self.assertBetween(run.result()["env_steps"], 5000, 5000 + 3 * 4)
        self.assertGreater(run.result()["updates"], 800)

    @pytest.mark.slow
    def test_frozen_actor_is_noticed_and_replaced(self):
        run = self.start(heartbeat_timeout_s=4, total_env_steps=12000)
        run.wait_for_updates(100)
        frozen = run.children()["actor-0"]
        frozen.send_signal(signal.SIGSTOP)
        self.assertEqual(run.wait(), 0, run.text())
        self.assertRegex(
            run.text(),
            r"actor 0 gave no sign of life for \d+ s and was killed; actor 2 takes its place",
        )
        self.assertEmpty(end_of([frozen], 5))

    @pytest.mark.slow
    def test_a_run_that_was_stopped_as_a_whole_goes_on(self):
        run = self.start(heartbeat_timeout_s=6, total_env_steps=12000)
        run.wait_for_updates(100)
        everyone = [psutil.Process(run.process.pid), *run.children().values()]
        for process in everyone:
            process.send_signal(signal.SIGSTOP)
        time.sleep(14)  # well beyond the heartbeat, as after Ctrl-Z or a night of the machine
        for process in everyone:
            process.send_signal(signal.SIGCONT)
        self.assertEqual(run.wait(), 0, run.text())
        self.assertNotIn("sign of life", run.text())

    def test_crashing_environment_ends_the_run_with_its_first_error_last(self):
        run = self.start(env="tfrl.testing.fakes:CrashingEnv", num_actors=1, num_envs=1)
        self.assertEqual(run.wait(), 1, run.text())
        lines = run.text().strip().splitlines()
        self.assertRegex(
            lines[-1],
            r"actor 0 failed: RuntimeError: this environment crashes on purpose.*logs/actor-0\.log",
        )
        self.assertIn("Traceback", run.text())
        log = (run.dir / "logs" / "actor-0.log").read_text()
        self.assertIn("this environment crashes on purpose", log)
        self.assertEmpty(end_of(list(run.children().values()), 5))

    def test_sigterm_ends_with_a_checkpoint_and_no_orphan(self):
        run = self.start(total_env_steps=1_000_000, checkpoint_every_env_steps=0)
        run.wait_for_updates(100)
        children = list(run.children().values())
        start = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        self.assertEqual(run.wait(60), 128 + signal.SIGINT, run.text())
        took = time.monotonic() - start
        self.assertLess(took, 20.0)
        self.assertLen(self.checkpoints(run), 1)
        self.assertEmpty(end_of(children, 1))
        self.assertTrue(run.result()["interrupted"])
        self.assertLess(run.result()["env_steps"], 1_000_000)

    def test_a_stop_while_the_processes_start_leaves_a_run_to_resume(self):
        run = self.start()
        run.wait_for("first process", run.children)
        run.process.send_signal(signal.SIGHUP)
        self.assertEqual(run.wait(), 128 + signal.SIGINT, run.text())
        self.assertEmpty(end_of(list(run.children().values()), 5))
        result = run.result()
        self.assertEqual((result["interrupted"], result["env_steps"]), (True, 0))
        self.assertLen(self.checkpoints(run), 1)
        self.assertTrue((run.dir / "export" / "saved_model.pb").exists())
        self.assertIn("interrupted; continue with --resume", run.text())

    def test_killed_supervisor_leaves_no_orphan(self):
        run = self.start(total_env_steps=1_000_000)
        run.wait_for_updates(1)
        children = run.children()
        children["actor-0"].send_signal(signal.SIGSTOP)  # even one that cannot act on it
        run.process.kill()
        run.process.wait()
        self.assertEmpty(end_of(list(children.values()), 10))

    @pytest.mark.slow
    def test_killed_fork_server_takes_its_processes_along_and_the_run_goes_on(self):
        run = self.start(total_env_steps=12000)
        run.wait_for("checkpoint", lambda: self.checkpoints(run))
        actor = run.children()["actor-0"]
        self.assertNotEqual(actor.ppid(), run.process.pid)
        psutil.Process(actor.ppid()).kill()
        self.assertEqual(run.wait(), 0, run.text())
        self.assertIn(" 0 ended with the fork server, which was killed", run.text())
        self.assertBetween(run.result()["env_steps"], 12000, 12000 + 3 * 4)
        self.assertEmpty(end_of(list(run.children().values()), 5))

    @pytest.mark.slow
    def test_killed_replay_goes_on_from_the_checkpoint(self):
        run = self.start(total_env_steps=8000)
        run.wait_for("checkpoint", lambda: self.checkpoints(run))
        run.children()["replay-0"].send_signal(signal.SIGKILL)
        self.assertEqual(run.wait(), 0, run.text())
        self.assertRegex(
            run.text(), "replay 0 was killed by SIGKILL; all processes continue from .*checkpoints"
        )
        self.assertBetween(run.result()["env_steps"], 8000, 8000 + 4 * 4)

    @pytest.mark.slow
    def test_killed_replay_without_checkpoint_ends_the_run(self):
        run = self.start(total_env_steps=1_000_000, checkpoint_every_env_steps=0)
        run.wait_for_updates(1)
        run.children()["replay-0"].send_signal(signal.SIGKILL)
        self.assertEqual(run.wait(), 1, run.text())
        last = run.text().strip().splitlines()[-2:]
        self.assertRegex(last[0], "the replay is lost and no checkpoint holds its contents")
        self.assertRegex(last[1], r"replay 0 was killed by SIGKILL; its log: .*logs/replay-0\.log")


if __name__ == "__main__":
    absltest.main()
