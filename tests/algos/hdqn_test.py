"""hDQN: targets against numbers worked out by hand and a slow version, decisions, exploration, schedules, learning."""

import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl import api
from tfrl.agent import ActorPlace
from tfrl.algos import hdqn
from tfrl.algos.parts.goal_policy import GoalPolicy
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.nn.agent_values import AgentValues
from tfrl.replay.kinds import make_layout
from tfrl.testing import algorithm_checks, conformance, replicas
from tfrl.types import GoalSpace

ENV = "tfrl/TrashCoordination9x5-v0"
SMALL = dict(
    hidden_sizes=(8, 8), low_hidden_sizes=(8,), batch_size=3, trained_env_steps=4, max_goal_length=5,
    updates_per_call=1, min_replay=32,
)  # fmt: skip
CASES = {
    "each": {},
    "decisions only": dict(acer=False, double=True),
    "messages, any": dict(coordination="comm", decisions="any"),
    "mixer": dict(coordination="qmix"),
    "mixer, decisions only": dict(coordination="qmix", acer=False),
    "one level": dict(levels=1, n_step=2),
    "one level, mixer": dict(levels=1, coordination="qmix", double=True),
}


def spec_of(env=ENV, **kwargs):
    return make_spec(EnvPlan(env=env, env_kwargs=kwargs))


def two_goals(spec):
    """Goal 0 is reached where the first number of an observation is above 0, goal 1 where the second one is."""
    del spec
    return GoalSpace(2, lambda obs, goal: goal, lambda obs: obs[:, :2] > 0.0, lengths={1: 1})


def no_goals(spec):
    return 3


def wide_goals(spec):
    return GoalSpace(2, lambda obs, goal: goal, lambda obs: obs[:, :3] > 0.0)


def torn_goals(spec):
    return GoalSpace(
        2, lambda obs, goal: goal @ np.zeros((3, 3), np.float32), lambda obs: obs[:, :2] > 0.0
    )


def made(seed=0, **settings):
    """Config, spec, agent and learner, and a random batch with its leaves [T, b, ...]."""
    config = hdqn.Config(**{**SMALL, **settings})
    spec = spec_of()
    agent = hdqn.make(config, spec)
    tf.keras.utils.set_random_seed(seed)
    learner = agent.make_learner()
    # Target networks that differ from the online ones.
    for variable in (
        *learner.target.trainable_variables,
        *(learner.target_mixer or tf.Module()).trainable_variables,
    ):
        variable.assign(variable + 0.1 * tf.random.normal(variable.shape))
    samples = conformance.block(agent, spec, seed)
    layout = make_layout(agent, spec, agent.make_policy(), 1)
    batch = layout.decode(samples.columns)
    # Some agents are dead.
    alive = np.random.default_rng(seed).random(batch.obs["alive"].shape) < 0.8
    batch.obs["alive"] = tf.constant(np.float32(alive))
    return config, spec, agent, learner, batch


def step_of(batch, t, b):
    """One observation of a batch, leaves [1, ...]."""
    return tf.nest.map_structure(lambda x: x[t, b][None], batch.obs)


def ahead(config, batch, t, b, i):
    """Discounted reward, discount and end of the goal of agent i from step t on, by walking along the sequence."""
    reward, discount, valid, is_last = (
        x.numpy()[:, b] for x in (batch.reward, batch.discount, batch.valid, batch.is_last)
    )
    total, product, u = 0.0, 1.0, t
    while True:
        total += product * reward[u]
        product *= discount[u]
        u += 1
        over = config.levels == 1 and u - t == config.n_step
        if over or u == len(reward) or is_last[u - 1] or not valid[u]:
            return total, product, u
        if config.levels == 2 and batch.extras["decided"].numpy()[u, b, i]:
            return total, product, u


class TargetsTest(tf.test.TestCase, parameterized.TestCase):
    def test_a_goal_of_length_k_has_k_entries(self):
        """Goals of agent 0 last 3 and 2 steps, agent 1 has one of 5; then the episode terminates."""
        config, _, _, _, batch = made()
        length, width = batch.valid.shape
        column = lambda x: tf.repeat(tf.constant(x)[:, None], width, axis=1)
        decided = np.zeros((length, 2), bool)
        decided[[0, 3], 0] = decided[0, 1] = True
        batch = batch._replace(
            reward=column(np.float32([1, 2, 3, 4, 5, 0, 0, 0, 0])),
            discount=column(np.float32([0.5] * 4 + [0.0] + [0.5] * 4)),
            is_last=column(np.arange(length) == 4),
            valid=column(np.ones(length, bool)),
            extras={**batch.extras, "decided": column(decided)},
        )
        found = hdqn.to_the_end(config, batch)
        of = lambda x, agent: x[:5, 0, agent]
        self.assertAllClose(of(found.reward, 0), [1 + 2 / 2 + 3 / 4, 2 + 3 / 2, 3, 4 + 5 / 2, 5])
        self.assertAllEqual(of(found.steps, 0), [3, 2, 1, 2, 1])
        self.assertAllClose(of(found.discount, 0), [0.125, 0.25, 0.5, 0, 0])
        self.assertAllClose(of(found.reward, 1)[0], 1 + 2 / 2 + 3 / 4 + 4 / 8 + 5 / 16)
        self.assertAllEqual(of(found.steps, 1), [5, 4, 3, 2, 1])
        self.assertAllEqual(of(found.discount, 1), [0, 0, 0, 0, 0])

    @parameterized.parameters(*CASES)
    def test_the_high_level_against_a_slow_version(self, case):
        config, _, _, learner, batch = made(3, **CASES[case])
        policy, target, mixer = learner.policy, learner.target, learner.mixer
        found = hdqn.high_loss(config, policy, target, mixer, learner.target_mixer, batch)
        at = lambda t, b: step_of(batch, t, b)
        chosen = (batch.extras["goal"] if config.levels == 2 else batch.action).numpy()
        alive = batch.obs["alive"].numpy()
        losses, counts = [], []
        for t in range(config.trained_env_steps):
            for b in range(3):
                q, y, valid = [], [], []
                for i in range(2):
                    reward, discount, end = ahead(config, batch, t, b, i)
                    here = policy.high_values(at(t, b)).numpy()[0, i] * alive[t, b, i]
                    there = target.high_values(at(end, b)).numpy()[0, i]
                    choose = (
                        policy.high_values(at(end, b)).numpy()[0, i] if config.double else there
                    )
                    q.append(here[chosen[t, b, i]])
                    y.append((reward, discount, there[choose.argmax()] * alive[end, b, i], end))
                    decided = config.levels == 1 or config.acer
                    decided = decided or batch.extras["decided"].numpy()[t, b, i]
                    valid.append(bool(batch.valid[t, b]) and bool(decided))
                if mixer is None:
                    losses += [0.5 * (a - (r + d * v)) ** 2 for a, (r, d, v, _) in zip(q, y)]
                    counts += [v and alive[t, b, i] > 0 for i, v in enumerate(valid)]
                    continue
                self.assertEqual(len({end for *_, end in y}), 1)
                reward, discount, _, end = y[0]
                state = lambda u, b=b: batch.obs["state"][u, b][None]
                team = mixer(tf.constant([q], tf.float32), state(t))
                later = learner.target_mixer(
                    tf.constant([[v for _, _, v, _ in y]], tf.float32), state(end)
                )
                losses.append(0.5 * float(team[0] - (reward + discount * later[0])) ** 2)
                counts.append(valid[0])
        self.assertAllEqual(found.valid, counts)
        self.assertGreater(sum(counts), 0)
        self.assertAllClose(found.loss, losses, rtol=1e-4, atol=1e-5)

    @parameterized.parameters(0.0, 1.0)
    def test_the_low_level_against_a_slow_version(self, share):
        config, _, _, learner, batch = made(4, random_goal_share=share)
        policy, target = learner.policy, learner.target
        seed = tf.constant([1, 2])
        found = hdqn.low_loss(config, policy, target, batch, seed)
        goals = batch.extras["goal"][:4]
        if share:
            other = hdqn._random_goals(config, policy, goals, seed)
            self.assertNotAllEqual(other, goals)
            self.assertAllInRange(other, 0, policy.goals.num_goals - 1)
            goals = other
        losses, alive = [], batch.obs["alive"].numpy() > 0
        for t in range(4):
            for b in range(3):
                goal = goals[t, b][None]
                q = policy.low_values(step_of(batch, t, b), goal).numpy()[0]
                later = target.low_values(step_of(batch, t + 1, b), goal).numpy()[0]
                hit = policy.goals.reached(batch.obs["observation"][t + 1, b]).numpy()
                for i in range(2):
                    lives_on = alive[t + 1, b, i]
                    now = hit[i, goal[0, i]] and lives_on
                    goes_on = not now and lives_on and float(batch.discount[t, b]) > 0
                    y = (1.0 if now else -0.01) + config.low_discount * goes_on * later[i].max()
                    losses.append(0.5 * (q[i, batch.action[t, b, i]] - y) ** 2)
        losses = np.array(losses)
        # Actions that are not available in a random batch have values without a meaning.
        sane = losses < 1e6
        self.assertGreater(sane.sum(), 5)
        self.assertAllClose(found.loss.numpy()[sane], losses[sane], rtol=1e-4, atol=1e-5)
        self.assertAllEqual(found.valid, (alive[:4] & batch.valid[:4, :, None].numpy()).reshape(-1))

    def test_the_low_level_at_ends_and_deaths(self):
        """Both agents act for goal 0, whose step reaches it with 1, and neither death nor a terminated team adds Q'."""
        config, _, _, learner, batch = made(goal_space="hdqn_test:two_goals")
        width = batch.valid.shape[1]
        wide = lambda x: tf.repeat(tf.constant(x)[:, None], width, axis=1)
        seen, alive = batch.obs["observation"].numpy() * 0.0, np.ones((10, width, 2), np.float32)
        seen[2, :, 0, 0] = seen[4, :, 0, 0] = (
            1.0  # agent 0 reaches it by step 1, and by the last one
        )
        seen[3:5, :, 1], alive[3:5, :, 1] = 0.0, 0.0  # agent 1 is done by step 2
        is_last = np.arange(9) == 3
        batch = batch._replace(
            obs={**batch.obs, "observation": tf.constant(seen), "alive": tf.constant(alive),
                 "action_mask": tf.ones_like(batch.obs["action_mask"])},
            action=tf.zeros_like(batch.action), is_last=wide(is_last), valid=wide(np.ones(9, bool)),
            discount=wide(np.where(is_last, 0.0, 0.95).astype(np.float32)),
            extras={**batch.extras, "goal": tf.zeros_like(batch.extras["goal"])},
        )  # fmt: skip
        # Q = 0 and Q' = 10 everywhere.
        for policy, bias in ((learner.policy, 0.0), (learner.target, 10.0)):
            for variable in policy.low.trainable_variables:
                variable.assign(tf.zeros_like(variable))
            policy.low._heads[0].bias.assign([bias] * 7)
        found = hdqn.low_loss(config, learner.policy, learner.target, batch, tf.constant([0, 1]))
        y = np.float32([[-0.01 + 9, -0.01 + 9], [1, -0.01 + 9], [-0.01 + 9, -0.01], [1, -0.01]])
        self.assertAllClose(tf.reshape(found.loss, [4, width, 2])[:, 0], 0.5 * y**2, rtol=1e-5)
        counts = tf.reshape(found.valid, [4, width, 2])[:, 0]
        self.assertAllEqual(counts, [[True, True]] * 3 + [[True, False]])

    def test_the_high_level_waits_for_the_low_one(self):
        """With LAMB, which would decay weights by a gradient of 0 too."""
        _, _, _, learner, batch = made(pretrain_env_steps=100, optimizer="lamb")
        values = lambda net: [v.numpy() for v in net.trainable_variables]
        high, low = learner.policy.high, learner.policy.low
        update = tf.function(lambda: learner.update(batch, tf.constant([0, 1])).metrics)
        before, at_first = values(high), values(low)
        learner.env_steps.assign(99)
        metrics = update()
        for old, new in zip(before, values(high), strict=True):
            self.assertAllEqual(old, new)
        self.assertNotAllEqual(values(low)[0], at_first[0])
        self.assertEqual(
            (int(learner.optimizer.iterations), float(metrics["learner/gradient_norm"])), (0, 0.0)
        )
        learner.env_steps.assign(100)
        metrics = update()
        self.assertNotAllEqual(values(high)[0], before[0])
        self.assertEqual(int(learner.optimizer.iterations), 1)
        self.assertGreater(float(metrics["learner/gradient_norm"]), 0.0)

    @pytest.mark.slow
    def test_it_waits_on_two_devices_too(self):
        spec = spec_of()
        agent = hdqn.make(hdqn.Config(**{**SMALL, "batch_size": 4}, pretrain_env_steps=100), spec)
        loop = conformance.loop(agent, spec, strategy=replicas.two_cpus(), mode="auto")
        for env_steps, steps in ((99, 0), (100, 1)):
            loop.run(conformance.block(agent, spec, 0), env_steps=env_steps)
            self.assertEqual(loop.learner.optimizer.iterations.numpy(), steps)
            self.assertEqual(loop.learner.low_optimizer.iterations.numpy(), 1 + steps)
        config = hdqn.Config(**SMALL, pretrain_env_steps=100, optimizer="keras.optimizers:Adam")
        agent = hdqn.make(config, spec)
        with replicas.two_cpus().scope(), self.assertRaisesRegex(SettingError, "on 2 devices"):
            agent.make_learner()

    @parameterized.parameters(False, True)
    def test_shares_of_success_are_those_of_goals_that_were_chosen(self, agent_1_dies):
        """Goals of agent 0: 0 for steps 0 to 2, reached by step 1 alone, then 1 to the end of the episode with step 4,
        not reached. Agent 1 has goal 1 from step 1 on, reached by the last step of the episode unless it is dead."""
        _, _, _, learner, batch = made(5, trained_env_steps=5, goal_space="hdqn_test:two_goals")
        length, width = batch.valid.shape
        wide = lambda x: tf.repeat(tf.constant(x)[:, None], width, axis=1)
        decided, goal = np.zeros((length, 2), bool), np.zeros((length, 2), np.int32)
        decided[[0, 3], 0] = decided[1, 1] = True
        goal[3:, 0] = goal[1:, 1] = 1
        alive = np.ones((length + 1, 2), np.float32)
        alive[3:6, 1] = 0.0 if agent_1_dies else 1.0
        seen = np.zeros((length + 1, *batch.obs["observation"].shape[2:]), np.float32)
        seen[2, 0, 0] = seen[5, 1, 1] = 1.0
        if agent_1_dies:  # where dead agents choose, it is no choice
            decided[4, 1] = True
        batch = batch._replace(
            obs={**batch.obs, "observation": wide(seen), "alive": wide(alive)},
            is_last=wide(np.arange(length) == 4), valid=wide(np.ones(length, bool)),
            extras={**batch.extras, "decided": wide(decided), "goal": wide(goal)},
        )  # fmt: skip
        metrics = learner._count_ends(batch)
        reached_1 = 0 if agent_1_dies else 1
        window = hdqn.SUCCESS_WINDOW
        self.assertAllClose(
            learner.policy.success, [width / window, 2 * width / window * reached_1 / 2]
        )
        self.assertAllClose(metrics["learner/goal_success_ratio"], (1 + reached_1) / 3)
        lengths = 3 + 2 + (2 if agent_1_dies else 4)
        self.assertAllClose(metrics["learner/goal_length_mean_env_steps"], lengths / 3)


class DecisionsTest(tf.test.TestCase, parameterized.TestCase):
    def policy(self, **settings):
        settings = {**SMALL, "goal_space": "hdqn_test:two_goals", "max_goal_length": 3, **settings}
        spec = spec_of("tfrl/Trash-v0", map="a.b/t1.")
        config = hdqn.Config(**settings)
        policy = GoalPolicy(config, spec, two_goals(spec))
        # Goal 0 is always the best one.
        policy.high._heads[0].kernel.assign(tf.zeros_like(policy.high._heads[0].kernel))
        policy.high._heads[0].bias.assign([1.0, 0.0])
        return policy, spec

    def decided(self, policy, spec, reached, explore=None, alive=(1, 1)):
        """'decided' [T, N] along observations in which the agents that `reached` [T, N] says reach the goal 0."""
        state, found = policy.initial_state(1, {}), []
        obs = conformance.observations(spec, 1, 0)
        obs["action_mask"][:], obs["alive"][:] = 1, alive
        noise = {name: tf.ones([1, *n.shape]) for name, n in policy.noise.items()}
        noise |= explore or {}
        for row in reached:
            seen = np.zeros_like(obs["observation"])
            seen[0, :, 0] = row
            step = policy.step(
                {**obs, "observation": tf.constant(seen)}, state,
                {"epsilon": tf.constant([0.5]), "low_epsilon": tf.constant([0.0])}, noise, True,
            )  # fmt: skip
            state = step.state
            found.append(step.extras["decided"].numpy()[0].astype(int).tolist())
        return found, step

    @parameterized.parameters(
        ("each", [[1, 1], [0, 0], [1, 0], [0, 1], [0, 0], [1, 0], [0, 1]]),
        ("any", [[1, 1], [0, 0], [1, 1], [0, 0], [0, 0], [1, 1], [0, 0]]),
        ("all", [[1, 1], [0, 0], [0, 0], [1, 1], [0, 0], [0, 0], [1, 1]]),
    )
    def test_goals_end_by_themselves_or_together(self, decisions, expected):
        """Agent 0 reaches its goal before step 2, and after three steps the time of a goal is over."""
        policy, spec = self.policy(decisions=decisions)
        reached = [[0, 0], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 0]]
        self.assertEqual(self.decided(policy, spec, reached)[0], expected)

    @parameterized.parameters("any", "all")
    def test_goals_of_dead_agents_do_not_count(self, decisions):
        """The goal of agent 1, which is dead, is reached all the time, or never."""
        policy, spec = self.policy(decisions=decisions)
        reached = [[0, int(decisions == "any")]] * 5
        found, _ = self.decided(policy, spec, reached, alive=(1, 0))
        self.assertEqual(found, [[1, 1], [0, 0], [0, 0], [1, 1], [0, 0]])
        found, _ = self.decided(policy, spec, [[0, 0], [1, 0], [0, 0]], alive=(1, 0))
        self.assertEqual(found, [[1, 1], [1, 1], [0, 0]])

    def test_a_goal_may_last_one_step(self):
        policy, spec = self.policy()
        # Both agents choose goal 1 at random in every step.
        explore = {"explore": tf.zeros([1, 2]), "action": tf.constant([[[0.1, 0.9]] * 2])}
        found, step = self.decided(policy, spec, [[0, 0]] * 3, explore)
        self.assertEqual(found, [[1, 1]] * 3)
        self.assertAllEqual(step.extras["goal"], [[1, 1]])

    def test_greedy_for_goals_that_succeed(self):
        policy, spec = self.policy(success_greedy_beta=1.0)
        explore = {"low_explore": tf.fill([1, 2], 0.4), "low_action": tf.one_hot([[6, 6]], 7)}
        for success, action in ((0.0, [6, 6]), (0.59, [6, 6]), (0.61, None)):
            policy.success.assign([success, 0.0])
            step = self.decided(policy, spec, [[0, 0]], explore)[1]
            greedy = policy.low_values(
                {k: tf.constant(v) for k, v in self.last(spec).items()}, tf.zeros([1, 2], tf.int32)
            )
            expected = tf.argmax(greedy, axis=2) if action is None else [action]
            self.assertAllEqual(step.action, expected)

    def last(self, spec):
        obs = conformance.observations(spec, 1, 0)
        obs["action_mask"][:] = 1
        obs["observation"][:] = 0
        return obs

    def test_the_schedules_of_epsilon(self):
        settings = dict(
            pretrain_env_steps=1000, epsilon_decay_env_steps=100, epsilon_final=0.2, low_epsilon_final=0.1,
            low_epsilon_decay_env_steps=500,
        )  # fmt: skip
        agent = hdqn.make(hdqn.Config(**SMALL, **settings), spec_of())
        for env_steps, high, low in (
            (0, 1.0, 1.0), (250, 1.0, 0.55), (999, 1.0, 0.1), (1000, 1.0, 0.1), (1050, 0.6, 0.1), (2000, 0.2, 0.1),
        ):  # fmt: skip
            knobs = agent.knobs(ActorPlace(0, 1, 2), env_steps, {})
            self.assertAllClose(knobs["epsilon"], [high] * 2)
            self.assertAllClose(knobs["low_epsilon"], [low] * 2)
        self.assertIn("learns nothing in the first 1,000 env steps", agent.notes[0])
        flat = hdqn.make(hdqn.Config(hidden_sizes=(8, 8), levels=1), spec_of())
        self.assertEqual(flat.notes, ())
        self.assertEqual([*flat.knobs(ActorPlace(0, 1, 2), 0, {})], ["epsilon"])


class NetworksTest(tf.test.TestCase, parameterized.TestCase):
    def values(self, **kwargs):
        tf.keras.utils.set_random_seed(1)
        return AgentValues(3, 4, (5, 6), "relu", 2, **kwargs)

    @parameterized.parameters(False, True)
    def test_the_order_of_agents_does_not_matter(self, communicates):
        values, alive = self.values(communicates=communicates), tf.constant([[1.0, 0.0, 1.0]])
        x, order = tf.random.normal([1, 3, 4]), [2, 0, 1]
        one = tf.gather(values(x, alive), order, axis=1)
        self.assertAllClose(
            values(tf.gather(x, order, axis=1), tf.gather(alive, order, axis=1)), one
        )

    def test_messages_come_from_others_that_live_and_pass_the_gradient(self):
        x, alive = tf.random.normal([1, 3, 4]), tf.constant([[1.0, 0.0, 1.0]])
        for communicates in (False, True):
            values = self.values(communicates=communicates)
            with tf.GradientTape() as tape:
                tape.watch(x)
                first = tf.reduce_sum(values(x, alive)[:, 0])
            gradient = tf.reduce_sum(tf.abs(tape.gradient(first, x)), axis=2)[0].numpy()
            self.assertEqual((gradient > 0).tolist(), [True, False, communicates])

    def test_networks_of_their_own(self):
        shared, own = self.values(), self.values(shared=False)
        self.assertEqual((len(shared.trainable_variables), len(own.trainable_variables)), (6, 18))
        same = tf.ones([1, 3, 4])
        self.assertAllClose(
            shared(same, tf.ones([1, 3]))[0, 0], shared(same, tf.ones([1, 3]))[0, 1]
        )
        self.assertNotAllClose(own(same, tf.ones([1, 3]))[0, 0], own(same, tf.ones([1, 3]))[0, 1])


class BadInputTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(coordination="comm", hidden_sizes=(8,)), "at least two"),
        (dict(coordination="qmix", decisions="each"), "decisions=each with coordination=qmix"),
        (dict(replay_capacity=1000, min_replay=2000), "min_replay=2000"),
        (dict(replay_capacity=100, min_replay=10, batch_size=32), "batch_size=32"),
        (dict(levels=3), "levels"),
        (dict(max_goal_length=0), "max_goal_length"),
        (dict(discount=0.0), "discount"),
        (dict(random_goal_share=1.5), "random_goal_share"),
    )
    def test_settings(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            hdqn.Config(**settings)

    @parameterized.parameters(
        ("CartPole-v1", {}, "algo=hdqn on CartPole-v1: expected a team"),
        ("tfrl/TwoStep-v0", {}, "the environment names no goals"),
        (ENV, dict(goal_space="goals"), "expected auto or package.module:function"),
        (ENV, dict(goal_space="hdqn_test:nothing"), "nothing"),
        (ENV, dict(goal_space="hdqn_test:SMALL"), "expected a function, got dict"),
        (ENV, dict(goal_space="hdqn_test:no_goals"), "returned a int"),
        (ENV, dict(goal_space="hdqn_test:wide_goals"), r"expected bool \[2, 2\]"),
        (
            ENV,
            dict(goal_space="hdqn_test:torn_goals"),
            "do not take observations of agents of shape",
        ),
    )
    def test_environments_and_goals(self, env, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            hdqn.make(hdqn.Config(**settings), spec_of(env))

    @parameterized.parameters(
        (dict(num_goals=0), "num_goals=0"),
        (dict(num_goals=2, lengths={2: 1}), "goals below"),
        (dict(num_goals=2, lengths={0: 0}), "at least 1"),
        (dict(num_goals=2, names=("a",)), "1 names"),
    )
    def test_goal_spaces(self, fields, message):
        with self.assertRaisesRegex(SettingError, message):
            GoalSpace(encode=lambda obs, goal: goal, reached=lambda obs: obs, **fields)

    def test_settings_without_an_effect_are_refused_where_they_are_asked_for(self):
        schedule = dict(learning_rate_schedule=((0, 1e-3), (100, 1e-4)), low_learning_rate=1e-3)
        for settings in (
            dict(levels=1, acer=False), dict(n_step=3), dict(hypernet_layers=2), schedule,
        ):  # fmt: skip
            with self.assertRaisesRegex(SettingError, "no effect"):
                api.make_job("hdqn", env=ENV, **settings)


class RunsTest(tf.test.TestCase, parameterized.TestCase):
    def test_the_flat_baseline_is_exported_as_it_acts(self):
        module = hdqn
        spec = spec_of()
        agent = hdqn.make(hdqn.Config(**{**SMALL, "levels": 1}), spec)
        subject = algorithm_checks.Subject("hdqn", module, agent, spec)
        algorithm_checks.export_acts_alike(subject)

    @parameterized.parameters("independent", "comm", "qmix")
    @pytest.mark.slow
    def test_a_small_hierarchy_learns(self, coordination):
        """Each agent picks up trash beside it and carries it over two cells to a dump; both pay 1."""
        out = self.enter_context(tempfile.TemporaryDirectory())
        result = api.train(
            "hdqn", env="tfrl/Trash-v0", env_kwargs={"map": "ta1/tb2"}, run_dir=f"{out}/run", seed=1,
            total_env_steps=30_000, max_episode_steps=20, num_envs=32, hidden_sizes=(32, 32), low_hidden_sizes=(32,),
            max_goal_length=4, optimizer="adam", learning_rate=2e-3, low_learning_rate=3e-3, coordination=coordination,
            discount=0.9, low_discount=0.8, random_goal_share=0.5, env_steps_per_update=8, batch_size=8,
            target_period_updates=50, epsilon_decay_env_steps=15_000, low_epsilon_decay_env_steps=10_000,
            eval_every_env_steps=2_500,
            console="none", tensorboard=False,
        )  # fmt: skip
        self.assertGreaterEqual(result.return_mean, 0.9)


if __name__ == "__main__":
    tf.test.main()
