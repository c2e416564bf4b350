"""`configs/<algo>/rllib2018.flags` say what RLlib's documentation of December 2018 lists, key by key.

The tables below are those lists. A row is a key, its default there, the setting that stands for it here and that
setting's value; without a setting the key has no counterpart, and the file says why.
"""

import dataclasses
import pathlib
import re
from typing import Any, NamedTuple

from absl.testing import parameterized

from tfrl.config import flags

ROOT = pathlib.Path(__file__).parents[1]


class Row(NamedTuple):
    key: str
    default: Any
    setting: str = ""
    value: Any = None


# Settings of all algorithms, where the page of an algorithm does not say otherwise.
COMMON = (
    Row("gamma", 0.99, "discount", 0.99),
    Row("horizon", None, "max_episode_steps", None),
    Row("clip_rewards", None, "clip_rewards", None),
    Row("num_envs_per_worker", 1, "num_envs", 1),
    Row("fcnet_hiddens", [256, 256], "hidden_sizes", (256, 256)),
    Row("fcnet_activation", "tanh", "activation", "tanh"),
    Row("free_log_std", False, "free_log_std", False),
    Row("use_lstm", False, "core", "none"),
    Row("lstm_cell_size", 256, "core_size", 256),
    Row("lstm_use_prev_action_reward", False, "observe_previous", False),
    Row("dim", 84, "atari_screen_size", 84),
    Row("framestack", True, "atari_frame_stack", 4),
)

PAGES = {
    "pg": (
        Row("num_workers", 0, "num_actors", 1),  # in the process of the learner
        Row("lr", 4e-4, "learning_rate", 4e-4),
        Row("sample_batch_size", 200),
        Row("train_batch_size", 200),
        Row("batch_mode", "truncate_episodes"),
        Row("num_gpus", 0),
        Row("observation_filter", "NoFilter", "normalize_observations", False),
    ),
    "a2c": (
        Row("num_workers", 2, "num_actors", 2),
        Row("sample_batch_size", 20, "unroll_length", 20),
        Row("train_batch_size", 200),
        Row("use_pytorch", False),
        Row("lambda", 1.0, "gae_lambda", 1.0),
        # Of the gradient of a sum over 2 x 20 steps there, of a mean here.
        Row("grad_clip", 40.0, "gradient_clip_norm", 40.0 / (2 * 20)),
        Row("lr", 1e-4, "learning_rate", 1e-4),
        Row("lr_schedule", None, "learning_rate_final", None),
        Row("vf_loss_coeff", 0.5, "value_coefficient", 0.5),
        Row("entropy_coeff", -0.01, "entropy_coefficient", 0.01),
        Row("min_iter_time_s", 10),
        Row("sample_async", False),
        Row("num_gpus", 0),
        Row("observation_filter", "NoFilter", "normalize_observations", False),
    ),
    "a3c": (
        Row("num_workers", 2, "num_actors", 2),
        Row("sample_batch_size", 10, "unroll_length", 10),
        Row("train_batch_size", 200),
        Row("use_pytorch", False),
        Row("lambda", 1.0, "gae_lambda", 1.0),
        Row("grad_clip", 40.0, "gradient_clip_norm", 40.0 / 10),
        Row("lr", 1e-4, "learning_rate", 1e-4),
        Row("lr_schedule", None, "learning_rate_final", None),
        Row("vf_loss_coeff", 0.5, "value_coefficient", 0.5),
        Row("entropy_coeff", -0.01, "entropy_coefficient", 0.01),
        Row("min_iter_time_s", 5),
        Row("sample_async", True),
        Row("grads_per_step", 100),
        Row("num_gpus", 0),
        Row("observation_filter", "NoFilter", "normalize_observations", False),
    ),
    "ppo": (
        Row("num_workers", 2, "num_actors", 2),
        Row("use_gae", True),
        Row("lambda", 1.0, "gae_lambda", 1.0),
        Row("kl_coeff", 0.2, "kl_coefficient", 0.2),
        Row("sample_batch_size", 200, "unroll_length", 200),
        Row("train_batch_size", 4000, "batch_env_steps", 4000),
        Row("sgd_minibatch_size", 128, "minibatches", 4000 // 128),
        Row("num_sgd_iter", 30, "epochs", 30),
        Row("lr", 5e-5, "learning_rate", 5e-5),
        Row("lr_schedule", None, "learning_rate_final", None),
        Row("vf_share_layers", False, "shared_torso", False),
        Row("vf_loss_coeff", 1.0, "value_coefficient", 1.0),
        Row("entropy_coeff", 0.0, "entropy_coefficient", 0.0),
        Row("clip_param", 0.3, "clip", 0.3),
        Row("vf_clip_param", 10.0, "value_clip", 10.0),
        Row("kl_target", 0.01, "kl_target", 0.01),
        Row("batch_mode", "truncate_episodes"),
        Row("observation_filter", "MeanStdFilter", "normalize_observations", True),
        Row("simple_optimizer", False),
        Row("straggler_mitigation", False),
        Row("num_gpus", 0),
    ),
    "impala": (
        Row("vtrace", True, "vtrace", True),
        Row("vtrace_clip_rho_threshold", 1.0, "rho_bar", 1.0),
        Row("vtrace_clip_pg_rho_threshold", 1.0, "pg_rho_bar", 1.0),
        Row("sample_batch_size", 50, "unroll_length", 50),
        Row("train_batch_size", 500, "batch_env_steps", 500),
        Row("min_iter_time_s", 10),
        Row("num_workers", 2, "num_actors", 2),
        Row("num_gpus", 1, "num_learner_devices", 1),
        Row("num_data_loader_buffers", 1),
        Row("minibatch_buffer_size", 1, "pass_buffer_batches", 1),
        Row("num_sgd_iter", 1, "passes", 1),
        Row("replay_proportion", 0.0, "replay_proportion", 0.0),
        Row("replay_buffer_num_slots", 100, "replay_unrolls", 100),
        # For each of 2 workers there, for all here.
        Row("max_sample_requests_in_flight_per_worker", 2, "queue_items", 2 * 2),
        Row("broadcast_interval", 1, "broadcast_interval_updates", 1),
        Row("grad_clip", 40.0, "gradient_clip_norm", 40.0 / 500),
        Row("opt_type", "adam", "optimizer", "adam"),
        Row("lr", 5e-4, "learning_rate", 5e-4),
        Row("lr_schedule", None, "learning_rate_final", None),
        Row("decay", 0.99, "rmsprop_decay", 0.99),
        Row("momentum", 0.0),
        Row("epsilon", 0.1),  # of RMSProp, which is not the default
        Row("vf_loss_coeff", 0.5, "value_coefficient", 0.5),
        Row("entropy_coeff", -0.01, "entropy_coefficient", 0.01),
        Row("observation_filter", "NoFilter", "normalize_observations", False),
    ),
}
# APPO came in 2019: keys of IMPALA, with losses that were means already, and keys of its own.
_APPO = (
    Row("use_gae", True),
    Row("lambda", 1.0, "trace_lambda", 1.0),
    Row("clip_param", 0.4, "clip", 0.4),
    Row("use_kl_loss", True, "kl_coefficient", 1.0),
    Row("kl_coeff", 1.0, "kl_coefficient", 1.0),
    Row("kl_target", 0.01, "kl_target", 0.01),
    Row("target_update_freq", 1 * 1, "target_period_updates", 1),
    Row("grad_clip", 40.0, "gradient_clip_norm", 40.0),
    Row("entropy_coeff", 0.01, "entropy_coefficient", 0.01),
)
_OWN = {row.key for row in _APPO}
PAGES["appo"] = (*(row for row in PAGES["impala"] if row.key not in _OWN), *_APPO)

# What was fixed in the code and no key.
_ADAM = {"optimizer": "adam", "optimizer_epsilon": 1e-8}
FIXED = {
    "pg": {
        **_ADAM, "backend": "inprocess", "learning_rate_final": None, "gradient_clip_norm": None,
        "entropy_coefficient": 0.0, "baseline": False, "normalize_returns": False,
    },
    "a2c": {**_ADAM, "backend": "processes", "shared_torso": True},
    "a3c": {**_ADAM, "backend": "processes", "shared_torso": True},
    "ppo": {
        **_ADAM, "backend": "processes", "normalize_advantage": "batch", "gradient_clip_norm": None,
        "clip_final": None,
    },
    "impala": {**_ADAM, "backend": "processes", "shared_torso": True, "trace_lambda": 1.0},
    "appo": {**_ADAM, "backend": "processes", "shared_torso": True},
}  # fmt: skip


class Rllib2018Test(parameterized.TestCase):
    def read(self, algo):
        """All settings of the file's job, those that it gives itself, and its comments."""
        path = ROOT / "configs" / algo / "rllib2018.flags"
        parsed = flags.parse_given(flags.expand([f"--algo={algo}", f"--flagfile={path}"]))
        job = parsed.job()
        parts = (job.config, job.env, job.topology, job.evaluation, job.checkpoint, job.log)
        settings = {k: v for part in parts for k, v in dataclasses.asdict(part).items()}
        given = {name for section in parsed.given.values() for name in section}
        lines = path.read_text(encoding="utf-8").splitlines()
        return settings, given, " ".join(line.strip("# ") for line in lines if line[0] == "#")

    @parameterized.parameters(*PAGES)
    def test_every_key_has_its_value(self, algo):
        settings, given, comments = self.read(algo)
        for row in (*COMMON, *PAGES[algo]):
            if row.setting:
                self.assertIn(row.setting, given, f"{row.key}: the default here may change")
                self.assertEqual(settings[row.setting], row.value, row.key)
            else:
                why = rf"\b{row.key}={row.default}\b[^:]*: \w+"
                self.assertRegex(comments, why, f"{row.key}: why it is not there")
        for name, value in FIXED[algo].items():
            self.assertIn(name, given)
            self.assertEqual(settings[name], value, name)

    @parameterized.parameters(*PAGES)
    def test_the_file_says_nothing_else_and_names_the_keys(self, algo):
        _, given, comments = self.read(algo)
        rows = (*COMMON, *PAGES[algo])
        self.assertEqual(given, {row.setting for row in rows if row.setting} | set(FIXED[algo]))
        for row in PAGES[algo]:
            self.assertRegex(comments, rf"\b{row.key}\b")

    @parameterized.parameters(*PAGES)
    def test_the_documentation_has_every_key(self, algo):
        page = (ROOT / "docs" / "algorithms" / f"{algo}.md").read_text(encoding="utf-8")
        shared = (ROOT / "docs" / "policy_gradient.md").read_text(encoding="utf-8")
        old = page[page.index("## Names of RLlib") :] + shared[shared.index("## Old names") :]
        for row in (*COMMON, *PAGES[algo]):
            cells = re.findall(rf"^\| .*\b{row.key}\b.*`.* \| .* \| (.*) \|$", old, re.M)
            self.assertNotEmpty(cells, f"{row.key}: no row in the tables of old names")
            if row.setting:
                found = any(f"`{row.setting}`" in c or f"`{row.setting}=" in c for c in cells)
                self.assertTrue(found, f"{row.key}: {cells} do not name {row.setting}")
