"""Names of settings and algorithms in Stable-Baselines3, CleanRL and RLlib, and what stands for them here.

Messages about unknown names and the tables of docs/coming_from.md are made from these rows. None of the foreign names
is accepted as a setting.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple


class Name(NamedTuple):
    """One meaning in four libraries.

    Attributes:
      settings: names here; the first that the algorithm has counts. Empty: there is no such setting.
      sb3, cleanrl, rllib: names there, separated by blanks; empty: none. RLlib's are those of its newer versions too.
      note: what else there is to know: another unit, another meaning of the number.
      also: words that people type although no library has them.
    """

    settings: tuple[str, ...]
    sb3: str = ""
    cleanrl: str = ""
    rllib: str = ""
    note: str = ""
    also: str = ""

    @property
    def foreign(self) -> list[str]:
        """All words of the row but the settings."""
        return " ".join((self.sb3, self.cleanrl, self.rllib, self.also)).split()


SETTINGS = (
    # The run.
    Name(("total_env_steps",), "total_timesteps", "total_timesteps", "timesteps_total",
         also="timesteps steps max_steps num_steps total_steps max_timesteps n_timesteps"),
    Name(("env",), "env_id", "env_id", "environment", "a gymnasium id or package.module:factory"),
    Name(("env_kwargs",), "env_kwargs", "", "env_config"),
    Name(("num_envs",), "n_envs", "num_envs", "num_envs_per_env_runner num_envs_per_worker",
         also="envs nenvs"),
    Name(("num_actors",), "n_workers", "", "num_env_runners num_rollout_workers num_workers",
         "processes that act, with backend=processes", also="workers actors"),
    Name(("num_learner_devices",), "device", "cuda", "num_gpus num_gpus_per_learner num_learners",
         "accelerators are used where TensorFlow sees them"),
    Name(("run_dir",), "log_path save_path tensorboard_log", "exp_name run_name", "local_dir storage_path"),
    Name(("console",), "verbose progress_bar", "", "log_level", "auto, panel, plain or none"),
    Name(("tensorboard",), "", "track", ""),
    Name(("record_video",), "", "capture_video save_video", "record_env",
         "a flag of tfrl evaluate, after the run"),
    Name(("eval_every_env_steps",), "eval_freq", "", "evaluation_interval", "in env steps of all environments"),
    Name(("eval_episodes", "episodes"), "n_eval_episodes", "eval_episodes", "evaluation_duration"),
    Name(("checkpoint_every_env_steps",), "save_freq", "save_frequency", "checkpoint_freq checkpoint_frequency"),
    Name(("max_episode_steps",), "", "", "horizon"),
    Name(("clip_rewards",), "clip_reward", "", ""),
    # Learning in general.
    Name(("discount",), "gamma", "gamma", "gamma", also="discount_factor"),
    Name(("learning_rate",), "learning_rate", "learning_rate q_lr", "lr critic_lr critic_learning_rate",
         also="learning_rate_init alpha"),
    Name(("policy_learning_rate",), "", "policy_lr", "actor_lr actor_learning_rate"),
    Name(("temperature_learning_rate",), "", "", "alpha_lr entropy_learning_rate"),
    Name(("learning_rate_final",), "", "anneal_lr", "lr_schedule",
         "give the last rate and the length of the decay"),
    Name(("gradient_clip_norm",), "max_grad_norm", "max_grad_norm", "grad_clip grad_norm_clipping"),
    Name(("batch_size",), "batch_size", "batch_size", "train_batch_size", also="batch"),
    Name(("minibatches",), "batch_size", "num_minibatches", "minibatch_size sgd_minibatch_size",
         "the number of parts of a batch, not their size", also="batch mini_batch_size"),
    Name(("batch_env_steps",), "", "batch_size", "train_batch_size train_batch_size_per_learner", also="batch"),
    Name(("optimizer_epsilon",), "optimizer_kwargs", "adam_eps eps", "adam_epsilon epsilon_adam"),
    Name(("optimizer",), "optimizer_class", "", "opt_type"),
    Name(("precision",), "", "", "torch_dtype dtype"),
    Name(("compile",), "", "compile cudagraphs", "torch_compile eager_tracing framework"),
    Name((), "", "torch_deterministic", "", "seed alone decides; see docs/concepts.md for what repeats"),
    # Networks.
    Name(("network",), "policy features_extractor_class", "", "custom_model",
         "mlp, cnn, ... or package.module:builder of a Keras model"),
    Name(("policy_hidden_sizes",), "net_arch policy_kwargs", "", "actor_hiddens policy_model policy_model_config",
         "of critics: critic_hidden_sizes"),
    Name(("critic_hidden_sizes",), "", "", "critic_hiddens Q_model q_model q_model_config"),
    Name(("num_critics",), "n_critics", "", "twin_q", "2 for twins"),
    Name(("hidden_sizes",), "net_arch policy_kwargs", "hidden_dim hidden_size", "fcnet_hiddens"),
    Name(("activation",), "activation_fn", "", "fcnet_activation actor_hidden_activation critic_hidden_activation"),
    Name(("core",), "", "lstm", "use_lstm use_attention", "lstm, gru or gtrxl"),
    Name(("core_size",), "lstm_hidden_size", "", "lstm_cell_size"),
    Name(("observe_previous",), "", "", "lstm_use_prev_action lstm_use_prev_reward lstm_use_prev_action_reward"),
    Name(("shared_torso",), "share_features_extractor", "", "vf_share_layers"),
    Name(("dueling",), "", "dueling", "dueling"),
    Name(("double",), "", "double_q", "double_q"),
    Name(("noisy",), "", "noisy_nets", "noisy"),
    Name(("normalize_observations",), "norm_obs normalize", "norm_obs", "observation_filter"),
    Name(("normalize_rewards",), "norm_reward", "norm_reward", ""),
    Name(("atari_frame_stack",), "n_stack frame_stack", "frame_stack", "framestack"),
    # Replay and exploration.
    Name(("replay_capacity",), "buffer_size", "buffer_size", "buffer_size capacity replay_buffer_config"),
    Name(("min_replay",), "learning_starts", "learning_starts",
         "num_steps_sampled_before_learning_starts learning_starts"),
    Name(("env_steps_per_update",), "train_freq gradient_steps", "train_frequency", "training_intensity",
         "env steps between two updates"),
    Name(("tau",), "tau", "tau", "tau", "tau=1 copies the whole", also="polyak"),
    Name(("target_period_updates",), "target_update_interval tau",
         "target_network_frequency target_network_update_freq tau", "target_network_update_freq tau",
         "in updates; where there is no tau, the target network is copied whole"),
    Name(("policy_period_updates",), "policy_delay", "policy_frequency", "policy_delay",
         "the targets have target_period_updates"),
    Name(("her_relabels",), "n_sampled_goal", "", "", "copies of each transition; 0 for none",
         also="her hindsight"),
    Name(("prioritized",), "", "prioritized_replay", "prioritized_replay"),
    Name(("priority_exponent",), "", "prioritized_replay_alpha", "prioritized_replay_alpha"),
    Name(("importance_beta",), "", "prioritized_replay_beta", "prioritized_replay_beta"),
    Name(("n_step",), "n_steps", "n_step", "n_step", also="nstep multi_step"),
    Name(("epsilon_initial",), "exploration_initial_eps", "start_e", "initial_epsilon"),
    Name(("random_env_steps",), "use_sde_at_warmup", "", "pure_exploration_steps random_timesteps",
         "0: the policy explores from the start"),
    Name(("exploration_noise",), "action_noise noise_type", "", "", "gaussian, ou or none"),
    Name(("gaussian_sigma",), "noise_std", "", "act_noise", "of actions scaled to [-1, 1]"),
    Name(("ou_theta",), "", "", "exploration_theta"),
    Name(("ou_sigma",), "", "", "exploration_sigma"),
    Name(("noise_final",), "", "", "exploration_final_eps exploration_final_scale"),
    Name(("noise_decay_env_steps",), "", "", "exploration_fraction schedule_max_timesteps",
         "in env steps, not a share of them"),
    Name(("target_noise",), "target_policy_noise", "policy_noise", "target_noise smooth_target_policy",
         "of actions scaled to [-1, 1]; 0 for none"),
    Name(("target_noise_clip",), "target_noise_clip", "noise_clip", "noise_clip target_noise_clip"),
    Name(("loss",), "", "", "use_huber", "huber or squared"),
    Name(("huber_delta",), "", "", "huber_threshold"),
    Name(("l2_penalty",), "", "", "l2_reg"),
    Name((), "", "", "actor_loss_coeff critic_loss_coeff",
         "Adam does not see the scale of a loss; give learning rates"),
    Name((), "", "", "no_done_at_end", "time limits bootstrap, terminations do not"),
    Name(("epsilon_final",), "exploration_final_eps", "end_e", "final_epsilon"),
    Name(("epsilon_decay_env_steps",), "exploration_fraction", "exploration_fraction", "epsilon_timesteps",
         "in env steps, not a share of the run"),
    Name(("num_atoms",), "", "n_atoms", "num_atoms"),
    Name(("num_quantiles",), "n_quantiles", "", ""),
    Name(("dropped_quantiles",), "top_quantiles_to_drop_per_net", "", ""),
    # Entropy in the objective.
    Name(("temperature",), "ent_coef", "alpha", "", "a fixed one; without it the temperature is learned",
         also="autotune"),
    Name(("initial_temperature",), "", "", "initial_alpha"),
    Name(("target_entropy",), "target_entropy", "", "target_entropy"),
    Name(("target_entropy_ratio",), "", "target_entropy_scale", ""),
    # Policy gradients.
    Name(("unroll_length",), "n_steps", "num_steps", "rollout_fragment_length sample_batch_size", also="n_step"),
    Name(("epochs",), "n_epochs", "update_epochs", "num_epochs num_sgd_iter"),
    Name(("gae_lambda", "trace_lambda"), "gae_lambda", "gae_lambda", "lambda lambda_", also="gae"),
    Name(("clip",), "clip_range", "clip_coef", "clip_param"),
    Name(("value_clip",), "clip_range_vf", "clip_vloss", "vf_clip_param", "a limit, in units of the return"),
    Name(("entropy_coefficient",), "ent_coef", "ent_coef", "entropy_coeff", also="entropy beta"),
    Name(("value_coefficient",), "vf_coef", "vf_coef", "vf_loss_coeff"),
    Name(("kl_stop",), "target_kl", "target_kl", ""),
    Name(("kl_coefficient",), "", "", "kl_coeff"),
    Name(("normalize_advantage",), "normalize_advantage", "norm_adv", "standardize_advantages",
         "minibatch, batch or none"),
    Name(("state_dependent_exploration",), "use_sde", "", ""),
    Name(("sde_resample_env_steps",), "sde_sample_freq", "", ""),
    Name(("squash_actions",), "squash_output", "", "normalize_actions"),
    Name((), "squash_output", "", "normalize_actions", "actions are on the scale [-1, 1] in all networks"),
    Name(("log_std_initial",), "log_std_init", "", ""),
    Name(("rmsprop_decay",), "", "", "decay"),
    Name(("vtrace",), "", "", "vtrace"),
    Name(("queue_items",), "", "", "learner_queue_size"),
    # Populations.
    Name(("num_directions",), "n_delta", "", "num_rollouts", "directions, each played with both signs"),
    Name(("num_top_directions",), "n_top", "", "rollouts_used"),
    Name(("noise_stdev",), "delta_std", "", "noise_stdev"),
    Name(("learning_rate",), "", "", "sgd_stepsize stepsize"),
    Name(("reward_shift",), "alive_bonus_offset", "", "offset"),
    Name(("min_steps_per_batch",), "", "", "train_batch_size"),
    Name((), "", "", "eval_prob report_length", "evaluations are apart, every eval_every_env_steps"),
    Name(("rho_bar",), "", "", "vtrace_clip_rho_threshold"),
    Name(("pg_rho_bar",), "", "", "vtrace_clip_pg_rho_threshold"),
)  # fmt: skip

# Usual name of an algorithm or a variant -> its flags in tfrl.
ALGORITHMS = {
    "redq": "--algo=sac --num_critics=10 --target_critics=2 --policy_value=mean --env_steps_per_update=0.05 "
    "--policy_period_updates=20",
    "droq": "--algo=sac --critic_dropout=0.01 --critic_layer_norm --policy_value=mean "
    "--env_steps_per_update=0.05 --policy_period_updates=20",
    "tqc": "--algo=sac --num_critics=5 --num_quantiles=25",
    "sac_discrete": "--algo=sac, which serves Discrete actions too",
    "discrete_sac": "--algo=sac, which serves Discrete actions too",
    "recurrent_sac": "--algo=sac --core=lstm",
    "apex_ddpg": "--algo=ddpg with --flagfile=configs/ddpg/apex_pendulum.flags",
    "double_dqn": "--algo=dqn, which is double by default",
    "ddqn": "--algo=dqn, which is double by default",
    "dueling_dqn": "--algo=dqn --dueling",
    "rainbow": "--algo=c51 with --flagfile=configs/c51/rainbow_cartpole.flags or another of rainbow_*",
    "apex": "--algo=dqn with --flagfile=configs/dqn/apex_cartpole.flags",
    "apex_dqn": "--algo=dqn with --flagfile=configs/dqn/apex_cartpole.flags",
    "r2d2": "--algo=dqn --core=lstm --prioritized",
    "drqn": "--algo=dqn --core=lstm",
    "qrdqn": "--algo=qr_dqn",
    "categorical_dqn": "--algo=c51",
    "reinforce": "--algo=pg",
    "vpg": "--algo=pg",
    "recurrent_ppo": "--algo=ppo --core=lstm",
    "ppo_lstm": "--algo=ppo --core=lstm",
    "maskable_ppo": "--algo=ppo, which reads masks from the observation (docs/environments.md)",
}


def plain(name: str) -> str:
    """A name as settings are written: lower case with underscores."""
    return name.lower().lstrip("-").replace("-", "_")


def hint(name: str, known: Container[str]) -> str:
    """'; here it is --discount', with a note, for a name of another library; '' for others.

    Args:
      name: as it was given.
      known: settings that can be given; where none of them stands for the name, all are named.
    """
    rows = [row for row in SETTINGS if plain(name) in row.foreign]
    rows.sort(
        key=lambda row: plain(name) in row.also.split()
    )  # names that a library has come first
    here = [(setting, row) for row in rows for setting in row.settings if setting in known]
    if here:
        setting, row = here[0]
        return f"; here it is --{setting}" + (f" ({row.note})" if row.note else "")
    for row in rows:
        if not row.settings:
            return f"; there is none: {row.note}"
    return ""


def elsewhere(name: str) -> list[str]:
    """Settings of any algorithm that stand for a name of another library."""
    return [s for row in SETTINGS if plain(name) in row.foreign for s in row.settings]
