"""Recurrent states that episodes begin with: made of the noise of the episode and of the weights of its start."""

import dataclasses
import pathlib
import tempfile

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import ActorPlace, Episodes, Unroll
from tfrl.envs.make import make_vector
from tfrl.explore.noise import regenerate
from tfrl.job import EnvPlan
from tfrl.replay.kinds import make_layout, sequence_writer
from tfrl.replay.local_queue import LocalQueue
from tfrl.runtime.acting.actor import Actor
from tfrl.runtime.acting.evaluator import evaluate
from tfrl.runtime.acting.inference import FunctionEngine, LiteEngine, Start, StepSignature
from tfrl.runtime.facts import MAX_PRIORITY
from tfrl.runtime.serving.export import export
from tfrl.runtime.serving.loaded import LoadedPolicy
from tfrl.types import NoiseSpec, PolicyStep

ENV = EnvPlan(env="tfrl.testing.fakes:Counter", env_kwargs={"lengths": (3, 2, 4)})
SIZE = 3
ENGINES = {"function": FunctionEngine, "lite": LiteEngine}


class Perturbed(tf.Module):
    """Acts with weights that are perturbed once an episode, as evolution strategies do."""

    noise = {  # noqa: RUF012 - declared as in any policy
        "perturbation": NoiseSpec((2,), "normal", None, seeded=True),
        "coin": NoiseSpec((), "uniform"),
    }

    def __init__(self):
        super().__init__()
        self.weights = tf.Variable([1.0, 2.0])

    def initial_state(self, batch_size, noise):
        perturbed = tf.repeat(self.weights[None], batch_size, 0)
        return {"weights": perturbed + 0.5 * noise["perturbation"] if noise else perturbed}

    def step(self, obs, state, knobs, noise, explore):
        action = tf.cast(tf.reduce_sum(obs * state["weights"], 1) > 0.0, tf.int32)
        extras = {"acted_with": state["weights"]}
        if explore:
            extras["perturbation"] = noise["perturbation"] + 0.0
        return PolicyStep(action, {"weights": state["weights"] + 0.0}, extras)


@dataclasses.dataclass(frozen=True)
class Experience:
    """The part of an agent's experience that a layout reads."""

    item: object
    prioritized: bool = False


@dataclasses.dataclass(frozen=True)
class Agent:
    """What acting reads of an agent."""

    experience: Experience
    actor_compute: object = None
    in_metrics: object = None

    def knobs(self, place, env_steps, facts):
        return {}


def spec_of():
    vector = make_vector(ENV, 1, 0)
    vector.close()
    return vector.spec


class EpisodeStartTest(tf.test.TestCase, parameterized.TestCase):
    def acting(self, engine, item, seed=0):
        """An actor, and the queue that it writes to."""
        policy, spec = Perturbed(), spec_of()
        agent = Agent(Experience(item))
        layout = make_layout(agent, spec, policy, SIZE)
        queue = LocalQueue()
        writer = sequence_writer(queue, item, layout, SIZE)
        engine = ENGINES[engine](policy, StepSignature(policy, spec, SIZE, [], explore=True))
        env = make_vector(ENV, SIZE, 0)
        self.addCleanup(env.close)
        rng = np.random.default_rng(seed)
        actor = Actor(agent, engine, env, writer, ActorPlace(0, 1, SIZE), rng, 0)
        return actor, queue, layout

    @parameterized.product(engine=sorted(ENGINES), blocks=((24,), (5, 7, 12)))
    def test_each_episode_has_its_own_which_its_seed_tells(self, engine, blocks):
        actor, queue, layout = self.acting(engine, Unroll(24, 0.9))
        for count in blocks:
            actor.run(count, 0)
        batch = layout.decode(queue.take(1).columns)
        extras = {k: v.numpy() for k, v in batch.extras.items()}
        drawn = regenerate(Perturbed.noise["perturbation"], extras["perturbation_seed"]).numpy()
        self.assertAllEqual(drawn, extras["perturbation"])
        self.assertAllClose(extras["acted_with"], np.float32([1, 2]) + 0.5 * drawn, 1e-6, 1e-6)
        self.assertAllEqual(batch.state["weights"], extras["acted_with"][0])
        is_first, acted = batch.is_first.numpy()[:24], extras["acted_with"]
        changed = (acted[1:] != acted[:-1]).any(-1)
        valid = batch.valid.numpy()
        self.assertGreater(is_first.sum(), 15)
        for t in range(1, 24):
            for b in range(SIZE):
                self.assertEqual(changed[t - 1, b], is_first[t, b], (t, b))
        self.assertFalse(valid.all())

    @parameterized.parameters(*sorted(ENGINES))
    def test_an_episode_keeps_the_weights_of_its_start(self, engine):
        actor, queue, layout = self.acting(engine, Episodes(4, 0.9, 2))
        facts = {MAX_PRIORITY: 1.0}
        weights = lambda version: [np.float32([10.0 * version, -version])]
        for version in range(1, 13):
            actor.load(weights(version), version, facts)
            actor.run(2, 0)  # shorter than most episodes
        checked = 0
        while len(queue):
            batch = layout.decode(queue.take(1).columns)
            begun = []
            for column in np.flatnonzero(batch.valid.numpy()[0]):
                length = int(batch.valid.numpy()[:, column].sum())
                extras = {k: v.numpy()[:length, column] for k, v in batch.extras.items()}
                centre = extras["acted_with"] - 0.5 * extras["perturbation"]
                self.assertAllClose(centre, np.repeat(centre[:1], length, 0), 1e-5, 1e-5)
                begun.append(round(-float(centre[0, 1])))
                self.assertAllClose(centre[0], weights(begun[-1])[0], 1e-5, 1e-5)
                checked += 1
            self.assertAllEqual(batch.version, [min(begun)] * batch.version.shape[0])
        self.assertGreater(checked, 12)

    @parameterized.parameters(*sorted(ENGINES))
    def test_it_goes_on_where_it_was_saved(self, engine):
        actor, queue, layout = self.acting(engine, Unroll(12, 0.9))
        actor.run(7, 0)
        state, rng = actor.state(), actor.rng.bit_generator.state
        actor.run(17, 0)
        expected = [layout.decode(queue.take(1).columns) for _ in range(2)]
        other, theirs, _ = self.acting(engine, Unroll(12, 0.9), seed=4)
        other.run(3, 0)
        self.assertEqual(other.restore(state), "")
        other.rng.bit_generator.state = rng
        other.run(17, 0)
        for batch in expected:
            again = layout.decode(theirs.take(1).columns)
            tf.nest.map_structure(self.assertAllEqual, batch, again)

    def test_without_noise_it_is_that_of_the_weights(self):
        policy, spec = Perturbed(), spec_of()
        for kind in ENGINES.values():
            engine = kind(policy, StepSignature(policy, spec, SIZE, [], explore=False))
            engine.load([np.float32([3.0, -1.0])])
            self.assertAllEqual(engine.start({})["weights"], [[3.0, -1.0]] * SIZE)
        policy.weights.assign([1.0, 1.0])
        loaded = LoadedPolicy(policy, spec)
        self.assertAllEqual(loaded.initial_state(2)["weights"], np.ones((2, 2)))
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        saved = tf.saved_model.load(str(export(policy, spec, folder / "export")))
        self.assertAllEqual(saved.initial_state(4)["weights"], np.ones((4, 2)))

    @parameterized.product(engine=sorted(ENGINES), explore=(False, True))
    def test_an_evaluation_begins_each_episode_anew(self, engine, explore):
        seen = []

        class Noting(Perturbed):
            """Keeps what it acted with."""

        policy, spec = Noting(), spec_of()
        engine = ENGINES[engine](policy, StepSignature(policy, spec, 2, [], explore))
        act = engine.act

        def noting(obs, state, knobs, noise):
            seen.append(np.array(state["weights"]))
            return act(obs, state, knobs, noise)

        engine.act = noting
        env = make_vector(ENV, 2, 0, training=False)
        self.addCleanup(env.close)
        evaluate(engine, env, 6, 0)
        different = len(np.unique(np.array(seen)[:, 0], axis=0))
        self.assertEqual(different, 1) if not explore else self.assertGreaterEqual(different, 3)

    def test_a_state_that_is_always_the_same_is_made_once(self):
        class Plain(Perturbed):
            """A memory that begins with zeros."""

            noise = {}  # noqa: RUF012

            def initial_state(self, batch_size, noise):
                return {"weights": tf.zeros([batch_size, 2])}

        policy = Plain()
        for explore in (False, True):
            signature = StepSignature(policy, spec_of(), SIZE, [], explore)
            start = Start(policy, signature)
            self.assertAllEqual(start.constant["weights"], np.zeros((SIZE, 2)))
        perturbed = Perturbed()
        for explore in (False, True):
            signature = StepSignature(perturbed, spec_of(), SIZE, [], explore)
            self.assertIsNone(Start(perturbed, signature).constant)


if __name__ == "__main__":
    tf.test.main()
