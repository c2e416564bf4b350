"""The contract between an algorithm and the runtime: what cannot be is refused when it is made, by name."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

import tensorflow as tf
from absl.testing import absltest, parameterized

import tfrl
from tfrl.agent import (
    Agent,
    Episodes,
    Learner,
    Network,
    NStep,
    Queue,
    Replay,
    Unroll,
    Windows,
    check_learner,
    check_policy,
)
from tfrl.algos.parts.q_policy import QPolicy
from tfrl.errors import SettingError

REPLAY = Replay(
    NStep(3, 0.9), capacity_items=100, min_items=10, samples_per_insert=8.0, batch_size=4
)
QUEUE = Queue(Unroll(5, 0.9), capacity_items=4)


def agent(experience, **changes):
    return Agent(
        lambda: None, lambda: None, experience, lambda place, env_steps, facts: {}, **changes
    )


class NetworkTest(parameterized.TestCase):
    def test_kernels_are_in_the_order_of_the_layers(self):
        """`tf.Module` gives the last layer of a Keras model first."""
        layers = [tf.keras.layers.Dense(n) for n in (5, 4, 3)]
        model = tf.keras.Sequential(layers)
        model(tf.zeros([1, 6]))
        owner = tf.Module()
        owner.model = model
        self.assertEqual(owner.trainable_variables[0].shape[-1], 3)
        network = Network("q", owner.trainable_variables, "any")
        self.assertEqual([k.shape for k in network.kernels], [(6, 5), (5, 4), (4, 3)])
        self.assertEqual([k.shape for k in network.hidden_kernels], [(6, 5), (5, 4)])

    def test_hidden_kernels_are_those_that_are_no_outputs(self):
        a, b, c, bias = (tf.Variable(tf.zeros(s)) for s in ([2, 3], [3, 1], [3, 2], [2]))
        network = Network("q", [c, bias, a, b], "any", outputs=[b, c])
        self.assertLen(network.hidden_kernels, 1)
        self.assertIs(network.hidden_kernels[0], a)

    @parameterized.parameters(1, 2)
    def test_outputs_must_be_kernels_of_the_network(self, place):
        mine = [tf.Variable(tf.zeros([2, 2])), tf.Variable(tf.zeros([2]))]
        learner = Learner()
        outputs = [[*mine, tf.Variable(tf.zeros([2, 2]))][place]]
        learner.networks = lambda: (Network("q", mine, "any", outputs=outputs),)
        with self.assertRaisesRegex(
            SettingError, "network 'q': expected outputs among its kernels"
        ):
            check_learner(learner)


class ItemTest(parameterized.TestCase):
    @parameterized.parameters(
        (lambda: NStep(0, 0.9), "NStep.n=0: expected at least 1"),
        (lambda: NStep(1, 0.9, -1), "NStep.relabels=-1: expected at least 0"),
        (lambda: NStep(1, 1.1), "NStep.discount=1.1: expected a number from 0 to 1"),
        (lambda: Unroll(0, 0.9), "Unroll.length=0: expected at least 1"),
        (lambda: Unroll(5, -0.1), "Unroll.discount=-0.1: expected a number from 0 to 1"),
        (lambda: Windows(0, 0.9, 4), "Windows.length=0: expected at least 1"),
        (lambda: Windows(4, 0.9, 0), "Windows.period=0: expected at least 1"),
        (lambda: Windows(4, float("nan"), 1), "Windows.discount=nan: expected a number"),
        (lambda: Episodes(0, 0.9, 1), "Episodes.length=0: expected at least 1"),
        (lambda: Episodes(5, 0.9, 0), "Episodes.count=0: expected at least 1"),
        (lambda: Episodes(5, 2.0, 1), "Episodes.discount=2.0: expected a number from 0 to 1"),
    )
    def test_refused(self, make, message):
        with self.assertRaisesRegex(SettingError, message):
            make()

    @parameterized.parameters(
        (NStep(3, 0.9), 1),
        (NStep(3, 0.9, 4), 0.2),
        (Unroll(5, 0.9), 20),
        (Windows(6, 0.9, 4), 4),
        (Episodes(5, 0.9, 3), 15),
    )
    def test_env_steps_that_make_one_more(self, item, expected):
        self.assertEqual(item.env_steps(num_envs=4), expected)


class ExperienceTest(parameterized.TestCase):
    @parameterized.parameters(
        (
            dict(item=Unroll(5, 0.9)),
            r"Replay.item=Unroll\(.*: expected NStep or Windows or Episodes",
        ),
        (
            dict(item=Episodes(5, 0.9, 2)),
            r"Replay.item=Episodes\(.*: expected Episodes with count=1",
        ),
        (dict(capacity_items=0), "Replay.capacity_items=0: expected at least 1"),
        (dict(min_items=-1), "Replay.min_items=-1: expected at least 0"),
        (dict(min_items=101), "Replay.min_items=101: expected at most capacity_items=100"),
        (dict(samples_per_insert=0.0), "Replay.samples_per_insert=0.0: expected more than 0"),
        (dict(batch_size=0), "Replay.batch_size=0: expected at least 1"),
        (dict(updates_per_call=0), "Replay.updates_per_call=0: expected at least 1"),
        (dict(priority_exponent=-0.1), "Replay.priority_exponent=-0.1: expected at least 0"),
    )
    def test_of_a_replay(self, changes, message):
        with self.assertRaisesRegex(SettingError, message):
            dataclasses.replace(REPLAY, **changes)

    @parameterized.parameters(
        (dict(item=NStep(1, 0.9)), r"Queue.item=NStep\(.*: expected Unroll or Episodes"),
        (dict(item=Windows(5, 0.9, 1)), r"Queue.item=Windows\(.*: expected Unroll or Episodes"),
        (dict(capacity_items=0), "Queue.capacity_items=0: expected at least 1"),
        (dict(batch_items=-1), "Queue.batch_items=-1: expected at least 0"),
        (dict(batch_env_steps=-1), "Queue.batch_env_steps=-1: expected at least 0"),
        (dict(batch_items=2, batch_env_steps=9), "Queue.batch_items=2: expected 0 with batch_env"),
        (dict(epochs=0), "Queue.epochs=0: expected at least 1"),
        (dict(minibatches=0), "Queue.minibatches=0: expected at least 1"),
        (dict(passes=0), "Queue.passes=0: expected at least 1"),
        (dict(pass_buffer_batches=0), "Queue.pass_buffer_batches=0: expected at least 1"),
        (dict(pass_buffer_batches=2), "Queue.pass_buffer_batches=2: expected 1 with passes=1"),
        (dict(replay_proportion=-0.5), "Queue.replay_proportion=-0.5: expected at least 0"),
        (dict(replay_proportion=0.5), "Queue.replay_items=0: expected at least 1 with replay_prop"),
        (dict(replay_items=-1), "Queue.replay_items=-1: expected at least 0"),
    )
    def test_of_a_queue(self, changes, message):
        with self.assertRaisesRegex(SettingError, message):
            dataclasses.replace(QUEUE, **changes)

    def test_a_field_of_the_other_kind_is_none(self):
        with self.assertRaises(TypeError):
            dataclasses.replace(REPLAY, epochs=2)
        with self.assertRaises(TypeError):
            dataclasses.replace(QUEUE, batch_size=2)

    def test_updates_of_a_call(self):
        self.assertEqual(dataclasses.replace(REPLAY, updates_per_call=7).updates_per_call, 7)
        self.assertEqual(dataclasses.replace(QUEUE, epochs=3, minibatches=2).updates_per_call, 6)

    def test_prioritised(self):
        self.assertFalse(REPLAY.prioritized)
        self.assertTrue(dataclasses.replace(REPLAY, priority_exponent=0.0).prioritized)


class Fitting:
    def initial_state(self, batch_size, noise=()):
        return ()

    def step(self, *arguments):
        raise NotImplementedError


class PolicyTest(absltest.TestCase):
    def test_refused(self):
        check_policy(Fitting())
        for name, method, message in (
            ("initial_state", lambda self, batch_size: (), r"initial_state\(batch_size\): "),
            ("initial_state", lambda self: (), r"initial_state\(\): "),
            ("initial_state", None, "initial_state is no method; "),
            ("step", lambda self, obs, state, explore: (), r"step\(obs, state, explore\): "),
        ):
            expected = r"expected (initial_state\(batch_size, noise|step\(obs, state, knobs, noise, explore)\)"
            with (
                mock.patch.object(Fitting, name, method),
                self.assertRaisesRegex(SettingError, f"policy Fitting: {message}{expected}"),
            ):
                check_policy(Fitting())

    def test_refused_before_anything_starts(self):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        with (
            mock.patch.object(QPolicy, "initial_state", lambda self, batch_size: ()),
            self.assertRaisesRegex(SettingError, r"policy QPolicy: initial_state\(batch_size\): "),
        ):
            tfrl.train("dqn", env="CartPole-v1", run_dir=str(run_dir))
        self.assertFalse(run_dir.exists())


class AgentTest(parameterized.TestCase):
    @parameterized.parameters(
        ("prioritized", {}, "Agent.experience='prioritized': expected a Replay or a Queue"),
        (QUEUE, dict(updates_per_publish=0), "Agent.updates_per_publish=0: expected at least 1"),
        (REPLAY, dict(actor_compute=lambda *of: {}), "expected a Queue with actor_compute"),
        (REPLAY, dict(initial_priority=max), "expected a prioritised Replay of NStep"),
        (
            dataclasses.replace(REPLAY, item=NStep(3, 0.9, 1), priority_exponent=1.0),
            dict(initial_priority=max),
            "items without relabels",
        ),
        (QUEUE, dict(initial_priority=max), "expected a prioritised Replay of NStep"),
    )
    def test_refused(self, experience, changes, message):
        with self.assertRaisesRegex(SettingError, message):
            agent(experience, **changes)

    def test_what_fits(self):
        prioritised = dataclasses.replace(REPLAY, priority_exponent=0.6)
        self.assertIs(agent(prioritised, initial_priority=max).initial_priority, max)
        self.assertIs(agent(QUEUE, actor_compute=max).actor_compute, max)


if __name__ == "__main__":
    absltest.main()
