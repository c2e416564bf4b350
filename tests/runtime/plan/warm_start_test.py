"""Runs that start from the weights of another run."""

import json
import pathlib
import re
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import absltest, parameterized

import tfrl
from tfrl.api import make_job
from tfrl.errors import SettingError
from tfrl.runtime import seeds
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.runtime.plan import warm_start
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.storage import checkpoint

SMALL = dict(
    env="tfrl.testing.fakes:MaskedBandit", total_env_steps=200, eval_every_env_steps=0, final_eval_episodes=0,
    console="none", tensorboard=False, compile="graph", inference="function", hidden_sizes=(8,),
)  # fmt: skip
DQN = dict(min_replay=20, batch_size=8, updates_per_call=4, normalize_observations=True)
PPO = dict(unroll_length=20, normalize_observations=True)


class WarmStartTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.runs = {
            algo: tfrl.train(
                algo, **SMALL, **more, run_dir=pathlib.Path(cls.folder.name, algo)
            ).run_dir
            for algo, more in (("dqn", DQN), ("ppo", PPO))
        }

    def loop(self, algo, **settings):
        job = make_job(algo, **{**SMALL, **settings}, run_dir=self.folder.name)
        run_plan = plan_run(job, starting=True)
        strategy, seed = tf.distribute.get_strategy(), seeds.integer(5, "learner")
        return (
            LearnerLoop(run_plan.agent, run_plan.layout, strategy, "graph", seed),
            run_plan,
            strategy,
        )

    def test_policy_and_target_are_those_of_the_run(self):
        loop, run_plan, strategy = self.loop("dqn", **DQN, initial_weights=str(self.runs["dqn"]))
        lines = []
        warm_start.start(loop, run_plan, strategy.scope(), lines.append)
        arrays, _ = checkpoint.load_arrays(self.runs["dqn"] / "checkpoints" / "policy.npz")
        for module in (loop.learner.policy, loop.learner.target):
            for variable, array in zip(module.variables, arrays, strict=True):
                np.testing.assert_array_equal(variable.numpy(), array)
        self.assertEqual(loop.version, 0)
        self.assertRegex(lines[0], "^initial weights: .*policy.npz, trained for 200 env steps$")

    def test_targets_that_move_slowly_begin_as_copies(self):
        self.check_copies()

    @pytest.mark.slow
    def test_targets_of_a_shared_body_begin_as_copies(self):
        self.check_copies(shared_torso=True)

    def check_copies(self, **settings):
        settings = dict(
            env="tfrl.testing.fakes:TargetPoint", tau=0.01, min_replay=20, batch_size=8, updates_per_call=4,
            policy_hidden_sizes=(4,), critic_hidden_sizes=(4,), **settings,
        )  # fmt: skip
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "td3"
        tfrl.train("td3", **{**SMALL, **settings}, run_dir=run_dir)
        loop, run_plan, strategy = self.loop("td3", **settings, initial_weights=str(run_dir))
        warm_start.start(loop, run_plan, strategy.scope(), lambda text: None)
        arrays, _ = checkpoint.load_arrays(run_dir / "checkpoints" / "policy.npz")
        learner = loop.learner
        for module in (learner.policy, learner.target_policy):
            for variable, array in zip(module.variables, arrays, strict=True):
                np.testing.assert_array_equal(variable.numpy(), array)
        pairs = zip(learner.target_critics.variables, learner.critics.variables, strict=True)
        for mine, new in pairs:
            np.testing.assert_array_equal(mine.numpy(), new.numpy())

    @parameterized.parameters(("dqn", DQN), ("ppo", PPO))
    def test_statistics_of_observations_go_on_from_those_of_the_policy(self, algo, settings):
        loop, run_plan, strategy = self.loop(algo, **settings, initial_weights=str(self.runs[algo]))
        warm_start.start(loop, run_plan, strategy.scope(), lambda text: None)
        policy, learner = loop.learner.policy, loop.learner
        of_dqn = algo == "dqn"
        moments = learner.statistics if of_dqn else learner._training.statistics.observations
        before = [v.numpy() for v in policy.normaliser.variables]
        self.assertGreater(max(np.abs(x).max() for x in before), 0.0)
        policy.normaliser.update(moments)  # what the next batch does after merging
        for old, new in zip(before, policy.normaliser.variables, strict=True):
            np.testing.assert_allclose(new.numpy(), old, rtol=1e-5, atol=1e-6)
        _, facts = checkpoint.load_arrays(self.runs[algo] / "checkpoints" / "policy.npz")
        for leaf in moments.leaves.values():
            self.assertEqual(float(leaf.count), facts["env_steps"])

    @parameterized.parameters("inprocess", "processes")
    @pytest.mark.slow
    def test_a_run_begins_with_them_and_says_so(self, backend):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        # So small a step changes nothing that can be seen.
        result = tfrl.train(
            "dqn", **{**SMALL, "total_env_steps": 60}, **DQN, backend=backend, learning_rate=1e-12,
            initial_weights=self.runs["dqn"], run_dir=folder,
        )  # fmt: skip
        mine, theirs = tfrl.load(result.run_dir), tfrl.load(self.runs["dqn"])
        policy = self.loop("dqn", **DQN)[0].learner.policy  # the order of the variables
        moving = {id(variable) for variable in policy.normaliser.variables}
        kept = 0
        for own, a, b in zip(policy.variables, mine.variables, theirs.variables, strict=True):
            if id(own) not in moving:  # updates merge new observations into the statistics
                np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)
                kept += 1
        self.assertEqual(kept, len(policy.trainable_variables))

    @parameterized.parameters(
        (dict(initial_weights="nowhere"), "initial_weights='nowhere': expected the folder of a run"),
        (dict(hidden_sizes=(9,)), r"variable 0 \(.*\) has shape \[\d+, 8\] there and \[\d+, 9\] here"),
        (dict(dueling=True), r"(the policy has \d variables there|variable \d)"),
        (dict(env="CartPole-v1"), "its observation_space is Dict.*, this run has Box"),
    )  # fmt: skip
    def test_another_network_or_space_is_refused_before_the_run(self, changes, message):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        settings = {**SMALL, **DQN, "initial_weights": str(self.runs["dqn"]), **changes}
        with self.assertRaisesRegex(SettingError, message):
            tfrl.train("dqn", **settings, run_dir=folder)
        self.assertFalse(
            (folder / "job.json").exists() and json.loads((folder / "job.json").read_text())
        )

    def test_a_misspelt_folder_gets_the_nearest_run(self):
        misspelt = self.runs["dqn"].with_name("dqm")
        hint = f"did you mean .*{re.escape(str(self.runs['dqn']))}"
        with self.assertRaisesRegex(SettingError, hint):
            warm_start.read(str(misspelt), None, ())


if __name__ == "__main__":
    absltest.main()
