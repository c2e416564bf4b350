"""`evaluate.py`: seeded games, videos without a screen, and one line for what cannot be used."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized

import tfrl
import tfrl.types
from tfrl.errors import SettingError
from tfrl.logs.video import VideoRecorder
from tfrl.runtime.storage import folders
from tfrl.testing.runs import untrained_run
from tfrl.types import VectorStep

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEAVY = ("tensorflow", "reverb", "gymnasium", "keras")

# Runs the launcher with some packages hidden and tells which heavy ones it imported.
PROBE = """
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {hidden!r} else find(name, *rest)
sys.argv = ["evaluate.py", *sys.argv[1:]]
try:
    runpy.run_path({path!r}, run_name="__main__")
finally:
    print("imported:", *[name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""


def call(folder, *argv, hidden=()):
    """Exit code, stdout, lines of stderr, and the heavy packages imported."""
    path = str(ROOT / "launchers" / "evaluate.py")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    environ.pop("DISPLAY", None)
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(path=path, heavy=HEAVY, hidden=hidden), *argv],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    *lines, imported = done.stderr.splitlines()
    return done.returncode, done.stdout, lines, imported.split()[1:]


class RefusalTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        for name in ("dqn-CartPole-v1-1", "unfinished"):
            (self.folder / "runs" / name).mkdir(parents=True)
            (self.folder / "runs" / name / "job.json").write_text("{}")

    def test_help_is_light(self):
        code, out, lines, imported = call(self.folder, "--help")
        self.assertEqual((code, lines, imported), (0, [], []))
        self.assertIn("--episodes  int; default 100; at least 1", out)

    @parameterized.parameters(
        ((), "run_dir: not given; expected the folder of a run; the newest run is runs/"),
        (("--run_dir=runs/dqn-CartPol-v1-1",), "run_dir='runs/dqn-CartPol-v1-1': no run there; "
         "did you mean runs/dqn-CartPole-v1-1?"),
        (("--run_dir=runs/unfinished/export",), "run_dir='runs/unfinished/export': no run there; "
         "did you mean runs/unfinished?"),
        (("--run_dir=runs/unfinished",), "run_dir='runs/unfinished': this run has not finished"),
        (("--run_dri=a",), "--run_dri: unknown flag; did you mean --run_dir?"),
        (("--episodes=0",), "episodes=0: expected at least 1"),
        (("--seed=one",), "--seed=one: expected int"),
    )  # fmt: skip
    def test_refused_before_anything_heavy_is_imported(self, argv, message):
        code, out, lines, imported = call(self.folder, *argv)
        self.assertEqual((code, out, imported), (2, "", []))
        self.assertLen(lines, 1)
        self.assertStartsWith(lines[0], f"error: {message}")

    def test_missing_moviepy_names_the_extra(self):
        run = untrained_run(self.folder / "runs" / "a")
        code, _, lines, imported = call(
            self.folder, f"--run_dir={run}", "--record_video", hidden=("imageio_ffmpeg",)
        )
        self.assertEqual(code, 2)
        self.assertNotIn("tensorflow", imported)
        self.assertEqual(
            lines,
            ["error: record_video: moviepy and its imageio-ffmpeg are not installed; "
             "pip install 'tfrl[video]'"],
        )  # fmt: skip


class PlayTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def test_prints_what_the_python_door_gives(self):
        run = untrained_run(self.folder / "a", env="CartPole-v1")
        argv = (f"--run_dir={run}", "--episodes=7", "--seed=3", "--num_envs=2")
        code, out, lines, _ = call(self.folder, *argv, "--json")
        self.assertEqual(code, 0, lines)
        expected = tfrl.evaluate(run, episodes=7, seed=3, num_envs=2).returns
        found = json.loads(out)
        self.assertEqual((found["episodes"], found["seed"], found["mode"]), (7, 3, "greedy"))
        for name, function in (("mean", np.mean), ("std", np.std), ("min", min), ("max", max)):
            self.assertAlmostEqual(found[f"return_{name}"], float(function(expected)))
        self.assertStartsWith(lines[-1], f"return: {np.mean(expected):.2f} +- ")

    def test_a_run_of_more_devices_is_played_on_one(self):
        run = untrained_run(self.folder / "a", env="CartPole-v1", total_env_steps=2_000)
        job = json.loads((run / "job.json").read_text())
        job["topology"]["num_learner_devices"] = 4
        (run / "job.json").write_text(json.dumps(job))
        self.assertLen(tfrl.evaluate(run, episodes=2).returns, 2)

    def test_arrays_of_another_policy_are_refused(self):
        run = untrained_run(self.folder / "a", env="CartPole-v1", hidden_sizes=(8,))
        other = untrained_run(self.folder / "b", env="CartPole-v1", hidden_sizes=(9,))
        (run / folders.POLICY).write_bytes((other / folders.POLICY).read_bytes())
        with self.assertRaisesRegex(SettingError, "policy.npz: its arrays have shapes .*one run"):
            tfrl.load(run)

    @parameterized.parameters(
        (dict(episodes=0), "episodes=0: expected an int of at least 1"),
        (dict(episodes="x"), "episodes='x': expected an int"),
        (dict(seed=-1), "seed=-1: expected an int of at least 0"),
        (dict(num_envs=0), "num_envs=0: expected an int of at least 1"),
    )
    def test_the_python_door_refuses_as_the_launcher(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            tfrl.evaluate(self.folder, **settings)

    def test_stochastic_is_another_policy(self):
        # A fresh network prefers one action everywhere; half of the exploring ones differ.
        run = untrained_run(
            self.folder / "a", env="CartPole-v1", epsilon_final=1.0, epsilon_initial=1.0
        )
        greedy = tfrl.evaluate(run, episodes=10, seed=0)
        exploring = tfrl.evaluate(run, episodes=10, seed=0, greedy=False)
        self.assertEqual(greedy, tfrl.evaluate(run, episodes=10, seed=0))
        self.assertEqual(exploring, tfrl.evaluate(run, episodes=10, seed=0, greedy=False))
        self.assertNotEqual(greedy.returns, exploring.returns)

    def test_stochastic_is_the_least_random_actor_of_a_ladder(self):
        # 0.4 ** 8 is below a hundredth of one action in these games, which end within 200 steps here.
        run = untrained_run(
            self.folder / "a", env="CartPole-v1", backend="processes", num_actors=2,
            epsilon_ladder="actor",
        )  # fmt: skip
        greedy = tfrl.evaluate(run, episodes=2, seed=0)
        exploring = tfrl.evaluate(run, episodes=2, seed=0, greedy=False)
        self.assertEqual(greedy.returns, exploring.returns)

    def test_a_moved_run_that_was_resumed(self):
        run = untrained_run(self.folder / "a", env="CartPole-v1")
        job = json.loads((run / "job.json").read_text())
        job.update(resume=True, run_dir="elsewhere")
        (run / "job.json").write_text(json.dumps(job))
        self.assertLen(tfrl.evaluate(run.rename(self.folder / "b"), episodes=3).returns, 3)


class VideoTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        for package in ("imageio_ffmpeg", "pygame", "ale_py", "cv2", "mujoco"):
            if importlib.util.find_spec(package) is None:
                self.skipTest(f"{package} is not installed")
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def check_video(self, file, size):
        """More than one picture, and one that is not all black."""
        import imageio_ffmpeg

        frames = imageio_ffmpeg.read_frames(str(file))
        facts = next(frames)
        pictures = [np.frombuffer(frame, np.uint8) for frame in frames]
        self.assertEqual(facts["size"], size)
        self.assertGreater(len(pictures), 5)
        self.assertGreater(pictures[-1].std(), 1.0)
        return len(pictures)

    def test_games_with_their_score(self):
        self.check_games("CartPole-v1", (600, 400))

    @pytest.mark.slow
    def test_atari_games_with_their_score(self):
        self.check_games("ALE/Pong-v5", (320, 420))

    def check_games(self, env, size):
        run = untrained_run(self.folder / "a", env=env, max_episode_steps=20)
        argv = (f"--run_dir={run}", "--episodes=1", "--record_video", "--video_episodes=2")
        code, out, lines, _ = call(self.folder, *argv)
        self.assertEqual(code, 0, lines)
        files = sorted((run / "videos").iterdir())
        self.assertLen(files, 2)
        name = env.replace("/", "_")
        for number, file in enumerate(files, 1):
            self.assertRegex(file.name, rf"^{name}-seed0-{number}-score-?\d+\.\d\.mp4$")
            self.assertIn(f"video:  {file}\n", out)
            length = self.check_video(file, size)
            if env == "CartPole-v1":  # a reward of 1 per step, and the picture of the reset
                score = float(file.stem.rpartition("score")[2])
                self.assertAlmostEqual(length, score + 1, delta=1)

    def test_mujoco(self):
        # In a process of its own: MuJoCo chooses how to draw when it is imported.
        program = """
import pathlib, sys
import numpy as np
from tfrl.logs import video
video.prepare()
from tfrl.envs.make import make_vector
from tfrl.job import EnvPlan
plan = EnvPlan(env="HalfCheetah-v5", env_backend="sync", max_episode_steps=8,
               env_kwargs={"render_mode": "rgb_array"})
env = video.VideoRecorder(make_vector(plan, 1, 0), pathlib.Path("videos"), "cheetah", 20)
env.reset(0)
while not env.files:
    env.step(np.zeros((1, 6), np.float32))
env.step(np.zeros((1, 6), np.float32))
env.close()
"""
        environ = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MUJOCO_GL")}
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.folder,
            env={**environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if "cannot be drawn" in done.stderr and "EGL" in done.stderr:
            self.skipTest("this machine has no EGL, with which MuJoCo draws without a screen")
        self.assertEqual(done.returncode, 0, done.stderr)
        (file,) = (self.folder / "videos").iterdir()  # the unfinished second game leaves nothing
        self.check_video(file, (480, 480))

    def test_an_environment_that_cannot_be_drawn(self):
        run = untrained_run(self.folder / "a", env="tfrl.testing.fakes:TruncatingChain")
        code, _, lines, _ = call(self.folder, f"--run_dir={run}", "--record_video")
        self.assertEqual(code, 2)
        self.assertContainsSubsequence(lines[-1], "error: ")
        self.assertIn("render_mode", lines[-1])

    def test_a_picture_of_the_wrong_kind(self):
        class Blind:
            num_envs, backend = 1, "sync"
            spec = tfrl.types.EnvSpec("Blind", None, None)

            def reset(self, seed=None):
                return np.zeros((1, 1), np.float32)

            def render(self, row):
                return None

        class Growing(Blind):
            pictures = 0

            def render(self, row):
                self.pictures += 1
                return np.zeros((320, 320 + 2 * self.pictures, 3), np.uint8)

            def step(self, action):
                none = np.zeros(1, np.bool_)
                return VectorStep(none, none, np.zeros(1), none, none, none, ())

        env = VideoRecorder(Growing(), self.folder, "growing", 30)
        env.reset(0)
        with self.assertRaisesRegex(
            ValueError, r"shape \[320, 324, 3\].* after pictures of shape \[320, 322, 3\]"
        ):
            env.step(np.zeros(1))
        env._drop()
        env = VideoRecorder(Blind(), self.folder, "blind", 30)
        with self.assertRaisesRegex(ValueError, "gave a NoneType: expected a uint8 array"):
            env.reset(0)


if __name__ == "__main__":
    absltest.main()
