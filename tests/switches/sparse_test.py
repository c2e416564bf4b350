"""Sparse training of any learner: which weights are, and that they stay so through updates, copies and resumes."""

import dataclasses
import json
import pathlib
import tempfile
import types
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.agent import Delayed, Learner, Network, Periodic, check_learner
from tfrl.api import make_job
from tfrl.errors import SettingError
from tfrl.optim import apply, optimizers
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.runtime.plan import warm_start
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.storage.checkpoint import Checkpoints, restore_learner
from tfrl.switches import sparse
from tfrl.testing import conformance, delayed, replicas
from tfrl.types import EnvSpec, PolicyStep, UpdateOutput

OBS, ACTIONS = 5, 2
SPEC = EnvSpec("box", gym.spaces.Box(-1, 1, (OBS,), np.float32), gym.spaces.Discrete(ACTIONS))
NETWORKS = ("policy", "critic_0", "critic_1")
KINDS = ("rmsprop", "adam", "lamb")  # of their optimisers


class Mlp(tf.Module):
    """Layers [F] -> ... -> [n]; as a policy it acts by its largest output."""

    def __init__(self, sizes):
        super().__init__()
        self.noise = {}
        self.kernels = [
            tf.Variable(tf.random.normal([a, b], stddev=a**-0.5)) for a, b in zip(sizes, sizes[1:])
        ]
        self.biases = [tf.Variable(tf.fill([n], 0.01)) for n in sizes[1:]]

    @property
    def ordered(self):
        return [v for pair in zip(self.kernels, self.biases) for v in pair]

    def __call__(self, x):
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1]):
            x = tf.nn.relu(tf.matmul(x, kernel) + bias)
        return tf.matmul(x, self.kernels[-1]) + self.biases[-1]

    def initial_state(self, batch_size, noise):
        return ()

    def step(self, obs, state, knobs, noise, explore):
        return PolicyStep(tf.argmax(self(obs), 1, output_type=tf.int32), state, {})


class Twin(Learner):
    """Twin critics with targets by Polyak, and a policy by a delayed step, on made-up losses."""

    def __init__(self, kinds=("adam",) * 3, hidden=(16, 12), obs=OBS, actions=ACTIONS):
        super().__init__()
        self.policy = Mlp([obs, *hidden, actions])
        self.critics = [Mlp([obs + actions, *hidden, 1]) for _ in range(2)]
        self.targets = [Mlp([obs + actions, *hidden, 1]) for _ in range(2)]
        for target, critic in zip(self.targets, self.critics):
            for a, b in zip(target.ordered, critic.ordered):
                a.assign(b)
        self.optimizers = [
            optimizers.make(kind, net.ordered, 1e-2)
            for kind, net in zip(kinds, (self.policy, *self.critics), strict=True)
        ]

    def update(self, batch, seed):
        x = tf.concat([batch.obs_tm1, self.policy(batch.obs_tm1)], 1)
        for i, critic in enumerate(self.critics):
            with tf.GradientTape() as tape:
                error = critic(x)[:, 0] - (1 + i) * batch.reward_t - self.targets[i](x)[:, 0]
                loss = apply.global_mean(error**2)
            apply.minimise(self.optimizers[1 + i], tape, loss, critic.ordered, 1.0)
        return UpdateOutput({"learner/loss": apply.reduce_sum(loss)}, None)

    def delayed(self):
        return Delayed(2, self._policy_step)

    def _policy_step(self, batch, seed):
        with tf.GradientTape() as tape:
            x = tf.concat([batch.obs_tm1, self.policy(batch.obs_tm1)], 1)
            loss = apply.global_mean(-self.critics[0](x)[:, 0])
        apply.minimise(self.optimizers[0], tape, loss, self.policy.ordered)
        return {"learner/policy_loss": apply.reduce_sum(loss)}

    def periodic(self):
        def polyak():
            for target, critic in zip(self.targets, self.critics):
                for a, b in zip(target.ordered, critic.ordered):
                    a.assign(a + 0.1 * (b - a))

        return (Periodic(1, polyak),)

    def networks(self):
        trained = zip(NETWORKS, (self.policy, *self.critics), self.optimizers)
        return (
            *(Network(name, net.ordered, optimizer) for name, net, optimizer in trained),
            *(
                Network(f"target_critic_{i}", net.ordered, copy_of=f"critic_{i}")
                for i, net in enumerate(self.targets)
            ),
        )

    def facts(self):
        return {"a_fact": 3.0}

    def artifacts(self):
        return {"mine": {"x": 1}}


def sparse_agent(config, make=Twin, updates=1):
    """An agent whose learner `make` builds, with the switch."""
    plan = delayed.make(delayed.Config(updates_per_call=updates), SPEC)
    plan = dataclasses.replace(plan, make_learner=make, make_policy=lambda: make().policy)
    return sparse.agent(config, SPEC, plan)


def loop_of(mode="graph", strategy=None, make=Twin, updates=1, **settings):
    """A loop, and a function that gives the block of a call."""
    agent = sparse_agent(sparse.Config(**settings), make, updates=updates)
    loop = conformance.loop(agent, SPEC, mode, strategy)
    return loop, lambda seed: conformance.block(agent, SPEC, seed)


def learner_of(make=Twin, **settings):
    """A learner with the switch."""
    tf.keras.utils.set_random_seed(3)
    return sparse_agent(sparse.Config(**settings), make).make_learner()


def train(learner, updates, env_steps=0):
    """Makes updates number `updates` one by one, with what is due after each; yields their metrics."""
    if learner.env_steps is not None:
        learner.env_steps.assign(env_steps)
    delayed_step, periodic = learner.delayed(), learner.periodic()
    for update in updates:
        rng = np.random.default_rng(update)
        obs = rng.normal(size=(8, OBS)).astype(np.float32)
        batch = types.SimpleNamespace(obs_tm1=obs, reward_t=np.tanh(obs.sum(1)))
        out = learner.update(batch, tf.constant([1, update]))
        if update % delayed_step.every_updates == 0:
            delayed_step.fn(batch, tf.constant([2, update]))
        for each in periodic:
            if update % each.every_updates == 0:
                each.fn()
        yield out.metrics


def trained(learner, count, **more):
    """The learner after its first updates."""
    list(train(learner, range(1, count + 1), **more))
    return learner


def by_name(learner):
    return {network.name: network for network in learner.networks()}


def hidden(learner):
    """{network: its hidden kernels, as arrays}, of copies too."""
    return {n: [k.numpy() for k in net.kernels[:-1]] for n, net in by_name(learner).items()}


def masks(learner):
    """The masks of the hidden kernels, in the order of the networks."""
    return [v.numpy() for v in learner.sparse_topology._masks]


def flat(arrays):
    return np.concatenate([x.ravel() for x in arrays])


def trained_kernels(learner):
    found = hidden(learner)
    return [kernel for name in NETWORKS for kernel in found[name]]


class SparseTest(tf.test.TestCase, parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        replicas.configure()

    def test_it_begins_sparse_and_copies_with_it(self):
        learner = learner_of(sparse_density=0.5)
        found = hidden(learner)
        for kernel, mask in zip(trained_kernels(learner), masks(learner), strict=True):
            self.assertAllEqual(kernel != 0, mask == 1)
        for name in ("critic_0", "critic_1"):
            self.assertAllEqual(found[name][1], found[f"target_{name}"][1])
        self.assertTrue(np.any(masks(learner)[2] != masks(learner)[4]))
        for network in learner.networks():  # outputs and biases stay dense
            for variable in (network.kernels[-1], *network.variables[1::2]):
                self.assertTrue(np.all(variable.numpy() != 0))

    def test_kernels_keep_their_number_of_weights_and_copies_have_no_more(self):
        """Over 50 rewirings, under an optimiser of each kind."""
        loop, block = loop_of(make=lambda: Twin(KINDS), sparse_rewire_updates=1)
        learner, data = loop.learner, block(0)
        counts, first = [m.sum() for m in masks(learner)], masks(learner)
        for _ in range(50):
            loop.run(data)
            found, now = hidden(learner), masks(learner)
            self.assertEqual([m.sum() for m in now], counts)
            for kernel, mask in zip(trained_kernels(learner), now, strict=True):
                self.assertFalse(np.any(kernel[mask == 0]))
            for i in range(2):
                for copy, original in zip(found[f"target_critic_{i}"], found[f"critic_{i}"]):
                    self.assertLessEqual(np.count_nonzero(copy), np.count_nonzero(original))
        self.assertEqual(int(learner.sparse_topology.rewirings), 50)
        for old, new in zip(first, now):
            self.assertBetween(np.mean(old != new), 0.1, 0.6)
        for network in learner.networks():
            self.assertTrue(np.all(network.kernels[-1].numpy() != 0))

    def test_a_static_mask_stays(self):
        learner = learner_of(sparse_rewire_updates=0)
        before, start = masks(learner), trained_kernels(learner)
        trained(learner, 6)
        self.assertAllEqual(flat(before), flat(masks(learner)))
        for mask, old, new in zip(before, start, trained_kernels(learner), strict=True):
            self.assertFalse(np.any(new[mask == 0]))
            self.assertTrue(np.any(new != old))

    def test_rewirings_come_every_so_many_updates(self):
        learner, changed, before = learner_of(sparse_rewire_updates=3), [], None
        before = flat(masks(learner))
        for update, _ in enumerate(train(learner, range(1, 8)), 1):
            now = flat(masks(learner))
            if np.any(before != now):
                changed.append(update)
            before = now
        self.assertEqual(changed, [3, 6])

    def test_what_grows_begins_at_zero_and_is_trained(self):
        learner = learner_of(sparse_rewire_updates=2, sparse_drop=0.3)
        old = masks(learner)
        trained(learner, 2)
        grown = [(a == 0) & (b == 1) for a, b in zip(old, masks(learner))]
        for kernel, places in zip(trained_kernels(learner), grown, strict=True):
            self.assertTrue(np.any(places))
            self.assertFalse(np.any(kernel[places]))
        list(train(learner, [3]))
        moved = [np.mean(k[g] != 0) for k, g in zip(trained_kernels(learner)[2:], grown[2:])]
        self.assertGreater(min(moved), 0.3)

    def test_the_last_rewiring_only_drops(self):
        learner = learner_of(sparse_rewire_updates=2, sparse_stop_env_steps=100, sparse_drop=0.2)
        counts = [m.sum() for m in masks(learner)]
        trained(learner, 4, env_steps=99)
        kept = masks(learner)
        self.assertEqual([m.sum() for m in kept], counts)
        list(train(learner, range(5, 7), env_steps=100))
        dropped = masks(learner)
        for before, after in zip(kept, dropped, strict=True):
            self.assertBetween(after.sum() / before.sum(), 0.7, 0.82)
            self.assertFalse(np.any(after > before))
        *_, metrics = train(learner, range(7, 11), env_steps=100)
        self.assertAllEqual(flat(dropped), flat(masks(learner)))
        self.assertEqual(float(metrics["learner/sparse_rewirings"]), 3.0)
        for kernel, mask in zip(trained_kernels(learner), dropped, strict=True):
            self.assertFalse(np.any(kernel[mask == 0]))
        self.assertEqual(
            learner.artifacts()["sparse_training"]["parameters"],
            float(metrics["learner/sparse_parameters"]),
        )

    def test_policy_steps_read_projected_critics(self):
        """The critic is sparse when the delayed step reads it, as in the authors' code."""
        seen = []

        class Spying(Twin):
            def _policy_step(self, batch, seed):
                seen.append(np.count_nonzero(self.critics[0].kernels[0]))
                return super()._policy_step(batch, seed)

        learner = trained(learner_of(Spying, sparse_rewire_updates=0), 4)
        self.assertEqual(seen, [np.count_nonzero(masks(learner)[2])] * 2)

    @parameterized.parameters(("frozen", 0.0, 0.0), ("warm", 0.3, 1.0))
    def test_moments_of_inactive_weights(self, kind, least, most):
        learner = trained(learner_of(sparse_moments=kind, sparse_rewire_updates=0), 4)
        inactive = masks(learner)[2].ravel() == 0
        first = learner.optimizers[1]._first[0].numpy()[: inactive.size]
        self.assertBetween(np.mean(first[inactive] != 0), least, most)
        self.assertGreater(np.mean(first[~inactive] != 0), 0.3)

    @pytest.mark.slow
    def test_two_devices_equal_one(self):
        arrays = []
        for strategy in (None, replicas.two_cpus()):
            loop, block = loop_of(strategy=strategy, sparse_rewire_updates=1, updates=2)
            loop.run(block(0))
            arrays.append(conformance.values(loop))
            if strategy is not None:
                learner = loop.learner
                for variable in (*learner.sparse_topology._masks, learner.critics[0].kernels[0]):
                    self.assertAllEqual(*[v.numpy() for v in variable.values])
        self.assertLess(conformance.apart(*arrays), 1e-6)

    @pytest.mark.slow
    def test_xla_equals_a_graph(self):
        settings = dict(sparse_rewire_updates=2, sparse_stop_env_steps=50, updates=2)
        found = []
        for mode in ("graph", "xla"):
            loop, block = loop_of(mode, **settings)
            for call in range(3):
                loop.run(block(call), env_steps=call * 40)
            found.append((masks(loop.learner), conformance.values(loop.learner.policy)))
        self.assertAllEqual(*[flat(each[0]) for each in found])
        self.assertLess(conformance.apart(found[0][1], found[1][1]), 1e-5)

    def test_a_restored_learner_goes_on_to_the_bit(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = Checkpoints(folder, "twin", SPEC, 1)
        settings = dict(sparse_rewire_updates=3, sparse_stop_env_steps=8)
        loop, block = loop_of(**settings)
        for update in range(14):
            if update == 4:
                checkpoints.save(4, loop, {}, None)
            loop.run(block(update), env_steps=update)
        again, _ = loop_of(**settings)
        for variable in conformance.variables(again):
            variable.assign(tf.zeros_like(variable))
        restore_learner(checkpoints.newest(), again)
        for update in range(4, 14):
            again.run(block(update), env_steps=update)
        self.assertEqual(conformance.apart(*map(conformance.values, (loop, again))), 0.0)
        self.assertEqual(int(again.learner.sparse_topology.rewirings), 3)

    def test_the_rest_of_the_learner_stays(self):
        learner, plain = sparse_agent(sparse.Config()).make_learner(), Twin()
        check_learner(learner)
        self.assertIsInstance(learner, Twin)
        self.assertEqual(learner.facts(), {"a_fact": 3.0})
        self.assertEqual(learner.artifacts()["mine"], {"x": 1})
        self.assertEqual(learner.delayed().every_updates, 2)
        self.assertIsNone(learner.env_steps)
        # Its variables are those of the learner without the switch, and the masks and counters.
        names = lambda x: sorted(name for name, _ in tf.train.TrackableView(x).children(x).items())
        self.assertEqual(set(names(learner)) - set(names(plain)), {"sparse_topology"})

    def test_order_of_what_is_periodic(self):
        learner = sparse_agent(sparse.Config(sparse_rewire_updates=7)).make_learner()
        periodic = learner.periodic()
        self.assertEqual([p.every_updates for p in periodic], [7, 1, 1])
        self.assertEqual([p.at_start for p in periodic], [False, True, True])
        static = sparse_agent(sparse.Config(sparse_rewire_updates=0)).make_learner()
        self.assertEqual([p.every_updates for p in static.periodic()], [1, 1])

    def test_weights_of_another_run_keep_their_largest(self):
        learner = learner_of(sparse_density=0.4)
        counts = [m.sum() for m in masks(learner)]
        rng, policy = np.random.default_rng(0), learner.policy
        given = [rng.normal(size=k.shape).astype(np.float32) for k in policy.kernels]
        for kernel, value in zip(policy.kernels, given):
            kernel.assign(value)
        critics = trained_kernels(learner)[2:]
        learner.adopt(10)
        self.assertEqual([m.sum() for m in masks(learner)], counts)
        for value, kernel, count in zip(given, policy.kernels[:-1], counts):
            least = np.sort(np.abs(value).ravel())[-int(count)]
            self.assertAllEqual(kernel, np.where(np.abs(value) >= least, value, 0))
        self.assertAllEqual(given[-1], policy.kernels[-1])
        self.assertAllEqual(flat(critics), flat(trained_kernels(learner)[2:]))

    def test_a_run_that_begins_with_weights_is_not_rewired_before_its_first_update(self):
        loop, _ = loop_of(sparse_rewire_updates=1)
        rng, policy = np.random.default_rng(0), loop.learner.policy
        given = [rng.normal(size=v.shape).astype(np.float32) for v in policy.variables]
        weights = warm_start.Weights(given, 10, pathlib.Path("there"))
        job = types.SimpleNamespace(initial_weights="there")
        self.enter_context(mock.patch.object(warm_start, "read", return_value=weights))
        plan = types.SimpleNamespace(job=job, spec=SPEC)
        scope = tf.distribute.get_strategy().scope()
        counts = [m.sum() for m in masks(loop.learner)]
        warm_start.start(loop, plan, scope, lambda text: None)
        self.assertEqual(int(loop.learner.sparse_topology.rewirings), 0)
        self.assertEqual([m.sum() for m in masks(loop.learner)], counts)
        for kernel, mask in zip(policy.kernels[:-1], masks(loop.learner)):
            largest = np.sort(
                np.abs(given[[v is kernel for v in policy.variables].index(True)]).ravel()
            )
            self.assertAllEqual(np.abs(kernel) >= largest[-int(mask.sum())], mask == 1)


class PaperTest(tf.test.TestCase):
    """Sizes of HalfCheetah: 17 numbers in, 6 out, an actor and two critics of 256 x 256."""

    def test_the_share_of_weights_and_of_operations(self):
        make = lambda: Twin(hidden=(256, 256), obs=17, actions=6)
        learner = learner_of(make, sparse_lambdas=(7, 64))
        kernels = [k.numpy() for n in NETWORKS for k in by_name(learner)[n].kernels]
        kept = sum(np.count_nonzero(k) for k in kernels)
        dense = sum(k.size for k in kernels)
        self.assertAlmostEqual(kept / dense, 0.494, delta=0.01)
        biases = 3 * 512 + 6 + 2
        summary = learner.artifacts()["sparse_training"]
        self.assertEqual(summary["parameters"], kept + biases)
        self.assertEqual(summary["parameters_dense"], dense + biases)
        self.assertEqual(summary["forward_flops"], 2 * kept)
        self.assertEqual(summary["training_flops"], 6 * kept)
        self.assertEqual(summary["forward_flops_dense"], 2 * dense)
        self.assertLessEqual(summary["flops_ratio"], 0.51)
        self.assertAlmostEqual(summary["weights_ratio"], kept / dense)
        for n, inputs in (("policy", 17), ("critic_0", 23), ("critic_1", 23)):
            first, second, _ = (k.numpy() for k in by_name(learner)[n].kernels)
            for kernel, p in ((first, 7 * (inputs + 256) / (inputs * 256)), (second, 0.5)):
                sigma = np.sqrt(kernel.size * p * (1 - p))
                self.assertLess(abs(np.count_nonzero(kernel) - kernel.size * p), 3 * sigma)

    def test_metrics_say_the_same(self):
        learner = learner_of(sparse_density=0.3)
        (metrics,) = train(learner, [1])
        summary = learner.artifacts()["sparse_training"]
        for name, key in (
            ("parameters", "parameters"), ("parameters_ratio", "parameters_ratio"),
            ("flops", "forward_flops"), ("flops_ratio", "flops_ratio"), ("rewirings", "rewirings"),
        ):  # fmt: skip
            self.assertAlmostEqual(float(metrics[f"learner/sparse_{name}"]), summary[key], places=5)


class LayersTest(tf.test.TestCase, parameterized.TestCase):
    """Which layers of the algorithms are sparse."""

    def shapes(self, algo, env="CartPole-v1", **settings):
        """{network: shapes of its sparse kernels}, and the learner."""
        job = make_job(algo, env=env, with_=["sparse"], **settings)
        learner = plan_run(job).agent.make_learner()
        sparse_ids = {id(k) for k in learner.sparse_topology._kernels}
        return {
            n.name: [tuple(k.shape) for k in n.kernels if id(k) in sparse_ids]
            for n in learner.networks()
            if n.copy_of is None
        }

    def test_dueling_heads_have_dense_outputs(self):
        found = self.shapes("dqn", hidden_sizes=(12,), head_hidden_sizes=(8,), dueling=True)
        self.assertEqual(found, {"q": [(4, 12), (12, 8), (12, 8)]})

    def test_noisy_layers_stay_dense(self):
        found = self.shapes("c51", hidden_sizes=(12,), head_hidden_sizes=(8,), noisy="factorised")
        self.assertEqual(found, {"q": [(4, 12)]})

    def test_policy_and_value_function(self):
        found = self.shapes("ppo", hidden_sizes=(12, 6))
        self.assertEqual(found, {"policy": [(4, 12), (12, 6)], "value": [(4, 12), (12, 6)]})
        found = self.shapes(
            "ppo", hidden_sizes=(12,), shared_torso=True, core="gru", core_size=5, num_envs=4
        )
        self.assertEqual(found, {"policy": [(4, 12), (12, 15), (5, 15)], "value": []})

    def test_the_matrix_of_state_dependent_exploration_is_no_layer(self):
        found = self.shapes(
            "ppo", "Pendulum-v1", hidden_sizes=(12,), state_dependent_exploration=True
        )
        self.assertEqual(found, {"policy": [(3, 12)], "value": [(3, 12)]})

    def test_policies_and_critics_of_continuous_control(self):
        small = dict(policy_hidden_sizes=(9, 6), critic_hidden_sizes=(8, 7))
        for algo in ("ddpg", "td3", "sac"):
            found = self.shapes(algo, "Pendulum-v1", **small)
            critics = {name: x for name, x in found.items() if name.startswith("critic")}
            self.assertEqual(found["policy"], [(3, 9), (9, 6)])
            self.assertLen(critics, 1 if algo == "ddpg" else 2)
            self.assertEqual(set(map(tuple, critics.values())), {((4, 8), (8, 7))})
        # Layers that policy and critics share are hidden ones; the matrix of gSDE is none.
        shared = dict(hidden_sizes=(5,), shared_torso=True, state_dependent_exploration=True)
        found = self.shapes("sac", "Pendulum-v1", **small, **shared)
        self.assertEqual(found["policy"], [(5, 9), (9, 6)])
        self.assertEqual(found["critic_0"], [(6, 8), (8, 7)])
        self.assertEqual(found["critic_body"], [(3, 5)])

    @parameterized.parameters(False, True)
    def test_convolutions_if_asked_for(self, wide):
        found = self.shapes(
            "dqn", "tfrl.testing.fakes:ImageGame", network="small_cnn", sparse_convolutions=wide
        )
        ranks = [len(shape) for shape in found["q"]]
        self.assertEqual(ranks, [4, 2] if wide else [2])

    @parameterized.parameters(
        (dict(sparse_lambdas=(7, 64, 3)), r"sparse_lambdas=7,64,3: network 'q' has 2 layers"),
        (dict(hidden_sizes=()), "no layer of the networks q can be sparse"),
    )
    def test_refused(self, settings, message):
        job = make_job("dqn", with_=["sparse"], **settings)
        with self.assertRaisesRegex(SettingError, message):
            plan_run(job, starting=True)

    def test_learners_without_networks_are_refused(self):
        class Silent(Twin):
            def networks(self):
                return ()

        with self.assertRaisesRegex(SettingError, "with=sparse: Silent declares no networks"):
            sparse_agent(sparse.Config(), Silent).make_learner()

    @parameterized.parameters(
        (dict(sparse_density=0.5, sparse_lambdas=(7, 64)), "sparse_density=0.5: no effect"),
        (dict(sparse_drop=0.1, sparse_rewire_updates=0), "sparse_drop=0.1: no effect"),
        (dict(sparse_density=0.0), "sparse_density=0.0: expected more than 0"),
        (dict(sparse_drop=1.5), "sparse_drop=1.5: expected at most 1"),
        (dict(sparse_moments="cold"), "sparse_moments='cold': expected one of warm, frozen"),
    )
    def test_settings(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            plan_run(make_job("dqn", with_=["sparse"], **settings))


class GradientsTest(tf.test.TestCase):
    def test_gradients_of_actors_revive_nothing(self):
        """Actors hold the masked weights; their gradients are dense, and the learner's weights stay sparse."""
        settings = dict(hidden_sizes=(8,), unroll_length=5, num_envs=4, sparse_rewire_updates=2)
        run_plan = plan_run(make_job("a3c", with_=["sparse"], **settings))
        agent = run_plan.agent
        loop = LearnerLoop(agent, run_plan.layout, tf.distribute.get_strategy(), "graph", seed=1)
        topology, variables = loop.learner.sparse_topology, loop.learner.policy.trainable_variables
        acting = agent.make_policy()
        actor = dataclasses.replace(agent, make_policy=lambda: acting)
        for seed in range(3):
            for variable, array in zip(acting.variables, loop.arrays(), strict=True):
                variable.assign(array)
            block = conformance.unroll(actor, run_plan.spec, 4, seed)
            sizes = np.cumsum([v.shape.num_elements() for v in variables])[:-1]
            gradients = np.split(block.columns["gradient"].numpy()[0], sizes)
            by_id = {id(v): g for v, g in zip(variables, gradients, strict=True)}
            for kernel, mask in zip(topology._kernels, topology._masks, strict=True):
                self.assertTrue(np.any(by_id[id(kernel)][mask.numpy().ravel() == 0]))
            loop.run(block)
            for kernel, mask in zip(topology._kernels, topology._masks, strict=True):
                self.assertFalse(np.any(kernel.numpy()[mask.numpy() == 0]))
                self.assertGreater(np.count_nonzero(kernel), 0.5 * mask.numpy().sum())
        self.assertEqual(int(topology.rewirings), 1)


class RunTest(tf.test.TestCase, parameterized.TestCase):
    def test_a_run(self):
        self.check("inprocess")

    @pytest.mark.slow
    def test_a_run_of_several_processes(self):
        self.check("processes")

    def check(self, backend):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        settings = dict(
            hidden_sizes=(16, 12), eval_every_env_steps=0, final_eval_episodes=1, console="none",
            compile="graph", inference="function", tensorboard=False, max_episode_steps=30,
            log_every_s=0.05, min_replay=40, batch_size=8, updates_per_call=4, backend=backend,
            export_policy="last",
        )  # fmt: skip
        tfrl.train(
            "dqn", run_dir=run_dir, with_=["sparse"], total_env_steps=300, sparse_density=0.3,
            sparse_rewire_updates=10, **settings,
        )  # fmt: skip
        facts = json.loads((run_dir / "result.json").read_text())["artifacts"]["sparse_training"]
        same = json.loads((run_dir / "artifacts" / "sparse_training.json").read_text())
        self.assertEqual(facts, same)
        self.assertEqual(facts["parameters_dense"], 4 * 16 + 16 + 16 * 12 + 12 + 12 * 2 + 2)
        self.assertGreater(facts["rewirings"], 2)
        # The exported policy has as many weights as that counts, and exact zeros elsewhere.
        exported = tf.train.load_checkpoint(str(run_dir / "export" / "variables" / "variables"))
        found = map(exported.get_tensor, exported.get_variable_to_shape_map())
        kernels = {x.shape: x for x in found if np.ndim(x) == 2}
        self.assertLen(kernels, 3)
        kept = sum(np.count_nonzero(kernels[shape]) for shape in ((4, 16), (16, 12)))
        most = facts["parameters"] - (16 + 12 + 12 * 2 + 2)
        self.assertBetween(kept, 0.9 * most, most)
        self.assertAlmostEqual(most / (4 * 16 + 16 * 12), 0.3, delta=0.1)
        self.assertEqual(np.count_nonzero(kernels[12, 2]), 24)
        # It goes on with the masks of the checkpoint.
        tfrl.train("dqn", run_dir=run_dir, resume=True, total_env_steps=400)
        later = json.loads((run_dir / "result.json").read_text())["artifacts"]["sparse_training"]
        self.assertEqual(later["parameters"], facts["parameters"])
        self.assertGreater(later["rewirings"], facts["rewirings"])


if __name__ == "__main__":
    tf.test.main()
