"""How many threads an operation of the learner may use."""

import json
import subprocess
import sys

import pytest
from absl.testing import absltest, parameterized

from tfrl.api import make_job
from tfrl.runtime.plan.threads import op_threads

PROGRAM = """
import json, tempfile, tensorflow as tf, tfrl
settings = dict(
    env="tfrl.testing.fakes:TargetPoint", total_env_steps=40, min_replay=20, batch_size=4, updates_per_call=4,
    policy_hidden_sizes=(4,), critic_hidden_sizes=(4,), eval_every_env_steps=0, final_eval_episodes=1,
    console="none", compile="graph", inference="function", run_dir=tempfile.mkdtemp() + "/run",
)
tfrl.train("td3", **settings)
print(json.dumps(tf.config.threading.get_intra_op_parallelism_threads()))
"""


class ThreadsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("sac", {}, 1),
        ("td3", dict(network="mlp"), 1),
        ("sac", dict(op_threads=0), 0),
        ("dqn", dict(op_threads=3), 3),
        ("dqn", {}, 0),
        ("sac", dict(env="ALE/Pong-v5"), 0),
        ("sac", dict(network="cnn"), 0),
    )
    def test_policy_and_critics_of_dense_layers_have_one(self, algo, settings, expected):
        self.assertEqual(op_threads(make_job(algo, **settings)), expected)

    @pytest.mark.slow
    def test_a_run_of_a_process_of_its_own_has_them(self):
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        self.assertEqual(json.loads(done.stdout.splitlines()[-1]), 1)


if __name__ == "__main__":
    absltest.main()
