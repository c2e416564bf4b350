"""A run as data: everything that `tfrl.train` needs, picklable, and JSON in the run folder.

Every field below is also a command-line flag of the same name.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tfrl import files
from tfrl.config import foreign, idle, json_form, switches, trust
from tfrl.errors import SettingError
from tfrl.settings import choose, from_dict, import_module, name_now, nearest, setting, validate


@dataclasses.dataclass(frozen=True)
class EnvPlan:
    """The environment, and the preprocessing before the algorithm sees it."""

    env: str = setting(
        "CartPole-v1",
        "gymnasium id, id of PettingZoo such as mpe2/simple_spread_v3, or 'package.module:factory', a function that "
        "returns an environment",
    )
    env_kwargs: dict = setting({}, "keyword arguments for the environment, a JSON object")
    env_wrappers: tuple[str, ...] = setting(
        (),
        "gymnasium wrappers of each environment, 'package.module:Class', innermost first",
    )
    env_backend: str = setting(
        "auto",
        "how environments are stepped; auto: picked and shown at the start",
        choices=("auto", "native", "sync", "async", "ale", "envpool"),
    )
    max_episode_steps: int | None = setting(
        None,
        "time limit that replaces the environment's own; episodes that reach it are truncated",
        unit="env steps",
        minimum=1,
    )
    clip_rewards: bool | None = setting(
        None,
        "train on the sign of each reward; none: only on Atari. Logged returns are never clipped",
    )
    team_reward: str = setting(
        "sum",
        "reward of a team, made of its agents' rewards; mean or first where each agent is given that of the team",
        choices=("sum", "mean", "first"),
        idle_if={"agents_rewards": False},
    )
    observe_previous: bool = setting(False, "add the previous action and reward to the observation")
    atari_frame_skip: int = setting(
        4, "Atari: frames per env step", unit="frames", minimum=1, idle_if={"atari": False}
    )
    atari_frame_stack: int = setting(
        4,
        "Atari: most recent frames in an observation",
        unit="frames",
        minimum=1,
        idle_if={"atari": False},
    )
    atari_screen_size: int = setting(
        84,
        "Atari: side of the square grayscale image",
        unit="pixels",
        minimum=16,
        idle_if={"atari": False},
    )
    atari_noop_max: int = setting(
        30,
        "Atari: maximum number of no-ops after a reset",
        unit="frames",
        minimum=0,
        idle_if={"atari": False},
    )
    atari_terminal_on_life_loss: bool = setting(
        True, "Atari: losing a life ends the episode for the learner", idle_if={"atari": False}
    )
    atari_fire_on_reset: bool = setting(
        True, "Atari: press FIRE after a reset in games that have it", idle_if={"atari": False}
    )
    atari_sticky_actions: float = setting(
        0.0,
        "Atari: probability that the emulator repeats the previous action",
        minimum=0.0,
        maximum=1.0,
        idle_if={"atari": False},
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class Topology:
    """The placement of the parts of a run in processes and devices, and how they are compiled."""

    backend: str = setting(
        "inprocess",
        "run in one process, or in several on this machine",
        choices=("inprocess", "processes"),
    )
    num_actors: int = setting(1, "actor processes; always 1 with backend=inprocess", minimum=1)
    num_envs: int = setting(1, "environments per actor, stepped as one batch", minimum=1)
    num_learner_devices: int = setting(
        0,
        "devices that train, one replica of the learner each; 0: all visible accelerators, or one CPU",
        minimum=0,
    )
    compile: str = setting(
        "auto",
        "how updates are compiled; auto: the faster of the two, timed if it is not known in advance",
        choices=("auto", "xla", "graph"),
    )
    op_threads: int | None = setting(
        None,
        "threads that one TensorFlow operation of the learner may use; 0: as many as cores. none: 1 for policy and "
        "critics of dense layers, which run side by side, and 0 for all others",
        unit="threads",
        minimum=0,
        resumable=True,
    )
    inference: str = setting(
        "auto",
        "engine that runs the acting policy; auto: times both and keeps the faster",
        choices=("auto", "function", "lite"),
    )
    replay_residency: str = setting(
        "auto",
        "where experience is kept: in a Reverb server, or in the learner's process. auto: in the learner's "
        "process for a queue with backend=inprocess, and for a replay of transitions on a CPU that takes at "
        "most half of the free memory; otherwise in a server",
        choices=("auto", "server", "learner"),
    )
    overlap: bool = setting(
        False,
        "with backend=inprocess: act and train at the same time; the acting weights are one learner call old",
    )
    num_replay_shards: int = setting(
        1,
        "Reverb servers that share a replay of transitions, each in its own process",
        minimum=1,
    )
    max_weight_delay_env_steps: int = setting(
        0,
        "most env steps an actor process takes before it checks for newer weights; 0: it checks every 20 ms",
        unit="env steps",
        minimum=0,
    )
    isolate: bool = setting(
        False,
        "run all processes in a private network namespace, so that no other program can reach the replay "
        "server; needs Linux with user and network namespaces",
    )
    heartbeat_timeout_s: float = setting(
        60.0,
        "a process that sends no sign of life for this long is considered frozen and is replaced",
        unit="s",
        above=0.0,
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.backend == "inprocess" and self.num_actors != 1:
            raise SettingError(
                f"num_actors={self.num_actors} with backend=inprocess: one process has one actor; "
                "set backend=processes, or num_envs for more environments"
            )
        if self.num_replay_shards > 1 and self.backend == "inprocess":
            raise SettingError(
                f"num_replay_shards={self.num_replay_shards} with backend=inprocess: one process has one "
                "replay; set backend=processes"
            )
        if self.isolate and self.backend == "inprocess":
            raise SettingError(
                "isolate with backend=inprocess: expected backend=processes; one process opens no port unless its "
                "replay is in a server, which the start-up line 'network:' reports"
            )
        if self.num_replay_shards > 1 and self.replay_residency == "learner":
            raise SettingError(
                f"num_replay_shards={self.num_replay_shards} with replay_residency=learner: only servers are "
                "several; expected server or auto"
            )
        if self.max_weight_delay_env_steps and self.backend == "inprocess":
            raise SettingError(
                f"max_weight_delay_env_steps={self.max_weight_delay_env_steps} with backend=inprocess: weights are "
                "handed over after every call of the learner; set backend=processes, or updates_per_call"
            )
        if 0 < self.max_weight_delay_env_steps < self.num_envs:
            raise SettingError(
                f"max_weight_delay_env_steps={self.max_weight_delay_env_steps} with num_envs={self.num_envs}: "
                f"one step of an actor is {self.num_envs} env steps; expected at least as many"
            )
        if self.overlap and self.backend != "inprocess":
            raise SettingError(
                f"overlap with backend={self.backend}: expected backend=inprocess; "
                "actor processes do not wait anyway, except in a2c, pg and ppo"
            )


@dataclasses.dataclass(frozen=True)
class EvalPlan:
    """When and how the policy is evaluated: separate environments, greedy, unclipped full episodes."""

    eval_every_env_steps: int = setting(
        10_000, "interval between evaluations; 0: only at the end", unit="env steps", minimum=0
    )
    eval_episodes: int = setting(20, "episodes per evaluation during training", minimum=1)
    final_eval_episodes: int = setting(100, "episodes of the final evaluation; 0: none", minimum=0)
    eval_num_envs: int = setting(
        10, "environments that an evaluation steps as one batch", minimum=1
    )
    eval_max_env_steps: int = setting(
        0,
        "maximum env steps per evaluation; 0: no limit if episodes have a time limit, otherwise 10,000 per "
        "episode",
        unit="env steps",
        minimum=0,
    )
    export_policy: str = setting(
        "best",
        "policy that is exported and scored at the end: the best evaluated one, or the last one",
        choices=("best", "last"),
    )
    eval_env: str = setting(
        "auto",
        "own: separate environments for evaluation; none: no evaluation, all returns are those of training "
        "(for an environment that can exist only once); auto: none if env is an environment instance, "
        "otherwise own",
        choices=("auto", "own", "none"),
    )
    eval_worlds: dict = setting(
        {},
        "worlds to evaluate in, each a name with the environment settings in which it differs from training, "
        """e.g. '{"train": {}, "long": {"max_episode_steps": 1000}}'; env_kwargs are added to those of training """
        "unless the world has an env of its own. All have the spaces of training. empty: one world, as in training",
        idle_if={"eval_env": "none"},
    )
    eval_world: str = setting(
        "",
        "world whose mean return chooses the best policy and is the score of the run; empty: the first one",
        idle_if={"eval_worlds": {}},
    )
    eval_mode: str = setting(
        "greedy",
        "actions in evaluation: greedy, or sampled with the exploration of that time in training",
        choices=("greedy", "sampled"),
        idle_if={"eval_env": "none"},
    )
    stop_at_return: float | None = setting(
        None,
        "end the run once an evaluation reaches this mean return; without evaluations during training, the "
        "mean of the last 100 training episodes counts. none: run for total_env_steps",
        unit="reward",
        resumable=True,
    )

    def __post_init__(self) -> None:
        validate(self)
        for name, changes in self.eval_worlds.items():
            where = f"eval_worlds[{name!r}]"
            if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise SettingError(
                    f"{where}: expected a name of lower-case letters, digits and '_'"
                )
            if not isinstance(changes, Mapping):
                raise SettingError(
                    f"{where}={changes!r}: expected settings of the environment, e.g. "
                    """{"env_kwargs": {"size": 8}}"""
                )
            try:
                from_dict(EnvPlan, changes)
            except SettingError as error:
                raise SettingError(f"{where}: {error}") from None
        if self.eval_world and self.eval_worlds and self.eval_world not in self.eval_worlds:
            raise SettingError(
                f"eval_world={self.eval_world!r}: {choose(self.eval_world, self.eval_worlds)}"
            )

    def worlds(self, env: EnvPlan) -> dict[str, EnvPlan]:
        """The environments of an evaluation by name; '' is the name of a single one without a name.

        Args:
          env: of training.
        """
        found = {}
        for name, changes in self.eval_worlds.items():
            given = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
            if "env_kwargs" in given and "env" not in given:
                given["env_kwargs"] = {**env.env_kwargs, **given["env_kwargs"]}
            elif "env" in given:
                given.setdefault("env_kwargs", {})
            found[name] = dataclasses.replace(env, **given)
        return found or {"": env}

    @property
    def judge(self) -> str:
        """Name of the world that chooses the best policy."""
        return self.eval_world or next(iter(self.eval_worlds), "")

    @property
    def interval_env_steps(self) -> int:
        """Env steps between two evaluations during training; 0: none is made."""
        return 0 if self.eval_env == "none" else self.eval_every_env_steps

    @property
    def plays(self) -> bool:
        """Whether any evaluation is made, during training or at the end."""
        return self.eval_env != "none" and bool(
            self.eval_every_env_steps or self.final_eval_episodes
        )

    @property
    def exported(self) -> str:
        """Which policy is exported, 'best' or 'last'; without scores the first one would stay the best."""
        return self.export_policy if self.plays else "last"


@dataclasses.dataclass(frozen=True)
class CheckpointPlan:
    """The interval and the contents of checkpoints."""

    checkpoint_every_env_steps: int = setting(
        50_000, "interval between checkpoints; 0: only at the end", unit="env steps", minimum=0
    )
    checkpoint_keep: int = setting(2, "number of complete checkpoints to keep", minimum=1)
    checkpoint_replay: bool = setting(True, "include the replay's contents in checkpoints")

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class LogPlan:
    """The logs of a run."""

    log_every_s: float = setting(1.0, "interval between log rows", unit="s", above=0.0)
    console: str = setting(
        "auto",
        "console output: a live panel, plain lines or nothing; auto: a panel on a terminal, otherwise plain "
        "lines",
        choices=("auto", "panel", "plain", "none"),
    )
    tensorboard: bool = setting(True, "write TensorBoard event files")
    episodes_csv: bool = setting(True, "write one row per training episode to episodes.csv")
    info_metrics: tuple[str, ...] = setting(
        (),
        "numbers to read from the info dict of each episode's last step, e.g. is_success, or parts of the reward, "
        "summed over the episode; written to episodes.csv, and logged as info/<name>, the mean over the last 100 "
        "training episodes, and evaluator/info/<name>, the mean of an evaluation",
    )

    def __post_init__(self) -> None:
        validate(self)
        for name in self.info_metrics:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or self.info_metrics.count(name) > 1:
                raise SettingError(
                    f"info_metrics={','.join(self.info_metrics)}: expected different names of letters, digits, '_', '.'"
                    f" and '-', got {name!r}"
                )


PLANS = {
    "env": EnvPlan,
    "topology": Topology,
    "evaluation": EvalPlan,
    "checkpoint": CheckpointPlan,
    "log": LogPlan,
}
_PARTS = ("config", *PLANS)  # of a job, each a settings dataclass


@dataclasses.dataclass(frozen=True)
class Job:
    """The full description of a run.

    Attributes:
      algo: name of a module of `tfrl.algos`, or the dotted name of a user's module with `Config` and `make`.
      config: the algorithm's own settings, an instance of its `Config`.
      switches: settings of what is combined with the algorithm, {name of a switch: its `Config`}, in the order in which
        they apply; see `config/switches.py`.
      run_dir: folder of the run; it contains every file that the run writes.
      asked_for: settings that the user gave for this job rather than by a flagfile or a stored job; they must have an
        effect. Not stored.
    """

    algo: str
    config: Any
    env: EnvPlan = dataclasses.field(default_factory=EnvPlan)
    topology: Topology = dataclasses.field(default_factory=Topology)
    evaluation: EvalPlan = dataclasses.field(default_factory=EvalPlan)
    checkpoint: CheckpointPlan = dataclasses.field(default_factory=CheckpointPlan)
    log: LogPlan = dataclasses.field(default_factory=LogPlan)
    switches: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = setting(0, "seed of all random numbers of the run", minimum=0)
    total_env_steps: int = setting(50_000, "length of the run", unit="env steps", minimum=1)
    run_dir: str = setting("", "folder of the run; default: runs/<algo>-<env>-<time>")
    initial_weights: str = setting(
        "",
        "run folder to copy the initial policy weights from; it must have the same spaces and network. The "
        "optimiser, counters and schedules start afresh",
    )
    resume: bool = setting(False, "continue the run in run_dir from its newest checkpoint")
    asked_for: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        validate(self)
        self.refuse_idle()

    def refuse_idle(self, facts: Mapping[str, bool] | None = None) -> None:
        """Raises SettingError for a setting of `asked_for` that has no effect; see `idle.refuse`."""
        parts = (self.config, *(getattr(self, name) for name in PLANS), *self.switches.values())
        idle.refuse(self.asked_for, parts, facts)

    def summary(self) -> dict[str, Any]:
        """Returns {setting: value} that distinguish runs in a table: algorithm, environment, seed, the Config."""
        settings: dict[str, Any] = {}
        for part in (self.config, *self.switches.values()):
            settings.update({f.name: getattr(part, f.name) for f in dataclasses.fields(part)})
        return {
            "algo": self.algo,
            "env": str(self.env.env),
            "num_envs": self.topology.num_envs,
            "seed": self.seed,
            **({"with": ",".join(self.switches)} if self.switches else {}),
            **settings,
        }

    def to_json(self) -> str:
        """Returns the job as JSON text, {field: value} with the plans as objects, which `from_json` reads back.

        Raises:
          SettingError: `json_form` cannot hold an entry of `env_kwargs`, or of another setting that is a dict.
        """
        values = dataclasses.asdict(self)
        del values["asked_for"]
        for part in (*(values[name] for name in _PARTS), *values["switches"].values()):
            for name, value in part.items():
                if isinstance(value, dict):
                    part[name] = json_form.encode(value, name)
        values["switches"] = [  # a list keeps their order
            {"name": name, "settings": settings} for name, settings in values["switches"].items()
        ]
        # Sorted, but for what is inside a setting: worlds have an order.
        for name in _PARTS:
            values[name] = dict(sorted(values[name].items()))
        return json.dumps(dict(sorted(values.items())), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Reads `to_json`'s text, which may come from elsewhere; see `config/trust.py`.

        Raises:
          SettingError: settings that this version does not know, or that do not fit; no such algorithm, or one of a
            module that nobody has named.
          ValueError, KeyError, TypeError: the text is not JSON, or not a job.
        """
        values = json.loads(text)
        _check_object(values)
        for part in _PARTS:
            _check_object(values[part])
            _decode(values[part])
        plans = {name: from_dict(plan, values.pop(name)) for name, plan in PLANS.items()}
        trust.check_algorithm(str(values["algo"]))
        kind = algorithm(values["algo"]).Config
        known = {f.name for f in dataclasses.fields(kind)}
        stored = {name_now(name, known): x for name, x in values.pop("config").items()}
        config = from_dict(kind, stored)
        combined = {}
        for entry in values.pop("switches", []):
            name = str(entry["name"])
            trust.check_switch(name)
            _decode(entry["settings"])
            combined[name] = from_dict(switches.find(name).Config, entry["settings"])
        return cls(config=config, switches=combined, **plans, **values)

    def save(self, path: pathlib.Path) -> None:
        """Writes `to_json` and a newline to `path`, replacing the file; raises OSError if it cannot."""
        files.write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: pathlib.Path) -> Job:
        """Reads the file that `save` wrote; raises OSError where it cannot be read, else as `from_json`."""
        return cls.from_json(path.read_text(encoding="utf-8"))


def _check_object(found: Any) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found a {type(found).__name__}")


def _decode(settings: dict[str, Any]) -> None:
    """Replaces dicts in the form of `json_form` by what they stand for."""
    for name, value in settings.items():
        if isinstance(value, dict):
            settings[name] = json_form.decode(value)


def settings_classes(algo: str, with_: Iterable[str] = ()) -> dict[str, type]:
    """The settings dataclasses of a job: 'config', the keys of `PLANS`, and `switches.key(name)` of each switch.

    Raises:
      SettingError: no such algorithm or switch, switches that cannot be combined, two settings of one name.
    """
    found = switches.modules(with_)
    config = algorithm(algo).Config
    if found:
        names = lambda cls: [f.name for f in dataclasses.fields(cls)]
        every = [f.name for f in dataclasses.fields(Job) if f.metadata]
        owners = {"every run": every + [name for cls in PLANS.values() for name in names(cls)]}
        owners[f"algo={algo}"] = names(config)
        owners.update({f"with={name}": names(module.Config) for name, module in found.items()})
        switches.check_names(owners)
    combined = {switches.key(name): module.Config for name, module in found.items()}
    return {"config": config, **PLANS, **combined}


def algorithms() -> list[str]:
    """Names that `--algo` accepts, from the files of `tfrl/algos`; nothing is imported."""
    folder = pathlib.Path(__file__).parent / "algos"
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def algorithm(name: str) -> Any:
    """The module of an algorithm: `dqn` -> `tfrl.algos.dqn`; a name with a dot is imported as given.

    Raises:
      SettingError: no such algorithm (the nearest is named), or a module without `Config` and `make`.
    """
    if "." not in name and name not in algorithms():
        known, asked = algorithms(), foreign.plain(name)
        hint = nearest(name, known)
        if asked in foreign.ALGORITHMS:
            hint = f"; here it is {foreign.ALGORITHMS[asked]}"
        raise SettingError(f"algo={name!r}: no such algorithm; there are {', '.join(known)}{hint}")
    module = import_module(name if "." in name else f"tfrl.algos.{name}", f"algo={name!r}")
    missing = [part for part in ("Config", "make") if not hasattr(module, part)]
    if missing:
        raise SettingError(f"algo={name!r}: the module has no {' and no '.join(missing)}")
    return module
