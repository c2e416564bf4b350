"""`benchmark.py`: the table of workloads, the shape of a result, and refusals; never a time."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from unittest import mock

from absl.testing import absltest, parameterized
from rich.console import Console

from tfrl.api import make_job
from tfrl.benchmark import compare, measure
from tfrl.benchmark.workloads import FIGURES, WORKLOADS, choose_workloads
from tfrl.config.settings import SettingError

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASKS = [(name, workload) for name, workload in WORKLOADS.items()]
RUN = {
    "env_steps": 400,
    "updates": 100,
    "seconds": 2.0,
    "env_steps_per_s": 200.0,
    "updates_per_s": 50.0,
    "whole_env_steps": 800,
    "whole_updates": 150,
    "whole_s": 5.0,
    "whole_env_steps_per_s": 160.0,
    "import_s": 1.0,
    "outside_s": 2.0,
    "memory_peak_mb": 300.0,
}


def rival_script(name):
    """A rival's script as a module; it imports the rival only when it measures."""
    spec = importlib.util.spec_from_file_location("rival", compare.RIVALS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def job_of(workload):
    task = workload.task(scale=1.0, seed=0)
    return make_job(task["algo"], **json.loads(json.dumps(task["settings"])))


class WorkloadsTest(parameterized.TestCase):
    @parameterized.named_parameters(TASKS)
    def test_is_a_valid_job_with_a_timed_piece(self, workload):
        job = job_of(workload)
        self.assertGreater(job.total_env_steps, workload.warmup_env_steps)
        self.assertGreaterEqual(workload.warmup_env_steps, job.config.min_replay)
        self.assertIn(workload.figure, FIGURES)
        for rival in workload.rivals.values():
            self.assertTrue((compare.RIVALS / rival.script).is_file())
            self.assertLessEqual(set(rival.targets), set(FIGURES))

    @parameterized.named_parameters(
        (name, w) for name, w in TASKS if w.rivals.get("sb3") and w.algo == "dqn"
    )
    def test_stable_baselines3_does_the_same_work(self, workload):
        job = json.loads(job_of(workload).to_json())
        arguments, config = rival_script("sb3_dqn.py").translate(job), job["config"]
        env_steps = arguments["train_freq"] * job["topology"]["num_envs"]
        per_update = config["env_steps_per_update"]
        self.assertEqual(env_steps / arguments["gradient_steps"], per_update)
        interval = arguments["target_update_interval"]
        self.assertEqual(interval / per_update, config["target_period_updates"])
        self.assertEqual(
            round(arguments["exploration_fraction"] * job["total_env_steps"]),
            config["epsilon_decay_env_steps"],
        )

    def test_stable_baselines3_refuses_what_it_cannot_follow(self):
        job = json.loads(job_of(WORKLOADS["dqn-cartpole"]).to_json())
        for name, value in (("double", True), ("prioritized", True), ("huber_delta", 0.5)):
            changed = {**job, "config": {**job["config"], name: value}}
            with self.assertRaisesRegex(ValueError, name):
                rival_script("sb3_dqn.py").translate(changed)

    def test_scale_leaves_the_warm_up_alone(self):
        workload = WORKLOADS["dqn-cartpole"]
        task = workload.task(scale=1e-3, seed=7)
        total = workload.warmup_env_steps + math.ceil(workload.timed_env_steps / 1000)
        self.assertEqual(task["settings"]["total_env_steps"], total)
        self.assertEqual(task["settings"]["seed"], 7)

    def test_choice(self):
        self.assertEqual(choose_workloads(["all"]), list(WORKLOADS.values()))
        chosen = choose_workloads(["dqn-pong", "dqn-cartpole", "dqn-pong"])
        self.assertEqual([w.name for w in chosen], ["dqn-pong", "dqn-cartpole"])
        with self.assertRaisesRegex(SettingError, "did you mean dqn-cartpole?"):
            choose_workloads(["dqn-cartpol"])
        with self.assertRaisesRegex(SettingError, "none given"):
            choose_workloads([])


class FiguresTest(parameterized.TestCase):
    def rows(self):
        """100 env steps a second from 0; updates from 200 env steps on; then the final row."""
        rows = [
            {
                "run/env_steps": steps,
                "run/updates": max(0, steps - 100) // 4,
                "run/wall_time_s": steps / 100,
                "time/env_us": 1000.0,
                "time/learn_us": 3000.0,
            }
            for steps in range(0, 700, 100)
        ]
        evaluation = {"run/env_steps": 600, "evaluator/return_mean": 9.0}
        return [*rows, evaluation, {**rows[-1], "run/wall_time_s": 99.0}]

    def test_timed_piece(self):
        piece = measure.timed_piece(self.rows(), 150)
        self.assertEqual((piece["env_steps"], piece["updates"], piece["seconds"]), (400, 100, 4.0))
        self.assertEqual((piece["env_steps_per_s"], piece["updates_per_s"]), (100.0, 25.0))
        self.assertAlmostEqual(piece["seconds_by_part"]["learn"], 1.2)
        self.assertAlmostEqual(piece["seconds_by_part"]["env"], 0.4)
        self.assertEqual(piece["seconds_by_part"]["write"], 0.0)

    def test_timed_piece_starts_after_the_first_update(self):
        self.assertEqual(measure.timed_piece(self.rows(), 0)["env_steps"], 400)

    def test_too_short(self):
        with self.assertRaisesRegex(ValueError, "too short"):
            measure.timed_piece(self.rows(), 600)

    def test_in_turns_with_the_same_job(self):
        calls = []

        def run(who, command, timeout_s):
            del timeout_s
            calls.append((who, json.loads(command[-1])))
            rate = {"tfrl": 600.0, "sb3": 200.0}[who] + len(calls)
            answer = {**RUN, "env_steps_per_s": rate}
            if who == "tfrl":
                answer["seconds_by_part"] = {"env": 0.5, "learn": 1.0}
            return {"settings": {"of": who}, "versions": {who: "1"}, "run": answer}

        workload, lines = WORKLOADS["dqn-cartpole"], []
        with mock.patch.object(compare, "_run", run):
            result = compare.compare(workload, "sb3", "python", 3, say=lines.append)
        self.assertEqual([who for who, _ in calls], ["tfrl", "sb3"] * 3)
        self.assertEqual(calls[3][1]["job"], {"of": "tfrl", "seed": 1})
        self.assertEqual(calls[2][1]["settings"]["seed"], 1)
        self.assertLen(lines, 6)
        # 601, 603, 605 against 202, 204, 206.
        self.assertEqual(result["ratios"]["env_steps_per_s"], 603 / 204)
        self.assertAlmostEqual(sum(result["parts_us"].values()), 1e6 / 603)
        self.assertEqual(result["warnings"], [])
        console = Console(file=io.StringIO(), width=120)
        compare.show(json.loads(json.dumps(result)), console)
        self.assertIn("4, missed", console.file.getvalue())

    def test_other_work_is_told(self):
        ours = {**RUN, "who": "tfrl", "seconds_by_part": {}}
        theirs = {**RUN, "who": "sb3", "whole_updates": 300}
        (warning,) = compare.summary([ours, theirs], "updates_per_s")["warnings"]
        self.assertIn("not the same work: 0.1875 updates per env step by tfrl", warning)

    def test_a_failed_run_says_why(self):
        command = [sys.executable, "-c", "raise ValueError('no such thing')"]
        with self.assertRaisesRegex(compare.RunFailed, r"(?s)sb3: exit code 1.*no such thing"):
            compare._run("sb3", command, 60.0)
        with self.assertRaisesRegex(compare.RunFailed, "sb3: not done after 0.1 s"):
            compare._run("sb3", [sys.executable, "-c", "import time; time.sleep(60)"], 0.1)


class LauncherTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def call(self, *argv):
        return subprocess.run(
            [sys.executable, "-X", "importtime", ROOT / "launchers" / "benchmark.py", *argv],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=540,
        )

    def test_tiny_run(self):
        done = self.call("--workloads=dqn-cartpole", "--repeats=1", "--scale=0.1", "--out=a/b.json")
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        self.assertNotIn("| tensorflow\n", done.stderr)  # its memory would count as the runs'
        self.assertEqual(done.stdout.splitlines()[-1], "a/b.json")
        text = (self.folder / "a" / "b.json").read_text()
        result = json.loads(text)
        (run,) = result["runs"]
        facts = {"who", "turn", "load_1min_before", "seconds_by_part"}
        self.assertEqual(set(run), {*RUN, *facts})
        self.assertEqual(run["whole_env_steps"], 8_000)
        self.assertGreater(run["updates"], 0)
        self.assertEqual(set(result["medians"]), {"tfrl"})
        self.assertEqual(result["ratios"], {})
        parts = ["env", "act", "write", "sample", "learn", "rest"]
        self.assertEqual(list(result["parts_us"]), parts)
        self.assertEqual(set(result["machine"]), {"cpu", "cores", "memory_gb", "system"})
        self.assertEqual(result["settings"]["tfrl"]["config"]["double"], False)
        self.assertIn("tensorflow", result["versions"]["tfrl"])
        self.assertNotIn(str(self.folder), text)
        self.assertNotIn(tempfile.gettempdir(), text)

    def test_refusals(self):
        (self.folder / "file").write_text("")
        for argv, message in (
            (["--workloads=dqn-cartpol"], "workloads='dqn-cartpol': expected one of all, "),
            (["--workloads="], "workloads: none given"),
            (["--repeat=1"], "--repeat: unknown flag; did you mean --repeats?"),
            (["--repeats=0"], "repeats=0: expected at least 1"),
            (["--rival=sb4"], "rival='sb4': expected one of sb3; did you mean sb3?"),
            (["--rival_python=absent"], "rival_python='absent': no program there"),
            (["--out=a.json"], "out='a.json': one file for "),
            (["--out=file"], "out='file': "),
        ):
            done = self.call(*argv)
            self.assertEqual(done.returncode, 2)
            self.assertStartsWith(done.stderr.splitlines()[-1], f"error: {message}")
            self.assertNotIn("Traceback", done.stderr)

    def test_a_stopped_launcher_leaves_no_run_behind(self):
        # In place of a run: a script that tells its process id and waits.
        program = f"""
import runpy, sys
from tfrl.benchmark import compare
compare.sys = type("sys", (), {{"executable": {str(self.folder / "wait")!r}}})
sys.argv = ["benchmark.py", "--workloads=dqn-cartpole", "--out=a.json"]
runpy.run_path({str(ROOT / "launchers" / "benchmark.py")!r}, run_name="__main__")
"""
        wait = self.folder / "wait"
        wait.write_text(
            f"#!/bin/sh\necho $$ > {self.folder}/pid.new\n"
            f"mv {self.folder}/pid.new {self.folder}/pid\nexec sleep 300\n"
        )
        wait.chmod(0o755)
        launcher = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(launcher.kill)
        deadline = time.monotonic() + 60
        while not (self.folder / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        launcher.terminate()
        _, said = launcher.communicate(timeout=60)
        self.assertEqual((launcher.returncode, said.splitlines()[-1][:7]), (130, "stopped"), said)
        with self.assertRaises(ProcessLookupError):
            os.kill(int((self.folder / "pid").read_text()), 0)

    def test_list(self):
        done = self.call("--list")
        self.assertEqual(done.returncode, 0)
        self.assertEqual([line.split()[0] for line in done.stdout.splitlines()], list(WORKLOADS))


if __name__ == "__main__":
    absltest.main()
