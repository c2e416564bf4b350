"""PPO for teams: one policy that all agents share, with and without a value function of the state."""

import dataclasses
import pathlib
import tempfile

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.algos import ppo
from tfrl.algos.parts import policy_gradient
from tfrl.envs import make
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.nn import shared_policy
from tfrl.runtime.serving.export import export
from tfrl.runtime.serving.loaded import LoadedPolicy
from tfrl.types import EnvSpec, Trajectory

spaces = gym.spaces
LOADS = "tfrl/Loads-v0"
SMALL = dict(hidden_sizes=(8,), team_policy="independent")
MEMORY = dict(core="gru", core_size=6)


def config_of(**settings):
    return ppo.Config(**{**SMALL, **settings})


def spec_of(env=LOADS, **kwargs):
    return make.make_spec(EnvPlan(env=env, env_kwargs=kwargs))


def box_spec():
    """Two agents with images and Box actions, no state."""
    return EnvSpec(
        "boxes",
        spaces.Dict(
            observation=spaces.Box(0, 255, (2, 10, 10, 3), np.uint8), alive=spaces.Box(0, 1, (2,))
        ),
        spaces.Box(np.float32([[-1, -2]] * 2), np.float32([[1, 2]] * 2)),
        num_agents=2,
    )


def act(policy, obs, batch, explore=True, seed=0):
    rng = np.random.default_rng(seed)
    noise = {
        name: tf.constant(
            rng.random((batch, *n.shape))
            if n.kind == "uniform"
            else rng.normal(size=(batch, *n.shape)),
            tf.float32,
        )
        for name, n in policy.noise.items()
    }
    return policy.step(obs, policy.initial_state(batch, {}), {}, noise, explore)


def observed(spec, batch, seed=0):
    rng = np.random.default_rng(seed)
    obs = {}
    for key, part in spec.observation_space.spaces.items():
        x = rng.normal(size=(batch, *part.shape))
        obs[key] = np.ones_like(x) if key in ("action_mask", "alive") else x
        obs[key] = tf.constant(obs[key].astype(part.dtype))
    return obs


class ActingTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(memory=(False, True), central=(False, True))
    def test_each_agent_acts_as_one_agent_on_its_row(self, memory, central):
        """A team of three is three agents in a batch of their own, with their numbers and availability."""
        config = config_of(central_critic=central, **(MEMORY if memory else {}))
        spec = spec_of(num_agents=3, size=4)
        policy = shared_policy.make(config, spec)
        obs = observed(spec, 5)
        mask = np.ones((5, 3, 6), np.float32)
        mask[2, 1, 1:] = 0
        obs["action_mask"] = tf.constant(mask.reshape(5, -1))
        out = act(policy, obs, 5)
        self.assertEqual((out.action.shape, out.action.dtype), ((5, 3), tf.int32))
        self.assertEqual(out.extras["log_prob"].shape, (5, 3))
        self.assertEqual(out.action[2, 1], 0)
        self.assertEqual(out.extras["log_prob"][2, 1], 0.0)
        tf.nest.map_structure(lambda x: self.assertEqual(x.shape[:2], (5, 3)), out.state)
        noise = policy.noise["action"].shape
        self.assertEqual(noise, (3, 6))
        one = shared_policy.ActorCritic
        draws = np.random.default_rng(0).random((5, 3, 6)).astype(np.float32)
        for i in range(3):
            row = {
                "observation": obs["observation"][:, i],
                "agent_id": tf.one_hot([i] * 5, 3),
                "action_mask": tf.constant(mask[:, i]),
            }
            if central:
                row["state"] = tf.concat([obs["state"], row["agent_id"]], 1)
            alone = one.step(
                policy, row, one._start(policy, 5), {}, {"action": tf.constant(draws[:, i])}, True
            )
            self.assertAllEqual(alone.action, out.action[:, i])
            self.assertAllClose(alone.extras["log_prob"], out.extras["log_prob"][:, i])
        greedy = act(policy, obs, 5, explore=False)
        probabilities = policy.estimates(obs, policy.initial_state(5, {}))["probabilities"]
        self.assertEqual(probabilities.shape, (5, 3, 6))
        self.assertAllEqual(tf.argmax(probabilities, 2, tf.int32), greedy.action)

    def test_without_their_numbers_equal_observations_give_equal_policies(self):
        spec = spec_of()
        obs = observed(spec, 4)
        obs["observation"] = tf.repeat(obs["observation"][:, :1], 2, axis=1)
        for add_id in (True, False):
            policy = shared_policy.make(config_of(add_agent_id=add_id), spec)
            shares = policy.estimates(obs, ())["probabilities"]
            self.assertEqual(np.allclose(shares[:, 0], shares[:, 1], atol=1e-7), not add_id)

    def test_boxes_and_images(self):
        spec = box_spec()
        policy = shared_policy.make(config_of(central_critic=False), spec)
        out = act(policy, observed(spec, 3), 3)
        self.assertEqual((out.action.shape, out.action.dtype), ((3, 2, 2), tf.float32))
        self.assertEqual(out.extras["log_prob"].shape, (3, 2))
        squashed = shared_policy.make(config_of(squash_actions=True), spec)
        self.assertEqual(act(squashed, observed(spec, 3), 3).extras["sample"].shape, (3, 2, 2))

    def test_state_dependent_noise_is_each_agents_own(self):
        policy = shared_policy.make(config_of(state_dependent_exploration=True), box_spec())
        self.assertEqual(policy.noise["exploration"].shape[0], 2)
        self.assertEqual(act(policy, observed(box_spec(), 3), 3).action.shape, (3, 2, 2))


class ColumnsTest(tf.test.TestCase, parameterized.TestCase):
    def batch(self, policy, spec, steps=4, teams=3):
        rng = np.random.default_rng(1)
        agents = spec.num_agents
        obs = observed(spec, (steps + 1) * teams)
        obs = {k: tf.reshape(x, [steps + 1, teams, *x.shape[1:]]) for k, x in obs.items()}
        normal = lambda *shape: tf.constant(rng.normal(size=shape), tf.float32)
        flags = lambda *shape: tf.constant(rng.random(shape) < 0.3)
        rewards = normal(steps, teams, agents)
        return Trajectory(
            obs=obs, action=tf.constant(rng.integers(0, 6, (steps, teams, agents)), tf.int32),
            reward=tf.reduce_sum(rewards, 2), discount=normal(steps, teams), is_last=flags(steps, teams),
            valid=flags(steps, teams), is_first=flags(steps + 1, teams), discounted_return=normal(steps, teams),
            state=policy.initial_state(teams, {}), extras={"log_prob": normal(steps, teams, agents)},
            version=tf.range(teams, dtype=tf.int64), is_new=flags(teams), probability=normal(teams), rewards=rewards,
        )  # fmt: skip

    @parameterized.product(individual=(False, True), memory=(False, True))
    def test_agents_follow_each_other_as_columns(self, individual, memory):
        spec = spec_of(num_agents=3, size=4)
        config = config_of(
            individual_rewards=individual, central_critic=True, **(MEMORY if memory else {})
        )
        policy = shared_policy.make(config, spec)
        batch = self.batch(policy, spec)
        found = policy.columns(batch)
        for agent in range(3):
            mine = slice(agent * 3, (agent + 1) * 3)  # the three teams
            at = lambda x, mine=mine: x[:, mine]
            self.assertAllEqual(at(found.obs["observation"]), batch.obs["observation"][:, :, agent])
            ids = tf.one_hot(tf.fill([5, 3], agent), 3)
            self.assertAllEqual(at(found.obs["agent_id"]), ids)
            state = tf.concat([batch.obs["state"], ids], 2)
            self.assertAllEqual(at(found.obs["state"]), state)
            self.assertAllEqual(at(found.action), batch.action[:, :, agent])
            reward = batch.rewards[:, :, agent] if individual else batch.reward
            self.assertAllEqual(at(found.reward), reward)
            self.assertAllEqual(at(found.extras["log_prob"]), batch.extras["log_prob"][:, :, agent])
            for name in ("discount", "is_last", "valid", "is_first", "discounted_return"):
                self.assertAllEqual(at(getattr(found, name)), getattr(batch, name))
            for name in ("version", "is_new", "probability"):
                self.assertAllEqual(getattr(found, name)[mine], getattr(batch, name))
            for whole, part in zip(tf.nest.flatten(batch.state), tf.nest.flatten(found.state)):
                self.assertAllEqual(part[mine], whole[:, agent])

    def test_log_probabilities_of_acting_are_those_of_learning(self):
        spec = spec_of()
        for settings in ({}, MEMORY):
            policy = shared_policy.make(config_of(**settings), spec)
            obs = observed(spec, 3)
            out = act(policy, obs, 3)
            batch = self.batch(policy, spec, steps=1)
            batch = batch._replace(
                obs={k: tf.stack([x, x]) for k, x in obs.items()}, action=out.action[None],
                extras={"log_prob": out.extras["log_prob"][None]},
                is_first=tf.constant([[True] * 3, [False] * 3]),
            )  # fmt: skip
            rows = policy.columns(batch)
            outputs, _ = policy_gradient.evaluate_batch(policy, rows)
            self.assertAllClose(outputs.log_prob, rows.extras["log_prob"], atol=1e-5)


class DoneTest(tf.test.TestCase, parameterized.TestCase):
    """Four steps of three teams of two agents. Agent 1 of team 0 is done after the second step, agent 0 of team 1 was
    before the first."""

    ALIVE = np.ones((5, 3, 2), np.float32)
    ALIVE[2:, 0, 1] = 0
    ALIVE[:, 1, 0] = 0

    def batch(self, policy, spec):
        rng = np.random.default_rng(3)
        obs = observed(spec, 15)
        obs = {k: tf.reshape(x, [5, 3, *x.shape[1:]]) for k, x in obs.items()}
        obs["alive"] = tf.constant(self.ALIVE.astype(obs["alive"].dtype.as_numpy_dtype))
        normal = lambda *shape: tf.constant(rng.normal(size=shape), tf.float32)
        discrete = isinstance(spec.action_space, spaces.MultiDiscrete)
        action = (
            tf.constant(rng.integers(0, 6, (4, 3, 2)), tf.int32) if discrete else normal(4, 3, 2, 2)
        )
        flags = lambda *shape: tf.zeros(shape, tf.bool)
        rewards = normal(4, 3, 2)
        is_first = np.zeros((5, 3), bool)
        is_first[0] = True
        return Trajectory(
            obs=obs, action=action, reward=tf.reduce_sum(rewards, 2), discount=tf.fill([4, 3], 0.9),
            is_last=flags(4, 3), valid=~flags(4, 3), is_first=tf.constant(is_first), discounted_return=normal(4, 3),
            state=policy.initial_state(3, {}), extras={"log_prob": normal(4, 3, 2) - 2.0},
            version=tf.zeros(3, tf.int64), is_new=~flags(3), probability=tf.ones(3), rewards=rewards,
        )  # fmt: skip

    @parameterized.parameters(False, True)
    def test_its_last_step_is_given_the_rest_of_the_teams_rewards(self, individual):
        spec = spec_of()
        policy = shared_policy.make(config_of(individual_rewards=individual), spec)
        batch = self.batch(policy, spec)
        if individual:  # one that is done is given nothing
            batch = batch._replace(rewards=batch.rewards * self.ALIVE[:-1])
        found = policy.columns(batch)
        own = lambda x: x.transpose(0, 2, 1).reshape(
            len(x), 6
        )  # columns: agent 0 of all teams, then agent 1
        self.assertAllEqual(found.valid, own(self.ALIVE[:-1]) > 0)
        done, rest = 3, 3 - 1  # agent 1 of team 0; steps after its last
        each = (
            batch.rewards.numpy()
            if individual
            else np.repeat(batch.reward.numpy()[..., None], 2, 2)
        )
        reward, discount = own(each), np.full((4, 6), 0.9, np.float32)
        reward[1, done] = sum(0.9**k * own(each)[1 + k, done] for k in range(rest + 1))
        discount[1, done] = 0.0
        valid = found.valid.numpy()
        self.assertAllClose(found.reward.numpy()[valid], reward[valid], 1e-6, 1e-6)
        self.assertAllEqual(found.discount.numpy()[valid], discount[valid])
        is_last = np.zeros((4, 6), bool)
        is_last[1, done] = True
        self.assertAllEqual(found.is_last.numpy()[valid], is_last[valid])

    @parameterized.product(
        boxes=(False, True), memory=(False, True), advantage=("minibatch", "batch")
    )
    def test_what_its_rows_hold_changes_no_weight_and_no_metric(self, boxes, memory, advantage):
        spec = spec_of()
        if boxes:
            parts = {"observation": spaces.Box(-9, 9, (2, 4)), "alive": spaces.Box(0, 1, (2,))}
            spec = dataclasses.replace(
                box_spec(), observation_space=spaces.Dict(parts), max_episode_steps=9
            )
        config = config_of(
            normalize_observations=True, normalize_rewards=True, normalize_advantage=advantage,
            entropy_coefficient=0.1, kl_coefficient=0.2, minibatches=1, **(MEMORY if memory else {}),
        )  # fmt: skip
        found = []
        for add in (0, 1):
            tf.keras.utils.set_random_seed(5)
            learner = ppo.PPOLearner(config, spec)
            batch = self.batch(learner.policy, spec)
            # Other observations, actions and log-probabilities of agents that are done.
            dead = tf.constant(self.ALIVE < 1)
            action, log_prob = batch.action, batch.extras["log_prob"]
            where = dead[:-1, ..., None] if boxes else dead[:-1]
            other = action + add if boxes else (action + add) % 6
            seen = batch.obs["observation"]
            batch.obs["observation"] = tf.where(dead[..., None], seen + add, seen)
            batch = batch._replace(
                action=tf.where(where, other, action),
                extras={"log_prob": tf.where(dead[:-1], log_prob + 0.7 * add, log_prob)},
            )
            rows = learner.prepare(batch)
            metrics = learner.update(rows, tf.constant([1, 2])).metrics
            found.append((metrics, learner.policy.trainable_variables))
        (metrics, weights), (others, same) = found
        self.assertGreater(metrics["learner/gradient_norm"], 1e-3)
        self.assertEqual(set(metrics), set(others))
        for name in metrics:
            self.assertAllEqual(metrics[name], others[name], name)
        for mine, theirs in zip(weights, same, strict=True):
            self.assertAllEqual(mine, theirs)


class CentralCriticTest(tf.test.TestCase, parameterized.TestCase):
    def test_the_value_reads_the_state_and_the_policy_does_not(self):
        spec = spec_of()
        for settings in (SMALL, dict(hidden_sizes=(8,))):  # each agent, and all of them as one
            config = ppo.Config(**settings, central_critic=True)
            policy = shared_policy.make(config, spec)
            self.assertGreater(len(policy.networks()["value"]), 3)
            obs = observed(spec, 4)
            rows = policy._agents(obs) if config.team_policy == "independent" else obs
            before = policy.heads(rows)
            changed = policy.heads({**rows, "state": rows["state"] + 1.0})
            self.assertAllEqual(before.params, changed.params)
            self.assertNotAllClose(before.values, changed.values)
            changed = policy.heads({**rows, "observation": rows["observation"] + 1.0})
            self.assertNotAllClose(before.params, changed.params)
            self.assertAllEqual(before.values, changed.values)

    def test_without_a_state_it_reads_all_agents_observations(self):
        spec = box_spec()
        spec = dataclasses.replace(
            spec, observation_space=spaces.Dict(observation=spaces.Box(-1, 1, (2, 3)), alive=spaces.Box(0, 1, (2,)))
        )  # fmt: skip
        policy = shared_policy.make(config_of(central_critic=True), spec)
        obs = observed(spec, 4)
        rows = policy._agents(obs)
        flat = tf.repeat(tf.reshape(obs["observation"], [4, 6]), 2, axis=0)
        self.assertAllEqual(rows["state"], tf.concat([flat, rows["agent_id"]], 1))

    @parameterized.parameters(LOADS, None)
    def test_an_agent_specific_state_holds_the_agents_own_observation(self, env):
        spec = spec_of(env) if env else box_spec()  # vectors with a state, images without one
        if not env:
            spec = dataclasses.replace(spec, action_space=spaces.MultiDiscrete([3, 3]))
        policies = [
            shared_policy.make(config_of(central_critic=True, agent_specific_state=own), spec)
            for own in (False, True)
        ]
        obs = observed(spec, 4)
        shared, specific = (policy._agents(obs)["state"] for policy in policies)
        own = tf.cast(tf.reshape(obs["observation"], [8, -1]), tf.float32)
        own = own if env else own / 255.0
        state = shared[:, :-2]  # without the agent's number
        self.assertAllClose(specific, tf.concat([state, own, shared[:, -2:]], 1))
        # Its value changes with what one agent observes, if the state does not, for that agent alone.
        rows = policies[1]._agents(obs)
        changed = rows["state"].numpy()
        changed[0, state.shape[1]] += 1.0
        before, after = (
            policies[1].heads({**rows, "state": tf.constant(x)}).values
            for x in (rows["state"], changed)
        )
        self.assertNotAllClose(before[0], after[0], rtol=0.0, atol=0.0)
        self.assertAllEqual(before[1:], after[1:])

    def test_its_statistics_are_those_of_the_state(self):
        config = config_of(central_critic=True, normalize_observations=True)
        learner = ppo.PPOLearner(config, spec_of())
        leaves = learner._training.statistics.observations.leaves
        self.assertIn("observation/state", leaves)
        self.assertNotIn("observation/action_mask", leaves)

    @parameterized.parameters(
        ("CartPole-v1", dict(team_policy="independent"), "team_policy=independent: no effect without a team"),
        ("CartPole-v1", dict(central_critic=True), "expected an observation with a part 'state'"),
        (LOADS, dict(central_critic=True, shared_torso=True), "expected shared_torso=false"),
        (LOADS, dict(team_policy="independent", observe_previous=True), "observe_previous adds some"),
        (LOADS, dict(team_policy="independent", agent_specific_state=True), "agent_specific_state=true: no effect"),
        (LOADS, dict(individual_rewards=True), "individual_rewards=true: no effect with team_policy=joint"),
        (LOADS, dict(add_agent_id=False), "add_agent_id=false: no effect with team_policy=joint"),
    )  # fmt: skip
    def test_what_does_not_fit_is_refused(self, env, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            tfrl.train(env=env, algo="ppo", total_env_steps=10, **settings)


class ExportTest(tf.test.TestCase):
    def test_an_exported_policy_takes_teams_and_gives_joint_actions(self):
        spec = spec_of("tfrl/TwoStep-v0")
        policy = shared_policy.make(config_of(central_critic=True, **MEMORY), spec)
        flags = ("action_mask", "alive")
        obs = {k: tf.cast(x, tf.int8) if k in flags else x for k, x in observed(spec, 5).items()}
        with tempfile.TemporaryDirectory() as folder:
            saved = tf.saved_model.load(str(export(policy, spec, pathlib.Path(folder, "export"))))
            loaded = LoadedPolicy(policy, spec)
            state = saved.initial_state(5)
            for _ in range(2):
                out = saved.act(obs, state)
                state = out["state"]
                self.assertEqual(out["action"].shape, (5, 2))
                found = loaded.predict({k: x.numpy() for k, x in obs.items()})
                self.assertAllEqual(found, out["action"])


if __name__ == "__main__":
    tf.test.main()
