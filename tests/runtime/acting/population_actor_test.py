"""The actor of a population: what a member does depends on the seed, the iteration and its number alone."""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.agent import ActorPlace, Population, Queue
from tfrl.algos import ars, es
from tfrl.envs.make import make_spec, make_vector
from tfrl.errors import SettingError
from tfrl.explore.noise import draws
from tfrl.job import EnvPlan
from tfrl.optim import apply, optimizers
from tfrl.replay.population import COLLECTOR, ROUNDS, Collector, PopulationLayout
from tfrl.replay.write_population import PopulationWriter
from tfrl.runtime.acting.inference import StepSignature, make_engine
from tfrl.runtime.acting.population import PopulationActor, check_noise, pairs_of
from tfrl.runtime.facts import MAX_PRIORITY
from tfrl.testing import conformance
from tfrl.types import NoiseSpec

PENDULUM = EnvPlan(env="Pendulum-v1", max_episode_steps=12, env_backend="sync")
CARTPOLE = EnvPlan(env="CartPole-v1", env_backend="sync")
NATIVE = EnvPlan(env="CartPole-v1", env_backend="native")
ES = es.Config(
    episodes_per_batch=10, hidden_sizes=(5,), core="gru", core_size=3, noise_stdev=0.3,
    action_noise=0.1, normalize_observations=True,
)  # fmt: skip
ARS = ars.Config(num_directions=5, noise_stdev=0.3)


class Results:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.items = []

    def append(self, item, priority):
        self.items.append(item)

    def flush(self, pending, timeout_ms):
        pass


def actor_of(agent, plan, num_envs, place=(0, 1), mode="lite", local=False, seed=4):
    """An actor, and its sink; with a collector of its own if `local`."""
    vector = make_vector(plan, num_envs, seed=99)
    tf.keras.utils.set_random_seed(1)
    policy = agent.make_policy()
    signature = StepSignature(policy, vector.spec, num_envs, [], explore=True)
    layout, sink = PopulationLayout(vector.spec, agent.experience.item), Results()
    collector = Collector(layout, 0) if local else None
    writer = PopulationWriter(vector.spec, layout, sink, num_envs, seed, collector)
    actor = PopulationActor(
        agent, make_engine(mode, policy, signature), vector, writer, ActorPlace(*place, num_envs),
        np.random.default_rng(0), 0, population_seed=seed,
    )  # fmt: skip
    actor.arrays = [v.numpy() for v in policy.variables]
    return actor, sink, layout


def load(actor, version=0, rounds=1, learner=0):
    actor.load(
        actor.arrays, version, {MAX_PRIORITY: 1.0, ROUNDS: float(rounds), COLLECTOR: float(learner)}
    )


def iteration(config, module, plan, num_actors, num_envs, version=0, rounds=1, mode="lite"):
    """Columns of an iteration that some actors have played, members in order."""
    agent = module.make(config, make_spec(plan))
    found = {}
    for worker in range(num_actors):
        actor, sink, layout = actor_of(agent, plan, num_envs, (worker, num_actors), mode)
        for asked in range(1, rounds + 1):
            load(actor, version, asked)
            while not actor.rests:
                actor.run(7, 0)
        for item in sink.items:
            for i, member in enumerate(item["member"].tolist()):
                assert member not in found
                found[member] = tuple(item[k][i] for k in ("returns", "length", "moments"))
    columns = [np.array(x) for x in zip(*(found[m] for m in sorted(found)))]
    return sorted(found), columns


class PopulationActorTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (ES, es, PENDULUM, "lite"), (ES, es, PENDULUM, "function"), (ARS, ars, CARTPOLE, "lite")
    )
    def test_one_actor_and_four_get_the_same_results(self, config, module, plan, mode):
        members, one = iteration(config, module, plan, 1, 2, rounds=2, mode=mode)
        self.assertEqual(members, list(range(20)))
        again, four = iteration(config, module, plan, 4, 2, rounds=2, mode=mode)
        self.assertEqual(again, members)
        for mine, theirs in zip(one, four, strict=True):
            self.assertAllEqual(mine, theirs)

    def test_another_iteration_or_round_plays_other_episodes(self):
        _, first = iteration(ES, es, PENDULUM, 1, 3, rounds=2)
        _, second = iteration(ES, es, PENDULUM, 1, 3, rounds=2, version=1)
        returns = [*first[0], *second[0]]
        self.assertLen(set(returns), 40)

    def test_more_rows_play_the_same_episodes(self):
        """In the same arithmetic to the last digits, whatever the number of rows."""
        _, two = iteration(ES, es, PENDULUM, 1, 2)
        _, five = iteration(ES, es, PENDULUM, 1, 5)
        self.assertAllClose(two[0], five[0], rtol=1e-5)
        self.assertAllEqual(two[1], five[1])

    def test_pairs_with_common_seeds_begin_alike(self):
        config = es.Config(
            episodes_per_batch=6, hidden_sizes=(4,), noise_stdev=1e-9, action_noise=0.0,
            common_random_numbers=True,
        )  # fmt: skip
        _, (returns, *_) = iteration(config, es, PENDULUM, 1, 2)
        self.assertAllClose(returns[::2], returns[1::2], rtol=1e-5)
        self.assertNotAllClose(returns[0], returns[2])
        other = es.Config(episodes_per_batch=6, hidden_sizes=(4,), noise_stdev=1e-9)
        _, (returns, *_) = iteration(other, es, PENDULUM, 1, 2)
        self.assertNotAllClose(returns[::2], returns[1::2])

    def test_members_act_with_their_own_weights(self):
        """The state of each row is theta + sigma eps of the draw and sign of its member."""
        agent = ars.make(ARS, make_spec(CARTPOLE))
        actor, _, _ = actor_of(agent, CARTPOLE, 4)
        load(actor, version=6)
        actor.run(1, 0)
        policy = actor.engine.policy
        seed = tf.constant([4, 6])
        for row in range(4):
            member = int(actor._members[row])
            sign = 1.0 if member % 2 == 0 else -1.0
            eps = sign * draws(policy.noise["direction"], seed, member // 2, 1)[0]
            (expected,) = policy.network.perturbed(tf.constant(0.3) * eps[None])
            (mine,) = actor._states.value["weights"]
            self.assertAllEqual(mine[row], expected[0])

    def test_a_replacement_plays_its_part_again(self):
        agent = es.make(ES, make_spec(PENDULUM))
        first, sink, layout = actor_of(agent, PENDULUM, 2, (1, 2))
        load(first)
        first.run(30, 0)  # it dies in the middle
        second, again, _ = actor_of(agent, PENDULUM, 2, (1, 2))
        other, rest, _ = actor_of(agent, PENDULUM, 2, (0, 2))
        for actor in (second, other):
            load(actor)
            while not actor.rests:
                actor.run(9, 0)
        self.assertNotEmpty(sink.items)
        collector, plain = Collector(layout, 0), Collector(layout, 0)
        items = [*sink.items, *rest.items, *again.items]
        whole = [x for x in map(collector.add, items) if x is not None]
        expected = [x for x in map(plain.add, [*rest.items, *again.items]) if x is not None]
        self.assertLen(whole, 1)
        for name in expected[0]:
            self.assertAllEqual(whole[0][name], expected[0][name])

    def test_a_learner_that_starts_again_gets_all_results_again(self):
        agent = es.make(ES, make_spec(PENDULUM))
        actor, sink, _ = actor_of(agent, PENDULUM, 2)
        load(actor)
        actor.run(10_000, 0)
        self.assertTrue(actor.rests)
        load(actor)  # the same again: nothing to do
        self.assertTrue(actor.rests)
        load(actor, learner=1)
        self.assertFalse(actor.rests)
        actor.run(10_000, 0)
        members = [m for item in sink.items for m in item["member"].tolist()]
        self.assertEqual(sorted(members), sorted([*range(10), *range(10)]))
        load(actor, version=1, rounds=0)
        self.assertTrue(actor.rests)

    @parameterized.parameters(CARTPOLE, NATIVE)
    def test_env_steps_are_those_of_episodes(self, plan):
        """Resets, and rows without a member, count for nothing."""
        agent = ars.make(ARS, make_spec(plan))
        actor, sink, _ = actor_of(agent, plan, 4, local=True)
        load(actor)
        actor.run(10_000, 0, items=1)
        (item,) = sink.items
        self.assertEqual(actor.env_steps, item["length"].sum())
        self.assertEqual(actor.episodes, 10)
        self.assertAllEqual(item["returns"], item["length"])
        self.assertAllGreater(item["length"], 4)
        self.assertTrue(actor.rests and actor.between_items)

    def test_it_goes_on_with_the_members_that_are_left(self):
        agent = es.make(ES, make_spec(PENDULUM))
        whole, expected, _ = actor_of(agent, PENDULUM, 3, local=True)
        first, _, _ = actor_of(agent, PENDULUM, 3, local=True)
        second, sink, _ = actor_of(agent, PENDULUM, 3, local=True)
        load(whole)
        whole.run(10_000, 0, items=1)
        load(first)
        first.run(20, 0)
        self.assertFalse(first.between_items)
        load(second)
        self.assertEqual(second.restore(first.state()), "")
        second.run(10_000, 0, items=1)
        self.assertEqual(first.env_steps + second.env_steps, whole.env_steps)
        for name in expected.items[0]:
            self.assertAllEqual(sink.items[0][name], expected.items[0][name])

    @parameterized.parameters(1, 2, 3, 7)
    def test_every_pair_has_one_actor(self, num_actors):
        parts = [pairs_of(ActorPlace(i, num_actors, 1), 10) for i in range(num_actors)]
        self.assertEqual(list(itertools.chain(*parts)), list(range(5)))

    @parameterized.parameters(
        NoiseSpec((2,), "ou"), NoiseSpec((2,), "normal", 3), NoiseSpec((2,), "normal", None)
    )
    def test_other_noise_is_refused(self, spec):
        policy = tf.Module()
        policy.noise = {"x": spec}
        with self.assertRaisesRegex(SettingError, "noise 'x' with a Population"):
            check_noise(policy)


class LearningTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("ars", dict(num_directions=8, noise_stdev=0.05, learning_rate=0.05)),
        ("es", dict(episodes_per_batch=64, noise_stdev=0.05, learning_rate=0.05, l2_coeff=0.0)),
    )
    def test_a_quadratic_is_climbed(self, algo, settings):
        """F = -|theta - t|^2 of 10 weights, whose directions are made of seeds (vector E4c)."""
        module = {"ars": ars, "es": es}[algo]
        spec = make_spec(EnvPlan(env="CartPole-v1"))
        config = module.Config(policy="linear", **settings)
        agent = module.make(config, spec)
        loop = conformance.loop(agent, spec)
        policy, target = loop.learner.policy, np.linspace(-1.0, 1.0, 8)
        noise, stdev = policy.noise["direction"], config.noise_stdev
        layout = PopulationLayout(spec, agent.experience.item)
        collector, count = Collector(layout, 0), agent.experience.item.count
        make = tf.function(lambda seed: draws(noise, seed, 0, count // 2))
        for version in range(300):
            theta = policy.network.ordered[0].numpy().ravel()
            eps = make(tf.constant([5, version])).numpy()
            members = [theta + s * stdev * x for x in eps for s in (1, -1)]
            returns = [-np.sum((m - target) ** 2) for m in members]
            item = collector.add(
                layout.results(version, 5, range(count), returns, [1] * count, np.zeros((count, 0)))
            )
            columns = {name: tf.constant(x[None]) for name, x in item.items()}
            block = conformance.block(agent, spec, 0)._replace(columns=columns)
            loop.run(block)
        self.assertLess(np.linalg.norm(policy.network.ordered[0].numpy().ravel() - target), 0.2)

    def test_adam_on_the_way_up_with_decay(self):
        """Vector E1: two steps with the same gradient."""
        theta = tf.Variable([0.1, -0.2])
        adam = optimizers.make("adam", [theta], 0.01, epsilon=1e-8)
        descent = [tf.constant([-0.0995, 0.199])]
        for expected in ([0.10999997, -0.20999998], [0.11999995, -0.21999997]):
            apply.step(adam, descent, [theta])
            self.assertAllClose(theta, expected, atol=1e-6)

    def test_nobody_is_left_without_a_member(self):
        settings = dict(env="CartPole-v1", num_directions=4, total_env_steps=1_000)
        for given, message in (
            (dict(num_actors=5, num_envs=2, backend="processes"), "expected at most 4 actors"),
            (
                dict(num_actors=3, num_envs=5, backend="processes"),
                "1 environments would always rest",
            ),
            (dict(num_envs=12), "an actor plays 8 members in a round, so that 4 environments"),
        ):
            with self.assertRaisesRegex(SettingError, message):
                tfrl.train("ars", **settings, **given)

    def test_an_environment_without_a_time_limit_is_named(self):
        (note,) = ars.make(
            ARS, dataclasses.replace(make_spec(CARTPOLE), max_episode_steps=None)
        ).notes
        self.assertIn("CartPole-v1 has no known time limit", note)
        self.assertEqual(ars.make(ARS, make_spec(CARTPOLE)).notes, ())

    def test_an_agent_of_a_population_is_checked(self):
        with self.assertRaisesRegex(
            SettingError, "num_top_directions=9 with num_directions=8: expected at most 8"
        ):
            ars.Config(num_directions=8, num_top_directions=9)
        with self.assertRaisesRegex(SettingError, "noise_size=7: the policy has 8 weights"):
            ars.make(ars.Config(noise_source="table", noise_size=7), make_spec(CARTPOLE))
        self.assertIsInstance(ars.make(ARS, make_spec(CARTPOLE)).experience, Queue)
        self.assertIsInstance(ars.make(ARS, make_spec(CARTPOLE)).experience.item, Population)
