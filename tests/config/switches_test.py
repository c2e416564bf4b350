"""Switches on the command line and in Python: what is found, refused and imported, and how refusals are said."""

import json
import pathlib
import sys
import tempfile
import textwrap

from absl.testing import absltest, parameterized

from tfrl.api import make_job
from tfrl.config import flags, resolve, switches, trust
from tfrl.errors import SettingError
from tfrl.job import Job

NOISE = "observation_noise"
MODULE = """
import dataclasses, pathlib
from tfrl.settings import setting
{before}
@dataclasses.dataclass(frozen=True)
class Config:
    {field}: float = setting(1.0, "a number")
def agent(config, spec, agent):
    return agent
"""


class SwitchesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = pathlib.Path(place.name)
        sys.path.insert(0, place.name)
        self.addCleanup(sys.path.remove, place.name)
        (self.folder / "my_switches").mkdir()
        (self.folder / "my_switches" / "__init__.py").write_text("")
        self.addCleanup(self.forget)

    def forget(self):
        for name in [n for n in sys.modules if n.startswith("my_switches")]:
            del sys.modules[name]
        trust._named.difference_update({n for n in trust._named if n.startswith("my_switches")})

    def write(self, name, field, before=""):
        text = textwrap.dedent(MODULE).format(field=field, before=before)
        (self.folder / "my_switches" / f"{name}.py").write_text(text)
        return f"my_switches.{name}"

    def test_flags_and_python_make_the_same_job(self):
        typed = flags.parse(["--algo=dqn", f"--with={NOISE}", "--noise_std=0.3"])
        given = make_job("dqn", with_=[NOISE], noise_std=0.3)
        self.assertEqual(typed, given)
        self.assertEqual(typed.switches[NOISE].noise_std, 0.3)
        self.assertEqual(Job.from_json(typed.to_json()), typed)
        self.assertEqual(typed.summary()["with"], NOISE)

    def test_order_is_kept(self):
        a, b = self.write("a", "alpha"), self.write("b", "beta")
        for names in ([a, NOISE, b], [b, a, NOISE]):
            job = flags.parse(["--algo=dqn", f"--with={','.join(names)}"])
            self.assertEqual(list(job.switches), names)
            self.assertEqual(list(Job.from_json(job.to_json()).switches), names)

    def test_a_job_without_switches_is_as_before(self):
        values = json.loads(make_job("dqn").to_json())
        self.assertEqual(values.pop("switches"), [])
        self.assertEqual(Job.from_json(json.dumps(values)), make_job("dqn"))

    @parameterized.parameters(
        ("observation_nois", "no such switch; there are .*; did you mean observation_noise"),
        (f"{NOISE},{NOISE}", "observation_noise is named twice"),
        ("json.decoder", "the module has no Config"),
        ("my_switches.nowhere", "cannot import 'my_switches.nowhere'"),
    )
    def test_names_are_checked(self, given, message):
        with self.assertRaisesRegex(SettingError, message):
            flags.parse(["--algo=dqn", f"--with={given}"])
        with self.assertRaisesRegex(SettingError, message):
            make_job("dqn", with_=given.split(","))

    def test_a_setting_without_its_switch_is_refused_saying_so(self):
        with self.assertRaisesRegex(SettingError, f"switch {NOISE}; add --with={NOISE}"):
            flags.parse(["--algo=dqn", "--noise_std=1"])
        with self.assertRaisesRegex(SettingError, f"switch {NOISE}; add with_={NOISE}"):
            make_job("dqn", noise_std=1.0)

    @parameterized.parameters(
        ("noise_std", NOISE), ("batch_size", "algo=dqn"), ("seed", "every run")
    )
    def test_settings_of_one_name_are_refused(self, field, other):
        mine = self.write("c", field)
        for make in (
            lambda: flags.parse(["--algo=dqn", f"--with={NOISE},{mine}"]),
            lambda: make_job("dqn", with_=[NOISE, mine]),
        ):
            with self.assertRaisesRegex(
                SettingError, f"'{field}' is one of .*{other} and of with={mine}"
            ):
                make()

    def test_switches_that_exclude_each_other_are_refused_by_name(self):
        mine = self.write("d", "delta", before=f"EXCLUDES = ({NOISE!r},)")
        for names in ([mine, NOISE], [NOISE, mine]):
            with self.assertRaisesRegex(
                SettingError, f"{mine} and {NOISE} exclude each other; leave one of them out"
            ):
                switches.modules(names)

    def test_help_shows_their_settings(self):
        plain, text = flags.help_text("dqn"), flags.help_text("dqn", [NOISE])
        self.assertIn(f"  {NOISE}  Adds Gaussian noise", plain)
        self.assertNotIn("--noise_std", plain)
        self.assertIn(f"Switch {NOISE}", text)
        self.assertIn("--noise_std", text)

    def test_a_wrong_list_is_refused(self):
        with self.assertRaisesRegex(SettingError, "with_=3: expected a list of names"):
            make_job("dqn", with_=3)

    def test_a_run_folder_imports_no_switch_that_is_not_named(self):
        marker = self.folder / "imported"
        mine = self.write(
            "evil", "epsilon_", before=f"pathlib.Path({str(marker)!r}).write_text('x')"
        )
        text = (
            make_job("dqn", with_=[NOISE])
            .to_json()
            .replace(NOISE, mine)
            .replace("noise_std", "epsilon_")
        )
        values = json.loads(text)
        del values["switches"][0]["settings"]["noise_in_evaluation"]
        (self.folder / "run").mkdir()
        (self.folder / "run" / "job.json").write_text(json.dumps(values))
        with self.assertRaisesRegex(SettingError, f"with='{mine}' is named by a run folder"):
            resolve.load_job(str(self.folder / "run"))
        self.assertFalse(marker.exists())
        trust.name_settings(None, {"with": f"{mine},{NOISE}"})
        self.assertEqual(list(resolve.load_job(str(self.folder / "run")).switches), [mine])
        self.assertTrue(marker.exists())


if __name__ == "__main__":
    absltest.main()
