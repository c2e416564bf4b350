"""`benchmark.py`: the table of workloads, the shape of a result, and refusals; never a time."""

from __future__ import annotations

import dataclasses
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
from tfrl.benchmark.workloads import FIGURES, RIVALS, WORKLOADS, Rival, choose_workloads
from tfrl.errors import SettingError

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
    """A script of the rivals' folder as a module; it imports the rival only when it measures."""
    spec = importlib.util.spec_from_file_location("rival", compare.RIVALS / name)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(compare.RIVALS), *sys.path]):
        spec.loader.exec_module(module)
    return module


def _runs(pid):
    """Whether a process is there and no zombie that nobody has waited for."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def job_of(workload):
    task = workload.task(scale=1.0, seed=0)
    return make_job(task["algo"], **json.loads(json.dumps(task["settings"])))


class WorkloadsTest(parameterized.TestCase):
    @parameterized.named_parameters(TASKS)
    def test_is_a_valid_job_with_a_timed_piece(self, workload):
        job = job_of(workload)
        self.assertGreater(job.total_env_steps, workload.warmup_env_steps)
        if workload.algo == "dqn":
            self.assertGreaterEqual(workload.warmup_env_steps, job.config.min_replay)
        self.assertIn(workload.figure, FIGURES)
        for name, rival in workload.rivals.items():
            self.assertIn(name, RIVALS)
            self.assertTrue((compare.RIVALS / rival.script).is_file())
            self.assertLessEqual(set(rival.targets), set(FIGURES))

    @parameterized.named_parameters(
        (name, w) for name, w in TASKS if w.rivals.get("sb3") and w.algo in ("dqn", "qr_dqn")
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

    def test_the_quantiles_are_as_many(self):
        job = json.loads(job_of(WORKLOADS["qr-dqn-cartpole"]).to_json())
        arguments = rival_script("sb3_dqn.py").translate(job)
        self.assertEqual(arguments["policy_kwargs"]["n_quantiles"], 25)

    @parameterized.product(algo=("sac", "td3"), library=("sbx", "stable_baselines3"))
    def test_stable_baselines3_and_sbx_do_the_same_work_in_continuous_actions(self, algo, library):
        job = json.loads(job_of(WORKLOADS[f"{algo}-halfcheetah"]).to_json())
        script, config = rival_script("sb3_continuous.py"), job["config"]
        arguments = script.translate(job, library)
        env_steps = arguments["train_freq"] * job["topology"]["num_envs"]
        self.assertEqual(env_steps / arguments["gradient_steps"], config["env_steps_per_update"])
        self.assertEqual(arguments["policy_kwargs"]["net_arch"], config["critic_hidden_sizes"])
        for name, value in (("n_step", 3), ("critic_dropout", 0.1), ("policy_period_updates", 3)):
            changed = {**job, "config": {**config, name: value}}
            with self.assertRaisesRegex(ValueError, name):
                script.translate(changed, library)
        changed = {**job, "config": {**config, "policy_learning_rate": 1e-5}}
        if library == "sbx":
            rates = script.translate(changed, library)
            self.assertNotEqual(rates["learning_rate"], rates["qf_learning_rate"])
        else:
            with self.assertRaisesRegex(ValueError, "policy_learning_rate"):
                script.translate(changed, library)

    def test_rllib_does_the_same_work_in_continuous_actions(self):
        job = json.loads(job_of(WORKLOADS["sac-halfcheetah"]).to_json())
        script, config = rival_script("rllib_sac.py"), job["config"]
        arguments = script.translate(job)
        self.assertEqual(arguments["train_batch_size_per_learner"], config["batch_size"])
        self.assertEqual(arguments["critic_lr"], config["learning_rate"])
        for name, value in (("env_steps_per_update", 2.0), ("n_step", 3), ("temperature", 0.1)):
            changed = {**job, "config": {**config, name: value}}
            with self.assertRaisesRegex(ValueError, name):
                script.translate(changed)

    @parameterized.parameters("qmix-two-step", "qmix-foraging")
    def test_epymarl_does_the_same_work(self, name):
        job = json.loads(job_of(WORKLOADS[name]).to_json())
        script, config = rival_script("epymarl_qmix.py"), job["config"]
        arguments = script.translate(job)
        self.assertEqual(arguments["batch_size"], config["batch_size"])
        self.assertEqual(
            arguments["buffer_size"] * config["episode_length"], config["replay_capacity"]
        )
        self.assertEqual(arguments["hidden_dim"], config["core_size"])
        for setting, value in (
            ("env_steps_per_update", 4.0), ("hidden_sizes", [32]), ("core", "lstm"), ("optimizer", "rmsprop"),
        ):  # fmt: skip
            changed = {**job, "config": {**config, setting: value}}
            with self.assertRaisesRegex(ValueError, setting):
                script.translate(changed)

    @parameterized.parameters("cartpole", "pendulum", "swimmer")
    def test_random_search_of_the_contrib_package_does_the_same_work(self, env):
        job = json.loads(job_of(WORKLOADS[f"ars-{env}"]).to_json())
        script, config = rival_script("sb3_ars.py"), job["config"]
        arguments = script.translate(job)
        self.assertEqual(arguments["n_delta"], config["num_directions"])
        self.assertEqual(arguments["delta_std"], config["noise_stdev"])
        for name, value in (("policy", "mlp"), ("normalize_observations", True), ("l2_coeff", 0.1)):
            changed = {**job, "config": {**config, name: value}}
            with self.assertRaisesRegex(ValueError, name):
                script.translate(changed)

    def test_cleanrl_does_the_same_work(self):
        job = json.loads(job_of(WORKLOADS["c51-cartpole"]).to_json())
        script, config = rival_script("cleanrl_c51.py"), job["config"]
        flags = script.translate(job)
        self.assertEqual(flags["train_frequency"], config["env_steps_per_update"])
        updates = flags["target_network_frequency"] / flags["train_frequency"]
        self.assertEqual(updates, config["target_period_updates"])
        for name, value in (
            ("double", True),
            ("hidden_sizes", [64, 64]),
            ("optimizer_epsilon", 1e-8),
        ):
            changed = {**job, "config": {**config, name: value}}
            with self.assertRaisesRegex(ValueError, name):
                script.translate(changed)
        with tempfile.TemporaryDirectory() as folder:
            with mock.patch.object(sys, "path", [folder]):
                with self.assertRaisesRegex(FileNotFoundError, "cleanrl/c51.py"):
                    script.find_script()
                file = pathlib.Path(folder).resolve() / "cleanrl" / "c51.py"
                file.parent.mkdir()
                file.touch()
                self.assertEqual(script.find_script(), file)

    @parameterized.named_parameters((name, w) for name, w in TASKS if w.algo == "ppo")
    def test_rivals_of_ppo_do_the_same_work(self, workload):
        job = json.loads(job_of(workload).to_json())
        config, num_envs = job["config"], job["topology"]["num_envs"]
        batch = num_envs * config["unroll_length"]
        arguments = rival_script("sb3_ppo.py").translate(job)
        self.assertEqual(arguments["n_steps"] * num_envs, batch)
        self.assertEqual(arguments["batch_size"] * config["minibatches"], batch)
        self.assertEqual(arguments["n_epochs"], config["epochs"])
        json.dumps(arguments)
        if "rllib" in workload.rivals:
            options = workload.rivals["rllib"].options
            arguments = rival_script("rllib_ppo.py").translate(job, **options)
            self.assertEqual(arguments["train_batch_size_per_learner"], batch)
            self.assertEqual(arguments["minibatch_size"] * config["minibatches"], batch)
            self.assertEqual(arguments["num_epochs"], config["epochs"])
            json.dumps(arguments)

    @parameterized.named_parameters((name, w) for name, w in TASKS if w.algo == "impala")
    def test_rivals_of_impala_do_the_same_work(self, workload):
        job = json.loads(job_of(workload).to_json())
        config, topology = job["config"], job["topology"]
        # Whole items, or tfrl would take larger batches than asked for.
        self.assertEqual(
            config["batch_env_steps"] % (topology["num_envs"] * config["unroll_length"]), 0
        )
        queue = config["queue_items"] * topology["num_envs"] * config["unroll_length"]
        self.assertGreater(workload.warmup_env_steps, queue)
        self.assertGreater(workload.timed_env_steps, 2 * queue)
        arguments = rival_script("rllib_impala.py").translate(job)
        self.assertEqual(arguments["train_batch_size_per_learner"], config["batch_env_steps"])
        arguments = rival_script("sample_factory_appo.py").translate(job)
        self.assertEqual(arguments["batch_size"], config["batch_env_steps"])
        envs = arguments["num_workers"] * arguments["num_envs_per_worker"]
        self.assertEqual(envs, topology["num_actors"] * topology["num_envs"])

    def test_rivals_refuse_what_they_cannot_follow(self):
        job = json.loads(job_of(WORKLOADS["ppo-cartpole"]).to_json())
        for script in ("sb3_ppo.py", "rllib_ppo.py"):
            for name, value in (
                ("kl_coefficient", 0.2),
                ("core", "lstm"),
                ("shared_torso", True),
                ("minibatches", 3),
            ):
                changed = {**job, "config": {**job["config"], name: value}}
                with self.assertRaisesRegex(ValueError, name):
                    rival_script(script).translate(changed)
        decaying = json.loads(job_of(WORKLOADS["ppo-cartpole-score"]).to_json())
        with self.assertRaisesRegex(ValueError, "clip_final"):
            rival_script("rllib_ppo.py").translate(decaying)

    def test_schedules_of_rivals(self):
        shared = rival_script("shared.py")
        config = json.loads(job_of(WORKLOADS["ppo-cartpole-score"]).to_json())["config"]
        self.assertEqual(shared.learning_rate(config, 0), 1e-3)
        self.assertAlmostEqual(shared.learning_rate(config, 25_000), 0.75e-3)
        self.assertAlmostEqual(shared.clip(config, 50_000), 0.1)
        self.assertEqual(shared.clip(config, 200_000), 0.0)
        constant = json.loads(job_of(WORKLOADS["ppo-cartpole"]).to_json())["config"]
        self.assertEqual(shared.clip(constant, 50_000), 0.2)

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


class ClockTest(parameterized.TestCase):
    """The clock of the rivals' scripts."""

    def clock(self, score=None, warmup=100):
        return rival_script("shared.py").Clock(
            {"warmup_env_steps": warmup, "score": score}, 0.0, 1.5
        )

    def test_starts_after_the_warm_up_and_an_update(self):
        clock = self.clock()
        ticks = ((50, 1), (100, 0), (200, 0), (300, 2), (400, 3), (700, 9))
        for at, (env_steps, updates) in enumerate(ticks):
            with mock.patch.object(time, "perf_counter", return_value=1e6 + at):
                self.assertEqual(clock.running, at > 3)
                clock.tick(env_steps, updates)
        run = clock.run(memory_peak_mb=12.0)
        self.assertEqual((run["env_steps"], run["updates"], run["seconds"]), (400, 7, 2.0))
        self.assertEqual((run["env_steps_per_s"], run["updates_per_s"]), (200.0, 3.5))
        self.assertEqual((run["whole_env_steps"], run["whole_updates"]), (700, 9))
        self.assertEqual(set(run), set(RUN))

    def test_too_short(self):
        clock = self.clock()
        clock.tick(100, 1)
        with self.assertRaisesRegex(ValueError, "too short"):
            clock.run(0.0)

    def test_score_is_a_mean_over_100_episodes(self):
        clock = self.clock(score=10.0, warmup=0)
        clock.tick(1, 1)
        self.assertFalse(clock.score([50.0] * 99, 10, 1))
        self.assertFalse(clock.score([9.9] * 100, 20, 1))
        self.assertTrue(clock.score([0.0] * 50 + [20.0] * 50, 30, 1))
        self.assertTrue(clock.score([0.0] * 100, 40, 1))  # stays reached, at its first moment
        clock.tick(40, 2)
        run = clock.run(0.0)
        self.assertEqual(run["env_steps_to_score"], 30)
        self.assertBetween(run["seconds_to_score"], 0.0, run["whole_s"])

    def test_score_not_reached(self):
        clock = self.clock(score=10.0, warmup=0)
        clock.tick(1, 1)
        clock.tick(2, 2)
        self.assertIsNone(clock.run(0.0)["seconds_to_score"])

    def test_memory_is_that_of_all_processes(self):
        shared = rival_script("shared.py")
        alone = shared.memory_peak_mb()
        size = 200 * 2**20
        program = f"import sys, time; x = b'1' * {size}; print('ready', flush=True); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.addCleanup(child.stdout.close)
        self.assertEqual(child.stdout.readline(), b"ready\n")
        self.assertGreater(shared.memory_peak_mb(), alone + 190)


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

    def test_asynchronous_env_steps_count_when_trained_on(self):
        """Actors 300 env steps ahead of a learner with 10 updates/s of 10 env steps; 1000 in all."""
        rows = [
            {
                "run/env_steps": min(1000, 300 + 100 * t),
                "run/updates": 10 * t,
                "run/wall_time_s": float(t),
                "time/act_us": 500.0,
            }
            for t in range(11)
        ]
        piece = measure.timed_piece([*rows, rows[-1]], 200, env_steps_per_update=10.0)
        # From 200 trained env steps at 2 s to the last row with acting, at 6 s.
        self.assertEqual((piece["env_steps"], piece["updates"], piece["seconds"]), (400, 40, 4.0))
        self.assertAlmostEqual(piece["seconds_by_part"]["act"], 400 * 500e-6)
        with self.assertRaisesRegex(ValueError, "too short"):
            measure.timed_piece([*rows, rows[-1]], 600, env_steps_per_update=10.0)

    def test_score_reached(self):
        def row(steps, episodes, mean):
            return {
                "run/env_steps": steps,
                "run/episodes": episodes,
                "actor/episode_return_mean": mean,
            }

        events = [
            (1.0, {"run/env_steps": 10}),
            (2.0, row(20, 99, 9.0)),
            (3.0, row(30, 100, 7.0)),
            (4.0, row(40, 120, 8.0)),
            (5.0, row(50, 130, 9.0)),
        ]
        self.assertEqual(measure.score_reached(events, 8.0), (4.0, 40))
        self.assertIsNone(measure.score_reached(events, 9.5))

    def compared(self, workload, pythons, rates, repeats=3, **more):
        """Result, calls and lines of a comparison whose runs have the rates given, in turn."""
        calls, lines = [], []

        def run(who, command, timeout_s):
            del timeout_s
            calls.append((who, json.loads(command[-1])))
            answer = {**RUN, **more.get(who, {}), "env_steps_per_s": rates[who] + len(calls)}
            if who == "tfrl":
                answer["seconds_by_part"] = {"env": 0.5, "learn": 1.0}
            return {"settings": {"of": who}, "versions": {who: "1"}, "run": answer}

        with mock.patch.object(compare, "_run", run):
            result = compare.compare(workload, pythons, repeats, say=lines.append)
        return result, calls, lines

    def shown(self, result):
        console = Console(file=io.StringIO())
        compare.show(json.loads(json.dumps(result)), console)
        return console.file.getvalue()

    def test_in_turns_with_the_same_job(self):
        workload = WORKLOADS["dqn-cartpole"]
        rates = {"tfrl": 600.0, "sb3": 200.0}
        result, calls, lines = self.compared(workload, {"sb3": "python"}, rates)
        self.assertEqual([who for who, _ in calls], ["tfrl", "sb3"] * 3)
        self.assertEqual(calls[3][1]["job"], {"of": "tfrl", "seed": 1})
        self.assertEqual(calls[2][1]["settings"]["seed"], 1)
        self.assertLen(lines, 6)
        # 601, 603, 605 against 202, 204, 206.
        self.assertEqual(result["ratios"]["sb3"]["env_steps_per_s"], 603 / 204)
        self.assertAlmostEqual(sum(result["parts_us"].values()), 2.0 / 400 * 1e6)
        self.assertEqual(result["warnings"], [])
        self.assertIn("6, missed", self.shown(result))

    def test_several_rivals(self):
        targets = {"env_steps_per_s": 2.0}
        options = {"algorithm": "IMPALA"}
        rivals = {"sb3": Rival("sb3_dqn.py", targets), "rllib": Rival("rllib_ppo.py", {}, options)}
        workload = dataclasses.replace(WORKLOADS["dqn-cartpole"], rivals=rivals)
        rates = {"tfrl": 600.0, "sb3": 200.0, "rllib": 100.0}
        pythons = {"sb3": "one", "rllib": "two"}
        result, calls, _ = self.compared(workload, pythons, rates, repeats=2)
        self.assertEqual([who for who, _ in calls], ["tfrl", "sb3", "rllib"] * 2)
        self.assertEqual(calls[2][1]["options"], options)
        self.assertEqual(result["targets"], {"sb3": targets, "rllib": {}})
        self.assertEqual(result["ratios"]["sb3"]["env_steps_per_s"], 602.5 / 203.5)
        self.assertEqual(result["ratios"]["rllib"]["env_steps_per_s"], 602.5 / 104.5)
        self.assertNotIn("missed", self.shown(result))

    def test_time_to_a_score_is_better_when_shorter(self):
        rival = Rival("sb3_dqn.py", {"seconds_to_score": 3.0})
        workload = dataclasses.replace(
            WORKLOADS["dqn-cartpole"], figure="seconds_to_score", rivals={"sb3": rival}, score=9.0
        )
        more = {
            "tfrl": {"seconds_to_score": 4.0, "env_steps_to_score": 500},
            "sb3": {"seconds_to_score": 10.0, "env_steps_to_score": 400},
        }
        rates = {"tfrl": 600.0, "sb3": 200.0}
        result, calls, lines = self.compared(workload, {"sb3": "python"}, rates, **more)
        self.assertEqual([task["score"] for _, task in calls], [9.0] * 6)
        self.assertEqual(result["ratios"]["sb3"]["seconds_to_score"], 2.5)
        self.assertEqual(result["ratios"]["sb3"]["env_steps_to_score"], 0.8)
        self.assertEndsWith(lines[0], "score reached after 4.0 s and 500 env steps")
        self.assertIn("3, missed", self.shown(result))

        more["tfrl"] = {"seconds_to_score": None, "env_steps_to_score": None}
        result, _, lines = self.compared(workload, {"sb3": "python"}, rates, **more)
        self.assertIsNone(result["medians"]["tfrl"]["seconds_to_score"])
        self.assertNotIn("seconds_to_score", result["ratios"]["sb3"])
        self.assertEqual(result["warnings"], ["3 of 3 runs of tfrl missed the score"])
        self.assertEndsWith(lines[0], "score not reached")
        self.assertIn("3, missed", self.shown(result))

    def test_other_work_is_told(self):
        ours = {**RUN, "who": "tfrl", "seconds_by_part": {}}
        theirs = {**RUN, "who": "sb3", "whole_updates": 300}
        (warning,) = compare.summary([ours, theirs], "updates_per_s")["warnings"]
        self.assertIn("not the same work: 0.1875 updates per env step by tfrl", warning)

    def test_parts_of_processes_side_by_side_have_no_rest(self):
        ours = {**RUN, "who": "tfrl", "seconds_by_part": {"act": 1.5, "learn": 1.0}}
        parts = compare.summary([ours], "env_steps_per_s")["parts_us"]
        self.assertEqual(parts, {"act": 3750.0, "learn": 2500.0})

    def test_a_failed_run_says_why(self):
        command = [sys.executable, "-c", "raise ValueError('no such thing')"]
        with self.assertRaisesRegex(compare.RunFailed, r"(?s)sb3: exit code 1.*no such thing"):
            compare._run("sb3", command, 60.0)
        with self.assertRaisesRegex(compare.RunFailed, "sb3: not done after 0.1 s"):
            compare._run("sb3", [sys.executable, "-c", "import time; time.sleep(60)"], 0.1)

    def test_a_run_that_is_cut_short_leaves_no_child_behind(self):
        with tempfile.TemporaryDirectory() as folder:
            pid = pathlib.Path(folder) / "pid"
            command = ["sh", "-c", f"sleep 300 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"]
            with self.assertRaisesRegex(compare.RunFailed, "not done after 2 s"):
                compare._run("rllib", command, 2.0)
            child = int(pid.read_text())
        deadline = time.monotonic() + 10
        while _runs(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertFalse(_runs(child))


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
            (["--rival_python=absent"], "rival_python='absent': no program there"),
            (
                ["--workloads=dqn-pong", f"--sample_factory_python={sys.executable}"],
                "sample_factory_python: Sample Factory has no dqn-pong; expected some of ",
            ),
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
