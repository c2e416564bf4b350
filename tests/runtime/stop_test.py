"""A run that is stopped at any moment leaves a checkpoint, a policy, its export and a result, and can be resumed."""

import contextlib
import json
import os
import pathlib
import signal
import tempfile
import threading
import time
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import absltest, parameterized

import tfrl
from tfrl.runtime import stop as stop_lib
from tfrl.runtime.stop import Stop, Stopped, stop_on_signals
from tfrl.runtime.storage import folders

SETTINGS = dict(
    env=f"{__name__}:Signalling", num_envs=2, hidden_sizes=(8,), total_env_steps=48,
    compile="graph", inference="lite", eval_every_env_steps=24, eval_episodes=1, eval_num_envs=1,
    final_eval_episodes=1, checkpoint_every_env_steps=0, console="none", tensorboard=False,
)  # fmt: skip
ALGOS = {
    "dqn": dict(min_replay=8, batch_size=4, env_steps_per_update=4, updates_per_call=2),
    "ppo": dict(unroll_length=4, epochs=1, minibatches=1),
}


class Signalling(gym.Env):
    """Sends itself SIGTERM at one moment, and then does not come back for a long time.

    The moments of a process are counted over all instances, as in ["make", "reset", "step", "step", "make", ...].
    """

    moments: list[str] = []
    fatal: int | None = None  # index of the moment with the signal
    fails = False  # raise an error after the signal in place of that
    cut = 0  # moments that were ended from outside

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        self._t = 0
        self._pass("make")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        self._pass("reset")
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self._t += 1
        self._pass("step")
        return np.full(3, 0.1, np.float32), 1.0, self._t == 5, False, {}

    @classmethod
    def _pass(cls, moment):
        cls.moments.append(moment)
        if cls.fatal == len(cls.moments) - 1:
            signal.raise_signal(signal.SIGTERM)
            if cls.fails:
                raise ConnectionError("the simulator has ended")
            try:
                time.sleep(300)
            except BaseException:
                cls.cut += 1
                raise


class StopTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(mock.patch.object(stop_lib, "PATIENCE_S", 0.05))
        self.enter_context(mock.patch.object(Signalling, "moments", []))
        self.enter_context(mock.patch.object(Signalling, "cut", 0))
        self.run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"

    def train(self, algo, fatal=None, **settings):
        Signalling.moments.clear()
        with mock.patch.object(Signalling, "fatal", fatal):
            return tfrl.train(
                algo, run_dir=str(self.run_dir), **{**SETTINGS, **ALGOS[algo], **settings}
            )

    def assert_left(self, result, final_score=False):
        """All that concepts.md promises of a stopped run."""
        self.assertTrue(result.interrupted)
        self.assertNotEmpty(list((self.run_dir / "checkpoints").glob("[0-9]*/manifest.json")))
        self.assertTrue((self.run_dir / folders.POLICY).exists())
        written = json.loads((self.run_dir / "result.json").read_text())
        self.assertTrue(written["interrupted"])
        self.assertIsNone(written["return_mean"])
        exported = tf.saved_model.load(str(result.export_dir))
        action = exported.act(np.zeros([1, 3], np.float32), ())["action"]
        self.assertIn(int(action[0]), (0, 1))
        self.assertTrue(result.curve.exists())

    def assert_resumes(self, algo, **settings):
        again = self.train(algo, resume=True, **settings)
        self.assertFalse(again.interrupted)
        self.assertGreaterEqual(again.env_steps, SETTINGS["total_env_steps"])
        self.assertEqual(again.episodes, 1)

    def moments(self, algo, **settings):
        """The places that an undisturbed run passes, and where the environments of its last evaluation are made."""
        self.train(algo, **settings)
        moments = list(Signalling.moments)
        self.run_dir = self.run_dir.with_name("again")
        return moments, max(i for i, moment in enumerate(moments) if moment == "make")

    def test_while_it_starts_trains_and_ends(self):
        self.check_places(
            "the construction of the second row",
            "the third step of both rows",
            "the final episodes",
        )

    @pytest.mark.slow
    def test_at_other_places(self):
        self.check_places(
            "a reset at the start",
            "the last evaluation of training",
            "the construction for the final episodes",
        )

    def check_places(self, *names):
        """Stops a run at each of the places, and resumes the last one."""
        moments, final = self.moments("dqn")
        self.assertEqual(moments[:3].count("make"), 3)  # for the spaces and for the two rows
        trained = [i for i, moment in enumerate(moments) if moment == "make"][3]
        places = {
            "the construction of the second row": 2,
            "a reset at the start": moments.index("reset") + 1,
            "the third step of both rows": trained + 5,
            "the last evaluation of training": final - 2,
            "the construction for the final episodes": final,
            "the final episodes": final + 4,
        }
        for number, where in enumerate(names):
            with self.subTest(where):
                self.run_dir = self.run_dir.with_name(str(number))
                Signalling.cut = 0
                self.assert_left(self.train("dqn", places[where]))
                self.assertEqual(Signalling.cut, 1)
                self.assertLen(Signalling.moments, places[where] + 1)  # no further step is made
        self.assert_resumes("dqn")

    @pytest.mark.slow
    def test_in_a_later_step_and_the_run_goes_on(self):
        self.check_later_step("dqn", overlap=True)

    @pytest.mark.slow
    def test_in_a_later_step_on_policy_and_the_run_goes_on(self):
        self.check_later_step("ppo", overlap=False)

    def check_later_step(self, algo, overlap):
        moments, _ = self.moments(algo, overlap=overlap)
        result = self.train(algo, len(moments) // 2, overlap=overlap)
        self.assert_left(result)
        self.assertBetween(result.env_steps, 8, 40)
        self.assert_resumes(algo, overlap=overlap)

    @pytest.mark.slow
    def test_an_environment_that_fails_of_the_same_signal(self):
        moments, final = self.moments("ppo")
        for number, fatal in enumerate((len(moments) // 2, final)):
            self.run_dir = self.run_dir.with_name(str(number))
            with mock.patch.object(Signalling, "fails", True):
                self.assert_left(self.train("ppo", fatal))
        self.assert_resumes("ppo")

    def test_before_anything_was_made(self):
        stop = Stop()
        stop.request()
        result = self.train("ppo", stop=stop)
        self.assert_left(result)
        self.assertEqual((result.env_steps, result.updates), (0, 0))
        self.assertEqual(Signalling.moments, ["make"])  # for the spaces
        self.assert_resumes("ppo")

    def test_a_stop_from_another_thread(self):
        stop, results = Stop(), []
        thread = threading.Thread(
            target=lambda: results.append(
                self.train("dqn", total_env_steps=10**9, env="CartPole-v1", stop=stop)
            )
        )
        thread.start()
        while not (self.run_dir / "metrics.csv").exists():
            time.sleep(0.05)
        stop.request()
        thread.join()
        self.assertTrue(results[0].interrupted)
        self.assertGreater(results[0].env_steps, 0)

    def test_a_hurried_stop_leaves_the_checkpoint_and_the_result(self):
        stop = Stop()
        stop.requested = stop.hurried = True
        result = self.train("ppo", stop=stop)
        self.assertTrue(result.interrupted)
        self.assertEqual((result.export_dir, result.curve), (None, None))
        self.assertFalse((self.run_dir / "export").exists())
        self.assertTrue((self.run_dir / "result.json").exists())
        self.assert_resumes("ppo")


class SignalsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.now = 100.0
        self.enter_context(mock.patch.object(stop_lib.time, "monotonic", lambda: self.now))

    @parameterized.parameters(*stop_lib.SIGNALS)
    def test_each_signal_asks_for_an_orderly_end_and_handlers_are_put_back(self, number):
        before = signal.getsignal(number)
        with stop_on_signals() as stop:
            signal.raise_signal(number)
            self.assertEqual((stop.requested, stop.hurried), (True, False))
        self.assertEqual(signal.getsignal(number), before)

    def test_a_repetition_is_one_wish_and_later_signals_are_more(self):
        with stop_on_signals() as stop, mock.patch.object(os, "kill") as kill:
            for at, hurried in (
                (0.0, False),
                (0.05, False),
                (1.9, False),
                (2.1, True),
                (4.0, True),
            ):
                self.now = 100.0 + at
                signal.raise_signal(signal.SIGTERM)
                self.assertEqual(stop.hurried, hurried, at)
            kill.assert_not_called()
            self.now = 105.0
            signal.raise_signal(signal.SIGTERM)
            kill.assert_called_once_with(os.getpid(), signal.SIGTERM)
            self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)

    def test_what_nohup_ignores_stays_ignored(self):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            self.assertFalse(stop.requested)

    def test_no_code_but_that_of_environments_is_interrupted(self):
        done = threading.Event()
        with (
            mock.patch.object(stop_lib, "PATIENCE_S", 0.01),
            mock.patch.object(signal, "pthread_kill") as nudge,
            stop_on_signals() as stop,
        ):
            nudge.side_effect = lambda *_: done.set()
            signal.raise_signal(signal.SIGTERM)
            self.assertFalse(done.wait(0.2))
            with contextlib.suppress(Stopped):
                with stop.inside_environment():
                    self.fail("not reached")
            stop.interruptible = True
            self.assertTrue(done.wait(60))
            stop.interruptible = False


if __name__ == "__main__":
    absltest.main()
