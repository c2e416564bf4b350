"""SAC: its targets, losses and temperature against numbers worked out by hand, its options, and what it learns."""

import dataclasses
import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import ActorPlace
from tfrl.algos import sac, td3
from tfrl.algos.parts import actor_critic_replay
from tfrl.errors import SettingError
from tfrl.nn import bounded, sde
from tfrl.nn.critics import split_seed
from tfrl.testing import actor_critic, conformance
from tfrl.types import EnvSpec

spaces = gym.spaces
SPEC, SEED = actor_critic.SPEC, actor_critic.SEED
DISCRETE = EnvSpec("d", SPEC.observation_space, spaces.Discrete(3))
MASKED = EnvSpec(
    "m",
    spaces.Dict(
        observation=spaces.Box(-1.0, 1.0, (3,), np.float32), action_mask=spaces.MultiBinary(4)
    ),
    spaces.Discrete(4),
)
MEMORY = dict(core="lstm", core_size=4, sequence_length=6, sequence_period=3, burn_in=2)
GSDE = dict(state_dependent_exploration=True, log_std_initial=-1.0)
TQC = dict(num_critics=3, num_quantiles=5, dropped_quantiles=1)
REDQ = dict(num_critics=5, target_critics=2, policy_value="mean")
DROQ = dict(critic_dropout=0.2, critic_layer_norm=True)


def numbers(variables):
    return [v.numpy() for v in variables]


def errors(learner, batch, seed=SEED):
    """|y - Q(s, a)|, the mean over the critics, of each row; of a learner with `prioritized`."""
    return learner.update(batch, seed).priorities.numpy() - learner._config.priority_epsilon


def train(learner, batch, updates):
    """Updates of all networks on one batch."""

    def body(i):
        seed = tf.stack([tf.cast(i, tf.int32), 0])
        learner.update(batch, seed)
        learner.update_policy(batch, seed)
        for periodic in learner.periodic():
            periodic.fn()
        return [i + 1]

    loop = lambda: tf.while_loop(lambda i: i < updates, body, [tf.constant(0)])
    tf.function(loop, autograph=False)()


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(temperature=-0.1), "temperature=-0.1: expected at least 0"),
        (dict(initial_temperature=0.0), "initial_temperature=0.0: expected more than 0"),
        (
            dict(temperature_learning_rate=0.0),
            "temperature_learning_rate=0.0: expected more than 0",
        ),
        (
            dict(temperature_learning_rate=1e-3, learning_rate_schedule=((0, 1e-3), (9, 1e-4))),
            "temperature_learning_rate=0.001 with learning_rate_schedule: the schedule is that of",
        ),
        (
            dict(policy_learning_rate=1e-3, learning_rate_schedule=((0, 1e-3), (9, 1e-4))),
            "policy_learning_rate=0.001 with learning_rate_schedule: the schedule is that of all",
        ),
        (dict(target_entropy_ratio=-0.1), "target_entropy_ratio=-0.1: expected at least 0"),
        (dict(target_entropy_ratio=1.1), "target_entropy_ratio=1.1: expected at most 1"),
        (dict(policy_value="minimum"), "policy_value='minimum': .*did you mean min"),
        (dict(target_critics=0), "target_critics=0: expected at least 1"),
        (dict(target_critics=3), "target_critics=3 with num_critics=2: expected at most as many"),
        (dict(num_quantiles=0), "num_quantiles=0: expected at least 1"),
        (dict(dropped_quantiles=-1), "dropped_quantiles=-1: expected at least 0"),
        (
            dict(num_quantiles=3, dropped_quantiles=3),
            "dropped_quantiles=3 with num_quantiles=3: expected less",
        ),
        (
            dict(num_quantiles=3, target_critics=1),
            "target_critics=1 with num_quantiles=3: the quantiles of all critics make the target",
        ),
        (dict(sde_resample_env_steps=0), "sde_resample_env_steps=0: expected at least 1"),
        (dict(random_env_steps=-1), "random_env_steps=-1: expected at least 0"),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            sac.Config(**settings)

    @parameterized.parameters(
        (spaces.MultiDiscrete([2, 3]),),
        (spaces.MultiBinary(2),),
        (spaces.Box(-np.inf, np.inf, (2,), np.float32),),
        (spaces.Box(np.float32([-1, 0]), np.float32([1, np.inf])),),
        (spaces.Box(np.float32([-1, 1]), np.float32([1, 1])),),
        (spaces.Box(-2, 2, (2,), np.int32),),
        (spaces.Dict(a=spaces.Box(-1, 1, (2,), np.float32)),),
    )
    def test_a_space_that_is_not_served_is_refused(self, space):
        message = "algo=sac on e: expected a Discrete action space, or a Box .*finite"
        with self.assertRaisesRegex(SettingError, message):
            sac.make(sac.Config(), EnvSpec("e", SPEC.observation_space, space))

    @parameterized.parameters(
        (DISCRETE, GSDE, "state_dependent_exploration with algo=sac on d: expected a Box"),
        (DISCRETE, dict(num_quantiles=5), "num_quantiles=5 with algo=sac on d: expected a Box"),
        (
            DISCRETE,
            dict(target_entropy=-1.0),
            "target_entropy=-1.0 .* on d: expected from 0 to 1.1,",
        ),
        (DISCRETE, dict(target_entropy=1.2), "target_entropy=1.2 .* on d: expected from 0 to 1.1,"),
        (
            SPEC,
            dict(target_entropy=1.5),
            "target_entropy=1.5 .* on e: expected at most 1.39, .*rise",
        ),
    )
    def test_what_does_not_fit_the_actions_is_refused(self, spec, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            sac.make(sac.Config(**settings), spec)

    def test_the_target_entropy_that_follows_from_the_actions(self):
        of = lambda spec, **settings: sac.make(sac.Config(**settings), spec).notes[-1]
        self.assertIn("entropy -2 nats", of(SPEC))
        self.assertIn("entropy -0.7 nats", of(SPEC, target_entropy=-0.7))
        self.assertIn(
            f"entropy {0.25 * math.log(3):.3g} nats", of(DISCRETE, target_entropy_ratio=0.25)
        )
        fixed = sac.make(sac.Config(temperature=0.1), SPEC)
        self.assertNotIn("entropy", " ".join(fixed.notes))


class TargetTest(tf.test.TestCase, parameterized.TestCase):
    def test_without_entropy_it_is_that_of_td3_without_noise(self):
        settings = dict(prioritized=True, hidden_sizes=(4,), n_step=3)
        mine, batch = actor_critic.learner_and_batch(sac, SPEC, temperature=0.0, **settings)
        other = actor_critic.agent(td3, SPEC, target_noise=0.0, **settings).make_learner()
        head = mine.policy.head
        head.output.bias.assign([0.3, -0.2, -20.0, -20.0])  # a nearly deterministic policy
        head.output.kernel.assign(head.output.kernel * [5.0, 5.0, 0.0, 0.0])
        pairs = [(mine.critics, other.critics), (mine.target_critics, other.target_critics)]
        for ours, theirs in [*pairs, (mine.policy.body, other.target_policy.body)]:
            for a, b in zip(ours.variables, theirs.variables, strict=True):
                a.assign(a + tf.random.stateless_normal(a.shape, SEED))
                b.assign(a)
        hidden, output = other.target_policy.head.layers
        for a, b in zip((hidden.kernel, hidden.bias), head.hidden.variables, strict=True):
            a.assign(b)
        output.kernel.assign(head.output.kernel[:, :2])
        output.bias.assign(head.output.bias[:2])
        expected = errors(other, batch)
        self.assertAllClose(errors(mine, batch), expected, rtol=1e-4, atol=1e-5)
        self.assertGreater(np.std(expected), 0.1)

    def test_the_entropy_of_the_next_action_is_in_it(self):
        learner = actor_critic.linear_learner(sac, temperature=0.5, prioritized=True)
        actor_critic.set_critics(learner.target_critics, [1.0, 2.5], [0.0, -3.5])
        batch = actor_critic.batch([9.0, -0.5], [0.9, 0.0], obs_t=[[2.0], [3.0]])
        choice = learner.policy.choose(batch.obs_t, batch.obs_t, split_seed(SEED, 4)[0])
        expected = 9.0 + 0.9 * (1.5 - 0.5 * choice.log_prob[0, 0])
        self.assertAllClose(errors(learner, batch), [expected, 0.5])

    def test_a_random_part_of_the_critics_makes_it(self):
        """Two of four: the same in all rows, another in each update."""
        learner = actor_critic.linear_learner(
            sac, temperature=0.0, prioritized=True, num_critics=4, target_critics=2, optimizer="sgd",
            learning_rate=1e-30,
        )  # fmt: skip
        actor_critic.set_critics(learner.target_critics, [0.0] * 4, [4.0, 2.0, 3.0, 1.0])
        batch, found = actor_critic.batch([0.0] * 3, [1.0] * 3), []
        update = tf.function(learner.update, autograph=False)
        for i in range(90):
            error = update(batch, tf.constant([7, i])).priorities.numpy()
            self.assertEqual(np.ptp(error), 0.0)
            found.append(round(float(error[0])))
        # The smallest of a pair: 1 in three of six pairs, 2 in two, 3 in one.
        self.assertAllClose(
            np.bincount(found, minlength=4) / 90, [0, 1 / 2, 1 / 3, 1 / 6], atol=0.15
        )

    def test_expectations_over_discrete_actions_against_loops(self):
        learner, batch = actor_critic.learner_and_batch(
            sac, DISCRETE, prioritized=True, num_critics=3
        )
        for variable in (*learner.policy.head.variables, *learner.target_critics.variables):
            variable.assign(tf.random.stateless_normal(variable.shape, SEED))
        policy, alpha = learner.policy, 1.0
        logits = policy.params(batch.obs_t, batch.obs_t)[0].numpy()
        q_t = learner.target_critics(batch.obs_t, None).numpy()
        q_tm1 = learner.critics(batch.obs_tm1, None).numpy()
        expected = []
        for row in range(8):
            p = np.exp(logits[row]) / np.exp(logits[row]).sum()
            value = sum(p[a] * (min(q_t[:, row, a]) - alpha * np.log(p[a])) for a in range(3))
            y = batch.reward_t[row] + batch.discount_t[row] * value
            expected.append(np.mean(np.abs(q_tm1[:, row, batch.action_tm1[row]] - y)))
        self.assertAllClose(errors(learner, batch), expected, rtol=1e-4)
        # The policy's loss: the expectation of alpha log p - min Q, and its entropy.
        logits = policy.params(batch.obs_tm1, batch.obs_tm1)[0].numpy()
        q_tm1 = learner.critics(batch.obs_tm1, None).numpy()
        losses, entropies = [], []
        for row in range(8):
            p = np.exp(logits[row]) / np.exp(logits[row]).sum()
            losses.append(
                sum(p[a] * (alpha * np.log(p[a]) - min(q_tm1[:, row, a])) for a in range(3))
            )
            entropies.append(-sum(p * np.log(p)))
        metrics = learner.update_policy(batch, SEED)
        self.assertAllClose(metrics["learner/policy_loss"], np.mean(losses), rtol=1e-4)
        self.assertAllClose(metrics["learner/entropy"], np.mean(entropies), rtol=1e-4)

    def test_truncated_quantiles_against_loops(self):
        learner, batch = actor_critic.learner_and_batch(
            sac, SPEC, prioritized=True, temperature=0.3, **TQC
        )
        for variable in learner.target_critics.variables:
            variable.assign_add(tf.random.stateless_normal(variable.shape, SEED))
        policy = learner.policy
        choice = policy.choose(batch.obs_t, batch.obs_t, split_seed(SEED, 4)[0])
        atoms = learner.target_critics(batch.obs_t, choice.action).numpy()
        mine = learner.critics(batch.obs_tm1, policy.to_unit(batch.action_tm1)).numpy()
        expected, losses = [], []
        for row in range(8):
            kept = np.sort(atoms[:, row].reshape(-1))[: 15 - 3]  # one of each critic's, the largest
            y = batch.reward_t[row] + batch.discount_t[row] * (kept - 0.3 * choice.log_prob[row, 0])
            expected.append(np.mean([abs(mine[n, row].mean() - np.mean(y)) for n in range(3)]))
            for n, (i, q) in itertools.product(range(3), enumerate(mine[:, row].T)):
                u = np.array(y) - q[n]
                huber = np.where(np.abs(u) <= 1, 0.5 * u * u, np.abs(u) - 0.5)
                losses.append(np.mean(np.abs((2 * i + 1) / 10 - (u < 0)) * huber) / 5)
        out = learner.update(batch, SEED)
        self.assertAllClose(out.priorities, np.array(expected) + 1e-6, rtol=1e-4)
        weights = batch.probability.numpy() ** -0.4
        weights = np.repeat(weights / weights.max(), 15)
        self.assertAllClose(out.metrics["learner/loss"], np.sum(weights * losses) / 8, rtol=1e-3)


class PolicyLossTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(("own", GSDE), ("shared", TQC), ("memory", REDQ | DROQ))
    def test_no_loss_trains_what_belongs_to_the_other(self, form, options):
        own = {"own": {}, "shared": dict(shared_torso=True), "memory": MEMORY}[form]
        learner, batch = actor_critic.learner_and_batch(
            sac, SPEC, hidden_sizes=(4,), l2_penalty=0.1, **own, **options
        )
        critics, policy = actor_critic.trained(learner, batch, SEED)
        heads = {f"critic_{i}" for i in range(len(learner.critics.critics.heads))}
        self.assertEqual((critics, policy), ({"critic_body", *heads}, {"policy", "temperature"}))

    @parameterized.parameters("min", "mean")
    def test_the_policy_climbs_the_value_of_the_critics(self, policy_value):
        """The smaller one has another slope than the mean."""
        learner = actor_critic.linear_learner(
            sac, temperature=0.0, policy_value=policy_value, learning_rate=1e-2
        )
        actor_critic.set_critics(learner.critics, [0.0, 0.0], [-9.0, 9.0], [-1.0, 3.0])
        mean = lambda: float(learner.policy.params(tf.ones([1, 1]), None)[0][0, 0])
        before = mean()
        learner.update_policy(actor_critic.batch([0.0], [0.0]), SEED)
        self.assertEqual(np.sign(mean() - before), {"min": -1.0, "mean": 1.0}[policy_value])

    def test_the_policy_climbs_the_mean_of_all_quantiles(self):
        learner, batch = actor_critic.learner_and_batch(sac, SPEC, temperature=0.3, **TQC)
        choice = learner.policy.choose(batch.obs_tm1, batch.obs_tm1, split_seed(SEED, 2)[0])
        q = learner.critics(batch.obs_tm1, choice.action).numpy()
        expected = np.mean(0.3 * choice.log_prob[:, 0] - q.mean(axis=(0, 2)))
        metrics = learner.update_policy(batch, SEED)
        self.assertAllClose(metrics["learner/policy_loss"], expected, rtol=1e-5)
        self.assertAllClose(metrics["learner/entropy"], -np.mean(choice.log_prob), rtol=1e-5)
        saturated = np.mean(np.abs(choice.action) > 0.99)
        self.assertAllClose(metrics["learner/saturated_ratio"], saturated)
        self.assertAllClose(
            bounded.saturated(tf.constant([[1.0, 0.5], [-1.0, -0.995]])), [0.5, 1.0]
        )


class TemperatureTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((-3.0, 1.0), (-0.3, -1.0))
    def test_it_rises_where_the_entropy_is_below_its_target(self, log_std, sign):
        """The target is -2; Adam's first step has the length of the learning rate."""
        learner, batch = actor_critic.learner_and_batch(
            sac, SPEC, initial_temperature=0.2, temperature_learning_rate=0.01
        )
        learner.policy.head.output.bias.assign([0.0, 0.0, log_std, log_std])
        metrics = learner.update_policy(batch, SEED)
        self.assertEqual(np.sign(-2.0 - metrics["learner/entropy"]), sign)
        self.assertAllClose(metrics["learner/temperature"], 0.2)
        self.assertAllClose(learner.log_alpha, math.log(0.2) + sign * 0.01, atol=1e-5)

    def test_a_fixed_one_is_no_variable(self):
        learner, batch = actor_critic.learner_and_batch(sac, SPEC, temperature=0.25)
        self.assertNotIn("temperature", {n.name for n in learner.networks()})
        self.assertIsNone(learner.log_alpha)
        self.assertAllClose(learner.update_policy(batch, SEED)["learner/temperature"], 0.25)

    def test_padding_of_sequences_does_not_count(self):
        learner, batch = actor_critic.learner_and_batch(sac, SPEC, target_entropy=0.9, **MEMORY)
        states = actor_critic_replay.states(learner._config, learner.policy, learner.critics, batch)
        seed = split_seed(SEED, 2)[0]
        log_prob = learner.policy.choose(states.policy_features, states.obs, seed).log_prob[:, 0]
        valid = batch.valid.numpy()[MEMORY["burn_in"] :].T.reshape(-1)
        self.assertBetween(valid.mean(), 0.5, 0.99)
        entropy, whole = -np.mean(log_prob[valid]), -np.mean(log_prob)
        self.assertGreater(abs(entropy - whole), 1e-4)
        learner._target_entropy = 0.5 * (
            entropy + whole
        )  # padding would change the step's direction
        metrics = learner.update_policy(batch, SEED)
        self.assertAllClose(metrics["learner/entropy"], entropy, rtol=1e-5)
        self.assertEqual(np.sign(learner.log_alpha), np.sign(whole - entropy))

    def test_its_learning_rate_decays_as_that_of_the_critics(self):
        """In updates of the critics, of which two belong to one of its own."""
        learner = actor_critic.learner(
            sac, learning_rate=0.5, learning_rate_final=0.1, learning_rate_updates=4,
            policy_period_updates=2, temperature_learning_rate=5.0,
        )  # fmt: skip
        optimizer, found = learner.temperature_optimizer, []
        for step in range(4):
            # A gradient that is always 1: Adam's steps have the length of its learning rate.
            before = learner.log_alpha.numpy()
            optimizer.apply([tf.constant(1.0)])
            found.append(before - learner.log_alpha.numpy())
            self.assertEqual(int(optimizer.iterations), step + 1)
        self.assertAllClose(found, [5.0, 3.0, 1.0, 1.0], rtol=1e-4)


class MaskTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters({}, MEMORY)
    def test_a_high_temperature_leaves_all_numbers_finite(self, **options):
        learner, batch = actor_critic.learner_and_batch(
            sac, MASKED, initial_temperature=9.0, prioritized=True, **options
        )
        out = learner.update(batch, SEED)
        metrics = learner.update_policy(batch, SEED)
        for value in (*out.metrics.values(), *metrics.values(), *numbers(learner.variables)):
            self.assertAllInRange(value, -1e6, 1e6)
        self.assertNotIn("learner/saturated_ratio", metrics)

    @parameterized.parameters({}, MEMORY)
    def test_a_terminal_state_may_have_no_valid_action(self, **options):
        learner, batch = actor_critic.learner_and_batch(sac, MASKED, **options)
        if options:  # the last observation of an episode is a step that does not count
            self.assertBetween(np.mean(batch.valid), 0.5, 0.99)
            counts = tf.concat([batch.valid, tf.ones_like(batch.valid[:1])], 0)
            mask = batch.obs["action_mask"] * tf.cast(counts, tf.int8)[..., None]
            batch = batch._replace(obs={**batch.obs, "action_mask": mask})
        else:
            mask = tf.zeros_like(batch.obs_t["action_mask"])
            batch = batch._replace(
                obs_t={**batch.obs_t, "action_mask": mask}, discount_t=tf.zeros([8])
            )
        learner.update(batch, SEED)
        learner.update_policy(batch, SEED)
        for value in numbers(learner.variables):
            self.assertAllInRange(value, -1e6, 1e6)
        self.assertNotAllClose(learner.log_alpha, 0.0, atol=1e-7)

    def test_the_target_entropy_is_a_share_of_what_a_mask_leaves(self):
        learner, batch = actor_critic.learner_and_batch(sac, MASKED, target_entropy_ratio=0.6)
        obs = batch.obs_tm1
        mask = np.int8([[1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 0, 1]] * 2)
        obs = {**obs, "action_mask": tf.constant(mask)}
        expected = 0.6 * np.log([4, 1, 2, 3] * 2)
        self.assertAllClose(learner._target(obs), expected)
        choice = learner.policy.choose(obs["observation"], obs, SEED)
        self.assertAllEqual(choice.probability[mask == 0], np.zeros(12))
        self.assertAllEqual(choice.log_prob[mask == 0], np.zeros(12))
        # An untrained policy is nearly uniform, above its target wherever there is a choice.
        self.assertAllClose(-choice.mean_log_prob(), np.log([4, 1, 2, 3] * 2), atol=0.01)
        learner.update_policy(batch._replace(obs_tm1=obs), SEED)
        self.assertLess(float(learner.log_alpha), 0.0)
        # With one valid action the entropy cannot change, and the temperature stays.
        only = {**obs, "action_mask": tf.constant(np.eye(4, dtype=np.int8)[[0, 1, 2, 3] * 2])}
        learner, batch = actor_critic.learner_and_batch(sac, MASKED)
        learner.update_policy(batch._replace(obs_tm1=only), SEED)
        self.assertAllClose(learner.log_alpha, 0.0)

    def test_random_and_sampled_actions_are_valid(self):
        agent = actor_critic.agent(sac, MASKED)
        policy = agent.make_policy()
        mask = np.int8([[1, 0, 0, 1], [0, 1, 0, 0]] * 200)
        obs = {"observation": np.zeros((400, 3), np.float32), "action_mask": mask}
        noise = {
            name: tf.random.stateless_uniform([400, *n.shape], [1, i])
            for i, (name, n) in enumerate(policy.noise.items())
        }
        for random in (0.0, 1.0):
            action = policy.step(obs, (), {"random": tf.fill([400], random)}, noise, True).action
            self.assertAllEqual(
                np.take_along_axis(mask, action.numpy()[:, None], 1), np.ones((400, 1))
            )
            self.assertBetween(np.mean(action.numpy()[::2] == 0), 0.35, 0.65)
        shares = policy.estimates(obs, ())["probabilities"]
        self.assertAllClose(shares[:2], [[0.5, 0, 0, 0.5], [0, 1, 0, 0]], atol=0.01)


class CriticsTest(tf.test.TestCase, parameterized.TestCase):
    def test_each_evaluation_drops_its_own_units(self):
        learner, batch = actor_critic.learner_and_batch(
            sac, SPEC, critic_dropout=0.5, num_critics=2
        )
        first, second = learner.critics.critics.heads
        for a, b in zip(first.variables, second.variables, strict=True):
            b.assign(a)
        action = tf.zeros([8, 2])
        q = lambda seed: learner.critics(batch.obs_tm1, action, seed)[..., 0].numpy()
        one, other = q(SEED), q(SEED + 1)
        self.assertGreater(np.mean(one[0] != one[1]), 0.5)  # of each critic
        self.assertGreater(np.mean(one != other), 0.5)  # with each seed
        self.assertAllEqual(one, q(SEED))
        self.assertAllEqual(q(None)[0], q(None)[1])
        # Those of an update are four different ones, and so are those of different updates.
        seeds = [tuple(s.numpy()) for i in range(3) for s in split_seed(SEED + i, 4)]
        self.assertLen(set(seeds), 12)

    def test_the_mean_over_what_is_dropped_stays(self):
        critics = actor_critic.learner(sac, critic_dropout=0.3, critic_hidden_sizes=(64,)).critics
        x, action = tf.ones([4_000, 1]), tf.zeros([4_000, 1])
        dropped = critics(x, action, SEED)[0, :, 0].numpy()
        whole = float(critics(x[:1], action[:1])[0, 0, 0])
        self.assertGreater(dropped.std(), 1e-3)
        self.assertAllClose(dropped.mean(), whole, atol=4 * dropped.std() / np.sqrt(4_000))

    def test_the_policy_is_updated_after_every_second_update(self):
        agent = actor_critic.agent(sac, SPEC, policy_period_updates=2, updates_per_call=100)
        loop, samples = conformance.loop(agent, SPEC), conformance.block(agent, SPEC, 1)
        for _ in range(10):
            loop.run(samples)
        learner = loop.learner
        self.assertEqual(int(learner.critic_optimizer.iterations), 1_000)
        self.assertEqual(int(learner.policy_optimizer.iterations), 500)
        self.assertEqual(int(learner.temperature_optimizer.iterations), 500)


class StateDependentExplorationTest(tf.test.TestCase, parameterized.TestCase):
    def policy(self, **settings):
        spec = dataclasses.replace(SPEC, action_space=spaces.Box(-1.0, 1.0, (2, 2), np.float32))
        agent = actor_critic.agent(sac, spec, activation="tanh", **GSDE, **settings)
        return agent, agent.make_policy()

    def test_an_exploring_action_is_the_mean_and_features_times_a_matrix(self):
        _, policy = self.policy(random_env_steps=0)
        (name,) = policy.noise
        self.assertEqual(policy.noise[name], sde.noise_spec(8, 4, None))
        obs = tf.constant(conformance.observations(SPEC, 5, 0))
        eps = tf.random.stateless_normal([5, 8, 4], SEED)
        action = policy.step(obs, (), {"random": tf.zeros([5])}, {name: eps}, True).action
        hidden, mean = policy.head(obs)
        expected = mean + tf.einsum("bf,bfa->ba", hidden, math.exp(-1.0) * eps)
        self.assertAllClose(action, tf.reshape(tf.tanh(expected), [5, 2, 2]), atol=1e-4)
        # What is learned from has the deviation of these actions.
        _, log_std = tf.split(policy.params(obs, obs)[0], 2, axis=1)
        many = tf.random.stateless_normal([20_000, 8, 4], SEED)
        offsets = tf.einsum("f,nfa->na", hidden[0], math.exp(-1.0) * many)
        self.assertAllClose(tf.exp(log_std[0]), np.std(offsets, axis=0), rtol=0.03)

    def test_how_long_a_matrix_stays(self):
        _, policy = self.policy(sde_resample_env_steps=7)
        periods = {n.hold_env_steps for n in policy.noise.values() if len(n.shape) == 2}
        self.assertEqual(periods, {7})
        self.assertIn("random_action", policy.noise)

    def test_the_penalty_on_weights_leaves_deviations_alone(self):
        agent, _ = self.policy(l2_penalty=0.5)
        learner = agent.make_learner()
        kernels = [v for v in learner.policy.head.variables if len(v.shape) == 2]
        self.assertLen(kernels, 3)
        of = lambda found: 0.25 * sum(float(tf.reduce_sum(v**2)) for v in found)
        deviations = learner.policy.head.log_std
        expected = of([v for v in kernels if v is not deviations])
        self.assertAllClose(learner.extra_policy_loss(), expected, rtol=1e-5)
        # They are trained all the same.
        before = deviations.numpy()
        learner.update_policy(actor_critic.decoded(agent, dataclasses.replace(
            SPEC, action_space=spaces.Box(-1.0, 1.0, (2, 2), np.float32))), SEED)  # fmt: skip
        self.assertGreater(np.abs(deviations - before).min(), 0.0)


class ActingTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(((),), ((1,),), ((2, 3),))
    def test_actions_of_any_shape_are_in_their_limits(self, shape):
        low, high = np.full(shape, 0.1), np.full(shape, 0.7)
        spec = EnvSpec("s", SPEC.observation_space, spaces.Box(low, high, shape, np.float64))
        agent = actor_critic.agent(sac, spec, random_env_steps=100)
        policy = agent.make_policy()
        policy.head.output.bias.assign(3.0 * tf.ones_like(policy.head.output.bias))
        obs = conformance.observations(spec, 64, 0)
        noise = {
            "action": 3.0 * tf.random.stateless_normal([64, max(1, math.prod(shape))], SEED),
            "random_action": tf.random.stateless_uniform([64, max(1, math.prod(shape))], SEED),
        }
        place, drawn = ActorPlace(0, 1, 64), {}
        for steps in (0, 100):
            knobs = {k: tf.constant(x) for k, x in agent.knobs(place, steps, {}).items()}
            action = policy.step(obs, (), knobs, noise, True).action
            self.assertEqual(action.shape, [64, *shape])
            self.assertAllInRange(action, np.float32(0.1), np.float32(0.7))
            drawn[steps] = np.reshape(action, -1)
        uniform = 0.1 + 0.6 * np.reshape(noise["random_action"], -1)
        self.assertAllClose(drawn[0], uniform, atol=1e-5)
        greedy = policy.step(obs, (), {}, {}, False).action
        mean = policy.params(tf.constant(obs), obs)[0][:, : max(1, math.prod(shape))]
        self.assertAllClose(
            np.reshape(greedy, -1), np.reshape(0.4 + 0.3 * np.tanh(mean), -1), atol=1e-5
        )
        self.assertGreater(np.abs(drawn[100] - np.reshape(greedy, -1)).max(), 0.05)
        unit = policy.to_unit(tf.constant(greedy))
        self.assertAllClose(unit, np.tanh(mean), atol=1e-4)

    def test_images_and_parts_of_an_observation(self):
        parts = spaces.Dict(
            view=spaces.Box(0, 255, (36, 36, 1), np.uint8),
            near=spaces.Box(-np.inf, np.inf, (2,), np.float64),
            gear=spaces.Discrete(3),
        )
        spec = EnvSpec("p", parts, SPEC.action_space)
        for shared in (False, True):
            learner, batch = actor_critic.learner_and_batch(
                sac, spec, network="small_cnn", shared_torso=shared, normalize_observations=True
            )
            networks = (learner.policy, learner.critics, learner.target_critics)
            kernels = {id(v) for x in networks for v in x.variables if len(v.shape) == 4}
            each = sum(len(v.shape) == 4 for v in learner.policy.body.variables)
            self.assertGreater(each, 0)
            self.assertLen(kernels, each * (2 if shared else 3))
            learner.update(batch, SEED)
            near = batch.obs_tm1["near"].numpy()
            now = learner.policy.inputs(batch.obs_tm1)["near"]
            self.assertAllClose(now, (near - near.mean(0)) / near.std(0, ddof=1), atol=1e-4)


class LearningTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((GSDE | dict(activation="tanh"),), (TQC,))
    def test_a_bandit_without_a_future(self, settings):
        self.check_bandit(settings)

    @parameterized.parameters(
        ({},),
        (dict(num_critics=3, target_critics=2, policy_value="mean", policy_period_updates=2),),
    )
    @pytest.mark.slow
    def test_a_bandit_without_a_future_for_other_critics(self, settings):
        self.check_bandit(settings)

    def check_bandit(self, settings):
        """The critics converge to the reward -(a - 0.3)^2, and the policy to its maximum."""
        learner, q, reward = actor_critic.solve_bandit(sac, **settings)
        if "num_quantiles" not in settings:
            self.assertAllClose(q, np.repeat(reward[None], len(q), 0), atol=0.05)
        for one, other in itertools.combinations(learner.critics.critics.heads, 2):
            for a, b in zip(one.hidden, other.hidden, strict=True):
                self.assertGreater(np.abs(a.kernel - b.kernel).max(), 0.01)
        action = learner.policy.step(tf.ones([1, 1]), (), {}, {}, False).action
        self.assertAllClose(action, [[0.3]], atol=0.05)

    def test_discrete_actions_get_the_shares_that_the_temperature_asks_for(self):
        """The best policy of a bandit is softmax(reward / temperature)."""
        learner, batch = actor_critic.learner_and_batch(
            sac, DISCRETE, temperature=0.5, learning_rate=1e-2, batch_size=24
        )
        pay = np.float32([0.0, 1.0, 0.5])
        action = np.arange(24) % 3
        batch = batch._replace(
            action_tm1=tf.constant(action),
            reward_t=tf.constant(pay[action]),
            discount_t=tf.zeros([24]),
        )

        train(learner, batch, 600)
        shares = learner.policy.estimates(batch.obs_tm1, ())["probabilities"]
        best = np.exp(pay / 0.5) / np.exp(pay / 0.5).sum()
        self.assertAllClose(np.mean(shares, axis=0), best, atol=0.03)

    def test_a_discount_of_0_ends_a_value_and_a_time_limit_does_not(self):
        """Reward 1 at every step, and no entropy: 1 / (1 - 0.9) = 10 where the episode was only cut."""
        learner = actor_critic.learner(
            sac, temperature=0.0, learning_rate=5e-3, critic_hidden_sizes=(16,), tau=0.1
        )
        obs = tf.constant([[0.0], [1.0]] * 16)
        action = tf.constant(np.linspace(-0.5, 1.0, 16, dtype=np.float32).repeat(2)[:, None])
        batch = actor_critic.batch([1.0] * 32, [0.0, 0.9] * 16, obs_t=obs)
        batch = batch._replace(obs_tm1=obs, action_tm1=action)
        train(learner, batch, 800)
        q = learner.critics(batch.obs_tm1, learner.policy.to_unit(batch.action_tm1)).numpy()
        self.assertAllClose(q[..., 0], [[1.0, 10.0] * 16] * 2, rtol=0.05)


if __name__ == "__main__":
    tf.test.main()
