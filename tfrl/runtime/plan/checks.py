"""Settings against each other: what each of them allows alone, but not together, is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf
import tree

from tfrl.agent import Policy
from tfrl.config import switches
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError

if TYPE_CHECKING:
    from tfrl.runtime.plan.run_plan import RunPlan


def refuse_misfits(run_plan: RunPlan, policy: Policy) -> None:
    """Raises SettingError for settings of a job that do not fit together, its algorithm or this machine.

    Args:
      policy: one of the agent's.
    """
    _check_overlap(run_plan)
    _check_devices(run_plan)
    _check_compile(run_plan, policy)
    _check_minibatches(run_plan, policy)
    _check_replay(run_plan)
    _check_shards(run_plan)
    _check_hindsight(run_plan)
    _check_population(run_plan)


def _check_population(run_plan: RunPlan) -> None:
    """Raises SettingError for actors or environments that would never have a member to play."""
    if not run_plan.population:
        return
    topology, count = run_plan.job.topology, run_plan.agent.experience.item.count
    actors = topology.num_actors if topology.backend == "processes" else 1
    if actors > count // 2:
        raise SettingError(
            f"num_actors={actors}: a round has {count // 2} pairs of members, which stay together; expected at most "
            f"{count // 2} actors, or a larger population"
        )
    most = 2 * -(-count // (2 * actors))
    if topology.num_envs > most:
        raise SettingError(
            f"num_envs={topology.num_envs}: an actor plays {most} members in a round, so that "
            f"{topology.num_envs - most} environments would always rest; expected at most {most}"
        )


def refuse_worlds(run_plan: RunPlan) -> None:
    """Raises SettingError for a world of the evaluation that cannot be built, or has other spaces than training."""
    job = run_plan.job
    for name, plan in job.evaluation.worlds(job.env).items() if job.evaluation.plays else ():
        if name:
            where = f"eval_worlds[{name!r}]"
            try:
                spec = make_spec(plan, job.switches)
            except SettingError as error:
                raise SettingError(f"{where}: {error}") from None
            run_plan.refuse_other_spaces(spec, where)


def _replicas(run_plan: RunPlan) -> int:
    """Devices that train."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    return run_plan.job.topology.num_learner_devices or max(gpus, 1)


def _check_overlap(run_plan: RunPlan) -> None:
    """Raises SettingError where acting and training go on at the same time anyway."""
    if run_plan.job.topology.overlap and run_plan.population:
        raise SettingError(
            f"overlap with algo={run_plan.job.algo}: no episode can begin before the weights that it perturbs are "
            "there; expected overlap=False"
        )
    if run_plan.job.topology.overlap and run_plan.queue and not run_plan.waits:
        raise SettingError(
            f"overlap with algo={run_plan.job.algo}: its actors do not wait for the learner anyway; expected a replay, "
            "or an algorithm whose actors wait for the newest weights"
        )


def _check_devices(run_plan: RunPlan) -> None:
    """Raises SettingError for more devices than there are, or a batch that cannot be shared between them."""
    topology = run_plan.job.topology
    num_devices = topology.num_learner_devices
    gpus, cpus = tf.config.list_physical_devices("GPU"), tf.config.list_physical_devices("CPU")
    available = len(gpus) or len(tf.config.get_logical_device_configuration(cpus[0]) or [None])
    replicas = _replicas(run_plan)
    if replicas > available:
        kind = "GPU" if gpus else "CPU"
        raise SettingError(
            f"num_learner_devices={num_devices}: expected at most {available}, TensorFlow's {kind} devices"
        )
    rows, what = run_plan.batch_items, f"batch_size={run_plan.batch_items}"
    if run_plan.queue:
        rows = run_plan.batch_items * run_plan.layout.columns
        what = f"a batch of {rows} environments"
    if rows % replicas:
        raise SettingError(
            f"{what} with {replicas} learner devices: expected a multiple of {replicas}"
        )


def _check_compile(run_plan: RunPlan, policy: Policy) -> None:
    """Raises SettingError for what XLA cannot serve, or would compute in another way than the actors."""
    if run_plan.job.topology.compile != "xla":
        return
    replicas = _replicas(run_plan)
    if replicas > 1:
        raise SettingError(
            f"compile=xla with {replicas} learner devices: XLA serves one; use graph or auto"
        )
    # XLA has its own logarithm, sine and cosine, of which `explore/noise.py` makes normal numbers.
    if any(n.seeded and n.kind == "normal" and not n.table for n in policy.noise.values()):
        raise SettingError(
            f"compile=xla with algo={run_plan.job.algo}: the learner would make the perturbations of seeds with other "
            "roundings than the actors that played them; use graph or auto"
        )


def _check_minibatches(run_plan: RunPlan, policy: Policy) -> None:
    """Raises SettingError where a batch has fewer rows than minibatches."""
    queue = run_plan.queue
    if queue is None or queue.minibatches == 1:
        return
    minibatches = queue.minibatches
    rows, what = run_plan.batch_items * run_plan.layout.columns // _replicas(run_plan), "unrolls"
    if not tree.flatten(policy.initial_state(1, {})):  # with memory they stay whole
        rows, what = rows * run_plan.sequences.length, "env steps"
    if minibatches > rows:
        raise SettingError(
            f"minibatches={minibatches}: expected at most {rows}, the {what} of a batch on each device"
        )


def _check_replay(run_plan: RunPlan) -> None:
    """Raises SettingError where too few old unrolls are kept for any to be trained on."""
    queue, batch = run_plan.queue, run_plan.batch_items
    if queue and queue.replay_proportion and queue.replay_items <= batch:
        raise SettingError(
            f"replay_unrolls={queue.replay_items} with replay_proportion={queue.replay_proportion:g}: "
            f"expected more than {batch}, the unrolls of a batch"
        )


def _check_shards(run_plan: RunPlan) -> None:
    """Raises SettingError where the replay cannot be spread over servers, or weights not be looked for in time."""
    topology, batch = run_plan.job.topology, run_plan.batch_items
    shards, delay = topology.num_replay_shards, topology.max_weight_delay_env_steps
    if shards > 1 and run_plan.queue:
        raise SettingError(
            f"num_replay_shards={shards} with algo={run_plan.job.algo}: expected 1; only a replay can be spread"
        )
    if shards > 1 and batch % shards:
        raise SettingError(
            f"num_replay_shards={shards} with batch_size={batch}: each shard gives its share of every "
            f"batch; expected a multiple of {shards}"
        )
    if run_plan.queue and 0 < delay < run_plan.item_env_steps:
        raise SettingError(
            f"max_weight_delay_env_steps={delay}: weights change between two unrolls only; expected at least "
            f"{run_plan.item_env_steps}, the env steps of one"
        )


def _check_hindsight(run_plan: RunPlan) -> None:
    """Raises SettingError where steps hold something that no `compute_reward` gives for another goal."""
    if not run_plan.relabels:
        return
    job, spec = run_plan.job, run_plan.spec
    where = f"her_relabels={run_plan.relabels}"
    if job.env.observe_previous:
        raise SettingError(
            f"{where} with observe_previous=True: previous rewards would be those of another goal; expected "
            "observe_previous=False"
        )
    changed = [name for name in job.switches if hasattr(switches.find(name), "environment")]
    if changed:
        raise SettingError(
            f"{where} with with={changed[0]}: the environment computes rewards for goals without this change; expected "
            "no switch of environments"
        )
    if spec.reward_parts or spec.step_discount:
        what = "parts of rewards" if spec.reward_parts else "discounts"
        raise SettingError(
            f"{where} with env={spec.name!r}: its steps have {what} of their own, which cannot be computed for another "
            "goal; expected an environment without them"
        )
