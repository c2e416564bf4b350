"""The value-based family with a memory: stored states, burn-in, n-step targets in sequences, priorities, refusals."""

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import Windows
from tfrl.algos import c51, dqn, iqn, qr_dqn
from tfrl.algos.parts import q_steps
from tfrl.api import make_job
from tfrl.errors import SettingError
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.testing import reference
from tfrl.types import EnvSpec, Trajectory

NUM_ACTIONS = 3
SPEC = EnvSpec(
    "masked",
    gym.spaces.Dict(
        observation=gym.spaces.Box(-1, 1, (2,), np.float32),
        action_mask=gym.spaces.Box(0, 1, (NUM_ACTIONS,), np.float32),
    ),
    gym.spaces.Discrete(NUM_ACTIONS),
)
SEED = np.int32([0, 0])
LENGTH, WIDTH, DISCOUNT = 9, 5, 0.9
SETTINGS = dict(
    core="lstm", core_size=4, hidden_sizes=(6,), batch_size=WIDTH, sequence_length=LENGTH,
    sequence_period=3, burn_in=2, n_step=3, discount=DISCOUNT, target_period_updates=2,
)  # fmt: skip
ALGORITHMS = {
    "dqn": (dqn, {}),
    "c51": (c51, dict(num_atoms=11, v_min=-5.0, v_max=5.0)),
    "qr_dqn": (qr_dqn, dict(num_quantiles=4)),
    "iqn": (iqn, dict(num_tau=4, num_target_tau=3, num_act_tau=5, num_cosines=6)),
}


def agent_of(algo="dqn", **settings):
    module, own = ALGORITHMS[algo]
    return module.make(module.Config(**{**SETTINGS, **own, **settings}), SPEC)


def learner_of(algo="dqn", seed=1, **settings):
    """A learner whose two networks differ."""
    tf.keras.utils.set_random_seed(seed)
    learner = agent_of(algo, **settings).make_learner()
    for variable in learner.target.variables:
        variable.assign_add(tf.random.normal(variable.shape, stddev=0.3))
    return learner


def sequences(policy, seed=0, probability=None):
    """Sequences with every kind of row, by column: one episode, a termination, a truncation, padding, all at random."""
    rng = np.random.default_rng(seed)
    shape = (LENGTH, WIDTH)
    terminated, truncated, reset = (np.zeros(shape, bool) for _ in range(3))
    terminated[4, 1], reset[5, 1] = True, True
    truncated[5, 2], reset[6, 2] = True, True
    truncated[6, 3] = True
    terminated[1, 4], reset[2, 4], truncated[7, 4], reset[8, 4] = True, True, True, True
    valid = ~reset
    valid[7:, 3] = False  # padding up to the end
    is_first = np.zeros((LENGTH + 1, WIDTH), bool)
    is_first[1:] = terminated | reset
    is_first[0] = [True, False, False, False, False]
    state = policy.initial_state(WIDTH, {})
    state = tf.nest.map_structure(lambda x: rng.normal(size=x.shape).astype(np.float32), state)
    mask = (rng.random((LENGTH + 1, WIDTH, NUM_ACTIONS)) < 0.5).astype(np.float32)
    action = rng.integers(NUM_ACTIONS, size=shape).astype(np.int32)
    mask[..., 1] = 1.0
    np.put_along_axis(mask[:-1], action[..., None], 1.0, -1)  # what was done was allowed
    observation = rng.uniform(-1, 1, (LENGTH + 1, WIDTH, 2)).astype(np.float32)
    return Trajectory(
        obs={"observation": observation, "action_mask": mask},
        action=action,
        reward=np.where(valid, rng.normal(size=shape), 0.0).astype(np.float32),
        discount=np.where(terminated, 0.0, DISCOUNT).astype(np.float32),
        is_last=terminated | truncated | ~valid,
        valid=valid,
        is_first=is_first,
        discounted_return=np.zeros(shape, np.float32),
        state=tf.nest.map_structure(lambda x, f=is_first[0]: x * ~f[:, None], state),
        extras={},
        version=np.zeros(WIDTH, np.int64),
        is_new=np.ones(WIDTH, bool),
        probability=np.ones(WIDTH, np.float32) if probability is None else probability,
    )


def tensors(batch):
    return tf.nest.map_structure(tf.constant, batch)


def loss_of(learner, batch):
    """The loss of each row of sequences, of DQN."""
    config, batch = learner._config, tensors(batch)
    rows = q_steps.rows(config, learner.policy, learner.target, batch)
    return dqn.loss(config, learner.policy, learner.target, rows, SEED)


def by_hand(policy, batch):
    """Features of every observation [T + 1, B, F], one `step` after the other."""
    state, found = batch.state, []
    for t in range(LENGTH + 1):
        state = tf.nest.map_structure(lambda x, t=t: x * ~batch.is_first[t][:, None], state)
        obs = tf.nest.map_structure(lambda x, t=t: tf.constant(x[t]), batch.obs)
        features, state = policy.body.step(obs, state)
        found.append(features.numpy())
    return np.stack(found)


def rows_of(batch, burn_in=SETTINGS["burn_in"]):
    """valid of the rows of a loss: sequence by sequence."""
    return batch.valid[burn_in:].T.reshape(-1)


class UnrollTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(core=("lstm", "gru"), burn_in=(0, 1, 4, LENGTH - 1))
    def test_a_stored_state_and_burn_in_equal_a_hand_unroll(self, core, burn_in):
        policy = learner_of(core=core).policy
        batch = sequences(policy)
        out = policy.unroll(tensors(batch), burn_in)
        self.assertAllClose(out, by_hand(policy, batch)[burn_in:], rtol=1e-5, atol=1e-6)

    def test_the_stored_state_matters_where_the_episode_had_begun_before(self):
        policy = learner_of().policy
        batch = sequences(policy)
        zero = batch._replace(state=tf.nest.map_structure(np.zeros_like, batch.state))
        gap = np.abs(policy.unroll(tensors(batch), 2) - policy.unroll(tensors(zero), 2)).max(-1)
        self.assertAllEqual(gap[:, 0], np.zeros(LENGTH - 1))
        self.assertGreater(gap[0, 1:4].min(), 1e-4)  # the last column restarts in the burn-in
        self.assertAllEqual(gap[4:, 1], np.zeros(LENGTH - 5))  # a new episode

    def test_no_gradient_passes_through_the_burn_in(self):
        policy = learner_of().policy
        batch = tensors(sequences(policy))
        seen = batch.obs["observation"]
        for burn_in in (0, 3):
            with tf.GradientTape() as tape:
                tape.watch((seen, batch.state))
                total = tf.reduce_sum(policy.unroll(batch, burn_in)[-1])
            reached = tape.gradient(total, seen).numpy()[:, 0].any(-1)  # one episode
            self.assertAllEqual(reached, np.arange(LENGTH + 1) >= burn_in)


class LossTest(tf.test.TestCase, parameterized.TestCase):
    def expected(self, learner, batch, n, double, epsilon):
        """(loss, error) of each valid step after the burn-in, [b T'] and NaN elsewhere, step by step."""
        policies = (learner.policy, learner.target)
        features = [by_hand(p, batch) for p in policies]
        q = [[p.values(tf.constant(f[t]), {k: x[t] for k, x in batch.obs.items()}).numpy()
              for t in range(LENGTH + 1)]
             for p, f in zip(policies, features, strict=True)]  # fmt: skip
        total, product, steps = reference.n_step(
            batch.reward, batch.discount, batch.is_last, batch.valid, n
        )
        losses, errors = (np.full(batch.valid.shape, np.nan) for _ in range(2))
        for t, b in np.ndindex(*batch.valid.shape):
            if not batch.valid[t, b]:
                continue
            later = t + steps[t, b]
            best = np.argmax(q[0 if double else 1][later][b])
            bootstrap = float(q[1][later][b, best])
            if epsilon is None:
                target = total[t, b] + product[t, b] * bootstrap
            else:
                bootstrap = reference.unrescale(bootstrap, epsilon)
                target = reference.rescale(total[t, b] + product[t, b] * bootstrap, epsilon)
            errors[t, b] = q[0][t][b, batch.action[t, b]] - target
            losses[t, b] = reference.huber(errors[t, b], 1.0)
        is_last = lambda x: x[SETTINGS["burn_in"] :].T.reshape(-1)
        return is_last(losses), is_last(errors)

    @parameterized.parameters((1, True, None), (3, True, None), (3, False, 1e-2), (7, True, 1e-3))
    def test_equals_the_numpy_twin(self, n, double, epsilon):
        learner = learner_of(n_step=n, double=double, value_rescaling_epsilon=epsilon)
        batch = sequences(learner.policy, seed=n)
        out, valid = loss_of(learner, batch), rows_of(batch)
        loss, error = self.expected(learner, batch, n, double, epsilon)
        self.assertAllClose(out.loss.numpy()[valid], loss[valid], rtol=1e-4, atol=1e-5)
        self.assertAllClose(out.priority.numpy()[valid], np.abs(error[valid]), 1e-4, 1e-5)

    def test_priorities_and_the_weighted_mean(self):
        settings = dict(prioritized=True, priority_eta=0.7, priority_epsilon=0.5)
        learner = learner_of(importance_beta=0.6, **settings)
        probability = np.float32([1.0, 2.0, 8.0, 1.5, 4.0])
        batch = sequences(learner.policy, probability=probability)
        expected = loss_of(learner, batch)
        late = batch.valid[SETTINGS["burn_in"] :]
        loss, magnitude = (
            x.numpy().reshape(WIDTH, -1).T for x in (expected.loss, expected.priority)
        )
        out = learner.update(tensors(batch), SEED)
        self.assertAllClose(
            out.priorities, 0.5 + reference.sequence_priorities(magnitude, late, 0.7), 1e-5, 1e-6
        )
        weighted = (loss * probability**-0.6)[late].mean()
        self.assertAllClose(out.metrics["learner/loss"], weighted, 1e-5, 1e-6)
        self.assertAllClose(
            out.metrics["learner/td_error_abs_mean"], magnitude[late].mean(), 1e-5, 1e-6
        )

    @parameterized.parameters(*sorted(ALGORITHMS))
    def test_rows_that_are_not_valid_change_nothing(self, algo):
        """What is never read: rows after a termination, and padding behind the final observation."""
        outputs = []
        for changed in (False, True):
            learner = learner_of(algo, prioritized=True, core="gru")
            batch = sequences(learner.policy)
            if changed:
                unread = [(5, 1), (8, 3), (LENGTH, 3), (2, 4)]
                for t, b in unread:
                    batch.obs["observation"][t, b] = 0.77
                    batch.obs["action_mask"][t, b] = [0.0, 0.0, 1.0]
                for t, b in (*unread[:2], (2, 4), (6, 2), (7, 3), (8, 4)):
                    self.assertFalse(batch.valid[t, b])
                    batch.action[t, b] = 2
                    batch.reward[t, b] = 50.0
                    batch.discount[t, b] = 0.3
            out = learner.update(tensors(batch), SEED)
            weights = [v.numpy() for v in learner.policy.variables]
            metrics = {k: float(x) for k, x in out.metrics.items()}
            outputs.append((weights, out.priorities.numpy(), metrics))
        for a, b in zip(*map(tf.nest.flatten, outputs), strict=True):
            if algo == "c51":  # the mass of the distribution after a termination is 1 to rounding
                self.assertAllClose(a, b, 1e-6, 1e-6)
            else:
                self.assertAllEqual(a, b)

    @parameterized.parameters("dqn", "iqn")
    def test_an_update_learns_repeats_and_leaves_the_target_alone(self, algo):
        self.check_update(algo)

    @parameterized.parameters(*sorted(ALGORITHMS.keys() - {"dqn", "iqn"}))
    @pytest.mark.slow
    def test_an_update_of_the_others_learns_and_repeats(self, algo):
        self.check_update(algo)

    def check_update(self, algo):
        weights, losses = [], []
        for _ in range(2):
            learner = learner_of(algo, learning_rate=2e-2, double=False)
            before = [v.numpy() for v in learner.target.variables]
            batch = tensors(sequences(learner.policy))
            update = tf.function(learner.update, autograph=False)
            losses = [float(update(batch, SEED).metrics["learner/loss"]) for _ in range(12)]
            for old, new in zip(before, learner.target.variables, strict=True):
                self.assertAllEqual(old, new)
            weights.append([v.numpy() for v in learner.policy.variables])
        for a, b in zip(*weights, strict=True):
            self.assertAllClose(a, b, 1e-5, 1e-6)  # threads share sums, and not always alike
        self.assertLess(losses[-1], 0.98 * losses[0])  # a cross entropy keeps that of its target


class PlanTest(tf.test.TestCase, parameterized.TestCase):
    def test_settings_count_env_steps_and_the_replay_sequences(self):
        agent = agent_of(
            replay_capacity=1_000, min_replay=100, batch_size=8, env_steps_per_update=4,
            sequence_period=3, prioritized=True,
        )  # fmt: skip
        replay = agent.experience
        self.assertEqual(replay.item, Windows(LENGTH, DISCOUNT, period=3))
        self.assertTrue(replay.prioritized)
        self.assertEqual((replay.capacity_items, replay.min_items),
                         (333, 34))  # fmt: skip
        self.assertEqual(replay.samples_per_insert, 8 * 3 / 4)
        self.assertFalse(agent_of(prioritized=False).experience.prioritized)

    @parameterized.parameters(
        (dict(burn_in=9), "burn_in=9 with sequence_length=9: nothing would be left"),
        (dict(sequence_period=10), "sequence_period=10 with sequence_length=9"),
        (dict(n_step=8), "n_step=8 with sequence_length=9 and burn_in=2: expected at most 7"),
        (dict(core="lstn"), "core='lstn': expected one of .*did you mean lstm"),
        (dict(core="gtrxl", core_size=6), "core=gtrxl with 6 units and 4 heads"),
        (dict(priority_eta=1.5), "priority_eta=1.5: expected at most 1"),
        (dict(value_rescaling_epsilon=0.0), "value_rescaling_epsilon=0.0: expected more than 0"),
        (
            dict(replay_capacity=90, min_replay=60, batch_size=32),
            "replay_capacity=90 with core=lstm and sequence_period=3: .* at least 96",
        ),
        (
            dict(replay_residency="learner", backend="processes"),
            "replay_residency=learner with algo=dqn and backend=processes: expected server or auto",
        ),
        (
            dict(num_learner_devices=2),
            "batch_size=5 with 2 learner devices: expected a multiple of",
        ),
    )
    def test_what_cannot_be_used_is_refused_in_one_line(self, settings, message):
        with self.assertRaisesRegex(SettingError, message) as caught:
            env = "tfrl.envs.memory:RepeatPrevious"
            plan_run(make_job("dqn", **{**SETTINGS, "env": env, **settings}))
        self.assertNotIn("\n", str(caught.exception))

    def test_they_live_beside_the_learner_and_the_start_says_what_a_batch_is(self):
        settings = {**SETTINGS, "env": "tfrl.envs.memory:RepeatPrevious", "updates_per_call": 4}
        run_plan = plan_run(make_job("dqn", **settings))
        self.assertEqual((run_plan.residency, run_plan.queue), ("learner", None))
        self.assertRegex(
            run_plan.residency_line, r"replay: learner \(it takes \d+ MB of [\d,]+ MB free\)"
        )
        processes = plan_run(make_job("dqn", **settings, backend="processes"))
        self.assertEqual((processes.residency, processes.residency_line), ("server", ""))
        frames = dict(env="ALE/Pong-v5", core="lstm", core_size=4)
        line = plan_run(make_job("dqn", **frames)).residency_line
        self.assertEqual(line, "replay: server (sequences of stacked frames need a server)")
        with self.assertRaisesRegex(SettingError, "=learner .*, not sequences of stacked frames"):
            plan_run(make_job("dqn", **frames, replay_residency="learner"))
        self.assertEqual(run_plan.env_steps_per_call, 16)
        self.assertEqual(
            run_plan.arithmetic,
            "16 env steps -> 4 updates of 5 sequences of 9 steps, 3.75 samples per insert, "
            "starting at 334 sequences",
        )


if __name__ == "__main__":
    tf.test.main()
