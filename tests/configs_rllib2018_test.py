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
    "ars": (
        Row("noise_stdev", 0.02, "noise_stdev", 0.02),
        Row("num_rollouts", 32, "num_directions", 32),
        Row("rollouts_used", 32, "num_top_directions", 32),
        Row("num_workers", 2, "num_actors", 2),
        Row("sgd_stepsize", 0.01, "learning_rate", 0.01),
        Row("observation_filter", "MeanStdFilter", "normalize_observations", True),
        Row("noise_size", 250_000_000, "noise_size", 250_000_000),
        Row("eval_prob", 0.03),
        Row("report_length", 10),
        Row("offset", 0, "reward_shift", 0.0),
    ),
    "es": (
        Row("l2_coeff", 0.005, "l2_coeff", 0.005),
        Row("noise_stdev", 0.02, "noise_stdev", 0.02),
        Row("episodes_per_batch", 1000, "episodes_per_batch", 1000),
        Row("train_batch_size", 10_000, "min_steps_per_batch", 10_000),
        Row("eval_prob", 0.003),
        Row("return_proc_mode", "centered_rank"),
        Row("num_workers", 10, "num_actors", 10),
        Row("stepsize", 0.01, "learning_rate", 0.01),
        Row("observation_filter", "MeanStdFilter", "normalize_observations", True),
        Row("noise_size", 250_000_000, "noise_size", 250_000_000),
        Row("report_length", 10),
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

# Of the settings of all algorithms, those that the value-based ones have.
_VALUE_BASED = (
    "gamma", "horizon", "clip_rewards", "num_envs_per_worker", "fcnet_hiddens", "fcnet_activation",
    "lstm_use_prev_action_reward", "dim", "framestack",
)  # fmt: skip
PAGES["dqn"] = (
    Row("num_atoms", 1),
    Row("v_min", -10),
    Row("v_max", 10),
    Row("noisy", False, "noisy", "none"),
    Row("sigma0", 0.5, "noisy_sigma", 0.5),
    Row("dueling", True, "dueling", True),
    Row("double_q", True, "double", True),
    Row("hiddens", [256], "head_hidden_sizes", (256,)),
    Row("n_step", 1, "n_step", 1),
    Row("schedule_max_timesteps", 100_000, "epsilon_decay_env_steps", 10_000),
    Row("timesteps_per_iteration", 1000),
    Row("exploration_fraction", 0.1, "epsilon_decay_env_steps", 10_000),
    Row("exploration_final_eps", 0.02, "epsilon_final", 0.02),
    # Env steps there, 4 of them to an update.
    Row("target_network_update_freq", 500, "target_period_updates", 500 // 4),
    Row("buffer_size", 50_000, "replay_capacity", 50_000),
    Row("prioritized_replay", True, "prioritized", True),
    Row("prioritized_replay_alpha", 0.6, "priority_exponent", 0.6),
    Row("prioritized_replay_beta", 0.4, "importance_beta", 0.4),
    # Of 100,000 trained steps, 32 of them to an update.
    Row("beta_annealing_fraction", 0.2, "importance_beta_updates", 20_000 // 32),
    Row("final_prioritized_replay_beta", 0.4, "importance_beta_final", 0.4),
    Row("prioritized_replay_eps", 1e-6, "priority_epsilon", 1e-6),
    Row("compress_observations", True),
    Row("lr", 5e-4, "learning_rate", 5e-4),
    Row("adam_epsilon", 1e-8, "optimizer_epsilon", 1e-8),
    Row("grad_norm_clipping", 40, "gradient_clip_norm", 40.0),
    Row("learning_starts", 1000, "min_replay", 1000),
    Row("sample_batch_size", 4, "env_steps_per_update", 4.0),
    Row("train_batch_size", 32, "batch_size", 32),
    Row("num_workers", 0, "num_actors", 1),  # in the process of the learner
    Row("optimizer_class", "SyncReplayOptimizer", "backend", "inprocess"),
    Row("per_worker_exploration", False, "epsilon_ladder", "none"),
    Row("worker_side_prioritization", False, "actor_priorities", False),
    Row("min_iter_time_s", 1),
    Row("num_gpus", 0),
)
# What Ape-X changes of that.
_APEX = (
    Row("optimizer_class", "AsyncReplayOptimizer", "backend", "processes"),
    Row("max_weight_sync_delay", 400, "max_weight_delay_env_steps", 400),
    Row("num_replay_buffer_shards", 4, "num_replay_shards", 4),
    Row("debug", False),
    Row("n_step", 3, "n_step", 3),
    Row("num_gpus", 1, "num_learner_devices", 1),
    Row("num_workers", 32, "num_actors", 32),
    Row("buffer_size", 2_000_000, "replay_capacity", 2_000_000),
    Row("learning_starts", 50_000, "min_replay", 50_000),
    Row("train_batch_size", 512, "batch_size", 512),
    Row("sample_batch_size", 50, "env_steps_per_update", 50.0),
    # Trained steps there, 512 of them to an update.
    Row("target_network_update_freq", 500_000, "target_period_updates", round(500_000 / 512)),
    Row("beta_annealing_fraction", 0.2, "importance_beta_updates", 20_000 // 512),
    Row("timesteps_per_iteration", 25_000),
    Row("per_worker_exploration", True, "epsilon_ladder", "actor"),
    Row("worker_side_prioritization", True, "actor_priorities", True),
    Row("min_iter_time_s", 30),
    # Without effect where every worker has an epsilon of its own.
    Row("schedule_max_timesteps", 100_000),
    Row("exploration_fraction", 0.1),
    Row("exploration_final_eps", 0.02),
)
_CHANGED = {row.key for row in _APEX}
PAGES["apex"] = (*(row for row in PAGES["dqn"] if row.key not in _CHANGED), *_APEX)

_DDPG = (
    Row("twin_q", False, "num_critics", 1),
    Row("policy_delay", 1, "policy_period_updates", 1),
    Row("smooth_target_policy", False, "exploration_noise", "ou"),
    Row("act_noise", 0.1, "gaussian_sigma", 0.1),
    Row("target_noise", 0.2),
    Row("noise_clip", 0.5),
    Row("actor_hiddens", [64, 64], "policy_hidden_sizes", (64, 64)),
    Row("critic_hiddens", [64, 64], "critic_hidden_sizes", (64, 64)),
    Row("actor_hidden_activation", "relu", "activation", "relu"),
    Row("critic_hidden_activation", "relu", "activation", "relu"),
    Row("fcnet_activation", "tanh"),
    Row("n_step", 1, "n_step", 1),
    Row("schedule_max_timesteps", 100_000, "noise_decay_env_steps", 10_000),
    Row("exploration_fraction", 0.1, "noise_decay_env_steps", 10_000),
    Row("exploration_final_eps", 0.02, "noise_final", 0.02),
    Row("timesteps_per_iteration", 1000),
    Row("noise_scale", 0.1, "noise_scale", 0.1),
    Row("exploration_theta", 0.15, "ou_theta", 0.15),
    Row("exploration_sigma", 0.2, "ou_sigma", 0.2),
    Row("target_network_update_freq", 0, "target_period_updates", 1),  # 0: with each update
    Row("tau", 0.002, "tau", 0.002),
    Row("buffer_size", 50_000, "replay_capacity", 50_000),
    Row("prioritized_replay", True, "prioritized", True),
    Row("prioritized_replay_alpha", 0.6, "priority_exponent", 0.6),
    Row("prioritized_replay_beta", 0.4, "importance_beta", 0.4),
    Row("prioritized_replay_eps", 1e-6, "priority_epsilon", 1e-6),
    Row("compress_observations", False),
    Row("lr", 1e-3, "learning_rate", 1e-3),
    Row("actor_loss_coeff", 0.1),
    Row("critic_loss_coeff", 1.0),
    Row("use_huber", False, "loss", "squared"),
    Row("huber_threshold", 1.0, "huber_delta", 1.0),
    # Half of l2_loss there, which is half the sum of squares; that sum's half here.
    Row("l2_reg", 1e-6, "l2_penalty", 1e-6 / 2),
    Row("grad_norm_clipping", None, "gradient_clip_norm", None),
    Row("learning_starts", 1500, "min_replay", 1500),
    Row("sample_batch_size", 1, "env_steps_per_update", 1.0),
    Row("train_batch_size", 256, "batch_size", 256),
    Row("num_workers", 0, "num_actors", 1),  # in the process of the learner
    Row("optimizer_class", "SyncReplayOptimizer", "backend", "inprocess"),
    Row("per_worker_exploration", False, "noise_ladder", "none"),
    Row("worker_side_prioritization", False, "actor_priorities", False),
    Row("min_iter_time_s", 1),
    Row("num_gpus", 0),
)


def _changed(rows, changes):
    """The rows, those that `changes` has another of replaced."""
    keys = {row.key for row in changes}
    return (*(row for row in rows if row.key not in keys), *changes)


PAGES["ddpg"] = _DDPG
# The three switches that made it TD3.
PAGES["td3"] = _changed(
    _DDPG,
    (
        Row("twin_q", True, "num_critics", 2),
        Row("policy_delay", 2, "policy_period_updates", 2),
        Row("smooth_target_policy", True, "exploration_noise", "gaussian"),
        Row("target_noise", 0.2, "target_noise", 0.2),
        Row("noise_clip", 0.5, "target_noise_clip", 0.5),
        Row("target_network_update_freq", 0, "target_period_updates", 2),  # with the policy's
        Row("schedule_max_timesteps", 100_000),
        Row("exploration_fraction", 0.1),
        Row("exploration_final_eps", 0.02),
    ),
)
_APEX_OF_DDPG = (
    "optimizer_class", "max_weight_sync_delay", "num_replay_buffer_shards", "debug", "n_step",
    "num_workers", "buffer_size", "learning_starts", "train_batch_size", "sample_batch_size",
    "target_network_update_freq", "timesteps_per_iteration", "worker_side_prioritization",
    "min_iter_time_s", "schedule_max_timesteps", "exploration_fraction", "exploration_final_eps",
)  # fmt: skip
PAGES["apex_ddpg"] = _changed(
    _DDPG,
    (
        *(row for row in _APEX if row.key in _APEX_OF_DDPG),
        Row("per_worker_exploration", True, "noise_ladder", "actor"),
    ),
)

_QMIX = (
    Row("mixer", "qmix", "mixer", "qmix"),
    Row("mixing_embed_dim", 32, "mixing_embed_size", 32),
    Row("double_q", True, "double", True),
    Row("batch_mode", "complete_episodes", "replay_of", "episodes"),
    Row("schedule_max_timesteps", 100_000, "epsilon_decay_env_steps", 10_000),
    Row("exploration_fraction", 0.1, "epsilon_decay_env_steps", 10_000),
    Row("exploration_final_eps", 0.02, "epsilon_final", 0.02),
    Row("timesteps_per_iteration", 1000),
    Row("target_network_update_freq", 500, "target_period_updates", 125),
    Row("buffer_size", 10_000, "replay_capacity", 10_000),
    Row("compress_observations", True),
    Row("lr", 5e-4, "learning_rate", 5e-4),
    Row("optim_alpha", 0.99, "rmsprop_decay", 0.99),
    Row("optim_eps", 1e-5, "optimizer_epsilon", 1e-5),
    Row("grad_norm_clipping", 10, "gradient_clip_norm", 10.0),
    Row("learning_starts", 1000, "min_replay", 1000),
    Row("sample_batch_size", 4, "env_steps_per_update", 4.0),
    Row("train_batch_size", 32, "batch_env_steps", 32),
    Row("num_workers", 0, "num_actors", 1),  # in the process of the learner
    Row("per_worker_exploration", False, "epsilon_ladder", "none"),
    Row("worker_side_prioritization", False),
    Row("min_iter_time_s", 1),
    Row("num_gpus", 0),
    Row("optimizer_class", "SyncBatchReplayOptimizer", "backend", "inprocess"),
    # Of the model.
    Row("lstm_cell_size", 64, "core_size", 64),
    Row("max_seq_len", 999_999),
)
# Its network was its own, and none for images.
_OF_TEAMS = ("gamma", "horizon", "clip_rewards", "num_envs_per_worker")
PAGES["qmix"] = _QMIX
PAGES["apex_qmix"] = _changed(
    _QMIX,
    (
        Row("optimizer_class", "AsyncReplayOptimizer", "backend", "processes"),
        Row("max_weight_sync_delay", 400, "max_weight_delay_env_steps", 400),
        Row("num_replay_buffer_shards", 4, "num_replay_shards", 4),
        Row("batch_replay", True, "prioritized", False),
        Row("num_gpus", 0, "num_learner_devices", 1),
        Row("num_workers", 32, "num_actors", 32),
        Row("buffer_size", 2_000_000, "replay_capacity", 2_000_000),
        Row("learning_starts", 50_000, "min_replay", 50_000),
        Row("train_batch_size", 512, "batch_env_steps", 512),
        Row("sample_batch_size", 50, "env_steps_per_update", 50.0),
        Row("target_network_update_freq", 500_000, "target_period_updates", 977),
        Row("timesteps_per_iteration", 25_000),
        Row("per_worker_exploration", True, "epsilon_ladder", "actor"),
        Row("worker_side_prioritization", True),
        Row("min_iter_time_s", 30),
        Row("schedule_max_timesteps", 100_000),
        Row("exploration_fraction", 0.1),
        Row("exploration_final_eps", 0.02),
    ),
)

# What was fixed in the code and no key.
_ADAM = {"optimizer": "adam", "optimizer_epsilon": 1e-8}
_FIXED_DDPG = {
    **_ADAM,
    "learning_rate_final": None,
    "updates_per_call": 1,
    "importance_beta_final": 0.4,
    "shared_torso": False,
    "random_env_steps": 0,
    "env": "Pendulum-v1",  # no key, but the default here has no Box of actions
}
_FIXED_QMIX = {
    "optimizer": "rmsprop", "learning_rate_final": None, "updates_per_call": 1, "hidden_sizes": (64,),
    "activation": "relu", "core": "gru", "hypernet_layers": 1, "add_agent_id": False,
    "add_last_action": False, "env": "tfrl/TwoStep-v0", "episode_length": 2,
}  # fmt: skip
FIXED = {
    "ars": {
        "backend": "processes", "optimizer": "sgd", "policy": "mlp", "noise_source": "table",
    },
    "es": {
        **_ADAM, "backend": "processes", "policy": "mlp", "noise_source": "table", "action_noise": 0.01,
    },
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
    "dqn": {
        "epsilon_initial": 1.0, "learning_rate_final": None, "updates_per_call": 1, "loss": "huber",
        "huber_delta": 1.0,
    },
    "apex": {
        "epsilon_ladder_base": 0.4, "epsilon_ladder_exponent": 7.0, "learning_rate_final": None,
        "updates_per_call": 1, "loss": "huber", "huber_delta": 1.0, "total_env_steps": 10_000_000,
    },
    "ddpg": _FIXED_DDPG,
    "td3": {**_FIXED_DDPG, "noise_final": 1.0},
    "apex_ddpg": {
        **_FIXED_DDPG, "noise_ladder_base": 0.4, "noise_ladder_exponent": 7.0,
        "total_env_steps": 10_000_000,
    },
    "qmix": {**_FIXED_QMIX, "prioritized": False, "epsilon_initial": 1.0},
    "apex_qmix": {
        **_FIXED_QMIX, "epsilon_ladder_base": 0.4, "epsilon_ladder_exponent": 7.0,
        "total_env_steps": 10_000_000,
    },
}  # fmt: skip
# Settings of all algorithms that mean something where whole episodes are scored by vectors.
_POPULATION = (
    "horizon", "clip_rewards", "num_envs_per_worker", "fcnet_hiddens", "fcnet_activation", "use_lstm",
    "lstm_cell_size",
)  # fmt: skip
# Pages that are a config of another algorithm: that, and the file.
FILES = {
    "apex": ("dqn", "apex_rllib2018.flags"),
    "apex_ddpg": ("ddpg", "apex_rllib2018.flags"),
    "apex_qmix": ("qmix", "apex_rllib2018.flags"),
}


def of(page):
    """The algorithm, its file, the rows and the text of the documentation behind a page."""
    algo, file = FILES.get(page, (page, "rllib2018.flags"))
    docs = ROOT / "docs"
    text = (docs / "algorithms" / f"{algo}.md").read_text(encoding="utf-8")
    text = text[text.index("## Names of RLlib") :]
    common = COMMON
    if algo in ("ars", "es"):
        return algo, file, (*(row for row in COMMON if row.key in _POPULATION), *PAGES[page]), text
    if algo in ("dqn", "ddpg", "td3", "qmix"):
        own = {row.key for row in PAGES[page]}
        keys = _OF_TEAMS if algo == "qmix" else _VALUE_BASED
        common = tuple(row for row in COMMON if row.key in keys and row.key not in own)
        if algo == "td3":  # its page has what it adds to that of DDPG
            shared = (docs / "algorithms" / "ddpg.md").read_text(encoding="utf-8")
            text += shared[shared.index("## Names of RLlib") :]
    else:
        shared = (docs / "policy_gradient.md").read_text(encoding="utf-8")
        text += shared[shared.index("## Old names") :]
    return algo, file, (*common, *PAGES[page]), text


class Rllib2018Test(parameterized.TestCase):
    def read(self, page):
        """All settings of the file's job, those that it gives itself, and its comments."""
        algo, file, _, _ = of(page)
        path = ROOT / "configs" / algo / file
        parsed = flags.parse_given(flags.expand([f"--algo={algo}", f"--flagfile={path}"]))
        job = parsed.job()
        parts = (job.config, job.env, job.topology, job.evaluation, job.checkpoint, job.log)
        settings = {k: v for part in parts for k, v in dataclasses.asdict(part).items()}
        settings["total_env_steps"] = job.total_env_steps
        given = {name for section in parsed.given.values() for name in section}
        lines = path.read_text(encoding="utf-8").splitlines()
        return settings, given, " ".join(line.strip("# ") for line in lines if line[0] == "#")

    @parameterized.parameters(*PAGES)
    def test_every_key_has_its_value(self, page):
        settings, given, comments = self.read(page)
        for row in of(page)[2]:
            if row.setting:
                self.assertIn(row.setting, given, f"{row.key}: the default here may change")
                self.assertEqual(settings[row.setting], row.value, row.key)
            else:
                why = rf"\b{row.key}={row.default}\b[^:]*: \w+"
                self.assertRegex(comments, why, f"{row.key}: why it is not there")
        for name, value in FIXED[page].items():
            self.assertIn(name, given)
            self.assertEqual(settings[name], value, name)

    @parameterized.parameters(*PAGES)
    def test_the_file_says_nothing_else_and_names_the_keys(self, page):
        _, given, comments = self.read(page)
        rows = of(page)[2]
        self.assertEqual(given, {row.setting for row in rows if row.setting} | set(FIXED[page]))
        for row in PAGES[page]:
            self.assertRegex(comments, rf"\b{row.key}\b")

    @parameterized.parameters(*PAGES)
    def test_the_documentation_has_every_key(self, page):
        _, _, rows, text = of(page)
        for row in rows:
            cells = re.findall(rf"^\| .*\b{row.key}\b.*`.* \| .* \| (.*) \|$", text, re.M)
            self.assertNotEmpty(cells, f"{row.key}: no row in the tables of old names")
            if row.setting:
                found = any(f"`{row.setting}`" in c or f"`{row.setting}=" in c for c in cells)
                self.assertTrue(found, f"{row.key}: {cells} do not name {row.setting}")
