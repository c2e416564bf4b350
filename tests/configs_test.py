"""Every file of `configs/` parses, builds, and says where its figures come from."""

import importlib.util
import pathlib

from absl.testing import parameterized

from tfrl.config import flags
from tfrl.runtime.assembly import assemble

ROOT = pathlib.Path(__file__).parents[1] / "configs"
FILES = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.flags"))
HEADER = ("source", "seeds", "score", "env steps", "wall time", "command")
EXTRAS = {"ALE/": "ale_py", "MinAtar/": "minatar", "procgen": "procgen"}


class ConfigsTest(parameterized.TestCase):
    def parse(self, name):
        algo = pathlib.PurePath(name).parts[0]
        return flags.parse([f"--algo={algo}", f"--flagfile={ROOT / name}"])

    def test_there_are_some(self):
        self.assertContainsSubset({"dqn/cartpole.flags", "dqn/pong.flags"}, FILES)

    @parameterized.parameters(FILES)
    def test_parses_and_builds(self, name):
        job = self.parse(name)
        for prefix, package in EXTRAS.items():
            if job.env.env.startswith(prefix) and importlib.util.find_spec(package) is None:
                self.skipTest(f"{job.env.env} needs {package}, which is not installed")
        assembly = assemble(job)
        self.assertEqual(assembly.job.algo, pathlib.PurePath(name).parts[0])
        self.assertLess(assembly.agent.replay.min_items, job.total_env_steps)

    @parameterized.parameters(FILES)
    def test_the_header_is_complete(self, name):
        lines = (ROOT / name).read_text().splitlines()
        for key in HEADER:
            found = [x for x in lines if x.startswith(f"# {key}:")]
            self.assertLen(found, 1, f"{name}: one line '# {key}: ...'")
            self.assertTrue(found[0].partition(":")[2].strip(), f"{name}: '# {key}:' says nothing")
        command = next(x for x in lines if x.startswith("# command:"))
        self.assertIn(f"configs/{name}", command)
