"""What the end of a run needs is tried before its first step."""

import pathlib
import tempfile
from unittest import mock

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

import tfrl
from tfrl.errors import SettingError
from tfrl.runtime import rehearsal
from tfrl.runtime.serving.export import Exported

SMALL = dict(
    total_env_steps=256, min_replay=64, updates_per_call=4, num_envs=2, eval_num_envs=2,
    eval_episodes=2, final_eval_episodes=2, tensorboard=False, console="none", inference="function",
    compile="graph",
)  # fmt: skip
STEPS = [0]  # of all environments of this process


class Counted(gym.Env):
    """A point that stays where it is; counts the steps of this process, and breaks where it is told to.

    Args:
      broken: 'reset' or 'step' of evaluations, which are those without `training` among the options of the maker.
    """

    made = 0

    def __init__(self, broken="", breaks_at=0):
        self.observation_space = gym.spaces.Dict({"arm left": gym.spaces.Box(-1, 1, (2,))})
        self.action_space = gym.spaces.Discrete(3, start=4)
        Counted.made += 1
        self._broken = broken if Counted.made >= breaks_at else ""
        self._t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self._broken == "reset":
            raise RuntimeError("no second simulator")
        self._t = 0
        return {"arm left": np.zeros(2, np.float32)}, {}

    def step(self, action):
        if self._broken == "step":
            raise RuntimeError("no second simulator")
        STEPS[0] += 1
        self._t += 1
        return {"arm left": np.full(2, self._t / 9, np.float32)}, 1.0, self._t == 5, False, {}


class RehearsalTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        STEPS[0] = Counted.made = 0

    def train(self, **settings):
        return tfrl.train("dqn", env=Counted, run_dir=str(self.folder / "run"), **SMALL, **settings)

    @parameterized.parameters(
        (
            "tf.saved_model.save",
            OSError("disk $full"),
            "the export of the policy fails, .*disk .full",
        ),
        ("tf.saved_model.load", ValueError("no such op"), "the export of the policy fails"),
        (
            "write_result",
            TypeError("Object of type set"),
            "result.json fails, before the first step",
        ),
        ("draw_curve", ValueError("ParseException"), "the learning curve fails"),
        ("checkpoint.Checkpoints.save", OSError("no space left"), "a checkpoint fails"),
        ("checkpoint.restore_learner", SettingError("damaged"), "a checkpoint fails"),
    )
    def test_what_fails_at_the_end_fails_before_the_first_step(self, name, error, message):
        path = "tensorflow" + name[2:] if name.startswith("tf.") else f"{rehearsal.__name__}.{name}"
        with mock.patch(path, side_effect=error):
            with self.assertRaisesRegex(SettingError, f"^algo=dqn with env=.*: {message}"):
                self.train()
        self.assertLessEqual(STEPS[0], 2)  # one vector step of the evaluation's environments
        self.assertEqual(list(self.folder.glob("run/rehearsal-*")), [])

    @parameterized.parameters("reset", "step")
    def test_environments_of_the_evaluation_are_tried(self, broken):
        # One for the spec, two for training; those of the evaluation come after them.
        with self.assertRaisesRegex(Exception, "no second simulator"):
            self.train(env_kwargs={"broken": broken, "breaks_at": 4})
        self.assertEqual(STEPS[0], 0)
        self.assertGreater(Counted.made, 3)

    def test_an_action_outside_the_space_is_refused(self):
        spec = mock.patch.object(rehearsal.LoadedPolicy, "own_row", return_value=np.int64(7))
        with spec, self.assertRaisesRegex(SettingError, "its action 7 is not of the action space"):
            self.train()

    def test_the_functions_traced_before_get_the_trained_weights(self):
        traced = []

        class Spied(Exported):
            def __init__(self, *args):
                super().__init__(*args)
                traced.append(self)

        with mock.patch.object(rehearsal, "Exported", Spied):
            result = self.train(learning_rate=0.1)
        self.assertLen(traced, 1)
        self.assertEqual(list(result.run_dir.glob("rehearsal-*")), [])
        saved = tf.saved_model.load(str(result.export_dir))
        policy = tfrl.load(result.run_dir)
        obs = np.random.default_rng(0).uniform(-1, 1, (64, 2)).astype(np.float32)
        values = policy.q_values({"arm left": obs})
        self.assertAllClose(saved.q_values({"arm left": obs}, ()), values)
        self.assertAllEqual(saved.act({"arm left": obs}, ())["action"], values.argmax(1) + 4)
        fresh = rehearsal.LoadedPolicy(self.fresh(result.run_dir), policy.spec)
        self.assertNotAllClose(fresh.q_values({"arm left": obs}), values)

    def fresh(self, run_dir):
        from tfrl.runtime.finish import load_policy

        return load_policy(run_dir)[0].agent.make_policy()

    def test_a_checkpoint_that_is_not_read_back_as_it_was(self):
        def wrong(found, learner):
            learner.updates.assign(3)

        with mock.patch(f"{rehearsal.__name__}.checkpoint.restore_learner", wrong):
            with self.assertRaisesRegex(SettingError, "updates:0 was not read back as it was"):
                self.train()


if __name__ == "__main__":
    tf.test.main()
