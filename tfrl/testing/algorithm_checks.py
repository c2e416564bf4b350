"""Checks of any algorithm on a tiny environment; also for an algorithm of a user's own:

    python -m tfrl.testing.algorithm_checks --algo=my_package.my_algo --env=CartPole-v1 --hidden_sizes=8

Its flags are the flags of `launchers/run.py`. Settings for small networks and batches make it fast. Each check prints a
line; the exit code is 0 if all passed, 1 if one failed, 2 for settings that cannot be used.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import pathlib
import re
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfrl.agent import ActorPlace, Agent, Learner
from tfrl.config import flags
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.job import algorithm, algorithms
from tfrl.logs.metrics import METRICS, check_declared, check_names
from tfrl.nn import torsos, user_model
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.runtime.plan.run_plan import make_agent
from tfrl.runtime.serving.export import export
from tfrl.runtime.serving.translate import Translator
from tfrl.runtime.storage.checkpoint import Checkpoints, restore_learner
from tfrl.testing import conformance, replicas
from tfrl.types import EnvSpec

# A field whose name ends so is an interval or a length in this unit.
UNITS = {"_env_steps": "env steps", "_updates": "updates", "_s": "s", "_items": "items"}
HALF = 2  # blocks, of four


class Straight(NamedTuple):
    """A learner that went through `Subject.blocks` in one traced loop, and what was seen on the way.

    Attributes:
      learner: of the loop.
      values: values of all variables of the loop before the first block, and after every block.
      networks: the same of the variables of each of its networks.
      metrics: of each block.
      checkpoints: hold one that was written after half of the blocks.
      folder: of the checkpoints; it goes with this object.
    """

    learner: Learner
    values: list[list[np.ndarray]]
    networks: list[list[list[np.ndarray]]]
    metrics: list[Mapping[str, Any]]
    checkpoints: Checkpoints
    folder: tempfile.TemporaryDirectory


@dataclasses.dataclass(frozen=True)
class Subject:
    """An algorithm bound to an environment: its name, its module, its agent and the environment's spec."""

    name: str
    module: types.ModuleType
    agent: Agent
    spec: EnvSpec

    @functools.cached_property
    def blocks(self) -> list[Any]:
        """Made-up data of four calls of the learner."""
        return [conformance.block(self.agent, self.spec, seed) for seed in range(4)]

    @functools.cached_property
    def straight(self) -> Straight:
        """The run that the checks compare others with."""
        place = tempfile.TemporaryDirectory()
        checkpoints = Checkpoints(pathlib.Path(place.name), self.name, self.spec, 1)
        loop = conformance.loop(self.agent, self.spec)
        networks = loop.learner.networks()
        seen = Straight(loop.learner, [], [], [], checkpoints, place)
        for count in range(len(self.blocks) + 1):
            seen.values.append(conformance.values(loop))
            seen.networks.append([[v.numpy() for v in n.variables] for n in networks])
            if count == len(self.blocks):
                break
            if count == HALF:
                checkpoints.save(HALF, loop, {}, None)
            seen.metrics.append(loop.run(self.blocks[count])[0])
        return seen

    def require_same(self, loop: LearnerLoop, most: float) -> None:
        """Goes through half of the blocks another way: to the same variables, with declared and finite metrics."""
        before = [v.numpy() for v in loop.learner.policy.variables]
        metrics = [loop.run(block)[0] for block in self.blocks[:HALF]]
        for found in (*metrics, *self.straight.metrics):
            check_names(found, {**METRICS, **getattr(self.module, "METRICS", {})})
            for name, metric in found.items():
                _require(np.isfinite(metric.numpy()), f"metric {name} is {metric.numpy()}")
        change = conformance.apart(before, [v.numpy() for v in loop.learner.policy.variables])
        _require(change > 1e-5, f"updates change the policy's variables by {change:g} at most")
        _near(self.straight.values[HALF], conformance.values(loop), most)


def eager_equals_traced(subject: Subject) -> None:
    """Two calls of the learner give the same variables with and without tf.function."""
    assert subject.straight  # traced before
    tf.config.run_functions_eagerly(True)
    try:
        subject.require_same(conformance.loop(subject.agent, subject.spec), 2e-6)
    finally:
        tf.config.run_functions_eagerly(False)


def two_devices_equal_one(subject: Subject) -> None:
    """Two replicas with half of each batch give the variables of one with all of it."""
    strategy = replicas.two_cpus()
    subject.require_same(conformance.loop(subject.agent, subject.spec, strategy=strategy), 1e-6)


def save_and_restore_continue_exactly(subject: Subject) -> None:
    """A learner restored from a checkpoint goes on bit for bit; a checkpoint of another algorithm is refused."""
    straight = subject.straight
    again = conformance.loop(subject.agent, subject.spec)
    for variable in conformance.variables(again):
        variable.assign(tf.zeros_like(variable))
    restore_learner(straight.checkpoints.newest(), again)
    for block in subject.blocks[HALF:]:
        again.run(block)
    _near(straight.values[-1], conformance.values(again), 0.0)
    try:
        Checkpoints(straight.checkpoints.folder, "other", subject.spec, 1).newest()
    except SettingError as error:
        said = f"algo is {subject.name}, but this run has other"
        _require(said in str(error), f"{error} does not say: {said}")
    else:
        _require(False, "the checkpoint of another algorithm is accepted")


def export_acts_alike(subject: Subject) -> None:
    """The SavedModel chooses the actions of the policy, for several batch sizes, in the environment's own values."""
    policy, translator = subject.agent.make_policy(), Translator(subject.spec)
    outside = dataclasses.replace(
        subject.spec, observation_space=translator.observation_space, env_observation_space=None
    )
    with tempfile.TemporaryDirectory() as place:
        folder = export(policy, subject.spec, pathlib.Path(place) / "export")
        loaded = tf.saved_model.load(str(folder))
        for size in (1, 7):
            obs = conformance.observations(outside, size, size)
            obs = tf.nest.map_structure(tf.constant, obs)
            acted = loaded.act(obs, loaded.initial_state(tf.constant(size)))
            state = policy.initial_state(size, {})
            step = policy.step(translator.observation(obs), state, {}, {}, False)
            # Eager ops and a graph may round the last digit of a real number differently.
            tf.nest.map_structure(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
                acted["action"],
                translator.action(step.action),
            )


def acts_with_what_it_declares(subject: Subject) -> None:
    """A greedy step needs no noise and an exploring one what the policy declares; actions are of the space."""
    agent, spec, policy = subject.agent, subject.spec, subject.agent.make_policy()
    obs = conformance.observations(spec, 5, 0)
    knobs = dict(agent.knobs(ActorPlace(0, 1, 5), 0, {}))
    for knob, x in knobs.items():
        _require((x.shape, x.dtype) == ((5,), np.float32), f"knob {knob}: expected float32 [5]")
    rng = np.random.default_rng(0)
    noise = {k: rng.random((5, *n.shape), np.float32) for k, n in policy.noise.items()}
    held = {k: noise[k] for k, n in policy.noise.items() if n.hold_env_steps is None}
    for step in (
        policy.step(obs, policy.initial_state(5, {}), {}, {}, False),
        policy.step(obs, policy.initial_state(5, held), knobs, noise, True),
    ):
        flat = tf.nest.flatten(step.action)
        if len(flat) > 1:  # a nest of actions: its environment checks it
            continue
        for action in flat[0].numpy():
            fits = spec.action_space.contains(action.astype(spec.action_space.dtype))
            _require(fits, f"action {action} is not in {spec.action_space}")


def settings_are_documented_and_read(subject: Subject) -> None:
    """Every field of `Config` has a help text and the unit of its name, and something reads it."""
    config = subject.module.Config
    modules = {torsos, subject.module, *(sys.modules[c.__module__] for c in config.__mro__[:-1])}
    modules |= _parts(subject.module)
    source = "\n".join(inspect.getsource(x) for x in modules)
    for field in dataclasses.fields(config):
        _require(bool(field.metadata and field.metadata["help"]), f"{field.name} has no help text")
        for suffix, unit in UNITS.items():
            if field.name.endswith(suffix):
                _require(field.metadata["unit"] == unit, f"the unit of {field.name} is not {unit}")
        reads = re.findall(rf"(?:config|self)\.{field.name}\b", source)
        _require(bool(reads), f"{field.name} is read nowhere")


def metrics_are_declared_well(subject: Subject) -> None:
    """The metrics that the module declares are named like tfrl's, with a unit and a meaning."""
    check_declared(getattr(subject.module, "METRICS", {}), f"algo={subject.name}")


def networks_have_every_variable_once(subject: Subject) -> None:
    """Networks that a learner declares hold all that can be trained; those with an optimiser change in an update.

    A learner without `networks` passes. `agent.check_learner` has compared the shapes of target copies.
    """
    straight = subject.straight
    networks = straight.learner.networks()
    if not networks:
        return
    held = [id(variable) for network in networks for variable in network.variables]
    free = user_model.trainable(straight.learner, straight.learner.trainable_variables)
    missing = [v.name for v in free if id(v) not in held]
    _require(not missing, f"no network has the trainable variables {missing}")
    extra = len(held) - len(free)
    _require(
        not extra, f"networks have {extra} variables that are not trainable or not the learner's"
    )
    scalars = [all(v.shape.rank == 0 for v in network.variables) for network in networks]
    _require(
        all(network.kernels or scalar for network, scalar in zip(networks, scalars, strict=True)),
        "a network that is no scalar and has no kernel of two axes or more",
    )
    for network, *found in zip(
        networks, straight.networks[0], straight.networks[HALF], strict=True
    ):
        moves = conformance.apart(*found) > 0 or network.optimizer is None
        _require(moves, f"network {network.name} has an optimizer, but updates do not change it")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    eager_equals_traced,
    two_devices_equal_one,
    save_and_restore_continue_exactly,
    export_acts_alike,
    acts_with_what_it_declares,
    settings_are_documented_and_read,
    metrics_are_declared_well,
    networks_have_every_variable_once,
)


def few() -> frozenset[str]:
    """Names of the algorithms on which `make test` runs its longest tests; the slow tests run them on all others.

    One of each family, the last in the alphabet, but for hierarchies, which compile longest.
    """
    last = {algorithm(name).ABOUT.family: name for name in algorithms()}
    return frozenset(name for family, name in last.items() if family != "hierarchy")


def main(argv: Sequence[str]) -> int:
    """Runs every check of the algorithm that the flags name; returns the exit code."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    sys.path.append(os.getcwd())  # where the user's own module is
    replicas.configure()
    try:
        job = flags.parse(argv)
        spec, module = make_spec(job.env, job.switches), algorithm(job.algo)
        subject = Subject(job.algo, module, make_agent(job, spec), spec)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = 0
    for check in CHECKS:
        try:
            check(subject)
        except Exception as error:  # whatever the algorithm raises
            failed += 1
            print(f"FAILED {check.__name__}: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"passed {check.__name__}", flush=True)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed")
    return 1 if failed else 0


def _parts(module: types.ModuleType) -> set[types.ModuleType]:
    """Modules of `tfrl/algos/parts` that a module uses, and those that they use."""
    found: set[types.ModuleType] = set()
    waiting = [module]
    while waiting:
        for what in vars(waiting.pop()).values():
            name = what.__name__ if inspect.ismodule(what) else getattr(what, "__module__", None)
            if isinstance(name, str) and name.startswith("tfrl.algos.parts."):
                part = sys.modules[name]
                if part not in found:
                    found.add(part)
                    waiting.append(part)
    return found


def _near(a: Sequence[np.ndarray], b: Sequence[np.ndarray], most: float) -> None:
    gap = conformance.apart(a, b)
    _require(gap <= most, f"variables differ by {gap:g}, expected at most {most:g}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
