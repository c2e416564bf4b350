"""QMIX, VDN and IQL: losses against a slow twin, values along sequences, exploration, refusals."""

import dataclasses
import types

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import absltest, parameterized

from tfrl.agent import Episodes, Windows
from tfrl.algos import qmix
from tfrl.api import make_job
from tfrl.envs.make import make_spec
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.losses import value
from tfrl.nn import teams
from tfrl.nn.mixers import VDNMixer
from tfrl.optim import apply
from tfrl.replay.kinds import make_layout, sequence_writer
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.sequence_rows import RowSink
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.testing import conformance
from tfrl.types import EnvSpec, Trajectory, VectorStep

LENGTH, WIDTH, AGENTS, ACTIONS, STATE, DISCOUNT = 6, 4, 3, 3, 4, 0.9
FLAGS = lambda size: gym.spaces.Box(0, 1, (size,), np.float32)
SPEC = EnvSpec(
    "team",
    gym.spaces.Dict(
        observation=gym.spaces.Box(-1, 1, (AGENTS, 2), np.float32),
        action_mask=FLAGS(AGENTS * ACTIONS),
        alive=FLAGS(AGENTS),
        state=gym.spaces.Box(-1, 1, (STATE,), np.float32),
    ),
    gym.spaces.MultiDiscrete([ACTIONS] * AGENTS, dtype=np.int32),
    max_episode_steps=LENGTH,
    num_agents=AGENTS,
    reward_parts=("a", "b", "c"),
)
SETTINGS = dict(
    hidden_sizes=(6,), core_size=4, batch_size=WIDTH, discount=DISCOUNT, mixing_embed_size=4,
    learning_rate=1e-3, replay_capacity=600, min_replay=60,
)  # fmt: skip
SEED = np.int32([0, 0])


def agent_of(spec=SPEC, **settings):
    return qmix.make(qmix.Config(**{**SETTINGS, **settings}), spec)


def learner_of(seed=1, **settings):
    """A learner whose online and target networks differ."""
    tf.keras.utils.set_random_seed(seed)
    learner = agent_of(**settings).make_learner()
    for module in (learner.target, learner.target_mixer):
        for variable in [] if module is None else module.variables:
            variable.assign_add(tf.random.normal(variable.shape, stddev=0.3))
    return learner


def batch_of(policy, seed=0):
    """Columns: an episode that terminates at the end, one that is shorter, one cut at step 4, one that begins earlier.

    The last agent is dead from step 3 on in columns 0 and 3; it may take action 0 alone then.
    """
    rng = np.random.default_rng(seed)
    shape = (LENGTH, WIDTH)
    terminated, truncated = np.zeros(shape, bool), np.zeros(shape, bool)
    terminated[LENGTH - 1, 0] = terminated[2, 1] = truncated[4, 2] = True
    valid = np.ones(shape, bool)
    valid[3:, 1], valid[5:, 2] = False, False
    is_first = np.zeros((LENGTH + 1, WIDTH), bool)
    is_first[0, :3] = True
    alive = np.ones((LENGTH + 1, WIDTH, AGENTS), np.float32)
    alive[3:, [0, 3], -1] = 0.0
    mask = (rng.random((LENGTH + 1, WIDTH, AGENTS, ACTIONS)) < 0.5).astype(np.float32)
    action = rng.integers(ACTIONS, size=(*shape, AGENTS)).astype(np.int32)
    mask[..., 1] = 1.0
    np.put_along_axis(mask[:-1], action[..., None], 1.0, -1)  # what was done was allowed
    mask[alive == 0] = np.eye(ACTIONS, dtype=np.float32)[0]
    action[alive[:-1] == 0] = 0
    rewards = rng.normal(size=(*shape, AGENTS)).astype(np.float32)
    state = tuple(np.array(x) for x in policy.initial_state(WIDTH, {}))
    for x in state:
        x[3] = rng.normal(size=x[3].shape) if x.dtype == np.float32 else 1
    return Trajectory(
        obs={
            "observation": rng.uniform(-1, 1, (LENGTH + 1, WIDTH, AGENTS, 2)).astype(np.float32),
            "action_mask": mask.reshape(LENGTH + 1, WIDTH, -1),
            "alive": alive,
            "state": rng.uniform(-1, 1, (LENGTH + 1, WIDTH, STATE)).astype(np.float32),
        },
        action=action,
        reward=rewards.sum(-1),
        discount=np.where(terminated, 0.0, DISCOUNT).astype(np.float32),
        is_last=terminated | truncated | ~valid,
        valid=valid,
        is_first=is_first,
        discounted_return=np.zeros(shape, np.float32),
        state=state,
        extras={},
        version=np.zeros(WIDTH, np.int64),
        is_new=np.ones(WIDTH, bool),
        probability=np.float32([1.0, 3.0, 2.0, 1.0]),
        rewards=rewards,
    )


def tensors(batch):
    return tf.nest.map_structure(tf.constant, batch)


def twin(learner, batch):
    """Errors of each valid step [(column, agent or None, step)] -> Q_tot - y, one number after the other."""
    config, mixer, target_mixer = learner._config, learner.mixer, learner.target_mixer
    q = learner.policy.unrolled_values(tensors(batch), 0).numpy()
    q_target = learner.target.unrolled_values(tensors(batch), 0).numpy()
    mask = batch.obs["action_mask"].reshape(LENGTH + 1, WIDTH, AGENTS, ACTIONS) > 0
    alive, state = batch.obs["alive"], batch.obs["state"]
    errors = {}

    def ahead(t, b, agents):
        chooser = q if config.double else q_target
        found = []
        for i in agents:
            allowed = np.flatnonzero(mask[t, b, i])
            best = allowed[np.argmax(chooser[t, b, i, allowed])]
            found.append(q_target[t, b, i, best] * alive[t, b, i])
        return np.float32(found)

    def joined(module, values, t, b):
        return float(module(tf.constant(values[None]), tf.constant(state[t, b][None]))[0])

    groups = [(None, range(AGENTS))] if mixer is not None else [(i, [i]) for i in range(AGENTS)]
    for b in range(WIDTH):
        for name, agents in groups:
            own = name is not None and config.iql_reward == "individual"
            counts = [
                batch.valid[t, b] and (name is None or alive[t, b, name]) for t in range(LENGTH)
            ]
            for t in range(LENGTH):
                if not counts[t]:
                    continue
                total, product, steps = 0.0, 1.0, 0
                while steps < config.n_step:
                    at = t + steps
                    total += product * float(
                        batch.rewards[at, b, name] if own else batch.reward[at, b]
                    )
                    limit = batch.is_last[at, b] and not config.bootstrap_time_limits
                    product *= 0.0 if limit else float(batch.discount[at, b])
                    steps += 1
                    if batch.is_last[at, b] or at + 1 == LENGTH or not counts[at + 1]:
                        break
                chosen = np.float32(
                    [q[t, b, i, batch.action[t, b, i]] * alive[t, b, i] for i in agents]
                )
                after = ahead(t + steps, b, agents)
                if mixer is None:
                    now, later = chosen[0], after[0]
                else:
                    now = joined(mixer, chosen, t, b)
                    later = joined(target_mixer, after, t + steps, b)
                errors[b, name, t] = now - (total + product * later)
    return errors


class LossTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(
        settings=(
            dict(mixer="qmix"), dict(mixer="qmix", hypernet_layers=2, n_step=3, double=False),
            dict(mixer="vdn"), dict(mixer="none"), dict(mixer="iql", iql_reward="team", n_step=2),
            dict(mixer="vdn", bootstrap_time_limits=False, n_step=2),
        ),
        prioritized=(False, True),
    )  # fmt: skip
    def test_an_update_is_that_of_a_slow_twin(self, settings, prioritized):
        learner = learner_of(
            **settings, prioritized=prioritized, importance_beta=0.5, priority_eta=0.7
        )
        batch = batch_of(learner.policy)
        errors = twin(learner, batch)
        weights = batch.probability**-0.5 if prioritized else np.ones(WIDTH)
        expected = sum(weights[b] * e**2 for (b, _, _), e in errors.items()) / len(errors)
        out = learner.update(tensors(batch), SEED)
        self.assertAllClose(out.metrics["learner/loss"], expected, 1e-4, 1e-5)
        self.assertAllClose(
            out.metrics["learner/td_error_abs_mean"],
            np.mean(np.abs([*errors.values()])),
            1e-4,
            1e-5,
        )
        if not prioritized:
            self.assertIsNone(out.priorities)
            return
        for b in range(WIDTH):
            mine = []
            for name in {n for _, n, _ in errors}:
                own = np.abs([e for (c, n, _), e in errors.items() if c == b and n == name])
                mine.append(0.7 * own.max() + 0.3 * own.mean() + 1e-6)
            self.assertAllClose(out.priorities[b], np.mean(mine), 1e-4, 1e-5)

    def test_without_bootstraps_at_time_limits_only_ends_of_episodes_count(self):
        """Column 2 was truncated at step 4; column 3 is a part of an episode that goes on, cut after the last step."""
        learner = learner_of(mixer="vdn", bootstrap_time_limits=False)
        batch = batch_of(learner.policy)
        found = qmix.of_columns(learner._config, learner.policy.team, tensors(batch))
        self.assertEqual(batch.discount[4, 2], np.float32(DISCOUNT))
        expected = batch.discount.copy()
        expected[4, 2] = 0.0
        valid = batch.valid
        self.assertAllEqual(found.discount.numpy()[valid], expected[valid])
        self.assertEqual(found.discount[LENGTH - 1, 3], np.float32(DISCOUNT))

    def test_the_mask_and_the_target_by_hand(self):
        td = value.joint_q_learning(
            tf.constant([3.5, 1.0, 9.0]),
            tf.constant([1.0, 2.0, 0.0]),
            0.99 * tf.constant([1.0, 0.0, 0.0]),
            tf.constant([3.0, 4.0, 5.0]),
        )
        np.testing.assert_allclose(td.target, [3.97, 2.0, 0.0], rtol=1e-6)
        valid = tf.constant([True, True, False])
        loss = apply.masked_mean(td.loss, valid, apply.masked_count(valid))
        np.testing.assert_allclose(loss, 0.61045, rtol=1e-5)
        with self.assertRaisesRegex(ValueError, "q_t: expected rank 1"):
            value.joint_q_learning(*[tf.zeros([3])] * 3, tf.zeros([3, 1]))

    def test_only_available_actions_enter_the_target(self):
        """Online values 1, 5, 2 of actions 1, 0, 1 that are available choose action 2: the target's 3 of 7, 9, 3."""
        spec = dataclasses.replace(
            SPEC,
            observation_space=gym.spaces.Dict(
                {**SPEC.observation_space.spaces,
                 "observation": gym.spaces.Box(-1, 1, (2, 2), np.float32),
                 "action_mask": FLAGS(6), "alive": FLAGS(2)}
            ),
            action_space=gym.spaces.MultiDiscrete([3, 3], dtype=np.int32),
            num_agents=2,
        )  # fmt: skip
        stub = lambda values: types.SimpleNamespace(
            team=teams.TeamInputs(spec),
            unrolled_values=lambda *_, **__: tf.tile(tf.constant(values), [2, 1, 2, 1]),
        )
        obs = {
            "observation": tf.zeros([2, 1, 2, 2]), "alive": tf.ones([2, 1, 2]), "state": tf.zeros([2, 1, STATE]),
            "action_mask": tf.constant([1.0, 0, 1, 1, 0, 1], shape=[1, 1, 6]) * tf.ones([2, 1, 6]),
        }  # fmt: skip
        one = lambda x: tf.constant([[x]])
        batch = Trajectory(
            obs, tf.constant([[[0, 2]]]), one(10.0), one(0.5), one(False), one(True), None, None, (), {}, None, None,
            tf.ones([1]),
        )  # fmt: skip
        config = qmix.Config(**SETTINGS, mixer="vdn")
        policy, target = stub([[[[1.0, 5.0, 2.0]]]]), stub([[[[7.0, 9.0, 3.0]]]])
        out = qmix.loss(config, policy, target, VDNMixer(2), VDNMixer(2), batch, batch)
        # Q_tot = 1 + 2 and y = 10 + 0.5 (3 + 3).
        np.testing.assert_allclose(out.priority, [10.0])
        config = dataclasses.replace(config, double=False)
        out = qmix.loss(config, policy, target, VDNMixer(2), VDNMixer(2), batch, batch)
        np.testing.assert_allclose(
            out.priority, [10.0 + 0.5 * 14 - 3]
        )  # 7 is the target's own best

    def test_sums_fit_the_payoffs_of_the_risky_state_as_they_can(self):
        """Least squares of [[0, 1], [1, 8]] by VDN's sums: -1.5, 2.5, 2.5, 6.5."""
        # The sum's part of each of the values q_0(A), q_0(B), q_1(A), q_1(B), for AA, AB, BA, BB.
        mixer, q = VDNMixer(2), np.eye(4, dtype=np.float32)
        pairs = [tf.constant(q[[a, 2 + b]].T) for a in (0, 1) for b in (0, 1)]
        matrix = np.stack([mixer(pair, tf.zeros([4, 1])) for pair in pairs])
        best, *_ = np.linalg.lstsq(matrix, np.float32([0, 1, 1, 8]), rcond=None)
        np.testing.assert_allclose(matrix @ best, [-1.5, 2.5, 2.5, 6.5], atol=1e-5)

    @parameterized.parameters("qmix", "vdn", "none")
    def test_what_dead_agents_see_changes_nothing(self, mixer):
        learner = learner_of(mixer=mixer)
        batch = batch_of(learner.policy)
        other = np.array(batch.obs["observation"])
        dead = batch.obs["alive"] == 0
        other[dead] += 1.0
        changed = batch._replace(obs={**batch.obs, "observation": other})
        rewards = np.array(batch.rewards)
        rewards[dead[:-1]] += 1.0
        if mixer == "none":
            changed = changed._replace(rewards=rewards)
        losses = []
        for each in (batch, changed):
            each = tensors(each)
            columns = qmix.of_columns(learner._config, learner.policy.team, each)
            parts = (learner.policy, learner.target, learner.mixer, learner.target_mixer)
            out = qmix.loss(learner._config, *parts, each, columns)
            losses.append(out.loss.numpy()[qmix_rows(columns)])
        self.assertAllClose(*losses, 1e-6, 1e-6)

    def test_statistics_of_observations_are_those_of_agents_that_live(self):
        learner = learner_of(normalize_observations=True)
        batch = batch_of(learner.policy)
        learner.update(tensors(batch), SEED)
        mean, std = learner.policy.normaliser.moments("observation/observation")
        for agent in range(AGENTS):
            counts = batch.valid & (batch.obs["alive"][:-1, :, agent] > 0)
            seen = batch.obs["observation"][:-1, :, agent][counts]
            self.assertAllClose(mean[agent], seen.mean(0), 1e-5, 1e-6)
            self.assertAllClose(std[agent], seen.std(0, ddof=1), 1e-5, 1e-6)

    @parameterized.parameters("qmix", "none")
    def test_the_update_trains_network_and_mixer_and_copies_both(self, mixer):
        learner = learner_of(mixer=mixer, target_period_updates=1)
        before = {v.ref(): v.numpy() for v in learner._trained_variables()}
        learner.update(tensors(batch_of(learner.policy)), SEED)
        changed = [np.abs(v - before[v.ref()]).max() > 0 for v in learner._trained_variables()]
        self.assertTrue(all(changed))
        names = [network.name for network in learner.networks()]
        wanted = ["q", "target_q"] + (["mixer", "target_mixer"] if mixer == "qmix" else [])
        self.assertEqual(names, wanted)
        learner.periodic()[0].fn()
        networks = {network.name: network.variables for network in learner.networks()}
        for name in wanted[::2]:
            for mine, theirs in zip(networks[f"target_{name}"], networks[name], strict=True):
                self.assertAllEqual(mine, theirs)

    def test_the_gradient_of_network_and_mixer_has_one_norm(self):
        learner = learner_of(gradient_clip_norm=1e-3, optimizer="sgd", learning_rate=1.0)
        before = [v.numpy() for v in learner._trained_variables()]
        out = learner.update(tensors(batch_of(learner.policy)), SEED)
        self.assertGreater(out.metrics["learner/gradient_norm"], 1e-2)
        after = learner._trained_variables()
        moved = np.sqrt(sum(np.square(v - b).sum() for v, b in zip(after, before, strict=True)))
        self.assertAllClose(moved, 1e-3, 1e-2)


def qmix_rows(columns):
    """valid of the rows of a loss, column by column."""
    return columns.valid.numpy().T.reshape(-1)


class PolicyTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(core=("none", "gru", "lstm", "gtrxl"), adds=((True, True),))
    def test_values_along_a_sequence_are_those_of_step_after_step(self, core, adds):
        self.check_values_along(core, adds)

    @parameterized.product(
        core=("none", "gru", "lstm", "gtrxl"), adds=((False, False), (False, True))
    )
    @pytest.mark.slow
    def test_values_along_a_sequence_with_fewer_inputs(self, core, adds):
        self.check_values_along(core, adds)

    def check_values_along(self, core, adds):
        settings = dict(core=core, add_agent_id=adds[0], add_last_action=adds[1])
        policy = learner_of(**settings).policy
        batch = batch_of(policy)
        batch.is_first[3, 3] = True  # an episode begins within a window
        unrolled = policy.unrolled_values(tensors(batch), 0).numpy()
        state, start = batch.state, policy.initial_state(WIDTH, {})
        for t in range(LENGTH + 1):
            first = batch.is_first[t]
            reset = lambda x, s, first=first: np.where(
                first.reshape(-1, *[1] * (np.ndim(x) - 1)), s, x
            )
            state = tf.nest.map_structure(reset, state, start)
            obs = tf.nest.map_structure(lambda x, t=t: tf.constant(x[t]), batch.obs)
            state = tf.nest.map_structure(tf.constant, state)
            q = policy.estimates(obs, state)["q_values"]
            available = batch.obs["action_mask"][t].reshape(q.shape) > 0
            np.testing.assert_allclose(q[available], unrolled[t][available], atol=2e-5)
            self.assertAllEqual(q.numpy().argmax(-1), policy.step(obs, state, {}, {}, False).action)
            state = policy.step(obs, state, {}, {}, False).state
            if t < LENGTH and adds[1]:  # what was done, not what these weights would do
                state = (*state[:-1], tf.constant(batch.action[t]))

    def test_burn_in_leaves_out_the_first_steps(self):
        policy = learner_of(
            replay_of="windows", sequence_length=LENGTH, sequence_period=2, burn_in=2
        ).policy
        batch = tensors(batch_of(policy))
        late = policy.unrolled_values(batch, 2)
        self.assertAllClose(late, policy.unrolled_values(batch, 0)[2:], 1e-5, 1e-5)
        with tf.GradientTape() as tape:
            values = policy.unrolled_values(batch, 0)[:2]
        self.assertIsNotNone(tape.gradient(values, policy.trainable_variables[0]))

    def test_agents_with_equal_observations_differ_by_their_number_only(self):
        obs = {
            "observation": tf.ones([1, AGENTS, 2]), "action_mask": tf.ones([1, AGENTS * ACTIONS]),
            "alive": tf.ones([1, AGENTS]), "state": tf.zeros([1, STATE]),
        }  # fmt: skip
        for add in (False, True):
            policy = learner_of(add_agent_id=add).policy
            q = policy.estimates(obs, policy.initial_state(1, {}))["q_values"].numpy()[0]
            self.assertEqual(np.ptp(q, axis=0).max() > 0, add)

    def test_each_agent_explores_by_itself_among_its_available_actions(self):
        policy, rows = learner_of().policy, 400
        rng = np.random.default_rng(0)
        obs = conformance.observations(SPEC, rows, 3)
        state = policy.initial_state(rows, {})
        noise = {
            name: tf.constant(rng.random((rows, *n.shape)), tf.float32)
            for name, n in policy.noise.items()
        }
        self.assertEqual({n: s.shape for n, s in policy.noise.items()},
                         {"explore": (AGENTS,), "action": (AGENTS, ACTIONS)})  # fmt: skip
        greedy = policy.step(obs, state, {}, {}, False).action.numpy()
        epsilon = tf.fill([rows], 0.5)
        action = policy.step(obs, state, {"epsilon": epsilon}, noise, True).action.numpy()
        mask = obs["action_mask"].reshape(rows, AGENTS, ACTIONS)
        self.assertTrue(np.take_along_axis(mask, action[..., None], 2).all())
        self.assertTrue(np.take_along_axis(mask, greedy[..., None], 2).all())
        other = action != greedy
        self.assertTrue(
            (other.any(1) & ~other.all(1)).any()
        )  # some of a team's agents explore, not all
        exploring = noise["explore"].numpy() < 0.5
        self.assertFalse((other & ~exploring).any())

    def test_images_of_agents_are_read_by_a_network_for_images(self):
        box = gym.spaces.Box(0, 255, (AGENTS, 10, 10, 2), np.uint8)
        parts = {**SPEC.observation_space.spaces, "observation": box}
        del parts["state"]
        spec = dataclasses.replace(SPEC, observation_space=gym.spaces.Dict(parts))
        learner = agent_of(spec, core="none").make_learner()
        self.assertIn(4, [v.shape.rank for v in learner.policy.trainable_variables])
        self.assertEqual(learner.mixer.output_kernels[1].shape[0], AGENTS * 10 * 10 * 2)
        obs = conformance.observations(spec, 2, 0)
        self.assertEqual(
            learner.policy.step(
                obs, learner.policy.initial_state(2, {}), {}, {}, False
            ).action.shape,
            (2, 3),
        )
        state = learner.policy.team.state(obs)
        np.testing.assert_allclose(state, obs["observation"].reshape(2, -1) / 255.0, rtol=1e-6)


class ReplayTest(tf.test.TestCase, parameterized.TestCase):
    def test_capacity_and_batch_in_env_steps(self):
        """Room for 10 steps and episodes of 4: the first of three leaves; a batch of 6 steps has two episodes."""
        spec = make_spec(EnvPlan(env="tfrl.testing.fakes:TeamMatching"))
        agent = agent_of(
            spec, episode_length=4, replay_capacity=10, min_replay=4, batch_env_steps=6
        )
        plan = agent.experience
        self.assertEqual((plan.capacity_items, plan.batch_size, plan.min_items), (2, 2, 1))
        self.assertEqual(plan.item, Episodes(4, DISCOUNT, 1))
        self.assertEqual(plan.samples_per_insert, 2.0)  # an update for each episode
        policy = agent.make_policy()
        layout = make_layout(agent, spec, policy, 3)
        replay = LearnerReplay(plan, layout.rows(), 0)
        writer = sequence_writer(RowSink(replay.insert, layout.rows()), plan.item, layout, 3)
        # Three teams whose episodes end in the same step, after 4 of them.
        state, obs = policy.initial_state(3, {}), conformance.observations(spec, 3, 0)
        for t in range(4):
            choice = policy.step(obs, state, {}, {}, False)
            following = conformance.observations(spec, 3, t + 1)
            ends = np.full(3, t == 3)
            none = np.zeros(3, bool)
            rewards = np.float32([[b, t] for b in range(3)])
            step = VectorStep(
                following, following, rewards.sum(1), ends, none, ~none, (), rewards=rewards
            )
            writer.record(obs, tf.nest.map_structure(np.asarray, state), choice, step)
            obs, state = following, choice.state
        self.assertEqual((writer.items_written, replay.written, replay.size), (3, 3, 2))
        found = layout.decode(replay.read(replay.live()))
        self.assertAllEqual(found.reward, np.transpose([[b + t for t in range(4)] for b in (1, 2)]))
        self.assertAllEqual(found.discount[:, 0], np.float32([0.9, 0.9, 0.9, 0.0]))
        self.assertTrue(found.valid.numpy().all())
        # The observation after the last step is there, for the bootstrap at a time limit.
        self.assertAllEqual(found.obs["state"][4], obs["state"][1:])

    def test_updates_are_counted_in_episodes_of_full_length(self):
        plan = agent_of(env_steps_per_update=3.0).experience
        self.assertEqual(plan.samples_per_insert, WIDTH * LENGTH / 3)
        plan = agent_of(
            replay_of="windows",
            sequence_length=8,
            sequence_period=4,
            burn_in=2,
            env_steps_per_update=8.0,
        ).experience
        self.assertEqual(plan.item, Windows(8, DISCOUNT, 4))
        self.assertEqual((plan.capacity_items, plan.samples_per_insert), (150, WIDTH * 4 / 8))

    def test_a_run_says_how_many_episodes_an_update_has(self):
        job = make_job(
            "qmix",
            env="tfrl.testing.fakes:TeamMatching",
            episode_length=4,
            updates_per_call=2,
            run_dir="",
        )
        self.assertStartsWith(
            plan_run(job).arithmetic,
            "8 env steps -> 2 updates of 32 episodes of up to 4 steps, 32 samples per insert",
        )


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(mixer="qmux"), "mixer='qmux': expected one of qmix, vdn, none, iql.*did you mean qmix"),
        (dict(hypernet_layers=3), "hypernet_layers=3: expected"),
        (dict(replay_of="windows", core="none"), "replay_of=windows with core=none: .*stored state of a memory"),
        (dict(burn_in=3), "burn_in=3 with replay_of=episodes: .*expected burn_in=0, or replay_of=windows"),
        (dict(n_step=7), "n_step=7 with episodes of up to 6 steps: expected at most 6"),
        (dict(replay_capacity=20, min_replay=5), "replay_capacity=20 with episodes of up to 6 steps: .*at least 24"),
        (dict(epsilon_ladder="env", epsilon_final=0.1), "epsilon_final=0.1 with epsilon_ladder=env"),
    )  # fmt: skip
    def test_settings(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            agent_of(**settings)

    @parameterized.parameters("qmix", "vdn", "none")
    def test_one_agent(self, mixer):
        spec = make_spec(EnvPlan(env="CartPole-v1"))
        message = (
            f"mixer={mixer}: expected a team of at least 2 agents, got one agent; use algo=dqn"
        )
        with self.assertRaisesRegex(SettingError, f"algo=qmix on CartPole-v1: {message}"):
            agent_of(spec, mixer=mixer)

    @parameterized.parameters(
        (dict(action_space=gym.spaces.MultiDiscrete([2, 3, 3])), "a Discrete action of equal size for each of 3 ag"),
        (dict(action_space=gym.spaces.Box(-1, 1, (3, 2))), "a Discrete action of equal size for each of 3 agents"),
        (dict(num_agents=2), "a Discrete action of equal size for each of 2 agents"),
        (dict(observation_space=gym.spaces.Dict(observation=gym.spaces.Box(-1, 1, (3, 2)))), "'action_mask' and 'ali"),
        (dict(max_episode_steps=None), "it has no time limit; give episode_length or max_episode_steps"),
    )  # fmt: skip
    def test_environments(self, changes, message):
        with self.assertRaisesRegex(SettingError, f"algo=qmix on team: .*{message}"):
            agent_of(dataclasses.replace(SPEC, **changes))

    def test_agents_without_rewards_of_their_own(self):
        spec = dataclasses.replace(SPEC, reward_parts=())
        with self.assertRaisesRegex(
            SettingError, "iql_reward=individual: expected a reward for each of 3 agents.*=team"
        ):
            agent_of(spec, mixer="none")
        agent_of(spec, mixer="none", iql_reward="team")
        agent_of(spec, mixer="vdn")

    @parameterized.parameters(
        (dict(mixer="vdn", hypernet_layers=2), "hypernet_layers=2: no effect with mixer=vdn"),
        (dict(iql_reward="team"), "iql_reward='?team'?: no effect with mixer=qmix"),
        (dict(sequence_length=50), "sequence_length=50: no effect with replay_of=episodes"),
        (dict(batch_env_steps=64, batch_size=4), "batch_size=4: no effect with batch_env_steps=64"),
    )
    def test_settings_without_effect(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            make_job("qmix", env="tfrl.testing.fakes:TeamMatching", run_dir="", **settings)


if __name__ == "__main__":
    absltest.main()
