"""What every value-based algorithm must do with its options: masks, noise, double, targets, values, LiteRT."""

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import ActorPlace
from tfrl.algos import c51, dqn, iqn, qr_dqn
from tfrl.algos.parts import q_policy, q_steps
from tfrl.errors import SettingError
from tfrl.explore import epsilon
from tfrl.runtime.acting.inference import StepSignature, make_engine
from tfrl.testing import conformance
from tfrl.types import EnvSpec, Transition

spaces = gym.spaces
NUM_ACTIONS = 5
BOX = spaces.Box(-1, 1, (3,), np.float32)
MASK = spaces.Box(0, 1, (NUM_ACTIONS,), np.float32)
FEATURES = spaces.Box(-1, 1, (NUM_ACTIONS, 2), np.float32)
PLAIN = EnvSpec("plain", BOX, spaces.Discrete(NUM_ACTIONS))
MASKED = EnvSpec("masked", spaces.Dict(observation=BOX, action_mask=MASK), PLAIN.action_space)
PARAMETRIC = EnvSpec(
    "parametric",
    spaces.Dict(observation=BOX, action_mask=MASK, action_features=FEATURES),
    PLAIN.action_space,
)
ATOMS = np.arange(-10, 11)
ALGORITHMS = {
    "dqn": (dqn, {}),
    "c51": (c51, dict(num_atoms=21, v_min=-10.0, v_max=10.0)),
    "qr_dqn": (qr_dqn, dict(num_quantiles=4)),
    "iqn": (iqn, dict(num_tau=4, num_target_tau=3, num_act_tau=5, num_cosines=6)),
}


def agent_of(algo, spec, **settings):
    module, own = ALGORITHMS[algo]
    return module.make(module.Config(**{"batch_size": 1, **own, **settings}), spec)


def policy_of(algo, spec, seed=0, **settings):
    tf.keras.utils.set_random_seed(seed)
    return agent_of(algo, spec, **{"hidden_sizes": (16,), **settings}).make_policy()


def set_values(policy, algo, q):
    """Makes the action values of a network without hidden layers and of zero inputs constant."""
    per_action = {
        "dqn": lambda v: [v],
        "c51": lambda v: 60.0 * (ATOMS == v),  # all on one atom
        "qr_dqn": lambda v: [v] * 4,
        "iqn": lambda v: [v],
    }[algo]
    bias = np.concatenate([per_action(v) for v in q]).astype(np.float32)
    found = [v for v in policy.variables if v.shape == bias.shape]
    assert len(found) == 1
    found[0].assign(bias)


def batch_of(obs, action=0, reward=1.0, discount=0.5):
    one = lambda x, dtype=tf.float32: tf.constant([x], dtype)
    return Transition(obs, one(action, tf.int32), one(reward), one(discount), obs, one(1.0))


def loss_of(algo, learner, batch, seed):
    """The loss of each row of a batch."""
    config = learner._config
    rows = q_steps.rows(config, learner.policy, learner.target, batch)
    return ALGORITHMS[algo][0].loss(config, learner.policy, learner.target, rows, seed)


def masked_obs(mask):
    return {"observation": tf.zeros([1, 3]), "action_mask": tf.constant([mask], tf.float32)}


SEED = np.int32([0, 0])


class UpdateTest(tf.test.TestCase, parameterized.TestCase):
    def update(self, algo, spec, batch, online, target, seed=SEED, **settings):
        learner = agent_of(algo, spec, hidden_sizes=(), **settings).make_learner()
        set_values(learner.policy, algo, online)
        set_values(learner.target, algo, target)
        out = learner.update(batch, seed)
        return {k: float(x) for k, x in out.metrics.items()}, out.priorities

    @parameterized.product(algo=sorted(ALGORITHMS), double=(False, True))
    def test_double_chooses_with_the_online_network(self, algo, double):
        online, target = [1.0, 5.0, 0.0, 0.0, 0.0], [2.0, 4.0, 8.0, 0.0, 0.0]
        metrics, _ = self.update(
            algo, PLAIN, batch_of(tf.zeros([1, 3])), online, target, double=double
        )
        expected = 1.0 + 0.5 * (4.0 if double else 8.0) - 1.0
        self.assertAlmostEqual(metrics["learner/td_error_abs_mean"], expected, places=4)
        self.assertAlmostEqual(metrics["learner/q_mean"], 1.0, places=4)

    @parameterized.product(algo=sorted(ALGORITHMS), double=(True,), dueling=(False, True))
    def test_invalid_actions_change_nothing(self, algo, double, dueling):
        self.check_invalid_actions(algo, double, dueling)

    @parameterized.product(algo=sorted(ALGORITHMS), double=(False,), dueling=(False, True))
    @pytest.mark.slow
    def test_invalid_actions_change_nothing_without_double_q(self, algo, double, dueling):
        self.check_invalid_actions(algo, double, dueling)

    def check_invalid_actions(self, algo, double, dueling):
        learner = agent_of(
            algo, MASKED, hidden_sizes=(), double=double, dueling=dueling
        ).make_learner()
        rng = np.random.default_rng(0)

        def lost(mask, values):
            for policy, q in zip((learner.policy, learner.target), values, strict=True):
                set_values(policy, algo, q)
            action = int(np.flatnonzero(mask)[0])
            obs = masked_obs(mask)
            loss = loss_of(algo, learner, batch_of(obs, action), SEED)
            return float(loss.loss[0]), float(loss.metrics["learner/td_error_abs_mean"][0])

        changed = differs = 0
        for _ in range(8):
            mask = rng.integers(0, 2, NUM_ACTIONS)
            mask[rng.integers(NUM_ACTIONS)] = 1
            values = rng.integers(-5, 6, (2, NUM_ACTIONS)).astype(np.float32)
            other = np.where(mask == 1, values, 10.0 - np.abs(values) % 2)
            self.assertAllClose(lost(mask, values), lost(mask, other), rtol=1e-5, atol=1e-5)
            changed += int((values != other).any())
            valid = np.ones(NUM_ACTIONS)
            differs += int(abs(lost(valid, values)[1] - lost(valid, other)[1]) > 1e-3)
        self.assertGreater(changed, 4)
        self.assertGreater(differs, 2)  # without the mask they would

    @parameterized.product(algo=sorted(ALGORITHMS), noisy=("none", "factorised"))
    def test_the_target_of_a_termination_ignores_the_next_state(self, algo, noisy):
        learner = agent_of(algo, PLAIN, noisy=noisy).make_learner()
        rng = np.random.default_rng(0)
        obs = [tf.constant(rng.normal(size=(1, 3)), tf.float32) for _ in range(3)]
        losses = {0.0: [], 0.9: []}
        for discount, found in losses.items():
            for obs_t in obs[1:]:
                batch = batch_of(obs[0], discount=discount)._replace(obs_t=obs_t)
                found.append(float(loss_of(algo, learner, batch, SEED).loss[0]))
        self.assertAllClose(*losses[0.0], rtol=1e-6)  # the mass of a distribution is 1 to rounding
        self.assertNotEqual(*losses[0.9])

    @parameterized.parameters(*sorted(ALGORITHMS))
    def test_no_gradient_reaches_the_target(self, algo):
        learner = agent_of(algo, PLAIN, noisy="factorised", dueling=True).make_learner()
        batch = batch_of(tf.ones([1, 3]))
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(loss_of(algo, learner, batch, SEED).loss)
        online, target = learner.policy.trainable_variables, learner.target.trainable_variables
        gradients = tape.gradient(total, [*online, *target])
        self.assertEqual(
            [g is None for g in gradients], [False] * len(online) + [True] * len(target)
        )

    @parameterized.parameters(*sorted(ALGORITHMS))
    def test_the_target_is_a_copy(self, algo):
        learner = agent_of(algo, PLAIN, target_period_updates=7).make_learner()
        learner.update(batch_of(tf.ones([1, 3])), SEED)
        pairs = list(zip(learner.policy.variables, learner.target.variables, strict=True))
        self.assertTrue(any((a.numpy() != b.numpy()).any() for a, b in pairs))
        (copy,) = learner.periodic()
        self.assertEqual(copy.every_updates, 7)
        copy.fn()
        for a, b in pairs:
            self.assertAllEqual(a, b)
            self.assertIsNot(a, b)

    @parameterized.parameters(*sorted(ALGORITHMS))
    def test_priorities(self, algo):
        batch, settings = batch_of(tf.zeros([1, 3])), dict(prioritized=True, priority_epsilon=0.25)
        far = self.update(algo, PLAIN, batch, [0.0] * 5, [4.0] * 5, **settings)
        near = self.update(algo, PLAIN, batch, [3.0] * 5, [4.0] * 5, **settings)
        self.assertAllClose(near[1], [0.25], atol=1e-3)  # 1 + 0.5 * 4 = 3
        self.assertGreater(float(far[1][0]), 1.25)
        self.assertIsNone(self.update(algo, PLAIN, batch, [0.0] * 5, [4.0] * 5)[1])

    @parameterized.product(algo=sorted(ALGORITHMS), noisy=("none", "factorised", "independent"))
    def test_every_update_draws_its_noise(self, algo, noisy):
        learner = agent_of(algo, PLAIN, noisy=noisy).make_learner()
        batch = batch_of(tf.ones([1, 3]), discount=0.9)

        def lost(seed):
            return float(loss_of(algo, learner, batch, seed).loss[0])

        self.assertEqual(lost(SEED), lost(SEED))
        random = noisy != "none" or algo == "iqn"
        self.assertEqual(lost(SEED) != lost(tf.constant([0, 1])), random)

    def test_the_three_draws_of_an_update_differ(self):
        policy = policy_of("dqn", PLAIN, noisy="factorised")
        noise = q_policy.draw_noise(policy.model, SEED)
        for name in policy.model.noise:
            draws = [x[name].numpy() for x in noise]
            self.assertNotAllEqual(draws[0], draws[1])
            self.assertNotAllEqual(draws[1], draws[2])


class ChainTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters("dqn", "iqn")
    def test_a_chain_of_five_states_has_its_exact_values(self, algo):
        self.check_chain(algo)

    @parameterized.parameters(*sorted(ALGORITHMS.keys() - {"dqn", "iqn"}))
    @pytest.mark.slow
    def test_a_chain_of_five_states_for_the_others(self, algo):
        self.check_chain(algo)

    def check_chain(self, algo):
        # Right leads on and pays 1 at the end, left pays nothing and ends: V(s) = 0.9 ** (4 - s).
        space = spaces.Box(0, 1, (5,), np.float32)
        spec = EnvSpec("chain", space, spaces.Discrete(2))
        own = dict(num_atoms=51, v_min=0.0, v_max=1.0) if algo == "c51" else {}
        tf.keras.utils.set_random_seed(0)
        learner = agent_of(
            algo, spec, hidden_sizes=(32,), learning_rate=1e-2, learning_rate_final=1e-4,
            learning_rate_updates=1_500, **own,
        ).make_learner()  # fmt: skip
        state = np.repeat(np.arange(5), 2)
        action = np.tile([0, 1], 5).astype(np.int32)
        last = (action == 0) | (state == 4)
        eye = np.eye(5, dtype=np.float32)
        batch = Transition(
            eye[state], action, np.float32((state == 4) & (action == 1)),
            np.float32(np.where(last, 0.0, 0.9)), eye[np.minimum(state + 1, 4)],
            np.ones(10, np.float32),
        )  # fmt: skip
        batch = tf.nest.map_structure(tf.constant, batch)
        update = tf.function(learner.update)
        for i in range(1_500):
            update(batch, tf.constant([0, i]))
            if i % 20 == 19:
                learner.periodic()[0].fn()
        q = learner.policy.q_values(eye)
        self.assertAllClose(q[:, 1], 0.9 ** np.arange(4, -1, -1), atol=1e-2, rtol=0)
        self.assertAllClose(q[:, 0], np.zeros(5), atol=1e-2, rtol=0)


class ActingTest(tf.test.TestCase, parameterized.TestCase):
    def test_noisy_layers_replace_epsilon_unless_it_is_given(self):
        for noisy, given, expected in (
            ("none", {}, (1.0, 0.05)),
            ("factorised", {}, (0.0, 0.0)),
            ("factorised", dict(epsilon_initial=0.5, epsilon_final=0.1), (0.5, 0.1)),
        ):
            knobs = agent_of("c51", PLAIN, noisy=noisy, **given).knobs
            values = [
                float(knobs(ActorPlace(0, 1, 2), steps, {})["epsilon"][0]) for steps in (0, 10**6)
            ]
            self.assertAllClose(values, expected)

    @parameterized.product(algo=sorted(ALGORITHMS), noisy=("factorised", "independent"))
    def test_noise_explores_and_is_off_when_greedy(self, algo, noisy):
        policy = policy_of(algo, PLAIN, noisy=noisy, noisy_sigma=3.0, dueling=True)
        obs = tf.repeat(tf.constant([[0.1, -0.2, 0.3]]), 64, 0)
        rng = np.random.default_rng(0)
        noise = {
            k: tf.constant(
                rng.random((64, *n.shape))
                if n.kind == "uniform"
                else rng.normal(size=(64, *n.shape)),
                tf.float32,
            )
            for k, n in policy.noise.items()
        }
        knobs = {"epsilon": tf.zeros([64])}
        explored = policy.step(obs, (), knobs, noise, True).action.numpy()
        self.assertGreater(len(set(explored)), 1)
        greedy = policy.step(obs, (), {}, {}, False).action.numpy()
        self.assertLen(set(greedy), 1)

    @parameterized.product(
        algo=sorted(ALGORITHMS),
        case=(("none", MASKED), ("factorised", PARAMETRIC), ("independent", MASKED)),
    )
    def test_lite_acts_alike_and_masked_actions_are_never_taken(self, algo, case):
        noisy, spec = case
        policy = policy_of(algo, spec, noisy=noisy, dueling=True, head_hidden_sizes=(8,))
        # Without noise all kinds of layers are dense ones.
        for explore in (False, True) if noisy == "none" else (True,):
            signature = StepSignature(policy, spec, 6, ["epsilon"], explore)
            function, lite = (make_engine(e, policy, signature) for e in ("function", "lite"))
            rng = np.random.default_rng(0)
            for i in range(6):
                obs = conformance.observations(spec, 6, seed=i)
                noise = {k: x[0] for k, x in signature.draw(rng, 1).items()}
                knobs = {"epsilon": np.full(6, 0.3, np.float32)} if explore else {}
                acted = lite.act(obs, (), knobs, noise).action
                self.assertAllEqual(acted, function.act(obs, (), knobs, noise).action)
                self.assertAllEqual(obs["action_mask"][np.arange(6), acted], np.ones(6))

    def test_epsilon_greedy_over_valid_actions(self):
        # Q [1, 5, 2, -1], mask [1, 0, 1, 1], epsilon 0.3 -> probabilities [0.1, 0, 0.8, 0.1].
        rng, count = np.random.default_rng(0), 60_000
        q = np.float32([1, np.finfo(np.float32).min / 2, 2, -1])
        noise = {k: tf.constant(rng.random((count, *n.shape)), tf.float32)
                 for k, n in epsilon.noise(4).items()}  # fmt: skip
        actions = epsilon.choose(
            tf.fill([count], tf.argmax(q, output_type=tf.int32)), tf.fill([count], 0.3), noise,
            tf.constant([[1.0, 0, 1, 1]] * count),
        )  # fmt: skip
        shares = np.bincount(actions, minlength=4) / count
        self.assertAllClose(shares, [0.1, 0.0, 0.8, 0.1], atol=0.006, rtol=0)
        self.assertEqual(shares[1], 0.0)


class LadderTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(sorted(ALGORITHMS))
    def test_actors_have_rungs_and_the_least_random_third_counts(self, algo):
        agent = agent_of(algo, PLAIN, epsilon_ladder="actor")
        epsilons = [agent.knobs(ActorPlace(i, 3, 2), 0, {})["epsilon"] for i in range(3)]
        expected = np.float32([0.4, 0.4**4.5, 0.4**8])
        self.assertAllClose(epsilons, np.repeat(expected[:, None], 2, 1))
        self.assertAllEqual(agent.knobs(ActorPlace(1, 3, 2), 10**9, {})["epsilon"], epsilons[1])
        self.assertEqual([agent.in_metrics(ActorPlace(i, 3, 2)).tolist() for i in range(3)],
                         [[False, False], [False, False], [True, True]])  # fmt: skip

    def test_environments_have_rungs(self):
        agent = agent_of(
            "dqn", PLAIN, epsilon_ladder="env", epsilon_ladder_base=0.5, epsilon_ladder_exponent=3.0
        )
        epsilons = [agent.knobs(ActorPlace(i, 2, 2), 0, {})["epsilon"] for i in range(2)]
        self.assertAllClose(np.concatenate(epsilons), [0.5, 0.5**2, 0.5**3, 0.5**4])
        in_metrics = [agent.in_metrics(ActorPlace(i, 2, 2)).tolist() for i in range(2)]
        self.assertEqual(in_metrics, [[False, False], [True, True]])

    def test_without_a_ladder_all_games_count(self):
        self.assertIsNone(agent_of("dqn", PLAIN).in_metrics)

    @parameterized.parameters(
        (
            dict(epsilon_ladder="worker"),
            "epsilon_ladder='worker': expected one of none, actor, env",
        ),
        (
            dict(epsilon_ladder="actor", epsilon_final=0.1),
            "epsilon_final=0.1 with epsilon_ladder=actor",
        ),
        (dict(epsilon_ladder_base=0.0), "epsilon_ladder_base=0.0: expected more than 0"),
        (dict(actor_priorities=True), "actor_priorities=True with prioritized=False"),
    )
    def test_what_does_not_fit_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            dqn.Config(**settings)
