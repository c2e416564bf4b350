"""Ape-X in many processes: a shard and an actor killed on purpose, and a run that resumes with its shards."""

import pathlib
import signal
import tempfile

import pytest
from absl.testing import absltest

from tfrl.testing.processes import Run, end_of

SETTINGS = {
    "env": "CartPole-v1", "num_actors": 2, "num_envs": 2, "total_env_steps": 30_000,
    "num_replay_shards": 2, "prioritized": True, "actor_priorities": True,
    "epsilon_ladder": "actor", "max_weight_delay_env_steps": 100, "n_step": 3,
    "batch_size": 32, "env_steps_per_update": 4, "updates_per_call": 8, "min_replay": 400,
    "replay_capacity": 4_000, "hidden_sizes": "16", "compile": "graph", "inference": "lite",
    "eval_every_env_steps": 0, "eval_episodes": 2, "eval_num_envs": 2,
    "final_eval_episodes": 2, "eval_max_env_steps": 2000, "log_every_s": 0.5,
    "checkpoint_every_env_steps": 4_000, "console": "plain", "tensorboard": False,
}  # fmt: skip


@pytest.mark.slow
class ShardsTest(absltest.TestCase):
    def start(self, folder, **settings):
        run = Run(folder, "dqn", **{**SETTINGS, **settings})
        self.addCleanup(run.close)
        return run

    def steps(self, run):
        return max((row.get("run/env_steps", 0) for row in run.rows()), default=0)

    def test_a_killed_shard_and_a_killed_actor_are_replaced_and_the_run_resumes(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        run = self.start(pathlib.Path(folder.name))
        run.wait_for_updates(50)
        before = run.children()
        self.assertEqual(
            set(before),
            {"replay-0", "replay-1", "weights-0", "learner-0", "actor-0", "actor-1", "evaluator-0"},
        )
        before["replay-1"].send_signal(signal.SIGKILL)
        run.wait_for("replay-2", lambda: "replay-2" in run.children())
        killed_at = self.steps(run)
        # The others go on before the new shard is there.
        run.wait_for("more steps", lambda: self.steps(run) > killed_at + 200)
        run.children()["actor-1"].send_signal(signal.SIGKILL)
        run.wait_for("actor-2", lambda: "actor-2" in run.children())
        self.assertEqual(run.wait(), 0, run.text())
        text = run.text()
        self.assertIn(
            "replay 1 was killed by SIGKILL; replay 2 takes its place: shard 1 of the replay starts empty, "
            "the others are kept",
            text,
        )
        self.assertIn("actor 1 was killed by SIGKILL; actor 2 takes its place", text)
        self.assertEqual(text.count("takes its place"), 2)  # nothing else was lost
        self.assertIn("replay: server (2 shards of 2,000 items)", text)
        self.assertIn("exploration: epsilon 0.4 to 0.000655 over 4 environments", text)
        result = run.result()
        self.assertBetween(result["env_steps"], 30_000, 30_000 + 2 * 3)
        self.assertLess(result["samples_per_insert"], 8.5)
        self.assertGreater(result["samples_per_insert"], 4.0)
        delays = [row["actor/weight_delay_max_env_steps"] for row in run.rows()
                  if "actor/weight_delay_max_env_steps" in row]  # fmt: skip
        self.assertLessEqual(max(delays), 100)
        self.assertEmpty(end_of(list(run.children().values()), 5))
        checkpoints = sorted((run.dir / "checkpoints").glob("[0-9]*"))
        shards = sorted(p.name for p in (checkpoints[-1] / "replay").iterdir())
        self.assertEqual(shards, ["shard-0", "shard-1", "shards.json"])
        self.assertEmpty(list((run.dir / "checkpoints").glob("tfrl-replay-*")))
        with self.subTest("resume"):
            again = self.start(run.dir.parent, total_env_steps=34_000, resume=True)
            self.assertEqual(again.wait(), 0, again.text())
            self.assertIn("resumed at 30,0", again.text())
            self.assertBetween(again.result()["env_steps"], 34_000, 34_000 + 2 * 3 * 2)
            sizes = [row["replay/size_items"] for row in again.rows()
                     if row["run/env_steps"] > 30_010 and "replay/size_items" in row]  # fmt: skip
            self.assertGreater(min(sizes), 1_000)  # it did not start empty
        with self.subTest("another number of shards is refused"):
            other = self.start(run.dir.parent, resume=True, num_replay_shards=1)
            self.assertEqual(other.wait(), 2, other.text())
            self.assertIn(
                "the checkpoint holds the replay of a run with num_replay_shards=2", other.text()
            )

    def test_a_killed_shard_of_stacked_frames_is_replaced(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        run = self.start(
            pathlib.Path(folder.name), env="ALE/Pong-v5", atari_screen_size=42, total_env_steps=12_000,
            eval_max_env_steps=5000, hidden_sizes=None,
        )  # fmt: skip
        run.wait_for_updates(50)
        run.children()["replay-1"].send_signal(signal.SIGKILL)
        run.wait_for("replay-2", lambda: "replay-2" in run.children())
        self.assertEqual(run.wait(), 0, run.text())
        self.assertIn("replay 1 was killed by SIGKILL; replay 2 takes its place", run.text())
        self.assertEqual(run.text().count("takes its place"), 1)  # nothing else was lost
        self.assertBetween(run.result()["env_steps"], 12_000, 12_000 + 2 * 3)
        self.assertGreater(run.result()["samples_per_insert"], 4.0)


if __name__ == "__main__":
    absltest.main()
