"""DDPG: its targets and losses against numbers worked out by hand, what trains what, its options, what it learns."""

import pathlib
import tempfile

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.agent import ActorPlace
from tfrl.algos import ddpg, sac, td3
from tfrl.api import make_job
from tfrl.errors import SettingError
from tfrl.explore import action_noise
from tfrl.logs import csv_file
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.testing import actor_critic, conformance, fakes
from tfrl.types import EnvSpec, NoiseSpec

spaces = gym.spaces
SPEC, SEED = actor_critic.SPEC, actor_critic.SEED
MEMORY = dict(core="gru", core_size=4, sequence_length=6, sequence_period=3, burn_in=2)


class BoxChain(fakes.TruncatingChain):
    """Reward 1 for ever, whatever the action of a Box."""

    def __init__(self, length=10):
        super().__init__(length)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)


class MatchMatrix(fakes.Matching):
    """float64 actions [2, 3], whose upper limit is below float32 0.1."""

    def __init__(self, length=4):
        super().__init__(spaces.Box(-0.1, 0.1, (2, 3), np.float64), length)


class MatchNumber(fakes.Matching):
    """One float64 number without an axis."""

    def __init__(self, length=4):
        super().__init__(spaces.Box(0.1, 0.7, (), np.float64), length)


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(tau=0.0), "tau=0.0: expected more than 0"),
        (dict(tau=1.5), "tau=1.5: expected at most 1"),
        (dict(target_period_updates=0), "target_period_updates=0: expected at least 1"),
        (dict(policy_period_updates=0), "policy_period_updates=0: expected at least 1"),
        (dict(policy_learning_rate=0.0), "policy_learning_rate=0.0: expected more than 0"),
        (
            dict(policy_learning_rate=1e-3, learning_rate_schedule=((0, 1e-3), (9, 1e-4))),
            "policy_learning_rate=0.001 with learning_rate_schedule: the schedule is that of all",
        ),
        (dict(l2_penalty=-1.0), "l2_penalty=-1.0: expected at least 0"),
        (dict(num_critics=0), "num_critics=0: expected at least 1"),
        (dict(policy_hidden_sizes=(0,)), "policy_hidden_sizes=.*expected at least 1"),
        (dict(critic_dropout=1.0), "critic_dropout=1.0: expected at most 0.9"),
        (dict(loss="hubr"), "loss='hubr': .*did you mean huber"),
        (dict(huber_delta=0.0), "huber_delta=0.0: expected more than 0"),
        (dict(exploration_noise="gausian"), "exploration_noise='gausian': .*mean gaussian"),
        (dict(gaussian_sigma=-0.1), "gaussian_sigma=-0.1: expected at least 0"),
        (dict(noise_scale=-0.1), "noise_scale=-0.1: expected at least 0"),
        (dict(ou_theta=0.0), "ou_theta=0.0: expected more than 0"),
        (dict(ou_theta=1.5), "ou_theta=1.5: expected at most 1"),
        (dict(ou_sigma=-0.1), "ou_sigma=-0.1: expected at least 0"),
        (dict(noise_final=1.5), "noise_final=1.5: expected at most 1"),
        (dict(noise_decay_env_steps=-1), "noise_decay_env_steps=-1: expected at least 0"),
        (dict(random_env_steps=-1), "random_env_steps=-1: expected at least 0"),
        (dict(noise_ladder="worker"), "noise_ladder='worker': expected one of none, actor, env"),
        (dict(noise_ladder_base=0.0), "noise_ladder_base=0.0: expected more than 0"),
        (dict(noise_ladder_exponent=-1.0), "noise_ladder_exponent=-1.0: expected at least 0"),
        (
            dict(actor_priorities=True),
            "actor_priorities=True with prioritized=False: uniform replay has no priorities",
        ),
        (
            dict(actor_priorities=True, prioritized=True, **MEMORY),
            "actor_priorities=True with core=gru: new sequences get the largest",
        ),
        (
            dict(actor_priorities=True, prioritized=True, her_relabels=2),
            "actor_priorities=True with her_relabels=2: actors have no values for the goals",
        ),
    )
    def test_what_cannot_be_used_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            ddpg.Config(**settings)

    @parameterized.product(
        module=(ddpg, td3),
        space=(
            spaces.Discrete(3),
            spaces.MultiDiscrete([2, 3]),
            spaces.MultiBinary(2),
            spaces.Box(-np.inf, np.inf, (2,), np.float32),
            spaces.Box(np.float32([-1, 0]), np.float32([1, np.inf])),
            spaces.Box(np.float32([-1, 1]), np.float32([1, 1])),
            spaces.Box(-2, 2, (2,), np.int32),
            spaces.Dict(a=spaces.Box(-1, 1, (2,), np.float32)),
        ),
    )
    def test_a_space_without_finite_limits_is_refused(self, module, space):
        name = module.__name__.rpartition(".")[2]
        with self.assertRaisesRegex(SettingError, f"algo={name} on e: expected a Box .*finite"):
            module.make(module.Config(), EnvSpec("e", SPEC.observation_space, space))

    @parameterized.parameters(ddpg, td3, sac)
    def test_a_network_to_be_shared_must_be_there(self, module):
        module.make(module.Config(shared_torso=True, hidden_sizes=(4,)), SPEC)
        module.make(module.Config(**MEMORY), SPEC)
        with self.assertRaisesRegex(
            SettingError, "shared_torso without hidden_sizes: .*expected hidden_sizes, or"
        ):
            module.make(module.Config(shared_torso=True), SPEC)


class TargetTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((ddpg, 1, [2.98, 0.5]), (ddpg, 2, [2.7325, 0.5]))
    def test_the_target_of_several_critics_is_their_mean(self, module, critics, expected):
        learner = actor_critic.linear_learner(
            module, num_critics=critics, prioritized=True, priority_epsilon=0.25
        )
        # Q'_1(s') = s', Q'_2(s') = 2.5 s' - 3.5; the online critics give 0 everywhere.
        actor_critic.set_critics(learner.target_critics, [1.0, 2.5], [0.0, -3.5])
        batch = actor_critic.batch([1.0, -0.5], [0.99, 0.0], obs_t=[[2.0], [3.0]])
        out = learner.update(batch, SEED)
        self.assertAllClose(out.priorities, np.array(expected) + 0.25)
        self.assertAllClose(out.metrics["learner/td_error_abs_mean"], np.mean(expected))

    @parameterized.parameters(
        ("squared", 1.0, 1.0625), ("huber", 1.0, 0.8125), ("huber", 9.0, 1.0625)
    )
    def test_the_loss_of_an_error(self, loss, delta, expected):
        learner = actor_critic.linear_learner(ddpg, loss=loss, huber_delta=delta)
        out = learner.update(actor_critic.batch([-0.5, 2.0], [0.0, 0.0]), SEED)
        self.assertAllClose(out.metrics["learner/loss"], expected)

    def test_importance_weights_multiply_the_loss_and_not_the_error(self):
        learner = actor_critic.linear_learner(ddpg, prioritized=True, importance_beta=0.5)
        batch = actor_critic.batch([-1.0, 2.0], [0.0, 0.0])
        out = learner.update(batch._replace(probability=tf.constant([1.0, 4.0])), SEED)
        weights = np.array([1.0, 0.5])
        self.assertAllClose(out.metrics["learner/loss"], np.mean(weights * [0.5, 2.0]))
        self.assertAllClose(out.priorities, [1.0, 2.0], atol=1e-5)

    @parameterized.parameters(False, True)
    def test_the_penalty_is_on_kernels_and_on_biases_if_asked(self, l2_biases):
        learner = actor_critic.learner(ddpg, l2_penalty=0.5, l2_biases=l2_biases)
        for part in (learner.critics, learner.policy):
            for variable in part.variables:
                if len(variable.shape) == 1:
                    variable.assign(tf.fill(variable.shape, 7.0))
        counted = (1, 2) if l2_biases else (2,)
        of = lambda variables: (
            0.25 * sum(float(tf.reduce_sum(v**2)) for v in variables if len(v.shape) in counted)
        )
        critics, policy = of(learner.critics.variables), of(learner.policy.variables)
        out = learner.update(actor_critic.batch([1.0, 2.0], [0.0, 0.0]), SEED)
        self.assertAllClose(out.metrics["learner/network_loss"], critics, rtol=1e-5)
        self.assertAllClose(learner.extra_policy_loss(), policy, rtol=1e-5)


class GradientTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (ddpg, "own"), (td3, "own"), (ddpg, "shared"), (td3, "shared"), (ddpg, "memory")
    )
    def test_no_loss_trains_what_belongs_to_the_other(self, module, form):
        own = {"own": {}, "shared": dict(shared_torso=True), "memory": MEMORY}[form]
        learner, batch = actor_critic.learner_and_batch(
            module, SPEC, hidden_sizes=(4,), l2_penalty=0.1, **own
        )
        critics, policy = actor_critic.trained(learner, batch, SEED)
        heads = {f"critic_{i}" for i in range(len(learner.critics.critics.heads))}
        self.assertEqual((critics, policy), ({"critic_body", *heads}, {"policy"}))
        # The policy's part has the body only where it is its own.
        parts = {network.name: network.variables for network in learner.networks()}
        self.assertLen(parts["policy"], 4 + 2 * (form == "own"))
        body = {id(v) for v in learner.policy.body.trainable_variables}
        self.assertEqual(body == {id(v) for v in parts["critic_body"]}, form != "own")

    def test_the_policy_goes_where_the_mean_of_the_critics_rises(self):
        for slopes in ([3.0, -1.0], [-3.0, 1.0]):
            learner = actor_critic.linear_learner(ddpg, num_critics=2)
            actor_critic.set_critics(learner.critics, [0.0, 0.0], [0.0, 0.0], slopes)
            features = tf.ones([1, 1])
            before = float(learner.policy.actions(features))
            metrics = learner.update_policy(actor_critic.batch([0.0], [0.0]), SEED)
            self.assertAllClose(
                metrics["learner/policy_loss"], -np.mean(slopes) * before, atol=1e-6
            )
            moved = float(learner.policy.actions(features)) - before
            self.assertEqual(np.sign(moved), np.sign(np.mean(slopes)))


class PeriodTest(tf.test.TestCase, parameterized.TestCase):
    def test_hard_copies_with_a_period(self):
        learner, batch = actor_critic.learner_and_batch(
            ddpg, SPEC, tau=1.0, target_period_updates=3, hidden_sizes=(4,),
            normalize_observations=True,
        )  # fmt: skip
        (copy,) = learner.periodic()
        self.assertEqual(copy.every_updates, 3)
        online = {n.name: n.variables for n in learner.networks()}
        pairs = [(online[n.copy_of], n.variables) for n in learner.networks() if n.copy_of]
        self.assertLen(pairs, 3)  # the policy, the critic, and what stands before it
        apart = lambda: [
            conformance.apart([v.numpy() for v in a], [v.numpy() for v in b]) for a, b in pairs
        ]
        self.assertEqual(apart(), [0.0] * 3)
        learner.update(batch, SEED)
        learner.update_policy(batch, SEED)
        self.assertAllGreater(apart(), 0.0)
        copy.fn()
        self.assertEqual(apart(), [0.0] * 3)

    def test_a_decay_in_updates_is_that_of_the_learner_for_the_policy_too(self):
        """Which makes a step for several updates."""
        settings = dict(
            learning_rate=0.5, learning_rate_final=0.1, learning_rate_updates=4,
            policy_learning_rate=5.0, policy_period_updates=2, updates_per_call=1, optimizer="sgd",
        )  # fmt: skip
        agent = actor_critic.agent(ddpg, SPEC, **settings)
        learner = agent.make_learner()
        steps, rates = learner.policy_optimizer.iterations, []
        variable = learner.networks()[0].variables[-1]
        for step in range(4):
            steps.assign(step)
            old = variable.numpy()
            gradients = [tf.ones_like(v) for v in learner.networks()[0].variables]
            learner.policy_optimizer.apply(gradients)
            rates.append(float((old - variable.numpy())[0]))
        self.assertAllClose(rates, [5.0, 3.0, 1.0, 1.0])


class FormsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_images(self, shared):
        """Each network has a CNN, or all of them share one that the critics train."""
        image = spaces.Box(0, 255, (12, 12, 2), np.uint8)
        spec = EnvSpec("i", image, SPEC.action_space)
        learner, batch = actor_critic.learner_and_batch(
            td3, spec, network="small_cnn", shared_torso=shared, n_step=3
        )
        convolutions = lambda x: sum(len(v.shape) == 4 for v in x.trainable_variables)
        each = convolutions(learner.policy.body)
        self.assertGreater(each, 0)
        self.assertEqual(convolutions(learner), each * (2 if shared else 4))
        before = [v.numpy() for v in learner.critics.variables]
        learner.update(batch, SEED)
        learner.update_policy(batch, SEED)
        self.assertGreater(
            conformance.apart(before, [v.numpy() for v in learner.critics.variables]), 0
        )

    def test_parts_of_an_observation_and_their_statistics(self):
        parts = spaces.Dict(
            near=spaces.Box(-np.inf, np.inf, (2,), np.float64), gear=spaces.Discrete(3)
        )
        spec = EnvSpec("d", parts, SPEC.action_space)
        learner, batch = actor_critic.learner_and_batch(
            td3, spec, normalize_observations=True, prioritized=True, critic_layer_norm=True
        )
        policy = learner.policy
        raw = tf.nest.map_structure(lambda x: x.numpy(), policy.inputs(batch.obs_tm1))
        out = learner.update(batch, SEED)
        self.assertAllGreater(out.priorities, 0.0)
        now = policy.inputs(batch.obs_tm1)["near"].numpy()
        near = raw["near"]
        self.assertAllClose(now, (near - near.mean(0)) / near.std(0, ddof=1), atol=1e-4)
        # A run that goes on from these weights goes on from these statistics.
        agent = actor_critic.agent(td3, spec, normalize_observations=True)
        other = agent.make_learner()
        for mine, theirs in zip(other.policy.variables, policy.variables, strict=True):
            mine.assign(theirs)
        other.adopt(10_000)
        other.update(batch, SEED)
        later = other.policy.inputs(batch.obs_tm1)["near"].numpy()
        self.assertAllClose(later, now, atol=0.02)

    @parameterized.parameters(("MatchMatrix", False), ("MatchNumber", True))
    def test_actions_of_any_shape(self, env, shared):
        """The environment raises for an action outside of its limits, which are no float32 numbers."""
        job = make_job(
            "ddpg", env=f"{__name__}:{env}", policy_hidden_sizes=(4,), critic_hidden_sizes=(4,),
            hidden_sizes=(4,), shared_torso=shared, gaussian_sigma=3.0, batch_size=4, updates_per_call=1,
        )  # fmt: skip
        plan = plan_run(job)
        policy, box = plan.agent.make_policy(), plan.spec.action_space
        place = ActorPlace(0, 1, 9)
        knobs = {k: tf.constant(x) for k, x in plan.agent.knobs(place, 10**6, {}).items()}
        obs = conformance.observations(plan.spec, 9, 0)
        noise = {
            k: tf.random.stateless_normal([9, *n.shape], [0, i])
            for i, (k, n) in enumerate(policy.noise.items())
        }
        step = policy.step(obs, (), knobs, noise, True)
        self.assertEqual(step.action.shape, [9, *box.shape])
        self.assertAllGreaterEqual(step.action, box.low.min())
        self.assertAllLessEqual(step.action, box.high.max())
        self.assertGreater(np.std(step.action), 0.05)
        learner = plan.agent.make_learner()
        batch = actor_critic.decoded(plan.agent, plan.spec)
        learner.update(batch, SEED)
        learner.update_policy(batch, SEED)
        unit = policy.to_unit(batch.action_tm1)
        self.assertEqual(unit.shape, [4, max(1, int(np.prod(box.shape)))])
        self.assertAllInRange(unit, -1.001, 1.001)


class NoiseTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (dict(exploration_noise="gaussian"), NoiseSpec((2,), "normal")),
        (
            dict(exploration_noise="ou", ou_theta=0.3, ou_sigma=0.4),
            NoiseSpec((2,), "ou", theta=0.3, sigma=0.4),
        ),
        (dict(exploration_noise="none"), None),
    )
    def test_what_an_exploring_step_draws(self, settings, expected):
        """The runtime steps a process in each environment, from 0 on in each episode."""
        for random in (0, 10):
            agent = actor_critic.agent(ddpg, SPEC, random_env_steps=random, **settings)
            noise = agent.make_policy().noise
            self.assertEqual(noise.get("action_noise"), expected)
            self.assertEqual("random_action" in noise, random > 0)
            knobs = agent.knobs(ActorPlace(0, 1, 3), 9, {})
            self.assertAllEqual(knobs["random"], [float(random > 0)] * 3)
            self.assertEqual("noise_scale" in knobs, expected is not None)


class ApexTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((ddpg, True), (td3, False))
    def test_priorities_of_actors_are_those_of_the_learner(self, module, shared):
        agent = actor_critic.agent(
            module, SPEC, hidden_sizes=(4,), shared_torso=shared, num_critics=2, prioritized=True,
            actor_priorities=True, exploration_noise="none", random_env_steps=0,
            **({} if module is ddpg else {"target_noise": 0.0}),
        )  # fmt: skip
        learner = agent.make_learner()
        # Critics that agree, so that the mean of their errors is the error of their mean.
        twins = learner.critics.critics.heads
        for critics in (learner.critics, learner.target_critics):
            for mine, theirs in zip(critics.critics.heads[1].variables, twins[0].variables):
                mine.assign(theirs)
        policy, batch = learner.policy, actor_critic.decoded(agent, SPEC)
        extras = lambda obs: policy.step(obs, (), {"random": tf.zeros([8])}, {}, True)
        acted, after = extras(batch.obs_tm1), extras(batch.obs_t).extras
        batch = batch._replace(action_tm1=acted.action)
        arrays = [{k: x.numpy() for k, x in e.items()} for e in (acted.extras, after)]
        found = agent.initial_priority(batch.reward_t.numpy(), batch.discount_t.numpy(), *arrays)
        self.assertAllClose(found, learner.update(batch, SEED).priorities, atol=1e-5)
        self.assertGreater(np.std(found), 0.01)

    @parameterized.parameters((ddpg, np.mean), (td3, np.min))
    def test_actors_bootstrap_as_the_target_does(self, module, combine):
        agent = actor_critic.agent(
            module, SPEC, num_critics=3, prioritized=True, actor_priorities=True
        )
        policy = agent.make_policy()
        obs = conformance.observations(SPEC, 8, 0)
        knobs = {"random": tf.zeros([8]), "noise_scale": tf.zeros([8])}
        noise = {k: tf.zeros([8, *n.shape]) for k, n in policy.noise.items()}
        step = policy.step(obs, (), knobs, noise, True)
        features = policy.body.step(obs, ())[0]
        q = policy.critics(features, policy.actions(features))[..., 0]
        self.assertAllClose(step.extras["q_policy"], combine(q, axis=0))
        self.assertAllClose(step.extras["q_taken"], np.mean(q, axis=0))
        self.assertEqual(policy.step(obs, (), {}, {}, False).extras, {})

    def test_rungs_of_environments(self):
        config = ddpg.Config(noise_ladder="env", exploration_noise="ou", noise_scale=0.1)
        scales = [action_noise.scales(config, ActorPlace(i, 2, 4), 10**6) for i in range(2)]
        expected = 0.2 * 0.4 ** (1 + np.arange(8))
        self.assertAllClose(np.concatenate(scales), expected, rtol=1e-5)

    def test_a_run_in_one_process(self):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        result = tfrl.train(
            "ddpg", run_dir=str(run_dir), env="tfrl.testing.fakes:TargetPoint", num_envs=3,
            total_env_steps=200, noise_ladder="env", prioritized=True, actor_priorities=True,
            n_step=3, min_replay=60, batch_size=8, env_steps_per_update=4.0, updates_per_call=4,
            policy_hidden_sizes=(8,), critic_hidden_sizes=(8,), **actor_critic.QUIET,
        )  # fmt: skip
        self.assertBetween(result.updates, 20, 40)
        rows = csv_file.read(run_dir / "metrics.csv")
        scales = [row["actor/noise_scale"] for row in rows if "actor/noise_scale" in row]
        self.assertAllClose(scales, [0.1 * np.mean([0.4, 0.4**4.5, 0.4**8])] * len(scales))
        self.assertNotEmpty(scales)


class LearningTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters((ddpg, dict(loss="huber", l2_penalty=1e-4)), (td3, {}))
    def test_a_bandit_without_a_future(self, module, settings):
        """The critics converge to the reward -(a - 0.3)^2, and the policy to its maximum."""
        learner, q, reward = actor_critic.solve_bandit(module, **settings)
        for values in q:
            self.assertLess(np.sqrt(np.mean((values - reward) ** 2)), 0.02)
        action = learner.policy.step(tf.ones([1, 1]), (), {}, {}, False).action
        self.assertAllClose(action, [[0.3]], atol=0.05)

    def test_a_time_limit_does_not_end_the_value(self):
        # Reward 1 for ever: 1 / (1 - 0.9) = 10.
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        tfrl.train(
            "ddpg", run_dir=str(run_dir), env=f"{__name__}:BoxChain", num_envs=2, n_step=2,
            total_env_steps=800, discount=0.9, learning_rate=5e-3, tau=0.1, min_replay=100,
            exploration_noise="ou", batch_size=16, env_steps_per_update=0.5, updates_per_call=64,
            policy_hidden_sizes=(8,), critic_hidden_sizes=(16,), **actor_critic.QUIET,
        )  # fmt: skip
        values = [row["learner/q_mean"] for row in csv_file.read(run_dir / "metrics.csv")
                  if "learner/q_mean" in row]  # fmt: skip
        self.assertAllClose(values[-1], 10.0, rtol=0.05)


if __name__ == "__main__":
    tf.test.main()
