"""The trained policies in `benchmarks/policies/ALGO/CONFIG` load, act and score as their `result.json` says."""

import json
import math
import pathlib

import gymnasium as gym
from absl.testing import absltest, parameterized

import tfrl
from tfrl.envs.games import ids

ROOT = pathlib.Path(__file__).parents[1]
POLICIES = ROOT / "benchmarks" / "policies"
FOUND = sorted(str(p.parent.relative_to(POLICIES)) for p in POLICIES.glob("*/*/job.json"))
EPISODES = 5


class PoliciesTest(parameterized.TestCase):
    def test_there_is_one_for_each_algorithm_with_recorded_runs(self):
        recorded = {path.name for path in (ROOT / "benchmarks" / "runs").iterdir()}
        self.assertEqual({name.split("/")[0] for name in FOUND}, recorded)

    @parameterized.parameters(FOUND)
    def test_it_is_small_and_of_a_config(self, name):
        folder = POLICIES / name
        self.assertTrue((ROOT / "configs" / f"{name}.flags").exists())
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.assertLess(sum(path.stat().st_size for path in files), 2**20)
        self.assertFalse(json.loads((folder / "result.json").read_text())["interrupted"])

    @parameterized.parameters(FOUND)
    def test_it_gives_actions(self, name):
        ids.register()
        env = gym.make(json.loads((POLICIES / name / "job.json").read_text())["env"]["env"])
        self.addCleanup(env.close)
        obs, _ = env.reset(seed=0)
        policy = tfrl.load(POLICIES / name)
        self.assertIn(policy.predict(obs), env.action_space)

    def test_one_scores_as_recorded(self):
        folder = POLICIES / "ppo" / "cartpole"
        recorded = json.loads((folder / "result.json").read_text())
        evaluation = tfrl.evaluate(folder, episodes=EPISODES, seed=7, num_envs=EPISODES)
        error = recorded["return_std"] / math.sqrt(EPISODES)
        self.assertGreater(
            sum(evaluation.returns) / EPISODES, recorded["return_mean"] - 4 * error - 1
        )


if __name__ == "__main__":
    absltest.main()
