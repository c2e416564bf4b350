"""A second step on the same batch every so many updates: how often, on what, and the same in every loop of a run."""

import dataclasses
import pathlib
import re
import tempfile

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.agent import Delayed, Learner, Network, Periodic, check_learner
from tfrl.errors import SettingError
from tfrl.logs import csv_file
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.transitions import TransitionLayout
from tfrl.replay.write_chunks import Chunk
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.runtime.storage import checkpoint_files
from tfrl.testing import algorithm_checks, conformance, delayed, replicas
from tfrl.types import EnvSpec

SPEC = EnvSpec("box", gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(4))
ITEMS = 90
KINDS = ("uniform", "prioritized", "queue", "beside the learner")


def loop_of(kind, mode="graph", strategy=None, **settings):
    """A loop and the samples of its calls."""
    beside = kind == "beside the learner"
    kind = "prioritized" if beside else kind
    agent = delayed.make(delayed.Config(kind=kind, **settings), SPEC)
    if not beside:
        samples = [conformance.block(agent, SPEC, seed) for seed in range(5)]
        return conformance.loop(agent, SPEC, mode, strategy), samples
    layout = TransitionLayout(SPEC, True)
    replay = LearnerReplay(agent.experience, layout, seed=5)
    rows = conformance.samples(agent, SPEC, ITEMS, 0).columns["packed"].numpy()
    none = np.zeros((0, 0, 0), np.uint8), np.zeros((ITEMS, 0), np.int64)
    replay.insert(Chunk(rows, *none, np.int64(0), np.int64(0)))
    strategy = strategy or tf.distribute.get_strategy()
    loop = LearnerLoop(agent, layout, strategy, mode, seed=7, learner_replay=replay)
    return loop, [replay] * 5


class DelayedTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(*((kind, 3) for kind in KINDS), ("uniform", 1), ("queue", 7))
    def test_it_follows_every_so_many_updates_on_their_batch(self, kind, every):
        loop, samples = loop_of(kind, delayed_every_updates=every)
        learner, last = loop.learner, 0
        for call, block in enumerate(samples, 1):
            before = [v.numpy() for v in learner.second.variables]
            metrics, _ = loop.run(block)
            made = call * 4  # two epochs of two minibatches are four updates too
            self.assertEqual(int(loop.updates), made)
            self.assertEqual(int(learner.steps), made // every)
            self.assertEqual(int(learner.same), made // every)
            self.assertNotIn("delayed_steps", metrics)
            due = [update for update in range(last + 1, made + 1) if update % every == 0]
            last = made
            moved = conformance.apart(before, [v.numpy() for v in learner.second.variables])
            self.assertEqual(moved > 0, bool(due))
            self.assertEqual("learner/delayed_loss" in metrics, bool(due))
            if due:  # the mean over the steps made, not over all updates
                self.assertAllClose(metrics["learner/delayed_at_updates"], np.mean(due))
                self.assertGreater(float(metrics["learner/delayed_loss"]), 0.0)

    @parameterized.parameters(("prioritized",))
    def test_graph_xla_eager_and_two_devices_agree(self, kind):
        self.check_agreement(kind)

    @parameterized.parameters("uniform", "beside the learner", "queue")
    @pytest.mark.slow
    def test_graph_xla_eager_and_two_devices_agree_with_other_replays(self, kind):
        self.check_agreement(kind)

    def check_agreement(self, kind):
        def trained(**how):
            loop, samples = loop_of(kind, **how)
            metrics = [loop.run(block)[0] for block in samples]
            return loop, metrics

        graph, expected = trained()
        others = [trained(mode="xla"), trained(strategy=replicas.two_cpus(), mode="auto")]
        tf.config.run_functions_eagerly(True)
        self.addCleanup(tf.config.run_functions_eagerly, False)
        others.append(trained())
        for loop, metrics in others:
            gap = conformance.apart(conformance.values(graph), conformance.values(loop))
            self.assertLess(gap, 2e-6)
            self.assertEqual(loop.learner.same.numpy(), 20 // 3)
            for mine, theirs in zip(expected, metrics, strict=True):
                self.assertAllClose(mine, theirs, rtol=1e-4, atol=1e-6)

    @parameterized.parameters("prioritized", "queue")
    def test_it_passes_checks_of_every_algorithm(self, kind):
        agent = delayed.make(delayed.Config(kind=kind), SPEC)
        subject = algorithm_checks.Subject("delayed", delayed, agent, SPEC)
        algorithm_checks.save_and_restore_continue_exactly(subject)
        algorithm_checks.networks_have_every_variable_once(subject)

    def test_its_seed_is_not_that_of_an_update(self):
        seen = []
        agent = delayed.make(delayed.Config(delayed_every_updates=2), SPEC)

        class Spying(delayed.DelayedLearner):
            def update(self, batch, seed):
                tf.numpy_function(lambda x: seen.append(x.tolist()), [seed], [])
                return super().update(batch, seed)

            def delayed(self):
                every, fn = super().delayed()

                def spy(batch, seed):
                    tf.numpy_function(lambda x: seen.append(x.tolist()), [seed], [])
                    return fn(batch, seed)

                return Delayed(every, spy)

        make = lambda: Spying(delayed.Config(delayed_every_updates=2), SPEC)
        loop = conformance.loop(dataclasses.replace(agent, make_learner=make), SPEC)
        loop.run(conformance.block(agent, SPEC, 0))
        last = 2**31 - 1
        expected = [[7, 0], [7, 1], [7, last - 1], [7, 2], [7, 3], [7, last - 3]]
        self.assertCountEqual(seen, expected)

    def test_periodic_work_comes_after_it(self):
        order = []
        agent = delayed.make(delayed.Config(delayed_every_updates=2), SPEC)

        class Ordered(delayed.DelayedLearner):
            def periodic(self):
                note = lambda steps: order.append(int(steps))
                return (Periodic(2, lambda: tf.numpy_function(note, [self.steps], [])),)

        make = lambda: Ordered(delayed.Config(delayed_every_updates=2), SPEC)
        loop = conformance.loop(dataclasses.replace(agent, make_learner=make), SPEC)
        loop.run(conformance.block(agent, SPEC, 0))
        self.assertEqual(order, [1, 2])

    @parameterized.parameters(
        dict(kind="prioritized", replay_residency="learner"),
        dict(kind="queue", replay_residency="server"),
    )
    def test_whole_runs_make_it(self, **settings):
        self.check_run(**settings)

    @parameterized.parameters(
        dict(kind="uniform", replay_residency="server"),
        dict(kind="queue", replay_residency="learner"),
    )
    @pytest.mark.slow
    def test_whole_runs_with_the_other_residency_make_it(self, **settings):
        self.check_run(**settings)

    def check_run(self, **settings):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        result = tfrl.train(
            "tfrl.testing.delayed", env="tfrl.testing.fakes:IdentityGame", total_env_steps=400, seed=1,
            eval_every_env_steps=0, final_eval_episodes=1, console="none", tensorboard=False,
            log_every_s=0.01, compile="graph", run_dir=folder / "run", **settings,
        )  # fmt: skip
        rows = csv_file.read(result.run_dir / "metrics.csv")
        self.assertTrue(any("learner/delayed_loss" in row for row in rows))
        (newest, *_) = checkpoint_files.of(result.run_dir / "checkpoints")[::-1]
        (index,) = newest.glob("learner*.index")
        saved = tf.train.load_checkpoint(str(index.with_suffix("")))
        names = {name.split("/.ATTR")[0]: name for name in saved.get_variable_to_shape_map()}
        read = lambda end: int(
            saved.get_tensor(next(n for k, n in names.items() if k.endswith(end)))
        )
        self.assertGreater(read("learner/made"), 20)
        self.assertEqual(read("learner/steps"), read("learner/made") // 3)
        self.assertEqual(read("learner/same"), read("learner/steps"))


class ContractTest(tf.test.TestCase, parameterized.TestCase):
    def learner(self, **methods):
        gives = lambda x: lambda self: x
        return type("Mine", (Learner,), {name: gives(x) for name, x in methods.items()})()

    def test_optional_hooks_do_nothing(self):
        learner = Learner()
        check_learner(learner)
        batch = object()
        self.assertIs(learner.prepare(batch), batch)
        self.assertIsNone(learner.delayed())
        self.assertIsNone(learner.env_steps)
        self.assertEqual(
            (learner.periodic(), learner.networks(), learner.facts(), learner.stop()),
            ((), (), {}, False),
        )
        learner.finish()
        learner.adopt(3)
        with self.assertRaisesRegex(NotImplementedError, "Learner.update"):
            learner.update(batch, None)

    def test_the_runtime_looks_for_no_hook(self):
        """The base class has every hook, so that no code searches a learner for one."""
        folder = pathlib.Path(tfrl.__file__).parent / "runtime"
        hooks = re.compile(r"(get|has)attr\([^,)]*learner\b")
        sources = sorted(folder.rglob("*.py"))
        self.assertGreater(len(sources), 30)
        found = [str(p) for p in sources if hooks.search(p.read_text(encoding="utf-8"))]
        self.assertEqual(found, [])
        self.assertRegex('getattr(self.learner, "stop")', hooks)

    def test_another_class_is_refused(self):
        with self.assertRaisesRegex(SettingError, "learner Module: expected a subclass of"):
            check_learner(tf.Module())

    @parameterized.parameters(0, -1, 1.5, None)
    def test_periods_below_one_are_refused(self, every):
        for name, step in (
            ("delayed", Delayed(every, lambda batch, seed: {})),
            ("periodic", (Periodic(every, lambda: None),)),
        ):
            learner = self.learner(**{name: step})
            with self.assertRaisesRegex(SettingError, f"learner Mine: {name.capitalize()} with"):
                check_learner(learner)

    def test_networks_that_contradict_each_other_are_refused(self):
        a, b, small = (tf.Variable(tf.zeros(shape)) for shape in ([2, 3], [2, 3], [3]))
        for networks, message in (
            ([Network("q", [a], "adam"), Network("q", [b], "adam")], "two networks have one name"),
            ([Network("q", [a])], "network 'q': expected either"),
            ([Network("q", [a], "adam", "p"), Network("p", [b], "adam")], "expected either"),
            ([Network("q", [a], "adam"), Network("p", [a], "adam")], "'p': a variable stands in"),
            ([Network("q", [a, a], "adam")], "'q': a variable stands in"),
            ([Network("q", [a], "adam"), Network("t", [b], copy_of="p")], "copy_of='p' is no"),
            ([Network("q", [a], "adam"), Network("t", [small], copy_of="q")], "expected those of"),
        ):
            learner = self.learner(networks=networks)
            with self.assertRaisesRegex(SettingError, message):
                check_learner(learner)
        learner = self.learner(
            networks=[Network("q", [a, small], "adam"), Network("t", [], copy_of="e"),
                      Network("e", [], "adam")]
        )  # fmt: skip
        check_learner(learner)
        self.assertLen(learner.networks()[0].kernels, 1)


if __name__ == "__main__":
    tf.test.main()
