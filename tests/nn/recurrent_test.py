"""Recurrent cores: the unroll against a loop of steps, the formulas, and what an episode start forgets."""

import pathlib
import tempfile

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tfrl.errors import SettingError
from tfrl.nn import recurrent
from tfrl.runtime.acting.inference import FunctionEngine, LiteEngine, StepSignature
from tfrl.runtime.serving.export import export
from tfrl.testing import reference
from tfrl.types import EnvSpec, PolicyStep

F, H, M = 5, 8, 3


def core_of(kind, seed=1):
    tf.keras.utils.set_random_seed(seed)
    core = recurrent.make(kind, F, units=H, memory_length=M, num_layers=2, num_heads=2)
    for (
        variable
    ) in core.variables:  # biases and positions would hide mistakes at their start of zero
        variable.assign_add(0.1 * tf.random.normal(variable.shape))
    return core


def inputs_of(steps, batch, seed=0):
    rng = np.random.default_rng(seed)
    return tf.constant(rng.normal(size=(steps, batch, F)), tf.float32)


def rows(mask, yes, no):
    return tf.where(tf.reshape(mask, [-1] + [1] * (no.shape.rank - 1)), yes, no)


def step_loop(core, x, state, is_first):
    """The definition of `unroll`: one step at a time."""
    initial, outs = core.initial_state(x.shape[1]), []
    for t in range(x.shape[0]):
        state = tuple(rows(is_first[t], i, s) for i, s in zip(initial, state, strict=True))
        out, state = core.step(x[t], state)
        outs.append(out)
    return tf.stack(outs), state


def unroll(core, x, state, is_first):
    return core.unroll(x, state, is_first)


def of_unknown_lengths(core, run):
    """`run` of inputs, state and starts of episodes, traced once for all numbers of steps and rows."""
    signature = [
        tf.TensorSpec([None, None, F]),
        tuple(tf.TensorSpec([None, *s.shape[1:]]) for s in core.initial_state(1)),
        tf.TensorSpec([None, None], tf.bool),
    ]
    return tf.function(run, input_signature=signature, autograph=False)


def with_gradients(run, core, x, state, is_first):
    """Outputs, states and the gradients of a function of all of them."""
    with tf.GradientTape() as tape:
        tape.watch((x, state))
        out, last = run(core, x, state, is_first)
        loss = tf.reduce_sum(tf.sin(3.0 * out))
        for s in last:
            if s.shape.rank > 1:  # not the count of a memory: an integer in nature
                loss += tf.reduce_sum(tf.sin(2.0 * s))
    sources = [x, *(s for s in state if s.shape.rank > 1), *core.trainable_variables]
    gradients = tape.gradient(loss, sources)
    assert all(g is not None for g in gradients), "a source has no gradient"
    return (out, *last), gradients


class UnrollTest(tf.test.TestCase, parameterized.TestCase):
    def check(self, core, x, state, is_first, wrap=lambda fn: fn):
        expected, slopes = with_gradients(step_loop, core, x, state, is_first)
        actual, found = wrap(lambda: with_gradients(unroll, core, x, state, is_first))()
        self.assertAllClose(actual, expected, rtol=1e-5, atol=1e-5)
        self.assertAllClose(found, slopes, rtol=1e-5, atol=3e-5)
        for slope in slopes:
            self.assertGreater(float(tf.reduce_max(tf.abs(slope))), 1e-3)

    def warm_state(self, core, batch, steps=2):
        """A state after some steps; one of its rows has just begun."""
        is_first = np.zeros((steps, batch), bool)
        is_first[-1, 0] = True
        _, state = step_loop(
            core, inputs_of(steps, batch, seed=7), core.initial_state(batch), is_first
        )
        return state

    @parameterized.named_parameters(
        (f"{kind}_{mode}", kind, wrap)
        for kind in recurrent.KINDS
        for mode, wrap in {
            "eager": lambda fn: fn,
            "graph": lambda fn: tf.function(fn, autograph=False),
            "xla": lambda fn: tf.function(fn, autograph=False, jit_compile=True),
        }.items()
    )
    def test_equals_a_loop_of_steps(self, kind, wrap):
        core, steps, batch = core_of(kind), 11, 4
        is_first = np.random.default_rng(3).random((steps, batch)) < 0.2
        is_first[:, 1] = False  # a row without a start, longer than the memory
        is_first[0, 2] = is_first[-1, 3] = True
        state = self.warm_state(core, batch)
        self.check(core, inputs_of(steps, batch), state, tf.constant(is_first), wrap)

    @parameterized.product(kind=recurrent.KINDS, steps=(1, 2, M, M + 1))
    def test_short_unrolls(self, kind, steps):
        core, batch = core_of(kind), 3
        is_first = np.zeros((steps, batch), bool)
        is_first[steps // 2, 1] = True
        self.check(
            core, inputs_of(steps, batch), self.warm_state(core, batch), tf.constant(is_first)
        )

    @parameterized.parameters(*recurrent.KINDS)
    def test_two_halves_equal_the_whole(self, kind):
        core, steps, batch = core_of(kind), 10, 3
        x, is_first = inputs_of(steps, batch), np.zeros((steps, batch), bool)
        is_first[[2, 5, 7], [0, 1, 1]] = True
        whole, last = core.unroll(x, core.initial_state(batch), is_first)
        first, state = core.unroll(x[:5], core.initial_state(batch), is_first[:5])
        second, state = core.unroll(x[5:], state, is_first[5:])
        self.assertAllClose(tf.concat([first, second], 0), whole, atol=1e-5)
        self.assertAllClose(state, last, atol=1e-5)

    @parameterized.parameters(*recurrent.KINDS)
    def test_a_fresh_row_knows_nothing_of_before(self, kind):
        core, steps = core_of(kind), 6
        x, is_first = inputs_of(steps, 2), np.zeros((steps, 2), bool)
        is_first[3, 0] = True
        other = tf.concat([inputs_of(3, 2, seed=9), x[3:]], 0)
        a, last_a = core.unroll(x, core.initial_state(2), is_first)
        b, last_b = core.unroll(other, core.initial_state(2), is_first)
        self.assertAllEqual(a[3:, 0], b[3:, 0])
        for s, r in zip(last_a, last_b, strict=True):
            self.assertAllEqual(s[0], r[0])
        self.assertGreater(float(tf.reduce_min(tf.reduce_sum(tf.abs(a - b)[3:, 1], -1))), 1e-4)
        alone, _ = core.unroll(x[3:, :1], core.initial_state(1), np.zeros((3, 1), bool))
        self.assertAllClose(a[3:, :1], alone, atol=1e-5)

    @parameterized.parameters(*recurrent.KINDS)
    def test_lengths_may_be_unknown(self, kind):
        core = core_of(kind)
        traced = of_unknown_lengths(core, core.unroll)
        for steps, batch in ((1, 2), (4, 3), (7, 1)):
            x, state = inputs_of(steps, batch), core.initial_state(batch)
            is_first = np.zeros((steps, batch), bool)
            self.assertAllClose(
                traced(x, state, is_first), core.unroll(x, state, is_first), rtol=1e-5, atol=1e-5
            )

    @parameterized.parameters(*recurrent.KINDS)
    def test_gradients_where_lengths_are_unknown(self, kind):
        core = core_of(kind)
        traced = of_unknown_lengths(core, lambda *args: with_gradients(unroll, core, *args))
        for steps, batch in ((1, 2), (5, 3), (7, 1)):
            is_first = np.zeros((steps, batch), bool)
            is_first[steps // 2, 0] = True
            args = inputs_of(steps, batch), self.warm_state(core, batch), tf.constant(is_first)
            expected = with_gradients(step_loop, core, *args)
            self.assertAllClose(traced(*args)[1], expected[1], rtol=1e-5, atol=3e-5)

    @parameterized.parameters(*recurrent.KINDS)
    def test_wrong_shapes(self, kind):
        core = core_of(kind)
        with self.assertRaisesRegex(ValueError, r"is_first \[T, B\], got \(4, 3, 5\) and \(3, 4\)"):
            core.unroll(inputs_of(4, 3), core.initial_state(3), np.zeros((3, 4), bool))


class FormulaTest(tf.test.TestCase):
    def variables(self, core):
        return {v.name.split(":")[0].split("/")[-1]: v.numpy() for v in core.variables}

    def test_lstm_is_that_of_keras(self):
        core, v = core_of("lstm"), self.variables(core_of("lstm"))
        cell = tf.keras.layers.LSTMCell(H)
        cell.build([None, F])
        cell.set_weights([v["kernel"], v["recurrent_kernel"], v["bias"]])
        x, state = inputs_of(1, 3)[0], (tf.random.normal([3, H]), tf.random.normal([3, H]))
        self.assertAllClose(core.step(x, state), tuple(cell(x, state)), atol=1e-6)

    def test_gru_is_that_of_keras(self):
        core, v = core_of("gru"), self.variables(core_of("gru"))
        cell = tf.keras.layers.GRUCell(H, reset_after=True)
        cell.build([None, F])
        cell.set_weights(
            [v["kernel"], v["recurrent_kernel"], np.stack([v["bias"], 0.0 * v["bias"]])]
        )
        x, state = inputs_of(1, 3)[0], tf.random.normal([3, H])
        out, (last,) = core.step(x, (state,))
        self.assertAllClose(out, cell(x, [state])[0], atol=1e-6)
        self.assertAllEqual(out, last)

    def test_gtrxl_equals_its_twin(self):
        core, steps, batch = core_of("gtrxl"), 9, 2
        x = inputs_of(steps, batch)
        out, (memory, count) = core.unroll(
            x, core.initial_state(batch), np.zeros((steps, batch), bool)
        )
        named = {v.name.split(":")[0].split("/", 1)[1]: v.numpy() for v in core.variables}
        self.assertLen(named, len(core.variables))
        for b in range(batch):
            expected, layers = reference.gated_transformer(named, x[:, b].numpy(), 2, 2, M)
            self.assertAllClose(out[:, b], expected, atol=1e-5)
            self.assertAllClose(memory[b], [layer[-M:] for layer in layers], atol=1e-5)
        self.assertAllEqual(count, [M, M])

    def test_initial_values(self):
        tf.keras.utils.set_random_seed(0)
        core = recurrent.make("lstm", F, units=H)
        self.assertAllEqual(self.variables(core)["bias"], [0.0] * H + [1.0] * H + [0.0] * 2 * H)
        for kind in ("lstm", "gru"):
            kernel = self.variables(recurrent.make(kind, F, units=H))["recurrent_kernel"]
            for gate in np.split(kernel, kernel.shape[1] // H, axis=1):
                self.assertAllClose(gate.T @ gate, np.eye(H), atol=1e-5)

    def test_layers_of_a_gtrxl_start_near_the_identity(self):
        tf.keras.utils.set_random_seed(0)
        core = recurrent.make("gtrxl", F, units=64, num_layers=2)
        x = inputs_of(20, 4)
        out, (memory, _) = core.unroll(x, core.initial_state(4), np.zeros((20, 4), bool))
        embedding = memory[:, 0, -1]  # what entered the first layer at the last step
        cosine = tf.reduce_sum(embedding * out[-1], -1) / (
            tf.norm(embedding, axis=-1) * tf.norm(out[-1], axis=-1)
        )
        self.assertAllGreater(cosine, 0.7)


class MemoryTest(tf.test.TestCase):
    def test_a_layer_sees_m_steps_back_and_no_more(self):
        tf.keras.utils.set_random_seed(0)
        core = recurrent.make("gtrxl", F, units=H, memory_length=M, num_layers=1, num_heads=2)
        x, is_first = inputs_of(8, 1), np.zeros((8, 1), bool)
        with tf.GradientTape() as tape:
            tape.watch(x)
            out, _ = core.unroll(x, core.initial_state(1), is_first)
            last = tf.reduce_sum(out[-1] ** 2)
        slope = tf.reduce_sum(tf.abs(tape.gradient(last, x)), axis=(1, 2)).numpy()
        self.assertAllEqual(slope > 1e-6, [False] * (7 - M) + [True] * (M + 1))

    def test_the_count_grows_to_m_and_restarts(self):
        core, counts = core_of("gtrxl"), []
        state = core.initial_state(1)
        for _ in range(M + 2):
            _, state = core.step(inputs_of(1, 1)[0], state)
            counts.append(float(state[1][0]))
        self.assertEqual(counts, [1, 2, 3, 3, 3])
        is_first = np.zeros((5, 2), bool)
        is_first[3, 0] = True
        _, (memory, count) = core.unroll(inputs_of(5, 2), core.initial_state(2), is_first)
        self.assertAllEqual(count, [2, 3])
        self.assertAllEqual(memory[0, :, 0], tf.zeros([2, H]))


class MakeTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(*recurrent.KINDS)
    def test_interface(self, kind):
        core = recurrent.make(kind, F, units=12)
        self.assertEqual(core.output_size, 12)
        state = core.initial_state(3)
        for leaf in state:
            self.assertEqual((leaf.dtype, leaf.shape[0]), (tf.float32, 3))
            self.assertAllEqual(leaf, tf.zeros_like(leaf))
        out, following = core.step(tf.ones([3, F]), state)
        self.assertEqual(out.shape, (3, 12))
        self.assertEqual([s.shape for s in following], [s.shape for s in state])

    def test_refusals(self):
        with self.assertRaisesRegex(SettingError, "core='lsmt': expected one of lstm, .*lstm"):
            recurrent.make("lsmt", F)
        with self.assertRaisesRegex(SettingError, "multiple of the number of heads"):
            recurrent.make("gtrxl", F, units=10, num_heads=4)
        with self.assertRaisesRegex(SettingError, "memory of 1 step or more"):
            recurrent.make("gtrxl", F, memory_length=0)


class RecurrentPolicy(tf.Module):
    """Acts by the largest output of a core."""

    def __init__(self, kind):
        super().__init__()
        self._core, self.noise = core_of(kind), {}

    def initial_state(self, batch_size, noise):
        return self._core.initial_state(batch_size)

    def step(self, obs, state, knobs, noise, explore):
        out, state = self._core.step(obs, state)
        return PolicyStep(tf.argmax(out, 1, tf.int32), state, {"out": out})


class ActingTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(kind=recurrent.KINDS, batch=(1, 3))
    def test_lite_carries_the_same_state(self, kind, batch):
        policy = RecurrentPolicy(kind)
        box = gym.spaces.Box(-9, 9, (F,), np.float32)
        signature = StepSignature(
            policy, EnvSpec("e", box, gym.spaces.Discrete(H)), batch, [], True
        )
        engines = [FunctionEngine(policy, signature), LiteEngine(policy, signature)]
        states = [tuple(s.numpy() for s in policy.initial_state(batch, {}))] * 2
        for t in range(M + 3):
            x = inputs_of(1, batch, seed=t)[0].numpy()
            steps = [e.act(x, s, {}, {}) for e, s in zip(engines, states, strict=True)]
            self.assertAllClose(steps[0].extras["out"], steps[1].extras["out"], atol=1e-5)
            self.assertAllClose(steps[0].state, steps[1].state, atol=1e-5)
            states = [s.state for s in steps]

    @parameterized.parameters(*recurrent.KINDS)
    def test_an_export_takes_any_batch(self, kind):
        policy = RecurrentPolicy(kind)
        box = gym.spaces.Box(-9, 9, (F,), np.float32)
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "export"
        export(policy, EnvSpec("e", box, gym.spaces.Discrete(H)), folder, lite=True)
        loaded = tf.saved_model.load(str(folder))
        for batch in (1, 3):
            state, expected = loaded.initial_state(batch), policy.initial_state(batch, {})
            for t in range(M + 2):
                x = inputs_of(1, batch, seed=t)[0]
                out = loaded.act(x, state)
                action, expected, _ = policy.step(x, expected, {}, {}, False)
                state = out["state"]
                self.assertAllEqual(out["action"], action)
                self.assertAllClose(state, expected, atol=1e-5)
        self.assertTrue((folder / "policy.tflite").exists())


class LearningTest(tf.test.TestCase, parameterized.TestCase):
    def test_learns_to_recall_the_first_symbol(self):
        self.check_recall("gtrxl")

    @parameterized.parameters(*(kind for kind in recurrent.KINDS if kind != "gtrxl"))
    @pytest.mark.slow
    def test_others_learn_to_recall_the_first_symbol(self, kind):
        self.check_recall(kind)

    def check_recall(self, kind):
        """Through 10 distractors; without a memory the accuracy is 1 / 4."""
        tf.keras.utils.set_random_seed(0)
        symbols, steps, batch = 4, 12, 32
        core = recurrent.make(kind, symbols + 1, units=32, memory_length=16, num_layers=1)
        head = tf.keras.layers.Dense(symbols)
        head.build([None, 32])
        variables = [*core.trainable_variables, *head.trainable_variables]
        optimizer = tf.keras.optimizers.Adam(1e-2)
        optimizer.build(variables)

        def step(x, cue, learn):
            with tf.GradientTape() as tape:
                is_first = tf.zeros([steps, batch], tf.bool)
                out, _ = core.unroll(x, core.initial_state(batch), is_first)
                logits = head(out[-1])
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(cue, logits))
            if learn:
                gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), 1.0)
                optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), cue), tf.float32))

        traced = {learn: tf.function(step, autograph=False) for learn in (True, False)}
        rng = np.random.default_rng(0)

        def run(learn):
            shown = rng.integers(symbols, size=(steps, batch))
            shown[-1] = symbols  # the question
            x = np.eye(symbols + 1, dtype=np.float32)[shown]
            return float(traced[learn](tf.constant(x), tf.constant(shown[0]), learn))

        self.assertLess(np.mean([run(False) for _ in range(10)]), 0.5)
        for _ in range(400):
            run(True)
        self.assertGreater(np.mean([run(False) for _ in range(10)]), 0.95)
