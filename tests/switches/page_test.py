"""The examples of docs/switches.md are switches that work, alone and together."""

import importlib
import pathlib
import re
import sys
import tempfile

import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

import tfrl
from tfrl.api import make_job
from tfrl.envs.make import make_spec, make_vector
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.runtime.learning.learner import LearnerLoop
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.testing import conformance

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "switches.md").read_text()
STICKY, DECAY = (
    re.search(r"```python\n(\"\"\".*?)```", PAGE[PAGE.index(f"### An example that {x}") :], re.S)[1]
    for x in ("changes environments", "changes updates")
)


class PageTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.package = f"switches_{self.id().rsplit('.', 1)[1]}"
        (self.folder / self.package).mkdir()
        for name, code in (("__init__", ""), ("sticky_actions", STICKY), ("weight_decay", DECAY)):
            (self.folder / self.package / f"{name}.py").write_text(code)
        sys.path.insert(0, str(self.folder))
        self.addCleanup(sys.path.remove, str(self.folder))
        importlib.invalidate_caches()
        self.sticky, self.decay = (
            f"{self.package}.{name}" for name in ("sticky_actions", "weight_decay")
        )

    def test_actions_stick(self):
        plan = EnvPlan(env="tfrl.testing.fakes:Counter", env_kwargs={"lengths": (50,)})
        switches = make_job("dqn", with_=[self.sticky], sticky_probability=0.5).switches
        vector = make_vector(plan, 4, 0, switches=switches, training=False)
        vector.reset(1)
        rng, taken, inner = np.random.default_rng(0), [], vector.inner
        asked = rng.integers(0, 2, (400, 4))
        step = inner.step
        inner.step = lambda action: (taken.append(action), step(action))[1]
        for action in asked:
            vector.step(action)
        # An action differs from the one asked for where it was repeated and the two are not equal.
        self.assertAlmostEqual(np.mean(np.stack(taken) != asked), 0.25, delta=0.04)

    def test_other_actions_are_refused(self):
        switches = make_job("ppo", with_=[self.sticky]).switches
        with self.assertRaisesRegex(SettingError, "with=sticky_actions on .*: expected Discrete"):
            make_spec(EnvPlan(env="tfrl.testing.fakes:TargetPoint"), switches)

    @parameterized.parameters(("dqn", dict(batch_size=8)), ("ppo", dict(unroll_length=5)))
    def test_weights_shrink(self, algo, settings):
        loops = []
        for more in ({}, {"with_": [self.decay], "decay_rate": 1.0}):
            job = make_job(algo, hidden_sizes=(8,), num_envs=4, **settings, **more)
            run_plan = plan_run(job)
            strategy = tf.distribute.get_strategy()
            loop = LearnerLoop(run_plan.agent, run_plan.layout, strategy, "graph", seed=7)
            loop.run(conformance.block(run_plan.agent, run_plan.spec, 0))
            loops.append(loop)
        plain, decayed = ([np.abs(x).sum() for x in loop.arrays() if x.ndim == 2] for loop in loops)
        self.assertGreater(min(plain), 0.0)
        self.assertEqual(max(decayed), 0.0)

    def test_both_train_and_load(self):
        run_dir = self.folder / "run"
        tfrl.train(
            "dqn", run_dir=run_dir, with_=[self.sticky, self.decay], total_env_steps=150,
            min_replay=40, batch_size=8, updates_per_call=4, eval_every_env_steps=0,
            final_eval_episodes=2, console="none", hidden_sizes=(8,), compile="graph",
        )  # fmt: skip
        policy = tfrl.load(run_dir, trust_modules=[self.sticky, self.decay])
        self.assertIn(policy.predict(np.zeros(4, np.float32)), (0, 1))


if __name__ == "__main__":
    absltest.main()
